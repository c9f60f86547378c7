"""The handbook's command line: ``setup``, ``ask``, ``answer``, ``write``, ``fence``, ``reload``. See the package's docstring."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sqlite3
import sys
import time
from threading import Event

from safetensors import SafetensorError

from .answering import Handbook, places_in
from .building import PACKAGE, build
from .gate import Closed, client, fence, reload
from .service import write


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code. 75 (try again later) during maintenance."""
    given = _parser().parse_args(arguments)
    try:
        code: int = given.run(given)
    except Closed as closed:
        print(closed, file=sys.stderr)
        return os.EX_TEMPFAIL
    except (sqlite3.Error, SafetensorError, OSError, ValueError, KeyError) as error:
        print(f"handbook: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return code


def _setup(given: argparse.Namespace) -> int:
    built = build(given.folder, given.isolation)
    if given.json:
        print(json.dumps(built._asdict()))
        return 0
    print(f"{given.folder}: {built.chunks} chunks of {built.documents} documents in {built.sections} sections")
    print(f"router: {built.accuracy:.0%} of unseen chunks in the right section ({built.guessing:.0%} by guessing)")
    print(f'ask it: {sys.executable} {os.path.join(given.folder, "bin", "handbook")} ask "How does a lock work?"')
    return 0


def _ask(given: argparse.Namespace) -> int:
    with client(given.home):
        answer = Handbook(places_in(given.home)).ask(given.question)
    print(json.dumps(answer._asdict()) if given.json else answer.text)
    return 0


def _answer(_given: argparse.Namespace) -> int:
    """A probe's question: it says where each component is, and those places are used and no others. The gate is not asked,
    since a copy must be judged while the live system is fenced."""
    asked = json.load(sys.stdin)
    answers = Handbook(asked["components"]).ask_all(asked["ask"])
    print(json.dumps({"answers": {case: answer._asdict() for case, answer in answers.items()}}))
    return 0


def _write(given: argparse.Namespace) -> int:
    """SIGTERM ends it after the transaction at hand."""
    stopped = Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    until = time.monotonic() + given.seconds
    written = write(given.home, given.rate, given.seed, lambda: stopped.is_set() or time.monotonic() >= until)
    print(json.dumps(written._asdict()))
    return 0


def _fence(given: argparse.Namespace) -> int:
    fence(given.home)
    return 0


def _reload(given: argparse.Namespace) -> int:
    reload(given.home)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="handbook", description="A question-answering service over documents.")
    parser.add_argument("--home", default=_home(), help="the system's folder (%(default)s)")
    commands = parser.add_subparsers(required=True)
    setup = commands.add_parser("setup", help="build a system folder")
    setup.add_argument("folder")
    setup.add_argument("--isolation", choices=("required", "best-effort"), default="required")
    setup.add_argument("--json", action="store_true")
    setup.set_defaults(run=_setup)
    ask = commands.add_parser("ask", help="ask one question")
    ask.add_argument("question")
    ask.add_argument("--json", action="store_true")
    ask.set_defaults(run=_ask)
    writing = commands.add_parser("write", help="open tickets, as customers do")
    writing.add_argument("--rate", type=float, default=50.0, help="transactions a second")
    writing.add_argument("--seconds", type=float, default=10.0)
    writing.add_argument("--seed", type=int, default=0)
    writing.set_defaults(run=_write)
    for name, run, told in (
        ("answer", _answer, "answer a probe: JSON on standard input, JSON on standard output"),
        ("fence", _fence, "keep clients out, and wait until they have left"),
        ("reload", _reload, "let clients in again"),
    ):
        commands.add_parser(name, help=told).set_defaults(run=run)
    return parser


def _home() -> str:
    """The folder whose ``app`` this package is; elsewhere ``handbook`` in the working folder."""
    app = os.path.dirname(PACKAGE)
    return os.path.dirname(app) if os.path.basename(app) == "app" else os.path.abspath("handbook")


if __name__ == "__main__":
    sys.exit(main())
