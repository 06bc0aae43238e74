"""SIGKILL of `respond`, `abort` and `recover` at random moments of their work: real processes, real SMTP.

Where the other suites kill at named points between two writes, this one does not choose: the clock does. The mailbox is
the judge: nobody twice, nobody late, nobody who opted out, nobody forgotten.
"""

from __future__ import annotations

import os
import random
import time
from datetime import timedelta

import pytest

from tasks.incidents import Journal

pytestmark = [pytest.mark.kill, pytest.mark.integration]
KILLED = -9
KILLS = int(os.environ.get("MAILSTAY_RANDOM_KILLS", "200"))
FAULTS = ("stalled", "unsubscribe_failing", "status_green", "webhook_loss")
OPTIONS = {
    "respond": {
        "provider": "esp", "mode": "act", "approval": "policy", "name": "kill test", "wait_minutes": 0,
        "cause_class": "technical_failure", "seen": "nothing is sent",
        "impact_started_at": "2011-11-16T07:00:20+00:00",
    },
    "abort": {"mode": "act", "approval": "policy", "name": "kill test", "wait_minutes": 0},
    "recover": {"approval": "policy", "name": "kill test"},
}  # fmt: skip
OVER = "No incident is open"
ENDS = {"respond": ("",), "abort": ("aborted", "held"), "recover": ("resolved",)}


class Story:
    """One outage with its runs; each is killed at random moments and then left to end.

    Attributes:
        kills: how many runs were really killed.
        lasts: seconds that each flow takes when nobody kills it, as last seen.
    """

    def __init__(self, bench, forks, dice: random.Random, lasts: dict[str, float]) -> None:
        self.bench, self.forks, self.dice, self.lasts = bench, forks, dice, lasts
        self.kills = 0

    def play(self, flow: str, kills: int) -> str:
        """Run `flow`, killed up to so many times, until it ends by itself; return the state that it came to."""
        for _ in range(kills):
            ended = self._run(flow, self.dice.uniform(0.0, 0.7 * self.lasts.get(flow, 2.0)))
            if flow == "recover" and OVER in ended.said:
                return ""  # the run before was killed behind its last write
            assert ended.code in (KILLED, 0), ended.said
            self.kills += ended.code == KILLED
            self.bench.judge({}, finished=False)
            if ended.result.get("state") in ("aborted", "resolved"):
                return str(ended.result["state"])
            if flow == "recover":
                self.bench.clock.advance(timedelta(minutes=self.dice.choice([0, 1, 7])))
        began = time.monotonic()
        ended = self._run(flow)
        self.lasts[flow] = time.monotonic() - began
        over = flow == "recover" and OVER in ended.said
        assert over or (ended.code == 0 and ended.result["state"] in ENDS[flow]), f"{flow}: {ended.said}"
        return "" if over else ended.result["state"]

    def _run(self, flow: str, kill_after: float | None = None):
        options = OPTIONS[flow] | ({"incident": self.bench.incident} if flow == "abort" else {})
        return self.forks.run(flow, self.bench.plan_path, kill_after=kill_after, **options)


def false_alarm(story: Story, kills: int) -> None:
    """Respond, then abort: what is ahead is as it was; what was cut in the middle is recovered."""
    bench, provider = story.bench, story.bench.provider()
    before = {one.id: one for one in provider.campaigns() if one.status == "scheduled"}
    story.play("respond", kills // 4)
    with Journal.open(bench.journal_url, bench.clock) as journal:
        bench.incident = journal.open_incident("esp").id
    for fault in FAULTS:
        bench.esp.clear(fault)
    state = story.play("abort", (kills + 1) // 2)
    assert {number: provider.campaign(number) for number in before} == before
    if state == "held":
        story.play("recover", kills - kills // 4 - (kills + 1) // 2)
    assert {number: provider.campaign(number) for number in before} == before
    bench.clock.advance(timedelta(hours=30))
    for number in before:
        got = {who for who, _ in bench.mailed()[number]}
        assert got == bench.audience[number] - set(bench.opted_out), (
            f"campaign {number}: somebody is forgotten"
        )
    provider.close()


def outage_and_recovery(story: Story, kills: int) -> None:
    """Respond, wait, recover: everybody is mailed who still may be, and who is not has a reason."""
    bench = story.bench
    story.play("respond", kills // 3)
    with Journal.open(bench.journal_url, bench.clock) as journal:
        bench.incident = journal.open_incident("esp").id
    bench.clock.advance(timedelta(hours=4))
    bench.opt_out(7, 50)
    for fault in FAULTS:
        bench.esp.clear(fault)
    story.play("recover", kills - kills // 3)
    assert set(bench.ledgers(bench.incident)) >= {1, 2, 3, 4}


def prove(bench) -> None:
    """Nothing is left stopped, no outcome open, and the promise holds."""
    bench.judge(bench.ledgers(bench.incident))
    provider = bench.provider()
    assert not [one.name for one in provider.campaigns() if one.status in ("paused", "running")]
    provider.close()
    with Journal.open(bench.journal_url, bench.clock) as journal:
        assert journal.incident(bench.incident).state in ("resolved", "canceled")
        assert {one.status for one in journal.actions(bench.incident)} <= {"done", "not_done", "failed"}


@pytest.fixture
def play(outage, tmp_path, forks):
    lasts: dict[str, float] = {}

    def play(seed: int, kills: int) -> int:
        bench = outage.copy(tmp_path / f"story-{seed}")
        try:
            story = Story(bench, forks, random.Random(seed), lasts)
            (false_alarm if seed % 2 else outage_and_recovery)(story, kills)
            prove(bench)
            return story.kills
        except AssertionError as error:
            raise AssertionError(f"story {seed}: {error}") from error
        finally:
            bench.close()

    return play


def test_killed_twice_at_random_moments_a_false_alarm_ends_as_it_should(play) -> None:
    play(1, 2)


@pytest.mark.slow
@pytest.mark.timeout(14400)
def test_killed_two_hundred_times_at_random_moments_the_promise_is_kept(play, record_property) -> None:
    kills, seed = 0, 100
    while kills < KILLS:
        kills += play(seed, 20)
        seed += 1
    record_property("cases", str(kills))
