"""The embedder: texts to vectors of length 1, by the static model that the ``wordllama`` wheel ships (256 dimensions, 16 MB).

A text's vector is the mean of its tokens' vectors, normalised: what ``wordllama`` itself computes, in a few lines of numpy. The
model stands in the system's own folder and is loaded from there, so that it is captured, restored and swapped like any other part.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from tokenizers import Tokenizer

WEIGHTS, TOKENS, LICENCE = "model.safetensors", "tokenizer.json", "LICENCE.md"
TENSOR = "embedding.weight"
SHIPPED = {WEIGHTS: "weights/l2_supercat_256.safetensors", TOKENS: "tokenizers/l2_supercat_tokenizer_config.json"}

Floats = NDArray[np.float32]


class Embedder(NamedTuple):
    """A loaded model; immutable. ``digest`` is the SHA-256 of its weights' file: an index names the one that built it."""

    tokenizer: Tokenizer
    weights: NDArray[np.float16]
    digest: str

    @classmethod
    def load(cls, folder: str) -> Embedder:
        """Read the model's files. Raises OSError, SafetensorError or Exception (of tokenizers) where they are not usable."""
        path = os.path.join(folder, WEIGHTS)
        with safe_open(path, framework="numpy") as file:
            weights = file.get_tensor(TENSOR)
        with open(path, "rb") as raw:
            digest = hashlib.file_digest(raw, "sha256").hexdigest()
        tokenizer = Tokenizer.from_file(os.path.join(folder, TOKENS))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return cls(tokenizer, weights, digest)

    def embed(self, texts: Sequence[str]) -> Floats:
        """One row for each text. Raises ValueError on a text without a single token."""
        found = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        if not all(one.ids for one in found):
            raise ValueError("An empty text has no vector.")
        means = np.stack([self.weights[one.ids].astype(np.float32).mean(axis=0) for one in found])
        vectors: Floats = means / np.linalg.norm(means, axis=1, keepdims=True)
        return vectors


def install(folder: str) -> None:
    """Copy the model out of the installed wheel. Raises ModuleNotFoundError where it is not installed."""
    spec = find_spec("wordllama")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("The embedder comes with wordllama: python -m pip install 'resurgam[helpdesk]'")
    package = spec.submodule_search_locations[0]
    os.makedirs(folder)
    for name, place in SHIPPED.items():
        shutil.copyfile(os.path.join(package, place), os.path.join(folder, name))
