"""An optional way to read a table that is decoded from an image: only those pieces again whose bytes changed (P11).

A driver that knows how its store lays rows out cuts a table into pieces (of SQLite, leaf pages) and says from which
blocks of the image each is decoded. The vault knows which blocks stand as they stood at the last capture, and keeps what
it made of each piece's rows on the host; so it asks for the other pieces only::

    survey = pieces.survey(before, changed)      # the structure alone: no row is decoded
    for batch in pieces.read(first, last): ...   # the rows of neighbouring pieces, in order

What must hold, else a point would tell of rows that are not there: a piece's rows depend on its blocks, on its name and on
``settings``, and on nothing else; ``read`` gives a survey's rows in its order and number. A table whose structure is not
understood has no survey, and is read whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from resurgam.model.system import Json

BLOCK = 64 << 10  # bytes of an image that are compared as one

Numbers = NDArray[np.int64]
Flags = NDArray[np.bool_]


class Survey(NamedTuple):
    """A table's pieces in order, as columns.

    ``names`` are the driver's own, unique in a table; ``rows`` counts each piece's rows; ``first`` and ``last`` bound them for
    ``read``. Piece i is decoded from ``blocks[starts[i] : starts[i + 1]]``, at least one; ``starts`` has one more entry than there
    are pieces."""

    names: Numbers
    rows: Numbers
    first: Numbers
    last: Numbers
    starts: Numbers
    blocks: Numbers

    def touched(self, changed: Flags) -> Flags:
        """Of each piece, whether one of its blocks is in ``changed``; a block beyond its end counts as changed."""
        inside = self.blocks < len(changed)
        hit = np.ones(len(self.blocks), np.bool_)
        hit[inside] = changed[self.blocks[inside]]
        return np.logical_or.reduceat(hit, self.starts[:-1]) if len(self.names) else np.zeros(0, np.bool_)

    def places_of(self, names: Numbers) -> Numbers:
        """Where each of ``names`` stands in this survey; -1 where it does not."""
        if not len(self.names):
            return np.full(len(names), -1, np.int64)
        order = np.argsort(self.names, kind="stable")
        near = np.minimum(np.searchsorted(self.names[order], names), len(order) - 1)
        place: Numbers = order[near]
        return np.where(self.names[place] == names, place, -1)


class Pieces(Protocol):
    """See the module's docstring."""

    @property
    def settings(self) -> bytes:
        """A digest of all but the image's bytes that the rows depend on: schema, encoding, version of the decoder."""
        ...

    def survey(self, before: Survey | None, changed: Flags) -> tuple[Survey, Numbers] | None:
        """The table's pieces now, and of each the place of the equal one in ``before``, or -1 where there is none. None where the
        structure is not understood. ``changed`` says of each block whether it is another than at ``before``."""
        ...

    def read(self, first: int, last: int) -> Iterator[list[tuple[Json, ...]]]:
        """The rows from bound ``first`` to bound ``last``, both included."""
        ...
