"""SIGKILL of `abort` at its journaled steps, then again: every schedule is back once, and the mailbox is the judge."""

from collections import Counter
from datetime import timedelta

import pytest

from tasks.incidents import Journal

pytestmark = [pytest.mark.kill, pytest.mark.integration]
KILLED = -9
ACT = {"mode": "act", "approval": "policy", "name": "kill test", "wait_minutes": 0}
AHEAD = (2, 3, 4, 5)
"""Of the outage's campaigns those whose time is ahead; 1 was cut in the middle."""

CHAIN = [
    "abort.reschedule:intended",
    "abort.reschedule:called#2",
    "abort.close:lifted",
    "abort.tell:before",
]


def stopped(outage, open_copy, forks):
    """A copy of the outage with everything stopped, and the ESP works again."""
    bench = open_copy(outage)
    bench.before = {one.id: one for one in bench.provider().campaigns()}
    bench.incident = bench.respond(*AHEAD)
    bench.ask("PUT", "/api/campaigns/1/status", {"status": "cancelled"})
    for fault in ("stalled", "unsubscribe_failing", "status_green", "webhook_loss"):
        bench.esp.clear(fault)
    bench.clock.advance(timedelta(minutes=5))
    return bench


def prove_aborted(bench) -> None:
    """Each campaign is as it was, put back once; whoever is due gets it once, on time, and nobody who opted out."""
    provider = bench.provider()
    now = {one.id: one for one in provider.campaigns()}
    assert {number: now[number] for number in AHEAD} == {number: bench.before[number] for number in AHEAD}
    with Journal.open(bench.journal_url, bench.clock) as journal:
        assert journal.incident(bench.incident).state == "canceled"
        actions = journal.actions(bench.incident)
        undone = Counter(one.target for one in actions if one.key.startswith("abort/"))
        told = [one.status for one in journal.communications(bench.incident)]
    assert undone == {f"campaign/{number}": 1 for number in AHEAD}
    assert {one.status for one in actions} == {"done"}
    assert told[-1:] == ["sent"]
    bench.clock.advance(timedelta(hours=30))
    bench.judge({}, finished=False)
    for number in AHEAD:
        got = {who for who, _ in bench.mailed()[number]}
        assert got == bench.audience[number] - set(bench.opted_out)
    provider.close()


def test_killed_at_four_steps_in_a_row_it_ends_as_if_never_killed(outage, open_copy, forks) -> None:
    bench = stopped(outage, open_copy, forks)
    for point in CHAIN:
        ended = forks.run("abort", bench.plan_path, crash_at=point, incident=bench.incident, **ACT)
        assert ended.code == KILLED, f"{point}: {ended.said}"
    ended = forks.run("abort", bench.plan_path, incident=bench.incident, **ACT)
    assert (ended.code, ended.result.get("state")) == (0, "aborted"), ended.said
    prove_aborted(bench)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_killed_at_every_single_point_it_ends_as_if_never_killed(outage, open_copy, forks) -> None:
    number, ended = 0, None
    while ended is None or ended.code == KILLED:
        number += 1
        bench = stopped(outage, open_copy, forks)
        ended = forks.run("abort", bench.plan_path, crash_at=f"*#{number}", incident=bench.incident, **ACT)
        assert ended.code in (KILLED, 0), ended.said
        again = forks.run("abort", bench.plan_path, incident=bench.incident, **ACT)
        assert (again.code, again.result.get("state")) == (0, "aborted"), f"point {number}: {again.said}"
        prove_aborted(bench)
        bench.close()
    assert number > 20
