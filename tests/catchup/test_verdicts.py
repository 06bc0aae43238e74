"""The verdict on a held campaign: exactly one, never late, never more than fits."""

from datetime import UTC, datetime, time, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.catchup import Decision, Held, RampLimits, approved, capacity, decide, decide_all, latest_useful_at
from tasks.catchup.verdicts import Due, beside
from tasks.plan import LatenessRule, QuietHours

NOW = datetime(2011, 11, 16, 13, 0, tzinfo=UTC)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


def held(**changes) -> Held:
    usual = {
        "campaign_id": 1,
        "kind": "sale",
        "planned_at": NOW - 3 * HOUR,
        "latest_useful_at": NOW + 5 * HOUR,
        "remaining": 100,
        "untouched": False,
    }
    return Held(**(usual | changes))


def rule(when_late="send", useful=60 * 24, reschedule=0) -> LatenessRule:
    return LatenessRule(useful_for_minutes=useful, when_late=when_late, reschedule_minutes=reschedule)


CASES = {
    "a late campaign that is still useful is sent": (held(), rule(), "send", "late_but_useful", 100, 0),
    "one second after its deadline it is dropped": (
        held(latest_useful_at=NOW - timedelta(seconds=1)), rule(), "drop", "too_late", 0, 0),
    "at its deadline it is dropped": (held(latest_useful_at=NOW), rule(), "drop", "too_late", 0, 0),
    "only what fits before the deadline is sent, the rest is cut": (
        held(latest_useful_at=NOW + timedelta(minutes=10), remaining=1000), rule(),
        "send", "only_a_part_fits", 480, 520),
    "what cannot send one message in time is dropped": (
        held(latest_useful_at=NOW + timedelta(seconds=1)), rule(), "drop", "too_late", 0, 0),
    "an untouched campaign whose time is ahead goes back as it was": (
        held(planned_at=NOW + HOUR, untouched=True), rule(when_late="drop"), "reschedule", "still_ahead", 100, 0),
    "one that never could be through as planned is asked about": (
        held(planned_at=NOW + HOUR, untouched=True, latest_useful_at=NOW + HOUR + timedelta(minutes=1)), rule(),
        "needs_approval", "too_tight_as_planned", 0, 0),
    "the plan may drop whatever is late": (held(), rule("drop"), "drop", "rule_drops", 0, 0),
    "the plan may ask": (held(), rule("needs_approval"), "needs_approval", "rule_asks", 0, 0),
    "the plan may send it again later": (
        held(), rule("reschedule", reschedule=60), "reschedule", "rule_reschedules", 100, 0),
    "later than the deadline is never": (
        held(), rule("reschedule", reschedule=60 * 6), "drop", "too_late", 0, 0),
    "without any deadline a person decides": (
        held(latest_useful_at=None), None, "needs_approval", "no_deadline_known", 0, 0),
    "without a planned time a person decides": (
        held(planned_at=None), rule(), "needs_approval", "no_planned_time", 0, 0),
    "nobody left means nothing to do": (held(remaining=0), rule(), "drop", "nobody_left", 0, 0),
    "the rule's deadline counts from the planned time": (
        held(latest_useful_at=None), rule(useful=60), "drop", "too_late", 0, 0),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_verdict(case) -> None:
    campaign, lateness, verdict, reason, to_send, cut = case
    found = decide(campaign, now=NOW, messages_per_minute=60, rule=lateness)
    assert (found.verdict, found.reason, found.to_send, found.cut) == (verdict, reason, to_send, cut)
    assert found.why


def test_a_campaign_names_its_own_deadline_before_the_rule() -> None:
    assert latest_useful_at(held(), rule(useful=1)) == NOW + 5 * HOUR


def test_campaigns_share_the_speed_of_the_provider_the_most_urgent_first() -> None:
    later = held(campaign_id=1, latest_useful_at=NOW + 2 * HOUR, remaining=5000)
    urgent = held(campaign_id=2, latest_useful_at=NOW + HOUR, remaining=2000)
    found = decide_all([later, urgent], now=NOW, messages_per_minute=60, rules={"sale": rule()})
    assert [one.campaign_id for one in found] == [2, 1]
    assert found[0].to_send == 2000
    assert found[1].start_at == NOW + timedelta(minutes=2000 / 60 / 0.8)
    assert found[1].to_send == capacity(found[1].start_at, NOW + 2 * HOUR, 60)


def test_a_yes_never_lifts_a_deadline() -> None:
    asked = held(latest_useful_at=NOW - HOUR)
    assert approved(asked, now=NOW, messages_per_minute=60, rule=rule("needs_approval")).verdict == "drop"


def test_a_yes_without_a_known_deadline_sends_all() -> None:
    found = approved(held(latest_useful_at=None), now=NOW, messages_per_minute=60, rule=None)
    assert (found.verdict, found.to_send, found.deadline) == ("send", 100, None)


minutes = st.integers(-60 * 24 * 3, 60 * 24 * 3).map(lambda n: NOW + timedelta(minutes=n))
campaigns = st.builds(
    Held,
    campaign_id=st.integers(1, 50),
    kind=st.sampled_from(["sale", "launch", "newsletter", "winback", "other"]),
    planned_at=st.none() | minutes,
    latest_useful_at=st.none() | minutes,
    remaining=st.integers(0, 100_000),
    untouched=st.booleans(),
)
rules = st.dictionaries(
    st.sampled_from(["sale", "launch", "newsletter", "winback"]),
    st.builds(
        LatenessRule,
        useful_for_minutes=st.integers(0, 60 * 24 * 7),
        when_late=st.sampled_from(["send", "reschedule", "drop", "needs_approval"]),
        reschedule_minutes=st.integers(0, 60 * 24),
    ),
)


def holds(decisions: list[Decision], calendar: list[Held], now: datetime, speed: int) -> None:
    """What must be true of every verdict, whatever the outage and the calendar."""
    assert sorted(one.campaign_id for one in decisions) == sorted(one.campaign_id for one in calendar)
    by_id = {one.campaign_id: one for one in calendar}
    for one in decisions:
        campaign = by_id[one.campaign_id]
        assert one.verdict in ("send", "reschedule", "drop", "needs_approval")
        assert one.to_send >= 0
        assert one.cut >= 0
        if one.verdict in ("send", "reschedule"):
            assert one.start_at is not None
            assert one.deadline is not None
            assert one.start_at >= now
            assert one.to_send > 0
            assert one.to_send + one.cut == campaign.remaining
            assert one.start_at + timedelta(minutes=one.to_send / speed) <= one.deadline
        else:
            assert one.to_send == 0
        if one.as_it_was:
            assert campaign.untouched
            assert one.start_at == campaign.planned_at


def check_calendar(calendar, lateness, offset, speed) -> None:
    calendar = list({one.campaign_id: one for one in calendar}.values())
    now = NOW + timedelta(minutes=offset)
    holds(decide_all(calendar, now=now, messages_per_minute=speed, rules=lateness), calendar, now, speed)


calendars = given(
    st.lists(campaigns, max_size=8), rules, st.integers(-60 * 24, 60 * 24), st.integers(1, 10_000)
)


@calendars
@settings(max_examples=150)
def test_over_random_outages_and_calendars_nothing_is_late(calendar, lateness, offset, speed) -> None:
    check_calendar(calendar, lateness, offset, speed)


@pytest.mark.slow
@calendars
@settings(max_examples=5000)
def test_over_thousands_of_outages_and_calendars_nothing_is_late(calendar, lateness, offset, speed) -> None:
    check_calendar(calendar, lateness, offset, speed)


@given(campaigns, rules, st.integers(1, 10_000))
@settings(max_examples=150)
def test_an_approved_campaign_is_not_late_either(campaign, lateness, speed) -> None:
    found = approved(campaign, now=NOW, messages_per_minute=speed, rule=lateness.get(campaign.kind))
    if found.deadline is not None and found.to_send:
        assert found.start_at + timedelta(minutes=found.to_send / speed) <= found.deadline


def test_a_yes_to_a_campaign_that_is_too_tight_keeps_its_time_and_cuts_it_to_what_fits() -> None:
    planned = NOW + 2 * HOUR
    asked = held(
        planned_at=planned, untouched=True, remaining=1000, latest_useful_at=planned + timedelta(minutes=10)
    )
    assert decide(asked, now=NOW, messages_per_minute=60, rule=rule()).reason == "too_tight_as_planned"
    found = approved(asked, now=NOW, messages_per_minute=60, rule=rule())
    assert (found.verdict, found.start_at, found.to_send, found.cut) == ("reschedule", planned, 480, 520)
    assert not found.as_it_was


def test_a_yes_without_a_known_deadline_keeps_the_planned_time_too() -> None:
    asked = held(planned_at=NOW + HOUR, latest_useful_at=None, untouched=True)
    found = approved(asked, now=NOW, messages_per_minute=60, rule=None)
    assert (found.verdict, found.start_at, found.as_it_was) == ("reschedule", NOW + HOUR, True)


@given(campaigns, rules, st.integers(1, 10_000))
@settings(max_examples=150)
def test_nothing_starts_before_its_planned_time(campaign, lateness, speed) -> None:
    lateness_rule = lateness.get(campaign.kind)
    for judge in (decide, approved):
        found = judge(campaign, now=NOW, messages_per_minute=speed, rule=lateness_rule)
        if found.start_at is not None and campaign.planned_at is not None:
            assert found.start_at >= campaign.planned_at


QUIET = QuietHours(begin=time(21), end=time(7, 30), timezone="Europe/London")


@pytest.mark.parametrize(
    ("hour", "over", "next_day"),
    [(13, None, 16), (21, (17, 7), 17), (23, (17, 7), 17), (3, (16, 7), 16)],
    ids=["in the day", "as they begin", "before midnight", "after midnight"],
)
def test_quiet_hours_go_past_midnight(hour, over, next_day) -> None:
    at = datetime(2011, 11, 16, hour, tzinfo=UTC)
    end = None if over is None else datetime(2011, 11, over[0], over[1], 30, tzinfo=UTC)
    assert QUIET.over(at) == end
    assert QUIET.next(at) == datetime(2011, 11, next_day, 21, tzinfo=UTC)


def test_quiet_hours_follow_summer_time() -> None:
    assert QUIET.over(datetime(2011, 7, 1, 20, 30, tzinfo=UTC)) == datetime(2011, 7, 2, 6, 30, tzinfo=UTC)


def test_in_quiet_hours_a_late_campaign_waits_for_the_morning_or_is_dropped() -> None:
    night = datetime(2011, 11, 16, 22, tzinfo=UTC)
    waits = decide(
        held(latest_useful_at=night + 12 * HOUR), now=night, messages_per_minute=60, rule=rule(), quiet=QUIET
    )
    assert (waits.verdict, waits.reason) == ("reschedule", "quiet_hours")
    assert waits.start_at == datetime(2011, 11, 17, 7, 30, tzinfo=UTC)
    late = decide(
        held(latest_useful_at=night + 9 * HOUR), now=night, messages_per_minute=60, rule=rule(), quiet=QUIET
    )
    assert (late.verdict, late.reason) == ("drop", "too_late")
    assert "quiet hours" in late.why


def test_the_ramp_of_the_urgent_makes_the_others_wait_and_what_expires_meanwhile_is_told() -> None:
    ramp = RampLimits(canary=10, factor=2.0, max_step=20, max_bounce_rate=0.05, max_complaint_rate=0.001)
    urgent = held(campaign_id=1, latest_useful_at=NOW + 20 * MINUTE, remaining=150)
    later = held(campaign_id=2, latest_useful_at=NOW + 21 * MINUTE, remaining=100)
    both = decide_all([urgent, later], now=NOW, messages_per_minute=60, rules={"sale": rule()}, ramp=ramp)
    assert [one.campaign_id for one in both] == [1, 2]
    assert (both[0].to_send, both[0].cut) == (150, 0)
    assert both[0].course.steps == 8, "10, then 20 seven times"
    assert 14 < both[0].course.minutes < 15
    assert both[1].cut > 0
    assert [(name, one.people) for name, one in both[0].course.lanes.items()] == [("other", 150)]
    [alone] = decide_all([later], now=NOW, messages_per_minute=60, rules={"sale": rule()}, ramp=ramp)
    assert alone.cut == 0


def test_whoever_is_over_the_frequency_cap_is_told_in_the_verdict_and_does_not_count_as_mailed_now() -> None:
    wait = {"deferred": 3, "deferred_until": NOW + HOUR, "capped": 2}
    some = decide(held(remaining=10, **wait), now=NOW, messages_per_minute=60, rule=rule())
    assert (some.verdict, some.to_send, some.deferred, some.capped) == ("send", 5, 3, 2)
    assert "3 over the frequency cap until" in some.why
    assert "2 not mailed" in some.why


def test_where_everybody_left_is_over_the_frequency_cap_it_waits_or_is_dropped() -> None:
    later = decide(
        held(remaining=5, deferred=3, deferred_until=NOW + HOUR, capped=2),
        now=NOW, messages_per_minute=60, rule=rule(),
    )  # fmt: skip
    assert (later.verdict, later.reason, later.start_at, later.to_send) == (
        "reschedule", "frequency_cap", NOW + HOUR, 3
    )  # fmt: skip
    never = decide(held(remaining=5, capped=5), now=NOW, messages_per_minute=60, rule=rule())
    assert (never.verdict, never.reason, never.capped) == ("drop", "frequency_cap", 5)


def test_what_else_is_due_at_the_same_time_counts_before_a_campaign_is_put_back() -> None:
    at = NOW + HOUR
    urgent = held(
        campaign_id=1, planned_at=at, untouched=True, latest_useful_at=at + 3 * MINUTE, remaining=100
    )
    patient = held(campaign_id=2, planned_at=at, untouched=True, latest_useful_at=at + HOUR, remaining=200)
    tight, fine = decide_all([urgent, patient], now=NOW, messages_per_minute=60, rules={"sale": rule()})
    assert (tight.verdict, tight.reason) == ("needs_approval", "too_tight_as_planned")
    assert "beside 200 messages of what else is due" in tight.why
    assert (fine.reason, fine.as_it_was) == ("still_ahead", True)
    [alone] = decide_all([urgent], now=NOW, messages_per_minute=60, rules={"sale": rule()})
    assert alone.as_it_was
    earlier = Due(2, at - 10 * MINUTE, 60 * 9)
    assert decide(urgent, now=NOW, messages_per_minute=60, rule=rule(), dues=[earlier]).as_it_was
    still_at_it = Due(2, at - 10 * MINUTE, 60 * 12)
    found = decide(urgent, now=NOW, messages_per_minute=60, rule=rule(), dues=[still_at_it])
    assert found.reason == "too_tight_as_planned"


@given(
    st.lists(st.tuples(st.integers(-60, 60), st.integers(1, 200)), max_size=5),
    st.integers(1, 20),
    st.integers(1, 120),
)
def test_a_provider_that_serves_everybody_else_first_has_no_more_to_send_than_is_counted(
    others, speed, minutes
) -> None:
    dues = [Due(number, NOW + at * MINUTE, people) for number, (at, people) in enumerate(others)]
    counted = beside(dues, NOW, NOW + minutes * MINUTE, speed)
    waiting, served = 0, 0
    for minute in range(-60, minutes):
        waiting += sum(people for at, people in others if at == minute)
        sent = min(waiting, speed)
        waiting -= sent
        served += sent if minute >= 0 else 0
    assert served <= counted
    assert waiting + served == counted
