"""How volume returns: a canary, then growing steps, each small enough to be through well before the deadline.

Pure. Steps matter twice. They keep mailbox providers calm (Google sender guidelines: "immediately doubling
previously sent volumes suddenly could result in rate limiting"), and they bound what a provider still sends if we
are killed right after starting one: a step is never larger than what fits into a part of the time that is left.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

STEP_SHARE = 0.5
"""Share of the remaining time that one step may need: at half the promised speed it is still through in time."""

STEP_OVERHEAD = timedelta(seconds=90)
"""What a step takes beside its messages: the scan that starts it, and two looks until its log stands still."""

LEAST_EVENTS = 2
"""One bounce or complaint among few messages says nothing about a rate of 1 in 1000; two do."""


@dataclass(frozen=True)
class RampLimits:
    """The plan's `ramp`: see `tasks.plan.RampPlan`."""

    canary: int
    factor: float
    max_step: int
    max_bounce_rate: float
    max_complaint_rate: float


@dataclass(frozen=True)
class StepResult:
    """What became of one step: `accepted` includes delivered and bounced messages."""

    size: int
    accepted: int
    bounced: int = 0
    complaints: int = 0


@dataclass(frozen=True)
class NextStep:
    """The next step of a ramp: its size, or 0 with the reason why there is none.

    `finished`: nobody is left. `no_time`: not one message is sure to be through. `stopped`: a limit was passed.
    """

    size: int
    reason: str
    stopped: bool = False
    no_time: bool = False


def next_step(
    limits: RampLimits,
    done: Sequence[StepResult],
    *,
    remaining: int,
    now: datetime,
    deadline: datetime | None,
    messages_per_minute: float,
) -> NextStep:
    """Return the next step.

    Args:
        limits: the plan's ramp.
        done: the results of all steps of this recovery so far, oldest first.
        remaining: people still to be mailed.
        now: the time.
        deadline: `latest_useful_at`; None where none is known.
        messages_per_minute: the speed this step can count on (shared speed divided by who shares it).
    """
    if remaining <= 0:
        return NextStep(0, "finished")
    if broken := limit_passed(limits, done):
        return NextStep(0, broken, stopped=True)
    if not done:
        size, reason = limits.canary, "canary"
    else:
        # What was really taken is what the mailbox providers saw.
        seen = max((one.accepted for one in done), default=0)
        size, reason = max(limits.canary, math.floor(seen * limits.factor)), "ramp"
    if size >= limits.max_step:
        size, reason = limits.max_step, "largest step"
    if deadline is not None:
        minutes = (deadline - now) / timedelta(minutes=1)
        fits = max(0, math.floor(minutes * STEP_SHARE * messages_per_minute))
        if fits == 0:
            return NextStep(0, "no time is left before latest_useful_at", no_time=True)
        if fits < size:
            size, reason = fits, "what is sure to be through in time"
    return NextStep(min(size, remaining), reason)


@dataclass(frozen=True)
class Course:
    """What a ramp costs: the people it reaches in time, in how many steps, the largest, and how long it takes."""

    people: int
    steps: int
    largest: int
    minutes: float


def course(
    limits: RampLimits,
    done: Sequence[StepResult],
    *,
    remaining: int,
    now: datetime,
    deadline: datetime | None,
    messages_per_minute: float,
) -> Course:
    """Return how a ramp that begins at `now` would go, if every message is taken and no limit is passed."""
    steps, people, at = list(done), 0, now
    while size := next_step(
        limits,
        steps,
        remaining=remaining - people,
        now=at,
        deadline=deadline,
        messages_per_minute=messages_per_minute,
    ).size:
        steps.append(StepResult(size, size))
        people += size
        at += timedelta(minutes=size / messages_per_minute) + STEP_OVERHEAD
    new = steps[len(done) :]
    largest = max((one.size for one in new), default=0)
    return Course(people, len(new), largest, (at - now) / timedelta(minutes=1))


def limit_passed(limits: RampLimits, done: Iterable[StepResult]) -> str:
    """Return which limit the last step, or all steps together, went past; empty if none."""
    steps = list(done)
    for window in (steps[-1:], steps):
        sent = sum(one.accepted for one in window)
        for name, events, rate in (
            ("bounces", sum(one.bounced for one in window), limits.max_bounce_rate),
            ("complaints", sum(one.complaints for one in window), limits.max_complaint_rate),
        ):
            if sent and events >= LEAST_EVENTS and events / sent > rate:
                return f"{events} {name} among {sent} messages are above the limit of {rate:.2%}"
    return ""


def engaged_first(people: pa.Array, engagement: pa.Table) -> pa.Array:
    """Return `people` ordered by their opens and clicks, most first, then by id (Google: engaged users first).

    Args:
        people: subscriber ids.
        engagement: `subscriber_id` and how many `times` each opened or clicked; whoever is missing never did.
    """
    place = pc.index_in(people, value_set=engagement["subscriber_id"])
    times = pc.fill_null(pc.take(engagement["times"], place), 0).to_numpy()
    return people.take(pa.array(np.lexsort((people.to_numpy(), -times))))
