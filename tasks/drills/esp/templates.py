"""Templates and transactional messages, as listmonk's API has them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from tasks.drills.esp.calls import (
    DEFAULT_FROM,
    Call,
    Refused,
    choice_of,
    integers_of,
    name_of,
    time_json,
    with_id,
)
from tasks.drills.esp.schema import (
    CAMPAIGNS,
    SUBSCRIBERS,
    TEMPLATES,
)
from tasks.drills.esp.transport import ACCEPTED, Outgoing


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
            name=name_of(fields, "Invalid name"),
            type=choice_of(fields, "type", ("campaign", "campaign_visual", "tx")),
            subject=str(fields.get("subject") or ""),
            body=str(fields.get("body") or ""),
            is_default=False,
            created_at=call.now,
            updated_at=call.now,
        )
    )
    return _template(with_id(call, number))


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
        "created_at": time_json(row.created_at),
        "updated_at": time_json(row.updated_at),
    }


def _transactional(call: Call) -> bool:
    """Send to addresses or subscriber ids; an unknown address is taken too (listmonk's subscriber_mode external)."""
    fields = call.fields()
    template = call.connection.execute(
        sa.select(TEMPLATES).where(TEMPLATES.c.id == fields.get("template_id"), TEMPLATES.c.type == "tx")
    ).one_or_none()
    if template is None:
        raise Refused(400, "Template not found")
    ids = integers_of(fields.get("subscriber_ids") or [fields.get("subscriber_id")])
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
            str(fields.get("from_email") or DEFAULT_FROM),
            address,
            str(fields.get("subject") or template.subject),
            template.body,
            seed=token.replace("\r", "").replace("\n", ""),
        )
        code = call.engine.send_single(message)
        if code not in (None, ACCEPTED):
            raise Refused(500, "Error sending message")
    return True


ROUTES = (
    ("GET", "/api/templates", _templates),
    ("POST", "/api/templates", _create_template),
    ("GET", "/api/templates/{id}", _template),
    ("PUT", "/api/templates/{id}", _update_template),
    ("DELETE", "/api/templates/{id}", _delete_template),
    ("POST", "/api/tx", _transactional),
)
