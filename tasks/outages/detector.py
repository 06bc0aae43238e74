"""The detector: when bad passes of `monitor` become an outage, and good ones its end. Pure; nothing is read here.

One pass is `judge(state, signals, now, rules)`. The state is small and goes to and from a dict, so that each run of
`monitor` goes on where the last one ended. Three rules keep it honest:

- Only our own measurements confirm an outage or end one. A green status page is no evidence of health, an unreadable
  one no evidence of anything, and a red one alone suspects unless we cannot measure at all.
- Hysteresis: `confirm_after` bad passes to confirm, `clear_after` good ones in a row to clear. What was broken must
  be seen working again: silence does not clear it.
- A signal that flaps does not flood: after a relapse it takes more good passes to call the outage clearing again, and
  after a false alarm more bad ones to suspect the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from tasks.outages.signals import Signal, SignalKind, Verdict
from tasks.plan import DetectionPlan

Phase = Literal["clear", "suspected", "confirmed", "clearing"]
Change = Literal["suspected", "confirmed", "clearing", "relapsed", "cleared"]

CALM_PASSES = 20
"""Good passes in a row after which earlier false alarms are forgotten."""

_LET_GO: frozenset[SignalKind] = frozenset({"bounces", "consent", "webhooks"})
_VOUCHED_BY: dict[SignalKind, SignalKind] = {"sending": "seed"}


@dataclass(frozen=True)
class DetectorState:
    """What the detector remembers of one provider between two passes.

    Attributes:
        phase: `clear`, `suspected` (people are told), `confirmed`, `clearing` (works again, not yet believed).
        bad_passes: bad passes since the suspicion began; a degraded pass does not count.
        doubtful_passes: bad or degraded passes since then.
        good_passes: good passes in a row.
        quiet_passes: passes in a row that would be good, but in which something that was broken kept silent.
        first_bad_at: the first pass of this suspicion that was not good: `detected_at`, not when impact began.
        implicated: our own signals that were bad in this outage: each must be good again before it is cleared.
        relapses: how often this outage came back while it was clearing.
        false_alarms: suspicions in recent times that cleared without being confirmed.
        page_muted: the page was red when the last outage cleared; it says nothing new until it has been green.
        false_green_since: since when the page has been green while our own measurements are bad.
        last_pass_at: the newest pass; an older one is refused.
    """

    phase: Phase = "clear"
    bad_passes: int = 0
    doubtful_passes: int = 0
    good_passes: int = 0
    quiet_passes: int = 0
    first_bad_at: datetime | None = None
    implicated: frozenset[SignalKind] = frozenset()
    relapses: int = 0
    false_alarms: int = 0
    page_muted: bool = False
    false_green_since: datetime | None = None
    last_pass_at: datetime | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the state as JSON-able values."""
        return {
            "phase": self.phase,
            "bad_passes": self.bad_passes,
            "doubtful_passes": self.doubtful_passes,
            "good_passes": self.good_passes,
            "quiet_passes": self.quiet_passes,
            "first_bad_at": _iso(self.first_bad_at),
            "implicated": sorted(self.implicated),
            "relapses": self.relapses,
            "false_alarms": self.false_alarms,
            "page_muted": self.page_muted,
            "false_green_since": _iso(self.false_green_since),
            "last_pass_at": _iso(self.last_pass_at),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any] | None) -> DetectorState:
        """Return the state that `to_dict` wrote; nothing gives a provider that was never watched."""
        if not content:
            return cls()
        known = {name: content[name] for name in cls.__dataclass_fields__ if name in content}
        known["implicated"] = frozenset(known.get("implicated", ()))
        for name in ("first_bad_at", "false_green_since", "last_pass_at"):
            known[name] = datetime.fromisoformat(known[name]) if known.get(name) else None
        return cls(**known)


@dataclass(frozen=True)
class Transition:
    """A change of phase that people or flows may want to know.

    Attributes:
        to: `suspected`, `confirmed`, `clearing`, `relapsed` (was clearing, is bad again) or `cleared`.
        was: the phase before.
        at: the pass in which it happened.
        detected_at: the first pass of this suspicion that was not good.
        seen: what spoke for it, one sentence per signal.
        false_green: whether the status page says all is well while our own measurements say otherwise.
    """

    to: Change
    was: Phase
    at: datetime
    detected_at: datetime
    seen: tuple[str, ...]
    false_green: bool = False

    @property
    def false_alarm(self) -> bool:
        """Whether a suspicion ended without an outage."""
        return self.to == "cleared" and self.was == "suspected"


def judge(
    state: DetectorState, signals: Sequence[Signal], now: datetime, rules: DetectionPlan
) -> tuple[DetectorState, list[Transition]]:
    """Return the state after one pass, and the transitions that this pass caused (in their order).

    A pass that is not newer than the last one changes nothing: a retried run does not count twice.
    """
    if state.last_pass_at is not None and now <= state.last_pass_at:
        return state, []
    verdict = verdict_of(signals, state)
    page = next((signal for signal in signals if signal.kind == "status_page"), None)
    own_bad = frozenset(signal.kind for signal in signals if signal.own and signal.verdict == "bad")
    green = page is not None and page.verdict == "good" and bool(own_bad)
    state = replace(
        state,
        last_pass_at=now,
        page_muted=state.page_muted and not (page is not None and page.verdict == "good"),
        false_green_since=(state.false_green_since or now) if green else None,
        implicated=state.implicated | own_bad,
    )
    if verdict == "unknown":
        return state, []
    if verdict == "good":
        return _good_pass(state, signals, now, rules)
    return _poor_pass(state, signals, now, rules, bad=verdict == "bad")


