"""A store on a folder, a real file system that is soon full, and a real S3 server."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from resurgam.stores.local import LocalStore
from tests.stores.seaweed import Seaweed


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "vault"


@pytest.fixture
def store(root: Path) -> Iterator[LocalStore]:
    with LocalStore.create(str(root)) as opened:
        yield opened


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 4 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=40", "tmpfs", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("may not mount a small file system here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """A real S3 server with two buckets: ``plain``, and ``locked``, which keeps versions and locks objects."""
    server = Seaweed(str(tmp_path_factory.mktemp("seaweed")))
    try:
        server.start()
        server.client().create_bucket(Bucket="plain")
        server.client().create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
        yield server
    finally:
        server.kill()
