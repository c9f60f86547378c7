"""The vault outlives the tool (P3): ``docs/recover.py``, which imports nothing of Resurgam, gives back every file of a point."""

from __future__ import annotations

import ast
import json
import os
import random
import runpy
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from blake3 import blake3

from resurgam.clock import SystemClock
from resurgam.stores.local import LocalStore
from resurgam.vault import deltas, readers
from resurgam.vault.codecs import Codec, encode
from resurgam.vault.prune import Economics
from resurgam.vault.pruning import begin, draft, propose, sweep
from resurgam.vault.tensors import Dtype
from tests.support import World

SCRIPT = Path(__file__).parents[2] / "docs" / "recover.py"
LINES = 205
Files = dict[bytes, bytes]


@pytest.fixture(scope="module")
def content() -> Files:
    """Files that take every way through the format: shared and own chunks, run pages, inner pages, each kind of codec."""
    rng = np.random.default_rng(7)
    floats = rng.normal(0, 0.02, 400_000).astype("<f4")
    tensor = b'{"w":{"dtype":"F32","shape":[400000],"data_offsets":[0,1600000]}}'
    halves = (floats.view("<u4") >> 16).astype("<u2").tobytes()
    brains = b'{"w":{"dtype":"BF16","shape":[400000],"data_offsets":[0,800000]}}'
    row = b"".join(rng.bytes(1536) + b"a row of a table, said in words " * 90 for _ in range(300))
    database = b"SQLite format 3\x00\x10\x00" + row[:-18] + b"the last of it"
    words = " ".join(random.Random(7).choices(("vault", "point", "probe", "cut"), k=200_000)).encode()
    files = {
        b"empty": b"",
        b"f32.safetensors": struct.pack("<Q", len(tensor)) + tensor + floats.tobytes(),
        b"bf16.safetensors": struct.pack("<Q", len(brains)) + brains + halves,
        b"large.bin": rng.bytes(48 << 20),  # more than 64 chunks: its list lies in pages of its own
        b"rows.db": database,
        b"text.txt": words,
        b"name-\xff": b"not UTF-8",
    }
    flags = ",".join(f'"{n}":{{"dtype":"U8","shape":[1],"data_offsets":[{n},{n + 1}]}}' for n in range(80)).encode()
    files[b"flags.safetensors"] = struct.pack("<Q", len(flags) + 2) + b"{" + flags + b"}" + rng.bytes(300_000)[:80]
    return files | {b"many/%04d" % number: b"file %d" % number for number in range(3000)}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, content: Files) -> World:
    """A vault on disk with two points; the second one, compressed harder, shares nearly all with the first."""
    folder = str(tmp_path_factory.mktemp("recover"))
    world = World(folder, store=LocalStore.create(f"{folder}/vault"))
    world.live.files = dict(content)
    world.capture()
    world.live.files |= changed(content)
    vault = msgspec.structs.replace(world.system.vault, compression="small")
    world.system = msgspec.structs.replace(world.system, vault=vault)
    world.capture()
    return world


def changed(content: Files) -> Files:
    """What is different at the second point: a file, and a bit of a database, which is patched."""
    database = bytearray(content[b"rows.db"])
    database[700_000] ^= 1
    return {b"many/0007": b"changed", b"rows.db": bytes(database)}


def run(world: World, *words: str) -> subprocess.CompletedProcess[str]:
    """The script with nothing of Resurgam in reach, in a process of its own."""
    command = [sys.executable, str(SCRIPT), f"{world.folder}/vault", f"{world.keys}/recovery.agekey", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_script_is_short_and_imports_nothing_of_ours() -> None:
    """Else it would prove nothing about the document."""
    source = SCRIPT.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= LINES
    names = {alias.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)}
    assert not [name for name in names if name.startswith("resurgam")]


