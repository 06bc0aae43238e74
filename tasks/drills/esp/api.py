"""The simulated ESP's REST API: listmonk v6's documented dialect, and two extensions under `/api/extensions`.

Answers are `{"data": …}`, refusals `{"message": …}` with listmonk's words and codes: 400 for what it does not know or
allow, 403 for wrong credentials, 409 for an address that exists. Faults are applied here too.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import csv
import hmac
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tasks.drills.draws import one, stable_uuid
from tasks.drills.esp import store
from tasks.drills.esp.engine import Engine
from tasks.drills.esp.schema import (
    BOUNCES,
    CAMPAIGN_LISTS,
    CAMPAIGN_VIEWS,
    CAMPAIGNS,
    EVENTS,
    LINK_CLICKS,
    LINKS,
    LISTS,
    MESSAGES,
    SUBSCRIBER_LISTS,
    SUBSCRIBERS,
    TEMPLATES,
)
from tasks.drills.esp.statuses import EDITABLE, StatusRefused, change_status
from tasks.drills.esp.transport import ACCEPTED, Outgoing

DEFAULT_PER_PAGE = 20
MAX_PER_PAGE = 50
MAX_LOG_ROWS = 10_000
_FROM = "Example Shop <news@shop.example>"


class Refused(Exception):
    """The answer is an error: an HTTP status and listmonk's message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass
class Call:
    """One request, as the handlers see it: no HTTP in them."""

    engine: Engine
    connection: sa.Connection
    now: datetime
    path: Mapping[str, Any]
    query: Mapping[str, list[str]]
    body: Any = None
    content_type: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def text(self, name: str, default: str = "") -> str:
        """Return a query parameter."""
        return self.query.get(name, [default])[0]

    def numbers(self, *names: str) -> list[int]:
        """Return repeated query parameters as whole numbers.

        Raises:
            Refused: one is not a number.
        """
        try:
            return [int(one) for name in names for one in self.query.get(name, [])]
        except ValueError:
            raise Refused(400, "Invalid ID") from None

    def fields(self) -> dict[str, Any]:
        """Return the JSON object in the body.

        Raises:
            Refused: it is not one.
        """
        if not isinstance(self.body, dict):
            raise Refused(400, "invalid request")
        return self.body

    def id(self) -> int:
        """Return the id in the path.

        Raises:
            Refused: it is not a positive number.
        """
        try:
            found = int(self.path["id"])
        except ValueError:
            raise Refused(400, "Invalid ID") from None
        if found < 1:
            raise Refused(400, "Invalid ID")
        return found


Handler = Callable[[Call], Any]


