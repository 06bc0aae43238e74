"""Taking an answer apart: what is not as the API promises it is an error that says where, never a guess."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from tasks.core import Clock, mask_addresses, sha256_hex
from tasks.providers.errors import ProviderGarbled, ProviderRefused, ProvidersError, ProviderUnavailable
from tasks.providers.http import Json
from tasks.providers.model import Probe

T = TypeVar("T")
Row = dict[str, Any]

_CHANGED_UNDERWAY = 3
CAMPAIGN_BITS = 53
"""A number that browsers and spreadsheets keep exactly."""
ANONYMOUS = 1 << 62
"""Numbers from here on stand for people whom a provider knows by no customer number of ours."""
_PERSON_BITS = 62


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


def person_number(customer: Any, identifier: str) -> int:
    """Return the customer number that a provider keeps of a person, else an anonymous one made from its own id."""
    digits = str(customer or "").strip()
    if digits.isdecimal() and int(digits) < ANONYMOUS:
        return int(digits)
    return ANONYMOUS | number_of(identifier, _PERSON_BITS)


def distinct(pairs: Iterable[tuple[int, str]], where: str) -> dict[int, str]:
    """Return a provider's ids by the number that stands for each.

    Raises:
        ProviderGarbled: two have the same number: a customer is there twice or, with ids made into numbers, by a
            chance of 1 in 90,000 among 10 million.
    """
    found: dict[int, str] = {}
    for number, identifier in pairs:
        if found.setdefault(number, identifier) != identifier:
            raise ProviderGarbled(
                "Two of the provider's ids stand for the same number",
                outcome_unknown=False,
                where=where,
                fix="give each contact a customer number of its own",
            )
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


def probed(look: Callable[[], None], clock: Clock) -> Probe:
    """Return whether `look` got the answer it wanted, and how long that took; never raises for the provider's sake."""
    begun = time.monotonic()
    try:
        look()
    except ProvidersError as error:
        return Probe(False, time.monotonic() - begun, clock.now(), mask_addresses(error.what))
    return Probe(True, time.monotonic() - begun, clock.now())
