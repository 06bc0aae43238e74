"""Running the compiled rules on a snapshot's Parquet files, and telling what came out without personal data."""

from __future__ import annotations

import contextlib
import re
import secrets
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.checks.consent import KINDS
from tasks.checks.contracts import Contract
from tasks.checks.docs import write_docs
from tasks.checks.errors import ChecksError
from tasks.checks.findings import CheckFinding, CheckReport, RuleResult, every_result
from tasks.checks.gate import date_back, decide, explain, worst_first
from tasks.checks.measures import Measure, Rows
from tasks.checks.past import Comparing, Past
from tasks.checks.privacy import masked, scrub
from tasks.checks.profiling import TableProfile, profile
from tasks.checks.rules import TYPE_FAMILIES, Rule, TableFigures, compile_rules
from tasks.checks.schema_drift import Shape
from tasks.checks.sql import quote
from tasks.core import MailstayError, digest_of, mask_addresses, plural

if TYPE_CHECKING:
    import pyarrow as pa

    from tasks.checks.fused import FusedExecutionEngine
    from tasks.checks.kept import Kept

_SAMPLES = 5
_LONGEST_KEY = 40
_ANY_TYPE = {"exists", "type", "not_null", "has_values", "primary_key", "unique", "format", "allowed", *KINDS}
_CASTABLE: dict[str, str] = {
    "integer": "BIGINT",
    "decimal": "DECIMAL(38, 9)",
    "number": "DOUBLE",
    "boolean": "BOOLEAN",
    "timestamp": "TIMESTAMP",
    "date": "DATE",
}
# SUMMARY with a count of 0 is the one format in which no kind of expectation quotes a value.
_RESULT_FORMAT = {"result_format": "SUMMARY", "partial_unexpected_count": 0}


@dataclass(frozen=True)
class TableData:
    """One table of a snapshot: its files, and what the manifest says of it.

    Attributes:
        files: its Parquet files, already proven to be what the manifest names; may be empty.
        source_rows: the rows its source counted at the consistency point.
        schema: its Arrow schema; needed where there is no file.
        previous_rows: the rows it had in the last valid snapshot; None if there is none.
        shape: what the source declares of it; None where that is not known.
        segments: the SHA-256 of each file; empty where nothing of the table may be kept for the next validation.
    """

    files: tuple[str, ...]
    source_rows: int
    schema: pa.Schema | None = None
    previous_rows: int | None = None
    shape: Shape | None = None
    segments: tuple[str, ...] = ()


@dataclass(frozen=True)
class SnapshotData:
    """All that checking needs to know of a snapshot.

    Attributes:
        snapshot_id: its name.
        consistency_at: the moment it shows; the future begins there.
        tables: its tables by name.
        history: the checked snapshots before it, newest first, each with the rules it broke; read lazily.
        last_good: the newest valid snapshot before it; empty if there is none.
        past: the last valid snapshot, to compare with; None: nothing is.
        found: what was found before the tables were read.
        asked: how many rules that took.
        damaged: tables whose files are not what the manifest names, and what is wrong with them; not in `tables`.
    """

    snapshot_id: str
    consistency_at: datetime
    tables: Mapping[str, TableData]
    history: Iterable[tuple[str, set[str]]] = ()
    last_good: str = ""
    past: Past | None = None
    found: Sequence[CheckFinding] = ()
    asked: int = 0
    damaged: Mapping[str, str] = field(default_factory=dict)


