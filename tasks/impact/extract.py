"""Reading what the measures need out of snapshots: canonical views, and the few raw tables that they do not cover.

Works on a DuckDB connection with the schemas `canonical`, `after_<source>` and `before_<source>`.
"""

# ruff: noqa: S608 - the only name put into a query is a schema, and it is quoted

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    import duckdb

_TIMES = ("send_at", "started_at", "latest_useful_at", "attempted_at", "requested_at", "ordered_at")


@dataclass(frozen=True)
class Evidence:
    """What the snapshots know, as tables; times are UTC.

    Attributes:
        campaigns: `campaign_id`, `name`, `kind`, `send_at` (as planned before anybody held it), `latest_useful_at`,
            `audience`.
        attempts: `campaign_id`, `subscriber_id`, `outcome`, `attempted_at`, `copies`.
        audiences: `campaign_id`, `subscriber_id` of the campaigns that the outage could touch.
        opt_outs: standing opt-outs: `subscriber_id`, `requested_at`.
        orders: those in the currency of the report: `ordered_at`, `total_minor`, `subscriber_id`, `campaign_id` (the
            original, where a catch-up brought it; null where no campaign did).
        other_currencies: number of orders left out, per currency; the empty text stands for none given.
        reactions: per campaign and subscriber with a bounce, complaint or opt-out: `campaign_id`, `subscriber_id`,
            `type`.
    """

    campaigns: pd.DataFrame
    attempts: pd.DataFrame
    audiences: pd.DataFrame
    opt_outs: pd.DataFrame
    orders: pd.DataFrame
    other_currencies: Mapping[str, int]
    reactions: pd.DataFrame


def read_evidence(
    connection: duckdb.DuckDBPyConnection,
    *,
    esp: str,
    shop: str,
    since: datetime,
    currency: str,
    ledgers: pd.DataFrame | None = None,
    planned_at: Mapping[int, datetime] | None = None,
) -> Evidence:
    """Read everything that the measures need.

    Args:
        connection: with the schemas `canonical`, `after_<source>`, and `before_<source>` where there is one.
        esp: name of the provider's source.
        shop: name of the shop's source.
        since: campaigns planned from then on get their audience from the lists where no ledger names it.
        currency: of the report (ISO 4217): amounts in different currencies cannot be added.
        ledgers: audiences as the ledgers froze them: `campaign_id`, `subscriber_id`.
        planned_at: planned times that the journal kept; a held campaign has lost its own.
    """
    campaigns = _campaigns(connection, esp, planned_at or {})
    originals = _originals(connection, esp)
    attempts = _attempts(connection, shop, originals)
    known = ledgers if ledgers is not None else pd.DataFrame(columns=["campaign_id", "subscriber_id"])
    recent = campaigns.loc[campaigns["send_at"] >= pd.Timestamp(since), "campaign_id"]
    rest = [int(one) for one in recent if one not in set(known["campaign_id"])]
    audiences = pd.concat([known[["campaign_id", "subscriber_id"]], _listed(connection, esp, rest)])
    orders = _utc(
        connection.execute(
            "SELECT ordered_at, total_minor, subscriber_id, campaign_id FROM canonical.orders"
            " WHERE total_minor > 0 AND upper(currency) = upper(?) ORDER BY ordered_at, order_id",
            [currency],
        ).df()
    )
    others = connection.execute(
        "SELECT coalesce(currency, ''), count(*) FROM canonical.orders"
        " WHERE total_minor > 0 AND upper(currency) IS DISTINCT FROM upper(?) GROUP BY ALL ORDER BY ALL",
        [currency],
    ).fetchall()
    orders["campaign_id"] = _as_original(orders["campaign_id"], originals)
    return Evidence(
        campaigns=campaigns,
        attempts=attempts,
        audiences=audiences.astype("int64").drop_duplicates().reset_index(drop=True),
        opt_outs=_opt_outs(connection, shop),
        orders=orders,
        other_currencies={str(name): int(count) for name, count in others},
        reactions=_reactions(connection, shop, originals),
    )


def sends_of(attempts: pd.DataFrame, campaigns: pd.DataFrame, *, before: datetime) -> pd.DataFrame:
    """Return what was sent before a moment, by hours: `sent_at`, `kind`, `campaign_id`, `messages`."""
    sent = attempts[(attempts["outcome"] == "accepted") & (attempts["attempted_at"] < pd.Timestamp(before))]
    hourly = sent.groupby([sent["attempted_at"].dt.floor("h").rename("sent_at"), "campaign_id"]).size()
    named = (
        hourly.rename("messages").reset_index().merge(campaigns[["campaign_id", "kind"]], on="campaign_id")
    )
    named = named.sort_values(["sent_at", "kind", "campaign_id"], ignore_index=True)
    return named[["sent_at", "kind", "campaign_id", "messages"]]


