"""The vendor's status page in Statuspage v2 JSON, on its own port.

It runs beside the ESP, not in it, as real ones do: it answers while the ESP is dead. Components follow the faults that
are on, unless the fault `status_green` is; incidents are what the vendor posts.
"""

from __future__ import annotations

import json
import threading
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tasks.core import Clock
from tasks.drills.draws import stable_uuid
from tasks.drills.errors import DrillError

PAGE_NAME = "Simulated ESP"
COMPONENTS = {"sending": "Email sending", "api": "API", "webhooks": "Webhooks"}
_INDICATORS = {
    "operational": ("none", "All Systems Operational"),
    "degraded_performance": ("minor", "Minor Service Outage"),
    "partial_outage": ("major", "Partial System Outage"),
    "major_outage": ("critical", "Major Service Outage"),
}
_RANK = tuple(_INDICATORS)
_TOUCHES = {
    "hard_down": ("sending", "api", "webhooks"),
    "partial": ("sending", "api"),
    "slow": ("sending", "api"),
    "accept_but_not_deliver": ("sending",),
    "stalled": ("sending",),
    "webhook_loss": ("webhooks",),
    "unsubscribe_failing": ("api",),
    "dead": ("sending", "api", "webhooks"),
}
STATUSES = ("investigating", "identified", "monitoring", "resolved", "postmortem")


class VendorPage:
    """The page: what the vendor says, and a server that says it."""

    def __init__(self, clock: Clock, seed: int) -> None:
        self._clock = clock
        self._seed = seed
        self._lock = threading.Lock()
        self._faults: dict[str, str] = {}
        self._incidents: list[dict[str, Any]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True, name="status-page").start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """End the server."""
        self._server.shutdown()
        self._server.server_close()

    def show_faults(self, faults: dict[str, str]) -> None:
        """Let the components follow `faults`: name of the fault to the component status it causes."""
        with self._lock:
            self._faults = dict(faults)

    def post(
        self,
        status: str,
        body: str,
        *,
        name: str = "Delays in e-mail delivery",
        impact: str = "major",
        components: tuple[str, ...] = ("sending",),
        at: datetime | None = None,
    ) -> str:
        """Post an update about the open incident, opening one if there is none, and return its id.

        Raises:
            DrillError: `status` is not one of a Statuspage incident.
        """
        if status not in STATUSES:
            raise DrillError(f"A status page has no incident status {status!r}")
        now = (at or self._clock.now()).isoformat()
        with self._lock:
            open_ones = [one for one in self._incidents if one["status"] not in ("resolved", "postmortem")]
            if open_ones:
                incident = open_ones[-1]
            else:
                number = len(self._incidents) + 1
                incident = {
                    "id": stable_uuid(self._seed, "page incident", number)[:12].replace("-", ""),
                    "name": name,
                    "impact": impact,
                    "created_at": now,
                    "started_at": now,
                    "monitoring_at": None,
                    "resolved_at": None,
                    "shortlink": "",
                    "page_id": "simulated",
                    "components": [{"id": one, "name": COMPONENTS[one]} for one in components],
                    "incident_updates": [],
                }
                self._incidents.append(incident)
            incident["status"] = status
            incident["updated_at"] = now
            if status in ("monitoring", "resolved"):
                incident[f"{status}_at"] = now
            update = {
                "id": f"{incident['id']}u{len(incident['incident_updates']) + 1}",
                "status": status,
                "body": body,
                "incident_id": incident["id"],
                "created_at": now,
                "updated_at": now,
                "display_at": now,
                "affected_components": [
                    {"code": one["id"], "name": one["name"]} for one in incident["components"]
                ],
            }
            incident["incident_updates"].insert(0, update)
            return str(incident["id"])

    def summary(self) -> dict[str, Any]:
        """Return `/api/v2/summary.json`."""
        now = self._clock.now().isoformat()
        with self._lock:
            states = dict.fromkeys(COMPONENTS, "operational")
            if "status_green" not in self._faults:
                for fault, state in self._faults.items():
                    for part in _TOUCHES.get(fault, ()):
                        states[part] = max(states[part], state, key=_RANK.index)
            indicator, description = _INDICATORS[max(states.values(), key=_RANK.index)]
            return {
                "page": {
                    "id": "simulated",
                    "name": PAGE_NAME,
                    "url": self.url,
                    "time_zone": "Etc/UTC",
                    "updated_at": now,
                },
                "status": {"indicator": indicator, "description": description},
                "components": [
                    {
                        "id": part,
                        "name": COMPONENTS[part],
                        "status": state,
                        "created_at": now,
                        "updated_at": now,
                        "position": place,
                        "description": None,
                        "showcase": True,
                        "start_date": None,
                        "group_id": None,
                        "page_id": "simulated",
                        "group": False,
                        "only_show_if_degraded": False,
                    }
                    for place, (part, state) in enumerate(states.items(), start=1)
                ],
                "incidents": [
                    json.loads(json.dumps(one))
                    for one in reversed(self._incidents)
                    if one["status"] not in ("resolved", "postmortem")
                ],
                "scheduled_maintenances": [],
            }

    def incidents(self) -> dict[str, Any]:
        """Return `/api/v2/incidents.json`: all of them, newest first."""
        content = self.summary()
        with self._lock:
            every = [json.loads(json.dumps(one)) for one in reversed(self._incidents)]
        return {"page": content["page"], "incidents": every}

    def _handler(page: VendorPage) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - `self` is the handler's
        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content = page.summary()
                path = self.path.partition("?")[0]
                answers: dict[str, Any] = {
                    "/api/v2/summary.json": content,
                    "/api/v2/status.json": {"page": content["page"], "status": content["status"]},
                    "/api/v2/components.json": {"page": content["page"], "components": content["components"]},
                    "/api/v2/incidents.json": page.incidents(),
                    "/api/v2/incidents/unresolved.json": {
                        "page": content["page"],
                        "incidents": content["incidents"],
                    },
                }
                found = answers.get(path)
                body = json.dumps(found if found is not None else {"error": "not found"}).encode()
                self.send_response(200 if found is not None else 404)
                self.send_header("Content-Type", "application/json; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                return

        return Answer
