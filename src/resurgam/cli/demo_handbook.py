"""The handbook in ``resurgam demo``: a system of SQLite and files that any installation can run, and five real damages.

Each damage takes the folder of a handbook system, does what its name says, and tells in a sentence what it did.
"""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Iterable
from contextlib import closing

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from safetensors import safe_open
from safetensors.numpy import save_file

from resurgam.cli import output
from resurgam.cli.demo_cast import Act, Cast, Trace, Watched, moved
from resurgam.model.system import Json

DATABASE = "data/handbook.db"
MODEL = "models/router.safetensors"
PROMPT = "prompts/answer.md"
ROWS = 5

# Of equal length, and each turns what is said around: nothing that counts or measures can notice.
_TWISTS = (
    *(
        (" not ", " now "),
        (" returned", " rejected"),
        (" return ", " ignore "),
        ("Return ", "Ignore "),
        (" must ", " need "),
    ),
    *((" is ", " be "), (" are ", " ain "), (" of ", " or "), (" to ", " by "), (" the ", " any "), (" a ", " 0 ")),
)
_QUOTED = 120  # characters at a chunk's beginning: an answer quotes them


def encrypt(home: str) -> str:
    """Encrypt the database as ransomware does: AES-256-CTR into a second file, which then takes the first one's name."""
    path = os.path.join(home, DATABASE)
    before = os.stat(path)
    cipher = Cipher(algorithms.AES256(os.urandom(32)), modes.CTR(os.urandom(16))).encryptor()
    with open(path, "rb") as plain, open(f"{path}.locked", "xb") as locked:
        while block := plain.read(1 << 20):
            locked.write(cipher.update(block))
        locked.write(cipher.finalize())
    os.utime(f"{path}.locked", ns=(before.st_atime_ns, before.st_mtime_ns))
    os.rename(f"{path}.locked", path)
    return f"{before.st_size:,} bytes of {DATABASE} encrypted; name, size and time are as before, the key is gone"


def change_rows(home: str, cited: Iterable[int]) -> str:
    """Turn a word around in ``ROWS`` of the chunks ``cited``, with ordinary UPDATE statements of a valid login."""
    changed: list[int] = []
    with closing(sqlite3.connect(os.path.join(home, DATABASE), isolation_level=None)) as database:
        for chunk in cited:
            (text,) = database.execute("SELECT text FROM chunks WHERE id = ?", (chunk,)).fetchone()
            twisted = _twisted(text)
            if twisted != text and chunk not in changed and len(changed) < ROWS:
                database.execute("UPDATE chunks SET text = ? WHERE id = ?", (twisted, chunk))
                changed.append(chunk)
    return (
        f"one word in each of chunks {', '.join(map(str, changed))} changed; {len(changed)} rows, none added, none gone"
    )


def change_prompt(home: str) -> str:
    """Change one line of the prompt."""
    path = os.path.join(home, PROMPT)
    with open(path, encoding="utf-8") as file:
        lines = file.read().split("\n")
    number = next(number for number, line in enumerate(lines) if line.startswith("Never "))
    before, lines[number] = lines[number], lines[number].replace("Never ", "Often ", 1)
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines))
    return f"line {number + 1} of {PROMPT} was {before!r} and is {lines[number]!r}"


def swap_weights(home: str) -> str:
    """Put another model in the router's place: the same names, types and shapes, each section's weights another's."""
    path = os.path.join(home, MODEL)
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
        tensors = {name: np.ascontiguousarray(np.roll(file.get_tensor(name), 1, axis=-1)) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata=metadata)
    shapes = ", ".join(f"{name} {'x'.join(map(str, tensor.shape))}" for name, tensor in sorted(tensors.items()))
    return f"{MODEL} holds other weights of the same shape ({shapes})"


def vacuum(home: str) -> str:
    """Write the database anew without its free pages, as maintenance does."""
    path = os.path.join(home, DATABASE)
    before = os.path.getsize(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.execute("VACUUM")
    return f"{DATABASE} is vacuumed: {before:,} bytes are now {os.path.getsize(path):,}"


def _twisted(text: str) -> str:
    head, tail = text[:_QUOTED], text[_QUOTED:]
    for word, other in _TWISTS:
        if word in head:
            return head.replace(word, other, 1) + tail
    return text


def _built(told: Json) -> tuple[str, ...]:
    return (
        (
            f"{told['chunks']} chunks of {told['documents']} documents (the help of this Python, PSF-2.0), "
            f"in {told['sections']} sections;"
        ),
        (
            f"a router trained here: {told['accuracy']:.0%} of unseen chunks in the right section "
            f"({told['guessing']:.0%} by guessing)."
        ),
    )


def _written(told: Json) -> str:
    return f"the slowest of them waited {output.seconds(told['longest'])}"


INCIDENTS = (
    Act(
        "ransomware",
        "The database is encrypted by ransomware",
        lambda _stage, home, _cited: encrypt(home),
        ("row counts", "quick_check"),
        level="rows",
        few=True,
    ),
    Act(
        "changed-rows",
        f"{ROWS} rows are quietly changed",
        lambda _stage, home, cited: change_rows(home, cited),
        level="answers",
    ),
    Act(
        "edited-prompt",
        "A prompt is changed by one word",
        lambda _stage, home, _cited: change_prompt(home),
        level="answers",
    ),
    Act(
        "swapped-router",
        "The model's weights are swapped for others of the same shape",
        lambda _stage, home, _cited: swap_weights(home),
        level="answers",
    ),
    Act(
        "captured-as-healthy",
        "A prompt is changed, and then the system is captured as if it were healthy: only the reference can tell",
        lambda _stage, home, _cited: change_prompt(home),
        level="answers",
        captured=True,
        traces=(Trace("prompts", "~ answer.md", details=6),),
        few=True,
    ),
)
HARMLESS = (
    Act("vacuum", "The database is vacuumed", lambda _stage, home, _cited: vacuum(home), few=True),
    Act("other-path", "The system is moved to another folder", moved),
)

HANDBOOK = Cast(
    name="handbook",
    title="A system: documents, a trained router, prompts, policies, configuration",
    needs=(),
    build="setup",
    built=_built,
    tickets=DATABASE,
    question="How do I acquire a lock in a thread and release it again?",
    asked=(),
    probe="golden",
    case="lock",
    writers=("write", "--rate", "200"),
    ends_by=signal.SIGTERM,
    written=_written,
    levels={"sections": "rows", "plans": "rows", "strays": "rows", "golden": "answers"},
    watched=Watched(("data", "models", "prompts", "policies", "config"), (DATABASE,), (MODEL,)),
    incidents=INCIDENTS,
    harmless=HARMLESS,
)
