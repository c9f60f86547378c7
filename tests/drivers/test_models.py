"""``models``: what it says of each format, compared with the formats' own libraries, and what it does with files that lie."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import gguf
import numpy as np
import onnx
import pytest
from blake3 import blake3
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from resurgam.drivers.base import InMemory
from resurgam.drivers.models import ModelsDriver
from resurgam.drivers.tensor import Malformed, Model, Window, changes, measure
from resurgam.drivers.tensor_formats import read_model
from resurgam.errors import ManifestError
from resurgam.model.point import Severity
from resurgam.model.system import Component
from resurgam.testing.carrying import Taken, take

W = np.linspace(-2, 2, 24, dtype=np.float32).reshape(4, 6)
B = np.arange(6, dtype=np.int64)


def model_of(data: bytes, name: bytes = b"x") -> Model | None:
    return read_model(name, Window(InMemory(data), len(data)))


def seen(model: Model | None) -> dict[str, tuple[str, tuple[int, ...], str, float | None]]:
    assert model is not None
    return {t.name: (t.dtype, t.shape, *measure(t)) for t in model.tensors}


def expected(dtype: str, array: np.ndarray[Any, Any]) -> tuple[str, tuple[int, ...], str, float]:
    norm = float(f"{np.sqrt(np.sum(array.astype(np.float64) ** 2)):.12g}")
    return dtype, array.shape, blake3(array.tobytes()).hexdigest(), norm


def safetensors(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def component(path: Path, **options: object) -> Component:
    return Component(name="weights", driver="models", location=str(path), options=options)


def rows(taken: Taken, name: str) -> list[tuple[Any, ...]]:
    tables = {item.name: item.batches for item in taken.items if not hasattr(item, "path")}
    return [row for batch in tables[name] for row in batch]


# ---- each format, beside its own library -----------------------------------------------------------------------------


def test_safetensors_as_its_library_wrote_it(tmp_path: Path) -> None:
    save_file({"w": W, "b": B}, tmp_path / "m.safetensors", metadata={"trained": "monday"})
    found = model_of((tmp_path / "m.safetensors").read_bytes())
    assert seen(found) == {"w": expected("F32", W), "b": expected("I64", B)}
    assert found is not None
    assert found.metadata["trained"] == "monday"


def test_bfloat16_has_the_norm_of_its_numbers() -> None:
    halves = (W.view(np.uint32) >> 16).astype("<u2")
    exact = (halves.astype("<u4") << 16).view("<f4")
    data = safetensors({"w": {"dtype": "BF16", "shape": [24], "data_offsets": [0, 48]}}, halves.tobytes())
    assert seen(model_of(data))["w"][3] == expected("F32", exact)[3]


def test_npy_and_npz_as_numpy_wrote_them() -> None:
    single, many, packed = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(single, W)
    np.savez(many, w=W, b=B)
    np.savez_compressed(packed, w=W, b=B)
    assert seen(model_of(single.getvalue())) == {"": expected("F32", W)}
    for archive in (many, packed):
        assert seen(model_of(archive.getvalue())) == {"w": expected("F32", W), "b": expected("I64", B)}


def test_gguf_as_its_library_wrote_it(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    big = np.random.default_rng(1).normal(size=(4, 64)).astype(np.float32)
    quantized = gguf.quants.quantize(big, gguf.GGMLQuantizationType.Q8_0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(77)
    writer.add_token_list([f"token {number}" for number in range(500)])
    writer.add_tensor("w", W)
    writer.add_tensor("q", quantized, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = model_of(path.read_bytes())
    assert found is not None
    told = {t.name: (t.tensor_type.name, tuple(map(int, t.shape[::-1]))) for t in gguf.GGUFReader(path).tensors}
    assert {t.name: (t.dtype, t.shape) for t in found.tensors} == told
    assert seen(found)["w"] == expected("F32", W)
    numbers = gguf.quants.dequantize(quantized, gguf.GGMLQuantizationType.Q8_0)
    assert seen(found)["q"][3] == pytest.approx(expected("F32", numbers)[3], rel=1e-11)
    assert found.metadata["llama.context_length"] == "77"
    assert found.metadata["tokenizer.ggml.tokens"].startswith("array, 500 texts")


def onnx_model(path: Path, external: bool = False) -> None:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "router",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 6])],
        [numpy_helper.from_array(W, "w"), helper.make_tensor("typed", TensorProto.FLOAT, [3], [1.0, 2.0, 2.0])],
    )
    made = helper.make_model(graph, producer_name="tests", opset_imports=[helper.make_opsetid("", 17)])
    onnx.save(made, path, save_as_external_data=external, location="weights.bin", size_threshold=0)


def test_onnx_as_its_library_wrote_it(tmp_path: Path) -> None:
    onnx_model(tmp_path / "m.onnx")
    found = model_of((tmp_path / "m.onnx").read_bytes(), b"m.onnx")
    assert seen(found)["w"] == expected("F32", W)
    assert seen(found)["typed"] == expected("F32", np.array([1, 2, 2], np.float32))
    assert found is not None
    assert found.metadata["input.x"] == "F32[batch,4]"
    assert found.metadata["output.y"] == "F32[batch,6]"
    assert (found.metadata["opset.ai.onnx"], found.metadata["producer.name"]) == ("17", "tests")


def test_onnx_with_external_data_names_the_other_file_and_misses_it(tmp_path: Path) -> None:
    """P12: a model whose weights lie in a file that is gone, or too short, is told of."""
    onnx_model(tmp_path / "m.onnx", external=True)
    whole = take(ModelsDriver(), component(tmp_path))
    assert [(f.severity, f.keys) for f in whole.findings] == [(Severity.NOTE, ("weights.bin",))]
    assert any(key == "external.w" for _, key, _ in rows(whole, "header of m.onnx"))
    os.truncate(tmp_path / "weights.bin", 10)
    assert "should have" in take(ModelsDriver(), component(tmp_path)).findings[-1].what
    os.unlink(tmp_path / "weights.bin")
    assert "not there" in take(ModelsDriver(), component(tmp_path)).findings[-1].what


# ---- archives of torch, which is not needed to read them --------------------------------------------------------------


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """The names that ``torch.save`` writes, as classes that pickle by name."""
    modules = {name: types.ModuleType(name) for name in ("torch", "torch._utils")}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)

    def rebuild(*_: object) -> None:
        raise AssertionError("a pickle was run")

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    modules["torch._utils"].__dict__["_rebuild_tensor_v2"] = rebuild
    for word in ("FloatStorage", "LongStorage"):
        modules["torch"].__dict__[word] = type(word, (), {"__module__": "torch", "__qualname__": word})
    return types.SimpleNamespace(
        rebuild=rebuild, float=modules["torch"].FloatStorage, long=modules["torch"].LongStorage
    )


class Reduced:
    """Pickles as a call of ``function``."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.call


