"""Records: who may say what, and every way in which one is refused."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest

from resurgam.errors import IntegrityError, NewerFormat, NotFound
from resurgam.model.codec import to_json
from resurgam.vault.records import (
    NAMES_ITSELF,
    SIGNERS,
    RecordType,
    Subject,
    encode_statement,
    itself,
    latest_roles,
    make_record,
    read_record,
    read_roles,
    sign_roles,
    timestamp,
)
from resurgam.vault.roles import FORMAT, RoleKey, RoleTable, Shredded, role_table
from resurgam.vault.signing import MAX_DOCUMENT, Role, SigningKey, envelop, open_envelope, pae

VAULT = bytes(range(16))
OTHER = bytes(16)
MADE = datetime(2026, 3, 1, 12, 0, 0, 250, tzinfo=UTC)
KEYS = {role: SigningKey(role, bytes([n + 1]) * 32) for n, role in enumerate(Role)}
STRANGER = SigningKey(Role.CAPTURE, b"s" * 32)
TABLE = role_table(VAULT, 1, list(KEYS.values()), {"default": ("age1reader", "age1recovery")})
BODY = {"format": 1, "id": "p1", "items": 3}
POINT = itself("point/p1", BODY)


def record(
    type: RecordType, body: object = BODY, subject: Subject = POINT, key: SigningKey | None = None, vault: bytes = VAULT
) -> bytes:
    """A record as its rightful writer makes it."""
    key = key or KEYS[min(SIGNERS[type])]
    return make_record(type, subject, body, key, vault=vault, made=MADE)


def forged(type: str, key: SigningKey, **changes: Any) -> bytes:
    """A record as somebody makes it who holds ``key`` and keeps to no rule of ours."""
    words: dict[str, Any] = {"subject": POINT, "body": to_json(BODY), "by": key.role}
    words |= {"vault": VAULT, "made": timestamp(MADE)} | changes
    return envelop(encode_statement(type, words.pop("subject"), words.pop("body"), words.pop("by"), **words), [key])


def payload_of(data: bytes) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(base64.b64decode(json.loads(data)["payload"]))
    return decoded


@pytest.mark.parametrize("type", [t for t in RecordType if t not in NAMES_ITSELF])
def test_each_role_writes_its_types_and_no_other(type: RecordType) -> None:
    """P9: for every type and every role, the table SIGNERS decides, also against one who keeps to no rule of ours."""
    for role, key in KEYS.items():
        data = forged(type, key)
        if role in SIGNERS[type]:
            found = read_record(data, TABLE, VAULT)
            assert (found.type, found.by, found.signer) == (type, role, key.key_id)
        else:
            with pytest.raises(IntegrityError, match=f"the role {role} may not write"):
                read_record(data, TABLE, VAULT)


def test_capture_vouches_for_nothing() -> None:
    """P9 in one line each: what a stolen capture key can write."""
    allowed = {kind for kind, roles in SIGNERS.items() if Role.CAPTURE in roles}
    assert allowed == {RecordType.POINT, RecordType.LEASE, RecordType.REVOCATION, RecordType.LOG}
    shared = {RecordType.REVOCATION, RecordType.LOG, RecordType.LEASE, RecordType.CHECKED}
    assert all(len(SIGNERS[kind]) == 1 for kind in set(RecordType) - shared)


def test_capture_cannot_pose_as_the_verifier() -> None:
    """P9: naming the verifier's role does not help without the verifier's key."""
    with pytest.raises(IntegrityError, match="no key that the role table gives the role 'verifier'"):
        read_record(forged("verdict", KEYS[Role.CAPTURE], by="verifier"), TABLE, VAULT)


def test_a_record_comes_back_as_it_was_made() -> None:
    data = record(RecordType.POINT)
    found = read_record(data, TABLE, VAULT, {RecordType.POINT}, about="point/p1", what="points/p1")
    assert (found.subject, found.made, found.by) == (POINT, "2026-03-01T12:00:00.000250Z", "capture")
    assert json.loads(found.body) == BODY
    assert found.read(dict) == BODY
    statement = payload_of(data)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "urn:resurgam:point:v1"
    assert statement["subject"] == [{"name": "point/p1", "digest": {"blake3": POINT.digest}}]


def test_the_signature_is_the_standards() -> None:
    """DSSE's own test vector of the pre-authentication encoding, from protocol.md."""
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_programmers_mistake_is_no_record() -> None:
    with pytest.raises(AssertionError):
        record(RecordType.VERDICT, key=KEYS[Role.CAPTURE])


