"""Aborting a response: every stop is taken back as far as that restores what was, the rest is held for a decision.

Per campaign the last stop is taken back first, with the state that it found. Campaigns come in the order of their
times, not in reverse: what is due soonest has the least time left.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from tasks.catchup import (
    BACK,
    CatchupError,
    Change,
    Desk,
    Stopped,
    Witnesses,
    make,
    number_in,
    settle_stops,
    stuck,
    undo_key,
)
from tasks.core import UsageError, crash_point, plural
from tasks.incidents import Action, Approval, Incident, Journal
from tasks.providers import Campaign, ProviderRefused, ProviderUnavailable
from tasks.response.agreeing import Agreed, agree
from tasks.response.undoing import LEAVE, Difference, Undoing, decide_undoing, differences, only_went_on

_STOPS = ("pause", "unschedule")

PUT_BACK = "abort: put campaigns back as they were"
GO_ON = "abort: let paused campaigns go on, though some people may be skipped or mailed twice"
LEAVE_STOPPED = "abort: close the incident and leave campaigns stopped"


@dataclass(frozen=True)
class Compared:
    """A stopped campaign held field by field against what the journal says was there before.

    Attributes:
        as_it_was: whether nothing differs but what time alone brings (what was due has begun).
        differences: every field that differs.
    """

    campaign_id: int
    name: str
    as_it_was: bool
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Decisions:
    """What was agreed to for an abort.

    Attributes:
        to: per campaign the actions that take its stop back.
        left: campaigns that stay stopped as they are; the incident is closed without them.
        waiting: questions that still wait for an answer.
    """

    to: dict[int, frozenset[str]]
    left: frozenset[int]
    waiting: tuple[Approval, ...]


def ask_for_decisions(
    journal: Journal,
    incident_id: str,
    lines: Sequence[Undoing],
    *,
    use_policy: bool,
    policy_actions: Collection[str],
    expires_at: datetime,
    asked: Collection[int] = (),
) -> Decisions:
    """Find who agreed to what; what nobody has answered becomes up to three open questions, one per kind of risk.

    The policy agrees only to what brings back exactly what was and can be stopped again.
    """

    def ask(subject: str, some: Sequence[Undoing]) -> Agreed[Undoing]:
        return agree(
            journal,
            incident_id,
            some,
            use_policy=use_policy,
            policy_actions=policy_actions,
            expires_at=expires_at,
            asked=asked,
            subject=subject,
        )

    back = ask(PUT_BACK, [one for one in lines if one.way == "undo"])
    on = ask(GO_ON, [one for one in lines if one.way == "ask"])
    yes = [*back.lines, *on.lines]
    rest = [one for one in lines if one.way in ("ask", "held") and one not in on.lines]
    left = ask(LEAVE_STOPPED, [replace(one, action=LEAVE, way="held") for one in rest])
    return Decisions(
        to={one.campaign_id: frozenset({one.action}) for one in yes},
        left=frozenset(one.campaign_id for one in left.lines),
        waiting=tuple(one.waiting for one in (back, on, left) if one.waiting is not None),
    )


def refuse_if_past(journal: Journal, incident: Incident) -> None:
    """Refuse an incident whose response cannot be aborted any more.

    Raises:
        UsageError: it is over, or its recovery has begun: that has frozen who is to be mailed.
    """
    aborted = journal.get_state(begun_key(incident.id)) is not None
    if not incident.is_open and not (incident.state == "canceled" and aborted):
        raise UsageError(
            f"{incident.id} is {incident.state}: there is nothing of it to abort",
            fix="name the incident that is open (`mailstay incidents list`)",
        )
    if incident.is_open and journal.get_state(f"recover/{incident.id}/held") is not None:
        raise UsageError(
            f"The recovery of {incident.id} has begun: it decides what is still sent",
            fix="run `mailstay recover`: what is still ahead it schedules again exactly as it was",
        )


def begun_key(incident_id: str) -> str:
    """Return under which key the journal keeps that an abort of the incident has begun."""
    return f"abort/{incident_id}/begun"


def ended_key(incident_id: str) -> str:
    """Return under which key the journal keeps that an abort of the incident has told everybody."""
    return f"abort/{incident_id}/ended"


def cut_short(journal: Journal) -> str:
    """Return the incident whose abort closed it and was killed before it told anybody; empty without one."""
    for one in reversed(journal.incidents()):
        begun, ended = journal.get_state(begun_key(one.id)), journal.get_state(ended_key(one.id))
        if one.state == "canceled" and begun is not None:
            return one.id if ended is None else ""
    return ""


class Abort:
    """The abort of one incident's response. All of it but `plan` and `compare` needs the incident's lease."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def begin(self) -> None:
        """Write down that the response is being aborted, and read back what earlier runs left open.

        Raises:
            Stopped: the provider does not answer; nothing was changed.
        """
        desk = self.desk
        probe = desk.provider.health()
        if not probe.ok:
            raise Stopped(
                f"The provider does not answer ({probe.detail})",
                where=desk.incident.id,
                fix="run abort again when it does; nothing was changed",
            )
        if desk.journal.get_state(begun_key(desk.incident.id)) is None:
            at = {"at": desk.clock.now().isoformat()}
            desk.journal.put_state(begun_key(desk.incident.id), at, incident_id=desk.incident.id)
        settle_stops(desk.journal, desk.incident.id, desk.provider, token=desk.token)
        crash_point("abort.begin:settled")

    def plan(self) -> list[Undoing]:
        """Say per stopped campaign what would be done; looks at everything once and changes nothing."""
        now = {one.id: one for one in self.desk.provider.campaigns()}
        stops = self._last_stops()
        far = datetime.max.replace(tzinfo=UTC)
        found = [self._decide(stop, now.get(number)) for number, stop in stops.items()]
        return sorted(found, key=lambda one: (one.due_at or far, one.campaign_id))

    def apply_opt_outs(self) -> int:
        """Give the provider every opt-out that it lacks, before anything is able to send again; return how many came.

        Raises:
            Stopped: a source of opt-outs cannot tell: nothing is put back.
        """
        try:
            return Witnesses(self.desk).pass_gate().opted_out_since
        except Stopped as error:
            fix = (error.fix or "").replace("recover", "abort").replace("resumed", "put back")
            raise Stopped(error.what, where=error.where, fix=fix) from None

    def undo(self, lines: Iterable[Undoing], agreed: dict[int, frozenset[str]]) -> list[str]:
        """Take back every stop that was agreed to, each once, and return what could not be done, in words.

        What to do is decided anew just before: time has passed. A campaign whose time went by meanwhile is left
        stopped. One that fails keeps no other from being put back.

        Raises:
            StaleToken: another run has taken over.
        """
        desk = self.desk
        problems = []
        stops = self._last_stops()
        for planned in lines:
            if planned.way not in ("undo", "ask") or planned.campaign_id not in stops:
                continue
            desk.keep_lease()
            stop = stops[planned.campaign_id]
            try:
                line = self._decide(stop, self._look(stop))
                if line.way == planned.way and line.action in agreed.get(line.campaign_id, frozenset()):
                    self._take_back(stop, line)
            except (ProviderRefused, ProviderUnavailable, CatchupError) as error:
                problems.append(f"campaign {planned.campaign_id}: {error}")
        return problems

    def compare(self) -> list[Compared]:
        """Hold every stopped campaign field by field against what was there before."""
        now = {one.id: one for one in self.desk.provider.campaigns()}
        return [
            self._compared(number, stop, now.get(number))
            for number, stop in sorted(self._last_stops().items())
        ]

    def unsteady(
        self, lines: Iterable[Undoing], left: Collection[int], compared: Iterable[Compared]
    ) -> list[str]:
        """Return what is not as it should be before the incident may be closed; an empty list is steady state.

        Args:
            lines: the plan of this moment.
            left: campaigns that somebody decided to leave stopped.
            compared: how each campaign differs from what was.
        """
        desk = self.desk
        problems = [
            f"campaign {one.campaign_id} ({one.name}) is still stopped: {one.why}"
            for one in lines
            if one.way != "as_it_was" and one.campaign_id not in left
        ]
        open_ones = [
            one.key for one in desk.journal.actions(desk.incident.id) if one.status in ("intended", "unknown")
        ]
        if open_ones:
            problems.append(
                f"the outcome of {plural(len(open_ones), 'action')} is unknown: {', '.join(open_ones)}"
            )
        stopped = {one.campaign_id for one in lines if one.way != "as_it_was"} | set(left)
        problems += [
            f"campaign {one.campaign_id} ({one.name}) differs from before: {'; '.join(map(str, one.differences))}"
            for one in compared
            if not one.as_it_was and one.campaign_id not in stopped
        ]
        probe = desk.provider.health()
        if not probe.ok:
            problems.append(f"the provider does not answer ({probe.detail})")
        return problems or stuck(desk)

    def close(self, by: str, reason: str) -> None:
        """Cancel the incident with its reason; what was awaited of the vendor is awaited no more."""
        desk = self.desk
        number, token = desk.incident.id, desk.token
        desk.journal.put_on_hold(number, "", by, "the vendor is no longer awaited", token=token)
        crash_point("abort.close:lifted")
        if desk.journal.incident(number).state == "monitoring":
            desk.journal.transition(number, "investigating", by, f"response aborted: {reason}", token=token)
        desk.journal.transition(number, "canceled", by, f"response aborted: {reason}", token=token)

    # Stops ------------------------------------------------------------------------------------------------------

    def _last_stops(self) -> dict[int, Action]:
        """Return per campaign the last stop that happened or may have."""
        found: dict[int, Action] = {}
        for one in self.desk.journal.actions(self.desk.incident.id):
            number = number_in(one.target)
            if one.kind in _STOPS and one.status not in ("failed", "not_done") and number is not None:
                found[number] = one
        return found

    def _undo_of(self, stop: Action) -> Action | None:
        key = undo_key(stop)
        return next((one for one in self.desk.journal.actions(self.desk.incident.id) if one.key == key), None)

    def _look(self, stop: Action) -> Campaign:
        number = number_in(stop.target)
        assert number is not None
        return self.desk.provider.campaign(number)

    def _decide(self, stop: Action, now: Campaign | None) -> Undoing:
        desk = self.desk
        undo = self._undo_of(stop)
        return decide_undoing(
            stop,
            now,
            desk.provider.capabilities,
            desk.clock.now(),
            undone=undo is not None and undo.status == "done",
            messages_per_minute=desk.settings.messages_per_minute,
            lateness={str(kind): rule for kind, rule in desk.plan.plan.lateness.items()},
        )

    def _take_back(self, stop: Action, line: Undoing) -> None:
        desk, number = self.desk, line.campaign_id
        was = str(stop.previous_state["status"])
        if was == "running":
            # Started again while the sender still works on it, what it holds would go out twice.
            desk.until_quiet([number])

        def read_back() -> dict[str, Any] | None:
            return desk.status_in(number, *BACK[line.action])

        make(
            desk.journal,
            desk.incident.id,
            Change(
                key=undo_key(stop),
                kind=line.action,
                target=stop.target,
                call=(lambda: desk.provider.start(number))
                if was == "running"
                else (lambda: desk.provider.reschedule(number, line.due_at)),
                read_back=read_back,
                payload={"stop": stop.id},
                previous_state={
                    one.field: list(one.now) if isinstance(one.now, tuple) else one.now
                    for one in line.differences
                },
                undo={"action": stop.kind},
                flow="abort",
            ),
            token=desk.token,
        )

    def _compared(self, number: int, stop: Action, now: Campaign | None) -> Compared:
        before = stop.previous_state
        if now is None:
            gone = Difference("status", before.get("status"), "gone")
            return Compared(number, str(before.get("name") or f"campaign {number}"), False, (gone,))
        same = only_went_on(before, now, self.desk.clock.now())
        return Compared(number, now.name, same, differences(before, now))
