"""Bounces and deferrals: classes of RFC 3463, and shares that count only when they are surely above the limit."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.outages import BounceMemory, CampaignCount, Diagnosis, bounce_signal, diagnose

NOW = datetime(2011, 11, 16, 9, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("550 5.1.1 The email account that you tried to reach does not exist", Diagnosis(True, "address")),
        ("452 4.2.2 The recipient's inbox is out of storage space", Diagnosis(False, "mailbox")),
        ("421-4.7.28 Our system has detected an unusual rate of mail", Diagnosis(False, "policy")),
        (
            "550 5.7.26 This mail has been blocked because the sender is unauthenticated",
            Diagnosis(True, "policy"),
        ),
        ("451 4.4.1 Connection timed out", Diagnosis(False, "network")),
        ("5.3.2", Diagnosis(True, "system")),
        ("554 5.6.0 Message contents rejected", Diagnosis(True, "content")),
        ("5.0.0", Diagnosis(True, "other")),
        ("550 No such user", Diagnosis(True, "other")),
        ("421 Try again later", Diagnosis(False, "other")),
        ("250 2.0.0 OK", None),
        ("from 10.5.7.1 refused", None),
        ("", None),
    ],
)
def test_an_answer_has_its_class(text: str, expected: Diagnosis | None) -> None:
    assert diagnose(text) == expected


def campaign(sent: int, bounced: int, **changes: object) -> CampaignCount:
    return replace(CampaignCount(1, "Weekly", "running", 9_000, sent, bounced=bounced), **changes)  # type: ignore[arg-type]


def judged(sent: int, bounced: int, *past: CampaignCount, diagnostics: list[str] | None = None) -> str:
    memory, _ = bounce_signal(BounceMemory(), [campaign(0, 0), *past], None, NOW - timedelta(minutes=5))
    return bounce_signal(memory, [campaign(sent, bounced), *past], diagnostics, NOW)[1].verdict


@pytest.mark.parametrize(
    ("sent", "bounced", "verdict"),
    [
        (50, 50, "unknown"),
        (1_000, 5, "good"),
        (1_000, 60, "good"),  # 6 %: not surely above 5 %
        (10_000, 600, "degraded"),
        (1_000, 150, "bad"),
        (100, 8, "good"),  # 8 % of few
        (100, 40, "bad"),
        (100, 900, "bad"),
    ],
)
def test_a_share_counts_once_it_is_surely_above_its_limit(sent: int, bounced: int, verdict: str) -> None:
    assert judged(sent, bounced) == verdict


def test_what_is_usual_here_is_no_outage() -> None:
    old_list = CampaignCount(2, "Old", "finished", 10_000, 10_000, bounced=700)
    assert judged(1_000, 150, old_list) == "good"
    assert judged(1_000, 300, old_list) == "bad"


def test_receivers_that_refuse_the_sender_are_seen_while_the_counts_are_small() -> None:
    refused = ["550 5.7.26 unauthenticated"] * 12 + ["550 5.1.1 no such user"] * 8
    deferred = ["421 4.7.28 rate limited"] * 15 + ["550 5.1.1 no such user"] * 5
    people = ["550 5.1.1 no such user"] * 15 + ["452 4.2.2 full"] * 10
    assert judged(50, 0, diagnostics=refused) == "bad"
    assert judged(50, 0, diagnostics=deferred) == "degraded"
    assert judged(50, 0, diagnostics=people) == "unknown"
    assert judged(50, 0, diagnostics=refused[:12]) == "unknown"


def test_only_the_last_hour_counts_and_the_memory_survives_the_journal() -> None:
    memory = BounceMemory()
    for minute in range(0, 125, 5):
        bounced = min(minute, 60) * 10
        memory, signal = bounce_signal(
            memory, [campaign(minute * 100, bounced)], None, NOW + timedelta(minutes=minute)
        )
        memory = BounceMemory.from_dict(json.loads(json.dumps(memory.to_dict())))
    assert signal.details["sent"] == 12 * 500
    assert signal.details["bounced"] == 0
    assert len(memory.steps) == 12


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), max_size=6),
    st.lists(st.text(max_size=20)),
)
def test_no_counts_and_no_answer_break_the_signal(counts: list[tuple[int, int]], texts: list[str]) -> None:
    memory = BounceMemory()
    for step, (sent, bounced) in enumerate(counts):
        memory, signal = bounce_signal(
            memory, [campaign(sent, bounced)], texts, NOW + timedelta(minutes=step)
        )
        assert signal.verdict in ("good", "degraded", "bad", "unknown")
