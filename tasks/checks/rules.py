"""Contracts compiled to rules: pure data that names a Great Expectations expectation and finds the bad rows' keys.

Nothing here imports Great Expectations or reads data. Columns that the snapshot lacks do not stop the rest: rules
that need them come back with what they need, so that the runner can report them as broken.
"""

# ruff: noqa: S608 - every name passes `quote`, every value `literal`

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from tasks.checks.consent import ConsentBefore, consent_queries
from tasks.checks.contracts import AddsUp, Column, ColumnType, Contract, Fresh, HasRows
from tasks.checks.findings import SEVERITIES, Severity
from tasks.checks.measures import BadRows, HasType, Measure, Misadded, Orphans, Repeats
from tasks.checks.sql import literal, quote
from tasks.core import plural

VACUOUS = frozenset(
    ("allowed", "format", "range", "dates", "length", "no_addresses", "unique", "primary_key")
)
"""Kinds of rules that hold of a column without a value; rules that are queries of ours hold too."""

ADDRESS = r"[A-Za-z0-9._%+'-]+@([A-Za-z0-9-]+\.)+[A-Za-z]{2,}"
_ALL_BUT_SOME = 1 - 1e-9

# What DuckDB calls the types of a Parquet file's columns, per family of the contract.
TYPE_FAMILIES: dict[ColumnType, str] = {
    "text": r"^(VARCHAR|UUID|ENUM.*)$",
    "integer": r"^U?(TINYINT|SMALLINT|INTEGER|BIGINT|HUGEINT)$",
    "decimal": r"^DECIMAL\(.*\)$",
    "number": r"^(DECIMAL\(.*\)|FLOAT|DOUBLE|U?(TINYINT|SMALLINT|INTEGER|BIGINT|HUGEINT))$",
    "boolean": r"^BOOLEAN$",
    "timestamp": r"^TIMESTAMP(_S|_MS|_NS)?( WITH TIME ZONE)?$",
    "date": r"^DATE$",
    "time": r"^TIME(_NS)?( WITH TIME ZONE)?$",
    "json": r"^(VARCHAR|JSON|STRUCT.*|MAP.*|.*\[\])$",
    "binary": r"^BLOB$",
}


@dataclass(frozen=True)
class Expected:
    """Bounds that come from history.

    Attributes:
        rows: fewest and most rows.
        nulls: per column the largest share of rows without a value.
        minutes: per column the most minutes between its newest moment and the consistency point.
    """

    rows: tuple[int, int] | None = None
    nulls: Mapping[str, float] = field(default_factory=dict)
    minutes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TableFigures:
    """What is known of a table of the snapshot before its rows are read.

    Attributes:
        columns: the columns it has, in order.
        source_rows: the rows its source counted at the consistency point.
        previous_rows: the rows of the last valid snapshot; None if there is none.
        expected: what earlier snapshots lead to expect, where the contract says `auto` and there are enough of them.
        consent: what consent is held against; None where there is nothing before it.
    """

    columns: tuple[str, ...]
    source_rows: int
    previous_rows: int | None = None
    expected: Expected = Expected()
    consent: ConsentBefore | None = None


@dataclass(frozen=True, eq=False)
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
        across: whether it is a query of ours for bad rows.
        measure: what it asks, for an engine that can count the bad rows together with everything else.
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
    across: bool = False
    measure: Measure | None = None


def gravest(severities: Iterable[Severity]) -> Severity | None:
    """Return the gravest of the severities; None without any."""
    return min(severities, key=SEVERITIES.index, default=None)


