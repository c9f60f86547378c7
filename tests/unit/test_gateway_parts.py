"""The gateway's parts by themselves: an upload that comes too slowly, what is kept until when, tokens of many hands, a clock."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import pytest

from resurgam.errors import Denied, IntegrityError, NotFound, Unreachable, UsageError
from resurgam.gateway import app
from resurgam.gateway.account import Asked
from resurgam.gateway.keeping import Keeping
from resurgam.gateway.tokens import Tokens
from resurgam.gateway.upload import PIECE, SLOWEST, STALL, Gone, Message, Upload
from resurgam.stores import disk
from resurgam.stores.base import Entry
from resurgam.stores.gateway import GatewayStore
from resurgam.stores.local import LocalStore
from resurgam.stores.location import Location, parse
from resurgam.stores.wire import digest_of
from resurgam.testing.faults import ManualClock


def _uploaded(pieces: list[bytes], length: int, digest: str, clock: ManualClock, step: float = 0.0) -> bytes:
    """What the writing thread sees, where each message takes ``step`` seconds to come."""
    waiting = list(pieces)

    async def receive() -> Message:
        clock.advance(step)
        if not waiting:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}

    async def act() -> bytes:
        upload = Upload(receive, length, digest, clock)
        return await asyncio.get_running_loop().run_in_executor(None, lambda: b"".join(map(bytes, upload.pieces())))

    return asyncio.run(act())


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 17])
@pytest.mark.parametrize("step", [1000, 65536, 1 << 22])
def test_pieces_are_the_bytes(size: int, step: int) -> None:
    """However messages are cut, the pieces are their bytes, and the digest is compared."""
    data = os.urandom(size)
    messages = [data[at : at + step] for at in range(0, size, step)]
    assert _uploaded(messages, size, digest_of(data), ManualClock()) == data
    with pytest.raises(IntegrityError):
        _uploaded(messages, size, digest_of(data + b"x"), ManualClock())


def test_an_upload_that_is_too_slow_is_given_up() -> None:
    """A client that sends a byte now and then holds no place for long; one that keeps up the slowest pace is served."""
    data = os.urandom(1 << 20)
    for pace, served in ((SLOWEST * 1.1, True), (SLOWEST * 0.5, False)):
        step = 10_000
        messages = [data[at : at + step] for at in range(0, len(data), step)]
        clock, took = ManualClock(), step / pace
        if served:
            assert _uploaded(messages, len(data), digest_of(data), clock, took) == data
        elif len(data) / pace > STALL + len(data) / SLOWEST:
            with pytest.raises(Unreachable, match="slowly"):
                _uploaded(messages, len(data), digest_of(data), clock, took)
    with pytest.raises(Unreachable, match="slowly"):
        _uploaded([b"x"] * 100, 100, digest_of(b"x" * 100), ManualClock(), 1.0)


def test_a_client_that_went_away_is_no_end() -> None:
    """P1: half an upload is an error and no short object."""
    with pytest.raises(Gone):
        _uploaded([b"half"], 8, digest_of(b"half"), ManualClock())


def test_kept_by_the_gateways_clock(tmp_path: Path) -> None:
    """P10: an object goes when ``keep`` is over by this clock, or what was asked for; nothing under probe/ is kept."""
    clock = ManualClock()
    received = clock.now().timestamp()
    entries = [Entry(name, 1, received) for name in ("packs/a", "packs/b", "probe/a")]
    with LocalStore.create(str(tmp_path / "vault")) as store:
        for entry in entries:
            store.put(entry.name, b"x")
        keeping = Keeping(str(tmp_path / "locks"), 1000.0, clock)
        clock.advance(900)
        keeping.extend(entries[1], received + 1800)
        keeping.delete(store, entries[2])
        for entry in entries[:2]:
            with pytest.raises(Denied, match="is kept until"):
                keeping.delete(store, entry)
        clock.advance(200)
        keeping.delete(store, entries[0])
        with pytest.raises(Denied):
            keeping.delete(store, entries[1])
        assert keeping.until(entries[1]) == received + 1800
        clock.advance(800)
        keeping.delete(store, entries[1])
        assert list(store.list()) == []
        keeping.close()


def test_a_page_begins_after_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of a listing is what comes after any name, there or not; what lies in folders before it is not read again."""
    names = sorted(["a", "b-b", "b.b", "b/a", "b/b/c", "b0", "c/a", "c/b"])
    with LocalStore.create(str(tmp_path / "vault")) as store:
        for name in names:
            store.put(name, b"x")
        for after in [*names, "", "b", "b/", "b/b", "b/b/", "b/c", "c/", "d"]:
            assert [entry.name for entry in store.list("", after)] == [name for name in names if name > after], after
            assert [entry.name for entry in store.list("b", after)] == [
                n for n in names if n[0] == "b" and n > after
            ], after
        entries = Mock(wraps=disk.entries)
        monkeypatch.setattr(disk, "entries", entries)
        assert [entry.name for entry in store.list("", "c/a")] == ["c/b"]
        assert entries.call_count == 2


