"""One snapshot after the other: while the items of one are used, what the next one needs is on its way.

A component that begins is a handful of requests one behind the other, from its root to its first bytes: a third of a second at
50 ms, and as much for each that a point has. So from far away the next one's reading ahead is begun with this one's, waits until
all of that has been asked for, and goes on within the same window (``vault.ahead``). A store that answers at once is left alone.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack

from resurgam.drivers.base import Item
from resurgam.vault.ahead import Ahead
from resurgam.vault.reader import SnapshotReader
from resurgam.vault.snapshots import Entry


def in_turn(snapshots: Sequence[SnapshotReader]) -> Generator[Iterator[Item], None, None]:
    """The items of each of ``snapshots``, to be used up before the next ones are asked for. To be closed."""
    with ExitStack() as begun:
        ahead: Ahead[Entry] | None = None
        following = _begin(snapshots[0], None, begun) if snapshots else None
        for number, snapshot in enumerate(snapshots, 1):
            ahead, following = following, None
            if number < len(snapshots):
                following = _begin(snapshots[number], ahead, begun)
            yield snapshot.items_by(ahead)
            if ahead is not None:
                ahead.close()


def _begin(snapshot: SnapshotReader, after: Ahead[Entry] | None, begun: ExitStack) -> Ahead[Entry] | None:
    ahead = snapshot.look_ahead(after)
    if ahead is not None:
        begun.callback(ahead.close)
    return ahead
