"""Restore a snapshot: into an empty database, or row by row into one in use; compared before anything is kept."""

from __future__ import annotations

from typing import Literal

from prefect import flow

from tasks.snapshots import Merged, Restored, SnapshotChoice
from tasks.snapshots.steps import (
    check_restore,
    choose_snapshot,
    merge_snapshot,
    publish_merge,
    publish_restore,
    restore_snapshot,
)


@flow(name="restore", flow_run_name="restore-{source}-{mode}")
def restore(
    source: str,
    into: str = "",
    plan: str = "plan.yaml",
    snapshot: SnapshotChoice = "latest",
    mode: Literal["empty", "insert-missing", "overwrite"] = "empty",
    apply: bool = False,
    tables: list[str] = [],  # noqa: B006 - Prefect's form shows a plain default, and nobody changes it
    keys: list[str] = [],  # noqa: B006
    subscribers: list[int] = [],  # noqa: B006
    differences: str = "",
    unproven: bool = False,
) -> Restored | Merged:
    """Write the tables of a snapshot into an empty database, or its rows into one in use.

    Mode `empty` WRITES to the database that is named, in one transaction that is kept only if every table reads back
    exactly as the snapshot has it; the plan's own sources are refused. The two other modes compare first and CHANGE
    NOTHING unless `apply` is on: then they write to a database in use, in one transaction, while others can read it
    and not write. Rows that only the database has are always left alone. Of two consents the stricter one stays,
    whatever the mode. Campaigns come back paused or as drafts, and one that is sending now is left alone: a restore
    never sends.

    Args:
        source: Name of the source in the plan whose data is restored.
        into: The database to write to: sqlite:///path, postgresql://user@host/database, or env:NAME for an environment
            variable that holds the URL (needed where it has a password). Mode `empty` needs one; in the two others,
            nothing here means the source's own database.
        plan: Path of the continuity plan. Decides which store is read.
        snapshot: Id of the snapshot, such as shop/00000042, or latest for the newest valid one.
        mode: `empty` restores into a database that has none of the tables; `insert-missing` writes rows whose key the
            database does not have; `overwrite` also sets rows back that differ.
        apply: Really write into the database in use. Leave it off to see what would happen. Not for `empty`.
        tables: Names of the tables to restore. Empty restores all, or those that keys name.
        keys: Only these rows, as table:1,2,3; parts of a key of several columns joined by / (subscriber_lists:7/3).
            Not for `empty`.
        subscribers: Only the rows of these persons over all their tables, by their id. Not for `empty`.
        differences: A new folder for every differing row, as Parquet. Empty takes one below the plan's state folder.
            It holds personal data.
        unproven: Restore a snapshot that is not valid. Only for when there is no other.

    Returns:
        Per table what was brought back (`empty`), or what differs and what was or would be done about it.
    """
    check_restore(mode, into, apply, keys, subscribers)
    chosen = choose_snapshot(plan, source, snapshot)
    if mode == "empty":
        restored = restore_snapshot(plan, chosen, into, tables, unproven)
        publish_restore(restored)
        return restored
    merged = merge_snapshot(plan, chosen, into, mode, tables, keys, subscribers, differences, apply, unproven)
    publish_merge(merged)
    return merged
