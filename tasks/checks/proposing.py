"""A first contract for every table of a snapshot: what DuckDB sees in it, as commented YAML that a person edits.

What the database declares is taken over, what the values show is guessed and says so. No value of a column that may
hold personal data is written down.
"""

# ruff: noqa: S608 - every name passes `quote`, every value `literal`

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tasks.checks.contracts import FORMATS, ColumnType
from tasks.checks.rules import ADDRESS, TYPE_FAMILIES
from tasks.checks.sql import literal, quote
from tasks.core import plural
from tasks.snapshots import Store, TableEntry, parquet_scan
from tasks.sources import ColumnFacts

if TYPE_CHECKING:
    import duckdb

_PERSONAL = re.compile(
    r"e_?mail|phone|mobile|(first|last|sur|full|user|nick)_?name|street|address|postcode|postal|zip|birth|dob|iban"
    r"|passport|gender|^ip$|_ip$|ip_addr|latitude|longitude|password|secret|token",
    re.IGNORECASE,
)
_CODE = r"^[A-Za-z][A-Za-z0-9_-]{0,29}$"
_NAMES_A_STATE = re.compile(r"(^|_)(status|state|type|kind|channel|mode)$", re.IGNORECASE)
_NAMES_ONE = re.compile(r"uuid|guid|slug|(^|_)(code|number|no|ref|sku)$", re.IGNORECASE)
_NAMES_NEWS = re.compile(
    r"(created|ordered|occurred|received|requested|queued|placed|sent)_?(at|on)?$", re.IGNORECASE
)
_FEW, _OFTEN, _ENOUGH = 12, 10, 20
_AHEAD = timedelta(minutes=5)


@dataclass(frozen=True)
class Seen:
    """What the values of one column show.

    Attributes:
        rows: rows of the table.
        filled: rows with a value.
        distinct: different values.
        low, high: the least and the greatest number or moment; None for other types and without a value.
        addresses: rows whose text holds an e-mail address.
        formats: the known formats that every value is written in.
        codes: the values, where they are few, often repeated, and each a single plain word.
    """

    rows: int
    filled: int
    distinct: int
    low: Any = None
    high: Any = None
    addresses: int = 0
    formats: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()


@dataclass
class _Draft:
    """One column of a contract while it is written."""

    type: ColumnType
    keys: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def propose_contracts(store: Store, snapshot_id: str) -> dict[str, str]:
    """Return a contract for every table of a snapshot, as YAML text by table name.

    Raises:
        SnapshotError: there is no such snapshot.
        Damaged: an object is missing or changed.
    """
    import duckdb

    tables = store.manifest(snapshot_id).tables
    at = store.info(snapshot_id).consistency_at.astimezone(UTC)
    with duckdb.connect(":memory:") as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET enable_progress_bar = false")
        for name in tables:
            scan = parquet_scan(store.table_files(snapshot_id, name))
            connection.execute(f"CREATE VIEW {quote(name)} AS SELECT * FROM {scan}")
        proposing = _Proposing(connection, tables, snapshot_id, at)
        return {name: proposing.table(name) for name in tables}


