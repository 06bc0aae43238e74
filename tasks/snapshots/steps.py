"""The Prefect tasks of `backup`, `restore`, `rehearse`, `verify`, `prune`, `erase`: coarse; tables stream inside."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Literal

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact

from tasks.core import SystemClock, UsageError, bytes_per_second, current_progress, open_clock, plural
from tasks.exports import ExportSource, open_export
from tasks.plan import LoadedPlan, load_plan, secret
from tasks.providers import open_provider
from tasks.snapshots.coverage import choose_part, overdue
from tasks.snapshots.erasing import Erased, erase, readmit
from tasks.snapshots.erasures import read_ledger
from tasks.snapshots.errors import Damaged, SnapshotError
from tasks.snapshots.merging import Merged, merge
from tasks.snapshots.models import Erasure, Ground, Manifest, split_name
from tasks.snapshots.pruning import Pruned, prune
from tasks.snapshots.reading import mapped_tables
from tasks.snapshots.rehearsing import Rehearsed, prove_by_restore, reached, scratch
from tasks.snapshots.restoring import Restored, restore
from tasks.snapshots.retention import kept_until
from tasks.snapshots.selecting import parse_keys
from tasks.snapshots.store import Store, open_store
from tasks.snapshots.taking import take_snapshot
from tasks.snapshots.verifying import VerifyReport, verify_and_record
from tasks.sources import Source, SourceError, open_source, open_target


@dataclass(frozen=True)
class BackedUp:
    """One snapshot that a backup took: what is in it, and whether every byte was read back and was right.

    Attributes:
        unread: how many of the tables were taken over from the snapshot before, as nothing in them had changed.
        parent_unreadable: why the manifest of the snapshot before could not be read; empty if it could.
    """

    snapshot_id: str
    source: str
    tables: int
    rows: int
    bytes: int
    verified: bool
    findings: int
    seconds: float
    unread: int = 0
    parent_unreadable: str = ""


@dataclass(frozen=True)
class Verified:
    """What one run of `verify` read in full: the part, its objects and bytes, each finding in a sentence.

    Attributes:
        overdue: objects of the whole store that were not read in full for longer than the plan allows.
    """

    part: str
    objects: int
    bytes: int
    findings: list[str]
    overdue: int


@task
def choose_sources(plan: str, source: str) -> list[str]:
    """Return the plan's sources: all of them, or the one that is named."""
    loaded = load_plan(plan)
    if source == "all":
        return list(loaded.plan.sources)
    loaded.source(source)
    return [source]


@task(task_run_name="snapshot-{source}", retries=2, retry_delay_seconds=[2, 10])
def snapshot_source(plan: str, source: str, limit_rate: str = "") -> BackedUp:
    """Copy all tables of one source from one consistent point into the store and commit them."""
    loaded = load_plan(plan)
    settings = loaded.plan.sources[source]
    rate = limit_rate or settings.limit_rate
    began = SystemClock().now()
    with _origin(loaded, source) as origin:
        manifest = take_snapshot(
            origin,
            open_plan_store(loaded, create=True),
            clock=open_clock(loaded.clock_spec()),
            plan_digest=loaded.digest,
            limit_rate=bytes_per_second(rate) if rate else None,
            readers=settings.readers,
            full_read_every=settings.full_read_every if settings.narrow == "changes" else None,
            progress=current_progress(),
        )
        if isinstance(origin, ExportSource):
            origin.discard()
    seconds = (SystemClock().now() - began).total_seconds()
    taken = _summary(manifest, seconds)
    get_run_logger().info(
        "Committed %s: %s in %s%s, %.1f s",
        manifest.snapshot_id,
        plural(manifest.rows, "row"),
        plural(taken.tables, "table"),
        f", {taken.unread} of them unchanged and not read" if taken.unread else "",
        seconds,
    )
    if manifest.parent_unreadable:
        get_run_logger().error(
            "The snapshot before %s cannot be read (%s); verify says what to do",
            manifest.snapshot_id,
            manifest.parent_unreadable,
        )
    for name, entry in manifest.tables.items():
        if entry.reading and entry.reading.contradicted:
            get_run_logger().error(
                "%s has changed although the database had recorded no change, so the snapshots before %s that did not "
                "read it may hold old rows; do not narrow the reading of this database",
                name,
                manifest.snapshot_id,
            )
    return taken


