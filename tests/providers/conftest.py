"""A real simulated ESP with a few subscribers, and a server that breaks connections on purpose."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from tasks.core import DrivenClock
from tasks.drills import SimulatedEsp, Sink
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


def plan_of(url: str, timeout: float = 5.0) -> SimpleNamespace:
    return SimpleNamespace(kind="listmonk", api_url=url, timeout_seconds=timeout, download_hosts=())


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