def reactions_of(
    attempts: pd.DataFrame, reactions: pd.DataFrame, *, since: datetime, until: datetime
) -> pd.DataFrame:
    """Return per campaign `messages`, `bounce`, `complaint`, `unsubscribe` of what was sent in a span.

    `deferral` counts what a mail server put off and nobody tried again: it is no part of `messages`.
    """
    inside = (attempts["attempted_at"] >= pd.Timestamp(since)) & (
        attempts["attempted_at"] < pd.Timestamp(until)
    )
    keys = ["campaign_id", "subscriber_id"]
    sent = attempts[inside & attempts["outcome"].isin(["accepted", "bounced"])]
    # A mail server refuses at once, or takes the message and sends a bounce later: the rate counts both.
    refused = sent.loc[sent["outcome"] == "bounced", keys].assign(type="bounce")
    sent = sent[keys]
    found = pd.concat([sent.merge(reactions, on=keys), refused])
    put_off = attempts[inside & (attempts["outcome"] == "not_attempted")].groupby("campaign_id").size()
    table = sent.groupby("campaign_id").size().rename("messages").to_frame()
    table = table.reindex(table.index.union(put_off.index), fill_value=0)
    table["deferral"] = put_off.reindex(table.index).fillna(0).astype("int64")
    for kind in ("bounce", "complaint", "unsubscribe"):
        mine = found[found["type"] == kind].drop_duplicates(keys)
        table[kind] = mine.groupby("campaign_id").size().reindex(table.index).fillna(0).astype("int64")
    return table.reset_index()


def _campaigns(
    connection: duckdb.DuckDBPyConnection, esp: str, planned_at: Mapping[int, datetime]
) -> pd.DataFrame:
    now = connection.execute(
        "SELECT campaign_id, name, kind, send_at, latest_useful_at, audience, started_at FROM canonical.campaigns"
    ).df()
    now = _utc(now)
    if _has(connection, f"before_{esp}", "campaigns"):
        before = _utc(
            connection.execute(
                f"SELECT id AS campaign_id, send_at FROM {_schema('before', esp)}.campaigns"
            ).df()
        )
        was = now["campaign_id"].map(before.set_index("campaign_id")["send_at"])
        now["send_at"] = now["send_at"].fillna(was)
    journal = now["campaign_id"].map({key: pd.Timestamp(at) for key, at in planned_at.items()})
    journal = pd.to_datetime(journal, utc=True).astype("datetime64[us, UTC]")
    now["send_at"] = journal.fillna(now["send_at"]).fillna(now["started_at"])
    now = now.dropna(subset=["send_at"]).drop(columns="started_at")
    return now.sort_values(["send_at", "campaign_id"]).reset_index(drop=True)


def _originals(connection: duckdb.DuckDBPyConnection, esp: str) -> dict[int, int]:
    """Catch-up campaigns, by the campaign that each stands for."""
    if not _has(connection, f"after_{esp}", "campaigns", "attribs"):
        return {}
    rows = connection.execute(
        f"SELECT id, CAST(attribs ->> '$.catch_up_of' AS BIGINT) FROM {_schema('after', esp)}.campaigns"
        " WHERE attribs ->> '$.catch_up_of' IS NOT NULL"
    ).fetchall()
    return {int(copy): int(original) for copy, original in rows}


def _attempts(connection: duckdb.DuckDBPyConnection, shop: str, originals: Mapping[int, int]) -> pd.DataFrame:
    attempts = _utc(
        connection.execute(
            "SELECT campaign_id, subscriber_id, attempted_at, outcome::"
            "ENUM('accepted', 'bounced', 'unknown', 'not_attempted') AS outcome FROM canonical.messages"
        ).df()
    )
    copies = connection.execute(
        "SELECT campaign_id, subscriber_id, occurred_at FROM canonical.events WHERE type = 'sent'"
    ).df()
    if _has(connection, f"after_{shop}", "webhook_receipts"):
        heard = connection.execute(
            f"SELECT campaign_id, subscriber_id, occurred_at FROM {_schema('after', shop)}.webhook_receipts"
            " WHERE event_type = 'sent'"
        ).df()
        heard["campaign_id"] = heard["campaign_id"].map(lambda one: originals.get(one, one))
        copies = pd.concat([copies, heard])
    keys = ["campaign_id", "subscriber_id"]
    copies = copies.drop_duplicates()
    twice = copies[copies.duplicated(keys, keep=False)].groupby(keys).size().rename("copies")
    attempts["copies"] = np.int16(1)
    if len(twice):
        some = attempts.loc[attempts["campaign_id"].isin(twice.index.get_level_values("campaign_id")), keys]
        counted = some.join(twice, on=keys)["copies"].dropna()
        attempts.loc[counted.index, "copies"] = counted.astype("int16")
    return attempts


