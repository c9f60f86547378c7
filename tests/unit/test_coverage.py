"""What a running application uses, against a manifest: on real processes that hold files, databases, sockets and children."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resurgam.capture import coverage_look
from resurgam.capture.coverage import Gap, Report, coverage
from resurgam.cli.main import main
from resurgam.errors import Denied, NotFound
from resurgam.model.system import Component, System, VaultPlace

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has this /proc")

APP = """
import json, mmap, os, socket, sqlite3, subprocess, sys, time
root, port = sys.argv[1], int(sys.argv[2])
os.chdir(root)
db = sqlite3.connect("data/app.db", isolation_level=None)
db.execute("PRAGMA journal_mode = WAL")
db.execute("CREATE TABLE IF NOT EXISTS t (a)")
db.execute("INSERT INTO t VALUES (1)")
model = open("models/router.safetensors", "rb")
weights = mmap.mmap(model.fileno(), 0, prot=mmap.PROT_READ)
model.close()
log = open("logs/app.log", "a")
gone = open("gone.bin", "w")
os.unlink("gone.bin")
far = socket.create_connection(("127.0.0.1", port))
listening = socket.socket()
listening.bind(("127.0.0.1", 0))
listening.listen()
near = socket.create_connection(listening.getsockname())
answering, _ = listening.accept()
unix = socket.socket(socket.AF_UNIX)
unix.bind(os.path.join(root, "app.sock"))
child = subprocess.Popen(
    [sys.executable, "-c", "import sys; f = open('prompts/answer.txt'); print('open', flush=True); sys.stdin.read()"],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
print("ready", flush=True)
for line in sys.stdin:
    if line.strip() == "briefly":  # what one look would have to be lucky to see
        for _ in range(40):
            with open("config/app.json") as file:
                time.sleep(0.01)
            time.sleep(0.03)
        print("done", flush=True)
child.stdin.close()
child.wait()
"""
ENV = {
    "PATH": os.environ["PATH"],
    "HELPDESK_MODE": "strict",
    "HELPDESK_KEY": "sk-live-correct-horse",
    "LANG": "C.UTF-8",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folders of a small application."""
    for folder in ("data", "models", "logs", "prompts", "config"):
        (tmp_path / "app" / folder).mkdir(parents=True)
    (tmp_path / "app/models/router.safetensors").write_bytes(bytes(8192))
    (tmp_path / "app/prompts/answer.txt").write_text("Be kind.")
    (tmp_path / "app/config/app.json").write_text("{}")
    return tmp_path / "app"


@pytest.fixture
def server() -> Iterator[int]:
    """A service of another process: its port."""
    words = (
        "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True);"
        "sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", words], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.stdin.close()


@contextlib.contextmanager
def running(root: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The application, once it holds all that it will hold."""
    words = [sys.executable, "-c", APP, str(root), str(port)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENV) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.stdin.close()


def system(root: Path, **components: tuple[str, str, dict[str, Any]]) -> System:
    """A manifest's value with ``name=(driver, location, options)``."""
    parts = tuple(
        Component(name=name, driver=driver, location=place if "://" in place else str(root / place), options=options)
        for name, (driver, place, options) in components.items()
    )
    return System(name="app", vault=VaultPlace(path="/v", keys="/k"), components=parts, root=str(root))


def gaps(report: Report, kind: str) -> list[Gap]:
    return [gap for gap in report.gaps if gap.kind == kind]


def added(report: Report) -> set[str]:
    return {line.strip() for gap in report.gaps for line in gap.add}


def test_every_kind_of_thing_that_is_not_declared_is_a_gap(root: Path, server: int) -> None:
    """Mapped and open files, also a child's; a database by its bytes; a service by its port; names of variables; deleted files."""
    with running(root, server) as process:
        report = coverage(system(root), process.pid)
    assert added(report) >= {
        "app: {driver: sqlite, location: data/app.db}",
        "router-safetensors: {driver: models, location: models/router.safetensors}",
        "answer-txt: {driver: files, location: prompts/answer.txt}",
        "app-log: {driver: files, location: logs/app.log}",
        "options: {env: [HELPDESK_KEY, HELPDESK_MODE]}  # of the component with `driver: environment`",
    }
    assert len(report.processes) == 2
    assert any(f"127.0.0.1:{server}" in gap.what and "served by" in gap.what for gap in gaps(report, "connection"))
    assert any("app.sock" in gap.what for gap in gaps(report, "connection"))
    assert len(gaps(report, "connection")) == 2, "a connection of the application to itself is none"
    (deleted,) = gaps(report, "deleted")
    assert f"{root}/gone.bin (deleted)" in deleted.examples
    assert not any("-wal" in line for line in added(report))
    assert "correct-horse" not in repr(report)


def test_what_is_declared_is_covered_and_the_rest_is_summed_up(root: Path, server: int) -> None:
    """With every line added the only gaps are those that no line can close."""
    environment = Path(sys.prefix) if os.path.exists(Path(sys.prefix, "pyvenv.cfg")) else root
    declared = system(
        root,
        documents=("sqlite", "data/app.db", {}),
        models=("models", "models", {}),
        prompts=("files", "prompts", {}),
        logs=("files", "logs", {}),
        cache=("redis", f"redis://localhost:{server}/0", {}),
        runtime=("environment", str(environment), {"env": ["HELPDESK_*"]}),
    )
    with running(root, server) as process:
        report = coverage(declared, process.pid)
    assert {gap.kind for gap in report.gaps} == {"deleted", "connection"}
    assert ["app.sock" in gap.what for gap in gaps(report, "connection")] == [True]
    covered = {each.component: each.count for each in report.covered}
    assert covered["documents"] >= 2  # with its write-ahead log
    assert covered["models"] == covered["prompts"] == covered["logs"] == covered["cache"] == 1
    assert report.summed["system files"] + report.summed["interpreter files"] > 0
    assert report.summed["variables that are declared"] == 2


def test_what_a_component_leaves_out_is_not_covered(root: Path, server: int) -> None:
    """``exclude`` is honoured, for a folder above as well."""
    with running(root, server) as process:
        report = coverage(system(root, all=("files", ".", {"exclude": ["*.log", "/models"]})), process.pid)
    assert [gap.examples[0] for gap in gaps(report, "file")] == [
        str(root / "logs/app.log"),
        str(root / "models/router.safetensors"),
    ]


def test_watching_sees_what_is_open_only_briefly(root: Path, server: int) -> None:
    """A file that is read again and again, 10 ms each time; the report says how often was looked."""
    config = str(root / "config/app.json")
    with running(root, server) as process:
        assert process.stdin is not None
        process.stdin.write(b"briefly\n")
        process.stdin.flush()
        watched = coverage(system(root), process.pid, watch=1.5)
    assert any(config in gap.examples for gap in gaps(watched, "file"))
    assert watched.looks > 10


def test_many_files_of_one_folder_are_one_line(root: Path) -> None:
    """And a Chroma folder is one component, whatever of it is open."""
    chroma = root / "index"
    (chroma / "c0ffee").mkdir(parents=True)
    paths = [root / "data" / f"part-{number}.bin" for number in range(5)]
    paths += [chroma / "chroma.sqlite3", chroma / "c0ffee" / "data_level0.bin"]
    for path in paths:
        path.write_bytes(b"x")
    words = "import sys; held = [open(p) for p in sys.argv[1:]]; print('ready', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", words, *paths], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        report = coverage(system(root), process.pid)
        process.stdin.close()
    lines = {line.strip() for gap in gaps(report, "file") for line in gap.add}
    assert lines == {"data: {driver: files, location: data}", "index: {driver: chroma, location: index}"}


def test_a_process_that_is_not_there_or_not_ours_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P12: who cannot look does not say that nothing is missing."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    with pytest.raises(NotFound) as gone:
        coverage(system(root), process.pid)
    assert gone.value.next_step
    if os.geteuid() == 0:
        asked = f"from resurgam.capture.coverage_look import look; import os; os.setuid(65534); look({os.getpid()})"
        done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=False)
        assert Denied.__name__ in done.stderr


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_addresses_are_read_in_both_families(family: socket.AddressFamily, host: str) -> None:
    """Two sockets of this very process, one end as the other sees it."""
    try:
        server = socket.create_server((host, 0), family=family)
    except OSError as error:
        pytest.skip(f"no {host} here: {error}")
    words = "import socket, sys; s = socket.create_connection((sys.argv[1], int(sys.argv[2]))); print(flush=True); sys.stdin.read()"
    port = server.getsockname()[1]
    with (
        server,
        subprocess.Popen(
            [sys.executable, "-c", words, host, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as client,
    ):
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdout.readline()
        (remote,) = coverage_look.look(client.pid).remotes
        client.stdin.close()
    assert (remote.host, remote.port) == (host, port)
    assert f"(pid {os.getpid()})" in remote.server


def test_the_command_line_says_it_by_its_exit_code(
    root: Path, server: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """22 where something is missing; JSON and people's lines alike."""
    (root / "resurgam.yaml").write_text(
        "resurgam: 1\nsystem: app\nvault: {path: ../vault, keys: ../keys}\n"
        "components:\n  documents: {driver: sqlite, location: data/app.db}\n"
    )
    monkeypatch.chdir(root)
    with running(root, server) as process:
        assert main(["coverage", "--pid", str(process.pid), "--json"]) == 22
        assert [each["component"] for each in json.loads(capsys.readouterr().out)["covered"]] == ["documents"]
        assert main(["coverage", "--pid", str(process.pid)]) == 22
        told = capsys.readouterr().out
    assert "documents covers" in told
    assert "add: answer-txt: {driver: files, location: prompts/answer.txt}" in told