def check_data(
    data: SnapshotData,
    contracts: Mapping[str, Contract],
    *,
    at: datetime,
    docs_folder: Path | None = None,
    kept: Kept | None = None,
    docs_assets: Path | None = None,
) -> CheckReport:
    """Hold the tables of a snapshot against their contracts.

    Args:
        data: the snapshot.
        contracts: the contract of each table.
        at: when this check is made (UTC), as the Data Docs show it.
        docs_folder: where to write the Data Docs; anything in it is replaced. None: nowhere.
        kept: what earlier validations kept of segments, which are then not read again. None: all is read.
        docs_assets: the folder for what the pages of many snapshots load; each has its own if absent.

    Raises:
        ChecksError: there is no contract: nothing would be checked; or no rule can be asked of the files.
    """
    if not contracts:
        raise ChecksError(
            "There is no contract, so nothing would be checked",
            where=data.snapshot_id,
            fix="name the folder of this source's contracts in the plan (sources.….contracts)",
        )
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mailstay-checks-") as scratch, _without_values(data):
        run = _Run(data, contracts, at, Path(scratch), kept)
        try:
            run.everything()
            docs = write_docs(run.context, docs_folder, docs_assets) if docs_folder is not None else ""
        finally:
            run.close()
    findings = worst_first(date_back(run.findings, data.snapshot_id, data.history))
    return CheckReport(
        snapshot_id=data.snapshot_id,
        outcome=decide(findings),
        findings=findings,
        checks=run.checks,
        seconds=round(time.monotonic() - started, 3),
        consistency_at=data.consistency_at,
        checked_at=at,
        reason=explain(data.snapshot_id, findings, run.checks, data.last_good),
        unexercised=sorted(run.unexercised),
        waiting=sorted(run.comparing.waiting),
        facts={
            "at": data.consistency_at.isoformat(),
            "tables": masked({name: one.as_dict() for name, one in run.profiles.items()}),
        },
        last_good=data.last_good,
        docs=docs,
        results=every_result(run.seen, findings, run.unexercised),
    )


@contextlib.contextmanager
def _without_values(data: SnapshotData) -> Iterator[None]:
    """Let no exception out that may quote a value."""
    try:
        yield
    except MailstayError:
        raise
    except Exception as error:
        told = scrub(str(error), set(data.tables))
        raise ChecksError(
            f"The checks could not be run: {type(error).__name__}: {told}", where=data.snapshot_id
        ) from None


