"""What this host remembers of a vault's log: how long it was, and the edge of its Merkle tree.

So a later look costs the new entries only (P11), and a store that shows a shorter or another log than before is found out, also
one that shows different logs to different people: this host goes on from what it saw itself. The note can be deleted (P3); what
happened until then is no longer noticed by it.
"""

from __future__ import annotations

import os

import msgspec

from resurgam.errors import IntegrityError
from resurgam.model.codec import from_json, to_json
from resurgam.vault.host import HostState, told
from resurgam.vault.merkle import Frontier

NAME = "log-seen.json"


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A log of ``size`` entries as it was seen: the edge of its tree, and the hex BLAKE3 of the bytes of its last entry. ``roles``
    is the serial of the role table that was in force then."""

    size: int = 0
    peaks: tuple[bytes, ...] = ()
    digest: str = ""
    roles: int = 0

    def edge(self) -> Frontier:
        """The edge, to go on from. Raises ValueError where it cannot be one."""
        return Frontier(self.size, self.peaks)

    @property
    def root(self) -> bytes:
        """The root of its Merkle tree."""
        return self.edge().root()


class LogMemory:
    """The note on a vault's log among this host's notes on that vault."""

    def __init__(self, host: HostState) -> None:
        self.path = host.path(NAME)
        self._folder = host.folder

    def seen(self) -> Seen | None:
        """What is remembered. A note that is torn is as good as none. Raises Denied."""
        with told(self._folder):
            data = self._read()
        try:
            seen = from_json(data, Seen, what="the note on the log")
            seen.edge()
        except (IntegrityError, ValueError):
            return None
        return seen

    def remember(self, seen: Seen) -> None:
        """Remember this and nothing else. Raises Denied, StoreFull."""
        with told(self._folder):
            with open(f"{self.path}.new", "wb") as file:
                file.write(to_json(seen))
            os.replace(f"{self.path}.new", self.path)

    def _read(self) -> bytes:
        try:
            with open(self.path, "rb") as file:
                return file.read()
        except FileNotFoundError:
            return b""
