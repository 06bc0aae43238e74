"""Contracts compiled to rules: pure data that names a Great Expectations expectation and finds the bad rows' keys.

Nothing here imports Great Expectations or reads data. Columns that the snapshot lacks do not stop the rest: rules
that need them come back with what they need, so that the runner can report them as broken.
"""

# ruff: noqa: S608 - every name passes `quote`, every value `literal`

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from tasks.checks.contracts import Column, ColumnType, Contract
from tasks.checks.findings import Severity
from tasks.core import plural

# What DuckDB calls the types of a Parquet file's columns, per family of the contract.
TYPE_FAMILIES: dict[ColumnType, str] = {
    "text": r"^(VARCHAR|UUID|ENUM.*)$",
    "integer": r"^U?(TINYINT|SMALLINT|INTEGER|BIGINT|HUGEINT)$",
    "decimal": r"^DECIMAL\(.*\)$",
    "number": r"^(DECIMAL\(.*\)|FLOAT|DOUBLE|U?(TINYINT|SMALLINT|INTEGER|BIGINT|HUGEINT))$",
    "boolean": r"^BOOLEAN$",
    "timestamp": r"^TIMESTAMP(_S|_MS|_NS)?( WITH TIME ZONE)?$",
    "date": r"^DATE$",
    "json": r"^(VARCHAR|JSON|STRUCT.*|MAP.*|.*\[\])$",
    "binary": r"^BLOB$",
}


@dataclass(frozen=True)
class TableFigures:
    """What is known of a table of the snapshot before its rows are read.

    Attributes:
        columns: the columns it has, in order.
        source_rows: the rows its source counted at the consistency point.
        previous_rows: the rows of the last valid snapshot; None if there is none.
    """

    columns: tuple[str, ...]
    source_rows: int
    previous_rows: int | None = None


@dataclass(frozen=True)
class Rule:
    """One rule of a contract, ready to be asked.

    Attributes:
        rule_id: stable name, `table.column.kind` or `table.kind`.
        kind: what sort of rule it is; decides how its result is told.
        says: the rule in words.
        expectation: the type of the expectation, as Great Expectations registers it.
        kwargs: its arguments.
        bad_keys: a query for the primary keys of the rows that break it; empty for a rule of the whole table.
        needs: the columns of this table that must exist for it to be asked.
        needs_elsewhere: the columns that other tables must have, by table.
        tolerate: the share of values that may break it.
    """

    rule_id: str
    table: str
    column: str
    kind: str
    severity: Severity
    says: str
    expectation: str
    kwargs: dict[str, Any]
    bad_keys: str = ""
    needs: frozenset[str] = frozenset()
    needs_elsewhere: Mapping[str, frozenset[str]] = field(default_factory=dict)
    tolerate: float = 0.0


def compile_rules(contract: Contract, figures: TableFigures, consistency_at: datetime) -> list[Rule]:
    """Return the rules of `contract` for one snapshot of its table.

    Args:
        contract: what must hold.
        figures: what the manifest says of the table.
        consistency_at: the moment that the snapshot shows (UTC), against which the future is judged.
    """
    compiler = _Compiler(contract, figures, consistency_at.astimezone(UTC))
    compiler.whole_table()
    compiler.keys()
    for name, column in contract.columns.items():
        compiler.column(name, column)
    compiler.across()
    return compiler.rules


def quote(identifier: str) -> str:
    """Return `identifier` quoted for SQL."""
    return '"' + identifier.replace('"', '""') + '"'


def literal(value: Any) -> str:
    """Return `value` as an SQL literal.

    Raises:
        TypeError: it has no literal here.
    """
    match value:
        case bool():
            return "TRUE" if value else "FALSE"
        case int() | float():
            return repr(value)
        case datetime():
            return f"TIMESTAMP '{value.isoformat(sep=' ')}'"
        case str():
            return "'" + value.replace("'", "''") + "'"
    raise TypeError(f"{type(value).__name__} has no SQL literal")


