"""Recovering one incident, from "is it really back" to "steady state": what the steps of the flow call.

Every decision is asked of the pure modules, every change at the provider goes through the journal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pyarrow as pa

from tasks.catchup.desk import (
    OVER,
    Desk,
    HeldCampaign,
    Stopped,
    iso,
    number_in,
    parse,
    schedule_of,
    settle_stops,
    standing_stops,
)
from tasks.catchup.ledger import OUTCOMES, Outcome, write_frozen
from tasks.catchup.ramp import Course
from tasks.catchup.restoration import Restoration, measure, stuck
from tasks.catchup.stepping import Stepping
from tasks.catchup.traffic import traffic_table
from tasks.catchup.verdicts import Decision, Due, Held, ahead, approved, decide, decide_all, latest_useful_at
from tasks.catchup.witnesses import Witnesses
from tasks.core import crash_point, plural
from tasks.incidents import Action, State
from tasks.providers import Campaign, ProviderRefused

SHORT_SCOPE = timedelta(days=1)
"""A campaign that started this long before the impact may have been cut short by it."""

SUPERSEDED, DROPPED = "mailstay-superseded", "mailstay-dropped"
TAGS = {SUPERSEDED, DROPPED}
STOP_TRIES = 5

SENDS = frozenset({"catch_up", "reschedule"})
"""Kinds of agreement that a yes to `send_anyway` covers too."""


@dataclass(frozen=True)
class Question:
    """What is proposed for one campaign, and whether it waits for a yes.

    Attributes:
        kind: what must be agreed to; empty where nothing is left to choose.
        undoable: whether it can be taken back.
        deferred: people who are mailed later, for they would get more than the frequency cap now.
        capped: people who are not mailed at all for that.
    """

    campaign_id: int
    name: str
    verdict: str
    reason: str
    why: str
    people: int
    cut: int
    kind: str
    undoable: bool
    deferred: int = 0
    capped: int = 0


@dataclass(frozen=True)
class Outcomes:
    """What came of one campaign.

    Attributes:
        done: what was done: `put_back`, `caught_up`, `scheduled`, `dropped`, `nothing_left`, or `held`.
        counts: people per outcome, from the ledger.
        scheduled: people among `not_attempted` whom the provider will mail at a time that is set.
    """

    campaign_id: int
    name: str
    done: str
    why: str
    counts: dict[str, int]
    scheduled: int


class Recovery:
    """The recovery of one incident."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.witnesses = Witnesses(desk)
        self.stepping = Stepping(desk, self.witnesses)

    # Restoration ------------------------------------------------------------------------------------------------

    def measure_restoration(self) -> Restoration:
        """Measure whether the provider works again; where it does, the incident is being watched (`monitoring`)."""
        found = measure(self.desk)
        if found.restored:
            self._advance("monitoring", f"the provider works again, as measured: {found.seen}")
        return found

    # Scope ------------------------------------------------------------------------------------------------------

    def quiesce(self) -> list[HeldCampaign]:
        """Find what the outage held back, stop what still moves of it, wait until all is still, and freeze it.

        Raises:
            Stopped: a campaign that we stopped is gone, or the sender does not come to rest.
        """
        desk = self.desk
        settle_stops(desk.journal, desk.incident.id, desk.provider, token=desk.token)
        frozen = self._frozen()
        scope = self._scope(set(frozen))
        before = desk.stopped_by_us()
        own = {step.campaign_name for step in self.stepping.steps()}
        strays = [
            one
            for original in scope
            for one in desk.family(original.id)
            if one.name not in own
            and one.status not in OVER
            # A draft without a list cannot be started: nothing is left to stop.
            and not (one.status == "draft" and (not one.list_ids or TAGS & set(one.tags)))
        ]
        for one in [*scope, *strays]:
            if one.id not in frozen:
                self._stop(one)
        desk.until_quiet([one.id for one in [*scope, *strays] if one.id not in frozen])
        for one in strays:
            self._end(one.id, one.status, SUPERSEDED)
        held = [frozen.get(one.id) or self._freeze(one.id, before.get(one.id, {})) for one in scope]
        stops = {str(number): stop for number, stop in self._last_stops().items()}
        desk.keep("held", {"campaigns": [one.to_json() for one in held], "stops": stops})
        crash_point("recover.held:frozen")
        return held

    def _frozen(self) -> dict[int, HeldCampaign]:
        """Return the campaigns as an earlier run froze them, without those that a response stopped again since."""
        known = self.desk.recall("held") or {}
        then, now = known.get("stops", {}), self._last_stops()
        return {
            int(one["id"]): HeldCampaign.from_json(one)
            for one in known.get("campaigns", [])
            if str(one["id"]) not in then or then[str(one["id"])] == now.get(int(one["id"]))
        }

    def _last_stops(self) -> dict[int, int]:
        """Return per campaign the number of the action that stopped it last."""
        return {
            number: one.id
            for one in standing_stops(self.desk.journal.actions(self.desk.incident.id))
            if one.status == "done" and (number := number_in(one.target)) is not None
        }

    def _put_backs(self, campaign_id: int) -> list[Action]:
        """Return the times that this recovery scheduled a campaign again."""
        return [
            one
            for one in self.desk.actions("reschedule", f"recover:reschedule:{campaign_id}")
            if one.status == "done" and number_in(one.target) == campaign_id
        ]

    def _is_back(self, campaign_id: int) -> bool:
        """Whether this recovery scheduled a campaign again, and no response stopped it since."""
        done = self._put_backs(campaign_id)
        return bool(done) and done[-1].id > self._last_stops().get(campaign_id, 0)

    def _scope(self, frozen: set[int]) -> list[Campaign]:
        """Return the originals that our response stopped, and, the first time, those that the outage cut short."""
        desk = self.desk
        stopped, tried = set(desk.stopped_by_us()), desk.tried_to_stop()
        times = desk.incident.timestamps
        began = times.get("impact_started_at") or times.get("detected_at") or desk.clock.now()
        restored = parse((desk.recall("restored") or {}).get("at")) or desk.clock.now()
        everything = {one.id: one for one in desk.provider.campaigns()}
        missing = sorted((stopped | frozen) - set(everything))
        if missing:
            raise Stopped(
                f"The provider does not know {plural(len(missing), 'campaign')} any more that we stopped",
                where=f"{desk.incident.id}: campaigns {', '.join(map(str, missing))}",
                fix="restore from the snapshot that the incident holds, then run recover again",
            )
        own = {step.campaign_name for step in self.stepping.steps()}
        wanted: set[int] = set(frozen)
        for one in everything.values():
            if one.name in own:
                continue
            started_by_then = one.started_at is not None and one.started_at <= restored
            # A stop that is said not to have happened, of a campaign that stands still: rather ours than forgotten.
            hit = one.id in stopped or (one.id in tried and one.status in ("paused", "draft"))
            if not frozen:
                # What nothing can stop goes on by itself: a catch-up beside it would mail people twice.
                hit = hit or (one.status == "running" and started_by_then and self._can_stop(one))
                hit = hit or (
                    one.status == "scheduled" and one.send_at is not None and one.send_at <= restored
                )
                # A provider pauses by itself (listmonk: too many errors), and finishes what it cut short (#2278).
                hit = hit or (
                    one.status in ("finished", "paused")
                    and one.started_at is not None
                    and one.started_at >= began - SHORT_SCOPE
                    and one.sent < one.to_send
                )
            if hit:
                wanted.add(one.id if one.catch_up_of is None else one.catch_up_of)
        return [everything[number] for number in sorted(wanted) if number in everything]

    def _can_stop(self, one: Campaign) -> bool:
        return self.desk.provider.capabilities.hold(one.status, one.of) is not None

    def _stop(self, one: Campaign) -> None:
        """Bring a campaign to a standstill, whatever it does while we look."""
        desk = self.desk
        for _ in range(STOP_TRIES):
            now = desk.provider.campaign(one.id)
            if now.status not in ("running", "scheduled"):
                return
            hold = desk.provider.capabilities.hold(now.status, now.of)
            if hold is None:
                break
            call = desk.provider.pause if hold.action == "pause" else desk.provider.unschedule
            try:
                desk.make(
                    f"recover:{hold.action}:{one.id}",
                    hold.action,
                    one.id,
                    call=partial(call, one.id),
                    read_back=partial(desk.status_in, one.id, hold.to_status, *OVER),
                    previous=schedule_of(now),
                    undo={"action": hold.undo},
                )
            except ProviderRefused:
                continue  # it changed between the look and the call: look again
        raise Stopped(
            "A campaign does not stop",
            where=f"{desk.incident.id}: campaign {one.id}",
            fix="stop it at the provider, then run recover again",
        )

    def _freeze(self, campaign_id: int, before: dict[str, Any]) -> HeldCampaign:
        now = self.desk.provider.campaign(campaign_id)
        starts = [one.started_at for one in self.desk.family(campaign_id) if one.started_at is not None]
        planned = now.send_at or parse(before.get("send_at")) or now.started_at or min(starts, default=None)
        return HeldCampaign(
            id=now.id,
            name=now.name,
            kind=now.kind,
            status=now.status,
            planned_at=planned,
            latest_useful_at=now.latest_useful_at,
            list_ids=now.list_ids,
            untouched=(self._never_sent(now) or now.of != "campaign" or self.desk.stopped_in_time(now))
            and now.started_at is None
            and now.sent == 0
            and not starts,
            of=now.of,
            people=now.to_send if now.of != "campaign" else 0,
            paused_by_others=now.status == "paused" and campaign_id not in self.desk.tried_to_stop(),
        )

    def _never_sent(self, now: Campaign) -> bool:
        return now.status == "draft" and self.desk.provider.capabilities.drafts_are_untouched

    # Verdicts ---------------------------------------------------------------------------------------------------

    def propose(self, held: Iterable[HeldCampaign]) -> list[Question]:
        """Return the verdict on each held campaign, the most urgent first, and what must be agreed to for it."""
        campaigns = {one.id: one for one in held}
        now, subjects = self.desk.clock.now(), self._all_as_decided(campaigns.values())
        dues = self._note_dues(subjects, now)
        decisions = decide_all(
            subjects,
            now=now,
            messages_per_minute=self.desk.settings.messages_per_minute,
            rules={str(kind): rule for kind, rule in self.desk.plan.plan.lateness.items()},
            quiet=self.desk.plan.plan.quiet_hours,
            ramp=self.desk.limits,
            lanes=self.stepping.lanes(),
            dues=dues,
        )
        self._note_cost(decisions, campaigns)
        questions = []
        for one in decisions:
            campaign = campaigns[one.campaign_id]
            if self._settled(campaign):
                continue
            kind, undoable = _agreement(one)
            questions.append(
                Question(
                    campaign_id=campaign.id,
                    name=campaign.name,
                    verdict=one.verdict,
                    reason=one.reason,
                    why=one.why,
                    people=one.to_send,
                    cut=one.cut,
                    kind=kind,
                    undoable=undoable,
                    deferred=one.deferred,
                    capped=one.capped,
                )
            )
            self.witnesses.note_ledger(
                campaign.id,
                {
                    "verdict": one.verdict,
                    "reason": one.reason,
                    "why": one.why,
                    "latest_useful_at": iso(one.deadline),
                },
            )
        return questions

    def _note_dues(self, subjects: Iterable[Held], now: datetime) -> list[Due]:
        """Write down what goes out at its planned time, and return what an earlier run has put back for then."""
        fresh = ahead(subjects, now)
        back = [
            one
            for one in self._dues()
            if one.at > now and one.campaign_id not in {due.campaign_id for due in fresh}
        ]
        back = [one for one in back if not self.desk.is_done(f"recover:drop:{one.campaign_id}")]
        self.desk.keep(
            "dues", {"dues": [[one.campaign_id, iso(one.at), one.people] for one in [*fresh, *back]]}
        )
        return back

    def _dues(self) -> list[Due]:
        """Return what of the held campaigns the provider starts, or is to start, at its planned time."""
        kept = (self.desk.recall("dues") or {}).get("dues", [])
        return [Due(number, at, people) for number, text, people in kept if (at := parse(text)) is not None]

    def _note_cost(self, decisions: Iterable[Decision], campaigns: Mapping[int, HeldCampaign]) -> None:
        """Write down what the ramp costs, for whoever is asked: hours per mailbox provider, who expires meanwhile."""
        courses = [one.course for one in decisions if one.course is not None]
        if not courses:
            return
        hours = sum(one.minutes for one in courses) / 60
        lanes = [
            _lane_cost(name, courses) for name in sorted({name for one in courses for name in one.lanes})
        ]
        expiring = [
            f"{campaigns[one.campaign_id].name} ({plural(one.cut, 'person', 'people')})"
            for one in decisions
            if one.cut
        ]
        late = f"expires before its turn: {', '.join(expiring)}" if expiring else "nothing expires on the way"
        steps = plural(sum(one.steps for one in courses), "step")
        known = "" if self.witnesses.daily() else "; no snapshot tells what is usual in a day"
        text = f"the ramp takes {hours:,.1f} hours in {steps}; {'; '.join(lanes)}; {late}{known}"
        self.desk.journal.note(self.desk.incident.id, "ramp", text, token=self.desk.token)

    def _all_as_decided(self, held: Iterable[HeldCampaign]) -> list[Held]:
        """Return the campaigns as they are decided on; what is more urgent counts as sent to the frequency cap."""
        now = self.desk.clock.now()
        far = datetime.max.replace(tzinfo=now.tzinfo)
        found: list[Held] = []
        also: list[pa.Table] = []
        for one in sorted(held, key=lambda one: (self._deadline(one) or far, one.id)):
            found.append(self._as_decided(one, also))
            if self.desk.cap(one.kind) is not None and not self._settled(one) and not one.people:
                also.append(traffic_table(one.id, self.stepping.remaining(one), now))
        return found

    def _deadline(self, held: HeldCampaign) -> datetime | None:
        rule = self.desk.rule(held.kind)
        if held.latest_useful_at is None and held.planned_at is not None and rule is not None:
            return held.planned_at + rule.useful_for
        return held.latest_useful_at

    def _as_decided(self, held: HeldCampaign, also: Iterable[pa.Table] = ()) -> Held:
        nobody = pa.array([], pa.int64())
        people = nobody if held.people or self._settled(held) else self.stepping.remaining(held)
        split = self.stepping.split(held, people, self.desk.clock.now(), self._deadline(held), also)
        return Held(
            campaign_id=held.id,
            kind=held.kind,
            planned_at=held.planned_at,
            latest_useful_at=held.latest_useful_at,
            remaining=0 if self._settled(held) else held.people or len(people),
            lanes=self.witnesses.by_lane(split.now),
            deferred=len(split.later),
            deferred_until=split.later_at,
            capped=len(split.never),
            untouched=held.untouched and not self.stepping.steps(held.id),
            paused_by_others=held.paused_by_others,
            goes_on=held.of == "feed",
        )

    def _settled(self, held: HeldCampaign) -> bool:
        """Whether an earlier run has put this campaign back or closed it."""
        return self._is_back(held.id) or self.desk.is_done(f"recover:drop:{held.id}")

    # Doing ------------------------------------------------------------------------------------------------------

    def resume(self, held: HeldCampaign, agreed: frozenset[str]) -> Outcomes:
        """Do what the verdict of this moment says for one campaign, as far as it is agreed to.

        The verdict is asked again: time has passed since it was proposed. What only a deadline decides (too late,
        nobody left) needs no agreement.

        Raises:
            Stopped: a person must look before anything more is sent.
        """
        desk = self.desk
        if self._is_back(held.id):
            return self._outcomes(held, "put_back", "scheduled again as it was")
        closed = desk.recall(f"closed/{held.id}")
        if closed:
            return self._close(held, closed["outcome"], closed["reason"])
        subject = self._as_decided(held)
        rule, now = desk.rule(held.kind), desk.clock.now()
        speed = desk.speed()
        unfinished = any(not step.done for step in self.stepping.steps(held.id))
        quiet, dues = desk.plan.plan.quiet_hours, self._dues()
        decision = decide(
            subject, now=now, messages_per_minute=speed, rule=rule, quiet=quiet, ramp=desk.limits,
            lanes=self.stepping.lanes(), dues=dues,
        )  # fmt: skip
        if decision.verdict == "needs_approval":
            if "drop_anyway" in agreed:
                self.stepping.give_up(held, "a person decided against it")
                return self._close(held, "dropped", "a person decided against it")
            if "send_anyway" not in agreed:
                return self._outcomes(held, "held", decision.why)
            decision = approved(
                subject, now=now, messages_per_minute=speed, rule=rule, quiet=quiet, dues=dues
            )
        else:
            kind, _ = _agreement(decision)
            # Who said yes to sending the campaign need not say so again for what is left of it.
            sent_anyway = "send_anyway" in agreed and kind in SENDS
            if kind and kind not in agreed and not sent_anyway:
                return self._outcomes(held, "held", f"not agreed to: {decision.why}")
        # The messages of a batch are of our own making: there is no catch-up for them, only to let go or to discard.
        if decision.as_it_was or (held.of != "campaign" and decision.verdict == "send"):
            self._put_back(held)
            return self._outcomes(held, "put_back", decision.why)
        if decision.reason == "nobody_left" and not unfinished:
            if not self.witnesses.committed(held.id):
                self._end(held.id, held.status, SUPERSEDED)
                return self._outcomes(held, "nothing_left", decision.why)
            return self._outcomes(held, "scheduled", "the provider starts it at its new time")
        if decision.verdict == "drop" and not unfinished:
            if decision.reason == "frequency_cap":
                self.witnesses.drop_capped(held.id, self.stepping.remaining(held))
            outcome: Outcome = "expired" if decision.reason == "too_late" else "dropped"
            return self._close(held, outcome, decision.why)
        if held.of != "campaign":
            return self._outcomes(
                held, "held", f"a {held.of} cannot be sent at another time: resume or discard it by hand"
            )
        # From here on only catch-up campaigns send: the original's pointer never sends again.
        self._end(held.id, held.status, SUPERSEDED)
        deadline = latest_useful_at(subject, rule)
        if decision.verdict == "reschedule" and decision.start_at is not None:
            return self._later(held, decision.start_at, deadline, decision.to_send, decision.why)
        ended = self.stepping.catch_up(held, deadline)
        if ended.reason == "held_back":
            return self._outcomes(held, "held", ended.why)
        if ended.reason == "quiet_hours" and quiet is not None:
            at = desk.clock.now()
            woken = quiet.over(at) or quiet.over(quiet.next(at)) or at
            return self._later(held, woken, deadline, subject.remaining, "quiet hours until it is sent")
        if ended.reason == "no_time":
            return self._close(held, "expired", "no time was left before latest_useful_at")
        return self._keep_to_the_cap(held, deadline, decision.why)

    def _keep_to_the_cap(self, held: HeldCampaign, deadline: datetime | None, why: str) -> Outcomes:
        """Have the provider mail later who is over the frequency cap now; drop who is until it is too late."""
        desk = self.desk
        split = self.stepping.split(held, self.stepping.remaining(held), desk.clock.now(), deadline)
        if split.later_at is not None:
            quiet = desk.plan.plan.quiet_hours
            start = (quiet.over(split.later_at) if quiet else None) or split.later_at
            return self._later(held, start, deadline, len(split.later), why)
        if len(split.never):
            self.witnesses.drop_capped(held.id, split.never)
        scheduled = bool(self.witnesses.committed(held.id))
        return self._outcomes(held, "scheduled" if scheduled else "caught_up", why)

    def _later(
        self, held: HeldCampaign, start_at: datetime, deadline: datetime | None, most: int, why: str
    ) -> Outcomes:
        """Have the provider mail up to `most` of the remaining people at `start_at`; the others expire."""
        is_set = self.stepping.schedule(held, start_at, deadline, most)
        rest = self.stepping.split(held, self.stepping.remaining(held), start_at, deadline)
        if len(rest.never):
            self.witnesses.drop_capped(held.id, rest.never)
        if len(rest.now) and (waits := self.stepping.hold_back_at(held, rest.now, start_at, deadline)):
            return self._outcomes(held, "held", waits)
        if not is_set:
            return self._outcomes(held, "held", "its time passed before it was set: run recover again")
        if rest.later_at is not None:
            waits = f"over the frequency cap until {rest.later_at:%Y-%m-%d %H:%M UTC}: run recover again then"
            return self._outcomes(held, "held", waits)
        if len(rest.now):
            self.desk.keep(
                f"closed/{held.id}", {"outcome": "expired", "reason": "it did not fit before the deadline"}
            )
        return self._outcomes(held, "scheduled", why)

    def _put_back(self, held: HeldCampaign) -> None:
        """Schedule an untouched original again, exactly as it was."""
        again = len(self._put_backs(held.id))
        self.desk.make(
            f"recover:reschedule:{held.id}" + (f"/{again + 1}" if again else ""),
            "reschedule",
            held.id,
            call=lambda: self.desk.provider.reschedule(held.id, held.planned_at),
            read_back=lambda: self.desk.status_in(held.id, "scheduled", "running", "finished"),
            payload={"send_at": iso(held.planned_at)},
            previous={"status": held.status, "send_at": iso(held.planned_at)},
            undo={"action": "unschedule"},
        )

    def _close(self, held: HeldCampaign, outcome: Outcome, reason: str) -> Outcomes:
        """End the original and record that whoever was not attempted will not be, with the reason."""
        desk = self.desk
        self._end(held.id, held.status, DROPPED)
        if desk.recall(f"closed/{held.id}") is None:
            desk.keep(f"closed/{held.id}", {"outcome": outcome, "reason": reason})
        crash_point("recover.drop:closed")
        action = desk.journal.intend(
            desk.incident.id,
            f"recover:drop:{held.id}",
            kind="drop",
            target=f"campaign/{held.id}",
            payload={"outcome": outcome},
            previous_state={"status": held.status},
            undo={},
            token=desk.token,
        )
        found = self._outcomes(held, "dropped", reason)
        if action.status != "done":
            desk.journal.complete(action.id, {"reason": reason, "counts": found.counts}, token=desk.token)
        return found

    def _end(self, campaign_id: int, was: str, tag: str) -> None:
        """End a campaign for good: cancelled where the provider can, else a draft without a time and tagged."""
        desk = self.desk
        now = desk.provider.campaign(campaign_id)
        if now.status == "draft":

            def retired() -> dict[str, Any] | None:
                one = desk.provider.campaign(campaign_id)
                done = one.status == "draft" and one.send_at is None and TAGS & set(one.tags)
                return {"status": one.status, "tags": list(one.tags)} if done else None

            desk.make(
                f"recover:retire:{campaign_id}",
                "cancel",
                campaign_id,
                call=lambda: desk.provider.retire(campaign_id, tag),
                read_back=retired,
                previous={"status": was, "send_at": iso(now.send_at)},
                undo={},
            )
        elif now.status not in OVER:
            desk.make(
                f"recover:cancel:{campaign_id}",
                "cancel",
                campaign_id,
                call=lambda: desk.provider.cancel(campaign_id),
                read_back=lambda: desk.status_in(campaign_id, *OVER),
                previous={"status": was},
                undo={},
            )
        else:
            earlier = desk.actions("cancel", f"recover:cancel:{campaign_id}")
            desk.settle(
                [one for one in earlier if one.target == f"campaign/{campaign_id}"],
                "done",
                {"status": now.status},
            )
        if now.status != "draft":
            # It may have run until now, or again: what its workers still hold reaches the log a little later.
            desk.until_quiet([campaign_id])

    def _outcomes(self, held: HeldCampaign, done: str, why: str) -> Outcomes:
        ledger = self.witnesses.stock(held)
        counts = ledger.counts()
        scheduled = counts["not_attempted"] if done == "put_back" else len(self.witnesses.committed(held.id))
        self.witnesses.note_ledger(held.id, {"done": done, "scheduled": scheduled})
        return Outcomes(held.id, held.name, done, why, counts, scheduled)

    # The end ----------------------------------------------------------------------------------------------------

    def unsteady(self, outcomes: Iterable[Outcomes]) -> list[str]:
        """Return what is not as it should be before the incident is over; an empty list is steady state."""
        desk = self.desk
        problems: list[str] = []
        for one in outcomes:
            # Whoever was attempted though not of the audience may come on top.
            forgotten = self.witnesses.audience_size(one.campaign_id) - sum(
                one.counts[name] for name in OUTCOMES
            )
            if forgotten > 0:
                people = plural(forgotten, "person", "people")
                problems.append(f"campaign {one.campaign_id}: {people} of its audience without an outcome")
            if one.done == "held":
                problems.append(f"campaign {one.campaign_id} is held: {one.why}")
            elif one.counts["not_attempted"] > one.scheduled:
                left = one.counts["not_attempted"] - one.scheduled
                problems.append(f"campaign {one.campaign_id}: {plural(left, 'person', 'people')} not mailed")
            status = desk.provider.campaign(one.campaign_id)
            retired = status.status == "draft" and TAGS & set(status.tags)
            expected = ("scheduled", "running", "finished") if one.done == "put_back" else OVER
            if one.done != "held" and status.status not in expected and not retired:
                problems.append(f"campaign {one.campaign_id} is {status.status}")
        still_open = [
            one.key for one in desk.journal.actions(desk.incident.id) if one.status in ("intended", "unknown")
        ]
        if still_open:
            problems.append(
                f"the outcome of {plural(len(still_open), 'action')} is unknown: {', '.join(still_open)}"
            )
        return problems + stuck(desk)

    def list_unknown(self, held: Iterable[HeldCampaign]) -> tuple[str, int]:
        """Write who has an unknown outcome (subscriber ids only) into the state folder; return file and count."""
        unknown = {one.id: self.witnesses.stock(one).people("unknown") for one in held}
        table = pa.concat_tables(
            pa.table(
                {
                    "campaign_id": pa.repeat(pa.scalar(number, pa.int64()), len(people)),
                    "subscriber_id": people,
                }
            )
            for number, people in {0: pa.array([], pa.int64()), **unknown}.items()
        )
        path = self.desk.folder / "unknown.parquet"
        digest = write_frozen(table, path)
        self.desk.keep("unknown", {"path": str(path), "digest": digest, "people": table.num_rows})
        return str(path), table.num_rows

    def resolve(self) -> None:
        """Record that the impact is over: mitigated when the provider was measured to be back, resolved now."""
        desk = self.desk
        restored = parse((desk.recall("restored") or {}).get("at")) or desk.clock.now()
        if "mitigated_at" not in desk.journal.timestamps(desk.incident.id):
            desk.journal.set_timestamp(
                desk.incident.id, "mitigated_at", restored, "recover", token=desk.token
            )
        crash_point("recover.resolve:mitigated")
        desk.journal.put_on_hold(
            desk.incident.id, "", "recover", "the vendor is no longer awaited", token=desk.token
        )
        self._advance("resolved", "steady state checked: sending moves, nothing is left stopped")

    def _advance(self, state: State, reason: str) -> None:
        desk = self.desk
        now = desk.journal.incident(desk.incident.id).state
        order: tuple[State, ...] = ("triage", "investigating", "monitoring", "resolved")
        place = {"identified": 1}.get(now, order.index(now) if now in order else len(order))
        for step in order[place + 1 : order.index(state) + 1]:
            desk.journal.transition(desk.incident.id, step, "recover", reason, token=desk.token)


