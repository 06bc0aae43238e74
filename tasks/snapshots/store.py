"""The store: what is in it, what state it is in, and the few writes that change that. FORMAT.md has the rules."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import re
import shutil
import tempfile
import uuid
from collections import defaultdict
from collections.abc import Collection, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tasks.core import UsageError, canonical_json, crash_point, digest_of
from tasks.snapshots.errors import AlreadyCommitted, Damaged, NoSnapshot, NoStore, SnapshotError, StoreError
from tasks.snapshots.models import (
    FORMAT_VERSION,
    Hold,
    Level,
    Link,
    Manifest,
    ObjectRef,
    ReadBack,
    Record,
    Release,
    SnapshotInfo,
    State,
    Tombstone,
    Verdict,
    manifest_path,
    name_at,
    short_hash,
    split_name,
)
from tasks.snapshots.signing import (
    SigningKey,
    derived_secret,
    load_key,
    public_key_hex,
    sealed,
    unsealed,
)
from tasks.snapshots.storage import Storage

# `Store.list` hides the built-in inside the class, so its annotations use these names.
Infos = list[SnapshotInfo]
Names = list[str]
Findings = list[dict[str, Any]]
Verdicts = list[Verdict | Damaged]
ReadBacks = list[ReadBack | Damaged]
Holds = list[Hold]

_HEX_KEY = re.compile(r"[0-9a-f]{64}")
_CONDEMNED = re.compile(r"condemned/([0-9a-f]{64})\.json")
_NUMBERED = re.compile(r"/(\d{6})\.json$")


class Store:
    """A snapshot store. Open it with `Store.open`; reading needs no key, every write needs the signing key.

    Args:
        url: the folder or object store URL.
        store_id: the random id that every record in the store carries.
        public_key_hex: the public key that every record must be signed with.
    """

    def __init__(
        self, storage: Storage, store_id: str, public_key: str, signing_key: SigningKey | None
    ) -> None:
        self.storage = storage
        self.url = storage.url
        self.store_id = store_id
        self.public_key_hex = public_key
        self._key = signing_key
        self._hashed: dict[str, str] = {}
        self._cache: Path | None = None

    @classmethod
    def open(
        cls,
        url: str,
        *,
        signing_key: SigningKey | None = None,
        public_key: str | None = None,
        create: bool = False,
    ) -> Store:
        """Open the store at `url`.

        Args:
            url: a folder, or an object store URL such as `s3://bucket/prefix`.
            signing_key: needed to write; must be the store's own.
            public_key: the key pinned in the plan (hex); a store with another key is refused.
            create: make the store if there is none; needs `signing_key`.

        Raises:
            StoreError: there is no store, or its key is not the expected one.
        """
        storage = Storage(url, create=create)
        try:
            content = storage.get("store.json")
        except FileNotFoundError:
            if not create:
                raise NoStore("There is no store", where=url, fix="run a backup to create it") from None
            if signing_key is None:
                raise StoreError(
                    "A store cannot be created without a signing key", where=url, fix="set the key's variable"
                ) from None
            fresh = _store_file(uuid.uuid4().hex, public_key_hex(signing_key))
            with contextlib.suppress(AlreadyCommitted):  # another process may just have created it
                _keep(storage, "store.json", fresh, anew=True)
            content = storage.get("store.json")
        facts = _store_facts(content, url)
        if public_key is not None and facts["public_key"] != public_key:
            raise StoreError(
                "The store's public key is not the one pinned in the plan: it is another store, or was replaced",
                where=url,
                fix="find out who changed it before you trust it",
            )
        if signing_key is not None and facts["public_key"] != public_key_hex(signing_key):
            raise StoreError(
                "The signing key is not this store's", where=url, fix="use the key the store was created with"
            )
        return cls(storage, facts["store_id"], facts["public_key"], signing_key)

    def is_described(self) -> bool:
        """Return whether `store.json` is there, byte for byte as it was written for this store."""
        try:
            return self.storage.get("store.json") == _store_file(self.store_id, self.public_key_hex)
        except FileNotFoundError:
            return False

    def sources(self) -> Names:
        """Return the names of the sources that have snapshots."""
        return sorted({path.split("/")[1] for path in self.storage.list("snapshots/")})

    def snapshot_ids(self, source: str | None = None) -> Names:
        """Return the ids of all committed snapshots (of `source`), oldest first within a source."""
        found = []
        for path in self.storage.list(f"snapshots/{source}/" if source else "snapshots/"):
            name = name_at(path)
            if name and (source is None or split_name(name)[0] == source):
                found.append(name)
        return sorted(found)

    def list(self, source: str | None = None, *, strict: bool = False) -> Infos:
        """Return every snapshot (of `source`) with its state, oldest first within a source.

        Those whose manifest cannot be read are left out: `unreadable` has them.

        Args:
            source: only its snapshots.
            strict: refuse a manifest that cannot be read, and a state that hangs on a verdict that was changed.

        Raises:
            Damaged: a hold (or, if `strict`, a manifest or a deciding verdict) was changed.
        """
        verdicts, holds = self._all_verdicts(), self._all_holds()
        for decides in map(_deciding, verdicts.values()) if strict else ():
            if isinstance(decides, Damaged):
                raise Damaged(decides.what, where=decides.where, fix="run validate: a new verdict decides")
        return [
            self._info(one, verdicts.get(one.snapshot_id, []), holds.get(one.snapshot_id, []))
            for one in self.manifests(source, strict=strict)
        ]

    def unreadable(self, source: str | None = None) -> dict[str, Damaged]:
        """Return the snapshots (of `source`) whose manifest cannot be read, each with why and what to do."""
        found = {}
        for one in self.snapshot_ids(source):
            try:
                self.manifest(one)
            except NoSnapshot:
                continue
            except Damaged as error:
                found[one] = error
        return found

    def info(self, snapshot_id: str) -> SnapshotInfo:
        """Return one snapshot with its state."""
        return self._info(self.manifest(snapshot_id), self.verdicts(snapshot_id), self.holds(snapshot_id))

    def manifests(self, source: str | None = None, *, strict: bool = True) -> Iterator[Manifest]:
        """Yield the manifests of all committed snapshots (of `source`), without those retention removes meanwhile.

        Raises:
            SnapshotError: a manifest vanished that retention did not remove.
            Damaged: a manifest cannot be read, unless `strict` is off: then it is left out.
        """
        for one in self.snapshot_ids(source):
            try:
                manifest = self.manifest(one)
            except NoSnapshot:
                self.tombstone(one)
            except Damaged:
                if strict:
                    raise
            else:
                yield manifest

    def newest_link(self, source: str) -> Link | None:
        """Return what the next snapshot of `source` follows in the chain; None if it is the first."""
        names = self.snapshot_ids(source)
        return self.link(names[-1]) if names else None

    def link(self, snapshot_id: str) -> Link:
        """Return a snapshot's place in the chain, also where its manifest has rotted.

        It is read twice before it counts as rotten: a byte that was changed on its way here is none on the disk.

        Raises:
            NoSnapshot: there is no such snapshot.
        """
        for _ in range(2):
            try:
                manifest = self.manifest(snapshot_id)
            except Damaged as error:
                why = error.what
            else:
                return Link(snapshot_id, manifest.digest, manifest)
        content = self.storage.found(manifest_path(snapshot_id))
        digest = hashlib.sha256(content).hexdigest() if content is not None else None
        return Link(snapshot_id, digest, None, unreadable=why)

    def manifest(self, snapshot_id: str) -> Manifest:
        """Return the manifest of a snapshot, its signature and place checked.

        Raises:
            NoSnapshot: there is no such snapshot.
            Damaged: the manifest cannot be read, was changed, or belongs to another place or store.
        """
        try:
            return self._manifest(snapshot_id)
        except Damaged as error:
            raise Damaged(
                error.what,
                where=error.where,
                fix="bring this file back from a copy of the store; if there is none, "
                f"`mailstay snapshots give-up {snapshot_id}`",
            ) from None

    def _manifest(self, snapshot_id: str) -> Manifest:
        path = manifest_path(snapshot_id)
        try:
            content = self.storage.get(path)
        except StoreError as error:
            if self.storage.root is None:  # the network may be at fault, not what lies there
                raise
            raise Damaged(error.what, where=path) from None
        except FileNotFoundError:
            raise NoSnapshot(
                f"There is no snapshot {snapshot_id}",
                where=self.url,
                fix="`mailstay snapshots list` shows them",
            ) from None
        body = unsealed(content, self.public_key_hex, where=path)
        try:
            manifest = Manifest.model_validate(body)
        except ValidationError as error:
            first = error.errors()[0]
            raise Damaged(
                f"The manifest does not fit the format: {'.'.join(map(str, first['loc']))}: {first['msg']}",
                where=path,
            ) from None
        if (manifest.snapshot_id, (manifest.source, manifest.sequence)) != (
            snapshot_id,
            split_name(snapshot_id),
        ):
            raise Damaged(f"The manifest is that of {manifest.snapshot_id}", where=path)
        if manifest.store_id != self.store_id:
            raise Damaged("The manifest is that of another store", where=path)
        return manifest

    def latest(self, source: str, state: State | None = "valid") -> SnapshotInfo | None:
        """Return the newest snapshot of `source` in `state` (None: in any), or None."""
        for one in reversed(self.snapshot_ids(source)):
            if state is None or self.state(one) == state:
                return self.info(one)
        return None

    def newest_valid(self, source: str) -> SnapshotInfo:
        """Return the newest snapshot of `source` that is `valid`.

        Raises:
            SnapshotError: there is none.
        """
        newest = self.latest(source, state="valid")
        if newest is None:
            raise SnapshotError(
                f"There is no valid snapshot of {source}",
                where=self.url,
                fix="run validate, or name a snapshot and say that it may be unproven",
            )
        return newest

    def state(self, snapshot_id: str) -> State:
        """Return what the newest verdict says; `committed` without one, or if that verdict was tampered with.

        A snapshot whose manifest cannot be read counts as `quarantined`, whatever was said of it before.
        """
        try:
            self.manifest(snapshot_id)
        except Damaged:
            return "quarantined"
        except NoSnapshot:
            pass
        return _state(self.verdicts(snapshot_id))

    def table_files(self, snapshot_id: str, table: str) -> Names:
        """Return the local Parquet files that make up a table, in the order of their rows.

        Every object is hashed before it is handed out (once per process): readers such as DuckDB and pandas
        return changed values from a damaged file without an error.

        Raises:
            UsageError: the snapshot has no such table.
            Damaged: an object is missing or changed; names it, the table and the snapshot.
        """
        manifest = self.manifest(snapshot_id)
        if table not in manifest.tables:
            raise UsageError(f"Snapshot {snapshot_id} has no table {table!r}", where=self.url)
        try:
            return [
                self._local(ref, f"{snapshot_id}, table {table}") for ref in manifest.tables[table].objects
            ]
        except Damaged:
            if self.manifest(snapshot_id).digest == manifest.digest:
                raise
            return self.table_files(snapshot_id, table)  # an erasure has replaced it meanwhile

    def mark(
        self,
        snapshot_id: str,
        state: State,
        *,
        findings: Findings,
        at: datetime,
        by: str,
        facts: dict[str, Any] | None = None,
        release: Release | None = None,
    ) -> Verdict:
        """Record, signed, that the snapshot is `valid` or `quarantined` (or only `committed` again), and why.

        Args:
            snapshot_id: the snapshot the verdict is on.
            state: what it may be used for from now on.
            findings: what was found, without personal data.
            at: when, by the caller's clock.
            by: what found it, such as `validate`.
            facts: figures of the snapshot that later ones are held against, without personal data.
            release: who says that it may be used in spite of `findings`, and why.
        """
        said = {"findings": findings, "facts": facts or {}, "release": release, "at": at, "by": by}
        return self._say(snapshot_id, state=state, **said)

    def note_verified(
        self, snapshot_id: str, level: Level, *, findings: Findings, at: datetime, by: str
    ) -> Verdict:
        """Record, signed, that `verify` ran at `level` and what it found; a snapshot with findings is quarantined."""
        state: State | None = "quarantined" if findings else None
        return self._say(
            snapshot_id, state=state, level=level, ok=not findings, findings=findings, at=at, by=by
        )

    def verdicts(self, snapshot_id: str) -> Verdicts:
        """Return the verdicts on a snapshot, oldest first; one that was tampered with comes as its error."""
        source, sequence = split_name(snapshot_id)
        paths = self.storage.list(f"verify/{source}/{sequence:08d}/")
        digests = self._digests(snapshot_id)
        found = (self._verdict(path, snapshot_id, digests) for path in paths if _NUMBERED.search(path))
        return [one for one in found if one is not None]

    def note_read(
        self, *, whole: Collection[str], damaged: Collection[str], part: str | None, at: datetime, by: str
    ) -> ReadBack:
        """Record, signed, which objects were read in full and what came out; a damaged one has no other effect here.

        Args:
            whole: SHA-256 of the objects that hold what was written.
            damaged: SHA-256 of the others.
            part: which part of the store's objects this was, such as `3/7`.
            at: when the run began, by the caller's clock.
            by: what read them, such as `backup`.
        """
        self.signing_key()
        while True:
            record = ReadBack(
                store_id=self.store_id,
                number=self._next_number("readbacks/"),
                part=part,
                whole=sorted(map(short_hash, whole)),
                damaged=sorted(map(short_hash, damaged)),
                at=at,
                by=by,
            )
            crash_point("readback.before_put")
            with contextlib.suppress(AlreadyCommitted):
                self.put_record(_readback_path(record.number), record)
                crash_point("readback.after_put")
                return record

    def readbacks(self) -> ReadBacks:
        """Return the records of full readings, oldest first; one that was tampered with comes as its error."""
        return [self._readback(path) for path in self.storage.list("readbacks/") if _NUMBERED.search(path)]

    def forget_readback(self, number: int) -> None:
        """Delete a record of readings that newer ones supersede."""
        self.signing_key()
        self.storage.delete(_readback_path(number))

    def hold(self, snapshot_id: str, *, reason: str, by: str, at: datetime) -> Hold:
        """Keep retention from a snapshot until the hold is released; the same reason again is the same hold."""
        self.manifest(snapshot_id)
        for active in self.holds(snapshot_id):
            if active.reason == reason:
                return active
        return self._put_hold(
            Hold(store_id=self.store_id, snapshot_id=snapshot_id, reason=reason, by=by, at=at)
        )

    def release(self, snapshot_id: str, *, reason: str, by: str, at: datetime) -> Hold:
        """End the hold with that `reason`.

        Raises:
            UsageError: there is no such hold.
        """
        for active in self.holds(snapshot_id):
            if active.reason == reason:
                return self._put_hold(active.model_copy(update={"released_by": by, "released_at": at}))
        raise UsageError(f"Snapshot {snapshot_id} has no hold for {reason!r}", where=self.url)

    def holds(self, snapshot_id: str) -> Holds:
        """Return the active holds on a snapshot.

        Raises:
            Damaged: a hold was tampered with (retention must then leave the snapshot alone).
        """
        source, sequence = split_name(snapshot_id)
        paths = self.storage.list(f"holds/{source}/{sequence:08d}/")
        return _active(hold for path in paths for hold in self._hold(path))

    def bury(self, snapshot_id: str, *, at: datetime, by: str) -> Tombstone:
        """Record, signed, that retention removes the snapshot; a tombstone that is there already stays as it is."""
        manifest = self.manifest(snapshot_id)
        stone = Tombstone(
            store_id=self.store_id,
            snapshot_id=snapshot_id,
            manifest_digest=manifest.digest,
            earlier_digests=manifest.digests[:-1],
            parent_digest=manifest.parent_digest,
            rows=manifest.rows,
            at=at,
            by=by,
        )
        path = f"tombstones/{snapshot_id}.json"
        try:
            self.put_record(path, stone)
        except AlreadyCommitted:
            # An erasure may have replaced the manifest since a prune was stopped here.
            if self.tombstone(snapshot_id).manifest_digest in stone.earlier_digests:
                self.put_record(path, stone, anew=False)
        return self.tombstone(snapshot_id)

    def tombstone(self, snapshot_id: str) -> Tombstone:
        """Return the tombstone of a snapshot.

        Raises:
            SnapshotError: it has none.
            Damaged: it was changed, or belongs to another place or store.
        """
        split_name(snapshot_id)
        path = f"tombstones/{snapshot_id}.json"
        try:
            content = self.storage.get(path)
        except FileNotFoundError:
            raise SnapshotError(
                f"Snapshot {snapshot_id} was not removed by retention", where=self.url
            ) from None
        try:
            stone = Tombstone.model_validate(unsealed(content, self.public_key_hex, where=path))
        except ValidationError:
            raise Damaged("The tombstone does not fit the format", where=path) from None
        if (stone.store_id, stone.snapshot_id) != (self.store_id, snapshot_id):
            raise Damaged("The tombstone is of another place", where=path)
        return stone

    def is_buried(self, snapshot_id: str) -> bool:
        """Return whether retention has removed the snapshot: its manifest is gone and its tombstone is there."""
        if self.storage.size(manifest_path(snapshot_id)) is not None:
            return False
        with contextlib.suppress(SnapshotError):
            return bool(self.tombstone(snapshot_id))
        return False

    def remove_buried(self, snapshot_id: str) -> None:
        """Delete the manifest of a snapshot that has a tombstone, then what was said about it."""
        stone = self.tombstone(snapshot_id)
        if stone.manifest_digest != self.manifest(snapshot_id).digest:
            raise Damaged("The tombstone is that of another manifest", where=snapshot_id)
        self.remove(snapshot_id)

    def remove(self, snapshot_id: str) -> None:
        """Delete what lies in the place of a manifest, then what was said about it; the chain wants a tombstone."""
        self.signing_key()
        self.storage.delete(manifest_path(snapshot_id))
        source, sequence = split_name(snapshot_id)
        for folder in ("verify", "holds"):
            for path in self.storage.list(f"{folder}/{source}/{sequence:08d}/"):
                self.storage.delete(path)

    def condemn(self, sha256: str, at: datetime) -> None:
        """Mark an object that no snapshot needs; the first mark counts."""
        with contextlib.suppress(AlreadyCommitted):
            self.storage.put_new(f"condemned/{sha256}.json", canonical_json({"at": at.isoformat()}) + b"\n")

    def condemned(self) -> dict[str, datetime]:
        """Return the marked objects and since when; a mark that cannot be read counts from now."""
        found = {}
        for path in self.storage.list("condemned/"):
            if not (name := _CONDEMNED.fullmatch(path)):
                continue
            try:
                found[name[1]] = datetime.fromisoformat(json.loads(self.storage.get(path))["at"])
            except (FileNotFoundError, ValueError, KeyError, TypeError):
                self.storage.delete(path)
        return found

    def pardon(self, sha256: str) -> None:
        """Take the mark of an object away."""
        self.storage.delete(f"condemned/{sha256}.json")

    def commit(self, manifest: Manifest) -> None:
        """Create the manifest: from here on the snapshot exists.

        Raises:
            AlreadyCommitted: another writer took this sequence number.
        """
        crash_point("commit.before_manifest")
        self.put_record(manifest_path(manifest.snapshot_id), manifest)
        crash_point("commit.after_manifest")

    def replace(self, manifest: Manifest) -> None:
        """Put `manifest` in the place of the earlier form that it names last; a reader sees one or the other, whole.

        Raises:
            SnapshotError: what is there is not that form.
        """
        if self.manifest(manifest.snapshot_id).digest != manifest.replaced[-1].digest:
            raise SnapshotError(
                "The manifest was replaced by somebody else", where=manifest.snapshot_id, fix="run it again"
            )
        crash_point("erase.before_manifest")
        self.put_record(manifest_path(manifest.snapshot_id), manifest, anew=False)
        crash_point("erase.manifest_replaced")

    def put_record(self, path: str, record: Record, *, anew: bool = True) -> None:
        """Sign a record, store it at `path` and read it back.

        Raises:
            AlreadyCommitted: `anew`, and there is something already, which stays as it is.
            StoreError: it does not come back as it was written; what was there before is there then.
        """
        _keep(self.storage, path, sealed(record.model_dump(mode="json"), self.signing_key()), anew=anew)

    def secret(self, purpose: str) -> bytes:
        """Return 32 secret bytes for `purpose`, derived from the signing key: they are nowhere in the store.

        Raises:
            StoreError: the store was opened without its key.
        """
        return derived_secret(self.signing_key(), self.store_id, purpose)

    def put_object(self, ref: ObjectRef, file: Path) -> bool:
        """Store the Parquet `file` that `ref` names; return False if it was there already and is whole.

        On a local store an object that is there is hashed again, and replaced if it was damaged. An object store
        keeps its own checksums: there the size must be right.
        """
        if self.has_whole(ref):
            self.storage.settle(ref.path)  # whoever put it there may have died before that
            return False
        crash_point("object.before_put")
        self.storage.put_file(ref.path, file)
        crash_point("object.after_put")
        return True

    def has_whole(self, ref: ObjectRef) -> bool:
        """Return whether an object is there and whole: hashed on a local store, else of the right size."""
        if self.storage.size(ref.path) != ref.bytes:
            return False
        return self.storage.root is None or self.storage.hash(ref.path)[0] == ref.sha256

    @property
    def can_sign(self) -> bool:
        """Whether the store was opened with its signing key."""
        return self._key is not None

    def signing_key(self) -> SigningKey:
        """Return the key that every write needs.

        Raises:
            StoreError: the store was opened without it.
        """
        if self._key is None:
            raise StoreError(
                "The store was opened without its signing key, so nothing can be written",
                where=self.url,
                fix="set the environment variable that store.signing_key_env of the plan names",
            )
        return self._key

    def _local(self, ref: ObjectRef, whose: str) -> str:
        if ref.sha256 in self._hashed:
            return self._hashed[ref.sha256]
        path = self.storage.root / ref.path if self.storage.root is not None else self._fetched(ref, whose)
        problem = object_problem(self.storage, ref) if self.storage.root is not None else None
        if problem:
            raise Damaged(
                f"Object {ref.sha256} {problem}",
                where=f"snapshot {whose}",
                fix="`mailstay snapshots verify` lists every snapshot this damage reaches; use another one",
            )
        self._hashed[ref.sha256] = str(path)
        return str(path)

    def _fetched(self, ref: ObjectRef, whose: str) -> Path:
        """Download an object to this process's own folder, hashed on the way."""
        if self._cache is None:
            self._cache = Path(tempfile.mkdtemp(prefix="mailstay-objects-"))
            atexit.register(shutil.rmtree, self._cache, ignore_errors=True)
        target, digest = self._cache / f"{ref.sha256}.parquet", hashlib.sha256()
        try:
            with target.open("wb") as file:
                for piece in self.storage.chunks(ref.path):
                    digest.update(piece)
                    file.write(piece)
        except FileNotFoundError:
            raise Damaged(f"Object {ref.sha256} is missing", where=f"snapshot {whose}") from None
        if digest.hexdigest() != ref.sha256:
            target.unlink()
            raise Damaged(f"Object {ref.sha256} is not what was written", where=f"snapshot {whose}")
        return target

    def _say(self, snapshot_id: str, **said: Any) -> Verdict:
        self.signing_key()
        manifest = self.manifest(snapshot_id)
        source, sequence = split_name(snapshot_id)
        folder = f"verify/{source}/{sequence:08d}/"
        while True:
            verdict = Verdict(
                store_id=self.store_id,
                snapshot_id=snapshot_id,
                manifest_digest=manifest.digest,
                number=self._next_number(folder),
                **said,
            )
            crash_point("verdict.before_put")
            try:
                self.put_record(f"{folder}{verdict.number:06d}.json", verdict)
            except AlreadyCommitted:
                continue
            crash_point("verdict.after_put")
            return verdict

    def _next_number(self, folder: str) -> int:
        taken = [int(found[1]) for path in self.storage.list(folder) if (found := _NUMBERED.search(path))]
        return max(taken, default=0) + 1

    def _readback(self, path: str) -> ReadBack | Damaged:
        try:
            record = ReadBack.model_validate(
                unsealed(self.storage.get(path), self.public_key_hex, where=path)
            )
        except Damaged as error:
            return error
        except ValidationError:
            return Damaged("The record of readings does not fit the format", where=path)
        if record.store_id != self.store_id or _readback_path(record.number) != path:
            return Damaged("The record of readings is of another place", where=path)
        return record

    def _digests(self, snapshot_id: str) -> Names | None:
        """Return the digests of the manifest that is there now; None if it cannot be read (then that is the fault)."""
        try:
            return self.manifest(snapshot_id).digests
        except (Damaged, SnapshotError):
            return None

    def _verdict(self, path: str, snapshot_id: str, digests: Names | None) -> Verdict | Damaged | None:
        """Return one verdict, or what is wrong with it; None if retention removed it meanwhile."""
        try:
            body = unsealed(self.storage.get(path), self.public_key_hex, where=path)
            verdict = Verdict.model_validate(body)
        except FileNotFoundError:
            return None
        except Damaged as error:
            return error
        except ValidationError:
            return Damaged("The verdict does not fit the format", where=path)
        place = f"verify/{verdict.snapshot_id}/{verdict.number:06d}.json"
        if verdict.store_id != self.store_id or place != path:
            return Damaged(f"The verdict is on another snapshot than {snapshot_id}", where=path)
        if digests is not None and verdict.manifest_digest not in digests:
            # The number was taken again after the manifest that was judged had been removed.
            return Damaged(f"The verdict is on another manifest than the one of {snapshot_id}", where=path)
        return verdict

    def _all_verdicts(self) -> dict[str, Verdicts]:
        found: dict[str, Verdicts] = defaultdict(list)
        digests: dict[str, Names | None] = {}
        for path in self.storage.list("verify/"):
            snapshot_id = "/".join(path.split("/")[1:3])
            if not _NUMBERED.search(path):
                continue
            if snapshot_id not in digests:
                digests[snapshot_id] = self._digests(snapshot_id)
            if (verdict := self._verdict(path, snapshot_id, digests[snapshot_id])) is not None:
                found[snapshot_id].append(verdict)
        return found

    def _all_holds(self) -> dict[str, Holds]:
        found: dict[str, Holds] = defaultdict(list)
        for path in self.storage.list("holds/"):
            found["/".join(path.split("/")[1:3])] += self._hold(path)
        return {name: _active(holds) for name, holds in found.items()}

    def _hold(self, path: str) -> Holds:
        """Return the hold at `path`; nothing if retention removed it meanwhile."""
        try:
            body = unsealed(self.storage.get(path), self.public_key_hex, where=path)
        except FileNotFoundError:
            return []
        try:
            hold = Hold.model_validate(body)
        except ValidationError:
            raise Damaged("The hold does not fit the format", where=path) from None
        if hold.store_id != self.store_id or _hold_path(hold) != path:
            raise Damaged("The hold is of another place", where=path)
        return [hold]

    def _put_hold(self, hold: Hold) -> Hold:
        self.put_record(_hold_path(hold), hold, anew=False)
        return hold

    @staticmethod
    def _info(manifest: Manifest, verdicts: Verdicts, holds: Holds) -> SnapshotInfo:
        return SnapshotInfo(
            snapshot_id=manifest.snapshot_id,
            source=manifest.source,
            sequence=manifest.sequence,
            started_at=manifest.started_at,
            finished_at=manifest.finished_at,
            consistency_at=datetime.fromisoformat(manifest.consistency["at"]),
            rows=manifest.rows,
            bytes=manifest.bytes,
            tables=tuple(manifest.tables),
            state=_state(verdicts),
            verified=_verified(verdicts),
            held_by=[hold.reason for hold in holds],
            release=_release(verdicts),
        )


