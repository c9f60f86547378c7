"""What a gateway costs: many clients at once against the real server, beside the same folder without it.

    python -m bench.gateway [--clients 1,8,32] [--rounds 3] [--place FOLDER]

Each client is a thread with a connection of its own, over TLS on the loopback, so clients and server share the processors; what is
told is therefore a lower bound for two machines. Each figure is the median over rounds, in which the gateway and the folder
take turns. No error is caught: one refused or lost request ends the run. Memory is the most that the server ever had (VmHWM,
proc(5)).
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from statistics import median

import msgspec

from resurgam.clock import SystemClock
from resurgam.gateway.serve import TOKENS
from resurgam.gateway.tokens import Tokens
from resurgam.stores.base import Store
from resurgam.stores.local import LocalStore
from resurgam.stores.registry import open_store

SMALL, LARGE = 4 << 10, 32 << 20
_numbers = count()


@dataclass(frozen=True)
class Load:
    """``each`` objects of ``size`` bytes by each of ``clients``."""

    size: int
    clients: int
    each: int

    @property
    def words(self) -> str:
        """For a table."""
        size = f"{self.size >> 10} KiB" if self.size < 1 << 20 else f"{self.size >> 20} MiB"
        return f"{self.clients} x {self.each} of {size}"


@dataclass(frozen=True)
class Figures:
    """Seconds of the middle request, and bytes a second of all together."""

    middle: float
    pace: float


class Server:
    """``resurgam vault serve`` over a folder, as a process of its own."""

    def __init__(self, folder: str) -> None:
        root = ["--as-root"] if os.geteuid() == 0 else []
        command = [sys.executable, "-m", "resurgam", "vault", "serve", folder, "--port", "0", "--json", *root]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        told = msgspec.json.decode(self.process.stdout.readline())
        self.url: str = told["url"]
        os.environ["RESURGAM_VAULT_TOKEN"] = Tokens(os.path.join(told["state"], TOKENS)).add("root", "", SystemClock())[
            1
        ]

    def memory(self, what: str) -> int:
        """``VmRSS`` or ``VmHWM``, in bytes."""
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as file:
            found = re.search(rf"{what}:\s+(\d+) kB", file.read())
        assert found
        return int(found[1]) << 10

    def stop(self) -> None:
        """End it, and see that it ended well."""
        self.process.terminate()
        assert self.process.wait(timeout=60) == 0
        assert self.process.stdout is not None
        self.process.stdout.close()


def timed(load: Load, act: Callable[[int, int], None]) -> Figures:
    """``act(client, number)`` by all clients at once."""

    def work(own: int) -> list[float]:
        took = []
        for number in range(load.each):
            began = time.perf_counter()
            act(own, number)
            took.append(time.perf_counter() - began)
        return took

    with ThreadPoolExecutor(load.clients) as pool:
        began = time.perf_counter()
        all_took = [one for took in pool.map(work, range(load.clients)) for one in took]
        whole = time.perf_counter() - began
    return Figures(median(all_took), load.size * load.clients * load.each / whole)


def puts_and_gets(store: Store, load: Load) -> tuple[Figures, Figures]:
    """Objects put and read back, each compared in length; afterwards they are gone."""
    data = os.urandom(load.size)
    folder = f"probe/{next(_numbers)}"

    def put(own: int, number: int) -> None:
        store.put(f"{folder}/{own}-{number}", data)

    def get(own: int, number: int) -> None:
        buffer = memoryview(bytearray(load.size))
        assert store.read_into(f"{folder}/{own}-{number}", 0, buffer) == load.size

    figures = timed(load, put), timed(load, get)
    for entry in list(store.list(folder)):
        store.delete(entry.name)
    return figures


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", default="1,8,32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--place", default=None, help="where a folder for the vault is made")
    chosen = parser.parse_args()
    clients = [int(number) for number in chosen.clients.split(",")]
    loads = [Load(SMALL, n, max(400 // n, 20)) for n in clients] + [Load(LARGE, n, max(8 // n, 1)) for n in clients]
    with tempfile.TemporaryDirectory(dir=chosen.place) as place:
        folder = os.path.join(place, "vault")
        server = Server(folder)
        try:
            stores: list[Store] = [open_store(server.url), LocalStore(folder)]
            print(f"server at rest: {server.memory('VmRSS') / 1e6:.0f} MB\n")
            heads = (
                "put, middle",
                "all puts",
                "of the folder's",
                "get, middle",
                "all gets",
                "of the folder's",
                "most memory",
            )
            print(f"| load | {' | '.join(heads)} |")
            print(f"|{'---|' * (len(heads) + 1)}")
            for load in loads:
                rounds = [[puts_and_gets(store, load) for store in stores] for _ in range(chosen.rounds)]
                cells = [load.words]
                for way in (0, 1):
                    gateway, alone = ([one[store][way] for one in rounds] for store in (0, 1))
                    ratio = median(g.pace / a.pace for g, a in zip(gateway, alone, strict=True))
                    pace, middle = median(g.pace for g in gateway), median(g.middle for g in gateway)
                    rate = f"{pace / load.size:.0f}/s" if load.size == SMALL else f"{pace / 1e6:.0f} MB/s"
                    cells += [f"{middle * 1000:.1f} ms", rate, f"{ratio:.2f}"]
                print(f"| {' | '.join(cells)} | {server.memory('VmHWM') / 1e6:.0f} MB |", flush=True)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
