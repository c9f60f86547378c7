"""Rows in the vault: a table as sorted pairs of key and digest, in a tree of pages.

A row's key is written so that comparing bytes compares keys (memcmp order), and so that it can be read back for people:

    tag  value                          then
    0x05 NULL                           nothing
    0x10 integer                        8 bytes, big-endian, offset by 2^63
    0x12 float                          8 bytes, big-endian IEEE 754, sign flipped so that order holds
    0x20 text                           UTF-8, 0x00 as 0x00 0xff, closed by 0x00 0x00
    0x30 bytes                          as text

A key of more than 255 bytes is cut after 200 and closed by 0x7f and 16 bytes of its keyed BLAKE3, so that pages stay small;
people see it with an ellipsis.

A row's digest is the first 8 bytes of the keyed BLAKE3 of the row's values in MessagePack: keyed, so that nobody who sees
it can test guesses at the row, and nobody without the key can make two rows collide but by chance (2^-64 a pair). A table
without a key has empty keys and is sorted by digest, equal rows standing side by side.

Where the rows are a view of an image (SQLite), these pairs are all that is kept: enough to tell which rows differ between
any two points, at a few bytes a row; the values are read from the image.
"""

from __future__ import annotations

import heapq
import struct
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import BinaryIO, NamedTuple

import msgspec
import numpy as np
from blake3 import blake3

from resurgam.drivers.base import Rows
from resurgam.errors import IntegrityError
from resurgam.model.codec import from_msgpack, to_msgpack
from resurgam.model.system import Json
from resurgam.vault.pack import Kind
from resurgam.vault.pages import LEAF_BITS, MAX_ENTRIES, Child, Get, Put, Root, TreeBuilder, differing

DIGEST = 8
RUN = 1 << 18  # pairs sorted in memory at a time: about 40 MB
_READ = 1 << 18  # bytes of each sorted run in memory while all are merged: 100 MB for 100 million rows
_SIGN = 1 << 63
_INT = struct.Struct(">BQ")
_PAIR = struct.Struct("<I")
_LONGEST, _CUT = 255, 200
_CUT_MARK = 0x7F
_LONG = _CUT + 1 + 16

Pair = tuple[bytes, bytes]


class Pairs(NamedTuple):
    """Keys and digests of rows as columns: lengths of the keys (u32, little-endian), the keys, the digests, each joined."""

    lengths: bytes
    keys: bytes
    digests: bytes


class Table(msgspec.Struct, frozen=True, array_like=True):
    """A table in a snapshot."""

    name: str
    columns: list[str]
    key: list[str]
    view_of: bytes | None
    root: Root


class Leaf(msgspec.Struct, frozen=True, array_like=True):
    """Pairs in order: lengths of the keys (u32, little-endian), the keys, the digests, each joined."""

    lengths: bytes
    keys: bytes
    digests: bytes


def encode_key(values: Iterable[Json]) -> bytes:
    """The key of a row; see the module's table."""
    return b"".join(map(_encode_value, values))


def key_of(values: Iterable[Json], row_key: bytes) -> bytes:
    """The key of a row as its table holds it: cut where it is long."""
    return _bounded(encode_key(values), row_key)


def decode_key(key: bytes) -> tuple[Json, ...]:
    """The values of a key; of one that was cut, what is left of them and an ellipsis. Raises IntegrityError where it is none."""
    values, end = _decode_values(key)
    if end == len(key):
        return tuple(values)
    if len(key) == _LONG and key[_CUT] == _CUT_MARK:
        values, end = _decode_values(key[:_CUT])
        tail = key[end + 1 : _CUT].replace(b"\x00\xff", b"\x00") if key[end] in (0x20, 0x30) else b""
        return (*values, tail.decode("utf-8", "replace") + "\N{HORIZONTAL ELLIPSIS}")
    raise IntegrityError(
        "A row's key cannot be read.", untouched="Nothing was changed.", next_step="Run `resurgam vault check`."
    )


def store_rows(rows: Rows, row_key: bytes, put: Put) -> Table:
    """Write the pages of one table through ``put``."""
    batches = (list(zip(*pair, strict=True)) for pair in keys_and_digests(rows, rows.batches, row_key))
    return _store_runs(rows, _in_order(batches), put)


