"""Taking an answer apart: what is not as the API promises it is an error that says where, never a guess."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any, TypeVar

from tasks.core import Clock, mask_addresses, sha256_hex
from tasks.providers.errors import (
    NotOffered,
    ProviderGarbled,
    ProviderRefused,
    ProvidersError,
    ProviderUnavailable,
)
from tasks.providers.http import Json
from tasks.providers.model import Campaign, CampaignStatus, Membership, Probe, RunningStats

T = TypeVar("T")
Row = dict[str, Any]

_CHANGED_UNDERWAY = 3
CAMPAIGN_BITS = 53
"""A number that browsers and spreadsheets keep exactly."""
ANONYMOUS = 1 << 62
"""Numbers from here on stand for people whom a provider knows by no customer number of ours."""
_PERSON_BITS = 62
_LOOK_SECONDS = 2.0
_JOB_PATIENCE = timedelta(minutes=30)


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


class Numbers:
    """The numbers that stand for a provider's textual ids of one kind of thing, and the way back.

    Args:
        what: the thing, for messages.
        name: the provider's name, for messages.
        read_all: reads all that there are and calls `add` for each.
    """

    def __init__(self, what: str, name: str, read_all: Callable[[], object]) -> None:
        self._what, self._name, self._read_all = what, name, read_all
        self._known: dict[int, str] = {}

    def add(self, identifier: str) -> int:
        """Return the number of `identifier`, which is known from now on.

        Raises:
            ProviderGarbled: another one has that number, by a chance of 1 in 180 million among 10,000.
        """
        number = number_of(identifier, CAMPAIGN_BITS)
        distinct([(number, self._known.get(number, identifier)), (number, identifier)], self._name)
        self._known[number] = identifier
        return number

    def __getitem__(self, number: int) -> str:
        """Return the provider's id.

        Raises:
            ProviderRefused: there is no such thing.
        """
        if number not in self._known:
            self._read_all()
        if number not in self._known:
            raise ProviderRefused(
                f"There is no such {self._what}",
                status=HTTPStatus.NOT_FOUND,
                where=f"{self._name}: {self._what} {number}",
            )
        return self._known[number]


def known_status(
    word: Any, statuses: Mapping[str, CampaignStatus], where: str, api: str, what: str = "campaign"
) -> CampaignStatus:
    """Return what the provider's `word` for the status of a campaign means.

    Args:
        word: as the API gives it.
        statuses: what its words mean.
        where: which campaign.
        api: the version of the API that the words are from.
        what: what the provider calls a campaign.

    Raises:
        ProviderGarbled: it is a word that nobody knows.
    """
    if not isinstance(word, str) or word not in statuses:
        raise ProviderGarbled(
            f"A {what} has the unknown status {str(word)[:40]!r}",
            outcome_unknown=False,
            where=where,
            fix=f"check the version of the API against the connector's ({api})",
        )
    return statuses[word]


def planned_time(at: datetime | None, where: str, title: str) -> datetime:
    """Return the time that a campaign is to be scheduled at.

    Raises:
        ProviderRefused: nothing says it.
    """
    if at is None:
        raise ProviderRefused(
            "The campaign has no time to be scheduled at",
            status=0,
            where=where,
            fix=f"schedule it in {title}",
        )
    return at


def of_people_on(everything: Sequence[Membership], list_id: int) -> list[Membership]:
    """Return those of all memberships that belong to people who are on `list_id`."""
    there = {one.subscriber_id for one in everything if one.list_id == list_id}
    return [one for one in everything if one.subscriber_id in there]


def being_sent(campaigns: Iterable[Campaign]) -> list[RunningStats]:
    """Return how far those campaigns are that are being sent; a feed is not, it only might be."""
    return [
        RunningStats(one.id, one.status, one.to_send, one.sent, None)
        for one in campaigns
        if one.status == "running" and one.of == "campaign"
    ]


def not_told(why: str, name: str, campaign_id: int | None) -> NotOffered:
    """Return the error that the provider does not say who got a campaign, and why."""
    return NotOffered(why, status=0, where=f"{name}: campaign {campaign_id}")


def awaited(
    look: Callable[[], Row],
    clock: Clock,
    name: str,
    where: str,
    *,
    ready: Collection[str],
    waiting: Collection[str],
) -> Row:
    """Look at a job of the provider until its `status` is one of `ready`, and return it.

    Raises:
        ProviderGarbled: it failed.
        ProviderUnavailable: it did not end within half an hour.
    """
    until = clock.now() + _JOB_PATIENCE
    while (job := look()).get("status") not in ready:
        if job.get("status") not in waiting:
            raise ProviderGarbled(
                f"{name} did not do a job: {mask_addresses(str(job.get('message') or job.get('status')))[:120]}",
                outcome_unknown=False,
                where=where,
            )
        if clock.now() >= until:
            raise ProviderUnavailable(
                f"{name} did not finish a job within {_JOB_PATIENCE}", outcome_unknown=False, where=where
            )
        clock.sleep(_LOOK_SECONDS)
    return job


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


def paged(
    ask: Callable[[int], tuple[list[Row], int]],
    size: int,
    identity: Callable[[Row], Any],
    name: str,
    where: str,
) -> list[Row]:
    """Return all rows of a list that is read by offset, as many as it promises.

    Args:
        ask: returns the rows from an offset on, and the promised total.
        size: rows of a full page.
        identity: what tells rows apart.
        name: the provider's name, for messages.
        where: what is read.
    """

    def read() -> tuple[list[Row], int]:
        found: dict[Any, Row] = {}
        offset, totals = 0, set()
        while True:
            rows, total = ask(offset)
            totals.add(total)
            found |= {identity(row): row for row in rows}
            offset += size
            if not rows or offset >= max(totals):
                break
        return list(found.values()), max(totals) if len(totals) == 1 else -1

    return whole(read, name, where)


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
