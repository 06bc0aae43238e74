"""One table read from two places: how rows of the one are written to the other, and a text by which both compare.

The same column may be read in two ways: another cast, another type after ALTER, another kind of database.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import time
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc

from tasks.sources.columns import Unfit, sql_literal
from tasks.sources.errors import SourceError
from tasks.sources.facts import ColumnFacts
from tasks.sources.json_text import canonical
from tasks.sources.porting import uuid_text
from tasks.sources.sqlite_values import stored_values

Change = Callable[[pa.Array], pa.Array]


@dataclass(frozen=True)
class ReadColumn:
    """A column as it was read.

    Args:
        facts: what is known of it, the cast included.
        arrow: the Arrow type of its values.
        dialect: the kind of database it was read from.
        respelled: whether it holds JSON that another kind of database spells in its own way.
    """

    facts: ColumnFacts
    arrow: pa.DataType
    dialect: str
    respelled: bool = False


def adapted(column: ReadColumn, into: ReadColumn, table: str) -> tuple[ReadColumn, Change]:
    """Return `column` as it is written to `into`, and what makes its values so.

    The change raises `SourceError` for a value that `into` cannot hold; `table` is named then.
    """
    facts = replace(into.facts, cast=column.facts.cast, form=column.facts.form)
    respelled = column.dialect != into.dialect and "jsonb" in (
        column.facts.source_type,
        into.facts.source_type,
    )
    as_it_is = ReadColumn(facts, column.arrow, into.dialect, respelled)
    casts = {column.facts.cast, into.facts.cast}
    same_kind = column.dialect == into.dialect
    if same_kind and (into.dialect == "sqlite" or column.arrow == into.arrow or "text" in casts):
        return as_it_is, lambda array: array
    if into.facts.cast == "text" and not pa.types.is_string(column.arrow):
        return replace(as_it_is, facts=replace(facts, cast=None)), lambda array: array

    def change(array: pa.Array) -> pa.Array:
        try:
            return _cast(array, column, into)
        except (Unfit, pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
            raise SourceError(
                f"A value of type {column.facts.source_type} cannot be written as {into.facts.source_type}",
                where=f"{table}.{column.facts.name}",
                fix="nothing was changed; leave the table out, or restore it into an empty database",
            ) from None

    return ReadColumn(into.facts, into.arrow, into.dialect, respelled), change


def comparable(ways: Sequence[ReadColumn]) -> list[Change]:
    """Return for each way in which one column was read what turns its values into bytes that compare across all."""
    if any(one.respelled for one in ways):
        return [_json] * len(ways)
    if all((one.arrow, one.facts.cast, one.facts.form) == _way(ways[0]) for one in ways):
        return [_text] * len(ways)
    if all(one.dialect == "sqlite" for one in ways):
        return [_literals(one.facts, ways[-1].facts.source_type) for one in ways]
    native = next((one for one in ways if one.facts.cast != "text"), None)
    return [_parsed(native) if native and one.facts.cast == "text" else _text for one in ways]


def _way(column: ReadColumn) -> tuple[pa.DataType, str | None, str | None]:
    return column.arrow, column.facts.cast, column.facts.form


def _text(array: pa.Array) -> pa.Array:
    if pa.types.is_binary(array.type):
        return array
    text = uuid_text(array) if array.type == pa.uuid() else pc.cast(array, pa.string())
    return pc.cast(text, pa.binary())


def _json(array: pa.Array) -> pa.Array:
    """Return documents in one spelling: a `jsonb` does not keep the one that it was given."""

    def one(text: str | None) -> str | None:
        try:
            return None if text is None else canonical(text)
        except (ValueError, RecursionError):
            return text

    return pc.cast(pa.array(map(one, pc.cast(array, pa.string()).to_pylist()), pa.string()), pa.binary())


def _parsed(native: ReadColumn) -> Change:
    """Return what reads text as `native` was read, value by value where some cannot be read so."""

    def one(value: pa.Array) -> pa.Array:
        try:
            return _text(_read(value, native))
        except (pa.ArrowInvalid, Unfit):
            return pc.cast(value, pa.binary())

    def change(array: pa.Array) -> pa.Array:
        try:
            return _text(_read(array, native))
        except (pa.ArrowInvalid, Unfit):
            return pa.concat_arrays([one(array.slice(at, 1)) for at in range(len(array))])

    return change


def _read(array: pa.Array, native: ReadColumn) -> pa.Array:
    if native.arrow == pa.uuid():
        return _uuids(array)
    if pa.types.is_time(native.arrow):
        try:
            return pa.array(map(_time, array.to_pylist()), native.arrow)
        except ValueError:
            raise Unfit from None
    return pc.cast(array, native.arrow)


def _time(text: str | None) -> time | None:
    if text is not None and text.startswith("24"):
        raise ValueError  # the end of the day is not its beginning
    return None if text is None else time.fromisoformat(text)


def _literals(facts: ColumnFacts, declared: str) -> Change:
    """Return what gives the literals of the values that SQLite stores in a column of the type `declared`."""
    mark = "CAST(? AS TEXT)" if facts.cast == "bytes" else "?"

    def change(array: pa.Array) -> pa.Array:
        connection = sqlite3.connect(":memory:", isolation_level=None)
        connection.text_factory = _spelled
        try:
            connection.execute(f"CREATE TABLE t (v {declared})")
            connection.execute("BEGIN")
            connection.executemany(
                f"INSERT INTO t VALUES ({mark})",  # noqa: S608
                ((value,) for value in stored_values(array, facts)),
            )
            values = [row[0] for row in connection.execute("SELECT v FROM t ORDER BY rowid")]
        finally:
            connection.close()
        told = [f"CAST(X'{one.hex()}' AS TEXT)" if isinstance(one, bytearray) else None for one in values]
        plain = sql_literal([None if text else one for one, text in zip(values, told, strict=True)])
        return pc.cast(pc.coalesce(pa.array(told, pa.string()), plain), pa.binary())

    return change


def _spelled(raw: bytes) -> str | bytearray:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return bytearray(raw)  # text that is not UTF-8; a blob comes as bytes


def _cast(array: pa.Array, column: ReadColumn, into: ReadColumn) -> pa.Array:
    if column.facts.cast == "sql_literal":
        array = _array(stored_values(array, column.facts), into.arrow)
    if into.facts.cast == "sql_literal":
        return sql_literal(_plain(array))
    if array.type == pa.uuid():
        array = uuid_text(array)
    if into.arrow == pa.uuid():
        return _uuids(array)
    if pa.types.is_binary(array.type) and not pa.types.is_binary(into.arrow):
        raise Unfit
    return pc.cast(array, into.arrow)


def _uuids(array: pa.Array) -> pa.Array:
    try:
        values = [None if one is None else UUID(one).bytes for one in array.to_pylist()]
    except (ValueError, AttributeError, TypeError):
        raise Unfit from None
    return pa.ExtensionArray.from_storage(pa.uuid(), pa.array(values, pa.binary(16)))


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        raise Unfit from None


def _plain(array: pa.Array) -> list[Any]:
    """Return the values as Python's own numbers, text or bytes."""
    kind = array.type
    if pa.types.is_integer(kind) or pa.types.is_float64(kind) or pa.types.is_binary(kind):
        return array.to_pylist()  # type: ignore[no-any-return]
    if pa.types.is_boolean(kind):
        return pc.cast(array, pa.int8()).to_pylist()  # type: ignore[no-any-return]
    return pc.cast(array, pa.string()).to_pylist()  # type: ignore[no-any-return]
