"""What goes wrong when: outages as data, played by `tasks.drills.World`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

HARMLESS = ("status_green", "lose_recent_events", "kill_mid_batch")
"""Faults that by themselves do no harm at the moment they are turned on."""


@dataclass(frozen=True)
class Step:
    """One thing that happens at a time of the outage day.

    Attributes:
        at: since midnight (UTC) of the outage day.
        do: `fault` and `clear` a fault, `kill` and `restart` the ESP, `post` on the status page.
        what: the fault, or the incident status that is posted.
        settings: of the fault; `after_share` of `kill_mid_batch` is a share of the newsletter's audience. Of a post:
            its `body`.
    """

    at: timedelta
    do: Literal["fault", "clear", "kill", "restart", "post"]
    what: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


def _time(text: str) -> timedelta:
    hours, minutes = text.split(":")
    return timedelta(hours=int(hours), minutes=int(minutes))


SCENARIOS: dict[str, tuple[Step, ...]] = {
    "demo": (
        Step(_time("07:55"), "fault", "status_green"),
        Step(_time("07:55"), "fault", "kill_mid_batch", {"after_share": 0.48}),
        Step(_time("09:20"), "fault", "stalled"),
        Step(_time("09:20"), "fault", "unsubscribe_failing"),
        Step(_time("09:20"), "fault", "webhook_loss"),
        Step(_time("09:20"), "fault", "lose_recent_events", {"minutes": 5}),
        Step(_time("09:20"), "restart"),
        Step(_time("10:40"), "clear", "status_green"),
        Step(
            _time("10:40"),
            "post",
            "investigating",
            {"body": "We are looking into delays in e-mail delivery."},
        ),
        Step(_time("12:50"), "post", "monitoring", {"body": "A fix is in place and we are watching it."}),
        Step(_time("13:10"), "clear", "stalled"),
        Step(_time("13:10"), "clear", "unsubscribe_failing"),
        Step(_time("13:10"), "clear", "webhook_loss"),
        Step(_time("13:15"), "post", "resolved", {"body": "This incident has been resolved."}),
    ),
    "hard_down": (
        Step(_time("09:50"), "fault", "hard_down", {"mode": "503"}),
        Step(_time("10:05"), "post", "investigating", {"body": "Our API is unavailable."}),
        Step(_time("12:30"), "clear", "hard_down"),
        Step(_time("12:35"), "post", "resolved", {"body": "This incident has been resolved."}),
    ),
    "quiet": (),
}
"""`demo`: the process is killed inside the newsletter, comes back with a green page but sends nothing, takes no
opt-outs and reports no events, and has lost the last minutes of its events. `hard_down`: an honest outage. `quiet`:
nothing goes wrong."""


def restored_after(steps: tuple[Step, ...]) -> timedelta | None:
    """Return when the provider works again: the last fault cleared or restart; None if nothing goes wrong."""
    ends = [
        step.at
        for step in steps
        if step.do == "restart" or (step.do == "clear" and step.what not in HARMLESS)
    ]
    return max(ends, default=None)


def first_harm(steps: tuple[Step, ...]) -> timedelta | None:
    """Return when the first step that does harm is due; None where harm begins with a kill inside a batch."""
    begins = [
        step.at for step in steps if step.do == "kill" or (step.do == "fault" and step.what not in HARMLESS)
    ]
    if any(step.what == "kill_mid_batch" for step in steps):
        return None
    return min(begins, default=None)
