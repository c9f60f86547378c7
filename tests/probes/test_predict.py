"""The probe ``predict``: real models of every loader, live and inside the sandbox."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import skops.io  # type: ignore[import-untyped]
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
from sklearn.preprocessing import FunctionTransformer  # type: ignore[import-untyped]

from resurgam.errors import ManifestError
from resurgam.model.point import Observation
from resurgam.model.system import Component, Json, Probe, System, VaultPlace
from resurgam.model.verdict import Judgement
from resurgam.probes.base import Runner
from resurgam.probes.predict import PredictProbe
from resurgam.probes.predict_child import LARGE
from resurgam.probes.runner import LiveRunner
from resurgam.proof.compare import compare
from resurgam.restore import sandbox
from resurgam.restore.sandbox import Sandbox

RNG = np.random.default_rng(11)
WEIGHT, BIAS = RNG.normal(size=(3, 5)).astype("f4"), RNG.normal(size=3).astype("f4")
ROWS: dict[str, Json] = {f"row {n}": RNG.normal(size=5).astype("f4").tolist() for n in range(4)}
TEXTS = ["refund my card", "card declined", "cannot log in", "password forgotten", "money back please", "login fails"]
LABELS = ["billing", "billing", "access", "access", "billing", "access"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models that no test changes."""
    folder = tmp_path_factory.mktemp("made") / "models"
    folder.mkdir()
    save_file({"weight": WEIGHT, "bias": BIAS}, folder / "linear.safetensors")
    save_file({"weight": np.ascontiguousarray(WEIGHT.T), "bias": BIAS}, folder / "columns.safetensors")
    save_file({"a": WEIGHT, "b": WEIGHT}, folder / "two.safetensors")
    onnx.save(_linear(3), folder / "linear.onnx")
    onnx.save(_linear(LARGE + 44), folder / "large.onnx")
    rows = np.array(list(ROWS.values()))
    skops.io.dump(LogisticRegression().fit(rows, [0, 1, 0, 1]), folder / "rows.skops")
    skops.io.dump(make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(TEXTS, LABELS), folder / "texts.skops")
    skops.io.dump(make_pipeline(FunctionTransformer(os.path.basename), LogisticRegression()), folder / "strange.skops")
    (folder / "torn.onnx").write_bytes((folder / "linear.onnx").read_bytes()[:60])
    return folder


def _linear(outputs: int) -> onnx.ModelProto:
    """y = x · weight + bias, of ``outputs`` numbers for each row of a batch."""
    rng = np.random.default_rng(outputs)
    weight, bias = rng.normal(size=(5, outputs)).astype("f4"), rng.normal(size=outputs).astype("f4")
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "weight", "bias"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", outputs])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture
def live(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "models"))


def system(folder: Path) -> System:
    models = Component(name="router", driver="models", location=str(folder))
    return System(name="s", vault=VaultPlace(path="v", keys="k"), components=(models,), root=str(folder.parent))


def probe(model: str, loader: str, inputs: Json = None, **more: Any) -> Probe:
    asked = ROWS if inputs is None else inputs
    return Probe(name="p", kind="predict", component="router", model=model, loader=loader, ask=asked, **more)


def observe(
    folder: Path, model: str, loader: str, inputs: Json = None, runner: Runner | None = None, **more: Any
) -> Observation:
    asked = system(folder)
    return PredictProbe().ask(probe(model, loader, inputs, **more), asked, runner or LiveRunner(asked.root))


def answers(folder: Path, model: str, loader: str, inputs: Json = None, **more: Any) -> dict[str, Json]:
    seen = observe(folder, model, loader, inputs, **more)
    assert seen.error is None, seen.error
    return seen.answers


# ---- what each loader answers -------------------------------------------------------------------------------------------


def test_a_linear_model_is_arithmetic(live: Path) -> None:
    """Rows of outputs, as torch has them, or columns; dense input or sparse: the same numbers, to float32's last place."""
    found = answers(live, "linear.safetensors", "safetensors-linear")
    for case, row in ROWS.items():
        scores = WEIGHT.astype(float) @ np.array(row) + BIAS
        assert found[case]["scores"] == scores.astype("f4").tolist()
        assert found[case]["class"] == int(scores.argmax())
    assert answers(live, "columns.safetensors", "safetensors-linear") == found
    sparse = {case: {str(place): number for place, number in enumerate(row)} for case, row in ROWS.items()}
    assert answers(live, "linear.safetensors", "safetensors-linear", sparse) == found


def test_onnx_runs_on_one_thread_and_says_what_answered(live: Path) -> None:
    seen = observe(live, "linear.onnx", "onnx")
    assert seen.error is None
    assert seen.by["threads"] == "1"
    assert seen.by["onnxruntime"].startswith("1.")
    batches = {case: {"x": [row]} for case, row in ROWS.items()}
    assert answers(live, "linear.onnx", "onnx", batches) == seen.answers
    assert all(np.shape(answer["y"]) == (1, 3) for answer in seen.answers.values())


def test_a_large_output_is_told_by_its_highest_values_and_digest(live: Path) -> None:
    """One changed weight shows in the digest, whatever stands at the top."""
    before = answers(live, "large.onnx", "onnx")["row 0"]["y"]
    assert before["shape"] == [1, LARGE + 44]
    assert len(before["top"]) == 10
    assert before["top"] == sorted(before["top"], key=lambda pair: -pair[1])
    model = onnx.load(live / "large.onnx")
    weight = numpy_helper.to_array(model.graph.initializer[0]).copy()
    lowest = int(np.argmin(np.array(ROWS["row 0"]) @ weight))
    weight[0, lowest] -= 1e-3
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "weight"))
    onnx.save(model, live / "large.onnx")
    after = answers(live, "large.onnx", "onnx")["row 0"]["y"]
    assert after["top"] == before["top"]
    assert after["sha256"] != before["sha256"]