def build_api(engine: Engine, *, user: str, token: str, seed: int) -> Starlette:
    """Return the ASGI application."""
    gate = _Gate(engine, user, token, seed)
    routes = [
        ("GET", "/health", _health, False),
        ("GET", "/api/health", _health, True),
        ("POST", "/subscription/{campaign}/{subscriber}", _one_click, False),
        ("GET", "/api/lists", _lists, True),
        ("POST", "/api/lists", _create_list, True),
        ("GET", "/api/lists/{id}", _list, True),
        ("PUT", "/api/lists/{id}", _update_list, True),
        ("DELETE", "/api/lists/{id}", _delete_list, True),
        ("GET", "/api/subscribers", _subscribers, True),
        ("POST", "/api/subscribers", _create_subscriber, True),
        ("DELETE", "/api/subscribers", _delete_subscribers, True),
        ("GET", "/api/subscribers/export", _export_subscribers, True),
        ("PUT", "/api/subscribers/lists", _change_lists, True),
        ("PUT", "/api/subscribers/lists/{id}", _change_lists, True),
        ("PUT", "/api/subscribers/blocklist", _blocklist_many, True),
        ("GET", "/api/subscribers/{id}", _subscriber, True),
        ("PUT", "/api/subscribers/{id}", _update_subscriber, True),
        ("PATCH", "/api/subscribers/{id}", _patch_subscriber, True),
        ("DELETE", "/api/subscribers/{id}", _delete_subscriber, True),
        ("PUT", "/api/subscribers/{id}/blocklist", _blocklist_one, True),
        ("GET", "/api/subscribers/{id}/bounces", _subscriber_bounces, True),
        ("GET", "/api/subscribers/{id}/export", _export_subscriber, True),
        ("GET", "/api/campaigns", _campaigns, True),
        ("POST", "/api/campaigns", _create_campaign, True),
        ("GET", "/api/campaigns/running/stats", _running_stats, True),
        ("GET", "/api/campaigns/analytics/{type}", _analytics, True),
        ("GET", "/api/campaigns/{id}", _campaign, True),
        ("PUT", "/api/campaigns/{id}", _update_campaign, True),
        ("PUT", "/api/campaigns/{id}/status", _change_status, True),
        ("DELETE", "/api/campaigns/{id}", _delete_campaign, True),
        ("GET", "/api/templates", _templates, True),
        ("POST", "/api/templates", _create_template, True),
        ("GET", "/api/templates/{id}", _template, True),
        ("PUT", "/api/templates/{id}", _update_template, True),
        ("DELETE", "/api/templates/{id}", _delete_template, True),
        ("GET", "/api/bounces", _bounces, True),
        ("GET", "/api/bounces/{id}", _bounce, True),
        ("POST", "/api/tx", _transactional, True),
        ("GET", "/api/maintenance/analytics/{type}/export", _export_analytics, True),
        ("GET", "/api/extensions/messages", _message_log, True),
        ("GET", "/api/extensions/events", _event_log, True),
    ]
    return Starlette(
        routes=[
            Route(path, gate.endpoint(handler, guarded=guarded), methods=[method])
            for method, path, handler, guarded in routes
        ],
        exception_handlers={HTTPException: _http_error},
    )


class _Gate:
    """What every request passes: faults, credentials, one transaction under the ESP's lock, errors as listmonk's."""

    def __init__(self, engine: Engine, user: str, token: str, seed: int) -> None:
        self._engine = engine
        self._user = user
        self._token = token
        self._seed = seed
        self._requests = 0

    def endpoint(self, handler: Handler, *, guarded: bool) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            faults = self._engine.faults
            self._requests += 1
            if "slow" in faults:
                await asyncio.sleep(faults.get("slow", "seconds", 0.0))
            if "hard_down" in faults:
                return _message(503, "Service Unavailable")
            share = faults.get("partial", "share", 0.0)
            if share and one(self._seed, "partial request", 0, self._requests) < share:
                return _message(503, "Service Unavailable")
            if guarded and (refusal := self._refusal(request.headers.get("authorization", ""))):
                return _message(403, refusal)
            raw = await request.body()
            try:
                body = json.loads(raw) if raw and "json" in request.headers.get("content-type", "") else None
            except ValueError:
                return _message(400, "Syntax error in the request body")
            query: dict[str, list[str]] = {}
            for name, value in request.query_params.multi_items():
                query.setdefault(name, []).append(value)
            return await run_in_threadpool(self._run, handler, dict(request.path_params), query, body)

        return answer

    def _run(
        self, handler: Handler, path: dict[str, Any], query: dict[str, list[str]], body: Any
    ) -> Response:
        engine = self._engine
        try:
            with engine.lock, engine.database.begin() as connection:
                call = Call(engine, connection, store.naive(engine.now), path, query, body)
                data = handler(call)
        except Refused as refusal:
            return _message(refusal.status, refusal.message)
        if isinstance(data, Response):
            return data
        return JSONResponse({"data": data})

    def _refusal(self, header: str) -> str:
        scheme, _, credentials = header.strip().partition(" ")
        if scheme == "Basic":
            try:
                credentials = base64.b64decode(credentials, validate=True).decode()
            except (binascii.Error, UnicodeDecodeError):
                return "invalid Base64 value in Basic Authorization header"
        elif scheme != "token":
            return "unknown Authorization scheme" if header else "invalid session"
        user, found, token = credentials.strip().partition(":")
        if not found:
            return "api_key:token missing"
        good = hmac.compare_digest(f"{user}:{token}".encode(), f"{self._user}:{self._token}".encode())
        return "" if good else "invalid API credentials"