def test_tokens_by_many_hands(tmp_path: Path) -> None:
    """Tokens made at once by several are all there; what is no role, or no token, is refused (P12)."""
    path, clock, start = str(tmp_path / "state/tokens.json"), ManualClock(), threading.Barrier(6)

    def make(_: int) -> str:
        start.wait(timeout=30)
        return Tokens(path).add("capture", "", clock)[1]

    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(make, range(6)))
    tokens = Tokens(path)
    found = [tokens.holder(text) for text in made]
    assert [token.id for token in found if token] == [text.split("-")[1] for text in made]
    assert tokens.holder(made[0][:-1] + ("A" if made[0][-1] != "A" else "B")) is None
    with pytest.raises(UsageError):
        tokens.add("admin", "", clock)
    with pytest.raises(NotFound):
        tokens.revoke("00000000")
    Path(path).write_text("[]")
    with pytest.raises(IntegrityError):
        tokens.holder(made[0])


def test_a_file_of_tokens_that_cannot_be_read_lets_nobody_in(tmp_path: Path) -> None:
    """P12: of a later release, or where no file can be; told as an error, whatever it is."""
    path = str(tmp_path / "state/tokens.json")
    _, text = Tokens(path).add("capture", "", ManualClock())
    Path(path).write_text(Path(path).read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(IntegrityError, match="this release"):
        Tokens(path).holder(text)
    with pytest.raises(Denied, match="cannot be read"):
        Tokens(f"{path}/below").holder(text)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for another user")
def test_tokens_that_root_makes_are_the_gateways(tmp_path: Path) -> None:
    """An administrator who makes a token as root does not lock everybody out: the file stays the gateway's own."""
    path = str(tmp_path / "state/tokens.json")
    os.mkdir(tmp_path / "state", 0o700)
    os.chown(tmp_path / "state", 65534, 65534)
    Tokens(path).add("capture", "", ManualClock())
    assert {os.stat(one).st_uid for one in (path, f"{path}.lock")} == {65534}


def test_a_token_is_shown_to_its_own_gateway_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P12: of a file with tokens for several gateways each is given its own, and one that is not named none."""
    file, ones = tmp_path / "tokens", {f"{place}.example.org:7319": f"rsg1-{place * 20}" for place in ("a", "b")}
    file.write_text("\n".join(f"{address} {token}" for address, token in ones.items()))
    file.chmod(0o600)
    monkeypatch.delenv("RESURGAM_VAULT_TOKEN", raising=False)
    monkeypatch.setenv("RESURGAM_VAULT_TOKEN_FILE", str(file))
    for address, token in ones.items():
        assert GatewayStore(Location("https", address))._headers == {"Authorization": f"Bearer {token}"}
    with pytest.raises(Denied, match="There is no token for") as caught:
        GatewayStore(Location("https", "c.example.org:7319"))
    assert not any(token in str(caught.value) for token in ones.values())
    file.write_text(f"{ones['a.example.org:7319']}\n\n")
    assert "a" * 20 in GatewayStore(Location("https", "c.example.org:7319"))._headers["Authorization"]


def test_a_small_body_has_little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thief who sends a byte now and then, always in time, holds no place for hours."""
    monkeypatch.setattr(app, "STALL", 0.2)
    came = 0

    async def receive() -> Message:
        nonlocal came
        came += 1
        await asyncio.sleep(0.05)
        return {"type": "http.request", "body": b"1", "more_body": came < 400}

    async def send(_: Message) -> None:
        raise AssertionError

    exchange = app.Exchange({"headers": []}, receive, send, Asked("", "POST", ""))
    with pytest.raises(Gone):
        asyncio.run(app._small(exchange))
    assert came < 10


@pytest.mark.parametrize(
    "text",
    [
        "https://token:hush-hush@host",
        "https://host/hush hush",
        "https://host?token=hush-hush",
        "https://host?certificate=hush-hush",
        "https://host#hush-hush",
        "http://vault.example.org",
        "http://10.0.0.1:7319",
        "https://HOST:0",
    ],
)
def test_gateways_that_are_refused(text: str) -> None:
    """P12: a token is no part of a URL, nothing goes in the clear over a network, and what may be a secret is not repeated."""
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert caught.value.next_step
    assert "hush" not in str(caught.value)


def test_gateways_by_url() -> None:
    """Each way to write one."""
    pin = f"sha256:{'0a' * 32}"
    assert parse(f"https://h.example.org:7319?certificate={pin}") == Location(
        "https", "h.example.org:7319", "", {"certificate": pin}
    )
    assert parse("https://[fd00::1]:7319/a/b") == Location("https", "[fd00::1]:7319", "a/b")
    assert parse("http://127.0.0.1:80") == Location("http", "127.0.0.1:80")
    assert parse("http://[::1]:80") == Location("http", "[::1]:80")
