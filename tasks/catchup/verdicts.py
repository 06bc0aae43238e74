"""The verdict on each campaign that an outage held back: send, reschedule, drop or ask, with the reason.

Pure: what is known goes in, a decision comes out. A campaign is never started that could not finish before its
`latest_useful_at`; where only a part fits, the part is cut to what fits and the rest is expired.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

from tasks.catchup.mailbox import OTHER
from tasks.catchup.ramp import Course, Lane, RampLimits, course
from tasks.core import plural
from tasks.plan import LatenessRule, QuietHours

Verdict = Literal["send", "reschedule", "drop", "needs_approval"]
Reason = Literal[
    "still_ahead",
    "late_but_useful",
    "only_a_part_fits",
    "rule_reschedules",
    "nobody_left",
    "too_late",
    "rule_drops",
    "rule_asks",
    "paused_by_others",
    "quiet_hours",
    "frequency_cap",
    "no_deadline_known",
    "no_planned_time",
    "too_tight_as_planned",
]

USABLE_SHARE = 0.8
"""Share of the time to a deadline that is planned with; the rest is for a provider slower than it says."""
MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class Held:
    """A campaign that did not go out as planned.

    Attributes:
        planned_at: when it was to start; None where neither provider nor journal knows.
        latest_useful_at: the campaign's own deadline; None lets the rule of its kind decide.
        remaining: people whom the ledger calls `not_attempted` and the consent gate lets through.
        untouched: nothing of it was ever sent, so it can be scheduled again exactly as it was.
        paused_by_others: it was paused, and not by the response: by the provider itself, or by a person.
        goes_on: it sends again and again by itself; only its next issue is still to come.
        lanes: those of `remaining` who may be mailed now, per mailbox provider; everybody `other` if empty.
        deferred: those of `remaining` who are over the frequency cap until `deferred_until`.
        capped: those of `remaining` who are over it until the campaign is not useful any more.
    """

    campaign_id: int
    kind: str
    planned_at: datetime | None
    latest_useful_at: datetime | None
    remaining: int
    untouched: bool
    paused_by_others: bool = False
    goes_on: bool = False
    lanes: Mapping[str, int] = field(default_factory=dict)
    deferred: int = 0
    deferred_until: datetime | None = None
    capped: int = 0


@dataclass(frozen=True)
class Decision:
    """The one verdict on one held campaign.

    Attributes:
        reason: why, as a stable word; `why` says it in a sentence.
        start_at: when sending may begin; None where nothing is sent.
        deadline: `latest_useful_at` as applied; None where none is known.
        to_send: people who can be mailed in time.
        cut: people who cannot, and expire.
        as_it_was: schedule the original again, unchanged, instead of making a catch-up campaign.
        course: what the ramp costs; None where nothing is ramped.
        deferred: people who are mailed later, for they would get more than the frequency cap now.
        capped: people who are not mailed at all for that.
    """

    campaign_id: int
    verdict: Verdict
    reason: Reason
    why: str
    start_at: datetime | None = None
    deadline: datetime | None = None
    to_send: int = 0
    cut: int = 0
    as_it_was: bool = False
    course: Course | None = None
    deferred: int = 0
    capped: int = 0


def latest_useful_at(held: Held, rule: LatenessRule | None) -> datetime | None:
    """Return until when `held` may go out: its own word, else its planned time plus what its kind allows."""
    if held.latest_useful_at is not None:
        return held.latest_useful_at
    if held.planned_at is not None and rule is not None:
        return held.planned_at + rule.useful_for
    return None


def capacity(
    start: datetime, deadline: datetime, messages_per_minute: float, share: float = USABLE_SHARE
) -> int:
    """Return how many messages surely go out between `start` and `deadline`, using `share` of that time."""
    return max(0, math.floor((deadline - start) / MINUTE * share * messages_per_minute))


@dataclass(frozen=True)
class Due:
    """What the provider starts by itself: when, and how many people it then mails at most."""

    campaign_id: int
    at: datetime
    people: int


def beside(dues: Iterable[Due], start: datetime, until: datetime, messages_per_minute: float) -> int:
    """Return how many messages of `dues` may go first between `start` and `until`, in whatever order it sends.

    Of what is due before `start` only that counts which the provider cannot have sent by then.
    """
    backlog, last = 0.0, start
    for at, people in [
        *sorted((min(one.at, start), one.people) for one in dues if one.at < until),
        (start, 0),
    ]:
        sent = max(0.0, (at - last) / MINUTE) * messages_per_minute
        backlog, last = max(0.0, backlog - sent) + people, at
    return math.ceil(backlog)


def decide(
    held: Held,
    *,
    now: datetime,
    messages_per_minute: float,
    rule: LatenessRule | None,
    free_at: datetime | None = None,
    quiet: QuietHours | None = None,
    ramp: RampLimits | None = None,
    lanes: Mapping[str, Lane] | None = None,
    dues: Collection[Due] = (),
) -> Decision:
    """Return the verdict on `held`.

    Args:
        held: the campaign.
        now: the time of the decision.
        messages_per_minute: how fast the provider sends.
        rule: the plan's lateness rule for its kind.
        free_at: when the provider is done with campaigns that go first (`now` if absent).
        quiet: the plan's quiet hours: nothing late goes out in them.
        ramp: the plan's ramp, which a campaign that is sent at once goes through.
        lanes: what each mailbox provider has taken so far.
        dues: what else the provider starts by itself.
    """
    deadline = latest_useful_at(held, rule)
    begin = max(now, free_at or now)

    def verdict(
        kind: Verdict,
        reason: Reason,
        why: str,
        *,
        start: datetime | None = None,
        fits: int = 0,
        as_it_was: bool = False,
    ) -> Decision:
        to_send = min(held.remaining, fits)
        return Decision(
            campaign_id=held.campaign_id,
            verdict=kind,
            reason=reason,
            why=why,
            start_at=start,
            deadline=deadline,
            to_send=to_send,
            cut=held.remaining - to_send if kind in ("send", "reschedule") else 0,
            as_it_was=as_it_was,
            deferred=held.deferred,
            capped=held.capped,
        )

    if held.remaining <= 0:
        return verdict("drop", "nobody_left", "nobody is left who could be mailed")
    if held.goes_on and not held.paused_by_others:
        return verdict(
            "reschedule", "still_ahead", "its next issue is still ahead: let go on as it was",
            fits=held.remaining, as_it_was=True,
        )  # fmt: skip
    if held.planned_at is None:
        return verdict("needs_approval", "no_planned_time", "nothing says when it was to go out")
    if deadline is None:
        return verdict(
            "needs_approval",
            "no_deadline_known",
            f"nothing says how long a {held.kind} stays useful: add lateness.{held.kind} to the plan",
        )
    if deadline <= now:
        return verdict("drop", "too_late", f"it was useful until {_clock(deadline)}; now it is {_clock(now)}")
    if held.paused_by_others:
        why = "it was paused before the response, by the provider or by a person"
        return verdict("needs_approval", "paused_by_others", why)
    if held.planned_at > now:
        others = [one for one in dues if one.campaign_id != held.campaign_id]
        first = beside(others, held.planned_at, deadline, messages_per_minute)
        return _decide_ahead(held, held.planned_at, deadline, messages_per_minute, first)
    if rule is not None and rule.when_late == "drop":
        return verdict("drop", "rule_drops", f"the plan drops a late {held.kind}")
    if rule is not None and rule.when_late == "needs_approval":
        return verdict("needs_approval", "rule_asks", f"the plan asks before a late {held.kind} goes out")
    start = begin
    later = rule is not None and rule.when_late == "reschedule" and rule.reschedule_minutes > 0
    if rule is not None and later:
        start = max(begin, now + timedelta(minutes=rule.reschedule_minutes))
    held = replace(held, remaining=held.remaining - held.deferred - held.capped)
    if waits := held.remaining == 0:
        if held.deferred_until is None:
            return verdict(
                "drop", "frequency_cap", "everybody left would get more than the frequency cap allows"
            )
        start = max(start, held.deferred_until)
        held = replace(held, remaining=held.deferred, deferred=0)
    woken = quiet.over(start) if quiet is not None else None
    start = woken or start
    fits = capacity(start, deadline, messages_per_minute)
    if fits == 0:
        after = f"after the quiet hours, which end at {_clock(woken)}, " if woken else ""
        return verdict("drop", "too_late", f"{after}it could not be through by {_clock(deadline)}")
    if waits:
        why = f"everybody left is over the frequency cap until {_clock(start)}"
        return verdict("reschedule", "frequency_cap", why, start=start, fits=fits)
    if woken and not later:
        return verdict(
            "reschedule", "quiet_hours", f"quiet hours until {_clock(start)}", start=start, fits=fits
        )
    if later:
        return verdict(
            "reschedule",
            "rule_reschedules",
            f"the plan sends a late {held.kind} again at {_clock(start)}",
            start=start,
            fits=fits,
        )
    cost, ramped = None, ""
    if ramp is not None:
        until = deadline if quiet is None else min(deadline, quiet.next(start))
        cost = course(
            ramp,
            lanes or {},
            remaining=held.lanes or {OTHER: held.remaining},
            now=start,
            deadline=until,
            messages_per_minute=messages_per_minute,
        )
        if until == deadline:
            fits = min(fits, cost.people + cost.held)
        ramped = f"; {plural(cost.steps, 'step')} in {cost.minutes:,.0f} minutes"
    if held.deferred and held.deferred_until:
        ramped += f"; {held.deferred:,} over the frequency cap until {_clock(held.deferred_until)}"
    if held.capped:
        ramped += f"; {held.capped:,} not mailed, for the frequency cap"
    if fits < held.remaining:
        why = f"{fits} of {held.remaining} fit before {_clock(deadline)}; the rest expires{ramped}"
        found = verdict("send", "only_a_part_fits", why, start=start, fits=fits)
    else:
        why = f"useful until {_clock(deadline)}{ramped}"
        found = verdict("send", "late_but_useful", why, start=start, fits=fits)
    return replace(found, course=cost)


def _decide_ahead(
    held: Held, planned: datetime, deadline: datetime, messages_per_minute: float, first: int
) -> Decision:
    """Return the verdict on a campaign that is not late: whatever becomes of it, it starts at its planned time.

    `first` messages of what else is due may go before its own.
    """
    crowd = f" beside {plural(first, 'message')} of what else is due" if first else ""

    def at_its_time(to_send: int, why: str, *, as_it_was: bool = False) -> Decision:
        cut = held.remaining - to_send
        return Decision(
            held.campaign_id, "reschedule", "still_ahead", why, planned, deadline, to_send, cut, as_it_was
        )

    if not held.untouched:
        # A part of it went out or was asked about: only what is sure to be through goes with a catch-up campaign.
        fits = min(held.remaining, capacity(planned, deadline, messages_per_minute) - first)
        if fits <= 0:
            why = f"started at {_clock(planned)}{crowd} it could not be through by {_clock(deadline)}"
            return Decision(held.campaign_id, "drop", "too_late", why, deadline=deadline)
        why = f"{fits} of {held.remaining} are sent at its time, {_clock(planned)}"
        return at_its_time(
            fits,
            why
            + (f"; the rest does not fit{crowd} before {_clock(deadline)}" if fits < held.remaining else ""),
        )
    if capacity(planned, deadline, messages_per_minute, share=1.0) < held.remaining + first:
        why = f"started at {_clock(planned)}{crowd} it would not be through by {_clock(deadline)}"
        return Decision(held.campaign_id, "needs_approval", "too_tight_as_planned", why, deadline=deadline)
    why = f"its time, {_clock(planned)}, is still ahead: scheduled again as it was"
    return at_its_time(held.remaining, why, as_it_was=True)


def approved(
    held: Held,
    *,
    now: datetime,
    messages_per_minute: float,
    rule: LatenessRule | None,
    quiet: QuietHours | None = None,
    dues: Collection[Due] = (),
) -> Decision:
    """Return what a person's yes to a `needs_approval` verdict means now: send it, within its deadline if known.

    A yes never lifts a deadline, nor does it bring a campaign forward: what is too late is dropped, and what is still
    ahead starts at its planned time, cut to what fits. Without a known deadline there is nothing to cut to, and the
    person who said yes answers for it.
    """
    without_question = rule.model_copy(update={"when_late": "send"}) if rule is not None else None
    planned = held.planned_at or now
    again = replace(held, planned_at=planned, untouched=False, paused_by_others=False)
    decision = decide(
        again, now=now, messages_per_minute=messages_per_minute, rule=without_question, quiet=quiet, dues=dues
    )
    if decision.verdict != "needs_approval":
        return decision
    why = "approved by a person; no deadline is known"
    if planned > now:
        return Decision(
            held.campaign_id,
            "reschedule",
            "still_ahead",
            why,
            planned,
            to_send=held.remaining,
            as_it_was=held.untouched,
        )
    return Decision(held.campaign_id, "send", "late_but_useful", why, now, to_send=held.remaining)


def decide_all(
    held: Sequence[Held],
    *,
    now: datetime,
    messages_per_minute: float,
    rules: dict[str, LatenessRule],
    quiet: QuietHours | None = None,
    ramp: RampLimits | None = None,
    lanes: Mapping[str, Lane] | None = None,
    dues: Collection[Due] = (),
) -> list[Decision]:
    """Return one verdict per campaign, earliest deadline first: they share the provider's speed, one after another.

    What is not late starts at its planned time, whatever else is due then: see `ahead` and `dues`.
    """
    far = datetime.max.replace(tzinfo=now.tzinfo)
    ordered = sorted(
        held, key=lambda one: (latest_useful_at(one, rules.get(one.kind)) or far, one.campaign_id)
    )
    free_at = now
    decisions = []
    dues = [*dues, *ahead(held, now)]
    for one in ordered:
        decision = decide(
            one, now=now, messages_per_minute=messages_per_minute, rule=rules.get(one.kind), free_at=free_at,
            quiet=quiet, ramp=ramp, lanes=lanes, dues=dues,
        )  # fmt: skip
        decisions.append(decision)
        if decision.course is not None:
            free_at = max(free_at, now) + timedelta(minutes=decision.course.minutes)
            lanes = decision.course.after
        elif decision.verdict == "send":
            busy = timedelta(minutes=decision.to_send / messages_per_minute / USABLE_SHARE)
            free_at = max(free_at, now) + busy
    return decisions


def ahead(held: Iterable[Held], now: datetime) -> list[Due]:
    """Return what of `held` is not late, and so can go out at its planned time."""
    return [
        Due(one.campaign_id, one.planned_at, one.remaining)
        for one in held
        if one.planned_at is not None and one.planned_at > now and one.remaining
    ]


def _clock(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")
