"""Back up the sources of the plan: one consistent point each, committed with one write, read back to the last byte."""

from __future__ import annotations

from prefect import flow

from tasks.snapshots.steps import (
    BackedUp,
    choose_sources,
    publish_backup,
    refuse_damaged,
    snapshot_source,
    verify_snapshot,
)


@flow(name="backup", flow_run_name="backup-{source}")
def backup(plan: str = "plan.yaml", source: str = "all", limit_rate: str = "") -> list[BackedUp]:
    """Take a snapshot of every source and read it back.

    Reads the sources and writes to the store only. A run that is killed leaves nothing half done: the next one
    takes a new snapshot and stores only the objects that are missing. A snapshot is `committed` after this run;
    `validate` decides whether it may be restored from.

    Args:
        plan: Path of the continuity plan. Decides which databases are read and where the store is.
        source: Name of one source of the plan, or `all`. Naming one leaves the others without a new snapshot.
        limit_rate: The most that is read from each source, such as 20MiB/s (of rows as Arrow holds them). Empty takes
            the plan's limit. Reading slower keeps the source's read transaction open longer.

    Returns:
        Per source the snapshot's id, tables, rows, bytes, and whether every byte was read back unchanged.
    """
    taken = [snapshot_source(plan, name, limit_rate) for name in choose_sources(plan, source)]
    read_back = [verify_snapshot(plan, one) for one in taken]
    publish_backup(read_back)
    refuse_damaged(read_back)
    return read_back
