"""Recovering against a real ESP that failed: the mailbox is the judge."""

from datetime import timedelta

import pytest

from tasks.catchup.desk import Stopped
from tasks.incidents import Journal

pytestmark = pytest.mark.integration
HOUR = timedelta(hours=1)


def counts(outcomes):
    return {one.campaign_id: {name: n for name, n in one.counts.items() if n} for one in outcomes}


def die_in_the_middle(bench, after=50) -> int:
    """A newsletter runs, the ESP dies inside a batch and comes back; the response pauses what it resumed."""
    number = bench.campaign("News", status="running")
    bench.die(after)
    bench.esp.fault("stalled")
    bench.clock.advance(HOUR)
    bench.esp.restart()
    bench.clock.advance(30)
    return number


def test_a_crash_in_a_batch_leaves_nobody_out_and_mails_nobody_twice(bench) -> None:
    """listmonk #3022: the fetched batch is lost for the provider's own resume; the ledger still knows."""
    number = die_in_the_middle(bench)
    incident = bench.respond(number, impact_hours_ago=1)
    bench.esp.clear("stalled")
    [outcome] = bench.recover(incident)
    bench.judge(bench.ledgers(incident))
    assert outcome.done == "caught_up"
    assert outcome.counts["unknown"] > 0
    assert len({who for who, _ in bench.mailed()[number]} | bench.ledgers(incident)[number]["unknown"]) == 160


def test_the_naive_resume_of_the_same_crash_loses_people_for_good(bench) -> None:
    """listmonk #3022 as it is: the same crash, resumed through the provider's pointer."""
    number = die_in_the_middle(bench)
    bench.respond(number, impact_hours_ago=1)
    bench.esp.clear("stalled")
    provider = bench.provider()
    provider.start(number)
    bench.clock.advance(HOUR)
    assert provider.campaign(number).status == "finished"
    mailed = {who for who, _ in bench.mailed()[number]}
    assert len(mailed) < 160 - 20


def test_a_sale_whose_day_is_over_is_not_sent_late(bench) -> None:
    """listmonk #1801: a late scheduled campaign always fires; ours is dropped, and everybody is counted."""
    number = bench.campaign("Sale", kind="sale", at=HOUR, deadline=3 * HOUR)
    incident = bench.respond(number)
    bench.clock.advance(4 * HOUR)
    [outcome] = bench.recover(incident)
    bench.clock.advance(HOUR)
    bench.judge(bench.ledgers(incident))
    assert bench.mailed()[number] == []
    assert counts([outcome]) == {number: {"expired": 160}}


def test_the_naive_resume_sends_the_sale_after_its_day(bench) -> None:
    """listmonk #1801 as it is: scheduled again, it goes out hours after anybody wants it."""
    number = bench.campaign("Sale", kind="sale", at=HOUR, deadline=3 * HOUR)
    bench.respond(number)
    bench.clock.advance(4 * HOUR)
    provider = bench.provider()
    provider.reschedule(number)
    bench.clock.advance(HOUR)
    assert len(bench.mailed()[number]) == 160
    assert min(at for _, at in bench.mailed()[number]) > bench.deadline[number]


def test_whoever_opted_out_at_the_shop_is_never_mailed_though_the_esp_did_not_take_it(bench) -> None:
    number = bench.campaign("News", at=HOUR)
    incident = bench.respond(number)
    bench.esp.fault("unsubscribe_failing")
    bench.clock.advance(2 * HOUR)
    bench.opt_out(3, 77, 160)
    bench.esp.clear("unsubscribe_failing")
    [outcome] = bench.recover(incident)
    bench.judge(bench.ledgers(incident))
    assert counts([outcome]) == {number: {"accepted": 0, "delivered": 157, "suppressed": 3}} or (
        outcome.counts["suppressed"] == 3 and outcome.counts["accepted"] + outcome.counts["delivered"] == 157
    )
    provider = bench.provider()
    mailable = {one.subscriber_id for one in provider.memberships([1]) if one.mailable}
    assert not mailable & {3, 77, 160}


def test_while_the_esp_takes_no_opt_out_nothing_is_resumed(bench) -> None:
    number = bench.campaign("News", at=HOUR)
    incident = bench.respond(number)
    bench.esp.fault("unsubscribe_failing")
    bench.clock.advance(2 * HOUR)
    bench.opt_out(3)
    with pytest.raises(Exception, match="consent"):
        bench.recover(incident)
    assert bench.mailed()[number] == []
    bench.esp.clear("unsubscribe_failing")
    bench.recover(incident)
    bench.judge(bench.ledgers(incident))


def test_the_gate_is_red_while_the_shop_cannot_be_read(bench) -> None:
    number = bench.campaign("News", at=HOUR)
    incident = bench.respond(number)
    bench.clock.advance(2 * HOUR)
    shop = bench.folder / "shop.sqlite"
    shop.rename(bench.folder / "away.sqlite")
    with pytest.raises(Stopped, match="gate is red"):
        bench.recover(incident)
    assert bench.mailed()[number] == []
    shop.unlink(missing_ok=True)
    (bench.folder / "away.sqlite").rename(shop)
    bench.recover(incident)
    assert len(bench.mailed()[number]) == 160


def test_a_campaign_whose_time_is_ahead_is_scheduled_again_exactly_as_it_was(bench) -> None:
    number = bench.campaign("Tomorrow", at=24 * HOUR)
    before = bench.provider().campaign(number)
    incident = bench.respond(number)
    bench.clock.advance(2 * HOUR)
    [outcome] = bench.recover(incident)
    assert bench.provider().campaign(number) == before
    assert (outcome.done, outcome.scheduled) == ("put_back", 160)
    bench.opt_out(9)
    bench.recover(bench.respond())
    bench.clock.advance(24 * HOUR)
    assert {who for who, _ in bench.mailed()[number]} == set(range(1, 161)) - {9}


