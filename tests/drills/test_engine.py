"""The scanner and sender do as listmonk's does, and every message has its own moment."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.drills.esp import schema, store

Make = Callable[..., Any]


def test_a_running_campaign_is_sent_at_the_rate_of_the_account(bench: Make) -> None:
    one = bench(25)
    number = one.campaign()
    one.work(5 + 10)  # picked up at the scan after 5 s, then one message a second
    assert one.got() == list(range(1, 11))
    one.work(60)
    assert one.got() == list(range(1, 26))
    assert one.row(number).status == "finished"
    assert one.row(number).sent == one.row(number).to_send == 25


def test_two_campaigns_share_the_rate(bench: Make) -> None:
    one = bench(25)
    one.campaign(), one.campaign()
    one.work(5 + 20)
    assert len(one.got(1)) == len(one.got(2)) == 10


def test_a_row_sending_is_committed_before_the_message_is_handed_over(bench: Make) -> None:
    one = bench(25)
    one.campaign()
    one.work(60)
    assert one.post.logged == ["sending"] * 25
    assert {row[3] for row in one.table(schema.MESSAGES)} == {"accepted"}


def test_a_scheduled_campaign_fires_at_the_first_scan_after_its_time_however_long_past(bench: Make) -> None:
    one = bench(3)
    past = one.campaign("scheduled", send_at=one.engine.now - timedelta(days=3))
    later = one.campaign("scheduled", send_at=one.engine.now + timedelta(minutes=10))
    one.work(60)
    assert one.row(past).status == "finished"
    assert one.row(later).status == "scheduled"
    one.work(600)
    assert one.row(later).status == "finished"
    assert one.row(later).started_at == one.row(later).send_at


def test_resuming_a_campaign_that_has_a_send_at_stores_scheduled_and_starts_at_the_next_scan(
    bench: Make,
) -> None:
    one = bench(25)
    number = one.campaign("scheduled", send_at=one.engine.now)
    one.work(10)
    one.put(number, "paused")
    one.work(10)
    one.put(number, "running")
    assert one.row(number).status == "scheduled"
    one.work(5)
    assert one.row(number).status == "running"


def test_a_pause_puts_the_pointer_back_to_the_last_one_sent(bench: Make) -> None:
    one = bench(25)
    number = one.campaign()
    one.work(5 + 4)
    assert one.row(number).last_subscriber_id == 10, "the pointer moves when a batch is fetched"
    one.put(number, "paused")
    one.work(5)
    assert one.row(number).last_subscriber_id == 4 == len(one.got())
    one.put(number, "running")
    one.work(60)
    assert one.got() == list(range(1, 26)), "nobody twice, nobody left out"


def test_a_stopping_campaign_is_still_listed_until_the_next_scan(bench: Make) -> None:
    one = bench(25)
    number = one.campaign()
    one.work(5 + 4)
    one.put(number, "paused")
    assert one.engine.listed_as_running() == {number}
    one.work(5)
    assert one.engine.listed_as_running() == set()


def test_pausing_and_resuming_at_once_loses_nobody_here_because_the_pipe_ends_first(bench: Make) -> None:
    one = bench(25)
    number = one.campaign()
    one.work(5 + 4)
    one.put(number, "paused")
    one.put(number, "running")
    one.work(90)
    assert one.got() == list(range(1, 26))


def test_a_pause_before_anything_was_sent_leaves_the_pointer_at_the_fetched_batch(bench: Make) -> None:
    one = bench(25)
    one.post.code = 451
    number = one.campaign()
    one.work(5 + 4)
    one.put(number, "paused")
    one.work(5)
    assert one.row(number).last_subscriber_id == 10
    one.post.code = 250
    one.put(number, "running")
    one.work(90)
    accepted = [row[2] for row in one.table(schema.MESSAGES) if row[3] == "accepted"]
    assert accepted == list(range(11, 26)), "the whole batch was skipped"


def test_a_killed_process_skips_whom_it_had_fetched_and_mails_nobody_twice(bench: Make) -> None:
    """Knadh/listmonk #3022."""
    one = bench(25)
    number = one.campaign()
    one.work(5 + 4)
    assert len(one.got()) == 4
    one.start(one.engine.now)  # no cleanup ran
    one.work(90)
    assert one.got() == [1, 2, 3, 4, *range(11, 26)]
    assert one.row(number).status == "finished"


def test_whoever_is_unsubscribed_or_blocked_when_a_batch_is_fetched_is_left_out(bench: Make) -> None:
    one = bench(25)
    one.campaign()
    one.work(5 + 4)
    with one.database.begin() as connection:
        store.unsubscribe(connection, [5, 12], [1], store.naive(one.engine.now))
        store.blocklist(connection, [13], store.naive(one.engine.now))
    one.work(90)
    assert 5 in one.got(), "it was fetched already"
    assert not {12, 13} & set(one.got())


