"""Lists, as listmonk's API has them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from tasks.drills.draws import stable_uuid
from tasks.drills.esp.calls import (
    Call,
    Refused,
    choice_of,
    name_of,
    page_of,
    strings_of,
    time_json,
    with_id,
)
from tasks.drills.esp.schema import (
    CAMPAIGN_LISTS,
    LISTS,
    SUBSCRIBER_LISTS,
)


def _lists(call: Call) -> dict[str, Any]:
    counts = (
        sa.select(SUBSCRIBER_LISTS.c.list_id, sa.func.count().label("people"))
        .group_by(SUBSCRIBER_LISTS.c.list_id)
        .subquery()
    )
    query = sa.select(LISTS, counts.c.people).outerjoin(counts, counts.c.list_id == LISTS.c.id)
    if wanted := call.text("query"):
        query = query.where(LISTS.c.name.ilike(f"%{wanted}%"))
    return page_of(call, query, LISTS.c.id, _list_json)


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
    name = name_of(fields, "Invalid name")
    number = (call.connection.scalar(sa.select(sa.func.max(LISTS.c.id))) or 0) + 1
    call.connection.execute(
        sa.insert(LISTS).values(
            id=number,
            uuid=stable_uuid(call.engine.settings.seed, "list", number),
            name=name,
            type=choice_of(fields, "type", ("private", "public", "temporary")),
            optin=choice_of(fields, "optin", ("single", "double")),
            status="active",
            tags=strings_of(fields.get("tags")),
            created_at=call.now,
            updated_at=call.now,
        )
    )
    return _list(with_id(call, number))


def _update_list(call: Call) -> dict[str, Any]:
    fields = call.fields()
    changes: dict[str, Any] = {"updated_at": call.now}
    if "name" in fields:
        changes["name"] = name_of(fields, "Invalid name")
    if "tags" in fields:
        changes["tags"] = strings_of(fields["tags"])
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
        "created_at": time_json(row.created_at),
        "updated_at": time_json(row.updated_at),
    }


ROUTES = (
    ("GET", "/api/lists", _lists),
    ("POST", "/api/lists", _create_list),
    ("GET", "/api/lists/{id}", _list),
    ("PUT", "/api/lists/{id}", _update_list),
    ("DELETE", "/api/lists/{id}", _delete_list),
)