def _listed(connection: duckdb.DuckDBPyConnection, esp: str, campaigns: list[int]) -> pd.DataFrame:
    """The audience by the lists of a campaign, as they are now: for campaigns whose ledger nobody froze."""
    if not campaigns or not _has(connection, f"after_{esp}", "campaign_lists"):
        return pd.DataFrame({"campaign_id": pd.array([], "int64"), "subscriber_id": pd.array([], "int64")})
    return connection.execute(
        f"""
        SELECT DISTINCT l.campaign_id, m.subscriber_id
        FROM {_schema("after", esp)}.campaign_lists l
        JOIN canonical.memberships m ON m.list_id = l.list_id AND m.status <> 'unsubscribed'
        JOIN canonical.subscribers s ON s.subscriber_id = m.subscriber_id AND s.status = 'enabled'
        WHERE l.campaign_id IN (SELECT unnest(?))
        """,
        [campaigns],
    ).df()


def _opt_outs(connection: duckdb.DuckDBPyConnection, shop: str) -> pd.DataFrame:
    """The last wish of everybody who does not want mail, by our own records where we keep them."""
    if _has(connection, f"after_{shop}", "consent_requests"):
        query = f"""
            SELECT customer_id AS subscriber_id, max(requested_at) AS requested_at
            FROM {_schema("after", shop)}.consent_requests
            GROUP BY customer_id
            HAVING arg_max(kind, (requested_at, request_id)) = 'unsubscribe'
        """
    else:
        query = (
            "SELECT subscriber_id, min(since) AS requested_at FROM canonical.suppressions"
            " WHERE reason = 'unsubscribed' GROUP BY subscriber_id"
        )
    return _utc(connection.execute(query).df())


def _reactions(
    connection: duckdb.DuckDBPyConnection, shop: str, originals: Mapping[int, int]
) -> pd.DataFrame:
    kinds = "('bounce', 'complaint', 'unsubscribe')"
    found = connection.execute(
        f"SELECT campaign_id, subscriber_id, type FROM canonical.events WHERE type IN {kinds}"
    ).df()
    parts = [found]
    if _has(connection, f"after_{shop}", "webhook_receipts"):
        parts.append(
            connection.execute(
                "SELECT campaign_id, subscriber_id, event_type AS type FROM"
                f" {_schema('after', shop)}.webhook_receipts WHERE event_type IN {kinds}"
            ).df()
        )
    if _has(connection, f"after_{shop}", "consent_requests"):
        parts.append(
            connection.execute(
                "SELECT campaign_id, customer_id AS subscriber_id, 'unsubscribe' AS type FROM"
                f" {_schema('after', shop)}.consent_requests"
                " WHERE kind = 'unsubscribe' AND campaign_id IS NOT NULL"
            ).df()
        )
    both = pd.concat(parts)
    both["campaign_id"] = both["campaign_id"].map(lambda one: originals.get(one, one))
    return both.drop_duplicates().reset_index(drop=True)


def _as_original(campaign_id: pd.Series[Any], originals: Mapping[int, int]) -> pd.Series[Any]:
    numbers = campaign_id.astype("Int64")
    return numbers.replace(dict(originals)) if originals else numbers


def _utc(frame: pd.DataFrame) -> pd.DataFrame:
    for column in _TIMES:
        if column in frame.columns:
            frame[column] = pd.to_datetime(frame[column], utc=True).astype("datetime64[us, UTC]")
    return frame


def _has(connection: duckdb.DuckDBPyConnection, schema: str, table: str, column: str | None = None) -> bool:
    query = "SELECT count(*) FROM information_schema.columns WHERE table_schema = ? AND table_name = ?"
    values = [schema, table]
    if column is not None:
        query, values = query + " AND column_name = ?", [*values, column]
    row = connection.execute(query, values).fetchone()
    return bool(row and row[0])


def _schema(side: str, source: str) -> str:
    return '"' + f"{side}_{source}".replace('"', '""') + '"'
