"""Rehearse a restore: the newest valid snapshot of every source into a scratch database, compared and timed."""

from __future__ import annotations

from prefect import flow

from tasks.snapshots import Rehearsed
from tasks.snapshots.steps import choose_sources, publish_rehearsal, rehearse_source


@flow(name="rehearse", flow_run_name="rehearse-{source}")
def rehearse(plan: str = "plan.yaml", source: str = "all", into: str = "") -> list[Rehearsed]:
    """Restore the newest valid snapshot of every source into a scratch database and hold it against the plan.

    The only proof of a backup is a restore. Every table is read back and compared; how old the data is and how long the
    restore took is held against the RPO and RTO of every marketing object of the plan. The result is recorded with the
    snapshot as a verification at level `restore`; one whose objects are damaged is quarantined. A value that the
    scratch database cannot hold is named, and is no fault of the snapshot. Nothing else is changed.

    Args:
        plan: Path of the continuity plan. Decides the store, and the objectives of every marketing object.
        source: Name of one source of the plan, or `all`.
        into: An empty database to use, as in `restore`; it is left as restored. Empty takes a temporary SQLite file,
            which is enough to compare every value, and is removed.

    Returns:
        Per source the snapshot, its rows, the seconds it took, and per marketing object what was reached.
    """
    found = [rehearse_source(plan, name, into) for name in choose_sources(plan, source)]
    publish_rehearsal(found)
    return found
