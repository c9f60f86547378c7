"""What a gateway holds back, and what becomes of uploads when it, a client or the disk fails: against the real process."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from resurgam.errors import Denied, NotFound, StoreFull, Unreachable
from resurgam.gateway.tokens import HOLDERS, MONITOR
from resurgam.stores import wire
from resurgam.stores.base import AlreadyThere, put_once
from resurgam.stores.gateway import GatewayStore
from resurgam.stores.local import LocalStore
from resurgam.stores.lock import Locks
from resurgam.vault.rights import DEPTHS, RIGHTS, Operation, may
from tests.stores.gateways import Raw, Served, client, in_folder, raw, wait_for

NAMES = [
    *(own if not own.endswith(("/", "-")) else own + "00/" * (DEPTHS.get(own, 2) - 2) + "00000001" for own in RIGHTS),
    "elsewhere/a",
    "tokens.json",
]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    server = Served(str(tmp_path / "vault"), "--access-log")
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One for the tests after which nothing is there that was not before."""
    server = Served(str(tmp_path_factory.mktemp("unchanged") / "vault"))
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """What a test opened is closed after it."""
    yield
    while Raw.opened:
        Raw.opened.pop().close()


# --- who may do what -----------------------------------------------------------------------------------------------------


def test_the_answer_is_the_tables(served: Served, tmp_path: Path) -> None:
    """P9 P12: for every role, operation and namespace the gateway does what ``may`` says, and a forbidden act changes nothing."""
    asked = 0
    for role in HOLDERS:
        store = served.store(role)
        for name in NAMES:
            path = Path(served.folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            for operation in (Operation.READ, Operation.CREATE, Operation.DELETE, Operation.LIST):
                path.unlink(missing_ok=True)
                if operation is not Operation.CREATE:
                    path.write_bytes(b"there")
                assert _does(store, operation, name) == may(role, operation, name), (role, operation, name)
                gone = operation is Operation.DELETE and may(role, operation, name)
                made = operation is not Operation.CREATE or may(role, operation, name)
                assert path.exists() == (made and not gone), (role, operation, name)
                asked += 1
    assert asked == len(HOLDERS) * len(NAMES) * 4


def test_locks_are_asked_for_by_the_table(tmp_path: Path) -> None:
    """P9: the same for locks, of which the gateway knows where it keeps objects at all."""
    server = Served(str(tmp_path / "vault"), "--keep", "1h")
    server.start()
    try:
        for role in HOLDERS:
            store = server.store(role)
            for name in NAMES:
                Path(server.folder, name).parent.mkdir(parents=True, exist_ok=True)
                Path(server.folder, name).write_bytes(b"there")
                allowed = _does(store, Operation.LOCK, name)
                assert allowed == may(role, Operation.LOCK, name), (role, name)
    finally:
        server.kill()


def _does(store: GatewayStore, operation: Operation, name: str) -> bool:
    """Whether it was done, and not refused for the role."""
    try:
        if operation is Operation.READ:
            assert store.get(name) == b"there"
        elif operation is Operation.CREATE:
            store.put(name, b"there")
        elif operation is Operation.DELETE:
            store.delete(name)
        elif operation is Operation.LOCK:
            store.protect(name, datetime.now(UTC) + timedelta(minutes=61))
        else:
            assert name in [entry.name for entry in store.list(name)]
    except Denied as error:
        if not ("may not" in error.message and error.untouched and error.next_step):  # P12
            raise
        return False
    return True


# --- tokens --------------------------------------------------------------------------------------------------------------


def test_a_revoked_token_ends_at_once(served: Served) -> None:
    """P12: of two tokens of a role one is revoked: the running gateway refuses it from the next request on, and not the other."""
    old, new = served.token("capture"), served.token("capture")
    stores = [client(served.url, old), client(served.url, new)]
    for number, store in enumerate(stores):
        store.put(f"points/{number}", b"x")
    served.tokens.revoke(old.split("-")[1])
    with pytest.raises(Denied, match="not known here"):
        stores[0].put("points/2", b"x")
    stores[1].put("points/2", b"x")


@pytest.mark.parametrize(
    "presented",
    ["", "Bearer", "Bearer rsg1-00000000-" + "A" * 43, "Basic cm9vdDpyb290", "bearer ../../tokens.json", "Bearer ä"],
)
def test_no_token_no_answer(unchanged: Served, presented: str) -> None:
    """P12: without a token that is known there is no answer, under any path but /healthz; not even whether something is there."""
    unchanged.token("root")
    for line in (f"GET {wire.OBJECTS}vault.json", f"GET {wire.LIST}", "GET /metrics", f"GET {wire.ROLE}", "GET /x"):
        status, body = raw(unchanged, f"{line} HTTP/1.1", f"Authorization: {presented}")
        assert status == 401
        assert json.loads(body)["next_step"]
    assert raw(unchanged, "GET /healthz HTTP/1.1") == (200, b"ok\n")


def test_a_file_of_tokens_that_others_can_write_lets_nobody_in(served: Served) -> None:
    """P12: what cannot be believed is no reason to let anybody in; set right, it counts again, without a restart."""
    store = served.store("root")
    store.put("vault.json", b"x")
    os.chmod(served.tokens.path, 0o640)
    with pytest.raises(Denied, match="mode 640"):
        store.get("vault.json")
    os.chmod(served.tokens.path, 0o600)
    assert store.get("vault.json") == b"x"


def test_no_secret_is_told_or_kept(served: Served) -> None:
    """P12: refusals are told with the token's id; its text is in no log, no file of the gateway, and no error."""
    text = served.token("reader")
    store = client(served.url, text)
    with pytest.raises(Denied) as caught:
        store.put("points/a", b"x")
    secret = text.split("-", 2)[2]
    wait_for(lambda: '"status":403' in served.log())
    lines = [json.loads(line) for line in served.log().splitlines()]
    assert lines[-1]["token"] == text.split("-")[1]
    assert (lines[-1]["status"], lines[-1]["role"], lines[-1]["path"]) == (403, "reader", "/v1/objects/points/a")
    assert "may not create points/a" in lines[-1]["why"]
    kept = (
        served.log()
        + str(caught.value)
        + "".join(Path(served.state, n).read_text("latin-1") for n in os.listdir(served.state))
    )
    assert secret not in kept
    assert os.stat(served.tokens.path).st_mode & 0o777 == 0o600


# --- TLS -----------------------------------------------------------------------------------------------------------------


def test_nothing_is_said_to_another(served: Served, tmp_path: Path) -> None:
    """P12: who shows another certificate hears nothing, no token either; nor does one whom no authority vouches for."""
    other = Served(str(tmp_path / "other"), "--access-log")
    other.start()
    try:
        pin, bare = served.url.partition("?")[2], other.url.partition("?")[0]
        for url in (f"{bare}?{pin}", bare):
            with pytest.raises(Denied, match="does not show the certificate"):
                client(url, served.token("root")).put("vault.json", b"x")
        assert other.log() == ""
        assert client(other.url, other.token("root")).role() == "root"
    finally:
        other.kill()


def test_an_authority_of_ones_own(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate that a file of authorities knows needs no pin, but the right name."""
    monkeypatch.setenv("RESURGAM_VAULT_CA", os.path.join(served.state, "certificate.pem"))
    bare = served.url.partition("?")[0]
    assert client(bare.replace("127.0.0.1", "localhost"), served.token("root")).role() == "root"
    with pytest.raises(Denied, match="does not show the certificate"):
        client(bare, served.token("root")).role()


# --- whole or not at all -------------------------------------------------------------------------------------------------


def test_killed_in_mid_upload(served: Served) -> None:
    """P1: after kill -9 in the middle of an upload and a restart nothing half is seen, and the name is still free."""
    data, text = os.urandom(5 << 20), served.token("capture")
    uploading = Raw(served)
    uploading.upload("packs/aa/a", text, data, 3 << 20)
    wait_for(lambda: any(os.path.getsize(os.path.join(served.folder, n)) for n in in_folder(served)))
    served.kill()
    uploading.close()
    served.start()
    store = client(served.url, text)
    assert list(store.list()) == []
    store.put("packs/aa/a", data)
    assert served.store("reader").get("packs/aa/a") == data


def test_a_client_that_goes_away_leaves_nothing(served: Served) -> None:
    """P1: half an upload whose client is gone is nothing, also in the waiting room."""
    uploading = Raw(served)
    uploading.upload("packs/aa/a", served.token("capture"), os.urandom(5 << 20), 3 << 20)
    wait_for(lambda: in_folder(served))
    uploading.close()
    wait_for(lambda: not in_folder(served))


def test_an_end_that_was_asked_for_waits_for_uploads(served: Served) -> None:
    """P1: at SIGTERM nothing new is taken on, what is under way ends whole, and the process ends with 0."""
    data, uploading = os.urandom(5 << 20), Raw(served)
    uploading.upload("packs/aa/a", served.token("capture"), data, 3 << 20)
    wait_for(lambda: in_folder(served))
    assert served.process is not None
    served.process.terminate()
    wait_for(lambda: not _connects(served))
    uploading.send(data[3 << 20 :])
    assert uploading.answer()[0] == 201
    uploading.close()
    assert served.stop() == 0
    assert Path(served.folder, "packs/aa/a").read_bytes() == data


def _connects(server: Served) -> bool:
    try:
        socket.create_connection(("127.0.0.1", server.port), timeout=1).close()
    except OSError:
        return False
    return True


def test_damage_on_the_way_up_is_refused(served: Served) -> None:
    """P1: bytes that are not those of their Content-Digest never become an object; nor does what says no digest, or no length."""
    text, data = served.token("capture"), os.urandom(2 << 20)
    uploading = Raw(served)
    uploading.upload("packs/aa/a", text, data, 0)
    uploading.send(bytes([data[0] ^ 1]) + data[1:])
    status, body = uploading.answer()
    assert (status, json.loads(body)["kind"]) == (400, "IntegrityError")
    authorized = f"Authorization: Bearer {text}"
    assert raw(served, "PUT /v1/objects/packs/aa/a HTTP/1.1", authorized, "Content-Length: 0")[0] == 411
    digest = f"Content-Digest: {wire.digest_of(b'')}"
    assert raw(served, "PUT /v1/objects/packs/aa/a HTTP/1.1", authorized, digest)[0] == 411
    assert (
        raw(served, "PUT /v1/objects/packs/aa/a HTTP/1.1", authorized, digest, "Content-Length: 5000000001")[0] == 413
    )
    assert in_folder(served) == []
    uploading.send(b"")
    client(served.url, text).put("packs/aa/a", data)


def test_a_refused_upload_is_heard_of(served: Served) -> None:
    """P2: who sends megabytes to a name that is taken, or without the right to, hears so, and the connection goes on."""
    data, store = os.urandom(24 << 20), served.store("capture")
    store.put("packs/aa/a", data)
    for _ in range(3):
        with pytest.raises(AlreadyThere):
            store.put("packs/aa/a", data)
        with pytest.raises(Denied, match="may not create"):
            store.put("checkpoints/a", data)
    with pytest.raises(Denied, match="not known here"):
        client(served.url, "rsg1-00000000-" + "A" * 43).put("packs/aa/b", data)
    put_once(served.store("pruner"), "packs/aa/c", data)


def test_a_full_disk_is_told_as_such(small: Path) -> None:
    """P12: StoreFull, and nothing of it stays."""
    server = Served(str(small / "vault"), "--state", str(small / "gateway"))
    server.state = str(small / "gateway")
    server.tokens.path = str(small / "gateway" / "tokens.json")
    server.log_file = str(small.parent / "log")
    server.start()
    try:
        store = server.store("capture")
        with pytest.raises(StoreFull):
            store.put("packs/aa/a", os.urandom(8 << 20))
        assert in_folder(server) == []
        store.put("points/a", b"x")
    finally:
        server.kill()


_FORKED = """
import os, sys
from resurgam.stores.registry import open_store
store = open_store(sys.argv[1])
said = {f"points/{n}": bytes([n]) * (n * 10_000) for n in range(1, 9)}
for name, data in said.items():
    store.put(name, data)
child = os.fork()
right = all(store.get(name) == data for _ in range(20) for name, data in said.items())
if not child:
    os._exit(not right)
sys.exit(not right or os.waitpid(child, 0)[1] != 0)
"""


def test_a_fork_shares_no_connection(tmp_path: Path) -> None:
    """A process and its copy, which ask at the same time, never read each other's answers: restores fork. Without TLS, which would
    hide it: there a mixed request ends the connection, and is tried again."""
    server = Served(str(tmp_path / "vault"), "--plain-http")
    server.start()
    try:
        command = [sys.executable, "-c", _FORKED, server.url]
        environment = os.environ | {"RESURGAM_VAULT_TOKEN": server.token("root")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    finally:
        server.kill()


# --- names and limits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../a",
        "packs/../../a",
        "%2e%2e/a",
        "packs%2fa",
        "/packs/a",
        "packs//a",
        "packs/A",
        "packs/a%00",
        ".gateway",
        "tmp/a",
        "",
    ],
)
def test_no_path_leads_out(unchanged: Served, name: str) -> None:
    """P12: what is no object's name is refused before the disk is touched."""
    authorized = f"Authorization: Bearer {unchanged.token('root')}"
    for method in ("GET", "PUT", "DELETE"):
        line = f"{method} {wire.OBJECTS}{name} HTTP/1.1"
        status, _ = raw(unchanged, line, authorized, "Content-Length: 0", f"Content-Digest: {wire.digest_of(b'')}")
        assert status in (400, 403), (method, status)
    assert in_folder(unchanged) == []
    assert not Path(unchanged.folder).with_name("a").exists()


def test_a_planted_link_is_not_followed(served: Served, tmp_path: Path) -> None:
    """P12: a symbolic link in the folder leads nowhere, neither as an object nor as a folder."""
    (tmp_path / "secret").write_bytes(b"secret")
    os.makedirs(f"{served.folder}/points")
    os.symlink(tmp_path / "secret", f"{served.folder}/points/a")
    os.symlink(tmp_path, f"{served.folder}/packs")
    store = served.store("root")
    for name in ("points/a", "packs/secret"):
        with pytest.raises((NotFound, Denied)):
            store.get(name)
    with pytest.raises(Denied):
        store.put("packs/aa/b", b"x")
    assert sorted(os.listdir(tmp_path)) == ["secret", "vault", "vault.gateway", "vault.log"]
    assert list(store.list()) == []


def test_who_never_ends_a_head_is_hung_up_on(served: Served) -> None:
    """Slow or endless heads hold no connection for long, and others are served meanwhile."""
    unknown = socket.create_connection(("127.0.0.1", served.port), timeout=30)  # never begins with TLS
    silent, slow, endless = Raw(served), Raw(served), Raw(served)
    slow.send(b"GET /healthz HTTP/1.1\r\nHost: ")
    endless.send(b"GET /healthz HTTP/1.1\r\n")
    with pytest.raises(OSError):
        endless.send(b"".join(b"X-%d: " % n + b"x" * 60_000 + b"\r\n" for n in range(400)))
    assert raw(served, "GET /healthz HTTP/1.1")[0] == 200
    for held in (silent.socket, slow.socket, unknown):
        assert held.recv(100) == b""
        held.close()


def test_more_than_it_takes_on_are_told_to_wait(tmp_path: Path) -> None:
    """With one place taken, others hear that it is busy and try again; when it is free they get through."""
    server = Served(str(tmp_path / "vault"), "--concurrent", "1")
    server.start()
    try:
        text, data, uploading = server.token("capture"), os.urandom(2 << 20), Raw(server)
        uploading.upload("packs/aa/a", text, data, 1000)
        wait_for(lambda: in_folder(server))
        with pytest.raises(Unreachable, match="at a time"):
            client(server.url, text, patience=0.0).put("points/a", b"x")
        uploading.send(data[1000:])
        assert uploading.answer()[0] == 201
        client(server.url, text).put("points/a", b"x")
    finally:
        server.kill()


def test_listings_come_in_pages(served: Served) -> None:
    """More objects than one page holds are listed all, once each, in order, across folders."""
    names = [f"{own}/{number:05}" for own in ("index", "log", "points") for number in range(7_000)]
    for own in ("index", "log", "points"):
        os.makedirs(f"{served.folder}/{own}")
    for name in names:
        os.close(os.open(f"{served.folder}/{name}", os.O_CREAT | os.O_WRONLY, 0o400))
    store = served.store("monitor")
    with pytest.raises(Denied):
        list(store.list())
    assert [entry.name for entry in served.store("capture").list()] == names
    wait_for(lambda: served.log().count(wire.LIST) == 3)  # one was refused, and two pages


# --- keeping -------------------------------------------------------------------------------------------------------------


def test_nothing_young_is_deleted_whoever_asks(tmp_path: Path) -> None:
    """P10: with --keep a stolen pruner's token deletes nothing before its time; locks are lengthened, and survive a restart."""
    server = Served(str(tmp_path / "vault"), "--keep", "1h")
    server.start()
    try:
        text = server.token("pruner")
        store = client(server.url, text)
        assert isinstance(store, Locks)
        store.put("packs/aa/a", b"x")
        with pytest.raises(Denied, match="is kept until"):
            store.delete("packs/aa/a")
        lock = store.protected("packs/aa/a")
        assert lock is not None
        assert timedelta(minutes=59) < lock.until - datetime.now(UTC) < timedelta(minutes=61)
        longer = lock.until + timedelta(seconds=60)
        store.protect("packs/aa/a", longer)
        with pytest.raises(Denied, match="never shortened"):
            store.protect("packs/aa/a", lock.until)
        with pytest.raises(Denied, match="at most until"):
            store.protect("packs/aa/a", lock.until + timedelta(days=1))
        server.kill()
        server.start()
        again = client(server.url, text).protected("packs/aa/a")
        assert again is not None
        assert abs(again.until - longer) < timedelta(seconds=0.01)
        old = Path(server.folder, "packs/aa/old")
        old.write_bytes(b"x")
        os.utime(old, (1, 1))
        client(server.url, text).delete("packs/aa/old")
        assert not old.exists()
    finally:
        server.kill()


def test_the_time_of_receipt_is_the_gateways(served: Served) -> None:
    """What a listing says of the time is when the gateway received it, whatever a client sends."""
    store = served.store("capture")
    before = datetime.now(UTC).timestamp()
    store.put("points/a", b"x")
    (entry,) = store.list("points/")
    assert before - 1 <= entry.received <= datetime.now(UTC).timestamp() + 1
    with LocalStore(served.folder) as folder:
        assert list(folder.list()) == [entry]


# --- figures, and how it is started ----------------------------------------------------------------------------------------


def test_figures_for_prometheus(served: Served) -> None:
    """/metrics counts by role, operation and answer; strange requests make no new labels."""
    store = served.store("capture")
    store.put("points/a", b"12345")
    with pytest.raises(Denied):
        store.delete("points/a")
    authorized = f"Authorization: Bearer {served.token(MONITOR)}"
    assert raw(served, "GET /strange-path HTTP/1.1", authorized)[0] == 404
    text = ""
    while 'status="404"' not in text:  # a request is counted a moment after it was answered
        status, body = raw(served, "GET /metrics HTTP/1.1", authorized)
        assert status == 200
        text = body.decode()
    assert 'resurgam_gateway_requests_total{role="capture",operation="create",status="201"} 1\n' in text
    assert 'resurgam_gateway_requests_total{role="capture",operation="delete",status="403"} 1\n' in text
    assert 'resurgam_gateway_bytes_total{way="received"} 5\n' in text
    assert "resurgam_gateway_refused_total 1\n" in text
    assert "strange" not in text
    for line in text.splitlines():
        assert re.fullmatch(r'# TYPE [a-z_]+ (counter|gauge)|[a-z_]+(\{([a-z]+="[a-z0-9]+",?)+\})? [0-9.]+', line), line


def _serve(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "resurgam", "vault", "serve", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_what_is_not_safe_is_not_served(tmp_path: Path) -> None:
    """P12: plain HTTP beyond the loopback, tokens inside the vault, a key without its certificate, and root are refused."""
    folder = str(tmp_path / "vault")
    root = ("--as-root",) if os.geteuid() == 0 else ()
    for words, said in (
        (("--plain-http", "--host", "0.0.0.0", *root), "loopback"),
        (("--state", f"{folder}/state", *root), "lies in the vault"),
        (("--key", "key.pem", *root), "belong together"),
        (("--name", "a b/c", *root), "is no name"),
        (("--keep", "0d", *root), "Nothing can be kept"),
        (("--keep", "99999999999d", *root), "Nothing can be kept"),
        *(((), "root's rights") for _ in root),
    ):
        refused = _serve(folder, "--port", "0", *words)
        assert (refused.returncode, said in refused.stderr) == (2, True), refused.stderr
        assert "next:" in refused.stderr
    assert os.listdir(tmp_path) == []


def test_plain_http_on_the_loopback(tmp_path: Path) -> None:
    """Behind what speaks TLS itself the gateway may speak plainly, and the client to it, on this host only."""
    server = Served(str(tmp_path / "vault"), "--plain-http")
    server.start()
    try:
        assert server.url.startswith("http://127.0.0.1:")
        assert server.store("root").role() == "root"
    finally:
        server.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_root_is_given_up(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Started by root with --user, it serves as that user, with none of root's rights left."""
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o777)
        server = Served(f"{place}/vault", "--user", "nobody")
        os.rmdir(server.folder)
        server.start()
        try:
            assert server.process is not None
            status = Path(f"/proc/{server.process.pid}/status").read_text()
            uids = re.search(r"Uid:\t(\d+)\t(\d+)\t(\d+)", status)
            assert uids is not None
            assert "0" not in uids.groups()
            assert re.search(r"CapEff:\t0+\n", status)
            assert os.stat(f"{server.state}/key.pem").st_mode & 0o777 == 0o600
        finally:
            server.kill()


def test_hashes_only(served: Served) -> None:
    """The file of tokens holds the SHA-256 of each, of 256 random bits."""
    text = served.token("auditor")
    (kept,) = json.loads(Path(served.tokens.path).read_text())["tokens"]
    assert kept["digest"] == hashlib.sha256(text.encode()).hexdigest()
    assert len(text.split("-", 2)[2]) == 43