def verdict_of(signals: Sequence[Signal], state: DetectorState | None = None) -> Verdict:
    """Return what the signals of one pass say together.

    Our own measurements decide. A red page beside good measurements makes the pass degraded (suspicion, never
    confirmation), and nothing at all while an outage is on or was cleared against the page: restoration is measured.
    """
    state = state or DetectorState()
    own = {signal.verdict for signal in signals if signal.own}
    pages: list[Verdict] = [signal.verdict for signal in signals if signal.kind == "status_page"]
    page = pages[0] if pages else "unknown"
    if "bad" in own:
        return "bad"
    if "degraded" in own:
        return "degraded"
    if "good" not in own:
        return page if page in ("bad", "degraded") and not state.page_muted else "unknown"
    if page in ("bad", "degraded") and state.phase in ("clear", "suspected") and not state.page_muted:
        return "degraded"
    return "good"


def settle(state: DetectorState, now: datetime, *, page_red: bool = False) -> DetectorState:
    """Return the state at rest after the incident was closed: the journal's word is final.

    A page that is red at that time (`page_red`) says nothing new until it has been green.
    """
    return DetectorState(
        false_alarms=state.false_alarms,
        page_muted=state.page_muted or page_red,
        last_pass_at=state.last_pass_at or now,
    )


def page_is_red(signals: Sequence[Signal]) -> bool:
    """Whether the status page says that something is wrong."""
    return any(one.kind == "status_page" and one.verdict in ("bad", "degraded") for one in signals)


def _poor_pass(
    state: DetectorState, signals: Sequence[Signal], now: datetime, rules: DetectionPlan, *, bad: bool
) -> tuple[DetectorState, list[Transition]]:
    was = state.phase
    state = replace(
        state,
        bad_passes=state.bad_passes + bad,
        doubtful_passes=state.doubtful_passes + 1,
        good_passes=0,
        quiet_passes=0,
        first_bad_at=state.first_bad_at or now,
    )
    changes: list[Change] = []
    if was == "clearing":
        changes.append("relapsed")
        state = replace(state, phase="confirmed", relapses=state.relapses + 1)
    needed = min(rules.suspect_after + state.false_alarms, max(rules.suspect_after, rules.confirm_after))
    # One question in a thousand fails on any network: a single pass that is merely degraded wakes nobody.
    doubtful = needed if state.bad_passes else max(needed, rules.confirm_after)
    if state.phase == "clear" and (
        state.doubtful_passes >= doubtful or state.bad_passes >= rules.confirm_after
    ):
        changes.append("suspected")
        state = replace(state, phase="suspected")
    if state.phase == "suspected" and state.bad_passes >= rules.confirm_after:
        changes.append("confirmed")
        state = replace(state, phase="confirmed", false_alarms=0)
    return state, _told(changes, was, state, signals, now)


def _good_pass(
    state: DetectorState, signals: Sequence[Signal], now: datetime, rules: DetectionPlan
) -> tuple[DetectorState, list[Transition]]:
    was = state.phase
    good = state.good_passes + 1
    if was == "clear":
        if good < rules.clear_after:
            return replace(state, good_passes=good), []
        alarms = 0 if good >= CALM_PASSES else state.false_alarms
        rested = replace(settle(state, now), false_alarms=alarms, good_passes=min(good, CALM_PASSES))
        return replace(rested, last_pass_at=now), []
    if _unproven(state, signals, rules):
        return replace(state, quiet_passes=state.quiet_passes + 1), []
    state = replace(state, good_passes=good)
    if good >= rules.clear_after:
        return _cleared(state, was, signals, now)
    if was == "confirmed" and good >= min(2**state.relapses, rules.clear_after):
        state = replace(state, phase="clearing")
        return state, _told(["clearing"], was, state, signals, now)
    return state, []


def _cleared(
    state: DetectorState, was: Phase, signals: Sequence[Signal], now: datetime
) -> tuple[DetectorState, list[Transition]]:
    changes: list[Change] = ["clearing", "cleared"] if was == "confirmed" else ["cleared"]
    told = _told(changes, was, state, signals, now)
    rested = settle(state, now, page_red=page_is_red(signals))
    return replace(rested, false_alarms=state.false_alarms + (was == "suspected")), told


def _unproven(state: DetectorState, signals: Sequence[Signal], rules: DetectionPlan) -> frozenset[SignalKind]:
    """Return what was broken and is not yet seen working: such a pass proves nothing.

    `sending` is silent once campaigns are paused; a seed message that arrived went the same way. Opt-outs, bounces and
    webhooks come when they come: they are let go after `clear_after` passes of silence.
    """
    seen_good = {signal.kind for signal in signals if signal.verdict == "good"}
    return frozenset(
        kind
        for kind in state.implicated
        if kind not in seen_good
        and _VOUCHED_BY.get(kind) not in seen_good
        and not (kind in _LET_GO and state.quiet_passes >= rules.clear_after)
    )


def _told(
    changes: Sequence[Change], was: Phase, state: DetectorState, signals: Sequence[Signal], now: datetime
) -> list[Transition]:
    transitions = []
    for change in changes:
        wanted = ("good",) if change in ("clearing", "cleared") else ("bad", "degraded")
        transitions.append(
            Transition(
                to=change,
                was=was,
                at=now,
                detected_at=state.first_bad_at or now,
                seen=tuple(signal.seen for signal in signals if signal.verdict in wanted),
                false_green=state.false_green_since is not None,
            )
        )
        was = (
            "confirmed"
            if change in ("confirmed", "relapsed")
            else "suspected"
            if change == "suspected"
            else "clearing"
        )
    return transitions


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
