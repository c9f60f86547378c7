"""Isolation is tested: a restored system's commands cannot reach what is live, and everything else works for them (P6)."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from resurgam.errors import Denied, NotFound
from resurgam.model.system import Component, Isolation, System, VaultPlace
from resurgam.model.verdict import IsolationReport
from resurgam.probes.base import MAX_OUTPUT, Completed
from resurgam.restore import sandbox
from resurgam.restore.sandbox import Sandbox
from resurgam.restore.state import FILE

_available, _why = sandbox.available()
isolated = pytest.mark.skipif(not _available and os.geteuid() != 0, reason=f"no namespaces here: {_why}")


def write(path: str, text: str) -> str:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)
    return path


def make_database(path: str, answer: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("create table facts(answer)")
        connection.execute("insert into facts values (?)", (answer,))


class World:
    """A live system in ``app``, its vault and keys, and a restore of it in ``restore``."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.root = f"{folder}/app"
        self.live_db = f"{self.root}/data/handbook.db"
        self.live_prompts = f"{self.root}/prompts"
        self.directory = f"{folder}/restore"
        self.copy_db = f"{self.directory}/documents/handbook.db"
        make_database(self.live_db, "live")
        make_database(self.copy_db, "copy")
        write(f"{self.live_prompts}/system.txt", "live")
        write(f"{self.root}/settings.toml", "a = 1")
        write(f"{folder}/vault/point", "sealed")
        write(f"{folder}/keys/identity", "secret")
        self.system = System(
            name="handbook",
            vault=VaultPlace(path=f"{folder}/vault", keys=f"{folder}/keys"),
            components=(
                Component(name="documents", driver="sqlite", location=self.live_db),
                Component(name="prompts", driver="files", location=self.live_prompts),
            ),
            root=self.root,
        )

    def box(self, **changes: Any) -> Sandbox:
        return Sandbox(self.directory, msgspec.structs.replace(self.system, **changes))

    def python(self, code: str, *arguments: str, timeout: float = 30.0) -> Completed:
        return self.box().run([sys.executable, "-c", code, *arguments], timeout=timeout)

    def ask(self, code: str, *arguments: str) -> Any:
        """What ``code``, which defines ``answer``, finds inside."""
        done = self.python(f"import os, sys, json\n{code}\nprint(json.dumps(answer))", *arguments)
        assert done.code == 0, done.errors.decode()
        return json.loads(done.output)


@pytest.fixture(autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    """A home for this host's notes that is not the tester's own."""
    folder = os.fspath(tmp_path_factory.mktemp("state"))
    monkeypatch.setenv("RESURGAM_STATE", folder)
    return folder


@pytest.fixture
def world(tmp_path: os.PathLike[str]) -> World:
    return World(os.path.realpath(tmp_path))


@pytest.fixture
def world_on_disk() -> Iterator[World]:
    """One that does not lie below /tmp, which the sandbox empties anyway."""
    with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.abspath(__file__)), prefix=".world-") as folder:
        yield World(os.path.realpath(folder))


def test_root_on_linux_has_isolation() -> None:
    """Where tests run as root, as in CI, nothing here may be skipped."""
    if os.geteuid() == 0 and sys.platform.startswith("linux"):
        assert sandbox.isolation() == IsolationReport(isolated=True)
    assert sandbox.available() == (sandbox.isolation().isolated, sandbox.isolation().reason)


TRY = """
def tried(act):
    try:
        return act()
    except OSError as error:
        return type(error).__name__
"""


@isolated
@pytest.mark.parametrize("where", ["world", "world_on_disk"])
def test_p6_live_places_vault_and_keys_are_not_there(where: str, request: pytest.FixtureRequest) -> None:
    world: World = request.getfixturevalue(where)
    paths = [world.live_db, world.live_prompts, f"{world.folder}/vault", f"{world.folder}/keys/identity"]
    seen = world.ask("answer = [os.path.lexists(path) for path in sys.argv[1:]]", *paths)
    assert seen == [False] * 4
    assert world.ask("answer = [sorted(os.listdir()), os.listdir('data')]") == [["data", "settings.toml"], []]


