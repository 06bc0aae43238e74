"""Verifying: does the store still hold, whole and unchanged, what was committed? Every fault is named."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from tasks.core import Progress, SilentProgress
from tasks.snapshots.coverage import Part, forget_superseded, last_read
from tasks.snapshots.erasures import Ledger, read_ledger, read_rewrites
from tasks.snapshots.errors import Damaged, NoSnapshot, SnapshotError
from tasks.snapshots.models import (
    Level,
    Manifest,
    ObjectRef,
    Replacement,
    Tombstone,
    Verdict,
    name_at,
    snapshot_name,
    split_name,
)
from tasks.snapshots.store import Store, object_problem

FindingKind = Literal[
    "object_missing",
    "object_size",
    "object_changed",
    "object_unreadable",
    "manifest_missing",
    "tombstone_changed",
    "manifest_changed",
    "chain_broken",
    "verdict_changed",
    "hold_changed",
    "readback_changed",
    "stray_file",
    "store_changed",
    "anchor_missing",
    "ledger_changed",
    "erased_back",
]

LEDGER = "erasure/"
"""Under this name the head of the ledger of erased persons is among the heads and the anchors."""


@dataclass(frozen=True)
class VerifyFinding:
    """One fault: what kind, where (as far as it applies), and a sentence that says it."""

    kind: FindingKind
    snapshot_id: str
    table: str
    object: str
    message: str


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found.

    Args:
        ok: whether there is no finding.
        objects: distinct objects that were looked at.
        bytes: bytes read and hashed (level `content`) or compared by size (level `structure`).
        snapshots: snapshots that were looked at.
        part: the part of the objects that was looked at, such as `3/7`; None for all.
        recorded: whether the readings are kept in the store.
        heads: per source the digest of its newest manifest, to be written down outside the store.
        replaced: snapshots whose manifest an erasure replaced, with their earlier forms: no fault.
    """

    level: Level
    ok: bool
    findings: list[VerifyFinding]
    objects: int
    bytes: int
    snapshots: int
    part: str | None
    recorded: bool
    heads: dict[str, str]
    replaced: dict[str, list[Replacement]]

    def as_records(self) -> list[dict[str, Any]]:
        """Return the findings as plain records, as verdicts keep them."""
        return [asdict(finding) for finding in self.findings]


