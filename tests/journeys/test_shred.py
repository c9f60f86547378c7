"""Shredding: what was answered becomes unreadable for ever, points still restore, records still verify, and all of it is said."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from resurgam.clock import SystemClock
from resurgam.errors import Busy, Denied, NotFound, TargetRefused
from resurgam.stores.local import LocalStore
from resurgam.vault.codecs import decode
from resurgam.vault.keyring import Keyring
from resurgam.vault.keys import session_object, unwrap_session
from resurgam.vault.pack import FRAME, NO_SESSION, decrypt, frames
from resurgam.vault.repository import Repository
from resurgam.vault.shred import add_domain
from tests.journeys.world import World, tree


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(str(tmp_path)).ready()


def opened(world: World) -> Repository:
    return Repository(LocalStore(world.path("vault")), Keyring(world.path("keys")))


def contents(repository: Repository) -> Iterator[bytes]:
    """Every chunk that any of the keys in the keys folder opens, wherever it lies and whatever it belongs to."""
    keyring = repository.keyring
    files = [
        name.removesuffix(".agekey") for name in os.listdir(os.path.dirname(keyring.path_of("x"))) if "agekey" in name
    ]
    identities = [key for name in files for key in keyring.identities_in(f"{name}.agekey")]
    for entry in repository.store.list("packs/"):
        data = memoryview(repository.store.get(entry.name))
        for offset, frame in frames(data):
            if frame.session == NO_SESSION:
                continue
            try:
                wrapped = repository.store.get(session_object(frame.session))
                cipher = unwrap_session(wrapped, repository.vault, frame.session, identities).cipher
            except Denied:
                continue
            piece = data[offset : offset + FRAME + frame.stored]
            yield bytes(decode(frame.codec, decrypt(cipher, repository.vault, piece, frame), frame.raw))


def in_the_clear(world: World) -> bytes:
    """Everything that the vault's records say, as whoever holds the store reads it."""
    repository, said = opened(world), b""
    for folder in ("points/", "records/", "log/", "roles/", "leases/"):
        for entry in repository.store.list(folder):
            said += base64.b64decode(json.loads(repository.store.get(entry.name))["payload"])
    return said


def said_by(world: World) -> list[bytes]:
    """Answers of the live system, as they stand in JSON; none of which is a text of its components."""
    answers = [answer for answer in world.system.ask().values() if len(answer) > 20]
    assert answers
    return [json.dumps(answer, ensure_ascii=False).encode() for answer in answers]


def test_no_answer_stays_readable_and_every_point_restores(world: World) -> None:
    """P2, P10: the plan changes nothing; after the act no key that is left opens an answer, and the rest is as it was."""
    point = world.capture()
    answers = said_by(world)
    assert world.run("verify", "--into", world.place("judged")).code == 0
    assert world.run("reference", "approve", point).code == 0
    world.system.write("prompts/answer.txt", "Otherwise: {title}: {body}")
    world.capture()
    assert world.run("verify").code == 20  # with deviations that quote both answers
    assert any(answer in chunk for answer in answers for chunk in contents(opened(world))), "else this shows nothing"
    assert not any(answer.strip(b'"') in in_the_clear(world) for answer in answers)

    before = tree(world.path("vault")) | tree(world.path("keys"))
    planned = world.run("vault", "shred", "evidence")
    assert planned.code == 0, planned
    assert "unreadable for ever: what was answered around 2 captures" in planned.out
    assert "unreadable for ever: the evidence of 2 verdicts" in planned.out
    assert "nothing was changed" in planned.out
    assert tree(world.path("vault")) | tree(world.path("keys")) == before

    done = world.run("vault", "shred", "evidence", "--yes", "--why", "request\x1b[2J\n118", "--json")
    assert done.code == 0, done
    assert opened(world).roles.shredded["evidence"].why == "request [2J 118", "nothing that moves a cursor"
    assert not os.path.exists(world.path("keys/evidence.agekey"))
    left = list(contents(opened(world)))
    assert left
    assert not any(answer in chunk for answer in answers for chunk in left)
    assert tree(world.path("vault")).items() >= {k: v for k, v in before.items() if "/" in k}.items(), (
        "P2: nothing rewritten"
    )

    for found in world.points():
        assert world.run("restore", found, "--into", world.place(f"out-{found}")).code == 0
        assert [r.type for r in opened(world).records(found)], "each record still verifies"
    checked = world.run("vault", "check", "--read")
    assert (checked.code, "the domain evidence were not decrypted" in checked.out) == (0, True), checked


