"""A person's release of a quarantine: what contracts found is how the data is. Never damage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from tasks.checks.findings import CheckFinding, CheckReport
from tasks.checks.gate import explain_release
from tasks.core import UsageError, mask_addresses
from tasks.snapshots import Damaged, Release, Store, Verdict

BY = "validate"
"""Who the verdicts of checks are signed as."""

_OF_BYTES = ("readable", "checksum_matches_source")
"""Findings that say that the snapshot is not what was backed up: nobody can know how the data is."""


def release_snapshot(store: Store, snapshot_id: str, *, by: str, because: str, at: datetime) -> Verdict:
    """Record, signed, that a person takes what contracts found for how the data is; the snapshot becomes valid.

    The same release again changes nothing.

    Args:
        store: holds the snapshot.
        snapshot_id: a snapshot that checks have quarantined.
        by: the person's name.
        because: why, in their words.
        at: when.

    Raises:
        UsageError: a name or reason is missing; there is no quarantine; or its cause is damage.
        Damaged: the verdict was tampered with.
    """
    by, because = mask_addresses(by.strip()), mask_addresses(because.strip())
    if not by or not because or by == BY:
        raise UsageError(
            "A release is signed with who says so and why", fix="give your name with --by, why with --because"
        )
    verdict = _deciding(store, snapshot_id)
    if (known := verdict.release) is not None and (known.by, known.because) == (by, because):
        return verdict
    if verdict.state != "quarantined":
        raise UsageError(f"{snapshot_id} is {verdict.state}: there is no quarantine to release")
    critical = [one for one in verdict.findings if one.get("severity") == "critical"]
    kinds = {str(one["rule"]).rpartition(".")[2] for one in critical}
    if verdict.by != BY or kinds & set(_OF_BYTES):
        raise _damaged(snapshot_id, "it does not hold what was backed up")
    for table in store.manifest(snapshot_id).tables:
        try:
            store.table_files(snapshot_id, table)
        except Damaged as error:
            raise _damaged(snapshot_id, f"{error.where}: {error.what}") from None
    return store.mark(
        snapshot_id,
        "valid",
        findings=verdict.findings,
        facts=verdict.facts,
        release=Release(by=by, because=because, at=at, findings=critical),
        at=at,
        by=by,
    )


def as_released(report: CheckReport, release: Release | None) -> CheckReport:
    """Return the report of a snapshot that was released: valid, unless it has a finding that nobody looked at."""
    critical = [one for one in report.findings if one.severity == "critical"]
    if release is None or not critical:
        return report
    if new := [one.rule for one in critical if not any(_covers(known, one) for known in release.findings)]:
        more = f"{release.by} released it without knowing of {', '.join(new)}: the release is over."
        return replace(report, reason=f"{report.reason}\n{more}")
    told = explain_release(report.snapshot_id, critical, release)
    return replace(report, outcome="valid", release=release, reason=told)


def standing_release(store: Store, snapshot_id: str) -> Release | None:
    """Return the release that no later check has ended; none is believed after a verdict that was tampered with."""
    for verdict in reversed(store.verdicts(snapshot_id)):
        if isinstance(verdict, Damaged):
            return None
        if verdict.release is not None or verdict.by == BY:
            return verdict.release
    return None


def _deciding(store: Store, snapshot_id: str) -> Verdict:
    store.manifest(snapshot_id)
    for verdict in reversed(store.verdicts(snapshot_id)):
        if isinstance(verdict, Damaged):
            raise verdict
        if verdict.state is not None:
            return verdict
    raise UsageError(f"{snapshot_id} was not checked yet", fix="run `mailstay validate` first")


def _covers(known: Mapping[str, Any], finding: CheckFinding) -> bool:
    """Return whether the finding is one that was looked at: the same rule, in the same way, no more rows."""
    same = (known["rule"], known["status"]) == (finding.rule, finding.status)
    return same and finding.failed <= known["failed"]


def _damaged(snapshot_id: str, what: str) -> UsageError:
    return UsageError(
        f"{snapshot_id} cannot be released: {what}",
        fix="only what contracts found can be: back up again, or take the last good snapshot",
    )