def _message(status: int, message: str) -> Response:
    return JSONResponse({"message": message}, status_code=status)


async def _http_error(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return _message(status, {404: "Not Found", 405: "Method Not Allowed"}.get(status, "Error"))


# Public -------------------------------------------------------------------------------------------------------------


def _health(_: Call) -> bool:
    """Answer true without looking at anything, as listmonk does."""
    return True


def _one_click(call: Call) -> bool:
    _consent_works(call)
    campaign = call.connection.execute(
        sa.select(CAMPAIGNS.c.id).where(CAMPAIGNS.c.uuid == call.path["campaign"])
    ).scalar_one_or_none()
    subscriber = call.connection.execute(
        sa.select(SUBSCRIBERS.c.id).where(SUBSCRIBERS.c.uuid == call.path["subscriber"])
    ).scalar_one_or_none()
    if campaign is None or subscriber is None:
        raise Refused(404, "Subscription not found.")
    lists = call.connection.scalars(
        sa.select(CAMPAIGN_LISTS.c.list_id).where(CAMPAIGN_LISTS.c.campaign_id == campaign)
    ).all()
    store.unsubscribe(call.connection, [subscriber], [item for item in lists if item], call.now)
    call.engine.record_unsubscribe(call.connection, campaign, subscriber)
    return True


def _consent_works(call: Call) -> None:
    if "unsubscribe_failing" in call.engine.faults:
        raise Refused(500, "Error processing request. Please retry.")


# Lists --------------------------------------------------------------------------------------------------------------


def _lists(call: Call) -> dict[str, Any]:
    counts = (
        sa.select(SUBSCRIBER_LISTS.c.list_id, sa.func.count().label("people"))
        .group_by(SUBSCRIBER_LISTS.c.list_id)
        .subquery()
    )
    query = sa.select(LISTS, counts.c.people).outerjoin(counts, counts.c.list_id == LISTS.c.id)
    if wanted := call.text("query"):
        query = query.where(LISTS.c.name.ilike(f"%{wanted}%"))
    return _page(call, query, LISTS.c.id, _list_json)


def _list(call: Call) -> dict[str, Any]:
    row = call.connection.execute(
        sa.select(
            LISTS,
            sa.select(sa.func.count())
            .where(SUBSCRIBER_LISTS.c.list_id == LISTS.c.id)
            .scalar_subquery()
            .label("people"),
        ).where(LISTS.c.id == call.id())
    ).one_or_none()
    if row is None:
        raise Refused(400, "List not found")
    return _list_json(row)


def _create_list(call: Call) -> dict[str, Any]:
    fields = call.fields()
    name = _name(fields, "Invalid name")
    number = (call.connection.scalar(sa.select(sa.func.max(LISTS.c.id))) or 0) + 1
    call.connection.execute(
        sa.insert(LISTS).values(
            id=number,
            uuid=stable_uuid(call.engine.settings.seed, "list", number),
            name=name,
            type=_choice(fields, "type", ("private", "public", "temporary")),
            optin=_choice(fields, "optin", ("single", "double")),
            status="active",
            tags=_strings(fields.get("tags")),
            created_at=call.now,
            updated_at=call.now,
        )
    )
    return _list(_with_id(call, number))


def _update_list(call: Call) -> dict[str, Any]:
    fields = call.fields()
    changes: dict[str, Any] = {"updated_at": call.now}
    if "name" in fields:
        changes["name"] = _name(fields, "Invalid name")
    if "tags" in fields:
        changes["tags"] = _strings(fields["tags"])
    if not call.connection.execute(sa.update(LISTS).where(LISTS.c.id == call.id()).values(changes)).rowcount:
        raise Refused(400, "List not found")
    return _list(call)


def _delete_list(call: Call) -> bool:
    number = call.id()
    call.connection.execute(sa.delete(SUBSCRIBER_LISTS).where(SUBSCRIBER_LISTS.c.list_id == number))
    call.connection.execute(
        sa.update(CAMPAIGN_LISTS).where(CAMPAIGN_LISTS.c.list_id == number).values(list_id=None)
    )
    if not call.connection.execute(sa.delete(LISTS).where(LISTS.c.id == number)).rowcount:
        raise Refused(400, "List not found")
    return True


def _list_json(row: sa.Row[Any]) -> dict[str, Any]:
    return {
        "id": row.id,
        "uuid": row.uuid,
        "name": row.name,
        "type": row.type,
        "optin": row.optin,
        "status": row.status,
        "tags": row.tags,
        "subscriber_count": row.people or 0,
        "created_at": _time(row.created_at),
        "updated_at": _time(row.updated_at),
    }


# Subscribers --------------------------------------------------------------------------------------------------------


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
        return _page(call, query, SUBSCRIBERS.c.id, None, _with_lists)
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
                "subscription_created_at": _time(one_list.joined_at),
                "subscription_updated_at": _time(one_list.changed_at),
                "id": one_list.id,
                "uuid": one_list.uuid,
                "name": one_list.name,
                "type": one_list.type,
                "optin": one_list.optin,
                "tags": one_list.tags,
                "created_at": _time(one_list.created_at),
                "updated_at": _time(one_list.updated_at),
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
            "created_at": _time(row.created_at),
            "updated_at": _time(row.updated_at),
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
        uuid=stable_uuid(call.engine.settings.seed, "subscriber", hash_of(email)),
        email=email,
        name=str(fields.get("name") or email.partition("@")[0]),
        status=_choice(fields, "status", ("enabled", "disabled", "blocklisted")),
        attribs=dict(fields.get("attribs") or {}),
        list_ids=_integers(fields.get("lists")),
        subscription="confirmed" if fields.get("preconfirm_subscriptions") else "unconfirmed",
        now=call.now,
    )
    return _subscriber(_with_id(call, number))


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
        changes["status"] = _choice(fields, "status", ("enabled", "disabled", "blocklisted"))
        if changes["status"] == "blocklisted":
            _consent_works(call)
            store.unsubscribe(call.connection, [call.id()], None, call.now)
    call.connection.execute(sa.update(SUBSCRIBERS).where(SUBSCRIBERS.c.id == call.id()).values(changes))
    if replace_lists:
        wanted = _integers(fields.get("lists"))
        had = [item["id"] for item in before["lists"]]
        store.remove_from_lists(call.connection, [call.id()], [item for item in had if item not in wanted])
        status = "confirmed" if fields.get("preconfirm_subscriptions") else "unconfirmed"
        new = [item for item in wanted if item not in had]
        store.add_to_lists(call.connection, [call.id()], _existing_lists(call, new), status, call.now)
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
    ids, lists = _integers(fields.get("ids")), _integers(fields.get("target_list_ids"))
    if "id" in call.path:
        ids, lists = ids or [], [*lists, call.id()]
    if not ids:
        raise Refused(400, "No IDs given.")
    if not lists:
        raise Refused(400, "No lists selected.")
    action = fields.get("action")
    if action == "add":
        status = _choice(fields, "status", ("unconfirmed", "confirmed", "unsubscribed"))
        known = call.connection.scalars(sa.select(SUBSCRIBERS.c.id).where(SUBSCRIBERS.c.id.in_(ids))).all()
        store.add_to_lists(call.connection, list(known), _existing_lists(call, lists), status, call.now)
    elif action == "remove":
        store.remove_from_lists(call.connection, ids, lists)
    elif action == "unsubscribe":
        _consent_works(call)
        store.unsubscribe(call.connection, ids, lists, call.now)
    else:
        raise Refused(400, "Invalid action.")
    return True


