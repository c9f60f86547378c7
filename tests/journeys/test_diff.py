"""``diff`` in each store's language, through the command line on real stores: what changed is what a person reads."""

from __future__ import annotations

import base64
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from resurgam.drivers.registry import driver_for
from resurgam.restore import contents
from tests.journeys.world import World, partial_folders, tree

BATCH = 30  # rows that are added beside those that are looked at


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(os.fspath(tmp_path)).ready()


def with_component(home: Path, line: str) -> World:
    """The handbook with one component more."""
    world = World(os.fspath(home)).build()
    world.manifest(("\ninvariants:", f"\n  {line}\ninvariants:"))
    assert world.run("vault", "init").code == 0
    return world


def captured(world: World) -> str:
    """The id of a new point, with findings or not: a Chroma of a test has notes."""
    result = world.run("capture", "--json")
    assert result.code in (0, 22), result
    return str(result.json["id"])


def told(world: World, *words: str) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    """Values by table (or nothing), sign and key."""
    result = world.run("diff", *words, "--json")
    assert result.code == 0, result
    assert [change for change in result.json if change.get("unread")] == []
    return {(each["where"], each["sign"], each["key"]): each.get("values", []) for each in result.json}


def test_rows_are_told_column_by_column(world: World) -> None:
    """And nothing is left behind by the private copies from which they are read."""
    a = world.capture()
    world.system.sql("UPDATE docs SET title = 'other' WHERE id = 7")
    world.system.sql("DELETE FROM tickets")
    world.system.sql("INSERT INTO docs VALUES (900, 'people', 't', NULL)")
    b = world.capture()
    before = tree(world.home)
    values = told(world, a, b)
    assert values["docs", "~", "7"] == [{"name": "title", "before": '"disk 7"', "after": '"other"'}]
    assert values["docs", "+", "900"] == [{"name": "section", "after": '"people"'}, {"name": "title", "after": '"t"'}]
    assert values["tickets", "-", "1"] == [{"name": "doc", "before": "1"}, {"name": "words", "before": '"the first"'}]
    assert tree(world.home) == before | {"state/scratch": "folder"}
    assert partial_folders(world.home) == []
    shown = world.run("diff", a, b).out
    assert '      title: "disk 7" -> "other"\n' in shown
    assert "read with 2 private copies in" in shown


def test_a_row_is_what_was_captured_and_not_what_is_live_now(world: World) -> None:
    """P3: the live database is gone; the vault and the keys tell."""
    a = world.capture()
    world.system.sql("UPDATE docs SET title = 'other' WHERE id = 7")
    b = world.capture()
    os.unlink(world.system.database)
    assert told(world, a, b)["docs", "~", "7"][0]["after"] == '"other"'


def test_files_are_told_as_text_and_binary_ones_as_such(world: World) -> None:
    a = world.capture()
    world.system.change_prompt()
    world.system.swap_model()
    os.chmod(world.system.path("config/app.json"), 0o600)
    b = world.capture()
    values = told(world, a, b)
    lines = values["", "~", "answer.txt"][0]["lines"]
    assert lines[1:3] == ["-From the handbook, {title}:", "+From the rumours, {title}:"]
    assert values["", "~", "router.safetensors"][0]["said"] == "not shown as text: 648 bytes -> 648 bytes"
    assert values["", "~", "app.json"] == [{"name": "mode", "before": '"0644"', "after": '"0600"'}]


def test_secrets_are_never_printed(world: World) -> None:
    """P12: neither in files nor in rows nor in keys."""
    a = world.capture()
    world.system.write("prompts/more.txt", "call it\npassword: hunter2\n")
    world.system.sql("INSERT INTO docs VALUES (901, 'people', 'postgres://me:hunter2@host/db', 'token=hunter2')")
    world.system.sql("CREATE TABLE links (url TEXT PRIMARY KEY, password TEXT)")
    world.system.sql("INSERT INTO links VALUES ('http://me:hunter2@host/', 'hunter2')")
    b = world.capture()
    for words in (
        ["diff", a, b],
        ["diff", a, b, "--json"],
        ["diff", a, b, "--stat"],
        ["diff", a, b, "--stat", "--json"],
    ):
        result = world.run(*words)
        assert result.code == 0, result
        assert "hunter2" not in result.out + result.err
        assert "901" in result.out


