"""Restore a snapshot into an empty database: written, read back and compared before anything is kept."""

from __future__ import annotations

from prefect import flow

from tasks.snapshots import Restored
from tasks.snapshots.steps import choose_snapshot, publish_restore, restore_snapshot


@flow(name="restore", flow_run_name="restore-{source}")
def restore(
    source: str,
    into: str,
    plan: str = "plan.yaml",
    snapshot: str = "latest",
    tables: list[str] = [],  # noqa: B006 - Prefect's form shows a plain default, and nobody changes it
    unproven: bool = False,
) -> Restored:
    """Write the tables of a snapshot into a database that has none of them.

    WRITES to the database that is named, in one transaction that is kept only if every table reads back exactly as
    the snapshot has it. Campaigns that were running or scheduled come back paused or as drafts: a restore never sends.
    The plan's own sources are refused: restore beside them, look, then switch over.

    Args:
        source: Name of the source in the plan whose data is restored.
        into: The empty database: sqlite:///path, postgresql://user@host/database, or env:NAME for an environment
            variable that holds the URL (needed where it has a password).
        plan: Path of the continuity plan. Decides which store is read.
        snapshot: Id of the snapshot, such as shop/00000042, or latest for the newest valid one.
        tables: Names of the tables to restore. Empty restores all.
        unproven: Restore a snapshot that is not valid. Only for when there is no other.

    Returns:
        Per table its rows, what came back unable to send, what was not brought back, and the seconds it took.
    """
    restored = restore_snapshot(plan, choose_snapshot(plan, source, snapshot), into, tables, unproven)
    publish_restore(restored)
    return restored
