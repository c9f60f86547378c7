"""One look at a running process and its children through ``/proc`` (proc(5)); nothing in them is stopped or changed.

Files come from ``fd``, ``maps``, ``cwd`` and ``exe``; variables by name from ``environ`` (as they were at the start of the
process; their values are never read into anything that is kept); connections from ``net/tcp`` and its siblings by the inodes
of the sockets that are open. Of a connected unix socket ``/proc`` tells no name at the client's end, so those are counted
only. A process that ends meanwhile gives what was seen of it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from resurgam.errors import Denied, NotFound

_DELETED = " (deleted)"
_ESTABLISHED, _SYN_SENT, _LISTEN = "01", "02", "0A"  # include/net/tcp_states.h
_SHARED_MEMORY = ("/dev/shm/", "/memfd:", "/SYSV", "/dev/zero", "/dev/")  # noqa: S108 - compared, not written to


class Remote(NamedTuple):
    """The other end of a connection. ``server`` is the program that listens there, where it is one of this host."""

    host: str
    port: int
    server: str = ""

    @property
    def is_local(self) -> bool:
        """Whether it is this host by a loopback address."""
        return ipaddress.ip_address(self.host).is_loopback

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Look(NamedTuple):
    """What was seen. ``prefixes`` are virtual environments whose interpreter runs, ``bases`` the prefixes of their interpreters."""

    processes: dict[int, str]
    files: frozenset[str]
    deleted: frozenset[str]
    variables: frozenset[str]
    remotes: frozenset[Remote]
    unix: frozenset[str]
    unnamed: int
    prefixes: frozenset[str]
    bases: frozenset[str]

    def __or__(self, other: object) -> Look:
        """Both together."""
        assert isinstance(other, Look)
        return Look(
            self.processes | other.processes,
            self.files | other.files,
            self.deleted | other.deleted,
            self.variables | other.variables,
            self.remotes | other.remotes,
            self.unix | other.unix,
            max(self.unnamed, other.unnamed),
            self.prefixes | other.prefixes,
            self.bases | other.bases,
        )


class _Socket(NamedTuple):
    state: str
    local: tuple[str, int]
    remote: tuple[str, int]


def look(pid: int, *, wanted: bool = True) -> Look:
    """``pid`` and its children now. ``wanted``: raise NotFound where it does not run, Denied where it may not be looked at."""
    if wanted:
        _require(pid)
    processes = _family(pid)
    files: set[str] = set()
    deleted: set[str] = set()
    variables: set[str] = set()
    inodes: set[str] = set()
    prefixes: set[str] = set()
    bases: set[str] = set()
    for each in processes:
        for path in (*_open(each), *_mapped(each)):
            if path.startswith("socket:["):
                inodes.add(path[8:-1])
            elif path.startswith("/") and not path.startswith(_SHARED_MEMORY):
                (deleted if path.endswith(_DELETED) else files).add(path)
        variables |= {word.split("=", 1)[0] for word in _words(each, "environ") if "=" in word}
        prefix, base = _prefixes(each)
        prefixes |= prefix
        bases |= base
    remotes, unix, unnamed = _sockets(pid, inodes)
    return Look(
        processes,
        frozenset(files),
        frozenset(deleted),
        frozenset(variables),
        frozenset(remotes),
        frozenset(unix),
        unnamed,
        frozenset(prefixes),
        frozenset(bases),
    )


def _require(pid: int) -> None:
    untouched = "Nothing was looked at."
    try:
        os.listdir(f"/proc/{pid}/fd")
    except FileNotFoundError as error:
        raise NotFound(
            f"There is no process {pid}, or no /proc to ask.",
            untouched=untouched,
            next_step="Give the id of the running application: `pgrep -f NAME` finds it.",
        ) from error
    except PermissionError as error:
        raise Denied(
            f"Process {pid} is another user's.",
            untouched=untouched,
            next_step="Run this as that user, or as root.",
        ) from error


def _family(pid: int) -> dict[int, str]:
    """The process and all below it, with their programs' names."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (parent := _parent(int(name))) is not None:
            parents.setdefault(parent, []).append(int(name))
    family, waiting = {}, [pid]
    while waiting:
        each = waiting.pop()
        family[each] = _text(each, "comm").strip()
        waiting += parents.get(each, [])
    return family


def _parent(pid: int) -> int | None:
    fields = _text(pid, "stat").rpartition(")")[2].split()  # the name before it may hold anything
    return int(fields[1]) if len(fields) > 1 else None


