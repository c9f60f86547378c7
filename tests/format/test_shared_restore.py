"""A large file is restored by copies of the process: to the byte, or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from resurgam.errors import IntegrityError
from resurgam.stores.local import LocalStore
from resurgam.vault import workers
from tests.support import World

# A process of its own: the test runner has threads, and whoever has some is not copied.
RESTORE = """
import os, sys
from resurgam.drivers.base import Blob
from resurgam.errors import ResurgamError
from resurgam.stores.local import LocalStore
from resurgam.vault import source, workers
from resurgam.vault.keyring import Keyring
from resurgam.vault.repository import Repository

forks, fork = [], os.fork
os.fork = lambda: forks.append(1) or fork()
workers.processors = lambda: 2
source.SHARED_FROM = 1 << 20
vault, keys, point, target = sys.argv[1:]
repository = Repository(LocalStore(vault), Keyring(keys))
(blob,) = (item for item in repository.snapshot(repository.sealed(point).body, "files").items() if isinstance(item, Blob))
descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL)
try:
    blob.copy_to(descriptor)
except ResurgamError as error:
    print(type(error).__name__)
print(len(forks))
"""

pytestmark = pytest.mark.skipif(
    not os.path.isdir(workers._TASKS), reason="copies are made where /proc tells of threads"
)


def restored(world: World, point: str, target: Path) -> list[str]:
    """What the process above printed."""
    command = [sys.executable, "-c", RESTORE, f"{world.folder}/vault", world.keys, point, str(target)]
    alone = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # as the command line has it: numpy starts threads else
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, env=alone).stdout.split()


def test_copies_restore_to_the_byte_and_tell_of_damage(tmp_path: Path) -> None:
    """P4, P12: what two children write is the file; a flipped bit in a pack is the error that it is without children."""
    rng = Random(5)
    page = b"SQLite format 3\0" + (4096).to_bytes(2, "big")
    data = (
        page
        + b"".join(rng.randbytes(1500) + b"words of a row " * 170 + bytes(200) for _ in range(9000))
        + bytes(9 << 20)
    )
    world = World(str(tmp_path), store=LocalStore.create(f"{tmp_path}/vault"))
    world.live.files = {b"large": data}
    point = world.capture().body.id
    assert restored(world, point, tmp_path / "out") == ["2"]
    assert (tmp_path / "out").read_bytes() == data
    assert os.stat(tmp_path / "out").st_blocks * 512 < len(data), "zeros become holes"

    largest = max(
        Path(f"{tmp_path}/vault/packs").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0
    )
    bad = bytearray(largest.read_bytes())
    bad[len(bad) // 2] ^= 1
    largest.chmod(0o640)
    largest.write_bytes(bad)
    assert restored(world, point, tmp_path / "damaged") == [IntegrityError.__name__, "2"]
