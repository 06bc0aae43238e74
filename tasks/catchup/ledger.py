"""The catch-up ledger: per campaign and subscriber, what became of the message so far.

It unites the original campaign and every catch-up campaign made for it, and every witness of an attempt: the
sender's own log, the provider's events, the webhooks that reached us, the last valid snapshot. The outcomes
partition the audience: everybody has exactly one. Only `not_attempted` may be mailed; whoever may have been mailed
without proof is `unknown` and listed for a decision, never mailed again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, get_args

import duckdb
import pyarrow as pa
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

# A proof outweighs a doubt: `delivered` settles a message that its sender left as `unknown`.
_RANK = {"delivered": 5, "bounced": 4, "accepted": 3, "unknown": 2}
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


@dataclass(frozen=True)
class Ledger:
    """What became of one campaign, all rounds united."""

    campaign_id: int
    table: pa.Table

    def counts(self) -> dict[str, int]:
        """Return how many people have each outcome, every outcome named; they add up to the audience."""
        found = {
            str(row["values"]): int(row["counts"]) for row in self.table["outcome"].value_counts().to_pylist()
        }
        return {outcome: found.get(outcome, 0) for outcome in OUTCOMES}

    def people(self, outcome: Outcome) -> list[int]:
        """Return the subscriber ids with `outcome`, ascending."""
        mask = pa.compute.equal(self.table["outcome"], outcome)
        ids: list[int] = self.table.filter(mask)["subscriber_id"].to_pylist()
        return ids


def evidence_table(rows: Iterable[tuple[int, int, str, datetime, str]]) -> pa.Table:
    """Return rows (campaign id, subscriber id, outcome, at, witness) as an `EVIDENCE` table."""
    columns: tuple[list[object], ...] = ([], [], [], [], [])
    for row in rows:
        for column, value in zip(columns, row, strict=True):
            column.append(value)
    return pa.table(dict(zip(EVIDENCE.names, columns, strict=True)), schema=EVIDENCE)


def evidence_of_log(records: Iterable[SendRecord]) -> pa.Table:
    """Return what the sender's own log proves.

    `sending` was written before the message left: it may be out (`unknown`). `failed` with a permanent reply (5xx)
    is a bounce; with a transient one (4xx) the message surely stayed with the sender, so it is no attempt; without
    a reply nobody knows.
    """
    return evidence_table(
        (one.campaign_id, one.subscriber_id, outcome, one.at, "send_log")
        for one in records
        if (outcome := _log_outcome(one)) is not None
    )


def evidence_of_events(events: Iterable[ProviderEvent], witness: Witness = "event") -> pa.Table:
    """Return what events prove: anything a recipient did proves delivery."""
    return evidence_table(
        (one.campaign_id, one.subscriber_id, _EVENT_OUTCOME[one.type], one.occurred_at, witness)
        for one in events
        if one.type in _EVENT_OUTCOME
    )


def log_has_holes(log: Iterable[SendRecord], others: pa.Table, *, sent_by_counter: Mapping[int, int]) -> bool:
    """Whether somebody else knows of an attempt that the sender's log does not: then the log proves no absence.

    Args:
        log: the sender's log.
        others: evidence of everybody else.
        sent_by_counter: per campaign the provider's own `sent` counter.
    """
    known = {(one.campaign_id, one.subscriber_id) for one in log}
    seen = zip(others["campaign_id"].to_pylist(), others["subscriber_id"].to_pylist(), strict=True)
    if any(pair not in known for pair in seen):
        return True
    lines: dict[int, int] = {}
    for campaign, _ in known:
        lines[campaign] = lines.get(campaign, 0) + 1
    return any(sent > lines.get(campaign, 0) for campaign, sent in sent_by_counter.items())


def build_ledger(
    campaign_id: int,
    *,
    audience: Iterable[int],
    evidence: Iterable[pa.Table],
    suppressed: Iterable[int] = (),
    closed: Mapping[int, tuple[Outcome, str]] | None = None,
    log_trusted: bool = True,
    doubt: str = "the sender lost part of its log",
    unreachable: Iterable[int] = (),
) -> Ledger:
    """Return the ledger of campaign `campaign_id`.

    Args:
        campaign_id: the original campaign.
        audience: everybody it was meant for.
        evidence: what each witness knows, of the original and its catch-up campaigns; whoever was attempted
            belongs to the audience too.
        suppressed: people who must not be mailed.
        closed: people for whom a decision ended it (`expired`, `dropped`), with the reason.
        log_trusted: whether the sender's log proves that whoever is not in it was not attempted. If not, such
            people are `unknown`.
        doubt: why it does not, for the reason of those people.
        unreachable: people of the audience whom the provider does not know any more.
    """
    tables = [table for table in evidence if table.num_rows]
    signs = pa.concat_tables(tables) if tables else EVIDENCE.empty_table()
    decided = closed or {}
    ended = pa.table(
        {
            "subscriber_id": pa.array(list(decided), pa.int64()),
            "outcome": pa.array([outcome for outcome, _ in decided.values()], pa.string()),
            "reason": pa.array([reason for _, reason in decided.values()], pa.string()),
        }
    )
    with duckdb.connect(config={"threads": 1}) as con:
        con.execute("SET enable_progress_bar = false")
        con.register("people", _ids(audience))
        con.register("signs", signs)
        con.register("suppressed", _ids(suppressed))
        con.register("unreachable", _ids(unreachable))
        con.register("ended", ended)
        con.register("ranks", pa.table({"outcome": list(_RANK), "weight": list(_RANK.values())}))
        values = {"campaign_id": campaign_id, "trusted": log_trusted, "doubt": doubt}
        table: pa.Table = con.sql(_UNITE, params=values).to_arrow_table()
    return Ledger(campaign_id, table.cast(LEDGER))


_UNITE = """
WITH everybody AS (
    SELECT subscriber_id FROM people UNION SELECT subscriber_id FROM signs
), best AS (
    SELECT s.subscriber_id, arg_max({
        'outcome': s.outcome, 'by': s.campaign_id, 'at': s.at, 'witness': s.witness
    }, (r.weight, -epoch_us(s.at), -s.campaign_id, s.witness)) AS sign
    FROM signs s JOIN ranks r USING (outcome)
    GROUP BY s.subscriber_id
)
SELECT
    $campaign_id::BIGINT AS campaign_id,
    e.subscriber_id,
    CASE
        WHEN b.subscriber_id IS NOT NULL THEN b.sign.outcome
        WHEN x.subscriber_id IS NOT NULL THEN 'suppressed'
        WHEN d.subscriber_id IS NOT NULL THEN d.outcome
        WHEN u.subscriber_id IS NOT NULL THEN 'dropped'
        WHEN NOT $trusted THEN 'unknown'
        ELSE 'not_attempted'
    END AS outcome,
    b.sign.by AS sent_by_campaign_id,
    b.sign.at AS attempted_at,
    b.sign.witness AS witness,
    CASE
        WHEN b.subscriber_id IS NOT NULL THEN CASE
            WHEN b.sign.outcome <> 'unknown' THEN 'attempted'
            WHEN b.sign.witness = 'counter' THEN $doubt
            ELSE 'handed to SMTP, no answer recorded'
        END
        WHEN x.subscriber_id IS NOT NULL THEN 'must not be mailed'
        WHEN d.subscriber_id IS NOT NULL THEN d.reason
        WHEN u.subscriber_id IS NOT NULL THEN 'the provider does not know this subscriber any more'
        WHEN NOT $trusted THEN $doubt
        ELSE 'no witness of an attempt'
    END AS reason
FROM everybody e
LEFT JOIN best b USING (subscriber_id)
LEFT JOIN suppressed x USING (subscriber_id)
LEFT JOIN ended d USING (subscriber_id)
LEFT JOIN unreachable u USING (subscriber_id)
ORDER BY e.subscriber_id
"""


def write_frozen(table: pa.Table, path: Path) -> str:
    """Write `table` as the Parquet file `path`, fsynced and put in place in one step; return its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(table, partial, compression="zstd", write_page_checksum=True)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
        digest = sha256_hex(file.read())
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


def people_table(subscriber_ids: Iterable[int]) -> pa.Table:
    """Return subscriber ids, in their order, as the table of a frozen target list."""
    return pa.table({"subscriber_id": pa.array(list(subscriber_ids), pa.int64())})


def _ids(people: Iterable[int]) -> pa.Table:
    return people_table(sorted(set(people)))


def _log_outcome(record: SendRecord) -> Outcome | None:
    if record.status == "accepted":
        return "accepted"
    if record.status == "sending" or record.smtp_code is None:
        return "unknown"
    if record.smtp_code >= _PERMANENT:
        return "bounced"
    return None if record.smtp_code >= _TRANSIENT else "unknown"
