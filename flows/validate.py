"""Prove snapshots against their contracts; each becomes valid, or is quarantined and never restored from."""

from __future__ import annotations

from prefect import flow

from tasks.checks.steps import (
    Validated,
    apply_gate,
    check_snapshot,
    choose_snapshots,
    conclude,
    publish_findings,
)
from tasks.snapshots import SnapshotChoice


@flow(name="validate", flow_run_name="validate-{snapshot}-{source}")
def validate(plan: str = "plan.yaml", snapshot: SnapshotChoice = "latest", source: str = "all") -> Validated:
    """Check snapshots and mark each as `valid` or `quarantined`.

    Reads the store only, never the source; writes signed verdicts into the store, and pages and the history of checks
    below the plan's reports folder. `restore`, `respond` and `recover` use valid snapshots only. A quarantine is a
    result, not a failure: the run completes, its outcome says so, and the command line ends with an exit code of its
    own.

    Args:
        plan: Path of the continuity plan. Decides the store, and which contracts each source is held against.
        snapshot: Id of one snapshot, as `shop/00000001`, or `latest` for the newest of each source. Checking an
            older one again replaces its verdict.
        source: Name of one source of the plan, or `all`. Naming one leaves the others' snapshots as they are.

    Returns:
        The outcome, and per snapshot its findings by severity, the reason in words, and where its page lies.
    """
    reports = [check_snapshot(plan, one) for one in choose_snapshots(plan, snapshot, source)]
    checked = [apply_gate(plan, report) for report in reports]
    publish_findings(reports, checked)
    return conclude(checked)
