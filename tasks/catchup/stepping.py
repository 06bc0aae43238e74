"""Mailing the remaining people of one campaign in steps, each from a frozen list, each ended before the next begins.

A step is a list and a campaign of its own at the provider, with names that follow from incident, campaign and number:
whoever comes after a kill finds what is there, by name and by state, and goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from tasks.catchup.desk import OVER, TICK_SECONDS, Desk, HeldCampaign, Stopped, iso, number_in
from tasks.catchup.journaled import Evidence
from tasks.catchup.ledger import people_table, write_frozen
from tasks.catchup.mailbox import OTHER
from tasks.catchup.ramp import DAY, Lane, StepResult, at_once, engaged_first, limit_passed, next_step, pick
from tasks.catchup.steplist import STEP_KIND, Step, steps_of
from tasks.catchup.traffic import Split, hourly, split_by_cap
from tasks.catchup.verdicts import USABLE_SHARE, capacity
from tasks.catchup.witnesses import Witnesses, read_people, without
from tasks.core import crash_point, digest_of, plural

GO_ON = "go_on"
"""What is asked when a mailbox provider passed a limit of the ramp: a yes clears its steps so far from the limit."""

GUARD = timedelta(minutes=1)
"""A catch-up campaign that still runs this long before its deadline is cancelled."""


@dataclass(frozen=True)
class Ended:
    """How a catch-up ended.

    Attributes:
        reason: `finished`: nobody is left who may be mailed now; `no_time` before the deadline; `quiet_hours` begin;
            `held_back`: mailbox providers with people left stopped, or have had what a day may bring.
        why: the last in words.
    """

    reason: Literal["finished", "no_time", "quiet_hours", "held_back"]
    why: str = ""


class Stepping:
    """The steps of one recovery."""

    def __init__(self, desk: Desk, witnesses: Witnesses) -> None:
        self.desk = desk
        self.witnesses = witnesses

    def steps(self, campaign_id: int | None = None) -> list[Step]:
        """Return the steps (of one campaign) in the order in which they were written down."""
        return steps_of(self.desk, campaign_id)

    def remaining(self, held: HeldCampaign) -> pa.Array:
        """Return whom to mail next, engaged people first: not attempted, not blocked, in no step that may send yet."""
        ledger = self.witnesses.stock(held)
        blocked = self.witnesses.gate().blocked_for(held.list_ids) | self.witnesses.opted_out()
        blocked |= self.witnesses.committed(held.id)
        others = [int(one["id"]) for one in (self.desk.recall("held") or {}).get("campaigns", [])]
        engagement = self.witnesses.engagement(number for number in others if number != held.id)
        return engaged_first(without(ledger.people("not_attempted"), blocked), engagement)

    def split(
        self,
        held: HeldCampaign,
        people: pa.Array,
        at: datetime,
        deadline: datetime | None,
        also: Iterable[pa.Table] = (),
    ) -> Split:
        """Return whom of `people` the frequency cap lets through at `at`; `also` is due to be sent before it."""
        desk, cap = self.desk, self.desk.cap(held.kind)
        if cap is None or not len(people):
            return Split(people, people[:0], None, people[:0])
        got = self.witnesses.got(at - cap.per, exempt=cap.exempt, due_until=at + 3 * cap.per)
        return split_by_cap(
            people, [*got, *also], cap, at=at, until=None if deadline is None else deadline - GUARD,
            per_minute=desk.speed() * USABLE_SHARE, folder=desk.folder,
        )  # fmt: skip

    def schedule(self, held: HeldCampaign, start_at: datetime, deadline: datetime | None, most: int) -> bool:
        """Have the provider mail up to `most` of the remaining people at `start_at`; return whether that is set.

        No mailbox provider gets more than a day may bring, and nobody more than the frequency cap. A step of an earlier
        run whose time has passed meanwhile is given up; its people go into a new one.
        """
        unfinished = next((one for one in self.steps(held.id) if not one.done), None)
        if unfinished is not None:
            self._run(held, unfinished)
        if self.witnesses.committed(held.id):
            return True
        start_at = self.desk.provider.capabilities.next_slot(start_at)
        if deadline is not None:
            most = min(most, capacity(start_at, deadline - GUARD, self.desk.speed()))
        people = self.split(held, self.remaining(held), start_at, deadline).now
        names = self.witnesses.lanes_of(people)
        sizes = at_once(self.desk.limits, self.lanes(), self.witnesses.by_lane(people), start_at)
        if len(people := people.take(pick(names, sizes, max(0, most)))):
            self._run(held, self._write_down(held, people, deadline, start_at))
        return bool(self.witnesses.committed(held.id))

    def catch_up(self, held: HeldCampaign, deadline: datetime | None) -> Ended:
        """Mail the remaining people in growing steps, of each mailbox provider what it allows; return how it ended.

        Raises:
            Stopped: the sender stalled, or somebody paused a step.
        """
        while True:
            unfinished = next((one for one in self.steps(held.id) if not one.done), None)
            if unfinished is not None:
                self._run(held, unfinished)
                continue
            now, quiet = self.desk.clock.now(), self.desk.plan.plan.quiet_hours
            people = self.split(held, self.remaining(held), now, deadline).now
            if not len(people):
                return Ended("finished")
            if quiet is not None and quiet.over(now):
                return Ended("quiet_hours")
            ends = [*([deadline] if deadline else []), *([quiet.next(now)] if quiet else [])]
            until = min(ends, default=None)
            names = self.witnesses.lanes_of(people)
            decided = next_step(
                self.desk.limits,
                self.lanes(),
                remaining=self.witnesses.by_lane(people),
                now=now,
                deadline=None if until is None else until - GUARD,
                messages_per_minute=self.desk.speed(),
            )
            if decided.size:
                chosen = people.take(pick(names, decided.sizes, decided.size))
                self._write_down(held, chosen, until, None)
            elif decided.no_time:
                return Ended("no_time" if until == deadline else "quiet_hours")
            elif why := self.hold_back(held, people, decided.stopped, decided.waits, deadline):
                return Ended("held_back", why)
            else:
                return Ended("no_time")

    def hold_back_at(
        self, held: HeldCampaign, people: pa.Array, at: datetime, deadline: datetime | None
    ) -> str:
        """Return why `people` are not mailed at `at` though there is time, and list them; empty: there is none."""
        lanes, limits = self.lanes(), self.desk.limits
        names = {name: lanes[name] for name in self.witnesses.by_lane(people)}
        stopped = {name: why for name, lane in names.items() if (why := limit_passed(limits, lane.done))}
        waits = {
            name: lane.room_again(limits, at)
            for name, lane in names.items()
            if name not in stopped and lane.room(limits, at) == 0
        }
        return self.hold_back(held, people, stopped, waits, deadline)

    def hold_back(
        self,
        held: HeldCampaign,
        people: pa.Array,
        stopped: Mapping[str, str],
        waits: Mapping[str, datetime],
        deadline: datetime | None,
    ) -> str:
        """List whom the ramp holds back, ask whether a stopped mailbox provider goes on, and return why; empty: nobody.

        Whoever would wait past the deadline is not held back.
        """
        names = self.witnesses.lanes_of(people)
        whys = {
            name: f"the ramp stopped at {name}: {reason}; to go on from a canary approve"
            f" {self._ask_to_go_on(name, reason)} (`mailstay incidents approve`), or raise ramp.max_bounce_rate or"
            " ramp.max_complaint_rate in the plan"
            for name, reason in stopped.items()
        } | {
            name: f"{name} has had what a day may bring: run recover again after {again:%Y-%m-%d %H:%M UTC}"
            for name, again in waits.items()
            if deadline is None or again < deadline - GUARD
        }
        waiting = pc.is_in(names, value_set=pa.array(list(whys), pa.string()))
        listed = pa.table(
            {
                "campaign_id": pa.repeat(pa.scalar(held.id), pc.sum(waiting).as_py() or 0),
                "subscriber_id": people.filter(waiting),
                "mailbox_provider": names.filter(waiting),
            }
        )
        if not listed.num_rows:
            return ""
        path = self.desk.folder / f"ramp-held-{held.id}.parquet"
        write_frozen(listed, path)
        self.desk.keep(
            f"ramp-held/{held.id}", {"path": str(path), "people": listed.num_rows, "why": list(whys.values())}
        )
        return (
            f"{'; '.join(whys.values())} ({plural(listed.num_rows, 'person waits', 'people wait')}: {path})"
        )

    def _write_down(
        self, held: HeldCampaign, people: pa.Array, deadline: datetime | None, start_at: datetime | None
    ) -> Step:
        """Freeze for whom the next step is, then write down that it will be made."""
        incident = self.desk.incident.id
        number = len(self.steps(held.id)) + 1
        file = f"catch-up-{held.id}-{number}.parquet"
        digest = write_frozen(people_table(people), self.desk.folder / file)
        crash_point("recover.step:frozen")
        action = self.desk.journal.intend(
            incident,
            f"recover:catch-up:{held.id}:{number}",
            kind=STEP_KIND,
            target=f"campaign/{held.id}",
            payload={
                "campaign_id": held.id,
                "step": number,
                "file": file,
                "digest": digest,
                "people": len(people),
                "list": f"mailstay catch-up {held.id} {incident} step {number}",
                "name": f"{held.name} [catch-up {incident} step {number}]",
                "deadline": iso(deadline),
                "start_at": iso(start_at),
            },
            previous_state={},
            undo={},
            token=self.desk.token,
        )
        crash_point("recover.step:intended")
        return Step.read(action)

    def give_up(self, held: HeldCampaign, why: str) -> None:
        """End the steps that earlier runs left unfinished, mailing nobody more where that can be."""
        for step in self.steps(held.id):
            if not step.done:
                self._run(held, step, why)

    def _run(self, held: HeldCampaign, step: Step, given_up: str = "") -> None:
        """Bring a step to its end from wherever an earlier run left it; `given_up`: why nobody more is to be mailed."""
        desk = self.desk
        listed = read_people(desk, step.file, step.digest)
        people = frozenset(listed.to_pylist())
        list_id = self._list(held, step)
        self._fill(step, list_id, people)
        begun = desk.actions("delete_list", f"{step.key}:abandon")
        late = given_up or ("its list was taken away" if begun else self._too_late(len(people), step))
        if late and desk.provider.find_campaign(step.campaign_name) is None:
            # A campaign is not created with a time that is past: the provider refuses it, today and every other day.
            self._abandon(step, list_id, None, late)
            return
        campaign_id = self._campaign(held, step, list_id)
        if desk.provider.campaign(campaign_id).status == "draft":
            if late := late or self._too_late(len(people), step):
                self._abandon(step, list_id, campaign_id, late)
                return
            self._withhold(held, step, list_id, people)
        elif given_up and self._can_stop() and desk.status_in(campaign_id, "running", "paused"):
            self._stop(step, campaign_id, given_up)
        self._start(step, campaign_id)
        if step.start_at is None:
            self._watch(step, campaign_id, listed)
            desk.until_quiet([campaign_id])
        stopped = desk.actions("cancel", f"{step.key}:stop")
        desk.settle(stopped, "done", {"status": desk.provider.campaign(campaign_id).status})
        sent = self.witnesses.sent_by_lane(campaign_id, listed)
        self._complete(
            step,
            {
                "campaign_id": campaign_id,
                "list_id": list_id,
                "people": len(people),
                "sent": sum(sent.values()),
                "lanes": sent,
            },
        )

    def _complete(self, step: Step, result: dict[str, object]) -> None:
        action = self.desk.journal.action(step.action.id)
        if action.status == "unknown":
            self.desk.journal.resolve_unknown(action.id, "done", result, token=self.desk.token)
        else:
            self.desk.journal.complete(action.id, result, token=self.desk.token)
        crash_point("recover.step:done")

    def _list(self, held: HeldCampaign, step: Step) -> int:
        def found() -> Evidence | None:
            one = self.desk.provider.find_list(step.list_name)
            return {"list_id": one.id} if one else None

        made = self.desk.make(
            f"{step.key}:list",
            "create_list",
            f"list/{step.list_name}",
            call=lambda: found() or self.desk.provider.create_list(step.list_name, among=held.list_ids),
            read_back=found,
            undo={"action": "delete_list"},
        )
        return int(made["list_id"])

    def _fill(self, step: Step, list_id: int, people: frozenset[int]) -> None:
        # Once filled it is never filled again: that would undo an opt-out from this list.
        if self.desk.is_done(f"{step.key}:people"):
            return

        def filled() -> Evidence | None:
            there = {one.subscriber_id for one in self.desk.provider.memberships([list_id])}
            if there - people:
                raise Stopped(
                    f"The list of a catch-up holds {len(there - people):,} people it was not made for",
                    where=f"{self.desk.incident.id}: list {list_id}",
                    fix="take them off the list, then run recover again",
                )
            missing = people - there
            # Whoever was erased at the provider since the step was written down cannot be put on a list any more.
            if missing and missing & self.desk.provider.subscriber_ids():
                return None
            return {"people": len(there), "erased": len(missing)}

        self.desk.make(
            f"{step.key}:people",
            "fill_list",
            f"list/{step.list_name}",
            call=lambda: self.desk.provider.add_to_list(
                list_id, people.difference(self.witnesses.gone(people).to_pylist())
            ),
            read_back=filled,
            payload={"digest": step.digest, "people": len(people)},
            undo={},
        )

    def _campaign(self, held: HeldCampaign, step: Step, list_id: int) -> int:
        def found() -> Evidence | None:
            one = self.desk.provider.find_campaign(step.campaign_name)
            return {"campaign_id": one.id} if one else None

        def create() -> object:
            return found() or self.desk.provider.create_campaign(
                copy_of=held.id,
                name=step.campaign_name,
                list_id=list_id,
                tags=("mailstay", f"catch-up-of-{held.id}"),
                step=step.number,
                latest_useful_at=step.deadline,
                send_at=step.start_at,
            )

        made = self.desk.make(
            f"{step.key}:campaign",
            "create_campaign",
            f"campaign-named/{step.campaign_name}",
            call=create,
            read_back=found,
            undo={},
        )
        return int(made["campaign_id"])

    def _too_late(self, people: int, step: Step) -> str:
        """Return why the step must not be started any more; empty if it is sure to be through in time."""
        now = self.desk.clock.now()
        if step.start_at is not None and step.start_at <= now:
            return "its time passed while nobody was here to schedule it"
        if step.deadline is None:
            return ""
        begin = max(now, step.start_at or now)
        end = begin + timedelta(minutes=people / USABLE_SHARE / self.desk.speed())
        return f"it would not be through by {step.deadline:%H:%M}" if end > step.deadline - GUARD else ""

    def _abandon(self, step: Step, list_id: int, campaign_id: int | None, why: str) -> None:
        """Take the list away, so that nobody starts the draft by mistake; its people stay in the ledger.

        Without a campaign: none was created, and one that is created late after all has nobody to go to.
        """

        def gone() -> Evidence | None:
            return (
                None if any(one.id == list_id for one in self.desk.provider.lists()) else {"list": "deleted"}
            )

        self.desk.make(
            f"{step.key}:abandon",
            "delete_list",
            f"list/{step.list_name}",
            call=lambda: self.desk.provider.delete_list(list_id),
            read_back=gone,
            undo={},
        )
        earlier = self.desk.actions("consent", f"{step.key}:withhold:")
        self.desk.settle(earlier, "not_done", {"read_back": "the list is gone"})
        if campaign_id is None:
            asked = self.desk.actions("create_campaign", f"{step.key}:campaign")
            self.desk.settle(asked, "not_done", {"read_back": "there is no campaign of that name"})
        self._complete(step, {"campaign_id": campaign_id, "abandoned": why, "people": 0, "sent": 0})

    def _withhold(self, held: HeldCampaign, step: Step, list_id: int, people: frozenset[int]) -> None:
        """Take out whoever opted out since the list was made, at the shop or at the provider."""
        opted_out = self.witnesses.opted_out() & people
        counts = {list_id, *held.list_ids}
        left = {
            one.subscriber_id
            for one in self.desk.provider.memberships_of_people_on(list_id)
            if one.list_id in counts and not one.mailable
        }
        out = opted_out | left
        if not out:
            return
        asked = sorted(out)

        def withhold() -> None:
            # Whoever left one list stays on the campaign's others: that was their wish.
            self.desk.provider.set_unsubscribed(asked, [list_id])
            self.witnesses.opt_out_of(opted_out, held.list_ids)

        def withheld() -> Evidence | None:
            mailable = {
                one.subscriber_id for one in self.desk.provider.memberships([list_id]) if one.mailable
            }
            return None if mailable & out else {"withheld": len(asked)}

        digest = digest_of(asked)
        self.desk.make(
            f"{step.key}:withhold:{digest[:16]}",
            "consent",
            f"list/{step.list_name}",
            call=withhold,
            read_back=withheld,
            payload={"people": len(asked), "digest": digest},
            undo={},
        )

        earlier = self.desk.actions("consent", f"{step.key}:withhold:")
        self.desk.settle(earlier, "done", {"read_back": "nobody who opted out is mailable on the list"})
        # The gate must know them too, or they would be asked into the next step, and the next.
        self.witnesses.pass_gate()

    def _start(self, step: Step, campaign_id: int) -> None:
        provider = self.desk.provider
        later = step.start_at is not None
        self.desk.make(
            f"{step.key}:start",
            "start",
            f"campaign/{campaign_id}",
            call=lambda: provider.reschedule(campaign_id) if later else provider.start(campaign_id),
            read_back=lambda: self.desk.status_in(campaign_id, "scheduled", "running", "paused", *OVER),
            previous={"status": "draft"},
            undo={"action": "unschedule" if later else "pause"},
        )

    def _watch(self, step: Step, campaign_id: int, people: pa.Array) -> None:
        """Look at a running step until it is over; cancel it when it would be late, does harm, or does not move."""
        desk = self.desk
        patience = timedelta(minutes=max(1, desk.plan.plan.detection.stalled_minutes))
        last_sent, moved_at = -1, desk.clock.now()
        while (now := desk.provider.campaign(campaign_id)).status not in OVER:
            if now.status == "paused" and campaign_id in desk.stopped_by_us():
                # A response came in between. Its pause has done its work; who is left goes into the next step.
                self._stop(step, campaign_id, "the response had stopped it")
                return
            if now.status in ("paused", "draft"):
                raise Stopped(
                    "A catch-up campaign was stopped, by the provider or by a person",
                    where=f"{desk.incident.id}: campaign {campaign_id}",
                    fix="resume or cancel it at the provider, then run recover again",
                )
            at = desk.clock.now()
            if now.sent != last_sent:
                last_sent, moved_at = now.sent, at
            self.witnesses.pass_on_new_opt_outs()
            harm = self._harm(campaign_id, people)
            stalled = at - moved_at > patience
            urgent = harm or (step.deadline is not None and at >= step.deadline - GUARD)
            if stalled and now.sent and not self._can_stop():
                return  # it moves no more and says no end: whom it reached is not known
            if stalled or (urgent and self._can_stop()):
                if self._can_stop():  # what cannot be stopped goes on to its end
                    self._stop(
                        step, campaign_id, harm or ("nothing moved" if stalled else "its deadline came")
                    )
                if stalled:
                    raise Stopped(
                        "The provider takes campaigns but sends nothing",
                        where=f"{desk.incident.id}: campaign {campaign_id}",
                        fix="it is not restored: wait, then run recover again",
                    )
                return
            wait = TICK_SECONDS
            if step.deadline is not None:
                wait = min(wait, max(1.0, (step.deadline - GUARD - at).total_seconds()))
            desk.keep_lease()
            desk.clock.sleep(wait)

    def _harm(self, campaign_id: int, people: pa.Array) -> str:
        """Return at which mailbox provider a running step went past a limit, and which; empty if at none."""
        as_if_done = self.witnesses.harm(campaign_id, self.witnesses.by_lane(people))
        if not any(one.harmed for one in as_if_done.values()):
            return ""  # spares the look into the log
        for name, one in self.witnesses.harm(
            campaign_id, self.witnesses.sent_by_lane(campaign_id, people)
        ).items():
            if passed := limit_passed(self.desk.limits, [one]):
                return f"{name}: {passed}"
        return ""

    def _can_stop(self) -> bool:
        capabilities = self.desk.provider.capabilities
        return bool(capabilities.find("cancel", "running") or capabilities.hold("running"))

    def _stop(self, step: Step, campaign_id: int, why: str) -> None:
        def end() -> None:
            running = self.desk.provider.campaign(campaign_id).status == "running"
            if running and self.desk.provider.capabilities.find("cancel", "running") is None:
                self.desk.provider.pause(campaign_id)
            self.desk.provider.cancel(campaign_id)

        self.desk.make(
            f"{step.key}:stop",
            "cancel",
            f"campaign/{campaign_id}",
            call=end,
            read_back=lambda: self.desk.status_in(campaign_id, *OVER),
            previous={"status": "running"},
            undo={},
        )
        self.desk.journal.note(
            self.desk.incident.id,
            "catch_up",
            f"catch-up campaign {campaign_id} was cancelled: {why}",
            token=self.desk.token,
        )

    def lanes(self) -> dict[str, Lane]:
        """Return what each mailbox provider has taken of this recovery, read anew: bounces and complaints come late.

        Steps that a person has looked at and gone on after do not count any more: the ramp begins again after them.
        """
        daily, now = self.witnesses.daily(), self.desk.clock.now()
        known = self.witnesses.everybody()
        volume = {}
        if daily is not None:
            volume = hourly(self.witnesses.got(now - DAY), known, since=now - DAY, folder=self.desk.folder)
        done = self._results()
        names = {OTHER, *known["lane"].unique().to_pylist(), *done, *(daily or ()), *volume}
        return {
            name: Lane(
                tuple(done.get(name, ())),
                None if daily is None else daily.get(name, 0),
                volume.get(name, ()),
            )
            for name in sorted(names)
        }

    def _results(self) -> dict[str, list[StepResult]]:
        found: dict[str, list[StepResult]] = {}
        cleared = self._cleared()
        for step in self.steps():
            if not step.done or not int(step.action.result.get("sent", 0)):
                continue
            for name, one in self.witnesses.harm(
                int(step.action.result["campaign_id"]), _sent_by_lane(step)
            ).items():
                if step.action.id > cleared.get(name, 0):
                    found.setdefault(name, []).append(one)
        return found

    def _cleared(self) -> dict[str, int]:
        """Return per mailbox provider the id of the last step after which a person said to go on; none without."""
        found: dict[str, int] = {}
        for approval in self.desk.journal.approvals(self.desk.incident.id):
            for action in approval.actions if approval.status == "approved" else ():
                if action["kind"] == GO_ON:
                    name = str(action["target"]).split("/")[1]
                    found[name] = max(found.get(name, 0), number_in(str(action["target"])) or 0)
        return found

    def _ask_to_go_on(self, name: str, reason: str) -> int:
        """Ask a person whether a mailbox provider goes on although a limit was passed; return the approval's number."""
        journal, incident = self.desk.journal, self.desk.incident.id
        last = max(step.action.id for step in self.steps() if name in _sent_by_lane(step))
        actions = [{"kind": GO_ON, "target": f"ramp/{name}/after-step-{last}", "undoable": False}]
        journal.expire_approvals()
        # The same question, though its figures have grown: bounces come late.
        for known in journal.approvals(incident):
            if known.status == "awaiting" and known.actions == actions:
                return known.id
        waits = timedelta(days=1, minutes=self.desk.plan.plan.approval.wait_minutes)
        asked = journal.request_approval(
            incident,
            subject=f"recover: go on at {name} although {reason}?",
            actions=actions,
            expires_at=self.desk.clock.now() + waits,
        )
        return asked.id


def _sent_by_lane(step: Step) -> dict[str, int]:
    """Return what each mailbox provider had taken of an ended step."""
    result = step.action.result or {}
    return dict(result.get("lanes") or {OTHER: int(result.get("sent", 0))})
