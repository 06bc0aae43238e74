"""Whether an earlier action would have prevented an incident."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tasks.incidents import ActionItem
from tasks.reports.prevention import similar_rows

BEGAN = datetime(2011, 11, 16, 9, tzinfo=UTC)


@dataclass
class Past:
    id: str = "INC-0001"
    provider: str = "listmonk"
    cause_class: str = "technical_failure"
    summary: str = "provider down"
    state: str = "closed"


def item(**changes: Any) -> ActionItem:
    values: dict[str, Any] = {
        "id": 3, "incident_id": "INC-0001", "title": "Connect a second provider", "type": "prevent",
        "priority": "P1", "owner": "platform", "due_at": BEGAN - timedelta(days=40, hours=3),
        "proof": "a drill sends through it", "status": "outstanding",
    }  # fmt: skip
    return ActionItem(**(values | changes))


def said(past: Past, *items: ActionItem) -> tuple[tuple[str, ...], tuple[str, ...]]:
    [row] = similar_rows(Past("INC-0002"), BEGAN, [past], items)  # type: ignore[arg-type,list-item]
    return row.left, row.done


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "was overdue by 40 days when this one began: done, it may have prevented this one"),
        ({"due_at": BEGAN + timedelta(days=3)}, "was still open, and due later, when this one began"),
        ({"type": "mitigate"}, "may have made this one smaller"),
        ({"type": "detect"}, "may have shown this one sooner"),
        ({"status": "not_doing", "evidence": "too dear"}, "was given up (too dear): it may have prevented"),
    ],
)
def test_work_that_was_not_done_is_named_with_what_it_would_have_done(
    changes: dict[str, Any], words: str
) -> None:
    [left], done = said(Past(), item(**changes))
    assert "“Connect a second provider”" in left
    assert words in left
    assert done == ()


def test_work_that_was_done_did_not_prevent_it_and_its_proof_is_doubted() -> None:
    left, [done] = said(Past(), item(status="completed"))
    assert left == ()
    assert "look at its proof" in done


@pytest.mark.parametrize("past", [Past(cause_class="human_error"), Past(provider="brevo")])
def test_of_another_kind_of_trouble_nothing_is_claimed(past: Past) -> None:
    assert said(past, item()) == ((), ())


@pytest.mark.parametrize("kind", ["repair", "investigate"])
def test_work_that_repairs_or_asks_prevents_nothing(kind: str) -> None:
    assert said(Past(), item(type=kind)) == ((), ())


def test_items_of_other_incidents_are_left_out() -> None:
    assert said(Past(), item(incident_id="INC-0009")) == ((), ())
