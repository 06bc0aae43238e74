"""The plan follows the provider's data: whether a thing can be stopped, until when, and what takes it back."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tasks.core import DrivenClock
from tasks.providers import (
    BREVO,
    KLAVIYO,
    LISTMONK,
    MAILCHIMP,
    PROVIDERS,
    SENDGRID,
    ProviderUnavailable,
    RateLimit,
)
from tasks.providers.pace import Pace
from tasks.response import PlanLine, Sending, by_urgency, markdown_table, plan_table, time_to_stop

NOW = datetime(2011, 11, 16, 8, 0, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


def sending(number=1, status="scheduled", at=HOUR, of="campaign"):
    return Sending(number, f"News {number}", "newsletter", status, NOW + at, None, None, 40, of=of)


def planned(capabilities, *sendings):
    return plan_table(sendings, capabilities, NOW, lateness={})


@pytest.mark.parametrize("capabilities", PROVIDERS.values(), ids=list(PROVIDERS))
@pytest.mark.parametrize("status", ["scheduled", "running"])
def test_the_action_and_its_undo_are_those_of_the_data(capabilities, status) -> None:
    [line] = planned(capabilities, sending(status=status))
    hold = capabilities.hold(status)
    assert (line.action, line.undo) == ((hold.action, hold.undo) if hold else ("", ""))
    if hold:
        assert capabilities.find(hold.undo, hold.to_status) is not None


@pytest.mark.parametrize("capabilities", PROVIDERS.values(), ids=list(PROVIDERS))
def test_every_fact_names_its_source_and_every_rate_exists(capabilities) -> None:
    facts = (*capabilities.actions, *capabilities.rates, *capabilities.traps, *capabilities.by_hand)
    assert all(one.source for one in facts)
    assert capabilities.connections is None or capabilities.limits_source
    assert {one.rate for one in capabilities.actions} - {""} <= {one.name for one in capabilities.rates}


def test_a_batch_can_be_stopped_until_ten_minutes_before_and_let_go_for_72_hours() -> None:
    [line] = planned(SENDGRID, sending(of="batch"))
    assert (line.act_before, line.lost_after) == (NOW + 50 * MINUTE, NOW + HOUR + 72 * HOUR)
    assert PlanLine.from_json(line.to_json()) == line
    assert "yes, resume by" in markdown_table([line], "GBP")


@pytest.mark.parametrize("capabilities", [MAILCHIMP, KLAVIYO, SENDGRID], ids=lambda one: one.kind)
def test_where_the_api_cannot_stop_a_campaign_the_plan_says_what_a_person_can(capabilities) -> None:
    [line] = planned(capabilities, sending(status="running"))
    what = capabilities.left_to_people("running")
    assert (line.action, line.by_hand) == ("", what)
    assert PlanLine.from_json(line.to_json()) == line
    assert f"| not possible: {what} |" in markdown_table([line], "GBP")
    [line] = planned(capabilities, sending())
    assert (line.action, line.by_hand) == ("unschedule", "")


def test_a_feed_of_mailchimp_is_paused_and_a_campaign_is_not() -> None:
    [line] = planned(MAILCHIMP, sending(status="running", of="feed"))
    assert (line.action, line.undo) == ("pause", "resume")


def test_a_batch_whose_deadline_is_past_is_not_promised_to_be_stopped() -> None:
    [line] = planned(SENDGRID, sending(at=9 * MINUTE, of="batch"))
    assert (line.action, line.undo) == ("", "")
    assert line.if_nothing == "is sent when due: pause was possible until 10 minutes before send_at"


def test_another_deadline_in_the_data_is_another_deadline_in_the_plan() -> None:
    later = replace(
        LISTMONK,
        actions=tuple(replace(one, before=2 * HOUR, deadline="two hours") for one in LISTMONK.actions),
    )
    assert planned(LISTMONK, sending())[0].action == "unschedule"
    assert planned(later, sending())[0].action == ""


def test_what_sends_now_is_stopped_first_then_what_sends_soonest() -> None:
    lines = planned(BREVO, sending(1, at=3 * HOUR), sending(2, at=HOUR), sending(3, "running", at=-HOUR))
    assert [line.campaign_id for line in by_urgency(lines)] == [3, 2, 1]


def test_the_plan_says_how_long_a_limit_makes_it_take() -> None:
    many = planned(BREVO, *(sending(number) for number in range(1, 1001)))
    assert time_to_stop(many, BREVO) == (
        "Brevo allows 100 calls per hour: stopping everything takes at least 9 hours, the most urgent first."
    )
    assert time_to_stop(many[:90], BREVO) == ""
    assert time_to_stop(planned(KLAVIYO, *(sending(n) for n in range(1, 20_001))), KLAVIYO) == (
        "Klaviyo allows 150 calls per minute: stopping everything takes at least 2 hours, the most urgent first."
    )
    assert time_to_stop(planned(LISTMONK, *(sending(n) for n in range(1, 1001))), LISTMONK) == ""


def test_no_window_ever_holds_more_calls_than_the_limit(clock: DrivenClock) -> None:
    limit = RateLimit("x", 5, timedelta(seconds=10), "everything", "a test")
    pace = Pace(limit, clock)
    at = []
    for step in [0, 1, 0, 3, 0, 0, 2, 0, 9, 0, 0, 0, 0, 0, 1, 0, 0]:
        clock.advance(step)
        pace.wait(timedelta(hours=1), "here")
        at.append(clock.now())
    assert all(at[n + 5] - at[n] >= limit.per for n in range(len(at) - 5))
    # and no longer than it must: a full window goes out at once
    assert clock.now() - at[0] <= timedelta(seconds=40)


def test_what_the_server_counts_is_heard(clock: DrivenClock) -> None:
    pace = Pace(RateLimit("x", 100, HOUR, "everything", "a test"), clock)
    began = clock.now()
    pace.heard(0, 1800)
    with pytest.raises(ProviderUnavailable, match="try again in 30 min") as caught:
        pace.wait(MINUTE, "here")
    assert caught.value.outcome_unknown is False
    pace.wait(HOUR, "here")
    assert clock.now() - began == timedelta(seconds=1800)
