"""A real simulated ESP with a few subscribers, and a server that breaks connections on purpose."""

from __future__ import annotations

import socket
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import httpx
import pytest

from tasks.core import DrivenClock
from tasks.drills import (
    SimulatedBrevo,
    SimulatedEsp,
    SimulatedKlaviyo,
    SimulatedMailchimp,
    SimulatedSendGrid,
    Sink,
)
from tasks.providers import Provider, connect_provider

PEOPLE = 130


@pytest.fixture
def sink(tmp_path: Path, clock: DrivenClock) -> Iterator[Sink]:
    with Sink.start(tmp_path / "sink", clock=f"driven:{clock.path}") as sink:
        yield sink


@pytest.fixture
def esp(tmp_path: Path, clock: DrivenClock, sink: Sink) -> Iterator[SimulatedEsp]:
    """An ESP that sends 60 messages a minute in batches of 100, with 130 subscribers on list 1."""
    from tasks.drills.esp.schema import LISTS, METADATA, SUBSCRIBER_LISTS, SUBSCRIBERS, TEMPLATES, connect

    url = f"sqlite:///{tmp_path / 'esp.sqlite'}"
    engine = connect(url, durable=False)
    METADATA.create_all(engine)
    at = (clock.now() - timedelta(days=30)).replace(tzinfo=None)
    times = {"created_at": at, "updated_at": at}
    numbers = range(1, PEOPLE + 1)
    with engine.begin() as connection:
        connection.execute(
            LISTS.insert(),
            [
                {"id": number, "uuid": f"l{number}", "name": name, "type": "private", "optin": "single",
                 "status": "active", "tags": [], **times}
                for number, name in ((1, "News"), (2, "Empty"))
            ],
        )  # fmt: skip
        connection.execute(
            SUBSCRIBERS.insert(),
            [
                {"id": n, "uuid": f"s{n}", "email": f"c{n}@shop.example", "name": f"c{n}", "attribs": {},
                 "status": "enabled", **times}
                for n in numbers
            ],
        )  # fmt: skip
        connection.execute(
            SUBSCRIBER_LISTS.insert(),
            [{"subscriber_id": n, "list_id": 1, "status": "confirmed", **times} for n in numbers],
        )
        connection.execute(
            TEMPLATES.insert(),
            [{"id": 1, "name": "Plain", "type": "campaign", "subject": "", "body": "{{ content }}",
              "is_default": True, **times}],
        )  # fmt: skip
    engine.dispose()
    with SimulatedEsp.start(
        tmp_path / "esp",
        clock=clock,
        seed=7,
        smtp_port=sink.smtp_port,
        db_url=url,
        settings={"messages_per_minute": 60, "batch_size": 100},
    ) as esp:
        yield esp


def plan_of(
    url: str, timeout: float = 5.0, *, kind: str = "listmonk", hosts: tuple[str, ...] = ()
) -> SimpleNamespace:
    return SimpleNamespace(kind=kind, api_url=url, timeout_seconds=timeout, download_hosts=hosts)


SIMULATED: dict[str, Any] = {
    "sendgrid": SimulatedSendGrid,
    "brevo": SimulatedBrevo,
    "mailchimp": SimulatedMailchimp,
    "klaviyo": SimulatedKlaviyo,
}


