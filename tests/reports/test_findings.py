"""The plan against the journal: missing, late and out of order; and the work that follows from it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pandas as pd
import pytest

from tasks.impact import DataImpact, ObjectiveCheck, ReputationCheck
from tasks.incidents import Action, Approval, Communication, Incident, Metric, TimelineEntry
from tasks.plan import Plan
from tasks.reports.casework import JournalFacts
from tasks.reports.content import Proposal
from tasks.reports.findings import action_items, lessons, plan_against_journal
from tasks.reports.proposals import plan_patch, proposals

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
        "similar_items": (),
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


CHECK = ObjectiveCheck("consent", "shop", 60, 90.0, "", "met", 60, 30.0, "", "met", 240, "met")


def wanted(objectives=(), reputation=(), **changes):
    found = proposals(PLAN, facts(**changes), objectives, reputation, now=at(600))
    return {one.key: (one.before, one.after) for one in found}


def test_an_incident_that_went_by_the_plan_changes_nothing():
    assert wanted([CHECK]) == {}


def test_a_missed_recovery_point_asks_for_backups_as_often_as_the_strictest_object_needs():
    missed = [replace(CHECK, rpo="missed"), replace(CHECK, name="orders", rpo="missed", rpo_minutes=30)]
    assert wanted(missed) == {"sources.shop.backup_every": (1440, 30)}


def test_a_schedule_that_was_often_enough_is_not_what_failed():
    assert wanted([replace(CHECK, rpo="missed", rpo_minutes=1440, rpa_minutes=3000.0)]) == {}


def test_a_missed_recovery_time_is_promised_as_it_was_unless_it_is_intolerable():
    assert wanted([replace(CHECK, rto="missed", rta_minutes=100.0)]) == {
        "objects.consent.rto_minutes": (60, 105)
    }
    assert wanted([replace(CHECK, rto="missed", rta_minutes=300.0)]) == {}


def test_a_cadence_that_was_not_kept_becomes_the_one_that_was():
    late = (told("marketing", 0, 60), told("marketing", 100, 160), told("marketing", 161))
    assert wanted(communications=late) == {"stakeholders.marketing.every_minutes": (60, 105)}


def test_a_cadence_that_was_missed_by_far_stays_what_it_was():
    silence = (told("marketing", 0, 60), told("marketing", 240))
    assert wanted(communications=silence) == {}


def test_a_catch_up_that_hurt_asks_for_smaller_steps():
    hurt = ReputationCheck("complaint", 1000, 5, 9000, 1, 0.001, True, 5.0, True, "breach")
    assert wanted(reputation=[hurt]) == {"ramp.max_step": (2000, 1000)}
    assert wanted(reputation=[replace(hurt, alarm=False, limit="none")]) == {}


PLAN_TEXT = """\
version: 1
name: Shop
journal: sqlite://
store: {url: store}
sources:
  shop: {url: "sqlite://", backup_every: 1440}   # nightly
providers:
  esp: {kind: listmonk, api_url: "http://127.0.0.1"}
channels:
  desk: {kind: smtp, url_env: X, to: [ada@shop.example]}
stakeholders:
  marketing: {channel: desk, report: tactical}
objects:
  consent: {tables: [suppressions], rpo_minutes: 60, rto_minutes: 60, mtpd_minutes: 240}
"""


def test_the_patch_keeps_comments_gives_a_plan_that_loads_and_shows_no_address():
    changes = [
        Proposal("sources.shop.backup_every", 1440, 60, ""),
        Proposal("stakeholders.marketing.every_minutes", 60, 90, ""),
    ]
    patch = plan_patch(PLAN_TEXT, "plan.yaml", changes)
    assert '+  shop: {url: "sqlite://", backup_every: 60}   # nightly' in patch
    assert "+  marketing: {channel: desk, report: tactical, every_minutes: 90}" in patch
    assert "@" not in patch.replace("@@", "")


def test_a_proposal_that_the_plans_own_rules_refuse_is_left_out():
    assert plan_patch(PLAN_TEXT, "plan.yaml", [Proposal("objects.consent.rto_minutes", 60, 300, "")]) == ""
