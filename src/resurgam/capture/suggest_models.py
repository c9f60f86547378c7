"""A probe for each model file that can be loaded, with inputs that were tried.

The inputs are drawn at random with a fixed seed in the form that the model takes: they show that weights changed, not that
answers are good. Real inputs, put in their place, show both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from resurgam.capture.suggestion import Look, Note, Suggestion
from resurgam.drivers.base import Queries
from resurgam.model.point import Observation
from resurgam.model.system import Json
from resurgam.model.system import Probe as ProbeSpec
from resurgam.probes.answers import observation_of
from resurgam.probes.predict import model_path, run_model

LOADERS = {".onnx": "onnx", ".skops": "skops", ".safetensors": "safetensors-linear"}
CASES = 8
LARGE = 4096  # numbers of an input; a linear model's then are mostly zero, another model is left to its owner
FILLED = 32  # places of such an input that are not zero
MODELS = 20  # of one component
TIMEOUT = 60.0


def models(look: Look) -> Iterator[Suggestion | Note]:
    """Probes for the models of a component that none asks yet."""
    if not look.driver.traits.files or not isinstance(look.driver, Queries):
        return
    paths = [str(path) for (path,) in look.rows("SELECT path FROM files ORDER BY 1")]
    known = [path for path in paths if _loader(look, path)]
    for path in known[:MODELS]:
        model = "" if path == "." else path
        if not look.asked(kind="predict", model=model):
            yield _of_model(look, model, _loader(look, path))
    if len(known) > MODELS:
        yield look.note(f"{len(known) - MODELS} more model files were not tried")


def _loader(look: Look, path: str) -> str:
    name = look.component.location if path == "." else path
    return next((loader for suffix, loader in LOADERS.items() if name.endswith(suffix)), "")


def _of_model(look: Look, model: str, loader: str) -> Suggestion | Note:
    name = model or look.component.name
    form = _asked(look, model, loader, None)
    if form.error is not None:
        return look.note(f"{name} is not asked: {form.error}")
    takes = form.answers["form"]["inputs"]
    if not takes:
        return look.note(f"{name} is not asked: it does not say what it takes; name inputs of your own")
    random = np.random.default_rng(0)
    try:
        inputs = {f"input {number}": _input(takes, loader, random) for number in range(CASES)}
    except ValueError as error:
        return look.note(f"{name} is not asked: {error}")
    tried = _asked(look, model, loader, inputs)
    if tried.error is not None:
        return look.note(f"{name} is not asked: {tried.error}")
    fields: dict[str, Json] = {"kind": "predict", "component": look.component.name, "loader": loader}
    fields |= ({"model": model} if model else {}) | {
        "witness": True,
        "tolerance": {"numeric": {"abs": 1e-6, "rel": 1e-5}},
    }
    why = f"what {name} answers to {CASES} inputs drawn at random: other weights show; put real inputs in their place"
    return look.suggestion(f"predict-{name}", why, fields, ask=inputs)


def _asked(look: Look, model: str, loader: str, inputs: Json) -> Observation:
    spec = ProbeSpec(name=model, kind="predict", component=look.component.name, model=model, loader=loader)
    request: dict[str, object] = {"path": model_path(spec, look.system), "loader": loader, "inputs": inputs}
    return observation_of(spec, run_model(request, look.runner, TIMEOUT), 0.0)


def _input(takes: dict[str, Any], loader: str, random: np.random.Generator) -> Json:
    """One input in the form that the model ``takes``. Raises ValueError where none can be drawn."""
    drawn = {name: _array(name, one["shape"], one["type"], loader, random) for name, one in takes.items()}
    return drawn if loader == "onnx" else next(iter(drawn.values()))


def _array(name: str, shape: list[Any], kind: str, loader: str, random: np.random.Generator) -> Json:
    sizes = [size if isinstance(size, int) and size > 0 else 1 for size in shape]  # what is open is one
    count = int(np.prod(sizes))
    if count > LARGE and loader == "safetensors-linear":
        places = random.choice(count, FILLED, replace=False)
        return {str(place): _drawn(random) for place in sorted(places.tolist())}
    if count > LARGE:
        raise ValueError(f"input {name} has {count} numbers; name inputs of your own")
    if "int" in kind:
        flat: list[Json] = random.integers(0, 10, count).tolist()
    elif "float" in kind or "double" in kind:
        flat = [_drawn(random) for _ in range(count)]
    else:
        raise ValueError(f"input {name} is of type {kind}; name inputs of your own")
    return np.array(flat).reshape(sizes).tolist()


def _drawn(random: np.random.Generator) -> float:
    return round(float(random.normal()), 3)
