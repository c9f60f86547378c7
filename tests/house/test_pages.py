"""Pages that cannot go stale: what is generated is current, what is linked exists, what is shown happens."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from docs import generate, story
from resurgam.cli.main import EPILOG, command_line, main
from resurgam.errors import ResurgamError
from resurgam.restore.sandbox import available
from tests.house.test_code import ROOT, texts

PAGES = sorted(path for path in texts() if path.suffix == ".md")
README_LINES = 150
SIGNED_TYPES = ("resurgam segment", "resurgam trailer")  # of docs/format.md; they are no commands
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
# Words of the glossary that a user meets, and words that would mean the same.
SPOKEN = (
    "system",
    "component",
    "point",
    "vault",
    "probe",
    "witness",
    "baseline",
    "reference",
    "verdict",
    "finding",
    "plan",
)
SYNONYMS = re.compile(
    r"\b(backups?|archives?|repositor(y|ies)|checkpoints?|jobs?|revert|rollback|evals?)\b", re.IGNORECASE
)

OF_THE_LOG = re.compile(r"\bcheckpoints?\b")  # what an auditor signs; in other verbs it would mean a point


def anchors(text: str) -> Iterator[str]:
    """The names of a page's headings, as links spell them."""
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def help_texts() -> Iterator[tuple[str, str]]:
    """Every verb with all that its help says."""
    for name, command in generate.verbs():
        yield name, "\n".join([command.help, *(parameter.help or "" for parameter in command.params)])


@pytest.mark.parametrize("name", generate.PAGES)
def test_a_generated_page_is_current(name: str) -> None:
    """``make docs`` would change nothing."""
    assert (ROOT / name).read_text(encoding="utf-8") == generate.PAGES[name](), f"run `make docs` for {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    """Relative links name files, and headings in them."""
    broken = []
    for link in LINK.findall(re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)):
        place, _, heading = link.partition("#")
        target = page if not place else page.parent / place
        if "://" in link or link.startswith("mailto:"):
            continue
        if not target.exists() or (heading and heading not in anchors(target.read_text(encoding="utf-8"))):
            broken.append(link)
    assert broken == []


def test_every_verb_has_examples_that_are_its_own() -> None:
    """Help without an example is half a help; each is of the verb that it stands under."""
    for name, command in generate.verbs():
        _, marker, examples = inspect.cleandoc(command.help).partition("Examples:")
        lines = [line.strip() for line in examples.splitlines() if line.strip()]
        assert marker, name
        assert lines, name
        assert all(line.startswith(f"resurgam {name}") for line in lines), name


def test_every_option_is_explained() -> None:
    """A word without a meaning helps nobody."""
    bare = [f"{n}: {p.name}" for n, c in generate.verbs() for p in c.params if not p.help and p.name != "help"]
    assert bare == []


def test_every_example_in_the_pages_is_a_verb_with_its_options() -> None:
    """A command that is shown can be typed: its verb exists, and so do its options."""
    options = {name: {o for p in command.params for o in p.opts} | {"--help"} for name, command in generate.verbs()}
    wrong = []
    for page in PAGES:
        for line in re.findall(r"resurgam ((?:vault |reference )?[a-z][a-z-]*(?: [^`\n|&;#]*)?)", _commands_of(page)):
            name = next((n for n in sorted(options, key=len, reverse=True) if f"{line} ".startswith(f"{n} ")), None)
            used = re.findall(r"(?<!\S)--?[a-z][a-z0-9-]*", line)
            if name is None or not set(used) <= options[name]:
                wrong.append(f"{page.name}: resurgam {line}")
    assert wrong == []


def test_every_exit_code_is_documented() -> None:
    """Errors and answers alike, in the page and in the help; a code means one decision."""
    table = {int(code) for code in re.findall(r"^\| (\d+) \|", generate.cli(), re.MULTILINE)}
    codes = {number for number, _, _ in generate.exit_codes()} | {0}
    assert table == codes
    spoken = {int(code) for code in re.findall(r"\b(\d+) [a-z]", EPILOG)}
    assert codes - spoken <= {1}, "1 is what has no decision of its own"
    errors = [c for c in ResurgamError.__subclasses__() if c.__module__ == "resurgam.errors"]
    assert len({c.exit_code for c in errors}) == len(errors)


def test_the_words_are_those_of_the_glossary() -> None:
    """One word, one meaning (design, *Words*): the help uses the glossary's words, and none that mean the same."""
    design = (ROOT / "docs/design.md").read_text(encoding="utf-8")
    defined = set(re.findall(r"^\| \*\*(\w+)\*\* \|", design, re.MULTILINE))
    said = "\n".join(text for _, text in help_texts()).lower()
    assert set(SPOKEN) <= defined
    assert [word for word in SPOKEN if word not in said] == []
    own = ((name, OF_THE_LOG.sub("", text) if name.startswith("audit ") else text) for name, text in help_texts())
    assert [(name, found[0]) for name, text in own if (found := SYNONYMS.search(text))] == []


def test_wrong_words_are_told_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever typer raises comes out as exit code 2 and a hint (P12)."""
    for words in (["nonsense"], ["restore", "latest"], ["diff", "a"], ["capture", "--nonsense"]):
        assert main(words) == 2, words
        assert "--help" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--help"], ["--version"], *([*n.split(), "--help"] for n, _ in generate.verbs())])
def test_help_and_version_answer(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """With exit code 0, on standard output."""
    assert main(words) == 0
    assert capsys.readouterr().out.startswith(("Usage: ", "resurgam 0."))


def test_every_verb_is_in_the_list() -> None:
    """Nothing is hidden from the page that is made of them."""
    assert {name.split()[0] for name, _ in generate.verbs()} == set(typer.main.get_command(command_line()).commands)  # type: ignore[attr-defined]


def test_every_fault_names_tests_that_exist_and_every_machine_is_named() -> None:
    """docs/faults.md: a promise without a test is a hope."""
    page = (ROOT / "docs/faults.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and "](../tests/" not in line]
    assert [row for row in rows if not row.startswith("| fault |")] == []
    crash = {f"tests/crash/{path.name}" for path in (ROOT / "tests/crash").glob("test_*.py")}
    assert [name for name in sorted(crash) if f"../{name})" not in page] == []


def test_the_readme_is_one_screen_long() -> None:
    """More belongs in docs/."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= README_LINES


@pytest.mark.skipif(not available()[0], reason="the story's verdicts are those of a host that can isolate")
@pytest.mark.parametrize("page", generate.TOLD)
def test_what_a_page_shows_happens(page: str) -> None:
    """Its commands are run, and print what is shown, but for ids, numbers, times and quoted answers (P4: 20 is *different*)."""
    shown = story.blocks((ROOT / page).read_text(encoding="utf-8"))
    assert shown
    assert [story.shape(block) for block in story.tell(shown)] == [story.shape(block) for block in shown]


def _commands_of(page: Path) -> str:
    """What of a page is meant to be typed: code blocks and code in the text."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"```(?:sh|console)\n(.*?)```", text, re.DOTALL)
    spoken = re.findall(r"(?<!`)`(resurgam [^`\n]+)`(?!`)", text)
    return "\n".join([*blocks, *(words for words in spoken if words not in SIGNED_TYPES)]) + "\n"