class Storage:
    """Pickles as a persistent id."""

    def __init__(self, kind: type, key: str, count: int) -> None:
        self.id = "storage", kind, key, "cpu", count


def torch_archive(value: object, storages: dict[str, bytes]) -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: object) -> object:
            return obj.id if isinstance(obj, Storage) else None

    index, archive = io.BytesIO(), io.BytesIO()
    Pickler(index, 2).dump(value)
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("model/data.pkl", index.getvalue())
        file.writestr("model/byteorder", "little")
        for key, data in storages.items():
            file.writestr(f"model/data/{key}", data)
    return archive.getvalue()


def test_torch_archive_is_read_without_unpickling(torch: types.SimpleNamespace) -> None:
    """The calls in the pickle are never made; what is no tensor is named."""
    w = Reduced(torch.rebuild, Storage(torch.float, "0", 24), 0, (4, 6), (6, 1), False, OrderedDict())
    turned = Reduced(torch.rebuild, Storage(torch.float, "0", 24), 0, (6, 4), (1, 6), False, OrderedDict())
    b = Reduced(torch.rebuild, Storage(torch.long, "1", 8), 2, (6,), (1,), False, OrderedDict())
    value = {"state": OrderedDict(w=w, b=b, turned=turned), "epoch": 7, "run": Reduced(os.system, "exit 1")}
    found = model_of(torch_archive(value, {"0": W.tobytes(), "1": np.r_[0, 0, B].astype("<i8").tobytes()}))
    assert found is not None
    told = seen(found)
    assert told["state.w"] == expected("F32", W)
    assert told["state.b"] == expected("I64", B)
    assert told["state.turned"][3] == told["state.w"][3]
    assert found.metadata["value.epoch"] == "7"
    assert found.notes == [
        f"holds more than tensors ({os.system.__module__}.system), which is seen as bytes only and never run"
    ]


def test_torch_tensor_beyond_its_storage(torch: types.SimpleNamespace) -> None:
    w = Reduced(torch.rebuild, Storage(torch.float, "0", 24), 1, (4, 6), (6, 1), False, OrderedDict())
    with pytest.raises(Malformed, match="beyond its storage"):
        model_of(torch_archive({"w": w}, {"0": W.tobytes()}))


def test_torch_pickle_that_holds_itself_many_times(torch: types.SimpleNamespace) -> None:
    """Ten lists, each holding the next ten times, would be 10**20 things."""
    value: list[object] = [1]
    for _ in range(20):
        value = [value] * 10
    with pytest.raises(Malformed, match="too often"):
        model_of(torch_archive(value, {}))


# ---- files that lie -----------------------------------------------------------------------------------------------------


