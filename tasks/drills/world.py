"""A whole world for a drill in one folder: shop, ESP with its past, mailbox, clock, plan, an outage and its truth.

Everything that is not real (see `data/README.md`) depends on the seed alone. The world follows the drill's clock: who
moves the clock (`advance`, or a flow that waits) makes the shop, the ESP and the outage go on, in the same order each
time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import numpy as np
import pyarrow as pa
import sqlalchemy as sa
import yaml

from tasks.core import DrivenClock, Progress, SilentProgress, sha256_hex
from tasks.drills.bulk import load, reset_sequences
from tasks.drills.calendar import (
    NEWSLETTER,
    SALE_ALERTS,
    SIGN_UPS_AT,
    OptOut,
    campaign_calendar,
    list_members,
    opt_outs,
    outage_day,
)
from tasks.drills.draws import stable_uuid
from tasks.drills.errors import DrillError
from tasks.drills.esp import schema as esp_schema
from tasks.drills.esp import store
from tasks.drills.esp.behaviour import Rates
from tasks.drills.esp.engine import Settings
from tasks.drills.esp.page import COMPONENTS, PAGE_NAME
from tasks.drills.esp.process import REPOSITORY, SimulatedEsp
from tasks.drills.history import Past, write_history
from tasks.drills.live import LiveShop, WebhookEndpoint, load_email_orders
from tasks.drills.scenario import SCENARIOS, Step, first_harm, restored_after
from tasks.drills.shop import (
    CONSENT_REQUESTS,
    CURRENCY,
    CUSTOMERS,
    METADATA,
    ORDER_LINES,
    ORDERS,
    RETURN_LINES,
    RETURNS,
    WEBHOOK_RECEIPTS,
    build_shop,
)
from tasks.drills.sink import Sink, read_mailbox
from tasks.drills.truth import (
    Booking,
    Delivery,
    Key,
    LossTruth,
    MessageTruth,
    Truth,
    loss_truth,
    message_truth,
)
from tasks.drills.undisturbed import Action, run_undisturbed
from tasks.impact import respond_to_send

DEFAULT_SEED = 7
PROVIDER = "listmonk"
_LIVE_DAYS = timedelta(days=5)
_POLL_SECONDS = 0.003
_WAIT_FOR_WORLD = 300.0


@dataclass(frozen=True)
class Scale:
    """How big a world is.

    Attributes:
        share: part of the shop.
        weeks: weeks of campaigns before the outage.
        shop_weeks: weeks of orders before the outage; 0 is all there are.
        messages_per_minute: how fast the ESP sends.
        batch_size: subscribers that the ESP fetches at once.
        opt_outs: people who opt out during the outage.
    """

    share: float
    weeks: int
    shop_weeks: int
    messages_per_minute: int
    batch_size: int
    opt_outs: int


SCALES = {
    "demo": Scale(1.0, 26, 0, 120, 1000, 14),
    "small": Scale(0.12, 10, 11, 60, 100, 4),
}


class World:
    """One drill's world. Use it as a context manager, or call `close`.

    Attributes:
        folder: where everything lies; `plan.yaml`, `env`, `truth.json` and the mailbox among it.
        plan_path: the continuity plan of this world.
        clock: the drill's clock.
        esp: the simulated ESP.
        sink: the mailbox, the judge.
        env: environment variables that the plan names (user, token, signing key, database URLs).
        outage_day: the day on which the scenario plays.
    """

    def __init__(self, folder: Path, seed: int, scale: Scale, steps: tuple[Step, ...], day: date) -> None:
        self.folder = folder
        self.seed = seed
        self.outage_day = day
        self.scale = scale
        self.plan_path = folder / "plan.yaml"
        self.env: dict[str, str] = {}
        self.clock: DrivenClock
        self.esp: SimulatedEsp
        self.sink: Sink
        self._steps = steps
        self._calendar = campaign_calendar(day, scale.weeks)
        self._kinds = {one.id: one.kind for one in self._calendar}
        self._shop: LiveShop
        self._webhooks: WebhookEndpoint
        self._esp_database: sa.Engine
        self._opt_outs: list[OptOut] = []
        self._planned: dict[Key, datetime] = {}
        self._agenda: list[tuple[datetime, Callable[[datetime], None]]] = []
        self._worked: datetime
        self._mailbox_offset = 0
        self._deliveries: list[Delivery] = []
        self._bookings: list[Booking] = []
        self._answered: set[Key] = set()
        self._originals: dict[int, int] = {one.id: one.id for one in self._calendar}
        self._impact_started_at: datetime | None = None
        self._born: dict[str, list[datetime]] = {}
        self._consistency: dict[str, list[datetime]] = {}
        self._failure: BaseException | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @classmethod
    def create(
        cls,
        folder: Path | str,
        *,
        seed: int = DEFAULT_SEED,
        scale: str = "demo",
        scenario: str = "demo",
        shop_url: str | None = None,
        journal_url: str | None = None,
        esp_url: str | None = None,
        start: datetime | None = None,
        progress: Progress | None = None,
    ) -> World:
        """Build a world in the empty `folder` and start its servers; its clock stands at `start`.

        Args:
            folder: where everything is written.
            seed: decides the outage day and everything that is generated.
            scale: `demo` (the whole shop, 26 weeks) or `small` (a few hundred subscribers, 10 weeks).
            scenario: one of `tasks.drills.SCENARIOS`.
            shop_url: SQLAlchemy URL of an empty database for the shop; SQLite in the folder if None.
            journal_url: SQLAlchemy URL of the journal; SQLite in the folder if None.
            esp_url: SQLAlchemy URL of an empty database for the ESP; SQLite in the folder if None.
            start: where the clock begins; half past midnight of the day before the outage if None.
            progress: is told about the steps of building.

        Raises:
            DrillError: the folder holds a world already, or a name is unknown.
        """
        folder = Path(folder).resolve()
        if scale not in SCALES or scenario not in SCENARIOS:
            raise DrillError(
                f"There is no scale {scale!r} or scenario {scenario!r}",
                fix=f"use one of {', '.join(SCALES)} and one of {', '.join(SCENARIOS)}",
            )
        if (folder / "plan.yaml").exists():
            raise DrillError("The folder holds a world already", where=str(folder), fix="use an empty folder")
        folder.mkdir(parents=True, exist_ok=True)
        day = outage_day(seed)
        world = cls(folder, seed, SCALES[scale], SCENARIOS[scenario], day)
        begin = start or world.at("00:30", day=-1)
        world._build(begin, shop_url, journal_url, esp_url, progress or SilentProgress())
        return world

    # Time -------------------------------------------------------------------------------------------------------

    def at(self, clock: str, *, day: int = 0) -> datetime:
        """Return the moment `HH:MM` (UTC) of the outage day, or of the day `day` days after it."""
        hours, minutes = clock.split(":")
        midnight = datetime.combine(self.outage_day + timedelta(days=day), datetime.min.time(), UTC)
        return midnight + timedelta(hours=int(hours), minutes=int(minutes))

    def advance(self, minutes: float) -> datetime:
        """Move time on by `minutes`, with everything that happens in them, and return the new time."""
        return self.play_until(self.clock.now() + timedelta(minutes=minutes))

    def play_until(self, moment: datetime) -> datetime:
        """Move time to `moment`, with every step of the scenario that is due by then, and return it.

        Raises:
            DrillError: something in the world went wrong on the way.
        """
        if moment > self.clock.now():
            self.clock.set(moment)
        self.check()
        return self.clock.now()

    def check(self) -> None:
        """Raise what went wrong in the world's own thread, if anything did.

        Raises:
            DrillError: something did.
        """
        if self._failure is not None:
            raise DrillError(
                f"The world stopped: {self._failure}", where=str(self.folder), fix="read esp.log and sink.log"
            ) from self._failure

    # What is known ----------------------------------------------------------------------------------------------

    @property
    def impact_started_at(self) -> datetime | None:
        """When the outage began, None before."""
        return self._impact_started_at

    @property
    def restored_at(self) -> datetime | None:
        """When the scenario lets the provider work again, None if nothing goes wrong."""
        after = restored_after(self._steps)
        return None if after is None else self.at("00:00") + after

    def note_snapshot(self, source: str, consistency_at: datetime) -> None:
        """Tell the world of a valid snapshot, so that `truth` can count the rows at risk.

        Args:
            source: `shop` or `esp`.
            consistency_at: the moment at which the snapshot is consistent.
        """
        self._consistency.setdefault(source, []).append(consistency_at)

    def truth(
        self,
        *,
        snapshots: Mapping[str, datetime] | None = None,
        resolved_at: datetime | None = None,
        settle_hours: int = 48,
    ) -> Truth:
        """Return the truth of the outage so far, and write it to `truth.json`.

        Args:
            snapshots: per source the consistency point of its last valid snapshot; those given to `note_snapshot`
                before the outage if None. A source without one has all its recent rows at risk.
            resolved_at: when the incident was resolved; restoration if None.
            settle_hours: hours after `resolved_at` that belong to the settled window.

        Raises:
            DrillError: no outage has begun.
        """
        self.check()
        start, restored = self._impact_started_at, self.restored_at
        if start is None or restored is None:
            raise DrillError("No outage has begun in this world", fix="play the scenario first")
        settled = (resolved_at or restored) + timedelta(hours=settle_hours)
        opted_out = self._opted_out_times()
        useful = {one.id: one.latest_useful_at for one in self._calendar if one.latest_useful_at is not None}
        truth = Truth(
            impact_started_at=start,
            restored_at=restored,
            settled_at=settled,
            messages=self._message_truth(start, restored, opted_out, useful),
            loss=self._loss_truth(start, restored, settled),
            rows_at_risk=self._rows_at_risk(start, snapshots),
            rows_lost=self.esp.lost_rows(),
            opted_out_during=[
                {"subscriber_id": person, "requested_at": at.isoformat()}
                for person, at in sorted(opted_out.items(), key=lambda item: (item[1], item[0]))
                if start <= at < restored
            ],
        )
        truth.write(self.folder / "truth.json")
        return truth

    def close(self) -> None:
        """End every server of this world; its files stay."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        for name in ("esp", "_webhooks"):
            if hasattr(self, name):
                getattr(self, name).close()
        if hasattr(self, "sink"):
            self.sink.stop()
        if hasattr(self, "_esp_database"):
            self._esp_database.dispose()
        if hasattr(self, "_shop"):
            self._shop.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Building ---------------------------------------------------------------------------------------------------

    def _build(
        self,
        start: datetime,
        shop_url: str | None,
        journal_url: str | None,
        esp_url: str | None,
        progress: Progress,
    ) -> None:
        scale = self.scale
        first = start - timedelta(weeks=scale.shop_weeks) if scale.shop_weeks else None
        shop_at = shop_url or f"sqlite:///{self.folder / 'shop.sqlite'}"
        esp_at = esp_url or f"sqlite:///{self.folder / 'esp.sqlite'}"
        build_shop(shop_at, seed=self.seed, since=first, until=start, share=scale.share, progress=progress)
        shop = _open(shop_at)
        customers = _customers(shop)
        progress.start("Writing the ESP's past")
        self._esp_database = esp_schema.connect(esp_at)
        past = write_history(
            self._esp_database,
            self._calendar,
            customers,
            seed=self.seed,
            start=start,
            messages_per_minute=scale.messages_per_minute,
            rates=Rates(),
        )
        later = self._write_shop_past(shop, past, customers, start)
        progress.finish(f"{past.messages:,} messages")
        self._shop = LiveShop(shop, seed=self.seed, share=scale.share, start=start, until=start + _LIVE_DAYS)
        for campaign_id, answers in later.items():
            self._shop.expect_orders(campaign_id, campaign_id, answers)
        self._draw_opt_outs(past)
        self._make_agenda(start)
        progress.start("Working out what would happen without the outage")
        self._planned = self._undisturbed(start)
        progress.finish(f"{len(self._planned):,} messages due in the next days")
        self._start_servers(start, esp_at)
        self._write_plan(shop_at if shop_url else None, journal_url, esp_at if esp_url else None)
        self._worked = start
        ready = threading.Event()
        self._thread = threading.Thread(target=self._follow, args=(ready,), daemon=True, name="world")
        self._thread.start()
        ready.wait(_WAIT_FOR_WORLD)

    def _write_shop_past(
        self, shop: sa.Engine, past: Past, customers: pa.Table, start: datetime
    ) -> dict[int, pa.Table]:
        """Write the shop's side of history; return, per campaign, the orders that are still to come."""
        countries = dict(
            zip(
                customers.column("customer_id").to_pylist(),
                customers.column("country").to_pylist(),
                strict=True,
            )
        )
        when = past.orders.column("ordered_at").to_numpy()
        cut = np.datetime64(start.replace(tzinfo=None), "us")
        with shop.begin() as connection:
            load_email_orders(connection, past.orders.filter(pa.array(when < cut)), countries)
            stamped = past.opt_outs.column("requested_at")
            requests = past.opt_outs.append_column("forwarded_at", stamped)
            kind = pa.array(["unsubscribe"] * requests.num_rows, pa.string())
            numbers = pa.array(np.arange(1, requests.num_rows + 1), pa.int64())
            load(
                connection,
                CONSENT_REQUESTS,
                requests.append_column("kind", kind).append_column("request_id", numbers),
            )
            receipts = past.receipts.append_column("received_at", past.receipts.column("occurred_at"))
            numbers = pa.array(np.arange(1, receipts.num_rows + 1), pa.int64())
            load(connection, WEBHOOK_RECEIPTS, receipts.append_column("receipt_id", numbers))
            reset_sequences(connection, METADATA)
        coming = past.orders.filter(pa.array(when >= cut))
        zoned = coming.column("ordered_at").cast(pa.timestamp("us", "UTC"))
        coming = coming.set_column(coming.schema.get_field_index("ordered_at"), "ordered_at", zoned)
        return {
            campaign: coming.filter(pa.array(coming.column("campaign_id").to_numpy() == campaign))
            for campaign in np.unique(coming.column("campaign_id").to_numpy()).tolist()
        }

    def _draw_opt_outs(self, past: Past) -> None:
        ids = past.subscribers
        both = list_members(self.seed, NEWSLETTER, ids) & list_members(self.seed, SALE_ALERTS, ids)
        self._opt_outs = opt_outs(self.seed, self.outage_day, ids[both], self.scale.opt_outs)

    def _make_agenda(self, start: datetime) -> None:
        """Put down what happens when: nightly sign-ups, opt-outs, the steps of the scenario."""
        agenda: list[tuple[datetime, int, Callable[[datetime], None]]] = []
        for night in range(-1, 5):
            agenda.append((self.at(SIGN_UPS_AT.strftime("%H:%M"), day=night), 0, self._sign_up))
        for one in self._opt_outs:
            agenda.append((one.at, 1, lambda at, one=one: self._opt_out(one, at)))  # type: ignore[misc]
        for step in self._steps:
            agenda.append((self.at("00:00") + step.at, 2, lambda at, step=step: self._play(step, at)))  # type: ignore[misc]
        harm = first_harm(self._steps)
        if harm is not None:
            agenda.append((self.at("00:00") + harm, 1, self._begin_impact))
        agenda.sort(key=lambda item: (item[0], item[1]))
        self._agenda = [(at, act) for at, _, act in agenda if at > start]

    def _undisturbed(self, start: datetime) -> dict[Key, datetime]:
        lists = self._list_ids()
        actions: list[Action] = [
            (
                one.at,
                lambda connection, now, one=one: store.unsubscribe(  # type: ignore[misc]
                    connection, [one.customer_id], lists, now
                ),
            )
            for one in self._opt_outs
        ]
        until = start + _LIVE_DAYS
        coming = self._shop.customers_between(start - timedelta(days=2), until)
        for night in range(-1, 5):
            at = self.at(SIGN_UPS_AT.strftime("%H:%M"), day=night)
            if start < at <= until:
                fresh = [
                    one
                    for one in coming
                    if at - timedelta(days=1) <= one["created_at"].replace(tzinfo=UTC) < at
                ]
                actions.append(
                    (at, lambda connection, now, fresh=fresh: self._sign_up_directly(connection, now, fresh))  # type: ignore[misc]
                )
        return run_undisturbed(
            self._esp_database,
            self.folder / "undisturbed",
            self._settings(),
            start=start,
            until=until,
            actions=actions,
        )

    def _settings(self) -> Settings:
        return Settings(
            seed=self.seed,
            messages_per_minute=self.scale.messages_per_minute,
            batch_size=self.scale.batch_size,
            rates=Rates(unsubscribed=0.0),
            bounce_blocklist_after=0,
            unsubscribe_url="https://shop.example/unsubscribe/{campaign}/{subscriber}",
        )

    def _start_servers(self, start: datetime, esp_at: str) -> None:
        self.clock = DrivenClock.create(self.folder / "clock.json", start)
        self.sink = Sink.start(self.folder, clock=f"driven:{self.clock.path}")
        self._webhooks = WebhookEndpoint(self._shop)
        settings = asdict(self._settings())
        rates = settings.pop("rates")
        self.esp = SimulatedEsp.start(
            self.folder,
            clock=self.clock,
            seed=self.seed,
            smtp_port=self.sink.smtp_port,
            db_url=esp_at,
            settings=settings,
            rates=rates,
            webhook_url=self._webhooks.url,
            follow=False,
        )
        self._api = httpx.Client(base_url=self.esp.api_url, auth=(self.esp.user, self.esp.token), timeout=60)

    def _write_plan(self, shop_url: str | None, journal_url: str | None, esp_url: str | None) -> None:
        public_key = self._write_key()
        self.env |= {
            "MAILSTAY_ESP_USER": self.esp.user,
            "MAILSTAY_ESP_TOKEN": self.esp.token,
            "MAILSTAY_SIGNING_KEY": str(self.folder / "signing-key.pem"),
            "MAILSTAY_SEED_ADDRESS": "seed@probe.example",
        }
        for name, url in (
            ("MAILSTAY_SHOP_URL", shop_url),
            ("MAILSTAY_JOURNAL_URL", journal_url),
            ("MAILSTAY_ESP_URL", esp_url),
        ):
            if url:
                self.env[name] = url
        plan = _plan(
            esp=self.esp,
            seed_url=self.sink.seed_url,
            public_key=public_key,
            messages_per_minute=self.scale.messages_per_minute,
            shop={"url_env": "MAILSTAY_SHOP_URL"} if shop_url else {"url": "sqlite:///shop.sqlite"},
            journal={"journal_env": "MAILSTAY_JOURNAL_URL"}
            if journal_url
            else {"journal": "sqlite:///journal.sqlite"},
            esp_source={"url_env": "MAILSTAY_ESP_URL"} if esp_url else {"url": "sqlite:///esp.sqlite"},
        )
        lines = [f"{name}={value}\n" for name, value in sorted(self.env.items())]
        (self.folder / "env").write_text("".join(lines))
        (self.folder / "env").chmod(0o600)
        head = "# The plan of a drill: written by tasks.drills.World, everything in it is simulated.\n"
        self.plan_path.write_text(head + yaml.safe_dump(plan, sort_keys=False, allow_unicode=True))

    def _write_key(self) -> str:
        """Write the drill's signing key, made from the seed, and return its public half in hex."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        key = Ed25519PrivateKey.from_private_bytes(
            bytes.fromhex(sha256_hex(f"drill key {self.seed}".encode()))
        )
        path = self.folder / "signing-key.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        path.chmod(0o600)
        return key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw).hex()

    # Following the clock ----------------------------------------------------------------------------------------

    def _follow(self, ready: threading.Event) -> None:
        with self.clock.follow("world") as follower:
            ready.set()
            try:
                while not self._stop.is_set():
                    now = self.clock.now()
                    if now > self._worked:
                        self._work_until(now)
                        follower.caught_up(now)
                    else:
                        time.sleep(_POLL_SECONDS)
            except BaseException as error:
                self._failure = error

    def _work_until(self, target: datetime) -> None:
        while self._agenda and self._agenda[0][0] <= target:
            at, act = self._agenda.pop(0)
            self._bring(at)
            act(at)
        self._bring(target)

    def _bring(self, moment: datetime) -> None:
        """Let ESP and shop go on to `moment`: first what is sent, then what the shop sees of it."""
        if self.esp.alive and not self.esp.work_until(moment):
            died_at = self.esp.died_at or moment
            self._read_mailbox()
            self._shop.bring_to(died_at)
            self._begin_impact(died_at)
        self._read_mailbox()
        self._shop.bring_to(moment)
        self._worked = moment

    def _read_mailbox(self) -> None:
        """Let people answer the mail that has arrived since the last look."""
        size = self.sink.mailbox.stat().st_size
        if size == self._mailbox_offset:
            return
        arrived = list(read_mailbox(self.sink.mailbox, self._mailbox_offset, size))
        self._mailbox_offset = size
        for campaign_id in sorted({mail.campaign_id for mail in arrived}):
            original = self._original(campaign_id)
            ids, sent, planned = [], [], []
            for mail in arrived:
                if mail.campaign_id != campaign_id:
                    continue
                key = (original, mail.subscriber_id)
                self._deliveries.append(Delivery(key, mail.received_at))
                if key not in self._answered:  # a second copy sells nothing more
                    self._answered.add(key)
                    ids.append(mail.subscriber_id)
                    sent.append(mail.received_at)
                    planned.append(self._planned.get(key, mail.received_at))
            if ids and original in self._kinds:
                answers = respond_to_send(
                    self.seed, original, self._kinds[original], ids, _stamps(sent), _stamps(planned)
                )
                for person, at, value in self._shop.expect_orders(campaign_id, original, answers):
                    self._bookings.append(Booking((original, person), at, value))

    def _original(self, campaign_id: int) -> int:
        if campaign_id not in self._originals:
            with self._esp_database.connect() as connection:
                attribs = store.campaign_attribs(connection, campaign_id)
            self._originals[campaign_id] = store.original_campaign(campaign_id, attribs)
        return self._originals[campaign_id]

    # What happens -----------------------------------------------------------------------------------------------

    def _play(self, step: Step, at: datetime) -> None:
        if step.do == "fault":
            settings = dict(step.settings)
            if "after_share" in settings:
                settings["after"] = round(settings.pop("after_share") * self._newsletter_audience())
            self.esp.fault(step.what, **settings)
        elif step.do == "clear":
            self.esp.clear(step.what)
        elif step.do == "kill":
            self.esp.kill(at)
        elif step.do == "restart":
            if not self.esp.alive:
                self.esp.restart(at)
        else:
            self.esp.page.post(step.what, step.settings.get("body", ""), at=at)

    def _newsletter_audience(self) -> int:
        campaign = next(
            one.id
            for one in self._calendar
            if one.kind == "newsletter" and one.send_at.date() == self.outage_day
        )
        return sum(1 for key in self._planned if key[0] == campaign)

    def _begin_impact(self, at: datetime) -> None:
        """Note the start of the outage once, and which rows there were then."""
        if self._impact_started_at is None:
            self._impact_started_at = at
            self._born = self._census()

    def _opt_out(self, one: OptOut, at: datetime) -> None:
        """Somebody opts out at the shop's own endpoint; the shop asks the ESP to unsubscribe them."""
        request = self._shop.record_consent(one.customer_id, "unsubscribe", at)
        body = {"ids": [one.customer_id], "action": "unsubscribe", "target_list_ids": self._list_ids()}
        if self._asked("PUT", "/api/subscribers/lists", body):
            self._shop.forwarded(request, at)

    def _sign_up(self, at: datetime) -> None:
        """Hand the customers of the last day to the ESP."""
        for customer in self._shop.new_customers(at - timedelta(days=1), at):
            request = self._shop.record_consent(customer["customer_id"], "subscribe", at)
            body = {
                "email": customer["email"],
                "name": f"Customer {customer['customer_id']}",
                "status": "enabled",
                "attribs": {"customer_id": customer["customer_id"], "country": customer["country"]},
                "lists": self._lists_of(customer["customer_id"]),
                "preconfirm_subscriptions": True,
            }
            if self._asked("POST", "/api/subscribers", body):
                self._shop.forwarded(request, at)

    def _sign_up_directly(
        self, connection: sa.Connection, now: datetime, customers: list[dict[str, Any]]
    ) -> None:
        for customer in customers:
            store.create_subscriber(
                connection,
                uuid=stable_uuid(self.seed, "subscriber", customer["customer_id"]),
                email=customer["email"],
                name=f"Customer {customer['customer_id']}",
                status="enabled",
                attribs={"customer_id": customer["customer_id"], "country": customer["country"]},
                list_ids=self._lists_of(customer["customer_id"]),
                subscription="confirmed",
                now=now,
            )

    def _asked(self, method: str, path: str, body: dict[str, Any]) -> bool:
        """Ask the ESP for something and return whether it did it."""
        if not self.esp.alive:
            return False
        try:
            return self._api.request(method, path, json=body).is_success
        except httpx.HTTPError:
            return False

    def _lists_of(self, customer_id: int) -> list[int]:
        ids = np.array([customer_id], dtype=np.int64)
        return [one for one in (1, 2, 3) if list_members(self.seed, one, ids)[0]]

    def _list_ids(self) -> list[int]:
        return sorted({one.list_id for one in self._calendar})

    # Truth ------------------------------------------------------------------------------------------------------

    def _opted_out_times(self) -> dict[int, datetime]:
        now = self.clock.now()
        return {one.customer_id: one.at for one in self._opt_outs if one.at <= now}

    def _message_truth(
        self,
        start: datetime,
        restored: datetime,
        opted_out: Mapping[int, datetime],
        useful: Mapping[int, datetime],
    ) -> MessageTruth:
        with self._esp_database.connect() as connection:
            messages = esp_schema.MESSAGES
            rows = connection.execute(
                sa.select(messages.c.campaign_id, messages.c.subscriber_id).where(
                    messages.c.status == "sending"
                )
            ).all()
        return message_truth(
            self._planned,
            self._deliveries,
            unknown={(self._original(row.campaign_id), row.subscriber_id) for row in rows},
            opted_out=opted_out,
            latest_useful=useful,
            impact_started_at=start,
            restored_at=restored,
        )

    def _loss_truth(self, start: datetime, restored: datetime, settled: datetime) -> LossTruth:
        undisturbed = []
        for campaign_id in sorted({key[0] for key in self._planned}):
            mine = sorted((key[1], at) for key, at in self._planned.items() if key[0] == campaign_id)
            times = _stamps([at for _, at in mine])
            answers = respond_to_send(
                self.seed, campaign_id, self._kinds[campaign_id], [one for one, _ in mine], times, times
            )
            undisturbed += [
                Booking((campaign_id, row["subscriber_id"]), row["ordered_at"], row["value_minor"])
                for row in answers.to_pylist()
            ]
        return loss_truth(
            undisturbed,
            self._bookings,
            self._planned,
            impact_started_at=start,
            restored_at=restored,
            settled_at=settled,
            currency=CURRENCY,
        )

    def _rows_at_risk(self, start: datetime, snapshots: Mapping[str, datetime] | None) -> dict[str, int]:
        if snapshots is None:
            snapshots = {
                source: max(moments)
                for source, known in self._consistency.items()
                if (moments := [at for at in known if at <= start])
            }
        shop_tables = {table.name for table in METADATA.sorted_tables}
        counts = {}
        for table, born in self._born.items():
            since = snapshots.get("shop" if table in shop_tables else "esp")
            counts[table] = sum(1 for at in born if since is None or at > since)
        return counts

    def _census(self) -> dict[str, list[datetime]]:
        """Return, per table, when the rows of the last days were born."""
        since = self.at("00:00", day=-3).replace(tzinfo=None)
        lines = {
            ORDER_LINES: (ORDERS, ORDER_LINES.c.order_id == ORDERS.c.order_id, ORDERS.c.ordered_at),
            RETURN_LINES: (RETURNS, RETURN_LINES.c.return_id == RETURNS.c.return_id, RETURNS.c.returned_at),
        }
        times = ("created_at", "ordered_at", "returned_at", "requested_at", "received_at", "queued_at")
        census: dict[str, list[datetime]] = {}
        for engine, metadata in (
            (self._shop.engine, METADATA),
            (self._esp_database, esp_schema.METADATA),
        ):
            with engine.connect() as connection:
                for table in metadata.sorted_tables:
                    if table in lines:
                        parent, joined, born = lines[table]
                        query = sa.select(born).select_from(table).join(parent, joined)
                    else:
                        name = next((one for one in (*times, "occurred_at") if one in table.c), None)
                        if name is None:
                            continue
                        born = table.c[name]
                        query = sa.select(born)
                    found = connection.scalars(query.where(born > since)).all()
                    census[table.name] = sorted(at.replace(tzinfo=UTC) for at in found)
        return census


