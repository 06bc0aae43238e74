"""The command line where a person decides: what it shows before it asks, and that a mistake ends in one sentence."""

from __future__ import annotations

import io
import json
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from flows.cli import app, show
from tasks.core import DrivenClock, SystemClock, UsageError
from tasks.incidents import Journal, open_journal
from tasks.plan import load_plan
from tasks.snapshots import (
    Damaged,
    SnapshotError,
    Store,
    StoreError,
    generate_key,
    load_or_create_key,
    take_snapshot,
)
from tasks.sources import open_source

PLAN = """
version: 1
name: Shop
clock: driven:clock.json
journal: sqlite:///journal.db
store: {url: store}
sources: {shop: {url: "sqlite:///shop.db"}}
providers: {esp: {kind: listmonk, api_url: "http://127.0.0.1:9"}}
"""


@pytest.fixture
def plan(tmp_path: Path, clock: DrivenClock) -> Path:
    (tmp_path / "plan.yaml").write_text(PLAN)
    return tmp_path / "plan.yaml"


@pytest.fixture
def journal(plan: Path) -> Journal:
    return open_journal(load_plan(plan))


def ask(journal: Journal, subject: str, kind: str) -> int:
    return journal.request_approval(
        "INC-0001",
        subject=subject,
        actions=[{"kind": kind, "target": "campaign/7", "undoable": kind == "pause"}],
        expires_at=journal.clock.now() + timedelta(days=1),
    ).id


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_each_waiting_approval_is_shown_with_what_it_allows_and_answered_by_itself(
    plan: Path, journal: Journal
) -> None:
    journal.declare(
        "esp", cause_class="unknown", summary="s", detected_at=journal.clock.now(), declared_by="x"
    )
    first, second = (
        ask(journal, "pause 1 campaign", "pause"),
        ask(journal, "send 1 campaign late", "catch_up"),
    )
    shown = run("incidents", "show", "INC-0001", "--plan", str(plan))
    assert "pause campaign/7" in shown
    assert "catch_up campaign/7 (for good)" in shown
    with pytest.raises(UsageError, match="Several approvals wait") as caught:
        run("incidents", "approve", "INC-0001", "--name", "Ada", "--plan", str(plan))
    assert f"{first} (pause 1 campaign); {second} (send 1 campaign late)" in str(caught.value)
    run(
        "incidents",
        "approve",
        "INC-0001",
        "--name",
        "Ada",
        "--plan",
        str(plan),
        "--approval",
        str(second),
        "--reject",
    )
    assert [one.status for one in journal.approvals("INC-0001")] == ["awaiting", "rejected"]
    run("incidents", "approve", "INC-0001", "--name", "Ada", "--plan", str(plan))
    assert [one.status for one in journal.approvals("INC-0001")] == ["approved", "rejected"]
    with pytest.raises(UsageError, match="No approval waits"):
        run("incidents", "approve", "INC-0001", "--name", "Ada", "--plan", str(plan))


def test_incidents_are_listed_the_newest_first(plan: Path, journal: Journal) -> None:
    for provider in ("esp", "other"):
        journal.declare(
            provider, cause_class="unknown", summary="s", detected_at=journal.clock.now(), declared_by="x"
        )
    found = json.loads(run("incidents", "list", "--plan", str(plan), "--json"))["incidents"]
    assert [one["id"] for one in found] == ["INC-0002", "INC-0001"]