def test_a_scheduled_campaign_without_anybody_to_send_to_stays_scheduled(bench: Make) -> None:
    one = bench(3)
    number = one.campaign("scheduled", send_at=one.engine.now, list_id=2)
    one.work(30)
    assert one.row(number).status == "scheduled"


def test_new_people_who_joined_during_a_pause_are_included(bench: Make) -> None:
    one = bench(25)
    number = one.campaign()
    one.work(5 + 4)
    one.put(number, "paused")
    one.work(5)
    with one.database.begin() as connection:
        store.create_subscriber(
            connection, uuid="new", email="new@shop.example", name="n", status="enabled",
            attribs={"customer_id": 90}, list_ids=[1], subscription="confirmed", now=store.naive(one.engine.now),
        )  # fmt: skip
    one.put(number, "running")
    one.work(90)
    assert one.got()[-1] == 90
    assert one.row(number).to_send == 26


def test_a_campaign_with_too_many_errors_is_paused(bench: Make) -> None:
    one = bench(25, max_send_errors=5)
    one.post.code = 451
    number = one.campaign()
    one.work(30)
    assert one.row(number).status == "paused"
    failed = one.table(schema.MESSAGES)
    assert {row[3] for row in failed} == {"failed"}
    assert 5 <= len(failed) < 5 + one.settings.chunk, "what was already in hand is still tried"


def test_partial_fails_a_share_of_the_sends_for_good(bench: Make) -> None:
    one = bench(400, messages_per_minute=6000, batch_size=1000)
    one.faults.turn_on("partial")
    number = one.campaign()
    one.work(60)
    failed = [row for row in one.table(schema.MESSAGES) if row[3] == "failed"]
    assert 0.12 < len(failed) / 400 < 0.28
    assert one.row(number).sent == len(one.post.sent) == 400 - len(failed)


def test_accept_but_not_deliver_logs_as_accepted_what_never_left(bench: Make) -> None:
    one = bench(25, events=True)
    one.faults.turn_on("accept_but_not_deliver")
    number = one.campaign()
    one.work(7 * 86400)
    assert one.post.sent == []
    assert one.row(number).sent == 25
    assert {(row[3], row[6]) for row in one.table(schema.MESSAGES)} == {("accepted", None)}
    assert {row[1] for row in one.table(schema.EVENTS)} == {"sent"}, "nobody reacts to what did not come"


def test_stalled_runs_and_sends_nothing_and_goes_on_without_a_burst(bench: Make) -> None:
    one = bench(25)
    one.faults.turn_on("stalled")
    number = one.campaign("scheduled", send_at=one.engine.now)
    one.work(3600)
    assert (one.row(number).status, one.row(number).sent, one.got()) == ("running", 0, [])
    one.faults.turn_off("stalled")
    one.work(5)
    assert len(one.got()) == 5


def test_slow_keeps_a_share_of_the_speed(bench: Make) -> None:
    one = bench(60)
    one.faults.turn_on("slow", seconds=0, speed=0.25)
    one.campaign()
    one.work(5 + 40)
    assert len(one.got()) == 10


def test_hard_down_scans_and_sends_nothing_and_records_no_events(bench: Make) -> None:
    one = bench(200, events=True, messages_per_minute=6000)
    first = one.campaign()
    one.work(60)
    before = len(one.table(schema.EVENTS))
    one.faults.turn_on("hard_down")
    second = one.campaign("scheduled", send_at=one.engine.now)
    one.work(6 * 3600)
    assert one.row(first).status == "finished"
    assert one.row(second).status == "scheduled"
    assert len(one.table(schema.EVENTS)) == before
    one.faults.turn_off("hard_down")
    one.work(3600)
    assert one.row(second).status == "finished"
    assert len(one.table(schema.EVENTS)) > before


def test_webhooks_bring_every_event_until_they_are_lost(bench: Make) -> None:
    one = bench(200, events=True, messages_per_minute=6000)
    one.campaign()
    one.work(3600)
    recorded = [row[0] for row in one.table(schema.EVENTS)]
    assert [event["id"] for event in one.webhooks] == recorded
    one.faults.turn_on("webhook_loss")
    one.work(86400)
    assert len(one.table(schema.EVENTS)) > len(recorded) == len(one.webhooks)


