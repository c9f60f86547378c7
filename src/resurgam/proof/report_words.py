"""How two answers part, in words and side by side. Values in, values out; nothing here judges.

An answer is read by its shape, and every shape becomes the same small table, a :class:`View`::

    ranking   a list of hits, best first            rank by rank: what stands there now, what is new, what is gone
    rows      rows under a key (their first cells)   key by key: the old row, the new row
    text      words for a person                     a unified diff by lines, long lines by sentences
    value     anything else                          old -> new

An object is taken apart, one view for each member that changed. ``sentence`` tells the change with its values,
``counted`` without them: that is what may be shown where answers must not be seen.

:func:`likeness` puts a number between 0 and 1 on a pair of answers, so that they can be drawn. It is no verdict.
"""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Sequence

import msgspec

from resurgam.model.system import Json
from resurgam.model.verdict import Statistics
from resurgam.proof.places import canonical, is_number, show_value

MAX_ROWS = 40  # of a view
MAX_PIECES = 400  # of a text that are compared line by line; more are told by their number
SHOWN = 240  # characters of one cell
KEY_CELLS = 3  # of a row, at most
LISTED = 5  # names in a sentence
LONG_LINE = 120
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_NAMES = ("id", "key", "name")  # members that identify an item, where the tolerance does not say which does


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a view: ``gone`` where what stood before is not there any more, ``new`` where what stands now was not there
    before. ``label`` is a rank or a key, if there is one."""

    before: str = ""
    after: str = ""
    gone: bool = False
    new: bool = False
    label: str = ""


class View(msgspec.Struct, frozen=True, kw_only=True):
    """How one value changed; ``place`` says which of an answer, empty for the whole."""

    kind: str
    counted: str
    sentence: str
    place: str = ""
    rows: tuple[Row, ...] = ()


def describe(
    expected: Json, got: Json, *, ranked: bool = False, by: str | int | None = None, place: str = ""
) -> list[View]:
    """The views of what changed between two answers; none where they are equal. ``ranked``: lists are hits, best first, of
    which the member ``by`` identifies one."""
    if canonical(expected) == canonical(got):
        return []
    if isinstance(expected, dict) and isinstance(got, dict):
        names = [*expected, *(name for name in got if name not in expected)]
        inner = [
            describe(expected.get(n), got.get(n), ranked=ranked, by=by, place=f"{place}.{n}" if place else n)
            for n in names
        ]
        return [view for views in inner for view in views]
    if isinstance(expected, list) and isinstance(got, list):
        if ranked or all(is_number(item) or isinstance(item, str) for item in (*expected, *got)):
            return [_ranking(expected, got, by, place, "neighbours" if ranked else "items")]
        if width := _key_width(expected, got):
            return [_rows(_keyed(expected, width), _keyed(got, width), place)]
    if isinstance(expected, str) and isinstance(got, str) and max(len(expected), len(got)) > LONG_LINE // 2:
        return [_text(expected, got, place)]
    old, new = show_value(expected, SHOWN), show_value(got, SHOWN)
    row = Row(before=old, after=new, gone=True, new=True)
    return [View(kind="value", place=place, counted="it changed", sentence=f"{old} -> {new}", rows=(row,))]


def likeness(expected: Json, got: Json, *, ranked: bool = False, by: str | int | None = None) -> float:
    """How alike two answers are, from 0 to 1: of lists and texts the share of items or words in common (of the longer of the
    two), of numbers one minus their relative distance, of objects the mean over their members; else 1 where equal, 0 where not.
    Items of a ``ranked`` list are the same where what names them is, whatever their scores."""
    if canonical(expected) == canonical(got):
        return 1.0
    if isinstance(expected, dict) and isinstance(got, dict):
        names = expected.keys() | got.keys()
        return sum(
            likeness(expected[n], got[n], ranked=ranked, by=by) for n in names if n in expected and n in got
        ) / len(names)
    if isinstance(expected, list) and isinstance(got, list):
        name = (lambda item: identity(item, by)) if ranked else canonical
        return _share(Counter(map(name, expected)), Counter(map(name, got)))
    if isinstance(expected, str) and isinstance(got, str):
        return _share(Counter(expected.split()), Counter(got.split()))
    if is_number(expected) and is_number(got):
        largest = max(abs(expected), abs(got))
        return max(0.0, 1 - abs(expected - got) / largest) if largest else 1.0
    return 0.0


def percent(share: float) -> str:
    """A share between 0 and 1; what is not quite the whole is not called 100 %."""
    return "> 99 %" if 0.995 <= share < 1 else f"{share * 100:.0f} %"


def tested(found: Statistics) -> str:
    """A test over all cases in a sentence: what was found, beside what is allowed."""
    low, high = found.interval
    confidence = f"{1 - 2 * found.alpha:.0%} interval {low:.4g} to {high:.4g}"
    return (
        f"{found.measure} lost {found.estimate:.4g} ({confidence}) over {found.n} cases; {found.margin:.4g} is allowed"
    )


def figures_of_test(found: Statistics) -> list[tuple[str, str]]:
    """The rest of a test, figure by figure, each under what it means."""
    holm = f", {found.adjusted:.4g} after Holm over {found.family}" if found.adjusted is not None else ""
    figures: list[tuple[str, float | str | None]] = [
        ("test", found.test),
        ("the judgement rests on", found.decided),
        ("p of “the same within the margin”", found.p),
        ("p of “different”", f"{found.difference:.4g}{holm}"),
        ("loss among the yardstick's own runs", found.noise),
        ("mean of the worst cases", found.worst),
        ("floor of the worst cases", found.floor),
        ("chance to show that a copy that is the same is", found.power),
        ("loss that would be seen", found.detects),
        ("cases needed", found.needed),
        ("seed of what was permuted", None if found.seed is None else str(found.seed)),
    ]
    return [(name, value if isinstance(value, str) else f"{value:.4g}") for name, value in figures if value is not None]


def identity(item: Json, by: str | int | None = None) -> str:
    """What names an item of a list: the member ``by``, else its id or its first cell, else the whole of it."""
    if isinstance(item, dict):
        name = next((n for n in ((by,) if isinstance(by, str) else _NAMES) if n in item), None)
        return canonical(item if name is None else item[name])
    if isinstance(item, list) and item:
        at = by if isinstance(by, int) and by < len(item) else 0
        return canonical(item[at])
    return canonical(item)


def _ranking(expected: list[Json], got: list[Json], by: str | int | None, place: str, word: str) -> View:
    before, after = [identity(i, by) for i in expected], [identity(i, by) for i in got]
    gone, new = _lacking(before, after), _lacking(after, before)
    told = [f"{what}: {_listed(names)}" for what, names in (("new", new), ("gone", gone)) if names]
    if gone:
        counted = f"{len(gone)} of {len(before)} {word} changed"
    elif new:
        counted = f"{len(new)} {word} beside the {len(before)} before"
    elif moved := sum(a != b for a, b in zip(before, after, strict=True)):
        counted = f"the same {len(before)} {word}, {moved} of them at another rank"
    else:
        counted = f"the same {word} in the same order, with other scores"
    rows = tuple(
        Row(
            before=_hit(expected[rank]) if rank < len(before) else "",
            after=_hit(got[rank]) if rank < len(after) else "",
            gone=rank < len(before) and before[rank] in gone,
            new=rank < len(after) and after[rank] in new,
            label=str(rank + 1),
        )
        for rank in range(min(MAX_ROWS, max(len(before), len(after))))
    )
    return View(kind="ranking", place=place, counted=counted, sentence="; ".join([counted, *told]), rows=rows)


def _hit(item: Json) -> str:
    """A hit for people: its id and its score, rounded; else the whole of it."""
    if isinstance(item, list) and len(item) == 2 and isinstance(item[1], float):
        return f"{show_value(item[0], SHOWN)} ({item[1]:.4g})"
    return show_value(item, SHOWN)


def _rows(expected: dict[str, str], got: dict[str, str], place: str) -> View:
    changed = [key for key in expected if key in got and expected[key] != got[key]]
    gone, new = [key for key in expected if key not in got], [key for key in got if key not in expected]
    parts = [(len(changed), "changed"), (len(new), "new"), (len(gone), "gone")]
    counts = [f"{count} row{'' if count == 1 else 's'} {word}" for count, word in parts if count]
    counted = ", ".join(counts) or "the same rows in another order"
    rows = [_row(key, expected.get(key), got.get(key)) for key in [*changed, *new, *gone][:MAX_ROWS]]
    says = [f"{row.label} now says {row.after}, before {row.before}" for row in rows[: min(2, len(changed))]]
    says += [f"{word}: {_listed(keys)}" for word, keys in (("new", new), ("gone", gone)) if keys]
    return View(kind="rows", place=place, counted=counted, sentence="; ".join([counted, *says]), rows=tuple(rows))


def _row(key: str, before: str | None, after: str | None) -> Row:
    parted = _agreeing(before or "", after or "")
    ours, theirs = (_window(text, parted, SHOWN) if text is not None else "" for text in (before, after))
    return Row(label=_cut(key), before=ours, after=theirs, gone=before is not None, new=after is not None)


def _text(expected: str, got: str, place: str) -> View:
    before, after = _pieces(expected), _pieces(got)
    start = _agreeing(before, after)
    end = _agreeing(before[start:][::-1], after[start:][::-1])  # what is equal at both ends need not be compared
    context = max(0, start - 1)
    ours, theirs = before[context : len(before) - end + 1], after[context : len(after) - end + 1]
    lines = list(difflib.unified_diff(ours[:MAX_PIECES], theirs[:MAX_PIECES], lineterm="", n=1))[2:]
    gone, new = ([line[1:] for line in lines if line[:1] == sign] for sign in "-+")
    counted = f"the text changed: {len(gone)} of {len(before)} lines or sentences gone, {len(new)} new"
    parted = _agreeing(gone[0], new[0]) if gone and new else 0  # long lines are shown from where they part
    sentence = f"{counted}; it now says: {_window(new[0].strip(), parted, LONG_LINE)}" if new else counted
    rows = [_line(line, parted) for line in lines[:MAX_ROWS] if not line.startswith("@@")]
    return View(kind="text", place=place, counted=counted, sentence=sentence, rows=tuple(rows))


def _line(line: str, parted: int) -> Row:
    text = _window(line[1:], parted, SHOWN)
    gone, new = line[:1] == "-", line[:1] == "+"
    return Row(before="" if new else text, after="" if gone else text, gone=gone, new=new)


def _window(text: str, parted: int, limit: int) -> str:
    """``text``, or where it is long so much of it as stands around the place where it parts from another."""
    start = max(0, parted - limit // 3) if len(text) > limit else 0
    return f"{'…' if start else ''}{_cut(text[start:], limit)}"


def _agreeing(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """How many members are equal from the beginning on."""
    return next((n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))


def _pieces(text: str) -> list[str]:
    """Lines; of long lines the sentences, so that one changed word does not repeat a page."""
    return [
        piece for line in text.splitlines() for piece in (_SENTENCE.split(line) if len(line) > LONG_LINE else [line])
    ]


def _key_width(expected: list[Json], got: list[Json]) -> int:
    """How many of the first cells name a row, in both lists; 0 where these are no rows, or none of so few does."""
    rows = [*expected, *got]
    if not all(isinstance(row, list) for row in rows):
        return 0
    shortest = min((len(row) for row in rows), default=0)
    unique = (
        w for w in range(1, min(KEY_CELLS, shortest - 1) + 1) if all(_names_each(side, w) for side in (expected, got))
    )
    return next(unique, 0)


def _names_each(rows: list[Json], width: int) -> bool:
    return len({canonical(row[:width]) for row in rows}) == len(rows)


def _keyed(rows: list[Json], width: int) -> dict[str, str]:
    """The rest of each row as text, by its first cells."""
    return {" / ".join(show_value(cell, SHOWN) for cell in row[:width]): _rest(row[width:]) for row in rows}


def _rest(cells: list[Json]) -> str:
    return json.dumps(cells[0] if len(cells) == 1 else cells, sort_keys=True, ensure_ascii=False)


def _lacking(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """The names that ``others`` has not, or not as often, in order."""
    left = Counter(names) - Counter(others)
    found = []
    for name in names:
        if left[name] > 0:
            left[name] -= 1
            found.append(name)
    return found


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(_cut(name, 60) for name in names[:LISTED])
    return f"{shown} and {len(names) - LISTED} more" if len(names) > LISTED else shown


def _cut(text: str, limit: int = SHOWN) -> str:
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def _share(ours: Counter[str], theirs: Counter[str]) -> float:
    longest = max(ours.total(), theirs.total())
    return (ours & theirs).total() / longest if longest else 1.0
