"""One pass of `monitor` over one provider: look everywhere, then conclude.

`observe` asks the page, the API, the seed mailbox and the shop, and never fails because one of them does. `conclude`
is pure: memory and observation in, memory and what has changed out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from tasks.core import Clock, MailstayError
from tasks.outages.bounces import WINDOW, BounceMemory, bounce_signal
from tasks.outages.calendar import calendar_of, usual_of, value_per_message, with_audiences
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
from tasks.outages.detector import Change, DetectorState, Transition, judge, page_is_red, settle
from tasks.outages.handshake import smtp_handshake, smtp_signal
from tasks.outages.mailbox import seed_arrived
from tasks.outages.optout import unsubscribe_signal
from tasks.outages.probing import Answer, api_signal, enough
from tasks.outages.reading import read_status_page
from tasks.outages.seed import SeedFailed, SeedRefused, SeedRoute, seed_token, send_seed
from tasks.outages.severity import DueSend, Severity, Usual, likely_restore, severity_of
from tasks.outages.signals import Signal
from tasks.outages.witness import Earnings, ShopWitness
from tasks.plan import DetectionPlan, Plan, ProviderPlan

CONSENT_WINDOW = timedelta(minutes=60)
"""How far back an opt-out still says something about now."""


GATHERED_EVERY = timedelta(days=1)
"""How old what is known from before may grow."""


class Watched(Protocol):
    """What a provider's connector must answer to be watched (`tasks.providers.Provider` does)."""

    def health(self) -> Any:
        """Ask something only the real API can answer: an object with `ok`, `seconds` and `detail`; never raises."""

    def campaigns(self) -> Sequence[Any]:
        """Return every campaign as the provider has it."""


@dataclass(frozen=True)
class Background:
    """What is known of a provider from before, and does not change with every pass.

    Attributes:
        at: when it was gathered.
        worth: what a message of each kind brings, in minor units, as `impact` estimates it; empty where it cannot.
        outages: how long earlier outages of the provider took.
    """

    at: datetime
    worth: Mapping[str, float] = field(default_factory=dict)
    outages: tuple[timedelta, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        seconds = [one.total_seconds() for one in self.outages]
        return {"at": self.at.isoformat(), "worth": dict(self.worth), "outages": seconds}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Background:
        """Return what `to_dict` wrote."""
        outages = tuple(timedelta(seconds=one) for one in content["outages"])
        return cls(datetime.fromisoformat(content["at"]), content["worth"], outages)


Gather = Callable[[Sequence[CampaignCount], datetime], Background]
"""Gathers the background from the provider's campaigns at a time; never raises."""


@dataclass(frozen=True)
class Memory:
    """All that `monitor` keeps of one provider between two passes.

    Attributes:
        detector: the detector's state.
        sending: what was running.
        seed: the seed message on its way.
        calendar: unfinished sends when campaigns could last be read; None when that never was.
        usual: what figures are weighed against.
        severity: level of the incident as last told, 0 outside one.
        incident: id of the incident that this outage is recorded in, empty outside one.
        status_posted_at: the vendor's first post about it, once its page has one.
        background: what is known from before.
        bounces: bounces of the last passes.
    """

    detector: DetectorState = field(default_factory=DetectorState)
    sending: SendingMemory = field(default_factory=SendingMemory)
    seed: SeedMemory = field(default_factory=SeedMemory)
    calendar: tuple[DueSend, ...] | None = None
    usual: Usual = field(default_factory=Usual)
    severity: int = 0
    incident: str = ""
    status_posted_at: datetime | None = None
    background: Background | None = None
    bounces: BounceMemory = field(default_factory=BounceMemory)

    def to_dict(self) -> dict[str, Any]:
        """Return the memory as JSON-able values, for the journal."""
        return {
            "detector": self.detector.to_dict(),
            "sending": self.sending.to_dict(),
            "seed": self.seed.to_dict(),
            "calendar": None if self.calendar is None else [send.to_dict() for send in self.calendar],
            "usual": [self.usual.audience, self.usual.daily_revenue_minor],
            "severity": self.severity,
            "incident": self.incident,
            "status_posted_at": self.status_posted_at and self.status_posted_at.isoformat(),
            "background": self.background and self.background.to_dict(),
            "bounces": self.bounces.to_dict(),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any] | None) -> Memory:
        """Return the memory that `to_dict` wrote; nothing gives that of a provider that was never watched."""
        if not content:
            return cls()
        calendar = content["calendar"]
        return cls(
            detector=DetectorState.from_dict(content["detector"]),
            sending=SendingMemory.from_dict(content["sending"]),
            seed=SeedMemory.from_dict(content["seed"]),
            calendar=None if calendar is None else tuple(DueSend.from_dict(send) for send in calendar),
            usual=Usual(*content["usual"]),
            severity=content["severity"],
            incident=content["incident"],
            status_posted_at=_moment(content["status_posted_at"]),
            background=Background.from_dict(known) if (known := content.get("background")) else None,
            bounces=BounceMemory.from_dict(content.get("bounces")),
        )


