"""Models that lie beside the one they came from are stored as what differs; whoever restores them gets every byte.

A family is made in memory, under a driver that lets its files be read once more.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from resurgam.drivers.base import Source
from resurgam.errors import IntegrityError, NotFound, Unreachable
from resurgam.model.point import Position
from resurgam.model.system import Component
from resurgam.vault import bases, intake
from resurgam.vault.check import check
from resurgam.vault.chunking import Piece
from resurgam.vault.needs import as_ids, needs_of
from resurgam.vault.pace import Pace
from resurgam.vault.prune import Economics
from resurgam.vault.pruning import begin, draft, propose, sweep
from resurgam.vault.repository import Sealed
from resurgam.vault.snapshots import pieces_of
from resurgam.vault.trees import TreeWalk
from tests.support import CountedSource, MemoryDriver, World, stored_bytes

ELEMENTS = 1 << 18  # of each tensor, 2 bytes each


class Reopening(MemoryDriver):
    """Gives what lies live now; ``gone`` are paths that are not there, ``trouble`` those that cannot be opened."""

    def __init__(self) -> None:
        super().__init__()
        self.gone: set[bytes] = set()
        self.trouble: dict[bytes, Exception] = {}
        self.reopened: list[CountedSource] = []

    def reopen(self, component: Component, at: Position, path: bytes) -> Source:
        """See ``drivers.base.Reopens``."""
        files = self.held[component.name].files
        if path not in files or path in self.gone:
            raise NotFound("gone", untouched="", next_step="")
        if path in self.trouble:
            raise self.trouble[path]
        self.reopened.append(CountedSource(files[path], self._count))
        return self.reopened[-1]


def weights(seed: int, base: np.ndarray | None = None, noise: float = 0.003) -> np.ndarray:
    """Two tensors' bfloat16: normal ones, or ``base`` with relative noise on 60 % of them."""
    rng = np.random.default_rng(seed)
    if base is None:
        return _bf16(rng.normal(0, 0.02, 2 * ELEMENTS))
    floats = (base.astype(np.uint32) << 16).view(np.float32)
    moved = rng.random(len(base)) < 0.6
    return _bf16(np.where(moved, floats * (1 + rng.normal(0, noise, len(base))), floats))


def _bf16(values: np.ndarray) -> np.ndarray:
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def model(values: np.ndarray, names: tuple[str, str] = ("a", "b"), note: str = "") -> bytes:
    """A safetensors file of two tensors."""
    size = 2 * ELEMENTS
    header = {
        name: {"dtype": "BF16", "shape": [512, 512], "data_offsets": [n * size, n * size + size]}
        for n, name in enumerate(names)
    }
    text = json.dumps({"__metadata__": {"note": note}} | header).encode()
    return len(text).to_bytes(8, "little") + text + values.tobytes()


def world(tmp_path: Path) -> World:
    """One whose files can be read once more."""
    made = World(str(tmp_path))
    driver = Reopening()
    driver.held = made.driver.held
    made.driver = driver
    return made


def test_a_fine_tune_costs_what_differs(tmp_path: Path) -> None:
    """P11, and P12: in the next point, and in the one where both are new; every byte comes back."""
    there, base = world(tmp_path), weights(1)
    there.live.files[b"base"] = model(base)
    there.capture()
    before = stored_bytes(there.store)
    there.live.files[b"a-tune"] = model(weights(2, base), note="before its base by name")
    there.live.files[b"tune"] = model(weights(3, base))
    sealed = there.capture()
    assert stored_bytes(there.store) - before < 2 * 0.1 * base.nbytes
    assert there.restored(sealed) == there.contents()
    there.live.files[b"z/1"], there.live.files[b"z/2"] = (model(weights(seed, weights(9))) for seed in (4, 5))
    before = stored_bytes(there.store)
    sealed = there.capture()
    assert stored_bytes(there.store) - before < (0.68 + 0.2) * base.nbytes
    assert there.restored(sealed) == there.contents()


def test_no_copy_of_the_process_is_asked_for_deltas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P11: deltas are stored by the process that tells them; a file with a base is left to its threads."""
    there, base, asked = world(tmp_path), weights(1), list[bool]()
    monkeypatch.setattr(intake, "NUMBERS_COPIED_FROM", 0)
    monkeypatch.setattr(
        intake, "coders", lambda _sink, _keys, _source, _spans, patching, _pool: asked.append(patching.tells)
    )
    for name, values in ((b"base", base), (b"tune", weights(2, base))):
        there.live.files[name] = model(values)
        before = stored_bytes(there.store)
        there.capture()
    assert asked == [False]
    assert stored_bytes(there.store) - before < 0.1 * base.nbytes


def test_a_base_is_read_at_the_pace_of_all_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P12: ``--limit-read`` holds also for what is read beside what is captured, to tell the difference."""
    there, base = world(tmp_path), weights(1)
    there.live.files = {b"base": model(base)}
    there.capture()
    there.live.files[b"tune"] = model(weights(2, base))
    paid: list[int] = []
    monkeypatch.setattr(Pace, "spend", lambda _self, size: paid.append(size))
    before = there.driver.read_bytes
    there.capture()
    assert there.driver.read_bytes - before > 1.9 * base.nbytes, "both were read"
    assert sum(paid) + 1000 >= there.driver.read_bytes - before, "but for the first bytes of a header"


