"""What a provider's export is: its tables as data, and the steps that read them, each of which can be taken up again.

A step is asked for one part after the other. Everything it needs to go on lies in the cursor that came with the part
before, so that whoever keeps parts and cursors together can be killed anywhere. Pages are held against each other:
rows that move while they are read, and totals that lie, are noticed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol, runtime_checkable

from tasks.providers.errors import ProviderRefused
from tasks.providers.http import JsonApi
from tasks.providers.shapes import Row, integer, mapping, rows_of

ColumnKind = Literal["text", "integer", "boolean", "time", "json"]
Cursor = dict[str, Any]

_BACKS = 10
"""How often a reading goes back without getting further, before it begins again."""


@dataclass(frozen=True)
class ExportColumn:
    """One column of an exported table, called as the provider calls it.

    Attributes:
        kind: `time` is an instant in UTC, an empty one is none; `json` is a document or list as JSON text.
    """

    name: str
    kind: ColumnKind = "text"


@dataclass(frozen=True)
class ExportTable:
    """A table that an export gives; what the provider sends beside its columns is kept as JSON in `other`.

    Attributes:
        about: what a row is.
        key: the columns that name a row (one or two), all of them text or all of them numbers; empty where the
            provider gives none: rows are then numbered as they come.
        changed: the column that says when a row last changed; empty where none does.
    """

    name: str
    about: str
    columns: tuple[ExportColumn, ...]
    key: tuple[str, ...]
    changed: str = ""


@dataclass(frozen=True)
class Part:
    """What a step gave at once.

    Attributes:
        rows: as the provider has them.
        then: where the step goes on; None when it is done.
        promised: the fewest and the most rows that the whole step has by what the provider promised; None where it
            promises nothing.
    """

    rows: Iterable[Row]
    then: Cursor | None
    promised: tuple[int, int] | None = None


@dataclass(frozen=True)
class Look:
    """What a step may know when it is asked for a part.

    Attributes:
        at: the cursor; empty at the beginning.
        seen: whether the step has given this row already.
    """

    at: Cursor
    seen: Callable[[Row], bool]


@dataclass(frozen=True)
class Step:
    """One reading of a table. A row that a later step of the same table gives replaces the earlier one.

    Attributes:
        name: what is read, for progress.
        optional: whether the provider may not offer it (HTTP 404): the table is then left out.
        consent: whether it tells who must not be mailed: every opt-out before the first of these steps is kept.
    """

    name: str
    table: str
    read: Callable[[Look], Part]
    optional: bool = False
    consent: bool = False


class RowsMoved(Exception):
    """Rows came or went before the place that was read: the step begins again."""


class Export(Protocol):
    """All that a provider can give of an account."""

    @property
    def tables(self) -> Sequence[ExportTable]:
        """The tables."""

    def steps(self, started: datetime) -> Sequence[Step]:
        """Return the steps in their order for an export that began at `started`; what tells consent comes last."""


@runtime_checkable
class Exporting(Protocol):
    """A connector that can export."""

    def export(self) -> Export:
        """Return what can be exported; nothing is asked yet."""


def columns(**kinds: str) -> tuple[ExportColumn, ...]:
    """Return columns from `kind="name name …"`."""
    return tuple(ExportColumn(name, kind) for kind, names in kinds.items() for name in names.split())  # type: ignore[arg-type]


def overlapping_pages(api: JsonApi, path: str, key: str, size: int, **params: Any) -> Callable[[Look], Part]:
    """Read a list by offset, in the order of making, each page beginning with the last row of the one before.

    If that row is not there, rows before it went meanwhile: the reading goes back a page. New rows come at the end.
    """
    where = f"{api.name}: GET {path}"

    def read(look: Look) -> Part:
        offset, far, backs = (int(look.at.get(name, 0)) for name in ("offset", "far", "backs"))
        asked = params | {"limit": size, "offset": offset, "sort": "asc"}
        answer = mapping(api.get(path, asked), where)
        rows, total = rows_of(answer, where, key), integer(answer, "count", where)
        promised = total, max(total, int(look.at.get("most", 0)))
        if offset and not (look.seen(rows[0]) if rows else total > offset):
            if backs == _BACKS:
                raise RowsMoved
            back = {"offset": max(0, offset - size), "far": far, "backs": backs + 1, "most": promised[1]}
            return Part((), back, promised)
        reached = offset + len(rows)
        # A full page says nothing of what comes after it, whatever was promised.
        if len(rows) < (2 if reached < total else size):
            return Part(rows, None, promised)
        backs = 0 if reached > far else backs
        then = {"offset": reached - 1, "far": max(far, reached), "backs": backs, "most": promised[1]}
        return Part(rows, then, promised)

    return read


def numbered_pages(
    api: JsonApi, path: str, size: int, page_size: str = "per_page", **params: Any
) -> Callable[[Look], Part]:
    """Read a list of `results` by page number, oldest first; at the end an earlier page must stand where it stood."""
    where = f"{api.name}: GET {path}"

    def page(number: int) -> tuple[list[Row], int]:
        answer = mapping(api.get(path, {**params, "page": number, page_size: size}), where)
        return rows_of(answer, where, "results"), integer(answer, "total", where)

    def read(look: Look) -> Part:
        number = int(look.at.get("page", 1))
        rows, total = page(number)
        promised = total, max(total, int(look.at.get("most", 0)))
        if number > 1 and total < int(look.at["total"]):
            raise RowsMoved
        first = rows[0].get("id") if rows else None
        # A full page says nothing of what comes after it, whatever was promised.
        if rows and (number * size < total or len(rows) >= size):
            then = {"page": number + 1, "most": promised[1], "total": total, "first": first}
            return Part(rows, then, promised)
        if number > 1:
            before, _ = page(number - 1)
            if not before or before[0].get("id") != look.at["first"]:
                raise RowsMoved
        return Part(rows, None, promised)

    return read


def rising_ids(api: JsonApi, path: str, size: int) -> Callable[[Look], Part]:
    """Read a list of `results` by rising id, up to an empty page."""
    where = f"{api.name}: GET {path}"

    def read(look: Look) -> Part:
        after = int(look.at.get("after_id", 0))
        rows = rows_of(api.get(path, {"after_id": after, "limit": size}), where, "results")
        numbers = [integer(row, "id", where) for row in rows]
        if numbers != sorted(numbers) or any(one <= after for one in numbers):
            raise RowsMoved
        return Part(rows, {"after_id": numbers[-1]} if rows else None)

    return read


def is_missing(error: Exception) -> bool:
    """Return whether an answer says that the provider has no such thing."""
    return isinstance(error, ProviderRefused) and error.status in (404, 405)
