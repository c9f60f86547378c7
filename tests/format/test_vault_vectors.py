"""The bytes of packs, segments and pages, fixed for ever, and a whole kept vault that every release must open.

``vectors/vault.json`` holds inputs and exact bytes; what can be read without our code is read here by hand, as
``docs/format.md`` tells it. ``kept/vault`` was written by release 0.1.0 with the keys beside it, which protect nothing else;
``kept-models/vault`` by a later one, of a model, a fine-tune and vectors that changed in places.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from resurgam.drivers.base import Blob, Rows
from resurgam.drivers.registry import driver_for
from resurgam.errors import IntegrityError, NewerFormat
from resurgam.restore.run import restore
from resurgam.stores.local import LocalStore
from resurgam.testing.faults import ManualClock, ReadOnlyStore
from resurgam.vault.check import check
from resurgam.vault.codecs import Codec
from resurgam.vault.compare import compare_points
from resurgam.vault.index import decode_segment, encode_segment
from resurgam.vault.keyring import Keyring
from resurgam.vault.pack import (
    FRAME,
    Frame,
    Kind,
    PackBuilder,
    associated,
    decrypt,
    frame_header,
    frames,
    new_buffer,
    parse_frame,
    trailer_place,
)
from resurgam.vault.pages import Root
from resurgam.vault.repository import Repository
from resurgam.vault.snapshots import Entry, EntryTree, SnapshotRoot, pieces_of, store_runs
from resurgam.vault.tables import store_rows
from tests.support import copy_keys, tree

HERE = Path(__file__).parent
VECTORS: dict[str, Any] = json.loads((HERE / "vectors" / "vault.json").read_text())
VAULT, KEY, NONCE, SESSION = bytes(range(16)), bytes(range(32)), bytes(range(12)), bytes(range(100, 116))
CHUNK = bytes(range(200, 232))


def a_frame() -> Frame:
    """One chunk of ten bytes, stored as it is."""
    return Frame(int(Kind.DATA), 0, 26, 10, CHUNK, SESSION, NONCE)


def a_pack() -> tuple[str, bytes]:
    """A pack of one frame under fixed keys; its trailer is a stand-in, since the real one is sealed with fresh salt."""
    builder = PackBuilder(VAULT, new_buffer(1 << 16))
    header, place = builder.add(a_frame())
    AESGCM(KEY).encrypt_into(NONCE, b"0123456789", associated(VAULT, header), place)
    name, data = builder.finish(b"trailer " * 10)
    return name, bytes(data)


def a_segment() -> bytes:
    """Two packs, three chunks."""
    packs = []
    for number in (1, 2):
        builder = PackBuilder(VAULT, new_buffer(1 << 16))
        for place in range(number):
            builder.add(a_frame()._replace(id=blake3(bytes([number, place])).digest()))
        packs.append((bytes([number] * 32).hex(), builder.entries()))
    return encode_segment(packs)


def pages() -> dict[str, str]:
    """A tree page, a run page, a snapshot's root and a rows page."""
    made: dict[str, str] = {}

    def put(kind: Kind, data: bytes) -> bytes:
        made[kind.name.lower()] = data.hex()
        return blake3(bytes([kind]) + data).digest()

    entries = EntryTree(put, KEY)
    entries.add(Entry(b"a", 0, bytes(16), {"m": 0o644}, [], []))
    entries.add(Entry(b"a/b", 10, bytes(range(16)), {"m": 0o600, "t": 1}, [(CHUNK, 3, 10)], []))
    root = entries.root()
    made["entries"] = made.pop("tree")
    store_runs([(CHUNK, 0, 65536), (CHUNK[::-1], 0, 100)], put)
    table = store_rows(Rows("t", ("id", "v"), ("id",), [[(2, None), (-1, "x"), (3, 1.5)]], b"a"), KEY, put)
    made["root"] = msgspec.msgpack.encode(SnapshotRoot(1, "c", "files", root, [table]), order="sorted").hex()
    return made


