"""Runs operations of a world each in a process of its own, forked from this one, which has everything imported.

Reads one line of JSON after the other: orders that run at once, `{"do", "home", "url", "target", "crash_at",
"file_limit", "wait"}`; writes a line with the exit code of each.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from tasks.core import MailstayError
from tests.snapshots.world import OPERATIONS, World


def run(order: dict[str, Any]) -> int:
    if order.get("crash_at"):
        os.environ["MAILSTAY_CRASH_AT"] = order["crash_at"]
    if log := order.get("crash_log"):
        os.environ["MAILSTAY_CRASH_LOG"] = log
    if limit := order.get("file_limit"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    time.sleep(order.get("wait", 0))
    try:
        OPERATIONS[order["do"]](World(Path(order["home"]), order["url"], order.get("target", "")))
    except MailstayError as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    except BaseException:
        traceback.print_exc()
        return 2
    return 0


def main() -> None:
    for line in sys.stdin:
        children = []
        for order in json.loads(line):
            child = os.fork()
            if child == 0:
                os._exit(run(order))
            children.append(child)
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(one, 0)[1]) for one in children]), flush=True)


if __name__ == "__main__":
    main()