def _open(pid: int) -> Iterator[str]:
    """Targets of all descriptors; the working folder and the program are places, not files in use."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            link = f"/proc/{pid}/fd/{name}"
            with contextlib.suppress(FileNotFoundError):
                path = os.readlink(link)
                if path.startswith("socket:[") or stat.S_ISREG(os.stat(link).st_mode):
                    yield path


def _mapped(pid: int) -> Iterator[str]:
    for line in _text(pid, "maps").splitlines():
        fields = line.split(None, 5)
        if len(fields) == 6 and fields[5].startswith("/"):
            yield fields[5].replace("\\012", "\n")  # the one byte that proc(5) escapes


def _prefixes(pid: int) -> tuple[set[str], set[str]]:
    """The virtual environment that a Python process was started from, and the prefix of the interpreter beneath."""
    words = _words(pid, "cmdline")
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        program = os.path.realpath(f"/proc/{pid}/exe")
        if "python" not in os.path.basename(program) and "pypy" not in os.path.basename(program):
            return set(), set()
        base = os.path.dirname(os.path.dirname(program))
        started = [os.path.join(os.readlink(f"/proc/{pid}/cwd"), word) for word in words[:1] if "/" in word]
        prefixes = {os.path.dirname(os.path.dirname(os.path.abspath(path))) for path in started}
        prefixes |= {
            value for name, _, value in (w.partition("=") for w in _words(pid, "environ")) if name == "VIRTUAL_ENV"
        }
        found = {os.path.realpath(p) for p in prefixes if os.path.isfile(os.path.join(p, "pyvenv.cfg"))}
        return found, set() if base in ("/", "/usr") else {base}
    return set(), set()


def _sockets(pid: int, inodes: set[str]) -> tuple[set[Remote], set[str], int]:
    """Where the open sockets lead: remote ends outside this family, unix sockets with a name, and how many have none."""
    table = {inode: socket for name in ("tcp", "tcp6", "udp", "udp6") for inode, socket in _table(pid, name)}
    own = {socket.local[1] for inode, socket in table.items() if inode in inodes and socket.state == _LISTEN}
    listening = {socket.local[1]: inode for inode, socket in table.items() if socket.state == _LISTEN}
    mine = [socket for inode, socket in table.items() if inode in inodes]
    ends = {
        socket.remote
        for socket in mine
        if socket.remote[1] and socket.state in (_ESTABLISHED, _SYN_SENT) and socket.local[1] not in own
    }
    outside = {end for end in ends if not (ipaddress.ip_address(end[0]).is_loopback and end[1] in own)}
    servers = _owners({listening[port] for host, port in outside if port in listening and _is_here(host)})
    remotes = {Remote(host, port, servers.get(listening.get(port, ""), "")) for host, port in outside}
    unix, unnamed = set(), 0
    for line in _text(pid, "net/unix").splitlines()[1:]:
        fields = line.split(None, 7)
        if len(fields) > 6 and fields[6] in inodes:
            name = fields[7] if len(fields) > 7 else ""
            if name.startswith("/"):
                unix.add(name)
            unnamed += not name
    return remotes, unix, unnamed


def _is_here(host: str) -> bool:
    return ipaddress.ip_address(host).is_loopback


def _table(pid: int, name: str) -> Iterator[tuple[str, _Socket]]:
    for line in _text(pid, f"net/{name}").splitlines()[1:]:
        fields = line.split()
        yield fields[9], _Socket(fields[3], _address(fields[1]), _address(fields[2]))


def _address(text: str) -> tuple[str, int]:
    """``0100007F:1F90``: words of four bytes in the machine's order, the port in the network's."""
    host, _, port = text.partition(":")
    raw = bytes.fromhex(host)
    data = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
    address = ipaddress.ip_address(data)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address), int(port, 16)


def _owners(inodes: set[str]) -> dict[str, str]:
    """The programs that hold these sockets, by inode; of other users only root sees them."""
    found: dict[str, str] = {}
    for name in os.listdir("/proc") if inodes else ():
        if name.isdigit():
            for path in _open(int(name)):
                if path.startswith("socket:[") and path[8:-1] in inodes:
                    found.setdefault(path[8:-1], f"{_text(int(name), 'comm').strip()} (pid {name})")
    return found


def _words(pid: int, name: str) -> list[str]:
    return [word for word in _text(pid, name).split("\0") if word]


def _text(pid: int, name: str) -> str:
    """Empty where the process ended, or is another user's."""
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return os.fsdecode(file.read())
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""
