"""What a check found, as plain data that goes into verdicts, artifacts and reports: never personal data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Severity = Literal["critical", "warning", "info"]
Outcome = Literal["valid", "quarantined"]

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

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as JSON-able data, as signed verdicts keep it."""
        return asdict(self)


@dataclass(frozen=True)
class CheckReport:
    """The outcome of all contracts on one snapshot.

    Attributes:
        snapshot_id: the snapshot, as `shop/00000001`.
        outcome: `quarantined` if any critical rule failed or is broken, else `valid`.
        findings: what was found, worst first.
        checks: how many rules were asked.
        seconds: how long it took, by the computer's own monotonic clock.
        reason: the outcome in words, for people.
        unexercised: rules that held only because there was no value to hold them against.
        waiting: rules that must wait for more history, each with the reason.
        facts: the figures of the tables that are kept with the verdict.
        last_good: the newest valid snapshot before this one; empty if there is none.
        docs: the folder of the Data Docs; empty if none were written.
    """

    snapshot_id: str
    outcome: Outcome
    findings: list[CheckFinding]
    checks: int
    seconds: float
    reason: str = ""
    unexercised: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    last_good: str = ""
    docs: str = ""

    def count(self, severity: Severity) -> int:
        """Return how many findings have this severity."""
        return sum(finding.severity == severity for finding in self.findings)
