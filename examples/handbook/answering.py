"""How an answer comes about. Everything it depends on is read from the five places it is given, and from nowhere else."""

from __future__ import annotations

import os
import re
import sqlite3
import tomllib
from contextlib import closing
from string import Template
from typing import NamedTuple

from . import database
from .database import Passage
from .router import Router

PLACES = {  # component -> where it stands in a system folder
    "documents": "data/handbook.db",
    "router": "models",
    "prompts": "prompts",
    "policies": "policies",
    "config": "config",
}


class Answer(NamedTuple):
    """What was answered: the section it was looked for in, the chunks it cites, and its text."""

    topic: str
    chunks: list[int]
    text: str


class Settings(NamedTuple):
    """``config/handbook.toml``."""

    candidates: int
    passages: int
    sentences: int
    own_section: float


class Policies(NamedTuple):
    """What ``policies/*.md`` say: lines ``refuse: word, …``, ``say: …`` and ``redact: pattern``."""

    refused: frozenset[str]
    refusal: str
    redactions: tuple[re.Pattern[str], ...]

    def refuses(self, question: str) -> bool:
        """Whether a word of the question is one that nobody answers to."""
        return not self.refused.isdisjoint(re.findall(r"\w+", question.lower()))

    def redacted(self, text: str) -> str:
        """``text`` without what may not leave the house."""
        for pattern in self.redactions:
            text = pattern.sub("[redacted]", text)
        return text


class Handbook:
    """The service over one set of places. Raises OSError, sqlite3.Error, ValueError or KeyError where a part is not usable."""

    def __init__(self, places: dict[str, str]) -> None:
        self._documents = places["documents"]
        self._router = Router.load(places["router"])
        self._prompt = Template(_read(os.path.join(places["prompts"], "answer.md")))
        self._unknown = _read(os.path.join(places["prompts"], "unknown.md")).strip()
        self._policies = _policies(places["policies"])
        with open(os.path.join(places["config"], "handbook.toml"), "rb") as file:
            self._settings = Settings(**tomllib.load(file)["answers"])

    def ask(self, question: str) -> Answer:
        """Answer one question."""
        return self.ask_all({"": question})[""]

    def ask_all(self, questions: dict[str, str]) -> dict[str, Answer]:
        """Answer each question of ``questions``, under its name."""
        with closing(database.connect(self._documents)) as opened:
            opened.execute("PRAGMA query_only = ON")
            return {case: self._answer(opened, question) for case, question in questions.items()}

    def _answer(self, opened: sqlite3.Connection, question: str) -> Answer:
        topic = self._router.route(question)
        if self._policies.refuses(question):
            return Answer(topic, [], self._policies.refusal)
        passages = self._ranked(database.search(opened, question, self._settings.candidates), topic)
        if not passages:
            return Answer(topic, [], self._unknown)
        text = self._prompt.substitute(
            question=question,
            topic=topic,
            passages="\n".join(f"[{p.id}] {p.heading}: {self._quoted(p)}" for p in passages),
            sources=", ".join(str(p.id) for p in passages),
        )
        return Answer(topic, [p.id for p in passages], self._policies.redacted(text.strip()))

    def _ranked(self, found: list[Passage], topic: str) -> list[Passage]:
        """The topic's own chunks count for more; bm25 is negative, and more so the better."""
        weight = self._settings.own_section
        ranked = sorted(found, key=lambda p: (p.score * (weight if p.section == topic else 1.0), p.id))
        return ranked[: self._settings.passages]

    def _quoted(self, passage: Passage) -> str:
        return " ".join(re.split(r"(?<=[.:;!?]) ", passage.text)[: self._settings.sentences])


def places_in(home: str) -> dict[str, str]:
    """The places of the system in the folder ``home``."""
    return {name: os.path.join(home, *place.split("/")) for name, place in PLACES.items()}


def _policies(folder: str) -> Policies:
    said: dict[str, list[str]] = {"refuse": [], "say": [], "redact": []}
    for name in sorted(os.listdir(folder)):
        for word, rest in re.findall(r"(?m)^- (refuse|say|redact): (.+)$", _read(os.path.join(folder, name))):
            said[word].append(rest.strip())
    refused = frozenset(word for line in said["refuse"] for word in re.findall(r"\w+", line.lower()))
    return Policies(refused, " ".join(said["say"]), tuple(re.compile(pattern) for pattern in said["redact"]))


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()
