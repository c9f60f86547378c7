"""The router: which section a question belongs to. Multinomial logistic regression over hashed words, in numpy.

Words hash into ``BUCKETS`` features (the hashing trick, Weinberger et al. 2009) with CRC-32, which is the same in every process.
Training is full-batch AdaGrad (Duchi et al. 2011) from zero weights, without any randomness; sums run in one order, so that
equal texts give equal weights to the last bit. The model is ``router.safetensors``: ``weight`` (BUCKETS x sections), ``bias``
and the sections' names in its metadata.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

FILE = "router.safetensors"
BUCKETS = 8192
ROUNDS, RATE, DECAY = 40, 0.5, 1e-5
HELD_OUT = 5  # every fifth text is not trained on, and measures the accuracy

Floats = NDArray[np.float32]
_WORD = re.compile(r"[a-z_]+")


class Router(NamedTuple):
    """A trained router; immutable."""

    sections: tuple[str, ...]
    weight: Floats
    bias: Floats

    def route(self, text: str) -> str:
        """The section that ``text`` most likely belongs to."""
        return self.sections[int(np.argmax(_scores(_Texts.of([text]), self.weight, self.bias)[0]))]

    def save(self, folder: str) -> None:
        """Write the model's file."""
        metadata = {"sections": json.dumps(self.sections)}  # one entry: their order in the file is left to chance
        save_file({"weight": self.weight, "bias": self.bias}, os.path.join(folder, FILE), metadata=metadata)

    @classmethod
    def load(cls, folder: str) -> Router:
        """Read the model's file."""
        with safe_open(os.path.join(folder, FILE), framework="numpy") as file:
            sections = tuple(json.loads(file.metadata()["sections"]))
            return cls(sections, file.get_tensor("weight"), file.get_tensor("bias"))


class _Texts(NamedTuple):
    """Hashed texts as one sparse matrix: the bucket and the value of each word, and where each text begins."""

    buckets: NDArray[np.int64]
    values: Floats
    starts: NDArray[np.int64]
    rows: NDArray[np.int64]

    @classmethod
    def of(cls, texts: Sequence[str]) -> _Texts:
        hashed = [_buckets(text) for text in texts]
        lengths = np.array([len(row) for row in hashed])
        values = np.repeat((1 / np.sqrt(lengths)).astype(np.float32), lengths)  # each text has length 1
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        return cls(np.concatenate(hashed), values, starts, np.repeat(np.arange(len(texts)), lengths))


def train(texts: Sequence[str], labels: Sequence[str]) -> tuple[Router, float]:
    """A router, and the share of the held-out texts that it puts in the right section."""
    sections = tuple(sorted(set(labels)))
    numbers = np.array([sections.index(label) for label in labels])
    held = np.arange(len(texts)) % HELD_OUT == 0
    router = _fitted([t for t, out in zip(texts, held, strict=True) if not out], numbers[~held], sections)
    asked = _Texts.of([t for t, out in zip(texts, held, strict=True) if out])
    guesses = np.argmax(_scores(asked, router.weight, router.bias), axis=1)
    return router, float(np.mean(guesses == numbers[held]))


def _fitted(texts: Sequence[str], numbers: NDArray[np.int64], sections: tuple[str, ...]) -> Router:
    given = _Texts.of(texts)
    wanted = np.eye(len(sections), dtype=np.float32)[numbers]
    weight, bias = np.zeros((BUCKETS, len(sections)), np.float32), np.zeros(len(sections), np.float32)
    seen, seen_bias = np.full_like(weight, 1e-8), np.full_like(bias, 1e-8)
    for _ in range(ROUNDS):
        scores = _scores(given, weight, bias)
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        error = odds / odds.sum(axis=1, keepdims=True) - wanted
        gradient = _spread(given, error) / len(texts) + DECAY * weight
        seen += gradient**2
        weight -= RATE * gradient / np.sqrt(seen)
        slope = error.mean(axis=0)
        seen_bias += slope**2
        bias -= RATE * slope / np.sqrt(seen_bias)
    return Router(sections, weight, bias)


def _scores(texts: _Texts, weight: Floats, bias: Floats) -> Floats:
    sums: Floats = np.add.reduceat(weight[texts.buckets] * texts.values[:, None], texts.starts, axis=0)
    return sums + bias


def _spread(texts: _Texts, error: Floats) -> Floats:
    """Each text's error, given to the words that it has."""
    gradient = np.zeros((BUCKETS, error.shape[1]), np.float32)
    np.add.at(gradient, texts.buckets, error[texts.rows] * texts.values[:, None])
    return gradient


def _buckets(text: str) -> NDArray[np.int64]:
    words = sorted(set(_WORD.findall(text.lower()))) or [""]  # a text without words is one unknown word
    return np.array([zlib.crc32(word.encode()) % BUCKETS for word in words])
