"""What models take: ``python -m bench.models``. Ratios and speeds of the codings, beside zipnn where that can be imported.

Chunks of 1 MiB, one thread, processor time, the fastest of five: encoding with the check that all comes back, and decoding.
``zipnn`` gets the same bytes at once, by its own threads=1. Then a family: a base model and five fine-tunes (a fifth of the tensors
frozen, all others with relative noise of 0.3 % or 3 % on 60 % of their elements), captured one after the other and all at once, and
restored and compared. ``--family`` for that alone.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resurgam.capture.run import capture
from resurgam.clock import SystemClock
from resurgam.drivers.registry import driver_for
from resurgam.model.system import Component, System, VaultPlace
from resurgam.restore.run import restore
from resurgam.stores.local import LocalStore
from resurgam.vault import deltas
from resurgam.vault.codecs import decode, encode_verified
from resurgam.vault.host import HostState
from resurgam.vault.keyring import Keyring
from resurgam.vault.repository import Repository
from resurgam.vault.tensors import Dtype

CHUNK = 1 << 20
ROUNDS = 5
_TENSOR = 1 << 20  # elements
Array = NDArray[Any]


def main(arguments: list[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.models", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=16, help="of each kind of tensor")
    parser.add_argument("--tensors", type=int, default=10, help="of each model of the family, 2 MB each")
    parser.add_argument("--family", action="store_true", help="only the family: sizes")
    parser.add_argument("--work", default=None, help="an existing folder with room for the family")
    given = parser.parse_args(arguments)
    if not given.family:
        _codings(given.megabytes << 20)
    for noise in (0.003, 0.03):
        for at_once in (False, True):
            with tempfile.TemporaryDirectory(prefix="bench-models-", dir=given.work) as work:
                whole, stored = _family(work, given.tensors, noise, at_once)
            told = "at once" if at_once else "one after the other"
            print(
                f"family of a base and five fine-tunes, noise {noise:.1%}, {told}: {whole / stored:.2f} times smaller than it is"
            )
    return 0


def _codings(size: int) -> None:
    """Print the tables of single tensors, ``size`` bytes of each kind."""
    rng = np.random.default_rng(1)
    zipnn = _zipnn()
    print(f"{'tensor':<28}{'ratio':>7}{'encode':>12}{'decode':>12}   zipnn" + ("" if zipnn else ": absent"))
    for name, values, dtype in _tensors(rng, size):
        _row(name, values.tobytes(), dtype, zipnn)
    print(f"\n{'delta against its base':<28}{'ratio':>7}{'times':>8}{'encode':>12}{'decode':>12}")
    for name, base, values in _pairs(rng, size):
        _delta_row(name, base, values)
    print()


def bf16(values: Array) -> Array:
    """Rounded to bfloat16, to nearest."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _tensors(rng: np.random.Generator, size: int) -> Iterator[tuple[str, Array, Dtype]]:
    weights = rng.normal(0, 0.02, size // 4).astype(np.float32)
    yield "bf16 weights", bf16(weights), Dtype.BF16
    yield "f16 weights", weights.astype(np.float16), Dtype.F16
    yield "f32 weights", weights, Dtype.F32
    rows = weights.reshape(-1, 4096)
    for bits, steps in ((4, 7), (8, 127)):
        for scope, scale in (("tensor", np.abs(rows).max()), ("row", np.abs(rows).max(axis=1, keepdims=True))):
            values = (np.rint(rows / (scale / steps)) * (scale / steps)).astype(np.float32).ravel()
            yield f"int{bits} of a {scope} in bf16", bf16(values), Dtype.BF16
            yield f"int{bits} of a {scope} in f32", values, Dtype.F32
    first, second = np.zeros((2, size // 4), np.float32)
    for _ in range(20):
        gradient = rng.normal(0, 1e-3, size // 4).astype(np.float32)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient * gradient
    for name, state in (("m", first), ("v", second)):
        yield f"Adam's {name} in f32", state.astype(np.float32), Dtype.F32
        yield f"Adam's {name} in bf16", bf16(state), Dtype.BF16


def _pairs(rng: np.random.Generator, size: int) -> Iterator[tuple[str, Array, Array]]:
    base = bf16(rng.normal(0, 0.02, size // 2))
    for noise in (0.003, 0.03):
        yield f"noise of {noise:.1%} on 60 %", base, _tuned(rng, base, noise)
    for share in (0.01, 0.05, 0.2):
        yield f"+1 ulp on {share:.0%}", base, base + (rng.random(len(base)) < share).astype(np.uint16)


def _tuned(rng: np.random.Generator, base: Array, noise: float) -> Array:
    floats = (base.astype(np.uint32) << 16).view(np.float32)
    moved = rng.random(len(base)) < 0.6
    return bf16(np.where(moved, floats * (1 + rng.normal(0, noise, len(base))), floats))


def _row(name: str, data: bytes, dtype: Dtype, zipnn: Any) -> None:
    chunks = [memoryview(data)[at : at + CHUNK] for at in range(0, len(data), CHUNK)]
    coded = [encode_verified(chunk, dtype) for chunk in chunks]
    encoding = _seconds(lambda: [encode_verified(chunk, dtype) for chunk in chunks])
    decoding = _seconds(lambda: [decode(one.codec, one.data, CHUNK, lasting=False) for one in coded])
    ratio = len(data) / sum(len(one.data) for one in coded)
    line = f"{name:<28}{ratio:>7.2f}{_rate(data, encoding):>12}{_rate(data, decoding):>12}"
    if zipnn is not None:
        word = {Dtype.BF16: "bfloat16", Dtype.F16: "float16", Dtype.F32: "float32"}[dtype]
        tool = zipnn.ZipNN(input_format="byte", bytearray_dtype=word, threads=1)
        packed = bytes(tool.compress(bytearray(data)))  # it may write into what it is given
        assert bytes(tool.decompress(packed)) == data
        line += f"{len(data) / len(packed):>7.2f}{_rate(data, _seconds(lambda: tool.compress(bytearray(data)))):>12}"
        line += f"{_rate(data, _seconds(lambda: tool.decompress(packed))):>12}"
    print(line)


def _delta_row(name: str, base: Array, values: Array) -> None:
    pairs = [
        (memoryview(values.tobytes())[at : at + CHUNK], memoryview(base.tobytes())[at : at + CHUNK])
        for at in range(0, values.nbytes, CHUNK)
    ]
    made = [deltas.encode(raw, old, 2) for raw, old in pairs]
    out, size = np.empty(CHUNK, np.uint8), sum(map(len, made))
    encoding = _seconds(lambda: [deltas.encode(raw, old, 2) for raw, old in pairs])

    def decode_all() -> None:
        for one, (_, old) in zip(made, pairs, strict=True):
            deltas.apply(deltas.read(one, len(old)), old, out)

    decoding = _seconds(decode_all)
    data = values.tobytes()
    print(
        f"{name:<28}{size / len(data):>7.3f}{len(data) / size:>8.1f}{_rate(data, encoding):>12}{_rate(data, decoding):>12}"
    )


def _seconds(work: Callable[[], object]) -> float:
    """Processor seconds, the fewest of some rounds."""
    found = []
    for _ in range(ROUNDS):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return min(found)


def _rate(data: bytes, seconds: float) -> str:
    return f"{len(data) / seconds / 1e6:,.0f} MB/s"


def _zipnn() -> Any:
    try:
        return importlib.import_module("zipnn")
    except ImportError:
        return None


def _family(work: str, tensors: int, noise: float, at_once: bool) -> tuple[int, int]:
    """Bytes of a family, and what its vault holds once each model was captured in its turn, or all together."""
    rng, live = np.random.default_rng(7), f"{work}/live"
    base = [bf16(rng.normal(0, 0.02, _TENSOR)) for _ in range(tensors)]
    os.makedirs(f"{work}/vault")
    clock, store = SystemClock(), LocalStore(f"{work}/vault")
    Repository.create(store, f"{work}/keys", "family", clock)
    component = Component(name="models", driver="files", location=live)
    system = System(name="family", vault=VaultPlace(path=f"{work}/vault", keys=f"{work}/keys"), components=(component,))
    keyring = Keyring(f"{work}/keys")
    for number in range(6):
        tuned = base if not number else [one if at % 5 == 4 else _tuned(rng, one, noise) for at, one in enumerate(base)]
        os.makedirs(f"{live}/model-{number}")
        _write(f"{live}/model-{number}/model.safetensors", tuned)
        if at_once and number < 5:
            continue
        host = HostState(keyring.vault.hex(), system.name, f"{work}/state")
        sealed = capture(system, driver_for, lambda _: (), Repository(store, keyring), host, clock)
    stored = sum(entry.size for entry in store.list("packs/"))
    repository = Repository(store, keyring)
    done = restore(repository, sealed.body, repository.particulars(sealed.body), f"{work}/out", driver_for, clock)
    names = [f"model-{number}/model.safetensors" for number in range(6)]
    for name in names:
        with open(f"{live}/{name}", "rb") as one, open(f"{work}/out/{done.copies['models'].place}/{name}", "rb") as two:
            assert one.read() == two.read(), name
    return sum(os.path.getsize(f"{live}/{name}") for name in names), stored


def _write(path: str, tensors: list[Array]) -> None:
    size = 2 * _TENSOR
    header = {
        f"layer.{n:03}": {
            "dtype": "BF16",
            "shape": [1024, _TENSOR // 1024],
            "data_offsets": [n * size, n * size + size],
        }
        for n in range(len(tensors))
    }
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(tensor.tobytes() for tensor in tensors)


if __name__ == "__main__":
    sys.exit(main())