def _open(url: str) -> sa.Engine:
    sqlite = url.startswith("sqlite")
    engine = sa.create_engine(url, connect_args={"check_same_thread": False} if sqlite else {})
    if sqlite:
        with engine.connect() as connection:  # readers such as a backup then never block the shop
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
    return engine


def _stamps(moments: list[datetime]) -> np.ndarray[tuple[int], np.dtype[np.datetime64]]:
    return np.array([one.astimezone(UTC).replace(tzinfo=None) for one in moments], dtype="datetime64[us]")


def _customers(shop: sa.Engine) -> pa.Table:
    with shop.connect() as connection:
        rows = connection.execute(sa.select(CUSTOMERS).order_by(CUSTOMERS.c.customer_id)).all()
    return pa.Table.from_pylist([dict(row._mapping) for row in rows])


def _plan(
    *,
    esp: SimulatedEsp,
    seed_url: str,
    public_key: str,
    messages_per_minute: int,
    shop: dict[str, str],
    journal: dict[str, str],
    esp_source: dict[str, str],
) -> dict[str, Any]:
    """Return the content of the world's plan: every key of `data/plan.example.yaml`."""
    expectations = REPOSITORY / "data" / "expectations"
    return {
        "version": 1,
        "name": "Example Shop (simulated)",
        "clock": "driven:clock.json",
        **journal,
        "state": "state",
        "reports": "reports",
        "store": {
            "url": "store",
            "signing_key_env": "MAILSTAY_SIGNING_KEY",
            "public_key": public_key,
            "anchors": {},
        },
        "retention": {"keep_last": 7, "keep_daily": 14, "keep_weekly": 8, "keep_monthly": 12},
        "sources": {
            "shop": {
                **shop,
                "mapping": "shop",
                "contracts": str(expectations / "shop"),
                "backup_every": 1440,
            },
            "esp": {
                **esp_source,
                "mapping": "listmonk",
                "contracts": str(expectations / "listmonk"),
                "backup_every": 1440,
            },
        },
        "providers": {
            PROVIDER: {
                "kind": "listmonk",
                "api_url": esp.api_url,
                "user_env": "MAILSTAY_ESP_USER",
                "token_env": "MAILSTAY_ESP_TOKEN",
                "source": "esp",
                "shop": "shop",
                "status_page": {
                    "url": esp.status_url,
                    "name": PAGE_NAME,
                    "components": [COMPONENTS["sending"], COMPONENTS["api"]],
                },
                "messages_per_minute": messages_per_minute,
                "timeout_seconds": 10,
                "seed_mailbox_url": seed_url,
                "seed_address_env": "MAILSTAY_SEED_ADDRESS",
                "sla_monthly_uptime": 99.9,
                "support": "https://support.esp.example",
            }
        },
        "detection": {
            "suspect_after": 1,
            "confirm_after": 2,
            "clear_after": 3,
            "slow_seconds": 5,
            "stalled_minutes": 10,
        },
        "objects": {
            "contacts": _object(["subscribers", "lists", "memberships"], 1440, 240, 2880),
            "consent": _object(["suppressions"], 1440, 60, 240),
            "templates": _object(["templates"], 1440, 480, 4320),
            "schedule": _object(["campaigns"], 1440, 120, 1440),
            "event_history": _object(["messages", "events"], 1440, 1440, 10080),
            "orders": _object(["orders", "order_lines", "refunds"], 1440, 480, 2880),
        },
        "lateness": {
            "newsletter": {"useful_for_minutes": 2880, "when_late": "send"},
            "launch": {"useful_for_minutes": 150, "when_late": "send"},
            "sale": {"useful_for_minutes": 600, "when_late": "send"},
            "winback": {"useful_for_minutes": 10080, "when_late": "reschedule", "reschedule_minutes": 120},
            "other": {"useful_for_minutes": 1440, "when_late": "needs_approval"},
        },
        "ramp": {
            "canary": 50,
            "factor": 1.8,
            "max_step": 2000,
            "max_bounce_rate": 0.05,
            "max_complaint_rate": 0.001,
        },
        "approval": {"policy_actions": ["pause", "unschedule"], "wait_minutes": 15},
        "channels": {
            "marketing": {"kind": "folder", "path": "outbox/marketing"},
            "leadership": {"kind": "folder", "path": "outbox/leadership"},
            "audience": {"kind": "folder", "path": "outbox/audience"},
        },
        "stakeholders": {
            "marketing_team": {"channel": "marketing", "report": "tactical", "every_minutes": 30},
            "leadership": {
                "channel": "leadership",
                "report": "executive",
                "every_minutes": 60,
                "from_severity": 3,
            },
            "subscribers": {
                "channel": "audience",
                "report": "audience",
                "every_minutes": 240,
                "from_severity": 2,
            },
        },
        "roles": {
            "incident_commander": {"filled_by": "on-call rota of marketing operations"},
            "deputy": {"filled_by": "on-call rota of data engineering"},
            "approver": {"filled_by": "head of e-mail marketing"},
            "scribe": {"filled_by": "marketing operations"},
            "customer_liaison": {"filled_by": "customer service desk"},
            "internal_liaison": {"filled_by": "communications desk"},
        },
        "report": {
            "currency": CURRENCY,
            "timezone": "UTC",
            "country": "GB",
            "settle_hours": 48,
            "baseline_days": 28,
        },
    }


def _object(tables: list[str], rpo: int, rto: int, mtpd: int) -> dict[str, Any]:
    return {"tables": tables, "rpo_minutes": rpo, "rto_minutes": rto, "mtpd_minutes": mtpd}
