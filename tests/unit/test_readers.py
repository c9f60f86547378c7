"""Who can read: a reader that is added reads what was stored before, one that is taken out nothing that comes."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import pytest

from resurgam.errors import Denied, IntegrityError, MissingExtra, TargetRefused
from resurgam.testing.faults import Crash, CrashStore
from resurgam.vault import keyadmin, keytest, readers
from resurgam.vault.age import Identity, unwrap, wrap
from resurgam.vault.keypaper import from_paper, paper
from resurgam.vault.keyring import Keyring
from resurgam.vault.keys import DEFAULT_DOMAIN, INDEX_OBJECT
from resurgam.vault.rewrap import rewrap
from resurgam.vault.shred import plan
from resurgam.vault.wraps import object_for, sessions
from tests.support import replaced
from tests.unit.test_keyadmin import KeysWorld

PLUGIN = '''#!{python}
"""An age plugin (https://c2sp.org/age-plugin) that hides a file key by turning its bits over: a program, and no secret."""
import base64, sys

def b64(data): return base64.b64encode(data).rstrip(b"=").decode()
def unb64(text): return base64.b64decode(text + "=" * (-len(text) % 4))

def stanza():
    """One stanza: its words, and its body."""
    words, body = sys.stdin.readline().split()[1:], ""
    while True:
        line = sys.stdin.readline().rstrip("\\n")
        body += line
        if len(line) < 64:
            return words, unb64(body)

def send(*words, body=b""):
    text = b64(body)
    lines = [text[at : at + 64] for at in range(0, len(text), 64)] or [""]
    if len(lines[-1]) == 64:
        lines.append("")
    sys.stdout.write("-> " + " ".join(words) + "\\n" + "\\n".join(lines) + "\\n")
    sys.stdout.flush()

said = []
while not said or said[-1][0][0] != "done":
    said.append(stanza())
turned = lambda key: bytes(b ^ 255 for b in key)
if "recipient-v1" in sys.argv[1]:
    for words, key in [each for each in said if each[0][0] == "wrap-file-key"]:
        send("recipient-stanza", "0", "resurgamtest", body=turned(key))
        stanza()
else:
    for words, body in said:
        if words[0] == "recipient-stanza" and words[2] == "resurgamtest":
            send("file-key", words[1], body=turned(body))
            stanza()
            break
send("done")
'''


@pytest.fixture
def world(tmp_path: Path) -> KeysWorld:
    return KeysWorld(str(tmp_path))


def reads(world: KeysWorld, keys: str, point: object) -> bool:
    """Whether a host with these keys restores the point."""
    try:
        return world.restored(point, world.repository(keys=keys)) == world.contents()  # type: ignore[arg-type]
    except Denied:
        return False


def objects(world: KeysWorld) -> dict[str, bytes]:
    return {entry.name: world.store.get(entry.name) for entry in world.store.list()}


def test_a_reader_that_is_added_reads_what_was_stored_before(world: KeysWorld) -> None:
    """P2, P11: no object is changed, none of data added, and the identity alone with the vault is enough."""
    first = world.capture()
    before = objects(world)
    done = readers.add(world.repository(), "bob", world.clock)
    after = objects(world)
    assert before.items() <= after.items()
    new = {name.partition("/")[0] for name in after.keys() - before.keys()}
    assert new == {"roles", "keys", "log"}
    assert done.wrapped == 1 + len([name for name in before if name.startswith("keys/session-")]) - done.closed
    bob = world.holder(reader="reader.bob")
    assert reads(world, bob, first)
    assert reads(world, bob, world.capture()), "and what comes, without a wrap more"
    assert readers.add(world.repository(), "bob", world.clock).wrapped == 1, "of the session that came since"


def test_a_reader_that_is_taken_out_opens_nothing_that_comes(world: KeysWorld) -> None:
    """P9; and all that was there: what no rotation can undo is said in the plan, and true."""
    readers.add(world.repository(), "bob", world.clock)
    bob, before = world.holder(reader="reader.bob"), world.capture()
    recipient = Keyring(bob).identities[0].recipient
    plan = readers.plan_remove(world.repository(), recipient)
    assert any(step.verb == "cannot be undone" for step in plan.steps)
    readers.remove(world.repository(), recipient, world.clock)
    world.forget()
    world.live.files[b"b"] = b"another prompt"
    after = world.capture()
    assert not reads(world, bob, after)
    with pytest.raises(Denied, match="not wrapped"):
        world.repository(keys=bob).particulars(after.body)
    assert world.repository(keys=bob).particulars(before.body).system.name == "test"


@pytest.mark.parametrize("stem", ["reader", "recovery"])
def test_a_new_identity_takes_the_place_of_the_old(world: KeysWorld, stem: str) -> None:
    """It opens everything; the old one opens what was, and nothing that comes."""
    before = world.capture()
    old = world.holder(reader=stem)
    readers.rotate(world.repository(), world.clock, stem)
    new = world.holder(reader=stem)
    after = world.capture()
    assert reads(world, new, before)
    assert reads(world, new, after)
    assert reads(world, old, before)
    with pytest.raises(Denied):
        world.repository(keys=old).particulars(after.body)
    assert keytest.run(world.repository()).ok
    assert [file for file in Keyring(world.keys).files() if "retired" in file], "it is its holder's to destroy"


@pytest.mark.parametrize("act", ["add", "rotate"])
def test_what_dies_anywhere_is_ended_by_the_same_command(tmp_path: Path, act: str) -> None:
    """P1: and whatever it was, everything opens in the end to whoever should open it."""
    died, number = True, 0
    while died:
        number += 1
        world = KeysWorld(str(tmp_path / f"{number}"))
        point = world.capture()
        store = CrashStore(world.store, number, after=bool(number % 2))
        died = False
        try:
            _do(world, act, store)
        except Crash:
            died = True
            assert world.repository().keyring.identities, "the keys that are here are whole"
            _do(world, act, None)
        tested = keytest.run(world.repository())
        assert tested.ok, (number, tested)
        keys = world.holder(reader="reader.bob" if act == "add" else "reader")
        assert reads(world, keys, point), number
    assert number > 5


def _do(world: KeysWorld, act: str, store: CrashStore | None) -> None:
    repository = world.repository(store)
    if act == "add":
        readers.add(repository, "bob", world.clock)
    else:
        readers.rotate(repository, world.clock)


@pytest.mark.parametrize("of", ["session", "index"])
def test_a_wrap_that_somebody_put_in_the_way_is_told(world: KeysWorld, of: str) -> None:
    """P12: it opens, and holds another key; the new reader would be left with it."""
    world.capture()
    name = INDEX_OBJECT if of == "index" else min(sessions(world.store))
    target = object_for(name, world.repository().roles.serial + 1)
    recipient = world.repository().keyring.identities[0].recipient
    world.store.put(target, wrap(_other_key(world, name), [recipient]))
    with pytest.raises(IntegrityError, match="another key"):
        readers.add(world.repository(), "bob", world.clock)
    found = keytest.run(world.repository())
    assert not found.ok
    assert any(target in what for what in found.damage), found.damage
    world.store.delete(target)
    readers.add(world.repository(), "bob", world.clock)
    assert keytest.run(world.repository()).ok


def _other_key(world: KeysWorld, name: str) -> bytes:
    """What a wrapped object holds, with other bytes for the key."""
    held = json.loads(unwrap(world.store.get(name), world.repository().keyring.identities, what=name))
    held["index" if "index" in held else "key"] = "A" * 43 + "="
    return json.dumps(held).encode()


def test_a_reader_whose_keys_were_not_wrapped_is_found(world: KeysWorld) -> None:
    """Fails closed (P12): the role table says that it reads, and it does not."""
    world.capture()
    store = CrashStore(world.store)
    readers.add(world.repository(store), "bob", world.clock)
    for name in [name for name in objects(world) if name.endswith("-00000002")]:
        world.store.delete(name)
    found = keytest.run(world.repository())
    (bob,) = (key for key in found.opening if key.file == "reader.bob.agekey")
    assert (found.ok, len(bob.shut_out), bob.index) == (False, 1, False)
    readers.add(world.repository(), "bob", world.clock)
    assert keytest.run(world.repository()).ok


def test_a_key_whose_object_was_lost_is_found_in_the_next(world: KeysWorld) -> None:
    """A wrap more is a copy more of the key."""
    point = world.capture()
    readers.add(world.repository(), "bob", world.clock)
    name = min(sessions(world.store))
    store = replaced(replaced(world.store, name, None), INDEX_OBJECT, b"junk")
    only = world.repository(store, world.holder(reader="reader"))
    assert world.restored(point, only) == world.contents()
    found = keytest.run(world.repository(store))
    assert (found.sessions, [key.index for key in found.opening if "default" in key.domains]) == (1, [True] * 3)
    assert {what.partition(":")[0] for what in found.damage} == {INDEX_OBJECT}, "and the damage is told"


def test_keys_test_tells_what_signs_and_counts_no_more(world: KeysWorld) -> None:
    """A host that holds a retired key learns it before its next capture."""
    world.capture()
    old = world.keys_with("trust.json", "capture.json")
    assert keytest.run(world.repository(keys=old)).ok
    keyadmin.rotate(world.repository(), "capture", world.clock)
    found = keytest.run(world.repository(keys=old))
    assert [(key.file, key.state) for key in found.signing] == [("capture.json", "retired")]
    assert not found.ok


def test_a_session_that_opens_to_nobody_is_no_success(world: KeysWorld) -> None:
    """Fails closed; unless the domain that it may be of was shredded."""
    world.capture()
    readers.add(world.repository(), "bob", world.clock)
    stranger = Identity.generate()
    name = f"keys/session-{'ab' * 16}"
    world.store.put(name, wrap(b"{}", [stranger.recipient]))
    found = keytest.run(world.repository())
    assert (found.ok, found.unopened, found.elsewhere) == (False, ("ab" * 16,), ())
    assert not keytest.run(world.repository(keys=world.holder(reader="reader", recovery="recovery"))).ok


def test_somebody_always_reads(world: KeysWorld) -> None:
    """And no two domains have a key in common, or neither could be shredded."""
    recipients = world.repository().roles.recipients(DEFAULT_DOMAIN)
    readers.remove(world.repository(), recipients[1], world.clock)
    with pytest.raises(TargetRefused, match="Nobody else"):
        readers.plan_remove(world.repository(), recipients[0])
    with pytest.raises(TargetRefused, match="in common"):
        readers.plan_add(world.repository(), "bob", "evidence", recipients[0])
    with pytest.raises(TargetRefused, match="no age recipient"):
        readers.plan_add(world.repository(), "bob", recipient="age1nonsense")
    with pytest.raises(TargetRefused, match="reads nothing"):
        readers.plan_remove(world.repository(), Identity.generate().recipient)
    with pytest.raises(Denied):
        readers.add(world.repository(keys=world.keys_with("trust.json", "root.json")), "bob", world.clock)
    assert world.repository().roles.serial == 2


def test_a_domain_may_have_a_second_reader(world: KeysWorld) -> None:
    """Its file stands for itself, and shredding the domain says whose key is left to destroy."""
    readers.add(world.repository(), "lawyer", world.clock, "evidence")
    (key,) = Keyring(world.holder(evidence="evidence.lawyer")).identities_in("evidence.agekey")
    assert key.recipient in world.repository().roles.recipients("evidence")
    assert any("lawyer" in step.what for step in plan(world.repository(), "evidence").steps)


# Plugins ------------------------------------------------------------------------------------------------------------


def bech32(prefix: str, data: bytes) -> str:
    """BIP 173, as age writes recipients and identities."""
    alphabet, generator = (
        "qpzry9x8gf2tvdw0s3jn54khce6mua7l",
        (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3),
    )
    bits = int.from_bytes(data, "big") << (-len(data) * 8 % 5)
    words = [bits >> 5 * n & 31 for n in reversed(range((len(data) * 8 + 4) // 5))]
    check = 1
    spread = [ord(c) >> 5 for c in prefix] + [0] + [ord(c) & 31 for c in prefix]
    for word in [*spread, *words, 0, 0, 0, 0, 0, 0]:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ word
        for bit, factor in enumerate(generator):
            check ^= factor * (top >> bit & 1)
    words += [(check ^ 1) >> 5 * (5 - n) & 31 for n in range(6)]
    return f"{prefix}1{''.join(alphabet[word] for word in words)}"


def test_a_reader_may_be_a_plugins(world: KeysWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hardware key or a KMS reads as any other; without its program the error names it (P12)."""
    recipient = bech32("age1resurgamtest", b"card 7")
    identity = bech32("age-plugin-resurgamtest-", b"card 7").upper()
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "age-plugin-resurgamtest"
    program.write_text(PLUGIN.replace("{python}", sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    point = world.capture()
    with pytest.raises(MissingExtra, match="age-plugin-resurgamtest"):
        readers.add(world.repository(), "card", world.clock, recipient=recipient)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    readers.add(world.repository(), "card", world.clock, recipient=recipient)  # which goes on where it stopped

    keys = world.keys_with("trust.json")
    held = Path(keys) / "reader.agekey"
    held.write_text(f"# vault: {world.repository().vault.hex()}\n# public key: {recipient}\n{identity}\n")
    held.chmod(0o600)
    assert reads(world, keys, point)
    assert reads(world, keys, world.capture())
    (tested,) = keytest.run(world.repository(keys=keys)).opening
    assert (tested.ok, tested.domains, tested.opens) == (True, ("default",), 2)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(MissingExtra, match="age-plugin-resurgamtest"):
        _ = world.repository(keys=keys).secret


# Paper --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["recovery.agekey", "root.json", "evidence.agekey", "capture.json"])
def test_a_key_comes_back_from_paper(world: KeysWorld, file: str) -> None:
    """Also where spaces were typed otherwise; it opens or signs as before."""
    keyring = Keyring(world.keys)
    page = paper(file, keyring.contents(file), "test")
    typed = "\n".join(line.replace("  ", " ").strip() for line in page.splitlines())
    folder = world.keys_with("trust.json")
    with open(os.open(f"{folder}/{file}", os.O_CREAT | os.O_WRONLY, 0o600), "wb") as made:
        made.write(from_paper(typed))
    again = Keyring(folder)
    if file.endswith(".json"):
        role = file.removesuffix(".json")
        assert again.signer(role).key_id == keyring.signer(role).key_id
    else:
        assert again.identities_in(file)[0].recipient == keyring.identities_in(file)[0].recipient
    if file == "recovery.agekey":
        assert Keyring.from_recovery(f"{folder}/{file}").trust.root == keyring.trust.root


def test_every_slip_in_typing_is_found(world: KeysWorld) -> None:
    """P12: another character anywhere in a line, a line left out, two lines swapped."""
    page = paper("recovery.agekey", Keyring(world.keys).contents("recovery.agekey"), "test")
    lines = page.splitlines()
    numbered = [at for at, line in enumerate(lines) if " = " in line]
    assert len(numbered) > 5
    for at in numbered:
        body, mark, check = lines[at].partition(" = ")
        for place in range(8, len(body.rstrip())):
            if body[place] != " ":
                slipped = body[:place] + ("x" if body[place] != "x" else "y") + body[place + 1 :]
                with pytest.raises(IntegrityError, match=r"line \d+\.\d+ is not"):
                    from_paper("\n".join([*lines[:at], slipped + mark + check, *lines[at + 1 :]]))
        with pytest.raises(IntegrityError):
            from_paper("\n".join(lines[:at] + lines[at + 1 :]))
    assert from_paper("\n".join(reversed(lines))) == from_paper(page), "lines bear their numbers"
    with pytest.raises(IntegrityError):
        from_paper("")


def test_rewrapping_needs_the_keys_that_open(world: KeysWorld) -> None:
    """Without them nothing is wrapped, and that is counted."""
    world.capture()
    done = rewrap(world.repository(), "evidence", [Identity.generate()])
    assert (done.wrapped, done.closed) == (0, len(sessions(world.store)))
