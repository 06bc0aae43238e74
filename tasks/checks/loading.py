"""Reading contracts: safe YAML, then the models, then lint; every mistake is told with file, line, field and fix."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tasks.checks.binding import Binder
from tasks.checks.contracts import AddsUp, Column, Consent, Contract, HasRows
from tasks.checks.errors import ContractError
from tasks.checks.sql import quote

_EXPECTATIONS = Path(__file__).resolve().parents[2] / "data" / "expectations"
_NUMBERS = {"integer", "decimal", "number"}
_MOMENTS = {"timestamp", "date"}
_TEXTS = {"text", "json"}
_FAMILIES: dict[str, set[str]] = {
    "format": _TEXTS,
    "length": _TEXTS,
    "no_addresses": _TEXTS,
    "fresh": _MOMENTS,
    "drift": {*_NUMBERS, "boolean", "text"},
    "range": _NUMBERS,
    "dates": _MOMENTS,
    "allowed": {"text", "integer", "boolean"},
}

_PYDANTICS_OWN = re.compile(r"\[key\]|constrained-|literal\[")  # steps of its way that are no key of the file


@dataclass(frozen=True)
class ContractProblem:
    """One mistake in one contract."""

    file: str
    line: int
    field: str
    problem: str
    fix: str

    def __str__(self) -> str:
        fix = f". To fix it: {self.fix}" if self.fix else ""
        return f"{self.file}:{self.line}: {self.field}: {self.problem}{fix}"


def load_contracts(folder: Path | str) -> dict[str, Contract]:
    """Read every contract of a source: the `*.yaml` files in `folder`, by table name.

    Raises:
        ContractError: the folder holds none, or a contract cannot be used; every problem is listed.
    """
    contracts, problems = _read_all(Path(folder))
    if problems:
        listed = "\n  ".join(str(problem) for problem in problems)
        raise ContractError(f"The contracts do not fit:\n  {listed}", where=str(folder))
    return contracts


def _read_all(folder: Path) -> tuple[dict[str, Contract], list[ContractProblem]]:
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise ContractError(
            "There are no contracts", where=str(folder), fix="write one <table>.yaml for each table"
        )
    read = [_read(path) for path in files]
    contracts = {one.contract.table: one.contract for one in read if one.contract is not None}
    problems = [problem for one in read for problem in one.problems]
    binder = Binder(contracts)
    problems += [p for one in read if one.contract is not None for p in _lint(one, contracts, binder)]
    return contracts, problems


def lint_contract(path: Path | str) -> list[ContractProblem]:
    """Return what is wrong with the contract in the file `path`, held against the contracts beside it."""
    path = Path(path)
    own = _read(path)
    if own.contract is None:
        return own.problems
    beside = (_read(other).contract for other in sorted(path.parent.glob("*.yaml")) if other != path)
    known = {contract.table: contract for contract in (*beside, own.contract) if contract is not None}
    return [*own.problems, *_lint(own, known, Binder(known))]


def lint_contracts(folder: Path | str) -> list[ContractProblem]:
    """Return what is wrong with the contracts in `folder`.

    Raises:
        ContractError: the folder holds none.
    """
    return _read_all(Path(folder))[1]


def contract_schema() -> str:
    """Return the JSON Schema of a contract, for editors."""
    schema = Contract.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(schema, indent=2, ensure_ascii=False)


def default_contracts(kind: str) -> Path | None:
    """Return the folder of the contracts that come with Mailstay for sources of `kind`; None if there are none."""
    folder = _EXPECTATIONS / kind
    return folder if kind and folder.is_dir() else None


@dataclass(frozen=True)
class _Read:
    path: Path
    tree: yaml.Node | None
    contract: Contract | None
    problems: list[ContractProblem]

    def problem(self, where: list[Any], what: str, fix: str) -> ContractProblem:
        field = ".".join(str(part) for part in where) or "the contract"
        return ContractProblem(str(self.path), _line_of(self.tree, where), field, what, fix)


def _read(path: Path) -> _Read:
    def broken(line: int, what: str, fix: str) -> _Read:
        return _Read(path, None, None, [ContractProblem(str(path), line, "the contract", what, fix)])

    try:
        text = path.read_text(encoding="utf-8")
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        return broken(1, f"it cannot be read ({type(error).__name__})", "write it as a UTF-8 text file")
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or "not YAML"
        return broken(mark.line + 1 if mark else 1, f"it is not valid YAML: {what}", "mend the indentation")
    except ValueError as error:
        return broken(1, f"a value is impossible: {error}", "write a date that exists")
    if not isinstance(content, Mapping):
        return broken(1, "it is empty", "write table, primary_key and columns")
    try:
        contract = Contract.model_validate(content)
    except ValidationError as error:
        shell = _Read(path, tree, None, [])
        # A value that fits none of two types is told once, with the first one's reason.
        problems = {one.field: one for one in reversed([_from_pydantic(shell, e) for e in error.errors()])}
        return _Read(path, tree, None, list(problems.values())[::-1])
    return _Read(path, tree, contract, [])


def _from_pydantic(read: _Read, problem: Any) -> ContractProblem:
    where = [part for part in problem["loc"] if not _PYDANTICS_OWN.match(str(part))]
    message = problem["msg"].removeprefix("Value error, ")
    fix = {
        "extra_forbidden": "remove the key, or correct its name",
        "missing": f"add {where[-1] if where else 'it'}",
        "literal_error": f"use {problem.get('ctx', {}).get('expected', 'an allowed value')}",
    }.get(problem["type"], "see the contract schema")
    if problem["type"] == "extra_forbidden":
        message = "there is no such key"
    return read.problem(where, message, fix)


def _lint(read: _Read, known: Mapping[str, Contract], binder: Binder) -> Iterator[ContractProblem]:
    contract = read.contract
    assert contract is not None
    if read.path.stem != contract.table:
        yield read.problem(
            ["table"], f"the file is not named {contract.table}.yaml", "rename the file or the table"
        )
    for name in contract.primary_key:
        yield from _has_column(read, contract, ["primary_key"], name)
        # Where every column is personal there is no other key: samples then quote none.
        if name in (personal := contract.personal_columns()) and personal != set(contract.columns):
            yield read.problem(
                ["columns", name, "personal"],
                "a key that is personal data would be quoted in findings",
                "choose another key",
            )
    for name, column in contract.columns.items():
        yield from _lint_column(read, name, column)
    for index, key in enumerate(contract.foreign_keys):
        where = ["foreign_keys", index]
        for name in key.columns:
            yield from _has_column(read, contract, [*where, "columns"], name)
        yield from _has_columns(read, known, [*where, "references"], key.references, key.referred)
    for index, together in enumerate(contract.unique_together):
        for name in together.columns:
            yield from _has_column(read, contract, ["unique_together", index, "columns"], name)
    names: set[str] = set()
    for group in ("row_rules", "adds_up", "has_rows", "no_rows"):
        for index, rule in enumerate(getattr(contract, group)):
            if rule.name in names:
                yield read.problem([group, index, "name"], "the name is taken", "choose another name")
            names.add(rule.name)
    for index, row_rule in enumerate(contract.row_rules):
        for name in row_rule.columns:
            yield from _has_column(read, contract, ["row_rules", index, "columns"], name)
        yield from _lint_condition(read, contract, ["row_rules", index, "holds"], row_rule.holds, binder)
    for index, sums in enumerate(contract.adds_up):
        yield from _has_column(read, contract, ["adds_up", index, "column"], sums.column)
        yield from _lint_joined(read, known, ["adds_up", index], sums, binder)
    for index, has in enumerate(contract.has_rows):
        yield from _lint_joined(read, known, ["has_rows", index], has, binder)
    for index, none in enumerate(contract.no_rows):
        where = ["no_rows", index, "finds"]
        yield from _lint_text(read, contract, where, none.finds)
        if mistake := binder.query(none.finds, len(contract.primary_key)):
            yield read.problem(
                where, f"DuckDB does not take it: {mistake}", "select the primary key of the bad rows"
            )
    if contract.consent is not None:
        yield from _lint_consent(read, known, contract.consent, binder)


def _lint_joined(
    read: _Read, known: Mapping[str, Contract], where: list[Any], rule: AddsUp | HasRows, binder: Binder
) -> Iterator[ContractProblem]:
    contract = read.contract
    assert contract is not None
    for name in rule.by:
        yield from _has_column(read, contract, [*where, "by"], name)
    summed = [rule.sum_of] if isinstance(rule, AddsUp) and rule.sum_of is not None else []
    yield from _has_columns(read, known, [*where, "table"], rule.table, [*summed, *rule.by.values()])
    if rule.only:
        yield from _lint_condition(read, contract, [*where, "only"], rule.only, binder)
    if rule.where and rule.table in known:
        yield from _lint_condition(read, known[rule.table], [*where, "where"], rule.where, binder)


def _lint_consent(
    read: _Read, known: Mapping[str, Contract], consent: Consent, binder: Binder
) -> Iterator[ContractProblem]:
    contract = read.contract
    assert contract is not None
    named = {"person": consent.person, "column": consent.column, "since": consent.since}
    for key, name in (named | ({"address": consent.address} if consent.address else {})).items():
        yield from _has_column(read, contract, ["consent", key], name)
    allowed = contract.columns[consent.column].allowed if consent.column in contract.columns else None
    for value in consent.blocked if not consent.rows else ():
        if allowed is not None and value not in allowed.values:
            yield read.problem(
                ["consent", "blocked"],
                f"{value!r} is no value that {consent.column} may have",
                f"use some of: {', '.join(map(str, allowed.values))}",
            )
    if bool(consent.rows) != bool(consent.by):
        lacking = "by" if consent.rows else "rows"
        yield read.problem(
            ["consent"], f"it has no {lacking}", "give both: `rows`, and `by` for what names one of them"
        )
    elif consent.rows:
        table = f"({consent.rows.replace('{table}', quote(contract.table))})"
        wanted = list(dict.fromkeys([*contract.primary_key, *consent.by, *named.values()]))
        listed = ", ".join(map(quote, wanted))
        if mistake := binder.query(f"SELECT {listed} FROM {table}", len(wanted)):  # noqa: S608
            yield read.problem(
                ["consent", "rows"],
                f"DuckDB does not take it: {mistake}",
                f"it must give {', '.join(wanted)}",
            )
    if consent.purpose is not None:
        purpose = consent.purpose
        if purpose.column not in consent.by:
            yield from _has_column(read, contract, ["consent", "purpose", "column"], purpose.column)
        there = [purpose.key, *purpose.double_opt_in]
        yield from _has_columns(read, known, ["consent", "purpose", "table"], purpose.table, there)
    if consent.covered_by is not None:
        wider = known.get(consent.covered_by)
        if wider is None or wider.consent is None:
            yield read.problem(
                ["consent", "covered_by"],
                f"the contract of {consent.covered_by} says nothing of consent",
                "give it a consent, or leave covered_by out",
            )


def _lint_column(read: _Read, name: str, column: Column) -> Iterator[ContractProblem]:
    for rule, families in _FAMILIES.items():
        if getattr(column, rule) is not None and column.type not in families:
            yield read.problem(
                ["columns", name, rule],
                f"{rule} does not fit a column of type {column.type}",
                f"use it on {', '.join(sorted(families))}, or change the type",
            )
    if column.format is not None and (mistake := _regex_mistake(column.format.regex)):
        yield read.problem(
            ["columns", name, "format", "pattern"],
            f"it is not a regular expression that DuckDB (RE2) knows: {mistake}",
            "RE2 has no look-around and no back references",
        )
    if column.drift is not None and column.type == "text" and column.allowed is None:
        yield read.problem(
            ["columns", name, "drift"],
            "a text drifts among allowed values, and none are named",
            "add allowed",
        )
    if column.personal and (column.drift is not None or column.no_addresses is not None):
        yield read.problem(
            ["columns", name, "drift" if column.drift is not None else "no_addresses"],
            "the column holds personal data: it cannot be counted by value, and may hold addresses",
            "leave it out, or leave out personal",
        )
    if column.personal and column.allowed is not None:
        yield read.problem(
            ["columns", name, "allowed"],
            "a list of allowed values of personal data would be copied into every result",
            "use format or a foreign key",
        )


def _lint_condition(
    read: _Read, contract: Contract, where: list[Any], condition: str, binder: Binder
) -> Iterator[ContractProblem]:
    if ";" in condition or "--" in condition:
        yield read.problem(where, "a condition is one expression", "remove `;` and `--`")
        return
    yield from _lint_text(read, contract, where, condition)
    if mistake := binder.condition(contract.table, condition):
        yield read.problem(where, f"DuckDB does not take it: {mistake}", "correct the condition")


def _lint_text(read: _Read, contract: Contract, where: list[Any], sql: str) -> Iterator[ContractProblem]:
    for name in contract.personal_columns():
        if re.search(rf"\b{re.escape(name)}\b", sql) and "'" in sql:
            yield read.problem(
                where,
                f"a text compared with the personal column {name} would be copied into every result",
                "use format instead",
            )


def _has_column(read: _Read, contract: Contract, where: list[Any], name: str) -> Iterator[ContractProblem]:
    if name not in contract.columns:
        yield read.problem(
            where, f"there is no column {name!r}", f"use one of: {', '.join(contract.columns)}"
        )


def _has_columns(
    read: _Read, known: Mapping[str, Contract], where: list[Any], table: str, names: list[str]
) -> Iterator[ContractProblem]:
    other = known.get(table)
    if other is None:
        yield read.problem(
            where, f"there is no contract of a table {table!r}", "write it, or correct the name"
        )
        return
    for name in names:
        if name not in other.columns:
            yield read.problem(
                where, f"{table} has no column {name!r}", f"use one of: {', '.join(other.columns)}"
            )


def _regex_mistake(pattern: str) -> str:
    """Return what RE2, the engine that will apply `pattern`, has against it; empty if nothing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        pc.match_substring_regex(pa.array([""]), pattern)
    except pa.ArrowInvalid as error:
        return str(error).partition(":")[2].strip() or str(error)
    return ""


def _line_of(node: yaml.Node | None, where: list[Any]) -> int:
    line = node.start_mark.line + 1 if node is not None else 1
    for part in where:
        found: yaml.Node | None = None
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    line, found = key.start_mark.line + 1, value
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            found = node.value[part]
            line = found.start_mark.line + 1
        if found is None:
            return line
        node = found
    return line
