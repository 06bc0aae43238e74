"""The demo's tasks: they play the world and tell the story; the flows they stand between do the work."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.core import current_progress, plural
from tasks.drills.staging import DemoResult, tell
from tasks.drills.world import World
from tasks.incidents import open_journal
from tasks.plan import load_plan

PASS_EVERY = timedelta(minutes=5)
READER = "the reader of this demo"


@contextlib.contextmanager
def staged(
    folder: str, seed: int, scale: Literal["demo", "small"], shop_url: str, journal_url: str
) -> Iterator[World]:
    """Build the world in `folder`, start its servers, and stop them at the end."""
    tell(f"Building a shop from real invoices, and a simulated provider with its past (seed {seed})")
    with World.create(
        Path(folder),
        seed=seed,
        scale=scale,
        shop_url=shop_url or None,
        journal_url=journal_url or None,
        progress=current_progress(),
    ) as world:
        os.environ.update(world.env)
        yield world


@task(cache_policy=NO_CACHE, task_run_name="play-until-{clock}")
def play_until(world: World, clock: str, line: str = "", day: int = 0) -> None:
    """Let the world go on until a time of the outage day, then tell what happened."""
    moment = world.play_until(world.at(clock, day=day))
    if line:
        tell(f"{moment:%a %H:%M}  {line}")


@task(cache_policy=NO_CACHE)
def watch_until_confirmed(world: World, look: Callable[..., Any]) -> str:
    """Run a pass of `monitor` every five minutes of the drill until an outage is confirmed; return the incident."""
    while True:
        (found,) = look(plan=str(world.plan_path))
        now = world.clock.now()
        if found.changes:
            tell(f"{now:%a %H:%M}  monitor: {found.provider} is {found.phase}: {found.seen[0]}")
        if found.phase == "confirmed":
            return str(found.incident)
        world.play_until(now + PASS_EVERY)


@task(cache_policy=NO_CACHE)
def tell_backup(world: World, taken: Sequence[Any], proven: Any) -> None:
    """Tell what a backup holds and whether it was proven; let the world note the consistency points."""
    from tasks.snapshots.steps import open_plan_store

    store = open_plan_store(load_plan(world.plan_path))
    for one in taken:
        world.note_snapshot(one.source, store.info(one.snapshot_id).consistency_at)
    rows = sum(one.rows for one in taken)
    kept = sum(one.bytes for one in taken) / 2**20
    checks = sum(one.checks for one in proven.snapshots)
    tell(
        f"{world.clock.now():%a %H:%M}  backup: {plural(len(taken), 'snapshot')}, {rows:,} rows in {kept:.1f} MiB, "
        f"every byte read back; validate: {checks} checks, {proven.outcome}"
    )


@task(cache_policy=NO_CACHE)
def tell_response(world: World, responded: Any) -> None:
    """Tell what a run of `respond` came to."""
    counts = ", ".join(f"{count} {status}" for status, count in responded.actions.items()) or "none yet"
    state = f"held: {responded.reason}" if responded.held else "every campaign that is due is stopped"
    tell(f"{world.clock.now():%a %H:%M}  respond: {responded.incident}, actions: {counts}; {state}")


@task(cache_policy=NO_CACHE)
def tell_recovery(world: World, recovered: Any) -> None:
    """Tell what a run of `recover` came to."""
    counts = ", ".join(f"{count:,} {outcome}" for outcome, count in recovered.outcomes.items() if count)
    state = f"held: {recovered.reason}" if recovered.reason else f"{recovered.state}; {counts}"
    tell(f"{world.clock.now():%a %H:%M}  recover: {state}")


@task(cache_policy=NO_CACHE)
def tell_review(world: World, reviewed: Any) -> None:
    """Tell that the report is written."""
    kind = "settled" if reviewed.settled else "provisional"
    tell(f"{world.clock.now():%a %H:%M}  review: {kind} report written, with the tables to recompute it")


@task(cache_policy=NO_CACHE)
def answer_as_reader(world: World, incident: str) -> int:
    """Approve what waits for a person, in the name of the demo's reader; return how many questions there were."""
    loaded = load_plan(world.plan_path)
    journal = open_journal(loaded)
    waiting = [one for one in journal.approvals(incident) if one.status == "awaiting"]
    for one in waiting:
        journal.answer_approval(one.id, "approved", READER, False, "cli")
        tell(
            f"{world.clock.now():%a %H:%M}  you approve: {one.subject} ({plural(len(one.actions), 'campaign')})"
        )
    return len(waiting)


@task(cache_policy=NO_CACHE)
def settle(world: World, incident: str) -> None:
    """Let the world go on until late orders and events are in."""
    loaded = load_plan(world.plan_path)
    resolved = _timestamps(world, incident)["resolved_at"]
    moment = world.play_until(resolved + timedelta(hours=loaded.plan.report.settle_hours, minutes=30))
    tell(f"{moment:%a %H:%M}  two days later: late orders and events are in")


@task(cache_policy=NO_CACHE)
def hold_against_truth(
    world: World, incident: str, taken: Sequence[Any], proven: Sequence[Any], reviewed: Any
) -> DemoResult:
    """Put the report's figures beside what the world knows; the report itself never saw the truth."""
    loaded = load_plan(world.plan_path)
    journal = open_journal(loaded)
    record = journal.incident(incident)
    truth = world.truth(
        resolved_at=record.timestamps["resolved_at"], settle_hours=loaded.plan.report.settle_hours
    )
    outcome = {one.snapshot_id: one.outcome for run in proven for one in run.snapshots}
    judged, loss = truth.messages, truth.loss
    return DemoResult(
        snapshots=[
            {
                "id": one.snapshot_id,
                "tables": one.tables,
                "rows": one.rows,
                "verified": one.verified,
                "valid": outcome.get(one.snapshot_id) == "valid",
            }
            for one in taken
        ],
        incident={
            "id": record.id,
            "state": record.state,
            "timestamps": {kind: at.isoformat() for kind, at in record.timestamps.items()},
            "metrics": {one.name: one.seconds for one in journal.metrics(incident)},
            "simulated_time": True,
        },
        messages={
            "due": reviewed.messages["due"],
            "delayed": reviewed.messages["delayed"],
            "dropped": reviewed.messages["dropped"],
            "unknown": reviewed.messages["unknown"],
            "duplicated": judged.duplicated,
            "after_latest_useful": judged.after_latest_useful,
            "to_opted_out": judged.to_opted_out,
            "truth": {
                "due": judged.due,
                "delayed": judged.delayed,
                "dropped": judged.dropped,
                "unknown": judged.unknown,
            },
        },
        loss={
            "estimate": reviewed.loss["net"] / 100,
            "low": reviewed.loss["low"] / 100,
            "high": reviewed.loss["high"] / 100,
            "truth": loss.net_minor / 100,
            "currency": loss.currency,
        },
        data_loss={
            "rows": sum(reviewed.rows_lost.values()),
            "truth": sum(truth.rows_lost.values()),
            "at_risk": sum(reviewed.rows_at_risk.values()),
            "at_risk_truth": sum(truth.rows_at_risk.values()),
        },
        report=str(reviewed.report),
        seconds=0.0,
    )


def _timestamps(world: World, incident: str) -> dict[str, Any]:
    loaded = load_plan(world.plan_path)
    return open_journal(loaded).incident(incident).timestamps
