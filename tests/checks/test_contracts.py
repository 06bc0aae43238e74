"""Contracts are read safely, and every mistake is told with its file, line, field and fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.checks.contracts import FORMATS, Contract
from tasks.checks.errors import ContractError
from tasks.checks.loading import (
    contract_schema,
    default_contracts,
    lint_contract,
    lint_contracts,
    load_contracts,
)

GOOD = """\
table: orders
primary_key: [order_id]
columns:
  order_id: {type: text}
  customer_id: {type: integer, nulls: {at_most: 0.3, severity: warning}}
  email: {type: text, personal: true, format: {name: email}}
  ordered_at: {type: timestamp, dates: {not_before: 2010-01-01}}
foreign_keys:
  - {columns: [customer_id], references: customers, referred: [customer_id]}
"""
CUSTOMERS = """\
table: customers
primary_key: [customer_id]
columns:
  customer_id: {type: integer}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "orders.yaml").write_text(GOOD)
    (tmp_path / "customers.yaml").write_text(CUSTOMERS)
    return tmp_path


def test_a_folder_is_read_by_table(folder: Path) -> None:
    contracts = load_contracts(folder)
    assert list(contracts) == ["customers", "orders"]
    assert contracts["orders"].personal_columns() == {"email"}
    assert lint_contract(folder / "orders.yaml") == []


@pytest.mark.parametrize(
    ("old", "new", "line", "field", "says"),
    [
        ("type: text}\n  customer", "type: txt}\n  customer", 4, "columns.order_id.type", "Input should be"),
        (
            "nulls: {at_most: 0.3",
            "nulls: {at_most: 3",
            5,
            "columns.customer_id.nulls.at_most",
            "less than or equal",
        ),
        (
            "severity: warning",
            "severity: fatal",
            5,
            "columns.customer_id.nulls.severity",
            "'critical', 'warning'",
        ),
        ("format: {name: email}", "format: {}", 6, "columns.email.format", "exactly one of name and pattern"),
        ("format: {name: email}", "formt: {name: email}", 6, "columns.email.formt", "there is no such key"),
        ("format: {name: email}", "format: {pattern: '(?=x)'}", 6, "columns.email.format.pattern", "RE2"),
        (
            "format: {name: email}",
            "allowed: {values: [a]}",
            6,
            "columns.email.allowed",
            "copied into every result",
        ),
        (
            "format: {name: email}",
            "range: {min: 1}",
            6,
            "columns.email.range",
            "does not fit a column of type text",
        ),
        (
            "type: timestamp",
            "type: text",
            7,
            "columns.ordered_at.dates",
            "does not fit a column of type text",
        ),
        (
            "references: customers",
            "references: clients",
            9,
            "foreign_keys.0.references",
            "no contract of a table",
        ),
        (
            "referred: [customer_id]",
            "referred: [id]",
            9,
            "foreign_keys.0.references",
            "customers has no column 'id'",
        ),
        ("referred: [customer_id]", "referred: [a, b]", 9, "foreign_keys.0", "1 columns refer to 2"),
        (
            "{columns: [customer_id]",
            "{columns: [cust]",
            9,
            "foreign_keys.0.columns",
            "there is no column 'cust'",
        ),
        ("primary_key: [order_id]", "primary_key: [id]", 2, "primary_key", "there is no column 'id'"),
        (
            "primary_key: [order_id]",
            "primary_key: [email]",
            6,
            "columns.email.personal",
            "quoted in findings",
        ),
        (
            "format: {name: email}",
            "no_addresses: {}",
            6,
            "columns.email.no_addresses",
            "holds personal data",
        ),
        (
            "order_id: {type: text}",
            "order_id: {type: text, drift: {}}",
            4,
            "columns.order_id.drift",
            "none are named",
        ),
        (
            "type: timestamp,",
            "type: timestamp, fresh: {within_minutes: soon},",
            7,
            "columns.ordered_at.fresh.within_minutes",
            "valid integer",
        ),
        ("table: orders", "table: order", 1, "table", "the file is not named order.yaml"),
        ("2010-01-01", "2010-13-01", 1, "the contract", "a value is impossible"),
        ("columns:", "columns", 4, "the contract", "not valid YAML"),
        (GOOD, "", 1, "the contract", "it is empty"),
    ],
)
def test_a_mistake_names_file_line_field_and_fix(
    folder: Path, old: str, new: str, line: int, field: str, says: str
) -> None:
    path = folder / "orders.yaml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new, 1))
    problems = lint_contract(path)
    found = [problem for problem in problems if problem.field == field]
    assert found, [str(problem) for problem in problems]
    assert (found[0].file, found[0].line) == (str(path), line)
    assert says in str(found[0])
    assert found[0].fix
    with pytest.raises(ContractError) as raised:
        load_contracts(folder)
    assert f"orders.yaml:{line}: {field}: " in str(raised.value)
    assert raised.value.exit_code == 2


