"""Stopping one campaign: written down before the call and after it, read back, never asked for twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from tasks.catchup import Change, make, schedule_of
from tasks.incidents import Action, Journal
from tasks.providers import Campaign, Provider, ProviderRefused
from tasks.response.table import PlanLine

_OVER = ("cancelled", "finished")
_STOPPED = {"pause": ("paused", *_OVER), "unschedule": ("draft", "paused", *_OVER)}


class Looks:
    """Looking at campaigns: one by one or, where the provider counts calls by the hour, all of them at once."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        holds = [one for one in provider.capabilities.actions if one.action in _STOPPED]
        limits = [provider.capabilities.rate_of(one) for one in holds]
        self.scarce = any(limit is not None and limit.scarce for limit in limits)
        self._seen: dict[int, Campaign] = {}
        self._stops: dict[tuple[str, str], list[Action]] | None = None

    def earlier(self, journal: Journal, incident_id: str, kind: str, target: str) -> list[Action]:
        """Return the stops of one campaign by runs before this one; the journal is read once."""
        if self._stops is None:
            self._stops = {}
            for one in journal.actions(incident_id):
                if one.key.startswith("respond/"):
                    self._stops.setdefault((one.kind, one.target), []).append(one)
        return self._stops.get((kind, target), [])

    def campaign(self, campaign_id: int, *, fresh: bool = False) -> Campaign:
        """Return the campaign as it is now; where looks are scarce, as the last look at everything showed it."""
        if not self.scarce or fresh:
            self._seen[campaign_id] = self._provider.campaign(campaign_id)
        elif campaign_id not in self._seen:
            self._seen = {one.id: one for one in self._provider.campaigns()}
        if campaign_id not in self._seen:
            return self._provider.campaign(campaign_id)
        return self._seen[campaign_id]

    def still_sending(self, lines: Iterable[PlanLine]) -> list[PlanLine]:
        """Return the lines whose stop was accepted and does not show; looks at everything once."""
        stopped = list(lines)
        if not self.scarce or not stopped:
            return []
        self._seen = {one.id: one for one in self._provider.campaigns()}
        return [
            line for line in stopped if self.campaign(line.campaign_id).status not in _STOPPED[line.action]
        ]


def stop_campaign(
    journal: Journal,
    incident_id: str,
    provider: Provider,
    line: PlanLine,
    *,
    token: int | None,
    may_pause: bool = True,
    looks: Looks | None = None,
) -> dict[str, Any]:
    """Pause or unschedule the campaign of `line` and return what shows that it stands still.

    A campaign that an earlier run stopped is left as it is; one that somebody started again since is stopped again, as
    an action of its own. One that was to be unscheduled and has started since the plan was made is paused instead, as
    far as `may_pause` and where that can be undone too: the same yes covers it.

    Where looks are scarce, a stop that the provider accepted is looked at later, by `Looks.still_sending`.

    Raises:
        OutcomeUnknown: it was asked for, and neither the answer nor a look tells whether it happened.
        ProviderRefused: the provider said no.
        ProviderUnavailable: nothing was changed.
        StaleToken: another run has taken over; nothing was done.
    """
    looks = looks or Looks(provider)
    now = looks.campaign(line.campaign_id)
    line = _as_it_stands(provider, line, now, may_pause)
    try:
        return _stop(journal, incident_id, provider, line, now, looks, token=token)
    except ProviderRefused:
        # It may have started between the look and the call.
        now = looks.campaign(line.campaign_id, fresh=True)
        again = _as_it_stands(provider, line, now, may_pause)
        if again.action == line.action:
            raise
        return _stop(journal, incident_id, provider, again, now, looks, token=token)


def _as_it_stands(provider: Provider, line: PlanLine, now: Campaign, may_pause: bool) -> PlanLine:
    pause = provider.capabilities.find("pause", now.status, now.of)
    if line.action != "unschedule" or not may_pause or pause is None or pause.undo is None:
        return line
    return replace(line, action="pause", undo=pause.undo, status=now.status)


def _stop(
    journal: Journal,
    incident_id: str,
    provider: Provider,
    line: PlanLine,
    now: Campaign,
    looks: Looks,
    *,
    token: int | None,
) -> dict[str, Any]:
    wanted = _STOPPED[line.action]
    target = f"campaign/{line.campaign_id}"
    earlier = looks.earlier(journal, incident_id, line.action, target)
    done = sum(1 for one in earlier if one.status == "done")
    again = done if now.status not in wanted else max(done - 1, 0)
    calls: dict[str, Callable[[int], None]] = {"pause": provider.pause, "unschedule": provider.unschedule}

    def read_back() -> dict[str, Any] | None:
        status = provider.campaign(line.campaign_id).status
        return {"status": status} if status in wanted else None

    return make(
        journal,
        incident_id,
        Change(
            key=f"respond/{line.action}/{line.campaign_id}" + (f"/{again + 1}" if again else ""),
            kind=line.action,
            target=target,
            call=lambda: calls[line.action](line.campaign_id),
            read_back=read_back,
            # Without its name, which may change between two runs: the same stop must ask for the same.
            payload={"campaign_id": line.campaign_id},
            previous_state=schedule_of(now) | {"status": line.status},
            undo={"action": line.undo},
            flow="respond",
            confirm=(lambda: {"answer": "accepted"}) if looks.scarce else None,
        ),
        token=token,
    )
