"""Key files on disk: written all at once or not at all, never over anything, and used only while nobody else can reach them.

On systems without POSIX permissions the modes are not looked at.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from typing import Final

from resurgam.errors import Denied, ResurgamError, StoreFull, TargetRefused

MAX_FILE: Final = 64 << 10


def read_private(path: str) -> bytes:
    """The bytes of a key file. Raises FileNotFoundError, and Denied when others can reach it."""
    with _refusals(path), open(path, "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
            raise Denied(
                f"{path} can be read or changed by others (mode {stat.S_IMODE(mode):o}).",
                untouched="It was not used.",
                next_step=f"Run `chmod 600 {path}`; on a medium without permissions, copy it with `install -m 600` first.",
            )
        return file.read(MAX_FILE)


def require_private_folder(folder: str) -> None:
    """Raises Denied when ``folder`` is missing, or open to others."""
    try:
        with _refusals(folder):
            found = os.stat(folder)
    except FileNotFoundError as error:
        raise Denied(
            f"There is no keys folder {folder}.",
            untouched="Nothing was changed.",
            next_step="Correct `vault.keys` in the manifest, or make a vault with `resurgam vault init`.",
        ) from error
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISDIR(found.st_mode) or (os.name == "posix" and mode & 0o077):
        raise Denied(
            f"The keys folder {folder} is no folder, or is open to others (mode {mode:o}).",
            untouched="No key was used.",
            next_step=f"Run `chmod 700 {folder}`.",
        )


def require_free(folder: str) -> None:
    """``folder`` is not there, or is an empty folder. Raises TargetRefused, Denied."""
    with _refusals(folder):
        if os.path.lexists(folder) and not (os.path.isdir(folder) and not os.listdir(folder)):
            raise _occupied(folder)


def write_private_folder(folder: str, files: dict[str, bytes]) -> None:
    """All ``files`` appear under ``folder`` by one rename, durably, or none does. Raises TargetRefused when something is
    there by now, Denied, StoreFull."""
    folder = os.path.abspath(folder)
    parent = os.path.dirname(folder)
    building = f"{folder}.partial-{secrets.token_hex(4)}"
    with _refusals(folder):
        os.makedirs(parent, exist_ok=True)
        os.mkdir(building, 0o700)
        try:
            for name, data in files.items():
                _write_private(os.path.join(building, name), data)
            _sync_folder(building)
            os.rename(building, folder)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
        _sync_folder(parent)


def write_private(path: str, data: bytes) -> None:
    """One more file into a folder of keys, durably, whole or not at all. Raises TargetRefused where one is there, Denied,
    StoreFull."""
    building = f"{path}.partial-{secrets.token_hex(4)}"
    with _refusals(path):
        try:
            _write_private(building, data)
            os.link(building, path)  # which refuses, where a rename would replace
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(building)
        _sync_folder(os.path.dirname(path))


def move_private(path: str, to: str) -> None:
    """Give a key file another name in its folder, durably. Raises TargetRefused where that is taken, Denied."""
    with _refusals(to):
        os.link(path, to)  # which refuses, where a rename would replace
        os.unlink(path)
        _sync_folder(os.path.dirname(to))


def destroy_private(path: str) -> None:
    """Overwrite a key file, and remove it, durably; one that is gone is no error. What a copying file system or a drive keeps of
    the old bytes is out of reach. Raises Denied."""
    try:
        with _refusals(path):
            descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.pwrite(descriptor, bytes(os.fstat(descriptor).st_size), 0)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.unlink(path)
            _sync_folder(os.path.dirname(path))
    except FileNotFoundError:
        return


def _write_private(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _refusals(path: str) -> Iterator[None]:
    """The operating system's refusals as errors of ours; a missing file is left to the caller."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _refused(path, error) from error


def _refused(path: str, error: OSError) -> ResurgamError:
    reason = error.strerror or type(error).__name__
    if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
        return _occupied(path)
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StoreFull(
            f"No space is left for {path}.", untouched="No key was made.", next_step="Free some and run it again."
        )
    return Denied(
        f"{path} cannot be used: {reason}.",
        untouched="Nothing was changed.",
        next_step=f"See who owns it: `ls -ld {path}`, and run this as that user.",
    )


def _occupied(folder: str) -> TargetRefused:
    return TargetRefused(
        f"{folder} is in the way of new keys: it is not an empty folder.",
        untouched="It was left as it is.",
        next_step="Name another folder for the keys. Keys are never overwritten: what they open would be lost.",
    )
