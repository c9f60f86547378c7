"""A tree that holds everything which a careless copy loses, and a census that finds every difference without the driver."""

from __future__ import annotations

import os
import stat
from pathlib import Path

Census = dict[bytes, tuple[object, ...]]


def make_tree(root: bytes) -> None:
    """A folder with everything that a file system can hold and a careless copy loses."""
    os.makedirs(root + b"/folder/empty")
    with open(root + b"/folder/plain", "wb") as file:
        file.write(b"plain\n" * 1000)
    open(root + b"/zero", "wb").close()
    open(root + b"/!before the dot", "wb").close()
    with open(root + b"/not utf-8 \xff\xfe\n", "wb") as file:
        file.write(b"\xff")
    os.makedirs(root + b"/" + b"/".join([b"deep"] * 400))
    os.link(root + b"/folder/plain", root + b"/a first name of plain")
    os.link(root + b"/folder/plain", root + b"/zz last name of plain")
    for name, to in ((b"dangling", b"nowhere"), (b"absolute", b"/etc/passwd"), (b"loop", b"loop"), (b"up", b"../..")):
        os.symlink(to, root + b"/" + name)
    os.symlink(b"\xff", root + b"/to not utf-8")
    if can_hold_attributes(Path(os.fsdecode(root))):
        os.setxattr(root + b"/folder/plain", "user.origin", b"\x00binary\xff")
        os.setxattr(root + b"/folder", "user.empty", b"")
    os.chmod(root + b"/zero", 0o4751)
    os.chmod(root + b"/folder/empty", 0o1555)
    os.utime(root + b"/folder/plain", ns=(1, 1_234_567_890_123_456_789))
    os.utime(root + b"/dangling", ns=(1, 987_654_321_000_000_001), follow_symlinks=False)
    os.utime(root + b"/folder", ns=(1, -5_000_000_001))
    os.utime(root, ns=(1, 42))


def census(root: bytes) -> Census:
    """Everything about a tree that a restore must give back, found without the driver."""
    found: Census = {}
    for folder, folders, names in os.walk(root):
        for path in [folder, *(os.path.join(folder, name) for name in folders + names)]:
            at = os.lstat(path)
            kept: tuple[object, ...] = (stat.S_IFMT(at.st_mode), stat.S_IMODE(at.st_mode), at.st_mtime_ns, at.st_uid)
            if stat.S_ISLNK(at.st_mode):
                kept += (os.readlink(path),)
            else:
                kept += (tuple((n, os.getxattr(path, n)) for n in sorted(os.listxattr(path))),)
            if stat.S_ISREG(at.st_mode):
                with open(path, "rb") as file:
                    kept += (at.st_size, at.st_nlink, file.read() if at.st_size < 1 << 20 else file.read(4096))
            found[os.path.relpath(path, root)] = kept
    return found


def can_hold_attributes(folder: Path) -> bool:
    probe = folder / "probe"
    probe.touch()
    try:
        os.setxattr(probe, "user.probe", b"1")
    except OSError:
        return False
    finally:
        probe.unlink()
    return True
