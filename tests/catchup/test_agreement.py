"""Who agreed, by a real journal: a yes stays, a no counts for the run that asked."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tasks.catchup.agreement import Agreed, agree
from tasks.catchup.recovery import Question
from tasks.core import DrivenClock
from tasks.incidents import Journal


@pytest.fixture
def journal(tmp_path: Path, clock: DrivenClock) -> Iterator[Journal]:
    with Journal.open(f"sqlite:///{tmp_path / 'journal.db'}", clock) as opened:
        opened.declare("esp", cause_class="unknown", summary="s", detected_at=clock.now(), declared_by="desk")
        yield opened


def question(kind: str = "catch_up", reason: str = "late_but_useful") -> Question:
    return Question(3, "News", "send", reason, "why", 10, 0, kind, False)


def ask(journal: Journal, one: Question, *asked: int) -> Agreed:
    expires_at = journal.clock.now() + timedelta(days=1)
    return agree(
        journal, "INC-0001", [one], use_policy=False, policy_actions=(), expires_at=expires_at, asked=asked
    )


def test_a_no_counts_for_the_run_that_asked_and_the_next_run_asks_anew(journal: Journal) -> None:
    [first] = ask(journal, question()).waiting
    journal.answer_approval(first.id, "rejected", "Ada", False, "cli")
    same_run = ask(journal, question(), first.id)
    assert (same_run.to, same_run.waiting) == ({3: frozenset()}, ())
    [second] = ask(journal, question()).waiting
    assert second.id != first.id
    journal.answer_approval(second.id, "approved", "Ada", False, "cli")
    later = ask(journal, question())
    assert (later.to, later.waiting) == ({3: frozenset({"catch_up"})}, ())


def test_a_no_to_a_campaign_that_the_plan_asks_about_stays_and_drops_it(journal: Journal) -> None:
    asked = question("send_anyway", "rule_asks")
    [first] = ask(journal, asked).waiting
    assert first.subject == "recover: send News although late? (why)"
    journal.answer_approval(first.id, "rejected", "Ada", False, "cli")
    later = ask(journal, asked)
    assert (later.to, later.waiting) == ({3: frozenset({"drop_anyway"})}, ())


def test_a_campaign_that_is_not_late_is_not_called_late(journal: Journal) -> None:
    [tight] = ask(journal, question("send_anyway", "too_tight_as_planned")).waiting
    assert tight.subject == "recover: send News at its time, to as many as fit? (why)"
    [open_end] = ask(journal, question("send_anyway", "no_deadline_known")).waiting
    assert open_end.subject == "recover: send News? (why)"


def test_a_yes_to_sending_it_anyway_covers_what_is_left_of_it(journal: Journal) -> None:
    [first] = ask(journal, question("send_anyway", "too_tight_as_planned")).waiting
    journal.answer_approval(first.id, "approved", "Ada", False, "cli")
    assert ask(journal, question("reschedule", "still_ahead")).waiting == ()
