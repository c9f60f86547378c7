"""Where the parts of a helpdesk stand in its folder, and its settings. Code is handed places, and looks nowhere else."""

from __future__ import annotations

import os
from typing import NamedTuple

import yaml

PLACES = {  # component -> where it stands in a system folder
    "documents": "documents.db",
    "index": "index",
    "embedder": "embedder",
    "router": "router",
    "prompts": "prompts",
    "tools": "tools",
    "agent": "agent.db",
    "config": "config.yaml",
}
OPTIONAL = {"llm": "llm"}  # there after `make --llm` only
BARRIER = "run/barrier.lock"
LAUNCHER = "bin/helpdesk"


class Settings(NamedTuple):
    """``config.yaml``."""

    candidates: int
    passages: int
    sentences: int
    own_section: float
    writer: str


def places_in(home: str) -> dict[str, str]:
    """The places of the system in the folder ``home``."""
    every = PLACES | {name: place for name, place in OPTIONAL.items() if os.path.exists(os.path.join(home, place))}
    return {name: os.path.join(home, *place.split("/")) for name, place in every.items()}


def settings_in(path: str) -> Settings:
    """The settings in the file at ``path``. Raises OSError, TypeError or yaml.YAMLError where they are not usable."""
    return Settings(**yaml.safe_load(read(path)))


def read(path: str) -> str:
    """The text of a file."""
    with open(path, encoding="utf-8") as file:
        return file.read()
