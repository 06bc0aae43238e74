"""SIGKILL of `recover` at its journaled steps, then again: the mailbox of the real SMTP server is the judge."""

import random
from collections import Counter
from datetime import timedelta

import pytest

from tasks.incidents import Journal

pytestmark = [pytest.mark.kill, pytest.mark.integration]
KILLED = -9
POLICY = {"approval": "policy", "name": "kill test"}
HOUR = timedelta(hours=1)

CHAIN = [
    "recover.consent:pushed",
    "recover.held:frozen",
    "recover.cancel:called",
    "recover.drop:closed",
    "recover.step:frozen",
    "recover.fill_list:called",
    "recover.create_campaign:called",
    "recover.start:called",
    "recover.start:intended",
    "recover.step:done",
    "recover.reschedule:called",
    "recover.resolve:mitigated",
]
"""In the order in which a run passes them; after a call and before its outcome is written is where it hurts most."""


def prove(bench) -> None:
    """The promise, and that nothing is left stopped."""
    ledgers = bench.ledgers(bench.incident)
    bench.judge(ledgers)
    assert set(ledgers) == set(bench.planned)
    provider = bench.provider()
    status = {one.id: one for one in provider.campaigns()}
    assert not [one.name for one in status.values() if one.status in ("paused", "running")]
    # A draft that is left has no time any more and says why.
    assert not [one.name for one in status.values() if one.status == "draft" and one.send_at is not None]
    with Journal.open(bench.journal_url, bench.clock) as journal:
        assert journal.incident(bench.incident).state == "resolved"
        actions = journal.actions(bench.incident)
        assert {one.status for one in actions} <= {"done", "not_done"}
        pauses = Counter(one.target for one in actions if one.kind in ("pause", "unschedule"))
        assert max(pauses.values()) == 1
    provider.close()


@pytest.fixture(scope="session")
def whole_run(aftermath, prefect_server, run_in_process, tmp_path_factory):
    """The crash points that one undisturbed recovery passes, with how often."""
    bench = aftermath.copy(tmp_path_factory.mktemp("whole"))
    bench.incident = aftermath.incident
    try:
        code, result, said = run_in_process("recover", bench.plan_path, **POLICY)
        assert (code, result.get("state")) == (0, "resolved"), said
        prove(bench)
    finally:
        bench.close()
    return result["points"]


def test_the_sample_of_crash_points_is_really_passed(whole_run) -> None:
    assert not [point for point in CHAIN if point not in whole_run]


def test_killed_six_times_in_a_row_it_still_keeps_its_promise(
    whole_run, aftermath, open_copy, run_in_process
) -> None:
    bench = open_copy(aftermath)
    for point in CHAIN[1::2]:
        code, _, said = run_in_process("recover", bench.plan_path, crash_at=point, **POLICY)
        assert code == KILLED, f"{point}: {said}"
        bench.judge({}, finished=False)
        bench.clock.advance(timedelta(minutes=2))
    code, result, said = run_in_process("recover", bench.plan_path, **POLICY)
    assert (code, result["state"]) == (0, "resolved"), said
    prove(bench)


@pytest.mark.parametrize(
    "point",
    [
        pytest.param("recover.start:called", marks=pytest.mark.slow),
        "recover.start:called#3",
        "recover.step:intended#2",
    ],
)
def test_killed_and_left_alone_until_all_deadlines_are_over_nothing_goes_out_late(
    point, aftermath, open_copy, run_in_process, prefect_server
) -> None:
    bench = open_copy(aftermath)
    code, _, said = run_in_process("recover", bench.plan_path, crash_at=point, **POLICY)
    assert code == KILLED, said
    bench.clock.advance(12 * HOUR)
    bench.judge({}, finished=False)
    code, result, said = run_in_process("recover", bench.plan_path, **POLICY)
    assert (code, result["state"]) == (0, "resolved"), said
    prove(bench)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_killed_at_the_first_and_the_last_passing_of_every_point_it_keeps_its_promise(
    whole_run, aftermath, tmp_path, run_in_process
) -> None:
    points = [name for name in whole_run if name != "*"]
    passings = [*points, *(f"{name}#{whole_run[name]}" for name in points if whole_run[name] > 1)]
    for number, point in enumerate(sorted(passings)):
        bench = aftermath.copy(tmp_path / f"at-{number}")
        bench.incident = aftermath.incident
        try:
            code, _, said = run_in_process("recover", bench.plan_path, crash_at=point, **POLICY)
            assert code == KILLED, f"{point}: {said}"
            bench.judge({}, finished=False)
            code, result, said = run_in_process("recover", bench.plan_path, **POLICY)
            # Killed behind its very last write there is nothing left to go on with, and it says so.
            over = point == f"journal.state:after#{whole_run['journal.state:after']}"
            done = "No incident is open" in said if over else (code, result.get("state")) == (0, "resolved")
            assert done, f"after a kill at {point}: {said}"
            prove(bench)
        finally:
            bench.close()


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", range(24))
def test_killed_again_and_again_at_random_points_it_keeps_its_promise(
    seed, whole_run, aftermath, open_copy, run_in_process
) -> None:
    """Up to twelve kills in a row, each at any passing of any point of what is left to do, with time between them."""
    dice = random.Random(seed)
    bench = open_copy(aftermath)
    for _ in range(12):
        at = dice.randint(1, whole_run["*"])
        code, result, said = run_in_process("recover", bench.plan_path, crash_at=f"*#{at}", **POLICY)
        if code == 0:  # fewer points were left: it went through
            assert result.get("state") == "resolved", said
            break
        assert code == KILLED, f"seed {seed}: {said}"
        bench.judge({}, finished=False)
        bench.clock.advance(timedelta(minutes=dice.choice([0, 1, 7, 45])))
    else:
        code, result, said = run_in_process("recover", bench.plan_path, **POLICY)
        assert (code, result.get("state")) == (0, "resolved"), f"seed {seed}: {said}"
    prove(bench)
