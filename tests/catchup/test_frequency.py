"""The frequency cap against a real ESP, and in random histories of an outage: nobody gets more than the plan allows."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import yaml
from hypothesis import given, settings

from tests.catchup import test_histories
from tests.catchup.inside import InsideBench, killable

HOUR = timedelta(hours=1)
CAP = {"messages": 2, "per_hours": 24}


@pytest.mark.integration
@pytest.mark.parametrize("useful", [1440, 4000], ids=["too late then", "still useful then"])
def test_whoever_is_over_the_cap_is_mailed_later_while_it_is_useful_and_not_at_all_otherwise(
    new_bench, useful
) -> None:
    bench = new_bench(people=40, speed=120)
    plan = yaml.safe_load(bench.plan_path.read_text())
    plan["frequency_cap"] = CAP
    plan["lateness"]["newsletter"]["useful_for_minutes"] = useful
    bench.plan_path.write_text(yaml.safe_dump(plan))
    first = bench.campaign("Sale", kind="sale", at=HOUR)
    second = bench.campaign("Launch", kind="sale", at=HOUR, people=range(1, 31))
    third = bench.campaign("News", at=HOUR)
    receipt = bench.campaign("Receipts", kind="transactional", at=HOUR, deadline=20 * HOUR)
    incident = bench.respond(first, second, third, receipt)
    bench.clock.advance(2 * HOUR)
    outcomes = {one.campaign_id: one for one in bench.recover(incident)}
    mailed = {number: {who for who, _ in mails} for number, mails in bench.mailed().items()}
    assert [len(mailed[number]) for number in (first, second, receipt)] == [40, 30, 40]
    assert mailed[third] == set(range(31, 41)), "the others have had two today"
    ledger = bench.ledgers(incident)[third]
    if useful == 1440:
        assert ledger["dropped"] == set(range(1, 31))
        assert outcomes[third].done == "caught_up"
    else:
        assert (outcomes[third].done, outcomes[third].scheduled) == ("scheduled", 30)
    bench.clock.advance(48 * HOUR)
    bench.judge({})
    mails = [(who, at) for number in (first, second, third) for who, at in bench.mailed()[number]]
    assert len(mails) == (80 if useful == 1440 else 110)
    for who, at in mails:
        assert sum(one == who and at - 24 * HOUR < when <= at for one, when in mails) <= 2


def judge_cap(bench: InsideBench) -> None:
    """No catch-up that somebody watched brought a person above the cap."""
    cap = bench.loaded.plan.frequency_cap
    assert cap is not None
    stored, per = bench.campaigns(), timedelta(hours=cap.per_hours)
    mails = [
        (mail.subscriber_id, mail.received_at, stored[mail.campaign_id]) for mail in bench.esp.messages()
    ]
    for who, at, row in mails:
        if "catch_up_of" in row.attribs and row.send_at is None and row.id not in bench.exempt:
            seen = Counter(one for one, when, _ in mails if at - per < when <= at)
            assert seen[who] <= cap.messages, f"{who} was mailed {seen[who]} times within {per}"


def play_capped(cap: dict[str, int], world: dict[str, Any]) -> None:
    judge = test_histories.judge_mailbox

    def judged(bench: InsideBench) -> None:
        judge(bench)
        judge_cap(bench)

    with killable(), pytest.MonkeyPatch.context() as patched:
        patched.setattr(test_histories, "InsideBench", partial(InsideBench, frequency_cap=cap))
        patched.setattr(test_histories, "judge_mailbox", judged)
        test_histories.play(**world)


@given(**test_histories.WORLDS)
@settings(max_examples=3, deadline=None)
def test_whatever_happens_in_an_outage_nobody_gets_more_than_the_cap(**world: Any) -> None:
    play_capped({"messages": 1, "per_hours": 6}, world)


def test_a_campaign_that_is_dropped_in_the_middle_of_a_step_leaves_no_step_open() -> None:
    # Found as a history: a recovery died in a step, and the next one was told to drop the campaign.
    happening = test_histories.Happening
    world = {
        "speed": 6, "batch": 5, "seed": 0, "sent": 0, "yes": "drop_anyway",
        "quiet": {"begin": "08:30", "end": "10:00"},
        "calendar": [test_histories.Planned("newsletter", None, None, None)],
        "outage": [happening("fault", "relay_refusing"), happening("die_in_a_batch", 17)],
        "history": [
            happening("respond", 0), happening("opt_out", (11, 120)), happening("restart"), happening("fault", "slow"),
            happening("recover", (72, "send_anyway")), happening("opt_out", (28, 118)),
            happening("two", (happening("abort", (29, False)), 45, happening("abort", (7, False)))),
            happening("abort", (0, True)), happening("respond", 451),
        ],
    }  # fmt: skip
    play_capped({"messages": 1, "per_hours": 6}, world)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@given(**test_histories.WORLDS)
@settings(max_examples=500, deadline=None)
def test_whatever_happens_in_an_outage_nobody_gets_more_than_the_cap_in_500_histories(**world: Any) -> None:
    play_capped({"messages": 1, "per_hours": 6}, world)
