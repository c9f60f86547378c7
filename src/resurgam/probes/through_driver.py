"""Asks one component through its driver, in a child process, wherever the runner runs commands (P6).

Probes and drivers do not know each other. Between them stands a program, ``resurgam.drivers.asking``, which says what it takes
and prints; it is named here and nowhere imported.
"""

from __future__ import annotations

import json
import sys

from resurgam.model.codec import to_plain
from resurgam.model.system import Component, Json
from resurgam.probes.base import Completed, Runner

PROGRAM = "resurgam.drivers.asking"
# Sums of floating-point numbers depend on how many threads share them.
ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def ask_driver(component: Component, question: dict[str, Json], runner: Runner, timeout: float) -> Completed:
    """What the driver of ``component`` answers to ``question``, a ``query`` or ``searches``."""
    request = {"component": to_plain(component), **question}
    # -I: neither the environment nor the folder that it is started in has a say in what is imported.
    argv = [sys.executable, "-I", "-m", PROGRAM]
    return runner.run(argv, input=json.dumps(request).encode(), env=ONE_THREAD, timeout=timeout)
