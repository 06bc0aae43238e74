"""A provider's account as a source: whole, resumable, and never without an opt-out that came before it was told."""

from __future__ import annotations

import json
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tasks.checks import default_contracts, load_contracts, run_checks
from tasks.core import DrivenClock, UsageError
from tasks.drills.vendors.server import Answer, Asked
from tasks.exports import KEPT, open_export
from tasks.providers import ProvidersError, ProviderUnavailable, connect_provider
from tasks.snapshots import (
    Store,
    arrow_schema,
    canonical_views,
    connect,
    generate_key,
    restore,
    take_snapshot,
    verify,
)
from tasks.sources import SourceError, open_source, open_target
from tests.exports.conftest import Account
from tests.providers.conftest import plan_of

KINDS = ("brevo", "sendgrid")
Accounts = Callable[..., Account]


def filled(account: Account) -> Account:
    """Have something in every table that the vendor has."""
    vendor = account.vendor
    if account.kind == "brevo":
        vendor.opt_out(3)
        vendor.opt_out(4, on=1)
        vendor.block(5, "hardBounce")
        vendor.happen("requests", 6, "m1")
        vendor.happen("requests", 6, "m1")  # twice the same: two rows
        vendor.write_template("Order", "<p>Thank you</p>")
    else:
        for number, kind in enumerate(
            ("unsubscribes", "bounces", "spam_reports", "invalid_emails", "blocks", "group")
        ):
            vendor.suppress(kind, 3 + number)
        vendor.write_design("Sale", "<p>Sale</p>")
    return account


def findings(store: Store, snapshot_id: str, mapping: str, clock: DrivenClock) -> list[str]:
    """What the contracts that come with Mailstay find in an export, where a table has a key."""
    folder = default_contracts(mapping)
    assert folder is not None
    report = run_checks(
        store,
        snapshot_id,
        load_contracts(folder),
        previous=None,
        docs_folder=None,
        clock=clock,
        mapping=mapping,
    )
    return [one.message for one in report.findings if not one.rule.endswith(".uncontracted")]


# Whole ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_table_of_an_account_is_in_a_snapshot_that_proves_and_comes_back(
    account: Accounts, kind: str, tmp_path: Path
) -> None:
    one = filled(account(kind))
    taken = one.backup()
    assert findings(one.store, taken.snapshot_id, kind, one.clock) == []

    rows = {name: entry.rows for name, entry in taken.tables.items()}
    if kind == "brevo":
        assert rows == {"blocked_contacts": 1, "campaigns": 0, "contacts": 40, "events": 2, "folders": 1, "lists": 1,
                        "templates": 1}  # fmt: skip
    else:
        assert rows == {"blocks": 1, "bounces": 1, "contacts": 40, "designs": 1, "group_suppressions": 1,
                        "invalid_emails": 1, "list_contacts": 40, "lists": 1, "singlesend_stats": 0, "singlesends": 0,
                        "spam_reports": 1, "suppression_groups": 1, "templates": 1, "unsubscribes": 1}  # fmt: skip
    assert verify(one.store, level="content").ok
    assert not (tmp_path / "spool" / "export.sqlite").exists()
    again = one.backup()
    assert {name: entry.checksum for name, entry in again.tables.items()} == {
        name: entry.checksum for name, entry in taken.tables.items()
    }
    target = tmp_path / "restored.sqlite"
    done = restore(
        one.store, taken.snapshot_id, open_target(f"sqlite:///{target}"), clock=one.clock, unproven=True
    )
    assert done.equal
    with closing(sqlite3.connect(target)) as database:
        found = database.execute("SELECT email FROM contacts ORDER BY email").fetchall()
    assert found == sorted((f"c{n}@shop.example",) for n in range(1, 41))


def test_columns_have_the_types_that_the_vendor_documents(account: Accounts) -> None:
    schema = arrow_schema(account("brevo").backup().tables["contacts"])
    assert {field.name: str(field.type) for field in schema} == {
        "id": "int64", "email": "string", "ext_id": "string", "emailBlacklisted": "bool", "smsBlacklisted": "bool",
        "createdAt": "timestamp[us, tz=UTC]", "modifiedAt": "timestamp[us, tz=UTC]", "listIds": "string",
        "listUnsubscribed": "string", "attributes": "string", "other": "string",
    }  # fmt: skip


