"""The cases in which listmonk's own resume loses people, mails them again or mails them too late; and Mailstay's.

Each is an issue of knadh/listmonk, named by its number. A server that behaves as the issue says (the simulated ESP with
real SMTP) is brought into the same state twice. Once it is resumed as its documentation says ("you simply have to
resume the campaign and it'll pick up from where it left off", #1222), and the mailbox shows the harm; once the incident
is responded to and recovered, and the mailbox shows none.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from datetime import timedelta

import pytest

from tasks.providers import ProviderRefused

pytestmark = pytest.mark.integration
HOUR = timedelta(hours=1)
PEOPLE = set(range(1, 161))
HIGH_IDS = set(range(81, 161))
"""80 people whose ids all lie above their number: older subscribers have left."""

YES = frozenset({"catch_up", "reschedule", "drop", "send_anyway"})


def copies(bench, number: int) -> Counter[int]:
    """How many mails of a campaign each person has in the mailbox."""
    return Counter(who for who, _ in bench.mailed()[number])


def set_status(bench, number: int, status: str) -> None:
    """Press one of listmonk's own buttons."""
    bench.ask("PUT", f"/api/campaigns/{number}/status", {"status": status})


def prove(bench, number: int, incident: str, audience: set[int]) -> None:
    """Once per person, and everybody either mailed or named with the reason; nobody is unknown for nothing."""
    ledger = bench.ledgers(incident)
    bench.judge(ledger)
    assert set(copies(bench, number).values()) <= {1}
    assert set(copies(bench, number)) | ledger[number]["unknown"] == audience


# #3022: the container was restarted three times, half of the list was never mailed, the campaign is "finished" ---


def restarted_thrice(bench) -> int:
    """The pointer moves when a batch is fetched; each restart skips what was fetched and not yet sent."""
    number = bench.campaign("News", status="running")
    for after in (20, 15, 10):
        bench.die(after)
        bench.esp.restart()
    return number


def test_3022_naive_each_restart_skips_a_batch_and_the_campaign_is_finished(new_bench) -> None:
    bench = new_bench(batch=50)
    number = restarted_thrice(bench)
    bench.clock.advance(HOUR)
    provider = bench.provider()
    assert provider.campaign(number).status == "finished"
    with pytest.raises(ProviderRefused, match="Only paused campaigns and drafts can be started"):
        provider.start(number)
    assert len(PEOPLE - set(copies(bench, number))) > 80, "more than half of the list was never mailed"


def test_3022_recovered_nobody_is_left_out_or_mailed_twice(new_bench) -> None:
    bench = new_bench(batch=50)
    number = restarted_thrice(bench)
    bench.clock.advance(HOUR)
    incident = bench.respond(impact_hours_ago=1.5)
    cut = {one.subscriber_id for one in bench.provider().send_log(number) if one.status == "sending"}
    [outcome] = bench.recover(incident)
    prove(bench, number, incident, PEOPLE)
    assert outcome.done == "caught_up"
    assert bench.ledgers(incident)[number]["unknown"] == cut != set(), "handed over as it was killed"


# #2278: a reboot in the middle of a campaign; it is finished at once, almost 100 people were not mailed ----------


def shut_down(bench) -> int:
    """SIGTERM, as a reboot sends it: listmonk traps only SIGHUP (cmd/main.go), so its clean-up does not run."""
    number = bench.campaign("News", status="running")
    bench.clock.advance(5 + 70)
    os.kill(bench.esp.state()["pid"], signal.SIGTERM)
    while bench.esp.alive:
        pass
    bench.clock.advance(timedelta(minutes=10))
    bench.esp.restart()
    bench.clock.advance(10)
    return number


def test_2278_naive_the_reboot_finishes_the_campaign_with_people_unsent(new_bench) -> None:
    bench = new_bench(batch=160)
    number = shut_down(bench)
    provider = bench.provider()
    assert provider.campaign(number).status == "finished"
    with pytest.raises(ProviderRefused):
        provider.start(number)
    bench.clock.advance(HOUR)
    assert copies(bench, number) == Counter(range(1, 71)), "90 people were skipped"


