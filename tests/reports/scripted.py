"""A shop and its provider by script: a history of any size in two DuckDB files, with the true loss of an outage.

A campaign goes out at the provider's speed; what falls into the outage (or, of a partial one, all but a share of it)
goes out after it, in the same order. Who buys, for how much and how long after the message follows from the seed
alone; lateness only takes buyers away. So the difference to the punctual world is what the outage did, exactly.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from tasks.core import DrivenClock
from tasks.incidents import Journal
from tasks.plan import load_plan

HOUR = 3_600_000_000
SETTLE_HOURS = 48
DOMAINS = ("gmail.com", "gmail.com", "gmail.com", "outlook.com", "yahoo.com", "icloud.com", "post.example")
RATES = {"newsletter": (0.03, 24.0), "sale": (0.10, 6.0)}
"""Per kind the share of recipients who buy from a punctual message, and the hours after which half have gone."""


@dataclass(frozen=True)
class Script:
    """What happens: one outage in a history of weekly newsletters and some one-day sales.

    Attributes:
        started, restored: the outage; naive UTC.
        sends: further campaigns beside the weekly newsletter (Tuesdays 09:00): kind and time.
        through: share of the messages that got out all the same while it lasted.
        summary: of the incident.
        per_hour: orders an hour by day that no campaign brought.
    """

    started: datetime
    restored: datetime
    sends: tuple[tuple[str, datetime], ...]
    through: float = 0.0
    summary: str = "the API refuses connections"
    subscribers: int = 3000
    weeks: int = 26
    per_hour: float = 9.0
    messages_per_minute: int = 600
    seed: int = 11
    opted_out: int = 0
    """People who unsubscribe an hour into the outage, before their late message."""
    unsubscribed: int = 0
    """People who unsubscribe an hour after their late message, from its link."""
    bounces: dict[str, float] = field(default_factory=dict)
    """Share of what goes out after the outage that bounces, by mailbox domain; 1 % elsewhere."""


@dataclass
class Shop:
    """The files of a history, with the truth."""

    folder: Path
    script: Script
    orders: pa.Table
    messages: pa.Table
    campaigns: list[tuple[int, str, str, datetime]]
    bounced: pa.Table
    consent: pa.Table
    true_net_minor: int
    clock: DrivenClock
    incident: str = ""

    @property
    def plan(self) -> Path:
        return self.folder / "plan.yaml"


def build(folder: Path, script: Script) -> Shop:
    """Write the plan, the clock and the state of both databases before the outage; the first snapshots are taken."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(script.seed)
    begin = (script.started - timedelta(weeks=script.weeks)).replace(hour=0, minute=0, second=0)
    end = script.restored + timedelta(hours=SETTLE_HOURS + 24)
    campaigns = _campaigns(script, begin, end)
    messages, bounced, mail, punctual = _mail(script, campaigns, rng)
    orders = pa.concat_tables([_walk_ins(script, begin, end, rng), mail])
    window = (script.started, script.restored + timedelta(hours=SETTLE_HOURS + 1))
    loss = _inside(punctual, *window) - _inside(mail, *window)
    key = folder / "key.pem"
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True, capture_output=True
    )
    os.environ["MAILSTAY_SCRIPTED_KEY"] = str(key)
    clock = DrivenClock.create(
        folder / "clock.json", (script.started - timedelta(hours=2)).replace(tzinfo=UTC)
    )
    (folder / "plan.yaml").write_text(yaml.safe_dump(_plan(folder, script)), encoding="utf-8")
    shop = Shop(folder, script, orders, messages, campaigns, bounced, _consent(script, messages), loss, clock)
    snapshot(shop)
    return shop