def test_what_is_left_is_said_and_judged(world: World) -> None:
    """P4: report and show tell the day; yardsticks that are gone are named, and what is left judges."""
    point = world.capture()
    assert world.run("verify").code == 0
    assert world.run("reference", "approve", point).code == 0
    shred(world)
    day = opened(world).shredded("evidence")[:10]

    told = world.run("report", point, "--html", world.place("page.html"), "--junit", world.place("page.xml"))
    assert told.code == 0, told
    assert f"The signed record says: identical. The answers were shredded on {day}" in told.out
    assert f"not judged: answers: what was asked and answered was shredded on {day}" in told.out
    assert day in Path(world.place("page.html")).read_text()
    assert f"shredded on {day}" in world.run("show", point).out

    first = world.run("verify", point)
    assert first.code == 21, first
    assert f"golden: inconclusive: no yardstick: the answers of the witness were shredded on {day}" in first.out
    assert f"the answers of the baseline were shredded on {day}" in first.out
    assert f"reference: inconclusive: its answers were shredded on {day}: approve another one" in first.out
    assert world.run("reference", "approve", point).code == 0, "by the answers that were just given"
    again = world.run("verify", point)
    assert again.code == 0, again
    judged = world.run("report", point, "--json").json
    assert judged["judgement"] == "identical"
    assert all(f"the witness were shredded on {day}" in j["reason"] for p in judged["probes"] for j in p["judged"])


def test_answers_go_on_in_a_new_domain(world: World) -> None:
    """What is answered afterwards can be read, also where it is to the letter what was shredded."""
    world.capture()
    assert world.run("verify").code == 0
    shred(world)
    answers = said_by(world)
    point = world.capture()
    assert opened(world).sealed(point).body.evidence == "evidence-2"
    assert any(answers[0] in chunk for chunk in contents(opened(world)))
    assert world.run("verify", point).code == 0
    assert world.run("report", point, "--json").json["judgement"] == "identical"
    shred(world, "evidence-2")
    assert opened(world).roles.evidence == "evidence-3"
    assert sorted(opened(world).roles.shredded) == ["evidence", "evidence-2"]


@pytest.mark.parametrize("where", ["make_identity", "destroy"])
def test_a_shredding_that_was_stopped_is_ended_by_the_same_command(
    world: World, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """P12: as long as the identity is here, the same words end it; there is one successor."""
    world.capture()
    whole = getattr(Keyring, where)

    def stopped(keyring: Keyring, domain: str) -> object:
        if where == "make_identity":
            whole(keyring, domain)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Keyring, where, stopped)
        assert world.run("vault", "shred", "evidence", "--yes").code == 130
    assert os.path.exists(world.path("keys/evidence.agekey"))
    assert bool(opened(world).shredded("evidence")) == (where == "destroy")
    shred(world)
    assert not os.path.exists(world.path("keys/evidence.agekey"))
    assert opened(world).roles.serial == 2
    assert {name for name in os.listdir(world.path("keys")) if "evidence" in name} == {"evidence-2.agekey"}
    again = world.run("vault", "shred", "evidence", "--yes")
    assert (again.code, "was shredded on" in again.err) == (4, True)


def test_of_two_who_sign_at_once_the_second_is_told_to_do_it_again(world: World) -> None:
    """P2, P12: a role table is create-only, and its loser has changed nothing."""
    first, second = opened(world), opened(world)
    add_domain(first, "orders", SystemClock())
    with pytest.raises(Busy, match="meanwhile") as refused:
        add_domain(second, "customers", SystemClock())
    assert "again" in refused.value.next_step
    assert "customers" not in opened(world).roles.domains
    add_domain(opened(world), "customers", SystemClock())
    assert {"orders", "customers"} <= opened(world).roles.domains.keys()


def test_what_is_not_here_is_not_said_to_be_destroyed_here(world: World) -> None:
    """P12, and a name that is none is told with those that are."""
    os.rename(world.path("keys/evidence.agekey"), world.path("elsewhere"))
    assert "keep reader.agekey, evidence.agekey and recovery.agekey elsewhere" in world.run("capture").out
    done = world.run("vault", "shred", "evidence", "--yes")
    assert "keep reader.agekey, evidence-2.agekey and recovery.agekey elsewhere" in world.run("capture").out
    assert (done.code, "destroyed here" in done.out, "evidence.agekey was not here" in done.out) == (0, False, True)
    unknown = world.run("vault", "shred", "evidense-2")
    assert (unknown.code, "Nothing was changed." in unknown.err, "Did you mean 'evidence-2'?" in unknown.err) == (
        4,
        True,
        True,
    ), unknown


