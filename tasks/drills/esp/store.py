"""What can be done to the simulated ESP's data, as functions over one connection.

The API, the sender and the world without an outage share these. `now` is naive UTC, as stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from tasks.drills.esp.schema import (
    CAMPAIGN_LISTS,
    CAMPAIGNS,
    EVENTS,
    LISTS,
    MESSAGES,
    SUBSCRIBER_LISTS,
    SUBSCRIBERS,
)


def naive(moment: datetime) -> datetime:
    """Return a moment as the tables hold it: UTC, without a zone."""
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def audience(*columns: sa.ColumnElement[Any], campaign_id: int) -> sa.Select[Any]:
    """Return a query for the subscribers that a campaign may be sent to now.

    listmonk's rule (queries/campaigns.sql, next-campaign-subscribers): not blocklisted; on a single opt-in list not
    unsubscribed, on a double opt-in list confirmed.
    """
    return (
        sa.select(*columns)
        .select_from(CAMPAIGN_LISTS)
        .join(LISTS, LISTS.c.id == CAMPAIGN_LISTS.c.list_id)
        .join(SUBSCRIBER_LISTS, SUBSCRIBER_LISTS.c.list_id == LISTS.c.id)
        .join(SUBSCRIBERS, SUBSCRIBERS.c.id == SUBSCRIBER_LISTS.c.subscriber_id)
        .where(
            CAMPAIGN_LISTS.c.campaign_id == campaign_id,
            SUBSCRIBERS.c.status != "blocklisted",
            sa.case(
                (LISTS.c.optin == "double", SUBSCRIBER_LISTS.c.status == "confirmed"),
                else_=SUBSCRIBER_LISTS.c.status != "unsubscribed",
            ),
        )
    )


def add_to_lists(
    connection: sa.Connection, ids: Sequence[int], list_ids: Sequence[int], status: str, now: datetime
) -> None:
    """Put subscribers on lists with `status`; who is on one already gets that status (as listmonk does)."""
    rows = [
        {"subscriber_id": one, "list_id": where, "status": status, "created_at": now, "updated_at": now}
        for one in ids
        for where in list_ids
    ]
    if not rows:
        return
    statement = insert_or_update(
        connection, SUBSCRIBER_LISTS, ("subscriber_id", "list_id"), ("status", "updated_at")
    )
    connection.execute(statement, rows)


def remove_from_lists(connection: sa.Connection, ids: Sequence[int], list_ids: Sequence[int]) -> None:
    """Take subscribers off lists."""
    connection.execute(
        sa.delete(SUBSCRIBER_LISTS).where(
            SUBSCRIBER_LISTS.c.subscriber_id.in_(ids), SUBSCRIBER_LISTS.c.list_id.in_(list_ids)
        )
    )


def unsubscribe(
    connection: sa.Connection, ids: Sequence[int], list_ids: Sequence[int] | None, now: datetime
) -> None:
    """Mark subscribers as unsubscribed from lists (None: from all they are on)."""
    statement = (
        sa.update(SUBSCRIBER_LISTS)
        .where(SUBSCRIBER_LISTS.c.subscriber_id.in_(ids), SUBSCRIBER_LISTS.c.status != "unsubscribed")
        .values(status="unsubscribed", updated_at=now)
    )
    if list_ids is not None:
        statement = statement.where(SUBSCRIBER_LISTS.c.list_id.in_(list_ids))
    connection.execute(statement)


def blocklist(connection: sa.Connection, ids: Sequence[int], now: datetime) -> None:
    """Block subscribers from everything; listmonk unsubscribes them from their lists too."""
    connection.execute(
        sa.update(SUBSCRIBERS).where(SUBSCRIBERS.c.id.in_(ids)).values(status="blocklisted", updated_at=now)
    )
    unsubscribe(connection, ids, None, now)


def create_subscriber(
    connection: sa.Connection,
    *,
    uuid: str,
    email: str,
    name: str,
    status: str,
    attribs: dict[str, Any],
    list_ids: Sequence[int],
    subscription: str,
    now: datetime,
) -> int:
    """Create a subscriber and return its id.

    Extension: where `attribs.customer_id` names a free id it becomes the id, so that shop and ESP agree on people.
    """
    wanted = attribs.get("customer_id")
    if not isinstance(wanted, int) or connection.scalar(
        sa.select(SUBSCRIBERS.c.id).where(SUBSCRIBERS.c.id == wanted)
    ):
        wanted = (connection.scalar(sa.select(sa.func.max(SUBSCRIBERS.c.id))) or 0) + 1
    connection.execute(
        sa.insert(SUBSCRIBERS).values(
            id=wanted, uuid=uuid, email=email, name=name, attribs=attribs, status=status,
            created_at=now, updated_at=now,
        )
    )  # fmt: skip
    existing = connection.scalars(sa.select(LISTS.c.id).where(LISTS.c.id.in_(list_ids))).all()
    add_to_lists(connection, [wanted], list(existing), subscription, now)
    return int(wanted)


def set_campaign_lists(connection: sa.Connection, campaign_id: int, list_ids: Iterable[int]) -> None:
    """Make `list_ids` the lists of a campaign."""
    connection.execute(sa.delete(CAMPAIGN_LISTS).where(CAMPAIGN_LISTS.c.campaign_id == campaign_id))
    found = connection.execute(
        sa.select(LISTS.c.id, LISTS.c.name).where(LISTS.c.id.in_(list(list_ids))).order_by(LISTS.c.id)
    ).all()
    if found:
        connection.execute(
            sa.insert(CAMPAIGN_LISTS),
            [{"campaign_id": campaign_id, "list_id": one.id, "list_name": one.name} for one in found],
        )


def insert_or_update(
    connection: sa.Connection, table: sa.Table, keys: Sequence[str], changed: Sequence[str]
) -> Any:
    """Return an insert that overwrites the columns `changed` where `keys` exist already."""
    make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = make(table)
    return statement.on_conflict_do_update(
        index_elements=list(keys), set_={name: statement.excluded[name] for name in changed}
    )


def original_campaign(campaign_id: int, attribs: dict[str, Any] | None) -> int:
    """Return the campaign that a catch-up copy stands for (`attribs.catch_up_of`), or the campaign itself."""
    wanted = (attribs or {}).get("catch_up_of")
    return int(wanted) if wanted is not None else campaign_id


def delete_after(connection: sa.Connection, moment: datetime, tables: Iterable[sa.Table]) -> dict[str, int]:
    """Delete the rows of `tables` born after `moment` and return how many each lost."""
    lost = {}
    for table in tables:
        born = table.c.occurred_at if table is EVENTS else table.c.created_at
        lost[table.name] = connection.execute(sa.delete(table).where(born > moment)).rowcount
    return lost


def accepted_since(connection: sa.Connection, moment: datetime) -> Sequence[sa.Row[Any]]:
    """Return (campaign_id, subscriber_id, updated_at) of messages handed to SMTP since `moment`."""
    return connection.execute(
        sa.select(MESSAGES.c.campaign_id, MESSAGES.c.subscriber_id, MESSAGES.c.updated_at)
        .where(MESSAGES.c.updated_at >= moment, MESSAGES.c.smtp_code == 250)
        .order_by(MESSAGES.c.campaign_id, MESSAGES.c.subscriber_id)
    ).all()


def campaign_attribs(connection: sa.Connection, campaign_id: int) -> dict[str, Any]:
    """Return a campaign's attribs."""
    found = connection.scalar(sa.select(CAMPAIGNS.c.attribs).where(CAMPAIGNS.c.id == campaign_id))
    return dict(found or {})
