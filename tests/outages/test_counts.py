"""Our own counts: what only an outage explains, and what it does not."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from tasks.outages import (
    Answer,
    CampaignCount,
    SeedMemory,
    SendingMemory,
    Signal,
    api_signal,
    consent_signal,
    enough,
    seed_sent,
    seed_signal,
    sending_signal,
    webhook_signal,
)

NOW = datetime(2011, 11, 16, 9, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
OK, FAILED = Answer(True, 0.02), Answer(False, 0.01, "HTTP 503")


def running(sent: int, *, to_send: int = 3_000, started_at: datetime | None = NOW) -> CampaignCount:
    return CampaignCount(7, "Weekly news", "running", to_send, sent, started_at=started_at)


def watch(*passes: tuple[int, list[CampaignCount]], rate: int = 60) -> list[Signal]:
    memory, seen = SendingMemory(), []
    for minutes, campaigns in passes:
        memory, signal = sending_signal(
            memory, campaigns, NOW + minutes * MINUTE, stalled_minutes=10, messages_per_minute=rate
        )
        memory = SendingMemory.from_dict(json.loads(json.dumps(memory.to_dict())))
        seen.append(signal)
    return seen


def test_a_running_campaign_whose_sent_stands_still_is_stalled_after_the_plans_minutes() -> None:
    signals = watch((0, [running(300)]), (5, [running(300)]), (10, [running(300)]))
    assert [signal.verdict for signal in signals] == ["unknown", "unknown", "bad"]
    assert signals[-1].seen == "'Weekly news' runs but stands at 300 of 3,000"


def test_a_campaign_that_never_sent_is_measured_from_its_start() -> None:
    [signal] = watch((12, [running(0)]))
    assert signal.verdict == "bad"


def test_a_campaign_that_moves_is_good_and_one_that_is_done_is_not_stalled() -> None:
    signals = watch((0, [running(300)]), (5, [running(700)]), (30, [running(3_000)]), (60, [running(3_000)]))
    assert [signal.verdict for signal in signals] == ["unknown", "good", "good", "unknown"]


def test_a_campaign_that_people_paused_is_not_stalled() -> None:
    paused = CampaignCount(7, "Weekly news", "paused", 3_000, 300)
    assert [one.verdict for one in watch((0, [running(300)]), (60, [paused]))] == ["unknown", "unknown"]


def test_sending_at_less_than_half_the_usual_rate_is_degraded() -> None:
    signals = watch((0, [running(300)]), (5, [running(400)]), rate=60)
    assert signals[-1].verdict == "degraded"
    assert signals[-1].seen == "20 messages a minute are sent where 60 are usual"


@pytest.mark.parametrize(
    ("late_minutes", "audience", "verdict"),
    [(2, 100, "unknown"), (11, 100, "bad"), (11, 0, "unknown"), (13 * 60, 100, "unknown")],
)
def test_a_due_campaign_that_does_not_begin_is_bad_until_it_is_peoples_business(
    late_minutes: int, audience: int, verdict: str
) -> None:
    due = CampaignCount(8, "Launch", "scheduled", audience, 0, send_at=NOW - late_minutes * MINUTE)
    assert watch((0, [due]))[0].verdict == verdict


@pytest.mark.parametrize(
    ("answers", "verdict"),
    [
        ([OK] * 5, "good"),
        ([OK] * 4 + [FAILED], "degraded"),
        ([OK, FAILED, OK, FAILED, OK], "bad"),
        ([FAILED] * 3, "bad"),
        ([Answer(True, 6.0)] * 5, "degraded"),
        ([OK, OK, Answer(True, 9.0), OK, OK], "good"),
        ([], "unknown"),
    ],
)
def test_answers_of_the_api_become_a_verdict(answers: list[Answer], verdict: str) -> None:
    assert api_signal(answers, NOW, slow_seconds=5).verdict == verdict


def test_a_dead_api_is_not_asked_to_the_end() -> None:
    assert enough([FAILED] * 3)
    assert not enough([FAILED, OK, FAILED])
    assert enough([FAILED, OK, FAILED, FAILED, FAILED])


@pytest.mark.parametrize(
    ("requests", "verdict"),
    [
        ([], "unknown"),
        ([(2, True), (1, True)], "good"),
        ([(2, False), (1, True)], "good"),
        ([(2, True), (1, False)], "degraded"),
        ([(3, True), (2, False), (1, False)], "bad"),
        ([(200, False), (190, False)], "unknown"),
    ],
)
def test_opt_outs_show_whether_the_provider_takes_them(
    requests: list[tuple[int, bool]], verdict: str
) -> None:
    made = [(NOW - minutes * MINUTE, taken) for minutes, taken in requests]
    assert consent_signal(made, NOW, window=timedelta(hours=1)).verdict == verdict


@pytest.mark.parametrize(
    ("accepted", "receipts", "verdict"),
    [(500, 12, "good"), (500, 0, "degraded"), (5, 0, "unknown"), (500, None, "unknown")],
)
def test_accepted_messages_must_bring_events(accepted: int, receipts: int | None, verdict: str) -> None:
    assert webhook_signal(SendingMemory(accepted=accepted), receipts, NOW).verdict == verdict


def test_a_seed_that_arrives_is_good_and_one_that_does_not_stays_bad_until_another_does() -> None:
    patience = timedelta(minutes=10)
    memory = seed_sent(SeedMemory(), "first", NOW)
    memory, signal = seed_signal(memory, True, NOW + 5 * MINUTE, patience=patience)
    assert (signal.verdict, memory.last) == ("good", "arrived")

    memory = seed_sent(memory, "second", NOW + 5 * MINUTE)
    memory, signal = seed_signal(memory, False, NOW + 10 * MINUTE, patience=patience)
    assert signal.verdict == "unknown"
    memory, signal = seed_signal(memory, False, NOW + 15 * MINUTE, patience=patience)
    assert (signal.verdict, memory.last) == ("bad", "lost")

    memory = seed_sent(memory, "third", NOW + 15 * MINUTE)
    memory = SeedMemory.from_dict(json.loads(json.dumps(memory.to_dict())))
    memory, signal = seed_signal(memory, False, NOW + 20 * MINUTE, patience=patience)
    assert signal.verdict == "bad"
    memory, signal = seed_signal(memory, True, NOW + 21 * MINUTE, patience=patience)
    assert signal.verdict == "good"


def test_a_mailbox_that_cannot_be_read_says_nothing() -> None:
    memory = seed_sent(SeedMemory(), "first", NOW)
    assert seed_signal(memory, None, NOW + 60 * MINUTE, patience=10 * MINUTE)[1].verdict == "unknown"


def test_an_opt_out_tells_since_when_it_waits_whatever_the_newest_say() -> None:
    made = [(NOW - timedelta(hours=hours), taken) for hours, taken in ((30, False), (26, False), (0.5, True))]
    signal = consent_signal(made, NOW, window=timedelta(hours=1))
    assert (signal.verdict, signal.details["waiting"]) == ("good", 2)
    assert signal.details["waits_since"] == (NOW - timedelta(hours=30)).isoformat()


@pytest.mark.parametrize(
    ("lag", "receipts", "verdict"),
    [(None, 30, "good"), (2, 30, "good"), (45, 30, "degraded"), (45, 0, "degraded"), (45, None, "unknown")],
)
def test_webhooks_that_all_come_late_are_degraded(
    lag: int | None, receipts: int | None, verdict: str
) -> None:
    late = None if lag is None else timedelta(minutes=lag)
    signal = webhook_signal(SendingMemory(accepted=50), receipts, NOW, lag=late)
    assert signal.verdict == verdict
