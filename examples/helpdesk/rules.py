"""What the agent may say and do: policies in the prompts' folder, tools and their wiring in the tools' folder.

A policy is prose with lines that are rules: ``- refuse: word, …``, ``- say: …``, ``- redact: pattern``, and ``- approve: tool, …``
for the tools that need a human's yes. ``tools/tools.json`` lists the tools as the Model Context Protocol describes them (name,
description, inputSchema); ``tools/agent.yaml`` says at which words the agent calls which.
"""

from __future__ import annotations

import json
import os
import re
from string import Template
from typing import NamedTuple

import yaml

from examples.handbook.answering import Policies

from .places import read


class Rules(NamedTuple):
    """``approve`` holds the tools that need a yes, ``actions`` the words that call for a tool, first match first."""

    answer: Template
    unknown: str
    policies: Policies
    approve: frozenset[str]
    actions: tuple[tuple[str, frozenset[str]], ...]

    @classmethod
    def load(cls, prompts: str, tools: str) -> Rules:
        """Read both folders. Raises OSError, ValueError, KeyError or yaml.YAMLError where one is not usable."""
        said = _said(os.path.join(prompts, "policies"))
        policies = Policies(
            frozenset(_words(said["refuse"])), " ".join(said["say"]), tuple(re.compile(p) for p in said["redact"])
        )
        known = {tool["name"] for tool in json.loads(read(os.path.join(tools, "tools.json")))["tools"]}
        wiring = yaml.safe_load(read(os.path.join(tools, "agent.yaml")))
        actions = tuple((action["tool"], frozenset(action["when"])) for action in wiring["actions"])
        approve = frozenset(_words(said["approve"]))
        if unknown := ({tool for tool, _ in actions} | approve) - known:
            raise ValueError(f"No such tool: {', '.join(sorted(unknown))}")
        answer, nothing = (read(os.path.join(prompts, name)) for name in ("answer.md", "unknown.md"))
        return cls(Template(answer), nothing.strip(), policies, approve, actions)

    def action_for(self, question: str) -> str:
        """The tool that the question calls for, or none ("")."""
        words = set(re.findall(r"\w+", question.lower()))
        return next((tool for tool, when in self.actions if when & words), "")


def _said(folder: str) -> dict[str, list[str]]:
    said: dict[str, list[str]] = {"refuse": [], "say": [], "redact": [], "approve": []}
    for name in sorted(os.listdir(folder)):
        for word, rest in re.findall(r"(?m)^- (refuse|say|redact|approve): (.+)$", read(os.path.join(folder, name))):
            said[word].append(rest.strip())
    return said


def _words(lines: list[str]) -> list[str]:
    return [word for line in lines for word in re.findall(r"\w+", line.lower())]