def test_skops_models_of_rows_and_of_texts(live: Path) -> None:
    rows = answers(live, "rows.skops", "skops")
    assert {answer["prediction"] for answer in rows.values()} <= {0, 1}
    assert all(math.isclose(sum(answer["probabilities"]), 1) for answer in rows.values())
    texts = answers(live, "texts.skops", "skops", {"q": "refund my card please", "r": "cannot log in"})
    assert [texts[case]["prediction"] for case in "qr"] == ["billing", "access"]


def test_a_skops_file_with_unknown_types_is_refused_unless_trusted(live: Path) -> None:
    """The audit comes before anything of the file is made."""
    seen = observe(live, "strange.skops", "skops")
    assert "posixpath.basename" in (seen.error or "")
    assert "nobody trusts" in (seen.error or "")
    trusted = observe(live, "strange.skops", "skops", trusted=("posixpath.basename",))
    assert "input 'row 0'" in (trusted.error or "")  # it was loaded, and takes other inputs


def test_texts_are_encoded_and_any_command_can_be_the_loader(live: Path) -> None:
    check = "asked = json.load(sys.stdin); "
    numbers = check + "print(json.dumps({'answers': {case: [len(text)] * 5 for case, text in asked['ask'].items()}}))"
    found = answers(live, "linear.onnx", "onnx", {"q": "seven", **ROWS}, encode=command(numbers))
    assert found["q"] == answers(live, "linear.onnx", "onnx", {"q": [5] * 5})["q"]
    own = check + "print(json.dumps({'answers': {case: sum(row) for case, row in asked['ask'].items()}}))"
    found = answers(live, "", "command", {"q": "ab"}, encode=command(numbers), run=command(own))
    assert found == {"q": 10}


def command(code: str) -> tuple[str, ...]:
    """A command of a manifest, where a brace is doubled."""
    return sys.executable, "-I", "-c", "import json, sys; " + code.replace("{", "{{").replace("}", "}}")


# ---- what is seen -------------------------------------------------------------------------------------------------------


def test_weights_swapped_for_the_same_shape_are_seen(live: Path) -> None:
    before = answers(live, "linear.safetensors", "safetensors-linear")
    save_file({"weight": np.ascontiguousarray(WEIGHT[::-1]), "bias": BIAS}, live / "linear.safetensors")
    after = answers(live, "linear.safetensors", "safetensors-linear")
    assert {compare(before[case], after[case], {"numeric": {"rel": 0.01}}).judgement for case in before} == {
        Judgement.DIFFERENT
    }


@pytest.mark.parametrize(("model", "loader"), [("linear.onnx", "onnx"), ("rows.skops", "skops")])
def test_a_copy_answers_identically_inside_the_sandbox(live: Path, tmp_path: Path, model: str, loader: str) -> None:
    """P6: the libraries work where nothing may be written and the live model is not there."""
    if not sandbox.available()[0] and os.geteuid() != 0:
        pytest.skip("no namespaces here")
    copy = tmp_path / "restore" / "models"
    shutil.copytree(live, copy)
    with Sandbox(str(tmp_path / "restore"), system(live)) as box:
        inside = observe(copy, model, loader, runner=box)
        gone = observe(live, model, loader, runner=box)
    outside = observe(live, model, loader)
    assert (inside.answers, inside.by) == (outside.answers, outside.by)
    assert "there is no file" in (gone.error or "")


@pytest.mark.parametrize(
    ("model", "loader", "inputs", "words"),
    [
        ("none.onnx", "onnx", None, "there is no file"),
        ("torn.onnx", "onnx", None, "exit code 1"),
        ("two.safetensors", "safetensors-linear", None, "is no linear model: it holds a, b"),
        ("linear.safetensors", "safetensors-linear", {"q": [1.0]}, "input 'q': the input has 1 numbers"),
        ("linear.onnx", "onnx", {"q": {"z": [1.0]}}, "input 'q': the model has no input 'z'"),
        ("rows.skops", "skops", {"q": [1.0]}, "input 'q'"),
    ],
)
def test_what_cannot_be_asked_is_an_observation(live: Path, model: str, loader: str, inputs: Json, words: str) -> None:
    """P4: a model that does not load is a finding about the copy."""
    seen = observe(live, model, loader, inputs)
    assert words in (seen.error or "")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"component": "rooter"}, "Did you mean 'router'"),
        ({"loader": "onyx"}, "Did you mean 'onnx'"),
        ({"model": "../outside.onnx"}, "leads out"),
        ({"model": "/outside.onnx"}, "leads out"),
        ({"ask": {}}, "no inputs"),
        ({"run": ("x",)}, "`run` belongs"),
        ({"loader": "command"}, "`run` belongs"),
        ({"trusted": ("a.b",)}, "`trusted` belongs"),
        ({"encode": ("{nowhere}",)}, "names no component"),
    ],
)
def test_a_wrong_question_is_the_manifests_fault(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    spec = msgspec.structs.replace(probe("linear.onnx", "onnx"), **change)
    with pytest.raises(ManifestError, match=words):
        PredictProbe().check(spec, system(tmp_path / "models"))


def test_answers_are_json(live: Path) -> None:
    """What a model gives that JSON lacks has a word (RFC 8259 has no NaN)."""
    inputs = {"q": {"0": math.inf}}
    seen = observe(live, "linear.safetensors", "safetensors-linear", json.loads(json.dumps(inputs)))
    assert set(map(str, seen.answers["q"]["scores"])) <= {"NaN", "Infinity", "-Infinity"}