def _blocklist_one(call: Call) -> bool:
    _consent_works(call)
    _subscriber(call)
    store.blocklist(call.connection, [call.id()], call.now)
    return True


def _blocklist_many(call: Call) -> bool:
    _consent_works(call)
    ids = _integers(call.fields().get("ids"))
    if not ids:
        raise Refused(400, "No IDs given.")
    store.blocklist(call.connection, ids, call.now)
    return True


def _export_subscribers(call: Call) -> Response:
    """Return the CSV export, which has no lists (listmonk #560)."""
    rows = call.connection.execute(sa.select(SUBSCRIBERS).order_by(SUBSCRIBERS.c.id))
    return _csv(
        ("uuid", "email", "name", "attributes", "status", "created_at", "updated_at"),
        (
            (
                row.uuid,
                row.email,
                row.name,
                json.dumps(row.attribs),
                row.status,
                _time(row.created_at),
                _time(row.updated_at),
            )
            for row in rows
        ),
    )


def _export_subscriber(call: Call) -> Response:
    profile = _subscriber(call)
    lists = profile.pop("lists")
    views, clicks = (
        [
            {"campaign_id": row.campaign_id, "created_at": _time(row.created_at)}
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


def hash_of(text: str) -> int:
    """Return a stable 60-bit number for a text."""
    from tasks.core import sha256_hex

    return int(sha256_hex(text.encode())[:15], 16)


def _existing_lists(call: Call, lists: Sequence[int]) -> list[int]:
    return list(call.connection.scalars(sa.select(LISTS.c.id).where(LISTS.c.id.in_(lists))))


# Campaigns ----------------------------------------------------------------------------------------------------------


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
    return _page(call, query, CAMPAIGNS.c.id, None, _campaigns_json)


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
            "send_at": _time(row.send_at),
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
            "started_at": _time(row.started_at),
            "created_at": _time(row.created_at),
            "updated_at": _time(row.updated_at),
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
    return _campaign(_with_id(call, number))


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
    lists = _existing_lists(call, _integers(fields.get("lists")))
    if not lists:
        raise Refused(400, "Invalid list IDs.")
    send_at = _parse_time(merged.get("send_at"))
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
        "from_email": str(merged.get("from_email") or _FROM),
        "body": str(merged.get("body") or ""),
        "content_type": _choice(
            merged, "content_type", ("richtext", "html", "plain", "markdown", "visual")
        ),
        "send_at": send_at,
        "tags": _strings(merged.get("tags")),
        "attribs": attribs,
        "type": _choice(merged, "type", ("regular", "optin")),
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
            "started_at": _time(row.started_at),
            "updated_at": _time(row.updated_at),
            "rate": call.engine.settings.messages_per_minute if row.status == "running" else 0,
        }
        for row in rows
        if not wanted or row.id in wanted
    ]


