"""What an outage leaves behind, built once and copied for each kill; and processes that are killed on the way."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tasks.core import DrivenClock
from tests.kills.forked import Forks

REPOSITORY = Path(__file__).resolve().parents[2]
HOUR = timedelta(hours=1)
PEOPLE = 60

_RUN = """
import json, sys
from flows.{flow} import {flow}
found = {flow}(plan=sys.argv[1], **json.loads(sys.argv[2]))
from tasks.core import crash
print("RESULT " + json.dumps({{"state": getattr(found, "state", ""), "reason": getattr(found, "reason", ""),
      "points": dict(crash._passed)}}))
"""


def _bench() -> ModuleType:
    path = REPOSITORY / "tests" / "catchup" / "conftest.py"
    spec = importlib.util.spec_from_file_location("recovery_bench", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def run_flow(
    flow: str, plan: Path, crash_at: str = "nowhere", **options: Any
) -> tuple[int, dict[str, Any], str]:
    """Run a flow in a process of its own; return its exit code, its result and what it wrote."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN.format(flow=flow), str(plan), json.dumps(options)],
        cwd=REPOSITORY,
        env={**os.environ, "MAILSTAY_CRASH_AT": crash_at},
        capture_output=True,
        text=True,
        timeout=240,
    )
    results = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    result = json.loads(results[-1].removeprefix("RESULT ")) if results else {}
    return done.returncode, result, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.fixture(scope="session")
def run_in_process() -> Callable[..., tuple[int, dict[str, Any], str]]:
    return run_flow


@pytest.fixture(scope="session")
def forks(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Starts flows in processes that are forked ready, each on the real Prefect server."""
    made = Forks(tmp_path_factory.mktemp("forks"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def outage(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A closed bench: a newsletter cut in the middle, four campaigns due, opt-outs that the ESP never took.

    The newsletter and the others are not stopped yet, the faults still on: `respond` has not run.
    """
    folder = tmp_path_factory.mktemp("outage")
    clock = DrivenClock.create(folder / "clock.json", datetime(2011, 11, 16, 7, 0, tzinfo=UTC))
    bench = _bench().Bench(folder, clock, people=PEOPLE, batch=40)
    try:
        bench.campaign("News", status="running")
        bench.campaign("Launch", kind="launch", at=HOUR, deadline=3 * HOUR)
        bench.campaign("Sale", kind="sale", at=2 * HOUR, deadline=11 * HOUR)
        bench.campaign("Come back", kind="winback", at=3 * HOUR)
        bench.campaign("Tomorrow", at=24 * HOUR)
        bench.die(20)
        for fault in ("stalled", "unsubscribe_failing", "status_green", "webhook_loss"):
            bench.esp.fault(fault)
        clock.advance(timedelta(minutes=20))
        bench.esp.restart()
        clock.advance(30)
        bench.opt_out(5, 41, 60)
    finally:
        bench.close()
    return bench


@pytest.fixture(scope="session")
def aftermath(outage: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same, stopped by the response, and the ESP works again: closed, for `recover`."""
    bench = outage.copy(tmp_path_factory.mktemp("aftermath"))
    try:
        bench.incident = bench.respond(*bench.planned, impact_hours_ago=0.3)
        bench.clock.advance(4 * HOUR)
        bench.opt_out(7, 50)
        for fault in ("stalled", "unsubscribe_failing", "status_green", "webhook_loss"):
            bench.esp.clear(fault)
    finally:
        bench.close()
    return bench


@pytest.fixture
def open_copy(tmp_path: Path) -> Iterator[Callable[[Any], Any]]:
    """A function that opens a copy of a closed bench."""
    made: list[Any] = []

    def copy(bench: Any) -> Any:
        twin = bench.copy(tmp_path / f"copy-{len(made)}")
        twin.incident = getattr(bench, "incident", "")
        made.append(twin)
        return twin

    yield copy
    for one in made:
        one.close()
