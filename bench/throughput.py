"""One large file to an S3 server and back, beside what the server itself gives: ``python -m bench.throughput --gb 20``.

A file of seeded bytes (nothing in them compresses; ``--kind bf16``: weights) is captured into a vault in SeaweedFS on this machine
and restored, each in a process of its own. In the same run the same packs are fetched by obstore alone, by as many threads, before
and after the restore, and thrown away, whole (``get``) and in ranges as long as those of a restore (``get, ranges``); or written to
files and flushed (``get, write``): the first are what the server can give, the last what any restore to this disk could do with it.
The goal is 80 % of the best of the first. A restore also decrypts, decodes and checks every byte, on the same processors on which
the server runs. So processor seconds per GB of both are printed, without the start of the process; and with ``--pin`` the server
has one processor for itself and the client another, as if they were two machines.

It takes twice the file's size on disk: the source is removed once it is captured, and everything in the end.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import obstore
from blake3 import blake3

from resurgam.capture.run import capture
from resurgam.clock import SystemClock
from resurgam.drivers.registry import driver_for
from resurgam.model.system import Component, System, VaultPlace
from resurgam.restore.run import restore
from resurgam.stores.base import Entry
from resurgam.stores.objects import ObjectStore
from resurgam.stores.registry import open_store
from resurgam.vault.ahead import RANGE
from resurgam.vault.host import HostState
from resurgam.vault.keyring import Keyring
from resurgam.vault.repository import Repository
from resurgam.vault.workers import processor_seconds
from tests.stores.seaweed import Seaweed, environment

BUCKET = "bench"
GETS = 16  # raw requests under way
GOAL = 0.8
_BLOCK = 64 << 20
Row = dict[str, float]


def main(arguments: list[str] | None = None) -> int:
    """Run the bench, or with ``--phase`` one phase of it."""
    given = _options(arguments)
    if given.phase:
        print(json.dumps(_used(given)))
        return 0
    os.environ |= environment()
    if given.pin:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # the server's; the phases take another one
    with tempfile.TemporaryDirectory(prefix="bench-throughput-", dir=given.work) as work:
        server = Seaweed(f"{work}/server", volumes=int(given.gb * 40) + 60)
        try:
            server.start()
            server.client().create_bucket(Bucket=BUCKET)
            return _run(given, work, server.url(BUCKET, "vault"), server.number)
        finally:
            server.kill()


def _run(given: argparse.Namespace, work: str, url: str, server: int) -> int:
    def phase(name: str) -> Row:
        return _phase(name, work, url, server, given.pin)

    digest, size = _make(f"{work}/data.bin", int(given.gb * 1e9), given.kind, given.seed)
    rows = {"capture": phase("capture")}
    os.unlink(f"{work}/data.bin")
    for name in ("get", "get, ranges", "get, write"):
        rows[name] = phase(name)
    for number in range(given.repeat):
        shutil.rmtree(f"{work}/out", ignore_errors=True)
        rows["restore" + " again" * (number > 0)] = phase("restore")
        rows["get again"] = phase("get")
        rows["get, ranges again"] = phase("get, ranges")
    same = _digest(f"{work}/out/data/data.bin") == digest
    best = max(row["rate"] for name, row in rows.items() if name.removesuffix(" again") in ("get", "get, ranges"))
    print(
        f"{size / 1e9:.1f} GB of {given.kind}, seed {given.seed}; the copy is {'the same' if same else 'ANOTHER ONE'}"
    )
    print(f"{'':<18} {'seconds':>8} {'MB/s':>7} {'of get':>7} {'memory':>8}   processor seconds per GB: client, server")
    for name, row in rows.items():
        rate, gigabytes = row["rate"] if name != "capture" else size / row["seconds"] / 1e6, row["size"] / 1e9
        print(
            f"{name:<18} {row['seconds']:>8.1f} {rate:>7.0f} {rate / best:>7.0%} {row['peak'] / 1e6:>5.0f} MB"
            f"   {row['client'] / gigabytes:>24.2f} {row['server'] / gigabytes:>7.2f}"
        )
    rate = max(row["rate"] for name, row in rows.items() if name.startswith("restore")) / best
    print(f"restore at {rate:.0%} of what the store gives: {'met' if rate >= GOAL else 'MISSED'} ({GOAL:.0%})")
    return 0 if same else 1


def _make(path: str, size: int, kind: str, seed: int) -> tuple[str, int]:
    """Write the file; its digest and size."""
    rng, digest, done = np.random.default_rng(seed), blake3(), 0
    with open(path, "wb") as file:
        while done < size:
            if kind == "random":
                block = rng.bytes(_BLOCK)
            else:
                floats = rng.standard_normal(_BLOCK // 2, dtype=np.float32) * np.float32(0.02)
                block = (floats.view(np.uint32) >> np.uint32(16)).astype(np.uint16).tobytes()
            file.write(block)
            digest.update(block)
            done += len(block)
    return digest.hexdigest(), done


def _digest(path: str) -> str:
    digest = blake3()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _phase(name: str, work: str, url: str, server: int, pin: bool) -> Row:
    """A phase in a process of its own, when nothing is left to be written."""
    subprocess.run(["sync"], check=True)
    command = [sys.executable, "-m", "bench.throughput", "--phase", name, "--work", work, "--url", url]
    command += ["--server", str(server), *(["--pin"] if pin else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    said: Row = json.loads(done.stdout)
    return said


def _used(given: argparse.Namespace) -> Row:
    """A phase's row, with the processor seconds of this process and of the server."""
    if given.pin:
        os.sched_setaffinity(0, {max(range(os.cpu_count() or 1))})
    client, server = processor_seconds(), _seconds_of(given.server)
    row = _PHASES[given.phase](given.work, given.url)
    return row | {"client": processor_seconds() - client, "server": _seconds_of(given.server) - server}


