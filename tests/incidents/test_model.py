"""The journal against a model of it: random histories of states, times, actions and leases."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tasks.core import DrivenClock
from tasks.incidents import (
    ActionConflict,
    ForbiddenTransition,
    ImpossibleOrder,
    Journal,
    Lease,
    LeaseHeld,
    StaleToken,
)

OPEN = ("triage", "investigating", "identified", "monitoring")
# Written out here on purpose: a slip in the package's table must show.
NEXT = {
    "triage": {"investigating", "identified", "canceled", "merged"},
    "investigating": {"identified", "monitoring", "resolved", "canceled", "merged"},
    "identified": {"investigating", "monitoring", "resolved", "canceled", "merged"},
    "monitoring": {"investigating", "identified", "resolved", "merged"},
    "resolved": {"investigating", "closed"},
    "closed": set(),
    "canceled": set(),
    "merged": set(),
}
OUTCOMES = {
    "intended": {"done", "failed", "unknown"},
    "failed": {"done", "failed", "unknown"},
    "not_done": {"done", "failed", "unknown"},
    "unknown": {"unknown"},
    "done": {"done"},
}
RANK = ("impact_started_at", "detected_at", "declared_at", "acknowledged_at", "mitigated_at", "resolved_at")
PAIRS = [
    ("impact_started_at", "detected_at"), ("detected_at", "declared_at"), ("declared_at", "acknowledged_at"),
    ("impact_started_at", "mitigated_at"), ("mitigated_at", "resolved_at"),
    ("impact_started_at", "resolved_at"), ("declared_at", "resolved_at"), ("acknowledged_at", "closed_at"),
    ("resolved_at", "closed_at"),
]  # fmt: skip
TTL = timedelta(minutes=30)


class JournalMachine(RuleBasedStateMachine):
    """One incident, two runs that may hold its lease, three actions."""

    new_url: Callable[[Path], str] = staticmethod(lambda folder: f"sqlite:///{folder / 'journal.db'}")

    @initialize()
    def declare(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        root = Path(self.folder.name)
        self.clock = DrivenClock.create(root / "clock.json", datetime(2011, 11, 16, 7, tzinfo=UTC))
        self.journal = Journal.open(self.new_url(root), self.clock)
        now = self.clock.now()
        self.id = self.journal.declare(
            "esp", cause_class="unknown", summary="s", detected_at=now, declared_by="x"
        ).id
        self.state = "triage"
        self.times = {"detected_at": now, "declared_at": now}
        self.actions: dict[str, str] = {}
        self.ids: dict[str, int] = {}
        self.leases: dict[str, Lease] = {}
        self.holder: tuple[str, int, datetime] | None = None

    def teardown(self) -> None:
        if hasattr(self, "journal"):
            self.journal.close()
            self.folder.cleanup()

    @rule(minutes=st.integers(1, 40))
    def time_passes(self, minutes: int) -> None:
        self.clock.advance(timedelta(minutes=minutes))

    @rule(to=st.sampled_from(sorted(NEXT)))
    def transition(self, to: str) -> None:
        stamp = f"{to}_at" if to in ("resolved", "closed") else ""
        now = self.clock.now()
        times = dict(self.times)
        if to != self.state and self.state == "resolved" and to in OPEN:
            times.pop("resolved_at", None)
        allowed = to == self.state or to in NEXT[self.state]
        if allowed and to != self.state and stamp and stamp not in times:
            allowed_time = self._fits(times, stamp, now)
            times[stamp] = now
        else:
            allowed_time = True
        try:
            self.journal.transition(self.id, to, "x", "r")  # type: ignore[arg-type]
        except ForbiddenTransition:
            assert not allowed
        except ImpossibleOrder:
            assert allowed
            assert not allowed_time
        else:
            assert allowed
            assert allowed_time
            self.state, self.times = to, times

    @rule(kind=st.sampled_from(RANK), minutes=st.integers(-90, 10))
    def set_timestamp(self, kind: str, minutes: int) -> None:
        at = self.clock.now() + timedelta(minutes=minutes)
        fits = self._fits(self.times, kind, at)
        try:
            self.journal.set_timestamp(self.id, kind, at, "x")
        except ImpossibleOrder as refused:
            assert not fits
            assert kind in (refused.earlier, refused.later)
        else:
            assert fits or self.times.get(kind) == at
            self.times[kind] = at

    @rule(who=st.sampled_from("ab"))
    def lease(self, who: str) -> None:
        now = self.clock.now()
        free = self.holder is None or self.holder[2] <= now
        try:
            lease = self.journal.lease(self.id, who, TTL)
        except LeaseHeld as held:
            assert not free
            assert self.holder is not None
            assert (held.holder, held.until) == (self.holder[0], self.holder[2])
        else:
            assert free
            assert all(lease.token > other.token for other in self.leases.values())
            self.leases[who] = lease
            self.holder = (who, lease.token, now + TTL)

    @rule(who=st.sampled_from("ab"))
    def release(self, who: str) -> None:
        if who in self.leases:
            self.journal.release(self.leases[who])
            if self.holder is not None and self.holder[1] == self.leases[who].token:
                self.holder = None

    @rule(who=st.sampled_from("ab"), key=st.sampled_from("123"))
    def intend(self, who: str, key: str) -> None:
        token = self.leases[who].token if who in self.leases else None
        stale = token is not None and (self.holder is None or self.holder[1] != token)
        try:
            action = self.journal.intend(
                self.id, key, kind="pause", target=key, payload={}, previous_state={}, undo={}, token=token
            )
        except StaleToken:
            assert stale
        else:
            assert not stale
            assert action.is_new is (key not in self.actions)
            assert action.status == self.actions.setdefault(key, "intended")
            self.ids[key] = action.id

    @rule(key=st.sampled_from("123"), outcome=st.sampled_from(["done", "failed", "unknown"]))
    def outcome(self, key: str, outcome: str) -> None:
        if key not in self.actions:
            return
        allowed = outcome in OUTCOMES[self.actions[key]]
        calls: dict[str, Callable[[], Any]] = {
            "done": lambda: self.journal.complete(self.ids[key]),
            "failed": lambda: self.journal.fail(self.ids[key], "no"),
            "unknown": lambda: self.journal.unknown(self.ids[key], "?"),
        }
        try:
            calls[outcome]()
        except ActionConflict:
            assert not allowed
        else:
            assert allowed
            self.actions[key] = outcome

    @rule(key=st.sampled_from("123"), finding=st.sampled_from(["done", "not_done"]))
    def settle(self, key: str, finding: str) -> None:
        if self.actions.get(key) == "unknown":
            self.journal.resolve_unknown(self.ids[key], finding, {"read": key})  # type: ignore[arg-type]
            self.actions[key] = finding

    @invariant()
    def the_journal_says_what_the_model_says(self) -> None:
        if hasattr(self, "journal"):
            found = self.journal.incident(self.id)
            assert (found.state, found.timestamps) == (self.state, self.times)
            assert {one.key: one.status for one in self.journal.actions(self.id)} == self.actions

    def _fits(self, times: dict[str, datetime], kind: str, at: datetime) -> bool:
        known = {**times, kind: at}
        return at <= self.clock.now() + timedelta(minutes=5) and all(
            known[first] <= known[second]
            for first, second in PAIRS
            if kind in (first, second) and first in known and second in known
        )


Record = Callable[[str, object], None]


def check_histories(machine: type[JournalMachine], examples: int, record: Record) -> None:
    record("cases", examples)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_random_histories_on_sqlite_agree_with_the_model(record_property: Record) -> None:
    check_histories(JournalMachine, 15, record_property)


@pytest.mark.slow
def test_many_random_histories_on_sqlite_agree_with_the_model(record_property: Record) -> None:
    check_histories(JournalMachine, 500, record_property)


@pytest.mark.integration
def test_random_histories_on_postgresql_agree_with_the_model(
    new_database: Callable[[], str], record_property: Record
) -> None:
    class OnPostgres(JournalMachine):
        new_url = staticmethod(lambda _folder: new_database())

    check_histories(OnPostgres, 5, record_property)
