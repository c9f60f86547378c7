"""Makes the generated pages again: ``make docs``.

    docs/cli.md                 every verb with its options and examples, and the exit codes
    docs/resurgam.schema.json   the form of the system manifest
    docs/restore-states.md      the life of a restore, as a diagram
    README.md and others in TOLD   the console blocks: what the commands print now

A house test compares each page with what would be made, so none can go stale.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from typing import Any

import typer

from docs.story import ROOT, rewritten
from resurgam import errors
from resurgam.capture.manifest import schema
from resurgam.cli.main import command_line
from resurgam.errors import ResurgamError
from resurgam.restore.state import diagram

ANSWERS = {  # exit codes that are answers, not errors
    "EXIT_DIFFERENT": "the verdict is *different*",
    "EXIT_INCONCLUSIVE": "the verdict is *inconclusive*",
    "EXIT_FINDINGS": "a point was sealed with findings that need the owner",
    "EXIT_STALE": "the newest point is older than promised (`status`)",
    "EXIT_INTERRUPTED": "interrupted (Ctrl-C); what was sealed before stands",
}
CLI_HEAD = """\
# The command line

*Made by `make docs` from the program itself.*

POINT is the beginning of a point's id, `latest`, or a time (the newest point sealed by then; without an offset it is UTC).
Every verb but `init` takes `--json`: exactly one JSON value on standard output, also for an error. Progress is shown on a
terminal only, and on standard error. An error says what was wrong, what was left untouched, and what to do next.
"""
CODES_HEAD = """\
## Exit codes

One per decision that a caller can take.

| code | what | meaning |
|---|---|---|
| 0 | | done |
"""
STATES_HEAD = """\
# The life of a restore

*Made by `make docs` from the table in `src/resurgam/restore/state.py`.* What is not in the table cannot happen: a restore that was
not judged is never promoted (P4).

"""


def verbs() -> Iterator[tuple[str, Any]]:
    """Every verb with its command, groups opened: ``vault init`` after ``vault``'s siblings, in the order of ``--help``."""
    yield from _opened("", typer.main.get_command(command_line()))


def cli() -> str:
    """docs/cli.md."""
    parts = [CLI_HEAD, *(_verb(name, command) for name, command in verbs()), _exit_codes()]
    return "\n".join(parts)


def exit_codes() -> list[tuple[int, str, str]]:
    """Number, name and meaning of every exit code but 0, by number."""
    classes = [c for c in vars(errors).values() if inspect.isclass(c) and issubclass(c, ResurgamError)]
    rows = [(c.exit_code, f"`{c.__name__}`", _first_sentence(c.__doc__)) for c in classes if c is not ResurgamError]
    rows.append((ResurgamError.exit_code, "`ResurgamError`", "Something failed that has no decision of its own"))
    rows += [(getattr(errors, name), "an answer", meaning) for name, meaning in ANSWERS.items()]
    return sorted(rows)


def states() -> str:
    """docs/restore-states.md."""
    return f"{STATES_HEAD}```mermaid\n{diagram()}```\n"


def manifest_schema() -> str:
    """docs/resurgam.schema.json."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "docs/cli.md": cli,
    "docs/restore-states.md": states,
    "docs/resurgam.schema.json": manifest_schema,
}


TOLD = ("README.md", "docs/repair.md", "docs/retention.md", "docs/rights.md")  # pages that show what commands print


def main() -> None:
    """Write every generated page, and tell which changed."""
    pages = {name: make() for name, make in PAGES.items()}
    pages |= {name: rewritten((ROOT / name).read_text(encoding="utf-8")) for name in TOLD}
    for name, text in pages.items():
        path = ROOT / name
        changed = not path.exists() or path.read_text(encoding="utf-8") != text
        path.write_text(text, encoding="utf-8")
        print(f"{name}: {'written' if changed else 'as it was'}")


def _opened(prefix: str, group: Any) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _opened(f"{prefix}{name} ", command)
        else:
            yield f"{prefix}{name}", command


def _verb(name: str, command: Any) -> str:
    text, _, examples = inspect.cleandoc(command.help).partition("Examples:")
    shown = "\n".join(line.strip() for line in examples.splitlines() if line.strip())
    words = " ".join(p.name.upper() if p.required else f"[{p.name.upper()}]" for p in _arguments(command))
    rows = "".join(_row(parameter) for parameter in command.params if parameter.name != "help")
    usage = f"resurgam {name} [OPTIONS] {words}".rstrip()
    table = f"| word | meaning |\n|---|---|\n{rows}\n" if rows else ""
    return f"## resurgam {name}\n\n    {usage}\n\n{text.strip()}\n\n{table}```sh\n{shown}\n```\n"


def _arguments(command: Any) -> list[Any]:
    return [parameter for parameter in command.params if parameter.param_type_name == "argument"]


def _row(parameter: Any) -> str:
    argument = parameter.param_type_name == "argument"
    word = parameter.name.upper() if argument else ", ".join([*parameter.opts, *parameter.secondary_opts])
    notes = [parameter.help or ""]
    if parameter.default not in (None, False, "", [], ()) and not parameter.required:
        notes.append(f"Default: `{parameter.default}`.")
    if parameter.envvar:
        notes.append(f"Variable: `{parameter.envvar}`.")
    if parameter.required and not argument:
        notes.append("Required.")
    return f"| `{word}` | {' '.join(notes).strip()} |\n"


def _exit_codes() -> str:
    rows = "".join(
        f"| {number} | {name} | {meaning.rstrip('.').replace('``', '`')} |\n" for number, name, meaning in exit_codes()
    )
    return f"{CODES_HEAD}{rows}"


def _first_sentence(text: str | None) -> str:
    assert text, "every error says what it means"
    return " ".join(text.split()).split(". ")[0]


if __name__ == "__main__":
    main()