@pytest.mark.parametrize(
    ("rule", "field", "says"),
    [
        (
            "row_rules: [{name: a, says: x, holds: 'true; DROP', columns: [order_id]}]",
            "row_rules.0.holds",
            "one expr",
        ),
        (
            "row_rules: [{name: a, says: x, holds: 'true', columns: [nope]}]",
            "row_rules.0.columns",
            "no column 'nope'",
        ),
        (
            "row_rules: [{name: a, says: x, holds: \"email <> 'bob'\", columns: [email]}]",
            "row_rules.0.holds",
            "personal column email",
        ),
        (
            "row_rules: [{name: a, says: x, holds: 'true', columns: [email]},"
            " {name: a, says: x, holds: 'true', columns: [email]}]",
            "row_rules.1.name",
            "taken",
        ),
        (
            "row_rules: [{name: a, says: x, holds: 'customer_id > emial', columns: [email]}]",
            "row_rules.0.holds",
            "DuckDB does not take it",
        ),
        (
            "has_rows: [{name: a, table: customers, by: {customer_id: customer_id}, where: 'nope = 1'}]",
            "has_rows.0.where",
            "DuckDB does not take it",
        ),
        (
            "no_rows: [{name: a, says: x, finds: 'SELECT order_id, email FROM orders'}]",
            "no_rows.0.finds",
            "it gives 2 columns, the key has 1",
        ),
        (
            "no_rows: [{name: a, says: x, finds: 'DELETE FROM orders'}]",
            "no_rows.0.finds",
            "it must be one SELECT",
        ),
        (
            "no_rows: [{name: a, says: x, finds: \"SELECT * FROM read_csv('/etc/passwd')\"}]",
            "no_rows.0.finds",
            "disabled",
        ),
        (
            "consent: {person: customer_id, column: order_id, blocked: [x], since: nope}",
            "consent.since",
            "no column 'nope'",
        ),
        (
            "consent: {person: customer_id, column: order_id, blocked: [x], since: ordered_at, covered_by: customers}",
            "consent.covered_by",
            "says nothing of consent",
        ),
        ("unique_together: [{columns: [order_id, x]}]", "unique_together.0.columns", "no column 'x'"),
        (
            "adds_up: [{name: s, column: customer_id, table: customers, sum_of: x, by: {order_id: customer_id}}]",
            "adds_up.0.table",
            "customers has no column 'x'",
        ),
    ],
)
def test_a_rule_that_cannot_work_is_found_before_any_data_is_read(
    folder: Path, rule: str, field: str, says: str
) -> None:
    path = folder / "orders.yaml"
    path.write_text(GOOD + rule + "\n")
    (problem,) = lint_contract(path)
    assert problem.field == field
    assert says in problem.problem