def verify(
    store: Store,
    snapshot_id: str | None = None,
    *,
    level: Level,
    anchors: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> VerifyReport:
    """Check one snapshot, or all of them and their chain, and name everything that is wrong.

    Args:
        store: the store to check.
        snapshot_id: one snapshot, checked with its link to the one before; None checks all.
        level: `structure` reads manifests, signatures and the chain and compares the size of every object;
            `content` also reads and hashes every byte of every object.
        anchors: per source the digest of the last manifest that was written down outside the store: without it
            the removal of the newest snapshots cannot be seen.
        progress: is told of the objects.

    Raises:
        NoSnapshot: there is no such snapshot.
    """
    check = _Check(store, level, None, progress or SilentProgress())
    return check.run(snapshot_id, anchors or {})


def verify_and_record(
    store: Store,
    snapshot_id: str | None = None,
    *,
    at: datetime,
    by: str,
    part: Part | None = None,
    within: timedelta = timedelta(days=30),
    anchors: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> VerifyReport:
    """Read every byte as `verify` does, keep per object when that was, and quarantine what holds a damaged object.

    No reading makes a snapshot `valid`: only its contracts do. It counts as verified once each of its objects was read
    and was right, in one run or in parts `within` the time given, all of them after it last failed.

    Args:
        store: opened with its signing key.
        snapshot_id: one snapshot, which gets a verdict of its own; None reads all of them.
        at: when this run began.
        by: what reads, for the records.
        part: read only these objects (the chain, the manifests and what was said about them are checked each time).
        within: how far the readings of one snapshot may lie apart.
        anchors: as for `verify`.
        progress: is told of the objects.

    Raises:
        StoreError: the store was opened without its key: nothing has been read then.
        SnapshotError: there is no such snapshot.
    """
    store.signing_key()
    check = _Check(store, "content", part, progress or SilentProgress())
    report = check.run(snapshot_id, anchors or {})
    harmed = {finding.snapshot_id for finding in report.findings if finding.object}
    for name in [snapshot_id] if snapshot_id else sorted(harmed):
        if any(
            one.snapshot_id == name for one in check.manifests
        ):  # else there is nothing a verdict could be on
            found = [asdict(one) for one in report.findings if snapshot_id or one.snapshot_id == name]
            store.note_verified(name, "content", findings=found, at=at, by=by)
    whole = [sha256 for sha256, problem in check.seen.items() if problem is None]
    store.note_read(whole=whole, damaged=check.seen.keys() - set(whole), part=report.part, at=at, by=by)
    if snapshot_id is None:
        _note_complete(
            store, [one for one in check.manifests if one.snapshot_id not in harmed], at, within, by
        )
        forget_superseded(store, {ref.sha256 for one in check.manifests for ref in one.objects})
    return replace(report, recorded=True)


def _note_complete(store: Store, manifests: list[Manifest], at: datetime, within: timedelta, by: str) -> None:
    """Give the snapshots that do not count as verified a verdict, if by now all of their objects were read whole."""
    read = last_read(store, [ref for manifest in manifests for ref in manifest.objects])
    for manifest in manifests:
        noted = [
            one
            for one in store.verdicts(manifest.snapshot_id)
            if isinstance(one, Verdict) and one.level is not None
        ]
        if noted and noted[-1].ok:
            continue
        since = max(at - within, noted[-1].at) if noted else at - within
        last = [read[ref.sha256] for ref in manifest.objects]
        if all(one is not None and one.whole and one.at > since for one in last):
            store.note_verified(manifest.snapshot_id, "content", findings=[], at=at, by=by)


class _Check:
    def __init__(self, store: Store, level: Level, part: Part | None, progress: Progress) -> None:
        self.store, self.level, self.part, self.progress = store, level, part, progress
        self.manifests: list[Manifest] = []
        self.findings: list[VerifyFinding] = []
        self.seen: dict[str, tuple[FindingKind, str] | None] = {}
        self.heads: dict[str, str] = {}
        self.replaced: dict[str, list[Replacement]] = {}
        self.bytes = self.snapshots = 0

    def run(self, snapshot_id: str | None, anchors: Mapping[str, str]) -> VerifyReport:
        if snapshot_id is None:
            self.everything(anchors)
        else:
            self.one(snapshot_id)
        return VerifyReport(
            level=self.level,
            ok=not self.findings,
            findings=self.findings,
            objects=len(self.seen),
            bytes=self.bytes,
            snapshots=self.snapshots,
            part=str(self.part) if self.part else None,
            recorded=False,
            heads=self.heads,
            replaced=self.replaced,
        )

    def everything(self, anchors: Mapping[str, str]) -> None:
        self._store_file()
        self._strays()
        chains: dict[str, list[int]] = {}
        for name in self.store.snapshot_ids():
            source, sequence = split_name(name)
            chains.setdefault(source, []).append(sequence)
        for source, present in chains.items():
            self.manifests += self._chain(source, present, anchors.get(source))
        for source in set(anchors) - set(chains) - {LEDGER}:
            self._anchor(source, anchors[source], ())
        self._erasures(anchors.get(LEDGER))
        self._objects()
        for manifest in self.manifests:
            self._marks(manifest.snapshot_id)
        for record in self.store.readbacks():
            if isinstance(record, Damaged):
                self._add("readback_changed", "", f"{record.where}: {record.what}")

    def one(self, snapshot_id: str) -> None:
        self._store_file()
        source, sequence = split_name(snapshot_id)
        if snapshot_id not in self.store.snapshot_ids(source):
            raise NoSnapshot(
                f"There is no snapshot {snapshot_id}",
                where=self.store.url,
                fix="`mailstay snapshots list` shows them",
            )
        manifest = self._manifest(snapshot_id)
        if manifest is None:
            return
        if sequence > 1:
            before = snapshot_name(source, sequence - 1)
            with contextlib.suppress(NoSnapshot):
                parent = self._manifest(before, findings=False)
                if parent is not None:
                    self._link(manifest, parent)
        self.manifests = [manifest]
        self._objects()
        self._marks(snapshot_id)

    def _chain(self, source: str, present: list[int], anchor: str | None) -> list[Manifest]:
        manifests: dict[int, Manifest] = {}
        stones: dict[int, Tombstone] = {}
        for sequence in range(1, max(present) + 1):
            name = snapshot_name(source, sequence)
            found = self._link_at(name, there=sequence in present)
            if isinstance(found, Tombstone):
                stones[sequence] = found
            elif found is not None:
                manifests[sequence] = found
        # An erasure replaces a manifest in its place: what comes after it may name any form that it had.
        # One that found its parent rotten names bytes that may have been replaced by the manifest since.
        unlinked = {number for number, one in manifests.items() if one.parent_unreadable}
        links: dict[int, tuple[Collection[str], str | None]] = {
            **{number: (one.digests, one.parent_digest) for number, one in manifests.items()},
            **{
                number: ([*one.earlier_digests, one.manifest_digest], one.parent_digest)
                for number, one in stones.items()
            },
        }
        for sequence, (_, parent) in sorted(links.items()):
            name = snapshot_name(source, sequence)
            if sequence in unlinked:
                continue
            if sequence - 1 in links and parent not in links[sequence - 1][0]:
                self._broken(name, snapshot_name(source, sequence - 1))
            elif sequence == 1 and parent is not None:
                self._add("chain_broken", name, "The first manifest names one before it")
        if newest := manifests.get(max(present)):
            self.heads[source] = newest.digest
        if anchor is not None:
            self._anchor(source, anchor, {one for digests, _ in links.values() for one in digests})
        return list(manifests.values())

    def _link_at(self, name: str, *, there: bool) -> Manifest | Tombstone | None:
        if there:
            with contextlib.suppress(NoSnapshot):  # retention may remove it while we look
                return self._manifest(name)
        return self._tombstone(name)

    def _tombstone(self, name: str) -> Tombstone | None:
        try:
            return self.store.tombstone(name)
        except Damaged as error:
            self._add("tombstone_changed", name, f"{error.where}: {error.what}")
        except SnapshotError:
            self._add("manifest_missing", name, f"The manifest of {name} was removed: newer ones follow it")
        return None

    def _manifest(self, name: str, *, findings: bool = True) -> Manifest | None:
        self.snapshots += findings
        try:
            manifest = self.store.manifest(name)
            if manifest.replaced and findings:
                self.replaced[name] = manifest.replaced
            return manifest
        except Damaged as error:
            if findings:
                self._add("manifest_changed", name, str(error))
            return None

    def _link(self, manifest: Manifest, parent: Manifest) -> None:
        if not manifest.parent_unreadable and manifest.parent_digest not in parent.digests:
            self._broken(manifest.snapshot_id, parent.snapshot_id)

    def _broken(self, name: str, before: str) -> None:
        self._add(
            "chain_broken", name, f"{name} was written after another {before} than the one that is there"
        )

    def _anchor(self, source: str, anchor: str, known: Collection[str]) -> None:
        if anchor not in known:
            self.findings.append(
                VerifyFinding(
                    "anchor_missing",
                    "",
                    "",
                    "",
                    f"The snapshot of {source} whose digest the plan has written down is gone: the newest snapshots "
                    "were removed, replaced or damaged",
                )
            )

    def _erasures(self, anchor: str | None) -> None:
        """Check the ledger of erased persons, and that no manifest is back that an erasure had replaced."""
        try:
            ledger, rewrites = read_ledger(self.store), read_rewrites(self.store)
        except Damaged as error:
            self._add("ledger_changed", "", f"{error.where}: {error.what}")
            return
        if ledger.head:
            self.heads[LEDGER] = ledger.head
        if anchor is not None and anchor not in ledger.digests:
            self._add("anchor_missing", "", "The newest entries of the ledger of erased persons were removed")
        for manifest in self.manifests:
            name = manifest.snapshot_id
            if any(len(one.digests.get(name, ())) > len(manifest.digests) for one in rewrites):
                self._add("erased_back", name, f"{name} is what it was before an erasure replaced it")
            self._carried_out(manifest, ledger)

    def _carried_out(self, manifest: Manifest, ledger: Ledger) -> None:
        numbers = [number for one in manifest.replaced for number in one.erasures]
        if max(numbers, default=0) > len(ledger.entries):
            self._add(
                "ledger_changed",
                manifest.snapshot_id,
                f"The ledger of erased persons has lost entry {max(numbers)}, which {manifest.snapshot_id} names",
            )

    def _objects(self) -> None:
        distinct = {ref.sha256 for manifest in self.manifests for _, ref in self._wanted(manifest)}
        self.progress.start("objects", len(distinct))
        for at, manifest in enumerate(self.manifests):
            found = self._damage(manifest)
            with contextlib.suppress(NoSnapshot):  # retention may remove it while we look
                now = self._manifest(manifest.snapshot_id, findings=False) if found else None
                if now is not None and now.digest != manifest.digest:
                    # An erasure replaced it while its objects were read.
                    self.manifests[at], found = now, self._damage(now)
            self.findings += [] if found and self.store.is_buried(manifest.snapshot_id) else found
        self.progress.finish()

    def _wanted(self, manifest: Manifest) -> list[tuple[str, ObjectRef]]:
        """Return the objects of a snapshot that this run looks at, each with the name of its table."""
        return [
            (name, ref)
            for name, entry in manifest.tables.items()
            for ref in entry.objects
            if self.part is None or self.part.holds(ref.sha256)
        ]

    def _damage(self, manifest: Manifest) -> list[VerifyFinding]:
        return [
            VerifyFinding(
                problem[0],
                manifest.snapshot_id,
                name,
                ref.sha256,
                f"Object {ref.sha256} of table {name} in snapshot {manifest.snapshot_id} {problem[1]}",
            )
            for name, ref in self._wanted(manifest)
            if (problem := self._object(ref)) is not None
        ]

    def _object(self, ref: ObjectRef) -> tuple[FindingKind, str] | None:
        """Look at an object once, whatever number of snapshots share it."""
        if ref.sha256 not in self.seen:
            self.seen[ref.sha256] = self._looked_at(ref)
            self.bytes += ref.bytes
            self.progress.advance()
        return self.seen[ref.sha256]

    def _looked_at(self, ref: ObjectRef) -> tuple[FindingKind, str] | None:
        size = self.store.storage.size(ref.path)
        if size is None:
            return "object_missing", "is missing"
        if size != ref.bytes:
            return "object_size", f"has {size:,} bytes, {ref.bytes:,} were written"
        if self.level == "content" and (problem := object_problem(self.store.storage, ref)):
            return "object_unreadable" if "cannot be read" in problem else "object_changed", problem
        return None

    def _marks(self, snapshot_id: str) -> None:
        for verdict in self.store.verdicts(snapshot_id):
            if isinstance(verdict, Damaged):
                self._add("verdict_changed", snapshot_id, f"{verdict.where}: {verdict.what}")
        try:
            self.store.holds(snapshot_id)
        except Damaged as error:
            self._add("hold_changed", snapshot_id, f"{error.where}: {error.what}")

    def _store_file(self) -> None:
        if not self.store.is_described():
            self._add("store_changed", "", "store.json is missing or was changed since the store was opened")

    def _strays(self) -> None:
        """Name files under snapshots/ that are no manifests: somebody put them there, or moved one away."""
        for path in self.store.storage.list("snapshots/"):
            if name_at(path) is None:
                self._add("stray_file", "", f"{path} is not the name of a manifest")

    def _add(self, kind: FindingKind, snapshot_id: str, message: str) -> None:
        self.findings.append(VerifyFinding(kind, snapshot_id, "", "", message))
