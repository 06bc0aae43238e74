"""Reading snapshots with DuckDB: raw tables under the alias of their snapshot, and the canonical model over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal, get_args

from tasks.core import UsageError
from tasks.snapshots.canonical import CANONICAL
from tasks.snapshots.store import Store

if TYPE_CHECKING:
    import duckdb

Mapped = Literal["shop", "listmonk", "listmonk_api", "brevo", "sendgrid"]

_MACROS = (
    # The numbers that connectors give to textual ids and to people (tasks/providers/shapes.py).
    "id_number(id) AS CAST(CAST('0x' || substr(sha256(id), 1, 16) AS UBIGINT) >> 11 AS BIGINT)",
    "person_number(customer, id) AS CASE"
    " WHEN regexp_full_match(trim(customer), '[0-9]+') AND TRY_CAST(trim(customer) AS HUGEINT) < 4611686018427387904"
    " THEN CAST(trim(customer) AS BIGINT)"
    " ELSE 4611686018427387904 + CAST(CAST('0x' || substr(sha256(id), 1, 16) AS UBIGINT) >> 2 AS BIGINT) END",
    # A column whose one value was no time holds JSON text.
    """moment(one) AS TRY_CAST(trim(CAST(one AS VARCHAR), '"') AS TIMESTAMPTZ)""",
)


def connect(store: Store, snapshots: Mapping[str, str]) -> duckdb.DuckDBPyConnection:
    """Return an in-memory DuckDB connection with one view per table, in a schema per alias.

    Every object is hashed before DuckDB may read it. Time zone is UTC.

    Args:
        store: the store to read.
        snapshots: snapshot id by alias, such as `{"shop": "shop/00000003"}`.

    Raises:
        SnapshotError: there is no such snapshot.
        Damaged: an object is missing or changed.
    """
    import duckdb

    connection = duckdb.connect(":memory:")
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET enable_progress_bar = false")  # it would go to standard output, among our JSON
    for alias, snapshot_id in snapshots.items():
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {_quoted(alias)}")
        taken: set[str] = set()
        for table in store.manifest(snapshot_id).tables:
            # DuckDB does not tell `Orders` from `orders`: the second gets a number.
            name, number = table, 1
            while name.lower() in taken:
                name, number = f"{table}_{number}", number + 1
            taken.add(name.lower())
            scan = parquet_scan(store.table_files(snapshot_id, table))
            connection.execute(f"CREATE VIEW {_quoted(alias)}.{_quoted(name)} AS SELECT * FROM {scan}")  # noqa: S608
    return connection


def query(store: Store, snapshots: Mapping[str, str], sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Return the column names and the rows that `sql` gives over snapshots, each a schema under its alias.

    Args:
        store: the store to read.
        snapshots: snapshot id by alias.
        sql: DuckDB SQL that reads; it can open no other file, load nothing and reach no network.

    Raises:
        UsageError: the SQL is wrong, or would do more than read.
    """
    import duckdb

    with connect(store, snapshots) as connection:
        files = [
            path
            for snapshot_id in snapshots.values()
            for table in store.manifest(snapshot_id).tables
            for path in store.table_files(snapshot_id, table)
        ]
        connection.execute(f"SET allowed_paths = [{', '.join(map(sql_text, files))}]")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        try:
            result = connection.execute(sql)
            names = [column[0] for column in result.description or []]
            return names, result.fetchall()
        except duckdb.Error as error:
            raise UsageError(
                f"DuckDB does not answer that: {str(error).splitlines()[0]}",
                fix="tables are named source.table; `mailstay snapshots show` lists them",
            ) from None


def parquet_scan(files: Sequence[str]) -> str:
    """Return the DuckDB expression that reads `files` as one table, and nothing but them.

    Without `hive_partitioning = false` DuckDB takes a folder such as `status=live` in the store's path for a column,
    in place of the table's own.
    """
    return f"read_parquet([{', '.join(sql_text(path) for path in files)}], hive_partitioning = false)"


def canonical_views(connection: duckdb.DuckDBPyConnection, alias: str, mapping: Mapped) -> list[str]:
    """Create the views `canonical.<table>` that the tables under `alias` give, and return their names.

    A table that the source lacks gives an empty view, so that whoever reads the model needs no special case.

    Args:
        connection: from `connect`.
        alias: the schema that holds the raw tables.
        mapping: which mapping of `tasks/snapshots/mappings/` applies.

    Raises:
        UsageError: there is no such mapping.
    """
    try:
        text = resources.files("tasks.snapshots").joinpath("mappings", f"{mapping}.sql").read_text("utf-8")
    except FileNotFoundError:
        raise UsageError(
            f"There is no mapping {mapping!r}", fix=f"use one of {', '.join(get_args(Mapped))}"
        ) from None
    present = {
        row[0].lower()
        for row in connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = ?", [alias]
        ).fetchall()
    }
    connection.execute("CREATE SCHEMA IF NOT EXISTS canonical")
    for macro in _MACROS:
        connection.execute(f"CREATE OR REPLACE MACRO canonical.{macro}")
    made: list[str] = []
    for table, needed, query in _statements(text):
        if table in made or not needed <= present:
            continue
        typed = ", ".join(f'CAST("{name}" AS {kind}) AS "{name}"' for name, kind, _ in CANONICAL[table])
        source = query.replace("{source}", _quoted(alias))
        connection.execute(f'CREATE OR REPLACE VIEW canonical."{table}" AS SELECT {typed} FROM ({source})')  # noqa: S608
        made.append(table)
    for table in {name for name, _, _ in _statements(text)} - set(made):
        empty = ", ".join(f'CAST(NULL AS {kind}) AS "{name}"' for name, kind, _ in CANONICAL[table])
        connection.execute(f'CREATE OR REPLACE VIEW canonical."{table}" AS SELECT {empty} WHERE false')
        made.append(table)
    return sorted(made)


def mapped_tables(mapping: str) -> frozenset[str]:
    """Return the canonical tables that a mapping gives; none for a source without one."""
    path = resources.files("tasks.snapshots").joinpath("mappings", f"{mapping}.sql")
    return (
        frozenset(name for name, _, _ in _statements(path.read_text("utf-8")))
        if path.is_file()
        else frozenset()
    )


def _statements(text: str) -> list[tuple[str, set[str], str]]:
    """Return (canonical table, raw tables it needs, query) of a mapping; the first whose tables are there is used."""
    found = []
    for block in text.split("-- canonical: ")[1:]:
        head, _, query = block.partition("\n")
        table, _, needed = head.partition(" from ")
        found.append((table.strip(), {one.strip() for one in needed.split(",")}, query.partition(";\n")[0]))
    return found


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def sql_text(value: str) -> str:
    """Return `value` as an SQL string."""
    return "'" + value.replace("'", "''") + "'"