# Templates, bounces, transactional mail -----------------------------------------------------------------------------


def _templates(call: Call) -> list[dict[str, Any]]:
    rows = call.connection.execute(sa.select(TEMPLATES).order_by(TEMPLATES.c.id))
    return [_template_json(row, body=call.text("no_body") != "true") for row in rows]


def _template(call: Call) -> dict[str, Any]:
    row = call.connection.execute(sa.select(TEMPLATES).where(TEMPLATES.c.id == call.id())).one_or_none()
    if row is None:
        raise Refused(400, "Template not found")
    return _template_json(row, body=True)


def _create_template(call: Call) -> dict[str, Any]:
    fields = call.fields()
    number = (call.connection.scalar(sa.select(sa.func.max(TEMPLATES.c.id))) or 0) + 1
    call.connection.execute(
        sa.insert(TEMPLATES).values(
            id=number,
            name=_name(fields, "Invalid name"),
            type=_choice(fields, "type", ("campaign", "campaign_visual", "tx")),
            subject=str(fields.get("subject") or ""),
            body=str(fields.get("body") or ""),
            is_default=False,
            created_at=call.now,
            updated_at=call.now,
        )
    )
    return _template(_with_id(call, number))


def _update_template(call: Call) -> dict[str, Any]:
    fields = call.fields()
    _template(call)
    changes = {key: str(fields[key]) for key in ("name", "subject", "body") if key in fields}
    call.connection.execute(
        sa.update(TEMPLATES).where(TEMPLATES.c.id == call.id()).values(updated_at=call.now, **changes)
    )
    return _template(call)


