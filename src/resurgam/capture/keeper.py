"""The process that keeps a barrier of commands: it outlives the capture that started it, and always lets the barrier go.

    capture starts it with both commands; it runs ``hold`` and reports how that ended, one line of JSON
    its standard input ends, since the capture has thawed everything, gave up waiting, or was killed:
    it kills ``hold`` where that still runs, and becomes ``release``

So ``release`` runs exactly once, after ``hold``, on every way out but the loss of the whole host. It may find nothing held. The
module runs by itself, in a session of its own, and imports nothing of the package: it must start at once and stay small.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile

TICK = 0.005  # seconds between looks at a command that runs
KEPT = 2000  # bytes: of what a command says about its failure, the end is kept
NOT_FOUND, CANNOT_RUN = 127, 126  # as POSIX shells report it


def main(argv: list[str]) -> None:
    """``argv`` is one JSON text: ``{"hold": [...], "release": [...]}``. Ends as ``release`` does."""
    orders = json.loads(argv[1])
    report = _hold(orders["hold"])
    if report is not None:
        sys.stdout.write(json.dumps(report) + "\n")
        sys.stdout.flush()
        while os.read(0, 1):  # until the capture lets go, or is gone
            pass
    try:
        os.execvp(orders["release"][0], orders["release"])  # noqa: S606 - the owner's command, and no shell
    except OSError as error:
        sys.stderr.write(f"cannot be run: {error.strerror}")
        sys.exit(NOT_FOUND if isinstance(error, FileNotFoundError) else CANNOT_RUN)


def _hold(command: list[str]) -> dict[str, object] | None:
    """Run ``command``; how it ended, or None where the capture did not wait for that."""
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True
            )
        except OSError as error:
            code = NOT_FOUND if isinstance(error, FileNotFoundError) else CANNOT_RUN
            return {"code": code, "errors": f"cannot be run: {error.strerror}"}
        while process.poll() is None:
            if select.select([0], [], [], TICK)[0]:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return None
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - KEPT))
        return {"code": process.returncode, "errors": errors.read().decode(errors="replace").strip()}


if __name__ == "__main__":
    main(sys.argv)
