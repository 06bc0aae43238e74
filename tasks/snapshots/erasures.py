"""The ledger of erased persons: append-only, signed, chained; it holds keyed hashes and never an address.

The key is derived from the store's signing key, so that a copy of the store tells nobody who was erased.
"""

from __future__ import annotations

import hmac
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from tasks.core import canonical_json, crash_point, digest_of, mask_addresses
from tasks.snapshots.errors import AlreadyCommitted, Damaged
from tasks.snapshots.models import Erasure, Ground, Manifest, Rewrite
from tasks.snapshots.signing import unsealed
from tasks.snapshots.store import Store

_NUMBERED = re.compile(r"/(\d{8})\.json$")
ENTRIES, REWRITES = "erasure/ledger/", "erasure/rewrites/"


@dataclass(frozen=True)
class Wanted:
    """Whom the ledger erases in one snapshot, as keyed hashes.

    Attributes:
        persons: of addresses; only where the snapshot was taken after the ledger's entry.
        records: of ids with their time of birth.
        ids: of ids whose record is gone.
    """

    persons: frozenset[str]
    records: frozenset[str]
    ids: frozenset[str]

    def __bool__(self) -> bool:
        return bool(self.persons or self.records or self.ids)


class Ledger:
    """The ledger as it is now. Whoever it erases is suppressed until they come back of their own will.

    Args:
        entries: all of them, in order.
        store: gives the key when something has to be hashed.
    """

    def __init__(self, store: Store, entries: Sequence[Erasure]) -> None:
        self.entries = list(entries)
        self._store = store
        self._secret: bytes | None = None

    @property
    def head(self) -> str | None:
        """The digest of the newest entry, to be written down outside the store; None without one."""
        return _digest(self.entries[-1]) if self.entries else None

    @property
    def digests(self) -> list[str]:
        """The digest of every entry."""
        return [_digest(one) for one in self.entries]

    def person(self, address: str) -> str:
        """Return the keyed hash of an address; upper and lower case and white space around it make no difference.

        Raises:
            StoreError: the store was opened without its key.
        """
        return self._hash("person", unicodedata.normalize("NFC", address.strip()).casefold())

    def record(self, source: str, identifier: str, born: str) -> str:
        """Return the keyed hash of one person's record in a source."""
        return self._hash("record", source, identifier, born)

    def identifier(self, source: str, identifier: str) -> str:
        """Return the keyed hash of an id in a source."""
        return self._hash("id", source, identifier)

    def is_suppressed(self, address: str) -> bool:
        """Whether the person with this address was erased and has not come back: nobody may mail them.

        Raises:
            StoreError: somebody was erased, and the store was opened without its key.
        """
        return bool(self.entries) and self.last(self.person(address)) == "erased"

    def last(self, person: str) -> str:
        """Return the kind of the last entry on a person; empty without one."""
        return next((one.kind for one in reversed(self.entries) if one.person == person), "")

    def of(self, person: str) -> list[Erasure]:
        """Return the entries on a person, in order."""
        return [one for one in self.entries if one.person == person]

    def wanted(self, source: str, sequence: int) -> Wanted:
        """Return whom the ledger erases in one snapshot of a source."""
        persons: set[str] = set()
        records: set[str] = set()
        ids: set[str] = set()
        for person in {one.person for one in self.entries}:
            entries = self.of(person)
            if entries[-1].kind == "returned" and sequence > entries[-1].seen.get(source, 0):
                continue
            for one in entries:
                records.update(one.records.get(source, ()))
                ids.update(one.ids.get(source, ()))
                if one.kind == "erased" and sequence > one.seen.get(source, 0):
                    persons.add(person)
        return Wanted(frozenset(persons), frozenset(records), frozenset(ids))

    def append(
        self,
        person: str,
        *,
        at: datetime,
        by: str,
        ground: Ground | None,
        seen: Mapping[str, int],
        records: Mapping[str, Sequence[str]] = {},
        ids: Mapping[str, Sequence[str]] = {},
        columns: Mapping[str, Sequence[str]] = {},
    ) -> Erasure:
        """Add an entry; without `ground` it says that the person has come back. Two writers get two numbers."""
        while True:
            entry = Erasure(
                store_id=self._store.store_id,
                number=len(self.entries) + 1,
                previous=_digest(self.entries[-1]) if self.entries else None,
                kind="erased" if ground else "returned",
                person=person,
                records={name: list(some) for name, some in records.items() if some},
                ids={name: list(some) for name, some in ids.items() if some},
                columns={name: list(some) for name, some in columns.items() if some},
                seen=dict(seen),
                ground=ground,
                at=at,
                by=mask_addresses(by),
            )
            crash_point("erase.before_entry")
            try:
                self._store.put_record(f"{ENTRIES}{entry.number:08d}.json", entry)
            except AlreadyCommitted:
                self.entries = read_ledger(self._store).entries
                continue
            crash_point("erase.recorded")
            self.entries.append(entry)
            return entry

    def _hash(self, *parts: str) -> str:
        if self._secret is None:
            self._secret = self._store.secret("mailstay erasure 1")
        return hmac.digest(self._secret, canonical_json(parts), "sha256").hex()


def read_ledger(store: Store) -> Ledger:
    """Return the ledger of a store.

    Raises:
        Damaged: an entry was changed or removed: nobody may rely on who is in it.
    """
    entries: list[Erasure] = []
    for number, path in _numbered(store, ENTRIES):
        entry = _read(store, path, Erasure)
        before = _digest(entries[-1]) if entries else None
        if (entry.number, entry.previous, number) != (len(entries) + 1, before, entry.number):
            raise Damaged("An entry of the ledger of erased persons is missing before this one", where=path)
        entries.append(entry)
    return Ledger(store, entries)


def read_rewrites(store: Store) -> list[Rewrite]:
    """Return the records of what erasures replaced.

    Raises:
        Damaged: one was changed.
    """
    return [_read(store, path, Rewrite) for _, path in _numbered(store, REWRITES)]


def note_rewrite(store: Store, manifests: Sequence[Manifest], *, objects: int, at: datetime, by: str) -> None:
    """Record what was replaced in all, unless the records say so already and nothing was deleted."""
    digests = {one.snapshot_id: one.digests for one in manifests if one.replaced}
    earlier = read_rewrites(store)
    known = {name: some for one in earlier for name, some in one.digests.items()}
    if not objects and all(known.get(name) == some for name, some in digests.items()):
        return
    record = Rewrite(
        store_id=store.store_id,
        number=len(earlier) + 1,
        digests=digests,
        objects=objects,
        at=at,
        by=mask_addresses(by),
    )
    store.put_record(f"{REWRITES}{record.number:08d}.json", record)
    crash_point("erase.noted")


def _digest(entry: Erasure) -> str:
    return digest_of(entry.model_dump(mode="json"))


def _numbered(store: Store, folder: str) -> list[tuple[int, str]]:
    return [(int(found[1]), path) for path in store.storage.list(folder) if (found := _NUMBERED.search(path))]


def _read(store: Store, path: str, kind: Any) -> Any:
    try:
        record = kind.model_validate(unsealed(store.storage.get(path), store.public_key_hex, where=path))
    except ValidationError:
        raise Damaged("The record does not fit the format", where=path) from None
    if record.store_id != store.store_id or not path.endswith(f"/{record.number:08d}.json"):
        raise Damaged("The record is of another place", where=path)
    return record
