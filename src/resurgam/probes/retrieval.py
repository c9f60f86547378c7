"""The probe ``retrieval``: the nearest neighbours of frozen queries in one collection of a vector store.

``ask`` names each query: a vector, ``{like: id}`` (the vector of a stored record), or a text, which ``encode`` turns into a vector.
A query is a case, and what it answers depends on ``mode``:

    exact        ids of the k nearest, by our own search over all vectors as our driver decodes them; equals in order of ids
    approximate  ids of the k nearest, as the store itself finds them, over a private copy
    recall       the share, 0 to 1, of the exact ones that the store finds

So a wrong decoding, a lost vector, a damaged graph and another embedder each show somewhere else. Exact answers are judged exactly;
approximate ones and recall want a tolerance (``proof.compare``), since a graph that is built anew is another graph.

Probes of one component are asked together (``AsksTogether``): the same texts are encoded once, and one child reads the vectors and
opens the store once for all of them. The ``seconds`` of each are those of all. Where that child fails, each is asked alone.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence

import msgspec

from resurgam.clock import Clock, SystemClock
from resurgam.errors import ManifestError
from resurgam.model.nearest import did_you_mean
from resurgam.model.point import Observation
from resurgam.model.system import Component, Json, System
from resurgam.model.system import Probe as ProbeSpec
from resurgam.probes.answers import observations_of
from resurgam.probes.base import Runner
from resurgam.probes.encoding import check_encoder, encode
from resurgam.probes.through_driver import ask_driver

Asked = tuple[ProbeSpec, dict[str, Json]]  # with the queries, all of them vectors or {like: id}
MODES = ("exact", "approximate", "recall")


class RetrievalProbe:
    """See the module's docstring."""

    kind = "retrieval"

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()

    def check(self, spec: ProbeSpec, system: System) -> None:
        """Raises ManifestError where there is nothing to search for, or nothing to search in."""
        if spec.component not in (known := [component.name for component in system.components]):
            given = spec.component or ""
            raise _wrong(spec, f"{given!r} is no component that can be searched", did_you_mean(given, known))
        if not spec.collection:
            raise _wrong(spec, "`collection` is missing", "Name the collection to search.")
        if spec.mode not in MODES or not 1 <= spec.k <= 1000:
            raise _wrong(spec, "`mode` or `k` is out of range", f"Modes are {', '.join(MODES)}; k goes from 1 to 1000.")
        if not spec.ask and not spec.canaries:
            raise _wrong(spec, "nothing is asked", "Give queries under `ask`, or `canaries: true`.")
        queries = spec.ask if spec.ask is not None else {}
        if not isinstance(queries, dict):
            raise _wrong(spec, "`ask` is no mapping", "Name each query: {name: vector, text or {like: id}}.")
        for name, query in queries.items():
            if not (_is_vector(query) or _is_like(query) or isinstance(query, str)):
                raise _wrong(spec, f"query {name!r} is none", "A query is a list of numbers, a text, or {like: id}.")
        if _texts(queries):
            check_encoder(spec, system)

    def ask(self, spec: ProbeSpec, system: System, runner: Runner) -> Observation:
        """Search the component at its bound location. Raises ManifestError as ``check`` does."""
        self.check(spec, system)
        (seen,) = self.ask_together((spec,), system, runner)
        return seen

    def ask_together(self, specs: Sequence[ProbeSpec], system: System, runner: Runner) -> Sequence[Observation]:
        """See ``probes.base.AsksTogether``."""
        seen: dict[str, Observation] = {}
        due: dict[tuple[str, float], list[Asked]] = defaultdict(list)
        encoded: dict[str, dict[str, Json] | Observation] = {}
        for spec in specs:
            try:
                self.check(spec, system)
            except ManifestError as error:
                seen[spec.name] = Observation(probe=spec.name, error=f"it could not be asked: {error}", asked=False)
                continue
            queries = _queries(spec, system, runner, encoded)
            if isinstance(queries, Observation):
                seen[spec.name] = queries
            else:
                assert spec.component is not None
                due[spec.component, spec.timeout].append((spec, queries))
        for (component, timeout), asked in due.items():
            found = self._searched(system.component(component), asked, runner, timeout)
            seen |= {one.probe: one for one in found}
        return [seen[spec.name] for spec in specs]

    def _searched(
        self, component: Component, asked: Sequence[Asked], runner: Runner, timeout: float
    ) -> list[Observation]:
        started = self._clock.monotonic()
        searches: dict[str, Json] = {spec.name: _search(spec, queries) for spec, queries in asked}
        done = ask_driver(component, {"searches": searches}, runner, timeout)
        if len(asked) > 1 and (done.code or done.timed_out):
            # P4: a graph that crashes the store's library must not take the exact answers with it.
            return [seen for one in asked for seen in self._searched(component, [one], runner, timeout)]
        return observations_of([spec for spec, _ in asked], done, self._clock.monotonic() - started)


def _queries(
    spec: ProbeSpec, system: System, runner: Runner, encoded: dict[str, dict[str, Json] | Observation]
) -> dict[str, Json] | Observation:
    """What ``spec`` asks, texts as vectors; an Observation where there are none. ``encoded`` are the texts of probes before it."""
    queries = dict(spec.ask or {})
    texts = _texts(queries)
    if not texts:
        return queries
    same = json.dumps([spec.encode, spec.env, spec.timeout, texts])
    if same not in encoded:
        encoded[same] = encode(spec, texts, system, runner)
    vectors = encoded[same]
    if isinstance(vectors, Observation):
        return msgspec.structs.replace(vectors, probe=spec.name)
    if wrong := [case for case, vector in vectors.items() if not _is_vector(vector)]:
        return Observation(probe=spec.name, error=f"`encode` made no vector of {wrong[0]!r}")
    return queries | vectors


def _search(spec: ProbeSpec, queries: dict[str, Json]) -> dict[str, Json]:
    return {
        "collection": spec.collection, "queries": queries, "k": spec.k, "mode": spec.mode, "canaries": spec.canaries,
    }  # fmt: skip


def _texts(queries: dict[str, Json]) -> dict[str, str]:
    return {name: query for name, query in queries.items() if isinstance(query, str)}


def _is_vector(query: Json) -> bool:
    return (
        isinstance(query, list)
        and bool(query)
        and all(isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in query)
    )


def _is_like(query: Json) -> bool:
    return isinstance(query, dict) and set(query) == {"like"} and isinstance(query["like"], str)


def _wrong(spec: ProbeSpec, what: str, next_step: str) -> ManifestError:
    return ManifestError(f"Probe {spec.name}: {what}.", untouched="Nothing was asked.", next_step=next_step)
