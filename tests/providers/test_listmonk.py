"""The connector against a real server that speaks listmonk's dialect, its quirks included."""

from datetime import timedelta

import pytest

from tasks.providers import LISTMONK, ProviderRefused, ProviderUnavailable

pytestmark = pytest.mark.integration


def test_what_the_capabilities_promise_the_server_does(provider, create, clock) -> None:
    soon = (clock.now() + timedelta(hours=5)).isoformat()
    for capability in LISTMONK.actions:
        number = create(name=f"{capability.action} from {capability.from_status}", send_at=soon)
        if capability.from_status == "scheduled":
            provider.reschedule(number)
        elif capability.from_status in ("running", "paused"):
            provider.retire(number, "no time")
            provider.start(number)
            clock.advance(6)
            if capability.from_status == "paused":
                provider.pause(number)
        assert provider.campaign(number).status == capability.from_status
        if capability.action in ("start",):
            provider.retire(number, "no time")
        if capability.action == "retire":
            provider.retire(number, "gone")
        else:
            call = {"resume": provider.start}.get(capability.action) or getattr(provider, capability.action)
            call(number)
        assert provider.campaign(number).status == capability.to_status


@pytest.mark.parametrize(
    ("action", "status"),
    [("pause", "scheduled"), ("cancel", "scheduled"), ("pause", "draft"), ("cancel", "draft")],
)
def test_what_no_capability_names_the_server_refuses(provider, create, clock, action, status) -> None:
    number = create(send_at=(clock.now() + timedelta(hours=5)).isoformat())
    if status == "scheduled":
        provider.reschedule(number)
    assert LISTMONK.find(action, status) is None
    with pytest.raises(ProviderRefused):
        getattr(provider, action)(number)
    assert provider.campaign(number).status == status


def test_unscheduling_and_rescheduling_leaves_a_campaign_as_it_was(provider, create, clock) -> None:
    number = create(send_at=(clock.now() + timedelta(hours=5)).isoformat())
    provider.reschedule(number)
    before = provider.campaign(number)
    provider.unschedule(number)
    provider.reschedule(number)
    assert provider.campaign(number) == before


def test_a_campaign_names_its_kind_and_its_deadline(provider, create, clock) -> None:
    deadline = clock.now() + timedelta(hours=9)
    one = provider.campaign(create(attribs={"kind": "sale", "latest_useful_at": deadline.isoformat()}))
    assert (one.kind, one.latest_useful_at, one.list_ids, one.catch_up_of) == ("sale", deadline, (1,), None)


def test_a_retired_draft_has_no_time_and_a_tag(provider, create, clock) -> None:
    number = create(send_at=(clock.now() + timedelta(minutes=5)).isoformat(), tags=["weekly"])
    clock.advance(timedelta(minutes=10))
    provider.retire(number, "mailstay-superseded")
    one = provider.campaign(number)
    assert (one.status, one.send_at, one.tags) == ("draft", None, ("mailstay-superseded", "weekly"))


def test_a_catch_up_campaign_has_the_content_of_its_original_and_its_own_people(provider, create) -> None:
    number = create(
        attribs={"kind": "sale", "latest_useful_at": "2011-11-16T18:00:00+00:00"}, subject="One day only"
    )
    there = provider.create_list("catch-up")
    provider.add_to_list(there.id, [3, 5])
    made = provider.create_campaign(
        copy_of=number, name="catch-up 1", list_id=there.id, tags=("mailstay",), step=2
    )
    original = provider.campaign(number)
    assert (made.subject, made.kind, made.latest_useful_at) == (
        "One day only",
        "sale",
        original.latest_useful_at,
    )
    assert (made.catch_up_of, made.step, made.list_ids, made.status) == (number, 2, (there.id,), "draft")
    assert provider.find_campaign("catch-up 1") == made
    assert {one.subscriber_id for one in provider.memberships([there.id])} == {3, 5}


