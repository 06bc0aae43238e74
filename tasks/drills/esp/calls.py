"""What every handler of the simulated API gets and answers with, and the small rules that they share."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from starlette.responses import Response

from tasks.drills.esp.engine import Engine
from tasks.drills.esp.schema import LISTS

DEFAULT_PER_PAGE = 20
MAX_PER_PAGE = 50
DEFAULT_FROM = "Example Shop <news@shop.example>"


class Refused(Exception):
    """The answer is an error: an HTTP status and listmonk's message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass
class Call:
    """One request, as the handlers see it: no HTTP in them."""

    engine: Engine
    connection: sa.Connection
    now: datetime
    path: Mapping[str, Any]
    query: Mapping[str, list[str]]
    body: Any = None

    def text(self, name: str, default: str = "") -> str:
        """Return a query parameter."""
        return self.query.get(name, [default])[0]

    def numbers(self, *names: str) -> list[int]:
        """Return repeated query parameters as whole numbers.

        Raises:
            Refused: one is not a number.
        """
        try:
            return [int(one) for name in names for one in self.query.get(name, [])]
        except ValueError:
            raise Refused(400, "Invalid ID") from None

    def fields(self) -> dict[str, Any]:
        """Return the JSON object in the body.

        Raises:
            Refused: it is not one.
        """
        if not isinstance(self.body, dict):
            raise Refused(400, "invalid request")
        return self.body

    def id(self) -> int:
        """Return the id in the path.

        Raises:
            Refused: it is not a positive number.
        """
        try:
            found = int(self.path["id"])
        except ValueError:
            raise Refused(400, "Invalid ID") from None
        if found < 1:
            raise Refused(400, "Invalid ID")
        return found


Handler = Callable[[Call], Any]


def require_consent_works(call: Call) -> None:
    """Raise if the fault `unsubscribe_failing` is on.

    Raises:
        Refused: it is.
    """
    if "unsubscribe_failing" in call.engine.faults:
        raise Refused(500, "Error processing request. Please retry.")


def existing_lists(call: Call, lists: Sequence[int]) -> list[int]:
    """Return those of `lists` that exist."""
    return list(call.connection.scalars(sa.select(LISTS.c.id).where(LISTS.c.id.in_(lists))))


def page_of(
    call: Call,
    query: sa.Select[Any],
    key: sa.ColumnElement[Any],
    row_json: Callable[[sa.Row[Any]], dict[str, Any]] | None,
    rows_json: Callable[[Call, Sequence[sa.Row[Any]]], list[dict[str, Any]]] | None = None,
) -> dict[str, Any]:
    """Return one page: default 20 rows, at most 50, `per_page=all` for everything; newest first unless asked."""
    try:
        page = max(1, int(call.text("page", "1")))
        wanted = call.text("per_page", str(DEFAULT_PER_PAGE))
        per_page = 0 if wanted == "all" else min(MAX_PER_PAGE, int(wanted))
    except ValueError:
        raise Refused(400, "Invalid page") from None
    if per_page < 1 and wanted != "all":
        per_page = DEFAULT_PER_PAGE
    total = call.connection.scalar(sa.select(sa.func.count()).select_from(query.subquery())) or 0
    columns = {column.key: column for column in query.selected_columns}
    by = call.text("order_by")
    chosen = columns[by] if by in ("name", "status", "created_at", "updated_at") and by in columns else key
    rising = call.text("order").upper() == "ASC"
    query = query.order_by(chosen.asc() if rising else chosen.desc(), key.asc() if rising else key.desc())
    if per_page:
        query = query.limit(per_page).offset((page - 1) * per_page)
    rows = call.connection.execute(query).all()
    results = [row_json(row) for row in rows] if row_json else (rows_json(call, rows) if rows_json else [])
    return {
        "results": results,
        "query": call.text("query"),
        "total": total,
        "per_page": per_page or total,
        "page": page,
    }


def with_id(call: Call, number: int) -> Call:
    """Return the same call for the thing with id `number`."""
    return Call(call.engine, call.connection, call.now, dict(call.path) | {"id": number}, {})


def name_of(fields: Mapping[str, Any], refusal: str) -> str:
    """Return the name in the body.

    Raises:
        Refused: with `refusal`, if it is missing or too long.
    """
    name = str(fields.get("name") or "").strip()
    if not name or len(name) > 254:
        raise Refused(400, refusal)
    return name


def choice_of(fields: Mapping[str, Any], name: str, known: Sequence[str]) -> str:
    """Return the field, its first known value where it is missing."""
    value = fields.get(name) or known[0]
    if value not in known:
        raise Refused(400, f"Invalid `{name}`.")
    return str(value)


def strings_of(value: Any) -> list[str]:
    """Return a JSON list as texts; anything else is an empty list."""
    return [str(item) for item in value] if isinstance(value, list) else []


def integers_of(value: Any) -> list[int]:
    """Return a JSON list as whole numbers; what is not a list is an empty one.

    Raises:
        Refused: something in it is not a whole number.
    """
    found = value if isinstance(value, list) else []
    if any(isinstance(item, bool) or (item is not None and not isinstance(item, int)) for item in found):
        raise Refused(400, "Invalid ID")
    return [item for item in found if item is not None]


def time_json(moment: datetime | None) -> str | None:
    """Return a stored time as the API shows it: RFC 3339 in UTC."""
    return None if moment is None else moment.isoformat() + "Z"


def parse_time(value: Any) -> datetime | None:
    """Return a time of a request as it is stored; one without a zone is UTC, an empty one None.

    Raises:
        Refused: it is not a time.
    """
    if not value:
        return None
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        raise Refused(400, "Invalid date") from None
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def csv_answer(header: Sequence[str], rows: Any) -> Response:
    """Return rows as a CSV file."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    return Response(text.getvalue(), media_type="text/csv")