def entry(begin: int, end: int, shape: list[int] | None = None, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


def zipped(*members: tuple[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, data in members:
            file.writestr(zipfile.ZipInfo(name), data)
    return archive.getvalue()


def npy(array: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


GGUF = b"GGUF" + struct.pack("<I", 3)
LIES: dict[str, tuple[str, bytes]] = {
    "overlap": ("a.safetensors", safetensors({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12))),
    "gap": ("a.safetensors", safetensors({"a": entry(0, 4), "b": entry(8, 12)}, bytes(12))),
    "out of bounds": ("a.safetensors", safetensors({"a": entry(0, 800)}, bytes(8))),
    "another size than its shape": ("a.safetensors", safetensors({"a": entry(0, 8, [3])}, bytes(8))),
    "backwards": ("a.safetensors", safetensors({"a": entry(8, 0, [0])}, bytes(8))),
    "negative": ("a.safetensors", safetensors({"a": entry(-8, 0, [2])}, bytes(8))),
    "negative shape": ("a.safetensors", safetensors({"a": entry(0, 8, [-2])}, bytes(8))),
    "huge shape": ("a.safetensors", safetensors({"a": entry(0, 8, [1 << 62, 1 << 62])}, bytes(8))),
    "shape of words": ("a.safetensors", safetensors({"a": {**entry(0, 8), "shape": ["x"]}}, bytes(8))),
    "unknown dtype": ("a.safetensors", safetensors({"a": entry(0, 8, dtype="F7")}, bytes(8))),
    "bytes of nobody": ("a.safetensors", safetensors({"a": entry(0, 8)}, bytes(9))),
    "header too long": ("a.safetensors", struct.pack("<Q", 17 << 20) + b"{" + bytes(18 << 20)),
    "header beyond the end": ("a.safetensors", struct.pack("<Q", 1 << 63) + b"{}"),
    "header of deep JSON": ("a.safetensors", struct.pack("<Q", 90_000) + b'{"a":' + b"[" * 90_000),
    "no header": ("a.safetensors", b"abc"),
    "gguf of many tensors": ("a.gguf", GGUF + struct.pack("<QQ", 1 << 60, 0)),
    "gguf of many keys": ("a.gguf", GGUF + struct.pack("<QQ", 0, 1 << 60)),
    "gguf with a long string": ("a.gguf", GGUF + struct.pack("<QQQ", 0, 1, 1 << 62)),
    "gguf with a long array": ("a.gguf", GGUF + struct.pack("<QQQ1sIIQ", 0, 1, 1, b"k", 9, 8, 1 << 61)),
    "gguf beyond the end": ("a.gguf", GGUF + struct.pack("<QQQ1sIQIQ", 1, 0, 1, b"t", 1, 1 << 40, 0, 0)),
    "gguf of the future": ("a.gguf", b"GGUF" + struct.pack("<I", 99)),
    "onnx that is none": ("a.onnx", b"<html>not a model</html>"),
    "onnx that ends early": ("a.onnx", b"\x3a\xff\xff\xff\x7f"),
    "onnx with a length below zero": ("a.onnx", b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
    "npy that ends early": ("a.npy", npy(W)[:-1]),
    "npy whose header is code": ("a.npy", npy(W).replace(b"'fortran_order': False", b"'fortran_order': open()")),
    "npy whose header is torn": ("a.npy", npy(W).replace(b"'shape': (4, 6)", b"'shape': ((4, 6")),
    "npz with one name twice": ("a.npz", zipped(("w.npy", npy(W)), ("w.npz", npy(W))).replace(b"w.npz", b"w.npy")),
    "npz that is torn": ("a.npz", zipped(("w.npy", npy(W)))[:-30]),
    "npz with a wrong checksum": ("a.npz", zipped(("w.npy", npy(W))).replace(W.tobytes(), bytes(96))),
    "torch pickle that pops nothing": ("a.pt", zipped(("m/data.pkl", b"\x80\x020R."))),
    "torch pickle that never ends": ("a.pt", zipped(("m/data.pkl", b"\x80\x02]"))),
    "torch pickle of other opcodes": ("a.pt", zipped(("m/data.pkl", b"\x80\x02cos\nsystem\n(S'x'\no."))),
    "a pickle": ("a.pt", pickle.dumps({"w": [1]})),
    "empty torch": ("a.onnx", b"\0"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_lies_is_a_finding_and_kept(lie: str, tmp_path: Path) -> None:
    """P12: it says why, no table is made of it, and its bytes are captured like any other."""
    name, data = LIES[lie]
    (tmp_path / name).write_bytes(data)
    driver = ModelsDriver()
    taken = take(driver, component(tmp_path))
    (finding,) = taken.findings
    assert finding.severity is Severity.WARNING
    assert finding.keys == (name,)
    assert finding.what.startswith(f"seen as bytes only: {name} ")
    assert taken.blobs[name.encode()] == data
    assert len(taken.items) == 2
    assert driver.inspect(component(tmp_path))["tensors"] == 0


@pytest.mark.parametrize("lie", [lie for lie, (_, data) in LIES.items() if len(data) < 1 << 16])
def test_no_damage_stops_a_capture(lie: str) -> None:
    """Whatever bytes a file has, it is a model, none, or malformed: never another error."""
    name, data = LIES[lie]
    random = Random(lie)
    for _ in range(200):
        harmed = bytearray(data)
        for _ in range(random.randint(1, 4)):
            place = random.randrange(min(len(harmed), 400) + 1)
            match random.randrange(3):
                case 0:
                    harmed[place : place + 1] = random.choice((random.randbytes(1), b"(", b"'", b"\n", b"\xff"))
                case 1:
                    del harmed[place : place + random.randrange(8)]
                case _:
                    harmed[place:place] = random.randbytes(3)
        with suppress(Malformed):
            model_of(bytes(harmed), name.encode())


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """An archive that says it holds more than 64 times its bytes, and a gigabyte, is not read."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("w.npy", npy(W))
    said = struct.pack("<I", len(npy(W)))
    lying = archive.getvalue().replace(said, struct.pack("<I", 0xF0000000))
    with pytest.raises(Malformed, match="would unpack"):
        model_of(lying)


def test_objects_are_never_loaded(tmp_path: Path) -> None:
    found = model_of(npy(np.array([{"a": 1}], dtype=object)))
    assert found is not None
    assert not found.tensors
    assert "never loaded" in found.notes[0]


# ---- the driver -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "weights"
    place.mkdir()
    save_file({"w": W, "b": B}, place / "router.safetensors")
    (place / "config.json").write_text("{}")
    return place


def test_facts_count_tensors_and_parameters(folder: Path) -> None:
    facts = ModelsDriver().inspect(component(folder))
    assert facts["formats"] == {"safetensors": 1}
    assert (facts["tensors"], facts["parameters"]) == (2, 30)
    assert facts["dtypes"] == {"F32": 1, "I64": 1}


def test_only_the_changed_tensor_shows(folder: Path) -> None:
    """P11: rows of what stayed are the same; also where the file has another order and another offset for it."""
    driver = ModelsDriver()
    before = rows(take(driver, component(folder)), "tensors of router.safetensors")
    save_file({"a new one": W, "w": W, "b": B + 1}, folder / "router.safetensors")
    after = rows(take(driver, component(folder)), "tensors of router.safetensors")
    assert {row[1] for row in set(after) ^ set(before)} == {"b", "a new one"}


@pytest.mark.parametrize("pin", ["auto", "never"])
def test_invariants_can_ask_for_digests(folder: Path, pin: str) -> None:
    """P1: the answer is of the position: a change after the freeze does not show, or is refused."""
    driver, live = ModelsDriver(), component(folder, pin=pin)
    with driver.freeze(live) as position:
        pass
    first = driver.query(live, position, "SELECT sha256 FROM files WHERE path = 'config.json'")
    assert next(iter(first.batches)) == [("44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",)]
    told = driver.query(live, position, "SELECT name, shape, norm > 0 FROM tensors ORDER BY name")
    assert next(iter(told.batches)) == [("b", "[6]", 1), ("w", "[4,6]", 1)]
    with pytest.raises(ManifestError):
        driver.query(live, position, "SELECT nothing FROM files")
    driver.release(live, position)


def test_a_single_file_is_a_component(folder: Path) -> None:
    taken = take(ModelsDriver(), component(folder / "router.safetensors"))
    assert [row[1] for row in rows(taken, "tensors of .")] == ["b", "w"]


def test_tensors_can_be_left_alone(folder: Path) -> None:
    taken = take(ModelsDriver(), component(folder, tensors=False))
    assert all(hasattr(item, "path") for item in taken.items)
    with pytest.raises(ManifestError):
        take(ModelsDriver(), component(folder, tensors="no"))


def test_changes_tell_how_far_a_tensor_moved() -> None:
    """The distance is the norm of the difference; a tensor of another shape has none."""

    def of(**arrays: np.ndarray[Any, Any]) -> Model:
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, **arrays)
        model = model_of(file.getvalue())
        assert model is not None
        return model

    moved = W.copy()
    moved[0, :2] += np.array([3, 4], np.float32)
    told = {c.name: (c.sign, c.distance) for c in changes(of(w=W, b=B, gone=B), of(w=moved, b=B[:5], new=B))}
    assert told == {"w": ("~", pytest.approx(5.0)), "b": ("~", None), "gone": ("-", None), "new": ("+", None)}