def test_names_alone_restore_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """P11: ``--stat`` reads pages; the counter-proof is the same call without it."""
    a = world.capture()
    world.system.sql("UPDATE docs SET title = 'other' WHERE id = 7")
    b = world.capture()
    written: list[str] = []
    driver = driver_for("sqlite")
    write = type(driver).write

    def watched(self: Any, items: Any, target: Any) -> Any:
        written.append(target.location)
        return write(self, items, target)

    monkeypatch.setattr(type(driver), "write", watched)
    assert told(world, a, b, "--stat") == {("docs", "~", "7"): []}
    assert written == []
    assert told(world, a, b, "--component", "prompts") == {}
    assert written == []
    assert told(world, a, b)["docs", "~", "7"]
    assert len(written) == 2


def test_only_so_many_values_are_read_and_the_rest_is_counted(world: World) -> None:
    a = world.capture()
    for number in range(BATCH):
        world.system.sql("INSERT INTO tickets (doc, words) VALUES (1, ?)", f"more {number}")
    b = world.capture()
    values = told(world, a, b, "--limit", "3")
    assert [bool(each) for each in values.values()] == [True] * 3 + [False] * (BATCH - 3)
    assert all(told(world, a, b, "--limit", "0").values())
    assert f"... and {BATCH - 3} more (--limit 0 shows all)" in world.run("diff", a, b, "--limit", "3").out


def test_a_large_component_is_restored_only_when_it_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody asked for a copy of two gigabytes; how to ask is said."""
    a = world.capture()
    world.system.sql("UPDATE docs SET title = 'other' WHERE id = 7")
    b = world.capture()
    monkeypatch.setattr(contents, "AT_MOST", 1000)
    (change,) = world.run("diff", a, b, "--json").json
    assert "--component documents" in change["unread"]
    assert "values" not in change
    assert "--component documents" in world.run("diff", a, b).out
    assert told(world, a, b, "--component", "documents")["docs", "~", "7"]


def test_rows_without_a_key_are_told_too(world: World) -> None:
    world.system.sql("CREATE TABLE log (line TEXT)")
    world.system.sql("INSERT INTO log VALUES ('same'), ('same'), ('old')")
    a = world.capture()
    world.system.sql("DELETE FROM log WHERE line = 'old'")
    world.system.sql("INSERT INTO log VALUES ('same'), ('new')")
    b = world.capture()
    changes = [each for each in world.run("diff", a, b, "--json").json if each["where"] == "log"]
    found = sorted(
        (each["sign"], value.get("before") or value.get("after")) for each in changes for value in each["values"]
    )
    assert [(sign, line) for sign, line in found if line in ('"old"', '"new"', '"same"')] == [
        ("+", '"new"'),
        ("+", '"same"'),
        ("-", '"old"'),
    ]


def test_a_component_that_neither_point_has_is_not_found(world: World) -> None:
    a = world.capture()
    for more in ([], ["--stat"]):
        result = world.run("diff", a, a, "--component", "index", *more)
        assert result.code == 4
        assert "documents" in result.err


def test_tensors_are_told_by_norms_and_nothing_is_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The norm of the difference is that of the arrays, computed without Resurgam."""
    np = pytest.importorskip("numpy")
    save_file = pytest.importorskip("safetensors.numpy").save_file
    world = with_component(tmp_path, "weights: {driver: models, location: weights}")
    os.mkdir(world.system.path("weights"))
    layers = {
        name: np.random.default_rng(7).normal(size=(32, 8)).astype("f4") for name in ("kept", "moved", "grown", "token")
    }
    save_file(layers, world.system.path("weights/m.safetensors"), {"api_key": "hunter2"})
    a = captured(world)
    after = layers | {"moved": layers["moved"] + np.float32(0.25), "grown": np.zeros((40, 8), "f4")}
    after["token"] = -layers["token"]  # no secret, whatever it is called
    save_file(after, world.system.path("weights/m.safetensors"), {"api_key": "hunter3"})
    b = captured(world)
    values = told(world, a, b)
    table = "tensors of m.safetensors"
    moved = values[table, "~", "moved"][0]["said"]
    distance = float(np.linalg.norm(after["moved"].astype("f8") - layers["moved"].astype("f8")))
    assert f"norm of the difference {distance:.6g}" in moved
    assert values[table, "~", "grown"][0]["said"].startswith("F32 [32, 8] -> F32 [40, 8]")
    assert "norm of the difference" in values[table, "~", "token"][0]["said"]
    assert "hunter" not in repr(values)
    assert (table, "~", "kept") not in values
    assert "private cop" not in world.run("diff", a, b).out
    monkeypatch.setattr(contents, "AT_MOST", 1000)
    assert {"values" in change for change in world.run("diff", a, b, "--json").json} == {False}
    assert told(world, a, b, "--component", "weights")[table, "~", "moved"][0]["said"] == moved