def open_store(
    url: str, *, signing_key: str = "", public_key: str | None = None, create: bool = False
) -> Store:
    """Open a store with a signing key given as text: a PEM, the path of a PEM file, or empty to read only.

    Raises:
        StoreError: there is no store, or a key is not the expected one.
        UsageError: the signing key cannot be read.
    """
    key = load_key(signing_key) if signing_key else None
    return Store.open(url, signing_key=key, public_key=public_key, create=create)


def object_problem(storage: Storage, ref: ObjectRef) -> str | None:
    """Return what is wrong with an object after reading all of it, or None."""
    try:
        found, size = storage.hash(ref.path)
    except FileNotFoundError:
        return "is missing"
    except StoreError as error:
        return f"cannot be read ({error.what})"
    if size != ref.bytes:
        return f"has {size} bytes, {ref.bytes} were written"
    return None if found == ref.sha256 else "does not hold the bytes that were written"


def _keep(storage: Storage, path: str, content: bytes, *, anew: bool) -> None:
    """Write a record and read it back: one that was changed on its way would stand in the way for ever.

    Raises:
        StoreError: it does not come back as it was written; what was there before is there then.
    """
    before = None if anew else storage.found(path)
    (storage.put_new if anew else storage.put)(path, content)
    if all(storage.found(path) not in (None, content) for _ in range(2)):
        if before is None:
            storage.delete(path)
        else:
            storage.put(path, before)
        raise StoreError(
            "What was written does not come back as it was",
            where=f"{storage.url}: {path}",
            fix="check the disk, memory and network of this machine; then run it again",
        )


