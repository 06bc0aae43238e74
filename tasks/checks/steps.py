"""The Prefect tasks of `validate`: choose snapshots, hold each against its contracts, mark it, tell people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact

from tasks.checks.checking import last_good_before, mark_snapshot, run_checks
from tasks.checks.findings import CheckFinding, CheckReport, Outcome
from tasks.checks.history import remember
from tasks.checks.kept import forget_kept
from tasks.checks.planned import contracts_of
from tasks.checks.releasing import release_snapshot
from tasks.checks.result_page import page_path, write_index, write_page
from tasks.checks.rows import bad_rows
from tasks.core import UsageError, crash_point, open_clock, plural
from tasks.incidents import open_journal
from tasks.plan import LoadedPlan, load_plan
from tasks.snapshots import Release, Store, split_name
from tasks.snapshots.steps import open_plan_store

_TABLE_ROWS = 100


@dataclass(frozen=True)
class Checked:
    """What the checks said of one snapshot.

    Attributes:
        snapshot_id: which snapshot.
        source: where it is from.
        outcome: `valid` or `quarantined`.
        checks: rules asked.
        critical: critical findings; any quarantines.
        warnings: findings that only report.
        infos: findings for the record.
        reason: the outcome in words.
        last_good: the newest valid snapshot before this one; empty if there is none.
        page: the page that tells all of it.
        docs: the folder of its Data Docs.
        seconds: how long the checks took.
    """

    snapshot_id: str
    source: str
    outcome: Outcome
    checks: int
    critical: int
    warnings: int
    infos: int
    reason: str
    last_good: str
    page: str
    docs: str
    seconds: float


@dataclass(frozen=True)
class Validated:
    """The result of one `validate` run: `quarantined` if any of its snapshots is."""

    outcome: Outcome
    snapshots: list[Checked]


@task
def choose_snapshots(plan: str, snapshot: str, source: str) -> list[str]:
    """Return the snapshots to check: the newest committed one of each source, or the one that is named."""
    loaded = load_plan(plan)
    store = open_plan_store(loaded)
    if snapshot != "latest":
        named, _ = split_name(snapshot)
        if source not in ("all", named):
            raise UsageError(
                f"Snapshot {snapshot} is not of source {source!r}",
                fix=f"leave source at all, or name {named}",
            )
        store.manifest(snapshot)
        return [snapshot]
    if source != "all" and source not in loaded.plan.sources:
        raise UsageError(
            f"The plan has no source {source!r}",
            where=str(loaded.path),
            fix=f"use one of: {', '.join(loaded.plan.sources)}",
        )
    names = list(loaded.plan.sources) if source == "all" else [source]
    newest = {name: store.snapshot_ids(name)[-1:] for name in names}
    empty = [name for name, found in newest.items() if not found]
    if empty:
        raise UsageError(
            f"There is no snapshot of {', '.join(empty)}", where=store.url, fix="run `mailstay backup` first"
        )
    return [found[0] for found in newest.values()]


@task(task_run_name="check-{snapshot_id}", retries=1, retry_delay_seconds=5)
def check_snapshot(plan: str, snapshot_id: str) -> CheckReport:
    """Hold every table of a snapshot against its contract and write the Data Docs; marks nothing yet."""
    loaded = load_plan(plan)
    store = open_plan_store(loaded)
    source, _ = split_name(snapshot_id)
    folder = checks_folder(loaded)
    report = run_checks(
        store,
        snapshot_id,
        contracts_of(loaded, source),
        previous=last_good_before(store, snapshot_id),
        docs_folder=page_path(folder, snapshot_id).parent / "data-docs",
        docs_assets=folder / "assets",
        clock=open_clock(loaded.clock_spec()),
        mapping=loaded.plan.sources[source].mapping,
        witness=_witness(loaded, store, source),
        kept_folder=_kept_folder(loaded),
    )
    remember(folder / "history", report)
    log = get_run_logger()
    for finding in report.findings:
        log.log({"critical": 40, "warning": 30, "info": 20}[finding.severity], finding.message)
    log.info(
        "%s: %s, %s in %.1f s", snapshot_id, report.outcome, plural(report.checks, "check"), report.seconds
    )
    return report


@task(task_run_name="mark-{report.snapshot_id}", retries=2, retry_delay_seconds=[2, 10])
def apply_gate(plan: str, report: CheckReport) -> Checked:
    """Mark the snapshot valid or quarantined in the store, signed, with the findings, and write its page."""
    loaded = load_plan(plan)
    store, folder = open_plan_store(loaded), checks_folder(loaded)
    mark_snapshot(store, report, clock=open_clock(loaded.clock_spec()))
    crash_point("validate.before_page")
    page = write_page(store, report.snapshot_id, folder, loaded.plan.name)
    write_index(store, folder, loaded.plan.name)
    log = get_run_logger()
    (log.error if report.outcome == "quarantined" else log.info)(report.reason)
    return Checked(
        snapshot_id=report.snapshot_id,
        source=split_name(report.snapshot_id)[0],
        outcome=report.outcome,
        checks=report.checks,
        critical=report.count("critical"),
        warnings=report.count("warning"),
        infos=report.count("info"),
        reason=report.reason,
        last_good=report.last_good,
        page=str(page),
        docs=report.docs,
        seconds=report.seconds,
    )


@task
def publish_findings(reports: list[CheckReport], checked: list[Checked]) -> None:
    """Show what was found as a Prefect artifact."""
    pages = {one.snapshot_id: one.page for one in checked}
    sections = [_section(report, pages[report.snapshot_id]) for report in reports]
    create_markdown_artifact(
        key="validate",
        markdown="\n\n".join(["# Validation", *sections]),
        description="What the checks found in the snapshots",
    )


@task
def forget_segments(plan: str) -> None:
    """Remove what validations kept of segments: after an erasure it must not remember the keys of what is gone."""
    forget_kept(_kept_folder(load_plan(plan)))


def checks_folder(loaded: LoadedPlan) -> Path:
    """Return the folder for what checks write, below that of the reports."""
    return loaded.resolve(loaded.plan.reports) / "checks"


def rows_behind(
    loaded: LoadedPlan, store: Store, snapshot_id: str, rule: str, most: int, name: str
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Return the columns and at most `most` real rows that break a rule; the journal keeps that `name` asked.

    Raises:
        UsageError: there is no name, or no such rule about rows.
    """
    if not name.strip():
        raise UsageError("The rows are personal data: it is written down who asks", fix="give your --name")
    contracts = contracts_of(loaded, split_name(snapshot_id)[0])
    with open_journal(loaded) as journal:
        asked = {"by": name, "snapshot": snapshot_id, "rule": rule, "most": most}
        journal.put_state("checks.rows_shown", {**asked, "at": journal.clock.now().isoformat()})
    return bad_rows(store, snapshot_id, contracts, rule, most)


