"""Whether every page of every snapshot can be read and means something: from a point's roots down to the last leaf.

A chunk can have the id that it is known by and still not be the page that its parent means; and a chunk that a page names but the
point's own list leaves out would not be kept by prune, which sees the list alone. Both are damage that no reading of packs finds.

Pages that points share are walked once (P11). Needs a reader's key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from resurgam.errors import IntegrityError, NewerFormat
from resurgam.model.codec import from_msgpack
from resurgam.model.point import Snapshot
from resurgam.vault.needs import Needs, as_ids
from resurgam.vault.pack import ID, Kind
from resurgam.vault.pages import Child, Inner, Root
from resurgam.vault.reader import ChunkReader
from resurgam.vault.repository import Repository
from resurgam.vault.snapshots import Extent, extents_of, read_entries, read_root
from resurgam.vault.tables import DIGEST, Leaf

Trouble = tuple[str, ...]  # what is wrong, in words


class TreeWalk:
    """Walks snapshots of one vault; remembers the pages it has seen. ``progress`` is told each page."""

    def __init__(self, repository: Repository, needs: Needs, progress: Callable[[], None] = lambda: None) -> None:
        self._repository, self._needs, self._progress = repository, needs, progress
        self._done: dict[bytes, Trouble] = {}
        self._raw = np.zeros(len(needs.ids), np.int64)  # lengths of chunks; 0 of those that no pack holds
        self._raw[needs.known] = needs.entries["raw"]

    def walk(self, snapshot: Snapshot) -> Trouble:
        """What is wrong with a snapshot's pages. Raises Denied where its domain does not open here."""
        reader = self._repository.chunks(snapshot.domain)
        get = reader.get
        tree = bytes.fromhex(snapshot.tree)
        try:
            root = read_root(tree, get)
        except (IntegrityError, NewerFormat) as error:
            return (error.message,)
        found = list(self._unlisted([tree]))
        if (root.component, root.driver) != (snapshot.component, snapshot.driver):
            found.append(f"its root is one of {root.component} ({root.driver})")
        found += self._tree(root.blobs, Kind.TREE, reader)
        for table in root.tables:
            found += self._tree(table.root, Kind.ROWS, reader)
        return tuple(dict.fromkeys(found))

    def _tree(self, root: Root, kind: Kind, reader: ChunkReader) -> Trouble:
        return self._page(Child(b"", root.page, root.count), root.level, kind, reader) if root.page else ()

    def _page(self, child: Child, level: int, kind: Kind, reader: ChunkReader) -> Trouble:
        if child.page not in self._done:
            self._progress()
            try:
                self._done[child.page] = tuple(dict.fromkeys(self._below(child, level, kind, reader)))
            except (IntegrityError, NewerFormat) as error:
                self._done[child.page] = (error.message,)
        return self._done[child.page]

    def _below(self, child: Child, level: int, kind: Kind, reader: ChunkReader) -> Iterator[str]:
        yield from self._unlisted([child.page])
        what, get = f"page {child.page.hex()[:16]}", reader.get
        if level > 0:
            children = from_msgpack(get(child.page, kind), Inner, what=what).children
            with reader.ahead(lambda: iter(children), self._unseen) as (ahead, found):
                for inner in found:
                    yield from self._page(inner, level - 1, kind, ahead)
        elif kind is Kind.ROWS:
            leaf = from_msgpack(get(child.page, kind), Leaf, what=what)
            rows = len(leaf.digests) // DIGEST
            if len(leaf.lengths) != 4 * rows or int(np.frombuffer(leaf.lengths, "<u4").sum()) != len(leaf.keys):
                yield f"{what} is no page of rows"
            elif rows != child.count:
                yield f"{what} has {rows} rows, not {child.count}"
        else:
            entries = read_entries(child, get)
            if len(entries) != child.count:
                yield f"{what} has {len(entries)} entries, not {child.count}"
            for entry in entries:
                yield from self._unlisted(entry.runs)
                yield from self._blob(entry.path, entry.size, list(extents_of(entry, get)))

    def _blob(self, path: bytes, size: int, extents: list[Extent]) -> Iterator[str]:
        """That the pieces of a blob make it up, lie within their chunks, and are listed."""
        name = path.decode("utf-8", "backslashreplace")
        if sum(length for _, _, length in extents) != size:
            yield f"the pieces of {name} do not add up to its {size} bytes"
        if not extents:
            return
        rows = self._needs.rows(as_ids(b"".join(chunk for chunk, _, _ in extents)))
        if (rows < 0).any():
            yield f"a chunk of {name} is not in the point's list"
        ends = np.array([start + length for _, start, length in extents])
        raw = self._raw[np.maximum(rows, 0)]
        if ((rows >= 0) & (raw > 0) & (ends > raw)).any():
            yield f"a piece of {name} lies beyond its chunk"

    def _unseen(self, child: Child) -> tuple[bytes, ...]:
        return () if child.page in self._done else (child.page,)

    def _unlisted(self, pages: list[bytes]) -> Iterator[str]:
        joined = b"".join(pages)
        if joined and (self._needs.rows(as_ids(joined)) < 0).any():
            rows = self._needs.rows(as_ids(joined)).tolist()
            missing = [pages[at] for at, row in enumerate(rows) if row < 0]
            yield from (f"page {page.hex()[: ID // 2]} is not in the point's list" for page in missing)