def play(shop: Shop) -> None:
    """Journal the outage and its end; the clock stands an hour after the end."""
    script = shop.script
    began, over = script.started.replace(tzinfo=UTC), script.restored.replace(tzinfo=UTC)
    loaded = load_plan(shop.plan)
    shop.clock.set(began + timedelta(minutes=4))
    with Journal.open(loaded.journal_url(), shop.clock) as journal:
        incident = journal.declare(
            "listmonk",
            cause_class="technical_failure",
            summary=script.summary,
            detected_at=shop.clock.now(),
            declared_by="monitor",
            impact_started_at=began,
            state="investigating",
        )
        shop.incident = incident.id
        journal.set_timestamp(incident.id, "acknowledged_at", shop.clock.now() + timedelta(minutes=2), "desk")
        shop.clock.set(over)
        journal.set_timestamp(incident.id, "mitigated_at", over, "monitor")
        journal.put_state(f"recover/{incident.id}/restored", {"at": over.isoformat()})
        held = {
            str(number): {
                "planned_at": at.replace(tzinfo=UTC).isoformat(),
                "verdict": "send",
                "why": "still useful",
            }
            for number, _, _, at in shop.campaigns
            if script.started - timedelta(hours=1) <= at < script.restored
        }
        journal.put_state(f"ledger/{incident.id}", {"campaigns": held})
        shop.clock.set(over + timedelta(hours=1))
        for state in ("monitoring", "resolved"):
            journal.transition(incident.id, state, "desk", "measured")


def snapshot(shop: Shop, *, hide_after: datetime | None = None) -> None:
    """Write both databases as they are by the clock and take valid snapshots of them.

    `hide_after` leaves out orders and bounces after that moment: they come late.
    """
    from tasks.snapshots import take_snapshot
    from tasks.snapshots.steps import open_plan_store
    from tasks.sources import open_source

    now = shop.clock.now().replace(tzinfo=None)
    _write(shop, now, min(hide_after or now, now))
    loaded = load_plan(shop.plan)
    store = open_plan_store(loaded, create=True)
    for name in ("shop", "esp"):
        manifest = take_snapshot(
            open_source(name, loaded.source_url(name)), store, clock=shop.clock, plan_digest=loaded.digest
        )
        store.mark(manifest.snapshot_id, "valid", findings=[], at=shop.clock.now(), by="test")


def settle(shop: Shop) -> None:
    """Let the clock pass the end of the window and take the snapshots that settle the figures."""
    shop.clock.set(shop.script.restored.replace(tzinfo=UTC) + timedelta(hours=SETTLE_HOURS + 2))
    snapshot(shop)


def reopened(folder: Path) -> Shop:
    """Return a history whose snapshots and journal are written: enough to review it."""
    os.environ["MAILSTAY_SCRIPTED_KEY"] = str(folder / "key.pem")
    nothing = pa.table({})
    moment = datetime(2011, 1, 1)
    return Shop(
        folder,
        Script(moment, moment, ()),
        nothing,
        nothing,
        [],
        nothing,
        nothing,
        0,
        DrivenClock(folder / "clock.json"),
    )


def review(shop: Shop) -> tuple[Any, Any, Any, Any]:
    """Run the steps of the flow `review` in its order, without a server; return case, figures, content, report."""
    from prefect.logging import disable_run_logger

    from tasks.reports import steps

    with disable_run_logger():
        case = steps.gather_case.fn(str(shop.plan), shop.incident, False)
        messages = steps.count_messages.fn(case)
        money = steps.estimate_loss.fn(case, messages)
        reputation = steps.check_sender_reputation.fn(case)
        inboxes = steps.check_mailbox_providers.fn(case)
        data = steps.count_data.fn(case)
        objectives = steps.hold_objectives.fn(case)
        findings = steps.hold_plan_against_journal.fn(case, objectives)
        figures = steps.leave_action_items.fn(
            case, messages, money, reputation, data, objectives, findings, inboxes
        )
        content, written = steps.write_review.fn(case, figures)
        steps.tell_stakeholders.fn(case, content, written)
    return case, figures, content, written


