"""The keys folder: made at once, never over anything, used only while it is private, and parted by moving files."""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyrage  # type: ignore[import-untyped]
import pytest

from resurgam.errors import Denied, IntegrityError, NewerFormat, StoreFull, TargetRefused
from resurgam.vault import keyfiles
from resurgam.vault.age import Identity
from resurgam.vault.keyformat import PURPOSES
from resurgam.vault.keyring import Keyring, NewKeys
from resurgam.vault.keys import INDEX_OBJECT, IndexSecret, unwrap_index
from resurgam.vault.passphrase import FILE_VARIABLE, protect
from resurgam.vault.records import latest_roles
from resurgam.vault.signing import Role

VAULT = bytes(range(16))
Use = Callable[[Keyring], object]
MADE = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


class Made:
    """A new vault's keys, and the objects that its vault begins with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "keys"
        self.new: NewKeys = Keyring.create(str(self.folder), VAULT, "handbook", MADE)
        self.keyring = Keyring(str(self.folder))

    def wrapped_index(self, opened: Callable[[bytes], IndexSecret]) -> IndexSecret:
        return opened(self.new.objects[INDEX_OBJECT])

    def moved(self, *files: str) -> Keyring:
        """A keyring on another host, with only ``files``."""
        there = self.folder.parent / "there"
        there.mkdir(mode=0o700)
        for file in files:
            shutil.copy(self.folder / file, there / file)
        return Keyring(str(there))


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


def never(_opened: Callable[[bytes], IndexSecret]) -> IndexSecret:
    raise AssertionError("the vault was asked, though the key is here")


def test_all_keys_are_made_private(made: Made) -> None:
    assert {p.name for p in made.folder.iterdir()} == set(PURPOSES)
    assert made.folder.stat().st_mode & 0o777 == 0o700
    assert {p.stat().st_mode & 0o777 for p in made.folder.iterdir()} == {0o600}
    assert [p.name for p in made.folder.parent.iterdir()] == ["keys"], "nothing half-made is left beside it"


def test_the_person_is_told_what_to_do_with_each(made: Made) -> None:
    told = {os.path.basename(file.path): file for file in made.new.files}
    assert set(told) == set(PURPOSES) - {"trust.json"}
    for offline in ("recovery.agekey", "root.json"):
        assert "off this machine" in told[offline].advice
    assert all(os.path.exists(file.path) and file.purpose for file in made.new.files)


def test_role_table_pins_the_keys_that_were_made(made: Made) -> None:
    """What the vault begins with is believed by its keyring alone, and wraps the index to both readers (P3)."""
    keyring = made.keyring
    roles = latest_roles(
        [(n, d) for n, d in made.new.objects.items() if n.startswith("roles/")], VAULT, keyring.trust.root
    ).table
    for role in Role:
        assert roles.lists(keyring.signer(role).public, role)
    assert roles.recipients("default") == tuple(identity.recipient for identity in keyring.identities)
    own = keyring.index_secret(never).secret_bytes()
    for identity in keyring.identities:
        assert unwrap_index(made.new.objects[INDEX_OBJECT], VAULT, [identity]).secret_bytes() == own


def test_nothing_is_ever_overwritten(made: Made, tmp_path: Path) -> None:
    before = {p.name: p.read_bytes() for p in made.folder.iterdir()}
    with pytest.raises(TargetRefused):
        Keyring.create(str(made.folder), VAULT, "again", MADE)
    assert {p.name: p.read_bytes() for p in made.folder.iterdir()} == before
    with pytest.raises(TargetRefused):
        Keyring.create(str(made.folder / "trust.json"), VAULT, "again", MADE)
    with pytest.raises(TargetRefused):
        Keyring.create(str(made.folder / "trust.json" / "below"), VAULT, "again", MADE)


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    Made(tmp_path)
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700


def test_a_folder_filled_meanwhile_wins(tmp_path: Path) -> None:
    """The last rename itself refuses, so two `vault init` cannot mix their keys."""
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "theirs").write_bytes(b"")
    with pytest.raises(TargetRefused):
        keyfiles.write_private_folder(str(tmp_path / "keys"), {"ours": b"x"})
    assert [p.name for p in tmp_path.rglob("*")] == ["keys", "theirs"]


def test_all_or_nothing_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = keyfiles._write_private

    def full_at_the_end(path: str, data: bytes) -> None:
        if path.endswith("recovery.agekey"):
            raise OSError(28, "No space left on device")
        real(path, data)

    monkeypatch.setattr(keyfiles, "_write_private", full_at_the_end)
    with pytest.raises(StoreFull):
        Made(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_capture_host_cannot_read(made: Made) -> None:
    """P9: with what it needs to add, it has no identity and no voice but its own."""
    host = made.moved("trust.json", "capture.json")
    assert not host.can_read
    assert host.index_secret(never).vault == VAULT
    assert host.signer("capture").role == "capture"
    with pytest.raises(Denied, match=r"reader\.agekey"):
        _ = host.identities
    for role in ("verifier", "approver", "root"):
        with pytest.raises(Denied, match=rf"{role}\.json") as denied:
            host.signer(role)
        assert denied.value.next_step
        assert PURPOSES[f"{role}.json"] in denied.value.message


def test_a_role_of_a_later_release_is_named(made: Made) -> None:
    with pytest.raises(Denied, match=r"witness\.json"):
        made.keyring.signer("witness")


def test_pruning_host_finds_chunks_and_opens_none(made: Made) -> None:
    """P9: it has the index secret of its own file, and no identity."""
    host = made.moved("trust.json", "pruner.json")
    assert not host.can_read
    assert host.index_secret(never).secret_bytes() == made.keyring.index_secret(never).secret_bytes()
    assert host.signer("pruner").role == "pruner"


def test_auditor_alone_opens_nothing(made: Made) -> None:
    """P9: it signs checkpoints, and has neither the index secret nor an identity."""
    host = made.moved("trust.json", "auditor.json")
    assert host.signer("auditor").role == "auditor"
    with pytest.raises(Denied, match=r"opens the vault's index.*pruner\.json"):
        host.index_secret(made.wrapped_index)


def test_verifying_host_opens_the_index_from_the_vault(made: Made) -> None:
    """P9: it judges and does not capture."""
    host = made.moved("trust.json", "reader.agekey", "verifier.json")
    assert host.can_read
    assert host.index_secret(made.wrapped_index).secret_bytes() == made.keyring.index_secret(never).secret_bytes()
    with pytest.raises(Denied, match=r"capture\.json"):
        host.signer("capture")


def test_approver_alone_opens_nothing(made: Made) -> None:
    host = made.moved("trust.json", "approver.json")
    assert not host.can_read
    with pytest.raises(Denied):
        host.index_secret(made.wrapped_index)


def test_recovery_key_and_vault_are_enough(made: Made, tmp_path: Path) -> None:
    """P3: no other file of the keyring exists any more."""
    stick = tmp_path / "stick"
    shutil.copy(made.folder / "recovery.agekey", stick)
    expected = made.keyring.index_secret(never).secret_bytes()
    trust = made.keyring.trust
    shutil.rmtree(made.folder)
    keyring = Keyring.from_recovery(str(stick))
    assert (keyring.vault, keyring.trust.root, keyring.trust.name) == (VAULT, trust.root, "handbook")
    assert keyring.can_read
    assert keyring.index_secret(made.wrapped_index).secret_bytes() == expected
    with pytest.raises(Denied, match=r"capture\.json"):
        keyring.signer("capture")


def test_a_domain_of_its_own_opens_with_its_own_file_alone(made: Made) -> None:
    """What makes it possible to shred it: neither the reader nor the recovery key opens it."""
    own = Identity((made.folder / "evidence.agekey").read_text().splitlines()[-1]).recipient
    assert [key.recipient for key in made.keyring.opening("evidence", [own])] == [own]
    host = made.moved("trust.json", "reader.agekey", "recovery.agekey")
    with pytest.raises(Denied, match=r"evidence\.agekey"):
        host.opening("evidence", [own])
    assert [key.recipient for key in host.opening("evidence", [own, host.identities[0].recipient])], "the table decides"


@pytest.mark.parametrize(
    ("held", "why"), [("", "holds no key"), ("reader", "holds no key"), ("no identity\n", "cannot be used")]
)
def test_a_file_that_does_not_open_its_domain_is_told_apart_from_none(made: Made, held: str, why: str) -> None:
    """P12: whoever is told that it is not there, looks for it in vain."""
    path = made.folder / "evidence.agekey"
    own = Identity(path.read_text().splitlines()[-1]).recipient
    path.write_text((made.folder / "reader.agekey").read_text() if held == "reader" else held)
    with pytest.raises((Denied, IntegrityError), match=rf"evidence\.agekey {why}") as refused:
        made.keyring.opening("evidence", [own])
    assert refused.value.next_step == "Bring it back from your copy of it."


def test_the_identity_of_a_domain_is_made_once_and_destroyed_for_good(made: Made) -> None:
    """What was there is overwritten before its name goes, so that a second name of it says nothing either."""
    keyring, path = made.keyring, made.folder / "customers.agekey"
    first = keyring.make_identity("customers").recipient
    assert keyring.make_identity("customers").recipient == first, "one that an interrupted run made is taken up"
    assert path.stat().st_mode & 0o777 == 0o600
    os.link(path, made.folder / "seen")
    size = path.stat().st_size
    keyring.destroy("customers")
    keyring.destroy("customers")
    assert not path.exists()
    assert (made.folder / "seen").read_bytes() == bytes(size)
    assert not list(made.folder.glob("*.partial-*"))


def test_a_link_in_the_place_of_an_identity_is_not_followed(made: Made, tmp_path: Path) -> None:
    """P12: what it leads to is not ours to overwrite."""
    (tmp_path / "theirs").write_text("theirs")
    (made.folder / "customers.agekey").symlink_to(tmp_path / "theirs")
    with pytest.raises(Denied):
        made.keyring.destroy("customers")
    assert (tmp_path / "theirs").read_text() == "theirs"


def test_identity_files_are_plain_age_ones(made: Made) -> None:
    """Any age tool takes them: comments, then one identity."""
    lines = (made.folder / "recovery.agekey").read_text().splitlines()
    (secret,) = [line for line in lines if not line.startswith("#")]
    plain = pyrage.x25519.Identity.from_str(secret)
    assert json.loads(pyrage.decrypt(made.new.objects[INDEX_OBJECT], [plain]))["vault"] == VAULT.hex()
    assert f"# vault: {VAULT.hex()}" in lines


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_key_others_can_reach_is_not_used(made: Made, mode: int) -> None:
    uses: dict[str, Use] = {"capture.json": lambda k: k.signer("capture"), "reader.agekey": lambda k: k.identities}
    for file, use in uses.items():
        path = made.folder / file
        path.chmod(mode)
        with pytest.raises(Denied, match="others") as denied:
            use(Keyring(str(made.folder)))
        assert f"chmod 600 {path}" in denied.value.next_step
        path.chmod(0o600)
        use(Keyring(str(made.folder)))


def test_open_folder_is_not_used(made: Made) -> None:
    made.folder.chmod(0o750)
    with pytest.raises(Denied) as denied:
        made.keyring.signer("capture")
    assert f"chmod 700 {made.folder}" in denied.value.next_step


def test_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(Denied, match="no keys folder"):
        _ = Keyring(str(tmp_path / "nowhere")).trust


def test_missing_recovery_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(Denied, match="nowhere"):
        Keyring.from_recovery(str(tmp_path / "nowhere"))


def test_keys_of_another_vault_are_refused(made: Made, tmp_path: Path) -> None:
    """P12: a mixed folder is found before anything is signed or opened with it."""
    Keyring.create(str(tmp_path / "other"), bytes(16), "other", MADE)
    uses: list[tuple[str, Use]] = [
        ("capture.json", lambda k: k.signer("capture")),
        ("capture.json", lambda k: k.index_secret(never)),
        ("verifier.json", lambda k: k.signer("verifier")),
        ("recovery.agekey", lambda k: k.identities),
    ]
    for file, use in uses:
        shutil.copy(tmp_path / "other" / file, made.folder / file)
        with pytest.raises(Denied, match="not of handbook"):
            use(Keyring(str(made.folder)))


def test_a_key_file_of_another_role_is_refused(made: Made) -> None:
    shutil.copy(made.folder / "capture.json", made.folder / "verifier.json")
    with pytest.raises(IntegrityError, match="role verifier"):
        made.keyring.signer("verifier")


def test_any_key_file_may_be_under_a_passphrase(made: Made) -> None:
    """It is asked for once; and a wrong one opens nothing (P12)."""
    asked: list[str] = []

    def answer(path: str) -> str:
        asked.append(os.path.basename(path))
        return "six words taken by chance"

    for file in ("reader.agekey", "verifier.json"):
        path = made.folder / file
        path.write_bytes(protect(path.read_bytes(), "six words taken by chance"))
    keyring = Keyring(str(made.folder), answer)
    for _ in range(2):
        assert keyring.identities[0].recipient == keyring.identities_in("reader.agekey")[0].recipient
        assert keyring.signer("verifier").role == "verifier"
    assert asked == ["reader.agekey", "verifier.json"]
    with pytest.raises(Denied, match="passphrase does not open"):
        _ = Keyring(str(made.folder), lambda _: "another").identities


def test_a_passphrase_of_a_file_is_read_where_nobody_can_be_asked(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P12: without it the error says what to do; a file that others can read is not used."""
    path, held = made.folder / "reader.agekey", tmp_path / "passphrase"
    path.write_bytes(protect(path.read_bytes(), "six words taken by chance"))
    monkeypatch.delenv(FILE_VARIABLE, raising=False)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(Denied, match="nobody is here") as denied:
        _ = Keyring(str(made.folder)).identities
    assert FILE_VARIABLE in denied.value.next_step
    held.write_text("six words taken by chance\n")
    monkeypatch.setenv(FILE_VARIABLE, str(held))
    held.chmod(0o644)
    with pytest.raises(Denied, match="others"):
        _ = Keyring(str(made.folder)).identities
    held.chmod(0o600)
    assert Keyring(str(made.folder)).identities


