"""Words of a proposed manifest: scalars that YAML reads as they are meant, and comments that nothing can break out of."""

from __future__ import annotations

import re

import yaml

_NOT_NAME = re.compile(r"[^a-z0-9_]+")


class Names:
    """Names of the manifest, each given once."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def give(self, *words: str) -> str:
        """``words`` as one name that was not given before."""
        base = _NOT_NAME.sub("-", "-".join(words).lower()).strip("-_")[:56] or "part"
        name = next(
            name
            for number in range(1, 10_000)
            if (name := base if number == 1 else f"{base}-{number}") not in self._given
        )
        self._given.add(name)
        return name


def scalar(text: str) -> str:
    """``text`` as a YAML scalar, in quotes where it needs them."""
    dumped: str = yaml.safe_dump(text, allow_unicode=True, width=float("inf"))
    return dumped.removesuffix("\n").removesuffix("\n...")


def in_brackets(text: str) -> str:
    """``text`` as a scalar inside brackets, always in quotes."""
    dumped: str = yaml.safe_dump(text, allow_unicode=True, width=float("inf"), default_style="'")
    return dumped.removesuffix("\n")


def listed(names: list[str]) -> str:
    """Names of the manifest as a list in brackets."""
    return f"[{', '.join(map(scalar, names))}]"


def shown(text: str) -> str:
    """``text`` for a comment: one line, and nothing that could end it."""
    return "".join(char if char.isprintable() else "?" for char in text)


def size(number: float) -> str:
    """Bytes for people, in powers of 1000."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
