"""What an abort does about one stopped campaign: back exactly as it was, or held; never late, never over a person."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tasks.catchup import schedule_of
from tasks.incidents import Action
from tasks.plan import LatenessRule
from tasks.providers import BREVO, LISTMONK, PROVIDERS, SENDGRID, Campaign
from tasks.response.undoing import MARGIN, decide_undoing, differences, only_went_on

NOW = datetime(2011, 11, 16, 8, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
BEFORE = Campaign(
    7, "u", "Sale", "sale", "scheduled", NOW + HOUR, None, (1, 2), 0, 0, None, ("black friday",), "Half price"
)
RUNNING = replace(BEFORE, status="running", send_at=None, started_at=NOW - HOUR, to_send=100, sent=40)


def decided(before, now, *, at=NOW, kind=LISTMONK, undone=False, **changes):
    hold = kind.hold(before.status, before.of)
    stop = Action(
        9, "INC-0001", "respond/x/7", hold.action, "campaign/7", {}, schedule_of(before),
        {"action": hold.undo}, "done", NOW,
    )  # fmt: skip
    rule = LatenessRule(useful_for_minutes=90)
    now = replace(before, status=hold.to_status, **changes) if now is None else now
    return decide_undoing(stop, now, kind, at, undone=undone, messages_per_minute=1, lateness={"other": rule})


@pytest.mark.parametrize("kind", PROVIDERS.values(), ids=list(PROVIDERS))
def test_what_is_ahead_is_scheduled_again(kind) -> None:
    found = decided(BEFORE, None, kind=kind)
    assert (found.way, found.action, found.undoable, found.due_at) == ("undo", "reschedule", True, NOW + HOUR)


@pytest.mark.parametrize("kind", PROVIDERS.values(), ids=list(PROVIDERS))
@pytest.mark.parametrize("at", [NOW + HOUR - MARGIN, NOW + HOUR, NOW + 9 * HOUR])
def test_what_is_past_or_may_be_past_before_it_is_asked_for_is_held(kind, at) -> None:
    found = decided(BEFORE, None, kind=kind, at=at)
    assert (found.way, found.action) == ("held", "")
    assert "late" in found.why


def test_a_paused_batch_is_let_go_while_its_time_is_ahead_and_held_after() -> None:
    batch = replace(BEFORE, of="batch")
    assert decided(batch, None, kind=SENDGRID).action == "resume"
    assert decided(batch, None, kind=SENDGRID, at=NOW + 2 * HOUR).way == "held"


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"send_at": NOW + 3 * HOUR}, "send_at"), ({"list_ids": (1,)}, "list_ids")],
)
def test_what_somebody_changed_since_is_neither_overwritten_nor_sent(changes, word) -> None:
    found = decided(BEFORE, None, **changes)
    assert found.way == "held"
    assert word in found.why


def test_a_time_that_the_provider_forgot_is_given_to_it_again() -> None:
    assert decided(BEFORE, None, kind=SENDGRID, send_at=None).way == "undo"


@pytest.mark.parametrize("status", ["scheduled", "running", "finished"])
def test_what_stands_or_has_gone_on_is_left_alone(status) -> None:
    assert decided(BEFORE, replace(BEFORE, status=status)).way == "as_it_was"


def test_what_is_cancelled_gone_or_was_stopped_by_hand_after_the_undo_is_held() -> None:
    assert decided(BEFORE, replace(BEFORE, status="cancelled")).way == "held"
    assert decided(BEFORE, replace(BEFORE, status="draft"), undone=True).way == "held"
    stop = Action(9, "I", "k", "pause", "campaign/7", {}, schedule_of(BEFORE), {}, "done", NOW)
    gone = decide_undoing(stop, None, LISTMONK, NOW, undone=False, messages_per_minute=1, lateness={})
    assert (gone.way, gone.name) == ("held", "Sale")


@pytest.mark.parametrize("kind", [LISTMONK, BREVO])
def test_a_campaign_stopped_half_way_goes_on_only_if_a_person_wants_it(kind) -> None:
    found = decided(RUNNING, None, kind=kind)
    assert (found.way, found.action, found.undoable) == ("ask", "resume", False)
    assert found.why == kind.find("resume", "paused").limits


@pytest.mark.parametrize("left", [100, 61])
def test_a_campaign_that_would_go_on_after_it_is_useful_is_held(left) -> None:
    late = replace(RUNNING, latest_useful_at=NOW + HOUR, to_send=40 + left)
    assert decided(late, None).way == "held"
    assert decided(replace(late, to_send=100), None).way == "ask"


def test_a_rule_of_the_plan_says_until_when_where_the_campaign_does_not() -> None:
    assert decided(replace(RUNNING, kind="other"), None).way == "held"


def test_every_field_of_the_schedule_is_compared() -> None:
    other = Campaign(
        7, "u", "Sole", "winback", "draft", NOW, NOW, (3,), 9, 9, NOW, ("x",), "Full price"
    )  # fmt: skip
    changed = {one.field for one in differences(schedule_of(BEFORE), other)}
    assert changed == set(schedule_of(BEFORE))
    assert differences(schedule_of(BEFORE), BEFORE) == ()


def test_only_what_time_alone_brings_counts_as_before() -> None:
    before = schedule_of(BEFORE)
    begun = replace(BEFORE, status="running")
    assert only_went_on(before, BEFORE, NOW)
    assert only_went_on(before, begun, NOW + HOUR)
    assert not only_went_on(before, begun, NOW)
    assert not only_went_on(before, replace(begun, name="x"), NOW + HOUR)
    assert not only_went_on(before, replace(BEFORE, status="draft"), NOW)
