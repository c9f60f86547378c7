"""Where each component stands in the drawing of a system: in layers, after what it is made from and what it reads.

A layered layout in two of the steps that Sugiyama, Tagawa and Toda described ("Methods for visual understanding of
hierarchical system structures", 1981): a component stands one layer after the last of those that it follows, and within a
layer it is drawn near them (barycentres). What follows itself in a circle is cut at the edge that closes it. Values only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec


class Edge(msgspec.Struct, frozen=True):
    """Something goes from one component to another; ``relation`` is made from, read by, or written by."""

    source: str
    target: str
    relation: str


class Layout(msgspec.Struct, frozen=True):
    """The names in each layer, from those that follow nothing on, and the edges between them."""

    layers: tuple[tuple[str, ...], ...]
    edges: tuple[Edge, ...]


def layout(after: Mapping[str, Iterable[str]], writes: Mapping[str, Iterable[str]]) -> Layout:
    """Layers by what each name comes ``after``; what it ``writes`` is an edge too, and moves nothing."""
    known = {name: [other for other in others if other in after and other != name] for name, others in after.items()}
    depth: dict[str, int] = {}
    for name in known:
        _deepen(name, known, depth, ())
    layers: list[list[str]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for name in known:
        layers[depth[name]].append(name)
    for number in range(1, len(layers)):
        places = {name: place for place, name in enumerate(layers[number - 1])}
        layers[number].sort(key=lambda name: _barycentre(known[name], places))
    edges = [Edge(other, name, "made from or reads") for name, others in known.items() for other in others]
    pairs = {(edge.source, edge.target) for edge in edges}
    written = [Edge(n, other, "writes or serves") for n, others in writes.items() for other in others if other in known]
    edges += [edge for edge in written if (edge.source, edge.target) not in pairs]
    return Layout(tuple(map(tuple, layers)), tuple(edges))


def _deepen(name: str, after: Mapping[str, list[str]], depth: dict[str, int], path: tuple[str, ...]) -> int:
    """One more than the deepest of those that ``name`` follows; an edge back into ``path`` closes a circle and counts nothing."""
    if name not in depth:
        found = [_deepen(o, after, depth, (*path, name)) for o in after[name] if o not in path]
        depth[name] = 1 + max(found, default=-1)
    return depth[name]


def _barycentre(others: list[str], places: Mapping[str, int]) -> float:
    found = [places[other] for other in others if other in places]
    return sum(found) / len(found) if found else float(len(places))