@isolated
def test_p6_live_is_not_reached_through_other_processes_roots(world_on_disk: World) -> None:
    code = """
answer = []
for name in os.listdir('/proc'):
    for way in ('root', 'cwd'):
        try:
            with open(f'/proc/{name}/{way}{sys.argv[1]}', 'rb') as file:
                answer.append(f'{name}/{way}')
        except OSError:
            pass
answer.append(sorted(int(name) for name in os.listdir('/proc') if name.isdigit()))
"""
    assert world_on_disk.ask(code, world_on_disk.live_db) == [[1, 2]]  # no root leads there; only two processes exist


@isolated
def test_p6_live_is_not_reached_by_taking_the_walls_down(world_on_disk: World) -> None:
    """Neither by unmounting, nor from a namespace of the command's own in which it is root."""
    code = (
        TRY
        + """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
folder = os.path.dirname(sys.argv[1])
answer = [libc.umount2(folder.encode(), 2)]
libc.unshare(0x10000000 | 0x20000)
answer += [libc.umount2(folder.encode(), 2), os.path.exists(sys.argv[1])]
"""
    )
    assert world_on_disk.ask(code, world_on_disk.live_db) == [-1, -1, False]


@isolated
def test_p6_a_wal_that_live_begins_later_does_not_appear(world_on_disk: World) -> None:
    """A hidden database next to a visible WAL would be recovered from live pages."""
    world = world_on_disk
    came: list[Completed] = []

    def run() -> None:
        # The command waits for a file among the copies, which the test makes after the live writer began its WAL.
        waiting = (
            "import os, sys, json, time\nopen(sys.argv[2] + '/ready', 'w').close()\n"
            "end = time.monotonic() + 20\n"
            "while not os.path.exists(sys.argv[2] + '/go') and time.monotonic() < end: time.sleep(0.01)\n"
            "print(json.dumps(os.listdir(os.path.dirname(sys.argv[1]))))"
        )
        came.append(world.python(waiting, world.live_db, world.directory))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        _until(lambda: os.path.exists(f"{world.directory}/ready"))
        with contextlib.closing(sqlite3.connect(world.live_db)) as connection:
            connection.execute("pragma journal_mode=wal")
            connection.execute("insert into facts values ('later')")
            connection.commit()
            assert os.path.exists(world.live_db + "-wal")
            write(f"{world.directory}/go", "")
            thread.join(30)
    finally:
        thread.join(30)
    assert json.loads(came[0].output) == []


@isolated
def test_p6_nothing_is_writable_but_the_copies_and_private_folders(world_on_disk: World) -> None:
    world = world_on_disk
    code = (
        TRY
        + """
def put(path):
    with open(path, 'w') as file:
        file.write('x')
    return 'written'
answer = [tried(lambda path=path: put(path)) for path in sys.argv[1:]]
"""
    )
    refused = [
        world.live_db,
        f"{world.root}/new",
        "/etc/resurgam-test",
        "/proc/sys/kernel/hostname",
        f"{world.root}/settings.toml",
    ]
    assert set(world.ask(code, *refused)) == {"OSError"}
    allowed = [f"{world.directory}/new", world.copy_db, "/tmp/new", "/dev/shm/new", "/dev/null"]
    assert set(world.ask(code, *allowed)) == {"written"}
    assert not os.path.exists("/tmp/new")  # private
    assert os.path.exists(f"{world.directory}/new")


@isolated
def test_p4_a_command_does_not_write_its_own_verdict(world: World) -> None:
    write(f"{world.directory}/{FILE}", '{"verdict": "none"}')
    code = TRY + "answer = [tried(lambda: open(sys.argv[1], 'w')), tried(lambda: os.unlink(sys.argv[1]))]"
    assert world.ask(code, f"{world.directory}/{FILE}") == ["OSError", "OSError"]
    with open(f"{world.directory}/{FILE}") as file:
        assert file.read() == '{"verdict": "none"}'