def test_a_value_of_another_type_and_a_field_that_nobody_documents_are_kept(account: Accounts) -> None:
    one = account("brevo", 2)
    one.vendor.write_contact(1, emailBlacklisted="maybe", rank=1.5)
    taken = one.backup()
    assert [(row["emailBlacklisted"], row["other"]) for row in one.rows(taken, "contacts")] == [
        ('"maybe"', '{"rank":1.5}'),
        ("false", None),
    ]
    facts = {column.name: column.cast for column in taken.tables["contacts"].facts.columns}
    assert (facts["emailBlacklisted"], facts["smsBlacklisted"]) == ("text", None)
    with connect(one.store, {"x": taken.snapshot_id}) as database:
        canonical_views(database, "x", "brevo")
        # What is not clearly allowed is not.
        query = "SELECT status FROM canonical.subscribers ORDER BY subscriber_id"
        assert [row[0] for row in database.execute(query).fetchall()] == ["blocklisted", "enabled"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_canonical_model_says_of_people_what_the_connector_says(account: Accounts, kind: str) -> None:
    one = filled(account(kind))
    if kind == "sendgrid":
        one.vendor.numbered = False  # people and lists by numbers made from SendGrid's own ids
    taken = one.backup()
    provider = connect_provider(kind, plan_of(one.vendor.url, kind=kind), "", one.vendor.token, one.clock)
    with connect(one.store, {"x": taken.snapshot_id}) as database:
        canonical_views(database, "x", kind)  # type: ignore[arg-type]

        def ask(query: str) -> set[tuple[Any, ...]]:
            return set(database.execute(query).fetchall())

        assert ask("SELECT list_id, name FROM canonical.lists") == {
            (it.id, it.name) for it in provider.lists()
        }
        assert ask("SELECT subscriber_id, email FROM canonical.subscribers") == set(
            provider.addresses().items()
        )
        assert ask(
            "SELECT subscriber_id, list_id, m.status, s.status FROM canonical.memberships m"
            " JOIN canonical.subscribers s USING (subscriber_id)"
        ) == {
            (it.subscriber_id, it.list_id, it.status, it.subscriber_status) for it in provider.memberships()
        }
        assert ask("SELECT subscriber_id, reason FROM canonical.suppressions") == {
            (it.subscriber_id, it.reason) for it in provider.suppressions()
        }
        assert ask("SELECT * FROM canonical.messages") == set()


@pytest.mark.integration
def test_the_export_of_listmonk_says_the_same_as_its_database(
    esp: Any, clock: DrivenClock, tmp_path: Path, create: Any
) -> None:
    asked = {"auth": (esp.user, esp.token), "timeout": 20}
    for path, body in (
        ("subscribers/lists", {"ids": [4, 5], "action": "unsubscribe", "target_list_ids": [1]}),
        ("subscribers/blocklist", {"ids": [6]}),
    ):
        httpx.put(f"{esp.api_url}/api/{path}", json=body, **asked).raise_for_status()
    create(name="Sale", attribs={"kind": "sale", "latest_useful_at": "2011-11-20T10:00:00+00:00"})
    number = create(name="Now")
    httpx.put(
        f"{esp.api_url}/api/campaigns/{number}/status", json={"status": "running"}, **asked
    ).raise_for_status()
    clock.advance(90)
    provider = connect_provider("listmonk", plan_of(esp.api_url, 20.0), esp.user, esp.token, clock)
    store = Store.open(str(tmp_path / "store"), signing_key=generate_key(), create=True)
    source = open_export("api", provider, "listmonk", folder=tmp_path / "spool", account=esp.api_url)
    api = take_snapshot(source, store, clock=clock, plan_digest="0" * 64)
    raw = take_snapshot(open_source("db", esp.db_url), store, clock=clock, plan_digest="0" * 64)
    said = []
    for taken, mapping in ((api, "listmonk_api"), (raw, "listmonk")):
        with connect(store, {"x": taken.snapshot_id}) as database:
            names = canonical_views(database, "x", mapping)  # type: ignore[arg-type]
            said.append(
                {
                    name: database.execute(f"SELECT * FROM canonical.{name} ORDER BY ALL").fetchall()
                    for name in names
                }
            )
    assert api.rows > 300
    assert findings(store, api.snapshot_id, "listmonk_api", clock) == []
    assert {name: len(rows) for name, rows in said[0].items() if not rows} == {}
    assert said[0] == said[1]


def test_only_the_tables_that_the_plan_asks_for_are_asked_for(account: Accounts) -> None:
    one = account("brevo", 3)
    with pytest.raises(ProvidersError, match="404"):
        one.vendor.interrupt = lambda call: (
            Answer(404, {"message": "no such thing"}) if "folders" in call else None
        )
        one.backup()
    one.vendor.interrupt = lambda _: None
    assert "folders" not in one.backup(exclude=["folders"]).tables
    with pytest.raises(SourceError, match="no table 'foders'"):
        one.backup(exclude=["foders"])


# Taken up again -------------------------------------------------------------------------------------------------


@pytest.mark.kill
@pytest.mark.parametrize(
    ("kind", "part"),
    [("brevo", 7), ("brevo", 9), ("sendgrid", 10),
     *(pytest.param(kind, part, marks=pytest.mark.slow) for kind, most in (("brevo", 11), ("sendgrid", 26))
       for part in range(1, most))],
)  # fmt: skip
def test_an_export_that_was_killed_goes_on_and_asks_for_nothing_again(
    account: Accounts, kind: str, part: int, tmp_path: Path
) -> None:
    one = filled(account(kind, 2500 if kind == "brevo" else 40))
    began = one.clock.now()
    assert one.backup_killed_at(f"export.part#{part}") == -signal.SIGKILL
    assert one.store.snapshot_ids() == []
    assert oct((tmp_path / "spool").stat().st_mode)[-3:] == "700"
    before = [call for call in one.vendor.queries if not is_a_look(call)]
    one.clock.advance(timedelta(hours=2))

    taken = one.backup()

    after = [call for call in one.vendor.queries if not is_a_look(call)][len(before) :]
    assert before, "something was fetched before the kill"
    repeated = set(before) & set(after)
    assert {call for call in repeated if not is_read_twice(call)} == set()
    assert taken.tables["contacts"].rows == (2500 if kind == "brevo" else 40)
    assert datetime.fromisoformat(taken.consistency["at"]) == began
    assert datetime.fromisoformat(taken.consistency["until"]) >= began + timedelta(hours=2)
    fresh = one.backup()
    assert {name: entry.checksum for name, entry in fresh.tables.items()} == {
        name: entry.checksum for name, entry in taken.tables.items()
    }


def is_a_look(call: str) -> bool:
    """Whether a call asks how far a job is."""
    return call.startswith("GET /v3/marketing/contacts/exports/")


def is_read_twice(call: str) -> bool:
    """Whether an export asks this more than once by design: lists for their contacts, a job each, suppressions."""
    return any(
        one in call for one in ("/suppression", "/marketing/lists?", "POST /v3/marketing/contacts/exports")
    )


@pytest.mark.kill
def test_a_snapshot_that_was_killed_before_its_commit_is_made_of_what_was_fetched(account: Accounts) -> None:
    one = filled(account("brevo"))
    assert one.backup_killed_at("commit.before_manifest") == -signal.SIGKILL
    asked = len(one.vendor.calls)
    assert one.backup().tables["contacts"].rows == 40
    assert len(one.vendor.calls) == asked


@pytest.mark.kill
def test_an_export_that_is_too_old_begins_anew(account: Accounts) -> None:
    one = account("brevo")
    assert one.backup_killed_at("export.part#7") == -signal.SIGKILL
    one.clock.advance(KEPT)
    one.vendor.opt_out(3)
    taken = one.backup()
    assert datetime.fromisoformat(taken.consistency["at"]) == one.clock.now()
    assert [row["id"] for row in one.rows(taken, "contacts") if row["emailBlacklisted"]] == [3]


def test_two_exports_of_one_source_at_once_are_one_too_many(account: Accounts) -> None:
    one = account("brevo")
    with one.source().open(one.clock), pytest.raises(UsageError, match="Another process exports"):
        one.backup()
    assert one.backup().tables["contacts"].rows == 40


# Limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_storm_of_429_is_waited_out(account: Accounts, kind: str) -> None:
    one = filled(account(kind))
    left = dict.fromkeys(range(60), 0)
    began, header = one.clock.now(), "x-sib-ratelimit-reset" if kind == "brevo" else "Retry-After"

    def storm(call: str) -> Answer | None:
        if left:
            left.popitem()
            return Answer(429, {"message": "slow down"}, {header: "45"})
        return None

    one.vendor.interrupt = storm
    taken = one.backup()
    assert taken.tables["contacts"].rows == 40
    assert one.clock.now() - began >= timedelta(seconds=60 * 45)


def test_the_hourly_budget_of_brevo_is_kept_to_and_waited_for(account: Accounts) -> None:
    one = account("brevo", 2)
    with httpx.Client(base_url=one.vendor.url, headers={"api-key": one.vendor.token}) as other:
        for _ in range(98):
            assert other.get("/v3/emailCampaigns").status_code == 200
    refused, limited = [], one.vendor.limited

    def counted(method: str, path: str) -> tuple[Answer | None, dict[str, str]]:
        found = limited(method, path)
        refused.extend([path] if found[0] else [])
        return found

    one.vendor.limited = counted
    taken = one.backup()
    assert taken.tables["contacts"].rows == 2
    assert refused == []
    assert one.clock.now() - datetime.fromisoformat(taken.consistency["at"]) >= timedelta(hours=1)


def test_an_export_whose_provider_fails_says_so_and_goes_on_next_time(account: Accounts) -> None:
    one = account("brevo")
    one.vendor.interrupt = lambda call: Answer(503, {}) if "blockedContacts" in call else None
    with pytest.raises(ProviderUnavailable, match="answered HTTP 503"):
        one.backup()
    assert one.store.snapshot_ids() == []
    one.vendor.interrupt = lambda _: None
    asked = len(one.vendor.calls)
    one.backup()
    assert not [call for call in one.vendor.calls[asked:] if call.endswith(("/lists", "/emailCampaigns"))]


# Answers that lie -----------------------------------------------------------------------------------------------


def doctored(one: Account, path: str, change: Callable[[dict[str, Any], dict[str, str]], None]) -> None:
    """Have the vendor's answers to a path changed on their way."""
    real = one.vendor._routes

    def lie(handler: Callable[..., Answer]) -> Callable[..., Answer]:
        def answer(ask: Any) -> Answer:
            given = handler(ask)
            content = json.loads(json.dumps(given.content))
            change(content, dict(ask.query))
            return Answer(given.status, content, given.headers)

        return answer

    one.vendor._routes = [
        (method, pattern, lie(handler) if pattern.pattern == f"/v3{path}" and method == "GET" else handler)
        for method, pattern, handler in real
    ]


LIES: dict[str, tuple[str, str, Callable[[dict[str, Any], dict[str, str]], None]]] = {
    "a total that is too high": ("brevo", "/contacts", lambda it, _: it.update(count=it["count"] + 7)),
    "a total that is too low": ("brevo", "/contacts", lambda it, _: it.update(count=1000)),
    "nothing after row 2000": (
        "brevo", "/contacts", lambda it, q: it.update(contacts=it["contacts"] if int(q["offset"]) < 1990 else []),
    ),
    "the same page again and again": (
        "brevo", "/contacts", lambda it, q: it.update(contacts=it["contacts"][:1] * len(it["contacts"])),
    ),
    "an export of fewer contacts than it counts": (
        "sendgrid", "/marketing/contacts/exports/([^/]+)", lambda it, _: it.update(urls=it.get("urls", [])[:1]),
    ),
    "a list of fewer than it counts": (
        "sendgrid", "/marketing/lists", lambda it, _: it["_metadata"].update(count=2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_answers_that_are_not_what_they_promise_fail_the_backup(account: Accounts, name: str) -> None:
    kind, path, change = LIES[name]
    one = account(kind, 2500 if kind == "brevo" else 40)
    doctored(one, path, change)
    with pytest.raises(SourceError, match="cannot be relied on"):
        one.backup()
    assert one.store.snapshot_ids() == []


def test_short_pages_are_not_taken_for_the_last(account: Accounts) -> None:
    one = account("brevo", 2500)
    doctored(one, "/contacts", lambda it, _: it.update(contacts=it["contacts"][:300]))
    assert one.backup().tables["contacts"].rows == 2500


# What changes meanwhile -----------------------------------------------------------------------------------------


def once(one: Account, part: str, do: Callable[[], None]) -> None:
    """Do something at the vendor just before it answers the first request that has `part` in it."""
    waiting = [do]

    def look(call: str) -> None:
        if part in call and waiting:
            waiting.pop()()

    one.vendor.interrupt = look


@pytest.mark.parametrize("joined", [False, True])
def test_a_contact_that_goes_while_pages_are_read_hides_no_other(account: Accounts, joined: bool) -> None:
    one = account("brevo", 2500)

    def change() -> None:
        for number in (5, 6):  # pages overlap by one row
            one.vendor.delete_contact(number)
            if joined:  # so that the total stays the same
                one.vendor.write_contact(9000 + number)

    once(one, "GET /v3/contacts?limit=1000&offset=999", change)
    found = {row["id"] for row in one.rows(one.backup(), "contacts")}
    assert found >= set(range(1, 2501)) - {5, 6}
    assert ({9005, 9006} <= found) == joined


@pytest.mark.parametrize("kind", KINDS)
def test_an_opt_out_that_comes_when_its_contact_was_read_is_in_the_snapshot(
    account: Accounts, kind: str
) -> None:
    one = account(kind, 2500 if kind == "brevo" else 40)
    one.clock.advance(timedelta(days=1))
    if kind == "brevo":
        once(one, "GET /v3/smtp/blockedContacts", lambda: one.vendor.opt_out(7))
    else:
        once(one, "GET /v3/suppression/", lambda: one.vendor.suppress("unsubscribes", 7))
    taken = one.backup()
    with connect(one.store, {"x": taken.snapshot_id}) as database:
        canonical_views(database, "x", kind)  # type: ignore[arg-type]
        query = "SELECT subscriber_id FROM canonical.subscribers WHERE status <> 'enabled'"
        assert database.execute(query).fetchall() == [(7,)]
    assert taken.consistency["at"] <= taken.consistency["consent_at"] <= taken.consistency["until"]
    if kind == "brevo":
        assert taken.consistency["changed"] == "contacts 1"


def test_a_suppression_that_is_lifted_while_they_are_paged_hides_no_other(account: Accounts) -> None:
    one = account("sendgrid", 900)
    one.vendor.suppress("unsubscribes", *range(1, 701))
    once(one, "/suppression/unsubscribes?limit=500&offset=500", lambda: one.vendor.release("unsubscribes", 3))
    found = {row["email"] for row in one.rows(one.backup(), "unsubscribes")}
    assert found >= {f"c{n}@shop.example" for n in range(1, 701)} - {"c3@shop.example"}


def test_a_campaign_that_is_made_while_they_are_listed_lets_the_list_be_read_again(account: Accounts) -> None:
    one = account("sendgrid", 3)
    for number in range(120):
        single(one, f"n{number}")
    once(one, "singlesends?page_size=100&page_token=100", lambda: single(one, "late"))
    assert one.backup().tables["singlesends"].rows == 121


def single(one: Account, name: str) -> None:
    one.vendor._create(Asked((), {}, {"name": name, "send_to": {"list_ids": [one.vendor.news]}}))