def store_pairs(rows: Rows, pairs: Pairs, put: Put) -> Table:
    """As ``store_rows``, of rows whose ``pairs`` are there already, in any order."""
    if not _are_rising_integers(pairs):
        whole = sorted(_split(*pairs))
        return _store_runs(rows, iter([whole] if whole else []), put)
    builder = TreeBuilder(Kind.ROWS, put)
    start, width = 0, _INT.size
    for end in _page_ends(pairs.digests):
        keys = pairs.keys[width * start : width * end]
        leaf = Leaf(pairs.lengths[4 * start : 4 * end], keys, pairs.digests[DIGEST * start : DIGEST * end])
        builder.leaf(keys[:width], put(Kind.ROWS, to_msgpack(leaf)), end - start)
        start = end
    return _table(rows, builder)


def keys_and_digests(
    rows: Rows, batches: Iterable[list[tuple[Json, ...]]], row_key: bytes
) -> Iterator[tuple[list[bytes], list[bytes]]]:
    """Keys and digests of ``batches`` of ``rows``, in their order. This loop runs once per row: keep it flat."""
    pick = [rows.columns.index(name) for name in rows.key]
    pack, encode = _INT.pack, msgspec.msgpack.Encoder().encode
    for batch in batches:
        digests = [blake3(encode(row), key=row_key).digest(DIGEST) for row in batch]
        if not pick:
            keys = [b""] * len(batch)
        elif len(pick) == 1:
            keys = [
                pack(0x10, value + _SIGN) if type(value) is int else _bounded(_encode_value(value), row_key)
                for value in map(itemgetter(pick[0]), batch)
            ]
        else:
            keys = [_bounded(encode_key(values), row_key) for values in map(itemgetter(*pick), batch)]
        yield keys, digests


def differing_pairs(a: Root, b: Root, get: Get) -> tuple[Counter[Pair], Counter[Pair]]:
    """Keys with digests that only one of two trees of rows has, reading only pages that differ."""
    left, right = differing(a, b, Kind.ROWS, get)
    gone, new = Counter(_read(left, get)), Counter(_read(right, get))
    return gone - new, new - gone


def differing_keys(a: Root, b: Root, get: Get) -> tuple[list[bytes], list[bytes], list[bytes]]:
    """Keys that were removed, added and changed between two trees of rows, reading only pages that differ."""
    return keys_of(*differing_pairs(a, b, get))


def keys_of(removed: Counter[Pair], added: Counter[Pair]) -> tuple[list[bytes], list[bytes], list[bytes]]:
    """The keys of ``differing_pairs``: removed, added, changed. A row without a key is never changed."""
    before, after = {key for key, _ in removed}, {key for key, _ in added}
    changed = (before & after) - {b""}
    return (
        sorted(key for key, _ in removed.elements() if key not in changed),
        sorted(key for key, _ in added.elements() if key not in changed),
        sorted(changed),
    )


def _read(children: list[Child], get: Get) -> Iterator[Pair]:
    for child in children:
        leaf = from_msgpack(get(child.page, Kind.ROWS), Leaf, what=f"page {child.page.hex()[:16]}")
        yield from _split(leaf.lengths, leaf.keys, leaf.digests)


def _split(lengths: bytes, keys: bytes, digests: bytes) -> Iterator[Pair]:
    at = 0
    for row, length in enumerate(np.frombuffer(lengths, dtype="<u4").tolist()):
        yield keys[at : at + length], digests[row * DIGEST : (row + 1) * DIGEST]
        at += length


def _store_runs(rows: Rows, runs: Iterator[list[Pair]], put: Put) -> Table:
    """Write sorted runs of pairs, each of which ends where a page ends."""
    builder = TreeBuilder(Kind.ROWS, put)
    for run in runs:
        keys, digests = [pair[0] for pair in run], [pair[1] for pair in run]
        start = 0
        for end in _page_ends(b"".join(digests)):
            leaf = Leaf(
                np.fromiter(map(len, keys[start:end]), dtype="<u4").tobytes(),
                b"".join(keys[start:end]),
                b"".join(digests[start:end]),
            )
            builder.leaf(keys[start], put(Kind.ROWS, to_msgpack(leaf)), end - start)
            start = end
    return _table(rows, builder)


def _table(rows: Rows, builder: TreeBuilder) -> Table:
    return Table(rows.name, list(rows.columns), list(rows.key), rows.view_of, builder.root())


def _are_rising_integers(pairs: Pairs) -> bool:
    """Whether each key is one integer and higher than the one before: then the pairs are sorted as they stand."""
    if not (np.frombuffer(pairs.lengths, "<u4") == _INT.size).all():
        return False
    keys = np.frombuffer(pairs.keys, np.uint8).reshape(-1, _INT.size)
    values = np.ascontiguousarray(keys[:, 1:]).view(">u8").ravel()
    return bool((keys[:, 0] == 0x10).all() and (values[1:] > values[:-1]).all())


