"""Set-up: a folder becomes a whole handbook system, from the database to the system manifest. Equal Python, equal folder.

data/handbook.db   models/   prompts/   policies/   config/     the five components
app/handbook   bin/handbook                                     the application: code, which version control keeps
probes/golden.json   resurgam.yaml                              how to ask it, and what it is made of
"""

from __future__ import annotations

import os
import shutil
import sys
from string import Template
from typing import NamedTuple

from . import database, router
from .answering import places_in

SEED = 20260105
PACKAGE = os.path.dirname(os.path.abspath(__file__))
CONTENT = os.path.join(PACKAGE, "content")

LAUNCHER = '''\
"""Starts the application of this folder: python bin/handbook ask "…"."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "app"))
from handbook.__main__ import main

sys.exit(main())
'''


class Built(NamedTuple):
    """What was built. ``accuracy`` is the router's on texts that it was not trained on, ``guessing`` that of the most
    frequent section."""

    documents: int
    chunks: int
    sections: int
    accuracy: float
    guessing: float


def build(home: str, isolation: str = "required") -> Built:
    """Build the system in ``home``, which must not exist or be empty. Raises FileExistsError otherwise."""
    home = os.path.abspath(home)
    if os.path.isdir(home) and os.listdir(home):
        raise FileExistsError(f"{home} is not empty; nothing was changed.")
    places = places_in(home)
    for folder in ("data", "models", "bin", "app"):
        os.makedirs(os.path.join(home, folder))
    for folder in ("prompts", "policies", "config", "probes"):
        shutil.copytree(os.path.join(CONTENT, folder), os.path.join(home, folder))
    filled = database.fill(places["documents"], SEED)
    model, accuracy = router.train(filled.texts, filled.sections)
    model.save(places["router"])
    _application(home)
    _manifest(home, len(filled.texts), isolation)
    commonest = max(filled.sections.count(section) for section in model.sections)
    guessing = commonest / len(filled.sections)
    return Built(filled.documents, len(filled.texts), len(model.sections), accuracy, guessing)


def _application(home: str) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, os.path.join(home, "app", "handbook"), ignore=ignored)
    path = os.path.join(home, "bin", "handbook")
    with open(path, "x", encoding="utf-8") as file:
        file.write(LAUNCHER)


def _manifest(home: str, chunks: int, isolation: str) -> None:
    with open(os.path.join(CONTENT, "resurgam.yaml"), encoding="utf-8") as file:
        manifest = Template(file.read())
    python = sys.executable.replace("\\", "\\\\").replace('"', '\\"')
    with open(os.path.join(home, "resurgam.yaml"), "x", encoding="utf-8") as file:
        file.write(manifest.substitute(python=f'"{python}"', chunks=chunks, isolation=isolation))
