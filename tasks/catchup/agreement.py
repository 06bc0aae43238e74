"""Who agreed to what is proposed: answers in the journal, the plan's policy, or a question that still waits.

A yes is good for one kind of action on one campaign, whenever the next run comes; a no for the run that asked. What a
deadline decides needs no answer. The policy never answers where the plan itself asks for a person (`needs_approval`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tasks.catchup.desk import number_in
from tasks.catchup.recovery import SENDS, Question
from tasks.incidents import Approval, Journal

POLICY = "policy"


@dataclass(frozen=True)
class Agreed:
    """What may be done.

    Attributes:
        to: per campaign the kinds of action that are agreed to.
        waiting: the approvals that still wait for an answer.
    """

    to: Mapping[int, frozenset[str]]
    waiting: tuple[Approval, ...]


def agree(
    journal: Journal,
    incident_id: str,
    questions: Sequence[Question],
    *,
    use_policy: bool,
    policy_actions: Iterable[str],
    expires_at: datetime,
    asked: Collection[int] = (),
) -> Agreed:
    """Return what is agreed to; ask the journal's approvals for the rest.

    Args:
        journal: where answers are kept.
        incident_id: the incident.
        questions: what is proposed.
        use_policy: whether the plan's policy may answer.
        policy_actions: the kinds it may answer for. `catch_up` and `drop` cannot be undone: whoever lists them in the
            plan has decided so.
        expires_at: until when a new question waits.
        asked: the approvals that this run asked for. A no counts only for the run that asked: the next one asks
            again. Only a no to `send_anyway` stays, for it decides what becomes of the campaign.
    """
    journal.expire_approvals()
    answers = _answers(journal, incident_id, asked)
    open_questions = [one for one in questions if one.kind and not _answered(one, answers)]
    if use_policy:
        allowed = set(policy_actions)
        by_policy = [one for one in open_questions if one.kind in allowed]
        if by_policy:
            approval = _ask(journal, incident_id, "recover, by the plan's policy", by_policy, expires_at)
            journal.answer_approval(approval.id, "approved", POLICY, False, "policy")
        open_questions = [one for one in open_questions if one not in by_policy]
    waiting: list[Approval] = []
    together = [one for one in open_questions if one.kind != "send_anyway"]
    if together:
        waiting.append(
            _ask(journal, incident_id, "recover: send, schedule again or drop", together, expires_at)
        )
    # A campaign that the plan asks about gets a question of its own: yes sends it, no drops it.
    waiting += [
        _ask(journal, incident_id, f"recover: {_in_words(one)} ({one.why})", [one], expires_at)
        for one in open_questions
        if one.kind == "send_anyway"
    ]
    return Agreed(_kinds(questions, _answers(journal, incident_id, asked)), tuple(waiting))


def _in_words(question: Question) -> str:
    """Return what is asked about a campaign that the plan leaves to a person; not every one of them is late."""
    if question.reason == "paused_by_others":
        return f"go on with {question.name}, which was paused before? (a no ends it for good)"
    if question.reason == "too_tight_as_planned":
        return f"send {question.name} at its time, to as many as fit?"
    return (
        f"send {question.name} although late?" if question.reason == "rule_asks" else f"send {question.name}?"
    )


def _ask(
    journal: Journal, incident_id: str, subject: str, questions: Sequence[Question], expires_at: datetime
) -> Approval:
    actions: list[dict[str, Any]] = [
        {
            "kind": one.kind,
            "target": f"campaign/{one.campaign_id}",
            "undoable": one.undoable,
            "verdict": one.verdict,
        }
        for one in questions
    ]
    return journal.request_approval(incident_id, subject=subject, actions=actions, expires_at=expires_at)


def _answers(journal: Journal, incident_id: str, asked: Collection[int]) -> dict[tuple[int, str], str]:
    """Return the last answer that counts per campaign and kind: `approved` or `rejected`."""
    found: dict[tuple[int, str], str] = {}
    for approval in journal.approvals(incident_id):
        for action in approval.actions if approval.status in ("approved", "rejected") else ():
            kind, number = str(action["kind"]), number_in(str(action.get("target", "")))
            counts = approval.status == "approved" or kind == "send_anyway" or approval.id in asked
            if number is not None and counts:
                found[number, kind] = approval.status
    return found


def _answered(question: Question, answers: Mapping[tuple[int, str], str]) -> bool:
    sent_anyway = answers.get((question.campaign_id, "send_anyway")) == "approved" and question.kind in SENDS
    return sent_anyway or (question.campaign_id, question.kind) in answers


def _kinds(
    questions: Iterable[Question], answers: Mapping[tuple[int, str], str]
) -> dict[int, frozenset[str]]:
    found: dict[int, set[str]] = {one.campaign_id: set() for one in questions}
    for (campaign, kind), answer in answers.items():
        if answer == "approved":
            found.setdefault(campaign, set()).add(kind)
        elif kind == "send_anyway":
            found.setdefault(campaign, set()).add("drop_anyway")
    return {campaign: frozenset(kinds) for campaign, kinds in found.items()}