def chunk_for(codec: Codec, rng: np.random.Generator, length: int) -> bytes:
    """Bytes for which ``codec`` is the smallest form."""
    floats = np.asarray(rng.normal(0, 1, length), "<f4")
    made: dict[Codec, Callable[[], bytes]] = {
        Codec.ZSTD: lambda: b"words " * length,
        Codec.BF16_PLANES: lambda: (floats.view("<u4") >> 16).astype("<u2").tobytes(),
        Codec.F32_PLANES: floats.tobytes,
        # As a database has them: some are noise, the others words.
        Codec.BLOCKS: lambda: b"".join(
            rng.bytes(256) if rng.random() < 0.5 else (b"in words again " * 18)[:256] for _ in range(length // 256 + 1)
        ),
        Codec.PALETTE: lambda: rng.choice(np.arange(40, dtype="<u2") * 777, length).tobytes(),
    }
    return made[codec]()[:length]


HINTS = {
    Codec.ZSTD: Dtype.BYTES,
    Codec.BF16_PLANES: Dtype.BF16,
    Codec.F32_PLANES: Dtype.F32,
    Codec.BLOCKS: Dtype.PAGES,
    Codec.PALETTE: Dtype.BF16,
}


@pytest.mark.parametrize("codec", HINTS)
def test_it_decodes_whatever_length_a_chunk_has(codec: Codec) -> None:
    """P3: also where blocks, elements and bits do not come out even."""
    rng = np.random.default_rng(5)
    decode: Any = runpy.run_path(str(SCRIPT))["decode"]
    used = []
    for length in (20_000, 20_001, 20_255, 20_256, 18_437, 65_536, 65_537):
        raw = chunk_for(codec, rng, length)
        form, data = encode(memoryview(raw), HINTS[codec])
        assert decode(form, bytes(data), length) == raw
        used.append(form)
    assert used.count(codec) > 3


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("share", [0.01, 0.9])
def test_it_undoes_every_kind_of_delta(width: int, share: float) -> None:
    """P3: all elements or the changed ones, of any width, with a tail."""
    rng = np.random.default_rng(6)
    undone: Any = runpy.run_path(str(SCRIPT))["undone"]
    for length in (10_000, 10_001, 10_003):
        base = rng.bytes(length)
        moved = np.frombuffer(base, np.uint8) + (rng.random(length) < share) * rng.integers(0, 9, length)
        raw = moved.astype(np.uint8).tobytes()
        assert undone(deltas.encode(memoryview(raw), memoryview(base), width), base) == raw


def test_a_vault_of_palettes_deltas_and_patches_comes_back(tmp_path: Path) -> None:
    """P3: as every release must."""
    kept = Path(__file__).parent / "kept-models"
    for point, expected in json.loads((kept / "expected.json").read_text())["points"].items():
        argv = [sys.executable, SCRIPT, kept / "vault", kept / "keys" / "recovery.agekey", point, tmp_path / point]
        subprocess.run(argv, check=True)
        found = [blake3(path.read_bytes()).hexdigest() for path in (tmp_path / point).rglob("*") if path.is_file()]
        assert sorted(found) == sorted(expected.values())


def test_it_lists_the_points(world: World) -> None:
    """One line per point, with what it is of."""
    done = run(world)
    assert done.returncode == 0, done.stderr
    listed = [line.split() for line in done.stdout.splitlines()]
    expected = {sealed.body.id for sealed in world.repository().points()}
    assert {line[0] for line in listed} == expected
    assert {tuple(line[2:]) for line in listed} == {("test", "files")}


def test_every_file_comes_back_to_the_byte(world: World, content: Files, tmp_path: Path) -> None:
    """P3: vault and recovery key are enough, for each point as it was."""
    older, newer = world.repository().points()
    for sealed, expected in ((older, content), (newer, content | changed(content))):
        into = tmp_path / sealed.body.id
        done = run(world, sealed.body.id, str(into))
        assert done.returncode == 0, done.stderr
        root = os.fsencode(into / "files")
        found = {
            os.path.relpath(os.path.join(where, name), root): Path(os.fsdecode(os.path.join(where, name))).read_bytes()
            for where, _, names in os.walk(root)
            for name in names
        }
        assert found.keys() == expected.keys()
        assert [path for path, data in expected.items() if found[path] != data] == []


def test_what_a_pruner_wrote_anew_comes_back_too(tmp_path: Path) -> None:
    """P3: its packs name the origin of their chunks before the sealed entries."""
    world = World(str(tmp_path), store=LocalStore.create(f"{tmp_path}/vault"))
    world.live.files = {b"%d" % number: random.Random(number).randbytes(300_000) for number in range(12)}
    older = world.capture()
    world.live.files[b"0"] = random.Random(9).randbytes(300_000)
    newer = world.capture()
    repository = world.repository()
    plan = draft(repository, {older.body.id: "the test says so"}, Economics(max_unused=0.0)).plan
    clock = SystemClock()  # the store's
    sweep(repository, begin(repository, propose(repository, plan, clock), clock), clock)
    assert any(found.moved for found in repository.places.segments())
    done = run(world, newer.body.id, str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    found = {path.name.encode(): path.read_bytes() for path in (tmp_path / "out" / "files").iterdir()}
    assert found == world.live.files


def test_a_wrong_key_and_a_damaged_pack_are_errors_and_not_other_bytes(world: World, tmp_path: Path) -> None:
    """P12: whatever is wrong ends the script; it never writes bytes that are not those of the point."""
    point = world.repository().points()[0].body.id
    foreign = World(str(tmp_path / "foreign"))
    done = subprocess.run(
        [sys.executable, str(SCRIPT), f"{world.folder}/vault", f"{foreign.keys}/recovery.agekey", point, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    pack = max((Path(world.folder) / "vault" / "packs").glob("*/*"), key=lambda path: path.stat().st_size)
    sound = pack.read_bytes()
    pack.chmod(0o600)
    pack.write_bytes(sound[:100_000] + bytes([sound[100_000] ^ 1]) + sound[100_001:])
    try:
        assert run(world, point, str(tmp_path / "out")).returncode != 0
    finally:
        pack.write_bytes(sound)


def test_a_recovery_key_that_was_rotated_opens_what_was_stored_before(tmp_path: Path) -> None:
    """P3: its keys were wrapped anew in objects of their own, which the script finds by the document."""
    world = World(str(tmp_path), store=LocalStore.create(f"{tmp_path}/vault"))
    world.live.files = {b"a": b"an old prompt" * 100}
    point = world.capture().body.id
    readers.rotate(world.repository(), world.clock, "recovery")
    done = run(world, point, f"{tmp_path}/out")
    assert done.returncode == 0, done
    assert (tmp_path / "out" / "files" / "a").read_bytes() == world.live.files[b"a"]
