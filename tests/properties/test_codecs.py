"""Any bytes come back exactly through any codec; any other bytes are refused, never guessed at, never expanded."""

from __future__ import annotations

import contextlib
import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st

from resurgam.errors import IntegrityError, NewerFormat
from resurgam.vault.codecs import LEVELS, Codec, decode, encode, encode_verified
from resurgam.vault.tensors import Dtype

runs = st.lists(
    st.tuples(st.binary(min_size=1, max_size=24), st.integers(1, 400)).map(lambda run: run[0] * run[1]), max_size=8
)
mixed = st.lists(st.tuples(st.randoms(use_true_random=False), st.binary(max_size=300)), max_size=8)
raws = st.one_of(
    st.binary(max_size=2000),
    runs.map(b"".join),
    mixed.map(lambda parts: b"".join(random.randbytes(600) + text * 3 for random, text in parts)),
)


@settings(deadline=None, max_examples=400)
@given(raw=raws, dtype=st.sampled_from(Dtype), word=st.sampled_from(sorted(LEVELS)))
def test_round_trip(raw: bytes, dtype: Dtype, word: str) -> None:
    codec, encoded = encode(memoryview(raw), dtype, LEVELS[word])
    assert len(encoded) <= len(raw)
    assert (codec is Codec.RAW) == (len(encoded) == len(raw))
    assert bytes(decode(codec, encoded, len(raw))) == raw
    assert encode_verified(memoryview(raw), dtype, LEVELS[word]).exact


def attempt(codec: int, encoded: bytes, raw_length: int) -> None:
    """Decode hostile bytes: the promised length or an error of ours, in bounded memory."""
    tracemalloc.start()
    try:
        with contextlib.suppress(IntegrityError, NewerFormat):
            assert len(decode(codec, encoded, raw_length)) == raw_length
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak <= 8 * raw_length + 4 * len(encoded) + (1 << 18)


@settings(deadline=None, max_examples=400)
@given(codec=st.integers(0, 8), encoded=st.binary(max_size=300), raw_length=st.integers(0, 5000))
def test_random_bytes_are_refused_or_decoded_in_bounds(codec: int, encoded: bytes, raw_length: int) -> None:
    """P12."""
    attempt(codec, encoded, raw_length)


@settings(deadline=None, max_examples=600)
@given(
    raw=runs.map(b"".join),
    dtype=st.sampled_from(Dtype),
    flips=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 255)), max_size=4),
    cut=st.integers(-3, 3),
    grow=st.integers(-2, 2),
    other=st.sampled_from([None, *Codec]),
)
def test_changed_bytes_are_refused_or_decoded_in_bounds(
    raw: bytes, dtype: Dtype, flips: list[tuple[int, int]], cut: int, grow: int, other: int | None
) -> None:
    """P12: flipped, cut, grown, or read as another codec or length. (That content is right is the chunk id's to say.)"""
    codec, data = encode(memoryview(raw), dtype)
    encoded = bytearray(data)
    for at, mask in flips:
        if encoded:
            encoded[at % len(encoded)] ^= mask
    changed = bytes(encoded[: len(encoded) + cut]) if cut < 0 else bytes(encoded) + bytes(cut)
    attempt(codec if other is None else other, changed, max(0, len(raw) + grow))