@contextmanager
def _origin(loaded: LoadedPlan, name: str) -> Iterator[Source]:
    """Yield the source that the plan calls `name`: a database, or the export of a provider's account."""
    settings = loaded.source(name)
    if settings.provider is None:
        yield open_source(
            name,
            loaded.source_url(name),
            tables=settings.tables,
            exclude=settings.exclude,
            schema=settings.db_schema,
        )
        return
    account = loaded.provider(settings.provider)
    with open_provider(loaded, settings.provider) as provider:
        yield open_export(
            name,
            provider,
            account.kind,
            folder=loaded.resolve(loaded.plan.state) / "exports" / name,
            account=account.api_url,
            tables=settings.tables,
            exclude=settings.exclude,
            progress=current_progress(),
        )


@task(task_run_name="verify-{taken.source}", retries=2, retry_delay_seconds=[2, 10])
def verify_snapshot(plan: str, taken: BackedUp) -> BackedUp:
    """Read every byte of the snapshot back, record the verdict, and quarantine the snapshot if anything is wrong."""
    loaded = load_plan(plan)
    store = open_plan_store(loaded)
    now = open_clock(loaded.clock_spec()).now()
    report = verify_and_record(store, taken.snapshot_id, at=now, by="backup", progress=current_progress())
    for finding in report.findings:
        get_run_logger().error(finding.message)
    return _verified(taken, report)


