"""The manifest and the other signed records of a store, as typed models; FORMAT.md describes the files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from tasks.core import UsageError, digest_of
from tasks.sources import ChangeFacts, ColumnFacts, ForeignKey, TableFacts

FORMAT_VERSION = 1
State = Literal["committed", "valid", "quarantined"]
Level = Literal["structure", "content", "restore"]
Ground = Literal[
    "no_longer_needed", "consent_withdrawn", "objection", "unlawful", "legal_obligation", "child"
]
"""Why a person is erased: the grounds of GDPR Article 17(1), a to f."""

_SOURCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SNAPSHOT = re.compile(r"([A-Za-z0-9][A-Za-z0-9_-]{0,63})/(\d{8})")


def snapshot_name(source: str, sequence: int) -> str:
    """Return the id of snapshot number `sequence` of `source`, such as `shop/00000001`."""
    if not _SOURCE.fullmatch(source):
        raise UsageError(
            f"{source!r} cannot name a source in a store",
            fix="use letters, digits, - and _ only, at most 64, beginning with a letter or digit",
        )
    return f"{source}/{sequence:08d}"


def split_name(snapshot_id: str) -> tuple[str, int]:
    """Return source and sequence of a snapshot id.

    Raises:
        UsageError: it is not of the form `source/00000001` (which also keeps it from naming another path).
    """
    found = _SNAPSHOT.fullmatch(snapshot_id)
    if found is None:
        raise UsageError(f"{snapshot_id!r} is not a snapshot id", fix="write it as shop/00000001")
    return found[1], int(found[2])


def _known_name(value: str) -> str:
    if not _SNAPSHOT.fullmatch(value):
        raise ValueError("not a snapshot id")
    return value


SnapshotId = Annotated[str, AfterValidator(_known_name)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
ShortHash = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
SnapshotChoice = Annotated[str, Field(json_schema_extra={"pattern": rf"^(latest|{_SNAPSHOT.pattern})$"})]
"""A parameter of a flow: Prefect's form refuses a slip of the pen; the command line has our own message for it."""
PartChoice = Annotated[str, Field(json_schema_extra={"pattern": r"^(next|\d{1,4})/\d{1,4}$"})]
"""As `SnapshotChoice`, for a part of the store's objects."""
KeyValue = str | int | bool | None


