"""Data at risk and data lost, kept apart.

*At risk*: rows born after the consistency point of the last valid snapshot and there when the impact began: what a
restore from that snapshot would have missed. *Lost*: rows that are gone after recovery, found by anti-join of the
snapshot taken after recovery against whatever still witnesses them: the last valid snapshot by primary key, our own
webhook receipts for events, our own consent requests for opt-outs. What nothing witnesses is estimated, and says so.

Works on a DuckDB connection with one schema per snapshot: `before_<source>` and `after_<source>`.
"""

# ruff: noqa: S608 - table and column names come from manifests and are quoted; values are bound

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

if TYPE_CHECKING:
    import duckdb

BIRTH_COLUMNS = (
    "created_at",
    "ordered_at",
    "returned_at",
    "requested_at",
    "received_at",
    "queued_at",
    "occurred_at",
)
"""The column that says when a row was born: the first of these that a table has."""

Witness = Literal["last snapshot", "webhook receipts", "consent requests", "nothing"]

_EVENT_TABLES: dict[str, tuple[str, ...]] = {
    "events": (),
    "campaign_views": ("open",),
    "link_clicks": ("click",),
    "bounces": ("bounce", "complaint"),
}
"""Raw tables that hold events, with the types of receipts that witness them; `events` holds all."""


@dataclass(frozen=True)
class TableAbout:
    """What the manifest knows of a raw table.

    Attributes:
        parents: foreign keys as (own column, parent table, parent column).
    """

    source: str
    name: str
    columns: tuple[str, ...]
    primary_key: tuple[str, ...] = ()
    parents: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True)
class DataImpact:
    """Rows at risk and rows lost.

    Attributes:
        at_risk: per raw table `source`, `table`, `since` (consistency point), `rows`.
        lost: per finding `source`, `table`, `witness`, `checked` (rows that the witness knows), `rows` (missing now),
            `estimated` (True where nothing witnesses the loss), `note`.
        opt_outs_missing: opt-outs in our own records that the provider does not honour after recovery.
    """

    at_risk: pd.DataFrame
    lost: pd.DataFrame
    opt_outs_missing: int

    @property
    def rows_at_risk(self) -> int:
        """Rows at risk over all tables."""
        return int(self.at_risk["rows"].sum())

    @property
    def proven(self) -> pd.DataFrame:
        """What a witness says of rows of raw tables; opt-outs are wishes, not rows, and counted apart."""
        return self.lost[~self.lost["estimated"].astype(bool) & (self.lost["witness"] != "consent requests")]

    @property
    def rows_lost(self) -> int:
        """Rows of raw tables that a witness proves lost; where two witnesses speak, the larger count."""
        return int(self.proven.groupby(["source", "table"])["rows"].max().sum())


def measure_data(
    connection: duckdb.DuckDBPyConnection,
    tables: Sequence[TableAbout],
    *,
    consistency_at: Mapping[str, datetime | None],
    impact_started_at: datetime,
    last_attempt_at: datetime,
    restored_at: datetime,
    events_source: str | None,
    witness_source: str | None,
    rewritten: Collection[int] = (),
) -> DataImpact:
    """Count rows at risk and rows lost.

    Args:
        connection: with the schemas `after_<source>` and, where there was a valid snapshot, `before_<source>`.
        tables: the raw tables of all sources, as the snapshots after recovery hold them.
        consistency_at: per source the consistency point of its last valid snapshot; None puts every row at risk.
        impact_started_at: when the impact began.
        last_attempt_at: the sender's last attempt before the silence: its log's rows up to then were there.
        restored_at: when the provider worked again.
        events_source: the source that holds the provider's events, if any.
        witness_source: the source with `webhook_receipts` and `consent_requests`, if any.
        rewritten: campaigns that the recovery itself changed: their links to lists went on purpose.
    """
    known = {(one.source, one.name): one for one in tables}
    proven = _lost_by_receipts(connection, known, events_source, witness_source, impact_started_at)
    risk = []
    for one in tables:
        born = _born(one, known)
        if born is None:
            continue
        expression, joined, own = born
        since = consistency_at.get(one.source)
        until = last_attempt_at if own == "queued_at" else impact_started_at
        rows = _count(
            connection,
            f"SELECT count(*) FROM {_table('after', one)} t {joined} WHERE {expression} <= ?"
            + (f" AND {expression} > ?" if since else ""),
            [_naive(until), *([_naive(since)] if since else [])],
        )
        missing = proven.get((one.source, one.name))
        if missing is not None:
            at = pd.to_datetime(missing["occurred_at"])
            rows += int((at > pd.Timestamp(since).tz_localize(None)).sum()) if since else len(at)
        risk.append({"source": one.source, "table": one.name, "since": since, "rows": rows})
    lost = _lost_by_key(connection, tables, consistency_at, rewritten)
    for (source, name), missing in proven.items():
        lost.append(
            {
                "source": source,
                "table": name,
                "witness": "webhook receipts",
                "checked": int(missing.attrs["checked"]),
                "rows": len(missing),
                "estimated": False,
                "note": "events up to the impact that reached our webhook and are gone at the provider",
            }
        )
    opt_outs, missing_opt_outs = _opt_outs_missing(connection, known, events_source, witness_source)
    lost.append(
        {
            "source": events_source or "",
            "table": "suppressions",
            "witness": "consent requests",
            "checked": opt_outs,
            "rows": missing_opt_outs,
            "estimated": False,
            "note": "standing opt-outs in our own records that the provider does not honour",
        }
    )
    lost += _unwitnessed(connection, known, events_source, impact_started_at, restored_at)
    return DataImpact(
        pd.DataFrame(risk, columns=["source", "table", "since", "rows"]),
        pd.DataFrame(lost, columns=["source", "table", "witness", "checked", "rows", "estimated", "note"]),
        missing_opt_outs,
    )