class _Run:
    def __init__(
        self,
        data: SnapshotData,
        contracts: Mapping[str, Contract],
        at: datetime,
        scratch: Path,
        kept: Kept | None,
    ) -> None:
        from tasks.checks import fused, suites

        self.data = data
        self.contracts = contracts
        self.at = at.astimezone(UTC)
        self.suites = suites
        self.salt = secrets.token_hex(16)
        self.findings: list[CheckFinding] = list(data.found)
        self.unexercised: list[str] = []
        self.seen: list[RuleResult] = []
        self.checks = data.asked
        self.profiles: dict[str, TableProfile] = {}
        shapes = {name: one.shape for name, one in data.tables.items() if one.shape is not None}
        self.comparing = Comparing(data.past, contracts, shapes)
        files = {
            name: list(table.files) or [_empty_file(name, table, scratch)]
            for name, table in data.tables.items()
        }
        views = self.comparing.views(scratch)
        self.context, self.source = suites.open_context(data.snapshot_id, files | views)
        execution_engine = self.source.get_execution_engine()
        assert isinstance(execution_engine, fused.FusedExecutionEngine)
        self.engine: FusedExecutionEngine = execution_engine
        self.measurer = execution_engine.prepare(
            files | views,
            segments={name: table.segments for name, table in data.tables.items()},
            personal={name: frozenset(contract.personal_columns()) for name, contract in contracts.items()},
            kept=kept,
        )
        self.columns = {name: dict(table.columns) for name, table in self.measurer.tables.items()}

    def close(self) -> None:
        self.engine.dispose()

    def everything(self) -> None:
        for name, contract in self.contracts.items():
            if name in self.data.tables:
                self.table(contract, self.data.tables[name])
            elif name not in self.data.damaged:
                self.checks += 1
                self.findings.append(
                    _finding(
                        f"{name}.exists",
                        name,
                        contract.rows.severity,
                        f"The table {name} is missing from the snapshot",
                        1,
                        1,
                    )
                )
        for name, damage in self.data.damaged.items():
            self.checks += 1
            message = f"The table {name} cannot be read: {damage}"
            self.findings.append(_finding(f"{name}.readable", name, "critical", message, 1, 1))
        for name in self.data.tables:
            if name not in self.contracts:
                self.findings.append(
                    _finding(
                        f"{name}.uncontracted",
                        name,
                        "warning",
                        f"The table {name} has no contract: nothing of it was checked",
                        1,
                        1,
                    )
                )
        self.findings += self.comparing.gone()
        self.checks += self.comparing.checks

    def table(self, contract: Contract, table: TableData) -> None:
        began = time.monotonic()
        figures = TableFigures(
            columns=tuple(self.columns[contract.table]),
            source_rows=table.source_rows,
            previous_rows=table.previous_rows,
        )
        figures = self.comparing.figures(contract, figures, self.columns, self.data.consistency_at)
        rules = compile_rules(contract, figures, self.data.consistency_at)
        self.checks += len(rules)
        ask = []
        for rule in rules:
            if missing := self.missing(contract, rule):
                self.broken(rule, missing)
            else:
                ask.append(rule)
            if rule.measure is not None and (query := rule.kwargs.get("unexpected_rows_query")):
                self.engine.knows(query, rule.measure)
        try:
            results = self.suites.run_suite(
                self.context, self.source, self.data.snapshot_id, contract, ask, self.at, _RESULT_FORMAT
            )
        except Exception as error:  # whatever stops Great Expectations: these rules are broken, not the data
            results = {}
            for rule in ask:
                self.broken(rule, self.scrubbed(str(error)))
            rows = table.source_rows
        else:
            rows = int(self.measurer.measure(contract.table, [Rows()])[Rows()].value)
            self.judge(contract, {rule: results.get(rule.rule_id) for rule in ask}, rows)
            self.compare(contract, table)
        seconds, digest = time.monotonic() - began, digest_of(contract.model_dump(mode="json"))[:16]
        self.seen += [_seen(rule, results.get(rule.rule_id), rows, seconds, digest) for rule in rules]

    def compare(self, contract: Contract, table: TableData) -> None:
        """Hold the table against the past, and keep its figures for the future."""
        try:
            found = profile(contract, table.files, self.columns[contract.table], self.measurer.measure)
            self.findings += self.comparing.findings(contract, found, self.engine.fetch)
        except Exception as error:  # whatever stops it: the comparison is broken, not the data
            message = f"{contract.table}: it could not be held against the past: {self.scrubbed(str(error))}"
            rule = f"{contract.table}.comparable"
            self.findings.append(_finding(rule, contract.table, "critical", message, 0, 0, status="broken"))
        else:
            self.profiles[contract.table] = found

    def missing(self, contract: Contract, rule: Rule) -> str:
        """Return why a rule cannot be asked: a column or table that is not there or not of its type."""
        absent = sorted(rule.needs - set(self.columns[rule.table]))
        if absent:
            return f"{rule.table} has no column {', '.join(absent)}"
        if rule.kind not in _ANY_TYPE:
            for name in sorted(rule.needs):
                if not self.fits(contract, name):
                    return f"{rule.table}.{name} is {self.columns[rule.table][name]}"
        for table, names in rule.needs_elsewhere.items():
            if table not in self.columns:
                return f"the table {table} is missing"
            if gone := sorted(names - set(self.columns[table])):
                return f"{table} has no column {', '.join(gone)}"
        return ""

    def fits(self, contract: Contract, column: str) -> bool:
        """Return whether a column has a type of the family that the contract names."""
        family = TYPE_FAMILIES[contract.columns[column].type]
        return re.search(family, self.columns[contract.table][column]) is not None

    def judge(self, contract: Contract, results: Mapping[Rule, Any], rows: int) -> None:
        """Make findings of the results of a table's rules; the keys of bad rows are looked up for all together."""
        failing: dict[Rule, tuple[int, int, str]] = {}
        for rule, result in results.items():
            if result is None:
                self.broken(rule, "Great Expectations returned no result for it")
                continue
            if error := _exception(result.exception_info):
                self.broken(rule, self.scrubbed(error))
                continue
            found: dict[str, Any] = result.result or {}
            if "missing_count" in found and rows and found["missing_count"] == found.get("element_count"):
                self.unexercised.append(rule.rule_id)
            if not bool(result.success) and (told := self.told(contract, rule, found, rows))[2]:
                failing[rule] = told
        samples = self.samples(contract, list(failing))
        for rule, (failed, total, sentence) in failing.items():
            keys = samples.get(rule, [])
            quoted = f"; {', '.join(keys)}" if keys else ""
            more = ", …" if keys and failed > len(keys) else ""
            message = sentence + quoted + more
            self.findings.append(
                _finding(rule.rule_id, rule.table, rule.severity, message, failed, total, rule, keys)
            )

    def told(
        self, contract: Contract, rule: Rule, found: Mapping[str, Any], rows: int
    ) -> tuple[int, int, str]:
        """Return how many failed, of how many, and the sentence; an empty one where another finding says it."""
        table = rule.table
        match rule.kind:
            case "exists":
                return 1, len(contract.columns), f"The column {table}.{rule.column} is missing"
            case "columns_known":
                strange = sorted(set(self.columns[table]) - set(contract.columns))
                if not strange:
                    return 0, 0, ""
                names = mask_addresses(", ".join(strange))
                what = plural(len(strange), "column")
                return (
                    len(strange),
                    len(self.columns[table]),
                    f"{table} has {what} that the contract does not name: {names}",
                )
            case "type":
                told = f"{table}.{rule.column} is {self.columns[table][rule.column]}; the contract says {rule.says}"
                query = misfits(contract, rule, self.columns[rule.table])
                if not query:
                    return rows, rows, told
                count = int(self.engine.fetch(f"SELECT count(*) FROM ({query})")[0][0])  # noqa: S608
                if count == 0:
                    return rows, rows, told
                what = contract.columns[rule.column].type
                return (
                    count,
                    rows,
                    f"{told}: {count:,} of {plural(rows, 'row')} hold something that is no {what}",
                )
            case "rows_match_source":
                source = int(rule.kwargs["value"])
                return (
                    abs(source - rows),
                    source,
                    f"{table} holds {plural(rows, 'row')}, its source counted {source:,}",
                )
            case "rows_at_least" | "rows_any" | "rows_shrink" | "rows_grow" | "rows_change":
                least, most = (rule.kwargs.get(side) for side in ("min_value", "max_value"))
                bound = least if least is not None and rows < least else most
                return (
                    abs(int(bound or 0) - rows),
                    int(bound or 0),
                    f"{table} holds {plural(rows, 'row')}: the rule is that {rule.says}",
                )
            case "fresh":
                if not rows and not contract.rows.at_least:
                    self.unexercised.append(rule.rule_id)
                    return 0, 0, ""
                return 1, 1, f"{table}.{rule.column} is stale: the rule is that {rule.says}"
        failed = int(found.get("unexpected_count", found.get("observed_value", 0)))
        where = f"{table}.{rule.column}"
        return failed, rows, f"{where}: {failed:,} of {plural(rows, 'row')} break the rule that {rule.says}"

    def samples(self, contract: Contract, rules: list[Rule]) -> dict[Rule, list[str]]:
        """Return the keys of a few bad rows of each rule; Great Expectations never quotes a value."""
        queries = {
            rule: misfits(contract, rule, self.columns[rule.table]) if rule.kind == "type" else rule.bad_keys
            for rule in rules
        }
        personal = set(contract.primary_key) & contract.personal_columns()
        measures = {
            rule: measure
            for rule, query in queries.items()
            if query
            and not personal
            and rule.kind != "type"
            and (measure := self.suites.measure_of(self.source, rule))
        }
        counted = self.counted(contract, list(dict.fromkeys(measures.values())))
        found = {
            rule: counted.get(measures[rule], []) if rule in measures else self.fetched(contract, query)
            for rule, query in queries.items()
        }
        return {
            rule: [
                " ".join(
                    f"{name}={_key(value)}" for name, value in zip(contract.primary_key, row, strict=True)
                )
                for row in rows
            ]
            for rule, rows in found.items()
        }

    def counted(self, contract: Contract, measures: list[Measure]) -> dict[Measure, list[tuple[Any, ...]]]:
        """Return a few primary keys of the bad rows that each measure counted; those that fail have none."""
        try:
            return self.measurer.examples(contract.table, measures, contract.primary_key, _SAMPLES)
        except Exception:  # the findings stand without samples
            if len(measures) < 2:
                return {}
            return {one: keys for each in measures for one, keys in self.counted(contract, [each]).items()}

    def fetched(self, contract: Contract, query: str) -> list[tuple[Any, ...]]:
        """Return the first few keys of a query of ours; a finding stands without them.

        A key that is personal data leaves the engine hashed, with a salt that nobody keeps: samples of one check can be
        told apart, and no value can be tried against them.
        """
        if not query:
            return []
        personal = contract.personal_columns()
        names = [f"key_{number}" for number in range(len(contract.primary_key))]
        shown = [
            f"'#' || left(sha256('{self.salt}' || {one}::VARCHAR), 12)" if name in personal else one
            for one, name in zip(names, contract.primary_key, strict=True)
        ]
        few = f"SELECT {', '.join(shown)} FROM ({query} LIMIT {_SAMPLES}) bad({', '.join(names)})"  # noqa: S608
        try:
            return self.engine.fetch(few)
        except Exception:
            return []

    def broken(self, rule: Rule, why: str) -> None:
        where = f"{rule.table}.{rule.column}" if rule.column else rule.table
        message = f"{where}: the rule that {rule.says} could not be asked: {why}"
        self.findings.append(
            _finding(rule.rule_id, rule.table, rule.severity, message, 0, 0, rule, status="broken")
        )

    def scrubbed(self, error: str) -> str:
        """Return the first line of an error without the values that databases quote in them."""
        known = {*self.columns, *(name for columns in self.columns.values() for name in columns)}
        return scrub(error, known)


