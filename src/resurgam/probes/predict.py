"""The probe ``predict``: what one model answers to frozen inputs. Each input is a case.

``ask`` names each input: numbers (an array, one row, or for a model of several inputs ``{name: array}``), or a text, which
``encode`` turns into numbers where it is given. ``loader`` says how the model is loaded:

    safetensors-linear  a weight and a bias: scores and the place of the highest
    onnx                ONNX Runtime on one thread of the processor: every output by its name
    skops               a scikit-learn model: predictions, and probabilities where it has them; a file with types that neither
                        skops knows nor ``trusted`` names is refused before anything of it is made
    command             the owner's own, ``run``, spoken to as a probe ``command``

The model is loaded in a child process (``predict_child``) through the Runner, on a copy inside the sandbox (P6); nothing is ever
unpickled. Large outputs are answered by their shape, highest values and digest.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import util

import msgspec

from resurgam.clock import Clock, SystemClock
from resurgam.errors import ManifestError
from resurgam.model.nearest import did_you_mean
from resurgam.model.point import Observation
from resurgam.model.system import Probe as ProbeSpec
from resurgam.model.system import System
from resurgam.probes.answers import observation_of
from resurgam.probes.base import Completed, Runner
from resurgam.probes.command import CommandProbe
from resurgam.probes.encoding import check_encoder, encode
from resurgam.probes.through_driver import ONE_THREAD

LOADERS = ("safetensors-linear", "onnx", "skops", "command")
PROGRAM = "resurgam.probes.predict_child"


class PredictProbe:
    """See the module's docstring."""

    kind = "predict"

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()

    def check(self, spec: ProbeSpec, system: System) -> None:
        """Raises ManifestError where there is no model, no loader or nothing to ask."""
        if spec.component not in (known := [component.name for component in system.components]):
            given = spec.component or ""
            raise _wrong(spec, f"{given!r} is no component of model files", did_you_mean(given, known))
        if spec.loader not in LOADERS:
            raise _wrong(spec, f"{spec.loader!r} is no loader", did_you_mean(spec.loader or "", LOADERS))
        if os.path.isabs(spec.model) or os.path.normpath(spec.model).startswith(".."):
            raise _wrong(spec, "`model` leads out of the component", "Name a file below the component's folder.")
        if not isinstance(spec.ask, dict) or not spec.ask:
            raise _wrong(spec, "`ask` has no inputs", "Name each input: {name: numbers or text}.")
        if bool(spec.run) != (spec.loader == "command"):
            raise _wrong(spec, "`run` belongs to `loader: command`, and only to it", "Write both or neither.")
        if spec.trusted and spec.loader != "skops":
            raise _wrong(spec, "`trusted` belongs to `loader: skops`", "Remove it.")
        if spec.encode:
            check_encoder(spec, system)
        if spec.loader == "command":
            CommandProbe().check(_command(spec), system)

    def ask(self, spec: ProbeSpec, system: System, runner: Runner) -> Observation:
        """Ask the model at its bound location. Raises ManifestError as ``check`` does."""
        self.check(spec, system)
        started = self._clock.monotonic()
        texts = {case: given for case, given in spec.ask.items() if isinstance(given, str)} if spec.encode else {}
        if texts:
            encoded = encode(spec, texts, system, runner)
            if isinstance(encoded, Observation):
                return encoded
            spec = msgspec.structs.replace(spec, ask={**spec.ask, **encoded})
        if spec.loader == "command":
            return CommandProbe(self._clock).ask(_command(spec), system, runner)
        assert spec.component is not None
        request = {"path": model_path(spec, system), "loader": spec.loader, "trusted": spec.trusted, "inputs": spec.ask}
        done = run_model(request, runner, spec.timeout)
        return observation_of(spec, done, self._clock.monotonic() - started)


def model_path(spec: ProbeSpec, system: System) -> str:
    """Where the model's file is."""
    assert spec.component is not None
    location = system.component(spec.component).location
    return os.path.join(location, spec.model) if spec.model else location


def run_model(request: dict[str, object], runner: Runner, timeout: float) -> Completed:
    """Put one request to ``predict_child``."""
    program = util.find_spec(PROGRAM)
    assert program is not None
    assert program.origin is not None
    # -I: neither the environment nor the folder that it is started in has a say in what is imported.
    argv = [sys.executable, "-I", program.origin]
    return runner.run(argv, input=json.dumps(request).encode(), env=ONE_THREAD, timeout=timeout)


def _command(spec: ProbeSpec) -> ProbeSpec:
    return ProbeSpec(
        name=spec.name, kind="command", run=spec.run, ask=spec.ask, env=spec.env, reads=spec.reads, timeout=spec.timeout
    )


def _wrong(spec: ProbeSpec, what: str, next_step: str) -> ManifestError:
    return ManifestError(f"Probe {spec.name}: {what}.", untouched="Nothing was asked.", next_step=next_step)
