"""Campaigns, their status and progress, as listmonk's API has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from tasks.drills.draws import stable_uuid
from tasks.drills.esp import store
from tasks.drills.esp.calls import (
    DEFAULT_FROM,
    Call,
    Refused,
    choice_of,
    existing_lists,
    integers_of,
    page_of,
    parse_time,
    strings_of,
    time_json,
    with_id,
)
from tasks.drills.esp.schema import (
    BOUNCES,
    CAMPAIGN_LISTS,
    CAMPAIGN_VIEWS,
    CAMPAIGNS,
    EVENTS,
    LINK_CLICKS,
    MESSAGES,
    TEMPLATES,
)
from tasks.drills.esp.statuses import EDITABLE, StatusRefused, change_status


def _campaigns(call: Call) -> dict[str, Any]:
    query = sa.select(CAMPAIGNS)
    if statuses := call.query.get("status"):
        query = query.where(CAMPAIGNS.c.status.in_(statuses))
    if wanted := call.text("query"):
        query = query.where(
            sa.or_(CAMPAIGNS.c.name.ilike(f"%{wanted}%"), CAMPAIGNS.c.subject.ilike(f"%{wanted}%"))
        )
    if tags := call.query.get("tags"):
        rows = call.connection.execute(sa.select(CAMPAIGNS.c.id, CAMPAIGNS.c.tags)).all()
        query = query.where(CAMPAIGNS.c.id.in_([row.id for row in rows if set(tags) <= set(row.tags or [])]))
    return page_of(call, query, CAMPAIGNS.c.id, None, _campaigns_json)


def _campaign(call: Call) -> dict[str, Any]:
    rows = call.connection.execute(sa.select(CAMPAIGNS).where(CAMPAIGNS.c.id == call.id())).all()
    if not rows:
        raise Refused(400, "Campaign not found")
    return _campaigns_json(call, rows)[0]


def _campaigns_json(call: Call, rows: Sequence[sa.Row[Any]]) -> list[dict[str, Any]]:
    ids = [row.id for row in rows]
    lists: dict[int, list[dict[str, Any]]] = {number: [] for number in ids}
    for item in call.connection.execute(
        sa.select(CAMPAIGN_LISTS).where(CAMPAIGN_LISTS.c.campaign_id.in_(ids)).order_by(CAMPAIGN_LISTS.c.id)
    ):
        lists[item.campaign_id].append({"id": item.list_id or 0, "name": item.list_name})
    counts = {
        name: dict(
            call.connection.execute(
                sa.select(table.c.campaign_id, sa.func.count())
                .where(table.c.campaign_id.in_(ids))
                .group_by(table.c.campaign_id)
            )
            .tuples()
            .all()
        )
        for name, table in (("views", CAMPAIGN_VIEWS), ("clicks", LINK_CLICKS), ("bounces", BOUNCES))
    }
    bodies = call.text("no_body") != "true"
    return [
        {
            "id": row.id,
            "uuid": row.uuid,
            "name": row.name,
            "subject": row.subject,
            "from_email": row.from_email,
            **({"body": row.body} if bodies else {}),
            "altbody": None,
            "content_type": row.content_type,
            "send_at": time_json(row.send_at),
            "status": row.status,
            "tags": row.tags,
            "attribs": row.attribs,
            "headers": [],
            "type": row.type,
            "messenger": "email",
            "template_id": row.template_id,
            "to_send": row.to_send,
            "sent": row.sent,
            "views": counts["views"].get(row.id, 0),
            "clicks": counts["clicks"].get(row.id, 0),
            "bounces": counts["bounces"].get(row.id, 0),
            "lists": lists[row.id],
            "started_at": time_json(row.started_at),
            "created_at": time_json(row.created_at),
            "updated_at": time_json(row.updated_at),
        }
        for row in rows
    ]


def _create_campaign(call: Call) -> dict[str, Any]:
    number = (call.connection.scalar(sa.select(sa.func.max(CAMPAIGNS.c.id))) or 0) + 1
    values = _campaign_values(call, call.fields(), None)
    lists = values.pop("lists")
    call.connection.execute(
        sa.insert(CAMPAIGNS).values(
            id=number,
            uuid=stable_uuid(call.engine.settings.seed, "campaign", number),
            status="draft",
            to_send=0,
            sent=0,
            max_subscriber_id=0,
            last_subscriber_id=0,
            created_at=call.now,
            updated_at=call.now,
            **values,
        )
    )
    store.set_campaign_lists(call.connection, number, lists)
    return _campaign(with_id(call, number))


def _update_campaign(call: Call) -> dict[str, Any]:
    before = _campaign(call)
    if before["status"] not in EDITABLE:
        raise Refused(400, "Cannot update a running or a finished campaign")
    values = _campaign_values(call, call.fields(), before)
    lists = values.pop("lists")
    if before["status"] == "scheduled" and values["send_at"] is None:
        values["status"] = "draft"
    call.connection.execute(
        sa.update(CAMPAIGNS).where(CAMPAIGNS.c.id == call.id()).values(updated_at=call.now, **values)
    )
    store.set_campaign_lists(call.connection, call.id(), lists)
    return _campaign(call)


def _campaign_values(call: Call, fields: dict[str, Any], before: dict[str, Any] | None) -> dict[str, Any]:
    """Return the columns of a created or changed campaign; fields not named keep what they were."""
    merged = (before or {}) | fields
    name, subject = str(merged.get("name") or "").strip(), str(merged.get("subject") or "").strip()
    if not name or len(name) > 254:
        raise Refused(400, "Invalid length for `name`.")
    if not subject or len(subject) > 254:
        raise Refused(400, "Invalid length for `subject`.")
    lists = existing_lists(call, integers_of(fields.get("lists")))
    if not lists:
        raise Refused(400, "Invalid list IDs.")
    send_at = parse_time(merged.get("send_at"))
    if send_at is not None and send_at < call.now:
        raise Refused(400, "`send_at` date should be in the future.")
    if merged.get("messenger") not in (None, "", "email"):
        raise Refused(400, f"Unknown messenger {merged['messenger']}.")
    template = merged.get("template_id")
    if template is None:
        template = call.connection.scalar(sa.select(TEMPLATES.c.id).where(TEMPLATES.c.is_default))
    elif not call.connection.scalar(sa.select(TEMPLATES.c.id).where(TEMPLATES.c.id == template)):
        raise Refused(400, "Template not found")
    attribs = merged.get("attribs") or {}
    if not isinstance(attribs, dict):
        raise Refused(400, "Invalid `attribs`.")
    return {
        "name": name,
        "subject": subject,
        "from_email": str(merged.get("from_email") or DEFAULT_FROM),
        "body": str(merged.get("body") or ""),
        "content_type": choice_of(
            merged, "content_type", ("richtext", "html", "plain", "markdown", "visual")
        ),
        "send_at": send_at,
        "tags": strings_of(merged.get("tags")),
        "attribs": attribs,
        "type": choice_of(merged, "type", ("regular", "optin")),
        "template_id": template,
        "lists": lists,
    }  # fmt: skip


def _change_status(call: Call) -> dict[str, Any]:
    before = _campaign(call)
    wanted = str(call.fields().get("status"))
    try:
        stored = change_status(before["status"], wanted, has_send_at=before["send_at"] is not None)
    except StatusRefused as refusal:
        raise Refused(400, str(refusal)) from None
    call.connection.execute(
        sa.update(CAMPAIGNS).where(CAMPAIGNS.c.id == call.id()).values(status=stored, updated_at=call.now)
    )
    if wanted in ("paused", "cancelled"):
        call.engine.stop(call.id())
    return before | {"status": wanted}


def _delete_campaign(call: Call) -> bool:
    before = _campaign(call)
    call.engine.stop(before["id"])
    for table in (CAMPAIGN_LISTS, CAMPAIGN_VIEWS, LINK_CLICKS, BOUNCES, MESSAGES, EVENTS):
        call.connection.execute(sa.delete(table).where(table.c.campaign_id == before["id"]))
    call.connection.execute(sa.delete(CAMPAIGNS).where(CAMPAIGNS.c.id == before["id"]))
    return True


def _running_stats(call: Call) -> list[dict[str, Any]]:
    """Return what runs, and what is still stopping (its pipe is not yet gone)."""
    stopping = call.engine.listed_as_running()
    wanted = call.numbers("campaign_id")
    rows = call.connection.execute(
        sa.select(CAMPAIGNS)
        .where(sa.or_(CAMPAIGNS.c.status == "running", CAMPAIGNS.c.id.in_(stopping)))
        .order_by(CAMPAIGNS.c.id)
    ).all()
    return [
        {
            "id": row.id,
            "status": row.status,
            "to_send": row.to_send,
            "sent": row.sent,
            "started_at": time_json(row.started_at),
            "updated_at": time_json(row.updated_at),
            "rate": call.engine.settings.messages_per_minute if row.status == "running" else 0,
        }
        for row in rows
        if not wanted or row.id in wanted
    ]


ROUTES = (
    ("GET", "/api/campaigns", _campaigns),
    ("POST", "/api/campaigns", _create_campaign),
    ("GET", "/api/campaigns/running/stats", _running_stats),
    ("GET", "/api/campaigns/{id}", _campaign),
    ("PUT", "/api/campaigns/{id}", _update_campaign),
    ("PUT", "/api/campaigns/{id}/status", _change_status),
    ("DELETE", "/api/campaigns/{id}", _delete_campaign),
)
