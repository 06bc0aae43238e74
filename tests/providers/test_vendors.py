"""The vendors' connectors against servers with the documented states, jobs, limits and errors of each."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import httpx
import pytest

from tasks.core import UsageError
from tasks.drills import SimulatedBrevo, SimulatedSendGrid
from tasks.providers import (
    ANONYMOUS,
    BREVO,
    KLAVIYO,
    MAILCHIMP,
    SENDGRID,
    NotOffered,
    ProviderGarbled,
    ProviderRefused,
    ProviderUnavailable,
    connect_provider,
)
from tests.providers.conftest import Vendors

HOUR = timedelta(hours=1)
KINDS = ("sendgrid", "brevo", "mailchimp", "klaviyo")


@pytest.fixture(params=KINDS)
def vendors(request, clock):
    with Vendors(request.param, clock) as one:
        yield one


@pytest.mark.parametrize(
    ("kind", "capability"),
    [
        pytest.param(one.kind, act, id=f"{one.kind} {act.of} {act.action} from {act.from_status}")
        for one in (SENDGRID, BREVO, MAILCHIMP, KLAVIYO)
        for act in one.actions
    ],
)
def test_what_the_capabilities_promise_the_server_does(kind, capability, clock) -> None:
    with Vendors(kind, clock) as vendors:
        act = capability
        provider = vendors.provider
        number = 0
        if act.of == "batch":
            number = vendors.batch(at=5 * HOUR)
            provider = vendors.provider
        if act.of == "feed":
            number = vendors.feed("Blog")
        if act.of != "campaign":
            if act.from_status == "paused":
                provider.pause(number)
        else:
            number = vendors.campaign(
                "News", at=None if act.from_status in ("running", "paused") else 5 * HOUR
            )
            if act.from_status in ("scheduled", "running", "paused"):
                vendors.go(number)
            if act.from_status in ("running", "paused"):
                clock.advance(10)
            if act.from_status == "paused":
                provider.pause(number)
        assert provider.campaign(number).status == act.from_status
        if act.action == "retire":
            provider.retire(number, "mailstay-superseded")
            assert provider.campaign(number).tags == ("mailstay-superseded", "weekly")
            assert provider.campaign(number).send_at is None
        else:
            {"resume": provider.start}.get(act.action, getattr(provider, act.action, None))(number)
        assert provider.campaign(number).status == act.to_status


def test_unscheduling_and_rescheduling_leaves_a_campaign_as_it_was(vendors) -> None:
    number = vendors.campaign("Sale", at=5 * HOUR, kind="sale", useful=9 * HOUR)
    vendors.go(number)
    before = vendors.provider.campaign(number)
    vendors.provider.unschedule(number)
    held = vendors.provider.campaign(number)
    assert (held.status, held.send_at) == ("draft", before.send_at)
    vendors.provider.reschedule(number)
    assert vendors.provider.campaign(number) == before
    vendors.clock.advance(4 * HOUR)
    assert vendors.sent() == []
    vendors.clock.advance(2 * HOUR)
    assert len(vendors.sent()) == 40


def test_a_campaign_names_its_kind_its_deadline_and_its_list(vendors) -> None:
    number = vendors.campaign("Sale", at=5 * HOUR, kind="sale", useful=9 * HOUR)
    one = vendors.provider.campaign(number)
    assert (one.kind, one.latest_useful_at, one.tags, one.catch_up_of) == (
        "sale", vendors.clock.now() + 9 * HOUR, ("weekly",), None,
    )  # fmt: skip
    assert one.list_ids == (vendors.news,)
    assert vendors.provider.campaigns() == [one]
    assert vendors.provider.find_campaign("Sale") == one
    assert vendors.provider.find_campaign("Sal") is None


def test_a_catch_up_goes_to_the_people_of_its_list_and_to_nobody_else(vendors) -> None:
    provider = vendors.provider
    number = vendors.campaign("Sale", at=5 * HOUR, kind="sale", useful=9 * HOUR)
    there = provider.create_list("catch-up")
    provider.add_to_list(there.id, {3, 5, 7})
    assert {one.subscriber_id for one in provider.memberships([there.id])} == {3, 5, 7}
    provider.set_unsubscribed([5], [there.id])
    at = vendors.clock.now() + HOUR
    made = provider.create_campaign(
        copy_of=number, name="catch-up 1", list_id=there.id, tags=("mailstay",), step=2, send_at=at
    )
    assert (made.catch_up_of, made.step, made.kind, made.list_ids) == (number, 2, "sale", (there.id,))
    assert (made.status, made.send_at, made.subject) == ("draft", at, "Sale")
    vendors.clock.advance(2 * HOUR)
    assert vendors.sent() == []
    provider.start(made.id)
    vendors.clock.advance(60)
    assert sorted(vendors.sent("catch-up 1")) == ["c3@shop.example", "c7@shop.example"]


def test_a_scheduled_catch_up_starts_at_its_time(vendors) -> None:
    provider = vendors.provider
    number = vendors.campaign("Sale", at=5 * HOUR)
    at = vendors.clock.now() + HOUR
    made = provider.create_campaign(copy_of=number, name="later", list_id=vendors.news, send_at=at)
    provider.reschedule(made.id)
    assert (provider.campaign(made.id).status, provider.campaign(made.id).send_at) == ("scheduled", at)
    vendors.clock.advance(2 * HOUR)
    assert len(vendors.sent("later")) == 40


def test_people_are_known_by_their_customer_number(vendors) -> None:
    provider = vendors.provider
    assert provider.subscriber_ids() == set(range(1, 41))
    assert provider.addresses()[17] == "c17@shop.example"
    assert {one.subscriber_id for one in provider.memberships()} == set(range(1, 41))
    assert {one.subscriber_id for one in provider.memberships_of_people_on(vendors.news)} == set(range(1, 41))


def test_a_blocked_person_is_mailed_by_nothing(vendors) -> None:
    provider = vendors.provider
    provider.blocklist([9])
    assert 9 in {one.subscriber_id for one in provider.suppressions()}
    assert {one.subscriber_id for one in provider.memberships() if one.mailable} == set(range(1, 41)) - {9}
    vendors.go(vendors.campaign("News"))
    vendors.clock.advance(HOUR)
    assert "c9@shop.example" not in vendors.sent()
    assert len(vendors.sent()) == 39


def test_who_was_due_counts_whoever_opted_out_later(vendors) -> None:
    planned = vendors.clock.now()
    vendors.clock.advance(60)
    vendors.provider.blocklist([9])
    member = {one.subscriber_id: one for one in vendors.provider.memberships()}[9]
    assert not member.mailable
    assert member.was_due(planned)


def test_nobody_says_who_gets_a_campaign_that_is_being_sent(vendors) -> None:
    number = vendors.campaign("News")
    vendors.go(number)
    vendors.clock.advance(10)
    with pytest.raises(NotOffered):
        next(vendors.provider.send_log(number))
    with pytest.raises(NotOffered):
        next(vendors.provider.events())


def test_running_campaigns_are_counted(vendors) -> None:
    number = vendors.campaign("News")
    vendors.go(number)
    vendors.clock.advance(10)
    one = vendors.provider.campaign(number)
    assert (one.status, one.sent) == ("running", 10)
    assert [stat.campaign_id for stat in vendors.provider.running_stats()] == [number]
    vendors.clock.advance(2 * HOUR)
    assert (vendors.provider.campaign(number).status, vendors.provider.running_stats()) == ("finished", [])


def test_wrong_credentials_are_told_without_showing_them(vendors) -> None:
    vendors.server.token = "another"
    with pytest.raises(ProviderRefused, match="401") as caught:
        vendors.provider.campaigns()
    assert "drill-token" not in str(caught.value)
    assert not vendors.provider.health().ok


# SendGrid alone -------------------------------------------------------------------------------------------------


@pytest.fixture
def sendgrid(clock):
    with Vendors("sendgrid", clock) as one:
        yield one


def test_more_contacts_than_a_listing_gives_are_read_from_the_export(clock) -> None:
    with Vendors("sendgrid", clock, people=120) as vendors:
        assert len(vendors.provider.memberships()) == 120


def test_more_suppressions_than_a_page_are_all_read(clock) -> None:
    with Vendors("sendgrid", clock, people=1100) as vendors:
        vendors.server.suppress("bounces", *range(1, 1101))
        assert len(vendors.provider.suppressions()) == 1100


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("unsubscribes", "unsubscribed"), ("spam_reports", "complaint"), ("bounces", "hard_bounce"),
     ("invalid_emails", "hard_bounce"), ("group", "unsubscribed")],
)  # fmt: skip
def test_every_list_of_suppressions_counts(sendgrid, kind, reason) -> None:
    sendgrid.server.suppress(kind, 4)
    assert [(one.subscriber_id, one.reason) for one in sendgrid.provider.suppressions()] == [(4, reason)]
    assert 4 not in {one.subscriber_id for one in sendgrid.provider.memberships() if one.mailable}


def test_contacts_without_a_customer_number_are_anonymous(sendgrid) -> None:
    sendgrid.server.numbered = False
    assert all(one >= ANONYMOUS for one in sendgrid.provider.subscriber_ids())
    assert len(sendgrid.provider.subscriber_ids()) == 40


def test_nothing_stops_a_single_send_in_flight(sendgrid) -> None:
    number = sendgrid.campaign("News")
    sendgrid.go(number)
    assert SENDGRID.hold("running") is None
    for stop in (sendgrid.provider.pause, sendgrid.provider.cancel):
        with pytest.raises(NotOffered):
            stop(number)
    with pytest.raises(ProviderRefused, match="not scheduled"):
        sendgrid.provider.unschedule(number)


def test_a_single_send_that_was_triggered_and_of_which_nothing_left_still_runs(sendgrid) -> None:
    sendgrid.server.stuck = True
    number = sendgrid.campaign("News")
    sendgrid.go(number)
    sendgrid.clock.advance(5 * HOUR)
    one = sendgrid.provider.campaign(number)
    assert (one.status, one.sent, one.to_send) == ("running", 0, 40)
    assert one == sendgrid.provider.campaigns()[0]


def test_a_schedule_in_the_past_is_refused_and_changes_nothing(sendgrid) -> None:
    number = sendgrid.campaign("News", at=HOUR)
    sendgrid.clock.advance(2 * HOUR)
    with pytest.raises(ProviderRefused, match="future"):
        sendgrid.provider.reschedule(number)
    assert sendgrid.provider.campaign(number).status == "draft"


@pytest.mark.parametrize(("minutes", "stopped"), [(11, True), (9, False)])
def test_a_batch_is_stopped_ten_minutes_before_its_time_or_not_for_sure(sendgrid, minutes, stopped) -> None:
    number = sendgrid.batch(at=timedelta(minutes=minutes))
    hold = SENDGRID.hold("scheduled", "batch")
    one = sendgrid.provider.campaign(number)
    assert hold is not None
    assert hold.in_time(one.send_at, sendgrid.clock.now()) is stopped
    sendgrid.provider.pause(number)
    sendgrid.clock.advance(HOUR)
    assert (sendgrid.sent() == []) is stopped


def test_a_paused_batch_is_sent_when_it_is_resumed_within_72_hours_and_gone_after(sendgrid) -> None:
    kept, lost = sendgrid.batch(at=HOUR), sendgrid.batch(at=HOUR)
    for number in (kept, lost):
        sendgrid.provider.pause(number)
    sendgrid.clock.advance(70 * HOUR)
    sendgrid.provider.start(kept)
    assert len(sendgrid.sent()) == 3
    sendgrid.clock.advance(5 * HOUR)
    assert sendgrid.provider.campaign(lost).status == "cancelled"
    sendgrid.provider.start(lost)
    assert len(sendgrid.sent()) == 3


def test_an_eleventh_batch_cannot_be_stopped_and_the_reason_is_said(sendgrid) -> None:
    numbers = [sendgrid.batch(at=HOUR) for _ in range(11)]
    for number in numbers[:10]:
        sendgrid.provider.pause(number)
    with pytest.raises(ProviderRefused, match="maximum number"):
        sendgrid.provider.pause(numbers[10])


def test_an_export_from_elsewhere_is_fetched_only_from_a_host_that_the_plan_names(sendgrid) -> None:
    sendgrid.server.url = sendgrid.server.url.replace("127.0.0.1", "localhost")
    with pytest.raises(ProviderRefused, match="add localhost to the provider's download_hosts"):
        sendgrid.provider.subscriber_ids()
    with Vendors("sendgrid", sendgrid.clock, hosts=("localhost",)) as vendors:
        vendors.server.url = vendors.server.url.replace("127.0.0.1", "localhost")
        assert len(vendors.provider.subscriber_ids()) == 40


def test_an_export_that_is_cut_short_is_not_taken_for_all(sendgrid) -> None:
    file = sendgrid.server.file

    def cut(path):
        answer = file(path)
        return type(answer)(answer.status, answer.content[:-20], answer.headers)

    sendgrid.server.file = cut
    with pytest.raises(ProviderUnavailable, match="to its end"):
        sendgrid.provider.subscriber_ids()


def test_an_export_with_fewer_people_than_it_promises_is_not_taken_for_all(sendgrid) -> None:
    from tasks.drills.vendors.server import Answer, packed

    sendgrid.server.file = lambda _: Answer(200, packed("EMAIL,CONTACT_ID\nc1@shop.example,x\n"))
    with pytest.raises(ProviderGarbled, match="promised 40 contacts but exported"):
        sendgrid.provider.subscriber_ids()


@pytest.mark.parametrize(
    ("line", "said"),
    [("x,News,2011-11-16T09:00:00+00:00,many", "people is no number"), ("x,News,soon,3", "No time"),
     ("x,News,2011-11-16T09:00:00,3", "without a zone"), ("x,,2011-11-16T09:00:00+00:00,3", "has no name")],
)  # fmt: skip
def test_a_broken_file_of_batches_is_told_with_its_line(tmp_path, clock, line, said) -> None:
    from tests.providers.conftest import plan_of

    file = tmp_path / "batches.csv"
    file.write_text(f"batch_id,name,send_at,people\n{line}\n")
    with pytest.raises(UsageError, match=said) as caught:
        connect_provider("sg", plan_of("http://127.0.0.1:1", kind="sendgrid"), "", "t", clock, batches=file)
    assert "line 2" in str(caught.value)


# Brevo alone ----------------------------------------------------------------------------------------------------


@pytest.fixture
def brevo(clock):
    with Vendors("brevo", clock) as one:
        yield one


def test_a_campaign_that_was_partly_sent_is_paused_and_not_a_draft(brevo) -> None:
    number = brevo.campaign("News")
    brevo.go(number)
    brevo.clock.advance(10)
    brevo.provider.pause(number)
    one = brevo.provider.campaign(number)
    assert (one.status, one.sent, one.to_send) == ("paused", 10, 40)


def test_a_suspended_campaign_of_which_nothing_is_counted_is_a_draft_only_before_its_time(brevo) -> None:
    brevo.server.stuck = True  # the counters show nothing yet
    number = brevo.campaign("News", at=HOUR)
    brevo.go(number)
    brevo.provider.unschedule(number)
    assert brevo.provider.campaign(number).status == "draft"
    brevo.provider.reschedule(number)
    brevo.clock.advance(2 * HOUR)
    brevo.provider.pause(number)
    assert (brevo.provider.campaign(number).status, brevo.provider.campaign(number).sent) == ("paused", 0)


def test_who_left_one_list_stays_on_the_other(brevo) -> None:
    other = brevo.provider.create_list("Other")
    brevo.provider.add_to_list(other.id, [5])
    brevo.server.opt_out(5, on=1)
    found = {(one.list_id, one.mailable) for one in brevo.provider.memberships() if one.subscriber_id == 5}
    assert found == {(1, False), (other.id, True)}
    assert [(one.subscriber_id, one.list_id) for one in brevo.provider.suppressions()] == [(5, 1)]


@pytest.mark.parametrize(
    ("code", "reason"),
    [("hardBounce", "hard_bounce"), ("contactFlaggedAsSpam", "complaint"), ("somethingNew", "manual")],
)
def test_a_blocked_recipient_is_suppressed_for_whatever_reason(brevo, code, reason) -> None:
    brevo.server.block(6, code)
    assert [(one.subscriber_id, one.reason) for one in brevo.provider.suppressions()] == [(6, reason)]
    assert 6 not in {one.subscriber_id for one in brevo.provider.memberships() if one.mailable}


def test_the_hundred_and_first_call_of_an_hour_waits_for_the_next_and_is_not_refused(brevo) -> None:
    began = brevo.clock.now()
    for _ in range(101):
        brevo.provider.campaigns()
    assert HOUR <= brevo.clock.now() - began < HOUR + timedelta(minutes=1)
    assert Counter(brevo.server.calls)["GET /v3/emailCampaigns"] == 101


def test_a_window_that_others_have_used_up_is_waited_for_and_a_write_goes_out_once(brevo) -> None:
    number = brevo.campaign("News", at=5 * HOUR)
    brevo.go(number)
    with httpx.Client(headers={"api-key": brevo.server.token}) as other:
        while other.get(f"{brevo.server.url}/v3/emailCampaigns").status_code == 200:
            pass
    with Vendors.connect("brevo", brevo.server, brevo.clock) as provider:
        brevo.server.calls.clear()
        provider.unschedule(number)
    assert brevo.server.calls == [f"PUT /v3/emailCampaigns/{number}/status"] * 2  # 429, then done
    assert brevo.provider.campaign(number).status == "draft"


def test_whoever_has_no_patience_is_told_when_to_come_again(brevo) -> None:
    with Vendors.connect("brevo", brevo.server, brevo.clock, patience=timedelta(seconds=30)) as provider:
        for _ in range(100):
            provider.campaigns()
        with pytest.raises(ProviderUnavailable, match="100 calls per hour is used up") as caught:
            provider.campaigns()
        assert caught.value.outcome_unknown is False
        assert provider.health().ok
    assert SimulatedBrevo.messages_per_minute == SimulatedSendGrid.messages_per_minute


# Mailchimp alone ------------------------------------------------------------------------------------------------


@pytest.fixture
def mailchimp(clock):
    with Vendors("mailchimp", clock) as one:
        yield one


def test_a_campaign_that_was_unscheduled_has_no_time_until_it_is_given_one(mailchimp) -> None:
    number, at = mailchimp.campaign("News"), mailchimp.clock.now() + 5 * HOUR
    mailchimp.provider.reschedule(number, at)
    before = mailchimp.provider.campaign(number)
    assert (before.status, before.send_at, before.to_send) == ("scheduled", at, 40)
    mailchimp.provider.unschedule(number)
    assert mailchimp.provider.campaign(number).send_at is None
    with pytest.raises(ProviderRefused, match="no time to be scheduled at"):
        mailchimp.provider.reschedule(number)
    mailchimp.provider.reschedule(number, at)
    assert mailchimp.provider.campaign(number) == before


def test_a_schedule_is_refused_off_the_quarter_hour_and_a_slot_is_the_next_one(mailchimp) -> None:
    number, at = mailchimp.campaign("News"), mailchimp.clock.now() + timedelta(minutes=7)
    with pytest.raises(ProviderRefused, match="quarter-hour"):
        mailchimp.provider.reschedule(number, at)
    slot = MAILCHIMP.next_slot(at)
    assert (slot.minute % 15, slot.second, MAILCHIMP.next_slot(slot)) == (0, 0, slot)
    assert at <= slot < at + timedelta(minutes=15)
    mailchimp.provider.reschedule(number, slot)
    assert BREVO.next_slot(at) == at


def test_a_campaign_in_flight_cannot_be_paused_or_unscheduled_and_the_capabilities_say_so(mailchimp) -> None:
    number = mailchimp.campaign("News")
    mailchimp.go(number)
    assert MAILCHIMP.hold("running") is None
    assert "log in and cancel it" in MAILCHIMP.left_to_people("running")
    with pytest.raises(NotOffered, match="RSS"):
        mailchimp.provider.pause(number)
    with pytest.raises(ProviderRefused, match="has begun"):
        mailchimp.provider.unschedule(number)


def test_who_got_a_cancelled_campaign_is_named_and_nobody_else(mailchimp) -> None:
    number = mailchimp.campaign("News")
    assert list(mailchimp.provider.send_log(number)) == []
    mailchimp.go(number)
    mailchimp.clock.advance(10)
    mailchimp.provider.cancel(number)
    named = [f"c{one.subscriber_id}@shop.example" for one in mailchimp.provider.send_log(number)]
    mailchimp.clock.advance(HOUR)
    assert sorted(named) == sorted(mailchimp.sent())
    assert len(named) == mailchimp.provider.campaign(number).sent == 10


def test_without_pro_a_send_is_not_cancelled_and_the_reason_is_said(mailchimp) -> None:
    mailchimp.server.pro = False
    number = mailchimp.campaign("News")
    mailchimp.go(number)
    with pytest.raises(ProviderRefused, match="Pro feature"):
        mailchimp.provider.cancel(number)


def test_a_feed_is_neither_counted_as_sending_nor_named_to_anybody(mailchimp) -> None:
    one = mailchimp.provider.campaign(mailchimp.feed("Blog"))
    assert (one.of, one.status, one.sent, one.started_at, one.send_at) == ("feed", "running", 0, None, None)
    assert mailchimp.provider.running_stats() == []
    with pytest.raises(NotOffered):
        next(mailchimp.provider.send_log(one.id))


@pytest.mark.parametrize(
    ("status", "reason"),
    [("unsubscribed", "unsubscribed"), ("cleaned", "hard_bounce"), ("pending", "unsubscribed"),
     ("archived", "unsubscribed"), ("something new", "unsubscribed")],
)  # fmt: skip
def test_only_who_is_subscribed_is_mailable(mailchimp, status, reason) -> None:
    mailchimp.server.change(6, status)
    assert (6, reason) in [(one.subscriber_id, one.reason) for one in mailchimp.provider.suppressions()]
    assert {one.subscriber_id for one in mailchimp.provider.memberships() if one.mailable} == set(
        range(1, 41)
    ) - {6}


def test_a_complaint_counts(mailchimp) -> None:
    mailchimp.server.complain(4)
    assert ("complaint", None) in [(one.reason, one.list_id) for one in mailchimp.provider.suppressions()]


def test_who_left_one_audience_is_suppressed_there_and_in_its_tags_only(mailchimp) -> None:
    other = mailchimp.server.add_audience("Other", 5, 6)
    tag = mailchimp.provider.create_list("catch-up", among=[mailchimp.news])
    mailchimp.provider.add_to_list(tag.id, [5])
    mailchimp.server.change(5, "unsubscribed")
    found = {one.list_id for one in mailchimp.provider.suppressions() if one.subscriber_id == 5}
    assert found == {mailchimp.news, tag.id}
    mailable = [
        one.list_id for one in mailchimp.provider.memberships() if one.subscriber_id == 5 and one.mailable
    ]
    assert mailable == [mailchimp.provider.find_list("Other").id]
    mailchimp.server.change(5, "unsubscribed", other)
    assert [one.list_id for one in mailchimp.provider.suppressions() if one.subscriber_id == 5] == [None]


def test_a_tag_needs_one_audience_to_be_in(mailchimp) -> None:
    mailchimp.server.add_audience("Other", 5)
    with pytest.raises(ProviderRefused, match="2 to choose from"):
        mailchimp.provider.create_list("catch-up")


def test_an_audience_is_never_deleted_or_filled(mailchimp) -> None:
    with pytest.raises(NotOffered, match="consents"):
        mailchimp.provider.delete_list(mailchimp.news)
    with pytest.raises(NotOffered, match="subscribes nobody"):
        mailchimp.provider.add_to_list(mailchimp.news, [1])


def test_a_campaign_to_conditions_of_its_own_stops_whoever_asks_for_its_people(mailchimp) -> None:
    number = mailchimp.campaign("News")
    [one] = mailchimp.server._campaigns.values()
    one.recipients = {"list_id": mailchimp.server.news, "segment_opts": {"match": "all", "conditions": [{}]}}
    [audience] = mailchimp.provider.campaign(number).list_ids
    assert audience != mailchimp.news
    with pytest.raises(ProviderRefused, match="only Mailchimp can evaluate"):
        mailchimp.provider.memberships([audience])


def test_a_bare_403_is_waited_out_and_a_change_behind_it_is_not_sent_again(mailchimp) -> None:
    number = mailchimp.campaign("News", at=5 * HOUR)
    mailchimp.go(number)
    mailchimp.server.busy = 2
    assert len(mailchimp.provider.campaigns()) == 1
    mailchimp.server.busy = 1
    mailchimp.server.calls.clear()
    with pytest.raises(ProviderRefused, match="too many calls of this account at once"):
        mailchimp.provider.unschedule(number)
    assert len(mailchimp.server.calls) == 1


def test_a_missing_permission_is_no_limit(mailchimp) -> None:
    mailchimp.server.pro = False
    number = mailchimp.campaign("News")
    mailchimp.go(number)
    with pytest.raises(ProviderRefused) as caught:
        mailchimp.provider.cancel(number)
    assert caught.value.status == 403


def test_more_people_than_a_page_are_all_read_and_a_short_total_is_an_error(clock) -> None:
    with Vendors("mailchimp", clock, people=1100) as vendors:
        assert len(vendors.provider.memberships([vendors.news])) == 1100
        members = vendors.server._list_members

        def one_more(ask):
            answer = members(ask)
            return type(answer)(200, answer.content | {"total_items": 1101})

        vendors.server._routes = [
            (method, pattern, one_more if handler == members else handler)
            for method, pattern, handler in vendors.server._routes
        ]
        with pytest.raises(ProviderGarbled, match="promised 1101 rows but gave 1100"):
            vendors.provider.subscriber_ids()


# Klaviyo alone --------------------------------------------------------------------------------------------------


@pytest.fixture
def klaviyo(clock):
    with Vendors("klaviyo", clock) as one:
        yield one


def test_a_campaign_in_flight_is_never_reverted(klaviyo) -> None:
    number = klaviyo.campaign("News", at=HOUR)
    klaviyo.go(number)
    assert klaviyo.provider.campaign(number).status == "scheduled"
    klaviyo.clock.advance(HOUR + timedelta(seconds=5))
    with pytest.raises(ProviderRefused, match="hide whom it reached"):
        klaviyo.provider.unschedule(number)
    assert klaviyo.provider.campaign(number).status == "running"
    assert KLAVIYO.hold("running") is None
    assert "log in and cancel it" in KLAVIYO.left_to_people("running")
    with pytest.raises(ProviderRefused, match="cannot pause"):
        klaviyo.provider.pause(number)


def test_a_time_that_is_past_is_not_asked_for(klaviyo) -> None:
    number = klaviyo.campaign("News", at=HOUR)
    klaviyo.clock.advance(2 * HOUR)
    with pytest.raises(ProviderRefused, match="is past"):
        klaviyo.provider.reschedule(number)
    assert klaviyo.sent() == []


def test_a_catch_up_excludes_whom_the_original_excludes_and_has_smart_sending_off(klaviyo) -> None:
    number = klaviyo.campaign("Sale", at=5 * HOUR)
    [original] = klaviyo.server._campaigns.values()
    original.audiences["excluded"] = [klaviyo.server.segment]
    there = klaviyo.provider.create_list("catch-up")
    klaviyo.provider.add_to_list(there.id, [3, 7])
    made = klaviyo.provider.create_campaign(copy_of=number, name="catch-up 1", list_id=there.id)
    assert klaviyo.server._campaigns[made.uuid].smart is False
    klaviyo.provider.start(made.id)
    klaviyo.clock.advance(60)
    assert klaviyo.sent() == ["c7@shop.example"]  # 3 is of the segment


@pytest.mark.parametrize("kind", ["mailchimp", "klaviyo"])
def test_a_copy_that_was_begun_and_not_finished_is_not_found_and_is_gone_on_with(kind, clock) -> None:
    with Vendors(kind, clock) as vendors:
        provider, number = vendors.provider, vendors.campaign("Sale", at=5 * HOUR)
        send, broken = provider._api.send, ["PATCH"]

        def breaking(method, *rest):
            if method in broken:
                raise ProviderUnavailable("cut", outcome_unknown=True)
            return send(method, *rest)

        provider._api.send = breaking
        with pytest.raises(ProviderUnavailable):
            provider.create_campaign(copy_of=number, name="catch-up 1", list_id=vendors.news)
        assert provider.find_campaign("catch-up 1") is None
        broken.clear()
        made = provider.create_campaign(copy_of=number, name="catch-up 1", list_id=vendors.news)
        assert provider.find_campaign("catch-up 1") == made
        assert len(provider.campaigns()) == 2


def test_a_campaign_to_a_segment_goes_to_whom_klaviyo_chooses(klaviyo) -> None:
    number = klaviyo.campaign("News")
    [one] = klaviyo.server._campaigns.values()
    one.audiences["included"] = [klaviyo.server.segment]
    [audience] = klaviyo.provider.campaign(number).list_ids
    assert {one.subscriber_id for one in klaviyo.provider.memberships([audience])} == {1, 2, 3, 4, 5}


@pytest.mark.parametrize(
    ("word", "reason"),
    [("HARD_BOUNCE", "hard_bounce"), ("SPAM_COMPLAINT", "complaint"), ("UNSUBSCRIBE", "unsubscribed"),
     ("USER_SUPPRESSED", "manual"), ("SOMETHING_NEW", "manual")],
)  # fmt: skip
def test_a_profile_is_suppressed_for_whatever_reason(klaviyo, word, reason) -> None:
    klaviyo.server.suppress(6, word)
    assert [(one.subscriber_id, one.reason) for one in klaviyo.provider.suppressions()] == [(6, reason)]
    assert 6 not in {one.subscriber_id for one in klaviyo.provider.memberships() if one.mailable}


def test_who_is_suppressed_for_one_list_stays_on_the_other(klaviyo) -> None:
    other = klaviyo.provider.create_list("Other")
    klaviyo.provider.add_to_list(other.id, [5])
    klaviyo.server.suppress(5, "USER_SUPPRESSED", on=klaviyo.server.news)
    found = {(one.list_id, one.mailable) for one in klaviyo.provider.memberships() if one.subscriber_id == 5}
    assert found == {(klaviyo.news, False), (other.id, True)}
    assert [(one.subscriber_id, one.list_id) for one in klaviyo.provider.suppressions()] == [
        (5, klaviyo.news)
    ]


def test_every_page_of_lists_and_profiles_is_read(clock) -> None:
    with Vendors("klaviyo", clock, people=250) as vendors:
        made = {vendors.provider.create_list(f"list {number}").id for number in range(12)}
        assert made < {one.id for one in vendors.provider.lists()}
        assert vendors.provider.subscriber_ids() == set(range(1, 251))


def test_a_cursor_that_comes_again_is_no_end(klaviyo) -> None:
    page = klaviyo.server._page

    def circle(kind, rows, ask):
        answer = page(kind, rows, ask)
        return type(answer)(
            200, answer.content | {"links": {"next": "https://a.klaviyo.com/x?page[cursor]=7"}}
        )

    klaviyo.server._page = circle
    with pytest.raises(ProviderGarbled, match="next page that is none"):
        klaviyo.provider.subscriber_ids()


def test_a_minutes_looks_are_spread_so_that_klaviyo_refuses_none(klaviyo) -> None:
    number, began = klaviyo.campaign("News", at=5 * HOUR), klaviyo.clock.now()
    klaviyo.server.calls.clear()
    for _ in range(151):
        klaviyo.provider.campaign(number)
    assert timedelta(minutes=1) <= klaviyo.clock.now() - began < timedelta(minutes=2)
    assert len(klaviyo.server.calls) == 151


def test_a_daily_limit_of_one_kind_of_call_holds_no_other_up(klaviyo) -> None:
    assert KLAVIYO.longest_window == timedelta(minutes=1)
    for number in range(150):
        klaviyo.provider.create_list(f"list {number}")
    with pytest.raises(ProviderUnavailable, match="150 calls per 24 hours is used up"):
        klaviyo.provider.create_list("one more")
    assert klaviyo.provider.find_list("list 149")


def test_one_report_a_minute_tells_of_all_campaigns_and_is_not_asked_for_while_nothing_sends(klaviyo) -> None:
    for name in ("One", "Two"):
        klaviyo.go(klaviyo.campaign(name))
    klaviyo.clock.advance(30)
    report = "POST /api/campaign-values-reports"
    with Vendors.connect("klaviyo", klaviyo.server, klaviyo.clock) as provider:
        klaviyo.server.calls.clear()
        assert [one.sent for one in provider.campaigns()] == [30, 30]
        provider.running_stats()
    assert klaviyo.server.calls.count(report) == 1
    klaviyo.clock.advance(120)
    with Vendors.connect("klaviyo", klaviyo.server, klaviyo.clock) as provider:
        assert {one.status for one in provider.campaigns()} == {"finished"}
        assert klaviyo.server.calls.count(report) == 1
        assert provider.campaign(provider.campaigns()[0].id).sent == 40
    assert klaviyo.server.calls.count(report) == 2