def test_yaml_cannot_run_code(folder: Path) -> None:
    path = folder / "orders.yaml"
    path.write_text("table: !!python/object/apply:os.system ['true']\n")
    assert "not valid YAML" in lint_contract(path)[0].problem


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="There are no contracts"):
        load_contracts(tmp_path)


def test_all_problems_of_all_files_are_told_at_once(folder: Path) -> None:
    (folder / "orders.yaml").write_text(GOOD.replace("type: text", "type: txt"))
    (folder / "customers.yaml").write_text(CUSTOMERS.replace("integer", "int"))
    with pytest.raises(ContractError) as raised:
        load_contracts(folder)
    assert "orders.yaml:4" in str(raised.value)
    assert "customers.yaml:4" in str(raised.value)


def test_the_schema_describes_every_key_for_editors() -> None:
    schema = json.loads(contract_schema())
    assert schema["required"] == ["table", "primary_key", "columns"]
    parts = [schema, *schema["$defs"].values()]
    bare = [
        (part.get("title"), name)
        for part in parts
        for name, field in part.get("properties", {}).items()
        if not field.get("description")
    ]
    assert bare == []


@pytest.mark.parametrize("kind", ["shop", "listmonk"])
def test_the_shipped_contracts_cover_every_table_and_column_of_the_sample(kind: str) -> None:
    from tasks.drills.esp import schema as esp
    from tasks.drills.shop import METADATA

    folder = default_contracts(kind)
    assert folder is not None
    contracts = load_contracts(folder)
    tables = (METADATA if kind == "shop" else esp.METADATA).tables
    assert set(contracts) == set(tables)
    for name, table in tables.items():
        assert list(contracts[name].columns) == [column.name for column in table.columns]
        assert contracts[name].primary_key == [column.name for column in table.primary_key]
        declared = {(key.parent.name, key.column.table.name) for key in table.foreign_keys}
        checked = {(key.columns[0], key.references) for key in contracts[name].foreign_keys}
        assert declared <= checked, name
        assert all(column.description or name for name, column in contracts[name].columns.items())


def test_the_shipped_contracts_cover_every_table_and_column_of_an_export() -> None:
    from tasks.plan.models import EXPORT_MAPPINGS
    from tasks.providers import EXPORT_TABLES

    for kind, tables in EXPORT_TABLES.items():
        folder = default_contracts(EXPORT_MAPPINGS[kind])
        assert folder is not None
        assert lint_contracts(folder) == []
        contracts = load_contracts(folder)
        assert set(contracts) == {one.name for one in tables if one.key}, (
            "a table without a key has no contract"
        )
        for table in tables:
            if table.key:
                assert list(contracts[table.name].columns) == [*(one.name for one in table.columns), "other"]
                assert contracts[table.name].primary_key == list(table.key)


def test_there_are_no_default_contracts_for_an_unknown_source() -> None:
    assert default_contracts("none") is default_contracts("") is None


def test_a_contract_survives_the_way_through_json_and_yaml(folder: Path) -> None:
    contract = load_contracts(folder)["orders"]
    again: Any = yaml.safe_load(yaml.safe_dump(contract.model_dump(mode="json")))
    assert Contract.model_validate(again) == contract


@pytest.mark.parametrize(
    ("address", "good"),
    [
        ("c12346@shop.example", True),
        ("first.last+tag@sub.domain.co", True),
        ("o'neil@x-y.example", True),
        ("a@b", False),
        ("@b.example", False),
        ("a@.example", False),
        ("a@b..example", False),
        ("a b@c.example", False),
        ("a@b.example ", False),
        ("a@b.example\n", False),
        ("a@-b.example", False),
        ("a@b@c.example", False),
        ("a@b.1", False),
        ("", False),
    ],
)
def test_the_email_format(address: str, good: bool) -> None:
    import duckdb

    with duckdb.connect() as connection:
        (matches,) = connection.execute(
            "SELECT regexp_matches(?, ?)", [address, FORMATS["email"]]
        ).fetchall()[0]
    assert matches is good