class Vendors:
    """A simulated vendor and our connector to it; campaigns are made at the vendor as its own interface does it."""

    def __init__(
        self,
        kind: str,
        clock: DrivenClock,
        *,
        people: int = 40,
        hosts: tuple[str, ...] = (),
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.kind, self.clock, self._hosts, self._transport = kind, clock, hosts, transport
        self.server: Any = SIMULATED[kind](clock, people)
        self._batches: list[tuple[str, datetime]] = []
        self._http = httpx.Client(
            base_url=f"{self.server.url}{self.server.prefix}",
            headers={"Authorization": self._authorization(), "api-key": self.server.token},
            verify=False,  # plain HTTP on loopback: reading the authorities would take longest
        )
        self.provider: Any = self._connect()
        self.news = self.provider.lists()[0].id

    @staticmethod
    @contextmanager
    def connect(kind: str, server: Any, clock: DrivenClock, **options: Any) -> Iterator[Provider]:
        """Connect once more."""
        provider = connect_provider(kind, plan_of(server.url, kind=kind), "", server.token, clock, **options)
        yield provider
        provider.close()

    def _connect(self) -> Provider:
        file = None
        if self._batches:
            file = self.clock.path.with_name("batches.csv")
            rows = [f"{name},{name},{at.isoformat()},3" for name, at in self._batches]
            file.write_text("\n".join(["batch_id,name,send_at,people", *rows]))
        plan = plan_of(self.server.url, kind=self.kind, hosts=self._hosts)
        return connect_provider(
            self.kind, plan, "", self.server.token, self.clock, batches=file, transport=self._transport
        )

    def _authorization(self) -> str:
        token = self.server.token
        if self.kind == "mailchimp":
            return f"Basic {b64encode(f'mailstay:{token}'.encode()).decode()}"
        return f"{'Klaviyo-API-Key' if self.kind == 'klaviyo' else 'Bearer'} {token}"

    def campaign(
        self, name: str, *, at: timedelta | None = None, kind: str = "", useful: timedelta | None = None
    ) -> int:
        """Create a draft to the list News, planned for `at` from now."""
        now = self.clock.now()
        if at is not None:
            at = self.provider.capabilities.next_slot(now + at) - now
        tags = ["weekly", *([f"kind:{kind}"] if kind else [])]
        tags += [f"useful-until:{(now + useful).isoformat()}"] if useful else []
        time = f"{now + at:%Y-%m-%dT%H:%M:%SZ}" if at else None
        if self.kind == "sendgrid":
            body: dict[str, Any] = {
                "name": name, "categories": tags, "send_to": {"list_ids": [self.server.news]},
                "email_config": {"subject": name, "html_content": "<p>Hello</p>", "sender_id": 1},
            }  # fmt: skip
            made = self._http.post("/marketing/singlesends", json=body | ({"send_at": time} if time else {}))
        elif self.kind == "mailchimp":
            tags += [f"send-at:{(now + at).isoformat()}"] if at else []
            body = {
                "type": "regular", "recipients": {"list_id": self.server.news},
                "settings": {"title": f"{name} {{{'; '.join(tags)}}}", "subject_line": name, "from_name": "Shop",
                             "reply_to": "news@shop.example"},
            }  # fmt: skip
            made = self._http.post("/campaigns", json=body)
            self._http.put(f"/campaigns/{made.json()['id']}/content", json={"html": "<p>Hello</p>"})
        elif self.kind == "klaviyo":
            self.server.add_campaign(f"{name} {{{'; '.join(tags)}}}", name, now + at if at else None)
            return next(one.id for one in self.provider.campaigns() if one.name == name)
        else:
            sender = {"name": "Shop", "email": "news@shop.example"}
            body = {
                "name": name, "subject": name, "htmlContent": "<p>Hello</p>", "sender": sender,
                "recipients": {"listIds": [1]},
                "tag": "; ".join([*tags, *([f"send-at:{(now + at).isoformat()}"] if at else [])]),
            }  # fmt: skip
            made = self._http.post("/emailCampaigns", json=body)
        made.raise_for_status()
        return next(one.id for one in self.provider.campaigns() if one.name == name)

    def go(self, number: int) -> None:
        """Schedule a draft at its time, or send it at once where it has none."""
        one = self.provider.campaign(number)
        self.provider.reschedule(number) if one.send_at else self.provider.start(number)

    def batch(self, at: timedelta) -> int:
        """Hand three messages to SendGrid under a batch id, to be sent `at` from now."""
        name = f"batch{len(self._batches) + 1}"
        self._batches.append((name, self.clock.now() + at))
        self.server.add_batch(name, self.clock.now() + at, [f"{name}-{n}" for n in range(3)])
        self.provider.close()
        self.provider = self._connect()
        return next(one.id for one in self.provider.campaigns() if one.uuid == name)

    def feed(self, name: str) -> int:
        """Add an RSS-driven campaign at Mailchimp."""
        self.server.add_feed(name)
        return next(one.id for one in self.provider.campaigns() if one.name == name)

    def sent(self, name: str = "") -> list[str]:
        """Return who got a message (of the campaign called `name`), as the mailbox has it."""
        return [one.person for one in self.server.mailbox() if not name or one.campaign == name]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.provider.close()
        self._http.close()
        self.server.close()


@pytest.fixture
def provider(esp: SimulatedEsp, clock: DrivenClock) -> Iterator[Provider]:
    provider = connect_provider("esp", plan_of(esp.api_url, 20.0), esp.user, esp.token, clock)
    yield provider
    provider.close()


@pytest.fixture
def create(esp: SimulatedEsp) -> Callable[..., int]:
    """A function that creates a campaign at the ESP, as its own user interface would, and returns its id."""
    import httpx

    def make(**fields: object) -> int:
        body = {
            "name": "News 1",
            "subject": "News",
            "lists": [1],
            "body": "Hello",
            "attribs": {"kind": "newsletter"},
        }
        answer = httpx.post(
            f"{esp.api_url}/api/campaigns", json=body | fields, auth=(esp.user, esp.token), timeout=20
        )
        return int(answer.raise_for_status().json()["data"]["id"])

    return make


@dataclass
class Wire:
    """A server on loopback that answers each connection with the next of `answers`, byte for byte.

    `None` closes the connection once the request is in; `"hang"` never answers.
    """

    answers: list[bytes | str | None]
    requests: list[bytes] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def wire() -> Iterator[Callable[..., Wire]]:
    servers: list[socket.socket] = []
    held: list[socket.socket] = []

    def start(*answers: bytes | str | None) -> Wire:
        listener = socket.create_server(("127.0.0.1", 0))
        servers.append(listener)
        wire = Wire(list(answers), url=f"http://127.0.0.1:{listener.getsockname()[1]}")

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connection.settimeout(5)
                data = b""
                while b"\r\n\r\n" not in data:
                    data += connection.recv(65536)
                head, _, rest = data.partition(b"\r\n\r\n")
                length = next(
                    (
                        int(line.split(b":")[1])
                        for line in head.split(b"\r\n")
                        if line.lower().startswith(b"content-length")
                    ),
                    0,
                )
                while len(rest) < length:
                    rest += connection.recv(65536)
                wire.requests.append(head.split(b"\r\n")[0])
                answer = wire.answers.pop(0) if len(wire.answers) > 1 else wire.answers[0]
                if answer == "hang":
                    held.append(connection)
                    continue
                if isinstance(answer, bytes):
                    connection.sendall(answer)
                connection.close()

        threading.Thread(target=serve, daemon=True).start()
        return wire

    yield start
    for one in [*servers, *held]:
        one.close()


@pytest.fixture
def answer() -> Callable[..., bytes]:
    """A function that writes an HTTP answer."""

    def write(
        body: str, status: str = "200 OK", kind: str = "application/json", cut: int = 0, **headers: str
    ) -> bytes:
        content = body.encode()
        lines = [
            f"HTTP/1.1 {status}",
            f"Content-Type: {kind}",
            f"Content-Length: {len(content) + cut}",
            "Connection: close",
        ]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode() + content

    return write


@pytest.fixture
def connect_to(clock: DrivenClock) -> Iterator[Callable[..., Provider]]:
    made: list[Provider] = []

    def connect(url: str, timeout: float = 5.0) -> Provider:
        made.append(connect_provider("esp", plan_of(url, timeout), "user", "s3cret-token", clock))
        return made[-1]

    yield connect
    for one in made:
        one.close()
