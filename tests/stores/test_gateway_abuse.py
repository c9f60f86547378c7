"""What somebody tries who has no token, or a stolen one: against the real process."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from resurgam.errors import Denied, IntegrityError, Unreachable
from resurgam.gateway.app import share_of
from resurgam.gateway.connection import CONNECTIONS, OF_ONE, sender_of
from tests.stores.gateways import Raw, Served, client, in_folder, wait_for


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    server = Served(str(tmp_path / "vault"), "--concurrent", "1")
    server.start()
    try:
        yield server
    finally:
        server.kill()
        while Raw.opened:
            Raw.opened.pop().close()


@pytest.mark.parametrize("ending", [b"0\r\nX-a: ", b"1;extension="])
def test_no_memory_is_filled_behind_a_head(served: Served, ending: bytes) -> None:
    """Headers behind a chunked body have no end that a server knows, and are kept: such a body is refused at its head, with or
    without a token."""
    asking = Raw(served)
    asking.send(b"GET /x HTTP/1.1\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\n\r\n" + ending)
    assert asking.answer()[0] == 400
    assert asking.socket.recv(100) == b""
    asking.close()


@pytest.mark.parametrize(
    ("role", "name"),
    [
        ("capture", "log/0000000001/x"),
        ("capture", "points/00/x"),
        ("capture", "packs/ab"),
        ("verifier", "records/0123456789abcdef"),
        ("verifier", "checks/a/b"),
        ("approver", "approvals/ab"),
        ("pruner", "prune/00000001"),
    ],
)
def test_nothing_is_made_that_stands_in_anothers_way(served: Served, role: str, name: str) -> None:
    """P9: a thief's folder in the place of an object, or the reverse, would keep it from ever being written, and nobody may remove
    it. A name has the depth that the format gives it."""
    with pytest.raises(Denied, match="may not create"):
        served.store(role).put(name, b"x")
    assert in_folder(served) == []
    beside = name.rpartition("/")[0] if name.count("/") == 2 else f"{name}/x"
    served.store("root").put(beside, b"y")


def test_health_is_told_while_every_place_is_taken(served: Served) -> None:
    """Who watches the gateway hears that it is well while uploads take all its places, and does not restart it under them."""
    uploading, watching = Raw(served), Raw(served)
    uploading.upload("packs/aa/a", served.token("capture"), os.urandom(1 << 20), 1000)
    wait_for(lambda: in_folder(served))
    watching.socket.settimeout(10)
    assert watching.ask("GET /healthz HTTP/1.1") == (200, b"ok\n")


def test_locks_that_cannot_be_read_keep_everything(tmp_path: Path) -> None:
    """P10 P12: while what is kept for longer cannot be read, nothing is deleted, and who asks hears why; nor does it start."""
    server = Served(str(tmp_path / "vault"), "--keep", "1h")
    server.start()
    try:
        store = server.store("pruner")
        store.put("packs/aa/a", b"x")
        os.utime(Path(server.folder, "packs/aa/a"), (1, 1))
        locks = Path(server.state, "locks.sqlite")
        locks.write_bytes(b"no database" * 1000)
        with pytest.raises(IntegrityError, match="not a database"):
            store.delete("packs/aa/a")
        assert store.get("packs/aa/a") == b"x"
        assert "Traceback" not in server.log()
        assert server.stop() == 0
        with pytest.raises(AssertionError, match="move it away"):
            server.start()
        locks.unlink()
        server.start()
        client(server.url, server.token("pruner")).delete("packs/aa/a")
        assert in_folder(server) == []
    finally:
        server.kill()


def test_what_ignores_a_range_is_no_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    """More bytes than were asked for are never taken for those that were: what stands between may ignore ranges."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n12345"
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            asked, _ = listening.accept()
            with asked:
                asked.recv(65536)
                asked.sendall(answer)

        serving = threading.Thread(target=serve)
        serving.start()
        store = client(f"http://127.0.0.1:{listening.getsockname()[1]}", "rsg1-00000000-" + "A" * 43)
        with pytest.raises(IntegrityError, match="no gateway gives"):
            store.get("points/a", 0, 2)
        serving.join(timeout=30)


def test_one_token_never_takes_all_places(tmp_path: Path) -> None:
    """A thief who fills the places with uploads that hardly move keeps out who has the same token, and nobody else."""
    server = Served(str(tmp_path / "vault"), "--concurrent", "4")
    server.start()
    try:
        stolen, data = server.token("capture"), os.urandom(1 << 20)
        for number in range(share_of(4)):
            Raw(server).upload(f"packs/aa/{number}", stolen, data, 1000)
        wait_for(lambda: len(in_folder(server)) == share_of(4))
        with pytest.raises(Unreachable, match="of one token"):
            client(server.url, stolen, patience=0.0).put("points/a", b"x")
        server.store("capture", patience=0.0).put("points/a", b"x")
        assert server.store("reader", patience=0.0).get("points/a") == b"x"
    finally:
        server.kill()
        while Raw.opened:
            Raw.opened.pop().close()


def test_one_address_never_takes_all_connections(tmp_path: Path) -> None:
    """Whoever opens as many as they can from one address is hung up on, and another address is answered."""
    server, opened = Served(str(tmp_path / "vault"), "--plain-http"), []
    server.start()
    try:
        for _ in range(CONNECTIONS):
            opened.append(socket.create_connection(("127.0.0.1", server.port), timeout=30))
            if not health(opened[-1]):
                break
        assert len(opened) == OF_ONE + 1
        opened.append(socket.create_connection(("127.0.0.1", server.port), timeout=30, source_address=("127.0.0.2", 0)))
        assert health(opened[-1])
    finally:
        server.kill()
        for one in opened:
            one.close()


def health(asking: socket.socket) -> bool:
    """Whether the gateway answers on that connection; it stays open."""
    try:
        asking.sendall(b"GET /healthz HTTP/1.1\r\nHost: gateway\r\n\r\n")
        return asking.recv(4096).startswith(b"HTTP/1.1 200")
    except ConnectionError:
        return False


def test_who_sends_is_told_by_the_address() -> None:
    """Of IPv6 a single host has a whole network of addresses; an IPv4 address may be written as one of IPv6."""
    assert sender_of(("192.0.2.7", 1)) == sender_of(("::ffff:192.0.2.7", 2, 0, 0)) == "192.0.2.7"
    assert sender_of(("2001:db8::1", 1, 0, 0)) == sender_of(("2001:db8::ffff:1", 1, 0, 0))
    assert sender_of(("2001:db8::1", 1, 0, 0)) != sender_of(("2001:db8:0:1::1", 1, 0, 0))
    assert sender_of(("fe80::1%eth0", 1, 0, 2)) == "fe80::/64"