def release_quarantine(loaded: LoadedPlan, snapshot_id: str, by: str, because: str) -> Release:
    """Release a snapshot from its quarantine, write its page anew, and write it down in every open incident.

    Raises:
        UsageError: see `release_snapshot`.
    """
    store, folder = open_plan_store(loaded), checks_folder(loaded)
    with open_journal(loaded) as journal:
        verdict = release_snapshot(store, snapshot_id, by=by, because=because, at=journal.clock.now())
        assert verdict.release is not None
        write_page(store, snapshot_id, folder, loaded.plan.name)
        write_index(store, folder, loaded.plan.name)
        rules = [one["rule"] for one in verdict.release.findings]
        text = f"{verdict.release.by} released {snapshot_id} from quarantine: {verdict.release.because}"
        for incident in journal.incidents():
            noted = (one.text for one in journal.timeline(incident.id) if one.kind == "snapshot_released")
            if incident.is_open and text not in noted:
                journal.note(incident.id, "snapshot_released", text, {"rules": rules})
    return verdict.release


def conclude(checked: list[Checked]) -> Validated:
    """Return the outcome of the run: as bad as its worst snapshot."""
    bad = any(one.outcome == "quarantined" for one in checked)
    return Validated("quarantined" if bad else "valid", checked)


def _kept_folder(loaded: LoadedPlan) -> Path:
    return loaded.resolve(loaded.plan.state) / "checks"


def _witness(loaded: LoadedPlan, store: Store, source: str) -> str:
    """Return the newest snapshot, not quarantined, of the shop whose consent log speaks of a provider's people."""
    for provider in loaded.plan.providers.values():
        if provider.source == source and provider.shop and provider.shop != source:
            for one in reversed(store.snapshot_ids(provider.shop)):
                if store.state(one) != "quarantined":
                    return one
    return ""


def _section(report: CheckReport, page: str) -> str:
    reason = report.reason.replace("\n- ", "\n\n- ", 1)
    lines = [f"## {report.snapshot_id}: {report.outcome}", reason]
    if report.findings:
        rows = [
            "| severity | status | rule | rows | of | since | keys |",
            "| --- | --- | --- | --: | --: | --- | --- |",
            *map(_row, report.findings[:_TABLE_ROWS]),
        ]
        lines.append("\n".join(rows))
    if report.unexercised:
        lines.append(
            f"{plural(len(report.unexercised), 'rule')} held only because there was no value: "
            + ", ".join(f"`{rule}`" for rule in report.unexercised[:_TABLE_ROWS])
        )
    lines.append(f"All of it, with the trend: [`{page}`]({Path(page).as_uri()})")
    return "\n\n".join(lines)


def _row(finding: CheckFinding) -> str:
    keys = ", ".join(finding.sample_keys).replace("|", "\\|")
    return (
        f"| {finding.severity} | {finding.status} | `{finding.rule}` | {finding.failed:,} | {finding.total:,} "
        f"| {finding.since} | {keys} |"
    )
