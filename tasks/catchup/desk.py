"""Where a recovery works from: plan, journal, provider, clock and lease of one incident, and the journaled change.

Nothing here is remembered that journal, frozen files or provider do not hold: a recovery can be killed between any two
lines and begun again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, cast

import pyarrow as pa
import pyarrow.compute as pc

from tasks.catchup.errors import CatchupError
from tasks.catchup.journaled import Change, Evidence, make
from tasks.catchup.ledger import log_lines
from tasks.catchup.ramp import RampLimits
from tasks.catchup.traffic import Cap
from tasks.core import Clock
from tasks.incidents import Action, Incident, Journal, Lease
from tasks.plan import LatenessRule, LoadedPlan, ProviderPlan
from tasks.providers import Campaign, Kind, NotOffered, Provider

LEASE = timedelta(minutes=30)
TICK_SECONDS = 30.0
"""How often something that takes its time is looked at."""

QUIET_LOOKS = 20
"""Looks after which a sender that does not settle is given up on for this run."""

OVER = ("cancelled", "finished")
_STOPPED = {"pause": ("paused", *OVER), "unschedule": ("draft", "paused")}
BACK = {"reschedule": ("scheduled", "running", "finished"), "resume": ("scheduled", "running", "finished")}
"""What shows that a stop was taken back, by what takes it back: what was due may have begun or ended since."""

_UNDO = "abort/"
_CAMPAIGN = re.compile(r"(\d+)$")


class Stopped(CatchupError):
    """The recovery must not go on by itself; a person decides. What was done stays done, nothing was lost."""


@dataclass(frozen=True)
class HeldCampaign:
    """A campaign that the outage held back, as it was found once nothing of it moved any more.

    Attributes:
        status: `paused`, `draft`, or `finished` where the provider gave up with people left.
        untouched: it was scheduled, nothing of it was ever sent.
        paused_by_others: it stood paused already, and the response had not asked for that.
        of: `batch` for messages of our own making, which only the provider holds.
        people: how many messages such a batch has; 0 for a campaign, whose people are known one by one.
    """

    id: int
    name: str
    kind: str
    status: str
    planned_at: datetime | None
    latest_useful_at: datetime | None
    list_ids: tuple[int, ...]
    untouched: bool
    paused_by_others: bool = False
    of: Kind = "campaign"
    people: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return this as plain JSON values."""
        return asdict(self) | {
            "planned_at": iso(self.planned_at),
            "latest_useful_at": iso(self.latest_useful_at),
            "list_ids": list(self.list_ids),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> HeldCampaign:
        """Return what `to_json` gave."""
        times = {key: parse(value[key]) for key in ("planned_at", "latest_useful_at")}
        return cls(**{**value, **times, "list_ids": tuple(value["list_ids"])})


@dataclass
class Desk:
    """What every part of a recovery works with."""

    plan: LoadedPlan
    journal: Journal
    provider: Provider
    clock: Clock
    incident: Incident
    lease: Lease | None = None

    @property
    def folder(self) -> Path:
        """Where this incident's frozen files lie."""
        return self.plan.resolve(self.plan.plan.state) / self.incident.id

    @property
    def settings(self) -> ProviderPlan:
        """The provider's entry in the plan."""
        return cast(ProviderPlan, self.plan.provider(self.incident.provider))

    @property
    def limits(self) -> RampLimits:
        """The plan's ramp."""
        ramp = self.plan.plan.ramp
        return RampLimits(
            ramp.canary, ramp.factor, ramp.max_step, ramp.max_bounce_rate, ramp.max_complaint_rate
        )

    def cap(self, kind: str) -> Cap | None:
        """Return the plan's frequency cap as far as it concerns campaigns of `kind`."""
        cap = self.plan.plan.frequency_cap
        if cap is None or kind in cap.exempt:
            return None
        return Cap(cap.messages, timedelta(hours=cap.per_hours), tuple(cap.exempt))

    def rule(self, kind: str) -> LatenessRule | None:
        """Return the plan's lateness rule for campaigns of `kind`."""
        return cast(dict[str, LatenessRule], self.plan.plan.lateness).get(kind)

    def speed(self) -> float:
        """Return the messages per minute that one more campaign can count on beside those that run already."""
        return self.settings.messages_per_minute / (1 + len(self.provider.running_stats()))

    # The journal

    @property
    def token(self) -> int | None:
        """The lease's token, which every write names."""
        return self.lease.token if self.lease else None

    def keep_lease(self) -> None:
        """Extend the lease when half of it is over.

        Raises:
            StaleToken: another run has taken over.
        """
        if self.lease is not None and self.lease.expires_at - self.clock.now() < LEASE / 2:
            self.lease = self.journal.renew(self.lease, LEASE)

    def recall(self, name: str) -> dict[str, Any] | None:
        """Return what this recovery keeps under `name`."""
        return self.journal.get_state(f"recover/{self.incident.id}/{name}")

    def keep(self, name: str, value: Mapping[str, Any]) -> None:
        """Keep `value` under `name`."""
        self.journal.put_state(f"recover/{self.incident.id}/{name}", value, incident_id=self.incident.id)

    def actions(self, kind: str, prefix: str = "") -> list[Action]:
        """Return the incident's actions of `kind` whose key begins with `prefix`."""
        return [
            one
            for one in self.journal.actions(self.incident.id)
            if one.kind == kind and one.key.startswith(prefix)
        ]

    def is_done(self, key: str) -> bool:
        """Whether the action `key` is known and done."""
        return any(one.key == key and one.status == "done" for one in self.journal.actions(self.incident.id))

    def stopped_by_us(self) -> dict[int, dict[str, Any]]:
        """Return what the response stopped, or may have: per campaign how it was before."""
        return self._stops(lambda one: one.status not in ("failed", "not_done"))

    def stopped_in_time(self, now: Campaign) -> bool:
        """Whether we stopped a campaign while it was scheduled, before its time: then nothing of it left."""
        stops = [
            one
            for one in standing_stops(self.journal.actions(self.incident.id))
            if one.status == "done" and number_in(one.target) == now.id
        ]
        return (
            now.status in ("paused", "draft")
            and now.sent == 0
            and bool(stops)
            and all(_was_ahead(one.previous_state, one.decided_at) for one in stops)
        )

    def tried_to_stop(self) -> set[int]:
        """Return the campaigns that we asked to stop at any time, whatever is known of the outcome."""
        return set(self._stops(lambda _: True))

    def _stops(self, counts: Callable[[Action], bool]) -> dict[int, dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {}
        for one in standing_stops(self.journal.actions(self.incident.id)):
            number = number_in(one.target)
            if number is not None and counts(one):
                found.setdefault(number, dict(one.previous_state))
        return found

    def make(
        self,
        key: str,
        kind: str,
        target: int | str,
        *,
        call: Callable[[], object],
        read_back: Callable[[], Evidence | None],
        undo: Mapping[str, Any],
        payload: Mapping[str, Any] | None = None,
        previous: Mapping[str, Any] | None = None,
    ) -> Evidence:
        """Make one change at the provider; see `journaled.make`."""
        change = Change(
            key=key,
            kind=kind,
            target=f"campaign/{target}" if isinstance(target, int) else target,
            call=call,
            read_back=read_back,
            payload=payload or {},
            previous_state=previous or {},
            undo=undo,
        )
        return make(self.journal, self.incident.id, change, token=self.token)

    def settle(
        self, actions: Iterable[Action], finding: Literal["done", "not_done"], evidence: Evidence
    ) -> None:
        """Settle actions whose outcome an earlier run left open, by what was read back now."""
        settle(self.journal, actions, finding, evidence, token=self.token)

    # The provider

    def status_in(self, campaign_id: int, *wanted: str) -> Evidence | None:
        """Return the campaign's status as evidence if it is one of `wanted`."""
        status = self.provider.campaign(campaign_id).status
        return {"status": status} if status in wanted else None

    def family(self, campaign_id: int) -> list[Campaign]:
        """Return the catch-up campaigns of an original, of this and of earlier incidents."""
        return [one for one in self.provider.campaigns() if one.catch_up_of == campaign_id]

    def until_quiet(self, campaign_ids: Iterable[int]) -> None:
        """Wait until the sender works on none of these campaigns and its log of them stands still.

        listmonk goes on fetching and discarding batches for a while after a pause; its pointer and log move then.

        Raises:
            Stopped: it does not come to rest.
        """
        watched = sorted(set(campaign_ids))
        before: dict[int, tuple[int, int]] | None = None
        for _ in range(QUIET_LOOKS):
            busy = set(watched) & {one.campaign_id for one in self.provider.running_stats()}
            now = {number: self._log_state(number) for number in watched}
            # A message without an answer is settled only once it had time to get one.
            still = now == before or not any(unsettled for _, unsettled in now.values())
            if not busy and still:
                return
            before = now
            self.keep_lease()
            self.clock.sleep(TICK_SECONDS)
        raise Stopped(
            "The provider's sender does not come to rest",
            where=f"{self.incident.id}: campaigns {', '.join(map(str, watched))}",
            fix="run recover again in a few minutes",
        )

    def send_log(self, campaign_id: int) -> pa.Table | None:
        """Return the lines of the sender's own log of a campaign; None where the provider keeps none."""
        try:
            return log_lines(self.provider.send_log(campaign_id))
        except NotOffered:
            return None

    def _log_state(self, campaign_id: int) -> tuple[int, int]:
        log = self.send_log(campaign_id)
        if log is None:
            return self.provider.campaign(campaign_id).sent, 0
        return log.num_rows, pc.sum(pc.equal(log["outcome"], "unknown")).as_py() or 0


def settle(
    journal: Journal,
    actions: Iterable[Action],
    finding: Literal["done", "not_done"],
    evidence: Evidence,
    *,
    token: int | None,
) -> None:
    """Settle those of `actions` whose outcome an earlier run left open, by what was read back now."""
    for one in actions:
        if one.status == "intended":
            journal.unknown(one.id, "a run ended between intent and outcome", token=token)
        if one.status in ("intended", "unknown"):
            journal.resolve_unknown(one.id, finding, evidence, token=token)


def settle_stops(journal: Journal, incident_id: str, provider: Provider, *, token: int | None) -> int:
    """Read back every stop of a campaign, and every undo of one, whose outcome no run lived to write down.

    Returns how many there were.

    Whoever plans anew calls this first: a campaign that stands still already is in no plan, and its action would stay
    open.
    """
    settled = 0
    for one in journal.actions(incident_id):
        number = number_in(one.target)
        wanted = BACK.get(one.kind, ()) if one.key.startswith(_UNDO) else _STOPPED.get(one.kind, ())
        if wanted and one.status in ("intended", "unknown") and number is not None:
            status = provider.campaign(number).status
            found: Literal["done", "not_done"] = "done" if status in wanted else "not_done"
            settle(journal, [one], found, {"status": status}, token=token)
            settled += 1
    return settled


def undo_key(stop: Action) -> str:
    """Return the key of the action that takes a stop back."""
    return f"{_UNDO}{stop.key}"


def standing_stops(actions: Iterable[Action]) -> list[Action]:
    """Return the stops of campaigns that were not taken back since, in the order of their intents."""
    known = list(actions)
    undone = {one.key for one in known if one.status == "done"}
    return [one for one in known if one.kind in _STOPPED and undo_key(one) not in undone]


def schedule_of(now: Campaign) -> dict[str, Any]:
    """Return what an undo must bring back, and is held against afterwards: a campaign's schedule and what it sends."""
    return {
        "status": now.status,
        "send_at": iso(now.send_at),
        "latest_useful_at": iso(now.latest_useful_at),
        "list_ids": list(now.list_ids),
        "name": now.name,
        "subject": now.subject,
        "kind": now.kind,
        "tags": list(now.tags),
    }


def _was_ahead(previous: Mapping[str, Any], decided_at: datetime | None) -> bool:
    due = parse(previous.get("send_at"))
    if due is None or decided_at is None:
        return False
    return previous.get("status") == "scheduled" and decided_at < due


def number_in(target: str) -> int | None:
    """Return the campaign id that an action's target ends in."""
    found = _CAMPAIGN.search(target)
    return int(found[1]) if found else None


def iso(moment: datetime | None) -> str | None:
    """Return `moment` as the journal keeps it."""
    return moment.isoformat() if moment else None


def parse(text: Any) -> datetime | None:
    """Return the time that `iso` wrote."""
    return datetime.fromisoformat(text) if text else None