@pytest.mark.parametrize(
    ("rule", "data", "about"),
    [
        ("no key that the role table gives", forged("point", STRANGER), None),
        ("belongs to the vault", forged("point", KEYS[Role.CAPTURE], vault=OTHER), None),
        ("not about point/p2", record(RecordType.POINT), "point/p2"),
        ("where point belongs", record(RecordType.LEASE), None),
        ("not the type of a record", forged("Point", KEYS[Role.CAPTURE]), None),
        ("by a BLAKE3 digest", forged("point", KEYS[Role.CAPTURE], subject=Subject("point/p1", "00")), None),
        ("not that of its own body", forged("point", KEYS[Role.CAPTURE], body=b'{"id":"p2"}'), None),
        ("not a time", forged("point", KEYS[Role.CAPTURE], made="yesterday"), None),
        ("not a time in its one form", forged("point", KEYS[Role.CAPTURE], made="2026-3-01T12:00:00.000250Z"), None),
        ("a name stands twice", forged("point", KEYS[Role.CAPTURE], body=b'{"id":1,"id":2}'), None),
        ("is not JSON", forged("point", KEYS[Role.CAPTURE], body=b'{"id":NaN}'), None),
        ("not strict JSON", forged("point", KEYS[Role.CAPTURE], body=b"[" * 200_000), None),
        ("not an in-toto statement", envelop(b"{}", [KEYS[Role.CAPTURE]], "text/plain"), None),
        ("cannot be read", envelop(b"{}", [KEYS[Role.CAPTURE]]), None),
    ],
)
def test_each_rule_refuses(rule: str, data: bytes, about: str | None) -> None:
    """Whole and well signed, and still not what belongs here; the error names the rule (P12)."""
    with pytest.raises(IntegrityError, match=rule) as refused:
        read_record(data, TABLE, VAULT, {RecordType.POINT}, about=about, what="points/p1")
    assert refused.value.message.startswith("points/p1")
    assert refused.value.next_step


def test_statement_of_several_subjects_is_refused() -> None:
    payload = payload_of(record(RecordType.POINT))
    payload["subject"] *= 2
    with pytest.raises(IntegrityError, match="2 subjects"):
        read_record(envelop(to_json(payload), [KEYS[Role.CAPTURE]]), TABLE, VAULT)
    payload["_type"] = "https://in-toto.io/Statement/v0.1"
    with pytest.raises(IntegrityError, match="its statement is of type"):
        read_record(envelop(to_json(payload), [KEYS[Role.CAPTURE]]), TABLE, VAULT)


def test_no_byte_of_a_record_can_be_changed() -> None:
    """Every byte flipped in turn, and every cut: refused."""
    data = record(RecordType.POINT)
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1
        with pytest.raises(IntegrityError):
            read_record(bytes(changed), TABLE, VAULT)
        with pytest.raises(IntegrityError):
            read_record(data[:place], TABLE, VAULT)


def test_swapped_signature_and_keyid_are_refused() -> None:
    """The key id is a hint only: naming another key, or a signature of another record, helps nothing."""
    one, two = (
        json.loads(record(RecordType.POINT, body={"n": n}, subject=itself("point/p1", {"n": n}))) for n in (1, 2)
    )
    verifier = KEYS[Role.VERIFIER].key_id
    for signatures in (
        two["signatures"],
        [{"keyid": verifier, "sig": one["signatures"][0]["sig"]}],
        [{"keyid": "", "sig": one["signatures"][0]["sig"]}],
        [{"keyid": one["signatures"][0]["keyid"], "sig": ""}],
        [],
    ):
        with pytest.raises(IntegrityError, match="has signed it"):
            read_record(json.dumps(one | {"signatures": signatures}).encode(), TABLE, VAULT)