def _born(one: TableAbout, known: Mapping[tuple[str, str], TableAbout]) -> tuple[str, str, str] | None:
    """Return (expression of the birth time, join it needs, column): its own, else that of its only parent."""
    own = next((column for column in BIRTH_COLUMNS if column in one.columns), None)
    if own is not None:
        return f"t.{_quoted(own)}", "", own
    if len(one.parents) == 1:
        column, parent, key = one.parents[0]
        above = known.get((one.source, parent))
        birth = next((name for name in BIRTH_COLUMNS if above and name in above.columns), None)
        if above is not None and birth is not None:
            join = f"JOIN {_table('after', above)} p ON p.{_quoted(key)} = t.{_quoted(column)}"
            return f"p.{_quoted(birth)}", join, birth
    return None


def _lost_by_key(
    connection: duckdb.DuckDBPyConnection,
    tables: Sequence[TableAbout],
    consistency_at: Mapping[str, datetime | None],
    rewritten: Collection[int],
) -> list[dict[str, Any]]:
    found = []
    for one in tables:
        if consistency_at.get(one.source) is None or not one.primary_key:
            continue
        if not _exists(connection, f"before_{one.source}", one.name):
            continue
        keys = ", ".join(map(_quoted, one.primary_key))
        before = _table("before", one)
        kept, values = "", []
        if "campaign_id" in one.columns and not set(BIRTH_COLUMNS) & set(one.columns):
            kept, values = " WHERE campaign_id NOT IN (SELECT unnest(?::BIGINT[]))", [sorted(rewritten)]
        checked = _count(connection, f"SELECT count(*) FROM {before}{kept}", values)
        gone = _count(
            connection,
            f"SELECT count(*) FROM (SELECT {keys} FROM {before}{kept}"
            f" EXCEPT SELECT {keys} FROM {_table('after', one)})",
            values,
        )
        found.append(
            {
                "source": one.source,
                "table": one.name,
                "witness": "last snapshot",
                "checked": checked,
                "rows": gone,
                "estimated": False,
                "note": "rows of the last valid snapshot that are gone, by primary key",
            }
        )
    return found


def _lost_by_receipts(
    connection: duckdb.DuckDBPyConnection,
    known: Mapping[tuple[str, str], TableAbout],
    events_source: str | None,
    witness_source: str | None,
    impact_started_at: datetime,
) -> dict[tuple[str, str], pd.DataFrame]:
    """Per event table the receipts up to the impact without a row; each receipt counts once."""
    if events_source is None or witness_source is None or (witness_source, "webhook_receipts") not in known:
        return {}
    receipts = f"{_quoted(f'after_{witness_source}')}.webhook_receipts"
    missing = {}
    for name, types in _EVENT_TABLES.items():
        table = known.get((events_source, name))
        if table is None:
            continue
        at = "occurred_at" if name == "events" else "created_at"
        kind = "t.type" if name == "events" else "NULL"
        filtered = f" AND event_type IN ({', '.join('?' for _ in types)})" if types else ""
        same_type = " AND w.event_type = e.type" if name == "events" else ""
        query = f"""
            WITH w AS (
                SELECT event_type, campaign_id, subscriber_id, occurred_at,
                    row_number() OVER (PARTITION BY event_type, campaign_id, subscriber_id, occurred_at) AS nth
                FROM {receipts} WHERE occurred_at <= ?{filtered}
            ), e AS (
                SELECT {kind} AS type, t.campaign_id, t.subscriber_id, t.{at} AS occurred_at,
                    row_number() OVER (PARTITION BY {kind}, t.campaign_id, t.subscriber_id, t.{at}) AS nth
                FROM {_table("after", table)} t
            )
            SELECT w.* FROM w LEFT JOIN e
                ON w.campaign_id = e.campaign_id AND w.subscriber_id = e.subscriber_id
                AND w.occurred_at = e.occurred_at AND w.nth = e.nth{same_type}
            WHERE e.campaign_id IS NULL
        """
        values = [_naive(impact_started_at), *types]
        frame = connection.execute(query, values).df()
        frame.attrs["checked"] = _count(
            connection,
            f"SELECT count(*) FROM {receipts} WHERE occurred_at <= ?{filtered}",
            values,
        )
        missing[events_source, name] = frame
    return missing