def computed() -> dict[str, Any]:
    """What the vectors hold, made by today's code."""
    name, data = a_pack()
    return {
        "frame_header": frame_header(a_frame()).hex(),
        "pack_name": name,
        "pack": data.rstrip(b"\0").hex() if not data.endswith(b"RSGMFOOT") else data.hex(),
        "segment": a_segment().hex(),
        "pages": pages(),
    }


def test_bytes_stay() -> None:
    """Another byte would make what is stored unreadable, or store everything again."""
    assert computed() == VECTORS


def test_a_frame_by_hand() -> None:
    """The table of the format page, without our structs."""
    header = bytes.fromhex(VECTORS["frame_header"])
    assert len(header) == FRAME == 80
    assert header[:4] == b"RSGc"
    assert (header[4], header[5], header[6], header[7]) == (1, 1, 0, 0)
    assert struct.unpack_from("<II", header, 8) == (26, 10)
    assert (header[16:48], header[48:64], header[64:76]) == (CHUNK, SESSION, NONCE)
    assert int.from_bytes(header[76:], "little") == zlib.crc32(header[:76])
    assert parse_frame(header) == a_frame()


def test_a_pack_by_hand() -> None:
    """Header, frame, trailer, footer; the name is the digest; the bytes open with key, nonce and what is authenticated."""
    data = bytes.fromhex(VECTORS["pack"])
    assert blake3(data).hexdigest() == VECTORS["pack_name"]
    assert len(data) % 4096 == 0
    assert data[:8] == b"RSGMPACK"
    assert int.from_bytes(data[8:10], "little") == 1
    assert data[16:32] == VAULT
    start, length, version = struct.unpack_from("<QIH", data, len(data) - 64)
    assert data[-8:] == b"RSGMFOOT"
    assert (data[start : start + length], version) == (b"trailer " * 10, 1)
    assert trailer_place(data[-64:], "p") == (start, length)
    assert [(at, frame) for at, frame in frames(memoryview(data))] == [(64, a_frame())]
    sealed, header = data[144:170], data[64:144]
    assert AESGCM(KEY).decrypt(NONCE, sealed, VAULT + header[:76]) == b"0123456789"
    assert bytes(decrypt(AESGCM(KEY), VAULT, memoryview(data)[64:], a_frame())) == b"0123456789"


def test_a_segment_by_hand() -> None:
    """Counts, pack digests, entries of 52 bytes sorted by id."""
    data = bytes.fromhex(VECTORS["segment"])
    assert struct.unpack_from("<II", data) == (2, 3)
    assert [data[8:40], data[40:72]] == [bytes([1] * 32), bytes([2] * 32)]
    entries = [data[72 + 52 * n :][:52] for n in range(3)]
    assert len(data) == 72 + 3 * 52
    assert [e[:32] for e in entries] == sorted(e[:32] for e in entries)
    names, decoded = decode_segment(data, "x")
    assert names == [bytes([1] * 32).hex(), bytes([2] * 32).hex()]
    assert np.array_equal(np.sort(decoded["pack"]), np.array([0, 1, 1]))
    for wrong in (data[:-1], data + b"\0", data[:5], b"\xff" * 8 + data[8:]):
        with pytest.raises(IntegrityError):
            decode_segment(wrong, "x")


def test_newer_frames_and_packs_are_refused() -> None:
    """P12: a higher format, rightly summed, is NewerFormat; anything else is damage."""
    header = bytearray.fromhex(VECTORS["frame_header"])
    header[4] = 2
    header[76:] = zlib.crc32(header[:76]).to_bytes(4, "little")
    with pytest.raises(NewerFormat):
        parse_frame(bytes(header))
    footer = bytearray.fromhex(VECTORS["pack"])[-64:]
    footer[12:14] = (2).to_bytes(2, "little")
    with pytest.raises(NewerFormat):
        trailer_place(bytes(footer), "p")
    for cut in (b"", bytes(header[:79])):
        with pytest.raises(IntegrityError):
            parse_frame(cut)


