"""The send calendar as severity reads it: what is unfinished, for how many, until when, and what it may bring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from tasks.outages.counts import CampaignCount
from tasks.outages.severity import DueSend, Usual
from tasks.plan import CampaignKind, LatenessRule

FORGOTTEN_AFTER = timedelta(days=7)
"""An unfinished campaign that was due longer ago than this was left behind by people."""


def with_audiences(campaigns: Sequence[CampaignCount]) -> list[CampaignCount]:
    """Return the campaigns with `to_send` filled in for those that have not begun.

    A provider counts an audience when it starts (listmonk). Until then the newest campaign to the same lists tells
    it, else the largest one that is known: the worst is assumed.
    """
    counted = sorted(
        (one.started_at, one.campaign_id, one.to_send, one.list_ids)
        for one in campaigns
        if one.to_send > 0 and one.started_at is not None
    )
    by_lists = {list_ids: to_send for *_, to_send, list_ids in counted}
    largest = max((to_send for *_, to_send, _ in counted), default=0)
    return [
        one
        if one.to_send > 0 or one.status not in ("scheduled", "draft")
        else replace(one, to_send=by_lists.get(one.list_ids, largest))
        for one in campaigns
    ]


def calendar_of(
    campaigns: Sequence[CampaignCount],
    now: datetime,
    *,
    lateness: Mapping[CampaignKind, LatenessRule],
    value_per_message: Mapping[str, float] | None = None,
) -> list[DueSend]:
    """Return the unfinished sends of `campaigns`, soonest first.

    A draft counts while it keeps its time: unscheduling it because of the outage does not make it less late.

    Args:
        campaigns: as the provider has them, audiences filled in.
        now: to leave out what people have left behind.
        lateness: until when each kind is useful, for campaigns that do not say so themselves.
        value_per_message: what a message of each kind brings on average, in minor units.
    """
    rules = {str(kind): rule for kind, rule in lateness.items()}
    sends = []
    for one in campaigns:
        due_at = one.started_at if one.status in ("running", "paused") else one.send_at
        due_at = due_at or one.send_at
        if one.status not in ("running", "paused", "scheduled", "draft") or due_at is None:
            continue
        left = one.to_send - one.sent
        if left <= 0 or due_at < now - FORGOTTEN_AFTER:
            continue
        rule = rules.get(one.kind)
        planned = one.send_at or due_at
        sends.append(
            DueSend(
                campaign_id=one.campaign_id,
                name=one.name,
                kind=one.kind,
                due_at=due_at,
                recipients=left,
                latest_useful_at=one.latest_useful_at or (planned + rule.useful_for if rule else None),
                value_minor=round(left * (value_per_message or {}).get(one.kind, 0)),
            )
        )
    return sorted(sends, key=lambda send: (send.due_at, send.campaign_id))


def usual_of(campaigns: Sequence[CampaignCount], daily_revenue_minor: int) -> Usual:
    """Return what is usual: the largest audience a campaign has had, and the revenue of an average day."""
    return Usual(max((one.to_send for one in campaigns), default=0), daily_revenue_minor)


def value_per_message(
    campaigns: Sequence[CampaignCount], revenue_minor: Mapping[int, int]
) -> dict[str, float]:
    """Return what a message of each kind brought on average, in minor units.

    Args:
        campaigns: with their `sent` counts.
        revenue_minor: attributed revenue by campaign id.
    """
    sent: dict[str, int] = {}
    brought: dict[str, int] = {}
    for one in campaigns:
        if one.status == "finished" and one.sent > 0:
            sent[one.kind] = sent.get(one.kind, 0) + one.sent
            brought[one.kind] = brought.get(one.kind, 0) + revenue_minor.get(one.campaign_id, 0)
    return {kind: brought[kind] / count for kind, count in sent.items()}
