"""Who agreed to stop what: answers in the journal, the plan's policy for what can be undone, or an open question."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tasks.incidents import Approval, Journal
from tasks.response.table import PlanLine

SUBJECT = "respond: stop campaigns"
POLICY = "policy"


@dataclass(frozen=True)
class Agreed:
    """What may be done.

    Attributes:
        lines: the lines of the plan that somebody, or the policy, agreed to.
        rejected: lines that somebody refused.
        waiting: the question that still waits for an answer, if one does.
    """

    lines: tuple[PlanLine, ...]
    rejected: tuple[PlanLine, ...]
    waiting: Approval | None


def question_of(lines: Sequence[PlanLine]) -> list[dict[str, Any]]:
    """Return the actions of `lines` as an approval names them."""
    return [line.as_action() for line in lines if line.action]


def agree(
    journal: Journal,
    incident_id: str,
    lines: Sequence[PlanLine],
    *,
    use_policy: bool,
    policy_actions: Collection[str],
    expires_at: datetime,
) -> Agreed:
    """Return what is agreed to; what nobody has answered yet becomes one open question in the journal.

    The policy approves only actions that can be undone and that the plan lists; irreversible ones always need a
    person. An answer is good for one kind of action on one campaign of this incident, whenever the next run comes.
    """
    journal.expire_approvals()
    wanted = [line for line in lines if line.action]
    answers = _answers(journal, incident_id)
    unanswered = [line for line in wanted if _key(line) not in answers]
    by_policy = [
        line for line in unanswered if use_policy and line.undoable and line.action in policy_actions
    ]
    if by_policy:
        asked = journal.request_approval(
            incident_id,
            subject=f"{SUBJECT}, by the plan's policy",
            actions=question_of(by_policy),
            expires_at=expires_at,
        )
        journal.answer_approval(asked.id, "approved", POLICY, False, "policy")
    waiting = None
    open_lines = [line for line in unanswered if line not in by_policy]
    if open_lines:
        waiting = journal.request_approval(
            incident_id, subject=SUBJECT, actions=question_of(open_lines), expires_at=expires_at
        )
    answers = _answers(journal, incident_id)
    return Agreed(
        lines=tuple(line for line in wanted if answers.get(_key(line)) == "approved"),
        rejected=tuple(line for line in wanted if answers.get(_key(line)) == "rejected"),
        waiting=waiting,
    )


def _answers(journal: Journal, incident_id: str) -> dict[tuple[str, str], str]:
    found: dict[tuple[str, str], str] = {}
    for approval in journal.approvals(incident_id):
        if approval.status in ("approved", "rejected") and approval.subject.startswith(SUBJECT):
            for action in approval.actions:
                found[str(action["kind"]), str(action["target"])] = approval.status
    return found


def _key(line: PlanLine) -> tuple[str, str]:
    return line.action, f"campaign/{line.campaign_id}"