def _seconds_of(process: int) -> float:
    """User and system (proc_pid_stat(5))."""
    with open(f"/proc/{process}/stat", encoding="ascii") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _timed(work: Callable[[], int]) -> Row:
    """How long ``work`` took for the bytes that it says, and the most memory."""
    began = time.monotonic()
    size = work()
    seconds = time.monotonic() - began
    with open("/proc/self/status", encoding="ascii") as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    return {"seconds": seconds, "rate": size / seconds / 1e6, "peak": peak * 1024.0, "size": float(size)}


def _capture(work: str, url: str) -> Row:
    clock, store = SystemClock(), open_store(url)
    Repository.create(store, f"{work}/keys", "bench", clock)
    component = Component(name="data", driver="files", location=f"{work}/data.bin")
    place = VaultPlace(path=url, keys=f"{work}/keys")
    system = System(name="bench", vault=place, components=(component,), root=work)

    def taken() -> int:
        repository = Repository(store, Keyring(f"{work}/keys"))
        host = HostState(repository.vault.hex(), system.name, f"{work}/state")
        sealed = capture(system, driver_for, lambda _system: (), repository, host, clock)
        return sum(snapshot.stored for snapshot in sealed.body.snapshots)

    return _timed(taken)


def _restore(work: str, url: str) -> Row:
    def restored() -> int:
        repository = Repository(open_store(url), Keyring(f"{work}/keys"))
        body = repository.resolve("latest", to_read=True).body
        restore(repository, body, repository.particulars(body), f"{work}/out", driver_for, SystemClock())
        return sum(
            snapshot.stored for snapshot in body.snapshots
        )  # what had to be fetched, to be compared with the raw gets

    return _timed(restored)


def _get(_work: str, url: str) -> Row:
    return _timed(lambda: _fetched(url, lambda _name, data: len(data)))


def _get_ranges(_work: str, url: str) -> Row:
    return _timed(lambda: _fetched(url, lambda _name, data: len(data), RANGE))


def _write(work: str, url: str) -> Row:
    folder = f"{work}/raw"
    os.mkdir(folder)

    def written(name: str, data: memoryview) -> int:
        with open(f"{folder}/{name.rpartition('/')[2]}", "wb") as file:
            size = file.write(data)
            os.fsync(file.fileno())
        return size

    found = _timed(lambda: _fetched(url, written))
    for name in os.listdir(folder):
        os.unlink(f"{folder}/{name}")
    os.rmdir(folder)
    return found


def _fetched(url: str, use: Callable[[str, memoryview], int], step: int = 1 << 40) -> int:
    """All packs, ``step`` bytes at a time, by obstore alone: the vault's own bucket, and nothing that the store adds."""
    store = open_store(url)
    assert isinstance(store, ObjectStore)
    bucket = store._bucket  # so that it is the same client
    parts = [(entry, at) for entry in store.list("packs/") for at in range(0, entry.size, step)]

    def fetch(part: tuple[Entry, int]) -> int:
        (name, size, _), at = part
        got = obstore.get(bucket, name, options={"range": (at, min(at + step, size))})
        return use(name, memoryview(got.bytes()))

    with ThreadPoolExecutor(GETS) as pool:
        return sum(pool.map(fetch, parts))


_PHASES = {"capture": _capture, "get": _get, "get, ranges": _get_ranges, "get, write": _write, "restore": _restore}


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.throughput", description="A large file to S3 and back.")
    parser.add_argument("--gb", type=float, default=20.0, help="size of the file (%(default)s)")
    parser.add_argument("--kind", choices=("random", "bf16"), default="random", help="what is in it (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the file (%(default)s)")
    parser.add_argument("--work", type=os.path.abspath, help="make it there")
    parser.add_argument("--repeat", type=int, default=1, help="restores, of which the quickest counts (%(default)s)")
    parser.add_argument("--pin", action="store_true", help="one processor for the server, another for the client")
    parser.add_argument("--phase", choices=_PHASES, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--server", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
