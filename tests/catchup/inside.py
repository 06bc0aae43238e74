"""A world for thousands of recoveries: the simulated ESP's own engine and API in this process, a clock in memory.

The same code answers as in the ESP's process; what is left out is the wire: requests go to the ASGI application
directly, messages into a list. An ESP or a run of ours that is killed ends at the very line, as by SIGKILL: nothing of
it is cleaned up. Real processes, HTTP, SMTP and SIGKILL are in test_recovery.py and tests/kills.
"""

from __future__ import annotations

import atexit
import os
import random
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from tasks.catchup import CatchupError, Stopped, settle_stops, undo_key
from tasks.catchup.desk import LEASE, Desk
from tasks.catchup.recovery import Outcomes, Question, Recovery
from tasks.core import UsageError, crash
from tasks.drills import Mail
from tasks.drills.esp import api, engine, schema
from tasks.drills.esp.behaviour import Rates
from tasks.drills.esp.engine import Settings
from tasks.drills.esp.faults import Faults
from tasks.drills.esp.transport import ACCEPTED, Outgoing
from tasks.incidents import Journal, LeaseHeld, StaleToken, database, journal
from tasks.plan import LoadedPlan, load_plan
from tasks.providers import Campaign, Provider, ProvidersError
from tasks.providers.http import JsonApi
from tasks.providers.listmonk import Listmonk
from tasks.response.aborting import Abort, refuse_if_past
from tasks.response.acting import stop_campaign
from tasks.response.reading import read_calendar
from tasks.response.table import plan_table
from tests.catchup.conftest import Bench

START = datetime(2011, 11, 16, 7, 0, tzinfo=UTC)
USER, TOKEN = "mailstay", "inside"
URL = "http://esp.inside"
QUIET = Rates(hard_bounce=0.0, soft_bounce=0.0, complained=0.0, unsubscribed=0.0)
HELD = (CatchupError, ProvidersError, StaleToken, LeaseHeld, UsageError)
PEOPLE = 30
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


class Killed(BaseException):
    """The process that runs this line is gone; no handler of it may run."""


class MemoryClock:
    """A driven clock without a file; whatever is due on the way happens at its own moment."""

    simulated = True

    def __init__(self) -> None:
        self._now = START
        self.path = "in memory"
        self.follow: Callable[[datetime], object] = lambda _: None
        self.agenda: list[tuple[datetime, int, Callable[[], object]]] = []

    def now(self) -> datetime:
        return self._now

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def later(self, delay: timedelta, happen: Callable[[], object]) -> None:
        self.agenda.append((self._now + delay, len(self.agenda), happen))

    def advance(self, step: timedelta | float) -> datetime:
        until = self._now + (step if isinstance(step, timedelta) else timedelta(seconds=step))
        while due := sorted(one for one in self.agenda if one[0] <= until):
            self.agenda.remove(due[0])
            self._now = max(self._now, due[0][0])
            self.follow(self._now)
            due[0][2]()
        self._now = until
        self.follow(until)
        return until


class Esp:
    """The simulated ESP, in this process: it can die in a batch and be started again."""

    def __init__(self, folder: Path, clock: MemoryClock, settings: Settings) -> None:
        self.api_url, self.user, self.token = URL, USER, TOKEN
        self.mails: list[Mail] = []
        self._folder, self._clock, self._settings = folder, clock, settings
        self._faults = Faults(folder / "faults.json")
        self._engine: engine.Engine | None = None
        clock.follow = self._work_until
        self.restart()

    @property
    def alive(self) -> bool:
        return self._engine is not None

    def restart(self) -> None:
        if self._engine is None:
            self._engine = engine.Engine(
                esp_database(), self._settings, start=self._clock.now(), transport=self, faults=self._faults,
                folder=self._folder,
            )  # fmt: skip
            self.application = api.build_api(self._engine, user=USER, token=TOKEN, seed=self._settings.seed)

    def kill(self) -> None:
        if self._engine is not None:
            self._engine._connection.close()
            self._engine = None

    def fault(self, name: str, **settings: Any) -> None:
        self._faults.turn_on(name, **settings)
        if name == "kill_mid_batch" and self._engine is not None:
            self._engine.count_kill_from_now()

    def clear(self, name: str) -> None:
        self._faults.turn_off(name)

    def faulty(self) -> bool:
        return not self.alive or bool(self._faults.active)

    def send(self, message: Outgoing) -> int:
        self.mails.append(Mail(message.campaign_id, message.subscriber_id, message.at, len(self.mails) + 1))
        return ACCEPTED

    def messages(self) -> list[Mail]:
        return self.mails

    def _work_until(self, moment: datetime) -> None:
        if self._engine is not None:
            try:
                self._engine.work_until(moment)
            except Killed:
                self.kill()


