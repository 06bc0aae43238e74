"""Named points at which a test can kill this very process, to prove that a kill there loses nothing.

In production the environment variable is unset and a point costs one dictionary look-up.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

VARIABLE = "MAILSTAY_CRASH_AT"
_passed: Counter[str] = Counter()


def crash_point(name: str) -> None:
    """Kill this process with SIGKILL if `MAILSTAY_CRASH_AT` names this point.

    The variable holds `name` or `name#n`: the n-th passing (from 1) of that point, `*#n` the n-th passing of
    any point. SIGKILL runs no handler, no `finally` and no rollback hook, as a real kill does.
    """
    wanted = os.environ.get(VARIABLE)
    if wanted is None:
        return
    _passed[name] += 1
    _passed["*"] += 1
    point, _, nth = wanted.partition("#")
    if point in (name, "*") and _passed[point] == int(nth or 1):
        os.kill(os.getpid(), signal.SIGKILL)