class Record(BaseModel):
    """Base of everything that is stored signed: no unknown keys, no change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _without_empty(body: dict[str, Any], *later: str) -> dict[str, Any]:
    """Return `body` without those of the keys `later` that are empty: records signed before they existed lack them."""
    return {key: value for key, value in body.items() if value or key not in later}


class ObjectRef(Record):
    """One immutable Parquet object; its path follows from its hash, so that a manifest cannot name any other file.

    `key_min` and `key_max` are the primary keys of its first and last row, None for a table without one.
    """

    sha256: Sha256
    bytes: int = Field(ge=0)
    rows: int = Field(ge=0)
    key_min: list[KeyValue] | None = None
    key_max: list[KeyValue] | None = None

    @property
    def path(self) -> str:
        """Where the object lies in the store."""
        return object_path(self.sha256)


class Reading(Record):
    """Whether a table was read, where the plan lets the database's own record of changes decide.

    Args:
        why: why it was read, or was not, as the end of a sentence.
        unread: in so many snapshots, one after the other, nobody has read it; 0 if it was read for this one.
        read_in: the snapshot that read it last; None if it was read for this one.
        contradicted: the database had recorded no change, but the rows that were read are others.
    """

    why: str
    unread: int = Field(ge=0)
    read_in: SnapshotId | None = None
    contradicted: bool = False


class TableEntry(Record):
    """One table of a snapshot.

    Args:
        facts: what the source declares about the table, and the casts its values were read with.
        arrow_schema: the Arrow schema as an IPC message in base64.
        rows: rows written.
        source_rows: rows the source counted inside the same transaction, less those that an erasure took.
        checksum: the order-independent checksum of all rows (`tasks.core.TableChecksum`), 32 hex digits.
        mode: `full`, every row is here; (`append` is reserved).
        segment_rows: rows of a segment on average; the next snapshot keeps it, so that segments end at the same rows.
        new_objects: objects that were not in the store yet, with `new_bytes`: what this snapshot cost.
        objects: the Parquet objects, one a segment, in the order of their rows.
        reading: whether it was read; not written where every table is.
    """

    facts: TableFacts
    arrow_schema: str
    rows: int = Field(ge=0)
    source_rows: int = Field(ge=0)
    checksum: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    mode: Literal["full"] = "full"
    segment_rows: int = Field(ge=1)
    new_objects: int = Field(ge=0)
    new_bytes: int = Field(ge=0)
    objects: list[ObjectRef] = Field(min_length=1)
    reading: Reading | None = None

    @model_serializer(mode="wrap")
    def _as_it_was_signed(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without_empty(handler(self), "reading")


class Replacement(Record):
    """An earlier form of a manifest that an erasure put another in the place of.

    Args:
        digest: the digest of that earlier form: the next snapshot, an anchor or a verdict may name it.
        erasures: numbers of the ledger's entries that were carried out.
        rows: rows that went or were unlinked, by table.
    """

    digest: Sha256
    erasures: list[int]
    rows: dict[str, int]
    at: AwareDatetime
    by: str


class Manifest(Record):
    """The one object whose creation commits a snapshot; names everything the snapshot consists of.

    Args:
        parent_digest: digest of the previous manifest of this source; None for the first.
        parent_unreadable: why the previous manifest could not be read when this one was written. `parent_digest` is
            then the SHA-256 of the bytes that lay there, None if not even these could be read.
        consistency: the point all tables were read at: `kind`, `id`, `at` (ISO 8601) and what the source adds.
        plan_digest: digest of the plan the backup ran under.
        tools: versions of the libraries that wrote the snapshot.
        changes: what the source tells of its changes, so that the next snapshot can prove which tables had none.
        replaced: the earlier forms of this manifest, oldest first. None of these three is written where there is none.
    """

    format: Literal[1] = 1
    store_id: str
    snapshot_id: SnapshotId
    source: str
    sequence: int = Field(ge=1)
    parent_digest: Sha256 | None
    parent_unreadable: str | None = None
    consistency: dict[str, str]
    plan_digest: str
    started_at: AwareDatetime
    finished_at: AwareDatetime
    tools: dict[str, str]
    tables: dict[str, TableEntry]
    changes: ChangeFacts | None = None
    replaced: list[Replacement] = []

    @model_serializer(mode="wrap")
    def _as_it_was_signed(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without_empty(handler(self), "parent_unreadable", "changes", "replaced")

    @property
    def digests(self) -> list[str]:
        """Every digest that this place of the chain has had, oldest first; the last is that of now."""
        return [*(one.digest for one in self.replaced), self.digest]

    @property
    def digest(self) -> str:
        """The SHA-256 of the manifest's canonical JSON: what its successor names as `parent_digest`."""
        return digest_of(self.model_dump(mode="json"))

    @property
    def dialect(self) -> str:
        """The kind of database it was read from: the first word of its consistency's kind."""
        return self.consistency["kind"].partition("_")[0]

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(table.rows for table in self.tables.values())

    @property
    def objects(self) -> list[ObjectRef]:
        """The objects of all tables."""
        return [ref for table in self.tables.values() for ref in table.objects]

    @property
    def bytes(self) -> int:
        """Bytes of all objects, each counted once."""
        return sum({ref.sha256: ref.bytes for ref in self.objects}.values())


class Release(Record):
    """What a person says of findings after looking at the rows: this is how it is, the snapshot may be used.

    Args:
        by: who says so.
        because: why, in their words.
        at: when.
        findings: the critical findings that they looked at; one that is not among them still quarantines.
    """

    by: str
    because: str
    at: AwareDatetime
    findings: list[dict[str, Any]]


