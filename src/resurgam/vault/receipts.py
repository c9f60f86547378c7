"""Receipts: one entry of the log with a proof that it is in the log of which a checkpoint speaks. A page to hand out.

A receipt proves to somebody who has nothing but ``trust.json`` and the role table that a point was sealed, or a verdict given, and
announced before that checkpoint was signed: by whom, and of which bytes. Whoever keeps it finds out a log without that entry.
When it was signed a receipt cannot prove, so of retired keys it counts only where the vault still says when it received what they
signed. The form is C2SP's (https://c2sp.org/tlog-proof)::

    c2sp.org/tlog-proof@v1
    extra <base64 of the entry's bytes>
    index <number of the entry - 1>
    <the inclusion proof of RFC 9162, a hash in base64 a line>

    <the checkpoint>
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Final

import msgspec

from resurgam.errors import IntegrityError, NotFound
from resurgam.vault.checkpoints import PREFIX, Checkpoint, read_checkpoint
from resurgam.vault.heads import read_stored
from resurgam.vault.log import Announcement, entries, object_name, read_entry
from resurgam.vault.merkle import HASH, inclusion, leaf_hash, prove, verify_inclusion
from resurgam.vault.records import Record, RecordType, read_record
from resurgam.vault.repository import Repository
from resurgam.vault.signing import PublicKey, Role, broken

FORM: Final = "c2sp.org/tlog-proof@v1"
MAX_RECEIPT: Final = 1 << 20
_HEAD = re.compile(
    rf"{re.escape(FORM)}\nextra ([A-Za-z0-9+/=]+)\nindex (0|[1-9][0-9]{{0,9}})\n((?:[A-Za-z0-9+/=]+\n)*)\n"
)


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What a receipt proves: this entry, at this number, is in the log of the first ``checkpoint.size`` entries."""

    number: int
    record: Record
    said: Announcement
    checkpoint: Checkpoint


def find(repository: Repository, words: str) -> int:
    """The number of the entry that ``words`` mean: a number, an announced object's name, or the beginning of a point's id. Raises
    NotFound."""
    if words.isdecimal() and len(words) <= 10:
        return int(words)
    for number, entry in entries(repository.store):
        if not number:
            continue
        try:
            _, said = read_entry(repository.store.get(entry.name), entry, repository.roles, repository.vault)
        except IntegrityError:
            continue  # it says nothing that could be meant
        if said.object == words or said.object.startswith(f"points/{words}"):
            return number
    raise NotFound(
        f"No entry of the log announces {words!r}.",
        untouched="Nothing was changed.",
        next_step="`resurgam audit log` lists them; name one by its number, by its object, or by the beginning of a point's id.",
    )


def make_receipt(repository: Repository, number: int) -> bytes:
    """The receipt of entry ``number`` under the largest checkpoint that is believed. Reads the log up to there, once.

    Raises NotFound where no checkpoint covers it, IntegrityError where the log is not the one that was signed.
    """
    checkpoint, note = _covering(repository, number)
    ranges = inclusion(number - 1, checkpoint.size)
    path = prove(_leaves(repository, checkpoint.size), ranges)
    entry = repository.store.get(object_name(number))
    if not verify_inclusion(leaf_hash(entry), number - 1, checkpoint.size, path, checkpoint.root):
        raise IntegrityError(
            f"The log is not the one of which {checkpoint.object_name} speaks.",
            untouched="No receipt was made.",
            next_step="Run `resurgam audit verify`.",
        )
    lines = [FORM, f"extra {_text(entry)}", f"index {number - 1}", *map(_text, path), "", ""]
    return "\n".join(lines).encode() + note


def read_receipt(repository: Repository, data: bytes, name: str) -> Receipt:
    """What the receipt in ``data`` proves. Of the vault only its role table is needed. Raises IntegrityError naming the broken
    rule, Disowned."""
    head = _HEAD.match(data[:MAX_RECEIPT].decode(errors="replace"))
    if head is None:
        raise broken(name, "it has not the form of a receipt")
    logged, number, path = _bytes(head[1]), int(head[2]) + 1, [_bytes(line) for line in head[3].split()]
    checkpoint = _checkpoint(repository, data[len(head[0].encode()) :], name)
    sound = all(len(one) == HASH for one in path)
    if not sound or not verify_inclusion(leaf_hash(logged), number - 1, checkpoint.size, path, checkpoint.root):
        raise broken(name, "the proof does not lead from the entry to the checkpoint")
    entry, stands = object_name(number), None
    for found in repository.store.list(entry):
        stands = found.received if repository.store.get(found.name) == logged else stands
    record = read_record(
        logged, repository.roles, repository.vault, {RecordType.LOG}, about=entry, what=name, received=stands
    )
    return Receipt(number=number, record=record, said=record.read(Announcement), checkpoint=checkpoint)


def _checkpoint(repository: Repository, note: bytes, name: str) -> Checkpoint:
    """By a key that counts now, or the very one that the vault holds and received while its key counted."""
    keys = [PublicKey(key.public) for key in repository.roles.active(Role.AUDITOR)]
    try:
        return read_checkpoint(note, repository.vault, keys, name)
    except IntegrityError:
        for entry in repository.store.list(PREFIX):
            if repository.store.get(entry.name) == note:
                return read_stored(repository, entry)
        raise


def _covering(repository: Repository, number: int) -> tuple[Checkpoint, bytes]:
    """The largest checkpoint that is believed, and its bytes."""
    for entry in reversed([*repository.store.list(PREFIX)]):
        if not entry.name.removeprefix(PREFIX).isdecimal():
            continue
        try:
            found = read_stored(repository, entry)
        except IntegrityError:
            continue  # `audit verify` names it
        if 1 <= number <= found.size:
            return found, repository.store.get(entry.name)
    raise NotFound(
        f"No checkpoint covers entry {number} of the log.",
        untouched="Nothing was changed.",
        next_step="Have the auditor run `resurgam audit checkpoint`, then ask again.",
    )


def _leaves(repository: Repository, size: int) -> Iterator[bytes]:
    return (leaf_hash(repository.store.get(object_name(number))) for number in range(1, size + 1))


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    """The bytes, or none where it is no base64."""
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return b""
