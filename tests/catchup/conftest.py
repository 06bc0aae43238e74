"""A bench for recoveries: a real simulated ESP in the state that an outage leaves, a shop, a plan and a journal."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
import yaml

from tasks.catchup.desk import LEASE, Desk, schedule_of
from tasks.catchup.recovery import Outcomes, Recovery
from tasks.core import DrivenClock
from tasks.drills import SimulatedEsp, Sink
from tasks.incidents import Journal
from tasks.plan import load_plan
from tasks.providers import Provider, connect_provider
from tasks.snapshots import Store, generate_key, restore, take_snapshot
from tasks.sources import open_source, open_target

PEOPLE = 160
HOUR = timedelta(hours=1)
DESIRED = frozenset({"catch_up", "reschedule", "drop"})


class Bench:
    """Everything one recovery needs, all real, in one folder."""

    domains: tuple[str, ...] = ("shop.example",)
    """Where people have their mail, in turn."""

    def __init__(
        self,
        folder: Path,
        clock: DrivenClock,
        *,
        people: int = PEOPLE,
        speed: int = 60,
        batch: int = 100,
        hard_bounce: float = 0.0,
        **engine: Any,
    ):
        self.folder = folder
        self.clock = clock
        self.people = people
        self.planned: dict[int, datetime] = {}
        self.deadline: dict[int, datetime] = {}
        self.audience: dict[int, set[int]] = {}
        self.opted_out: dict[int, datetime] = {}
        self.shop_url = f"sqlite:///{folder / 'shop.sqlite'}"
        self._settings: dict[str, Any] = {
            "people": people, "speed": speed, "batch": batch, "hard_bounce": hard_bounce, **engine,
        }  # fmt: skip
        self.sink = Sink.start(folder / "sink", clock=f"driven:{clock.path}")
        url = f"sqlite:///{folder / 'esp.sqlite'}"
        if not (folder / "esp.sqlite").exists():
            self._build_shop()
            self._build_esp(url)
        self.esp = SimulatedEsp.start(
            folder / "esp", clock=clock, seed=7, smtp_port=self.sink.smtp_port, db_url=url,
            settings={"messages_per_minute": speed, "batch_size": batch, "chunk": 10, **engine},
            rates={"hard_bounce": hard_bounce, "soft_bounce": 0.0, "complained": 0.0, "unsubscribed": 0.0},
        )  # fmt: skip
        self.plan_path = folder / "plan.yaml"
        self.write_plan(messages_per_minute=speed)
        self.journal_url = f"sqlite:///{folder / 'journal.sqlite'}"
        self.environment = {"MAILSTAY_ESP_USER": self.esp.user, "MAILSTAY_ESP_TOKEN": self.esp.token}
        os.environ.update(self.environment)

    def copy(self, folder: Path) -> Bench:
        """Return a bench in `folder` that goes on from where this one stands; this one must be closed."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        twin = Bench(folder, DrivenClock(folder / "clock.json"), **self._settings)
        twin.planned, twin.deadline = dict(self.planned), dict(self.deadline)
        twin.audience, twin.opted_out = dict(self.audience), dict(self.opted_out)
        return twin

    # Setting up

    def write_plan(self, *, messages_per_minute: int = 60, seed: bool = False, **changes: Any) -> None:
        plan: dict[str, Any] = {
            "version": 1,
            "name": "Bench",
            "clock": f"driven:{self.clock.path}",
            "journal": f"sqlite:///{self.folder / 'journal.sqlite'}",
            "state": "state",
            "reports": "reports",
            "store": {"url": "store"},
            "sources": {"shop": {"url": self.shop_url, "mapping": "shop"}},
            "providers": {
                "esp": {
                    "kind": "listmonk",
                    "api_url": self.esp.api_url,
                    "shop": "shop",
                    "messages_per_minute": messages_per_minute,
                    "timeout_seconds": 20,
                }
                | ({"seed_mailbox_url": self.sink.seed_url, "seed_address_env": "BENCH_SEED"} if seed else {})
            },
            "detection": {"clear_after": 2, "stalled_minutes": 5},
            "lateness": {
                "newsletter": {"useful_for_minutes": 1440},
                "launch": {"useful_for_minutes": 120},
                "sale": {"useful_for_minutes": 600},
                "winback": {"useful_for_minutes": 2880, "when_late": "reschedule", "reschedule_minutes": 60},
            },
            "ramp": {"canary": 20, "factor": 2.0, "max_step": 60},
            "approval": {
                "policy_actions": ["pause", "unschedule", "reschedule", "catch_up", "drop"],
                "wait_minutes": 0,
            },
            "channels": {"outbox": {"kind": "folder", "path": "outbox"}},
            "stakeholders": {"desk": {"channel": "outbox", "report": "tactical"}},
        }
        self.plan_path.write_text(yaml.safe_dump(plan | changes))

    def _build_shop(self) -> None:
        engine = sa.create_engine(self.shop_url)
        with engine.begin() as connection:
            connection.execute(
                sa.text(
                    "CREATE TABLE consent_requests (request_id INTEGER PRIMARY KEY, customer_id INTEGER, kind VARCHAR,"
                    " campaign_id INTEGER, requested_at TIMESTAMP, forwarded_at TIMESTAMP)"
                )
            )
            connection.execute(
                sa.text(
                    "CREATE TABLE webhook_receipts (receipt_id INTEGER PRIMARY KEY, provider_event_id BIGINT,"
                    " event_type VARCHAR, campaign_id INTEGER, subscriber_id INTEGER, occurred_at TIMESTAMP,"
                    " received_at TIMESTAMP)"
                )
            )
        engine.dispose()

    def _build_esp(self, url: str) -> None:
        from tasks.drills.esp.schema import LISTS, SUBSCRIBER_LISTS, SUBSCRIBERS, TEMPLATES, connect

        engine = connect(url, durable=False)
        at = (self.clock.now() - timedelta(days=30)).replace(tzinfo=None)
        times = {"created_at": at, "updated_at": at}
        with engine.begin() as connection:
            connection.execute(
                LISTS.insert(),
                [{"id": 1, "uuid": "l1", "name": "News", "type": "private", "optin": "single", "status": "active",
                  "tags": [], **times}],
            )  # fmt: skip
            connection.execute(
                SUBSCRIBERS.insert(),
                [{"id": n, "uuid": f"s{n}", "email": f"c{n}@{self.domains[n % len(self.domains)]}", "name": f"c{n}",
                  "attribs": {}, "status": "enabled", **times} for n in range(1, self.people + 1)],
            )  # fmt: skip
            connection.execute(
                SUBSCRIBER_LISTS.insert(),
                [
                    {"subscriber_id": n, "list_id": 1, "status": "confirmed", **times}
                    for n in range(1, self.people + 1)
                ],
            )
            connection.execute(
                TEMPLATES.insert(),
                [
                    {
                        "id": number,
                        "name": name,
                        "type": kind,
                        "subject": "",
                        "body": "x",
                        "is_default": kind == "campaign",
                        **times,
                    }
                    for number, name, kind in [(1, "Plain", "campaign"), (2, "Seed", "tx")]
                ],
            )
        engine.dispose()

    def campaign(
        self,
        name: str,
        *,
        kind: str = "newsletter",
        at: timedelta | None = None,
        deadline: timedelta | None = None,
        status: str = "scheduled",
        lists: tuple[int, ...] = (1,),
        people: Iterable[int] | None = None,
    ) -> int:
        """Create a campaign to `people`, or everybody; `at` and `deadline` count from now."""
        if people is not None:
            provider = self.provider()
            lists = (provider.create_list(f"For {name}").id,)
            provider.add_to_list(lists[0], people)
            provider.close()
        now = self.clock.now()
        attribs = {"kind": kind}
        if deadline is not None:
            attribs["latest_useful_at"] = (now + deadline).isoformat()
        body = {
            "name": name, "subject": name, "lists": list(lists), "body": "Hello", "attribs": attribs,
            "send_at": (now + at).isoformat() if at is not None else None,
        }  # fmt: skip
        made = self.ask("POST", "/api/campaigns", body)
        number = int(made["data"]["id"])
        if status != "draft":
            self.ask("PUT", f"/api/campaigns/{number}/status", {"status": status})
        self.planned[number] = now + (at or timedelta(0))
        if deadline is not None:
            self.deadline[number] = now + deadline
        self.audience[number] = set(range(1, self.people + 1) if people is None else people)
        return number

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Use the ESP's API as its own user interface does."""
        auth = (self.esp.user, self.esp.token)
        answer = httpx.request(method, f"{self.esp.api_url}{path}", json=body, auth=auth, timeout=20)
        found: dict[str, Any] = answer.raise_for_status().json()
        return found

    def opt_out(self, *people: int, forwarded: bool = False) -> None:
        """Let people opt out at the shop's own endpoint."""
        engine = sa.create_engine(self.shop_url)
        at = self.clock.now().replace(tzinfo=None)
        with engine.begin() as connection:
            for who in people:
                connection.execute(
                    sa.text(
                        "INSERT INTO consent_requests (customer_id, kind, requested_at, forwarded_at)"
                        " VALUES (:who, 'unsubscribe', :at, :forwarded)"
                    ),
                    {
                        "who": who,
                        "at": at.isoformat(sep=" "),
                        "forwarded": at.isoformat(sep=" ") if forwarded else None,
                    },
                )
                self.opted_out[who] = self.clock.now()
        engine.dispose()

    def erase(self, *people: int) -> None:
        """Erase subscribers at the ESP, as a request for erasure does."""
        for who in people:
            self.ask("DELETE", f"/api/subscribers/{who}")

    def webhook(self, kind: str, campaign_id: int, who: int) -> None:
        engine = sa.create_engine(self.shop_url)
        at = self.clock.now().replace(tzinfo=None).isoformat(sep=" ")
        with engine.begin() as connection:
            connection.execute(
                sa.text(
                    "INSERT INTO webhook_receipts (event_type, campaign_id, subscriber_id, occurred_at, received_at)"
                    " VALUES (:kind, :campaign, :who, :at, :at)"
                ),
                {"kind": kind, "campaign": campaign_id, "who": who, "at": at},
            )
        engine.dispose()

    def copy_database(self, name: str) -> Path:
        """Copy the ESP's database as it is now, as a snapshot of its server does."""
        path = self.folder / name
        with (
            closing(sqlite3.connect(self.folder / "esp.sqlite")) as live,
            closing(sqlite3.connect(path)) as copy,
        ):
            live.backup(copy)
        return path

    def restore_snapshot(self, name: str) -> Path:
        """Back the ESP up with Mailstay and restore that snapshot into a new database."""
        store = Store.open(str(self.folder / "store"), signing_key=generate_key(), create=True)
        source = open_source("esp", f"sqlite:///{self.folder / 'esp.sqlite'}")
        taken = take_snapshot(source, store, clock=self.clock, plan_digest="")
        store.mark(taken.snapshot_id, "valid", findings=[], at=self.clock.now(), by="test")
        path = self.folder / name
        back = open_target(f"sqlite:///{path}")
        assert restore(store, taken.snapshot_id, back, clock=self.clock, mapping="listmonk").equal
        return path

    def swap_database(self, path: Path) -> None:
        """Start the ESP again on the database `path`."""
        self.esp.kill()
        for suffix in ("", "-wal", "-shm"):
            (self.folder / f"esp.sqlite{suffix}").unlink(missing_ok=True)
        path.rename(self.folder / "esp.sqlite")
        self.esp.restart()

    def die(self, after: int) -> None:
        """Let the ESP kill itself inside a batch after so many more messages; the clock moves until it has."""
        self.esp.fault("kill_mid_batch", after=after)
        for _ in range(100):
            if not self.esp.alive:
                break
            self.clock.advance(5)
        assert not self.esp.alive

    # The response and the recovery

    def provider(self) -> Provider:
        settings = load_plan(self.plan_path).provider("esp")
        return connect_provider("esp", settings, self.esp.user, self.esp.token, self.clock)

    def respond(self, *campaigns: int, impact_hours_ago: float = 0.0) -> str:
        """Declare the incident and stop campaigns, journaled as the response does it."""
        provider = self.provider()
        now = self.clock.now()
        with Journal.open(self.journal_url, self.clock) as journal:
            incident = journal.declare(
                "esp", cause_class="technical_failure", summary="nothing is sent", detected_at=now, declared_by="desk",
                impact_started_at=now - timedelta(hours=impact_hours_ago), state="investigating",
            )  # fmt: skip
            for number in campaigns:
                one = provider.campaign(number)
                kind = "pause" if one.status == "running" else "unschedule"
                action = journal.intend(
                    incident.id, f"{kind}:{number}", kind=kind, target=f"campaign/{number}", payload={},
                    previous_state=schedule_of(one),
                    undo={"action": "resume" if kind == "pause" else "reschedule"},
                )  # fmt: skip
                getattr(provider, kind)(number)
                journal.complete(action.id, {"status": provider.campaign(number).status})
        provider.close()
        return incident.id

    def recover(self, incident: str, agreed: frozenset[str] = DESIRED) -> list[Outcomes]:
        """Recover as the flow does, without Prefect around it."""
        loaded = load_plan(self.plan_path)
        with Journal.open(self.journal_url, self.clock) as journal:
            lease = journal.lease(incident, "test", LEASE)
            desk = Desk(loaded, journal, self.provider(), self.clock, journal.incident(incident), lease)
            try:
                recovery = Recovery(desk)
                assert recovery.measure_restoration().restored
                recovery.witnesses.pass_gate()
                held = recovery.quiesce()
                recovery.propose(held)
                outcomes = [recovery.resume(one, agreed) for one in held]
                recovery.list_unknown(held)
                problems = recovery.unsteady(outcomes)
                assert problems == [], "; ".join(problems)
                recovery.resolve()
                return outcomes
            finally:
                desk.provider.close()
                journal.release(desk.lease or lease)

    # The judge

    def mailed(self) -> dict[int, list[tuple[int, datetime]]]:
        """Return, per original campaign, who got its mail and when, as the mailbox has it."""
        provider = self.provider()
        originals = {one.id: one.catch_up_of or one.id for one in provider.campaigns()}
        provider.close()
        found: dict[int, list[tuple[int, datetime]]] = {number: [] for number in self.planned}
        for one in self.sink.messages():
            found[originals[one.campaign_id]].append((one.subscriber_id, one.received_at))
        return found

    def judge(self, outcomes: dict[int, dict[str, set[int]]], *, finished: bool = True) -> None:
        """Hold the promise against the mailbox: once per person, consent, deadlines, nobody forgotten."""
        for number, mails in self.mailed().items():
            counts = Counter(who for who, _ in mails)
            assert not [who for who, count in counts.items() if count > 1], f"campaign {number}: mailed twice"
            for who, at in mails:
                left = self.opted_out.get(who)
                assert left is None or at < left, f"campaign {number}: {who} was mailed after opting out"
                deadline = self.deadline.get(number)
                assert deadline is None or at <= deadline, f"campaign {number}: {who} was mailed late"
            if finished and number in outcomes:
                told = outcomes[number]
                accounted = set(counts).union(
                    *(told[name] for name in ("suppressed", "expired", "dropped", "unknown"))
                )
                waiting = told["not_attempted"]
                # Whoever left before the planned time belonged to nobody's audience.
                gone = {who for who, left in self.opted_out.items() if left < self.planned[number]}
                assert accounted | waiting | gone == self.audience[number], (
                    f"campaign {number}: somebody is forgotten"
                )
                silent = (
                    set(counts) - told["accepted"] - told["delivered"] - told["bounced"] - told["unknown"]
                )
                assert not silent, f"campaign {number}: mailed, but the ledger does not know"
                unsent = (told["accepted"] | told["delivered"]) - set(counts)
                assert not unsent, f"campaign {number}: the ledger claims mail that nobody got"

    def ledgers(self, incident: str) -> dict[int, dict[str, set[int]]]:
        """Return people per outcome from the frozen ledgers."""
        from tasks.catchup import OUTCOMES, read_frozen

        with Journal.open(self.journal_url, self.clock) as journal:
            known = journal.get_state(f"ledger/{incident}") or {"campaigns": {}}
        found: dict[int, dict[str, set[int]]] = {}
        for number, entry in known["campaigns"].items():
            rows = read_frozen(Path(entry["path"]), entry["digest"]).to_pylist()
            found[int(number)] = {
                outcome: {row["subscriber_id"] for row in rows if row["outcome"] == outcome}
                for outcome in OUTCOMES
            }
        return found

    def close(self) -> None:
        self.esp.close()
        self.sink.stop()


@pytest.fixture
def new_bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """A function that builds a bench at a Wednesday morning; more than one may stand side by side."""
    from datetime import UTC

    made: list[Bench] = []

    def build(**settings: Any) -> Bench:
        folder = tmp_path / f"bench-{len(made)}"
        folder.mkdir()
        clock = DrivenClock.create(folder / "clock.json", datetime(2011, 11, 16, 7, 0, tzinfo=UTC))
        made.append(Bench(folder, clock, **settings))
        return made[-1]

    yield build
    for one in made:
        one.close()


@pytest.fixture
def bench(new_bench: Callable[..., Bench]) -> Bench:
    return new_bench()
