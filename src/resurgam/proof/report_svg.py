"""Drawings for the page, as SVG 1.1 inside HTML: no script, no style attribute, nothing from elsewhere.

Colours are classes that the page's style sheet gives for light and dark. Each drawing has a title that a screen reader reads,
and a table beside it on the page that holds the same numbers. Units are CSS pixels in drawings 360 wide, so that text
keeps its size on a telephone. Every text is escaped here; nothing of an answer becomes markup.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape

from resurgam.model.verdict import Statistics
from resurgam.proof.report_graph import Layout, layout
from resurgam.proof.report_values import ComponentReport, Frozen, Score
from resurgam.proof.report_words import percent, tested

WIDTH = 360
BINS = 20
NODE_WIDTH, NODE_HEIGHT, GAP_X, GAP_Y = 98, 40, 33, 14
GLYPHS = {"proven": "✓", "different": "≠", "inconclusive": "?", "unprobed": "–", "unchanged": "="}


def bar(value: float, state: str) -> str:
    """A share of 0 to 1 as a bar."""
    filled = round(max(0.0, min(1.0, value)) * 100, 1)
    body = f'<rect class="track" width="100" height="10"/><rect class="{state}" width="{filled}" height="10"/>'
    return _drawing(percent(value), 100, 10, body, "bar", stretched=True)


def distributions(scores: Sequence[Score]) -> str:
    """How alike answers are: the yardstick's to its own above the line (noise), the copy's to the yardstick's below it."""
    noise = Counter(_bin(s.noise) for s in scores if s.noise is not None)
    restored = Counter(_bin(s.restored) for s in scores)
    most = max([*noise.values(), *restored.values(), 1])
    height, wide, middle = 60, (WIDTH - 20) / BINS, 84
    parts = [
        _text(
            10, 14, f"yardstick beside itself (A/A), {noise.total()} cases" if noise else "no A/A noise known", "small"
        ),
        _text(10, 2 * middle - 6, f"copy beside yardstick, {restored.total()} cases", "small"),
    ]
    for number in range(BINS):
        x = 10 + number * wide
        up, down = height * noise[number] / most, height * restored[number] / most
        parts.append(_rect(x + 1, middle - 1 - up, wide - 2, up, "noise", f"noise {_span(number)}: {noise[number]}"))
        parts.append(_rect(x + 1, middle + 1, wide - 2, down, "restored", f"copy {_span(number)}: {restored[number]}"))
    parts.append(f'<line class="axis" x1="10" y1="{middle}" x2="{WIDTH - 10}" y2="{middle}"/>')
    bottom = 2 * middle + 12
    ends = [_text(10, bottom, "nothing alike", "small"), _text(WIDTH - 10, bottom, "the same", "small", anchor="end")]
    title = f"Likeness of answers: {_worst_in_words(scores)}"
    return _drawing(title, WIDTH, bottom + 6, "".join([*parts, *ends]), "plot")


def interval(found: Statistics) -> str:
    """A loss with its confidence interval on a line that shows none and the allowed one."""
    low, high = found.interval
    known = [value for value in (0.0, low, high, found.estimate, found.margin) if math.isfinite(value)]
    first, last = min(known), max(known)
    scale = (WIDTH - 60) / ((last - first) or 1.0)

    def at(value: float) -> float:
        return 30 + (min(max(value, first), last) - first) * scale

    y = 40
    parts = [
        f'<line class="axis" x1="30" y1="{y}" x2="{WIDTH - 30}" y2="{y}"/>',
        _rect(at(low), y - 5, max(2.0, at(high) - at(low)), 10, "interval", f"interval {low:.4g} to {high:.4g}"),
        f'<circle class="estimate" cx="{at(found.estimate):.1f}" cy="{y}" r="5"/>',
        *(
            f'<line class="mark" x1="{at(v):.1f}" y1="{y - 16}" x2="{at(v):.1f}" y2="{y + 16}"/>'
            for v in (0.0, found.margin)
        ),
        _text(at(0.0), y - 22, "no loss", "small", anchor="middle"),
        _text(at(found.margin), y + 30, f"allowed: {found.margin:.4g}", "small", anchor="middle"),
    ]
    return _drawing(tested(found), WIDTH, y + 38, "".join(parts), "plot")