def test_a_tensor_is_found_by_its_name_wherever_it_lies(tmp_path: Path) -> None:
    """P11: in another order, and behind a longer header."""
    there, base = world(tmp_path), weights(1)
    there.live.files[b"base"] = model(base)
    there.capture()
    tuned = weights(2, base)
    swapped = np.concatenate([tuned[ELEMENTS:], tuned[:ELEMENTS]])
    there.live.files[b"tune"] = model(swapped, ("b", "a"), note="x" * 1001)
    before = stored_bytes(there.store)
    sealed = there.capture()
    assert stored_bytes(there.store) - before < 0.1 * base.nbytes
    assert there.restored(sealed) == there.contents()


def test_equal_bytes_have_equal_digests_however_they_are_stored(tmp_path: Path) -> None:
    """P11: what was stored as a delta is no other file than the same bytes stored whole."""
    there, base = world(tmp_path), weights(1)
    tuned = model(weights(2, base))
    there.live.files |= {b"base": model(base), b"tune": tuned}
    as_delta = there.capture()
    digests = {entry.path: entry.digest for entry in there.repository().snapshot(as_delta.body, "files").entries()}
    del there.live.files[b"base"]
    there.live.files[b"again"] = tuned
    alone = there.capture()
    after = {entry.path: entry.digest for entry in there.repository().snapshot(alone.body, "files").entries()}
    assert after[b"again"] == after[b"tune"] == digests[b"tune"]
    assert there.restored(alone) == there.contents()


def test_a_base_is_listed_with_what_rests_on_it_and_is_a_whole_chunk(tmp_path: Path) -> None:
    """P2: who keeps the chunks that a point lists keeps every base, and no delta rests on a delta."""
    there, base = world(tmp_path), weights(1)
    there.live.files |= {b"base": model(base), b"tune": model(weights(2, base))}
    there.capture()
    del there.live.files[b"base"]
    there.live.files[b"tune2"] = model(weights(3, weights(2, base)))
    sealed = there.capture()
    repository = there.repository()
    reader = repository.snapshot(sealed.body, "files")
    parts = {e.path: [part for piece in pieces_of(e, reader.get) for part in piece.parts] for e in reader.entries()}
    assert [length for _, _, length in parts[b"tune"]].count(0) == 2
    assert not parts[b"tune2"]
    needed = needs_of(repository, [(sealed, ())])
    assert needed.known[needed.rows(as_ids(b"".join(chunk for chunk, _, _ in parts[b"tune"])))].all()
    assert not TreeWalk(repository, needed).walk(sealed.body.snapshots[0])
    assert there.restored(sealed) == there.contents()


@pytest.mark.parametrize("what", ["gone", "changed", "damaged memory", "paranoid"])
def test_a_base_that_is_not_what_was_captured_is_none(tmp_path: Path, what: str) -> None:
    """P1: bytes that do not have the chunk's id are no base; what then rests on none is stored whole."""
    there, base = world(tmp_path), weights(1)
    there.live.files[b"zbase"] = model(base)
    there.capture()
    if what == "gone":
        assert isinstance(there.driver, Reopening)
        there.driver.gone.add(b"zbase")
    elif what == "changed":
        there.live.files[b"zbase"] = model(weights(7, base, 0.2))
    elif what == "damaged memory":
        (remembered,) = Path(there.state).rglob("*.bases")
        remembered.write_bytes(b"x" + remembered.read_bytes()[1:])
    there.live.files[b"tune"] = model(weights(2, base))
    before = stored_bytes(there.store)
    sealed = there.capture(paranoid=what == "paranoid")
    assert stored_bytes(there.store) - before > 0.6 * base.nbytes
    assert there.restored(sealed) == there.contents()