@isolated
def test_p6_no_connection_to_the_hosts_loopback_and_one_of_its_own(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass  # from outside it answers
        code = (
            TRY
            + """
import socket
answer = [tried(lambda: bool(socket.create_connection(('127.0.0.1', int(sys.argv[1])), timeout=3)))]
own = socket.create_server(('127.0.0.1', 0))
answer.append(tried(lambda: bool(socket.create_connection(own.getsockname(), timeout=3))))
answer.append(tried(lambda: bool(socket.create_connection(('192.0.2.1', 80), timeout=3))))
answer.append([name for _, name in socket.if_nameindex()])
"""
        )
        assert world.ask(code, str(port)) == ["ConnectionRefusedError", True, "OSError", ["lo"]]


@isolated
def test_p6_a_socket_file_of_a_live_server_is_not_reached(world_on_disk: World) -> None:
    """A path is not stopped by a network namespace."""
    with tempfile.TemporaryDirectory(dir="/var", prefix="resurgam-") as folder, socket.socket(socket.AF_UNIX) as server:
        path = f"{folder}/s"
        server.bind(path)
        server.listen()
        code = TRY + "import socket\ns = socket.socket(socket.AF_UNIX)\nanswer = tried(lambda: s.connect(sys.argv[1]))"
        assert world_on_disk.ask(code, path) == "ConnectionRefusedError"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)  # from outside it answers


@isolated
def test_p6_environment_home_and_files_are_its_own(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "s3cr3t")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("TZ", "Europe/London")
    with open(__file__, "rb") as held:
        os.set_inheritable(held.fileno(), True)
        code = (
            "answer = [dict(os.environ), os.listdir(os.environ['HOME']), sorted(map(int, os.listdir('/proc/self/fd')))]"
        )
        program = f"import os, json\n{code}\nprint(json.dumps(answer))"
        done = world.box().run([sys.executable, "-c", program], env={"GIVEN": "1", "KEY": "${API_KEY}"})
    environment, home, descriptors = json.loads(done.output)
    assert environment.keys() <= {
        "PATH",
        "LANG",
        "LANGUAGE",
        "TZ",
        "HOME",
        "TMPDIR",
        "GIVEN",
        "KEY",
        "LC_CTYPE",
        "LC_ALL",
    }
    assert (environment["TZ"], environment["GIVEN"], environment["KEY"]) == ("Europe/London", "1", "${API_KEY}")
    assert environment["HOME"] != os.environ["HOME"]
    assert home == []
    assert descriptors == [0, 1, 2, 3]  # 3 is the listing itself
    assert b"s3cr3t" not in done.output