def _campaigns(script: Script, begin: datetime, end: datetime) -> list[tuple[int, str, str, datetime]]:
    first = begin + timedelta(days=(1 - begin.weekday()) % 7, hours=9)
    weekly = [("newsletter", first + timedelta(weeks=n)) for n in range((end - first).days // 7 + 1)]
    planned = sorted([*weekly, *script.sends], key=lambda one: one[1])
    return [
        (number, f"{kind.capitalize()} of {at.day} {at:%b}", kind, at)
        for number, (kind, at) in enumerate(planned, 1)
        if at < end
    ]


def _mail(script: Script, campaigns: list[Any], rng: Any) -> tuple[pa.Table, pa.Table, pa.Table, pa.Table]:
    """Return messages, bounces, and the orders that they brought, then those of the punctual world."""
    people = np.arange(1, script.subscribers + 1)
    domain = people % len(DOMAINS)
    start, over = _us(script.started), _us(script.restored)
    place = ((people - 1) * 60_000_000) // script.messages_per_minute
    sent, bounced, bought, due = [], [], [], []
    for number, _, kind, at in campaigns:
        planned = _us(at) + place
        hit = (planned >= start) & (planned < over) & (rng.random(len(people)) >= script.through)
        late = np.where(
            hit, over + 1_800_000_000 + np.cumsum(hit) * 60_000_000 // script.messages_per_minute, planned
        )
        late = np.where(~hit & (planned >= start), np.maximum(planned, start), late)
        share = np.full(len(people), 0.01)
        for name, rate in script.bounces.items():
            share[(np.array(DOMAINS)[domain] == name) & (late >= over)] = rate
        gone = rng.random(len(people)) < share
        sent.append((np.full(len(people), number), people, late, np.where(gone, 550, 250)))
        bounced.append((np.full(gone.sum(), number), people[gone], late[gone] + 2_000_000))
        rate, half = RATES[kind]
        draw = rng.random(len(people)) / rate
        delay = np.minimum(rng.exponential(2.5, len(people)), 24.0) * HOUR
        value = np.round(np.exp(rng.normal(np.log(6000), 0.6, len(people)))).astype("int64")
        for times, found in ((late, bought), (planned, due)):
            buys = ~gone & (draw < 0.5 ** ((times - planned) / HOUR / half))
            found.append(
                (
                    people[buys],
                    (times + delay.astype("int64"))[buys],
                    value[buys],
                    np.full(buys.sum(), number),
                )
            )
    messages = [np.concatenate(one) for one in zip(*sent, strict=True)]
    back = [np.concatenate(one) for one in zip(*bounced, strict=True)]
    return (
        _table(("campaign_id", "subscriber_id", "queued_at", "smtp_code"), messages),
        _table(("campaign_id", "subscriber_id", "created_at"), back),
        _orders(*(np.concatenate(one) for one in zip(*bought, strict=True))),
        _orders(*(np.concatenate(one) for one in zip(*due, strict=True))),
    )


def _consent(script: Script, messages: pa.Table) -> pa.Table:
    """Return opt-outs, those of the outage first, of people whose message went out after it."""
    over = pa.scalar(script.restored, pa.timestamp("us"))
    late = messages.filter((pc.field("queued_at") >= over) & (pc.field("smtp_code") == 250))
    late = late.filter(pc.field("campaign_id") == pc.min(late["campaign_id"])) if late.num_rows else late
    late = late.slice(0, script.opted_out + script.unsubscribed)
    early = np.arange(late.num_rows) < script.opted_out
    asked = np.where(early, _us(script.started) + HOUR, late["queued_at"].to_numpy().astype("int64") + HOUR)
    campaign = np.where(early, 0, late["campaign_id"].to_numpy())
    return _table(
        ("customer_id", "campaign_id", "created_at"), [late["subscriber_id"].to_numpy(), campaign, asked]
    )


def _walk_ins(script: Script, begin: datetime, end: datetime, rng: Any) -> pa.Table:
    """Orders that no campaign brought: by day from 07:00 to 23:00, fewer on Sundays."""
    hours = np.arange(_us(begin), _us(end), HOUR)
    of_day = hours // HOUR % 24
    rate = np.where((of_day >= 7) & (of_day < 23), np.sin((of_day - 6) / 17 * np.pi) * 1.4, 0.03)
    rate = rate * script.per_hour * np.where((hours // (24 * HOUR) + 4) % 7 == 0, 0.6, 1.0)
    count = rng.poisson(rate)
    at = np.repeat(hours, count) + rng.integers(0, HOUR, count.sum())
    value = np.round(np.exp(rng.normal(np.log(5000), 0.7, len(at)))).astype("int64")
    people = rng.integers(1, script.subscribers + 1, len(at))
    return _orders(people, at, value, np.zeros(len(at), "int64"))


def _orders(people: Any, at: Any, value: Any, campaign: Any) -> pa.Table:
    return _table(("customer_id", "ordered_at", "total_minor", "campaign_id"), [people, at, value, campaign])


def _table(names: tuple[str, ...], columns: list[Any]) -> pa.Table:
    timed = {"queued_at", "ordered_at", "created_at"}
    return pa.table(
        {
            name: pa.array(one, pa.timestamp("us") if name in timed else pa.int64())
            for name, one in zip(names, columns, strict=True)
        }
    )


def _inside(orders: pa.Table, start: datetime, end: datetime) -> int:
    at = orders["ordered_at"].to_numpy().astype("int64")
    return int(orders["total_minor"].to_numpy()[(at >= _us(start)) & (at < _us(end))].sum())


def _us(at: datetime) -> int:
    return round(at.replace(tzinfo=UTC).timestamp()) * 1_000_000


def _write(shop: Shop, now: datetime, known: datetime) -> None:
    people, messages, orders, bounced = shop.script.subscribers, shop.messages, shop.orders, shop.bounced
    domains = "[" + ", ".join(f"'{one}'" for one in DOMAINS) + "]"
    campaigns = pa.table(
        {
            "id": [one[0] for one in shop.campaigns],
            "name": [one[1] for one in shop.campaigns],
            "kind": [one[2] for one in shop.campaigns],
            "planned": pa.array([one[3] for one in shop.campaigns], pa.timestamp("us")),
        }
    )
    given_tables = {
        "messages_": messages,
        "orders_": orders,
        "bounced_": bounced,
        "consent_": shop.consent,
        "campaigns_": campaigns,
    }
    for name, statements in {
        "esp": [
            "CREATE TABLE subscribers(id BIGINT PRIMARY KEY, email VARCHAR, status VARCHAR, created_at TIMESTAMP,"
            " updated_at TIMESTAMP)",
            f"INSERT INTO subscribers SELECT i, 'p' || i || '@' || {domains}[1 + i % {len(DOMAINS)}], 'enabled',"
            f" TIMESTAMP '2009-01-01', TIMESTAMP '2009-01-01' FROM range(1, {people + 1}) t(i)",
            "CREATE TABLE lists(id BIGINT PRIMARY KEY, name VARCHAR)",
            "INSERT INTO lists VALUES (1, 'Everybody')",
            "CREATE TABLE templates(id BIGINT PRIMARY KEY, name VARCHAR, updated_at TIMESTAMP)",
            "CREATE TABLE subscriber_lists(subscriber_id BIGINT, list_id BIGINT, status VARCHAR, created_at TIMESTAMP,"
            " updated_at TIMESTAMP, PRIMARY KEY (subscriber_id, list_id))",
            "INSERT INTO subscriber_lists SELECT id, 1, 'confirmed', created_at, updated_at FROM subscribers",
            "CREATE TABLE campaigns(id BIGINT PRIMARY KEY, name VARCHAR, status VARCHAR, send_at TIMESTAMP,"
            " started_at TIMESTAMP, to_send BIGINT, attribs JSON, created_at TIMESTAMP, updated_at TIMESTAMP)",
            f"INSERT INTO campaigns SELECT id, name, CASE WHEN planned < '{now}' THEN 'finished' ELSE 'scheduled' END,"
            " planned,"
            f" CASE WHEN planned < '{now}' THEN planned END, {people}, json_object('kind', kind),"
            " planned - INTERVAL 3 DAY, planned - INTERVAL 3 DAY FROM campaigns_",
            "CREATE TABLE campaign_lists(id BIGINT PRIMARY KEY, campaign_id BIGINT, list_id BIGINT)",
            "INSERT INTO campaign_lists SELECT id, id, 1 FROM campaigns",
            "CREATE TABLE messages(id BIGINT PRIMARY KEY, campaign_id BIGINT, subscriber_id BIGINT, status VARCHAR,"
            " queued_at TIMESTAMP, updated_at TIMESTAMP, smtp_code BIGINT)",
            f"INSERT INTO messages SELECT campaign_id * {people} + subscriber_id, campaign_id, subscriber_id,"
            " CASE WHEN smtp_code = 250 THEN 'accepted' ELSE 'failed' END, queued_at, queued_at, smtp_code"
            f" FROM messages_ WHERE queued_at <= '{now}'",
            "CREATE TABLE bounces(id BIGINT PRIMARY KEY, subscriber_id BIGINT, campaign_id BIGINT, type VARCHAR,"
            " created_at TIMESTAMP)",
            f"INSERT INTO bounces SELECT campaign_id * {people} + subscriber_id, subscriber_id, campaign_id, 'soft',"
            f" created_at FROM bounced_ WHERE created_at <= '{known}'",
            "CREATE TABLE campaign_views(id BIGINT PRIMARY KEY, campaign_id BIGINT, subscriber_id BIGINT,"
            " created_at TIMESTAMP)",
            f"INSERT INTO campaign_views SELECT id, campaign_id, subscriber_id, queued_at + INTERVAL 1 HOUR"
            " FROM messages"
            f" WHERE hash(id) % 5 = 0 AND queued_at + INTERVAL 1 HOUR <= '{now}'",
            "CREATE TABLE link_clicks(id BIGINT PRIMARY KEY, campaign_id BIGINT, subscriber_id BIGINT,"
            " created_at TIMESTAMP)",
        ],
        "shop": [
            "CREATE TABLE customers(customer_id BIGINT PRIMARY KEY, email VARCHAR, created_at TIMESTAMP)",
            f"INSERT INTO customers SELECT i, 'p' || i || '@mail.example', TIMESTAMP '2009-01-01'"
            f" FROM range(1, {people + 1}) t(i)",
            "CREATE TABLE orders(order_id VARCHAR PRIMARY KEY, customer_id BIGINT, ordered_at TIMESTAMP, kind VARCHAR,"
            " channel VARCHAR, campaign_id BIGINT, total_minor BIGINT, currency VARCHAR)",
            "INSERT INTO orders SELECT 'o' || row_number() OVER (), customer_id, ordered_at, 'sale', 'web',"
            " nullif(campaign_id, 0), total_minor, 'GBP' FROM orders_"
            f" QUALIFY ordered_at <= '{known}'",
            "CREATE TABLE returns(return_id VARCHAR PRIMARY KEY, customer_id BIGINT, returned_at TIMESTAMP,"
            " total_minor BIGINT, currency VARCHAR)",
            "CREATE TABLE consent_requests(request_id BIGINT PRIMARY KEY, customer_id BIGINT, kind VARCHAR,"
            " campaign_id BIGINT, requested_at TIMESTAMP)",
            "INSERT INTO consent_requests SELECT row_number() OVER (), customer_id, 'unsubscribe',"
            f" nullif(campaign_id, 0), created_at FROM consent_ QUALIFY created_at <= '{known}'",
        ],
    }.items():
        path = shop.folder / f"{name}.duckdb"
        path.unlink(missing_ok=True)
        with duckdb.connect(path) as connection:
            for given, rows in given_tables.items():
                connection.register(given, rows)
            for statement in statements:
                connection.execute(statement)


def _plan(folder: Path, script: Script) -> dict[str, Any]:
    """The example plan, with two DuckDB files as its sources and folders as its channels."""
    example = yaml.safe_load(
        (Path(__file__).resolve().parents[2] / "data" / "plan.example.yaml").read_text(encoding="utf-8")
    )
    listmonk = example["providers"]["listmonk"] | {"messages_per_minute": script.messages_per_minute}
    sources = {
        "shop": {"url": f"duckdb:///{folder}/shop.duckdb", "mapping": "shop", "backup_every": 60},
        "esp": {"url": f"duckdb:///{folder}/esp.duckdb", "mapping": "listmonk", "backup_every": 60},
    }
    kept = ("version", "objects", "lateness", "ramp", "approval", "roles")
    return {
        **{name: example[name] for name in kept if name in example},
        "name": "Kontor & Söhne",
        "clock": "driven:clock.json",
        "journal": "sqlite:///journal.db",
        "state": "state",
        "reports": "reports",
        "store": {"url": "store", "signing_key_env": "MAILSTAY_SCRIPTED_KEY"},
        "sources": sources,
        "providers": {
            "listmonk": {k: listmonk[k] for k in ("kind", "api_url", "source", "shop", "messages_per_minute")}
        },
        "channels": {"leadership": {"kind": "folder", "path": "outbox/leadership"}},
        "stakeholders": {"leadership": {"channel": "leadership", "report": "executive", "every_minutes": 60}},
        "report": {"currency": "GBP", "timezone": "Europe/London", "country": "GB", "settle_hours": SETTLE_HOURS,
                   "baseline_days": 60},
    }  # fmt: skip
