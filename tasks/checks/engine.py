"""Great Expectations over DuckDB: the adapter it lacks, and the two expectations that are ours.

Importing this module imports Great Expectations (seconds, 140 MiB): only `running` does, when checks really run.
Three things keep stock Great Expectations 1.24 from DuckDB (its issues 10738 and 11579, open): it reads results
after closing the connection, it has no type module for the dialect, and it maps regular expressions to `~`, which
in DuckDB must match the whole text.
"""

from __future__ import annotations

import logging
import os
import tempfile
import types
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")

import duckdb
import duckdb_sqlalchemy
import great_expectations.expectations.metrics.column_map_metrics.column_values_match_regex as _match
import great_expectations.expectations.metrics.column_map_metrics.column_values_not_match_regex as _not_match
import great_expectations.expectations.metrics.util as _metrics
import sqlalchemy as sa
from great_expectations.datasource.fluent.sql_datasource import SQLDatasource
from great_expectations.execution_engine.sqlalchemy_execution_engine import SqlAlchemyExecutionEngine
from great_expectations.expectations.core.unexpected_rows_expectation import UnexpectedRowsExpectation

from tasks.checks.sql import quote
from tasks.snapshots import parquet_scan

_EngineType = type[SqlAlchemyExecutionEngine]
_MEMORY = "512MiB"
_MOST_THREADS = 4

# Its log quotes values of rows that make a query fail; what goes wrong is told by findings, without values.
sa.dialects.registry.register(
    "duckdb", "duckdb_sqlalchemy", "Dialect"
)  # or every installed package is looked through

logging.getLogger("great_expectations").setLevel(logging.CRITICAL)


class DuckDBExecutionEngine(SqlAlchemyExecutionEngine):
    """Runs the metrics of Great Expectations on Parquet files, each table a view, over one connection."""

    def __init__(self, *args: Any, tables: dict[str, list[str]] | None = None, **kwargs: Any) -> None:
        self.files = tables or {}
        if kwargs.get("engine") is None:
            kwargs.pop("connection_string", None)
            kwargs["engine"] = _open(self.files)
        super().__init__(*args, **kwargs)
        self.dialect_module = _TYPES

    @contextmanager
    def get_connection(self) -> Generator[sa.Connection, None, None]:
        """Give the one connection, which stays open: results are read after the block has ended."""
        if self._connection is None:
            self._connection = self.engine.connect()
        yield self._connection

    def fetch(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query of ours, on the same connection."""
        with self.get_connection() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(query)]

    @property
    def native(self) -> duckdb.DuckDBPyConnection:
        """DuckDB's own connection, below SQLAlchemy's."""
        with self.get_connection() as connection:
            held: Any = connection.connection.dbapi_connection
            native: duckdb.DuckDBPyConnection = held.native
            return native

    def dispose(self) -> None:
        """Close the connection and forget the views."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self.engine.dispose()


class DuckDBDatasource(SQLDatasource):
    """The data source `duckdb_parquet`: named tables, each a list of Parquet files."""

    type: Literal["duckdb_parquet"] = "duckdb_parquet"  # type: ignore[assignment]
    connection_string: str = "duckdb:///:memory:"
    tables: dict[str, list[str]] = {}  # noqa: RUF012 - a pydantic field, copied for each instance

    @property
    def execution_engine_type(self) -> _EngineType:
        """The engine that reads it."""
        return DuckDBExecutionEngine

    def get_engine(self) -> sa.Engine:
        """Return the execution engine's own database: a second one would not see the views."""
        return self.get_execution_engine().engine


class ExpectNoSuchRows(UnexpectedRowsExpectation):
    """At most `most_rows` rows come out of a query. Counts them only: no row leaves the engine."""

    most_rows: int = 0
    metric_dependencies: ClassVar[tuple[str, ...]] = ("unexpected_rows_query.row_count",)
    success_keys: ClassVar[tuple[str, ...]] = ("unexpected_rows_query", "most_rows")

    def _validate(
        self,
        metrics: dict[str, Any],
        runtime_configuration: dict[str, Any] | None = None,
        execution_engine: Any = None,
    ) -> dict[str, Any]:
        count = int(metrics["unexpected_rows_query.row_count"])
        return {"success": count <= self.most_rows, "result": {"observed_value": count}}


class ExpectColumnTypeFamily(ExpectNoSuchRows):
    """A column's type belongs to the family that the contract names; the query comes from `rules`."""


class _Held(duckdb_sqlalchemy.ConnectionWrapper):
    """DuckDB's connection as SQLAlchemy wants it, which still gives the connection itself."""

    def __init__(self, native: duckdb.DuckDBPyConnection) -> None:
        super().__init__(native)
        self.native = native


def _open(tables: dict[str, list[str]]) -> sa.Engine:
    """Open DuckDB in memory with a view per table; it may use `_MEMORY` and then the disk."""
    native = duckdb.connect(
        ":memory:",
        config={
            "memory_limit": _MEMORY,
            "threads": min(_MOST_THREADS, os.cpu_count() or 1),
            "temp_directory": str(Path(tempfile.gettempdir()) / f"mailstay-checks-{os.getpid()}.spill"),
        },
    )
    native.execute("SET TimeZone = 'UTC'")
    native.execute("SET enable_progress_bar = false")
    for name, files in tables.items():
        native.execute(f"CREATE VIEW {quote(name)} AS SELECT * FROM {parquet_scan(files)}")  # noqa: S608
    # AUTOCOMMIT: without it one failed query aborts the transaction for all that follow.
    return sa.create_engine(
        "duckdb:///:memory:",
        creator=lambda: _Held(native),
        poolclass=sa.pool.StaticPool,
        isolation_level="AUTOCOMMIT",
    )


def _types() -> types.ModuleType:
    module = types.ModuleType("mailstay_duckdb_types")
    for name in dir(sa.types):
        if name.isupper():
            setattr(module, name, getattr(sa.types, name))
    module.__dict__["dialect"] = duckdb_sqlalchemy.Dialect
    return module


def _regex(column: Any, regex: str, dialect: Any, positive: bool = True) -> Any:
    if getattr(dialect, "dialect", None) is duckdb_sqlalchemy.Dialect:
        # A UUID is a type of its own in DuckDB.
        found = sa.func.regexp_matches(sa.cast(column, sa.String), sa.literal(regex))
        return found if positive else sa.not_(found)
    return _STOCK_REGEX(column, regex, dialect, positive)


# It opens a database of its own to find out.
duckdb_sqlalchemy.has_comment_support = lambda: True  # type: ignore[attr-defined,assignment]
_TYPES = _types()
_STOCK_REGEX = _metrics.get_dialect_regex_expression
for _module in (_metrics, _match, _not_match):
    _module.get_dialect_regex_expression = _regex  # type: ignore[attr-defined]
