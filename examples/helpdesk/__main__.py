"""The helpdesk's command line. ``python -m examples.helpdesk make DIR`` builds a desk; the others work on one: on that of
``DIR/bin/helpdesk`` by itself, else on the folder that is named. Libraries are imported by the command that needs them.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import sys
from typing import Any

from .places import places_in

Given = argparse.Namespace
FEW = 100_000  # new objects between two looks for garbage: the libraries make a million that stay, and each look costs
ASKED = 500  # chunks that `reach` asks for
NEAR = 5  # among so many a chunk must be found by its own words: some are said twice


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code. 75 (try again later) during maintenance or while a decision is due."""
    gc.set_threshold(FEW)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # else numpy starts a thread for each processor, and they spin
    given = _parser().parse_args(arguments)
    try:
        code: int = given.run(given)
    except Exception as error:  # noqa: BLE001 - whatever a part of the system raised is told in one line, with its kind
        print(f"helpdesk: {type(error).__name__}: {error}", file=sys.stderr)
        return os.EX_TEMPFAIL if type(error).__name__ in ("Closed", "Waiting", "BlockingIOError") else 1
    return code


def _make(given: Given) -> int:
    from .building import make

    built = make(given.dir, given.chunks, given.isolation, given.llm)
    if given.json:
        return _say(built._asdict())
    print(f"{given.dir}: {built.chunks} chunks in {built.sections} sections, made in {built.seconds:.1f} s")
    print(
        f"router: {built.accuracy:.0%} of unseen chunks in the right section; thread {built.waiting} waits for a decision"
    )
    print(f'ask it: {sys.executable} {os.path.join(given.dir, "bin", "helpdesk")} ask "How does a lock work?"')
    return 0


def _ask(given: Given) -> int:
    from examples.handbook.gate import client

    from . import desk
    from .load import barrier_of

    places = places_in(given.dir)
    with client(given.dir):
        if given.read_only:
            with desk.answering(places) as asked:
                answer = asked.answer(given.question)
        else:
            with desk.opened(places, barrier=barrier_of(given.dir)) as asked:
                answer = asked.ask(given.question, given.customer, given.thread or f"customer-{given.customer}")
    return _told(answer, given.json)


def _resume(given: Given) -> int:
    from examples.handbook.gate import client

    from . import desk
    from .load import barrier_of

    with client(given.dir), desk.opened(places_in(given.dir), barrier=barrier_of(given.dir)) as asked:
        return _told(asked.resume(given.thread, given.decision == "yes"), given.json)


def _answer(given: Given) -> int:
    """A probe's question: it says where each component is, and those places are used and no others. The gate is not asked,
    since a copy must be judged while the live system is fenced. A case is a question, or ``{"thread": name}``. With ``--samples``
    a question's answer is the list of so many texts: what a writer says who does not say the same twice."""
    from . import desk

    asked = json.load(sys.stdin)
    with desk.answering(asked["components"]) as opened:
        answers: dict[str, Any] = {}
        for case, question in asked["ask"].items():
            if isinstance(question, str) and given.samples:
                answers[case] = [opened.answer(question).text for _ in range(given.samples)]
            elif isinstance(question, str):
                topic, chunks, text = opened.answer(question)[:3]
                answers[case] = {"topic": topic, "chunks": chunks, "text": text}
            else:
                answers[case] = opened.thread(question["thread"])
    return _say({"answers": answers})


def _embed(_given: Given) -> int:
    """A probe's texts, as the vectors that the embedder makes of them."""
    from .embedder import Embedder

    asked = json.load(sys.stdin)
    vectors = Embedder.load(asked["components"]["embedder"]).embed(list(asked["ask"].values()))
    return _say({"answers": dict(zip(asked["ask"], vectors.tolist(), strict=True))})


