"""Many small files, taken in by copies of this process: as if one had read them all, whatever happens meanwhile (P1, P11, P12)."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from resurgam.vault import workers

# The test runner has threads of its own, and whoever has some is not copied: so each capture is a process.
CAPTURE = """
import os, signal, sys
from resurgam.cli.main import main
from resurgam.drivers import files_reading
from resurgam.vault import workers, zones

files_reading.SAFE_AGE = 0  # else these are young
workers.processors = lambda: {processors}
known, taken, last = zones.ZoneReaders.known, [], [b""]

def counted(self, keys):
    found = known(self, keys)
    taken.extend(one for one in found if one)
    last.append(max(last.pop(), keys[-1]))
    assert self._listed[self._asked - 1] <= last[0], "it waits for what it was not asked for"
    return found

zones.ZoneReaders.known = counted
listed = zones.ZoneReaders.__init__

def begun(self, *arguments):
    {meanwhile}
    listed(self, *arguments)

zones.ZoneReaders.__init__ = begun
{before}
code = main()
print("taken", len(taken))
sys.exit(code)
"""

FILES = 4_000
pytestmark = pytest.mark.skipif(
    not os.path.isdir(workers._TASKS), reason="copies are made where /proc tells of threads"
)


class Place:
    """A folder of many files, its vault, and the command line."""

    def __init__(self, here: Path, **limits: float) -> None:
        self.here, self.live = here, here / "live"
        manifest = {
            "resurgam": 1,
            "system": "many",
            "vault": {"path": str(here / "vault"), "keys": str(here / "keys")},
            "components": {
                "alone": {"driver": "files", "location": str(here / "file")},  # threads store it
                "data": {"driver": "files", "location": str(self.live)},
            },
            "limits": limits,
        }
        self.live.mkdir()
        (here / "file").write_bytes(Random(1).randbytes(600_000))
        (here / "resurgam.yaml").write_text(json.dumps(manifest))
        self.run("-m", "resurgam", "vault", "init")

    def run(self, *words: str, code: int = 0) -> str:
        """What Python printed when it ran ``words``."""
        environment = os.environ | {"RESURGAM_STATE": str(self.here / "state"), "OPENBLAS_NUM_THREADS": "1"}
        manifest = ["--manifest", str(self.here / "resurgam.yaml")]
        words = (sys.executable, *words, *manifest)
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, env=environment, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def capture(self, processors: int = 3, meanwhile: str = "pass", before: str = "", code: int = 0) -> tuple[str, int]:
        """What a capture said, and how many files children took in."""
        script = CAPTURE.format(processors=processors, meanwhile=meanwhile, before=before)
        said = self.run("-c", script, "capture", code=code)
        return said, int(said.partition("taken ")[2].split()[0])

    def forget(self) -> None:
        """As a host that lost what it remembered."""
        shutil.rmtree(self.here / "state")

    def restored(self, point: str = "latest") -> dict[str, tuple[object, ...]]:
        """What a restored copy holds."""
        target = self.here / f"copy-{point}-{Random().random()}"
        self.run("-m", "resurgam", "restore", point, "--into", str(target))
        return held(target / "data" / "live")

    def stored(self) -> int:
        """Bytes in the vault."""
        return sum(path.stat().st_size for path in (self.here / "vault").rglob("*") if path.is_file())


def held(folder: Path) -> dict[str, tuple[object, ...]]:
    """Everything below a folder, by path: kind and rights, time, which file it is of those with several names, contents."""
    found: dict[str, tuple[object, ...]] = {}
    first: dict[int, str] = {}
    for path in sorted(folder.rglob("*")):
        name, seen = str(path.relative_to(folder)), path.lstat()
        if stat.S_ISREG(seen.st_mode):
            what: object = (first.setdefault(seen.st_ino, name), path.read_bytes())
        else:
            what = os.readlink(path) if path.is_symlink() else ""
        found[name] = (stat.S_IFMT(seen.st_mode), stat.S_IMODE(seen.st_mode), seen.st_mtime_ns, what)
    return found


def fill(live: Path, files: int = FILES) -> None:
    """Small files of any kind, and all else that a folder holds; old enough to be believed."""
    rng = Random(files)
    for number in range(files):
        path = live / f"{number % 7}" / f"{rng.randrange(1 << 40):010x}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(
            rng.randbytes(rng.randrange(4)) if number % 9 == 0 else b"words %d " % number * rng.randrange(99)
        )
        path.chmod(rng.choice((0o600, 0o640, 0o755)))
        os.utime(path, ns=(10**18 + number, 10**18 + number))
    (live / "0" / "link").symlink_to("nowhere")
    (live / "large").write_bytes(rng.randbytes(400_000))
    (live / "empty folder").mkdir()
    os.link(live / "large", live / "1" / "same")
    os.link(next((live / "2").iterdir()), live / "6" / "zz same")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Many files, and an empty vault."""
    place = Place(tmp_path)
    fill(place.live)
    return place