@dataclass(frozen=True)
class Observation:
    """What one pass saw, and the memories that go with it.

    Attributes:
        at: the time of the pass.
        signals: one per kind of evidence that the plan gives access to.
        sending: memory for the next pass.
        seed: memory for the next pass.
        calendar: unfinished sends; None when campaigns could not be read.
        usual: what figures are weighed against; None when campaigns could not be read.
        background: what is known from before, where it was gathered anew.
        bounces: memory for the next pass.
    """

    at: datetime
    signals: tuple[Signal, ...]
    sending: SendingMemory
    seed: SeedMemory
    calendar: tuple[DueSend, ...] | None
    usual: Usual | None
    background: Background | None = None
    bounces: BounceMemory = field(default_factory=BounceMemory)


@dataclass(frozen=True)
class Pass:
    """What one pass concluded.

    Attributes:
        provider: its name in the plan.
        at: the time of the pass.
        memory: to be remembered once everything else of the pass is done.
        signals: what was seen.
        transitions: changes of the detector's phase, in order.
        severity: how bad it is now; None while nothing is suspected.
        rose: whether an outage that people know of has become worse since they were told.
        posted: whether the vendor's page has just begun to speak of it.
    """

    provider: str
    at: datetime
    memory: Memory
    signals: tuple[Signal, ...]
    transitions: tuple[Transition, ...]
    severity: Severity | None
    rose: bool = False
    posted: bool = False

    @property
    def eventful(self) -> bool:
        """Whether anything has changed that belongs into the journal."""
        return bool(self.transitions) or self.rose or self.posted

    @property
    def seen(self) -> tuple[str, ...]:
        """What speaks for an outage, one sentence per signal; what speaks against it when nothing does."""
        against = tuple(signal.seen for signal in self.signals if signal.verdict in ("bad", "degraded"))
        return against or tuple(signal.seen for signal in self.signals if signal.verdict == "good")

    def changed_to(self, change: Change) -> Transition | None:
        """Return this pass's transition to `change`, if there is one."""
        return next((one for one in self.transitions if one.to == change), None)

    @property
    def impact_started_at(self) -> datetime | None:
        """When impact began as the vendor's page states, if that is not after we detected it; never a guess."""
        stated = _page_time(self.signals, "impact_started_at")
        detected = self.memory.detector.first_bad_at
        return stated if stated and detected and stated <= detected else None