def _reach(_given: Given) -> int:
    """A probe's question: how many chunks are not found by their own words. Up to ``ASKED``, evenly spread, are asked for."""
    from . import documents
    from .embedder import Embedder
    from .index import Reader

    places = json.load(sys.stdin)["components"]
    with documents.connected(places["documents"], read_only=True) as opened:
        chunks = [chunk for chunk in documents.every_chunk(opened) if chunk.section != documents.NOTES]
    chunks = chunks[:: max(1, len(chunks) // ASKED)]
    vectors = Embedder.load(places["embedder"]).embed([chunk.words for chunk in chunks])
    with Reader(places["index"]) as reader:
        found = reader.index.search_all(vectors, NEAR)
    lost = [chunk.id for chunk, near in zip(chunks, found, strict=True) if chunk.id not in near]
    return _say({"answers": {"own words": {"asked": len(chunks), "lost": len(lost), "for example": lost[:10]}}})


def _offer(_given: Given) -> int:
    """A probe's question: the tools as a model would be told of them, and at which words each is called."""
    import yaml

    from .places import read

    folder = json.load(sys.stdin)["components"]["tools"]
    tools = json.loads(read(os.path.join(folder, "tools.json")))["tools"]
    wiring = yaml.safe_load(read(os.path.join(folder, "agent.yaml")))
    return _say({"answers": {tool["name"]: tool for tool in tools} | {"called at": wiring["actions"]}})


def _agree(given: Given) -> int:
    """Whether the stores agree, of this system or (with ``--probe``) of the places on standard input."""
    from .keeper import disagreements

    told = disagreements(json.load(sys.stdin)["components"] if given.probe else places_in(given.dir))
    if given.probe:
        return _say({"answers": {"disagreements": told}})
    print("\n".join(told) or "The stores agree.")
    return 1 if told else 0


def _serve(given: Given) -> int:
    from .serving import Server

    with Server(given.dir, given.port) as server:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()
    return 0


def _load(given: Given) -> int:
    from .load import load

    done = load(
        given.dir, given.rate, given.seconds, given.writers, barrier=not given.no_barrier, seed=given.seed,
        told=lambda what: print(what, file=sys.stderr, flush=True),
    )  # fmt: skip
    return _say(done)


def _work(given: Given) -> int:
    from .load import work

    return _say(work(given.dir, given.kind, given.rate, given.seed, given.run_id, barrier=not given.no_barrier))


def _strike(given: Given) -> int:
    from .harmless import HARMLESS
    from .incidents import INCIDENTS
    from .wording import adopt

    acts = INCIDENTS | HARMLESS | {"other-words": adopt}
    if given.incident not in acts:
        print(f"helpdesk: there is no incident {given.incident!r}; there are: {', '.join(acts)}", file=sys.stderr)
        return os.EX_USAGE
    print(acts[given.incident](given.dir))
    return 0


def _fence(given: Given) -> int:
    from examples.handbook.gate import fence

    fence(given.dir)
    return 0


def _reload(given: Given) -> int:
    from examples.handbook.gate import reload

    reload(given.dir)
    return 0


def _told(answer: Any, as_json: bool) -> int:
    if as_json:
        return _say(answer._asdict())
    print(answer.text)
    if answer.waits:
        print(f"Ticket {answer.ticket} waits for a decision: resume {answer.thread} yes|no")
    return 0


def _say(what: Any) -> int:
    print(json.dumps(what))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="helpdesk", description="A support agent over technical documents.")
    commands = parser.add_subparsers(required=True)
    make = _command(commands, "make", _make, "make a desk in an empty folder")
    make.add_argument(
        "--chunks", type=int, default=2000, help="beyond the corpus it is repeated, and labelled (%(default)s)"
    )
    make.add_argument("--isolation", choices=("required", "best-effort"), default="required")
    make.add_argument("--llm", action="store_true", help="a small language model writes the answers")
    make.add_argument("--json", action="store_true")
    ask = _command(commands, "ask", _ask, "ask one question as a customer")
    ask.add_argument("question")
    ask.add_argument("--thread", help="the conversation (that of the customer)")
    ask.add_argument("--customer", type=int, default=1)
    ask.add_argument("--read-only", action="store_true", help="answer, and remember nothing")
    ask.add_argument("--json", action="store_true")
    resume = _command(commands, "resume", _resume, "decide for a thread that waits")
    resume.add_argument("thread")
    resume.add_argument("decision", choices=("yes", "no"))
    resume.add_argument("--json", action="store_true")
    serve = _command(commands, "serve", _serve, "serve /ask and /health over HTTP")
    serve.add_argument("--port", type=int, default=0, help="0 is any that is free (%(default)s)")
    load = _command(commands, "load", _load, "write from other processes, until standard input closes or time is over")
    load.add_argument("--rate", type=float, default=20.0, help="acts a second, of all writers together (%(default)s)")
    load.add_argument("--seconds", type=float, default=10.0)
    load.add_argument("--writers", type=int, default=2, help="processes; the first is the keeper (%(default)s)")
    work = _command(commands, "work", _work, argparse.SUPPRESS)
    work.add_argument("kind", choices=("keeper", "customer"))
    work.add_argument("--rate", type=float, required=True)
    work.add_argument("--run", dest="run_id", required=True)
    for writing in (load, work):
        writing.add_argument("--no-barrier", action="store_true")
        writing.add_argument("--seed", type=int, default=0)
    agree = _command(commands, "agree", _agree, "whether the stores agree with each other")
    agree.add_argument("--probe", action="store_true", help="of the places given on standard input, as a probe asks")
    strike = _command(commands, "strike", _strike, "damage this desk, or do what must not alarm, for a rehearsal")
    strike.add_argument("incident")
    _command(commands, "embed", _embed, "turn a probe's texts into vectors: JSON in, JSON out")
    _command(commands, "reach", _reach, "answer a probe: which chunks are not found by their own words")
    _command(commands, "offer", _offer, "answer a probe: the tools, as a model is told of them")
    answer = _command(commands, "answer", _answer, "answer a probe: JSON on standard input, JSON on standard output")
    answer.add_argument("--samples", type=int, default=0, help="so many texts for each question")
    _command(commands, "fence", _fence, "keep clients out, and wait until they have left")
    _command(commands, "reload", _reload, "let clients in again")
    return parser


def _command(commands: Any, name: str, run: Any, told: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=told)
    command.set_defaults(run=run)
    own = _home()
    if own is None:
        command.add_argument("dir", type=os.path.abspath, help="the system's folder")
    else:
        command.set_defaults(dir=own)
    return command


def _home() -> str | None:
    """The folder in whose ``app`` this package is, if it is in one."""
    app = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return os.path.dirname(app) if os.path.basename(app) == "app" else None


if __name__ == "__main__":
    sys.exit(main())
