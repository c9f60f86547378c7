"""Floats of few values: back exactly, and as small as the values are few."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resurgam.errors import IntegrityError
from resurgam.vault import palettes
from resurgam.vault.codecs import Codec, decode, encode_verified
from resurgam.vault.tensors import Dtype

ODD = [0, 0x8000, 0x7F80, 0xFF80, 0x7FC1, 0x7F81, 0xFFFF, 1, 0x8001, 0x007F, 0x7C01, 0x7E55, 0x03FF]
N = 1 << 18


@settings(deadline=None, max_examples=120)
@given(
    seed=st.integers(0, 1 << 30),
    count=st.integers(0, 9000),
    values=st.integers(2, 300),
    width=st.sampled_from([2, 4]),
    tail=st.integers(0, 3),
)
def test_few_values_come_back(seed: int, count: int, values: int, width: int, tail: int) -> None:
    """P12: NaNs and denormals among them, odd lengths, blocks of too many values beside others."""
    rng = np.random.default_rng(seed)
    table = rng.integers(0, 1 << 8 * width, values, dtype=np.uint64)
    table[: min(len(ODD), values)] = ODD[:values]
    places = rng.integers(0, rng.integers(1, values + 1), count)
    raw = table[places].astype(f"<u{width}").tobytes()
    if seed % 3 == 0 and count > 4096:
        raw = raw[: len(raw) // 2] + rng.bytes(len(raw) - len(raw) // 2)
    raw += bytes(tail)
    encoded = palettes.encode(memoryview(raw), width)
    if encoded is not None:
        back = np.empty(len(raw), np.uint8)
        palettes.decode_into(memoryview(encoded), back)
        assert back.tobytes() == raw


def floats(rows: int, steps: int) -> Any:
    """Normal weights, quantised to ``steps`` to either side with a scale for each of ``rows``, and widened again."""
    weights = np.random.default_rng(rows).normal(0, 0.02, (rows, N // rows)).astype(np.float32)
    scale = np.abs(weights).max(axis=1, keepdims=True) / steps
    return (np.rint(weights / scale) * scale).astype(np.float32).ravel()


def bf16(values: Any) -> bytes:
    """Rounded to bfloat16, to nearest."""
    bits = values.view(np.uint32)
    return bytes(((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16))


@pytest.mark.parametrize("rows", [1, N // 4096])
@pytest.mark.parametrize(
    ("steps", "dtype", "times"),
    [(7, Dtype.BF16, 4), (7, Dtype.F16, 4), (7, Dtype.F32, 8), (127, Dtype.BF16, 2), (127, Dtype.F32, 3.6)],
)
def test_widened_integers_take_little_more_than_their_bits(rows: int, steps: int, dtype: Dtype, times: float) -> None:
    """Whether one scale is all tensor's or each row has its own."""
    values = floats(rows, steps)
    raw = {Dtype.BF16: bf16(values), Dtype.F16: values.astype(np.float16).tobytes(), Dtype.F32: values.tobytes()}[dtype]
    codec, data, exact = encode_verified(memoryview(raw), dtype)
    assert exact
    assert codec is Codec.PALETTE
    assert len(data) * times <= len(raw)
    assert bytes(decode(codec, data, len(raw))) == raw


@pytest.mark.parametrize(("dtype", "times"), [(Dtype.BF16, 3.8), (Dtype.F32, 4.6)])
def test_groups_of_128_take_less_than_a_quarter_or_nearly_so(dtype: Dtype, times: float) -> None:
    """P11: int4 with a scale for each 128 elements. In bfloat16 the places and the counts alone take 1 / 4.2."""
    values = floats(N // 128, 7)
    raw = bf16(values) if dtype is Dtype.BF16 else values.tobytes()
    codec, data, exact = encode_verified(memoryview(raw), dtype)
    assert exact
    assert codec is Codec.PALETTE
    assert len(data) * times <= len(raw)


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 1 << 30),
    length=st.sampled_from([1, 7, 128, 1024, 4096]),
    values=st.integers(1, 400),
    few=st.integers(1, 300),
    width=st.sampled_from([2, 4]),
)
def test_places_are_those_of_a_search(seed: int, length: int, values: int, few: int, width: int) -> None:
    """P12: compared, looked up or searched, a place says which value of its block's table an element is."""
    rng = np.random.default_rng(seed)
    table = rng.integers(0, 1 << 8 * width, values, dtype=np.uint64).astype(f"<u{width}")
    if seed % 2:  # all alike in some of their bits
        table = (table & table.dtype.type(0xFF)) | table.dtype.type(0xFF00)
    if seed % 3 == 0:
        table[0] = (1 << 8 * width) - 1
    rows = table[np.minimum(rng.integers(0, values, (9, length)), rng.integers(0, few, (9, 1)))]
    coded = palettes._coded(rows)
    expected = [np.unique(row, return_inverse=True) for row in rows]
    fits = [len(found) <= palettes.MOST for found, _ in expected]
    assert coded.counts.tolist() == [len(found) * ok for (found, _), ok in zip(expected, fits, strict=True)]
    assert coded.places.tolist() == [n for (_, at), ok in zip(expected, fits, strict=True) if ok for n in at.tolist()]
    assert coded.kept.tobytes() == rows[[not ok for ok in fits]].tobytes()
    tables = [found.tobytes() for (found, _), ok in zip(expected, fits, strict=True) if ok]
    assert coded.tables.tobytes() == b"".join(tables)


def test_values_that_nothing_tells_apart_are_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    """P12: as are those of which any multiple agrees in its upper half."""
    monkeypatch.setattr(palettes, "_FACTORS", (1,))
    rows = np.random.default_rng(3).integers(0x3F800000, 0x3F800020, (1, 5000)).astype("<u4")
    assert palettes._coded(rows).places.tolist() == np.unique(rows.ravel(), return_inverse=True)[1].tolist()


def test_trained_weights_are_not_tried() -> None:
    """P11: what a sample says is no palette costs no more than the sample."""
    weights = np.random.default_rng(2).normal(0, 0.02, N).astype(np.float32)
    assert palettes.encode(memoryview(bf16(weights)), 2) is None
    assert palettes.encode(memoryview(weights.tobytes()), 4) is None


def test_more_blocks_than_a_palette_has_bytes_for_are_never_laid_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """P1: a few bytes that claim a block for each element cost no memory for them."""
    monkeypatch.setattr(palettes, "_blocks", lambda *_: pytest.fail("blocks were laid out"))
    with pytest.raises(IntegrityError, match="cut off"):
        palettes.decode_into(memoryview(bytes([4]) + bytes(11)), np.empty(N, np.uint8))