@isolated
def test_p6_credentials_in_home_folders_are_not_there(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/var", prefix="resurgam-home-") as home:
        write(f"{home}/.aws/credentials", "secret")
        write(f"{home}/.config/gcloud/adc.json", "secret")
        write(f"{home}/.config/other", "fine")
        monkeypatch.setenv("HOME", home)
        assert world.ask("answer = [os.listdir(sys.argv[1]), os.listdir(sys.argv[1] + '/.config')]", home) == [
            [".config"],
            ["other"],
        ]


@isolated
def test_p6_rights_are_given_up(world: World) -> None:
    lines = world.ask("answer = open('/proc/self/status').read().splitlines()")
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert status["NoNewPrivs"] == "1"
    assert int(status["CapBnd"], 16) in (0, 1 << 1)  # at most CAP_DAC_OVERRIDE
    assert int(status["CapEff"], 16) in (0, 1 << 1)


@isolated
def test_what_a_command_needs_works(world: World) -> None:
    """Its root, its copies, threads and processes, temporary files, shared memory, random numbers, standard input."""
    code = """
import multiprocessing, sqlite3, tempfile
with tempfile.TemporaryFile() as file:
    file.write(b'x')
with multiprocessing.get_context('fork').Pool(2) as pool:
    doubled = pool.map(abs, [-1, -2])
row = sqlite3.connect(sys.argv[1]).execute('select answer from facts').fetchone()
answer = [os.getcwd(), doubled, row, len(os.urandom(4)), open('settings.toml').read(), sys.stdin.read()]
"""
    program = f"import os, sys, json\n{code}\nprint(json.dumps(answer))"
    done = world.box().run([sys.executable, "-c", program, world.copy_db], input=b"hello")
    assert json.loads(done.output) == [world.root, [1, 2], ["copy"], 4, "a = 1", "hello"]


@isolated
def test_counter_test_corrupting_live_changes_nothing_and_corrupting_the_copy_does(world: World) -> None:
    """Design 6: the answer depends on the copy, and on the copy alone; with a path that is live's by mistake there is none."""
    question = "import sqlite3\nanswer = sqlite3.connect(sys.argv[1]).execute('select answer from facts').fetchall()"
    before = world.ask(question, world.copy_db)
    with open(world.live_db, "r+b") as file:
        file.write(os.urandom(4096))
    assert world.ask(question, world.copy_db) == before == [["copy"]]
    assert world.python(f"import sys\n{question}", f"file:{world.live_db}").code != 0
    with contextlib.closing(sqlite3.connect(world.copy_db)) as connection, connection:
        connection.execute("update facts set answer = 'changed'")
    assert world.ask(question, world.copy_db) == [["changed"]]


# ---- ends


@isolated
def test_codes_signals_and_commands_that_cannot_be_run(world: World) -> None:
    assert world.python("raise SystemExit(3)").code == 3
    assert world.python("import os; os.kill(os.getpid(), 15)").code == -15
    missing = world.box().run(["no-such-program"])
    assert (missing.code, b"No such file" in missing.errors) == (127, True)
    assert world.box().run([f"{world.root}/settings.toml"]).code == 126
    assert world.box().run(["a\0b"]).code == 126


FORKING = """
import os, time, sys
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.setsid()
        break
with open(sys.argv[1], 'a') as file:
    while True:
        file.write('.')
        file.flush()
        time.sleep(0.005)
"""


@isolated
def test_a_forking_command_dies_entirely_when_its_time_is_over(world: World) -> None:
    beat = f"{world.directory}/beat"
    began = time.monotonic()
    done = world.python(FORKING, beat, timeout=5.0)
    assert done.timed_out
    assert time.monotonic() - began < 30
    assert os.path.getsize(beat) > 0
    _until(lambda: _stands_still(beat))


@isolated
def test_what_a_command_leaves_behind_dies_with_it(world: World) -> None:
    beat = f"{world.directory}/beat"
    code = f"import os, sys, time\nif os.fork() == 0:\n    os.setsid()\n    exec({FORKING!r})\ntime.sleep(0.2)\nos._exit(7)"
    assert world.python(code, beat).code == 7
    _until(lambda: _stands_still(beat))


@isolated
def test_everything_dies_with_the_process_that_asked(world: World) -> None:
    """kill -9 of a verify leaves nothing running (P6)."""
    beat = f"{world.directory}/beat"
    program = (
        "import sys, msgspec\nfrom resurgam.restore.sandbox import Sandbox\nfrom resurgam.model.system import System\n"
        "system = msgspec.json.decode(sys.argv[2], type=System)\n"
        "Sandbox(sys.argv[1], system).run([sys.executable, '-c', sys.argv[3], sys.argv[4]], timeout=600)\n"
    )
    arguments = [world.directory, msgspec.json.encode(world.system).decode(), FORKING, beat]
    surroundings = os.environ | {"TMPDIR": world.folder}  # what a killed process leaves, it leaves there
    with subprocess.Popen([sys.executable, "-c", program, *arguments], env=surroundings) as process:
        try:
            _until(lambda: os.path.exists(beat) and os.path.getsize(beat) > 10)
        finally:
            process.send_signal(signal.SIGKILL)
    _until(lambda: _stands_still(beat))


@isolated
def test_too_much_output_ends_it(world: World) -> None:
    done = world.python("import sys\nwhile True: sys.stdout.write('x' * 65536)")
    assert done.overflowed
    assert len(done.output) <= MAX_OUTPUT + (1 << 20)


# ---- where walls cannot be built


@isolated
def test_p12_a_wall_that_fails_keeps_the_command_from_running(world: World) -> None:
    write(f"{world.folder}/parent/root/x", "")
    system = msgspec.structs.replace(world.system, root=f"{world.folder}/parent/root")
    box = Sandbox(world.directory, system, hide=[f"{world.folder}/parent"])  # its own root is hidden from it
    with pytest.raises(Denied) as caught:
        box.run([sys.executable, "-c", "import sys; open(sys.argv[1], 'w')", f"{world.directory}/ran"])
    assert "root" in caught.value.message
    assert not os.path.exists(f"{world.directory}/ran")


def test_p4_without_namespaces_required_runs_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = IsolationReport(isolated=False, reason="user namespace: Operation not permitted")
    monkeypatch.setattr(sandbox, "isolation", lambda: lacking)
    box = world.box(isolation=Isolation.REQUIRED)
    assert not box.runs
    assert str(box.isolation) == "not isolated: user namespace: Operation not permitted"
    with pytest.raises(Denied) as caught:
        box.run(["true"])
    assert "best-effort" in caught.value.next_step


def test_p4_best_effort_runs_scrubbed_and_says_that_it_is_not_isolated(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEY", "s3cr3t")
    lacking = IsolationReport(isolated=False, reason="none here")
    monkeypatch.setattr(sandbox, "isolation", lambda: lacking)
    with world.box(isolation=Isolation.BEST_EFFORT) as box:
        assert box.runs
        assert not box.isolation.isolated
        done = box.run(
            [sys.executable, "-c", "import os; print(os.getcwd(), os.environ.get('API_KEY'), os.environ['HOME'])"]
        )
    cwd, key, home = done.output.decode().split()
    assert (cwd, key) == (world.root, "None")
    assert home != os.path.expanduser("~")
    assert not os.path.exists(home)


def test_a_restore_that_is_not_there_is_not_asked(world: World) -> None:
    with pytest.raises(NotFound):
        Sandbox(f"{world.folder}/none", world.system)


@isolated
def test_a_host_without_the_systems_root_can_still_ask_the_copies(world: World) -> None:
    """The tool must survive the disaster it is for (P3): here the live root is gone."""
    done = world.box(root="/gone").run([sys.executable, "-c", "import os; print(os.getcwd())"])
    assert done.output.decode().strip() == world.directory


WITHOUT_ADMIN = """
import ctypes, json, struct, sys
import msgspec
from resurgam.model.system import System
from resurgam.restore.sandbox import Sandbox
libc = ctypes.CDLL(None, use_errno=True)
admin = 21
assert libc.prctl(24, admin, 0, 0, 0) == 0
had = int(next(line for line in open("/proc/self/status") if line.startswith("CapEff")).split()[1], 16)
low, high = had & 0xffffffff & ~(1 << admin), had >> 32
assert libc.capset(struct.pack("Ii", 0x20080522, 0), struct.pack("6I", low, low, 0, high, high, 0)) == 0
box = Sandbox(sys.argv[1], msgspec.json.decode(sys.argv[2], type=System))
code = "import os, sys; print(os.path.exists(sys.argv[1]), os.path.exists(sys.argv[2]), os.listdir('/sys/class/net'))"
done = box.run([sys.executable, "-c", code, *sys.argv[3:]]) if box.runs else None
print(json.dumps([str(box.isolation), done and done.output.decode()]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give up a right of it")
def test_p6_a_user_namespace_serves_where_rights_are_missing(world_on_disk: World) -> None:
    """As for an ordinary user, or root in a container: without CAP_SYS_ADMIN the walls stand in a user namespace."""
    world = world_on_disk
    arguments = [world.directory, msgspec.json.encode(world.system).decode(), world.live_db, world.copy_db]
    done = subprocess.run([sys.executable, "-c", WITHOUT_ADMIN, *arguments], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    said, output = json.loads(done.stdout)
    if said.startswith("not isolated: user namespace"):
        pytest.skip(f"user namespaces are switched off here: {said}")
    assert said == "isolated"
    assert output.startswith("False True")


def _until(holds: Any, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        select.select([], [], [], 0.01)


def _stands_still(path: str) -> bool:
    """Whether nobody has written to ``path`` for longer than the writer's own beat."""
    size = os.path.getsize(path)
    select.select([], [], [], 0.3)
    return os.path.getsize(path) == size
