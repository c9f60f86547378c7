"""A system to be changed and judged: built, captured, proven, restored and approved once, by the real commands.

What a case needs of it afterwards is read from the vault as any verification does: the system as the point has it, the witness, the
baseline and the reference.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import Any

import yaml

from bench.proof import gates, oracle
from bench.proof.changes import HANDBOOK, HELPDESK, Facts, places_of
from bench.proof.warm import Warm
from examples.helpdesk.wording import SAMPLES, SEED
from resurgam.cli.context import Context
from resurgam.model.system import System
from resurgam.proof.judge import Yardsticks
from resurgam.restore.run import copies_of
from resurgam.restore.sandbox import available
from resurgam.restore.state import load
from resurgam.restore.verify import yardsticks_of

WORDED = oracle.WORDED
MAKE = {HELPDESK: ("examples.helpdesk", "make"), HANDBOOK: ("examples.handbook", "setup")}
MARGIN = 0.15  # of the distance between two distributions of texts, of which 2 is the most
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Failed(Exception):
    """A command of the preparation went wrong; its message holds what the command said."""


@dataclass(frozen=True)
class World:
    """``kind`` is helpdesk or handbook, whatever the ``name``; ``copies`` maps components to what was restored of them."""

    name: str
    kind: str
    point: str
    system: System
    yardsticks: Yardsticks
    copies: dict[str, str]
    golden: dict[str, Any]
    other: dict[str, str]
    healthy: oracle.Seen
    look: gates.Look

    @property
    def facts(self) -> Facts:
        """What faults may be drawn from."""
        answers = self.healthy["asked"]["answers"].values()
        cited = sorted({chunk for _, chunks, _ in answers for chunk in chunks})
        questions = [question for question in self.golden.values() if isinstance(question, str)]
        rows = self.look.counts[next(name for name in self.look.counts if name.endswith(" chunks"))]
        return Facts(questions, cited, rows)

    def laid_out(self, home: str) -> dict[str, str]:
        """A copy of what was restored, laid out in ``home`` as the live system is; where its components are."""
        places = places_of(self.kind, home)
        os.makedirs(os.path.join(home, "run"))
        for name, place in places.items():
            os.makedirs(os.path.dirname(place), exist_ok=True)
            source = self.copies[name]
            (shutil.copytree if os.path.isdir(source) else shutil.copyfile)(source, place)
        return places

    def seen(self, places: dict[str, str], runner: Warm) -> oracle.Seen:
        """What the oracle sees of the components at these places."""
        asked = {"system": self.kind, "places": places, "golden": self.golden, "other": self.other}
        done = Warm.run(
            runner, [sys.executable, "-m", "bench.proof.oracle"], input=json.dumps(asked).encode(),
            env={"PYTHONPATH": ROOT, SEED: "oracle"}, timeout=120.0,
        )  # fmt: skip
        if done.code:
            error = {"error": f"exit code {done.code}: {done.errors.decode(errors='replace')[-400:]}"}
            return {side: dict.fromkeys(known or ["everything"], error) for side, known in self.healthy.items()}
        seen: oracle.Seen = json.loads(done.output)
        return seen


def prepare(name: str, folder: str) -> World:
    """Build the system ``name`` below ``folder``, capture it, prove it, approve it; one that stands there is used as it is."""
    folder = os.path.join(folder, name)
    home, restored = os.path.join(folder, "live"), os.path.join(folder, "restored")
    if not os.path.exists(restored):
        os.makedirs(folder)
        _build(name, home, restored)
    context = Context(os.path.join(home, "resurgam.yaml"))
    sealed = context.point("latest")
    particulars = context.repository.particulars(sealed.body)
    bound = copies_of(particulars.system, restored, load(restored))
    world = World(
        name=name, kind=HANDBOOK if name == HANDBOOK else HELPDESK, point=sealed.body.id, system=particulars.system,
        yardsticks=yardsticks_of(context.repository, sealed, particulars), copies=bound.locations(),
        golden=_golden(home), other=oracle.other_questions(bound.component("documents").location),
        healthy={"asked": {}, "elsewhere": {}}, look=gates.look(bound.locations()),
    )  # fmt: skip
    return _with_healthy(world, os.path.join(folder, "healthy"))


def _build(name: str, home: str, restored: str) -> None:
    module, verb = MAKE[HANDBOOK if name == HANDBOOK else HELPDESK]
    isolation = "required" if available()[0] else "best-effort"
    _run([sys.executable, "-m", module, verb, home, "--isolation", isolation, "--json"], ROOT)
    if name == WORDED:
        _make_worded(home)
    _resurgam(home, "vault", "init")
    _resurgam(home, "capture")
    _resurgam(home, "verify", "latest", "--into", restored)
    _resurgam(home, "reference", "approve", "latest")


def _with_healthy(world: World, home: str) -> World:
    shutil.rmtree(home, ignore_errors=True)
    places = world.laid_out(home)
    look = gates.look(places)
    with Warm(world.system.root, {SEED: "healthy"}) as runner:
        healthy = world.seen(places, runner)
    failed = {
        name: one for side in healthy.values() for name, one in side.items() if isinstance(one, dict) and "error" in one
    }
    if failed:
        raise Failed(f"{world.name} cannot answer, and nothing has happened to it yet: {failed}")
    return replace(world, healthy=healthy, look=look)


def _golden(home: str) -> dict[str, Any]:
    with open(os.path.join(home, "probes", "golden.json"), encoding="utf-8") as file:
        golden: dict[str, Any] = json.load(file)
    return golden


def _make_worded(home: str) -> None:
    """The writer words each answer otherwise, and the manifest's probe says what of an answer must stay."""
    config = os.path.join(home, "config.yaml")
    _replace(config, "writer: composed", "writer: worded")
    manifest = os.path.join(home, "resurgam.yaml")
    with open(manifest, encoding="utf-8") as file:
        said = yaml.safe_load(file)
    golden = _golden(home)
    answers = said["probes"]["answers"]
    threads = {case: question for case, question in golden.items() if not isinstance(question, str)}
    with open(os.path.join(home, "probes", "threads.json"), "x", encoding="utf-8") as file:
        json.dump(threads, file)
    said["probes"]["threads"] = answers | {"ask": {"file": "probes/threads.json"}}
    tolerance = {"jsonpath": {"$.topic": "exact", "$.chunks": "exact"}}
    said["probes"]["answers"] = answers | {"ask": {"file": "probes/questions.json"}, "tolerance": tolerance}
    sampled = answers | {"run": [*answers["run"], "--samples", str(SAMPLES)], "ask": {"file": "probes/questions.json"}}
    said["probes"]["wording"] = sampled | {"tolerance": {"text": {"margin": MARGIN, "characters": oracle.OPENING}}}
    with open(manifest, "w", encoding="utf-8") as file:
        yaml.safe_dump(said, file, sort_keys=False)


def _replace(path: str, before: str, after: str) -> None:
    with open(path, encoding="utf-8") as file:
        text = file.read()
    if before not in text:
        raise Failed(f"{path} does not say {before!r}.")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text.replace(before, after))


def _resurgam(home: str, *words: str) -> str:
    return _run([sys.executable, "-m", "resurgam", *words], home)


def _run(command: list[str], cwd: str) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise Failed(f"{' '.join(command)} ended with exit code {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout
