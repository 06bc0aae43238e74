"""Taking an answer apart: what is not as the API promises it is an error that says where, never a guess."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from tasks.core import sha256_hex
from tasks.providers.errors import ProviderGarbled, ProviderRefused, ProviderUnavailable
from tasks.providers.http import Json

T = TypeVar("T")
Row = dict[str, Any]

_CHANGED_UNDERWAY = 3
CAMPAIGN_BITS = 53
"""A number that browsers and spreadsheets keep exactly."""
PERSON_BITS = 63


def mapping(data: Json, where: str) -> Row:
    """Return `data` if it is an object."""
    if not isinstance(data, dict):
        raise ProviderGarbled("The answer is not an object", outcome_unknown=False, where=where)
    return data


def rows_of(data: Json, where: str, key: str = "") -> list[Row]:
    """Return the list of objects that `data` is, or has under `key`; null is an empty one."""
    rows = data.get(key) if key and isinstance(data, dict) else data
    if rows is None:
        rows = []
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ProviderGarbled("The answer is not a list of objects", outcome_unknown=False, where=where)
    return rows


def integer(row: Row, key: str, where: str) -> int:
    """Return the whole number under `key`."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ProviderGarbled(f"`{key}` is not a whole number", outcome_unknown=False, where=where)
    return value


def text(row: Row, key: str, where: str) -> str:
    """Return the text under `key`, which must not be empty."""
    value = row.get(key)
    if not isinstance(value, str) or not value:
        raise ProviderGarbled(f"`{key}` is not a text", outcome_unknown=False, where=where)
    return value


def number_of(identifier: str, bits: int) -> int:
    """Return the number that stands for a provider's textual id, the same in every run (SHA-256, cut to `bits`)."""
    return int(sha256_hex(identifier.encode())[:16], 16) >> (64 - bits)


def numbered(identifiers: Iterable[str], bits: int, where: str) -> dict[int, str]:
    """Return the ids by their number.

    Raises:
        ProviderGarbled: two ids have the same number; 10 million people meet that with a chance of 1 in 180,000.
    """
    found: dict[int, str] = {}
    for one in identifiers:
        if found.setdefault(number_of(one, bits), one) != one:
            raise ProviderGarbled("Two ids have the same number", outcome_unknown=False, where=where)
    return found


def written(write: Callable[[], T]) -> T:
    """Return what `write` returns; an answer that cannot be read leaves its outcome unknown."""
    try:
        return write()
    except ProviderGarbled as error:
        error.outcome_unknown = True
        raise


def read_after(read: Callable[[], T]) -> T:
    """Return what `read` returns, asked after a change that was accepted: its failure is no failed change."""
    try:
        return read()
    except (ProviderUnavailable, ProviderRefused) as error:
        raise ProviderUnavailable(
            error.what, outcome_unknown=True, where=error.where, fix=error.fix
        ) from None


def whole(read: Callable[[], tuple[list[T], int]], name: str, where: str) -> list[T]:
    """Return all rows of a paged list; it is read again when rows came or went while it was read.

    Args:
        read: reads all pages once and returns the rows and how many were promised (-1: it changed underway).
        name: the provider's name, for messages.
        where: what was read.

    Raises:
        ProviderGarbled: it never gives what it promises.
    """
    for _ in range(_CHANGED_UNDERWAY):
        rows, promised = read()
        if len(rows) == promised:
            return rows
    raise ProviderGarbled(
        f"{name} promised {promised} rows but gave {len(rows)}",
        outcome_unknown=False,
        where=where,
        fix="try again; if it stays so, the provider's answers cannot be relied on",
    )


def chunks(values: Iterable[T], size: int) -> Iterator[Sequence[T]]:
    """Yield `values` in parts of `size`."""
    ordered = list(values)
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]
