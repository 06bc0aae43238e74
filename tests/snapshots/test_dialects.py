"""Snapshots of MariaDB and DuckDB: proven, incremental, and restored into SQLite and PostgreSQL value for value."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest
import sqlalchemy as sa

from tasks.core import SystemClock, UsageError
from tasks.snapshots import Manifest, NotGivenBack, Store, export, merge, restore, take_snapshot, verify
from tasks.sources import open_source, open_target

MARIADB = [
    "SET sql_mode = '', time_zone = '+00:00'",
    "CREATE TABLE customers (id int unsigned AUTO_INCREMENT PRIMARY KEY, token bigint unsigned, email varchar(254)"
    " NOT NULL UNIQUE, born date, since timestamp(6) NULL, seen datetime(3), calls time, credit decimal(9,2),"
    " wide decimal(65,30), ratio float, score double, flags bit(33), kind enum('a','b'), tags set('x','y'), doc json,"
    " photo longblob, code uuid, joined year, twice decimal(10,2) AS (credit * 2) STORED)",
    "INSERT INTO customers (id, token, email, born, since, seen, calls, credit, wide, ratio, score, flags, kind, tags,"
    " doc, photo, code, joined) VALUES (7, 18446744073709551615, 'a@shop.example', '0000-00-00',"
    " '2011-11-16 07:00:00.000004', '2011-11-16 07:00:00.004', '838:59:59', -1.50,"
    " 12345678901234567890123456789012345.123456789012345678901234567890, 1.1, 0.1, b'111', 'b', 'x,y',"
    " '{\"a\": 1.10}', x'00ff', '5e4f3a2b-0000-0000-0000-000000000001', 2011),"
    " (9, NULL, 'ünï ''q''', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
    "CREATE TABLE orders (a varchar(9), b int, customer int unsigned, PRIMARY KEY (a, b),"
    " FOREIGN KEY (customer) REFERENCES customers (id))",
    "INSERT INTO orders VALUES ('x', 1, 7), ('X', 2, 9), ('é', 1, NULL)",
    'CREATE TABLE `Odd "name; --` (`a.b` text, `select` tinyint)',
    "INSERT INTO `Odd \"name; --` VALUES ('', 1), ('', 1), (NULL, NULL)",
]
DUCKDB = [
    "CREATE TABLE customers (id UINTEGER PRIMARY KEY, token UBIGINT, email VARCHAR NOT NULL UNIQUE, born DATE,"
    " since TIMESTAMPTZ, seen TIMESTAMP_MS, calls TIME, credit DECIMAL(9,2), wide UHUGEINT, ratio FLOAT, score DOUBLE,"
    " flags BIT, kind ENUM('a', 'b'), tags VARCHAR[], doc JSON, photo BLOB, code UUID, joined USMALLINT,"
    " twice DECIMAL(10,2) AS (credit * 2))",
    "INSERT INTO customers VALUES (7, 18446744073709551615, 'a@shop.example', 'infinity',"
    " '2011-11-16 07:00:00.000004+00', '2011-11-16 07:00:00.004', '24:00:00', -1.50,"
    " 340282366920938463463374607431768211455, 1.1, 0.1, '0111', 'b', ['x', 'y, z'], '{\"a\": 1.10}', '\\x00\\xFF',"
    " '5e4f3a2b-0000-0000-0000-000000000001', 2011)",
    "INSERT INTO customers (id, email) VALUES (9, 'ünï ''q''')",
    "CREATE TABLE orders (a VARCHAR, b INTEGER, customer UINTEGER REFERENCES customers (id), PRIMARY KEY (a, b))",
    "INSERT INTO orders VALUES ('x', 1, 7), ('X', 2, 9), ('é', 1, NULL)",
    'CREATE TABLE "Odd ""name; --" ("a.b" VARCHAR, "select" TINYINT)',
    "INSERT INTO \"Odd \"\"name; --\" VALUES ('', 1), ('', 1), (NULL, NULL)",
]


def run(url: str, *statements: str) -> None:
    if url.startswith("duckdb"):
        with duckdb.connect(url.removeprefix("duckdb:///")) as connection:
            for statement in statements:
                connection.execute(statement)
        return
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement.replace("%", "%%"))
    engine.dispose()


@pytest.fixture(params=[pytest.param("mysql", marks=pytest.mark.integration), "duckdb"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database with every kind of value, once in MariaDB and once in a DuckDB file."""
    if request.param == "mysql":
        made: str = request.getfixturevalue("new_mariadb")()
        run(made, *MARIADB)
    else:
        made = f"duckdb:///{tmp_path / 'shop.duckdb'}"
        run(made, *DUCKDB)
    return made


def snapshot(store: Store, url: str) -> Manifest:
    return take_snapshot(open_source("shop", url), store, clock=SystemClock(), plan_digest="0" * 64)


