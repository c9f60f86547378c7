"""What the command line says to a terminal."""

from __future__ import annotations

import pytest

from resurgam.cli import output
from resurgam.errors import IntegrityError


def test_no_name_commands_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """P12: names of files are anybody's; one that clears the screen or colours what follows is shown, not obeyed."""
    name = "\x1b[2Jred\x07\x9b1m \u202e \udcff\n  done"
    output.line(f"lost: {name}")
    output.table(("item",), [(name,)])
    output.note(name)
    output.warning(name)
    output.error(IntegrityError(name, untouched=name, next_step=name), json=False)
    said = "".join(capsys.readouterr())
    assert not set(said) & set("\x1b\x07\x9b\u202e\udcff")
    assert r"lost: \x1b[2Jred\x07\x9b1m" in said
    assert "größer\n".encode() == (output.harmless("größer") + "\n").encode()
