"""What a gateway and its clients say to each other: HTTP/1.1, the verbs of the store port, and its errors by their names.

    GET, HEAD  /v1/objects/NAME          the bytes, or with ``Range: bytes=A-B`` those from A to B; 416 where A is not in it
    PUT        /v1/objects/NAME          create; needs ``Content-Length`` and ``Content-Digest``; 201
    DELETE     /v1/objects/NAME          204, also where it is gone already
    GET        /v1/list?prefix=&after=   one page of a sorted listing: :class:`Page`
    GET, POST  /v1/locks/NAME            until when it cannot be deleted: :class:`Lock`; POST asks for longer
    GET        /v1/role                  whose token this is: :class:`Holder`

Each but these two needs ``Authorization: Bearer TOKEN`` (RFC 6750): ``GET /healthz`` answers who asks, ``GET /metrics`` any token.
An error is a :class:`Refusal` (after RFC 9457) under the status of :data:`STATUS`. ``Content-Digest`` is that of RFC 9530 with
SHA-256: bytes that changed on their way up are refused before they are an object. A name needs no escaping in a URL.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

import msgspec

from resurgam.errors import Busy, Denied, IntegrityError, NotFound, ResurgamError, StoreFull, Unreachable
from resurgam.stores.base import AlreadyThere, Buffer

OBJECTS: Final = "/v1/objects/"
LOCKS: Final = "/v1/locks/"
LIST: Final = "/v1/list"
ROLE: Final = "/v1/role"
HEALTH: Final = "/healthz"
METRICS: Final = "/metrics"
PAGE: Final = 20_000  # entries of one page: some 2 MB

STATUS: Final[dict[type[ResurgamError], int]] = {
    IntegrityError: 400,
    Denied: 403,
    NotFound: 404,
    AlreadyThere: 412,
    Busy: 503,
    Unreachable: 503,
    StoreFull: 507,
}
KINDS: Final = {kind.__name__: kind for kind in STATUS}


class Refusal(msgspec.Struct, frozen=True):
    """An error of the port, as it is."""

    kind: str
    message: str
    untouched: str = ""
    next_step: str = ""

    def error(self, where: str) -> ResurgamError:
        """What the caller of the port hears; a kind that is not known is Denied."""
        kind = KINDS.get(self.kind, Denied)
        return kind(f"{where}: {self.message}", untouched=self.untouched, next_step=self.next_step)


class Page(msgspec.Struct, frozen=True):
    """Entries (name, size, received), sorted; ``more``: ask again, ``after`` the last of them."""

    objects: list[tuple[str, int, float]]
    more: bool = False


class Lock(msgspec.Struct, frozen=True):
    """Until when, in seconds since 1970 by the gateway's clock; None where nothing keeps the object."""

    until: float | None


class Holder(msgspec.Struct, frozen=True):
    """The role that a token was made for, and the token's public id."""

    role: str
    token: str


def digest_of(data: Buffer) -> str:
    """The ``Content-Digest`` of ``data`` (RFC 9530)."""
    return digest_header(hashlib.sha256(data).digest())


def digest_header(digest: bytes) -> str:
    """A SHA-256 digest as the value of ``Content-Digest``: a dictionary of byte sequences (RFC 9651)."""
    return f"sha-256=:{base64.b64encode(digest).decode()}:"
