"""The catch-up ledger: per campaign and subscriber, what became of the message so far.

It unites the original campaign and every catch-up campaign made for it, and every witness of an attempt: the
sender's own log, the provider's events, the webhooks that reached us, the last valid snapshot. The outcomes
partition the audience: everybody has exactly one. Only `not_attempted` may be mailed; whoever may have been mailed
without proof is `unknown` and listed for a decision, never mailed again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.catchup.errors import CatchupError
from tasks.core import sha256_hex
from tasks.providers import ProviderEvent, SendRecord

Outcome = Literal[
    "not_attempted", "accepted", "delivered", "bounced", "suppressed", "expired", "dropped", "unknown"
]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
Witness = Literal["send_log", "event", "webhook", "snapshot", "counter"]

EVIDENCE = pa.schema(
    [
        pa.field("campaign_id", pa.int64(), nullable=False),
        pa.field("subscriber_id", pa.int64(), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("witness", pa.string(), nullable=False),
    ]
)
"""One sign that a message was attempted: which campaign, whom, how it ended, when, and who says so."""

_LOG = EVIDENCE.set(2, pa.field("outcome", pa.string()))
_EVENTS = pa.schema(
    [
        pa.field("event_id", pa.int64(), nullable=False),
        pa.field("type", pa.string(), nullable=False),
        pa.field("campaign_id", pa.int64(), nullable=False),
        pa.field("subscriber_id", pa.int64(), nullable=False),
        pa.field("at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)

LEDGER = pa.schema(
    [
        pa.field("campaign_id", pa.int64(), nullable=False),
        pa.field("subscriber_id", pa.int64(), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("sent_by_campaign_id", pa.int64()),
        pa.field("attempted_at", pa.timestamp("us", tz="UTC")),
        pa.field("witness", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
"""One row per person of the audience, ordered by subscriber id."""

MEMORY = "1GB"
"""What the building of a ledger may hold in memory; the rest spills beside the ledger."""

_BATCH = 65_536
# A proof outweighs a doubt: `delivered` settles a message that its sender left as `unknown`.
_PROOFS = ("unknown", "accepted", "bounced", "delivered")
_EVENT_OUTCOME: dict[str, Outcome] = {
    "sent": "accepted",
    "delivered": "delivered",
    "open": "delivered",
    "click": "delivered",
    "complaint": "delivered",
    "unsubscribe": "delivered",
    "bounce": "bounced",
}
_PERMANENT = 500
_TRANSIENT = 400


People: TypeAlias = Iterable[int] | pa.Array | Path
"""Subscriber ids: in memory, or a Parquet file with the column `subscriber_id`."""


@dataclass(frozen=True)
class Ledger:
    """What became of one campaign, all rounds united: a frozen Parquet file of the schema `LEDGER`."""

    campaign_id: int
    path: Path
    digest: str

    @property
    def table(self) -> pa.Table:
        """The whole ledger in memory."""
        return read_frozen(self.path, self.digest)

    def counts(self) -> dict[str, int]:
        """Return how many people have each outcome, every outcome named; they add up to the audience."""
        outcomes = pq.read_table(self.path, columns=["outcome"], read_dictionary=["outcome"])["outcome"]
        found = {str(row["values"]): int(row["counts"]) for row in outcomes.value_counts().to_pylist()}
        return {outcome: found.get(outcome, 0) for outcome in OUTCOMES}

    def people(self, outcome: Outcome) -> pa.Array:
        """Return the subscriber ids with `outcome`, ascending."""
        chosen = pq.read_table(self.path, columns=["subscriber_id"], filters=[("outcome", "=", outcome)])
        return chosen["subscriber_id"].combine_chunks()


def evidence_table(rows: Iterable[tuple[int, int, str, datetime, str]]) -> pa.Table:
    """Return rows (campaign id, subscriber id, outcome, at, witness) as an `EVIDENCE` table."""
    return _table(rows, EVIDENCE)


def _table(rows: Iterable[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    """Return rows as a table; they are taken as they come, no more than a batch of them is held as Python objects."""
    coming = iter(rows)
    batches = []
    while batch := list(islice(coming, _BATCH)):
        columns = zip(*batch, strict=True)
        arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
        batches.append(pa.record_batch(arrays, schema=schema))
    return pa.Table.from_batches(batches, schema=schema)


def log_lines(records: Iterable[SendRecord]) -> pa.Table:
    """Return every line of the sender's own log, with what it proves as `outcome`; null where it proves no attempt.

    `sending` was written before the message left: it may be out (`unknown`). `failed` with a permanent reply (5xx)
    is a bounce; with a transient one (4xx) the message surely stayed with the sender, so it is no attempt; without
    a reply nobody knows.
    """
    rows = ((one.campaign_id, one.subscriber_id, _log_outcome(one), one.at, "send_log") for one in records)
    return _table(rows, _LOG)


def evidence_of_log(lines: pa.Table) -> pa.Table:
    """Return what the lines of a log prove."""
    return lines.filter(pc.is_valid(lines["outcome"])).cast(EVIDENCE)


def events_table(events: Iterable[ProviderEvent]) -> pa.Table:
    """Return events as a table: `event_id`, `type`, `campaign_id`, `subscriber_id`, `at`."""
    rows = ((one.event_id, one.type, one.campaign_id, one.subscriber_id, one.occurred_at) for one in events)
    return _table(rows, _EVENTS)


def evidence_of_events(events: pa.Table, witness: Witness = "event") -> pa.Table:
    """Return what a table of events proves: anything a recipient did proves delivery."""
    place = pc.index_in(events["type"], value_set=pa.array(_EVENT_OUTCOME))
    outcome = pc.take(pa.array(_EVENT_OUTCOME.values(), pa.string()), place)
    proof = pa.table(
        {
            "campaign_id": events["campaign_id"],
            "subscriber_id": events["subscriber_id"],
            "outcome": outcome,
            "at": events["at"],
            "witness": pa.repeat(witness, events.num_rows),
        }
    )
    return proof.filter(pc.is_valid(outcome)).cast(EVIDENCE)


def log_has_holes(log: pa.Table, others: pa.Table, *, sent_by_counter: Mapping[int, int]) -> bool:
    """Whether somebody else knows of an attempt that the sender's log does not: then the log proves no absence.

    Args:
        log: the sender's log: `campaign_id` and `subscriber_id` of every line, whatever became of it.
        others: evidence of everybody else.
        sent_by_counter: per campaign the provider's own `sent` counter.
    """
    for campaign in {*others["campaign_id"].unique().to_pylist(), *sent_by_counter}:
        seen, logged = (
            table.filter(pc.equal(table["campaign_id"], campaign))["subscriber_id"] for table in (others, log)
        )
        if not pc.all(pc.is_in(seen, value_set=logged), min_count=0).as_py():
            return True
        if sent_by_counter.get(campaign, 0) > pc.count_distinct(logged).as_py():
            return True
    return False


def build_ledger(
    campaign_id: int,
    *,
    into: Path,
    audience: People,
    evidence: Iterable[pa.Table | Path],
    suppressed: People = (),
    ended: tuple[Outcome, str] | None = None,
    still_to_come: People = (),
    log_trusted: bool = True,
    doubt: str = "the sender lost part of its log",
    unreachable: People = (),
    capped: People = (),
) -> Ledger:
    """Write the ledger of campaign `campaign_id` into the file `into` and return it.

    Memory is bounded by `MEMORY` and not by the audience: ten million people and their evidence are read from files,
    and the ledger is written as it comes.

    Args:
        campaign_id: the original campaign.
        into: the file, replaced in one step.
        audience: everybody it was meant for.
        evidence: what each witness knows, of the original and its catch-up campaigns, as tables or Parquet files of
            the schema `EVIDENCE`; whoever was attempted belongs to the audience too.
        suppressed: people who must not be mailed.
        ended: the decision that ended the campaign (`expired` or `dropped`) for whoever was not attempted, with the
            reason; None while it goes on.
        still_to_come: people whom it does not end for: the provider mails them at a time that is set.
        log_trusted: whether the sender's log proves that whoever is not in it was not attempted. If not, such
            people are `unknown`.
        doubt: why it does not, for the reason of those people.
        unreachable: people of the audience whom the provider does not know any more.
        capped: people to whom it was not sent, for they would have got more than the plan's frequency cap.
    """
    outcome, reason = ended or (None, None)
    values = {
        "campaign_id": campaign_id,
        "trusted": log_trusted,
        "doubt": doubt,
        "ended": outcome,
        "ended_because": reason,
        **_PACKED,
    }
    into.parent.mkdir(parents=True, exist_ok=True)
    with open_cursor(into.parent) as con:
        for name, people in (
            ("people", audience),
            ("suppressed", suppressed),
            ("still_to_come", still_to_come),
            ("unreachable", unreachable),
            ("capped", capped),
        ):
            register(con, name, people)
        signs: list[str] = []
        for number, one in enumerate([EVIDENCE.empty_table(), *evidence]):
            signs.append(f"FROM sign_{number}")
            register(con, f"sign_{number}", one)
        con.execute(f"CREATE TEMP VIEW signs AS {' UNION ALL '.join(signs)}")
        reader = con.sql(_UNITE, params=values).to_arrow_reader(_BATCH)
        digest = _write((batch.cast(LEDGER) for batch in reader), LEDGER, into)
    return Ledger(campaign_id, into, digest)


def open_cursor(folder: Path) -> duckdb.DuckDBPyConnection:
    """Return a cursor of a DuckDB that holds `MEMORY` and spills the rest into `folder`; its views are its own."""
    return _database(folder).cursor()


@lru_cache(maxsize=1)
def _database(folder: Path) -> duckdb.DuckDBPyConnection:
    """Return a DuckDB in memory that spills into `folder`; kept, for to open one costs more than a small ledger."""
    spill = str(folder / ".spill")
    con = duckdb.connect(config={"threads": 2, "memory_limit": MEMORY, "temp_directory": spill})
    con.execute("SET enable_progress_bar = false; SET TimeZone = 'UTC'")
    return con


def register(con: duckdb.DuckDBPyConnection, name: str, rows: People | pa.Table) -> None:
    """Let the cursor `con` know `rows` (a table, people, or a Parquet file) as the view `name`."""
    if isinstance(rows, Path):
        file = str(rows).replace("'", "''")
        con.execute(f"CREATE TEMP VIEW {name} AS FROM read_parquet('{file}')")
    else:
        con.register(name, rows if isinstance(rows, pa.Table) else people_table(rows))


# The best sign of a person is the greatest of one number each: what it proves (from bit 99), then the earliest time
# (56 bits of microseconds), the lowest campaign (40 bits), and the witness (3 bits). So a person costs 24 bytes while
# millions of signs are united, and no text.
_WITNESSES = ("counter", "event", "send_log", "snapshot", "webhook")
_PACKED = {
    "outcomes": list(_PROOFS),
    "witnesses": list(_WITNESSES),
    "proof": 2**99,
    "time": 2**43,
    "times": 2**56,
    "campaigns": 2**40,
}
_UNITE = """
WITH keyed AS (
    SELECT subscriber_id,
        list_position($outcomes, outcome)::HUGEINT * $proof
        + ($times - 1 - epoch_us("at"))::HUGEINT * $time
        + ($campaigns - 1 - campaign_id)::HUGEINT * 8
        + list_position($witnesses, witness) - 1 AS sign
    FROM signs
    UNION ALL
    SELECT subscriber_id, 0 FROM people
), best AS (
    SELECT subscriber_id, max(sign) AS sign FROM keyed GROUP BY subscriber_id
), told AS (
    SELECT subscriber_id, sign, CASE WHEN sign > 0 THEN $witnesses[(sign % 8)::INT + 1] END AS witness, CASE
        WHEN sign > 0 THEN $outcomes[(sign // $proof)::INT]
        WHEN subscriber_id IN (SELECT subscriber_id FROM suppressed) THEN 'suppressed'
        WHEN subscriber_id IN (SELECT subscriber_id FROM capped) THEN 'dropped'
        WHEN $ended::VARCHAR IS NOT NULL AND subscriber_id NOT IN (SELECT subscriber_id FROM still_to_come) THEN $ended
        WHEN subscriber_id IN (SELECT subscriber_id FROM unreachable) THEN 'dropped'
        WHEN NOT $trusted THEN 'unknown'
        ELSE 'not_attempted'
    END AS outcome
    FROM best
)
SELECT
    $campaign_id::BIGINT AS campaign_id,
    subscriber_id,
    outcome,
    CASE WHEN sign > 0 THEN ($campaigns - 1 - sign // 8 % $campaigns)::BIGINT END AS sent_by_campaign_id,
    CASE WHEN sign > 0 THEN make_timestamptz(($times - 1 - sign // $time % $times)::BIGINT) END AS attempted_at,
    witness,
    CASE
        WHEN outcome = 'dropped' AND subscriber_id IN (SELECT subscriber_id FROM capped) THEN 'frequency cap'
        WHEN sign = 0 THEN CASE outcome
            WHEN 'suppressed' THEN 'must not be mailed'
            WHEN 'unknown' THEN $doubt
            WHEN 'not_attempted' THEN 'no witness of an attempt'
            WHEN $ended::VARCHAR THEN $ended_because::VARCHAR
            ELSE 'the provider does not know this subscriber any more'
        END
        WHEN outcome <> 'unknown' THEN 'attempted'
        WHEN witness = 'counter' THEN $doubt
        ELSE 'handed to SMTP, no answer recorded'
    END AS reason
FROM told
ORDER BY subscriber_id
"""


def write_frozen(table: pa.Table, path: Path) -> str:
    """Write `table` as the Parquet file `path`, fsynced and put in place in one step; return its SHA-256."""
    return _write(table.to_batches(), table.schema, path)


def _write(batches: Iterable[pa.RecordBatch], schema: pa.Schema, path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with pq.ParquetWriter(partial, schema, compression="zstd", write_page_checksum=True) as writer:
        for batch in batches:
            writer.write_batch(batch)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return digest


def read_frozen(path: Path, digest: str) -> pa.Table:
    """Return the table in `path` if its bytes have the SHA-256 `digest`.

    Raises:
        CatchupError: the file is gone or is not the one that the journal names.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CatchupError(
            "A frozen file of this recovery is gone",
            where=str(path),
            fix="bring it back from a backup; without it nobody knows whom the step was for",
        ) from error
    if sha256_hex(data) != digest:
        raise CatchupError(
            "A frozen file of this recovery was changed", where=str(path), fix="bring back the original file"
        )
    return pq.read_table(pa.BufferReader(data), page_checksum_verification=True)


def people_table(subscriber_ids: Iterable[int] | pa.Array) -> pa.Table:
    """Return subscriber ids, in their order, as the table of a frozen target list."""
    known = isinstance(subscriber_ids, pa.Array | pa.ChunkedArray)
    return pa.table(
        {"subscriber_id": subscriber_ids if known else pa.array(list(subscriber_ids), pa.int64())}
    )


def _log_outcome(record: SendRecord) -> Outcome | None:
    if record.status == "accepted":
        return "accepted"
    if record.status == "sending" or record.smtp_code is None:
        return "unknown"
    if record.smtp_code >= _PERMANENT:
        return "bounced"
    return None if record.smtp_code >= _TRANSIENT else "unknown"