def _delete_template(call: Call) -> bool:
    if _template(call)["is_default"]:
        raise Refused(400, "Cannot delete the default template.")
    call.connection.execute(
        sa.update(CAMPAIGNS).where(CAMPAIGNS.c.template_id == call.id()).values(template_id=None)
    )
    call.connection.execute(sa.delete(TEMPLATES).where(TEMPLATES.c.id == call.id()))
    return True


def _template_json(row: sa.Row[Any], *, body: bool) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "type": row.type,
        "subject": row.subject,
        **({"body": row.body} if body else {}),
        "is_default": row.is_default,
        "created_at": _time(row.created_at),
        "updated_at": _time(row.updated_at),
    }


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
    return _page(call, query, BOUNCES.c.id, _bounce_json)


def _bounce(call: Call) -> dict[str, Any]:
    row = call.connection.execute(_bounce_query().where(BOUNCES.c.id == call.id())).one_or_none()
    if row is None:
        raise Refused(400, "Bounce not found")
    return _bounce_json(row)


def _subscriber_bounces(call: Call) -> list[dict[str, Any]]:
    _subscriber(call)
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
        "created_at": _time(row.created_at),
        "email": row.email,
        "subscriber_uuid": row.subscriber_uuid,
        "subscriber_id": row.subscriber_id,
        "campaign": campaign,
    }


def _transactional(call: Call) -> bool:
    """Send to addresses or subscriber ids; an unknown address is taken too (listmonk's subscriber_mode external)."""
    fields = call.fields()
    template = call.connection.execute(
        sa.select(TEMPLATES).where(TEMPLATES.c.id == fields.get("template_id"), TEMPLATES.c.type == "tx")
    ).one_or_none()
    if template is None:
        raise Refused(400, "Template not found")
    ids = _integers(fields.get("subscriber_ids") or [fields.get("subscriber_id")])
    addresses = [str(item) for item in fields.get("subscriber_emails") or [] if item]
    addresses += [str(fields["subscriber_email"])] if fields.get("subscriber_email") else []
    addresses += call.connection.scalars(
        sa.select(SUBSCRIBERS.c.email).where(SUBSCRIBERS.c.id.in_(ids))
    ).all()
    if not addresses:
        raise Refused(400, "Subscriber not found")
    data = fields.get("data") if isinstance(fields.get("data"), dict) else {}
    token = str((data or {}).get("token") or fields.get("subject") or "tx")
    for address in addresses:
        message = Outgoing(
            0,
            0,
            call.engine.now,
            str(fields.get("from_email") or _FROM),
            address,
            str(fields.get("subject") or template.subject),
            template.body,
            seed=token.replace("\r", "").replace("\n", ""),
        )
        code = call.engine.send_single(message)
        if code not in (None, ACCEPTED):
            raise Refused(500, "Error sending message")
    return True


# Analytics and our extensions ---------------------------------------------------------------------------------------

_ANALYTICS = {"views": CAMPAIGN_VIEWS, "clicks": LINK_CLICKS, "bounces": BOUNCES}