class Verdict(Record):
    """A signed statement about a snapshot: what a check or a verification found.

    `state` decides what the snapshot may be used for; a verification (`level` set) leaves the state alone. `facts` are
    the figures that later snapshots are held against, without personal data. `release` is there where the snapshot is
    valid because a person said so. Neither is written where there is none.
    """

    store_id: str
    snapshot_id: SnapshotId
    manifest_digest: Sha256
    number: int = Field(ge=1)
    state: State | None = None
    level: Level | None = None
    ok: bool = True
    findings: list[dict[str, Any]] = []
    facts: dict[str, Any] = {}
    release: Release | None = None
    at: AwareDatetime
    by: str

    @model_serializer(mode="wrap")
    def _as_it_was_signed(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without_empty(handler(self), "facts", "release")


class ReadBack(Record):
    """A signed record of one run that read objects in full: which, when the run began, and what came out.

    Objects are named by `short_hash`, which is enough to tell those of one store apart: 100,000 of them take 2 MB.

    Args:
        part: such as `3/7`, where the run read one part of the store's objects.
        whole: objects that hold the bytes that were written.
        damaged: objects that are missing, changed or unreadable.
    """

    store_id: str
    number: int = Field(ge=1)
    part: str | None
    whole: list[ShortHash]
    damaged: list[ShortHash]
    at: AwareDatetime
    by: str


class Hold(Record):
    """A signed mark that keeps retention from a snapshot until it is released."""

    store_id: str
    snapshot_id: SnapshotId
    reason: str = Field(min_length=1)
    by: str
    at: AwareDatetime
    released_by: str | None = None
    released_at: AwareDatetime | None = None


class Tombstone(Record):
    """A signed record that retention removed a snapshot: its place in the chain stays provable.

    `earlier_digests` are those of the manifest before erasures replaced it. `unreadable` says why it was given up, if
    nobody could read it: `manifest_digest` is then the one that the next snapshot names, and `rows` is 0.
    """

    store_id: str
    snapshot_id: SnapshotId
    manifest_digest: Sha256
    earlier_digests: list[Sha256] = []
    parent_digest: Sha256 | None
    rows: int
    unreadable: str | None = None
    at: AwareDatetime
    by: str

    @model_serializer(mode="wrap")
    def _as_it_was_signed(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without_empty(handler(self), "unreadable")


class Erasure(Record):
    """One entry of the ledger of erased persons; hashes are keyed, so that nobody without the key can try values.

    Args:
        previous: digest of the entry before; None for the first.
        kind: `erased`, or `returned` when the person came back of their own will: snapshots taken later count again.
        person: hash of the address.
        records: per source the hashes of the person's records there (id and time of birth).
        ids: per source the hashes of the ids alone, for rows whose record is gone.
        columns: per source the columns that name the person, as `table.column`.
        seen: per source the newest snapshot that was searched. In later ones the address counts too.
        ground: why; None for a return.
        by: who asked for it to be done.
    """

    store_id: str
    number: int = Field(ge=1)
    previous: Sha256 | None
    kind: Literal["erased", "returned"]
    person: Sha256
    records: dict[str, list[Sha256]] = {}
    ids: dict[str, list[Sha256]] = {}
    columns: dict[str, list[str]] = {}
    seen: dict[str, int] = {}
    ground: Ground | None = None
    at: AwareDatetime
    by: str


class Rewrite(Record):
    """A signed record of what an erasure replaced, written when it was through.

    Args:
        digests: every snapshot that was ever replaced, with all digests that its manifest had, oldest first.
        objects: objects that were deleted with it.
    """

    store_id: str
    number: int = Field(ge=1)
    digests: dict[SnapshotId, list[Sha256]]
    objects: int
    at: AwareDatetime
    by: str


@dataclass(frozen=True)
class Link:
    """A snapshot's place in the chain, also where its manifest has rotted.

    Args:
        digest: that of the manifest, or of the bytes that lie in its place; None if not even these can be read.
        manifest: None if it cannot be read; `unreadable` says why.
    """

    snapshot_id: str
    digest: str | None
    manifest: Manifest | None
    unreadable: str | None = None


@dataclass(frozen=True)
class SnapshotInfo:
    """A snapshot as lists show it.

    Args:
        tables: the names of its tables.
        verified: the highest level its latest verification passed, None if it never did or failed.
        held_by: the reasons of its active holds.
        release: where it is valid because a person said so: who, why, and in spite of what.
    """

    snapshot_id: str
    source: str
    sequence: int
    started_at: datetime
    finished_at: datetime
    consistency_at: datetime
    rows: int
    bytes: int
    tables: tuple[str, ...]
    state: State
    verified: Level | None
    held_by: list[str]
    release: Release | None = None


def object_path(sha256: str) -> str:
    """Return where the object with this hash lies in a store."""
    return f"objects/{sha256[:2]}/{sha256}.parquet"


def short_hash(sha256: str) -> str:
    """Return the digits of an object's hash that a record of readings names it by."""
    return sha256[:16]


def manifest_path(snapshot_id: str) -> str:
    """Return where the manifest of a snapshot lies in a store."""
    source, sequence = split_name(snapshot_id)
    return f"snapshots/{source}/{sequence:08d}.json"


def name_at(path: str) -> str | None:
    """Return the id of the snapshot whose manifest lies at `path`; None if that is no place of a manifest."""
    name = path.removeprefix("snapshots/").removesuffix(".json")
    return name if _SNAPSHOT.fullmatch(name) and manifest_path(name) == path else None


__all__ = [
    "FORMAT_VERSION",
    "ColumnFacts",
    "Erasure",
    "ForeignKey",
    "Ground",
    "Hold",
    "Level",
    "Link",
    "Manifest",
    "ObjectRef",
    "PartChoice",
    "ReadBack",
    "Reading",
    "Replacement",
    "Rewrite",
    "SnapshotChoice",
    "SnapshotInfo",
    "State",
    "TableEntry",
    "Verdict",
    "manifest_path",
    "name_at",
    "object_path",
    "short_hash",
    "snapshot_name",
    "split_name",
]