def misfits(contract: Contract, rule: Rule, columns: Mapping[str, str]) -> str:
    """Return the query for the keys of values that keep a text column from its type; empty for other columns.

    A source that holds something impossible in a typed column is backed up as text or as SQL literals.
    """
    kind = _CASTABLE.get(contract.columns[rule.column].type)
    if kind is None or columns[rule.column] != "VARCHAR":
        return ""
    if not set(contract.primary_key) <= set(columns):
        return ""
    key = ", ".join(map(quote, contract.primary_key))
    return (
        f"SELECT {key} FROM {quote(rule.table)} WHERE {quote(rule.column)} IS NOT NULL "  # noqa: S608
        f"AND try_cast(trim({quote(rule.column)}, chr(39)) AS {kind}) IS NULL ORDER BY ALL"
    )


def _exception(info: Any) -> str:
    """Return what an expectation raised; empty if it did not (two shapes in Great Expectations 1.24)."""

    def raised(one: Any) -> Iterator[str]:
        if isinstance(one, Mapping):
            if one.get("raised_exception"):
                yield str(one.get("exception_message") or "an exception without a message")
            else:
                for value in one.values():
                    yield from raised(value)

    return next(raised(info), "")


def _seen(rule: Rule, result: Any, rows: int, seconds: float, contract: str) -> RuleResult:
    found = (result.result if result is not None else None) or {}
    lacking = found.get("unexpected_count" if rule.kind == "not_null" else "missing_count")
    observed = found.get("observed_value")
    return RuleResult(
        rule=rule.rule_id,
        table=rule.table,
        column=rule.column,
        kind=rule.kind,
        severity=rule.severity,
        total=rows,
        rows=rows,
        null_share=lacking / rows if lacking is not None and rows else None,
        observed=float(observed) if isinstance(observed, int | float) else None,
        seconds=round(seconds, 3),
        contract=contract,
    )


def _finding(
    rule_id: str,
    table: str,
    severity: Any,
    message: str,
    failed: int,
    total: int,
    rule: Rule | None = None,
    keys: list[str] | None = None,
    status: Any = "failed",
) -> CheckFinding:
    return CheckFinding(
        rule=rule_id,
        table=table,
        column=rule.column if rule else "",
        severity=severity,
        failed=failed,
        total=total,
        sample_keys=keys or [],
        message=message,
        status=status,
    )


def _key(value: Any) -> str:
    text = mask_addresses(str(value)) if value is not None else "null"
    return text if len(text) <= _LONGEST_KEY else text[: _LONGEST_KEY - 1] + "…"


def _empty_file(name: str, table: TableData, scratch: Path) -> str:
    """Write a Parquet file without rows for a table that has no object, so that its columns can be checked."""
    import pyarrow.parquet as pq

    if table.schema is None:
        raise ChecksError("A table has neither files nor a schema", where=name)
    path = scratch / f"{abs(hash(name))}.parquet"
    pq.write_table(table.schema.empty_table(), path)
    return str(path)