def test_pages_by_hand() -> None:
    """MessagePack arrays; rows as lengths, keys, digests in key order."""
    entries = msgspec.msgpack.decode(bytes.fromhex(VECTORS["pages"]["entries"]))
    assert entries[1] == [b"a/b", 10, bytes(range(16)), {"m": 0o600, "t": 1}, [[CHUNK, 3, 10]], []]
    lengths, keys, digests = msgspec.msgpack.decode(bytes.fromhex(VECTORS["pages"]["rows"]))
    assert struct.unpack("<3I", lengths) == (9, 9, 9)
    assert [int.from_bytes(keys[at + 1 : at + 9], "big") - (1 << 63) for at in (0, 9, 18)] == [-1, 2, 3]
    row = blake3(msgspec.msgpack.encode((-1, "x")), key=KEY).digest(8)
    assert digests[:8] == row
    root = msgspec.msgpack.decode(bytes.fromhex(VECTORS["pages"]["root"]), type=SnapshotRoot)
    assert isinstance(root.blobs, Root)
    assert (root.blobs.level, root.blobs.count, root.tables[0].root.count) == (0, 2, 3)


# The kept vault -------------------------------------------------------------------------------------------------------


def opened(name: str, keys: Path) -> Repository:
    """A kept vault; its keys are copied, since a checkout does not keep modes."""
    copied = copy_keys(str(HERE / name / "keys"), str(keys), os.listdir(HERE / name / "keys"))
    return Repository(ReadOnlyStore(LocalStore(str(HERE / name / "vault"))), Keyring(copied))


@pytest.fixture
def kept(tmp_path: Path) -> Repository:
    return opened("kept", tmp_path / "keys")


@pytest.mark.parametrize("name", ["kept", "kept-models"])
def test_a_kept_vault_opens_for_ever(name: str, tmp_path: Path) -> None:
    """P3: both points restore to what is written down beside them, the diff is the same, and the check is clean."""
    repository = opened(name, tmp_path / "keys")
    expected = json.loads((HERE / name / "expected.json").read_text())
    points = repository.points()
    assert [sealed.body.id for sealed in points] == list(expected["points"])
    for sealed in points:
        target = str(tmp_path / sealed.body.id)
        restored = restore(
            repository, sealed.body, repository.particulars(sealed.body), target, driver_for, ManualClock()
        )
        digests = {
            f"{component}/{path.decode()}": blake3(data).hexdigest()
            for component, copy in restored.copies.items()
            for path, data in tree(os.path.join(target, component)).items()
        }
        assert digests == expected["points"][sealed.body.id]
        shutil.rmtree(target)
    one, two = (sealed.body for sealed in points)
    found = [[d.component, d.kind, d.where, d.sign, d.key] for d in compare_points(one, two, repository)]
    assert found == expected["diff"]
    assert check(repository, read=True).damage == ()


def test_the_kept_models_lie_in_palettes_deltas_and_patches(tmp_path: Path) -> None:
    """What the second kept vault is kept for: codec 6, a piece that is a base and a delta, and pieces of old and new parts."""
    repository = opened("kept-models", tmp_path / "keys")
    packs = [entry.name for entry in repository.store.list("packs/")]
    assert Codec.PALETTE in {
        frame.codec for name in packs for _, frame in frames(memoryview(repository.store.get(name)))
    }
    parts: dict[bytes, list[int]] = {}
    for component in ("models", "vectors"):
        snapshot = repository.snapshot(repository.resolve("latest").body, component)
        for entry in snapshot.entries():
            parts[entry.path] = [part[2] for piece in pieces_of(entry, snapshot.get) for part in piece.parts]
    assert not parts[b"base.safetensors"]
    assert parts[b"tune.safetensors"].count(0) == 2
    assert len(parts[b"v.npy"]) > 9
    assert 0 not in parts[b"v.npy"]


def test_the_kept_vault_opens_with_its_recovery_key_alone(kept: Repository, tmp_path: Path) -> None:
    """P3: the vault and one file."""
    keyring = Keyring.from_recovery(str(tmp_path / "keys" / "recovery.agekey"))
    alone = Repository(kept.store, keyring)
    items = list(alone.snapshot(alone.resolve("latest").body, "prompts").items())
    assert [item.path for item in items if isinstance(item, Blob) and item.size] == [
        b"0.txt",
        b"1.txt",
        b"2.txt",
        b"3.txt",
    ]
