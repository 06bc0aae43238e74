"""What happened to messages: bounces and analytics as listmonk's API has them, and our two extensions."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from starlette.responses import Response

from tasks.drills.esp.calls import (
    Call,
    Refused,
    csv_answer,
    page_of,
    parse_time,
    time_json,
)
from tasks.drills.esp.schema import (
    BOUNCES,
    CAMPAIGN_VIEWS,
    CAMPAIGNS,
    EVENTS,
    LINK_CLICKS,
    LINKS,
    MESSAGES,
    SUBSCRIBERS,
)


def _bounce_query() -> sa.Select[Any]:
    return (
        sa.select(
            BOUNCES,
            SUBSCRIBERS.c.email,
            SUBSCRIBERS.c.uuid.label("subscriber_uuid"),
            CAMPAIGNS.c.name.label("campaign_name"),
        )
        .join(SUBSCRIBERS, SUBSCRIBERS.c.id == BOUNCES.c.subscriber_id)
        .outerjoin(CAMPAIGNS, CAMPAIGNS.c.id == BOUNCES.c.campaign_id)
    )


def _bounces(call: Call) -> dict[str, Any]:
    query = _bounce_query()
    if campaigns := [number for number in call.numbers("campaign_id") if number]:
        query = query.where(BOUNCES.c.campaign_id.in_(campaigns))
    if source := call.text("source"):
        query = query.where(BOUNCES.c.source == source)
    return page_of(call, query, BOUNCES.c.id, _bounce_json)


def _bounce(call: Call) -> dict[str, Any]:
    row = call.connection.execute(_bounce_query().where(BOUNCES.c.id == call.id())).one_or_none()
    if row is None:
        raise Refused(400, "Bounce not found")
    return _bounce_json(row)


def _subscriber_bounces(call: Call) -> list[dict[str, Any]]:
    if not call.connection.scalar(sa.select(SUBSCRIBERS.c.id).where(SUBSCRIBERS.c.id == call.id())):
        raise Refused(400, "Subscriber not found")
    rows = call.connection.execute(
        _bounce_query().where(BOUNCES.c.subscriber_id == call.id()).order_by(BOUNCES.c.id.desc())
    )
    return [_bounce_json(row) for row in rows]


def _bounce_json(row: sa.Row[Any]) -> dict[str, Any]:
    campaign = {"id": row.campaign_id, "name": row.campaign_name} if row.campaign_id else None
    return {
        "id": row.id,
        "type": row.type,
        "source": row.source,
        "meta": row.meta,
        "created_at": time_json(row.created_at),
        "email": row.email,
        "subscriber_uuid": row.subscriber_uuid,
        "subscriber_id": row.subscriber_id,
        "campaign": campaign,
    }


MAX_LOG_ROWS = 10_000

_ANALYTICS = {"views": CAMPAIGN_VIEWS, "clicks": LINK_CLICKS, "bounces": BOUNCES}


def _analytics(call: Call) -> list[dict[str, Any]]:
    kind, ids = call.path["type"], call.numbers("id")
    if not ids:
        raise Refused(400, "No IDs given.")
    low, high = parse_time(call.text("from")), parse_time(call.text("to"))
    if low is None or high is None:
        raise Refused(400, "Invalid `from` or `to` dates.")
    if kind == "links":
        rows = call.connection.execute(
            sa.select(LINKS.c.url, sa.func.count().label("clicks"))
            .join(LINK_CLICKS, LINK_CLICKS.c.link_id == LINKS.c.id)
            .where(LINK_CLICKS.c.campaign_id.in_(ids), LINK_CLICKS.c.created_at.between(low, high))
            .group_by(LINKS.c.url)
            .order_by(sa.text("clicks DESC"), LINKS.c.url)
            .limit(50)
        )
        return [{"url": row.url, "count": row.clicks} for row in rows]
    table = _ANALYTICS.get(kind)
    if table is None:
        raise Refused(400, "Invalid data")
    cut = 10 if (high - low).days >= 7 else 13
    counts: dict[tuple[int, str], int] = {}
    for row in call.connection.execute(
        sa.select(table.c.campaign_id, table.c.created_at).where(
            table.c.campaign_id.in_(ids), table.c.created_at.between(low, high)
        )
    ):
        moment = row.created_at.isoformat()[:cut] + ("T00:00:00Z" if cut == 10 else ":00:00Z")
        counts[row.campaign_id, moment] = counts.get((row.campaign_id, moment), 0) + 1
    return [
        {"campaign_id": campaign, "count": count, "timestamp": moment}
        for (campaign, moment), count in sorted(counts.items(), key=lambda item: item[0][::-1])
    ]


def _export_analytics(call: Call) -> Response:
    table = {"views": CAMPAIGN_VIEWS, "clicks": LINK_CLICKS}.get(call.path["type"])
    if table is None:
        raise Refused(400, "Invalid data")
    query = sa.select(table.c.campaign_id, table.c.subscriber_id, table.c.created_at).order_by(table.c.id)
    if since := parse_time(call.text("since")):
        query = query.where(table.c.created_at >= since)
    rows = call.connection.execute(query)
    return csv_answer(
        ("campaign_id", "subscriber_id", "created_at"),
        ((row.campaign_id, row.subscriber_id, time_json(row.created_at)) for row in rows),
    )


def _message_log(call: Call) -> dict[str, Any]:
    """Extension: the sender's own log, by rising id."""
    query = sa.select(MESSAGES).where(MESSAGES.c.id > _after(call)).order_by(MESSAGES.c.id)
    if campaigns := call.numbers("campaign_id"):
        query = query.where(MESSAGES.c.campaign_id.in_(campaigns))
    rows = call.connection.execute(query.limit(_limit(call)))
    return {
        "results": [
            {
                "id": row.id,
                "campaign_id": row.campaign_id,
                "subscriber_id": row.subscriber_id,
                "status": row.status,
                "queued_at": time_json(row.queued_at),
                "updated_at": time_json(row.updated_at),
                "smtp_code": row.smtp_code,
            }
            for row in rows
        ]
    }


def _event_log(call: Call) -> dict[str, Any]:
    """Extension: every event, by rising id."""
    query = sa.select(EVENTS).where(EVENTS.c.id > _after(call)).order_by(EVENTS.c.id)
    if campaigns := call.numbers("campaign_id"):
        query = query.where(EVENTS.c.campaign_id.in_(campaigns))
    rows = call.connection.execute(query.limit(_limit(call)))
    return {
        "results": [
            {
                "id": row.id,
                "type": row.type,
                "campaign_id": row.campaign_id,
                "subscriber_id": row.subscriber_id,
                "occurred_at": time_json(row.occurred_at),
            }
            for row in rows
        ]
    }


def _after(call: Call) -> int:
    return max([0, *call.numbers("after_id")])


def _limit(call: Call) -> int:
    wanted = [number for number in call.numbers("limit") if number > 0]
    return min(MAX_LOG_ROWS, *(wanted or [1000]))


ROUTES = (
    ("GET", "/api/subscribers/{id}/bounces", _subscriber_bounces),
    ("GET", "/api/campaigns/analytics/{type}", _analytics),
    ("GET", "/api/bounces", _bounces),
    ("GET", "/api/bounces/{id}", _bounce),
    ("GET", "/api/maintenance/analytics/{type}/export", _export_analytics),
    ("GET", "/api/extensions/messages", _message_log),
    ("GET", "/api/extensions/events", _event_log),
)
