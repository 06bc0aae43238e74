"""When each object was last read in full, and the parts in which a large store is read over several nights.

Every run that reads objects in full leaves one signed record of them (FORMAT.md, readbacks); the newest record that
names an object counts for it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tasks.core import UsageError, crash_point
from tasks.snapshots.errors import Damaged
from tasks.snapshots.models import ObjectRef, short_hash
from tasks.snapshots.store import Store

_NEVER, _EVER = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class LastRead:
    """The newest full reading of an object: when its run began, and whether the bytes were those written."""

    at: datetime
    whole: bool


@dataclass(frozen=True)
class Overdue:
    """An object that was not read in full for too long; `last_read` is None if it never was."""

    sha256: str
    bytes: int
    last_read: datetime | None


@dataclass(frozen=True)
class Part:
    """One of `of` parts of a store's objects; an object stays in its part as long as `of` is the same."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def holds(self, sha256: str) -> bool:
        """Return whether the object with this hash is in the part."""
        return int(short_hash(sha256), 16) % self.of == self.number - 1


def choose_part(store: Store, text: str) -> Part:
    """Return the part that `text` names: `3/7` is the third of seven, `next/7` the one that has waited longest.

    Raises:
        UsageError: it names no part.
    """
    found = re.fullmatch(r"(next|\d{1,4})/(\d{1,4})", text)
    of = int(found[2]) if found else 0
    if found is None or not of or (found[1] != "next" and not 1 <= int(found[1]) <= of):
        raise UsageError(f"{text!r} is no part of a store", fix="write 3/7 for the third of seven, or next/7")
    return _longest_waiting(store, of) if found[1] == "next" else Part(int(found[1]), of)


def last_read(store: Store, objects: Iterable[ObjectRef]) -> dict[str, LastRead | None]:
    """Return for each of these objects, by its hash, its newest full reading; None if it was never read."""
    found: dict[str, LastRead] = {}
    for record in store.readbacks():
        if isinstance(record, Damaged):
            continue  # `verify` names it; for its objects the record before counts
        found |= dict.fromkeys(record.whole, LastRead(record.at, whole=True))
        found |= dict.fromkeys(record.damaged, LastRead(record.at, whole=False))
    return {ref.sha256: found.get(short_hash(ref.sha256)) for ref in objects}


def overdue(store: Store, *, within: timedelta, now: datetime) -> list[Overdue]:
    """Return the objects of all snapshots that were not read in full `within` the time until `now`, longest first."""
    objects = _objects(store)
    late = [
        Overdue(sha256, objects[sha256].bytes, last.at if last else None)
        for sha256, last in last_read(store, objects.values()).items()
        if last is None or last.at < now - within
    ]
    return sorted(late, key=lambda one: (one.last_read or _NEVER, one.sha256))


def forget_superseded(store: Store, needed: Collection[str]) -> None:
    """Delete the records of readings whose objects are all in newer records, or in no snapshot any more.

    Args:
        store: opened with its signing key.
        needed: SHA-256 of all objects that snapshots need.
    """
    missing = set(map(short_hash, needed))
    for at, record in enumerate(reversed(store.readbacks())):
        if isinstance(record, Damaged):
            continue
        names = {*record.whole, *record.damaged}
        if at and not names & missing:  # the newest always stays
            store.forget_readback(record.number)
            crash_point("readback.forgotten")
        missing -= names


def _longest_waiting(store: Store, of: int) -> Part:
    waiting: dict[Part, datetime] = {}
    for sha256, last in last_read(store, _objects(store).values()).items():
        part = Part(int(short_hash(sha256), 16) % of + 1, of)
        waiting[part] = min(waiting.get(part, _EVER), last.at if last else _NEVER)
    return min(waiting, key=lambda part: (waiting[part], part.number), default=Part(1, of))


def _objects(store: Store) -> dict[str, ObjectRef]:
    """Return the objects of all snapshots whose manifest can be read; `verify` names the others."""
    found: dict[str, ObjectRef] = {}
    for snapshot_id in store.snapshot_ids():
        try:
            found |= {ref.sha256: ref for ref in store.manifest(snapshot_id).objects}
        except Damaged:
            continue
    return found