def test_people_are_read_page_by_page_and_completely(provider) -> None:
    assert {one.subscriber_id for one in provider.memberships([1])} == set(range(1, 131))
    assert provider.memberships([2]) == []


def test_an_unsubscribed_person_is_suppressed_on_that_list_a_blocked_one_everywhere(provider) -> None:
    provider.set_unsubscribed([7], [1])
    provider.blocklist([9])
    found = provider.suppressions()
    assert {(one.subscriber_id, one.list_id) for one in found if one.reason == "unsubscribed"} >= {(7, 1)}
    assert 9 in {one.subscriber_id for one in found if one.reason == "manual" and one.list_id is None}
    mailable = {one.subscriber_id for one in provider.memberships([1]) if one.mailable}
    assert mailable == set(range(1, 131)) - {7, 9}


def test_who_was_due_is_told_by_when_people_came_and_left(provider, clock) -> None:
    planned = clock.now()
    clock.advance(60)
    provider.set_unsubscribed([7], [1])
    provider.add_to_list(2, [8])
    members = {one.subscriber_id: one for one in provider.memberships([1])}
    assert members[7].was_due(planned)
    assert not members[7].was_due(clock.now() + timedelta(minutes=1))
    [late] = provider.memberships([2])
    assert not late.was_due(planned)


def test_the_send_log_and_the_events_tell_of_each_message(provider, create, clock, sink) -> None:
    number = create()
    provider.start(number)
    clock.advance(timedelta(minutes=5))
    log = list(provider.send_log(number))
    assert provider.campaign(number).status == "finished"
    assert {one.subscriber_id for one in log if one.status == "accepted"} == set(range(1, 131))
    assert {one.subscriber_id for one in sink.messages()} == set(range(1, 131))
    delivered = [one for one in provider.events(campaign_id=number) if one.type == "delivered"]
    assert len(delivered) > 100
    last = max(one.event_id for one in delivered)
    assert all(one.event_id > last for one in provider.events(after_id=last, campaign_id=number))


def test_a_pausing_campaign_is_listed_until_its_pipe_is_gone(provider, create, clock) -> None:
    number = create()
    provider.start(number)
    clock.advance(20)
    provider.pause(number)
    assert provider.campaign(number).status == "paused"
    clock.advance(30)
    assert number not in {one.campaign_id for one in provider.running_stats()}


def test_lists_are_found_by_their_exact_name_only(provider) -> None:
    one = provider.create_list("mailstay catch-up 1")
    provider.create_list("mailstay catch-up 10")
    assert provider.find_list("mailstay catch-up 1") == one
    assert provider.find_list("mailstay") is None
    provider.delete_list(one.id)
    assert provider.find_list("mailstay catch-up 1") is None


def test_with_a_fifth_of_the_requests_failing_every_read_comes_through(provider, esp) -> None:
    esp.fault("partial", share=0.2)
    assert len(provider.memberships([1])) == 130


def test_a_provider_that_is_down_is_unavailable_and_not_healthy(provider, esp) -> None:
    assert provider.health().ok
    esp.fault("hard_down", mode="503")
    assert not provider.health().ok
    with pytest.raises(ProviderUnavailable):
        provider.campaigns()
    esp.kill()
    with pytest.raises(ProviderUnavailable) as caught:
        provider.pause(1)
    assert caught.value.outcome_unknown is False


def test_a_failing_unsubscribe_is_an_unknown_outcome(provider, esp) -> None:
    esp.fault("unsubscribe_failing")
    with pytest.raises(ProviderUnavailable) as caught:
        provider.set_unsubscribed([7], [1])
    assert caught.value.outcome_unknown is True


def test_wrong_credentials_are_told_without_showing_them(esp, connect_to) -> None:
    with pytest.raises(ProviderRefused, match="403") as caught:
        connect_to(esp.api_url).campaigns()
    assert "s3cret" not in str(caught.value)