def selected(url: str, query: str) -> list[tuple[Any, ...]]:
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            return connection.execute(query).fetchall()
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.exec_driver_sql(query)]
    engine.dispose()
    return found


def test_a_snapshot_is_proven_and_the_next_one_stores_only_what_changed(store: Store, url: str) -> None:
    first, second = snapshot(store, url), snapshot(store, url)
    assert first.dialect == url.partition("+")[0].partition(":")[0]
    assert first.objects == second.objects
    assert verify(store, level="content").findings == []
    run(url, "INSERT INTO orders VALUES ('y', 1, 7)")
    third = snapshot(store, url)
    assert third.tables["customers"].objects == first.tables["customers"].objects
    assert third.tables["orders"].rows == 4


def test_it_is_restored_into_sqlite_value_for_value(store: Store, url: str, tmp_path: Path) -> None:
    target = f"sqlite:///{tmp_path / 'drill.db'}"
    taken = snapshot(store, url)
    result = restore(store, taken.snapshot_id, open_target(target), clock=SystemClock(), unproven=True)
    assert result.equal and result.rows == 8
    wide = {column.name: column.source_type for column in taken.tables["customers"].facts.columns}["wide"]
    columns = (
        "token, born, since, seen, calls, credit, wide, ratio, score, kind, doc, photo, code, joined, twice"
    )
    assert selected(target, f"SELECT {columns} FROM customers WHERE id = 7") == [(
        "18446744073709551615",
        "infinity" if wide == "UHUGEINT" else "0000-00-00",
        "2011-11-16 07:00:00.000004",
        "2011-11-16 07:00:00.004000",
        "24:00:00" if wide == "UHUGEINT" else "838:59:59",
        -1.5,
        str(2**128 - 1) if wide == "UHUGEINT" else f"{'1234567890' * 3}12345.{'1234567890' * 3}",
        1.100000023841858,
        0.1,
        "b",
        '{"a": 1.10}',
        b"\0\xff",
        "5e4f3a2b-0000-0000-0000-000000000001",
        2011,
        -3,
    )]  # fmt: skip
    lost = [one for table in result.tables for one in table.lost]
    assert "foreign keys" in lost and any("computed" in one for one in lost)


@pytest.mark.integration
def test_it_is_restored_into_postgresql_and_merged_into_it_later(
    store: Store, url: str, tmp_path: Path, new_database: Callable[[], str]
) -> None:
    target = new_database()
    name = snapshot(store, url).snapshot_id
    assert restore(store, name, open_target(target), clock=SystemClock(), unproven=True).equal
    columns = ", ".join(f"{one}::text" for one in ("token", "born", "since", "wide", "ratio", "code"))
    seven = f"SELECT {columns} FROM customers WHERE id = 7"
    [before] = selected(target, seven)
    assert before[0] == str(2**64 - 1) and before[2:] == (
        "2011-11-16 07:00:00.000004+00",
        before[3],
        "1.1",
        "5e4f3a2b-0000-0000-0000-000000000001",
    )
    run(
        target,
        "UPDATE customers SET token = 1, code = NULL, ratio = 2, flags = NULL WHERE id = 7",
        "DELETE FROM orders WHERE a = 'x'",
    )
    done = merge(
        store,
        name,
        open_target(target),
        tmp_path / "differences",
        clock=SystemClock(),
        mode="overwrite",
        apply=True,
        unproven=True,
    )
    assert {table.name: table.written for table in done.tables if table.written} == {
        "customers": 1,
        "orders": 1,
    }
    assert selected(target, seven) == [before]


def test_a_value_that_sqlite_has_not_is_not_restored_into_it(store: Store, tmp_path: Path) -> None:
    source = f"duckdb:///{tmp_path / 'd'}"
    run(source, "CREATE TABLE t (v DOUBLE)", "INSERT INTO t VALUES ('nan')")
    with pytest.raises(NotGivenBack, match="1 table: t"):
        restore(
            store,
            snapshot(store, source).snapshot_id,
            open_target(f"sqlite:///{tmp_path / 'drill.db'}"),
            clock=SystemClock(),
            unproven=True,
        )


@pytest.mark.parametrize("target", ["mysql://root@host/d", "duckdb:///d", "oracle://host/d"])
def test_a_restore_into_any_other_kind_says_what_is_possible(target: str) -> None:
    with pytest.raises(UsageError, match=r"does not write .* restore into SQLite or PostgreSQL"):
        open_target(target)


@pytest.mark.parametrize("form", ["csv", "delta"])
def test_it_can_be_exported(store: Store, url: str, tmp_path: Path, form: Any) -> None:
    name = snapshot(store, url).snapshot_id
    export(store, name, tmp_path / "out", form=form, unproven=True)
    assert any((tmp_path / "out").rglob("*customers*"))