def _opt_outs_missing(
    connection: duckdb.DuckDBPyConnection,
    known: Mapping[tuple[str, str], TableAbout],
    events_source: str | None,
    witness_source: str | None,
) -> tuple[int, int]:
    """Return (standing opt-outs in our records, how many of those people the provider would still mail).

    A list that only catch-up campaigns used, all of them over, is nobody's audience any more.
    """
    if (
        events_source is None
        or witness_source is None
        or (witness_source, "consent_requests") not in known
        or not {(events_source, name) for name in ("subscriber_lists", "campaign_lists", "campaigns")}
        <= set(known)
    ):
        return 0, 0
    shop, esp = _quoted(f"after_{witness_source}"), _quoted(f"after_{events_source}")
    row = connection.execute(
        f"""
        WITH wish AS (
            SELECT customer_id, arg_max(kind, (requested_at, request_id)) AS kind
            FROM {shop}.consent_requests GROUP BY customer_id
        ), spent AS (
            SELECT l.list_id FROM {esp}.campaign_lists l JOIN {esp}.campaigns c ON c.id = l.campaign_id
            WHERE l.list_id IS NOT NULL
            GROUP BY l.list_id
            HAVING bool_and(c.attribs ->> '$.catch_up_of' IS NOT NULL AND c.status IN ('finished', 'cancelled'))
        ), mailable AS (
            SELECT DISTINCT m.subscriber_id FROM {esp}.subscriber_lists m
            JOIN {esp}.subscribers s ON s.id = m.subscriber_id
            WHERE m.status <> 'unsubscribed' AND s.status = 'enabled'
                AND m.list_id NOT IN (SELECT list_id FROM spent)
        )
        SELECT count(*) FILTER (WHERE kind = 'unsubscribe'),
            count(*) FILTER (WHERE kind = 'unsubscribe' AND customer_id IN (SELECT subscriber_id FROM mailable))
        FROM wish
        """
    ).fetchone()
    return (int(row[0]), int(row[1])) if row else (0, 0)


def _unwitnessed(
    connection: duckdb.DuckDBPyConnection,
    known: Mapping[tuple[str, str], TableAbout],
    events_source: str | None,
    impact_started_at: datetime,
    restored_at: datetime,
) -> list[dict[str, Any]]:
    """Estimate opens and clicks that nobody recorded from impact to restoration: the usual number less the recorded.

    The usual number is the mean of the same hours one to four weeks before.
    """
    table = known.get((events_source or "", "events"))
    if table is None:
        return []
    found = []
    for kind in ("open", "click"):
        counts = []
        for week in range(5):
            back = timedelta(weeks=week)
            counts.append(
                _count(
                    connection,
                    f"SELECT count(*) FROM {_table('after', table)} t"
                    " WHERE type = ? AND occurred_at > ? AND occurred_at <= ?",
                    [kind, _naive(impact_started_at - back), _naive(restored_at - back)],
                )
            )
        recorded, usual = counts[0], counts[1:]
        mean = sum(usual) / len(usual)
        found.append(
            {
                "source": table.source,
                "table": f"events ({kind}s)",
                "witness": "nothing",
                "checked": recorded,
                "rows": round(max(mean - recorded, 0)),
                "estimated": True,
                "note": f"estimated: {recorded} recorded during the outage, {mean:.0f} in the same hours of the four "
                f"weeks before ({min(usual)} to {max(usual)}); part of the gap is mail that was not sent",
            }
        )
    return found


def _table(side: str, one: TableAbout) -> str:
    return f"{_quoted(f'{side}_{one.source}')}.{_quoted(one.name)}"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _exists(connection: duckdb.DuckDBPyConnection, schema: str, table: str) -> bool:
    found = connection.execute(
        "SELECT count(*) FROM information_schema.tables WHERE table_schema = ? AND table_name = ?",
        [schema, table],
    ).fetchone()
    return bool(found and found[0])


def _count(connection: duckdb.DuckDBPyConnection, query: str, values: list[Any]) -> int:
    row = connection.execute(query, values).fetchone()
    return int(row[0]) if row else 0


def _naive(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=None)
