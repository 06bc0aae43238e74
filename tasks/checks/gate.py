"""The gate: which outcome findings lead to, since when they stand, and how that is told to people. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from tasks.checks.findings import SEVERITIES, CheckFinding, Outcome
from tasks.core import plural
from tasks.snapshots import Release

_SHOWN = 12


def decide(findings: Iterable[CheckFinding]) -> Outcome:
    """Return `quarantined` if a critical rule failed or could not be asked, else `valid`."""
    return "quarantined" if any(finding.severity == "critical" for finding in findings) else "valid"


def worst_first(findings: Iterable[CheckFinding]) -> list[CheckFinding]:
    """Return the findings by severity, bad data before broken rules, then by rule."""
    return sorted(
        findings,
        key=lambda finding: (SEVERITIES.index(finding.severity), finding.status == "broken", finding.rule),
    )


def date_back(
    findings: Sequence[CheckFinding], snapshot_id: str, history: Iterable[tuple[str, set[str]]]
) -> list[CheckFinding]:
    """Return the findings with `since` set.

    Args:
        findings: what was found in `snapshot_id`.
        snapshot_id: the snapshot just checked.
        history: the checked snapshots before it, newest first, each with the names of the rules it broke; read
            only as far back as a finding goes.
    """
    since = {finding.rule: snapshot_id for finding in findings}
    standing = set(since)
    if standing:
        for earlier, broke in history:
            standing &= broke
            if not standing:
                break
            since |= dict.fromkeys(standing, earlier)
    return [replace(finding, since=since[finding.rule]) for finding in findings]


def explain(snapshot_id: str, findings: Sequence[CheckFinding], checks: int, last_good: str) -> str:
    """Return the outcome in words: what, where, how many of how many, which keys, since when, what to use."""
    critical = [finding for finding in findings if finding.severity == "critical"]
    lesser = [finding for finding in findings if finding.severity != "critical"]
    if not critical:
        text = f"{snapshot_id} is valid: {plural(checks, 'check')}, none of the critical ones failed."
        return (
            text
            + "".join(f"\n- {_line(finding, snapshot_id)}" for finding in lesser[:_SHOWN])
            + _more(lesser)
        )
    failed = sum(finding.status == "failed" for finding in critical)
    broken = len(critical) - failed
    parts = [f"{plural(failed, 'critical rule')} failed"] if failed else []
    parts += [f"{plural(broken, 'critical rule')} could not be asked"] if broken else []
    lines = [f"{snapshot_id} is quarantined: {' and '.join(parts)}."]
    lines += [f"- {_line(finding, snapshot_id)}" for finding in critical[:_SHOWN]]
    text = "\n".join(lines) + _more(critical)
    if lesser:
        text += f"\nBeside them {plural(len(lesser), 'finding')} of lesser severity."
    good = f"The last good snapshot is {last_good}." if last_good else "There is no good snapshot before it."
    return f"{text}\n{good}"


def explain_release(snapshot_id: str, critical: Sequence[CheckFinding], release: Release) -> str:
    """Return in words that a snapshot is valid because a person said so, and in spite of what."""
    text = f"{snapshot_id} is valid: {release.by} released it on {release.at:%Y-%m-%d}, because {release.because}."
    lines = [f"\n- {_line(finding, snapshot_id)}" for finding in critical[:_SHOWN]]
    return text + "".join(lines) + _more(critical)


def _line(finding: CheckFinding, snapshot_id: str) -> str:
    since = f" (since {finding.since})" if finding.since not in ("", snapshot_id) else ""
    mark = "" if finding.severity == "critical" else f"{finding.severity}: "
    return f"{mark}{finding.message}{since}"


def _more(findings: Sequence[CheckFinding]) -> str:
    return f"\n- and {len(findings) - _SHOWN} more" if len(findings) > _SHOWN else ""
