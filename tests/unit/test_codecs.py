"""Codecs: what they must reach, what they must never do, and the bytes that they may never change."""

from __future__ import annotations

import threading
import zlib

import numpy as np
import pytest
import zstandard

from resurgam.errors import IntegrityError, NewerFormat
from resurgam.vault import blocks, codecs, planes
from resurgam.vault.codecs import Codec, decode, encode, encode_pages, encode_verified
from resurgam.vault.frames import Buffer
from resurgam.vault.tensors import Dtype

MIB = 1 << 20


def normal(count: int, spread: float = 0.02) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.random.default_rng(7).normal(0, spread, count).astype("<f4")


def bf16(values: np.ndarray[tuple[int], np.dtype[np.float32]]) -> bytes:
    return (values.view("<u4") >> 16).astype("<u2").tobytes()


def text(size: int) -> bytes:
    rng = np.random.default_rng(3)
    words = [bytes(rng.integers(97, 123, rng.integers(2, 10), np.uint8)) for _ in range(2000)]
    return b" ".join(words[n] for n in rng.integers(0, 2000, size // 4))[:size]


def alphabet(size: int) -> bytes:
    """Words of two-byte letters between words of one byte: half of the bytes have their highest bit set."""
    rng = np.random.default_rng(9)
    words = ["".join(chr(n) for n in rng.integers(0x430, 0x450, 5)) for _ in range(800)]
    words += [bytes(rng.integers(97, 123, 9, np.uint8)).decode() for _ in range(800)]
    return " ".join(words[n] for n in rng.integers(0, 1600, size // 4)).encode()[:size]


def rows(count: int) -> bytes:
    """Text beside a unit vector, as in a table of documents."""
    words, vectors = text(2500 * count), normal(384 * count, 0.05).reshape(count, 384)
    return b"".join(words[2500 * n : 2500 * (n + 1)] + vectors[n].tobytes() for n in range(count))


def noise(size: int) -> bytes:
    return np.random.default_rng(5).bytes(size)


def round_trip(raw: bytes, dtype: Dtype) -> tuple[Codec, int]:
    """The codec and the encoded length; asserts that all bytes come back."""
    codec, encoded = encode(memoryview(raw), dtype)
    assert len(encoded) <= len(raw)
    assert bytes(decode(codec, encoded, len(raw))) == raw
    return codec, len(encoded)


@pytest.mark.parametrize(
    ("raw", "dtype", "codec", "ratio"),
    [
        pytest.param(bf16(normal(MIB // 2)), Dtype.BF16, Codec.BF16_PLANES, 0.665, id="bf16"),
        pytest.param(normal(MIB // 4).astype("<f2").tobytes(), Dtype.F16, Codec.F16_PLANES, 0.85, id="f16"),
        pytest.param(normal(MIB // 4).tobytes(), Dtype.F32, Codec.F32_PLANES, 0.832, id="f32"),
        pytest.param(text(MIB), Dtype.BYTES, Codec.ZSTD, 0.5, id="text"),
        pytest.param(text(64 << 10), Dtype.BYTES, Codec.ZSTD, 0.5, id="text-64K"),
        pytest.param(noise(MIB), Dtype.BYTES, Codec.RAW, 1, id="noise"),
        pytest.param(noise(64 << 10), Dtype.BYTES, Codec.RAW, 1, id="noise-64K"),
        pytest.param(zlib.compress(text(4 * MIB)), Dtype.BYTES, Codec.RAW, 1, id="deflated"),
        pytest.param(noise(MIB), Dtype.F32, Codec.RAW, 1, id="noise-called-f32"),
        pytest.param(bytes(MIB), Dtype.BF16, Codec.ZSTD, 0.001, id="zeros"),
        pytest.param(rows(16), Dtype.PAGES, Codec.BLOCKS, 0.68, id="rows"),
        pytest.param(rows(16)[:-99], Dtype.PAGES, Codec.BLOCKS, 0.68, id="rows-with-a-tail"),
        pytest.param(text(64 << 10), Dtype.PAGES, Codec.ZSTD, 0.5, id="pages-of-text"),
        pytest.param(alphabet(64 << 10), Dtype.PAGES, Codec.ZSTD, 0.5, id="pages-of-two-alphabets"),
        pytest.param(noise(512) * 128, Dtype.PAGES, Codec.ZSTD, 0.05, id="pages-of-one-vector"),
        pytest.param(noise(64 << 10), Dtype.PAGES, Codec.RAW, 1, id="pages-of-noise"),
        pytest.param(noise(2048) * 512, Dtype.F32, Codec.ZSTD, 0.01, id="repeated-rows"),
        pytest.param(noise(512) * 2048, Dtype.F32, Codec.PALETTE, 0.01, id="repeated-rows-of-few-values"),
        pytest.param(
            (normal(MIB // 4).view("<u4") & 0xFFFF0000).tobytes(),
            Dtype.F32,
            Codec.F32_PLANES,
            0.34,
            id="bf16-kept-as-f32",
        ),
    ],
)
def test_codec_and_ratio(raw: bytes, dtype: Dtype, codec: Codec, ratio: float) -> None:
    """Dense weights reach what entropy allows (0.659, 0.829); never larger than raw."""
    chosen, length = round_trip(raw, dtype)
    assert chosen is codec
    assert length <= ratio * len(raw)


def test_vectors_beside_text_cost_it_nothing() -> None:
    """Text and vectors apart store 4 % less than one frame over both, or better."""
    raw = rows(16)
    assert round_trip(raw, Dtype.PAGES)[1] < 0.96 * len(zstandard.ZstdCompressor(level=1).compress(raw))


def test_special_floats_are_exact() -> None:
    """NaN payloads, signed zeros, infinities and denormals are bits like all others."""
    patterns = np.arange(1 << 16, dtype="<u2").tobytes()
    low = noise(1 << 17)
    wide = b"".join(low[n : n + 2] + patterns[n : n + 2] for n in range(0, 1 << 17, 2))
    for raw, dtype in ((patterns, Dtype.BF16), (patterns, Dtype.F16), (wide, Dtype.F32), (patterns * 8, Dtype.F32)):
        round_trip(raw, dtype)
        for codec in (Codec.BF16_PLANES, Codec.F32_PLANES, Codec.F16_PLANES):
            assert planes_back(raw, codec) == raw


def planes_back(raw: bytes, codec: Codec) -> bytes:
    """Through a planes codec even where ``encode`` would not choose it."""
    width = codecs._WIDTH[codec]
    back = np.empty(len(raw), np.uint8)
    planes.decode_into(memoryview(planes.encode(memoryview(raw), width, 3).data), back, width)
    return back.tobytes()


def test_odd_lengths_and_unaligned_buffers_are_exact() -> None:
    data = bf16(normal(70_000))
    for length in (*range(40), 4095, 4096, 4097, 131_071, 131_073):
        for dtype in Dtype:
            round_trip(data[1 : 1 + length], dtype)
        for codec in (Codec.BF16_PLANES, Codec.F32_PLANES):
            assert planes_back(data[1 : 1 + length], codec) == data[1 : 1 + length]


def test_other_views_are_bytes_too() -> None:
    values = normal(5000)
    codec, encoded = encode(values.data, Dtype.F32)
    assert bytes(decode(codec, encoded, values.nbytes)) == values.tobytes()
    assert encode_verified(values.data, Dtype.F32).exact


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_the_probe_finds_what_compresses_inside_noise(share: float) -> None:
    """64 KiB runs of text in 1 MiB of noise: a chunk is called incompressible only where most runs were missed."""
    rng = np.random.default_rng(11)
    words, missed, tried = text(MIB), 0, 60
    for _ in range(tried):
        runs = [words[n << 16 : (n + 1) << 16] if rng.random() < share else rng.bytes(1 << 16) for n in range(16)]
        codec, _ = encode(memoryview(b"".join(runs)), Dtype.BYTES)
        missed += codec is Codec.RAW and any(run in words for run in runs)
    assert missed / tried <= {0.1: 0.5, 0.25: 0.15, 0.5: 0.05}[share]


FRAMES = {  # Zstandard frames of 300 equal bytes, written out
    0x61: "28b52ffd602c004d00001061610100272ac002",
    0x00: "28b52ffd602c004d00001000000100272ac002",
    0x7F: "28b52ffd602c004d0000107f7f0100272ac002",
}
RESTS = bytes(range(256)) + bytes(44)


def little(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(4, "little") for number in numbers)


def test_format_vectors_of_raw_and_zstd() -> None:
    """A release that cannot read these has broken every vault."""
    assert bytes(decode(0, b"as it is", 8)) == b"as it is"
    assert bytes(decode(1, bytes.fromhex(FRAMES[0x61]), 300)) == b"a" * 300


@pytest.mark.parametrize("codec", [2, 4])
def test_format_vector_of_two_byte_planes(codec: int) -> None:
    """Elements with exponent 0, every sign and upper mantissa, and one byte of tail."""
    encoded = little(19, 300) + bytes.fromhex(FRAMES[0x00]) + RESTS + b"T"
    raw = b"".join(bytes([rest & 0x7F, rest & 0x80]) for rest in RESTS) + b"T"
    assert bytes(decode(codec, encoded, 601)) == raw
    assert planes_back(raw, Codec(codec)) == raw


def test_format_vector_of_four_byte_planes() -> None:
    """Elements with exponent 0x7F (from 1 up to 2 and negative), all other bits different, three bytes of tail."""
    low = bytes(range(200)) * 3
    encoded = little(19, 300, 600) + bytes.fromhex(FRAMES[0x7F]) + RESTS + low + b"TUV"
    tops = (bytes([rest & 0x7F | 0x80, rest & 0x80 | 0x3F]) for rest in RESTS)
    raw = b"".join(low[2 * n : 2 * n + 2] + top for n, top in enumerate(tops)) + b"TUV"
    assert bytes(decode(3, encoded, 1203)) == raw
    assert np.frombuffer(raw, "<f4", 1)[0] == 1.0 + 0x0100 / 2**23


def test_format_vector_of_blocks() -> None:
    """The second of three blocks as it is, the others and a tail of 44 bytes in a frame."""
    block = bytes(range(256))
    frame = frame_of(b"a" * 512 + b"b" * 44)
    raw = b"a" * 256 + block + b"a" * 256 + b"b" * 44
    assert bytes(decode(5, b"\x02" + block + frame, 812)) == raw
    nine = b"\x01\x01" + block * 2 + frame_of(b"c" * 7 * 256)  # the lowest bit of a byte is its first block
    assert bytes(decode(5, nine, 9 * 256)) == block + b"c" * 7 * 256 + block


@pytest.mark.parametrize("codec", [7, 200, -1])
def test_an_unknown_codec_is_a_newer_release(codec: int) -> None:
    with pytest.raises(NewerFormat) as caught:
        decode(codec, b"x", 9)
    assert caught.value.next_step


def frame_of(raw: bytes, *, write_content_size: bool = True) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=write_content_size).compress(raw)


@pytest.mark.parametrize(
    ("codec", "encoded", "length"),
    [
        pytest.param(0, b"12345", 4, id="raw too long"),
        pytest.param(0, b"123", 4, id="raw too short"),
        pytest.param(1, frame_of(bytes(1 << 26)), 4096, id="expands beyond"),
        pytest.param(1, frame_of(bytes(4096)), 4097, id="short"),
        pytest.param(1, frame_of(bytes(4096))[:-1], 4096, id="cut off"),
        pytest.param(1, frame_of(bytes(4096)) + b"x", 4096, id="trailing byte"),
        pytest.param(1, frame_of(bytes(2048)) * 2, 4096, id="two frames"),
        pytest.param(1, frame_of(bytes(4096), write_content_size=False), 4096, id="no content size"),
        pytest.param(1, b"no frame at all", 4096, id="no frame"),
        pytest.param(1, frame_of(b""), 0, id="not shorter than raw"),
        pytest.param(2, b"\x01\x02", 100, id="no plane header"),
        pytest.param(2, bytes(8), 100, id="planes missing"),
        pytest.param(2, b"\xff\xff\xff\xff\xff\xff\xff\xff" + bytes(50), 100, id="lengths beyond"),
        pytest.param(2, (41).to_bytes(4, "little") + bytes(4) + bytes(41), 80, id="plane longer than itself"),
        pytest.param(
            2,
            b"".join(len(part).to_bytes(4, "little") for part in (frame_of(noise(40)), frame_of(bytes(40))))
            + frame_of(noise(40))
            + frame_of(bytes(40)),
            80,
            id="frame longer than its plane",
        ),
        pytest.param(5, b"", 600, id="no map of blocks"),
        pytest.param(5, b"\x04" + frame_of(bytes(600)), 600, id="a block beyond the last"),
        pytest.param(5, b"\x01" + bytes(100), 600, id="block cut off"),
        pytest.param(5, b"\x01" + bytes(256), 600, id="no frame behind the blocks"),
        pytest.param(5, b"\x01" + bytes(256) + frame_of(bytes(345)), 600, id="too many other blocks"),
        pytest.param(5, b"\x81" + bytes(512) + frame_of(bytes(88)), 600, id="a kept block beyond the last"),
        pytest.param(5, b"\x00" + frame_of(bytes(1 << 26)), 4096, id="blocks expand beyond"),
        pytest.param(2, (30).to_bytes(4, "little") + (40).to_bytes(4, "little") + bytes(70), 80, id="plane no frame"),
    ],
)
def test_what_is_no_encoded_form_is_refused(codec: int, encoded: bytes, length: int) -> None:
    """P12: bytes that are not what they claim are an error that tells the next step, never a guess."""
    with pytest.raises(IntegrityError) as caught:
        decode(codec, encoded, length)
    assert caught.value.untouched
    assert "check" in caught.value.next_step


def test_a_frame_that_lies_about_its_size_allocates_nothing() -> None:
    """A bomb: a frame header that claims 1 TiB in front of a few bytes."""
    bomb = bytearray(frame_of(bytes(1 << 26)))
    claimed = b"\xe0" + (1 << 40).to_bytes(8, "little")  # single segment, eight bytes of content size
    header = len(zstandard.FRAME_HEADER)
    bomb[header : zstandard.frame_header_size(bytes(bomb))] = claimed
    assert zstandard.frame_content_size(bytes(bomb)) == 1 << 40
    with pytest.raises(IntegrityError):
        decode(1, bytes(bomb), MIB)


@pytest.mark.parametrize("dtype", list(Dtype))
def test_verified_encodes_as_encode_does(dtype: Dtype) -> None:
    for raw in (bf16(normal(MIB // 2)), text(100_001), noise(300_001), rows(9), b"", b"x"):
        assert encode_verified(memoryview(raw), dtype) == (*encode(memoryview(raw), dtype), True)


@pytest.mark.parametrize("at", [0, -1, 20])
def test_a_miscompression_is_never_handed_out(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bit that flips between encoding and storing: RAW is taken, and the caller is told."""
    for raw, dtype in (
        (text(MIB), Dtype.BYTES),
        (bf16(normal(MIB // 2)), Dtype.BF16),
        (normal(99_999).tobytes(), Dtype.F32),
        (rows(16), Dtype.PAGES),
    ):
        codec, good = encode(memoryview(raw), dtype)
        bad = bytearray(good)
        bad[at] ^= 1

        def miscompress(*_: object, result: tuple[Codec, Buffer] = (codec, bad)) -> tuple[Codec, Buffer]:
            return result

        with monkeypatch.context() as patch:
            patch.setattr(codecs, "encode", miscompress)
            assert encode_verified(memoryview(raw), dtype) == (Codec.RAW, raw, False)


PAGES = 64 << 10


def pieces() -> list[bytes]:
    """Pages of each kind: rows, text, noise, two alphabets, zeros, one vector many times."""
    some = rows(48)
    kinds = [some[:PAGES], text(PAGES), noise(PAGES), alphabet(PAGES), bytes(PAGES), noise(512) * 128, some[-PAGES:]]
    assert {len(kind) for kind in kinds} == {PAGES}
    return kinds


def test_pages_together_are_coded_as_each_alone() -> None:
    """P4: each comes back, in the form that it has by itself; the others leave no trace in it."""
    kinds = pieces()
    together = encode_pages(memoryview(b"".join(kinds)), PAGES)
    codecs_chosen = [Codec(one.codec) for one in together]
    zstd, split = Codec.ZSTD, Codec.BLOCKS
    assert codecs_chosen == [split, zstd, Codec.RAW, zstd, zstd, zstd, split]
    for raw, one in zip(kinds, together, strict=True):
        alone = encode_verified(memoryview(raw), Dtype.PAGES)
        assert (one.codec, bytes(one.data), one.exact) == (alone.codec, bytes(alone.data), True)
        assert bytes(decode(one.codec, one.data, PAGES)) == raw
    assert encode_pages(memoryview(b""), PAGES) == []


@pytest.mark.parametrize("at", [0, 40, 9000, -1])
@pytest.mark.parametrize("number", [0, 1, 6])
def test_a_miscompressed_page_is_found_among_others(number: int, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """P12: that one is stored as it is, and told; the others as ever."""
    kinds, right = pieces(), blocks.encoded

    def flipped(span: memoryview, length: int, level: int) -> list[blocks.Coded]:
        coded = right(span, length, level)
        if len(coded) > 1 or bytes(span) == kinds[number]:
            place = number if len(coded) > 1 else 0
            bad = bytearray(coded[place].data)
            bad[at] ^= 1
            coded[place] = blocks.Coded(coded[place].apart, bytes(bad))
        return coded

    monkeypatch.setattr(blocks, "encoded", flipped)
    together = encode_pages(memoryview(b"".join(kinds)), PAGES)
    assert [one.exact for one in together] == [n != number for n in range(len(kinds))]
    for raw, one in zip(kinds, together, strict=True):
        assert bytes(decode(one.codec, one.data, PAGES)) == raw


def test_threads_do_not_share_their_working_memory() -> None:
    """Different data in each of 8 threads, long and short in turn, all exact."""
    failures: list[str] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(15):
            raw = bf16(rng.normal(0, 1, rng.integers(1, 300_000)).astype("<f4"))
            for dtype in Dtype:
                encoded = encode_verified(memoryview(raw), dtype)
                if not encoded.exact or bytes(decode(encoded.codec, encoded.data, len(raw))) != raw:
                    failures.append(f"{seed} {dtype.name}")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_what_is_decoded_outlives_the_next_chunk() -> None:
    """Working memory is reused. What is encoded lies in it, good until this thread encodes again; what is decoded does not."""
    one, two = bf16(normal(50_000)), bf16(normal(50_000, 3.0))
    first = encode_verified(memoryview(one), Dtype.BF16)
    encoded = bytes(first.data)
    back = decode(first.codec, first.data, len(one))
    second = encode_verified(memoryview(two), Dtype.BF16)
    assert bytes(decode(second.codec, second.data, len(two))) == two
    assert bytes(back) == one
    assert bytes(decode(first.codec, encoded, len(one))) == one


@pytest.mark.parametrize("width", [2, 4])
def test_planes_that_are_no_noise_come_back_however_long_they_are(width: int) -> None:
    """P12: also those that are longer than what a thread keeps memory for."""
    values = normal(5 << 20).reshape(-1, 1024)
    values[::2] = 0
    raw = memoryview(values.tobytes() if width == 4 else bf16(values.ravel()))
    encoded, noise = planes.encode(raw, width, 3)
    assert not noise
    assert planes.comes_back(memoryview(encoded), raw, width)
