"""A point as plain folders and files that outlive Resurgam: each component as its own store keeps it, and papers beside them.

    INTO/README.txt        what this is, where each component stands and how to look at it
    INTO/point.json        the point: its cut, its findings, facts and versions of each component, the declared system
    INTO/SHA256SUMS        every file; ``sha256sum -c SHA256SUMS`` checks them
    INTO/<component>/…     the database, the folder, the repository itself

It is built under another name and appears by one rename, whole (P5). It holds no state of a restore: no promotion knows it.
"""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Iterator

from resurgam.clock import Clock
from resurgam.drivers.base import Drivers
from resurgam.model.codec import to_json, to_plain
from resurgam.model.point import Particulars, PointBody
from resurgam.restore.run import Progress, restore
from resurgam.restore.state import FILE, Restored
from resurgam.restore.switch import fsync_folder, outside
from resurgam.vault.repository import Repository

FORMAT = 1
README, POINT, SUMS = "README.txt", "point.json", "SHA256SUMS"
_STEP = 1 << 20


def export(
    repository: Repository,
    body: PointBody,
    particulars: Particulars,
    into: str,
    drivers: Drivers,
    clock: Clock,
    *,
    progress: Progress | None = None,
) -> Restored:
    """Lay a whole point into ``into``, which must not exist or be empty. Raises as ``restore``."""

    def furnish(partial: str, done: Restored) -> None:
        try:
            os.unlink(os.path.join(partial, FILE))
            _write(partial, README, _readme(body, particulars, done, drivers).encode())
            _write(partial, POINT, to_json(_papers(body, particulars, done)) + b"\n")
            _write(partial, SUMS, b"".join(_sums(os.fsencode(partial))))
            fsync_folder(partial)
        except OSError as error:
            raise outside(error, f"write the papers in {partial}") from error

    return restore(repository, body, particulars, into, drivers, clock, progress=progress, furnish=furnish)


def _papers(body: PointBody, particulars: Particulars, done: Restored) -> dict[str, object]:
    """What is known of the point, without what only Resurgam can use."""
    components = {
        name: {
            "driver": copy.driver,
            "place": copy.place,
            "bytes": copy.bytes,
            "fingerprint": copy.fingerprint,
            "facts": particulars.facts.get(name, {}),
        }
        for name, copy in done.copies.items()
    }
    return {
        "format": FORMAT,
        "point": to_plain(body),
        "components": components,
        "cut": to_plain(particulars.cut),
        "findings": to_plain(particulars.findings),
        "system": to_plain(particulars.system),
    }


def _readme(body: PointBody, particulars: Particulars, done: Restored, drivers: Drivers) -> str:
    lines = [
        f"Recovery point {body.id} of {body.system}",
        f"sealed {body.sealed}, begun {body.started}, with Resurgam {body.resurgam}",
        "",
        "These are plain files: each component as its own store keeps it. Nothing of Resurgam is needed to read them.",
        "They may hold personal data, and they are not encrypted. They were not judged: that they are whole is checked by",
        f"`sha256sum -c {SUMS}`; that they behave as before is for the system's own tests.",
        "",
    ]
    for name, copy in done.copies.items():
        look = drivers(copy.driver).traits.look.replace("{place}", shlex.quote(copy.place))
        lines += [f"{copy.place}", f"    {name}, captured by the driver {copy.driver}", f"    {look}", ""]
    lines.append(f"{POINT}    the cut, the findings, facts and versions of each component, the declared system")
    lines += [
        f"finding: {each.severity.value}: {each.component or body.system}: {each.what}" for each in particulars.findings
    ]
    return "\n".join(lines) + "\n"


def _sums(root: bytes) -> Iterator[bytes]:
    """Lines as ``sha256sum`` of GNU coreutils writes and checks them; links and special files have none."""
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            if os.path.islink(path) or not os.path.isfile(path):
                continue
            shown = os.path.relpath(path, root)
            escaped = shown.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
            mark = b"\\" if escaped != shown else b""
            yield b"%s%s  %s\n" % (mark, _digest(path), escaped)


def _digest(path: bytes) -> bytes:
    whole = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_STEP):
            whole.update(piece)
    return whole.hexdigest().encode()


def _write(folder: str, name: str, data: bytes) -> None:
    descriptor = os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
