"""Replaying real outages and quiet years through the detector: when would it have spoken, and how often in vain.

The chronologies are facts from public sources (`data/outages/replay.yaml`). What our probes would have met is derived
from them, with every assumption written beside it, and goes through the same functions as a live pass: signals are
made by `api_signal`, `sending_signal` and their like, and judged by `judge`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from tasks.outages.bounces import BounceMemory, bounce_signal
from tasks.outages.counts import (
    CampaignCount,
    SeedMemory,
    SendingMemory,
    consent_signal,
    seed_sent,
    seed_signal,
    sending_signal,
    webhook_signal,
)
from tasks.outages.detector import DetectorState, judge
from tasks.outages.errors import OutageError
from tasks.outages.handshake import Handshake, smtp_signal
from tasks.outages.probing import Answer, api_signal, enough
from tasks.outages.signals import Signal, SignalKind
from tasks.outages.statuspage import PageComponent, PageIncident, StatusPage, page_signal
from tasks.plan import DetectionPlan

EVERY = timedelta(minutes=5)
"""How often `monitor` runs in the deployment that comes with this project."""

QUESTION_FAILS = 0.0005
"""Share of questions to a healthy API that fail on the way: an assumption of the replay."""

RATE = 600
"""Messages a minute that the watched campaign sends."""

_HEALTHY_BEFORE = timedelta(hours=6)
_WATCHED_AFTER = timedelta(hours=3)
_SHARES = ("api", "stopped", "opt_outs", "seed", "webhooks", "smtp", "bounced")


@dataclass(frozen=True)
class Chronology:
    """One outage as its source tells it.

    Attributes:
        id: provider and date.
        source: where it is told.
        began: when it began.
        first_post: the vendor's first public word; None where that was not found.
        restored: when it was over.
        facts: what failed, in words.
        assumed: what had to be assumed to replay it.
        phases: until when which shares failed.
    """

    id: str
    source: str
    began: datetime
    first_post: datetime | None
    restored: datetime
    facts: str
    assumed: str
    phases: tuple[tuple[datetime, Mapping[str, float]], ...]

    def failing(self, at: datetime) -> Mapping[str, float]:
        """Return the shares that fail at `at`; empty outside the outage."""
        if not self.began <= at < self.restored:
            return {}
        return next((shares for until, shares in self.phases if at < until), {})


@dataclass(frozen=True)
class Replay:
    """What the detector made of one outage.

    Attributes:
        suspected_at: when people would have been told; None: missed.
        confirmed_at: when `respond` would have started; None: missed.
        cleared_at: when it was taken for over; None: not within three hours.
        by: the signals that were bad when it was confirmed.
    """

    suspected_at: datetime | None = None
    confirmed_at: datetime | None = None
    cleared_at: datetime | None = None
    by: tuple[SignalKind, ...] = ()


def read_chronologies(path: Path) -> list[Chronology]:
    """Return the outages of a file like `data/outages/replay.yaml`.

    Raises:
        OutageError: an entry lacks a key, or has one that is unknown.
    """
    found = []
    for entry in yaml.safe_load(path.read_text()):
        try:
            phases = [dict(phase) for phase in entry["phases"]]
            ends = [phase.pop("until", entry["restored"]) for phase in phases]
            unknown = {key for phase in phases for key in phase} - set(_SHARES)
            if unknown:
                raise OutageError(f"There is no share {min(unknown)!r}", fix=f"use {', '.join(_SHARES)}")
            found.append(Chronology(**{**entry, "phases": tuple(zip(ends, phases, strict=True))}))
        except (KeyError, TypeError) as error:
            name = entry.get("id", "an entry without id") if isinstance(entry, dict) else "an entry"
            raise OutageError(f"{name} is incomplete: {error}", where=str(path)) from error
    return found


def replay_outage(
    outage: Chronology,
    rules: DetectionPlan,
    *,
    seed: int = 0,
    only: frozenset[SignalKind] | None = None,
) -> Replay:
    """Return what the detector makes of `outage`, watched from six hours before to three hours after it.

    Args:
        outage: what happened.
        rules: the detector's.
        seed: decides which questions fail, and how the passes lie to the outage.
        only: the signals that exist; None takes all.
    """
    lot = random.Random(f"{outage.id}/{seed}")  # noqa: S311 - a replay must repeat
    first = outage.began - _HEALTHY_BEFORE + EVERY * lot.random()
    probes = _Probes(lot, rules)
    state = DetectorState()
    told: dict[str, datetime] = {}
    by: tuple[SignalKind, ...] = ()
    at = first
    while at < max(outage.restored, outage.first_post or outage.restored) + _WATCHED_AFTER:
        signals = [_page(outage, at), *probes.look(at, outage.failing(at))]
        signals = [one for one in signals if only is None or one.kind in only]
        state, transitions = judge(state, signals, at, rules)
        for change in transitions:
            if change.to == "cleared" or (change.to not in told and at >= outage.began):
                told[change.to] = at
            if change.to == "confirmed" and not by:
                by = tuple(one.kind for one in signals if one.own and one.verdict == "bad")
        at += EVERY
    confirmed = told.get("confirmed")
    if confirmed:  # a false alarm that was on when the outage began has told people already
        told.setdefault("suspected", confirmed)
    cleared = told.get("cleared")
    return Replay(told.get("suspected"), confirmed, cleared if confirmed else None, by)


@dataclass
class Quiet:
    """How often the detector spoke in a time in which nothing of ours was wrong.

    Attributes:
        months: how long that was.
        page_red: passes in which the vendor's page was red.
        suspected: suspicions that people were told of.
        confirmed: outages that would have started a response.
    """

    months: float = 0.0
    page_red: int = 0
    suspected: int = 0
    confirmed: int = 0


def replay_quiet(
    incidents: Sequence[PageIncident],
    since: datetime,
    until: datetime,
    rules: DetectionPlan,
    *,
    question_fails: float = QUESTION_FAILS,
    measured: bool = True,
    seed: int = 0,
) -> Quiet:
    """Watch a healthy provider whose page says what a real page has said, and count what the detector says.

    Args:
        incidents: those of the real page: its bad news is about other things than ours.
        since: from when on.
        until: to when.
        rules: the detector's.
        question_fails: share of questions to the healthy API that fail on the way.
        measured: whether there are measurements of our own; without, the page is all there is.
        seed: decides which questions fail.
    """
    lot = random.Random(seed)  # noqa: S311 - a replay must repeat
    found = Quiet(months=(until - since) / timedelta(days=365.25 / 12))
    state, at = DetectorState(), since
    pages = _pages(incidents, since)
    page, ends = next(pages)
    while at < until:
        while at >= ends:
            page, ends = next(pages)
        signals = [page_signal(page, (), at)]
        found.page_red += signals[0].verdict in ("bad", "degraded")
        if measured:
            signals.append(_api(lot, question_fails, at))
        state, transitions = judge(state, signals, at, rules)
        found.suspected += sum(one.to == "suspected" for one in transitions)
        found.confirmed += sum(one.to == "confirmed" for one in transitions)
        at += EVERY
    return found


class _Probes:
    """Our measurements of a provider of which shares fail, with their memories from pass to pass."""

    def __init__(self, lot: random.Random, rules: DetectionPlan) -> None:
        self._lot = lot
        self._rules = rules
        self._sending = SendingMemory()
        self._seed = SeedMemory()
        self._seed_lost = False
        self._bounces = BounceMemory()
        self._opt_outs: list[tuple[datetime, bool]] = []
        self._sent = self._bounced = 0

    def look(self, at: datetime, failing: Mapping[str, float]) -> Iterator[Signal]:
        share = {key: failing.get(key, 0.0) for key in _SHARES}
        yield _api(self._lot, max(share["api"], QUESTION_FAILS), at)
        yield smtp_signal(
            Handshake("its certificate does not hold") if share["smtp"] else Handshake(), at, at, warn_days=0
        )
        grown = round(RATE * EVERY / timedelta(minutes=1) * (1 - share["stopped"]))
        self._sent += grown
        self._bounced += round(grown * (share["bounced"] or 0.004))
        before = self._sending
        campaign = CampaignCount(
            1, "Campaign", "running", 10**9, self._sent, started_at=at - EVERY, bounced=self._bounced
        )
        self._sending, signal = sending_signal(
            self._sending,
            [campaign],
            at,
            stalled_minutes=self._rules.stalled_minutes,
            messages_per_minute=RATE,
        )
        yield signal
        self._bounces, signal = bounce_signal(self._bounces, [campaign], None, at)
        yield signal
        yield webhook_signal(before, 0 if self._lot.random() < share["webhooks"] else before.accepted, at)
        self._opt_outs.append((at, self._lot.random() >= share["opt_outs"]))
        yield consent_signal(self._opt_outs[-12:], at, window=timedelta(hours=1))
        yield self._follow(at, share["seed"])

    def _follow(self, at: datetime, lost: float) -> Signal:
        # A seed on its way is held up for as long as the fault lasts.
        arrived = not (self._seed_lost and lost)
        patience = timedelta(minutes=self._rules.stalled_minutes)
        self._seed, signal = seed_signal(self._seed, arrived, at, patience=patience)
        if self._seed.sent_at is None:
            self._seed, self._seed_lost = seed_sent(self._seed, "token", at), self._lot.random() < lost
        return signal


def _api(lot: random.Random, share: float, at: datetime) -> Signal:
    answers: list[Answer] = []
    while not enough(answers):
        failed = lot.random() < share
        answers.append(Answer(not failed, 0.1, "HTTP 503" if failed else ""))
    return api_signal(answers, at, slow_seconds=5.0)


def _page(outage: Chronology, at: datetime) -> Signal:
    posted = outage.first_post is not None and outage.first_post <= at
    red = posted and at < max(outage.restored, outage.first_post or at) + timedelta(minutes=30)
    part = PageComponent(id="send", name="Email sending", status="partial_outage" if red else "operational")
    page = StatusPage(name="Page", indicator="partial_outage" if red else "operational", components=(part,))
    return page_signal(page, ["send"], at)


_LEVELS: Mapping[str, Any] = {
    "none": "operational",
    "minor": "degraded_performance",
    "major": "partial_outage",
    "critical": "major_outage",
}


def _pages(incidents: Sequence[PageIncident], since: datetime) -> Iterator[tuple[StatusPage, datetime]]:
    """Return the page as it was, and until when it was so, from `since` on for ever."""
    spans = [
        (one.first_posted_at, one.resolved_at, one.impact)
        for one in incidents
        if one.first_posted_at and one.resolved_at and one.resolved_at > since
    ]
    moments = sorted({moment for began, over, _ in spans for moment in (began, over)} - {since})
    now = since
    for moment in [*[one for one in moments if one > since], datetime.max.replace(tzinfo=UTC)]:
        impacts = {impact for began, over, impact in spans if began <= now < over}
        worst = next((level for level in ("critical", "major", "minor") if level in impacts), "none")
        yield StatusPage(name="Page", indicator=_LEVELS[worst], components=()), moment
        now = moment
