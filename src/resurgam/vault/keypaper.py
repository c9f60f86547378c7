"""A key file on paper: what it is for, how to type it back, and a check for every line that is typed.

The bytes of the file are printed line by line in groups of four, as they are but without spaces; each printed line ends in four
hex digits, the beginning of the BLAKE3 of its number and its characters. So a mistake is found in the line where it was made.
Whoever has no Resurgam can type the line that begins with ``AGE-SECRET-KEY-1`` alone, without spaces: any age tool takes it.
"""

from __future__ import annotations

import re
from typing import Final

from blake3 import blake3

from resurgam.errors import IntegrityError
from resurgam.vault.keyformat import purpose

_WIDTH: Final = 40  # characters on a printed line
_GROUP: Final = 4
_LINE = re.compile(r"\s*(\d+)\.(\d+)\s+(\S.*?)\s+=\s*([0-9a-f]{4})\s*")


def paper(file: str, data: bytes, vault: str) -> str:
    """The page for the key file ``file`` of the vault with the name ``vault``."""
    needed = [line for line in data.decode().splitlines() if not line.startswith(("# resurgam:", "# name:"))]
    printed = [
        f"{number:3}.{part:<2}  {_grouped(piece)}  = {_check(number, part, piece)}"
        for number, line in enumerate(needed, 1)
        for part, piece in enumerate(_pieces("".join(line.split())), 1)
    ]
    return "\n".join(
        [
            f"RESURGAM KEY ON PAPER: {file}, of the vault {vault}",
            "",
            f"This is the file that {purpose(file)}.",
            "Whoever reads this page has it. Keep it where the vault is not, and nobody else goes.",
            "",
            "To type it back: type the numbered lines into a file, with their numbers and what stands after '='; spaces in",
            f"between do not matter, capitals do. Then: resurgam vault keys import FILE --output {file}",
            "",
            *printed,
            "",
            f"whole: {_whole([''.join(line.split()) for line in needed])}",
            "",
        ]
    )


def from_paper(text: str) -> bytes:
    """The key file of which ``text`` is what was typed; other lines are passed over. Raises IntegrityError naming the line that is
    wrong."""
    lines: dict[int, dict[int, str]] = {}
    for typed in text.splitlines():
        match = _LINE.fullmatch(typed)
        if match is None:
            continue
        number, part, piece = int(match[1]), int(match[2]), "".join(match[3].split())
        if _check(number, part, piece) != match[4]:
            raise _mistyped(f"line {number}.{part} is not what was printed")
        lines.setdefault(number, {})[part] = piece
    for number in range(1, max(lines, default=0) + 1):
        if sorted(lines.get(number, {})) != list(range(1, len(lines.get(number, {})) + 1)) or number not in lines:
            raise _mistyped(f"a part of line {number} is missing")
    whole = ["".join(piece for _, piece in sorted(lines[number].items())) for number in sorted(lines)]
    said = re.search(r"whole:\s*([0-9a-f]{16})", text)
    if not whole or said is None or said[1] != _whole(whole):
        raise _mistyped("lines are missing at the end, or the line `whole` is")
    return ("\n".join(whole) + "\n").encode()


def _pieces(line: str) -> list[str]:
    return [line[at : at + _WIDTH] for at in range(0, len(line), _WIDTH)]


def _grouped(piece: str) -> str:
    return " ".join(piece[at : at + _GROUP] for at in range(0, len(piece), _GROUP))


def _check(number: int, part: int, piece: str) -> str:
    return blake3(f"{number}.{part} {piece}".encode()).hexdigest()[:4]


def _whole(lines: list[str]) -> str:
    return blake3("\n".join(lines).encode()).hexdigest()[:16]


def _mistyped(what: str) -> IntegrityError:
    return IntegrityError(
        f"What was typed is not the key on the page: {what}.",
        untouched="No file was made.",
        next_step="Compare that line with the page: 0 and O, 1 and l, B and 8.",
    )