def test_a_missing_key_of_answers_is_named_and_no_verdict_is_made_without(world: World) -> None:
    """P12: a key that is elsewhere is not a witness that was shredded; to restore, nobody needs it."""
    point = world.capture()
    os.rename(world.path("keys/evidence.agekey"), world.path("elsewhere"))
    for verb in (("verify", point), ("verify", point, "--live")):
        refused = world.run(*verb)
        assert (refused.code, "evidence.agekey" in refused.err) == (6, True), refused
    assert opened(world).records(point) == []
    assert world.run("restore", point, "--into", world.place("out")).code == 0
    assert "open with evidence.agekey" in world.run("show", point).out


def test_a_promotion_that_would_be_watched_asks_for_the_key_before_it_switches(world: World) -> None:
    """P12: it is told by the plan, and not when live is to be judged."""
    point = world.capture()
    assert world.run("verify", point, "--into", world.place("judged")).code == 0
    os.rename(world.path("keys/evidence.agekey"), world.path("elsewhere"))
    assert world.run("promote", world.place("judged"), "--dry-run").code == 0, "who watches nothing needs none"
    world.manifest(("isolation: required", "isolation: required\npromotion: {watch: 1s}"))
    before = tree(world.system.root)
    for more in ("--dry-run", "--yes"):
        refused = world.run("promote", world.place("judged"), more)
        assert (refused.code, "evidence.agekey" in refused.err) == (6, True), refused
    assert tree(world.system.root) == before


def test_a_component_in_a_domain_of_its_own_is_shredded_apart(world: World) -> None:
    """Its content is gone from every point, its neighbours restore, and the plan says where answers about it still lie."""
    assert world.run("vault", "add-domain", "customers").code == 0
    world.manifest(("location: data/handbook.db,", "location: data/handbook.db, shred_domain: customers,"))
    point = world.capture()
    planned = world.run("vault", "shred", "customers")
    assert "unreadable for ever: documents in 1 point" in planned.out
    assert "keep: what probes answered: that lies in evidence" in planned.out
    shred(world, "customers")
    refused = world.run("restore", point, "--into", world.place("all"))
    assert (refused.code, "The shred domain customers was shredded on" in refused.err) == (4, True), refused
    assert not os.path.exists(world.place("all"))
    assert world.run("restore", point, "--into", world.place("one"), "--component", "prompts").code == 0
    refused = world.run("capture")
    assert (refused.code, "customers was shredded" in refused.err) == (4, True), "nothing is written to nobody"


def test_what_cannot_be_shredded_is_refused(world: World) -> None:
    """P10, P12: nor is anything without the root key; nothing is changed."""
    world.capture()
    before = tree(world.path("vault")) | tree(world.path("keys"))
    assert world.run("vault", "shred", "default", "--yes").code == TargetRefused.exit_code
    assert world.run("vault", "shred", "nobody", "--yes").code == NotFound.exit_code
    assert world.run("vault", "add-domain", "reader").code == TargetRefused.exit_code
    assert world.run("vault", "add-domain", "../x").code == TargetRefused.exit_code
    os.rename(world.path("keys/root.json"), world.path("root.json"))
    refused = world.run("vault", "shred", "evidence", "--yes")
    assert (refused.code, "root.json" in refused.err) == (Denied.exit_code, True)
    os.rename(world.path("root.json"), world.path("keys/root.json"))
    assert tree(world.path("vault")) | tree(world.path("keys")) == before


def test_an_older_vault_gets_a_domain_for_its_answers(tmp_path: Path) -> None:
    """P3: a vault of before answers lay apart takes them in from the next capture on; its points are as they were."""
    world = World(str(tmp_path)).ready()
    kept = Path(__file__).parents[1] / "format/kept"
    shutil.rmtree(world.path("vault"))
    shutil.rmtree(world.path("keys"))
    shutil.copytree(kept / "vault", world.path("vault"))
    shutil.copytree(kept / "keys", world.path("keys"))
    os.chmod(world.path("keys"), 0o700)
    for name in os.listdir(world.path("keys")):
        os.chmod(world.path(f"keys/{name}"), 0o600)
    assert opened(world).roles.evidence == "default"
    old = opened(world).points()
    assert opened(world).sealed(world.capture()).body.evidence == "default"
    assert world.run("vault", "add-domain", "evidence").code == 0
    assert opened(world).sealed(world.capture()).body.evidence == "evidence"
    assert [opened(world).particulars(sealed.body) for sealed in old]
    shred(world)
    assert world.run("vault", "check", "--read").code == 0


def shred(world: World, domain: str = "evidence") -> None:
    done = world.run("vault", "shred", domain, "--yes")
    assert done.code == 0, done
