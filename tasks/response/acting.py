"""Stopping one campaign: written down before the call and after it, read back, never asked for twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tasks.catchup import Change, make
from tasks.incidents import Journal
from tasks.providers import Campaign, Provider, ProviderRefused
from tasks.response.table import PlanLine

_STOPPED = {"pause": ("paused", "cancelled", "finished"), "unschedule": ("draft", "cancelled", "finished")}


def stop_campaign(
    journal: Journal,
    incident_id: str,
    provider: Provider,
    line: PlanLine,
    *,
    token: int | None,
    may_pause: bool = True,
) -> dict[str, Any]:
    """Pause or unschedule the campaign of `line` and return what shows that it stands still.

    A campaign that an earlier run stopped is left as it is; one that somebody started again since is stopped again, as
    an action of its own. One that was to be unscheduled and has started since the plan was made is paused instead, as
    far as `may_pause` and where that can be undone too: the same yes covers it.

    Raises:
        OutcomeUnknown: it was asked for, and neither the answer nor a look tells whether it happened.
        ProviderRefused: the provider said no.
        ProviderUnavailable: nothing was changed.
        StaleToken: another run has taken over; nothing was done.
    """
    line = _as_it_stands(provider, line, may_pause)
    try:
        return _stop(journal, incident_id, provider, line, token=token)
    except ProviderRefused:
        # It may have started between the look and the call.
        again = _as_it_stands(provider, line, may_pause)
        if again.action == line.action:
            raise
        return _stop(journal, incident_id, provider, again, token=token)


def _as_it_stands(provider: Provider, line: PlanLine, may_pause: bool) -> PlanLine:
    now: Campaign = provider.campaign(line.campaign_id)
    pause = provider.capabilities.find("pause", now.status)
    if line.action != "unschedule" or not may_pause or pause is None or pause.undo is None:
        return line
    return replace(line, action="pause", undo=pause.undo, status=now.status)


def _stop(
    journal: Journal, incident_id: str, provider: Provider, line: PlanLine, *, token: int | None
) -> dict[str, Any]:
    wanted = _STOPPED[line.action]
    target = f"campaign/{line.campaign_id}"
    earlier = [
        one
        for one in journal.actions(incident_id)
        if one.kind == line.action and one.target == target and one.key.startswith("respond/")
    ]
    now = provider.campaign(line.campaign_id)
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
            previous_state={
                "status": line.status,
                "send_at": now.send_at.isoformat() if now.send_at else None,
                "list_ids": list(now.list_ids),
            },
            undo={"action": line.undo},
            flow="respond",
        ),
        token=token,
    )
