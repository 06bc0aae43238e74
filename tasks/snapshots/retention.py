"""Which snapshots are kept, and because of which rule. Pure: the store is asked by `pruning`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from tasks.snapshots.models import SnapshotInfo


class Rules(Protocol):
    """How many snapshots are kept per unit of time; 0 switches a rule off."""

    @property
    def keep_last(self) -> int:
        """The newest ones."""

    @property
    def keep_within_days(self) -> int:
        """All of the last days."""

    @property
    def keep_hourly(self) -> int:
        """One an hour, for so many hours that have one."""

    @property
    def keep_daily(self) -> int:
        """One a day."""

    @property
    def keep_weekly(self) -> int:
        """One a week."""

    @property
    def keep_monthly(self) -> int:
        """One a month."""

    @property
    def keep_yearly(self) -> int:
        """One a year."""


RULES = (
    "keep_last",
    "keep_within_days",
    "keep_hourly",
    "keep_daily",
    "keep_weekly",
    "keep_monthly",
    "keep_yearly",
)


@dataclass(frozen=True)
class Fate:
    """What retention says of one snapshot: `because` names every rule that keeps it; empty: it goes."""

    snapshot_id: str
    at: datetime
    bytes: int
    because: tuple[str, ...]

    @property
    def kept(self) -> bool:
        """Whether any rule keeps it."""
        return bool(self.because)


_UNITS: tuple[tuple[str, str, Callable[[datetime], str]], ...] = (
    ("hourly", "keep_hourly", lambda at: f"{at:%Y-%m-%d %H}:00"),
    ("daily", "keep_daily", lambda at: f"{at:%Y-%m-%d}"),
    ("weekly", "keep_weekly", lambda at: "{}-W{:02d}".format(*at.isocalendar())),
    ("monthly", "keep_monthly", lambda at: f"{at:%Y-%m}"),
    ("yearly", "keep_yearly", lambda at: f"{at:%Y}"),
)


def kept_until(at: datetime, rules: Rules, every: timedelta) -> datetime:
    """Return when at the latest no rule keeps a snapshot of the time `at` any more.

    Valid only while backups go on, one `every` so often, each of them valid, and nobody holds the snapshot.
    """
    bounds = [at + max(1, rules.keep_last) * every, at + timedelta(days=rules.keep_within_days)]
    for name, rule, _ in _UNITS:
        if count := getattr(rules, rule):
            bounds += [_begin(name, at, count) + every, at + count * every]
    return max(bounds)


def _begin(unit: str, at: datetime, later: int) -> datetime:
    """Return when the hour, day and so on begins that comes `later` after the one of `at`."""
    day = at.replace(hour=0, minute=0, second=0, microsecond=0)
    if unit == "hourly":
        return day.replace(hour=at.hour) + timedelta(hours=later)
    if unit == "daily":
        return day + timedelta(days=later)
    if unit == "weekly":
        return day - timedelta(days=at.weekday()) + timedelta(weeks=later)
    months = at.month - 1 + later if unit == "monthly" else 12 * later
    return day.replace(year=at.year + months // 12, month=months % 12 + 1, day=1)


def decide(snapshots: Iterable[SnapshotInfo], rules: Rules, now: datetime) -> list[Fate]:
    """Return the fate of every snapshot, oldest first within a source; each source is judged by itself.

    The newest snapshot of a source, its newest valid one and whatever is held are always kept. Of an hour, a day and so
    on the newest valid snapshot is kept, and only where there is none the newest of any state: a quarantined snapshot
    never takes the place of a good one. Times are those of the consistency point, in UTC.
    """
    by_source: dict[str, list[SnapshotInfo]] = {}
    for one in snapshots:
        by_source.setdefault(one.source, []).append(one)
    return [
        fate
        for source in sorted(by_source)
        for fate in _source(sorted(by_source[source], key=lambda one: one.sequence), rules, now)
    ]


def _source(snapshots: list[SnapshotInfo], rules: Rules, now: datetime) -> list[Fate]:
    because: dict[str, list[str]] = {one.snapshot_id: [] for one in snapshots}
    newest_first = snapshots[::-1]

    def keep(one: SnapshotInfo, why: str) -> None:
        because[one.snapshot_id].append(why)

    keep(newest_first[0], "newest")
    if good := next((one for one in newest_first if one.state == "valid"), None):
        keep(good, "newest valid")
    for one in snapshots:
        for reason in one.held_by:
            keep(one, f"held: {reason}")
    for number, one in enumerate(newest_first[: rules.keep_last], 1):
        keep(one, f"last {number} of {rules.keep_last}")
    for one in newest_first:
        if rules.keep_within_days and one.consistency_at >= now - timedelta(days=rules.keep_within_days):
            keep(one, f"within {rules.keep_within_days} days")
    for name, rule, unit in _UNITS:
        chosen: dict[str, SnapshotInfo] = {}
        for one in newest_first:
            period = unit(one.consistency_at)
            if period not in chosen or (chosen[period].state != "valid" and one.state == "valid"):
                chosen[period] = one
        for period in sorted(chosen, reverse=True)[: getattr(rules, rule)]:
            keep(chosen[period], f"{name} {period}")
    return [
        Fate(one.snapshot_id, one.consistency_at, one.bytes, tuple(because[one.snapshot_id]))
        for one in snapshots
    ]