def test_a_second_signature_does_no_harm() -> None:
    """Room for later: an unknown or worthless signature beside a good one changes nothing; too many are refused."""
    data = record(RecordType.POINT)
    envelope = json.loads(data)
    good = envelope["signatures"]
    worthless = [{"keyid": good[0]["keyid"], "sig": "AAAA"}, {"keyid": "ffff", "sig": "AAAA"}]
    more = json.dumps(envelope | {"signatures": worthless + good}).encode()
    assert read_record(more, TABLE, VAULT) == read_record(data, TABLE, VAULT)
    with pytest.raises(IntegrityError, match="17 signatures"):
        read_record(json.dumps(envelope | {"signatures": good * 17}).encode(), TABLE, VAULT)


def test_envelope_is_read_strictly() -> None:
    data = record(RecordType.POINT)
    text = data.decode()
    payload = json.loads(data)["payload"]
    spoiled = [
        text.replace(payload, payload[:-4]),
        text.replace(payload, payload[:8] + "\\n" + payload[8:]),
        text.replace(payload, "-" + payload[1:]),
        text.replace('"payload":', '"payload":"","payload":'),
        text.replace(payload, payload + "===="),
        text + "x",
        "\ufeff" + text,
    ]
    for other in spoiled:
        assert other != text
        with pytest.raises(IntegrityError):
            read_record(other.encode(), TABLE, VAULT)
    with pytest.raises(IntegrityError):
        read_record(text.encode("utf-16"), TABLE, VAULT)


def test_base64_has_one_form() -> None:
    """Unused bits in the last letter would give two texts to the same bytes."""
    key = KEYS[Role.CAPTURE]
    data = envelop(b"ab", [key]).decode()
    assert '"YWI="' in data
    assert open_envelope(data.encode(), "it").payload == b"ab"
    with pytest.raises(IntegrityError, match="canonical"):
        open_envelope(data.replace("YWI=", "YWJ=").encode(), "it")


def test_oversized_record_is_not_parsed() -> None:
    with pytest.raises(IntegrityError, match="more than"):
        read_record(b"[" * (MAX_DOCUMENT + 1), TABLE, VAULT)
    with pytest.raises(AssertionError):
        record(RecordType.VERDICT, body={"x": "y" * MAX_DOCUMENT})


def test_newer_types_are_newer_only_when_signed() -> None:
    """A record of a later release is named as such; rubbish of a stranger is not."""
    for kind in ("drill", "erasure"):
        with pytest.raises(NewerFormat, match=kind):
            read_record(forged(kind, KEYS[Role.APPROVER]), TABLE, VAULT)
        with pytest.raises(IntegrityError):
            read_record(forged(kind, STRANGER), TABLE, VAULT)
    payload = payload_of(record(RecordType.POINT)) | {"predicateType": "urn:resurgam:point:v2"}
    with pytest.raises(NewerFormat, match="version 2"):
        read_record(envelop(to_json(payload), [KEYS[Role.CAPTURE]]), TABLE, VAULT)


def test_unknown_fields_survive() -> None:
    """What a newer release added stands in the body as it was read, and does not disturb this one."""

    class Known(msgspec.Struct):
        id: str

    body = b'{"new": {"deep": [1, 2.50]}, "id":"p1"}'
    found = read_record(forged("verdict", KEYS[Role.VERIFIER], body=body), TABLE, VAULT)
    assert found.body == body
    assert found.read(Known) == Known("p1")
    with pytest.raises(IntegrityError, match="verdict of point/p1"):
        found.read(int)


def test_times_sort_as_text() -> None:
    east = timezone(timedelta(hours=2))
    assert timestamp(datetime(2026, 3, 1, 1, 0, 0, tzinfo=east)) == "2026-02-28T23:00:00.000000Z"