def _analytics(call: Call) -> list[dict[str, Any]]:
    kind, ids = call.path["type"], call.numbers("id")
    if not ids:
        raise Refused(400, "No IDs given.")
    low, high = _parse_time(call.text("from")), _parse_time(call.text("to"))
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
    if since := _parse_time(call.text("since")):
        query = query.where(table.c.created_at >= since)
    rows = call.connection.execute(query)
    return _csv(
        ("campaign_id", "subscriber_id", "created_at"),
        ((row.campaign_id, row.subscriber_id, _time(row.created_at)) for row in rows),
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
                "queued_at": _time(row.queued_at),
                "updated_at": _time(row.updated_at),
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
                "occurred_at": _time(row.occurred_at),
            }
            for row in rows
        ]
    }


def _after(call: Call) -> int:
    return max([0, *call.numbers("after_id")])


def _limit(call: Call) -> int:
    wanted = [number for number in call.numbers("limit") if number > 0]
    return min(MAX_LOG_ROWS, *(wanted or [1000]))


# Small things -------------------------------------------------------------------------------------------------------


def _page(
    call: Call,
    query: sa.Select[Any],
    key: sa.ColumnElement[Any],
    row_json: Callable[[sa.Row[Any]], dict[str, Any]] | None,
    rows_json: Callable[[Call, Sequence[sa.Row[Any]]], list[dict[str, Any]]] | None = None,
) -> dict[str, Any]:
    """Return one page: default 20 rows, at most 50, `per_page=all` for everything; newest first unless asked."""
    try:
        page = max(1, int(call.text("page", "1")))
        wanted = call.text("per_page", str(DEFAULT_PER_PAGE))
        per_page = 0 if wanted == "all" else min(MAX_PER_PAGE, int(wanted))
    except ValueError:
        raise Refused(400, "Invalid page") from None
    if per_page < 1 and wanted != "all":
        per_page = DEFAULT_PER_PAGE
    total = call.connection.scalar(sa.select(sa.func.count()).select_from(query.subquery())) or 0
    columns = {column.key: column for column in query.selected_columns}
    by = call.text("order_by")
    chosen = columns[by] if by in ("name", "status", "created_at", "updated_at") and by in columns else key
    rising = call.text("order").upper() == "ASC"
    query = query.order_by(chosen.asc() if rising else chosen.desc(), key.asc() if rising else key.desc())
    if per_page:
        query = query.limit(per_page).offset((page - 1) * per_page)
    rows = call.connection.execute(query).all()
    results = [row_json(row) for row in rows] if row_json else (rows_json(call, rows) if rows_json else [])
    return {
        "results": results,
        "query": call.text("query"),
        "total": total,
        "per_page": per_page or total,
        "page": page,
    }


def _with_id(call: Call, number: int) -> Call:
    return Call(call.engine, call.connection, call.now, dict(call.path) | {"id": number}, {})


def _name(fields: Mapping[str, Any], refusal: str) -> str:
    name = str(fields.get("name") or "").strip()
    if not name or len(name) > 254:
        raise Refused(400, refusal)
    return name


def _choice(fields: Mapping[str, Any], name: str, known: Sequence[str]) -> str:
    """Return the field, its first known value where it is missing."""
    value = fields.get(name) or known[0]
    if value not in known:
        raise Refused(400, f"Invalid `{name}`.")
    return str(value)


def _strings(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def _integers(value: Any) -> list[int]:
    found = value if isinstance(value, list) else []
    if any(isinstance(item, bool) or (item is not None and not isinstance(item, int)) for item in found):
        raise Refused(400, "Invalid ID")
    return [item for item in found if item is not None]


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat() + "Z"


def _parse_time(value: Any) -> datetime | None:
    if not value:
        return None
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        raise Refused(400, "Invalid date") from None
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def _csv(header: Sequence[str], rows: Any) -> Response:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    return Response(text.getvalue(), media_type="text/csv")