def test_all_comes_back_as_it_was(place: Place) -> None:
    """P1: with every kind of file between the small ones; children took in all that is small and has one name."""
    said, taken = place.capture()
    names = sum(1 for path in place.live.rglob("*") if path.is_file() and not path.is_symlink())
    assert taken == names - 4, "the large one has two names, and so has one of the small ones"
    assert "sealed" in said
    assert place.restored() == held(place.live)


def test_it_is_the_same_point(place: Place) -> None:
    """P11: whether one process has read all or several have, their points hold the same; and what they took in is remembered."""
    _, alone = place.capture(processors=1)
    place.forget()
    _, taken = place.capture()
    assert (alone, taken) == (0, FILES - 1)
    first, second = (point["id"] for point in json.loads(place.run("-m", "resurgam", "points", "--json")))
    assert json.loads(place.run("-m", "resurgam", "diff", first, second, "--json")) == []
    before = place.stored()
    place.capture()
    assert place.stored() - before < 60_000, "pages of metadata at most"


def test_one_file_more_shifts_few_chunks(place: Place) -> None:
    """P11: a host that remembers nothing reads all again, and stores little of it again."""
    place.capture()
    before = place.stored()
    (place.live / "0" / "0000").write_bytes(b"one more")
    place.forget()
    _, taken = place.capture()
    assert taken == FILES
    assert place.stored() - before < before / 2


def test_few_files_and_limits_need_no_children(place: Place, tmp_path: Path) -> None:
    """Where a read limit holds, one process draws from it; and a few files are not worth a copy."""
    limited, few = tmp_path / "limited", tmp_path / "few"
    limited.mkdir()
    few.mkdir()
    gentle, small = Place(limited, read_mb_s=100), Place(few)
    shutil.rmtree(gentle.live)
    shutil.copytree(place.live, gentle.live, symlinks=True)
    fill(small.live, 60)
    for one in (gentle, small):
        said, taken = one.capture()
        assert taken == 0
        assert "sealed" in said


def test_what_changes_meanwhile_is_as_ever(place: Place) -> None:
    """P12: gone, grown, turned into a folder, or just written, after the listing: whole as it was at some moment, or named."""
    files = sorted(path for path in (place.live / "3").iterdir() if path.stat().st_size)
    gone, grown, other, young = (str(path) for path in files[:4])
    meanwhile = (
        f"os.unlink({gone!r}); open({grown!r}, 'ab').write(b'more'); "
        f"os.unlink({other!r}); os.mkdir({other!r}); open({young!r}, 'wb').write(b'young')"
    )
    _, taken = place.capture(meanwhile=meanwhile, code=22)
    assert taken == FILES - 1 - 4
    assert "2 left out: vanished" in place.run("-m", "resurgam", "show", "latest")
    expected, found = held(place.live), place.restored()
    del expected[os.path.relpath(other, place.live)]
    del expected["3"], found["3"]  # whose time changed after it was listed
    assert found == expected


def test_a_child_that_is_killed_ends_the_capture(place: Place) -> None:
    """P12: nothing is sealed, nobody waits for ever, and the next capture is whole."""
    before = (
        "share = zones.ZoneReaders._share\n"
        "def killed(self, number, count):\n"
        "    for turn, filled in enumerate(share(self, number, count)):\n"
        "        if number == 1 and turn == 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        yield filled\n"
        "zones.ZoneReaders._share = killed"
    )
    said, _ = place.capture(before=before, code=1)
    assert "A process that shared the work was ended" in said
    assert json.loads(place.run("-m", "resurgam", "points", "--json")) == []
    place.capture()
    assert place.restored() == held(place.live)


def test_nothing_is_waited_for_that_was_not_asked_for(place: Place) -> None:
    """Memory: also where the parent reads most of the files, and asks for each of those a second time."""
    said, taken = place.capture(before="zones.SMALL = 400")
    assert 0 < taken < FILES / 2
    assert "sealed" in said
    assert place.restored() == held(place.live)


def test_a_folder_that_answers_slowly_has_children_too(place: Place) -> None:
    """On a busy machine a folder is taken for a distant store; that says nothing of threads that forbid a copy."""
    before = "from resurgam.stores import abreast; abreast.QUICK = 0"
    assert place.capture(before=before)[1] == FILES - 1


def test_children_far_ahead_wait(place: Place) -> None:
    """Memory: where the parent is behind, only the child that it needs goes on."""
    said, taken = place.capture(before="zones.MOST_AHEAD = 1")
    assert taken == FILES - 1
    assert "sealed" in said
    assert place.restored() == held(place.live)


def test_much_to_tell_of_few_bytes(place: Place) -> None:
    """Extended attributes may be larger than the file: a chunk ends for their sake, and what has too many is the parent's."""
    try:
        for number, path in enumerate(sorted((place.live / "4").iterdir())):
            os.setxattr(path, "user.note", bytes(3_000 if number % 50 else 20))
    except OSError:
        pytest.skip("this file system has no extended attributes")
    _, taken = place.capture(before="zones._TOLD = 20_000")
    assert taken == FILES - 1
    place.forget()
    _, some = place.capture(before="zones._TOLD = 2_000")
    assert 0 < some < FILES - 400
    assert place.restored() == held(place.live)
