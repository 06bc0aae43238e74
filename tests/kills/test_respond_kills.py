"""SIGKILL of `respond` at its journaled steps, then again, then `recover`: no campaign is stopped twice or left so."""

from collections import Counter

import httpx
import pytest

from tasks.incidents import Journal

pytestmark = [pytest.mark.kill, pytest.mark.integration]
KILLED = -9
ACT = {
    "provider": "esp", "mode": "act", "approval": "policy", "name": "kill test", "wait_minutes": 0,
    "cause_class": "technical_failure", "seen": "nothing is sent", "scope": [1, 2, 3, 4, 5],
    "impact_started_at": "2011-11-16T07:00:20+00:00",
}  # fmt: skip
FAULTS = ("stalled", "unsubscribe_failing", "status_green", "webhook_loss")

SAMPLE = [
    ("respond.declare:after",),
    pytest.param(("respond.pause:intended", "respond.pause:called"), marks=pytest.mark.slow),
    (
        "respond.unschedule:intended",
        "respond.unschedule:called",
        "respond.unschedule:called#2",
        "respond.tell:before",
    ),
]
"""Chains of kills, each on a fresh outage."""


def stops(bench) -> Counter:
    """How often each campaign was stopped, as the journal says: intents of pausing or unscheduling."""
    with Journal.open(bench.journal_url, bench.clock) as journal:
        bench.incident = journal.open_incident("esp").id
        return Counter(
            one.target for one in journal.actions(bench.incident) if one.kind in ("pause", "unschedule")
        )


def prove_stopped(bench) -> None:
    """Every campaign stands still and was stopped once."""
    assert set(stops(bench).values()) == {1}
    provider = bench.provider()
    assert {one.status for one in provider.campaigns() if one.id in bench.planned} <= {"paused", "draft"}
    provider.close()
    with Journal.open(bench.journal_url, bench.clock) as journal:
        assert len(journal.incidents()) == 1
        assert not [
            one.key for one in journal.actions(bench.incident) if one.status in ("intended", "unknown")
        ]


@pytest.mark.parametrize("points", SAMPLE, ids=lambda points: "+".join(points))
def test_killed_on_the_way_it_stops_each_campaign_once_and_recover_leaves_none_stopped(
    points, outage, open_copy, run_in_process, prefect_server
) -> None:
    bench = open_copy(outage)
    for point in points:
        code, _, said = run_in_process("respond", bench.plan_path, crash_at=point, **ACT)
        assert code == KILLED, f"{point}: {said}"
    code, _, said = run_in_process("respond", bench.plan_path, **ACT)
    assert code == 0, said
    prove_stopped(bench)
    bench.clock.advance(4 * 3600)
    for fault in FAULTS:
        bench.esp.clear(fault)
    code, result, said = run_in_process("recover", bench.plan_path, approval="policy", name="kill test")
    assert (code, result["state"]) == (0, "resolved"), said
    bench.judge(bench.ledgers(bench.incident))
    provider = bench.provider()
    assert not [one.name for one in provider.campaigns() if one.status in ("paused", "running")]
    provider.close()
    with Journal.open(bench.journal_url, bench.clock) as journal:
        assert {one.status for one in journal.actions(bench.incident)} <= {"done", "not_done"}


def test_a_campaign_stopped_by_hand_meanwhile_is_not_stopped_again(
    outage, open_copy, run_in_process, prefect_server
) -> None:
    bench = open_copy(outage)
    code, _, said = run_in_process("respond", bench.plan_path, crash_at="respond.pause:intended", **ACT)
    assert code == KILLED, said
    httpx.put(
        f"{bench.esp.api_url}/api/campaigns/1/status",
        json={"status": "paused"},
        auth=(bench.esp.user, bench.esp.token),
        timeout=20,
    ).raise_for_status()
    code, _, said = run_in_process("respond", bench.plan_path, **ACT)
    assert code == 0, said
    prove_stopped(bench)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_killed_at_every_single_crash_point_it_stops_each_campaign_once(
    outage, tmp_path, run_in_process, prefect_server
) -> None:
    number, code = 0, KILLED
    while code == KILLED:
        number += 1
        bench = outage.copy(tmp_path / f"at-{number}")
        try:
            code, _, said = run_in_process("respond", bench.plan_path, crash_at=f"*#{number}", **ACT)
            assert code in (KILLED, 0), said
            again, _, said = run_in_process("respond", bench.plan_path, **ACT)
            assert again == 0, f"after a kill at point {number}: {said}"
            prove_stopped(bench)
        finally:
            bench.close()
    assert number > 20
