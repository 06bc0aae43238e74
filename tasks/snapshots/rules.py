"""What the tables of a mapped source mean to a restore: whose row it is, what may send, which status is stricter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class StatusRule:
    """The column of a table that says who may be mailed, or what is about to send.

    Args:
        column: its name.
        order: its values, from the loosest to the strictest; a value that is in none of the groups is stricter than
            the first group and looser than the others.
        becomes: what values that make a sender act come back as. A row that has one of them now is being worked on
            by the sender, and is left alone.
        consent: whether the stricter value wins in every mode, also in a row that would otherwise be left alone.
        same: columns that never change: two rows of one key that differ there are not the same thing.
        wish_of: in a log of wishes the column that names the person: a lost wish of the loosest group does not come
            back for a person who has a stricter one in the database.
    """

    column: str
    order: tuple[tuple[str, ...], ...]
    becomes: Mapping[str, str] = field(default_factory=dict)
    consent: bool = False
    same: tuple[str, ...] = ()
    wish_of: str = ""


RULES: Mapping[str, Mapping[str, StatusRule]] = {
    "listmonk": {
        "subscribers": StatusRule(
            "status", (("enabled",), ("disabled",), ("blocklisted",)), consent=True, same=("uuid",)
        ),
        "subscriber_lists": StatusRule(
            "status", (("confirmed",), ("unconfirmed",), ("unsubscribed",)), consent=True
        ),
        "bounces": StatusRule(
            "type", (("soft",), ("hard",), ("complaint",)), consent=True, same=("subscriber_id",)
        ),
        # One that was sent or called off meanwhile stays so: started again, it would mail people twice.
        "campaigns": StatusRule(
            "status",
            (("draft", "paused"), ("cancelled", "finished")),
            becomes={"running": "paused", "scheduled": "draft"},
        ),
    },
    "shop": {
        "consent_requests": StatusRule(
            "kind",
            (("subscribe",), ("unsubscribe",)),
            consent=True,
            same=("customer_id", "kind", "requested_at"),
            wish_of="customer_id",
        ),
    },
}
"""Per mapping and table the rule of its status column."""


@dataclass(frozen=True)
class People:
    """Where a mapping keeps persons.

    Args:
        table: the table with a row a person.
        rows: per table the column that names the person, the table of persons included.
        through: per table whose rows belong to a row of another one: its column, and that other table, whose primary
            key it names.
    """

    table: str
    rows: Mapping[str, str]
    through: Mapping[str, tuple[str, str]] = field(default_factory=dict)


PEOPLE: Mapping[str, People] = {
    "listmonk": People(
        "subscribers",
        {
            "subscribers": "id",
            **dict.fromkeys(
                ("subscriber_lists", "campaign_views", "link_clicks", "bounces", "messages", "events"),
                "subscriber_id",
            ),
        },
    ),
    "shop": People(
        "customers",
        {
            **dict.fromkeys(("customers", "orders", "returns", "consent_requests"), "customer_id"),
            "webhook_receipts": "subscriber_id",
        },
        {"order_lines": ("order_id", "orders"), "return_lines": ("return_id", "returns")},
    ),
}
"""Per mapping where one person's rows are."""
