"""Many cases for the codecs and for the headers that files begin with, each of a seed and a number, so that any can be run again.

A case is one of five, drawn from its own number::

    a chunk    encoded for any dtype, and back: the same bytes, never more of them; every codec is met by itself
    pages      a span of database pages, as many at once, each back by itself
    a delta    of a chunk against another of its length, and back; and one that was damaged
    a lie      stored bytes flipped, cut, grown, spliced, or read as another codec or length: as many bytes as promised, or an error
    a header   of safetensors, npy, SQLite and whatever else is cut by its structure, damaged: pieces that tile the file, or None

Codecs and dtypes are taken from their enumerations: a new one is among them from its first day, and :func:`fuzz` says which was
never met.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import random
import sqlite3
import tracemalloc
from collections import Counter
from collections.abc import Callable
from functools import cache

import numpy as np
import zstandard
from numpy.typing import NDArray

from resurgam.errors import IntegrityError, NewerFormat
from resurgam.vault import blocks, deltas
from resurgam.vault.chunking import HEAD, structure_of
from resurgam.vault.codecs import LEVELS, Codec, decode, encode, encode_pages, encode_verified
from resurgam.vault.tensors import Dtype

MEASURED = 64  # every so manyth lie is told while memory is counted, which takes many times as long
_WIDTHS = (2, 4)
_ODD_LENGTHS = (0, 1, 2, 3, 4, 5, 7, 8, 15, 17, 255, 256, 257, 511, 4095, 4096, 4097, 16_383, 65_535)
# What floats hold where they are no numbers, or hardly any: signed zeros, infinities, NaNs quiet and signalling with payloads,
# the smallest and largest denormals, the largest finite number; of bfloat16, binary16 and binary32.
_SPECIAL = {
    2: (0, 0x8000, 0x7F80, 0xFF80, 0x7FC1, 0x7F81, 0xFFFF, 1, 0x8001, 0x007F, 0x7F7F, 0x7C00, 0x7C01, 0x7E55, 0x03FF),
    4: (0, 1 << 31, 0x7F80_0000, 0xFF80_0000, 0x7FC1_2345, 0x7F80_0001, 0xFFFF_FFFF, 1, 0x007F_FFFF, 0x7F7F_FFFF),
}
_WORDS = [bytes(random.Random(n).choices(b"abcdefghijklmnopqrstuvwxyz", k=2 + n % 9)) for n in range(400)]
_TEXT = b" ".join(random.Random(1).choices(_WORDS, k=20_000))


class Found(AssertionError):
    """A case that went wrong, by the seed and the number that make it again."""


def fuzz(seed: int, cases: int, tell: Callable[[int], None] = lambda _: None) -> Counter[str]:
    """Run so many cases; what was met, by kind. Raises Found.

    From 10,000 cases on every codec must have been met. ``tell`` hears of the number of each case that begins."""
    met = Counter[str]()
    for number in range(cases):
        tell(number)
        try:
            met.update(case(seed, number))
        except Exception as error:
            raise Found(f"tests.fuzzing.case({seed}, {number}): {type(error).__name__}: {error}") from error
    missed = [codec.name for codec in Codec if not met[codec.name]]
    if cases >= 10_000 and missed:
        raise Found(f"no case of {cases} met {', '.join(missed)}: tests.fuzzing makes no such chunks")
    return met


def case(seed: int, number: int) -> list[str]:
    """One case; what it met. Raises AssertionError, or whatever else should not have been raised."""
    rng = random.Random(seed << 40 | number)
    kind = rng.choices((a_chunk, pages, a_delta, a_lie, a_header), (8, 1, 3, 6, 2))[0]
    return [kind.__name__, *kind(rng)]


# --- what is tried ---------------------------------------------------------------------------------------------------


def a_chunk(rng: random.Random) -> list[str]:
    """P12: what is stored comes back exactly, and is never more than it was."""
    raw, dtype = a_raw(rng), rng.choice(list(Dtype))
    levels = LEVELS[rng.choice(sorted(LEVELS))]
    codec, encoded = encode(memoryview(raw), dtype, levels)
    assert len(encoded) <= len(raw), "a chunk grew"
    assert (codec is Codec.RAW) == (len(encoded) == len(raw))
    assert bytes(decode(codec, encoded, len(raw), lasting=rng.random() < 0.5)) == raw, f"{codec.name} changed a chunk"
    if rng.random() < 0.25:
        verified = encode_verified(memoryview(raw), dtype, levels)
        assert verified.exact
        assert bytes(decode(verified.codec, verified.data, len(raw))) == raw
    return [codec.name]


def pages(rng: random.Random) -> list[str]:
    """P12: as ``a_chunk``, of many at once, the last of them shorter at times."""
    length = blocks.BLOCK * rng.choice((1, 2, 16, 64))
    count = rng.randint(1, 6)
    made = bytearray()
    while len(made) < length * count:
        made += a_raw(rng) or bytes(length)
    span = bytes(made[: length * count])
    coded = encode_pages(memoryview(span), length, LEVELS[rng.choice(sorted(LEVELS))])
    assert len(coded) == len(span) // length
    for number, one in enumerate(coded):
        piece = span[number * length : (number + 1) * length]
        assert one.exact
        assert len(one.data) <= length
        assert bytes(decode(one.codec, one.data, length)) == piece, f"{one.codec.name} changed a page"
    return [one.codec.name for one in coded]


def a_delta(rng: random.Random) -> list[str]:
    """P12: a delta gives back what it was made of; damaged, it is refused, or gives as many bytes as it says."""
    raw, width = a_raw(rng), rng.choice((1, 2, 4))
    base = (damage(rng, raw, near=len(raw) or None) if rng.random() < 0.7 else a_raw(rng))[: len(raw)]
    base += bytes(len(raw) - len(base))
    document = deltas.encode(memoryview(raw), memoryview(base), width)
    assert _applied(document, base) == raw, "a delta changed a chunk"
    try:
        assert len(_applied(damage(rng, document), base)) == len(base)
        return ["decoded all the same"]
    except (IntegrityError, NewerFormat):
        return ["refused"]


def _applied(document: bytes, base: bytes) -> bytes:
    out = np.empty(len(base), np.uint8)
    deltas.apply(deltas.read(document, len(base)), memoryview(base), out)
    return out.tobytes()


def a_lie(rng: random.Random) -> list[str]:
    """P12: stored bytes that are not what they were are refused, or give as many bytes as was promised, in bounded memory.
    (That these are the right ones is the chunk id's to say.)"""
    raw = a_raw(rng)
    codec, encoded = encode(memoryview(raw), rng.choice(list(Dtype)))
    damaged = damage(rng, bytes(encoded))
    told = int(codec) if rng.random() < 0.6 else rng.randint(0, max(Codec) + 2)
    length = max(0, len(raw) + rng.choice((0, 0, 0, 0, 1, -1, 2, -2, 256, -256, len(raw), 65_536)))
    measured = rng.randrange(MEASURED) == 0
    if measured:
        tracemalloc.start()
    try:
        got = decode(told, damaged, length, lasting=not measured)
        assert len(got) == length, f"codec {told} gave {len(got)} bytes for {length}"
        answer = "decoded all the same"
    except IntegrityError:
        answer = "refused"
    except NewerFormat:
        assert told > max(Codec), "a codec that is known was called newer"
        answer = "refused"
    finally:
        if measured:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak <= 8 * length + 4 * len(damaged) + (1 << 18), f"codec {told} took {peak} bytes for {length}"
    return [answer]


def a_header(rng: random.Random) -> list[str]:
    """P12: a header costs compression where it lies, and never a byte: pieces in order, none empty, that tile the file, or None."""
    name = rng.choice(sorted(files()))
    whole = files()[name]
    turn = -1 if name == "Parquet" and rng.random() < 0.7 else 1  # its footer is at its end
    content = damage(rng, whole[::turn], near=rng.choice((64, 400, len(whole))))[::turn]
    size = max(
        1, len(content) + rng.choice((0, 0, 0, 0, 1, -1, 4096, -4096, 1 << 40))
    )  # it may grow, or be cut, meanwhile
    head = memoryview(content)[: rng.choice((HEAD, HEAD, 9, 64, 4096))][:size]

    def read(offset: int, buffer: memoryview) -> int:
        piece = content[offset : offset + min(len(buffer), rng.choice((1 << 20, 100)))]
        buffer[: len(piece)] = piece
        return len(piece)

    found = structure_of(head, size, read)
    if found is None:
        return [f"{name}: cut by content"]
    end = 0
    for piece in found:
        assert piece.offset == end, f"{name}: a piece from {piece.offset} after one to {end}"
        assert piece.length > 0, f"{name}: an empty piece"
        end += piece.length
        if end > 1 << 30:  # of a size that nobody has: the rest is alike
            return [f"{name}: cut by structure"]
    assert end == size, f"{name}: the pieces end at {end} of {size}"
    return [f"{name}: cut by structure"]


def damage(rng: random.Random, data: bytes, near: int | None = None) -> bytes:
    """``data`` with a few wounds, most of them among its first ``near`` bytes."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        if not changed:
            return rng.randbytes(rng.randint(0, 40))
        at = rng.randrange(min(near or 40, len(changed)) if rng.random() < 0.7 else len(changed))
        wound = rng.randrange(6)
        if wound == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif wound == 1:
            changed[at] = rng.choice((0, 0xFF, 0x7F, 0x80, rng.randrange(256)))
        elif wound == 2:
            number = rng.choice((0, 1, len(data), len(data) + 1, 0x7FFF_FFFF, 0xFFFF_FFFF, rng.getrandbits(32)))
            changed[at : at + 4] = number.to_bytes(4, "little")
        elif wound == 3:
            del changed[at:]
        elif wound == 4:
            changed[at:at] = changed[: rng.randint(1, 40)]
        else:
            changed += rng.randbytes(rng.randint(1, 8))
    return bytes(changed)


# --- what it is tried with -------------------------------------------------------------------------------------------


def a_raw(rng: random.Random, longest: int = 5) -> bytes:
    """A chunk's bytes: of one kind or of several, mostly short, of odd lengths as often as not; at times none at all."""
    if rng.random() < 0.03:
        return rng.choice(_KINDS)(rng, rng.choice(_ODD_LENGTHS))
    long = rng.random() < 0.01
    parts = rng.randint(1, max(1, longest)) if rng.random() < 0.3 else 1
    raw = b"".join(rng.choice(_KINDS)(rng, rng.randint(0, 60_000 if long else 1_200)) for _ in range(parts))
    return raw if rng.random() < 0.5 else raw[: len(raw) & ~7]


def _noise(rng: random.Random, size: int) -> bytes:
    return rng.randbytes(size)


def _runs(rng: random.Random, size: int) -> bytes:
    unit = rng.randbytes(rng.choice((1, 2, 3, 4, 8, 64)))
    return (unit * (size // len(unit) + 1))[:size]


def _same(rng: random.Random, size: int) -> bytes:
    return bytes([rng.choice((0, 0xFF, 0x7F, 0x80, 1))]) * size


def _text(rng: random.Random, size: int) -> bytes:
    if size > 2_000:
        return b" ".join(rng.choices(_WORDS, k=size // 4 + 1))[:size]
    at = rng.randrange(len(_TEXT) - 2_000)
    return _TEXT[at : at + size]


def _normal(rng: random.Random, size: int) -> NDArray[np.float32]:
    """Numbers as of trained weights."""
    words = np.frombuffer(rng.randbytes(size * 8), "<u2").reshape(-1, 4)
    spread = np.float32(2.0 ** rng.randint(-140, 100))  # some are denormal, some run over
    with np.errstate(over="ignore", under="ignore"):
        found: NDArray[np.float32] = (words.sum(axis=1, dtype=np.float32) - np.float32(131_070)) * spread
    return found


def _weights(rng: random.Random, size: int) -> bytes:
    values = _normal(rng, size // 2 + 1)
    kind = rng.randrange(3)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if kind == 0:
            return (values.view("<u4") >> 16).astype("<u2").tobytes()[:size]
        return values.astype("<f2" if kind == 1 else "<f4").tobytes()[:size]


def _special(rng: random.Random, size: int) -> bytes:
    """Numbers among which stand NaNs with payloads, denormals, infinities and signed zeros; or nothing but these."""
    width = rng.choice(_WIDTHS)
    elements = np.frombuffer(
        _weights(rng, size - size % width) if rng.random() < 0.5 else bytes(size), f"<u{width}", size // width
    )
    values = elements.copy()
    odd = np.array(_SPECIAL[width], f"<u{width}")
    places = np.frombuffer(rng.randbytes(len(values)), np.uint8)
    chosen = places < rng.choice((2, 40, 255))
    values[chosen] = odd[places[chosen] % len(odd)]
    return values.tobytes() + rng.randbytes(size % width)


def _few_values(rng: random.Random, size: int) -> bytes:
    """Wide floats that hold few values: of a model that was quantised once, with a scale for each row."""
    width, levels = rng.choice(_WIDTHS), rng.choice((1, 2, 3, 15, 16, 17, 255, 256))
    count = size // width
    drawn = np.frombuffer(rng.randbytes(count), np.uint8).astype(np.float32) % levels - levels // 2
    rows = (
        np.repeat(_normal(rng, 1 + count // 64), 64)[:count]
        if rng.random() < 0.3
        else np.float32(2.0 ** -rng.randint(0, 20))
    )
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        values: NDArray[np.float32] = (drawn * rows).astype("<f4")
    if width == 2:
        return (values.view("<u4") >> 16).astype("<u2").tobytes() + rng.randbytes(size % width)
    return values.tobytes() + rng.randbytes(size % width)


def _rows(rng: random.Random, size: int) -> bytes:
    """Text beside vectors, as in pages of a database."""
    made = bytearray()
    while len(made) < size:
        made += _text(rng, rng.randint(1, 900))
        made += rng.randbytes(rng.choice((0, 256, 512, 1536)))
    return bytes(made[:size])


def _frame(rng: random.Random, size: int) -> bytes:
    """What is itself a Zstandard frame, or begins like one."""
    frame = zstandard.ZstdCompressor(level=1, write_content_size=rng.random() < 0.5).compress(_text(rng, 2 * size))
    return (frame if rng.random() < 0.5 else frame[: rng.randint(1, 18)] + rng.randbytes(size))[:size]


_KINDS: tuple[Callable[[random.Random, int], bytes], ...] = (
    _noise, _runs, _same, _text, _weights, _weights, _special, _special, _few_values, _few_values, _rows, _frame,
)  # fmt: skip


@cache
def files() -> dict[str, bytes]:
    """A small file of each kind that is cut by its structure, as its own library writes it, or as its format says."""
    rng = random.Random(5)
    array = io.BytesIO()
    np.save(array, np.frombuffer(_weights(rng, 8192), "<f4"))
    database = sqlite3.connect(":memory:")
    database.execute("create table documents (id integer primary key, body text)")
    database.executemany("insert into documents (body) values (?)", [(_text(rng, 300).decode(),) for _ in range(40)])
    database.commit()
    return {
        "npy": array.getvalue(),
        "safetensors": _safetensors(rng),
        "SQLite": database.serialize(),
        "JSON lines": b"\n".join(b'{"text": "%s"}' % _text(rng, 80) for _ in range(100)),
        **_parquet(rng),
    }


def _safetensors(rng: random.Random) -> bytes:
    """Tensors of several dtypes, one of them empty."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = b""
    for number, (dtype, size) in enumerate((("BF16", 4096), ("F32", 8192), ("F16", 0), ("I64", 800), ("F16", 2048))):
        width = {"F32": 4, "I64": 8}.get(dtype, 2)
        entries[f"layer.{number}"] = {
            "dtype": dtype,
            "shape": [size // width],
            "data_offsets": [len(data), len(data) + size],
        }
        data += _weights(rng, size)
    header = json.dumps(entries).encode()
    return len(header).to_bytes(8, "little") + header + data


def _parquet(rng: random.Random) -> dict[str, bytes]:
    """A file of several row groups; nothing where no library that writes one is installed."""
    if importlib.util.find_spec("pyarrow") is None:
        return {}
    pa, pq = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    out = io.BytesIO()
    table = pa.table({"id": list(range(3000)), "text": [_text(rng, 60).decode() for _ in range(3000)]})
    pq.write_table(table, out, row_group_size=1000, data_page_size=4096)
    return {"Parquet": out.getvalue()}
