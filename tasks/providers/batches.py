"""Batches of scheduled mail that our own systems handed to a provider: it does not list them, so the shop does."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tasks.core import UsageError

_COLUMNS = ("batch_id", "name", "send_at", "people")


@dataclass(frozen=True)
class Batch:
    """Messages that wait at the provider under one id until `send_at`.

    Attributes:
        people: how many messages it holds.
        latest_useful_at: after it they must not go out; None where the file does not say.
    """

    id: str
    name: str
    send_at: datetime
    people: int
    kind: str = "other"
    latest_useful_at: datetime | None = None


def read_batches(path: Path) -> list[Batch]:
    """Return the batches that the CSV file `path` lists: batch_id, name, send_at, people[, kind, useful_until].

    Raises:
        UsageError: the file cannot be read, or a line of it says something else.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"The file with the batches cannot be read: {error}",
            where=str(path),
            fix="write it, or leave `batches` out of the plan",
        ) from None
    return [_batch(row, f"{path}, line {number}") for number, row in enumerate(rows, 2)]


def _batch(row: dict[str, str | None], where: str) -> Batch:
    cells = {name: (value or "").strip() for name, value in row.items() if isinstance(name, str)}
    if missing := [name for name in _COLUMNS if not cells.get(name)]:
        raise UsageError(
            f"A batch has no {', '.join(missing)}", where=where, fix=f"its columns are {', '.join(_COLUMNS)}"
        )
    if not cells["people"].isdigit():
        raise UsageError(f"people is no number: {cells['people']!r}", where=where)
    return Batch(
        cells["batch_id"],
        cells["name"],
        _moment(cells["send_at"], where),
        int(cells["people"]),
        kind=cells.get("kind") or "other",
        latest_useful_at=_moment(cells["useful_until"], where) if cells.get("useful_until") else None,
    )


def _moment(text: str, where: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"No time: {text!r}", where=where, fix="write it as 2026-11-24T08:12:00+00:00"
        ) from None
    if moment.tzinfo is None:
        raise UsageError(f"A time without a zone: {text!r}", where=where, fix="add +00:00 for UTC")
    return moment
