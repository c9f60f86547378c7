"""How two versions of a model file differ, tensor by tensor: what a diff says beyond the names that changed.

Both versions are read piece by piece from wherever their bytes are (a vault), so nothing is restored and a tensor of any size is
compared within a few megabytes of memory. A file that is not as its format says tells nothing here: a diff then has names only.
"""

from __future__ import annotations

from collections.abc import Iterator

from resurgam.drivers.base import Blob, Told
from resurgam.drivers.tensor import Change, Malformed, Measure, Model, Tensor, Window, changes
from resurgam.drivers.tensor_formats import read_model


def told(path: str, name: bytes, before: Blob | None, after: Blob | None) -> Iterator[Told]:
    """Every tensor that differs, and every word of the header."""
    try:
        old, new = _model(name, before), _model(name, after)
        differing = list(changes(old, new))
    except Malformed:
        return  # each capture has a finding that says what is wrong with it
    left, right = _tensors(old), _tensors(new)
    for change in differing:
        said = _said(change, left.get(change.name), right.get(change.name))
        yield Told(f"tensors of {path}", (change.name,), said)
    for key, words in _header(old, before, new, after):
        yield Told(f"header of {path}", (key,), words, under=key)


def _model(name: bytes, blob: Blob | None) -> Model:
    found = read_model(name, Window(blob.source, blob.size)) if blob is not None else None
    return Model("") if found is None else found


def _tensors(model: Model) -> dict[str, Tensor]:
    return {tensor.name: tensor for tensor in model.tensors}


def _said(change: Change, before: Tensor | None, after: Tensor | None) -> str:
    words = [_arrow(_form(before), _form(after)), _norms(change.before, change.after)]
    if change.distance is not None:
        norm = change.before.norm if change.before is not None else None
        relative = f" ({change.distance / norm:.3g} of its norm)" if norm else ""
        words.append(f"norm of the difference {change.distance:.6g}{relative}")
    return ", ".join(filter(None, words))


def _form(tensor: Tensor | None) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}" if tensor is not None else ""


def _norms(before: Measure | None, after: Measure | None) -> str:
    norms = [f"{side.norm:.6g}" if side is not None and side.norm is not None else "" for side in (before, after)]
    return f"norm {' -> '.join(filter(None, norms))}" if any(norms) else ""


def _arrow(before: str, after: str) -> str:
    return after if before == after else " -> ".join(filter(None, (before, after)))


def _header(old: Model, before: Blob | None, new: Model, after: Blob | None) -> Iterator[tuple[str, str]]:
    sizes = [f"{blob.size:,} bytes" if blob is not None else "" for blob in (before, after)]
    yield "file.digest", _arrow(*sizes)
    yield "file.format", _arrow(old.format, new.format)
    for key in sorted(old.metadata.keys() | new.metadata.keys()):
        yield key, _arrow(old.metadata.get(key, ""), new.metadata.get(key, ""))