def test_a_win_back_goes_out_an_hour_later_by_the_providers_own_clock(bench) -> None:
    number = bench.campaign("Come back", kind="winback", at=HOUR)
    incident = bench.respond(number)
    bench.clock.advance(3 * HOUR)
    [outcome] = bench.recover(incident)
    restored = bench.clock.now()
    assert (outcome.done, outcome.scheduled) == ("scheduled", 160)
    assert bench.mailed()[number] == []
    bench.clock.advance(2 * HOUR)
    bench.judge({})
    assert {who for who, _ in bench.mailed()[number]} == set(range(1, 161))
    assert min(at for _, at in bench.mailed()[number]) >= restored + timedelta(minutes=50)


def test_only_as_many_as_fit_are_mailed_before_the_deadline(bench) -> None:
    number = bench.campaign("Sale", kind="sale", at=HOUR, deadline=2 * HOUR + timedelta(minutes=6))
    incident = bench.respond(number)
    bench.clock.advance(2 * HOUR)
    [outcome] = bench.recover(incident)
    bench.judge(bench.ledgers(incident))
    assert 20 <= len(bench.mailed()[number]) < 160
    assert outcome.counts["expired"] > 0


def test_the_ramp_grows_step_by_step(bench) -> None:
    number = bench.campaign("News", at=HOUR)
    incident = bench.respond(number)
    bench.clock.advance(2 * HOUR)
    bench.recover(incident)
    provider = bench.provider()
    sizes = [
        one.sent
        for one in sorted(provider.campaigns(), key=lambda one: one.step)
        if one.catch_up_of == number
    ]
    assert sizes == [20, 40, 60, 40]


def test_a_stalled_provider_stops_the_recovery_and_the_next_run_finishes_it(bench) -> None:
    number = bench.campaign("News", at=HOUR)
    incident = bench.respond(number)
    bench.clock.advance(2 * HOUR)
    bench.esp.fault("stalled")
    with pytest.raises(Stopped, match="sends nothing"):
        bench.recover(incident)
    bench.esp.clear("stalled")
    bench.recover(incident)
    bench.judge(bench.ledgers(incident))
    assert len(bench.mailed()[number]) == 160


def test_a_provider_that_dies_again_during_the_catch_up_is_recovered_by_the_next_run(bench) -> None:
    number = bench.campaign("News", at=HOUR)
    incident = bench.respond(number)
    bench.clock.advance(2 * HOUR)
    bench.esp.fault("kill_mid_batch", after=70)
    with pytest.raises(Exception, match=r"reached|answer|broke"):
        bench.recover(incident)
    assert not bench.esp.alive
    bench.esp.restart()
    bench.recover(incident)
    bench.judge(bench.ledgers(incident))


def test_a_second_outage_during_a_catch_up_unites_both_rounds(bench) -> None:
    number = bench.campaign("News", at=HOUR)
    first = bench.respond(number)
    bench.clock.advance(2 * HOUR)
    bench.esp.fault("kill_mid_batch", after=70)
    with pytest.raises(Exception, match=r"reached|answer|broke"):
        bench.recover(first)
    bench.esp.restart()
    with Journal.open(bench.journal_url, bench.clock) as journal:
        journal.transition(first, "resolved", "test", "closed by hand, too early")
    second = bench.respond()
    bench.recover(second)
    bench.judge(bench.ledgers(second))


def test_a_webhook_that_the_esp_has_no_log_of_makes_its_log_unfit_as_proof(bench) -> None:
    number = die_in_the_middle(bench)
    incident = bench.respond(number, impact_hours_ago=1)
    bench.webhook("delivered", number, 155)
    bench.esp.clear("stalled")
    [outcome] = bench.recover(incident)
    assert outcome.counts["not_attempted"] == 0
    assert outcome.counts["unknown"] > 90
    assert 155 in bench.ledgers(incident)[number]["delivered"]


def test_a_campaign_that_finished_short_is_found_without_having_been_paused(bench) -> None:
    """listmonk #2278: the crash marks nothing, the campaign finishes with people unsent."""
    number = bench.campaign("News", status="running")
    bench.die(50)
    bench.clock.advance(HOUR)
    bench.esp.restart()
    bench.clock.advance(HOUR)
    assert bench.provider().campaign(number).status == "finished"
    incident = bench.respond(impact_hours_ago=2)
    bench.recover(incident)
    bench.judge(bench.ledgers(incident))
    people = bench.ledgers(incident)[number]
    assert len({who for who, _ in bench.mailed()[number]} | people["unknown"]) == 160


def test_a_rerun_after_everything_is_done_changes_nothing(bench) -> None:
    number = bench.campaign("News", at=HOUR)
    incident = bench.respond(number)
    bench.clock.advance(2 * HOUR)
    bench.recover(incident)
    before = bench.sink.messages()
    campaigns = bench.provider().campaigns()
    bench.recover(incident)
    assert bench.sink.messages() == before
    assert bench.provider().campaigns() == campaigns


def test_what_is_not_agreed_to_is_held_and_nothing_is_sent(bench) -> None:
    number = bench.campaign("News", at=HOUR)
    incident = bench.respond(number)
    bench.clock.advance(2 * HOUR)
    with pytest.raises(AssertionError):
        bench.recover(incident, agreed=frozenset())
    assert bench.mailed()[number] == []
    assert bench.provider().campaign(number).status == "draft"
