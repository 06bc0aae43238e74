"""Several processes at one journal: two declare at once, and one is killed between facts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from tasks.core import DrivenClock
from tasks.incidents import Journal

_DECLARE = """
import sys, time
from tasks.core import DrivenClock
from tasks.incidents import Journal
url, clock, gate, name = sys.argv[1:]
import pathlib
while not pathlib.Path(gate).exists(): time.sleep(0.001)
j = Journal.open(url, DrivenClock(clock))
print(j.declare("esp", cause_class="unknown", summary=name, detected_at=j.clock.now(), declared_by=name).id)
"""
_WRITE = """
import sys
from datetime import timedelta
from tasks.core import DrivenClock
from tasks.incidents import Journal
j = Journal.open(sys.argv[1], DrivenClock(sys.argv[2]))
i = j.declare("esp", cause_class="unknown", summary="s", detected_at=j.clock.now(), declared_by="x")
l = j.lease(i.id, "run", timedelta(hours=1))
a = j.intend(i.id, "pause:1", kind="pause", target="campaign/1", payload={}, previous_state={}, undo={}, token=l.token)
j.unknown(a.id, "no answer", token=l.token)
j.resolve_unknown(a.id, "done", {"status": "paused"}, token=l.token)
j.release(l)
"""
POINTS = [
    f"journal.{what}:{when}"
    for what in ("declare", "lease", "intend", "unknown", "resolve")
    for when in ("before", "after")
]


@pytest.mark.kill
def test_processes_that_declare_at_once_make_one_incident(
    any_url: str, clock: DrivenClock, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", _DECLARE, any_url, str(clock.path), str(gate), f"process {n}"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(4)
    ]
    gate.touch()
    assert [run.communicate(timeout=120)[0].strip() for run in runs] == ["INC-0001"] * 4
    with Journal.open(any_url, clock) as journal:
        assert len(journal.incidents()) == 1


@pytest.mark.kill
@pytest.mark.parametrize("point", POINTS)
def test_a_writer_killed_between_facts_leaves_a_journal_that_opens_and_goes_on(
    url: str, clock: DrivenClock, point: str
) -> None:
    command = [sys.executable, "-c", _WRITE, url, str(clock.path)]
    killed = subprocess.run(command, env={**os.environ, "MAILSTAY_CRASH_AT": point}, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    with Journal.open(url, clock) as journal:
        one = journal.declare(
            "esp", cause_class="unknown", summary="s", detected_at=clock.now(), declared_by="x"
        )
        assert one.id == "INC-0001"
        lease = journal.lease(one.id, "next run", timedelta(hours=1))  # the dead process does not block it
        action = journal.intend(
            one.id, "pause:1", kind="pause", target="campaign/1", payload={}, previous_state={}, undo={},
            token=lease.token,
        )  # fmt: skip
        expected = {
            "journal.intend:after": "intended",
            "journal.unknown:before": "intended",
            "journal.unknown:after": "unknown",
            "journal.resolve:before": "unknown",
            "journal.resolve:after": "done",
        }
        assert action.is_new is (point not in expected)
        assert action.status == expected.get(point, "intended")


_CLAIM = """
import sys, time, pathlib
from tasks.core import DrivenClock
from tasks.incidents import Journal
j = Journal.open(sys.argv[1], DrivenClock(sys.argv[2]))
while not pathlib.Path(sys.argv[3]).exists(): time.sleep(0.001)
print(sum(j.claim_state(f"notice/{n}", {"status": "intended"}, over=()) for n in range(50)))
"""


@pytest.mark.kill
def test_processes_that_claim_at_once_share_out_the_claims(
    any_url: str, clock: DrivenClock, tmp_path: Path
) -> None:
    Journal.open(any_url, clock).close()
    gate = tmp_path / "gate"
    command = [sys.executable, "-c", _CLAIM, any_url, str(clock.path), str(gate)]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    gate.touch()
    assert sum(int(run.communicate(timeout=120)[0]) for run in runs) == 50
