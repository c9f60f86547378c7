"""The header of an array of NumPy: its descr is Python text, of which NumPy evaluates literals only; objects are never loaded.

Format: ``numpy.lib.format``.
"""

from __future__ import annotations

import tokenize
import warnings
from typing import IO, Any

import numpy as np

from resurgam.drivers.tensor import BITS, Malformed, Model, Tensor, Window, decoder, size_of

MAGIC = b"\x93NUMPY"
_WORDS = {"f": "F", "i": "I", "u": "U", "c": "C"}


def read_array_header(file: IO[bytes]) -> tuple[str, tuple[int, ...], str]:
    """Dtype, shape, and dtype as stored: that is another where the order is Fortran's or big-endian. ``object`` for objects.

    The file stands where the data begin. Raises Malformed.
    """
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # an array of Python 2 is as good as any
            shape, fortran, dtype = read(file)
    except (
        ValueError,
        SyntaxError,
        tokenize.TokenError,
        MemoryError,
        RecursionError,
    ) as error:  # of Python's own parser too
        raise Malformed(f"has an array header that cannot be read: {error}") from error
    if dtype.hasobject:
        return "object", shape, "object"
    word = "BOOL" if dtype.kind == "b" else f"{_WORDS.get(dtype.kind, '?')}{8 * dtype.itemsize}"
    if word not in BITS or (dtype.byteorder == ">" and dtype.itemsize > 1):
        word = "U8"  # records, texts, times, foreign byte order: seen as bytes
        shape = (*shape, dtype.itemsize)
    stored = dtype.str if dtype.names is None else str(dtype)
    return word, shape, f"{stored}, columns first" if fortran else (word if word != "U8" else stored)


def read_npy(window: Window) -> Model:
    """Raises Malformed."""
    model = Model("npy")
    with window.file() as file:
        dtype, shape, stored = read_array_header(file)
        data = file.tell()
    if dtype != stored:
        model.metadata["stored"] = stored
    if dtype == "object":
        model.notes.append("is an array of objects, which is seen as bytes only and never loaded")
        return model
    size = size_of(dtype, shape)
    if size != window.size - data:
        raise Malformed(f"gives {window.size - data} bytes to an array of {dtype} {list(shape)}")

    def pieces() -> Any:
        return window.pieces(data, size)

    model.add(Tensor("", dtype, shape, size, pieces, decoder(dtype)))
    return model
