"""What the journal promises about incidents, approvals, actions, messages, leases and values."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa

from tasks.core import DrivenClock
from tasks.incidents import (
    ActionConflict,
    ApprovalClosed,
    ForbiddenTransition,
    ImpossibleOrder,
    Incident,
    Journal,
    JournalError,
    LeaseHeld,
    StaleToken,
    UnknownIncident,
)
from tasks.incidents.models import Base

HOUR = timedelta(hours=1)
INTENT = {
    "kind": "pause",
    "target": "campaign/1",
    "payload": {"campaign_id": 1},
    "previous_state": {"status": "running"},
    "undo": {"action": "resume"},
}


def test_incidents_are_numbered_in_order(journal: Journal, clock: DrivenClock) -> None:
    for provider in ("one", "two", "three"):
        journal.declare(
            provider, cause_class="unknown", summary="s", detected_at=clock.now(), declared_by="x"
        )
    assert [one.id for one in journal.incidents()] == ["INC-0001", "INC-0002", "INC-0003"]


def test_declaring_again_joins_the_open_incident_and_adds_what_was_not_known(
    journal: Journal, clock: DrivenClock
) -> None:
    start = clock.now()
    first = journal.declare(
        "esp", cause_class="unknown", summary="slow", detected_at=start, declared_by="monitor"
    )
    clock.advance(60)
    second = journal.declare(
        "esp",
        cause_class="technical_failure",
        summary="dead",
        detected_at=clock.now(),
        declared_by="ops",
        impact_started_at=start - HOUR,
        state="investigating",
    )
    assert (second.id, second.state, second.summary) == (first.id, "investigating", "slow")
    assert second.timestamps["impact_started_at"] == start - HOUR
    assert second.timestamps["detected_at"] == start
    assert [entry.text for entry in journal.timeline(first.id) if entry.kind == "joined"] == ["dead"]


def test_a_rerun_that_declares_the_same_again_adds_no_fact(declared: Incident, journal: Journal) -> None:
    before = journal.timeline(declared.id)
    journal.declare(
        "esp",
        cause_class="technical_failure",
        summary=declared.summary,
        detected_at=journal.clock.now(),
        declared_by="on call",
    )
    assert journal.timeline(declared.id) == before


def test_after_resolution_a_new_incident_is_declared(declared: Incident, journal: Journal) -> None:
    journal.transition(declared.id, "resolved", "x", "over")
    again = journal.declare(
        "esp", cause_class="unknown", summary="again", detected_at=journal.clock.now(), declared_by="x"
    )
    assert again.id == "INC-0002"
    with pytest.raises(ForbiddenTransition, match="INC-0002 of esp is open"):
        journal.transition(declared.id, "investigating", "x", "back")


def test_reopening_withdraws_the_time_of_resolution(declared: Incident, journal: Journal) -> None:
    journal.transition(declared.id, "resolved", "x", "over")
    assert "resolved_at" in journal.timestamps(declared.id)
    journal.transition(declared.id, "investigating", "x", "back")
    assert "resolved_at" not in journal.timestamps(declared.id)


def test_a_suspicion_cannot_be_resolved_without_being_confirmed(journal: Journal, clock: DrivenClock) -> None:
    one = journal.declare("esp", cause_class="unknown", summary="s", detected_at=clock.now(), declared_by="x")
    with pytest.raises(ForbiddenTransition, match="cannot go from triage to resolved"):
        journal.transition(one.id, "resolved", "x", "r")


def test_a_hold_stays_through_states_until_it_is_lifted(declared: Incident, journal: Journal) -> None:
    journal.put_on_hold(declared.id, "awaiting_vendor", "x", "ticket opened")
    assert journal.transition(declared.id, "identified", "x", "r").on_hold == "awaiting_vendor"
    assert journal.put_on_hold(declared.id, "", "x", "answered").on_hold == ""


@pytest.mark.parametrize(
    ("kind", "hours", "earlier", "later"),
    [
        ("impact_started_at", 1, "impact_started_at", "now"),
        ("detected_at", 0.5, "detected_at", "now"),
        ("acknowledged_at", -1, "declared_at", "acknowledged_at"),
        ("resolved_at", -1, "declared_at", "resolved_at"),
    ],
)
def test_an_impossible_time_is_refused_and_both_anchors_are_named(
    declared: Incident, journal: Journal, kind: str, hours: float, earlier: str, later: str
) -> None:
    with pytest.raises(ImpossibleOrder) as refused:
        journal.set_timestamp(declared.id, kind, journal.clock.now() + hours * HOUR, "x")
    assert (refused.value.earlier, refused.value.later) == (earlier, later)
    assert earlier in str(refused.value)


def test_a_refused_declaration_leaves_no_trace(journal: Journal, clock: DrivenClock) -> None:
    with pytest.raises(ImpossibleOrder):
        journal.declare(
            "esp",
            cause_class="unknown",
            summary="s",
            detected_at=clock.now(),
            declared_by="x",
            impact_started_at=clock.now() + timedelta(seconds=1),
        )
    assert journal.incidents() == []


def test_metrics_name_their_anchors_and_unknown_stays_unknown(declared: Incident, journal: Journal) -> None:
    journal.clock.sleep(600)
    journal.set_timestamp(declared.id, "acknowledged_at", journal.clock.now(), "x")
    journal.transition(declared.id, "resolved", "x", "over")
    metrics = {one.name: one for one in journal.metrics(declared.id)}
    acknowledge = metrics["time_to_acknowledge"]
    assert (acknowledge.from_anchor, acknowledge.to_anchor) == ("declared_at", "acknowledged_at")
    assert (acknowledge.seconds, acknowledge.status) == (600, "recorded")
    assert (metrics["time_to_detect"].seconds, metrics["time_to_detect"].status) == (None, "pending")
    assert metrics["status_page_delay"].status == "not_applicable"


def test_a_metric_out_of_order_is_shown_as_invalid(declared: Incident, journal: Journal) -> None:
    now = journal.clock.now()
    journal.set_timestamp(declared.id, "impact_started_at", now, "x")
    journal.set_timestamp(declared.id, "status_posted_at", now - HOUR, "x")
    [delay] = [one for one in journal.metrics(declared.id) if one.name == "status_page_delay"]
    assert (delay.status, delay.seconds) == ("invalid", -3600)


def test_an_unknown_incident_is_named(journal: Journal) -> None:
    with pytest.raises(UnknownIncident, match="INC-0042"):
        journal.incident("INC-0042")


# Actions


def test_intending_the_same_key_again_returns_the_action_and_its_first_previous_state(
    declared: Incident, journal: Journal
) -> None:
    first = journal.intend(declared.id, "pause:1", **INTENT)
    journal.complete(first.id, {"status": "paused"})
    again = journal.intend(declared.id, "pause:1", **{**INTENT, "previous_state": {"status": "paused"}})
    assert first.is_new
    assert not again.is_new
    assert (again.id, again.status, again.previous_state) == (first.id, "done", {"status": "running"})


def test_a_key_cannot_be_used_for_something_else(declared: Incident, journal: Journal) -> None:
    journal.intend(declared.id, "pause:1", **INTENT)
    with pytest.raises(ActionConflict):
        journal.intend(declared.id, "pause:1", **{**INTENT, "target": "campaign/2"})


def test_an_unknown_outcome_is_settled_by_evidence_only(declared: Incident, journal: Journal) -> None:
    action = journal.intend(declared.id, "pause:1", **INTENT)
    journal.unknown(action.id, "no answer in time")
    with pytest.raises(ActionConflict, match="cannot become done"):
        journal.complete(action.id)
    with pytest.raises(ActionConflict, match="without evidence"):
        journal.resolve_unknown(action.id, "done", {})
    settled = journal.resolve_unknown(action.id, "not_done", {"status": "running"})
    assert (settled.status, settled.evidence) == ("not_done", {"status": "running"})
    assert journal.complete(action.id).status == "done"


def test_what_is_done_cannot_fail_any_more(declared: Incident, journal: Journal) -> None:
    action = journal.intend(declared.id, "pause:1", **INTENT)
    journal.complete(action.id)
    with pytest.raises(ActionConflict):
        journal.fail(action.id, "no")


# Approvals


def test_the_first_answer_counts(declared: Incident, journal: Journal) -> None:
    asked = journal.request_approval(
        declared.id, subject="s", actions=[{"a": 1}], expires_at=journal.clock.now() + HOUR
    )
    again = journal.request_approval(
        declared.id, subject="s", actions=[{"a": 1}], expires_at=journal.clock.now() + 2 * HOUR
    )
    assert again.id == asked.id
    answered = journal.answer_approval(asked.id, "approved", "Kim", False, "cli")
    assert (answered.status, answered.name, answered.vouched, answered.via) == (
        "approved",
        "Kim",
        False,
        "cli",
    )
    with pytest.raises(ApprovalClosed, match="approved by Kim"):
        journal.answer_approval(asked.id, "rejected", "Lee", False, "ui")


def test_an_approval_that_nobody_answered_expires(declared: Incident, journal: Journal) -> None:
    asked = journal.request_approval(
        declared.id, subject="s", actions=[], expires_at=journal.clock.now() + HOUR
    )
    journal.clock.sleep(3600)
    assert journal.approval(asked.id).status == "expired"
    assert [one.id for one in journal.expire_approvals()] == [asked.id]
    assert journal.expire_approvals() == []
    with pytest.raises(ApprovalClosed):
        journal.answer_approval(asked.id, "approved", "Kim", False, "ui")


# Leases


def test_a_second_responder_is_told_who_holds_the_lease_and_until_when(
    declared: Incident, journal: Journal
) -> None:
    lease = journal.lease(declared.id, "run a", HOUR)
    with pytest.raises(LeaseHeld) as held:
        journal.lease(declared.id, "run b", HOUR)
    assert (held.value.holder, held.value.until) == ("run a", lease.expires_at)


def test_a_write_that_names_a_stale_token_is_refused_and_leaves_nothing(
    declared: Incident, journal: Journal
) -> None:
    old = journal.lease(declared.id, "run a", HOUR)
    journal.clock.sleep(3600)
    new = journal.lease(declared.id, "run b", HOUR)
    assert new.token > old.token
    before = journal.timeline(declared.id)
    with pytest.raises(StaleToken, match="run b holds it"):
        journal.intend(declared.id, "pause:1", **INTENT, token=old.token)
    assert journal.timeline(declared.id) == before
    journal.intend(declared.id, "pause:1", **INTENT, token=new.token)
    journal.release(old)  # of no effect: it was lost
    with pytest.raises(LeaseHeld):
        journal.lease(declared.id, "run c", HOUR)


def test_a_released_token_is_stale(declared: Incident, journal: Journal) -> None:
    with journal.leased(declared.id, "run a", HOUR) as lease:
        lease = journal.renew(lease, 2 * HOUR)
    with pytest.raises(StaleToken):
        journal.note(declared.id, "x", "y", token=lease.token)
    journal.lease(declared.id, "run b", HOUR)


# Messages, values, items


def test_a_message_with_the_same_id_is_written_down_once(declared: Incident, journal: Journal) -> None:
    said = {
        "stakeholder": "cmo", "channel": "mail", "report": "executive", "subject": "s", "body_digest": "d",
        "promised_next_at": None, "message_id": "m-1",
    }  # fmt: skip
    first = journal.say(declared.id, **said)
    journal.sent(first.id)
    again = journal.say(declared.id, **said)
    assert (again.id, again.status) == (first.id, "sent")
    assert journal.not_sent(first.id, "late failure").status == "sent"
    assert len(journal.communications(declared.id)) == 1


def test_the_latest_value_wins_and_earlier_ones_stay(journal: Journal, url: str) -> None:
    for n in range(3):
        journal.put_state("detector", {"n": n})
    assert journal.get_state("detector") == {"n": 2}
    assert journal.get_state("other") is None
    with sa.create_engine(url).connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM journal_values")) == 3


def test_an_action_item_closes_only_on_evidence(declared: Incident, journal: Journal) -> None:
    item = journal.action_item(
        declared.id,
        title="Probe through to a mailbox",
        type="detect",
        owner="ops",
        due_at=journal.clock.now() + 24 * HOUR,
        proof="the drill detects within 10 minutes",
    )
    with pytest.raises(JournalError, match="only on evidence"):
        journal.complete_item(item.id, evidence=" ", by="ops")
    with pytest.raises(JournalError, match="only with a reason"):
        journal.drop_item(item.id, reason="", by="ops")
    journal.complete_item(item.id, evidence="drill 7", by="ops")
    assert [one.status for one in journal.action_items(declared.id)] == ["completed"]


# On both databases


def test_no_fact_can_be_changed_or_removed(any_url: str, clock: DrivenClock) -> None:
    with Journal.open(any_url, clock) as journal:
        one = journal.declare(
            "esp", cause_class="unknown", summary="s", detected_at=clock.now(), declared_by="x"
        )
        asked = journal.request_approval(one.id, subject="s", actions=[], expires_at=clock.now() + HOUR)
        journal.answer_approval(asked.id, "approved", "x", False, "cli")
        action = journal.intend(one.id, "pause:1", **INTENT)
        journal.complete(action.id)
        said = journal.say(
            one.id, stakeholder="c", channel="m", report="tactical", subject="s", body_digest="d",
            promised_next_at=None,
        )  # fmt: skip
        journal.sent(said.id)
        journal.note(one.id, "k", "t")
        journal.lease(one.id, "h", HOUR)
        journal.put_state("k", {})
        item = journal.action_item(one.id, title="t", type="repair", owner="o", due_at=clock.now(), proof="p")
        journal.complete_item(item.id, evidence="e", by="x")
    engine = sa.create_engine(any_url)
    for table in Base.metadata.sorted_tables:
        column = next(iter(set(table.columns.keys()) - {"seq"}))
        attempts = [f"UPDATE {table.name} SET {column} = {column}", f"DELETE FROM {table.name}"]
        if engine.dialect.name == "postgresql":
            attempts.append(f"TRUNCATE {table.name} CASCADE")
        else:
            attempts.append(f"INSERT OR REPLACE INTO {table.name} SELECT * FROM {table.name} LIMIT 1")
        for attempt in attempts:
            with engine.connect() as connection, pytest.raises(sa.exc.DBAPIError, match="append-only"):
                assert connection.scalar(sa.text(f"SELECT count(*) FROM {table.name}")), table.name
                connection.execute(sa.text(attempt))
                connection.commit()
    engine.dispose()


def test_the_whole_course_of_an_incident_reads_the_same_on_both_databases(
    any_url: str, clock: DrivenClock
) -> None:
    with Journal.open(any_url, clock) as journal:
        start = clock.now()
        one = journal.declare(
            "esp", cause_class="unknown", summary="s", detected_at=start, declared_by="x",
            impact_started_at=start - HOUR, state="investigating",
        )  # fmt: skip
        clock.advance(60)
        action = journal.intend(one.id, "pause:1", **INTENT)
        journal.unknown(action.id, "no answer")
        journal.resolve_unknown(action.id, "done", {"status": "paused"})
        journal.set_timestamp(one.id, "mitigated_at", clock.now(), "x")
        journal.transition(one.id, "resolved", "x", "over")
        journal.transition(one.id, "closed", "x", "reviewed")
    with Journal.open(any_url, clock) as journal:
        found = journal.incident(one.id)
        assert (found.state, found.timestamps["impact_started_at"]) == ("closed", start - HOUR)
        assert {m.name: m.seconds for m in journal.metrics(one.id)}["customer_impact_duration"] == 3660
        assert [a.status for a in journal.actions(one.id)] == ["done"]


def test_a_journal_of_a_newer_version_is_refused(url: str, clock: DrivenClock) -> None:
    Journal.open(url, clock).close()
    with sa.create_engine(url).begin() as connection:
        connection.execute(sa.text("UPDATE journal_version SET version_num = '9999'"))
    with pytest.raises(JournalError, match="of version 9999, which this Mailstay does not know"):
        Journal.open(url, clock)


def test_of_two_claims_of_one_value_the_first_gets_it(journal: Journal) -> None:
    assert journal.claim_state("notice/1", {"status": "intended"}, over=("failed",))
    assert not journal.claim_state("notice/1", {"status": "intended"}, over=("failed",))
    journal.put_state("notice/1", {"status": "failed"})
    assert journal.claim_state("notice/1", {"status": "intended"}, over=("failed",))
    assert journal.get_state("notice/1") == {"status": "intended"}


def test_the_severity_is_the_one_that_was_recorded_last(journal: Journal) -> None:
    one = journal.declare(
        "esp", cause_class="unknown", summary="s", detected_at=journal.clock.now(), declared_by="x"
    )
    assert journal.severity(one.id) is None
    for level in (3, 1, 2):
        journal.note(one.id, "severity", f"SEV-{level}", {"level": level})
    journal.note(one.id, "detector", "a look", {"level": 5})
    assert journal.severity(one.id) == 2
