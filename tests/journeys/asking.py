"""A client of the helpdesk, as a process of its own: asks the same question RATE times a second until its standard input closes,
and prints what it saw, one JSON value: ``[sent, came, status, what]`` of each request in the order of the answers; times are those
of the monotonic clock, ``what`` is the answer's chunks and text.

    python -m tests.journeys.asking http://127.0.0.1:8000 "How do I acquire a lock?" 100

Requests are sent when they are due and not when the last one is answered: a pause delays answers, never questions. Where so many
are unanswered that one more would only wait, it is counted as sent and left out.
"""

from __future__ import annotations

import json
import select
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

AT_ONCE = 8  # unanswered requests


def ask(url: str, question: str) -> list[Any]:
    """One question."""
    sent = time.monotonic()
    request = urllib.request.Request(f"{url}/ask", json.dumps({"question": question, "customer": 3}).encode())
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            told = json.load(answer)
            return [sent, time.monotonic(), answer.status, [told["chunks"], told["text"]]]
    except urllib.error.HTTPError as refused:
        with refused:
            return [sent, time.monotonic(), refused.code, refused.read().decode()]


def main(url: str, question: str, rate: str) -> None:
    """Ask until standard input closes."""
    seen: list[list[Any]] = []
    waiting: set[Future[list[Any]]] = set()
    left_out = 0
    print("asking", flush=True)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        due = time.monotonic()
        while not select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
            due += 1 / float(rate)
            done = {future for future in waiting if future.done()}
            seen += [future.result() for future in done]
            waiting -= done
            if len(waiting) < AT_ONCE:
                waiting.add(pool.submit(ask, url, question))
            else:
                left_out += 1
        seen += [future.result() for future in waiting]
    print(json.dumps({"seen": sorted(seen, key=lambda one: one[1]), "left_out": left_out}))


if __name__ == "__main__":
    main(*sys.argv[1:])
