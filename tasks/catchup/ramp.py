"""How volume returns: a canary to each mailbox provider, then growing steps, each through well before the deadline.

Pure. Steps matter twice. They keep mailbox providers calm (Google sender guidelines: "immediately doubling
previously sent volumes suddenly could result in rate limiting"), and they bound what a provider still sends if we
are killed right after starting one: a step is never larger than what fits into a part of the time that is left.
A step holds people of several mailbox providers, of each as many as that one allows: its own canary, growth, usual
daily volume and limits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

STEP_SHARE = 0.5
"""Share of the remaining time that one step may need: at half the promised speed it is still through in time."""

STEP_OVERHEAD = timedelta(seconds=90)
"""What a step takes beside its messages: the scan that starts it, and two looks until its log stands still."""

DAY = timedelta(days=1)

HORIZON = timedelta(days=60)
"""How far ahead the cost of a ramp is worked out."""

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
    """What became of one step at one mailbox provider: `accepted` includes delivered and bounced messages."""

    size: int
    accepted: int
    bounced: int = 0
    complaints: int = 0

    @property
    def harmed(self) -> bool:
        """Whether so much came back that it says something about a rate."""
        return max(self.bounced, self.complaints) >= LEAST_EVENTS


@dataclass(frozen=True)
class Lane:
    """One mailbox provider in a ramp: what it has taken from us.

    Attributes:
        done: the steps of this recovery as far as they went to it, oldest first.
        daily: the trailing daily volume, in messages; None where nothing tells.
        volume: what it got within the last day or is due to get: (time, messages), in any order.
    """

    done: tuple[StepResult, ...] = ()
    daily: int | None = None
    volume: tuple[tuple[datetime, int], ...] = ()

    def room(self, limits: RampLimits, at: datetime) -> int | None:
        """Return how many messages it may get at `at`: in no 24 hours more than `factor` times its daily volume.

        None: any number, for nothing tells what is usual. Where nobody was mailed lately a canary a day is allowed.
        """
        if self.daily is None:
            return None
        most = math.floor(self.daily * limits.factor) if self.daily else limits.canary
        return max(0, most - sum(messages for when, messages in self.volume if when > at - DAY))

    def room_again(self, limits: RampLimits, at: datetime) -> datetime:
        """Return when there is room after `at`."""
        times = sorted(when + DAY for when, _ in self.volume if when + DAY > at)
        return next((when for when in [at, *times] if self.room(limits, when) != 0), at)

    def allowance(self, limits: RampLimits, at: datetime) -> int:
        """Return the most that its next step may hold: a canary, then `factor` times what was taken at once before."""
        # What was really taken is what the mailbox provider saw.
        seen = max((one.accepted for one in self.done), default=0)
        size = min(limits.max_step, max(limits.canary, math.floor(seen * limits.factor)))
        room = self.room(limits, at)
        return size if room is None else min(size, room)

    def after(self, size: int, at: datetime) -> Lane:
        """Return the lane after a step of `size` that went well."""
        return replace(self, done=(*self.done, StepResult(size, size)), volume=(*self.volume, (at, size)))


@dataclass(frozen=True)
class NextStep:
    """The next step of a ramp: how many people at most, together and of each mailbox provider.

    Attributes:
        size: people of the step; 0 where there is none.
        sizes: per mailbox provider the most that the step may hold of it; together they may be more than `size`.
        stopped: mailbox providers with people left where a limit was passed, and which.
        waits: mailbox providers that got all that a day may bring, and from when on there is room again.
        no_time: not one message is sure to be through before the deadline.
    """

    size: int
    sizes: Mapping[str, int]
    stopped: Mapping[str, str]
    waits: Mapping[str, datetime]
    no_time: bool = False


def next_step(
    limits: RampLimits,
    lanes: Mapping[str, Lane],
    *,
    remaining: Mapping[str, int],
    now: datetime,
    deadline: datetime | None,
    messages_per_minute: float,
) -> NextStep:
    """Return the next step: what stops or fills one mailbox provider takes nothing from the others.

    Args:
        limits: the plan's ramp.
        lanes: what each mailbox provider has taken; one that is not named has taken nothing.
        remaining: people still to be mailed, per mailbox provider.
        now: the time.
        deadline: `latest_useful_at`; None where none is known.
        messages_per_minute: the speed this step can count on (shared speed divided by who shares it).
    """
    left = {name: people for name, people in sorted(remaining.items()) if people > 0}
    ask = {name: lanes.get(name, Lane()) for name in left}
    stopped = {name: why for name in left if (why := limit_passed(limits, ask[name].done))}
    sizes = {
        name: min(people, ask[name].allowance(limits, now))
        for name, people in left.items()
        if name not in stopped
    }
    waits = {name: ask[name].room_again(limits, now) for name, size in sizes.items() if not size}
    size = sum(sizes.values())
    fits = size if deadline is None else _sure(now, deadline, messages_per_minute)
    return NextStep(min(size, fits), sizes, stopped, waits, no_time=size > 0 and fits == 0)


def at_once(
    limits: RampLimits, lanes: Mapping[str, Lane], remaining: Mapping[str, int], at: datetime
) -> dict[str, int]:
    """Return how many people of each mailbox provider may be mailed in one go at `at`, with nobody there to watch."""
    ask = {name: lanes.get(name, Lane()) for name in remaining}
    rooms = {name: lane.room(limits, at) for name, lane in ask.items()}
    return {
        name: 0
        if limit_passed(limits, ask[name].done)
        else min(people, people if (room := rooms[name]) is None else room)
        for name, people in remaining.items()
    }


def _sure(now: datetime, deadline: datetime, messages_per_minute: float) -> int:
    minutes = (deadline - now) / timedelta(minutes=1)
    return max(0, math.floor(minutes * STEP_SHARE * messages_per_minute))


def pick(names: pa.Array, sizes: Mapping[str, int], size: int) -> pa.Array:
    """Return the places of whom a step takes, in order: the first of each mailbox provider, `size` together.

    Args:
        names: the mailbox provider of each person, in the order in which they are to be mailed.
        sizes: the most of each mailbox provider; none of one that is not named.
        size: the most together.
    """
    coded = names if isinstance(names, pa.DictionaryArray) else names.dictionary_encode()
    codes = coded.indices.to_numpy(zero_copy_only=False)
    chosen = [
        np.flatnonzero(codes == code)[: sizes.get(name, 0)]
        for code, name in enumerate(coded.dictionary.to_pylist())
    ]
    return pa.array(np.sort(np.concatenate([np.empty(0, np.int64), *chosen]))[:size])


@dataclass(frozen=True)
class LaneCourse:
    """What the ramp costs at one mailbox provider: people reached in time, and until when it takes.

    Attributes:
        held: people who are not reached although there is time, because a limit was passed.
    """

    people: int = 0
    steps: int = 0
    minutes: float = 0.0
    held: int = 0


@dataclass(frozen=True)
class Course:
    """What a ramp costs: the people it reaches in time, in how many steps, and how long it takes.

    Attributes:
        lanes: the same per mailbox provider.
        after: what each mailbox provider has taken when it is over.
    """

    people: int
    steps: int
    minutes: float
    lanes: Mapping[str, LaneCourse]
    after: Mapping[str, Lane]

    @property
    def held(self) -> int:
        """People who are not reached although there is time, because a limit was passed."""
        return sum(one.held for one in self.lanes.values())


def course(
    limits: RampLimits,
    lanes: Mapping[str, Lane],
    *,
    remaining: Mapping[str, int],
    now: datetime,
    deadline: datetime | None,
    messages_per_minute: float,
) -> Course:
    """Return how a ramp that begins at `now` would go, if every message is taken and no limit is passed.

    Where a day's volume is used up it goes on the next day, at most `HORIZON` long.
    """
    left, state, at, steps, minutes = dict(remaining), dict(lanes), now, 0, 0.0
    found = {name: LaneCourse() for name, people in sorted(left.items()) if people > 0}
    while at < now + HORIZON:
        step = next_step(
            limits, state, remaining=left, now=at, deadline=deadline, messages_per_minute=messages_per_minute
        )
        if not step.size:
            again = min(step.waits.values(), default=None)
            if step.no_time or again is None or (deadline is not None and again >= deadline):
                break
            at = again
            continue
        at += timedelta(minutes=step.size / messages_per_minute) + STEP_OVERHEAD
        steps, minutes = steps + 1, (at - now) / timedelta(minutes=1)
        for name, size in share(step.sizes, step.size).items():
            left[name] -= size
            state[name] = state.get(name, Lane()).after(size, at)
            known = found[name]
            found[name] = LaneCourse(known.people + size, known.steps + 1, minutes)
    stopped = next_step(
        limits, state, remaining=left, now=at, deadline=None, messages_per_minute=messages_per_minute
    ).stopped
    found |= {name: replace(found[name], held=left[name]) for name in stopped}
    return Course(sum(one.people for one in found.values()), steps, minutes, found, state)


def share(sizes: Mapping[str, int], size: int) -> dict[str, int]:
    """Return `size` people (no more than there are) divided in proportion to `sizes`, nobody lost by rounding."""
    whole, given, found = sum(sizes.values()), 0, {}
    before = 0
    for name, most in sizes.items():
        before += most
        upto = before * size // whole
        if upto > given:
            found[name] = upto - given
        given = upto
    return found


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
    """Return `people` in the order of their last open or click, the latest first, then by id (Google: engaged first).

    Args:
        people: subscriber ids.
        engagement: `subscriber_id` and when each opened or clicked last (`at`); whoever is missing never did.
    """
    place = pc.index_in(people, value_set=engagement["subscriber_id"])
    last = pc.take(engagement["at"], place).cast(pa.int64())
    never = np.iinfo(np.int64).min + 1
    return people.take(pa.array(np.lexsort((people.to_numpy(), -pc.fill_null(last, never).to_numpy()))))
