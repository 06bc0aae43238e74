"""Subscribers and their subscriptions, as listmonk's API has them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from starlette.responses import JSONResponse, Response

from tasks.core import sha256_hex
from tasks.drills.draws import stable_uuid
from tasks.drills.esp import store
from tasks.drills.esp.calls import (
    Call,
    Refused,
    choice_of,
    csv_answer,
    existing_lists,
    integers_of,
    page_of,
    require_consent_works,
    time_json,
    with_id,
)
from tasks.drills.esp.schema import (
    BOUNCES,
    CAMPAIGN_VIEWS,
    EVENTS,
    LINK_CLICKS,
    LISTS,
    MESSAGES,
    SUBSCRIBER_LISTS,
    SUBSCRIBERS,
)


def _subscribers(call: Call) -> dict[str, Any]:
    query = sa.select(SUBSCRIBERS)
    lists, status = call.numbers("list_id"), call.text("subscription_status")
    if lists:
        member = sa.select(SUBSCRIBER_LISTS.c.subscriber_id).where(SUBSCRIBER_LISTS.c.list_id.in_(lists))
        if status:
            member = member.where(SUBSCRIBER_LISTS.c.status == status)
        query = query.where(SUBSCRIBERS.c.id.in_(member))
    if wanted := call.text("search"):
        query = query.where(
            sa.or_(SUBSCRIBERS.c.email.ilike(f"%{wanted}%"), SUBSCRIBERS.c.name.ilike(f"%{wanted}%"))
        )
    if expression := call.text("query"):
        # listmonk runs the caller's SQL too (permission subscribers:sql_query); one expression, no statement.
        if ";" in expression:
            raise Refused(400, "Invalid query")
        query = query.where(sa.text(f"({expression})"))
    try:
        return page_of(call, query, SUBSCRIBERS.c.id, None, _with_lists)
    except sa.exc.DBAPIError:
        raise Refused(400, "Error fetching Subscribers: the query cannot be run") from None


def _subscriber(call: Call) -> dict[str, Any]:
    rows = call.connection.execute(sa.select(SUBSCRIBERS).where(SUBSCRIBERS.c.id == call.id())).all()
    if not rows:
        raise Refused(400, "Subscriber not found")
    return _with_lists(call, rows)[0]


def _with_lists(call: Call, rows: Sequence[sa.Row[Any]]) -> list[dict[str, Any]]:
    memberships: dict[int, list[dict[str, Any]]] = {row.id: [] for row in rows}
    found = call.connection.execute(
        sa.select(
            SUBSCRIBER_LISTS.c.subscriber_id,
            SUBSCRIBER_LISTS.c.status.label("subscription_status"),
            SUBSCRIBER_LISTS.c.created_at.label("joined_at"),
            SUBSCRIBER_LISTS.c.updated_at.label("changed_at"),
            LISTS,
        )
        .join(LISTS, LISTS.c.id == SUBSCRIBER_LISTS.c.list_id)
        .where(SUBSCRIBER_LISTS.c.subscriber_id.in_(list(memberships)))
        .order_by(LISTS.c.id)
    )
    for one_list in found:
        memberships[one_list.subscriber_id].append(
            {
                "subscription_status": one_list.subscription_status,
                "subscription_created_at": time_json(one_list.joined_at),
                "subscription_updated_at": time_json(one_list.changed_at),
                "id": one_list.id,
                "uuid": one_list.uuid,
                "name": one_list.name,
                "type": one_list.type,
                "optin": one_list.optin,
                "tags": one_list.tags,
                "created_at": time_json(one_list.created_at),
                "updated_at": time_json(one_list.updated_at),
            }
        )
    return [
        {
            "id": row.id,
            "uuid": row.uuid,
            "email": row.email,
            "name": row.name,
            "attribs": row.attribs,
            "status": row.status,
            "lists": memberships[row.id],
            "created_at": time_json(row.created_at),
            "updated_at": time_json(row.updated_at),
        }
        for row in rows
    ]


def _create_subscriber(call: Call) -> dict[str, Any]:
    fields = call.fields()
    email = str(fields.get("email") or "").strip().lower()
    if "@" not in email or len(email) > 254:
        raise Refused(400, "Invalid email.")
    if call.connection.scalar(sa.select(SUBSCRIBERS.c.id).where(SUBSCRIBERS.c.email == email)):
        raise Refused(409, "E-mail already exists.")
    number = store.create_subscriber(
        call.connection,
        uuid=stable_uuid(call.engine.settings.seed, "subscriber", _hash_of(email)),
        email=email,
        name=str(fields.get("name") or email.partition("@")[0]),
        status=choice_of(fields, "status", ("enabled", "disabled", "blocklisted")),
        attribs=dict(fields.get("attribs") or {}),
        list_ids=integers_of(fields.get("lists")),
        subscription="confirmed" if fields.get("preconfirm_subscriptions") else "unconfirmed",
        now=call.now,
    )
    return _subscriber(with_id(call, number))


def _update_subscriber(call: Call) -> dict[str, Any]:
    """PUT: lists that are not named are lost, as the documentation warns."""
    return _save_subscriber(call, replace_lists=True)


def _patch_subscriber(call: Call) -> dict[str, Any]:
    return _save_subscriber(call, replace_lists="lists" in call.fields())


def _save_subscriber(call: Call, *, replace_lists: bool) -> dict[str, Any]:
    fields = call.fields()
    before = _subscriber(call)
    changes: dict[str, Any] = {"updated_at": call.now}
    if "email" in fields:
        changes["email"] = str(fields["email"]).strip().lower()
    if "name" in fields:
        changes["name"] = str(fields["name"])
    if "attribs" in fields:
        changes["attribs"] = dict(before["attribs"]) | dict(fields["attribs"] or {})
    if "status" in fields:
        changes["status"] = choice_of(fields, "status", ("enabled", "disabled", "blocklisted"))
        if changes["status"] == "blocklisted":
            require_consent_works(call)
            store.unsubscribe(call.connection, [call.id()], None, call.now)
    call.connection.execute(sa.update(SUBSCRIBERS).where(SUBSCRIBERS.c.id == call.id()).values(changes))
    if replace_lists:
        wanted = integers_of(fields.get("lists"))
        had = [item["id"] for item in before["lists"]]
        store.remove_from_lists(call.connection, [call.id()], [item for item in had if item not in wanted])
        status = "confirmed" if fields.get("preconfirm_subscriptions") else "unconfirmed"
        new = [item for item in wanted if item not in had]
        store.add_to_lists(call.connection, [call.id()], existing_lists(call, new), status, call.now)
    return _subscriber(call)


def _delete_subscriber(call: Call) -> bool:
    return _delete(call, [call.id()])


def _delete_subscribers(call: Call) -> bool:
    return _delete(call, call.numbers("id"))


def _delete(call: Call, ids: list[int]) -> bool:
    if not ids:
        raise Refused(400, "No IDs given.")
    for table in (SUBSCRIBER_LISTS, CAMPAIGN_VIEWS, LINK_CLICKS, BOUNCES, MESSAGES, EVENTS):
        call.connection.execute(sa.delete(table).where(table.c.subscriber_id.in_(ids)))
    call.connection.execute(sa.delete(SUBSCRIBERS).where(SUBSCRIBERS.c.id.in_(ids)))
    return True


def _change_lists(call: Call) -> bool:
    fields = call.fields()
    ids, lists = integers_of(fields.get("ids")), integers_of(fields.get("target_list_ids"))
    if "id" in call.path:
        ids, lists = ids or [], [*lists, call.id()]
    if not ids:
        raise Refused(400, "No IDs given.")
    if not lists:
        raise Refused(400, "No lists selected.")
    action = fields.get("action")
    if action == "add":
        status = choice_of(fields, "status", ("unconfirmed", "confirmed", "unsubscribed"))
        known = call.connection.scalars(sa.select(SUBSCRIBERS.c.id).where(SUBSCRIBERS.c.id.in_(ids))).all()
        store.add_to_lists(call.connection, list(known), existing_lists(call, lists), status, call.now)
    elif action == "remove":
        store.remove_from_lists(call.connection, ids, lists)
    elif action == "unsubscribe":
        require_consent_works(call)
        store.unsubscribe(call.connection, ids, lists, call.now)
    else:
        raise Refused(400, "Invalid action.")
    return True


def _blocklist_one(call: Call) -> bool:
    require_consent_works(call)
    _subscriber(call)
    store.blocklist(call.connection, [call.id()], call.now)
    return True


def _blocklist_many(call: Call) -> bool:
    require_consent_works(call)
    ids = integers_of(call.fields().get("ids"))
    if not ids:
        raise Refused(400, "No IDs given.")
    store.blocklist(call.connection, ids, call.now)
    return True


def _export_subscribers(call: Call) -> Response:
    """Return the CSV export, which has no lists (listmonk #560)."""
    rows = call.connection.execute(sa.select(SUBSCRIBERS).order_by(SUBSCRIBERS.c.id))
    return csv_answer(
        ("uuid", "email", "name", "attributes", "status", "created_at", "updated_at"),
        (
            (
                row.uuid,
                row.email,
                row.name,
                json.dumps(row.attribs),
                row.status,
                time_json(row.created_at),
                time_json(row.updated_at),
            )
            for row in rows
        ),
    )


def _export_subscriber(call: Call) -> Response:
    profile = _subscriber(call)
    lists = profile.pop("lists")
    views, clicks = (
        [
            {"campaign_id": row.campaign_id, "created_at": time_json(row.created_at)}
            for row in call.connection.execute(
                sa.select(table.c.campaign_id, table.c.created_at)
                .where(table.c.subscriber_id == call.id())
                .order_by(table.c.id)
            )
        ]
        for table in (CAMPAIGN_VIEWS, LINK_CLICKS)
    )
    return JSONResponse(
        {"profile": [profile], "subscriptions": lists, "campaign_views": views, "link_clicks": clicks}
    )


def _hash_of(text: str) -> int:
    """Return a stable 60-bit number for a text."""
    return int(sha256_hex(text.encode())[:15], 16)


ROUTES = (
    ("GET", "/api/subscribers", _subscribers),
    ("POST", "/api/subscribers", _create_subscriber),
    ("DELETE", "/api/subscribers", _delete_subscribers),
    ("GET", "/api/subscribers/export", _export_subscribers),
    ("PUT", "/api/subscribers/lists", _change_lists),
    ("PUT", "/api/subscribers/lists/{id}", _change_lists),
    ("PUT", "/api/subscribers/blocklist", _blocklist_many),
    ("GET", "/api/subscribers/{id}", _subscriber),
    ("PUT", "/api/subscribers/{id}", _update_subscriber),
    ("PATCH", "/api/subscribers/{id}", _patch_subscriber),
    ("DELETE", "/api/subscribers/{id}", _delete_subscriber),
    ("PUT", "/api/subscribers/{id}/blocklist", _blocklist_one),
    ("GET", "/api/subscribers/{id}/export", _export_subscriber),
)