def observe(
    name: str,
    provider: Watched,
    plan: Plan,
    memory: Memory,
    clock: Clock,
    *,
    shop: ShopWitness | None = None,
    seed: SeedRoute | None = None,
    gather: Gather | None = None,
    unsubscribe_url: str | None = None,
) -> Observation:
    """Look at everything the plan gives access to and return what was seen.

    Args:
        name: the provider's name in the plan.
        provider: its connector.
        plan: the continuity plan.
        memory: what the last pass remembered.
        clock: the clock of the plan.
        shop: our own shop, where the plan names it.
        seed: the way of a seed message, where the plan names its mailbox.
        unsubscribe_url: the seed subscriber's opt-out address, where the plan names it.
        gather: learns the background, once a day and never while something is wrong.
    """
    settings: ProviderPlan = plan.providers[name]
    now = clock.now()
    signals = []
    if settings.status_page is not None:
        signals.append(
            read_status_page(
                settings.status_page, at=now, timeout_seconds=settings.status_page.timeout_seconds
            )
        )
    if settings.smtp is not None:
        signals.append(
            smtp_signal(
                smtp_handshake(settings.smtp), now, datetime.now(UTC), warn_days=settings.smtp.warn_days
            )
        )
    if unsubscribe_url is not None:
        signals.append(
            unsubscribe_signal(unsubscribe_url, now, timeout_seconds=settings.unsubscribe_timeout_seconds)
        )
    api = api_signal(_ask(provider), now, slow_seconds=plan.detection.slow_seconds)
    signals.append(api)
    works_at_all = api.details["asked"] > api.details["failed"]
    campaigns = _campaigns(provider) if works_at_all else None
    sending, bounces = memory.sending, memory.bounces
    calendar, usual, background = None, None, None
    if campaigns is not None:
        earnings = shop.earnings(now) if shop else Earnings()
        sending, signal = sending_signal(
            memory.sending,
            campaigns,
            now,
            stalled_minutes=plan.detection.stalled_minutes,
            messages_per_minute=settings.messages_per_minute,
        )
        signals.append(signal)
        background = memory.background
        if gather and memory.detector.phase == "clear" and _old(background, now):
            background = gather(campaigns, now)
        diagnostics = shop.diagnostics(now - WINDOW, now) if shop else None
        bounces, signal = bounce_signal(memory.bounces, campaigns, diagnostics, now)
        signals.append(signal)
        measured = value_per_message(campaigns, earnings.by_campaign_minor)
        worth = measured | dict(background.worth if background else {})
        calendar = tuple(calendar_of(campaigns, now, lateness=plan.lateness, value_per_message=worth))
        usual = usual_of(campaigns, earnings.daily_minor)
    else:
        signals.append(Signal("sending", "unknown", "campaigns cannot be read", now))
    if shop is not None:
        since = min(memory.detector.first_bad_at or now, now) - CONSENT_WINDOW
        requests = shop.opt_outs(since, now)
        if requests is not None:
            signals.append(consent_signal(requests, now, window=CONSENT_WINDOW))
        accepted_since = memory.sending.accepted_since
        receipts = shop.receipts(accepted_since, now) if accepted_since else None
        lag = shop.webhook_lag(accepted_since, now) if accepted_since else None
        signals.append(webhook_signal(memory.sending, receipts, now, lag=lag))
    followed = memory.seed
    if seed is not None:
        followed, signal = _follow_seed(name, settings, seed, memory.seed, now, plan.detection, works_at_all)
        signals.append(signal)
    return Observation(now, tuple(signals), sending, followed, calendar, usual, background, bounces)


