"""Choosing the reader or the writer for a database URL."""

from __future__ import annotations

from collections.abc import Callable, Collection

import sqlalchemy as sa

from tasks.core import UsageError
from tasks.sources.dialects import DialectSource
from tasks.sources.duck import DuckdbSource
from tasks.sources.mysql import MysqlSource
from tasks.sources.postgresql import PostgresqlSource
from tasks.sources.postgresql_target import PostgresqlTarget
from tasks.sources.reading import Source
from tasks.sources.sqlite import SqliteSource
from tasks.sources.sqlite_target import SqliteTarget
from tasks.sources.target import Target


def open_source(
    name: str,
    url: str,
    *,
    tables: Collection[str] = (),
    exclude: Collection[str] = (),
    schema: str | None = None,
) -> Source:
    """Return the source `name` at the SQLAlchemy `url`; nothing is connected before its `open`.

    Args:
        name: the source's name in the plan.
        url: `sqlite:///path`, `duckdb:///path`, `postgresql://user@host/database`, `mysql://user@host/database`, or
            that of any other dialect of SQLAlchemy that is installed.
        tables: the tables to read; none given means all.
        exclude: tables to leave out.
        schema: the schema; by default PostgreSQL's first of the role's search path, or the dialect's own.

    Raises:
        UsageError: the URL cannot be read.
    """
    parsed = _parsed(url, f"source {name}")
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        return SqliteSource(name, parsed, tuple(tables), tuple(exclude))
    kind = _SOURCES.get(backend, DialectSource)
    return kind(name, parsed, tuple(tables), tuple(exclude), schema)


_SOURCES: dict[str, Callable[[str, sa.URL, tuple[str, ...], tuple[str, ...], str | None], Source]] = {
    "postgresql": PostgresqlSource,
    "mysql": MysqlSource,
    "mariadb": MysqlSource,
    "duckdb": DuckdbSource,
}


def open_target(url: str, *, schema: str | None = None) -> Target:
    """Return the database at the SQLAlchemy `url` as something that tables can be written to.

    Args:
        url: `sqlite:///path` (the file may be new) or `postgresql://user@host/database`.
        schema: the PostgreSQL schema to write to, made if it is not there; by default the first of the search path.

    Raises:
        UsageError: the URL cannot be read, or names a kind of database that Mailstay does not write.
    """
    parsed = _parsed(url, "the database to restore into")
    if parsed.get_backend_name() == "sqlite":
        return SqliteTarget(parsed)
    if parsed.get_backend_name() == "postgresql":
        return PostgresqlTarget(parsed, schema)
    raise UsageError(
        f"Mailstay does not write {parsed.get_backend_name()} databases",
        fix="restore into SQLite or PostgreSQL, or `mailstay export` the tables to load them yourself",
    )


def _parsed(url: str, where: str) -> sa.URL:
    try:
        return sa.make_url(url)
    except sa.exc.ArgumentError:
        raise UsageError(
            "The database URL cannot be read", where=where, fix="write sqlite:///path or postgresql://…"
        ) from None
