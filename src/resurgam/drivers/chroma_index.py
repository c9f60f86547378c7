"""The vectors of one Chroma collection as its HNSW index has them on disk.

A collection's vector segment is a folder of five files. Four are hnswlib's (``hnswalg.h``, ``persistHeader`` and
``loadPersistedIndex`` in Chroma's fork), in native byte order, which is little-endian wherever Chroma runs:

    header.bin       version i32 (1) · offset of level 0, capacity, elements, stride, label offset, data offset u64 each ·
                     top level i32 · entry point u32 · maxM, maxM0, M u64 · mult f64 · ef_construction u64    100 bytes
    data_level0.bin  per element: links u32 (count in the low half, bit 16: deleted), maxM0 neighbours u32, the vector f32,
                     label u64; room for ``capacity`` elements, of which ``elements`` mean anything
    length.bin       per element: the vector's length f32, used in cosine space only
    link_lists.bin   per element: bytes of links above level 0, and these links

and ``index_metadata.pickle`` says which label belongs to which id (``chroma_pickle``). In cosine space hnswlib stores vectors
scaled to length 1; Chroma hands out the product with the stored length, and so does :meth:`Index.vector`: float32 by float32, the
same bits. The bits that were once added are not kept by the index.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from resurgam.drivers.chroma_pickle import read_label_map
from resurgam.errors import IntegrityError

HEADER, LEVEL0, LENGTHS, LINKS, LABELS = (
    "header.bin",
    "data_level0.bin",
    "length.bin",
    "link_lists.bin",
    "index_metadata.pickle",
)
NATIVE = (HEADER, LEVEL0, LENGTHS, LINKS)
FIXED = (
    LEVEL0,
    LENGTHS,
)  # elements have one length and stay where they are; a new one comes behind them or into a free place
VERSION = 1
_HEADER = struct.Struct("<i6QiI3QdQ")
_DELETED = 1 << 16
_STEP = 8192  # vectors looked at together

Rows = npt.NDArray[np.int64]


class Header(NamedTuple):
    """What of ``header.bin`` is needed to find vectors and to walk the graph; sizes in bytes. ``upper_links`` and ``ground_links``
    are the most neighbours that an element has above level 0, and on it."""

    elements: int
    stride: int
    label_offset: int
    data_offset: int
    top: int
    entry: int
    upper_links: int
    ground_links: int

    @property
    def dimension(self) -> int:
        """Numbers in a vector."""
        return (self.label_offset - self.data_offset) // 4


def read_header(data: bytes | memoryview) -> Header:
    """Raises IntegrityError where it is torn, of another version, or contradicts itself."""
    if len(data) < _HEADER.size:
        raise broken(f"{HEADER} has {len(data)} bytes instead of {_HEADER.size}")
    version, level0, capacity, elements, stride, label_at, data_at, top, entry, upper, ground, *_ = _HEADER.unpack_from(
        data
    )
    if version != VERSION:
        raise broken(f"{HEADER} is of version {version}; this release reads version {VERSION}")
    sound = level0 == 0 and elements <= capacity and data_at == 4 * ground + 4 and 0 < upper <= ground
    if not sound or not data_at < label_at or (label_at - data_at) % 4 or stride != label_at + 8:
        raise broken(f"{HEADER} contradicts itself")
    return Header(elements, stride, label_at, data_at, top, entry, upper, ground)


class Index:
    """The persisted vectors of a segment. ``rows`` maps an id to its place; ``dead`` are ids that the map knows and whose vector
    is gone or marked as deleted; ``strays`` counts vectors that no id leads to."""

    def __init__(self, files: Mapping[str, memoryview], cosine: bool) -> None:
        """``files`` are the segment's files by name. Raises IntegrityError where one is missing, torn or unknown."""
        if missing := sorted({*NATIVE} - files.keys()):
            raise broken(f"{', '.join(missing)} is missing" if files else "its folder is missing or empty")
        header = read_header(files[HEADER])
        if header.elements and LABELS not in files:
            raise broken(f"{LABELS} is missing")
        if len(files[LEVEL0]) < header.elements * header.stride:
            raise broken(f"{LEVEL0} ends before its {header.elements} elements do")
        if len(files[LENGTHS]) < 4 * header.elements:
            raise broken(f"{LENGTHS} ends before its {header.elements} elements do")
        self.header = header
        self.dimension = header.dimension
        labels = read_label_map(files[LABELS]).labels if LABELS in files else {}
        table = np.frombuffer(files[LEVEL0], np.uint8, header.elements * header.stride)
        self.table = table = table.reshape(header.elements, header.stride)
        self.links = files[LINKS]
        self._vectors = table[:, header.data_offset : header.label_offset].view("<f4")
        self._lengths = np.frombuffer(files[LENGTHS], "<f4", header.elements) if cosine else None
        alive = (table[:, :4].view("<u4")[:, 0] & _DELETED) == 0
        alive_labels = table[alive, header.label_offset :].view("<u8")[:, 0]
        places = dict(zip(alive_labels.tolist(), np.flatnonzero(alive).tolist(), strict=True))
        self.rows = {key: places[label] for key, label in labels.items() if label in places}
        self.dead = sorted(labels.keys() - self.rows.keys())
        self.strays = len(places) - len(self.rows)

    def vector(self, row: int) -> bytes:
        """The vector at ``row`` as float32, little-endian: the bits that Chroma hands out."""
        vector = self._vectors[row]
        return bytes(vector if self._lengths is None else vector * self._lengths[row])

    def unusable(self) -> Iterator[str]:
        """Ids whose vector holds what is no number."""
        ids = list(self.rows)
        rows: Rows = np.fromiter(self.rows.values(), np.int64, len(ids))
        for start in range(0, len(ids), _STEP):
            piece = rows[start : start + _STEP]
            finite = np.isfinite(self._vectors[piece]).all(axis=1)
            if self._lengths is not None:
                finite &= np.isfinite(self._lengths[piece])
            yield from (ids[start + place] for place in np.flatnonzero(~finite).tolist())


def broken(why: str) -> IntegrityError:
    """Files of an index that cannot be what Chroma wrote."""
    return IntegrityError(
        f"The vector index cannot be read: {why}.",
        untouched="Nothing was changed.",
        next_step="Rebuild the collection from its documents, or restore it from an earlier point.",
    )