def _store_file(store_id: str, public_key: str) -> bytes:
    facts = {"format": FORMAT_VERSION, "store_id": store_id, "public_key": public_key}
    return canonical_json(facts) + b"\n"


def _store_facts(content: bytes, url: str) -> dict[str, str]:
    try:
        facts = json.loads(content)
        good = (
            facts["format"] == FORMAT_VERSION
            and _HEX_KEY.fullmatch(facts["public_key"])
            and isinstance(facts["store_id"], str)
        )
    except (ValueError, KeyError, TypeError):
        good = False
    if not good:
        raise StoreError("store.json is damaged, or of another format", where=url)
    return {"store_id": facts["store_id"], "public_key": facts["public_key"]}


def _deciding(verdicts: list[Verdict | Damaged]) -> Verdict | Damaged | None:
    """Return the newest verdict that sets a state, or that was changed and may have set one."""
    for verdict in reversed(verdicts):
        if isinstance(verdict, Damaged) or verdict.state is not None:
            return verdict
    return None


def _state(verdicts: list[Verdict | Damaged]) -> State:
    decides = _deciding(verdicts)
    return decides.state if isinstance(decides, Verdict) and decides.state is not None else "committed"


def _release(verdicts: list[Verdict | Damaged]) -> Release | None:
    decides = _deciding(verdicts)
    return decides.release if isinstance(decides, Verdict) else None


def _verified(verdicts: list[Verdict | Damaged]) -> Level | None:
    for verdict in reversed(verdicts):
        if isinstance(verdict, Verdict) and verdict.level is not None:
            return verdict.level if verdict.ok else None
    return None


def _active(holds: Any) -> list[Hold]:
    return [hold for hold in holds if hold.released_at is None]


def _hold_path(hold: Hold) -> str:
    return f"holds/{hold.snapshot_id}/{digest_of(hold.reason)[:16]}.json"


def _readback_path(number: int) -> str:
    return f"readbacks/{number:06d}.json"