@dataclass
class Wire:
    """What goes wrong between us and the ESP: this share of the requests, in one of the ways that are known."""

    share: float = 0.0
    dice: random.Random = random.Random(0)  # noqa: RUF009 - replaced for each world


class Inside(httpx.BaseTransport):
    """Hands requests to the ESP's application, as far as the wire and the ESP let them through."""

    def __init__(self, esp: Esp, wire: Wire) -> None:
        self._esp, self._wire = esp, wire

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        trouble = self._wire.share and self._wire.dice.random() < self._wire.share
        way = self._wire.dice.choice(("refused", "ill", "no reply", "page", "cut")) if trouble else ""
        if not self._esp.alive or way == "refused":
            raise httpx.ConnectError("connection refused", request=request)
        if way == "ill":
            return httpx.Response(503, json={"message": "Service Unavailable"}, request=request)
        status, headers, body = asked(self._esp.application, request)
        if way == "no reply":
            raise httpx.ReadTimeout("timed out", request=request)
        if way == "page":
            return httpx.Response(200, html="<h1>Welcome</h1>", request=request)
        if way == "cut":
            body = body[: len(body) // 2]
        return httpx.Response(status, headers=headers, content=body, request=request)


def asked(application: Any, request: httpx.Request) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Return what the ASGI application answers. Nothing in it waits for anything, so it needs no event loop."""
    scope = {
        "type": "http", "http_version": "1.1", "method": request.method, "scheme": "http",
        "path": request.url.path, "raw_path": request.url.raw_path, "query_string": request.url.query,
        "root_path": "", "headers": [(key.lower(), value) for key, value in request.headers.raw],
        "client": ("inside", 1), "server": ("esp.inside", 80),
    }  # fmt: skip
    content = request.read()
    answer: dict[str, Any] = {"body": b""}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        answer.update({"body": answer["body"] + message.pop("body", b"")} | message)

    running = application(scope, receive, send)
    with suppress(StopIteration):
        while True:
            running.send(None)
    return answer["status"], answer["headers"], answer["body"]


async def at_once(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


@cache
def templates() -> Path:
    """A folder with a shop, an ESP of `PEOPLE` subscribers and an empty journal, from which each world is copied."""
    folder = Path(tempfile.mkdtemp(dir=MEMORY))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    made = InsideBench.__new__(InsideBench)
    made.clock, made.people, made.shop_url = MemoryClock(), PEOPLE, f"sqlite:///{folder / 'shop.sqlite'}"
    made._build_shop()
    made._build_esp(f"sqlite:///{folder / 'esp.sqlite'}")
    Journal.open(f"sqlite:///{folder / 'journal.sqlite'}", made.clock).close()
    return folder


@cache
def esp_database() -> sa.Engine:
    """The one database of all worlds, in memory: SQLAlchemy compiles each statement once for all of them."""
    return sa.create_engine("sqlite://", poolclass=sa.StaticPool, connect_args={"check_same_thread": False})


NEW_ENGINE = database._engine


@cache
def journal_engine(url: str) -> sa.Engine:
    """The same for the journal, whose file is put anew for each world."""
    return NEW_ENGINE(url)


def opened_anew(folder: Path) -> str:
    """Put the templates in place for the next world and return the URL of its journal."""
    path = folder / "open.sqlite"
    engine = journal_engine(f"sqlite:///{path}")
    engine.dispose()
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    shutil.copyfile(folder / "journal.sqlite", path)
    with esp_database().connect() as connection, closing(sqlite3.connect(folder / "esp.sqlite")) as template:
        template.backup(connection.connection.driver_connection)
    return f"sqlite:///{path}"


@contextmanager
def killable() -> Iterator[None]:
    """Let a kill end the run or the ESP, not pytest; each run is a process of its own to the leases."""
    RUNNING[:] = [journal.this_process()]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(crash, "os", SimpleNamespace(environ={}, kill=reached, getpid=os.getpid))
        patched.setattr(engine, "os", SimpleNamespace(fsync=lambda _: None, kill=kill, getpid=os.getpid))
        patched.setattr(journal, "this_process", lambda: RUNNING[-1])
        patched.setattr(journal, "is_dead", lambda process: process not in RUNNING)
        patched.setattr(database, "_engine", journal_engine)
        patched.setattr(api, "run_in_threadpool", at_once)
        patched.setenv("MAILSTAY_ESP_USER", USER)
        patched.setenv("MAILSTAY_ESP_TOKEN", TOKEN)
        yield


RUNNING: list[str] = []
"""Names of the processes that are alive: pytest's own, and each run of ours while it works."""

MEANWHILE: list[Callable[[], object]] = []
"""What happens at the next crash point that is reached, while the run there goes on after it."""


def kill(*_: object) -> None:
    raise Killed


def reached(*_: object) -> None:
    """End the run at this crash point, or let somebody else act while it stands there."""
    if not MEANWHILE:
        raise Killed
    MEANWHILE.pop()()


class InsideBench(Bench):
    """A bench whose servers are in this process. What it promises is judged as on the real ones.

    Attributes:
        stopped_at: since when a campaign is ours: the response had read back that it stands still.
        gates: when a run had passed the consent gate.
        exempt: catch-up campaigns that nobody watched while the ESP failed: their lateness is nobody's to prevent.
        verdicts: what each run that got so far proposed.
        outcomes: what the run that resolved the incident came to.
        before: every campaign as it was made.
        left: campaigns that somebody decided to leave stopped: an abort answers for nobody of them.
        given_back: when an abort had read back that it is scheduled again.
        put_back: how many campaigns aborts were seen to bring back exactly as they were.
    """

    domains = ("shop.example", "gmail.com", "hotmail.co.uk")

    def __init__(self, *, speed: int, batch: int, seed: int, **plan: Any) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY))
        self.clock = MemoryClock()  # type: ignore[assignment]
        self.people = PEOPLE
        self.planned, self.deadline, self.audience, self.opted_out = {}, {}, {}, {}
        self.wire = Wire(dice=random.Random(seed))
        self.stopped_at: dict[int, datetime] = {}
        self.gates: list[datetime] = []
        self.exempt: set[int] = set()
        self.left: set[int] = set()
        self.forwarded: set[int] = set()
        self.verdicts: list[list[Question]] = []
        self.outcomes: dict[int, Outcomes] = {}
        self.before: dict[int, Campaign] = {}
        self.given_back: dict[int, datetime] = {}
        self.put_back = 0
        self.incident = ""
        self.incidents: list[str] = []
        self._processes = iter(range(10**9))
        self.shop_url = f"sqlite:///{self.folder / 'shop.sqlite'}"
        shutil.copyfile(templates() / "shop.sqlite", self.folder / "shop.sqlite")
        self.journal_url = opened_anew(templates())
        self.esp = Esp(  # type: ignore[assignment]
            self.folder,
            self.clock,  # type: ignore[arg-type]
            Settings(
                seed=seed,
                messages_per_minute=speed,
                batch_size=batch,
                chunk=5,
                max_send_errors=6,
                rates=QUIET,
            ),
        )
        self.sink = self.esp  # type: ignore[assignment]
        self.plan_path = self.folder / "plan.yaml"
        ramp = {"canary": 2, "factor": 2.0, "max_step": 5}
        self.write_plan(messages_per_minute=speed, clock="system", ramp=ramp, **plan)
        self.loaded: LoadedPlan = load_plan(self.plan_path)
        transport = Inside(self.esp, self.wire)
        self._client = httpx.Client(base_url=URL, auth=(USER, TOKEN), transport=transport)
        self._asked = Listmonk.__new__(Listmonk)
        self._asked.name, self._asked._clock = "esp", self.clock
        self._asked._api = JsonApi(
            "esp",
            f"{URL}/api",
            auth=(USER, TOKEN),
            timeout_seconds=5,
            clock=self.clock,
            transport=transport,
            envelope="data",
        )
        self._asked.close = lambda: None  # type: ignore[method-assign]

    def provider(self) -> Provider:
        return self._asked

    def close(self) -> None:
        self.esp.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def journal(self) -> Journal:
        return Journal.open(self.journal_url, self.clock)

    # What people and time do

    def opt_out_now(self, who: int) -> None:
        """Somebody opts out at the shop, which asks the ESP to take it."""
        if who in self.opted_out:
            return
        body = {"ids": [who], "action": "unsubscribe", "target_list_ids": sorted(self.lists())}
        try:
            taken = self._client.put("/api/subscribers/lists", json=body).is_success
        except httpx.HTTPError:
            taken = False
        self.opt_out(who, forwarded=taken)
        if taken:
            self.forwarded.add(who)

    def useful_until(self, number: int) -> datetime | None:
        """Return until when a campaign may go out: its own word, else what the plan says of its kind."""
        if number in self.deadline:
            return self.deadline[number]
        rule = self.loaded.plan.lateness.get(self.campaigns()[number].attribs["kind"])
        return self.planned[number] + rule.useful_for if rule else None

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        found: dict[str, Any] = self._client.request(method, path, json=body).raise_for_status().json()
        return found

    def lists(self) -> set[int]:
        with esp_database().connect() as connection:
            return set(connection.scalars(sa.select(schema.LISTS.c.id)))

    # Runs of ours

    def run(self, work: Callable[[Desk], object], crash_at: int = 0) -> BaseException | None:
        """Do `work` as one process under the incident's lease.

        It may be killed at its `crash_at`-th point; with something in `MEANWHILE` that happens there instead.
        """
        RUNNING.append(f"{RUNNING[0]}/{next(self._processes)}")
        crash._passed.clear()
        crash.os.environ = {crash.VARIABLE: f"*#{crash_at}"} if crash_at else {}
        found: BaseException | None = None
        try:
            with self.journal() as journal:
                lease = journal.lease(self.incident, "test", LEASE)
                incident = journal.incident(self.incident)
                desk = Desk(self.loaded, journal, self.provider(), self.clock, incident, lease)
                try:
                    work(desk)
                except HELD as error:
                    found = error
                journal.release(desk.lease or lease)
        except Killed as killed:
            found = killed
        finally:
            RUNNING.pop()
            crash.os.environ = {}
            self.leave_alone()
        return found

    def leave_alone(self) -> None:
        """Note what may send while nobody watches and the ESP fails: how late it does is nobody's to prevent."""
        if self.esp.faulty():  # type: ignore[attr-defined]
            self.exempt |= {
                number for number, row in self.campaigns().items() if row.status in ("running", "scheduled")
            }

    def campaigns(self) -> dict[int, Any]:
        """Return every campaign as it is stored."""
        with esp_database().connect() as connection:
            return {row.id: row for row in connection.execute(sa.select(schema.CAMPAIGNS))}

    def lost_replies(self) -> set[tuple[int, int]]:
        """Return (original campaign, person) of every message whose reply the ESP does not have."""
        originals = {
            number: row.attribs.get("catch_up_of", number) for number, row in self.campaigns().items()
        }
        log = schema.MESSAGES
        silent = sa.or_(
            log.c.status == "sending", sa.and_(log.c.status == "failed", log.c.smtp_code.is_(None))
        )
        with esp_database().connect() as connection:
            rows = connection.execute(sa.select(log.c.campaign_id, log.c.subscriber_id).where(silent)).all()
        return {(originals[row.campaign_id], row.subscriber_id) for row in rows}

    def respond_once(self, crash_at: int = 0) -> BaseException | None:
        """Declare the incident and stop what runs or is due, as the response does."""
        with self.journal() as journal:
            declared = journal.declare(
                "esp", cause_class="technical_failure", summary="nothing is sent", detected_at=self.clock.now(),
                declared_by="desk", impact_started_at=None, state="investigating",
            )  # fmt: skip
        if declared.id != self.incident:
            self.incident = declared.id
            self.incidents.append(declared.id)
            self.verdicts, self.outcomes = [], {}
        return self.run(self._respond, crash_at)

    def _respond(self, desk: Desk) -> None:
        token = desk.token
        if not desk.incident.is_open:
            return
        settle_stops(desk.journal, self.incident, desk.provider, token=token)
        calendar = read_calendar(self.loaded, "esp", desk.provider)
        rules = {str(kind): rule for kind, rule in self.loaded.plan.lateness.items()}
        for line in plan_table(
            calendar.sendings, desk.provider.capabilities, self.clock.now(), lateness=rules
        ):
            if line.action:
                stop_campaign(desk.journal, self.incident, desk.provider, line, token=token)
                self.stopped_at.setdefault(line.campaign_id, self.clock.now())

    def recover_once(self, agreed: frozenset[str], crash_at: int = 0) -> BaseException | None:
        """Recover as the flow does; return what ended it early, None when the incident is resolved."""
        return self.run(lambda desk: self._recover(desk, agreed), crash_at)

    def abort_once(self, *, leave: bool, crash_at: int = 0) -> BaseException | None:
        """Abort the response as the flow does; return what ended it early, None when the incident is closed."""
        try:
            return self.run(lambda desk: self._abort(desk, leave), crash_at)
        finally:
            self._note_given_back()

    def _abort(self, desk: Desk, leave: bool) -> None:
        refuse_if_past(desk.journal, desk.incident)
        abort = Abort(desk)
        if not desk.incident.is_open:
            return
        abort.begin()
        lines = abort.plan()
        agreed = {one.campaign_id: frozenset({one.action}) for one in lines if one.way == "undo"}
        if agreed:
            abort.apply_opt_outs()
            self.gates.append(self.clock.now())
        problems = abort.undo(lines, agreed)
        compared = abort.compare()
        self._judge_put_back(desk, {one.campaign_id for one in compared if one.as_it_was})
        lines = abort.plan()
        left = {one.campaign_id for one in lines if leave and one.way in ("ask", "held")}
        if problems := [*problems, *abort.unsteady(lines, left, compared)]:
            raise Stopped("; ".join(problems))
        abort.close("desk", "false alarm")
        self.left |= left

    def _judge_put_back(self, desk: Desk, same: set[int]) -> None:
        """What an abort says is as it was is so in every field; nothing was scheduled again after its time."""
        share, self.wire.share = self.wire.share, 0.0
        done = {
            one.target: one for one in desk.journal.actions(self.incident) if one.key.startswith("abort/")
        }
        for number in same:
            undo = done.get(f"campaign/{number}")
            if undo is None or undo.status != "done":
                continue
            now, was = desk.provider.campaign(number), self.before[number]
            assert now == was or now.status in ("running", "finished"), f"{now} is not {was}"
            assert was.send_at is not None
            assert undo.intended_at < was.send_at, "scheduled again after its time"
            self.put_back += 1
        self.wire.share = share

    def _note_given_back(self) -> None:
        with self.journal() as journal:
            actions = journal.actions(self.incident)
        undone = {one.key: one.decided_at for one in actions if one.status == "done"}
        stops = {one.target: one for one in actions if one.kind in ("pause", "unschedule")}
        for target, stop in stops.items():
            at = undone.get(undo_key(stop))
            if at is not None:
                number = int(target.rpartition("/")[2])
                self.given_back.setdefault(number, at)
                self.stopped_at.pop(number, None)

    def is_open(self) -> bool:
        """Whether an incident was declared that is not over."""
        with self.journal() as journal:
            return bool(self.incident) and journal.incident(self.incident).is_open

    def _recover(self, desk: Desk, agreed: frozenset[str]) -> None:
        recovery = Recovery(desk)
        found = recovery.measure_restoration()
        if not found.restored:
            raise Stopped(found.seen)
        recovery.witnesses.pass_gate()
        self.gates.append(self.clock.now())
        held = recovery.quiesce()
        for one in held:
            self.stopped_at.setdefault(one.id, self.clock.now())
        self.verdicts.append(recovery.propose(held))
        outcomes: list[Outcomes] = [recovery.resume(one, agreed) for one in held]
        recovery.list_unknown(held)
        if problems := recovery.unsteady(outcomes):
            raise Stopped("; ".join(problems))
        self.outcomes = {one.campaign_id: one for one in outcomes}
        recovery.resolve()
