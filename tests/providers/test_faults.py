"""Whatever a provider answers instead of an answer: a clear message, and a journal from which the next run goes on.

A proxy on loopback stands between the connector and the vendor and spoils the answer to a look, to the change itself
before the vendor sees it, or after.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from tasks.catchup import OutcomeUnknown
from tasks.core import DrivenClock, MailstayError
from tasks.drills import SimulatedEsp, Sink
from tasks.incidents import Journal
from tasks.providers import Provider, ProviderRefused, ProviderUnavailable, connect_provider
from tasks.response import PlanLine, plan_table, stop_campaign
from tasks.response.reading import _from_provider
from tests.providers.conftest import Vendors, plan_of

pytestmark = pytest.mark.integration

KINDS = ("listmonk", "sendgrid", "brevo", "mailchimp", "klaviyo")
FAULTS = {
    "wrong token": "refused with HTTP 40[13]",
    "5xx storm": "answered HTTP 503",
    "hanging socket": "did not answer in time",
    "HTML with 200": "text/html where JSON was expected",
    "truncated JSON": "cut short",
    "unknown state": "unknown status 'hibernating'",
}


class Proxy:
    """Passes requests on to `target`, and spoils answers.

    Attributes:
        fault: one of `FAULTS`; empty for none.
        spoils: `look` (GET), `change` (everything else; the vendor sees it not), or `answer` (it does).
        changes: methods and paths of the changes that reached the vendor.
    """

    def __init__(self, target: str) -> None:
        self.fault, self.spoils = "", "look"
        self.changes: list[str] = []
        self._held = threading.Event()
        self._vendor = httpx.Client(base_url=target, verify=False, timeout=20)
        proxy = self

        class Handle(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                spoil = proxy.fault and (self.command == "GET") == (proxy.spoils == "look")
                passed = (
                    not spoil or proxy.spoils == "answer" or proxy.fault in ("wrong token", "unknown state")
                )
                status, kind, content = 503, "application/json", b"{}"
                if passed:
                    headers = {
                        k: v for k, v in self.headers.items() if k.lower() not in ("host", "content-length")
                    }
                    if spoil and proxy.fault == "wrong token":
                        headers |= {"Authorization": "Bearer no", "api-key": "no"}
                    said = proxy._vendor.request(self.command, self.path, headers=headers, content=body)
                    status, content = said.status_code, said.content
                    kind = said.headers.get("content-type", kind)
                    if self.command != "GET" and said.is_success:
                        proxy.changes.append(f"{self.command} {self.path}")
                if spoil and proxy.fault == "hanging socket":
                    proxy._held.wait(5)
                    self.close_connection = True
                    return
                if spoil and proxy.fault == "5xx storm":
                    status, content = 503, b"{}"
                if spoil and proxy.fault == "HTML with 200":
                    status, kind, content = 200, "text/html", b"<html>Welcome</html>"
                if spoil and proxy.fault == "truncated JSON":
                    status, kind, content = 200, "application/json", content[: len(content) // 2] or b'{"sta'
                if spoil and proxy.fault == "unknown state":
                    content = json.dumps(_hibernating(json.loads(content))).encode()
                self.send_response(status)
                if status != 204:
                    self.send_header("Content-Type", kind)
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

            def log_message(self, *_: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handle)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._held.set()
        self._server.shutdown()
        self._server.server_close()
        self._vendor.close()


def _hibernating(node: Any) -> Any:
    if isinstance(node, list):
        return [_hibernating(one) for one in node]
    if not isinstance(node, dict):
        return node
    return {key: "hibernating" if key == "status" else _hibernating(value) for key, value in node.items()}


class Bench:
    """A vendor, a proxy in front of it, and scheduled campaigns on demand."""

    def __init__(self, kind: str, folder: Any) -> None:
        self.kind = kind
        self.clock = DrivenClock.create(folder / "clock.json", datetime(2011, 11, 16, 7, 0, tzinfo=UTC))
        self._close = []
        self._made = 0
        if kind == "listmonk":
            sink = Sink.start(folder / "sink", clock=f"driven:{self.clock.path}")
            self.esp = SimulatedEsp.start(folder / "esp", clock=self.clock, seed=7, smtp_port=sink.smtp_port)
            self._close += [self.esp.close, sink.stop]
            self.url, self.user, self.token = self.esp.api_url, self.esp.user, self.esp.token
            httpx.post(
                f"{self.url}/api/lists", json={"name": "News", "type": "private", "optin": "single"},
                auth=(self.user, self.token),
            ).raise_for_status()  # fmt: skip
        else:
            self.vendors = Vendors(kind, self.clock)
            self._close.append(lambda: self.vendors.__exit__())
            self.url, self.user, self.token = self.vendors.server.url, "", self.vendors.server.token
        self.proxy = Proxy(self.url)
        self._close.append(self.proxy.close)

    def provider(self) -> Provider:
        plan = plan_of(self.proxy.url, 0.3, kind=self.kind)
        return connect_provider(self.kind, plan, self.user, self.token, self.clock)

    def scheduled(self) -> int:
        self._made += 1
        name, at = f"News {self._made}", timedelta(hours=5)
        if self.kind != "listmonk":
            number = self.vendors.campaign(name, at=at)
            self.vendors.go(number)
            return number
        body = {
            "name": name,
            "subject": name,
            "lists": [1],
            "body": "x",
            "send_at": _iso(self.clock.now() + at),
        }
        auth, url = (self.user, self.token), f"{self.url}/api/campaigns"
        number = int(httpx.post(url, json=body, auth=auth).raise_for_status().json()["data"]["id"])
        httpx.put(f"{url}/{number}/status", json={"status": "scheduled"}, auth=auth).raise_for_status()
        return number

    def close(self) -> None:
        for close in reversed(self._close):
            close()


def _iso(moment: datetime) -> str:
    return moment.isoformat()


@pytest.fixture(scope="module", params=KINDS)
def bench(request, tmp_path_factory) -> Iterator[Bench]:
    made = Bench(request.param, tmp_path_factory.mktemp(request.param))
    yield made
    made.close()


@pytest.fixture(scope="module")
def journal(bench, tmp_path_factory) -> Iterator[Journal]:
    """One journal; each test declares an incident of its own in it."""
    with Journal.open(f"sqlite:///{tmp_path_factory.mktemp('journal') / 'j.sqlite'}", bench.clock) as one:
        yield one


def stop(bench: Bench, journal: Journal, incident: str, line: PlanLine) -> dict[str, Any]:
    provider = bench.provider()
    try:
        return stop_campaign(journal, incident, provider, line, token=None)
    finally:
        provider.close()


@pytest.mark.parametrize(
    ("fault", "spoils"),
    [
        (fault, spoils)
        for fault in FAULTS
        for spoils in ("look", "change", "answer")
        if (fault, spoils) != ("unknown state", "change")  # a change carries no state
    ],
)
def test_a_fault_leaves_a_clear_message_and_a_journal_that_goes_on(bench, journal, fault, spoils) -> None:
    number = bench.scheduled()
    incident = journal.declare(
        f"esp {number}", cause_class="unknown", summary="x", detected_at=bench.clock.now(), declared_by="desk"
    ).id
    healthy = bench.provider()
    [line] = plan_table(
        [one for one in _from_provider(healthy.campaigns()) if one.id == number],
        healthy.capabilities, bench.clock.now(), lateness={},
    )  # fmt: skip
    healthy.close()
    assert line.action == "unschedule"
    bench.proxy.changes.clear()
    bench.proxy.fault = fault
    bench.proxy.spoils = spoils
    seen: MailstayError | None = None
    try:
        stop(bench, journal, incident, line)
    except MailstayError as error:
        seen = error
    finally:
        bench.proxy.fault = ""
    # A change that is answered by a 204 without a body can hardly be answered wrongly.
    if seen is not None:
        assert isinstance(seen, ProviderRefused | ProviderUnavailable | OutcomeUnknown)
        assert re.search(FAULTS[fault], str(seen)), str(seen)
        assert bench.token not in str(seen)
    else:
        assert spoils == "answer"
    for action in journal.actions(incident):
        assert action.status in ("intended", "failed", "unknown", "done")
        assert action.status != "failed" or not bench.proxy.changes
    assert stop(bench, journal, incident, line)
    [action] = journal.actions(incident)
    assert action.status == "done"
    assert action.previous_state["status"] == "scheduled"
    assert len(bench.proxy.changes) == 1
    after = bench.provider()
    assert after.campaign(number).status == "draft"
    after.close()


@pytest.mark.parametrize("fault", [one for one in FAULTS if one != "unknown state"])  # the probe reads none
def test_a_fault_is_not_healthy_and_the_probe_says_why(bench, fault) -> None:
    provider = bench.provider()
    assert provider.health().ok
    bench.proxy.fault, bench.proxy.spoils = fault, "look"
    began = time.monotonic()
    probe = provider.health()
    bench.proxy.fault = ""
    provider.close()
    assert not probe.ok
    assert re.search(FAULTS[fault], probe.detail), probe.detail
    assert time.monotonic() - began < 60
