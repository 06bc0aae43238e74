"""What came before a snapshot: the last valid one, and what is kept of those before it; all it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tasks.checks.anomaly import expected
from tasks.checks.consent import ConsentBefore, latest_wishes
from tasks.checks.contracts import Consent, Contract
from tasks.checks.drift import by_chance, most_moved, stability_index
from tasks.checks.findings import CheckFinding
from tasks.checks.profiling import Profiled, TableProfile
from tasks.checks.rules import TableFigures
from tasks.checks.schema_drift import Likeness, Shape, may_be_renamed, schema_findings
from tasks.checks.sql import quote
from tasks.snapshots import Damaged

ERASED, LOG = "erased@ledger", "wishes@log"
Fetch = Callable[[str], Sequence[Sequence[Any]]]


@dataclass(frozen=True)
class ConsentLog:
    """A log of wishes that another source keeps, as files of its newest snapshot that is not quarantined."""

    consent: Consent
    files: tuple[str, ...]


@dataclass(frozen=True)
class Past:
    """What came before a snapshot.

    Attributes:
        snapshot_id: the last valid snapshot; empty if there is none.
        shapes: its tables.
        files: gives the Parquet files of one of its tables; raises `Damaged`.
        history: what is kept of valid snapshots, newest first.
        erased: ids of its persons whom the store's ledger has erased.
        log: the consent log of another source; None without one.
    """

    snapshot_id: str
    shapes: Mapping[str, Shape]
    files: Callable[[str], Sequence[str]]
    history: Sequence[Profiled] = ()
    erased: frozenset[str] = frozenset()
    log: ConsentLog | None = None


def past_view(table: str) -> str:
    """Return the name of the view of a table as the last valid snapshot has it."""
    return f"{table}@last_valid"


class Comparing:
    """Holds one snapshot against its past; everything is optional, and nothing of it is read unless a rule needs it.

    Args:
        past: None where nothing is known.
        contracts: the contract of each table.
        shapes: the tables of the snapshot itself.
    """

    def __init__(
        self, past: Past | None, contracts: Mapping[str, Contract], shapes: Mapping[str, Shape]
    ) -> None:
        self.past = past
        self.contracts = contracts
        self.shapes = shapes
        self.waiting: list[str] = []
        self.damaged: dict[str, str] = {}
        self.checks = 0

    def views(self, scratch: Path) -> dict[str, list[str]]:
        """Return the Parquet files of every view of the past that a rule will look at."""
        past = self.past
        if past is None:
            return {}
        found: dict[str, list[str]] = {}
        for table in past.shapes.keys() & self.shapes.keys():
            contract = self.contracts.get(table)
            if contract is None or not (
                contract.consent is not None or may_be_renamed(past.shapes[table], self.shapes[table])
            ):
                continue
            try:
                found[past_view(table)] = list(past.files(table))
            except Damaged as error:
                self.damaged[table] = error.what
        if past.erased:
            found[ERASED] = [_one_column(past.erased, scratch / "erased.parquet")]
        if past.log is not None:
            found[LOG] = list(past.log.files)
        return found

    def figures(
        self, contract: Contract, figures: TableFigures, columns: Mapping[str, Any], at: Any
    ) -> TableFigures:
        """Return the figures of a table with what the past adds to them.

        Args:
            contract: the table's contract.
            figures: what is known of the table itself.
            columns: the columns of every view.
            at: the moment that the snapshot shows.
        """
        bounds, waiting = expected(contract, self.past.history if self.past is not None else (), at)
        self.waiting += waiting
        if self.past is None:
            return figures
        view = past_view(contract.table)
        consent = None
        if contract.consent is not None and view in columns:
            wider = past_view(contract.consent.covered_by or "")
            consent = ConsentBefore(
                view=view,
                columns=tuple(columns[view]),
                erased=ERASED if self.past.erased else "",
                log=self._log(contract),
                covering=self._covering(contract.consent),
                covering_view=wider if wider in columns else "",
            )
        return replace(figures, expected=bounds, consent=consent)

    def findings(self, contract: Contract, now: TableProfile, fetch: Fetch) -> list[CheckFinding]:
        """Return what drifted: the schema, and the spread of the watched columns."""
        past, table = self.past, contract.table
        if past is None:
            return []
        found = []
        if table in self.damaged:
            found.append(
                CheckFinding(
                    f"{table}.comparable",
                    table,
                    "",
                    "critical",
                    0,
                    0,
                    [],
                    f"{table}: it could not be held against {past.snapshot_id}: {self.damaged[table]}",
                    "broken",
                )
            )
        if table in past.shapes and table in self.shapes:
            self.checks += 1
            likeness = self._likeness(contract, fetch)
            found += schema_findings(
                contract, past.shapes[table], self.shapes[table], past.snapshot_id, likeness
            )
        newest = past.history[0] if past.history else None
        kept = newest.tables.get(table) if newest is not None else None
        for name, column in contract.columns.items():
            if column.drift is None or name not in now.counts:
                continue
            if newest is None or kept is None or name not in kept.counts:
                self.waiting.append(
                    f"{table}.{name}.drift: not enough history: no valid snapshot has its values counted"
                )
                continue
            self.checks += 1
            found += _drifted(
                table, name, column.drift, kept.counts[name], now.counts[name], newest.snapshot_id
            )
        return found

    def gone(self) -> list[CheckFinding]:
        """Return the tables that are gone since the last valid snapshot and that no contract asks for."""
        if self.past is None:
            return []
        return [
            CheckFinding(
                f"{table}.schema_removed",
                table,
                "",
                "warning",
                1,
                1,
                [],
                f"The table {table} is gone since {self.past.snapshot_id}",
            )
            for table in sorted(self.past.shapes.keys() - self.shapes.keys() - self.contracts.keys())
        ]

    def _log(self, contract: Contract) -> str:
        """Return the query for everybody's latest wish: from a log in the same source, else from the other one's."""
        for table, other in self.contracts.items():
            if other.consent is not None and other.consent.kind == "log" and table in self.shapes:
                return "" if table == contract.table else f"({latest_wishes(other.consent, quote(table))})"
        if self.past is not None and self.past.log is not None:
            return f"({latest_wishes(self.past.log.consent, quote(LOG))})"
        return ""

    def _covering(self, consent: Consent) -> Consent | None:
        wider = self.contracts.get(consent.covered_by or "")
        return wider.consent if wider is not None and wider.table in self.shapes else None

    def _likeness(self, contract: Contract, fetch: Fetch) -> Likeness:
        """Return the function that compares an old column with a new one by the values of rows with the same key."""
        assert self.past is not None
        table = contract.table
        before, now = self.past.shapes[table], self.shapes[table]
        key = now.facts.primary_key
        known = bool(key) and key == before.facts.primary_key and table not in self.damaged

        def likeness(was: str, name: str) -> tuple[float, int] | None:
            if not known:
                return None
            match = " AND ".join(f"here.{quote(one)} = was.{quote(one)}" for one in key)
            ((rows, same, values),) = fetch(
                f"SELECT count(*), count(*) FILTER (WHERE was.{quote(was)} IS NOT DISTINCT FROM here.{quote(name)}), "  # noqa: S608
                f"count(DISTINCT here.{quote(name)}) "
                f"FROM {quote(past_view(table))} was JOIN {quote(table)} here ON {match}"
            )
            return (same / rows, values) if rows else None

        return likeness


def _drifted(
    table: str, name: str, drift: Any, before: Mapping[str, int], now: Mapping[str, int], since: str
) -> list[CheckFinding]:
    index = stability_index(before, now)
    if index <= max(drift.at_most, by_chance(before, now)):
        return []
    value, then, here = most_moved(before, now)
    return [
        CheckFinding(
            f"{table}.{name}.drift",
            table,
            name,
            drift.severity,
            0,
            sum(now.values()),
            [],
            f"{table}.{name}: the spread of its values moved by {index:.2f} since {since} "
            f"(at most {drift.at_most:g} passes): {value} was {then:.1%}, is {here:.1%}",
        )
    ]


def _one_column(values: frozenset[str], path: Path) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": pa.array(sorted(values), pa.string())}), path)
    return str(path)
