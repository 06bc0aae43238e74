"""The plan against the journal: missing, late and out of order; and the work that follows from it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pandas as pd
import pytest

from tasks.impact import DataImpact, ObjectiveCheck
from tasks.incidents import Action, Approval, Communication, Incident, Metric, TimelineEntry
from tasks.plan import Plan
from tasks.reports.casework import JournalFacts
from tasks.reports.findings import action_items, lessons, plan_against_journal

NINE = datetime(2011, 11, 16, 9, 0, tzinfo=UTC)
PLAN = Plan.model_validate(
    {
        "version": 1,
        "name": "Shop",
        "journal": "sqlite://",
        "store": {"url": "store"},
        "sources": {"shop": {"url": "sqlite://"}},
        "providers": {"esp": {"kind": "listmonk", "api_url": "http://127.0.0.1"}},
        "channels": {"desk": {"kind": "folder", "path": "outbox"}},
        "stakeholders": {
            "marketing": {"channel": "desk", "report": "tactical"},
            "board": {"channel": "desk", "report": "executive", "from_severity": 1},
        },
        "roles": {"approver": {"filled_by": "head of e-mail"}},
    }
)


def at(minutes):
    return NINE + timedelta(minutes=minutes)


def facts(**changes):
    incident = Incident(
        "INC-0001", "esp", "technical_failure", "dead", "resolved", "", "desk", False,
        {"declared_at": NINE, "acknowledged_at": NINE, "resolved_at": at(300), "status_posted_at": at(5)},
    )  # fmt: skip
    values = {
        "incident": incident,
        "timeline": (
            TimelineEntry(1, NINE, "severity", "SEV-2", {"level": 2}, NINE),
            TimelineEntry(2, NINE, "snapshot_held", "shop/1 is held", {}, NINE),
        ),
        "actions": (),
        "approvals": (),
        "communications": (told("marketing", 1),),
        "metrics": (),
        "action_items": (),
        "similar": (),
        "ledgers": {},
        "restored_at": None,
        "unknown_file": "",
    }
    return JournalFacts(**(values | changes))


def told(who, minutes, promised=None):
    promise = None if promised is None else at(promised)
    return Communication(
        1, "INC-0001", "m", who, "desk", "tactical", "s", "d", promise, at(minutes), "sent", at(minutes)
    )


def action(kind, minutes, status="done"):
    return Action(1, "INC-0001", f"{kind}:1", kind, "campaign/1", {}, {}, {}, status, at(minutes))


def approval(minutes, status="approved", kind="catch_up"):
    answered = at(minutes) if status == "approved" else None
    return Approval(
        1, "INC-0001", "Resume?", [{"kind": kind}], NINE, at(60), status, "Ada", False, "cli", answered
    )


def found(**changes):
    return [(one.kind, one.text) for one in plan_against_journal(PLAN, facts(**changes), [], now=at(600))]


def test_a_response_as_the_plan_asks_leaves_nothing_to_say():
    assert found() == []


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"communications": ()}, "missing", "marketing got no update"),
        (
            {"communications": (told("marketing", 1, 31), told("marketing", 50))},
            "late",
            "after the promised time",
        ),
        ({"communications": (told("marketing", 1, 31),)}, "late", "after the promised time"),
        ({"actions": (action("catch_up", 30),)}, "missing", "without an approval"),
        (
            {"actions": (action("catch_up", 30),), "approvals": (approval(40),)},
            "out_of_order",
            "before the approval",
        ),
        ({"approvals": (approval(0, "expired"),)}, "late", "nobody answered in time"),
        ({"actions": (action("pause", -5),)}, "out_of_order", "before the incident was declared"),
        ({"actions": (action("pause", 5, "unknown"),)}, "missing", "1 action without a known outcome"),
        ({"actions": (action("pause", 5),), "timeline": ()}, "missing", "snapshot was not held"),
    ],
)
def test_each_departure_from_the_plan_is_named(changes, kind, words):
    assert [one for one in found(**changes) if one[0] == kind and words in one[1]]


def test_an_approval_before_the_resumption_is_in_order():
    assert found(actions=(action("catch_up", 50),), approvals=(approval(40),)) == []


def test_a_drop_that_a_deadline_decides_needs_no_approval():
    assert found(actions=(action("drop", 50),)) == []


def test_who_is_told_only_of_worse_incidents_is_not_missed():
    assert not [one for one in found() if "board" in one[1]]


def test_nobody_acknowledging_is_a_finding():
    silent = facts()
    silent.incident.timestamps.pop("acknowledged_at")
    assert [one.text for one in plan_against_journal(PLAN, silent, [], now=NINE)] == [
        "nobody acknowledged the incident"
    ]


def test_a_missed_objective_is_late_and_becomes_work_with_an_owner_a_date_and_a_proof():
    missed = ObjectiveCheck("consent", "esp", 60, 90.0, "", "missed", 60, 300.0, "", "missed", 240, "missed")
    rows = plan_against_journal(PLAN, facts(), [missed], now=NINE)
    assert [(one.kind, one.expected, one.seen) for one in rows] == [
        ("late", "60 min", "90 min"),
        ("late", "60 min", "300 min"),
    ]
    [item] = action_items(PLAN, facts(), counts(), data(), [missed], rows, now=NINE)
    assert item.type == "prevent"
    assert item.due_at == NINE + timedelta(days=30)  # SEV-2
    assert item.owner and item.proof


def counts(**changes):
    names = (
        "due",
        "delayed",
        "on_time",
        "suppressed",
        "dropped",
        "unknown",
        "duplicated",
        "after_latest_useful",
        "to_opted_out",
    )
    return SimpleNamespace(**(dict.fromkeys(names, 0) | changes))


def data(lost=0, risk=0, missing=0):
    return DataImpact(
        pd.DataFrame({"source": ["esp"], "table": ["events"], "since": [NINE], "rows": [risk]}),
        pd.DataFrame(
            {"source": ["esp"], "table": ["events"], "witness": ["webhook receipts"], "checked": [9], "rows": [lost],
             "estimated": [False], "note": [""]}
        ),
        missing,
    )  # fmt: skip


def test_an_unknown_outcome_and_a_missing_opt_out_are_the_first_things_to_do():
    items = action_items(
        PLAN, facts(), counts(unknown=3, dropped=2), data(lost=4, risk=9, missing=1), [], [], now=NINE
    )
    assert [one.priority for one in items] == ["P0", "P0", "P1", "P1"]
    assert items[0].owner == "head of e-mail"


def test_titles_hold_no_figure_so_that_a_settled_report_repeats_no_item():
    early = action_items(PLAN, facts(), counts(unknown=3), data(lost=4, risk=9), [], [], now=NINE)
    late = action_items(PLAN, facts(), counts(unknown=2), data(lost=3, risk=9), [], [], now=NINE)
    assert [one.title for one in early] == [one.title for one in late]


def test_lessons_follow_from_facts():
    delay = Metric("status_page_delay", "impact_started_at", "status_posted_at", 2700.0, "recorded")
    rows = lessons(
        facts(metrics=(delay,)), counts(delayed=5, to_opted_out=1), data(lost=1, risk=2), [], [], None
    )
    text = {
        kind: " ".join(one.text for one in rows if one.kind == kind) for kind in ("well", "poorly", "lucky")
    }
    assert "Nobody was mailed twice" in text["well"]
    assert "1 message went to people who had opted out" in text["poorly"]
    assert "45 minutes after" in text["poorly"]
    assert "witnessed" in text["lucky"]


def test_a_green_page_over_a_dead_provider_is_a_lesson():
    green = (TimelineEntry(3, NINE, "false_green", "the status page says that all is well", {}, NINE),)
    rows = lessons(facts(timeline=green), counts(), data(), [], [], None)
    assert any("all was well while nothing was sent" in one.text for one in rows if one.kind == "poorly")
