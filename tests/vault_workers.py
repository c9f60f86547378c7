"""Processes that work on one vault in a folder until they are killed: ``python -m tests.vault_workers ROLE FOLDER SEED``.

    alpha, beta   change a system of their own and capture it, again and again; each point that was sealed is noted in FOLDER/sealed
    pruner        lets all points go but the newest, revokes leases that look dead, and sweeps
    checker       reads everything, again and again; damage ends it with exit code 3

What a point holds tells itself: the file ``which`` names a number, and all other files follow from that.
"""

from __future__ import annotations

import os
import shutil
import sys
from random import Random

from resurgam.capture.run import capture
from resurgam.clock import SystemClock
from resurgam.drivers.base import Blob
from resurgam.drivers.registry import driver_for
from resurgam.errors import Busy
from resurgam.model.system import Component, Retention, System, VaultPlace
from resurgam.stores.local import LocalStore
from resurgam.vault.check import check
from resurgam.vault.host import HostState
from resurgam.vault.keyring import Keyring
from resurgam.vault.leases import open_leases, revoke
from resurgam.vault.policies import next_policy, policies, put_policy, store_time
from resurgam.vault.repository import Repository, Sealed
from resurgam.vault.signing import Role
from tests.support import Files, copy_keys, no_witness
from tests.vault_acts import prune_all
from tests.vault_hosts import PRUNES, VERIFIES, Host, capture_host
from tests.vault_model import DAY

WRITERS = ("alpha", "beta")
ROLES = (*WRITERS, "pruner", "checker")
STATES = 5  # few, so that what only expired points held is soon captured again
DEAD = 2.0  # seconds after which a lease looks dead; sessions take less, or hear that they were revoked


def settle(folder: str) -> None:
    """A vault in FOLDER, its hosts, and a policy under which all points but the newest may go at once."""
    clock = SystemClock()
    store = LocalStore.create(f"{folder}/vault")
    repository, _ = Repository.create(store, f"{folder}/keys", "workers", clock)
    for name in WRITERS:
        capture_host(name, folder, f"{folder}/keys", repository, clock)
        os.mkdir(f"{folder}/live-{name}")
        body = next_policy(policies(repository), name, Retention(last=2, cooling=0.0))
        put_policy(repository, body, clock)
        path = f"{folder}/vault/retention/{body.serial:08d}"
        long_ago = os.stat(path).st_mtime - 30 * DAY  # the cooling of what was before the first policy is over
        os.utime(path, (long_ago, long_ago))
    copy_keys(f"{folder}/keys", f"{folder}/keys-pruner", PRUNES)
    copy_keys(f"{folder}/keys", f"{folder}/keys-checker", VERIFIES)


def opened(folder: str, who: str = "") -> Repository:
    """The vault as this host opens it; by default with every key."""
    return Repository(LocalStore(f"{folder}/vault"), Keyring(f"{folder}/keys-{who}" if who else f"{folder}/keys"))


def state(number: int) -> Files:
    """What a system holds in state ``number``."""
    rng = Random(number)
    sizes = rng.sample((0, 300, 3000, 20_000, 300_000), 3)
    return {b"which": b"%d" % number, **{b"%d" % n: rng.randbytes(size) for n, size in enumerate(sizes)}}


def held(repository: Repository, sealed: Sealed) -> Files:
    """What a point holds, read from the vault."""
    items = repository.snapshot(sealed.body, "files").items()
    return {item.path: item.read() for item in items if isinstance(item, Blob) and item.meta.get("y") != "d"}


def write(folder: str, who: str, rng: Random) -> None:
    """One change and one capture, noted when it is sealed."""
    place = f"{folder}/live-{who}"
    if os.path.isdir(place):  # not where one was killed between these two
        shutil.rmtree(place)
    os.mkdir(place)
    for path, data in state(rng.randrange(STATES)).items():
        with open(os.path.join(place, os.fsdecode(path)), "wb") as file:
            file.write(data)
    component = Component(name="files", driver="files", location=place)
    system = System(name=who, vault=VaultPlace(path="/none", keys="/none"), components=(component,))
    repository = opened(folder, who)
    host = HostState(repository.vault.hex(), who, f"{folder}/state-{who}")
    sealed = capture(system, driver_for, no_witness, repository, host, SystemClock())
    with open(f"{folder}/sealed", "ab") as file:
        file.write(f"{sealed.body.id}\n".encode())


def prune(folder: str, rng: Random) -> None:
    """As ``resurgam vault prune --yes --revoke-older``."""
    repository = opened(folder, "pruner")
    now = store_time(repository.store)
    for lease in open_leases(repository):
        if lease.names and now - lease.received > DEAD:
            revoke(repository, lease, Role.PRUNER, "it looks dead", SystemClock())
    pruner = Host("pruner", folder, f"{folder}/keys-pruner", SystemClock())
    prune_all(pruner, repository.store, rng)


def work(role: str, folder: str, rng: Random) -> None:
    """One turn of a role. Raises Busy where others were at work on the same thing."""
    if role in WRITERS:
        write(folder, role, rng)
    elif role == "pruner":
        prune(folder, rng)
    elif damage := check(opened(folder, "checker"), read=True).damage:
        print(damage, file=sys.stderr)
        sys.exit(3)


def contents_stand(folder: str) -> tuple[int, int]:
    """Every point that was sealed is promised or expired, and every promised one is what it says; returns how many are which."""
    repository = opened(folder)
    promised = repository.points()
    expired = {sealed.body.id for sealed in repository.points(expired=True)}
    with open(f"{folder}/sealed", encoding="utf-8") as file:
        told = set(file.read().split())
    lost = told - expired - {sealed.body.id for sealed in promised}
    assert not lost, f"{len(lost)} points are gone"
    for sealed in promised:
        found = held(repository, sealed)
        assert found == state(int(found[b"which"]))
    return len(promised), len(expired)


def main() -> None:
    """Work until killed."""
    role, folder, seed = sys.argv[1:]
    rng = Random(f"{role} {seed}")
    while True:
        try:
            work(role, folder, rng)
        except Busy:
            continue


if __name__ == "__main__":
    main()
