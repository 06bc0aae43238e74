"""How long it takes to stop 1,000 scheduled campaigns inside each provider's documented rate limit.

    python bench/stopping.py --campaigns 1000 [--only mailchimp klaviyo]

Against the simulated vendors on loopback, on a driven clock: waiting for a limit takes no real time. The floor is what
the limit alone asks for, one call per campaign. The peer is the loop that is written first: look, stop, look again.
`hours` is the vendor's time; `cpu_s` is this process's, the journal and the simulated vendors included (listmonk's
is a process of its own).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tasks.core import DrivenClock, SystemClock
from tasks.drills import (
    SimulatedBrevo,
    SimulatedEsp,
    SimulatedKlaviyo,
    SimulatedMailchimp,
    SimulatedSendGrid,
    Sink,
)
from tasks.incidents import Journal
from tasks.providers import PROVIDERS, Provider, connect_provider
from tasks.response import Looks, PlanLine, by_urgency, plan_table, stop_campaign
from tasks.response.reading import _from_provider

AT = timedelta(days=3)


def sendgrid(clock: DrivenClock, folder: Path, count: int) -> tuple[Any, str, str, str]:
    """Return a SendGrid with `count` scheduled Single Sends."""
    from tasks.drills.vendors.sendgrid import _Single

    vendor = SimulatedSendGrid(clock)
    for number in range(count):
        uuid = f"00000000-0000-4000-8000-{number:012d}"
        at = clock.now() + AT + timedelta(minutes=number)
        vendor._singles[uuid] = _Single(
            uuid, f"News {number}", clock.now(), "scheduled", [], at, [vendor.news]
        )
    return vendor, vendor.url, "", vendor.token


def brevo(clock: DrivenClock, folder: Path, count: int) -> tuple[Any, str, str, str]:
    """Return a Brevo with `count` scheduled campaigns."""
    from tasks.drills.vendors.brevo import _Campaign

    vendor = SimulatedBrevo(clock)
    for number in range(1, count + 1):
        fields = {"name": f"News {number}", "recipients": {"listIds": [1]}}
        at = clock.now() + AT + timedelta(minutes=number)
        vendor._campaigns[number] = _Campaign(number, fields, clock.now(), "queued", at)
    return vendor, vendor.url, "", vendor.token


def mailchimp(clock: DrivenClock, folder: Path, count: int) -> tuple[Any, str, str, str]:
    """Return a Mailchimp with `count` scheduled campaigns."""
    vendor = SimulatedMailchimp(clock)
    for number in range(count):
        one = vendor._new("regular")
        one.settings, one.recipients = {"title": f"News {number}"}, {"list_id": vendor.news}
        one.status, one.send_time = "schedule", clock.now() + AT + timedelta(minutes=15 * number)
    return vendor, vendor.url, "", vendor.token


def klaviyo(clock: DrivenClock, folder: Path, count: int) -> tuple[Any, str, str, str]:
    """Return a Klaviyo with `count` scheduled campaigns."""
    vendor = SimulatedKlaviyo(clock)
    for number in range(count):
        at = clock.now() + AT + timedelta(minutes=number)
        vendor._campaigns[vendor.add_campaign(f"News {number}", "x", at)].status = "Scheduled"
    return vendor, vendor.url, "", vendor.token


def listmonk(clock: DrivenClock, folder: Path, count: int) -> tuple[Any, str, str, str]:
    """Return a simulated listmonk with `count` scheduled campaigns."""
    sink = Sink.start(folder / "sink", clock=f"driven:{clock.path}")
    esp = SimulatedEsp.start(folder / "esp", clock=clock, seed=7, smtp_port=sink.smtp_port)
    with httpx.Client(base_url=f"{esp.api_url}/api", auth=(esp.user, esp.token), timeout=30) as client:
        client.post("/lists", json={"name": "News", "type": "private", "optin": "single"}).raise_for_status()
        for number in range(count):
            at = (clock.now() + AT + timedelta(minutes=number)).isoformat()
            body = {"name": f"News {number}", "subject": "x", "lists": [1], "body": "x", "send_at": at}
            made = client.post("/campaigns", json=body).raise_for_status().json()["data"]["id"]
            client.put(f"/campaigns/{made}/status", json={"status": "scheduled"}).raise_for_status()
    closing = SimpleNamespace(close=lambda: (esp.close(), sink.stop()))
    return closing, esp.api_url, esp.user, esp.token


def ours(provider: Provider, lines: list[PlanLine], clock: DrivenClock, folder: Path) -> None:
    """Stop as `respond` does: journaled, and looked at afterwards."""
    with Journal.open(f"sqlite:///{folder / 'journal.sqlite'}", clock) as journal:
        incident = journal.declare(
            "esp", cause_class="unknown", summary="x", detected_at=clock.now(), declared_by="bench"
        ).id
        looks = Looks(provider)
        for line in by_urgency(lines):
            stop_campaign(journal, incident, provider, line, token=None, looks=looks)
        assert looks.still_sending(lines) == []


def naive(provider: Provider, lines: list[PlanLine], clock: DrivenClock, folder: Path) -> None:
    """Look, stop, look again."""
    for line in lines:
        assert provider.campaign(line.campaign_id).status == "scheduled"
        provider.unschedule(line.campaign_id)
        assert provider.campaign(line.campaign_id).status == "draft"


def measure(kind: str, stop: Callable[..., None], count: int) -> dict[str, float]:
    """Return what stopping `count` campaigns at a provider of `kind` took."""
    makers = {
        "listmonk": listmonk,
        "sendgrid": sendgrid,
        "brevo": brevo,
        "mailchimp": mailchimp,
        "klaviyo": klaviyo,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clock = DrivenClock.create(folder / "clock.json", datetime(2011, 11, 16, 7, 0, tzinfo=UTC))
        vendor, url, user, token = makers[kind](clock, folder, count)
        plan = SimpleNamespace(kind=kind, api_url=url, timeout_seconds=60, download_hosts=())
        provider = connect_provider("esp", plan, user, token, clock)
        calls: list[str] = []
        provider._api._client.event_hooks = {"request": [lambda request: calls.append(request.method)]}
        lines = plan_table(
            _from_provider(provider.campaigns()), provider.capabilities, clock.now(), lateness={},
            horizon=timedelta(days=60),
        )  # fmt: skip
        assert len(lines) == count
        calls.clear()
        began, cpu, wall = clock.now(), time.process_time(), SystemClock().now()
        stop(provider, lines, clock, folder)
        took = clock.now() - began
        found = {
            "calls": len(calls),
            "hours": round(took / timedelta(hours=1), 2),
            "cpu_s": round(time.process_time() - cpu, 1),
            "wall_s": round((SystemClock().now() - wall).total_seconds(), 1),
        }
        provider.close()
        vendor.close()
    return found


def main() -> None:
    """Measure every provider, ours beside the loop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--campaigns", type=int, default=1000)
    parser.add_argument("--only", nargs="+", choices=list(PROVIDERS), default=list(PROVIDERS))
    options = parser.parse_args()
    found: dict[str, object] = {"campaigns": options.campaigns}
    for kind in options.only:
        capabilities = PROVIDERS[kind]
        rate = capabilities.rate_of(capabilities.hold("scheduled"))
        floor = (options.campaigns - 1) // rate.calls * (rate.per / timedelta(hours=1)) if rate else 0.0
        found[kind] = {
            "floor_hours": round(floor, 2),
            "mailstay": measure(kind, ours, options.campaigns),
            "look, stop, look": measure(kind, naive, options.campaigns),
        }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
