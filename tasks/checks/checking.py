"""Checking a snapshot of the store, and marking it with what came out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from tasks.checks.contracts import Contract
from tasks.checks.findings import CheckReport
from tasks.checks.running import SnapshotData, TableData, check_data
from tasks.core import Clock, crash_point
from tasks.snapshots import Damaged, SnapshotInfo, Store, Verdict, split_name

BY = "validate"
"""Who the verdicts of checks are signed as."""


def run_checks(
    store: Store,
    snapshot_id: str,
    contracts: Mapping[str, Contract],
    *,
    previous: SnapshotInfo | None,
    docs_folder: Path | None,
    clock: Clock,
) -> CheckReport:
    """Hold a snapshot against its contracts; changes nothing in the store (see `mark_snapshot`).

    Args:
        store: where it is.
        snapshot_id: which one.
        contracts: the contract of each table.
        previous: the last valid snapshot of the source, to judge shrinkage by and to name as the last good one.
        docs_folder: where to write the Data Docs; None: nowhere.
        clock: says when this check is made.

    Raises:
        SnapshotError: there is no such snapshot, or its manifest was tampered with.
        ChecksError: there is no contract.
    """
    manifest = store.manifest(snapshot_id)
    before = store.manifest(previous.snapshot_id).tables if previous is not None else {}
    tables: dict[str, TableData] = {}
    damaged: dict[str, str] = {}
    for name, entry in manifest.tables.items():
        try:
            files = store.table_files(snapshot_id, name)
        except Damaged as error:
            damaged[name] = error.what
            continue
        tables[name] = TableData(
            files=tuple(files),
            source_rows=entry.source_rows,
            previous_rows=before[name].rows if name in before else None,
        )
    return check_data(
        SnapshotData(
            snapshot_id=snapshot_id,
            consistency_at=store.info(snapshot_id).consistency_at,
            tables=tables,
            history=_history(store, snapshot_id),
            last_good=previous.snapshot_id if previous is not None else "",
            damaged=damaged,
        ),
        contracts,
        at=clock.now(),
        docs_folder=docs_folder,
    )


def mark_snapshot(store: Store, report: CheckReport, *, clock: Clock) -> Verdict:
    """Record, signed, what the checks say the snapshot may be used for, with their findings."""
    crash_point("validate.before_verdict")
    verdict = store.mark(
        report.snapshot_id,
        report.outcome,
        findings=[finding.as_dict() for finding in report.findings],
        at=clock.now(),
        by=BY,
    )
    crash_point("validate.after_verdict")
    return verdict


def last_good_before(store: Store, snapshot_id: str) -> SnapshotInfo | None:
    """Return the newest valid snapshot of the same source before this one; None if there is none."""
    for earlier in _before(store, snapshot_id):
        if store.state(earlier) == "valid":
            return store.info(earlier)
    return None


def _before(store: Store, snapshot_id: str) -> list[str]:
    source, _ = split_name(snapshot_id)
    return [one for one in reversed(store.snapshot_ids(source)) if one < snapshot_id]


def _history(store: Store, snapshot_id: str) -> Iterator[tuple[str, set[str]]]:
    """Yield the checked snapshots before this one, newest first, with the rules that they broke."""
    for earlier in _before(store, snapshot_id):
        said = [one for one in store.verdicts(earlier) if isinstance(one, Verdict) and one.by == BY]
        if said:
            newest = max(said, key=lambda one: one.number)
            yield earlier, {str(finding["rule"]) for finding in newest.findings if "rule" in finding}