class _Proposing:
    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        tables: Mapping[str, TableEntry],
        snapshot_id: str,
        at: datetime,
    ) -> None:
        self.ask: Callable[[str], list[tuple[Any, ...]]] = lambda sql: connection.execute(sql).fetchall()
        self.tables = tables
        self.snapshot_id = snapshot_id
        self.at = at

    def table(self, name: str) -> str:
        entry = self.tables[name]
        kinds = {str(row[0]): str(row[1]) for row in self.ask(f"DESCRIBE {quote(name)}")}
        seen = {column: self.seen(name, column, kind) for column, kind in kinds.items()}
        facts = {column.name: column for column in entry.facts.columns}
        people = any("mail" in column.lower() for column in kinds)
        drafts = {
            column: self.column(facts[column], kind, seen[column], people) for column, kind in kinds.items()
        }
        key, key_note, sure = self.key(entry, drafts, seen)
        for column in key if sure else ():
            drafts[column].keys.pop("nulls", None)
            if len(key) == 1:
                drafts[column].keys.pop("unique", None)
        rows = {"at_least": min(1, entry.rows), "shrink_at_most": 0.05, "change": "auto"}
        lines = [
            f"# Contract of {name}, proposed from {self.snapshot_id} ({plural(entry.rows, 'row')}).",
            "# Read every line: a rule that nobody meant is worse than none. `mailstay checks lint` checks your edits.",
            f"table: {_scalar(name)}",
            "# description: what one row is",
            *key_note,
            f"primary_key: {_flow(key)}",
            *([] if sure else ["key_severity: info"]),
            f"rows: {_flow(rows)}" + ("" if entry.rows else "  # it was empty"),
            "columns:",
            *(line for column, draft in drafts.items() for line in _column_lines(column, draft)),
        ]
        return "\n".join([*lines, *self.foreign_keys(name, entry)]) + "\n"

    def column(self, facts: ColumnFacts, kind: str, seen: Seen, people: bool) -> _Draft:
        name = facts.name
        draft = _Draft(_family(kind, facts.source_type))
        personal = _why_personal(name, seen, people)
        if personal:
            draft.keys["personal"] = True
            draft.notes.append(f"personal data: a guess, because {personal}")
        self.nulls(draft, seen)
        length = re.search(r"CHAR[A-Z ]*\((\d+)\)", facts.source_type, re.IGNORECASE)
        if draft.type == "text" and length:
            draft.keys["length"] = {"max": int(length[1])}
        if draft.type == "text" and seen.filled:
            self.text(draft, name, seen, bool(personal))
        if draft.type in ("integer", "decimal", "number") and seen.low is not None and not personal:
            draft.notes.append(f"{seen.low:,} to {seen.high:,}")
            if seen.low >= 0:
                draft.keys["range"] = {"min": 1 if seen.low >= 1 and name.lower().endswith("id") else 0}
        if draft.type in ("timestamp", "date"):
            self.moments(draft, name, seen, bool(personal))
        return draft

    def nulls(self, draft: _Draft, seen: Seen) -> None:
        missing = seen.rows - seen.filled
        if not seen.rows or missing == seen.rows:
            draft.keys["nulls"] = {"at_most": 1}
            draft.notes.append("no value was there: say how many may be missing")
        elif missing:
            share = min(1.0, math.ceil(missing / seen.rows * 150) / 100)
            draft.keys["nulls"] = {"at_most": share, "severity": "warning"}
            draft.notes.append(f"{missing:,} of {plural(seen.rows, 'row')} had no value")

    def text(self, draft: _Draft, name: str, seen: Seen, personal: bool) -> None:
        once = seen.distinct == seen.filled >= _ENOUGH
        if once and (_NAMES_ONE.search(name) or {"email", "uuid"} & set(seen.formats)):
            draft.keys["unique"] = {"severity": "warning"}
            draft.notes.append("unique: a guess, because no value occurred twice")
        if seen.formats:
            draft.keys["format"] = {"name": seen.formats[0]}
        elif seen.codes and not personal:
            state = bool(_NAMES_A_STATE.search(name))
            draft.keys["allowed"] = {"values": list(seen.codes)} | ({} if state else {"severity": "warning"})
            draft.keys["drift"] = {}
            draft.notes.append("allowed: a guess, these are the values that were there")

    def moments(self, draft: _Draft, name: str, seen: Seen, personal: bool) -> None:
        if seen.low is None:
            return
        rules: dict[str, Any] = {}
        if not personal:
            rules["not_before"] = f"{seen.low.year:04}-01-01"
        ahead = _utc(seen.high) - self.at
        if ahead > _AHEAD:
            rules["ahead_minutes"] = math.ceil(ahead / timedelta(minutes=1) * 1.5)
            draft.notes.append("some lie ahead of the snapshot")
        draft.keys["dates"] = rules or {"ahead_minutes": 5}
        if _NAMES_NEWS.search(name) and not personal:
            draft.keys["fresh"] = {"within_minutes": "auto"}

    def seen(self, table: str, column: str, kind: str) -> Seen:
        one = quote(column)
        measured = re.search(TYPE_FAMILIES["number"], kind) or re.search(r"^(TIMESTAMP|DATE)", kind)
        is_text = kind in ("VARCHAR", "UUID")
        text = f"CAST({one} AS VARCHAR)"
        parts = ["count(*)", f"count({one})", f"count(DISTINCT {one})"]
        parts += [f"min({one})", f"max({one})"] if measured else ["NULL", "NULL"]
        patterns = [ADDRESS, *FORMATS.values()] if is_text else []
        parts += [f"count(*) FILTER (WHERE regexp_matches({text}, {literal(one)}))" for one in patterns]
        parts += [f"count(*) FILTER (WHERE NOT regexp_matches({text}, {literal(_CODE)}))"] if is_text else []
        ((rows, filled, distinct, low, high, *found),) = self.ask(
            f"SELECT {', '.join(parts)} FROM {quote(table)}"
        )
        if not is_text:
            return Seen(rows, filled, distinct, _finite(low), _finite(high))
        addresses, *formatted, no_code = found
        formats = [name for name, count in zip(FORMATS, formatted, strict=True) if filled and count == filled]
        codes: tuple[str, ...] = ()
        if filled and not no_code and distinct <= _FEW and filled >= _OFTEN * distinct and kind == "VARCHAR":
            listed = self.ask(f"SELECT DISTINCT {one} FROM {quote(table)} WHERE {one} IS NOT NULL ORDER BY 1")
            codes = tuple(str(row[0]) for row in listed)
        return Seen(rows, filled, distinct, None, None, addresses, tuple(formats), codes)

    def key(
        self, entry: TableEntry, drafts: Mapping[str, _Draft], seen: Mapping[str, Seen]
    ) -> tuple[list[str], list[str], bool]:
        """Return the key's columns, a note on them, and whether every row has its own."""
        declared = list(entry.facts.primary_key)
        if declared and not any("personal" in drafts[name].keys for name in declared):
            return declared, [], True
        usable = [name for name, draft in drafts.items() if "personal" not in draft.keys] or list(drafts)
        for name in usable:
            if entry.rows and seen[name].distinct == entry.rows:
                why = "the declared key holds personal data" if declared else "no key is declared"
                return [name], [f"# a guess: {why}, and no value of {name} occurred twice"], True
        best = max(usable, key=lambda name: seen[name].distinct)
        return (
            [best],
            [f"# no column names a row: {best} comes nearest; a key cannot be checked until there is one"],
            False,
        )

    def foreign_keys(self, table: str, entry: TableEntry) -> list[str]:
        lines: list[str] = []
        for key in entry.facts.foreign_keys:
            other = self.tables.get(key.references)
            there = list(key.referred_columns or (other.facts.primary_key if other else ()))
            if other is None or len(there) != len(key.columns):
                lines.append(
                    f"  # {', '.join(key.columns)} refers to {key.references}, which is not in the snapshot"
                )
                continue
            match = " AND ".join(
                f"there.{quote(right)} = here.{quote(left)}"
                for left, right in zip(key.columns, there, strict=True)
            )
            present = " AND ".join(f"here.{quote(name)} IS NOT NULL" for name in key.columns)
            ((orphans,),) = self.ask(
                f"SELECT count(*) FROM {quote(table)} here "
                f"ANTI JOIN {quote(key.references)} there ON {match} WHERE {present}"
            )
            rule = {"columns": list(key.columns), "references": key.references, "referred": there}
            if orphans:
                lines.append(f"  # {plural(orphans, 'row')} broke this one already:")
            lines.append(f"  {'# ' if orphans else ''}- {_flow(rule)}")
        if not lines:
            return []
        asked = any(line.startswith("  - ") for line in lines)
        return ["foreign_keys:" if asked else "# foreign_keys:", *lines]


