"""Stopping one campaign: written down before the call and after it, read back, never asked for twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tasks.catchup import Change, make
from tasks.incidents import Journal
from tasks.providers import Provider
from tasks.response.table import PlanLine

_STOPPED = {"pause": ("paused", "cancelled", "finished"), "unschedule": ("draft", "cancelled", "finished")}


def stop_campaign(
    journal: Journal, incident_id: str, provider: Provider, line: PlanLine, *, token: int | None
) -> dict[str, Any]:
    """Pause or unschedule the campaign of `line` and return what shows that it stands still.

    A campaign that an earlier run stopped is left as it is; one that somebody started again since is stopped again, as
    an action of its own.

    Raises:
        OutcomeUnknown: it was asked for, and neither the answer nor a look tells whether it happened.
        ProviderRefused: the provider said no.
        ProviderUnavailable: nothing was changed.
        StaleToken: another run has taken over; nothing was done.
    """
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
            payload={"campaign_id": line.campaign_id, "name": line.name},
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
