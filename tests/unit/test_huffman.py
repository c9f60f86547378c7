"""Frames of Huffman's coding alone: any decoder reads them, and what is no such frame is refused, by both bindings."""

from __future__ import annotations

import numpy as np
import pytest
import zstandard

from resurgam.errors import IntegrityError
from resurgam.vault import codecs, huffman
from resurgam.vault.frames import Plane, mine
from resurgam.vault.huffman import Coder, Direct, Usual
from resurgam.vault.tensors import Dtype

COUNT = 300_000


def exponents(count: int = COUNT) -> Plane:
    values = np.random.default_rng(7).normal(0, 0.02, count).astype("<f4")
    return (values.view("<u4") >> 23).astype(np.uint8)


def coders() -> list[Coder]:
    binding = huffman._binding()
    assert binding is not None, "the tests' environment has cffi"
    return [Direct(binding), Usual()]


def frame_by(coder: Coder, plane: Plane) -> bytes:
    room = np.empty(len(plane) + 1000, np.uint8)
    return room[: coder.compress_into(plane, room)].tobytes()


@pytest.mark.parametrize("count", [0, 1, 5, 70_000, COUNT])
def test_each_reads_the_others_frames_and_so_does_any_decoder(count: int) -> None:
    plane = exponents(count)
    for making in coders():
        frame = frame_by(making, plane)
        assert zstandard.frame_content_size(frame) == count
        assert zstandard.ZstdDecompressor().decompress(frame) == plane.tobytes()
        for opening in coders():
            out = np.full(count, 7, np.uint8)
            opening.decompress_into(memoryview(frame), out)
            assert out.tobytes() == plane.tobytes()


def test_no_search_for_repeats_makes_frames_no_larger() -> None:
    plane = exponents()
    direct, usual = (len(frame_by(coder, plane)) for coder in coders())
    assert direct <= usual < 0.34 * COUNT


@pytest.mark.parametrize("number", [0, 1], ids=["direct", "usual"])
def test_room_that_is_too_small_is_told(number: int) -> None:
    assert coders()[number].compress_into(exponents(), np.empty(COUNT // 5, np.uint8)) == 0


WHOLE = zstandard.ZstdCompressor().compress(bytes(4096))
REFUSED = {
    "trailing byte": WHOLE + b"x",
    "cut off": WHOLE[:-1],
    "two frames": zstandard.ZstdCompressor().compress(bytes(2048)) * 2,
    "an empty frame behind": WHOLE + zstandard.ZstdCompressor().compress(b""),
    "a frame to skip behind": WHOLE + bytes.fromhex("502a4d18 00000000"),
    "no content size": zstandard.ZstdCompressor(write_content_size=False).compress(bytes(4096)),
    "another content size": zstandard.ZstdCompressor().compress(bytes(4097)),
    "no frame": b"no frame at all",
    "nothing": b"",
    "a dictionary that is not there": zstandard.ZstdCompressor(
        dict_data=zstandard.ZstdCompressionDict(b"\x37\xa4\x30\xec" + bytes(200), zstandard.DICT_TYPE_RAWCONTENT)
    ).compress(np.random.default_rng(1).bytes(4096))[:-7],
}


@pytest.mark.parametrize("checksum", [False, True])
def test_frames_of_other_makers_are_read(*, checksum: bool) -> None:
    """With a checksum behind, with blocks that are not compressed, and with bytes that repeat."""
    plain = np.random.default_rng(2).bytes(200_000) + bytes(300_000) + exponents(100_000).tobytes()
    frame = zstandard.ZstdCompressor(level=3, write_checksum=checksum).compress(plain)
    for coder in coders():
        out = np.empty(len(plain), np.uint8)
        coder.decompress_into(memoryview(frame), out)
        assert out.tobytes() == plain


@pytest.mark.parametrize("frame", REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("number", [0, 1], ids=["direct", "usual"])
def test_what_is_no_such_frame_is_refused(number: int, frame: bytes) -> None:
    """P12: bytes that are not what they claim are an error that tells the next step, by either binding."""
    with pytest.raises(IntegrityError) as caught:
        coders()[number].decompress_into(memoryview(frame), np.empty(4096, np.uint8))
    assert "check" in caught.value.next_step


def test_a_machine_without_cffi_stores_and_reads_the_same_codecs(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = memoryview(np.random.default_rng(3).normal(0, 0.02, COUNT).astype("<f4").tobytes())
    with_it = codecs.encode_verified(raw, Dtype.F32)
    kept = bytes(with_it.data)
    monkeypatch.setattr(huffman, "_binding", lambda: None)
    monkeypatch.setattr(mine, "coder", None)
    without = codecs.encode_verified(raw, Dtype.F32)
    assert isinstance(huffman.coder(), Usual)
    assert without.codec is with_it.codec is codecs.Codec.F32_PLANES
    for encoded in (kept, bytes(without.data)):
        assert bytes(codecs.decode(codecs.Codec.F32_PLANES, encoded, len(raw))) == bytes(raw)


def test_weights_between_zeros_keep_their_repeats() -> None:
    """Rows pruned to zero take next to nothing: planes that are no noise are coded with matching, that of exponents too."""
    values = np.random.default_rng(5).normal(0, 0.02, (256, 1024)).astype("<f4")
    values[np.random.default_rng(6).random(256) < 0.75] = 0
    share = np.count_nonzero(values) / values.size
    encoded = codecs.encode_verified(memoryview(values.tobytes()), Dtype.F32)
    assert encoded.exact
    assert len(encoded.data) < 0.86 * share * values.nbytes