def _in_order(batches: Iterable[list[Pair]]) -> Iterator[list[Pair]]:
    """All pairs sorted, in lists. One list when they fit into memory, else sorted runs that are merged from a file."""
    with tempfile.TemporaryFile() as spill:
        spans: list[tuple[int, int]] = []
        run: list[Pair] = []
        for batch in batches:
            run += batch
            if len(run) >= RUN:
                spans.append(_spill(spill, sorted(run)))
                run = []
        run.sort()
        if not spans:
            if run:
                yield run
            return
        spans.append(_spill(spill, run))
        merged = heapq.merge(*(_unspill(spill, span) for span in spans))
        piece: list[Pair] = []
        for pair in merged:
            piece.append(pair)
            if len(piece) >= RUN:
                # Cut where a page ends, so that runs leave no trace in the pages.
                end = max(_page_ends(b"".join(digest for _, digest in piece))[:-1], default=len(piece))
                yield piece[:end]
                piece = piece[end:]
        if piece:
            yield piece


def _page_ends(digests: bytes) -> list[int]:
    """Where pages end: after a digest with LEAF_BITS low zero bits, or when a page is full; always at the end."""
    values = np.frombuffer(digests, dtype="<u8")
    natural = np.flatnonzero((values & np.uint64((1 << LEAF_BITS) - 1)) == 0) + 1
    ends: list[int] = []
    start = 0
    for end in [*natural.tolist(), len(values)]:
        while end - start > MAX_ENTRIES:
            start += MAX_ENTRIES
            ends.append(start)
        if end > start:
            ends.append(end)
            start = end
    return ends


def _spill(file: BinaryIO, run: list[Pair]) -> tuple[int, int]:
    start = file.seek(0, 2)
    file.writelines(_PAIR.pack(len(key)) + digest + key for key, digest in run)
    return start, file.tell()


def _unspill(file: BinaryIO, span: tuple[int, int]) -> Iterator[Pair]:
    at, end = span
    buffer = b""
    while at < end or buffer:
        file.seek(at)
        data = buffer + file.read(min(_READ, end - at))
        at = min(end, at + _READ)
        here = 0
        while here + 4 + DIGEST <= len(data):
            (length,) = _PAIR.unpack_from(data, here)
            stop = here + 4 + DIGEST + length
            if stop > len(data):
                break
            yield data[here + 4 + DIGEST : stop], data[here + 4 : here + 4 + DIGEST]
            here = stop
        buffer = data[here:]


def _encode_value(value: Json) -> bytes:
    if value is None:
        return b"\x05"
    if isinstance(value, int):
        return _INT.pack(0x10, value + _SIGN)
    if isinstance(value, float):
        (number,) = struct.unpack(">Q", struct.pack(">d", value))
        return _INT.pack(0x12, number ^ (0xFFFF_FFFF_FFFF_FFFF if number & _SIGN else _SIGN))
    tag, body = (b"\x20", value.encode("utf-8", "surrogatepass")) if isinstance(value, str) else (b"\x30", value)
    return tag + bytes(body).replace(b"\x00", b"\x00\xff") + b"\x00\x00"


def _bounded(key: bytes, row_key: bytes) -> bytes:
    if len(key) <= _LONGEST:
        return key
    return key[:_CUT] + bytes([_CUT_MARK]) + blake3(key, key=row_key).digest(16)


def _float_of(number: int) -> float:
    number ^= _SIGN if number & _SIGN else 0xFFFF_FFFF_FFFF_FFFF
    value: float = struct.unpack(">d", struct.pack(">Q", number))[0]
    return value


def _decode_values(key: bytes) -> tuple[list[Json], int]:
    """The values that ``key`` begins with, and where they end: its length when all of it was read."""
    values: list[Json] = []
    at = 0
    while at < len(key):
        tag = key[at]
        if tag == 0x05:
            values.append(None)
            at += 1
        elif tag in (0x10, 0x12) and at + 9 <= len(key):
            (number,) = struct.unpack_from(">Q", key, at + 1)
            values.append(number - _SIGN if tag == 0x10 else _float_of(number))
            at += 9
        elif tag in (0x20, 0x30) and (end := _end_of_text(key, at + 1)) > 0:
            body = key[at + 1 : end].replace(b"\x00\xff", b"\x00")
            try:
                values.append(body.decode("utf-8", "surrogatepass") if tag == 0x20 else body)
            except UnicodeDecodeError:
                break
            at = end + 2
        else:
            break
    return values, at


def _end_of_text(key: bytes, at: int) -> int:
    while (at := key.find(b"\x00", at)) >= 0:
        if key[at + 1 : at + 2] == b"\x00":
            return at
        at += 2
    return -1
