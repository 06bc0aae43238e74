"""A provider's export as a source: everything is fetched before the first row is read, and checked as it comes.

The consistency point is a time range. Tables are read one after the other while the account goes on, so rows of
different tables need not agree; who must not be mailed is read last, so that no opt-out from before `consent_at` is
missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from tasks.core import Clock, Progress, SilentProgress, UsageError, digest_of
from tasks.exports.spool import KEPT, Spool, changed_tables
from tasks.providers import (
    Export,
    Exporting,
    ExportTable,
    Look,
    ProviderRefused,
    ProvidersError,
    ProviderUnavailable,
    RowsMoved,
    Step,
    is_missing,
)
from tasks.sources import (
    Column,
    ColumnFacts,
    Cursor,
    CursorReader,
    SourceError,
    SourceReader,
    Table,
    TableFacts,
    Unfit,
    chosen,
    plain,
)

_PASSES = 3
_WITHOUT_RETRY_AFTER = 60.0
_TOO_MANY = 429
_OTHER = "other"


@dataclass(frozen=True)
class ExportSource:
    """The export of one provider's account.

    Args:
        name: the source's name in the plan.
        dialect: the kind of provider.
        export: what can be exported.
        folder: where what was fetched is kept until the snapshot is committed.
        account: what tells this account from another one of the same kind, such as the API's address.
        tables: the tables to read; none given means all.
        exclude: tables to leave out.
        progress: is told of the rows of each step.
    """

    name: str
    dialect: str
    export: Export
    folder: Path
    account: str
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    progress: Progress = field(default_factory=SilentProgress)

    @contextmanager
    def open(self, clock: Clock) -> Iterator[SourceReader]:
        """Fetch what is missing of the export, then read it.

        Raises:
            SourceError: the provider does not give what it promises.
            ProvidersError: the provider cannot be asked, or refuses.
            UsageError: the plan names a table that the export does not have; another process exports the same.
        """
        known = {one.name: one for one in self.export.tables}
        names = chosen(known, self.only, self.exclude, f"source {self.name}")
        digest = digest_of([self.account, self.dialect, names])
        with Spool(self.folder, digest, clock) as spool:
            steps = list(self.export.steps(spool.started))
            for number, step in enumerate(steps):
                if step.table in names:
                    _Fetching(self, spool, number, step, known[step.table], clock).run()
            if spool.finished is None:
                spool.finish()
            absent = {one.table for number, one in enumerate(steps) if spool.state(number)[0] == "absent"}
            tables = [known[name] for name in names if name not in absent]
            yield ExportReader(spool, self._consistency(spool, steps, tables), tables)

    def discard(self) -> None:
        """Forget what was fetched: the snapshot is committed."""
        for file in self.folder.glob("export.sqlite*"):
            file.unlink()

    def _consistency(
        self, spool: Spool, steps: Sequence[Step], tables: Sequence[ExportTable]
    ) -> dict[str, str]:
        consent = [
            at for number, one in enumerate(steps) if one.consent and (at := spool.began(number)) is not None
        ]
        facts = {
            "kind": f"{self.dialect}_export",
            "id": self.account,
            "at": spool.started.isoformat(),
            "until": str(spool.finished and spool.finished.isoformat()),
        }
        if consent:
            facts["consent_at"] = min(consent).isoformat()
        if changed := changed_tables(spool, tables):
            facts["changed"] = changed
        return facts


@dataclass
class _Fetching:
    """One step that is fetched into the spool."""

    source: ExportSource
    spool: Spool
    number: int
    step: Step
    table: ExportTable
    clock: Clock
    _told: int = 0

    @property
    def where(self) -> str:
        return f"source {self.source.name}: {self.step.name}"

    def run(self) -> None:
        """Fetch what is missing.

        Raises:
            SourceError: the rows are not those that were promised, however often they are read.
        """
        if self.spool.state(self.number)[0] in ("done", "absent"):
            return
        progress, promised = self.source.progress, self.spool.promised(self.number)
        progress.start(f"{self.source.name}: {self.step.name}", promised[0] if promised else None)
        self._tell(self.spool.count(self.number, self.table))
        why = ""
        for _ in range(_PASSES):
            try:
                why = self._broken_promise() if self._pass() else ""
            except RowsMoved:
                why = "rows kept coming and going while they were read"
            if not why:
                progress.finish()
                return
            self._tell(-self._told)
            self.spool.restart(self.number, self.table)
        raise SourceError(
            f"The export cannot be relied on: {why} ({_PASSES} readings)",
            where=self.where,
            fix="nothing was committed; try again, and ask the provider if it stays so",
        )

    def _pass(self) -> bool:
        """Fetch part after part; return whether the table is there."""
        while True:
            state, at = self.spool.state(self.number)
            if state == "over":
                return True
            try:
                self._patiently(Look(at, self.spool.seen(self.number, self.table, self.where)))
            except ProviderRefused as error:
                if not (self.step.optional and is_missing(error)):
                    raise
                self.spool.end(self.number, "absent")
                return False

    def _broken_promise(self) -> str:
        """Return in words how the rows differ from what was promised; end the step where they do not."""
        got, promised = self.spool.count(self.number, self.table), self.spool.promised(self.number)
        if promised is not None and not promised[0] <= got <= promised[1]:
            return f"{self.source.dialect} promised {promised[0]:,} rows and gave {got:,}"
        self.spool.end(self.number, "done")
        return ""

    def _patiently(self, look: Look) -> None:
        """Fetch a part, however long the provider has us wait, as long as the export can still be taken up."""
        while True:
            try:
                self._tell(self.spool.keep(self.number, self.table, self.step.read(look), self.where))
                return
            except ProvidersError as error:
                wait = _asked_to_wait(error)
                if wait is None or self.clock.now() + timedelta(seconds=wait) > self.spool.started + KEPT:
                    raise
                self.clock.sleep(wait)

    def _tell(self, rows: int) -> None:
        self._told += rows
        self.source.progress.advance(rows)


def _asked_to_wait(error: ProvidersError) -> float | None:
    """Return the seconds that the provider wants us to wait; None where it failed otherwise."""
    if isinstance(error, ProviderRefused) and error.status == _TOO_MANY:
        return max(1.0, error.retry_after if error.retry_after is not None else _WITHOUT_RETRY_AFTER)
    if isinstance(error, ProviderUnavailable) and error.retry_after is not None:
        return max(1.0, error.retry_after)
    return None


def open_export(
    name: str,
    provider: object,
    kind: str,
    *,
    folder: Path,
    account: str,
    tables: Collection[str] = (),
    exclude: Collection[str] = (),
    progress: Progress | None = None,
) -> ExportSource:
    """Return the export of the account that `provider` is connected to as the source `name`; nothing is asked yet.

    Raises:
        UsageError: its connector cannot export.
    """
    if not isinstance(provider, Exporting):
        raise UsageError(
            f"The connector for {kind} cannot export yet",
            where=f"source {name}",
            fix="back up a database instead: give the source a url",
        )
    return ExportSource(
        name,
        kind,
        provider.export(),
        folder,
        account,
        tuple(tables),
        tuple(exclude),
        progress or SilentProgress(),
    )


class ExportReader(CursorReader):
    """Reads a whole export from its spool."""

    def __init__(self, spool: Spool, consistency: dict[str, str], tables: Sequence[ExportTable]) -> None:
        super().__init__(consistency, {one.name: _described(one) for one in tables})
        self._spool = spool
        self._exported = {one.name: one for one in tables}

    def row_count(self, table: str) -> int:
        """Return the number of rows in the spool."""
        self._table(table)
        return self._spool.row_count(table)

    def _select(self, table: Table) -> Cursor:
        return self._spool.rows(table.facts.name)

    def _fetch(self, table: Table, cursor: Cursor, rows: int) -> list[tuple[Any, ...]]:
        exported = self._exported[table.facts.name]
        names = [one.name for one in exported.columns]
        known = set(names)
        found: list[tuple[Any, ...]] = []
        for (text,) in cursor.fetchmany(rows):
            row = json.loads(text)
            rest = {key: value for key, value in row.items() if key not in known}
            found.append((*(row.get(name) for name in names), rest or None))
        return found

    def _wider(self, table: Table, column: Column) -> Column | None:
        if column.facts.cast is not None:
            return None
        return Column(replace(column.facts, cast="text"), "", pa.string(), _json_text)


_ARROW: dict[str, pa.DataType] = {
    "text": pa.string(),
    "integer": pa.int64(),
    "boolean": pa.bool_(),
    "time": pa.timestamp("us", "UTC"),
    "json": pa.string(),
}
_PYTHON: dict[str, type] = {"text": str, "integer": int, "boolean": bool}


def _described(table: ExportTable) -> Table:
    made = [_column(one.name, one.kind, one.name not in table.key) for one in table.columns]
    made.append(_column(_OTHER, "json", nullable=True))
    facts = TableFacts(
        name=table.name,
        columns=tuple(one.facts for one in made),
        primary_key=table.key,
        foreign_keys=(),
        ddl="",
    )
    return Table(facts, made, by_key=bool(table.key))


def _column(name: str, kind: str, nullable: bool) -> Column:
    arrow = _ARROW[kind]
    if kind in _PYTHON:
        convert: Callable[[Any], pa.Array] = plain(arrow, _PYTHON[kind])
    else:
        convert = _times if kind == "time" else _json_text
    return Column(ColumnFacts(name, kind, nullable), "", arrow, convert)


def _times(values: Sequence[Any]) -> pa.Array:
    """Turn RFC 3339 times into instants; one without a zone is in UTC, an empty one is none."""
    try:
        return pa.array([_time(one) for one in values], _ARROW["time"])
    except (ValueError, OverflowError, pa.ArrowInvalid):
        raise Unfit from None


def _time(value: Any) -> datetime | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or _has_nanoseconds(value):
        raise ValueError
    moment = datetime.fromisoformat(value)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _has_nanoseconds(text: str) -> bool:
    """Whether a time is finer than the microseconds that a timestamp keeps."""
    digits = text.partition(".")[2].rstrip("Zz").partition("+")[0].partition("-")[0]
    return bool(digits[6:].strip("0"))


def _json_text(values: Sequence[Any]) -> pa.Array:
    """Turn what was read from JSON into its text; a text that Unicode cannot hold is written with escapes."""
    return pa.array([None if one is None else _dumped(one) for one in values], pa.string())


def _dumped(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":"))
    return text
