"""Rehearsing a restore: what a snapshot would give back, how old that is, and how long it takes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tasks.core import Clock, Progress
from tasks.plan import MarketingObject
from tasks.snapshots.errors import Damaged
from tasks.snapshots.models import SnapshotInfo
from tasks.snapshots.restoring import Restored, restore
from tasks.snapshots.store import Store
from tasks.sources import Target, open_target


@dataclass(frozen=True)
class Reached:
    """What a rehearsal reached for one marketing object of the plan.

    Attributes:
        rpa_minutes: age of the data that would come back.
        rta_minutes: how long the restore took: all of the source, since nothing is there before it is committed.
    """

    name: str
    rpo_minutes: int
    rpa_minutes: float
    rto_minutes: int
    rta_minutes: float

    @property
    def met(self) -> bool:
        """Whether both objectives were met."""
        return self.rpa_minutes <= self.rpo_minutes and self.rta_minutes <= self.rto_minutes


@dataclass(frozen=True)
class Rehearsed:
    """What rehearsing one source came to.

    Attributes:
        problem: why it did not come back; empty when every table was equal.
        objects: per marketing object of the plan that has a table of this source.
    """

    source: str
    snapshot_id: str
    rows: int
    seconds: float
    problem: str
    objects: list[Reached]


def prove_by_restore(
    store: Store,
    snapshot_id: str,
    target: Target,
    *,
    mapping: str | None,
    clock: Clock,
    by: str,
    progress: Progress | None = None,
) -> Restored:
    """Restore a snapshot, proven or not, into an empty database, and record with it whether all of it came back.

    Raises:
        Damaged: it is damaged, which is recorded and quarantines it.
        SnapshotError: the database does not give back what was written, which is no fault of the snapshot.
        SourceError: the database refuses it; likewise.
        StoreError: the store was opened without its key: nothing was done.
    """
    store.signing_key()
    try:
        restored = restore(
            store, snapshot_id, target, clock=clock, mapping=mapping, unproven=True, progress=progress
        )
    except Damaged as error:
        finding = {"kind": "restore_failed", "message": error.what}
        store.note_verified(snapshot_id, "restore", findings=[finding], at=clock.now(), by=by)
        raise
    store.note_verified(snapshot_id, "restore", findings=[], at=clock.now(), by=by)
    return restored


def reached(
    objects: Mapping[str, MarketingObject],
    canonical: frozenset[str],
    snapshot: SnapshotInfo,
    restored: Restored,
    now: datetime,
) -> list[Reached]:
    """Hold a restored snapshot against the objectives of the objects that consist of its canonical tables."""
    age = (now - snapshot.consistency_at).total_seconds() / 60
    return [
        Reached(name, one.rpo_minutes, age, one.rto_minutes, restored.seconds / 60)
        for name, one in objects.items()
        if canonical & {str(table) for table in one.tables}
    ]


@contextmanager
def scratch() -> Iterator[Target]:
    """Yield an empty SQLite database that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="mailstay-rehearsal-") as folder:
        yield open_target(f"sqlite:///{Path(folder) / 'scratch.db'}")
