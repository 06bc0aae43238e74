"""What people got lately and are due to get: the volume of each mailbox provider, and who is over the frequency cap.

Counted in DuckDB from Parquet and Arrow: nothing here is a Python object per message.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeAlias

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.catchup.ledger import open_cursor, people_table, register

TRAFFIC = pa.schema(
    [
        pa.field("campaign_id", pa.int64(), nullable=False),
        pa.field("subscriber_id", pa.int64(), nullable=False),
        pa.field("at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)
"""A message that somebody got, or is due to get, and when. One person counts once per campaign."""

Got: TypeAlias = Iterable[pa.Table | Path]
"""Messages, as tables of the schema `TRAFFIC` or ledger files."""


@dataclass(frozen=True)
class Cap:
    """The plan's frequency cap: at most so many `messages` to one person within any `per`.

    Attributes:
        exempt: kinds of campaign that do not count.
    """

    messages: int
    per: timedelta
    exempt: tuple[str, ...] = ()


@dataclass(frozen=True)
class Split:
    """Whom a campaign may mail now under the frequency cap, later, or not any more while it is useful.

    Attributes:
        now: people who may be mailed now, in the order given.
        later: people who may be at `later_at`, with time to be mailed before the deadline.
        later_at: when all of them may; None where there are none.
        never: people who are over the cap until it is too late.
    """

    now: pa.Array
    later: pa.Array
    later_at: datetime | None
    never: pa.Array


def traffic_table(campaign_id: int, people: pa.Array, at: datetime) -> pa.Table:
    """Return that each of `people` gets campaign `campaign_id` at `at`."""
    count = len(people)
    columns = [
        pa.repeat(pa.scalar(campaign_id), count),
        people,
        pa.repeat(pa.scalar(at, TRAFFIC[2].type), count),
    ]
    return pa.table(columns, schema=TRAFFIC)


def hourly(
    got: Got, lanes: pa.Table, *, since: datetime, folder: Path
) -> dict[str, tuple[tuple[datetime, int], ...]]:
    """Return per mailbox provider how many messages it got or is due to get after `since`, by the end of each hour.

    Args:
        got: the messages.
        lanes: `subscriber_id` and `lane`, its mailbox provider.
        since: what is older does not count.
        folder: where DuckDB spills.
    """
    with _traffic(got, folder) as con:
        con.register("lanes", lanes)
        rows = con.execute(
            """
            SELECT coalesce(lane, 'other'), (epoch_us(moment) // 3600000000 + 1) * 3600 AS until, count(*)
            FROM got LEFT JOIN lanes USING (subscriber_id) WHERE moment > $since GROUP BY ALL ORDER BY ALL
            """,
            {"since": since},
        ).fetchall()
    found: dict[str, tuple[tuple[datetime, int], ...]] = {}
    for lane, until, messages in rows:
        when = datetime.fromtimestamp(until, tz=since.tzinfo)
        found[lane] = (*found.get(lane, ()), (when, messages))
    return found


def split_by_cap(
    people: pa.Array,
    got: Got,
    cap: Cap,
    *,
    at: datetime,
    until: datetime | None,
    per_minute: float,
    folder: Path,
) -> Split:
    """Return whom of `people` one more message at `at` brings over the cap, and until when.

    Args:
        people: subscriber ids, in the order in which they are to be mailed.
        got: what they got, and what they are due to get after `at`.
        cap: the cap.
        at: when they would be mailed.
        until: the last moment to mail them; None where there is none.
        per_minute: how fast those go out who wait.
        folder: where DuckDB spills.
    """
    over = over_cap(people, got, cap, at=at, folder=folder)
    if not over.num_rows:
        return Split(people, people[:0], None, people[:0])
    capped = pc.is_in(people, value_set=over["subscriber_id"])
    again = pc.take(over["free_at"], pc.index_in(people.filter(capped), value_set=over["subscriber_id"]))
    waiting = _while_useful(people.filter(capped), again.cast(pa.int64()).to_numpy(), until, per_minute)
    later = people.filter(pc.is_in(people, value_set=waiting))
    never = people.filter(pc.and_(capped, pc.invert(pc.is_in(people, value_set=waiting))))
    times = over.filter(pc.is_in(over["subscriber_id"], value_set=waiting))["free_at"]
    return Split(people.filter(pc.invert(capped)), later, pc.max(times).as_py(), never)


def _while_useful(people: pa.Array, free: np.ndarray, until: datetime | None, per_minute: float) -> pa.Array:
    """Return the most of `people` who can wait for one time together and still be mailed by `until`."""
    order = np.argsort(free, kind="stable")
    if until is None:
        return people
    minutes = (int(until.timestamp() * 1e6) - free[order]) / 60e6
    fits = np.minimum(np.arange(1, len(order) + 1), np.maximum(0, np.floor(minutes * per_minute)))
    best = int(np.argmax(fits))
    # Of several who are free at the same time all come along, or as many as fit.
    return people.take(pa.array(order[: int(fits[best])]))


def over_cap(people: pa.Array, got: Got, cap: Cap, *, at: datetime, folder: Path) -> pa.Table:
    """Return who of `people` would have more than the cap allows with a message at `at`, and from when on not.

    Any window that holds `at` counts, also one that ends with what is due later. `free_at` is `cap.per` after the
    last but `cap.messages - 1` of what is known: from then on one more is within the cap.
    """
    with _traffic(got, folder) as con:
        con.register("people", people_table(people))
        # Whoever has fewer messages than the cap allows is within it: few are left to be looked at one by one.
        return con.sql(
            f"""
            WITH near AS (
                SELECT subscriber_id, moment FROM got SEMI JOIN people USING (subscriber_id) WHERE moment > $since
                QUALIFY count(*) OVER (PARTITION BY subscriber_id) >= {cap.messages}
            ), asked AS (
                SELECT subscriber_id, moment, false AS new FROM near
                UNION ALL SELECT DISTINCT subscriber_id, $moment, true FROM near
            ), spans AS (
                SELECT *, coalesce(moment - lag(moment, {cap.messages}) OVER each < $per, false) AS "full" FROM asked
                WINDOW each AS (PARTITION BY subscriber_id ORDER BY moment, new)
            ), told AS (
                SELECT subscriber_id, new, bool_or("full") OVER (PARTITION BY subscriber_id ORDER BY moment, new
                    ROWS BETWEEN CURRENT ROW AND {cap.messages} FOLLOWING) AS "over"
                FROM spans
            )
            SELECT subscriber_id, max(moment, {cap.messages})[{cap.messages}] + $per AS free_at
            FROM near SEMI JOIN (FROM told WHERE new AND "over") USING (subscriber_id)
            GROUP BY subscriber_id ORDER BY subscriber_id
            """,  # noqa: S608 - two integers
            params={"since": at - cap.per, "moment": at, "per": cap.per},
        ).to_arrow_table()


def _traffic(got: Got, folder: Path) -> duckdb.DuckDBPyConnection:
    """Return a cursor with the view `got`: one row per person and campaign, the earliest time of each."""
    con = open_cursor(folder)
    con.register("nothing", TRAFFIC.empty_table())
    parts = ['SELECT campaign_id, subscriber_id, "at" AS moment FROM nothing']
    for number, one in enumerate(got):
        register(con, f"part_{number}", one)
        moment = "attempted_at" if isinstance(one, Path) else '"at"'
        parts.append(
            f"SELECT campaign_id, subscriber_id, {moment} FROM part_{number} WHERE {moment} IS NOT NULL"  # noqa: S608
        )
    united = " UNION ALL ".join(parts)
    con.execute(
        f"CREATE TEMP VIEW got AS SELECT subscriber_id, min(moment) AS moment FROM ({united})"  # noqa: S608
        " GROUP BY campaign_id, subscriber_id"
    )
    return con