def make_table(serial: int, signers: list[SigningKey] | None = None, **changes: Any) -> RoleTable:
    domains = changes.pop("domains", {"default": ("age1reader",)})
    table = role_table(VAULT, serial, list(KEYS.values()) if signers is None else signers, domains)
    return msgspec.structs.replace(table, **changes)


def stored(table: RoleTable, root: SigningKey = KEYS[Role.ROOT]) -> tuple[str, bytes]:
    return table.object_name, sign_roles(table, root, MADE)


ROOT = KEYS[Role.ROOT].public.fingerprint


def test_role_table_comes_back() -> None:
    name, data = stored(make_table(7))
    assert name == "roles/00000007"
    assert read_roles(data, VAULT, ROOT, name=name) == make_table(7)


def test_role_table_says_what_was_shredded_and_where_answers_go() -> None:
    """What is left out is as before, so tables of older releases have the bytes that they had."""
    plain = make_table(7)
    assert b"shredded" not in to_json(plain)
    assert b"evidence" not in to_json(plain)
    table = make_table(
        8,
        domains={"default": ("age1reader",), "evidence-2": ("age1own",)},
        evidence="evidence-2",
        shredded={"evidence": Shredded("2026-11-21T04:00:00.000000Z", "request 118")},
    )
    name, data = stored(table)
    assert read_roles(data, VAULT, ROOT, name=name) == table
    with pytest.raises(NotFound, match=r"evidence was shredded on 2026-11-21.*request 118"):
        table.recipients("evidence")