def test_2278_recovered_the_skipped_people_get_their_mail(new_bench) -> None:
    bench = new_bench(batch=160)
    number = shut_down(bench)
    incident = bench.respond(impact_hours_ago=0.5)
    bench.recover(incident)
    prove(bench, number, incident, PEOPLE)
    assert copies(bench, number) == Counter(PEOPLE)


# #2168: paused, restarted, resumed, as the settings page asks for: "finished" at 5,258 of 5,601 ------------------


def paused_and_restarted(bench) -> int:
    """The restart comes before the paused pipe has ended (with a sliding window it sleeps for up to an hour first)."""
    number = bench.campaign("News", status="running")
    bench.clock.advance(5 + 130)
    set_status(bench, number, "paused")
    bench.esp.kill()
    bench.esp.restart()
    return number


def test_2168_naive_resumed_after_the_restart_it_is_finished_with_people_unsent(bench) -> None:
    number = paused_and_restarted(bench)
    set_status(bench, number, "running")
    bench.clock.advance(10)
    now = bench.provider().campaign(number)
    assert (now.status, now.to_send, now.sent < 135) == ("finished", 160, True)
    bench.clock.advance(HOUR)
    assert copies(bench, number) == Counter(range(1, 131)), "30 people never get it"


def test_2168_recovered_who_is_left_is_mailed_once_a_person_has_said_so(bench) -> None:
    """Somebody else had paused it: whether it is to go on at all is that person's to say."""
    number = paused_and_restarted(bench)
    incident = bench.respond(impact_hours_ago=0.1)
    with pytest.raises(AssertionError, match="is held: it was paused before the response"):
        bench.recover(incident)
    assert copies(bench, number) == Counter(range(1, 131))
    bench.recover(incident, agreed=YES)
    prove(bench, number, incident, PEOPLE)
    assert copies(bench, number) == Counter(PEOPLE)


# #2070: paused and resumed, it mails people who have it already ---------------------------------------------------


def paused_twice(bench) -> int:
    """A pause before the first message of a resumed campaign sets the pointer to the number of people, an id below
    all of theirs: the next resume begins again."""
    number = bench.campaign("News", status="running", people=HIGH_IDS)
    bench.clock.advance(5 + 30)
    set_status(bench, number, "paused")
    bench.clock.advance(10)
    bench.esp.fault("stalled")
    set_status(bench, number, "running")
    bench.clock.advance(10)
    set_status(bench, number, "paused")
    bench.clock.advance(10)
    bench.esp.clear("stalled")
    return number


def test_2070_naive_the_resume_mails_the_same_people_again(new_bench) -> None:
    bench = new_bench(pointer_to_count=True)
    number = paused_twice(bench)
    set_status(bench, number, "running")
    bench.clock.advance(HOUR)
    twice = {who for who, count in copies(bench, number).items() if count == 2}
    assert twice == set(range(81, 111)), "everybody who had it before the pause"


def test_2070_recovered_only_those_who_had_none_are_mailed(new_bench) -> None:
    bench = new_bench(pointer_to_count=True)
    number = paused_twice(bench)
    incident = bench.respond(impact_hours_ago=0.1)
    bench.recover(incident, agreed=YES)
    prove(bench, number, incident, HIGH_IDS)
    assert copies(bench, number) == Counter(HIGH_IDS)


# #2313: the relay hangs up, too many errors pause the campaign; each resume begins at the first subscriber --------


def paused_by_errors(bench) -> int:
    """The relay takes 35 messages and then none. The first resume, while it still refuses, loses the pointer."""
    number = bench.campaign("News", status="running", people=HIGH_IDS)
    bench.clock.advance(5 + 30)
    bench.esp.fault("relay_refusing")
    bench.clock.advance(30)
    return number