def conclude(
    name: str, memory: Memory, observation: Observation, rules: DetectionPlan, *, incident_open: bool
) -> Pass:
    """Return what the observation changes. Pure.

    Args:
        name: the provider's name in the plan.
        memory: what the last pass remembered.
        observation: what this one saw.
        rules: when a signal becomes a suspicion and a suspicion an incident.
        incident_open: whether the incident of `memory` is still open: people may have closed it meanwhile.
    """
    now = observation.at
    if memory.incident and not incident_open:
        rested = settle(memory.detector, now, page_red=page_is_red(observation.signals))
        memory = replace(memory, detector=rested, severity=0, incident="", status_posted_at=None)
    state, transitions = judge(memory.detector, observation.signals, now, rules)
    kept = Memory(
        detector=state,
        sending=observation.sending,
        seed=observation.seed,
        calendar=memory.calendar if observation.calendar is None else observation.calendar,
        usual=observation.usual or memory.usual,
        severity=memory.severity,
        incident=memory.incident,
        background=observation.background or memory.background,
        bounces=observation.bounces,
    )
    severity = None
    rose = posted = False
    if state.phase != "clear":
        severity = _severity(kept, observation)
        rose = bool(memory.severity) and severity.level < memory.severity
        # What people were told stays the mark: it does not move down and up again with every pass.
        told = min(severity.level, memory.severity) if memory.severity else severity.level
        posted_at = memory.status_posted_at or _page_time(observation.signals, "status_posted_at")
        posted = posted_at is not None and memory.status_posted_at is None
        kept = replace(kept, severity=told, status_posted_at=posted_at)
    else:
        kept = replace(kept, severity=0)
    return Pass(name, now, kept, observation.signals, tuple(transitions), severity, rose, posted)


def _severity(memory: Memory, observation: Observation) -> Severity:
    now = observation.at
    past = memory.background.outages if memory.background else ()
    consent = next((one for one in observation.signals if one.kind == "consent"), None)
    return severity_of(
        memory.calendar,
        now,
        usual=memory.usual,
        consent_failing=any(
            one.verdict == "bad" for one in observation.signals if one.kind in ("consent", "unsubscribe")
        ),
        consent_waits_since=_moment(consent.details.get("waits_since")) if consent else None,
        restore=likely_restore(memory.detector.first_bad_at or now, now, past),
    )


def _old(background: Background | None, now: datetime) -> bool:
    return background is None or now - background.at >= GATHERED_EVERY


def _ask(provider: Watched) -> list[Answer]:
    answers: list[Answer] = []
    while not enough(answers):
        probe = provider.health()
        answers.append(Answer(probe.ok, probe.seconds, probe.detail))
    return answers


def _campaigns(provider: Watched) -> list[CampaignCount] | None:
    try:
        campaigns = provider.campaigns()
    except MailstayError:
        return None
    return with_audiences(
        [
            CampaignCount(
                campaign_id=one.id,
                name=one.name,
                status=one.status,
                to_send=one.to_send,
                sent=one.sent,
                send_at=one.send_at,
                started_at=one.started_at,
                kind=one.kind,
                latest_useful_at=one.latest_useful_at,
                list_ids=tuple(one.list_ids),
                bounced=getattr(one, "bounced", 0),
            )
            for one in campaigns
            if one.of != "feed"  # it runs for years, and nothing of it need move
        ]
    )


def _follow_seed(
    name: str,
    settings: ProviderPlan,
    route: SeedRoute,
    memory: SeedMemory,
    now: datetime,
    rules: DetectionPlan,
    works_at_all: bool,
) -> tuple[SeedMemory, Signal]:
    arrived = None
    if memory.sent_at is not None:
        arrived = seed_arrived(
            route.mailbox_url,
            memory.token,
            timeout_seconds=settings.seed_timeout_seconds,
            password=route.mailbox_password,
        )
    patience = timedelta(minutes=rules.stalled_minutes)
    memory, signal = seed_signal(memory, arrived, now, patience=patience)
    if memory.sent_at is not None or not works_at_all:
        return memory, signal
    token = seed_token(name, now)
    try:
        send_seed(
            settings.api_url, route.auth, route.address, token, timeout_seconds=settings.timeout_seconds
        )
    except SeedRefused as error:
        return memory, Signal("seed", "unknown", f"no seed message can be sent: {error.what}", now)
    except SeedFailed as error:
        return memory, Signal("seed", "bad", error.what, now)
    return seed_sent(memory, token, now), signal


def _page_time(signals: Sequence[Signal], name: str) -> datetime | None:
    stated = (signal.details.get(name) for signal in signals if signal.kind == "status_page")
    return _moment(next(stated, None))


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
