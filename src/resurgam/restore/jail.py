"""The small program in whose walls a restored system's commands run (P6): ``python -I -S jail.py SPEC``.

It is started by :mod:`resurgam.restore.sandbox` and is the only code between it and the command, so it stands alone:
the standard library, no import of ours. SPEC is a JSON file: ``argv``, ``env``, ``cwd``, ``copies``, ``hide``, ``seal``,
``keep``, ``parent``, ``inherit`` (descriptors that are the command's alone) and ``status``, the file that it reports to. Its
life is three processes:

    outer    makes the namespaces (mount, network, pid, ipc, uts; a user namespace first where it has not the rights),
             waits, and is what the sandbox kills; it dies with the sandbox
    first    process 1 inside: builds the walls below, gives up its rights, starts the command, reaps; when it ends, for
             whatever reason, the kernel kills everything else inside
    command  the command itself, in a session of its own

The walls, in order (man 7 namespaces, 2 mount, 2 mount_setattr, 2 capset):

    1. all mounts private; /tmp, /var/tmp and /run empty; /dev with null, zero, full, random, urandom and shm only
    2. what lies under those and is needed (the copies, the system's root, the interpreter) bound back
    3. the folder of each hidden path replaced by one that holds its other entries: the path is not there, and cannot
       appear later (a SQLite -wal that live writes, a file that live replaces by a rename)
    4. sockets that servers of this host listen on covered: a path is not stopped by a network namespace; so is what is to
       be sealed, files among the copies that the command may not write
    5. every mount read-only, no set-uid, no devices; then the copies, /tmp, /var/tmp, /run and /dev/shm writable
    6. /proc of the new process namespace, read-only; the loopback up
    7. no new privileges, and of root's capabilities only CAP_DAC_OVERRIDE left (read what root restored; it reopens nothing)

Any step that fails ends it before the command starts (P12), and the report names the step.

What it does not hold back: another hard link or another mount of a hidden file (readable, never writable), a FIFO or
a socket outside the hidden folders that appears later, AF_VSOCK to a hypervisor, and a kernel with a hole in it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import resource
import signal
import socket
import stat
import struct
import sys
from collections.abc import Iterable, Iterator

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 2, 4, 8, 0x1000, 0x4000, 0x40000
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 1, 2, 4
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_SYS_MOUNT_SETATTR = 442  # the same number on every architecture; Linux 5.12
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 24, 38
_CAP_DAC_OVERRIDE = 1
_CAPABILITY_VERSION_3 = 0x20080522
_SIOCSIFFLAGS, _IFF_UP, _IFF_RUNNING = 0x8914, 0x1, 0x40

COVERED = ("/tmp", "/var/tmp", "/run")  # noqa: S108 (these are emptied, not used)
HOME = "/tmp/home"  # noqa: S108 (a private one)
_DEVICES = ("null", "zero", "full", "random", "urandom")
_ROOM = "size=1g,nr_inodes=1m"  # of each writable memory file system inside
NOT_FOUND, CANNOT_RUN = 127, 126
FAILED = 125  # the walls could not be built

_libc = ctypes.CDLL(None, use_errno=True)


class _Broken(Exception):
    """A wall could not be built."""


def main(path: str) -> int:
    """Run the command of the spec at ``path``; the exit code is the command's, or FAILED."""
    with open(path, encoding="ascii") as file:
        spec = json.load(file)
    # Opened before the namespaces are made: a file open for writing inside would keep its mount from becoming read-only.
    status = os.open(spec["status"], os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        _die_with_parent()
        if os.getppid() != spec["parent"]:
            return FAILED  # it died before we asked to die with it
        with _step("give way when memory is short"):
            _write("/proc/self/oom_score_adj", "500")  # rather a probe than the live system beside it
        sockets = _listening()
        _namespaces()
        child = os.fork()
    except _Broken as error:
        _report(status, failed=str(error))
        return FAILED
    if child == 0:
        _first(spec, sockets, status)
    _, ended = os.waitpid(child, 0)
    return 0 if ended == 0 else FAILED


def _first(spec: dict[str, object], sockets: list[str], status: int) -> None:
    """Process 1 of the namespace; does not return."""
    try:
        _die_with_parent()
        _walls(spec, sockets)
        _report(status, ready=True)
        code = _command(spec) if spec["argv"] else 0
        _report(status, code=code)
        os._exit(0)
    except _Broken as error:
        _report(status, failed=str(error))
    except Exception as error:  # noqa: BLE001 (fail closed, and say why, whatever it was)
        _report(status, failed=f"{type(error).__name__}: {error}")
    finally:
        os._exit(FAILED)


def _command(spec: dict[str, object]) -> int:
    """Start the command, reap whatever ends, and return its code when it is the one that ended (-n for signal n)."""
    argv, env = _texts(spec["argv"]), spec["env"]
    assert isinstance(env, dict)
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            for number in (signal.SIGPIPE, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            os.execvpe(argv[0], argv, env)  # noqa: S606 (no shell is the point)
        except (OSError, ValueError) as error:
            os.write(2, f"cannot be run: {error}: {argv[0]}".encode(errors="replace"))
            os._exit(NOT_FOUND if isinstance(error, FileNotFoundError) else CANNOT_RUN)
        finally:
            os._exit(CANNOT_RUN)
    inherited = spec["inherit"]
    assert isinstance(inherited, list)
    for descriptor in (0, 1, 2, *inherited):
        os.close(descriptor)  # the command's alone from here on
    while True:
        ended, how = os.wait()
        if ended == child:
            return os.waitstatus_to_exitcode(how)


# ---- namespaces


def _namespaces() -> None:
    if _libc.unshare(_NEWNS) != 0:
        if ctypes.get_errno() != errno.EPERM:
            raise _broken("mount namespace")
        user, group = os.geteuid(), os.getegid()
        _must(_libc.unshare(_NEWUSER), "user namespace")
        with _step("user namespace"):
            _write("/proc/self/setgroups", "deny")
            _write("/proc/self/uid_map", f"{user} {user} 1")
            _write("/proc/self/gid_map", f"{group} {group} 1")
        _must(_libc.unshare(_NEWNS), "mount namespace")
    _must(_libc.unshare(_NEWNET), "network namespace")
    _must(_libc.unshare(_NEWIPC), "ipc namespace")
    _must(_libc.unshare(_NEWUTS), "uts namespace")
    _must(_libc.unshare(_NEWPID), "pid namespace")


def _listening() -> list[str]:
    """Paths of the sockets that are bound on this host, as far as its network namespace knows them (proc_net_unix)."""
    with _step("list of sockets"), open("/proc/net/unix", "rb") as file:
        fields = [line.split(None, 7) for line in file.read().splitlines()[1:]]
    return sorted({os.fsdecode(field[7]) for field in fields if len(field) == 8 and field[7].startswith(b"/")})


# ---- walls


def _walls(spec: dict[str, object], sockets: list[str]) -> None:
    copies, cwd = str(spec["copies"]), str(spec["cwd"])
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    with _step("open what is needed inside"):
        needed = {
            path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path in dict.fromkeys([*_texts(spec["keep"]), copies])
        }
    covered = [path for path in COVERED if os.path.isdir(path) and not os.path.islink(path)]
    for path in covered:
        _memory(path, 0o1777)
    devices = _devices()
    _bind_back({path: opened for path, opened in needed.items() if _below(path, [*covered, "/dev"])})
    _hide(_texts(spec["hide"]), covered)
    _cover(path for path in sockets if _is_socket(path))
    _bind_back({copies: needed[copies]})
    _cover(path for path in _texts(spec["seal"]) if os.path.lexists(path))
    _setattr("/", _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV, 0, _AT_RECURSIVE)
    for path in devices:
        _setattr(path, 0, _ATTR_NODEV)
    for path in (*covered, "/dev/shm", copies):  # noqa: S108
        _setattr(path, 0, _ATTR_RDONLY)
    _mount("proc", "/proc", "proc", _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    _loopback()
    name = b"sandbox"
    _must(_libc.sethostname(name, len(name)), "host name")
    with _step("enter the system's root"):
        for opened in needed.values():
            os.close(opened)
        os.makedirs(HOME, mode=0o700)
        os.chdir(cwd)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _give_up_rights()


def _devices() -> list[str]:
    with _step("devices"):
        outside = os.open("/dev", os.O_PATH | os.O_CLOEXEC)
        _memory("/dev", 0o755)
        made = []
        for name in _DEVICES:
            _touch(f"/dev/{name}")
            _bind(f"/proc/self/fd/{outside}/{name}", f"/dev/{name}")
            made.append(f"/dev/{name}")
        os.close(outside)
        for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
            os.symlink(f"/proc/self/{target}", f"/dev/{name}")
        os.mkdir("/dev/shm", 0o1777)  # noqa: S108
    _memory("/dev/shm", 0o1777)  # noqa: S108
    return made


def _bind_back(needed: dict[str, int]) -> None:
    for path, opened in needed.items():
        with _step(f"bind {path}"):
            if stat.S_ISDIR(os.fstat(opened).st_mode):
                os.makedirs(path, exist_ok=True)
            elif not os.path.exists(path):
                os.makedirs(os.path.dirname(path), exist_ok=True)
                _touch(path)
        _bind(f"/proc/self/fd/{opened}", path)


def _hide(paths: list[str], covered: list[str]) -> None:
    """Take ``paths`` out of their folders, outermost first."""
    folders: dict[str, set[str]] = {}
    for path in paths:
        folder, name = os.path.split(path)
        folders.setdefault(folder, set()).add(name)
    for folder in sorted(folders, key=lambda path: path.count("/")):
        names = folders[folder]
        if folder == "/":
            _cover(f"/{name}" for name in names if os.path.lexists(f"/{name}"))
        elif os.path.isdir(folder) and not (folder in covered and not names & set(os.listdir(folder))):
            _without(folder, names)


def _without(folder: str, names: set[str]) -> None:
    """Replace ``folder`` by one in memory that holds all of its entries except ``names``, and except what one can talk to:
    sockets, FIFOs, devices. An entry that is made later outside does not show inside."""
    with _step(f"hide in {folder}"):
        outside = os.open(folder, os.O_PATH | os.O_CLOEXEC)
        with os.scandir(folder) as listing:
            entries = [(entry.name, entry.is_symlink(), entry.is_dir(), entry.is_file()) for entry in listing]
        _memory(folder, stat.S_IMODE(os.fstat(outside).st_mode))
        for name, link, is_folder, is_file in entries:
            inside, source = f"{folder}/{name}", f"/proc/self/fd/{outside}/{name}"
            if name in names:
                continue
            if link:
                os.symlink(os.readlink(source), inside)
            elif is_folder:
                os.mkdir(inside)
                _bind(source, inside)
            elif is_file:
                _touch(inside)
                _bind(source, inside)
        os.close(outside)


def _cover(paths: Iterable[str]) -> None:
    """Lay an empty folder or an empty file over each path."""
    for path in paths:
        if os.path.isdir(path):
            _memory(path, 0o555)
            continue
        with _step(f"cover {path}"):
            empty = "/dev/shm/.empty"  # noqa: S108
            _touch(empty)
        _bind(empty, path)


def _loopback() -> None:
    with _step("loopback"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        fcntl.ioctl(handle, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP | _IFF_RUNNING))


def _give_up_rights() -> None:
    _must(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")
    for capability in range(64):
        if capability != _CAP_DAC_OVERRIDE and _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            if ctypes.get_errno() == errno.EINVAL:
                break  # the last one that this kernel knows is behind us
            raise _broken("capabilities")
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    only = 1 << _CAP_DAC_OVERRIDE
    _must(_libc.capset(header, struct.pack("6I", only, only, 0, 0, 0, 0)), "capabilities")


# ---- system calls


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str = "") -> None:
    words = [None if word is None else os.fsencode(word) for word in (source, target, kind, data)]
    _must(_libc.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3]), f"mount on {target}")


def _memory(path: str, mode: int) -> None:
    _mount("tmpfs", path, "tmpfs", _MS_NOSUID | _MS_NODEV, f"mode={mode:o},{_ROOM}")


def _bind(source: str, target: str) -> None:
    _mount(source, target, None, _MS_BIND | _MS_REC)


def _setattr(path: str, on: int, off: int, flags: int = 0) -> None:
    # struct mount_attr: attr_set, attr_clr, propagation, userns_fd
    attributes = struct.pack("4Q", on, off, 0, 0)
    result = _libc.syscall(
        ctypes.c_long(_SYS_MOUNT_SETATTR),
        ctypes.c_int(_AT_FDCWD),
        os.fsencode(path),
        ctypes.c_uint(flags),
        attributes,
        ctypes.c_size_t(len(attributes)),
    )
    _must(result, f"mount attributes of {path}")


def _die_with_parent() -> None:
    _must(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "die with the parent")


def _must(result: int, what: str) -> None:
    if result != 0:
        raise _broken(what)


def _broken(what: str) -> _Broken:
    return _Broken(f"{what}: {os.strerror(ctypes.get_errno())}")


@contextlib.contextmanager
def _step(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _Broken(f"{what}: {error.strerror}") from error


# ---- small things


def _report(status: int, **said: object) -> None:
    os.write(status, json.dumps(said).encode() + b"\n")


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def _touch(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))


def _below(path: str, folders: Iterable[str]) -> bool:
    return any(path == folder or path.startswith(folder + "/") for folder in folders)


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False  # not reachable, so nothing to cover


def _texts(value: object) -> list[str]:
    assert isinstance(value, list)
    return [str(item) for item in value]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
