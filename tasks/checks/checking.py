"""Checking a snapshot of the store, and marking it with what came out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from itertools import islice
from pathlib import Path

from tasks.checks.anomaly import LOOKS_BACK, asks_history
from tasks.checks.checksums import checksum_of, mismatch
from tasks.checks.consent import guarded
from tasks.checks.contracts import Contract
from tasks.checks.findings import CheckFinding, CheckReport
from tasks.checks.kept import Kept
from tasks.checks.loading import default_contracts, load_contracts
from tasks.checks.past import ConsentLog, Past
from tasks.checks.profiling import Profiled, TableProfile
from tasks.checks.releasing import BY, as_released, standing_release
from tasks.checks.running import SnapshotData, TableData, check_data
from tasks.checks.schema_drift import Shape
from tasks.core import Clock, UsageError, crash_point
from tasks.snapshots import (
    Damaged,
    Manifest,
    SnapshotInfo,
    Store,
    TableEntry,
    Verdict,
    arrow_schema,
    erased_rows,
    read_ledger,
    split_name,
)


def run_checks(
    store: Store,
    snapshot_id: str,
    contracts: Mapping[str, Contract],
    *,
    previous: SnapshotInfo | None,
    docs_folder: Path | None,
    docs_assets: Path | None = None,
    clock: Clock,
    mapping: str = "",
    witness: str = "",
    kept_folder: Path | None = None,
) -> CheckReport:
    """Hold a snapshot against its contracts; changes nothing in the store (see `mark_snapshot`).

    Args:
        store: where it is.
        snapshot_id: which one.
        contracts: the contract of each table.
        previous: the last valid snapshot of the source, to judge shrinkage by and to name as the last good one.
        docs_folder: where to write the Data Docs; None: nowhere.
        docs_assets: the folder for what the pages of many snapshots load; each has its own if absent.
        clock: says when this check is made.
        mapping: what the source's tables mean (`shop`, `listmonk`): its rules of consent hold whatever contracts say.
        witness: the snapshot of the shop that keeps the consent log of the source's persons; empty without one.
        kept_folder: where aggregates of segments are kept, so that the next check reads only new ones. Used only with
            the store's signing key, which seals them; None: everything is read.

    Raises:
        SnapshotError: there is no such snapshot, or its manifest was tampered with.
        ChecksError: there is no contract.
    """
    contracts = guarded(contracts, _shipped(mapping))
    manifest = store.manifest(snapshot_id)
    before = store.manifest(previous.snapshot_id) if previous is not None else None
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
            previous_rows=before.tables[name].rows if before and name in before.tables else None,
            shape=_shape(entry),
            segments=tuple(Path(file).stem for file in files),  # an object is named by its SHA-256
        )
    found = _unproven(store, manifest, before, tables)
    kept = None
    if kept_folder is not None and store.can_sign:
        kept = Kept(kept_folder / store.store_id / manifest.source, store.secret("checks"))
    report = check_data(
        SnapshotData(
            snapshot_id=snapshot_id,
            consistency_at=store.info(snapshot_id).consistency_at,
            tables=tables,
            history=_history(store, snapshot_id),
            last_good=previous.snapshot_id if previous is not None else "",
            past=_past(store, before, manifest, contracts, mapping, witness),
            found=found,
            asked=len(tables),
            damaged=damaged,
        ),
        contracts,
        at=clock.now(),
        docs_folder=docs_folder,
        kept=kept,
        docs_assets=docs_assets,
    )
    if kept is not None:
        kept.forget_all_but({segment for table in tables.values() for segment in table.segments})
    report = replace(report, facts=report.facts | {"checksums": not found and not damaged})
    return as_released(report, standing_release(store, snapshot_id))


def mark_snapshot(store: Store, report: CheckReport, *, clock: Clock) -> Verdict:
    """Record, signed, what the checks say the snapshot may be used for, with their findings."""
    crash_point("validate.before_verdict")
    verdict = store.mark(
        report.snapshot_id,
        report.outcome,
        findings=[finding.as_dict() for finding in report.findings],
        facts=report.facts,
        release=report.release,
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


def _shipped(mapping: str) -> dict[str, Contract]:
    folder = default_contracts(mapping)
    return load_contracts(folder) if folder is not None else {}


def _shape(entry: TableEntry) -> Shape:
    return Shape(entry.facts, arrow_schema(entry))


def _past(
    store: Store,
    before: Manifest | None,
    now: Manifest,
    contracts: Mapping[str, Contract],
    mapping: str,
    witness: str,
) -> Past | None:
    if before is None:
        return None
    looks_back = LOOKS_BACK if any(map(asks_history, contracts.values())) else 1
    cuts = erased_rows(store, read_ledger(store), before, mapping)
    return Past(
        snapshot_id=before.snapshot_id,
        shapes={name: _shape(entry) for name, entry in before.tables.items()},
        files=partial(store.table_files, before.snapshot_id),
        history=list(islice(_kept(store, now.snapshot_id), looks_back)),
        erased=frozenset().union(*(cut.who for some in cuts.values() for cut in some)),
        log=_consent_log(store, witness),
    )


def _kept(store: Store, snapshot_id: str) -> Iterator[Profiled]:
    """Yield what is kept of the valid snapshots before this one, newest first."""
    for earlier in _before(store, snapshot_id):
        said = [one for one in store.verdicts(earlier) if isinstance(one, Damaged) or one.state is not None]
        if said and isinstance(said[-1], Verdict) and said[-1].state == "valid" and said[-1].facts:
            facts = said[-1].facts
            tables = {name: TableProfile.from_dict(kept) for name, kept in facts["tables"].items()}
            yield Profiled(earlier, datetime.fromisoformat(facts["at"]), tables)


def _unproven(
    store: Store, now: Manifest, before: Manifest | None, tables: Mapping[str, TableData]
) -> list[CheckFinding]:
    """Return the tables whose rows do not give the checksum that `backup` took at the source."""
    proven = before is not None and any(
        isinstance(one, Verdict) and one.state == "valid" and one.facts.get("checksums")
        for one in store.verdicts(before.snapshot_id)
    )
    found = []
    for name, data in tables.items():
        entry = now.tables[name]
        earlier = before.tables.get(name) if before is not None and proven else None
        files_before = partial(store.table_files, before.snapshot_id if before is not None else "", name)
        try:
            checksum = checksum_of(entry, data.files, earlier, files_before)
        except Damaged:  # an object of the earlier one is
            checksum = checksum_of(entry, data.files, None, files_before)
        found.append(mismatch(name, entry, checksum))
    return [one for one in found if one is not None]


def _consent_log(store: Store, witness: str) -> ConsentLog | None:
    """Return the consent log that the snapshot `witness` of a shop holds; None if it cannot be read."""
    for table, contract in _shipped("shop").items() if witness else ():
        if contract.consent is not None and contract.consent.kind == "log":
            with suppress(Damaged, UsageError):
                return ConsentLog(contract.consent, tuple(store.table_files(witness, table)))
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
