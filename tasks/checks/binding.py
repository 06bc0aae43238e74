"""Whether the SQL in contracts can be asked at all: DuckDB binds it against empty tables of the contracts' types."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from tasks.checks.contracts import ColumnType, Contract
from tasks.checks.sql import quote

if TYPE_CHECKING:
    import duckdb

_TYPES: dict[ColumnType, str] = {
    "text": "VARCHAR",
    "integer": "BIGINT",
    "decimal": "DECIMAL(38, 9)",
    "number": "DOUBLE",
    "boolean": "BOOLEAN",
    "timestamp": "TIMESTAMP",
    "date": "DATE",
    "time": "TIME",
    "json": "VARCHAR",
    "binary": "BLOB",
}


class Binder:
    """Tries SQL on empty tables; opens DuckDB only when something is tried.

    Args:
        contracts: the tables that the SQL may name.
    """

    def __init__(self, contracts: Mapping[str, Contract]) -> None:
        self._contracts = contracts
        self._open = lru_cache(maxsize=1)(self._connect)

    def condition(self, table: str, condition: str) -> str:
        """Return what is wrong with a condition on the rows of `table`; empty if nothing."""
        return self._tried(f"SELECT 1 FROM {quote(table)} WHERE ({condition})", 1)  # noqa: S608

    def query(self, sql: str, columns: int) -> str:
        """Return what is wrong with a SELECT that must give so many columns; empty if nothing."""
        return self._tried(sql, columns)

    def _tried(self, sql: str, columns: int) -> str:
        import duckdb

        try:
            statements = self._open().extract_statements(sql)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                return "it must be one SELECT"
            found = len(self._open().execute(f"DESCRIBE {sql}").fetchall())
        except duckdb.Error as error:
            return str(error).splitlines()[0]
        return "" if found == columns else f"it gives {found} columns, the key has {columns}"

    def _connect(self) -> duckdb.DuckDBPyConnection:
        import duckdb

        connection = duckdb.connect(":memory:")
        for name, contract in self._contracts.items():
            columns = ", ".join(
                f"{quote(one)} {_TYPES[column.type]}" for one, column in contract.columns.items()
            )
            connection.execute(f"CREATE TABLE {quote(name)} ({columns})")
        connection.execute("SET enable_external_access = false")
        return connection