def test_memories_of_an_agent_are_told(tmp_path: Path) -> None:
    pytest.importorskip("langgraph.store.sqlite")
    from tests.drivers.langgraph_app import MEMORIES, opened, seed, thread

    world = with_component(tmp_path, "agent: {driver: langgraph, location: data/agent.db}")
    place = world.system.path("data/agent.db")
    seed(place)
    a = captured(world)
    with opened(place) as (agent, memory):
        agent.invoke({"careful": False}, thread("t1"))
        memory.put(MEMORIES, "fact 2", {"text": "remembered otherwise"})
    b = captured(world)
    values = told(world, a, b)
    memory_change = {v["name"]: v for v in values["memories", "~", "agent.memories, fact 2"]}
    assert memory_change["value.text"]["after"] == '"remembered otherwise"'
    (total,) = values["state", "~", "t1, , total"]
    assert (total["before"], total["after"]) == ("3", "6")


def test_vectors_are_told_by_how_far_they_moved(tmp_path: Path) -> None:
    """The distance is that of the vectors that were given to Chroma, computed without Resurgam."""
    pytest.importorskip("chromadb")
    from tests.drivers.chroma_client import PERSIST_AFTER, Client, vector_of

    world = with_component(tmp_path, "index: {driver: chroma, location: index}")
    before, after = {"a": b"one", "b": b"two", "c": b"three"}, {"b": b"otherwise"}
    client = Client()
    try:
        place = world.system.path("index")
        client("seed", place, data={key: base64.b64encode(value).decode() for key, value in before.items()})
        a = captured(world)
        for _ in range(PERSIST_AFTER):  # so that its files are written anew
            client("change", place, key="b", value=base64.b64encode(after["b"]).decode())
        client("change", place, key="c", value=None)
        b = captured(world)
    finally:
        client.close()
    all_told = told(world, a, b, "--component", "index")
    files = [value["name"] for key, values in all_told.items() if key[0] == "" for value in values]
    assert set(files) == {"content"}, "a digest of the driver's own is no word for people"
    records = {key[1:]: values for key, values in all_told.items() if key[0] not in ("", "collections")}
    assert records.keys() == {("~", "b"), ("-", "c")}
    by_name = {value["name"]: value for value in records["~", "b"]}
    distance = math.dist(vector_of(before["b"]), vector_of(after["b"]))
    assert by_name["vector"]["said"].startswith("moved: cosine distance ")
    assert f"L2 {distance:.3g} (8 dimensions)" in by_name["vector"]["said"]
    assert by_name["document"]["before"] == '"3 bytes"'
    assert "metadata.value" in by_name


def test_packages_are_told_by_version(tmp_path: Path) -> None:
    """One that was upgraded is one line, not one that went and one that came."""
    world = with_component(tmp_path, "runtime: {driver: environment, location: venv, options: {check: none}}")
    venv = Path(world.system.path("venv"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    site = next(venv.glob("lib/python*/site-packages"))

    def install(name: str, version: str) -> None:
        info = site / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "RECORD").write_text(f"{info.name}/METADATA,,\n{info.name}/RECORD,,\n")

    install("greeting", "1.2")
    a = captured(world)
    (site / "greeting-1.2.dist-info").rename(site / "gone")
    for each in (site / "gone").iterdir():
        each.unlink()
    (site / "gone").rmdir()
    install("greeting", "1.3")
    install("farewell", "0.1")
    b = captured(world)
    values = {key: found for key, found in told(world, a, b).items() if key[0] == "packages"}
    assert values.keys() == {("packages", "~", "greeting"), ("packages", "+", "farewell, 0.1")}
    assert values["packages", "~", "greeting"][0] == {"name": "version", "before": '"1.2"', "after": '"1.3"'}
