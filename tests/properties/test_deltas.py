"""Any chunk comes back exactly from its delta and its base; any other bytes are refused, never guessed at, never expanded."""

from __future__ import annotations

import contextlib
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resurgam.errors import IntegrityError, NewerFormat
from resurgam.vault import deltas

# Signed zeros, infinities, NaNs quiet and signalling with payloads, denormals: as bfloat16, binary16 and halves of binary32.
ODD = [0, 0x8000, 0x7F80, 0xFF80, 0x7FC1, 0x7F81, 0xFFFF, 1, 0x8001, 0x007F, 0x7C01, 0x7E55, 0x03FF]
odd = st.lists(st.sampled_from(ODD), max_size=600).map(lambda words: np.array(words, "<u2").tobytes())
raws = st.one_of(st.binary(max_size=1500), odd, st.integers(0, 3000).map(bytes))
edits = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=40)
widths = st.sampled_from([1, 2, 4])


def pair(base: bytes, changes: list[tuple[int, int]]) -> bytes:
    """``base`` with some bytes changed."""
    raw = bytearray(base)
    for at, byte in changes if base else ():
        raw[at % len(raw)] = byte
    return bytes(raw)


def made(document: bytes, base: bytes) -> bytes:
    """What a delta makes of ``base``."""
    out = np.empty(len(base), np.uint8)
    deltas.apply(deltas.read(document, len(base)), memoryview(base), out)
    return out.tobytes()


@settings(deadline=None, max_examples=400)
@given(base=raws, changes=edits, width=widths)
def test_what_was_changed_a_little_comes_back(base: bytes, changes: list[tuple[int, int]], width: int) -> None:
    """P12."""
    raw = pair(base, changes)
    document = deltas.encode(memoryview(raw), memoryview(base), width)
    assert made(document, base) == raw


@settings(deadline=None, max_examples=200)
@given(both=st.integers(0, 1500).flatmap(lambda n: st.tuples(*[st.binary(min_size=n, max_size=n)] * 2)), width=widths)
def test_any_two_of_one_length_have_a_delta(both: tuple[bytes, bytes], width: int) -> None:
    """P12: also where nothing is alike."""
    raw, base = both
    assert made(deltas.encode(memoryview(raw), memoryview(base), width), base) == raw


def attempt(document: bytes, base: bytes) -> None:
    """Apply hostile bytes: an error of ours, or as many bytes as the base, in bounded memory."""
    tracemalloc.start()
    try:
        with contextlib.suppress(IntegrityError, NewerFormat):
            made(document, base)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak <= 24 * len(base) + 8 * len(document) + (1 << 18)


@settings(deadline=None, max_examples=500)
@given(
    base=raws,
    changes=edits,
    width=widths,
    cut=st.integers(-3, 3),
    flips=st.lists(st.tuples(st.integers(0, 200), st.integers(1, 255))),
)
def test_changed_bytes_are_refused_or_applied_in_bounds(
    base: bytes, changes: list[tuple[int, int]], width: int, cut: int, flips: list[tuple[int, int]]
) -> None:
    """P12: flipped, cut or grown. (That content is right is the chunk id's to say.)"""
    document = bytearray(deltas.encode(memoryview(pair(base, changes)), memoryview(base), width))
    for at, mask in flips:
        document[at % len(document)] ^= mask
    attempt(bytes(document[: len(document) + cut]) if cut < 0 else bytes(document) + bytes(cut), base)
    attempt(bytes(document), base + b"more")


def test_a_later_format_is_refused_as_later() -> None:
    """P12: a delta of a format to come is not damage."""
    document = bytearray(deltas.encode(memoryview(b"abcd"), memoryview(b"abcc"), 2))
    document[0] = 2
    with pytest.raises(NewerFormat):
        deltas.read(bytes(document), 4)


def bf16(values: Any) -> Any:
    """Rounded to bfloat16, to nearest."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


@pytest.mark.parametrize(("share", "times"), [(0.01, 120), (0.05, 30), (0.2, 10)])
def test_steps_of_one_unit_at_random_places_cost_what_naming_the_places_costs(share: float, times: int) -> None:
    """P11: smaller than the whole by the published factors, in both widths."""
    rng = np.random.default_rng(3)
    for base in (bf16(rng.normal(0, 0.02, 1 << 19)), rng.normal(0, 0.02, 1 << 18).astype(np.float32).view(np.uint32)):
        raw = base + (rng.random(len(base)) < share).astype(base.dtype)
        document = deltas.encode(raw.data.cast("B"), base.data.cast("B"), base.itemsize)
        assert len(document) * times <= raw.nbytes
        assert made(document, base.tobytes()) == raw.tobytes()


@pytest.mark.parametrize(("noise", "ratio"), [(0.003, 0.101), (0.03, 0.222)])
def test_a_fine_tune_costs_what_its_noise_costs(noise: float, ratio: float) -> None:
    """P11: relative noise on 60 % of the elements."""
    rng = np.random.default_rng(5)
    base = bf16(rng.normal(0, 0.02, 1 << 19))
    floats = (base.astype(np.uint32) << 16).view(np.float32)
    moved = rng.random(len(base)) < 0.6
    raw = bf16(np.where(moved, floats * (1 + rng.normal(0, noise, len(base))), floats))
    document = deltas.encode(raw.data.cast("B"), base.data.cast("B"), 2)
    assert len(document) <= ratio * raw.nbytes