def test_action_items_are_listed_by_their_due_date_and_closed_on_evidence(
    plan: Path, journal: Journal
) -> None:
    now = journal.clock.now()
    journal.declare("esp", cause_class="unknown", summary="s", detected_at=now, declared_by="x")
    later = journal.action_item(
        "INC-0001", title="later", type="prevent", owner="desk", due_at=now + timedelta(days=20), proof="p"
    )
    due = f"{now - timedelta(days=2):%Y-%m-%d}"
    options = ["--title", "sooner", "--owner", "ops", "--due", due, "--proof", "a drill", "--plan", str(plan)]
    sooner = json.loads(run("actions", "add", "INC-0001", *options, "--json"))

    def listed(*arguments: str) -> list[tuple[str, str]]:
        found = json.loads(run("actions", "list", "--plan", str(plan), "--json", *arguments))["actions"]
        return [(one["item"]["title"], one["standing"]) for one in found]

    assert listed() == [("sooner", "overdue"), ("later", "open")]
    assert listed("--owner", "desk") == [("later", "open")]
    assert "was due" in run("actions", "list", "--plan", str(plan))
    run("actions", "done", str(sooner["id"]), "--evidence", "drill 7", "--name", "Ada", "--plan", str(plan))
    run(
        "actions",
        "drop",
        str(later.id),
        "--because",
        "the vendor is gone",
        "--name",
        "Ada",
        "--plan",
        str(plan),
    )
    assert listed() == []
    assert listed("--closed") == [("sooner", "completed"), ("later", "not doing")]
    assert "Nothing is left to do" in run("actions", "list", "--plan", str(plan))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["actions", "done", "9", "--evidence", "x", "--name", "x"], "no action item 9"),
        (["actions", "list", "--incident", "INC-0009"], "INC-0009"),
        (["snapshots", "list"], "There is no store"),
        (["incidents", "show", "INC-0009"], "INC-0009"),
        (["respond", "esp", "--name", "x", "--wait-minutes", "2000"], "--wait-minutes"),
        (["plan", "check", "--plan", "/nowhere/plan.yaml"], "/nowhere/plan.yaml"),
    ],
)
def test_a_mistake_ends_in_one_sentence_and_no_traceback(plan: Path, arguments: list[str], said: str) -> None:
    command = [str(Path(sys.executable).with_name("mailstay")), *arguments]
    if "--plan" not in arguments:
        command += ["--plan", str(plan)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=plan.parent)
    assert done.returncode not in (0, -6, -11), done.stdout
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def backed_up(plan: Path, tmp_path: Path, clock: DrivenClock, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store with two snapshots of a small shop; its signing key is in the environment."""
    monkeypatch.setenv("MAILSTAY_SIGNING_KEY", str(tmp_path / "key.pem"))
    store = Store.open(
        str(tmp_path / "store"), signing_key=load_or_create_key(tmp_path / "key.pem"), create=True
    )
    for _ in range(2):
        with closing(sqlite3.connect(tmp_path / "shop.db")) as shop:
            shop.execute("CREATE TABLE IF NOT EXISTS prices (code INTEGER PRIMARY KEY, price INTEGER)")
            shop.execute("CREATE TABLE IF NOT EXISTS lists (name TEXT)")
            shop.execute("INSERT INTO prices (price) VALUES (1)")
            shop.commit()
        source = open_source("shop", f"sqlite:///{tmp_path / 'shop.db'}")
        take_snapshot(source, store, clock=clock, plan_digest="")
    return store


def test_a_store_is_verified_in_parts_and_says_what_was_not_read(
    backed_up: Store, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = [run("snapshots", "verify", "--part", "next/2", "--plan", str(plan)) for _ in range(2)]
    assert said[0].startswith("content (part 1/2): ") and "kept per object" in said[0]
    assert said[1].startswith("content (part 2/2): ")
    assert "not read in full for 30 days" not in said[1]
    assert "never" not in run("snapshots", "show", "shop/00000002", "--plan", str(plan))
    found = json.loads(run("snapshots", "show", "shop/00000002", "--plan", str(plan), "--json"))
    assert {one["whole"] for one in found["last_read"].values()} == {True}
    assert {one["name"]: one["reason"] for one in found["costs"]} == {
        "lists": "nothing changed",
        "prices": "rows appended: 1",
    }
    monkeypatch.delenv("MAILSTAY_SIGNING_KEY")
    before = backed_up.storage.list("readbacks/")
    assert "not kept, for want of the signing key" in run("snapshots", "verify", "--plan", str(plan))
    assert backed_up.storage.list("readbacks/") == before, "without the key it only reads"
    with pytest.raises(StoreError, match="signing key"):
        run("snapshots", "verify", "--part", "1/2", "--plan", str(plan))
    with pytest.raises(UsageError, match="give --part alone"):
        run("snapshots", "verify", "shop/00000001", "--part", "1/2", "--plan", str(plan))


def test_a_rotten_manifest_is_listed_with_the_way_out_and_given_up_only_if_confirmed(
    backed_up: Store, plan: Path
) -> None:
    backed_up.storage.put("snapshots/shop/00000001.json", b"rot")
    listed = json.loads(run("snapshots", "list", "--plan", str(plan), "--json"))
    assert [one["snapshot_id"] for one in listed["snapshots"]] == ["shop/00000002"]
    assert "snapshots give-up shop/00000001" in listed["unreadable"]["shop/00000001"]
    order = ("snapshots", "give-up", "shop/00000001", "--name", "Ada", "--plan", str(plan))
    assert "Nothing was changed: add --confirm" in run(*order)
    assert backed_up.unreadable()
    assert "is given up" in run(*order, "--confirm")
    assert (backed_up.unreadable(), backed_up.tombstone("shop/00000001").by) == ({}, "Ada")


def test_a_snapshot_is_verified_by_bringing_it_back(backed_up: Store, plan: Path) -> None:
    order = ("snapshots", "verify", "--level", "restore", "--plan", str(plan))
    with pytest.raises(UsageError, match="Only a snapshot that is named"):
        run(*order)
    assert "2 rows" in run(*order, "shop/00000002")
    assert backed_up.info("shop/00000002").verified == "restore"
    ref = backed_up.manifest("shop/00000002").tables["prices"].objects[0]
    backed_up.storage.put(ref.path, b"rot")
    with pytest.raises(Damaged):
        run(*order, "shop/00000002")
    assert backed_up.state("shop/00000002") == "quarantined"


def test_objects_that_were_never_read_are_named_by_verify(backed_up: Store, plan: Path) -> None:
    said = run("snapshots", "verify", "--level", "structure", "--older-than", "7", "--plan", str(plan))
    assert "3 objects" in said and "not read in full for 7 days; the longest: " in said and "(never)" in said
    shown = run("snapshots", "show", "shop/00000001", "--plan", str(plan))
    assert "\t1 never\t" in shown and "first backup" in shown


def test_the_newest_valid_snapshot_is_exported_by_the_name_of_its_source(
    backed_up: Store, plan: Path, tmp_path: Path, clock: DrivenClock
) -> None:
    command = ("export", "shop", "--to", str(tmp_path / "out"), "--plan", str(plan))
    with pytest.raises(SnapshotError, match="no valid snapshot of shop"):
        run(*command)
    backed_up.mark("shop/00000001", "valid", findings=[], at=clock.now(), by="test")
    said = run(*command)
    assert "prices\tprices.csv\t1\t" in said and "shop/00000001 (valid) as csv" in said
    assert (tmp_path / "out/prices.csv").read_text() == '"code","price"\n"1","1"\n'
    with pytest.raises(UsageError, match="not empty"):
        run(*command)


def test_progress_shows_rows_bytes_and_the_time_that_remains_and_nothing_when_piped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def shown(*, terminal: bool) -> str:
        screen = io.StringIO()
        monkeypatch.setattr(show, "err", Console(file=screen, force_terminal=terminal, width=120))
        bars = show.Bars()
        bars.start("shop", 100)
        bars.advance(60, nbytes=6 * 2**20)
        bars.advance(-10, nbytes=-(2**20))
        bars.finish()
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())

    assert re.search(r"shop.* 50/100 5\.0 MiB .*:", shown(terminal=True))
    assert shown(terminal=False) == ""


def test_snapshots_are_compared_and_asked_from_the_command_line(
    plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(str(tmp_path / "store"), signing_key=generate_key(), create=True)
    for price in (1, 2):
        with closing(sqlite3.connect(tmp_path / "shop.db")) as shop:
            shop.execute("CREATE TABLE IF NOT EXISTS prices (code TEXT PRIMARY KEY, price INTEGER)")
            shop.execute("INSERT OR REPLACE INTO prices VALUES ('a', ?)", [price])
            shop.commit()
        source = open_source("shop", f"sqlite:///{tmp_path / 'shop.db'}")
        taken = take_snapshot(source, store, clock=SystemClock(), plan_digest="")
        store.mark(taken.snapshot_id, "valid", findings=[], at=SystemClock().now(), by="test")
    shown = run("snapshots", "diff", "shop/00000001", "shop/00000002", "--plan", str(plan))
    assert "prices\tchanged\t0\t0\t1\tprice: 1" in shown
    found = json.loads(
        run("snapshots", "query", "SELECT price FROM shop.prices", "--plan", str(plan), "--json")
    )
    assert found == {"snapshots": {"shop": "shop/00000002"}, "columns": ["price"], "rows": [[2]]}
    both = ["--snapshot", "old=shop/00000001", "--snapshot", "shop/00000002"]
    sql = "SELECT o.price, n.price FROM old.prices o JOIN shop.prices n USING (code)"
    assert run("snapshots", "query", sql, *both, "--plan", str(plan)).split() == ["price", "price", "1", "2"]


def test_contracts_are_proposed_linted_and_listed_from_the_command_line(backed_up: Store, plan: Path) -> None:
    at = ("--plan", str(plan))
    said = run("checks", "propose", "shop", *at)
    assert "2 contracts in" in said and "name the folder as `contracts` of shop" in said
    plan.write_text(PLAN.replace('shop.db"', 'shop.db", contracts: expectations/shop'))
    assert "The contracts fit" in run("checks", "lint", *at)
    assert "prices\tcode\tnot_null\tcritical\tevery row has a value" in run("checks", "list", "shop", *at)
    with pytest.raises(UsageError, match="There is a contract of lists, prices already"):
        run("checks", "propose", "shop", *at)
    prices = plan.parent / "expectations" / "shop" / "prices.yaml"
    prices.write_text(prices.read_text().replace("type: integer", "type: number"))
    run("checks", "propose", "shop", "--force", *at)
    assert "type: number" not in prices.read_text()
    prices.write_text(prices.read_text().replace("primary_key", "primary_kee"))
    broken = CliRunner().invoke(app, ["checks", "lint", *at, "--json"], catch_exceptions=False)
    assert broken.exit_code == 1
    assert {one["line"] for one in json.loads(broken.output)["problems"]} >= {5}


def test_what_a_provider_can_do_is_shown_with_its_sources() -> None:
    shown = CliRunner().invoke(app, ["providers", "show", "sendgrid"]).output
    pause = next(
        line.split("\t") for line in shown.splitlines() if line.startswith("batch\tscheduled\tpause")
    )
    assert pause[4:6] == ["resume", "10 minutes before send_at; thrown away 72 hours after send_at"]
    assert pause[-1] == "twilio.com/docs/sendgrid/api-reference/cancel-scheduled-sends"
    listed = CliRunner().invoke(app, ["providers", "list"]).output
    of = {line.partition("\t")[0]: line for line in listed.splitlines()}
    assert "100 per hour" in of["brevo"]
    assert "10 at once" in of["mailchimp"]
    assert "log in and cancel it" in of["klaviyo"]
    shown = CliRunner().invoke(app, ["providers", "show", "mailchimp"]).output
    assert "feed\trunning\tpause\tpaused\tresume" in shown
    assert "campaign\trunning\tnot possible: log in and cancel it, with Mailchimp Pro" in shown


def test_a_kind_of_provider_that_is_not_there_is_told_with_those_that_are() -> None:
    result = CliRunner().invoke(app, ["providers", "show", "pigeon"])
    assert isinstance(result.exception, UsageError)
    assert "brevo, klaviyo, listmonk, mailchimp, sendgrid" in str(result.exception)