def time_line(cut: Sequence[Frozen]) -> str:
    """The freeze of each component: waiting to be held, and held."""
    end = max((part.thawed for part in cut), default=0.0) or 1e-9
    row, left = 34, 10
    scale = (WIDTH - 2 * left) / end
    parts = []
    for number, part in enumerate(cut):
        y = number * row + 14
        held = f"{part.component}: held {_ms(part.thawed - part.held)}"
        parts.append(_text(left, y, f"{held}, from {_ms(part.held)} to {_ms(part.thawed)}", "small"))
        parts.append(_rect(left + part.asked * scale, y + 6, (part.held - part.asked) * scale, 9, "waiting", "waiting"))
        parts.append(_rect(left + part.held * scale, y + 6, (part.thawed - part.held) * scale, 9, "held", held))
    bottom = len(cut) * row + 16
    parts.append(f'<line class="axis" x1="{left}" y1="{bottom - 14}" x2="{WIDTH - left}" y2="{bottom - 14}"/>')
    parts += [_text(left, bottom, "0", "small"), _text(WIDTH - left, bottom, _ms(end), "small", anchor="end")]
    return _drawing(f"The cut: {len(cut)} components held within {_ms(end)}", WIDTH, bottom + 6, "".join(parts), "plot")


def system_graph(components: Sequence[ComponentReport]) -> str:
    """The system's components, each with its state, after what they are made from and read."""
    plan = layout({c.name: c.after for c in components}, {c.name: c.writes for c in components})
    rows = max((len(layer) for layer in plan.layers), default=0)
    height = rows * (NODE_HEIGHT + GAP_Y) + GAP_Y
    width = max(WIDTH, len(plan.layers) * (NODE_WIDTH + GAP_X))
    places = dict(_places(plan, height))
    drawn = [_edge(places[e.source], places[e.target], e.relation) for e in plan.edges]
    drawn += [_node(component, *places[component.name]) for component in components]
    states = Counter(component.state for component in components)
    title = "The system: " + ", ".join(f"{count} {state}" for state, count in states.items())
    return _drawing(title, width, height, "".join(drawn), "plot graph")


def _places(plan: Layout, height: float) -> Iterable[tuple[str, tuple[float, float]]]:
    for column, layer in enumerate(plan.layers):
        pitch = NODE_HEIGHT + GAP_Y
        top = (height - len(layer) * pitch + GAP_Y) / 2
        for number, name in enumerate(layer):
            yield name, (4 + column * (NODE_WIDTH + GAP_X), top + number * pitch)


def _edge(source: tuple[float, float], target: tuple[float, float], relation: str) -> str:
    """A curve from the right of the one to the left of the other; back around where the target does not stand further right."""
    (x1, y1), (x2, y2) = source, target
    onward = x2 > x1
    x1, x2 = (x1 + NODE_WIDTH, x2) if onward else (x1, x2 + NODE_WIDTH)
    y1, y2 = y1 + NODE_HEIGHT / 2, y2 + NODE_HEIGHT / 2
    if not onward:
        y1, y2 = y1 + 8, y2 + 8  # beside an edge the other way
    bend = max(20.0, abs(x2 - x1) / 2) * (1 if onward else -1)
    path = f"M{x1:.1f} {y1:.1f}C{x1 + bend:.1f} {y1:.1f} {x2 - bend:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"
    kind = "edge" if relation.startswith("made") else "edge written"
    return f'<path class="{kind}" d="{path}"><title>{escape(relation)}</title></path>'


def _node(component: ComponentReport, x: float, y: float) -> str:
    name = component.name if len(component.name) <= 14 else f"{component.name[:13]}…"
    box = _rect(
        x, y, NODE_WIDTH, NODE_HEIGHT, f"node {component.state}", f"{component.name}: {component.state}", radius=6
    )
    words = _text(x + 8, y + 17, name, "name")
    return f"{box}{words}{_text(x + 8, y + 32, f'{GLYPHS[component.state]} {component.state}', 'small state')}"


def _drawing(title: str, width: float, height: float, body: str, kind: str, *, stretched: bool = False) -> str:
    shape = ' preserveAspectRatio="none"' if stretched else ""
    return (
        f'<svg class="{kind}" viewBox="0 0 {width:g} {height:g}" role="img"{shape}>'
        f"<title>{escape(title)}</title>{body}</svg>"
    )


def _rect(x: float, y: float, width: float, height: float, kind: str, title: str, *, radius: float = 0) -> str:
    if width <= 0 or height <= 0:
        return ""
    round_ = f' rx="{radius:g}"' if radius else ""
    return (
        f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{max(width, 1):.1f}" height="{height:.1f}"{round_}>'
        f"<title>{escape(title)}</title></rect>"
    )


def _text(x: float, y: float, words: str, kind: str, *, anchor: str = "") -> str:
    at = f' text-anchor="{anchor}"' if anchor else ""
    return f'<text class="{kind}" x="{x:g}" y="{y:g}"{at}>{escape(words)}</text>'


def _bin(score: float) -> int:
    return min(BINS - 1, max(0, int(score * BINS)))


def _span(number: int) -> str:
    return f"{number / BINS:.0%} to {(number + 1) / BINS:.0%} alike"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.1f} ms"


def _worst_in_words(scores: Sequence[Score]) -> str:
    return f"the least alike is {percent(min(s.restored for s in scores))}" if scores else "nothing was measured"
