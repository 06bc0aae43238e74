"""A small ESP database, an engine that needs no server, and the real simulated ESP with its mailbox."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from tasks.core import DrivenClock
from tasks.drills import SimulatedEsp, Sink
from tasks.drills.esp import schema, store
from tasks.drills.esp.engine import Engine, Settings
from tasks.drills.esp.faults import Faults
from tasks.drills.esp.statuses import change_status
from tasks.drills.esp.transport import Outgoing

START = datetime(2011, 11, 16, 7, 0, tzinfo=UTC)
BORN = datetime(2011, 11, 1)  # noqa: DTZ001 - as stored


def fill(database: sa.Engine, people: int) -> None:
    """Write list 1 with `people` confirmed subscribers, one template of each type, one link."""
    times = {"created_at": BORN, "updated_at": BORN}
    with database.begin() as connection:
        connection.execute(
            sa.insert(schema.LISTS),
            [
                {"id": key, "uuid": f"l{key}", "name": name, "type": "public", "optin": "single",
                 "status": "active", "tags": [], **times}
                for key, name in ((1, "All"), (2, "Nobody"))
            ],
        )  # fmt: skip
        connection.execute(
            sa.insert(schema.TEMPLATES),
            [
                {"id": key, "name": kind, "type": kind, "subject": "s", "body": "b", "is_default": key == 1, **times}
                for key, kind in ((1, "campaign"), (2, "tx"))
            ],
        )  # fmt: skip
        connection.execute(sa.insert(schema.LINKS), [{"id": 1, "uuid": "k1", "url": "https://shop.example/"}])
        if people:
            connection.execute(
                sa.insert(schema.SUBSCRIBERS),
                [
                    {"id": n, "uuid": f"s{n}", "email": f"c{n}@shop.example", "name": f"Customer {n}",
                     "attribs": {"customer_id": n, "country": "France" if n % 2 else "Spain"},
                     "status": "enabled", **times}
                    for n in range(1, people + 1)
                ],
            )  # fmt: skip
            store.add_to_lists(connection, range(1, people + 1), [1], "confirmed", BORN)


@dataclass
class Post:
    """A transport that keeps what it was given, and what the log said of it at that moment."""

    database: sa.Engine
    sent: list[Outgoing] = field(default_factory=list)
    logged: list[str | None] = field(default_factory=list)
    code: int = 250

    def send(self, message: Outgoing) -> int:
        with self.database.connect() as connection:
            self.logged.append(
                connection.scalar(
                    sa.select(schema.MESSAGES.c.status).where(
                        schema.MESSAGES.c.campaign_id == message.campaign_id,
                        schema.MESSAGES.c.subscriber_id == message.subscriber_id,
                    )
                )
            )
        self.sent.append(message)
        return self.code


class Bench:
    """An engine over a fresh SQLite database, without any server."""

    def __init__(self, folder: Path, people: int, events: bool, **settings: Any) -> None:
        self.folder = folder
        self.settings = Settings(**({"seed": 3, "messages_per_minute": 60, "batch_size": 10} | settings))
        self.events = events
        folder.mkdir(parents=True, exist_ok=True)
        self.database = schema.connect(f"sqlite:///{folder / 'esp.sqlite'}", durable=False)
        fill(self.database, people)
        self.post = Post(self.database)
        self.webhooks: list[dict[str, Any]] = []
        self.faults = Faults(folder / "faults.json")
        self.engine = self.start(START)

    def start(self, at: datetime) -> Engine:
        """Start the engine (again), as a process would."""
        self.engine = Engine(
            self.database, self.settings, start=at, transport=self.post, faults=self.faults,
            folder=self.folder, webhook=self.webhooks.extend, events=self.events,
        )  # fmt: skip
        return self.engine

    def campaign(self, status: str = "running", send_at: datetime | None = None, list_id: int = 1) -> int:
        """Create a campaign to a list and return its id."""
        with self.database.begin() as connection:
            number = (connection.scalar(sa.select(sa.func.max(schema.CAMPAIGNS.c.id))) or 0) + 1
            connection.execute(
                sa.insert(schema.CAMPAIGNS).values(
                    id=number, uuid=f"c{number}", name=f"Campaign {number}", subject="s", from_email="a@b.example",
                    body="b", content_type="plain", send_at=send_at and store.naive(send_at), status=status,
                    tags=[], attribs={}, type="regular", template_id=1, to_send=0, sent=0, max_subscriber_id=0,
                    last_subscriber_id=0, created_at=BORN, updated_at=BORN,
                )
            )  # fmt: skip
            store.set_campaign_lists(connection, number, [list_id])
        return number

    def row(self, campaign_id: int) -> Any:
        """Return the campaign as it is stored."""
        with self.database.connect() as connection:
            return connection.execute(
                sa.select(schema.CAMPAIGNS).where(schema.CAMPAIGNS.c.id == campaign_id)
            ).one()

    def put(self, campaign_id: int, status: str) -> None:
        """Change a campaign's status as the API does."""
        now = self.row(campaign_id)
        stored = change_status(now.status, status, has_send_at=now.send_at is not None)
        with self.engine.lock, self.database.begin() as connection:
            connection.execute(
                sa.update(schema.CAMPAIGNS).where(schema.CAMPAIGNS.c.id == campaign_id).values(status=stored)
            )
            if status in ("paused", "cancelled"):
                self.engine.stop(campaign_id)

    def work(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self.engine.work_until(self.engine.now + timedelta(seconds=seconds))

    def got(self, campaign_id: int = 1) -> list[int]:
        """Return who was sent a campaign, in order."""
        return [one.subscriber_id for one in self.post.sent if one.campaign_id == campaign_id]

    def table(self, table: sa.Table) -> list[tuple[Any, ...]]:
        """Return all rows of a table by id."""
        with self.database.connect() as connection:
            return [tuple(row) for row in connection.execute(sa.select(table).order_by(*table.primary_key))]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """A function that makes a bench with so many people; keyword arguments are engine settings."""
    made: list[Bench] = []

    def make(people: int = 25, *, events: bool = False, **settings: Any) -> Bench:
        made.append(Bench(tmp_path / f"bench{len(made)}", people, events, **settings))
        return made[-1]

    yield make
    for one in made:
        one.engine._connection.close()
        one.database.dispose()


@pytest.fixture(scope="session")
def fresh_bench(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Bench]:
    """The same for tests that make many benches (property tests)."""

    def make(people: int, *, events: bool, **settings: Any) -> Bench:
        return Bench(tmp_path_factory.mktemp("bench"), people, events, **settings)

    return make


@dataclass
class Running:
    """A real simulated ESP that follows the clock, with its mailbox."""

    esp: SimulatedEsp
    sink: Sink
    clock: DrivenClock
    api: httpx.Client
    database: sa.Engine

    def start_campaign(self, **fields: Any) -> int:
        """Create a campaign to everybody and start it."""
        body = {
            "name": "Campaign",
            "subject": "s",
            "lists": [1],
            "body": "b",
            "content_type": "plain",
        } | fields
        number = int(self.api.post("/api/campaigns", json=body).json()["data"]["id"])
        self.api.put(f"/api/campaigns/{number}/status", json={"status": "running"}).raise_for_status()
        return number

    def campaign(self, number: int) -> dict[str, Any]:
        """Return a campaign as the API shows it."""
        found: dict[str, Any] = self.api.get(f"/api/campaigns/{number}").json()["data"]
        return found

    def log(self) -> dict[int, str]:
        """Return the sender's own log: subscriber to status."""
        with self.database.connect() as connection:
            rows = connection.execute(sa.select(schema.MESSAGES.c.subscriber_id, schema.MESSAGES.c.status))
            return {row.subscriber_id: row.status for row in rows}

    def inbox(self) -> list[int]:
        """Return who got mail, in the order of arrival."""
        return [mail.subscriber_id for mail in self.sink.messages()]


@pytest.fixture
def running(tmp_path: Path, clock: DrivenClock) -> Iterator[Callable[..., Running]]:
    """A function that starts a simulated ESP with so many people."""
    made: list[Running] = []

    def start(people: int = 60, db_url: str | None = None, webhook_url: str = "", **settings: Any) -> Running:
        folder = tmp_path / f"esp{len(made)}"
        folder.mkdir()
        url = db_url or f"sqlite:///{folder / 'esp.sqlite'}"
        database = schema.connect(url)
        fill(database, people)
        sink = Sink.start(folder, clock=f"driven:{clock.path}")
        esp = SimulatedEsp.start(
            folder, clock=clock, seed=3, smtp_port=sink.smtp_port, db_url=url,
            settings={"messages_per_minute": 60, "batch_size": 20} | settings, webhook_url=webhook_url,
        )  # fmt: skip
        api = httpx.Client(base_url=esp.api_url, auth=(esp.user, esp.token), timeout=30)
        made.append(Running(esp, sink, clock, api, database))
        return made[-1]

    yield start
    for one in made:
        one.api.close()
        one.esp.close()
        one.sink.stop()
        one.database.dispose()