def resume_again(bench, number: int) -> None:
    """The operator presses resume while the relay refuses: paused again; then when it takes mail: off it goes."""
    assert bench.provider().campaign(number).status == "paused", "too many errors"
    set_status(bench, number, "running")
    bench.clock.advance(30)
    assert bench.provider().campaign(number).status == "paused"
    bench.esp.clear("relay_refusing")
    set_status(bench, number, "running")
    bench.clock.advance(20)


def test_2313_naive_every_resume_starts_from_the_beginning(new_bench) -> None:
    bench = new_bench(pointer_to_count=True, max_send_errors=10)
    number = paused_by_errors(bench)
    for _ in range(2):
        resume_again(bench, number)
        bench.esp.fault("relay_refusing")
        bench.clock.advance(30)
    found = copies(bench, number)
    assert max(found.values()) == 3, "three copies to the first of the list"
    assert HIGH_IDS - set(found), "and none to the last, though as many mails went out as there are people"


def test_2313_recovered_the_refused_and_the_rest_are_mailed_once(new_bench) -> None:
    bench = new_bench(pointer_to_count=True, max_send_errors=10)
    number = paused_by_errors(bench)
    incident = bench.respond(impact_hours_ago=0.1)
    bench.esp.clear("relay_refusing")
    bench.recover(incident, agreed=YES)
    prove(bench, number, incident, HIGH_IDS)
    assert copies(bench, number) == Counter(HIGH_IDS)


# #1801: what is scheduled fires however late, also on a server that was restored from a snapshot ------------------


def test_1801_naive_a_sale_scheduled_again_after_the_outage_goes_out_after_its_day(bench) -> None:
    number = bench.campaign("Sale", kind="sale", at=HOUR, deadline=3 * HOUR)
    bench.respond(number)
    bench.clock.advance(4 * HOUR)
    set_status(bench, number, "scheduled")
    bench.clock.advance(HOUR)
    assert set(copies(bench, number)) == PEOPLE
    assert min(at for _, at in bench.mailed()[number]) > bench.deadline[number]


def test_1801_recovered_a_sale_whose_day_is_over_is_dropped_and_everybody_counted(bench) -> None:
    number = bench.campaign("Sale", kind="sale", at=HOUR, deadline=3 * HOUR)
    incident = bench.respond(number)
    bench.clock.advance(4 * HOUR)
    [outcome] = bench.recover(incident)
    bench.clock.advance(HOUR)
    bench.judge(bench.ledgers(incident))
    assert not copies(bench, number)
    assert outcome.counts["expired"] == 160


def test_1801_naive_a_server_from_a_copy_of_the_database_sends_the_campaign_again(bench) -> None:
    number = bench.campaign("News", at=HOUR)
    before = bench.copy_database("before.sqlite")
    bench.clock.advance(2 * HOUR)
    assert copies(bench, number) == Counter(PEOPLE)
    bench.swap_database(before)
    bench.clock.advance(HOUR)
    assert set(copies(bench, number).values()) == {2}


def test_1801_recovered_a_server_restored_from_a_snapshot_sends_nothing_and_the_ledger_knows_who_has_it(
    bench,
) -> None:
    """The restored log has no line of the campaign; the webhooks that reached the shop prove who was mailed."""
    number = bench.campaign("News", at=HOUR)
    restored = bench.restore_snapshot("restored.sqlite")
    bench.clock.advance(2 * HOUR)
    assert copies(bench, number) == Counter(PEOPLE)
    for who in PEOPLE:
        bench.webhook("sent", number, who)
    bench.swap_database(restored)
    bench.clock.advance(HOUR)
    assert copies(bench, number) == Counter(PEOPLE), "a restored campaign is a draft: it fires nothing"
    set_status(bench, number, "scheduled")
    incident = bench.respond(number, impact_hours_ago=1)
    bench.recover(incident)
    prove(bench, number, incident, PEOPLE)
    assert copies(bench, number) == Counter(PEOPLE)
