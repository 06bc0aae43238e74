"""Who agreed to stop what: answers in the journal, the plan's policy for what can be undone, or an open question."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

from tasks.incidents import Approval, Journal

SUBJECT = "respond: stop campaigns"
POLICY = "policy"


class Line(Protocol):
    """A line of a plan: what is to be done to one campaign."""

    @property
    def campaign_id(self) -> int:
        """The campaign."""

    @property
    def action(self) -> str:
        """What is to be done; empty where there is nothing to agree to."""

    @property
    def undoable(self) -> bool:
        """Whether it can be taken back."""

    def as_action(self) -> dict[str, Any]:
        """Return this line as the journal's approvals keep it."""


L = TypeVar("L", bound=Line)


@dataclass(frozen=True)
class Agreed(Generic[L]):
    """What may be done.

    Attributes:
        lines: the lines of the plan that somebody, or the policy, agreed to.
        rejected: lines that somebody refused.
        waiting: the question that still waits for an answer, if one does.
        by_policy: campaigns to whose stopping no person agreed, only the plan's policy.
    """

    lines: tuple[L, ...]
    rejected: tuple[L, ...]
    waiting: Approval | None
    by_policy: frozenset[int] = frozenset()


def question_of(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Return the actions of `lines` as an approval names them."""
    return [line.as_action() for line in lines if line.action]


def agree(
    journal: Journal,
    incident_id: str,
    lines: Sequence[L],
    *,
    use_policy: bool,
    policy_actions: Collection[str],
    expires_at: datetime,
    asked: Collection[int] = (),
    subject: str = SUBJECT,
) -> Agreed[L]:
    """Return what is agreed to; what nobody has answered yet becomes one open question in the journal.

    The policy approves only actions that can be undone and that the plan lists; irreversible ones always need a
    person. A yes is good for one kind of action on one campaign of this incident, whenever the next run comes. A no
    counts only for the run that asked (its approvals are `asked`); the next one asks again. Each `subject` has its own
    answers.
    """
    journal.expire_approvals()
    wanted = [line for line in lines if line.action]
    answers = _answers(journal, incident_id, asked, subject)
    unanswered = [line for line in wanted if _key(line) not in answers]
    by_policy = [
        line for line in unanswered if use_policy and line.undoable and line.action in policy_actions
    ]
    if by_policy:
        policy = journal.request_approval(
            incident_id,
            subject=f"{subject}, by the plan's policy",
            actions=question_of(by_policy),
            expires_at=expires_at,
        )
        journal.answer_approval(policy.id, "approved", POLICY, False, "policy")
    waiting = None
    open_lines = [line for line in unanswered if line not in by_policy]
    if open_lines:
        waiting = journal.request_approval(
            incident_id, subject=subject, actions=question_of(open_lines), expires_at=expires_at
        )
    answers = _answers(journal, incident_id, asked, subject)
    status = {line: answers[_key(line)].status for line in wanted if _key(line) in answers}
    return Agreed(
        lines=tuple(line for line in wanted if status.get(line) == "approved"),
        rejected=tuple(line for line in wanted if status.get(line) == "rejected"),
        waiting=waiting,
        by_policy=frozenset(line.campaign_id for line in status if answers[_key(line)].via == "policy"),
    )


def _answers(
    journal: Journal, incident_id: str, asked: Collection[int], subject: str
) -> dict[tuple[str, str], Approval]:
    found: dict[tuple[str, str], Approval] = {}
    for approval in journal.approvals(incident_id):
        counts = approval.status == "approved" or (approval.status == "rejected" and approval.id in asked)
        if counts and approval.subject.startswith(subject):
            for action in approval.actions:
                found[str(action["kind"]), str(action["target"])] = approval
    return found


def _key(line: Line) -> tuple[str, str]:
    return line.action, f"campaign/{line.campaign_id}"
