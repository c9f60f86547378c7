"""Values to bytes and back, in any thread."""

from __future__ import annotations

import subprocess
import sys

import pytest

LEARNING = """
import sys, threading
import msgspec
from resurgam.model import codec

sys.setswitchinterval(1e-6)
encode, decode = {"json": (codec.to_json, codec.from_json), "msgpack": (codec.to_msgpack, codec.from_msgpack)}[sys.argv[1]]
for number in range(40):
    inner = msgspec.defstruct(f"Inner{number}", [(f"f{i}", str | None, None) for i in range(30)])
    outer = msgspec.defstruct(f"Outer{number}", [(f"f{i}", dict[str, inner] | None, None) for i in range(30)])
    data = encode({f"f{i}": {"a": {"f1": "x"}} for i in range(30)})
    together, found = threading.Barrier(4), []

    def learn():
        together.wait()
        found.append(decode(data, outer, what="it"))

    threads = [threading.Thread(target=learn) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.f29["a"].f1 for one in found] == ["x"] * 4
"""

FORKED = """
import os, signal, threading, time
from resurgam.model import codec

held = threading.Event()

def learn():
    with codec._LEARNING:
        held.set()
        time.sleep(0.5)

thread = threading.Thread(target=learn)
thread.start()
held.wait()
child = os.fork()
if not child:
    signal.alarm(20)
    assert codec.from_json(b"[1]", list[int], what="it") == [1]
    os._exit(0)
thread.join()
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize("form", ["json", "msgpack"])
def test_threads_that_meet_a_type_at_once_do_not_end_the_process(form: str) -> None:
    """msgspec's own functions do (0.22): the second thread uses what the first has half learned of the type."""
    done = subprocess.run(
        [sys.executable, "-c", LEARNING, form], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_copy_of_the_process_learns_types_though_another_thread_was_at_it() -> None:
    """Copies are made in the midst of a capture, whose threads may be reading."""
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
