"""Action items after an incident is closed: what is due first, what a reminder says, and how often."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from tasks.incidents import ActionItem
from tasks.reports import follow_up, reminder

NOW = datetime(2026, 11, 18, 9, 0, tzinfo=UTC)  # a Wednesday


def item(number, days, *, status="outstanding", priority="P1"):
    return ActionItem(
        number, "INC-0001", f"item {number}", "prevent", priority, "desk", NOW + timedelta(days=days), "proof", status
    )  # fmt: skip


def standings(*items):
    return [(one.item.id, one.standing) for one in follow_up(items, NOW)]


def test_what_is_overdue_comes_first_and_what_is_closed_last():
    assert standings(item(1, 20), item(2, -3), item(3, 5), item(4, -9, status="completed")) == [
        (2, "overdue"),
        (3, "due soon"),
        (1, "open"),
        (4, "completed"),
    ]


def test_of_two_that_are_due_together_the_more_urgent_comes_first():
    assert standings(item(1, 2), item(2, 2, priority="P0")) == [(2, "due soon"), (1, "due soon")]


def test_a_reminder_names_what_is_late_with_its_owner_and_its_proof():
    found = reminder(follow_up([item(1, -3), item(2, 5), item(3, 30)], NOW), NOW)
    assert found is not None
    assert found.title == "1 action item overdue, 1 due soon"
    first, second, how = found.text.splitlines()
    assert first == "INC-0001 · item 1 (desk): was due 15 Nov 2026, 3 days ago. Done when proof."
    assert "item 2" in second and "due 23 Nov 2026" in second
    assert "mailstay actions done" in how


def test_nobody_is_reminded_of_what_is_far_off_or_closed():
    assert reminder(follow_up([item(1, 8), item(2, -9, status="not_doing")], NOW), NOW) is None


def test_the_same_reminder_keeps_its_name_for_a_week_and_gets_another_when_more_is_late():
    items = [item(1, -3), item(2, 2)]

    def name(day):
        now = NOW + timedelta(days=day)
        found = reminder(follow_up(items, now), now)
        return found and found.name

    assert name(0) == name(1)  # Wednesday and Thursday
    assert name(3) != name(1)  # Saturday: the second is late too
    assert name(5) != name(4)  # Monday: another week


@given(st.lists(st.tuples(st.integers(-40, 40), st.sampled_from(["outstanding", "completed", "not_doing"]))))
def test_no_item_is_lost_and_only_outstanding_ones_are_reminded_of(drawn):
    items = [item(number, days, status=status) for number, (days, status) in enumerate(drawn, 1)]
    found = follow_up(items, NOW)
    assert sorted(one.item.id for one in found) == [one.id for one in items]
    pressing = [one for one in items if one.status == "outstanding" and one.due_at <= NOW + timedelta(days=7)]
    told = reminder(found, NOW)
    assert (told is None) == (not pressing)
    if told:
        assert len(told.text.splitlines()) == len(pressing) + 1
