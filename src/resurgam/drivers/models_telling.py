"""How two versions of a model file differ, tensor by tensor: what a diff says beyond the names that changed.

Both versions are read piece by piece from wherever their bytes are (a vault), so nothing is restored and a tensor of any size is
compared within a few megabytes of memory. A file that is not as its format says tells nothing here: a diff then has names only.
"""

from __future__ import annotations

from collections.abc import Iterator

from resurgam.drivers.base import Blob, Told
from resurgam.drivers.tensor import Change, Malformed, Model, Tensor, Window, changes
from resurgam.drivers.tensor_formats import read_model


def told(path: str, name: bytes, before: Blob, after: Blob) -> Iterator[Told]:
    """Every tensor and every word of the header that both versions have and that differs."""
    try:
        old, new = (read_model(name, Window(side.source, side.size)) for side in (before, after))
        if old is None or new is None:
            return
        differing = [change for change in changes(old, new) if change.sign == "~"]
    except Malformed:
        return  # each capture has a finding that says what is wrong with it
    left, right = _tensors(old), _tensors(new)
    for change in differing:
        said = _said(change, left[change.name], right[change.name])
        yield Told(f"tensors of {path}", (change.name,), said)
    for key in sorted(old.metadata.keys() & new.metadata.keys()):
        if old.metadata[key] != new.metadata[key]:
            yield Told(f"header of {path}", (key,), f"{old.metadata[key]} -> {new.metadata[key]}")


def _tensors(model: Model) -> dict[str, Tensor]:
    return {tensor.name: tensor for tensor in model.tensors}


def _said(change: Change, before: Tensor, after: Tensor) -> str:
    old, new = (f"{each.dtype} {list(each.shape)}" for each in (before, after))
    words = [old if old == new else f"{old} -> {new}"]
    if change.before is not None and change.after is not None and None not in (change.before.norm, change.after.norm):
        words.append(f"norm {change.before.norm:.6g} -> {change.after.norm:.6g}")
    if change.distance is not None:
        norm = change.before.norm if change.before is not None else None
        relative = f" ({change.distance / norm:.3g} of its norm)" if norm else ""
        words.append(f"norm of the difference {change.distance:.6g}{relative}")
    return ", ".join(words)