def test_a_protected_recovery_key_and_the_vault_are_enough(made: Made) -> None:
    """P3."""
    path = made.folder / "recovery.agekey"
    path.write_bytes(protect(path.read_bytes(), "six words taken by chance"))
    keyring = Keyring.from_recovery(str(path), lambda _: "six words taken by chance")
    assert keyring.index_secret(made.wrapped_index).vault == VAULT


def test_newer_key_file_is_not_guessed_at(made: Made) -> None:
    path = made.folder / "capture.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(NewerFormat):
        made.keyring.signer("capture")


def test_no_secret_in_what_is_said(made: Made) -> None:
    """P12: neither the keyring nor the errors over its damaged files repeat a secret, also not by their causes."""
    path = made.folder / "capture.json"
    content = json.loads(path.read_text())
    identity = (made.folder / "reader.agekey").read_text().splitlines()[-1]
    secrets = [content["key"], content["index"], identity]
    secrets += [base64.b64decode(content[name]).hex() for name in ("key", "index")]
    said = [repr(made.keyring), str(made.keyring.identities), repr(made.keyring.signer("capture"))]
    damages = [
        path.read_text()[:-30],
        json.dumps(content | {"role": content["key"]}),
        json.dumps(content | {"key": content["key"][:-3]}),
        json.dumps(content | {"vault": 7}),
    ]
    for damage in damages:
        path.write_text(damage)
        with pytest.raises((IntegrityError, Denied)) as error:
            made.keyring.signer("capture")
        said += [str(error.value), repr(error.value), repr(error.value.__cause__)]
    (made.folder / "reader.agekey").write_text(identity[:-2] + "\n")
    with pytest.raises(IntegrityError) as error:
        _ = Keyring(str(made.folder)).identities
    said += [str(error.value), repr(error.value.__cause__)]
    assert not [secret for secret in secrets for text in said if secret[:20] in text]
    with pytest.raises(TypeError):
        pickle.dumps(made.keyring)


def test_public_objects_hold_no_private_half(made: Made) -> None:
    """P9: what goes into the vault is public, or wrapped to readers."""
    for file in made.folder.iterdir():
        text = file.read_text()
        words = [text.splitlines()[-1]] if file.suffix == ".agekey" else []
        if file.suffix == ".json" and file.name != "trust.json":
            words = [value for key, value in json.loads(text).items() if key in {"key", "index"}]
        for word in words:
            for data in made.new.objects.values():
                assert word.encode() not in data
                payload = json.loads(data)["payload"] if data.startswith(b"{") else ""
                assert word.encode() not in base64.b64decode(payload)
