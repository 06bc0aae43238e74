"""Flows in processes that are forked ready to run: a kill costs the work that it ends, not the imports before it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]

_FORKS = """
import json, os, sys, traceback
from flows.abort import abort
from flows.recover import recover
from flows.respond import respond
from tasks.core import crash
for line in sys.stdin:
    asked = json.loads(line)
    pid = os.fork()
    if pid:
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
        continue
    code = 1
    try:
        said = os.open(asked["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.environ.update(asked["env"])
        found = globals()[asked["flow"]](plan=asked["plan"], **asked["options"])
        result = {"state": getattr(found, "state", ""), "reason": found.reason, "points": dict(crash._passed)}
        print("RESULT " + json.dumps(result))
        code = 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(code)
"""


@dataclass(frozen=True)
class Ended:
    """How a run ended: its exit code (-9 if it was killed), what it returned, and what it wrote."""

    code: int
    result: dict[str, Any]
    said: str


class Forks:
    """Starts a flow at a time, each in a process of its own that nothing but the flow runs in."""

    def __init__(self, folder: Path) -> None:
        self._said = folder / "said.log"
        self._server = subprocess.Popen(
            [sys.executable, "-c", _FORKS],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self,
        flow: str,
        plan: Path,
        *,
        crash_at: str = "nowhere",
        kill_after: float | None = None,
        **options: Any,
    ) -> Ended:
        """Run a flow to its end, to a named point, or for so many seconds until it is killed."""
        log = os.environ.get("MAILSTAY_CRASH_LOG", os.devnull)
        env = {"MAILSTAY_CRASH_AT": crash_at, "MAILSTAY_CRASH_LOG": log} | {
            name: value for name, value in os.environ.items() if name.startswith(("MAILSTAY_ESP", "PREFECT_"))
        }
        asked = {"flow": flow, "plan": str(plan), "options": options, "said": str(self._said), "env": env}
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(asked) + "\n")
        self._server.stdin.flush()
        pid = int(self._server.stdout.readline())
        if kill_after is not None:
            time.sleep(kill_after)
            with suppress(ProcessLookupError):  # it may have ended by itself
                os.kill(pid, signal.SIGKILL)
        code = int(self._server.stdout.readline())
        if kill_after is not None and code == -signal.SIGKILL:
            with Path(log).open("a", encoding="utf-8") as file:
                file.write(f"{flow}-at-a-random-moment\n")
        said = self._said.read_text(encoding="utf-8", errors="replace")
        results = [line for line in said.splitlines() if line.startswith("RESULT ")]
        return Ended(code, json.loads(results[-1].removeprefix("RESULT ")) if results else {}, said[-6000:])

    def close(self) -> None:
        """End the server; no flow of it runs any more."""
        self._server.communicate()