@task
def publish_backup(taken: list[BackedUp]) -> None:
    """Show the snapshots of this run as a Prefect artifact."""
    lines = [
        "| snapshot | tables | rows | bytes | not read | verified | seconds |",
        "| --- | --: | --: | --: | --: | --- | --: |",
    ]
    lines += [
        f"| {one.snapshot_id} | {one.tables} | {one.rows:,} | {one.bytes:,} | {one.unread} | "
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


@task(task_run_name="verify-part-{part}", retries=2, retry_delay_seconds=[2, 10])
def verify_part(plan: str, part: str) -> Verified:
    """Read one part of the store's objects in full, keep when that was, and quarantine what holds a damaged one."""
    loaded = load_plan(plan)
    store = open_plan_store(loaded)
    now, within = open_clock(loaded.clock_spec()).now(), timedelta(days=loaded.plan.store.reread_days)
    report = verify_and_record(
        store,
        part=choose_part(store, part),
        at=now,
        by="verify",
        within=within,
        anchors=loaded.plan.store.anchors,
        progress=current_progress(),
    )
    late = overdue(store, within=within, now=now)
    for finding in report.findings:
        get_run_logger().error(finding.message)
    if late:
        get_run_logger().warning(
            "%s not read in full for %s",
            plural(len(late), "object was", "objects were"),
            plural(within.days, "day"),
        )
    return Verified(
        report.part or "", report.objects, report.bytes, [one.message for one in report.findings], len(late)
    )


@task
def publish_verification(found: Verified) -> None:
    """Show what was read, what was damaged, and what waits too long as a Prefect artifact."""
    lines = [
        f"# Part {found.part} read in full",
        "",
        f"{plural(found.objects, 'object')}, {found.bytes:,} bytes; "
        f"{plural(found.overdue, 'object')} of the store not read in full for too long.",
        "",
        *(f"- {finding}" for finding in found.findings),
    ]
    create_markdown_artifact(key="verify", markdown="\n".join(lines), description="Objects read in full")


@task
def refuse_damage(found: Verified) -> None:
    """Fail the run if anything in the store is not as it was written (snapshots that hold it are quarantined)."""
    if found.findings:
        raise Damaged(
            f"The store is not whole: {plural(len(found.findings), 'finding')}, the first: {found.findings[0]}",
            fix="`mailstay snapshots verify` lists them; restore from another snapshot, and find out what happened",
        )


@task
def choose_snapshot(plan: str, source: str, snapshot: str) -> str:
    """Return the snapshot to restore: the one that is named, or the newest that is `valid`.

    Raises:
        SnapshotError: the source has no valid snapshot, or there is none of that name.
        UsageError: the snapshot that is named is of another source.
    """
    loaded = load_plan(plan)
    loaded.source(source)
    store = open_plan_store(loaded)
    if snapshot != "latest":
        if split_name(snapshot)[0] != source:
            raise UsageError(
                f"{snapshot} is not a snapshot of {source}",
                fix=f"name one of {source}/…, or the other source",
            )
        store.manifest(snapshot)
        return snapshot
    chosen = store.newest_valid(source).snapshot_id
    for name, error in store.unreadable(source).items():
        if name > chosen:
            get_run_logger().warning("%s is newer than %s but cannot be used: %s", name, chosen, error)
    return chosen


@task
def check_restore(mode: str, into: str, apply: bool, keys: list[str], subscribers: list[int]) -> None:
    """Refuse options that do not go together, before anything is read.

    Raises:
        UsageError: an empty database is to be written and none is named, or rows of it are chosen.
    """
    if mode != "empty":
        parse_keys(keys)
        return
    if not into:
        raise UsageError(
            "No database is named to restore into", fix="name an empty one, or choose another mode"
        )
    if apply or keys or subscribers:
        raise UsageError(
            "Rows can only be chosen, and applied, in a database in use",
            fix="choose the mode insert-missing or overwrite",
        )


@task(task_run_name="restore-{snapshot}")
def restore_snapshot(plan: str, snapshot: str, into: str, tables: list[str], unproven: bool) -> Restored:
    """Write the snapshot's tables into an empty database, read them back, and keep them only if they are equal."""
    loaded = load_plan(plan)
    source, _ = split_name(snapshot)
    settings = loaded.plan.sources.get(source)
    target = open_target(target_url(into, loaded), schema=settings.db_schema if settings else None)
    restored = restore(
        open_plan_store(loaded),
        snapshot,
        target,
        clock=open_clock(loaded.clock_spec()),
        mapping=settings.mapping if settings else None,
        tables=tables,
        unproven=unproven,
        progress=current_progress(),
    )
    if restored.state != "valid":
        get_run_logger().warning("%s is %s: it was restored because you said so", snapshot, restored.state)
    for table in restored.tables:
        if table.disarmed:
            get_run_logger().warning(
                "%s of %s came back unable to send", plural(table.disarmed, "row"), table.name
            )
        if table.erased:
            get_run_logger().warning(
                "%s of %s name somebody who was erased: left out, or of nobody now",
                plural(table.erased, "row"),
                table.name,
            )
        for lost in table.lost:
            get_run_logger().warning("Not brought back with %s: %s", table.name, lost)
    get_run_logger().info(
        "Restored %s: %s in %s, each equal, %.1f s",
        snapshot,
        plural(restored.rows, "row"),
        plural(len(restored.tables), "table"),
        restored.seconds,
    )
    return restored


@task
def publish_restore(restored: Restored) -> None:
    """Show what was restored as a Prefect artifact."""
    lines = [
        f"# {restored.snapshot_id} restored",
        "",
        f"{restored.rows:,} rows in {restored.seconds:.1f} s; every table reads back as the snapshot has it.",
        "",
        "| table | rows | unable to send | of the erased | seconds | not brought back |",
        "| --- | --: | --: | --: | --: | --- |",
    ]
    lines += [
        f"| {one.name} | {one.rows:,} | {one.disarmed or ''} | {one.erased or ''} | {one.seconds:.1f} | "
        f"{'; '.join(one.lost)} |"
        for one in restored.tables
    ]
    create_markdown_artifact(
        key="restore", markdown="\n".join(lines), description="What was restored, compared"
    )


@task(task_run_name="merge-{snapshot}")
def merge_snapshot(
    plan: str,
    snapshot: str,
    into: str,
    mode: Literal["insert-missing", "overwrite"],
    tables: list[str],
    keys: list[str],
    subscribers: list[int],
    differences: str,
    apply: bool,
    unproven: bool,
) -> Merged:
    """Compare the snapshot with a database in use, write every difference as Parquet, and apply it if asked to."""
    loaded = load_plan(plan)
    source, _ = split_name(snapshot)
    settings = loaded.plan.sources[source]
    url = target_url(into, loaded, in_use=True) if into else loaded.source_url(source)
    found = merge(
        open_plan_store(loaded),
        snapshot,
        open_target(url, schema=settings.db_schema),
        _differences_folder(loaded, snapshot, differences),
        clock=open_clock(loaded.clock_spec()),
        mode=mode,
        apply=apply,
        mapping=settings.mapping,
        tables=tables,
        keys=parse_keys(keys),
        subscribers=[str(one) for one in subscribers],
        unproven=unproven,
        progress=current_progress(),
    )
    if found.state != "valid":
        get_run_logger().warning("%s is %s: it was used because you said so", snapshot, found.state)
    for table in found.tables:
        for note in table.notes:
            get_run_logger().warning("%s: %s", table.name, note)
    get_run_logger().info(
        "%s %s, set back %s, %s with a stricter consent than saved or now; differences in %s",
        "Inserted" if apply else "Would insert",
        plural(sum(one.inserted for one in found.tables), "row"),
        plural(sum(one.updated for one in found.tables), "row"),
        plural(sum(one.restricted for one in found.tables), "row"),
        found.folder,
    )
    return found


@task
def publish_merge(found: Merged) -> None:
    """Show what differs, and what was or would be done about it, as a Prefect artifact."""
    lines = [
        f"# {found.snapshot_id}, {found.mode}: {'applied' if found.applied else 'nothing was changed'}",
        "",
        f"Every differing row is in `{found.folder}` (personal data).",
        "",
        "| table | only in snapshot | only in database | different | inserted | set back | consent strict | notes |",
        "| --- | --: | --: | --: | --: | --: | --: | --- |",
    ]
    lines += [
        f"| {one.name} | {one.only_in_snapshot:,} | {one.only_in_database:,} | {one.different:,} | {one.inserted:,} "
        f"| {one.updated:,} | {one.restricted:,} | {'; '.join(one.notes)} |"
        for one in found.tables
    ]
    create_markdown_artifact(
        key="restore-live", markdown="\n".join(lines), description="Snapshot beside the database in use"
    )


def _differences_folder(loaded: LoadedPlan, snapshot: str, wanted: str) -> Path:
    """Return the folder `wanted`, or a new one below the plan's state.

    Raises:
        UsageError: `wanted` is there already.
    """
    if not wanted:
        moment = SystemClock().now().strftime("%Y%m%dT%H%M%S%f")
        return loaded.resolve(loaded.plan.state) / "differences" / f"{snapshot.replace('/', '-')}-{moment}"
    folder = Path(wanted)
    if folder.exists():
        raise UsageError(
            "The folder for the differences is there already", where=wanted, fix="name a new one"
        )
    return folder


@task(task_run_name="rehearse-{source}")
def rehearse_source(plan: str, source: str, into: str) -> Rehearsed:
    """Restore the newest valid snapshot of a source for the test, record how it went, and remove what was restored."""
    loaded = load_plan(plan)
    settings = loaded.plan.sources[source]
    store = open_plan_store(loaded)
    clock = open_clock(loaded.clock_spec())
    newest = store.latest(source, state="valid")
    if newest is None:
        get_run_logger().error("There is no valid snapshot of %s to rehearse", source)
        return Rehearsed(source, "", 0, 0.0, "there is no valid snapshot", [])
    given = open_target(target_url(into, loaded), schema=settings.db_schema) if into else None
    try:
        with nullcontext(given) if given else scratch() as target:
            restored = prove_by_restore(
                store,
                newest.snapshot_id,
                target,
                mapping=settings.mapping,
                clock=clock,
                by="rehearse",
                progress=current_progress(),
            )
    except (SnapshotError, SourceError) as error:
        get_run_logger().error("%s does not come back: %s", newest.snapshot_id, error)
        return Rehearsed(source, newest.snapshot_id, newest.rows, 0.0, str(error), [])
    objects = reached(loaded.plan.objects, mapped_tables(settings.mapping), newest, restored, clock.now())
    for one in objects:
        if not one.met:
            get_run_logger().warning(
                "%s: data %.0f minutes old (RPO %d), back in %.1f minutes (RTO %d)",
                one.name,
                one.rpa_minutes,
                one.rpo_minutes,
                one.rta_minutes,
                one.rto_minutes,
            )
    return Rehearsed(source, newest.snapshot_id, restored.rows, restored.seconds, "", objects)


@task
def publish_rehearsal(found: list[Rehearsed]) -> None:
    """Show what the rehearsal reached, beside the plan, as a Prefect artifact."""
    lines = ["| source | snapshot | rows | seconds | problem |", "| --- | --- | --: | --: | --- |"]
    lines += [
        f"| {one.source} | {one.snapshot_id} | {one.rows:,} | {one.seconds:.1f} | {one.problem} |"
        for one in found
    ]
    lines += ["", "| object | data age, minutes | RPO | restored in, minutes | RTO | met |"]
    lines += ["| --- | --: | --: | --: | --: | --- |"]
    lines += [
        f"| {one.name} | {one.rpa_minutes:.0f} | {one.rpo_minutes} | {one.rta_minutes:.1f} | {one.rto_minutes} | "
        f"{'yes' if one.met else '**no**'} |"
        for source in found
        for one in source.objects
    ]
    create_markdown_artifact(
        key="rehearsal",
        markdown="# Restore rehearsed\n\n" + "\n".join(lines),
        description="Restore against the plan",
    )


@task
def prune_store(plan: str, confirm: bool) -> Pruned:
    """Apply the plan's retention to its store, or say what that would do."""
    loaded = load_plan(plan)
    rules = loaded.plan.retention
    found = prune(
        open_plan_store(loaded),
        rules,
        clock=open_clock(loaded.clock_spec()),
        grace=timedelta(hours=rules.grace_hours),
        dry=not confirm,
    )
    get_run_logger().info(
        "%s %s of %d; %s marked, %s deleted",
        "Would remove" if found.dry else "Removed",
        plural(len(found.removed), "snapshot"),
        len(found.snapshots),
        plural(found.condemned, "object"),
        plural(found.deleted, "object"),
    )
    if found.waiting:
        get_run_logger().warning("No object was deleted: %s", found.waiting)
    return found


@task
def publish_prune(found: Pruned) -> None:
    """Show every snapshot with what keeps it as a Prefect artifact."""
    lines = ["| snapshot | taken | kept because |", "| --- | --- | --- |"]
    lines += [
        f"| {one.snapshot_id} | {one.at:%Y-%m-%d %H:%M} | {'; '.join(one.because) or '**goes**'} |"
        for one in found.snapshots
    ]
    create_markdown_artifact(
        key="prune",
        markdown=f"# {'What a prune would do' if found.dry else 'Pruned'}\n\n" + "\n".join(lines),
        description="What is kept, and why",
    )


@task
def erase_person(
    plan: str, person: str, name: str, ground: Ground, rewrite: bool, override_holds: bool, confirm: bool
) -> Erased:
    """Enter a person into the ledger and, if asked, replace the objects that hold them; or say what that would do."""
    loaded = load_plan(plan)
    rules = loaded.plan.retention
    found = erase(
        open_plan_store(loaded),
        person,
        mappings={source: one.mapping for source, one in loaded.plan.sources.items()},
        clock=open_clock(loaded.clock_spec()),
        by=name,
        ground=ground,
        rewrite=rewrite,
        override_holds=override_holds,
        dry=not confirm,
        progress=current_progress(),
    )
    bounds = [
        kept_until(at, rules, timedelta(minutes=loaded.plan.sources[source].backup_every))
        for source, (_, at) in found.holding.items()
        if source in loaded.plan.sources
    ]
    for source in found.still_in:
        get_run_logger().warning("%s still has the person: its next backup brings them back", source)
    for one in found.mentions:
        get_run_logger().warning(
            "The address stands in %s of %s.%s that are not the person's", one.column, one.source, one.table
        )
    get_run_logger().info(
        "%s entry %s; %s replaced, %s deleted, %s held",
        "Would make an" if found.dry else "Made",
        found.entry or "in the ledger",
        plural(len(found.replaced), "snapshot"),
        plural(found.deleted, "object"),
        len(found.held),
    )
    grace = timedelta(hours=rules.grace_hours)
    return replace(found, until=max(bounds) + grace) if bounds else found


@task
def verify_replaced(plan: str, found: Erased) -> None:
    """Read every byte of the snapshots that were replaced back, and record the verdict.

    Raises:
        Damaged: not every byte could be read back; the snapshot is quarantined.
    """
    loaded = load_plan(plan)
    store = open_plan_store(loaded)
    at = open_clock(loaded.clock_spec()).now()
    damaged = []
    for name in () if found.dry else found.replaced:
        report = verify_and_record(store, name, at=at, by="erase", progress=current_progress())
        damaged += [] if report.ok else [name]
    if damaged:
        raise Damaged(
            f"Not every byte could be read back: {', '.join(damaged)}",
            fix="`mailstay snapshots verify` names the objects; check the disk",
        )


@task
def publish_erasure(found: Erased) -> None:
    """Show what an erasure did as a Prefect artifact; nobody is named in it."""
    lines = [
        f"# {'What an erasure would do' if found.dry else f'Erased: entry {found.entry}'}",
        "",
        f"{len(found.replaced)} snapshots replaced, {len(found.held)} held, {found.deleted} objects deleted.",
        "",
        "| source | table | columns | snapshots | rows that go | rows of nobody |",
        "| --- | --- | --- | --: | --: | --: |",
    ]
    lines += [
        f"| {one.source} | {one.table} | {', '.join(one.columns)} | {one.snapshots} | {one.rows} | {one.unlinked} |"
        for one in found.tables
    ]
    create_markdown_artifact(key="erase", markdown="\n".join(lines), description="What an erasure did")


def person_hash(plan: str, address: str) -> str:
    """Return the keyed hash of an address in the plan's store: what names a person everywhere else.

    Raises:
        UsageError: it is no address. The message does not repeat it.
        StoreError: the signing key is not set.
    """
    if not re.fullmatch(r"\s*[^\s@]+@[^\s@]+\s*", address):
        raise UsageError("That is no e-mail address", fix="give one, or `-` to read it from standard input")
    return read_ledger(open_plan_store(load_plan(plan))).person(address)


def readmit_person(plan: str, person: str, name: str) -> Erasure:
    """Record that an erased person has come back of their own will."""
    loaded = load_plan(plan)
    return readmit(open_plan_store(loaded), person, clock=open_clock(loaded.clock_spec()), by=name)


def target_url(into: str, loaded: LoadedPlan, *, in_use: bool = False) -> str:
    """Return the database URL that `into` is, or that the environment variable `env:NAME` holds.

    Args:
        into: a URL without a password, or `env:NAME`.
        loaded: the plan; its own sources are refused unless the database may be `in_use`.
        in_use: whether it may be a database in use.

    Raises:
        UsageError: `into` holds a password (it would be kept with the run), or is one of the plan's own sources.
        PlanError: the variable is not set.
    """
    if into.startswith("env:"):
        url = secret(into.removeprefix("env:"), "the database to restore into")
    else:
        url = into
        if re.search(r"://[^/@]*:[^/@]+@|[?&]password=", url, re.IGNORECASE):
            raise UsageError(
                "The URL of the database holds a password, which would be kept with the run",
                fix="put the URL into an environment variable and write env:NAME",
            )
    if not in_use and url in [
        loaded.source_url(name) for name, one in loaded.plan.sources.items() if one.provider is None
    ]:
        raise UsageError(
            "That is a source of the plan itself",
            where=str(loaded.path),
            fix="restore into an empty database beside it, or choose the mode insert-missing or overwrite",
        )
    return url


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
        unread=sum(one.reading is not None and one.reading.unread > 0 for one in manifest.tables.values()),
        parent_unreadable=manifest.parent_unreadable or "",
    )


def _verified(taken: BackedUp, report: VerifyReport) -> BackedUp:
    return BackedUp(**{**taken.__dict__, "verified": report.ok, "findings": len(report.findings)})