def _family(kind: str, declared: str) -> ColumnType:
    if re.search(r"^JSONB?$", declared, re.IGNORECASE) and kind == "VARCHAR":
        return "json"
    return next((name for name, pattern in TYPE_FAMILIES.items() if re.search(pattern, kind)), "text")


def _why_personal(name: str, seen: Seen, people: bool) -> str:
    if _PERSONAL.search(name) or (people and name.lower() in ("name", "uuid", "attribs", "notes", "comment")):
        return "of its name"
    return (
        f"{plural(seen.addresses, 'value')} {'holds' if seen.addresses == 1 else 'hold'} an address"
        if seen.addresses
        else ""
    )


def _column_lines(name: str, draft: _Draft) -> list[str]:
    notes = [f"  # {'; '.join(draft.notes)}"] if draft.notes else []
    return [*notes, f"  {_scalar(name)}: {_flow({'type': draft.type} | draft.keys)}"]


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_scalar(key)}: {_flow(one)}" for key, one in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    """Return a value as YAML, quoted where YAML would read something else."""
    if isinstance(value, str):
        plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*|\d{4}-\d{2}-\d{2}", value)
        told = value.lower() in ("true", "false", "yes", "no", "on", "off", "null", "y", "n")
        return value if plain and not told else json.dumps(value, ensure_ascii=False)
    return json.dumps(value)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _utc(moment: Any) -> datetime:
    if not isinstance(moment, datetime):
        return datetime(moment.year, moment.month, moment.day, tzinfo=UTC)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
