"""Named points at which a test can kill this very process, to prove that a kill there loses nothing.

In production the environment variable is unset and a point costs one dictionary look-up.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

VARIABLE = "MAILSTAY_CRASH_AT"
LOG = "MAILSTAY_CRASH_LOG"
_passed: Counter[str] = Counter()


def crash_point(name: str) -> None:
    """Kill this process with SIGKILL if `MAILSTAY_CRASH_AT` names this point.

    The variable holds `name` or `name#n`: the n-th passing (from 1) of that point, `*#n` the n-th passing of
    any point. SIGKILL runs no handler, no `finally` and no rollback hook, as a real kill does. The file that
    `MAILSTAY_CRASH_LOG` names gets a line with the point, so that kills can be counted.
    """
    wanted = os.environ.get(VARIABLE)
    if wanted is None:
        return
    _passed[name] += 1
    _passed["*"] += 1
    point, _, nth = wanted.partition("#")
    if point in (name, "*") and _passed[point] == int(nth or 1):
        if log := os.environ.get(LOG):
            with Path(log).open("a", encoding="utf-8") as file:
                file.write(f"{name}\n")
        os.kill(os.getpid(), signal.SIGKILL)