class _Compiler:
    def __init__(self, contract: Contract, figures: TableFigures, consistency_at: datetime) -> None:
        self.contract = contract
        self.figures = figures
        self.consistency_at = consistency_at
        self.rules: list[Rule] = []
        self.here = quote(contract.table)
        self.key = [name for name in contract.primary_key if name in figures.columns]

    def whole_table(self) -> None:
        contract, figures = self.contract, self.figures
        self.add(
            "rows_match_source",
            severity=contract.rows.severity,
            says="the snapshot holds as many rows as the source had",
            expectation="expect_table_row_count_to_equal",
            kwargs={"value": figures.source_rows},
        )
        if contract.rows.at_least:
            self.add(
                "rows_at_least",
                severity=contract.rows.severity,
                says=f"it has at least {plural(contract.rows.at_least, 'row')}",
                expectation="expect_table_row_count_to_be_between",
                kwargs={"min_value": contract.rows.at_least},
            )
        if contract.rows.shrink_at_most < 1 and figures.previous_rows:
            fewest = math.ceil(figures.previous_rows * (1 - contract.rows.shrink_at_most))
            self.add(
                "rows_shrink",
                severity=contract.rows.shrink_severity,
                says=f"at least {fewest:,} of the {figures.previous_rows:,} rows of the last valid snapshot remain",
                expectation="expect_table_row_count_to_be_between",
                kwargs={"min_value": fewest},
            )
        self.add(
            "columns_known",
            severity=contract.unknown_columns,
            says="there is no column that the contract does not name",
            expectation="expect_table_columns_to_match_set",
            kwargs={"column_set": list(contract.columns), "exact_match": True},
        )

    def keys(self) -> None:
        key = self.contract.primary_key
        self.unique(key, self.contract.key_severity, "primary_key")
        for together in self.contract.unique_together:
            self.unique(together.columns, together.severity, "unique")

    def column(self, name: str, column: Column) -> None:
        one = quote(name)
        self.add(
            "exists",
            column=name,
            severity=column.severity,
            says="the column exists",
            expectation="expect_column_to_exist",
            kwargs={"column": name},
        )
        is_key = name in self.contract.primary_key
        if column.nulls.at_most < 1 or is_key:
            share = 0 if is_key else column.nulls.at_most
            self.values(
                name,
                "not_null",
                severity=self.contract.key_severity if is_key else column.nulls.severity,
                says="every row has a value"
                if share == 0
                else f"at most {share:.0%} of the rows lack a value",
                expectation="expect_column_values_to_not_be_null",
                bad=f"{one} IS NULL",
                tolerate=share,
            )
        family = TYPE_FAMILIES[column.type]
        self.add(
            "type",
            column=name,
            severity=column.severity,
            says=f"its type is {column.type}",
            expectation="expect_column_type_family",
            kwargs={
                "unexpected_rows_query": (
                    "SELECT column_type FROM (DESCRIBE SELECT * FROM {batch}) "
                    f"WHERE column_name = {_braces(literal(name))} "
                    f"AND NOT regexp_matches(column_type, {_braces(literal(family))})"
                ),
            },
            needs=frozenset({name}),
        )
        if column.unique is not None and [name] != self.contract.primary_key:
            self.unique([name], column.unique.severity, "unique")
        if column.allowed is not None:
            listed = ", ".join(str(value) for value in column.allowed.values)
            self.values(
                name,
                "allowed",
                severity=column.allowed.severity,
                says=f"it is one of: {listed}",
                expectation="expect_column_values_to_be_in_set",
                kwargs={"value_set": list(column.allowed.values)},
                bad=f"{one} NOT IN ({', '.join(map(literal, column.allowed.values))})",
                tolerate=column.allowed.tolerate,
            )
        if column.format is not None:
            looks = column.format.name or f"the pattern {column.format.pattern}"
            self.values(
                name,
                "format",
                severity=column.format.severity,
                says=f"it is written as {_article(looks)}",
                expectation="expect_column_values_to_match_regex",
                kwargs={"regex": column.format.regex},
                bad=f"NOT regexp_matches({one}, {literal(column.format.regex)})",
                tolerate=column.format.tolerate,
            )
        if column.range is not None:
            self.between(name, "range", column.range.min, column.range.max, column.range)
        if column.dates is not None:
            floor = column.dates.not_before
            self.between(
                name,
                "dates",
                _midnight(floor) if floor else None,
                self.latest(column.dates.ahead_minutes) if column.dates.not_after == "snapshot" else None,
                column.dates,
            )
        if column.length is not None:
            self.values(
                name,
                "length",
                severity=column.length.severity,
                says=f"it has at most {column.length.max:,} characters",
                expectation="expect_column_value_lengths_to_be_between",
                kwargs={"max_value": column.length.max},
                bad=f"length({one}) > {column.length.max}",
                tolerate=column.length.tolerate,
            )

    def latest(self, ahead_minutes: int) -> datetime:
        return (self.consistency_at + timedelta(minutes=ahead_minutes)).replace(tzinfo=None)

    def between(self, name: str, kind: str, low: Any, high: Any, rule: Any) -> None:
        one = quote(name)
        words = []
        if low is not None:
            words.append(f"not {'before' if kind == 'dates' else 'below'} {_shown(low)}")
        if high is not None:
            words.append(f"not {'after' if kind == 'dates' else 'above'} {_shown(high)}")
        within = [f"{one} >= {literal(low)}"] if low is not None else []
        within += [f"{one} <= {literal(high)}"] if high is not None else []
        bounds = {"min_value": low, "max_value": high}
        self.values(
            name,
            kind,
            severity=rule.severity,
            says=f"it is {' and '.join(words)}",
            expectation="expect_column_values_to_be_between",
            kwargs={side: bound for side, bound in bounds.items() if bound is not None},
            bad=f"NOT ({' AND '.join(within)})",
            tolerate=rule.tolerate,
        )

    def unique(self, columns: list[str], severity: Severity, kind: str) -> None:
        listed = ", ".join(map(quote, columns))
        present = " AND ".join(f"{quote(name)} IS NOT NULL" for name in columns)
        again = f"SELECT {listed} FROM {self.here} WHERE {present} GROUP BY {listed} HAVING count(*) > 1"
        single = len(columns) == 1
        self.add(
            kind,
            column=", ".join(columns),
            severity=severity,
            says="no key occurs twice" if kind == "primary_key" else "no value occurs twice",
            expectation=(
                "expect_column_values_to_be_unique" if single else "expect_compound_columns_to_be_unique"
            ),
            kwargs={"column": columns[0]}
            if single
            else {"column_list": list(columns), "ignore_row_if": "any_value_is_missing"},
            bad_keys=self.keys_where(f"({listed}) IN ({again})"),
            needs=frozenset(columns),
        )

    def across(self) -> None:
        for key in self.contract.foreign_keys:
            there = quote(key.references)
            match = " AND ".join(
                f"there.{quote(right)} = here.{quote(left)}"
                for left, right in zip(key.columns, key.referred, strict=True)
            )
            present = " AND ".join(f"here.{quote(name)} IS NOT NULL" for name in key.columns)
            target = f"{key.references}.{', '.join(key.referred)}"
            self.rows(
                "foreign_key",
                columns=key.columns,
                severity=key.severity,
                says=f"it exists in {target}",
                source=f"{{batch}} here ANTI JOIN {there} there ON {match}",
                bad=present,
                elsewhere={key.references: frozenset(key.referred)},
            )
        for rule in self.contract.row_rules:
            self.rows(
                rule.name,
                columns=rule.columns,
                severity=rule.severity,
                says=rule.says,
                source="{batch}",
                bad=f"NOT ({rule.holds})",
                prefix="",
                tolerate=rule.tolerate,
            )
        for sums in self.contract.adds_up:
            by = ", ".join(quote(name) for name in sums.by.values())
            match = " AND ".join(
                f"there.{quote(right)} = here.{quote(left)}" for left, right in sums.by.items()
            )
            side = "LEFT JOIN" if sums.rows_without == "zero" else "JOIN"
            summed = (
                f"(SELECT {by}, sum({quote(sums.sum_of)}) AS mailstay_sum "
                f"FROM {quote(sums.table)} GROUP BY {by})"
            )
            self.rows(
                sums.name,
                columns=[sums.column],
                severity=sums.severity,
                says=f"it equals the sum of {sums.table}.{sums.sum_of}",
                source=f"{{batch}} here {side} {summed} there ON {match}",
                bad=f"abs(here.{quote(sums.column)} - coalesce(there.mailstay_sum, 0)) > {sums.within!r}",
                also={*sums.by},
                elsewhere={sums.table: frozenset({sums.sum_of, *sums.by.values()})},
                tolerate=sums.tolerate,
            )

    def rows(
        self,
        kind: str,
        *,
        columns: Sequence[str],
        severity: Severity,
        says: str,
        source: str,
        bad: str,
        prefix: str = "here.",
        also: set[str] | None = None,
        elsewhere: Mapping[str, frozenset[str]] | None = None,
        tolerate: float = 0.0,
    ) -> None:
        """Add a rule of our own: the rows of `source`, which contains `{batch}`, break it where `bad` holds.

        Great Expectations names the batch itself unless the query joins: then `source` names it `here`.
        """
        key = ", ".join(prefix + quote(name) for name in self.key) or "1"
        kwargs: dict[str, Any] = {
            "unexpected_rows_query": _braces(f"SELECT {key} FROM {source} WHERE {bad}", but="batch"),
            "most_rows": math.floor(self.figures.source_rows * tolerate),
        }
        self.add(
            kind,
            column=", ".join(columns),
            severity=severity,
            says=says,
            expectation="expect_no_such_rows",
            kwargs=kwargs,
            bad_keys=self.keys_from(source.replace("{batch}", self.here), bad, prefix),
            needs=frozenset({*columns, *(also or ())}),
            elsewhere=elsewhere,
            tolerate=tolerate,
        )

    def values(
        self,
        name: str,
        kind: str,
        *,
        severity: Severity,
        says: str,
        expectation: str,
        bad: str,
        kwargs: dict[str, Any] | None = None,
        tolerate: float = 0.0,
    ) -> None:
        """Add a rule that is asked of every value of one column."""
        mostly = {"mostly": 1 - tolerate} if tolerate else {}
        self.add(
            kind,
            column=name,
            severity=severity,
            says=says,
            expectation=expectation,
            kwargs={"column": name, **(kwargs or {}), **mostly},
            bad_keys=self.keys_where(bad),
            needs=frozenset({name}),
            tolerate=tolerate,
        )

    def add(
        self,
        kind: str,
        *,
        severity: Severity,
        says: str,
        expectation: str,
        kwargs: dict[str, Any],
        column: str = "",
        bad_keys: str = "",
        needs: frozenset[str] = frozenset(),
        elsewhere: Mapping[str, frozenset[str]] | None = None,
        tolerate: float = 0.0,
    ) -> None:
        parts = [self.contract.table, column.replace(", ", "+"), kind]
        self.rules.append(
            Rule(
                rule_id=".".join(part for part in parts if part),
                table=self.contract.table,
                column=column,
                kind=kind,
                severity=severity,
                says=says,
                expectation=expectation,
                kwargs=kwargs,
                bad_keys=bad_keys,
                needs=needs,
                needs_elsewhere=elsewhere or {},
                tolerate=tolerate,
            )
        )

    def keys_where(self, bad: str) -> str:
        return self.keys_from(self.here, bad)

    def keys_from(self, source: str, bad: str, prefix: str = "") -> str:
        """Return the query for bad rows' keys; a key column that the snapshot lacks leaves no key to quote."""
        if len(self.key) < len(self.contract.primary_key):
            return ""
        key = ", ".join(prefix + quote(name) for name in self.key)
        return f"SELECT DISTINCT {key} FROM {source} WHERE {bad} ORDER BY ALL"


def _shown(bound: Any) -> str:
    return f"{bound:%Y-%m-%d %H:%M} UTC" if isinstance(bound, datetime) else f"{bound:,g}"


def _article(noun: str) -> str:
    return noun if noun.startswith("the ") else f"an {noun} address" if noun == "email" else f"a {noun}"


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time())


def _braces(sql: str, but: str = "") -> str:
    """Escape what is read into a query before DuckDB sees it, except the placeholder `but`.

    Great Expectations formats it (braces are doubled), then SQLAlchemy looks for `:name` parameters.
    """
    doubled = sql.replace("{", "{{").replace("}", "}}").replace(":", "\\:")
    return doubled.replace("{{" + but + "}}", "{" + but + "}") if but else doubled
