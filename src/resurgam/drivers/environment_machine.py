"""The machine and the interpreter beneath an environment: facts that change what a model answers, read without changing any.

CPU features decide which kernels a numeric library takes, the number of threads in which order it adds: both change the last
bits of a score, and so, now and then, an answer. Sources: ``uname(2)``, ``/etc/os-release`` (freedesktop.org os-release(5)),
``/proc/cpuinfo``, ``/proc/meminfo`` (proc(5)), ``/proc/driver/nvidia`` (NVIDIA's driver README), ``/proc/self/cgroup``. What a
system does not tell is empty, never guessed.
"""

from __future__ import annotations

import glob
import hashlib
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from functools import lru_cache

import msgspec

from resurgam.drivers.environment_form import Interpreter, Machine
from resurgam.errors import ResurgamError
from resurgam.model.codec import json_decoder

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
           "TOKENIZERS_PARALLELISM", "RAYON_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG", "CUDA_VISIBLE_DEVICES",
           "PYTHONHASHSEED")  # fmt: skip
ASKING_TIME = 20.0  # seconds for an interpreter to say what it is
_ASK = (
    "import json,platform,sys,sysconfig;print(json.dumps({'version':platform.python_version(),"
    "'implementation':sys.implementation.name,'build':sys.version,'platform':sysconfig.get_platform(),'home':sys.base_prefix}))"
)
_CONTAINERS = (("/.dockerenv", "docker"), ("/run/.containerenv", "podman"))
_CGROUPS = re.compile(r"(docker|containerd|kubepods|libpod|lxc)")


class _Said(msgspec.Struct):
    version: str
    implementation: str
    build: str
    platform: str
    home: str


def machine(environ: Mapping[str, str]) -> Machine:
    """This machine, with the thread settings of ``environ``."""
    cpu = _text("/proc/cpuinfo")
    flags = _first(cpu, r"^(?:flags|Features)\s*:\s*(.*)$").split()
    return Machine(
        system=platform.system(),
        kernel=platform.release(),
        libc=" ".join(platform.libc_ver()).strip(),
        distribution=_first(_text("/etc/os-release"), r'^PRETTY_NAME="?([^"\n]*)'),
        architecture=platform.machine(),
        cpu=_first(cpu, r"^(?:model name|Model)\s*:\s*(.*)$") or platform.processor(),
        cpu_flags=tuple(sorted(set(flags))),
        cores=os.cpu_count() or 0,
        memory=int(_first(_text("/proc/meminfo"), r"^MemTotal:\s*(\d+) kB") or 0) * 1024,
        gpus=_gpus(),
        gpu_driver=_first(_text("/proc/driver/nvidia/version"), r"Kernel Module\s+(?:for \S+\s+)?([0-9.]+)"),
        container=_container(),
        threads={name: environ[name] for name in THREADS if name in environ},
    )


def interpreter(root: str, program: str | None) -> Interpreter:
    """What runs in the prefix ``root``: asked of ``program``, or of its own ``bin/python``, without site packages, so that no
    code of the application runs; from ``pyvenv.cfg`` alone where there is no program.

    Raises ResurgamError where a program is there and cannot say.
    """
    config = dict(re.findall(r"^\s*([\w-]+)\s*=\s*(.*?)\s*$", _text(os.path.join(root, "pyvenv.cfg")), re.MULTILINE))
    shared = config.get("include-system-site-packages", "false").lower() == "true"
    own = next((p for p in (program, *_programs(root)) if p is not None and os.access(p, os.X_OK)), None)
    if own is None:
        version = config.get("version") or config.get("version_info", "")
        return Interpreter(version=version, home=config.get("home", ""), system_packages=shared)
    said = _asked(own)
    return Interpreter(
        version=said.version,
        implementation=said.implementation,
        build=said.build,
        platform=said.platform,
        home=said.home,
        digest=digest_of(own),
        system_packages=shared,
    )


def digest_of(path: str) -> str:
    """SHA-256 of a file, links followed; kept while the file stays the same. Raises ResurgamError."""
    try:
        found = os.stat(path)
        return _digest(os.path.realpath(path), found.st_size, found.st_mtime_ns, found.st_ino)
    except OSError as error:
        raise _mute(path, str(error.strerror)) from error


@lru_cache(maxsize=64)
def _digest(path: str, _size: int, _mtime: int, _inode: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _programs(root: str) -> list[str]:
    return [os.path.join(root, place) for place in ("bin/python", "bin/python3", "Scripts/python.exe")]


def _asked(program: str) -> _Said:
    # -I -S: neither variables, nor .pth files, nor sitecustomize of the environment have a say.
    try:
        done = subprocess.run([program, "-I", "-S", "-c", _ASK], capture_output=True, timeout=ASKING_TIME, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _mute(program, str(error)) from error
    try:
        return json_decoder(_Said).decode(done.stdout)
    except msgspec.DecodeError as error:
        raise _mute(program, f"it ended with code {done.returncode}") from error


def _mute(program: str, why: str) -> ResurgamError:
    return ResurgamError(
        f"The interpreter {program} does not say what it is: {why}.",
        untouched="Nothing was changed.",
        next_step="Mend the environment, or name another interpreter with options.python.",
    )


def _gpus() -> tuple[str, ...]:
    texts = (_text(path) for path in sorted(glob.glob("/proc/driver/nvidia/gpus/*/information")))
    return tuple(_first(text, r"^Model:\s*(.*)$") for text in texts)


def _container() -> str:
    for mark, name in _CONTAINERS:
        if os.path.exists(mark):
            return name
    found = _CGROUPS.search(_text("/proc/self/cgroup"))
    return found[1] if found else ""


def _first(text: str, pattern: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    return found[1].strip() if found else ""


def _text(path: str) -> str:
    """Empty where the system has no such file, or does not show it."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return ""