def test_what_a_delta_makes_must_have_the_id_it_is_known_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P1: a wrong delta is an error, never other weights."""
    there, base = world(tmp_path), weights(1)
    there.live.files |= {b"base": model(base), b"tune": model(weights(2, base))}
    sound = bases.Base.delta

    def wrong(self: bases.Base, piece: Piece, data: memoryview) -> tuple[bytes, bytes] | None:
        other = bytearray(data)
        other[7] ^= 1
        return sound(self, piece, memoryview(other))

    monkeypatch.setattr(bases.Base, "delta", wrong)
    sealed = there.capture()
    with pytest.raises(IntegrityError):
        there.restored(sealed)


def test_a_file_stored_as_deltas_is_patched_into_whole_pieces(tmp_path: Path) -> None:
    """P1: a delta is nothing that blocks can be taken from."""
    there, base = world(tmp_path), weights(1)
    tuned = weights(2, base)
    there.live.files |= {b"base": model(base), b"tune": model(tuned)}
    there.capture()
    del there.live.files[b"base"]
    tuned[5:50] ^= 1
    there.live.files[b"tune"] = model(tuned)
    sealed = there.capture()
    assert there.restored(sealed) == there.contents()


@pytest.mark.parametrize("error", [OSError(5, "input/output error"), Unreachable("x", untouched="", next_step="")])
def test_a_base_on_a_broken_disk_keeps_no_other_file_from_being_stored(tmp_path: Path, error: Exception) -> None:
    """P1: what cannot be read of another file is that file's trouble."""
    there, base = world(tmp_path), weights(1)
    there.live.files[b"zbase"] = model(base)
    there.capture()
    assert isinstance(there.driver, Reopening)
    there.driver.trouble[b"zbase"] = error
    there.live.files[b"tune"] = model(weights(2, base))
    assert there.restored(there.capture()) == there.contents()


class Cut(CountedSource):
    """A file of tensors of which only the header is left when it is read."""

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Nothing behind the first kilobyte."""
        return super().read_into(offset, buffer[: max(0, 1000 - offset)])


def test_a_model_that_is_cut_off_while_it_is_read_is_kept_as_it_is(tmp_path: Path) -> None:
    """P1: nothing can be sampled of it, and it is stored."""
    there, base = world(tmp_path), weights(1)
    there.live.files[b"base"] = model(base)
    there.capture()
    there.live.files[b"tune"] = model(weights(2, base))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.support.CountedSource", Cut)
        sealed = there.capture()
    assert there.restored(sealed)["files"][b"tune"] == there.live.files[b"tune"][:1000]


def test_every_base_is_closed_and_few_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P11: of many models of one family only the last ones are looked at; also where a file is read again."""
    monkeypatch.setattr(bases, "MOST", 2)
    there, base = world(tmp_path), weights(1)
    there.live.files |= {b"%02d" % n: model(weights(n, base)) for n in range(10)}
    there.live.moves[b"09"] = [model(weights(99, base))]
    sealed = there.capture()
    assert there.restored(sealed)["files"][b"08"] == there.live.files[b"08"]
    assert isinstance(there.driver, Reopening)
    opened = there.driver.reopened
    assert all(source.closed for source in opened)
    assert 10 < len(opened) <= 2 * 11


@pytest.mark.parametrize("then", ["restore", "unchanged", "touched", "without its base"])
def test_a_delta_outlives_the_point_of_its_base(tmp_path: Path, then: str) -> None:
    """P1, P2: the base's point is pruned and swept; what rests on it restores, and so does what is captured after."""
    there, base = world(tmp_path), weights(1)
    there.live.files |= {b"base": model(base), b"other": model(weights(8))[:-1]}
    first = there.capture()
    there.live.files = {b"base": model(base), b"tune": model(weights(2, base))}
    there.capture()
    del there.live.files[b"base"]
    second = there.capture()
    expected, before = there.contents(), stored_bytes(there.store)
    for sealed in there.repository().points():
        if sealed.body.id != second.body.id:
            prune_away(there, sealed)
    assert first.body.id not in {sealed.body.id for sealed in there.repository().points()}
    assert stored_bytes(there.store) < before - 500_000
    (entry,) = there.repository().snapshot(second.body, "files").entries()
    get = there.repository().chunks("default").get
    assert any(piece.parts and not piece.parts[-1][2] for piece in pieces_of(entry, get))
    assert there.restored(second) == expected
    if then == "touched":
        there.live.stamped = False
    elif then == "without its base":
        there.live.files[b"tune2"] = model(weights(3, weights(2, base)))
    if then != "restore":
        third = there.capture()
        prune_away(there, second)
        assert there.restored(third) == there.contents()
    assert check(there.repository(), read=True).damage == ()


def prune_away(there: World, sealed: Sealed) -> None:
    """Let a point go, and take from the vault all that no other one needs."""
    repository = there.repository(keys=there.keys_with("trust.json", "pruner.json"))
    chosen = draft(repository, {sealed.body.id: "the test says so"}, Economics(max_unused=0.0))
    sweep(repository, begin(repository, propose(repository, chosen.plan, there.clock), there.clock), there.clock)
