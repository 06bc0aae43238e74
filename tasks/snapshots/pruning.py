"""Removing what retention no longer keeps: first snapshots, and long after them the objects that nobody needs.

A snapshot goes by a signed tombstone and then the deletion of its manifest, so that the chain still verifies. Objects
that no manifest names are condemned first and deleted by a later prune, once the grace is over: a backup that found one
of them there meanwhile has committed by then, and its manifest saves it. A prune that was killed leaves a store that
verifies; the next one goes on.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from tasks.core import Clock, UsageError, crash_point
from tasks.snapshots.coverage import forget_superseded
from tasks.snapshots.errors import AlreadyCommitted, NoSnapshot, SnapshotError
from tasks.snapshots.leases import live_leases, sole_deleter
from tasks.snapshots.models import Tombstone, Verdict, object_path, snapshot_name, split_name
from tasks.snapshots.retention import RULES, Fate, Rules, decide
from tasks.snapshots.store import Store

GRACE = timedelta(hours=24)
"""How long an object stays condemned: longer than the longest backup takes."""

_OBJECT = re.compile(r"objects/[0-9a-f]{2}/([0-9a-f]{64})\.parquet")


@dataclass(frozen=True)
class Pruned:
    """What a prune did, or would do.

    Attributes:
        dry: whether nothing was changed.
        snapshots: every snapshot of the store with the rules that keep it.
        removed: the snapshots that went, or would go.
        condemned: objects that no snapshot needs any more, now marked; `condemned_bytes` are theirs.
        deleted: objects whose grace was over, with `deleted_bytes`.
        waiting: why no object was deleted; empty where nothing stood in the way.
    """

    dry: bool
    snapshots: list[Fate]
    removed: list[str]
    condemned: int
    condemned_bytes: int
    deleted: int
    deleted_bytes: int
    waiting: str


def prune(
    store: Store, rules: Rules, *, clock: Clock, grace: timedelta = GRACE, dry: bool = True, by: str = "prune"
) -> Pruned:
    """Apply retention to a store; `dry` says what would happen and changes nothing.

    Args:
        store: opened with its signing key, unless `dry`.
        rules: what is kept; rules that keep nothing are refused.
        clock: for the times of snapshots and tombstones.
        grace: how long an object stays condemned before it is deleted.
        dry: change nothing.
        by: who prunes, for the tombstones.

    Raises:
        UsageError: no rule keeps anything.
        SnapshotError: somebody else deletes just now.
        Damaged: a manifest, a hold or a verdict was tampered with: nothing is removed from a store that is not whole.
    """
    if not any(getattr(rules, name) for name in RULES):
        raise UsageError("No rule keeps anything", fix="set at least one keep_… of retention above 0")
    with nullcontext() if dry else sole_deleter(store, beside_backups=True):
        return _pruned(store, rules, clock, grace, dry, by)


def _pruned(store: Store, rules: Rules, clock: Clock, grace: timedelta, dry: bool, by: str) -> Pruned:
    fates = decide(store.list(strict=True), rules, clock.now())
    gone = {fate.snapshot_id for fate in fates if not fate.kept}
    if not dry:
        gone = {name for name in sorted(gone) if _bury(store, name, clock.now(), by)}
    needed = needed_objects(store, leaving_out=gone)
    sizes = {name: store.storage.size(object_path(name)) or 0 for name in stored_objects(store) - needed}
    marked = store.condemned()
    now = clock.now()
    fresh = [name for name in sizes if name not in marked]
    ripe = [name for name in sizes if name in marked and marked[name] + grace <= now]
    if not dry:
        live_leases(store, "backup")  # takes away those of dead runs
        for name in marked.keys() - sizes.keys():
            store.pardon(name)
        for name in fresh:
            store.condemn(name, now)
            crash_point("prune.condemned")
        forget_superseded(store, needed)
    deleted, waiting = (ripe, "") if dry or not ripe else _delete(store, ripe)
    return Pruned(
        dry=dry,
        snapshots=fates,
        removed=sorted(gone),
        condemned=len(fresh),
        condemned_bytes=sum(sizes[name] for name in fresh),
        deleted=len(deleted),
        deleted_bytes=sum(sizes[name] for name in deleted),
        waiting=waiting,
    )


def _bury(store: Store, snapshot_id: str, at: datetime, by: str) -> bool:
    """Remove one snapshot and return whether it is gone; somebody may have come to hold it just now."""
    try:
        store.bury(snapshot_id, at=at, by=by)
        crash_point("prune.tombstoned")
        if store.holds(snapshot_id):  # with its manifest there it still exists, whatever the tombstone says
            return False
        store.remove_buried(snapshot_id)
        crash_point("prune.manifest_removed")
    except NoSnapshot:  # another prune was faster
        store.tombstone(snapshot_id)
    return True


def _delete(store: Store, ripe: Sequence[str]) -> tuple[list[str], str]:
    """Delete objects unless a backup runs; return which, and why none was deleted or an empty text."""
    if others := live_leases(store, "backup"):
        return [], f"a backup is running ({others[0]}); the next prune deletes them"
    needed = needed_objects(store)  # a backup that begins now waits: what was committed since is saved
    for name in ripe:
        if name not in needed:
            store.storage.delete(object_path(name))
            crash_point("prune.object_deleted")
        store.pardon(name)
    return [name for name in ripe if name not in needed], ""


def give_up(store: Store, snapshot_id: str, *, clock: Clock, by: str, dry: bool = True) -> Tombstone:
    """Put a signed tombstone in the place of a snapshot whose manifest nobody can read, and return it.

    The chain verifies again then, and retention may remove what only that snapshot held: until then nothing is removed,
    for the manifest might still be brought back from a copy of the store.

    Args:
        store: opened with its signing key.
        snapshot_id: the snapshot; newer ones must follow it.
        clock: for the time of the tombstone.
        by: who gives it up.
        dry: change nothing.

    Raises:
        SnapshotError: its manifest can be read, no newer snapshot follows it, or somebody else deletes just now.
    """
    source, sequence = split_name(snapshot_id)
    with nullcontext() if dry else sole_deleter(store, beside_backups=True):
        link = store.link(snapshot_id)
        if link.unreadable is None:
            raise SnapshotError(
                f"The manifest of {snapshot_id} can be read", fix="leave it to retention: `mailstay prune`"
            )
        if store.snapshot_ids(source)[-1] == snapshot_id:
            raise SnapshotError(
                f"{snapshot_id} is the newest snapshot of {source}, so that its number would be taken again",
                fix="run a backup first: it follows the damaged one",
            )
        digest = _links(store, source, sequence + 1)[1] or link.digest
        if digest is None:
            raise SnapshotError(
                "Not a byte of the manifest can be read", where=snapshot_id, fix="repair the disk"
            )
        told = {one.manifest_digest for one in store.verdicts(snapshot_id) if isinstance(one, Verdict)}
        stone = Tombstone(
            store_id=store.store_id,
            snapshot_id=snapshot_id,
            manifest_digest=digest,
            earlier_digests=sorted(told - {digest}),
            parent_digest=_links(store, source, sequence - 1)[0] if sequence > 1 else None,
            rows=0,
            unreadable=link.unreadable,
            at=clock.now(),
            by=by,
        )
        if dry:
            return stone
        with suppress(AlreadyCommitted):
            store.put_record(f"tombstones/{snapshot_id}.json", stone)
        crash_point("give_up.tombstoned")
        store.remove(snapshot_id)
        return store.tombstone(snapshot_id)


def _links(store: Store, source: str, sequence: int) -> tuple[str | None, str | None]:
    """Return the digest of a place in the chain and the one that it names, as far as there are any."""
    name = snapshot_name(source, sequence)
    with suppress(NoSnapshot):
        link = store.link(name)
        return link.digest, link.manifest.parent_digest if link.manifest else None
    with suppress(SnapshotError):
        stone = store.tombstone(name)
        return stone.manifest_digest, stone.parent_digest
    return None, None


def needed_objects(store: Store, leaving_out: Collection[str] = ()) -> set[str]:
    """Return the hashes of all objects that a manifest names."""
    return {
        ref.sha256
        for manifest in store.manifests()
        if manifest.snapshot_id not in leaving_out
        for ref in manifest.objects
    }


def stored_objects(store: Store) -> set[str]:
    """Return the hashes of all objects that are there."""
    return {found[1] for path in store.storage.list("objects/") if (found := _OBJECT.fullmatch(path))}
