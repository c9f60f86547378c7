"""Some of the cases of ``tests.fuzzing``; ``python -m tests.soak --only codecs --cases 1000000`` runs a million."""

from __future__ import annotations

import numpy as np
import pytest

from resurgam.vault import planes
from resurgam.vault.codecs import Codec
from resurgam.vault.frames import Plane
from tests import fuzzing

CASES = 800


def test_chunks_pages_lies_and_headers() -> None:
    """P12: nothing is changed, nothing grows, nothing but errors of ours is raised. The kinds that there are were all met."""
    met = fuzzing.fuzz(7, CASES)
    assert {"a_chunk", "pages", "a_delta", "a_lie", "a_header"} <= met.keys()
    assert {codec.name for codec in Codec} <= met.keys()
    for name in ("npy", "safetensors", "SQLite", "Parquet"):
        assert met[f"{name}: cut by structure"]
        assert met[f"{name}: cut by content"]


def test_a_codec_that_loses_a_bit_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """P12: NaNs that a processor makes quiet on the way are the classic; the fuzz can fail."""
    join = planes._join

    def quieting(parts: list[Plane], out: Plane, width: int) -> None:
        join(parts, out, width)
        if width == 4:
            bits = out.view("<u4")
            bits[(bits & 0x7FFF_FFFF) > 0x7F80_0000] |= np.uint32(0x0040_0000)

    monkeypatch.setattr(planes, "_join", quieting)
    with pytest.raises(fuzzing.Found, match="F32_PLANES changed a chunk"):
        fuzzing.fuzz(7, CASES)


def test_a_case_is_made_again_by_its_number() -> None:
    assert [fuzzing.case(3, number) for number in range(40)] == [fuzzing.case(3, number) for number in range(40)]