@pytest.mark.parametrize(
    ("changes", "rule"),
    [({"shredded": {"default": Shredded("2026")}}, "was shredded"), ({"evidence": "elsewhere"}, "none of its own")],
)
def test_role_table_that_contradicts_itself_is_refused(changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(IntegrityError, match=rule):
        stored(make_table(2, **changes))


def test_role_table_of_another_root_is_refused() -> None:
    """A table that lists and is signed by its own root is whole in itself; the pinned fingerprint refuses it."""
    usurper = SigningKey(Role.ROOT, b"u" * 32)
    signers = [usurper, *(key for role, key in KEYS.items() if role is not Role.ROOT)]
    name, data = stored(make_table(2, signers), usurper)
    assert read_roles(data, VAULT, usurper.public.fingerprint, name=name).serial == 2
    with pytest.raises(IntegrityError, match="root key of this vault"):
        read_roles(data, VAULT, ROOT, name=name)


def test_usurper_naming_the_real_root_is_refused() -> None:
    """The real root's public key may be listed by anybody; only its signature counts."""
    usurper = SigningKey(Role.ROOT, b"u" * 32)
    name, data = stored(make_table(2), usurper)
    with pytest.raises(IntegrityError, match="root key of this vault"):
        read_roles(data, VAULT, ROOT, name=name)
    posed = envelop(open_envelope(data, "it").payload, [usurper])
    posed = posed.replace(usurper.key_id.encode(), KEYS[Role.ROOT].key_id.encode())
    with pytest.raises(IntegrityError, match="root key of this vault"):
        read_roles(posed, VAULT, ROOT, name=name)


def test_role_table_is_bound_to_place_and_vault() -> None:
    name, data = stored(make_table(3))
    with pytest.raises(IntegrityError, match="not about roles/00000004"):
        read_roles(data, VAULT, ROOT, name="roles/00000004")
    with pytest.raises(IntegrityError, match="belongs to the vault"):
        read_roles(data, OTHER, ROOT, name=name)
    strange = make_table(4)
    misplaced = make_record(RecordType.ROLES, itself(name, strange), strange, KEYS[Role.ROOT], vault=VAULT, made=MADE)
    with pytest.raises(IntegrityError, match="another place"):
        read_roles(misplaced, VAULT, ROOT, name=name)
    other = record(RecordType.LOG, body=to_plain(make_table(3)), key=KEYS[Role.ROOT], subject=POINT)
    with pytest.raises(IntegrityError, match="no role table"):
        read_roles(other, VAULT, ROOT, name=name)


def to_plain(value: object) -> Any:
    return msgspec.to_builtins(value)


@pytest.mark.parametrize(
    ("rule", "table"),
    [
        ("does not belong to its key", make_table(1, roles={"root": (RoleKey("00" * 8, b"r" * 32),)})),
        ("twice", make_table(1, [*KEYS.values(), SigningKey(Role.VERIFIER, KEYS[Role.CAPTURE].secret_bytes())])),
        ("no root key", make_table(1, [KEYS[Role.CAPTURE]])),
        ("no recipients", make_table(1, domains={"default": ()})),
        ("no recipients", make_table(1, domains={})),
        ("32 bytes", make_table(1, roles={"root": (RoleKey("00" * 8, b"short"),)})),
    ],
)
def test_unsound_role_table_is_neither_signed_nor_read(rule: str, table: RoleTable) -> None:
    """P9: the root's holder cannot give a capture key the verifier's voice by mistake."""
    with pytest.raises(IntegrityError, match=rule):
        sign_roles(table, KEYS[Role.ROOT], MADE)


def test_unsound_role_table_is_not_read() -> None:
    twice = make_table(1, [*KEYS.values(), SigningKey(Role.VERIFIER, KEYS[Role.CAPTURE].secret_bytes())])
    subject = itself(twice.object_name, twice)
    data = make_record(RecordType.ROLES, subject, twice, KEYS[Role.ROOT], vault=VAULT, made=MADE)
    with pytest.raises(IntegrityError, match="twice"):
        read_roles(data, VAULT, ROOT, name=twice.object_name)


def test_highest_verified_table_is_in_force() -> None:
    usurper = SigningKey(Role.ROOT, b"u" * 32)
    found = latest_roles([stored(make_table(1)), stored(make_table(3), usurper), stored(make_table(2))], VAULT, ROOT)
    assert found.table.serial == 2
    assert len(found.refused) == 1
    assert "roles/00000003" in found.refused[0]


def test_no_believable_table_fails_closed() -> None:
    usurper = SigningKey(Role.ROOT, b"u" * 32)
    for objects in ([], [stored(make_table(1), usurper)], [("roles/00000001", b"rubbish")]):
        with pytest.raises(IntegrityError, match="No role table"):
            latest_roles(objects, VAULT, ROOT)


def test_newer_table_is_not_passed_over() -> None:
    """An older table may trust a key that the newer one disowned. A stranger's newer table stops nobody."""
    newer = make_table(2, format=FORMAT + 1)
    with pytest.raises(NewerFormat):
        latest_roles([stored(make_table(1)), stored(newer)], VAULT, ROOT)
    usurper = SigningKey(Role.ROOT, b"u" * 32)
    assert latest_roles([stored(make_table(1)), stored(newer, usurper)], VAULT, ROOT).table.serial == 1


def test_disowned_key_loses_its_records() -> None:
    """A stolen capture key is left out of the next table: what it signed is refused from then on."""
    data = record(RecordType.POINT)
    without = make_table(2, [key for role, key in KEYS.items() if role is not Role.CAPTURE])
    with pytest.raises(IntegrityError, match="no key that the role table gives"):
        read_record(data, without, VAULT)


def test_roles_of_later_releases_are_kept_and_sign_nothing_here() -> None:
    oracle = SigningKey("oracle", b"o" * 32)
    table = make_table(2, [*KEYS.values(), oracle])
    name, data = stored(table)
    assert read_roles(data, VAULT, ROOT, name=name).roles["oracle"][0].key_id == oracle.key_id
    for kind in ("verdict", "log"):
        with pytest.raises(IntegrityError, match="may not write"):
            read_record(forged(kind, oracle), table, VAULT)


def test_unknown_shred_domain_is_told() -> None:
    assert TABLE.recipients("default") == ("age1reader", "age1recovery")
    with pytest.raises(NotFound, match="'private'; it has default"):
        TABLE.recipients("private")
