"""The faults that the simulated ESP has on command, kept in a file so that they outlive its process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.drills.errors import DrillError


@dataclass(frozen=True)
class Fault:
    """One way to fail: what it does, and its settings with their defaults."""

    what: str
    settings: Mapping[str, Any]
    component: str = "operational"


FAULTS: dict[str, Fault] = {
    "hard_down": Fault(
        "the API refuses connections (mode `refuse`) or answers 503 (mode `503`); nothing is sent or scanned",
        {"mode": "503"},
        "major_outage",
    ),
    "partial": Fault(
        "this share of the requests fails with 503 and of the sends with 451",
        {"share": 0.2},
        "partial_outage",
    ),
    "slow": Fault(
        "every answer waits this many real seconds; sending keeps this share of its speed",
        {"seconds": 2.0, "speed": 0.25},
        "degraded_performance",
    ),
    "relay_refusing": Fault(
        "our own SMTP relay takes no more messages: each fails with 451, and too many pause the campaign", {}
    ),
    "reply_lost": Fault(
        "of this share of the messages our relay's reply is lost: they arrive, the sender does not know",
        {"share": 0.2},
    ),
    "accept_but_not_deliver": Fault(
        "messages are logged as accepted and never handed to SMTP", {}, "partial_outage"
    ),
    "webhook_loss": Fault("events are recorded, their webhooks are never sent", {}, "degraded_performance"),
    "unsubscribe_failing": Fault(
        "every way to unsubscribe or block answers 500 and changes nothing", {}, "partial_outage"
    ),
    "status_green": Fault("the status page says operational, whatever happens", {}),
    "stalled": Fault(
        "campaigns run, the API answers, but no message leaves and `sent` stands still", {}, "partial_outage"
    ),
    "kill_mid_batch": Fault(
        "the process kills itself (SIGKILL) inside a batch, once this many more messages were handed over",
        {"after": 100},
    ),
    "lose_recent_events": Fault(
        "at the next start, events, views, clicks and bounces of the last minutes before `before` are gone",
        {"minutes": 5, "before": ""},
    ),
}


class Faults:
    """The faults that are on now: name to settings."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp = -1
        self.active: dict[str, dict[str, Any]] = {}
        self.reload()

    def reload(self) -> None:
        """Read the file again if it changed."""
        try:
            stamp = self.path.stat().st_mtime_ns
        except FileNotFoundError:
            self.active = {}
            return
        if stamp != self._stamp:
            self.active = json.loads(self.path.read_text())
            self._stamp = stamp

    def turn_on(self, name: str, **settings: Any) -> dict[str, Any]:
        """Turn a fault on with `settings` over its defaults, and return them all.

        Raises:
            DrillError: there is no such fault or setting.
        """
        fault = FAULTS.get(name)
        if fault is None:
            raise DrillError(f"There is no fault {name!r}", fix=f"use one of: {', '.join(FAULTS)}")
        unknown = set(settings) - set(fault.settings)
        if unknown:
            raise DrillError(f"The fault {name} has no setting {', '.join(sorted(unknown))}")
        self.active[name] = dict(fault.settings) | settings
        self._write()
        return self.active[name]

    def turn_off(self, name: str) -> None:
        """Turn a fault off; it is no error if it was not on."""
        if name not in FAULTS:
            raise DrillError(f"There is no fault {name!r}", fix=f"use one of: {', '.join(FAULTS)}")
        if self.active.pop(name, None) is not None:
            self._write()

    def __contains__(self, name: str) -> bool:
        return name in self.active

    def get(self, name: str, setting: str, default: Any) -> Any:
        """Return a setting of an active fault, or `default` if it is off."""
        return self.active[name][setting] if name in self.active else default

    def _write(self) -> None:
        partial = self.path.with_name(self.path.name + ".part")
        partial.write_text(json.dumps(self.active, indent=1, sort_keys=True))
        partial.replace(self.path)
        self._stamp = self.path.stat().st_mtime_ns
