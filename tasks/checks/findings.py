"""What a check found, as plain data that goes into verdicts, artifacts and reports: never personal data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

from tasks.core import mask_addresses
from tasks.snapshots import Release

Severity = Literal["critical", "warning", "info"]
Outcome = Literal["valid", "quarantined"]
Status = Literal["held", "unexercised", "failed", "broken"]
"""How a rule came out: `unexercised` held only because there was no value, `broken` could not be asked."""

SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "info")


@dataclass(frozen=True)
class CheckFinding:
    """One rule of a contract that does not hold, or that could not be asked.

    Attributes:
        rule: the rule's stable name, `table.column.kind` (`table.kind` for a rule of the whole table).
        table: the table it is about.
        column: the column, or the columns joined by `, `; empty for a rule of the whole table.
        severity: what the contract says about it: `critical` quarantines the snapshot.
        failed: how many rows break it; for a rule about columns how many columns, for a row count the
            difference in rows. 0 where the rule is broken.
        total: how many there are to hold against `failed`.
        sample_keys: the primary keys of a few bad rows, never the value of a personal-data column.
        message: one sentence that a person can act on.
        status: `failed` = the data is bad; `broken` = the rule could not be asked, so nothing is known.
        since: the oldest of the snapshots in a row that had this finding; this one's id if it is new.
    """

    rule: str
    table: str
    column: str
    severity: Severity
    failed: int
    total: int
    sample_keys: list[str]
    message: str
    status: Literal["failed", "broken"] = "failed"
    since: str = ""

    def __post_init__(self) -> None:
        _mask(self)

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as JSON-able data, as signed verdicts keep it."""
        return asdict(self)


@dataclass(frozen=True)
class RuleResult:
    """How one rule came out on one snapshot, with what was seen on the way: a row of the history.

    Attributes:
        kind: what sort of rule it is, as `not_null`.
        failed: as in a finding; 0 where it held.
        total: how many there are to hold against `failed`.
        rows: the rows of its table; None if they could not be counted.
        null_share: the share of its column's rows without a value; None where the rule does not see it.
        observed: the number that the expectation looked at, where it looks at one.
        seconds: how long the checks of its table took.
        contract: digest of its table's contract, 16 hex digits; empty for a table without one.
    """

    rule: str
    table: str
    column: str
    kind: str
    severity: Severity
    status: Status = "held"
    failed: int = 0
    total: int = 0
    rows: int | None = None
    null_share: float | None = None
    observed: float | None = None
    seconds: float = 0.0
    contract: str = ""

    def __post_init__(self) -> None:
        _mask(self)


@dataclass(frozen=True)
class CheckReport:
    """The outcome of all contracts on one snapshot.

    Attributes:
        snapshot_id: the snapshot, as `shop/00000001`.
        outcome: `quarantined` if any critical rule failed or is broken, else `valid`.
        findings: what was found, worst first.
        checks: how many rules were asked.
        seconds: how long it took, by the computer's own monotonic clock.
        consistency_at: the moment that the snapshot shows.
        checked_at: when it was checked.
        reason: the outcome in words, for people.
        unexercised: rules that held only because there was no value to hold them against.
        waiting: rules that must wait for more history, each with the reason.
        facts: the figures of the tables that are kept with the verdict.
        last_good: the newest valid snapshot before this one; empty if there is none.
        docs: the folder of the Data Docs; empty if none were written.
        results: how every rule came out, also those that held.
        release: where the snapshot is valid because a person released it: who, why, and in spite of what.
    """

    snapshot_id: str
    outcome: Outcome
    findings: list[CheckFinding]
    checks: int
    seconds: float
    consistency_at: datetime
    checked_at: datetime
    reason: str = ""
    unexercised: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    last_good: str = ""
    docs: str = ""
    results: list[RuleResult] = field(default_factory=list)
    release: Release | None = None

    def count(self, severity: Severity) -> int:
        """Return how many findings have this severity."""
        return sum(finding.severity == severity for finding in self.findings)


def every_result(
    seen: Iterable[RuleResult], findings: Iterable[CheckFinding], unexercised: Iterable[str]
) -> list[RuleResult]:
    """Return how every rule came out.

    Args:
        seen: what was seen of each rule that was asked, as if all had held.
        findings: the rules that failed or are broken, among them some that were never asked.
        unexercised: the rules that had no value to look at.
    """
    results = {one.rule: one for one in seen}
    for rule in unexercised:
        results[rule] = replace(results[rule], status="unexercised")
    for finding in findings:
        blank = RuleResult(
            finding.rule, finding.table, finding.column, finding.rule.rpartition(".")[2], finding.severity
        )
        results[finding.rule] = replace(
            results.get(finding.rule, blank),
            status=finding.status,
            failed=finding.failed,
            total=finding.total,
        )
    return list(results.values())


def _mask(told: CheckFinding | RuleResult) -> None:
    """Take every address out of what is about to be told: also out of names and keys, whoever wrote them."""
    for name, value in vars(told).items():
        if isinstance(value, str):
            object.__setattr__(told, name, mask_addresses(value))
        elif isinstance(value, list):
            object.__setattr__(told, name, [mask_addresses(one) for one in value])
