"""Loads one model and gives it inputs. A program of its own: see ``probes.predict``.

Standard input: ``{"path", "loader", "trusted", "inputs": {case: input}}``. Standard output: ``{"answers": {case: outputs}, "by":
{library: version, …}}``; exit code 1 with a sentence on standard error where there is no answer. Without ``inputs`` the one answer
is ``form``: what the model takes, as ``{"inputs": {name: {"shape", "type"}}}``.

Only what the loader needs is imported, and nothing of this package. What could differ between two runs is fixed: one thread,
the processor, ONNX Runtime's deterministic kernels. A linear model is summed up in float64 and rounded to float32 once, so that
the order of the sum does not show.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, Protocol

import numpy as np

LARGE = 256  # numbers; an output of more is answered by its shape, its highest values and its digest
TOP = 10
_TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
    "tensor(string)": np.object_,
}

Json = Any


class Refused(Exception):
    """There is no answer, and why."""


class Model(Protocol):
    """A loaded model."""

    by: dict[str, str]

    def form(self) -> Json:
        """What it takes."""
        ...

    def answer(self, given: Json) -> Json:
        """What it answers to one input."""
        ...


class Linear:
    """The two tensors of a safetensors file, a matrix and a bias. An input is a list of numbers, or ``{place: number}`` where most
    are zero."""

    def __init__(self, path: str, _trusted: Sequence[str]) -> None:
        tensors = importlib.import_module("safetensors.numpy").load_file(path)
        weights, biases = ([t for t in tensors.values() if t.ndim == rank] for rank in (2, 1))
        if (len(tensors), len(weights), len(biases)) != (2, 1, 1):
            raise Refused(f"{os.path.basename(path)} is no linear model: it holds {', '.join(sorted(tensors))}")
        (weight,), (bias,) = weights, biases
        if len(bias) not in weight.shape:
            raise Refused(f"a bias of {len(bias)} does not fit a weight of {list(weight.shape)}")
        # As torch has it, a row is an output; where only the other way fits, a column is.
        self._weight = np.asarray(weight if weight.shape[0] == len(bias) else weight.T, np.float64)
        self._bias = np.asarray(bias, np.float64)
        self.by = {"safetensors": version("safetensors"), "numpy": np.__version__}

    def form(self) -> Json:
        return {"inputs": {"x": {"shape": [self._weight.shape[1]], "type": "tensor(float)"}}}

    def answer(self, given: Json) -> Json:
        size = self._weight.shape[1]
        if isinstance(given, dict):
            row = np.zeros(size)
            for place, number in given.items():
                row[int(place)] = number
        else:
            row = np.asarray(given, np.float64)
        if row.shape != (size,):
            raise Refused(f"the input has {row.size} numbers, the model takes {size}")
        scores = (self._weight * row).sum(axis=1) + self._bias
        return {"class": int(np.argmax(scores)), "scores": told(scores.astype(np.float32))}


class Onnx:
    """A model that ONNX Runtime loads."""

    def __init__(self, path: str, _trusted: Sequence[str]) -> None:
        runtime = importlib.import_module("onnxruntime")
        runtime.disable_telemetry_events()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        options.log_severity_level = 3
        self._session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.by = {"onnxruntime": runtime.__version__, "provider": "CPUExecutionProvider", "threads": "1"}

    def form(self) -> Json:
        return {"inputs": {one.name: {"shape": one.shape, "type": one.type} for one in self._session.get_inputs()}}

    def answer(self, given: Json) -> Json:
        takes = self._session.get_inputs()
        if not isinstance(given, dict):
            if len(takes) != 1:
                raise Refused(f"the model has {len(takes)} inputs: {', '.join(one.name for one in takes)}")
            given = {takes[0].name: given}
        if unknown := sorted(given.keys() - {one.name for one in takes}):
            raise Refused(f"the model has no input {unknown[0]!r}")
        feed = {one.name: self._array(one, given[one.name]) for one in takes if one.name in given}
        names = [one.name for one in self._session.get_outputs()]
        return {name: told(value) for name, value in zip(names, self._session.run(names, feed), strict=True)}

    @staticmethod
    def _array(takes: Any, given: Json) -> Any:
        if takes.type not in _TYPES:
            raise Refused(f"input {takes.name} is of type {takes.type}, which is not asked here")
        array: Any = np.asarray(given, _TYPES[takes.type])
        return array[None] if array.ndim == len(takes.shape) - 1 else array  # one of a batch


class Skops:
    """A scikit-learn model in a skops file. An input is one row: a list of numbers, or a text."""

    def __init__(self, path: str, trusted: Sequence[str]) -> None:
        io = importlib.import_module("skops.io")
        # https://skops.readthedocs.io/en/stable/persistence.html: loading makes no object of a type outside this audit
        unknown = sorted(set(io.get_untrusted_types(file=path)) - set(trusted))
        if unknown:
            raise Refused(f"it holds types that nobody trusts: {', '.join(unknown)}; `trusted` may name what you know")
        self._model = io.load(path, trusted=list(trusted))
        self.by = {name: version(name) for name in ("skops", "scikit-learn", "numpy")}

    def form(self) -> Json:
        features = getattr(self._model, "n_features_in_", None)
        return {"inputs": {"x": {"shape": [features], "type": "tensor(float)"}} if features else {}}

    def answer(self, given: Json) -> Json:
        rows = [given] if isinstance(given, str) else np.asarray([given], _kind(given))
        answer = {"prediction": told(self._model.predict(rows)[0])}
        if hasattr(self._model, "predict_proba"):
            answer["probabilities"] = told(self._model.predict_proba(rows)[0])
        return answer


LOADERS: dict[str, Callable[[str, Sequence[str]], Model]] = {
    "safetensors-linear": Linear,
    "onnx": Onnx,
    "skops": Skops,
}


def main() -> int:
    """Answer the request on standard input; returns the exit code."""
    request = json.load(sys.stdin)
    try:
        if not os.path.isfile(request["path"]):
            raise Refused(f"there is no file {request['path']}")
        model = LOADERS[request["loader"]](request["path"], request.get("trusted", ()))
        inputs = request.get("inputs")
        if inputs is None:
            answers = {"form": model.form()}
        else:
            answers = {case: _answered(model, case, given) for case, given in inputs.items()}
    except Refused as refused:
        sys.stderr.write(f"{refused}\n")
        return 1
    except ModuleNotFoundError as missing:
        sys.stderr.write(f"{missing.name} is not installed: python -m pip install 'resurgam[predict]'\n")
        return 1
    sys.stdout.write(json.dumps({"answers": answers, "by": model.by}))
    return 0


def told(value: Any) -> Json:
    """A value of a model as JSON: every number of a small array, what matters of a large one."""
    if isinstance(value, list | tuple):  # sequences and maps of ONNX
        return [told(part) for part in value]
    if isinstance(value, dict):
        return {str(key): told(part) for key, part in value.items()}
    array = np.asarray(value)
    if array.dtype.kind in "OUS":
        return [str(part) for part in array.ravel()] if array.ndim else str(value)
    if array.size <= LARGE:
        return _numbers(array)
    flat = np.asarray(array.ravel(), np.float64)
    order = np.lexsort((np.arange(flat.size), -flat))[:TOP]
    stable = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"))
    return {
        "shape": list(array.shape),
        "top": [[int(place), _number(flat[place])] for place in order],
        "sha256": hashlib.sha256(stable.tobytes()).hexdigest(),
    }


def _answered(model: Model, case: str, given: Json) -> Json:
    try:
        return model.answer(given)
    except (Refused, ValueError, TypeError, IndexError) as error:
        raise Refused(f"input {case!r}: {error}") from error


def _numbers(array: Any) -> Json:
    return [_numbers(part) for part in array] if array.ndim else _number(array.item())


def _number(number: Any) -> Json:
    """JSON has no NaN; told as probes.answers reads it from any command."""
    if isinstance(number, float) and not math.isfinite(number):
        return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
    return number


def _kind(given: Json) -> Any:
    return np.float64 if all(isinstance(n, int | float) for n in given) else np.object_


if __name__ == "__main__":
    sys.exit(main())