def test_opens_and_clicks_and_bounces_have_their_rows(bench: Make) -> None:
    one = bench(2000, events=True, messages_per_minute=60000, batch_size=5000)
    one.campaign()
    one.work(7 * 86400)
    kinds = [row[1] for row in one.table(schema.EVENTS)]
    assert kinds.count("open") == len(one.table(schema.CAMPAIGN_VIEWS)) > 300
    assert kinds.count("click") == len(one.table(schema.LINK_CLICKS)) > 20
    assert kinds.count("bounce") + kinds.count("complaint") == len(one.table(schema.BOUNCES)) > 3
    gone = {row[3] for row in one.table(schema.EVENTS) if row[1] == "unsubscribe"}
    assert gone
    assert {row[0] for row in one.table(schema.SUBSCRIBER_LISTS) if row[2] == "unsubscribed"} == gone


def test_a_second_hard_bounce_blocklists(bench: Make) -> None:
    from tasks.drills.esp.behaviour import Rates

    one = bench(4, events=True, rates=Rates(hard_bounce=1.0))
    one.campaign()
    one.work(120)
    assert {row[5] for row in one.table(schema.SUBSCRIBERS)} == {"enabled"}
    one.campaign()
    one.work(120)
    assert {row[5] for row in one.table(schema.SUBSCRIBERS)} == {"blocklisted"}


def test_a_restart_remembers_what_is_still_to_come_and_lost_what_was_due_meanwhile(bench: Make) -> None:
    one, whole = (bench(300, events=True, messages_per_minute=6000) for _ in range(2))
    for each in (one, whole):
        each.campaign()
        each.work(600)
    whole.work(86400)
    back = one.engine.now + timedelta(hours=2)
    one.start(back)
    one.work(86400 - 2 * 3600)

    def events(each: Any) -> set[tuple[Any, ...]]:
        return {row[1:] for row in each.table(schema.EVENTS)}

    missing = events(whole) - events(one)
    assert events(one) < events(whole)
    assert {True} == {
        store.naive(back) - timedelta(hours=2) <= row[3] <= store.naive(back) for row in missing
    }


def test_losing_recent_events_takes_exactly_the_rows_of_those_minutes(bench: Make) -> None:
    one = bench(300, events=True, messages_per_minute=6000)
    one.campaign()
    one.work(3600)
    now = one.engine.now
    cut = store.naive(now) - timedelta(minutes=20)
    before = {table.name: one.table(table) for table in (schema.EVENTS, schema.CAMPAIGN_VIEWS)}
    messages = one.table(schema.MESSAGES)
    one.faults.turn_on("lose_recent_events", minutes=20, before=now.isoformat())
    one.start(now)
    for table in (schema.EVENTS, schema.CAMPAIGN_VIEWS):
        kept = [row for row in before[table.name] if row[-1] <= cut]
        assert one.table(table) == kept != before[table.name]
    assert one.table(schema.MESSAGES) == messages, "the sender's log is not part of what is lost"
    assert "lose_recent_events" not in one.faults, "it happens once"
    highest = max(row[0] for row in before["events"])
    kept_events = len(one.table(schema.EVENTS))
    one.work(86400)
    assert all(row[0] > highest for row in one.table(schema.EVENTS)[kept_events:]), "ids are not used again"


def test_a_catch_up_copy_meets_the_same_fate_as_its_original(bench: Make) -> None:
    one = bench(300, events=True, messages_per_minute=6000)
    one.campaign()
    copy = one.campaign()
    with one.database.begin() as connection:
        connection.execute(
            sa.update(schema.CAMPAIGNS)
            .where(schema.CAMPAIGNS.c.id == copy)
            .values(attribs={"catch_up_of": 1})
        )
    one.work(7 * 86400)
    opened = {n: {row[3] for row in one.table(schema.EVENTS) if row[1:3] == ("open", n)} for n in (1, copy)}
    assert opened[1] == opened[copy] != set()


@settings(max_examples=8)
@given(cuts=st.lists(st.floats(0.1, 400), min_size=1, max_size=12))
def test_the_result_does_not_depend_on_the_steps_in_which_time_moves(
    fresh_bench: Make, cuts: list[float]
) -> None:
    whole, parts = (fresh_bench(40, events=True, messages_per_minute=37) for _ in range(2))
    for one in (whole, parts):
        one.campaign("scheduled", send_at=one.engine.now + timedelta(seconds=17))
        one.campaign("scheduled", send_at=one.engine.now + timedelta(seconds=31))
    whole.work(600)
    for cut in cuts:
        parts.work(min(cut, (whole.engine.now - parts.engine.now).total_seconds()))
    parts.engine.work_until(whole.engine.now)
    for table in (schema.MESSAGES, schema.EVENTS, schema.CAMPAIGNS, schema.CAMPAIGN_VIEWS, schema.BOUNCES):
        assert whole.table(table) == parts.table(table)
    assert [one.message_id for one in whole.post.sent] == [one.message_id for one in parts.post.sent]