def graver(one: Severity | None, other: Severity | None) -> bool:
    """Return whether the first is graver; anything is graver than nothing."""
    return one is not None and (other is None or SEVERITIES.index(one) < SEVERITIES.index(other))


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
    compiler.consent()
    compiler.pair()
    return compiler.rules


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
        self.volume()
        self.add(
            "columns_known",
            severity=contract.unknown_columns,
            says="there is no column that the contract does not name",
            expectation="expect_table_columns_to_match_set",
            kwargs={"column_set": list(contract.columns), "exact_match": True},
        )

    def volume(self) -> None:
        """Add what the last valid snapshots say about the number of rows."""
        rows, before = self.contract.rows, self.figures.previous_rows
        if rows.shrink_at_most < 1 and before:
            fewest = math.ceil(before * (1 - rows.shrink_at_most))
            self.add(
                "rows_shrink",
                severity=rows.shrink_severity,
                says=f"at least {fewest:,} of the {before:,} rows of the last valid snapshot remain",
                expectation="expect_table_row_count_to_be_between",
                kwargs={"min_value": fewest},
            )
        if rows.grow_at_most is not None and before:
            most = math.floor(before * (1 + rows.grow_at_most))
            self.add(
                "rows_grow",
                severity=rows.grow_severity,
                says=f"it has at most {most:,} rows after {before:,} in the last valid snapshot",
                expectation="expect_table_row_count_to_be_between",
                kwargs={"max_value": most},
            )
        if self.figures.expected.rows is not None:
            fewest, most = self.figures.expected.rows
            self.add(
                "rows_change",
                severity=rows.change_severity,
                says=f"earlier valid snapshots lead to expect {fewest:,} to {most:,} rows",
                expectation="expect_table_row_count_to_be_between",
                kwargs={"min_value": fewest, "max_value": most},
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
        share = 0.0 if is_key else self.most_nulls(name, column)
        if share < 1:
            self.values(
                name,
                "not_null",
                severity=self.contract.key_severity if is_key else column.nulls.severity,
                says="every row has a value"
                if share == 0
                else f"at most {share:.3%} of the rows lack a value".replace(".000%", "%"),
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
            measure=HasType(name, family),
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

        if column.no_addresses is not None:
            self.values(
                name,
                "no_addresses",
                severity=column.no_addresses.severity,
                says="no e-mail address stands in it (what holds one is personal data)",
                expectation="expect_column_values_to_not_match_regex",
                kwargs={"regex": ADDRESS},
                bad=f"regexp_matches({one}, {literal(ADDRESS)})",
                tolerate=column.no_addresses.tolerate,
            )
        if column.fresh is not None:
            self.fresh(name, column.fresh)

    def most_nulls(self, name: str, column: Column) -> float:
        """Return the share of rows that may lack a value; `auto` without history: any, `pair` adds that not all do."""
        if column.nulls.at_most == "auto":
            return self.figures.expected.nulls.get(name, 1.0)
        return column.nulls.at_most

    def fresh(self, name: str, fresh: Fresh) -> None:
        minutes = fresh.within_minutes
        within = self.figures.expected.minutes.get(name) if minutes == "auto" else minutes
        if within is None:
            return
        oldest = (self.consistency_at - timedelta(minutes=within)).replace(tzinfo=None)
        self.add(
            "fresh",
            column=name,
            severity=fresh.severity,
            says=f"its newest moment is not before {_shown(oldest)}",
            # Its own maximum cannot be compared in Great Expectations where the column has a time zone.
            expectation="expect_no_such_rows",
            kwargs={
                "unexpected_rows_query": _braces(
                    f"SELECT 1 FROM (SELECT max({quote(name)}) AS newest FROM {{batch}}) found "
                    f"WHERE coalesce(found.newest < {literal(oldest)}, true)",
                    but="batch",
                ),
            },
            needs=frozenset({name}),
        )

    def pair(self) -> None:
        """Add what keeps rules about rows and values from holding only because there are none.

        An empty table breaks no rule about rows, and an empty column none about values. Where the contract does not
        say that they may be empty, being empty is as grave as the gravest rule that would hold for want of anything.
        """
        asked = [rule for rule in self.rules if rule.kind in VACUOUS or rule.across]
        for name, column in self.contract.columns.items():
            if column.nulls.at_most == 1 and name not in self.contract.primary_key:
                continue
            hangs = [rule.severity for rule in asked if name in rule.needs]
            wanted = gravest([*hangs, column.nulls.severity] if column.nulls.at_most == "auto" else hangs)
            stands = gravest(
                rule.severity for rule in self.rules if (rule.column, rule.kind) == (name, "not_null")
            )
            if graver(wanted, stands):
                self.values(
                    name,
                    "has_values",
                    severity=wanted or "info",
                    says="at least one row has a value, or its other rules say nothing",
                    expectation="expect_column_values_to_not_be_null",
                    bad=f"{quote(name)} IS NULL",
                    tolerate=_ALL_BUT_SOME,
                )
        wanted = gravest(
            rule.severity for rule in self.rules if rule in asked or rule.kind in ("not_null", "has_values")
        )
        if self.contract.rows.at_least and graver(wanted, self.contract.rows.severity):
            self.add(
                "rows_any",
                severity=wanted or "info",
                says="it has at least 1 row, or its other rules say nothing",
                expectation="expect_table_row_count_to_be_between",
                kwargs={"min_value": 1},
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
            measure=Repeats(tuple(columns)),
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
                measure=Orphans(tuple(key.columns), key.references, tuple(key.referred)),
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
                measure=BadRows(f"NOT ({rule.holds})", tuple(rule.columns), free=True),
            )
        for sums in self.contract.adds_up:
            figure = "count(*)" if sums.sum_of is None else f"sum({quote(sums.sum_of)})"
            what = "number of rows in " if sums.sum_of is None else "sum of "
            there = f"{sums.table}.{sums.sum_of}" if sums.sum_of else sums.table
            self.rows(
                sums.name,
                columns=[sums.column],
                severity=sums.severity,
                says=f"it equals the {what}{there}" + (f" where {sums.where}" if sums.where else ""),
                source=_joined(sums, figure, outer=sums.rows_without == "zero"),
                bad=f"abs(here.{quote(sums.column)} - coalesce(there.mailstay_sum, 0)) > {sums.within!r}",
                also={*sums.by},
                elsewhere={
                    sums.table: frozenset({*([sums.sum_of] if sums.sum_of else []), *sums.by.values()})
                },
                tolerate=sums.tolerate,
                measure=Misadded(
                    sums.column,
                    sums.table,
                    sums.sum_of,
                    tuple(sums.by.items()),
                    sums.within,
                    outer=sums.rows_without == "zero",
                    where=sums.where or "",
                )
                if not sums.only
                else None,
            )
        for has in self.contract.has_rows:
            bounds = [f"at least {has.at_least}"] if has.at_least else []
            bounds += [f"at most {has.at_most}"] if has.at_most is not None else []
            found = "coalesce(there.mailstay_sum, 0)"
            self.rows(
                has.name,
                columns=list(has.by),
                severity=has.severity,
                says=f"it has {' and '.join(bounds)} in {has.table}"
                + (f" where {has.where}" if has.where else ""),
                source=_joined(has, "count(*)", outer=True),
                bad=f"{found} < {has.at_least}"
                + (f" OR {found} > {has.at_most}" if has.at_most is not None else ""),
                elsewhere={has.table: frozenset(has.by.values())},
                tolerate=has.tolerate,
            )
        for none in self.contract.no_rows:
            names = self.contract.primary_key
            match = " AND ".join(f"found.{quote(name)} = here.{quote(name)}" for name in names)
            found = f"(SELECT DISTINCT * FROM ({none.finds})) found({', '.join(map(quote, names))})"
            self.rows(
                none.name,
                columns=names,
                severity=none.severity,
                says=none.says,
                source=f"{{batch}} here JOIN {found} ON {match}",
                bad="true",
            )

    def consent(self) -> None:
        """Add what must not have happened to consents since the last valid snapshot: always critical."""
        before, consent = self.figures.consent, self.contract.consent
        if before is None or consent is None or len(self.key) < len(self.contract.primary_key):
            return
        wanted = frozenset({*self.contract.primary_key, consent.person, consent.column, consent.since})
        if not wanted <= set(before.columns):
            return
        for kind, says, source, bad in consent_queries(consent, self.contract.primary_key, before, self.here):
            self.rows(
                kind,
                columns=[consent.column],
                severity="critical",
                says=says,
                source=source,
                bad=bad,
                prefix="was." if kind == "opt_out_kept" else "here.",
                also={consent.person, consent.since},
                elsewhere={before.view: wanted},
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
        measure: Measure | None = None,
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
            across=True,
            measure=measure,
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
        across: bool = False,
        measure: Measure | None = None,
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
                across=across,
                measure=measure,
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


def _joined(rule: AddsUp | HasRows, figure: str, *, outer: bool) -> str:
    """Return the rows here beside a figure (`mailstay_sum`) over their rows in the other table."""
    by = ", ".join(quote(name) for name in rule.by.values())
    match = " AND ".join(f"there.{quote(right)} = here.{quote(left)}" for left, right in rule.by.items())
    where = f" WHERE {rule.where}" if rule.where else ""
    there = f"(SELECT {by}, {figure} AS mailstay_sum FROM {quote(rule.table)}{where} GROUP BY {by})"
    # Great Expectations names the batch itself only where the query does not join.
    here = f"(SELECT * FROM {{batch}} AS batch WHERE {rule.only})" if rule.only else "{batch}"
    return f"{here} here {'LEFT JOIN' if outer else 'JOIN'} {there} there ON {match}"


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