def _agreement(decision: Decision) -> tuple[str, bool]:
    """Return what must be agreed to for a decision, and whether it can be undone; empty: there is no choice."""
    if decision.verdict == "send" or (decision.verdict, decision.reason) == ("reschedule", "frequency_cap"):
        return "catch_up", False
    if decision.verdict == "reschedule":
        return "reschedule", True
    if decision.verdict == "needs_approval":
        return "send_anyway", False
    return ("drop", False) if decision.reason in ("rule_drops", "frequency_cap") else ("", False)


def _lane_cost(name: str, courses: Iterable[Course]) -> str:
    """Return what the ramp costs at one mailbox provider, in words."""
    there = [one.lanes[name] for one in courses if name in one.lanes]
    people, steps = sum(one.people for one in there), sum(one.steps for one in there)
    held = sum(one.held for one in there)
    hours = sum(one.minutes for one in there) / 60
    text = f"{name}: {plural(people, 'person', 'people')} in {plural(steps, 'step')} and {hours:,.1f} hours"
    return f"{text}, {held:,} held back" if held else text


def totals(outcomes: Iterable[Outcomes]) -> dict[str, int]:
    """Return people per outcome over several campaigns, and how many of `not_attempted` are scheduled."""
    found = dict.fromkeys([*OUTCOMES, "scheduled"], 0)
    for one in outcomes:
        for name, count in one.counts.items():
            found[name] += count
        found["scheduled"] += one.scheduled
    return found
