"""The Prefect tasks of `backup`: one coarse task per source; tables are streamed inside it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact

from tasks.core import SystemClock, UsageError, current_progress, open_clock, plural
from tasks.plan import LoadedPlan, load_plan
from tasks.snapshots.errors import Damaged
from tasks.snapshots.models import Manifest
from tasks.snapshots.store import Store, open_store
from tasks.snapshots.taking import take_snapshot
from tasks.snapshots.verifying import VerifyReport, verify
from tasks.sources import open_source


@dataclass(frozen=True)
class BackedUp:
    """One snapshot that a backup took: what is in it, and whether every byte was read back and was right."""

    snapshot_id: str
    source: str
    tables: int
    rows: int
    bytes: int
    verified: bool
    findings: int
    seconds: float


@task
def choose_sources(plan: str, source: str) -> list[str]:
    """Return the plan's sources to back up: all of them, or the one that is named."""
    loaded = load_plan(plan)
    if source == "all":
        return list(loaded.plan.sources)
    loaded.source_url(source)
    return [source]


@task(task_run_name="snapshot-{source}", retries=2, retry_delay_seconds=[2, 10])
def snapshot_source(plan: str, source: str) -> BackedUp:
    """Copy all tables of one source from one consistent point into the store and commit them."""
    loaded = load_plan(plan)
    settings = loaded.plan.sources[source]
    began = SystemClock().now()
    manifest = take_snapshot(
        open_source(
            source,
            loaded.source_url(source),
            tables=settings.tables,
            exclude=settings.exclude,
            schema=settings.db_schema,
        ),
        open_plan_store(loaded, create=True),
        clock=open_clock(loaded.clock_spec()),
        plan_digest=loaded.digest,
        progress=current_progress(),
    )
    seconds = (SystemClock().now() - began).total_seconds()
    get_run_logger().info(
        "Committed %s: %s in %s, %.1f s",
        manifest.snapshot_id,
        plural(manifest.rows, "row"),
        plural(len(manifest.tables), "table"),
        seconds,
    )
    return _summary(manifest, seconds)


@task(task_run_name="verify-{taken.source}", retries=2, retry_delay_seconds=[2, 10])
def verify_snapshot(plan: str, taken: BackedUp) -> BackedUp:
    """Read every byte of the snapshot back, record the verdict, and quarantine the snapshot if anything is wrong."""
    loaded = load_plan(plan)
    store = open_plan_store(loaded)
    report = verify(store, taken.snapshot_id, level="content", progress=current_progress())
    store.note_verified(
        taken.snapshot_id,
        "content",
        findings=report.as_records(),
        at=open_clock(loaded.clock_spec()).now(),
        by="backup",
    )
    for finding in report.findings:
        get_run_logger().error(finding.message)
    return _verified(taken, report)


@task
def publish_backup(taken: list[BackedUp]) -> None:
    """Show the snapshots of this run as a Prefect artifact."""
    lines = [
        "| snapshot | tables | rows | bytes | verified | seconds |",
        "| --- | --: | --: | --: | --- | --: |",
    ]
    lines += [
        f"| {one.snapshot_id} | {one.tables} | {one.rows:,} | {one.bytes:,} | "
        f"{'every byte' if one.verified else plural(one.findings, 'finding')} | {one.seconds:.1f} |"
        for one in taken
    ]
    create_markdown_artifact(
        key="backup", markdown="# Backup\n\n" + "\n".join(lines), description="Snapshots taken"
    )


@task
def refuse_damaged(taken: list[BackedUp]) -> None:
    """Fail the run if a snapshot could not be read back as it was written (it is quarantined already)."""
    damaged = [one.snapshot_id for one in taken if not one.verified]
    if damaged:
        raise Damaged(
            f"Not every byte could be read back: {', '.join(damaged)}",
            fix="`mailstay snapshots verify` names the objects; check the disk, then run the backup again",
        )


def open_plan_store(loaded: LoadedPlan, *, create: bool = False) -> Store:
    """Open the store that a plan names, with the signing key from the environment where it is set.

    Raises:
        UsageError: the store has to be created and no key is set.
    """
    variable = loaded.plan.store.signing_key_env
    value = os.environ.get(variable, "")
    if create and not value:
        raise UsageError(
            f"The environment variable {variable} is not set, so nothing can be signed",
            where=str(loaded.path),
            fix=f"export {variable}=/path/to/key.pem (make one with `openssl genpkey -algorithm ed25519`)",
        )
    return open_store(
        loaded.store_url(), signing_key=value, public_key=loaded.plan.store.public_key, create=create
    )


def _summary(manifest: Manifest, seconds: float) -> BackedUp:
    return BackedUp(
        snapshot_id=manifest.snapshot_id,
        source=manifest.source,
        tables=len(manifest.tables),
        rows=manifest.rows,
        bytes=manifest.bytes,
        verified=False,
        findings=0,
        seconds=round(seconds, 3),
    )


def _verified(taken: BackedUp, report: VerifyReport) -> BackedUp:
    return BackedUp(**{**taken.__dict__, "verified": report.ok, "findings": len(report.findings)})
