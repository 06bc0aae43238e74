"""The validate flow on a real Prefect server: valid and quarantined are results, shown, signed, and survive a kill."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from tasks.core import DrivenClock, MailstayError, UsageError
from tasks.drills import build_shop
from tasks.snapshots import Store, load_or_create_key, take_snapshot
from tasks.sources import open_source

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("prefect_server")]

REPOSITORY = Path(__file__).resolve().parents[2]
ADDRESS = re.compile(r"[A-Za-z0-9._%+'-]+@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}")


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plan over a small real shop; the signing key is in the environment."""
    build_shop(
        f"sqlite:///{tmp_path / 'shop.db'}", seed=7, until=datetime(2011, 11, 16, tzinfo=UTC), share=0.02
    )
    monkeypatch.setenv("MAILSTAY_SIGNING_KEY", str(tmp_path / "key.pem"))
    load_or_create_key(tmp_path / "key.pem")
    DrivenClock.create(tmp_path / "clock.json", datetime(2011, 11, 16, 7, 0, tzinfo=UTC))
    content = {
        "version": 1,
        "name": "Test Shop",
        "clock": "driven:clock.json",
        "journal": "sqlite:///journal.db",
        "reports": "reports",
        "store": {"url": "store"},
        "sources": {"shop": {"url": "sqlite:///shop.db", "mapping": "shop"}},
        "providers": {"listmonk": {"kind": "listmonk", "api_url": "http://127.0.0.1:9"}},
    }
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "plan.yaml"


@pytest.fixture
def back_up(plan: Path) -> Callable[..., str]:
    """A function that runs statements on the shop and takes a snapshot of it."""

    def run(*statements: str) -> str:
        with closing(sqlite3.connect(plan.parent / "shop.db")) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()
        key = load_or_create_key(plan.parent / "key.pem")
        store = Store.open(str(plan.parent / "store"), signing_key=key, create=True)
        clock = DrivenClock(plan.parent / "clock.json")
        source = open_source("shop", f"sqlite:///{plan.parent / 'shop.db'}")
        return take_snapshot(source, store, clock=clock, plan_digest="0" * 64).snapshot_id

    return run


HARM = (
    "UPDATE customers SET email = 'eve@secret.example, bob@secret.example' WHERE country = 'United Kingdom'",
    "UPDATE orders SET kind = 'mal@secret.example' WHERE rowid IN (1, 2)",
)


def test_a_clean_snapshot_becomes_valid_and_a_dirty_one_quarantined_without_failing_the_run(
    plan: Path, back_up: Callable[..., str]
) -> None:
    from prefect.artifacts import Artifact

    from flows.validate import validate

    back_up()
    state = validate(plan=str(plan), return_state=True)
    good = state.result()
    assert state.is_completed()
    assert (good.outcome, good.snapshots[0].critical, good.snapshots[0].warnings) == ("valid", 0, 0)

    back_up(*HARM)
    state = validate(plan=str(plan), return_state=True)
    bad = state.result()
    assert state.is_completed()
    (checked,) = bad.snapshots
    assert (bad.outcome, checked.outcome, checked.snapshot_id) == (
        "quarantined",
        "quarantined",
        "shop/00000002",
    )
    assert checked.critical >= 2
    assert checked.last_good == "shop/00000001"
    assert "orders.kind: 2 of" in checked.reason
    assert "The last good snapshot is shop/00000001." in checked.reason

    store = Store.open(str(plan.parent / "store"))
    assert [one.state for one in store.list("shop")] == ["valid", "quarantined"]
    assert store.latest("shop").snapshot_id == "shop/00000001"  # type: ignore[union-attr]

    artifact = Artifact.get("validate")
    assert artifact is not None
    text = str(artifact.data)
    assert "## shop/00000002: quarantined" in text
    assert "| critical | failed | `orders.kind.allowed` | 2 |" in text
    assert len(text) < 200_000
    docs = Path(checked.docs)
    assert docs == plan.parent / "reports" / "checks" / "shop" / "00000002" / "data-docs"
    page = docs.with_name("result.html")
    assert checked.page == str(page)
    assert f"[`{page}`]({page.as_uri()})" in text, "the artifact leads to the page"
    assert "shop/00000002 is quarantined" in page.read_text()
    assert "shop/00000002" in (plan.parent / "reports" / "checks" / "index.html").read_text()
    assert (docs / "index.html").is_file()
    pages = "".join(page.read_text() for page in docs.rglob("*.html"))
    assert ADDRESS.findall(text) == ADDRESS.findall(checked.reason) == ADDRESS.findall(pages) == []


def test_a_snapshot_can_be_named_and_an_older_verdict_replaced(
    plan: Path, back_up: Callable[..., str]
) -> None:
    from flows.validate import validate

    first = back_up()
    back_up(*HARM)
    result = validate(plan=str(plan), snapshot=first)
    assert [one.snapshot_id for one in result.snapshots] == [first]
    assert validate(plan=str(plan), snapshot=first, source="shop").outcome == "valid"
    store = Store.open(str(plan.parent / "store"))
    assert [one.state for one in store.list("shop")] == ["valid", "committed"]
    assert len(store.verdicts(first)) == 2


def test_nothing_that_a_run_leaves_behind_holds_an_address_and_rows_are_shown_to_who_gives_a_name(
    plan: Path, back_up: Callable[..., str]
) -> None:
    """Prefect's logs and artifact, the signed verdicts, history, pages and Data Docs; and `checks` on top of them."""
    from prefect.artifacts import Artifact
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.sorting import LogSort
    from typer.testing import CliRunner

    from flows.cli import app
    from flows.validate import validate
    from tasks.checks import read_history
    from tasks.incidents import open_journal
    from tasks.plan import load_plan

    back_up()
    validate(plan=str(plan))
    back_up(*HARM, "ALTER TABLE orders ADD COLUMN \"eve@secret.example\" TEXT DEFAULT 'eve@secret.example'")
    state = validate(plan=str(plan), return_state=True)
    assert state.result().outcome == "quarantined"
    with get_client(sync_client=True) as client:
        deadline = time.monotonic() + 20
        logs = ""
        while "is quarantined" not in logs and time.monotonic() < deadline:  # they are sent in the background
            logs = "\n".join(one.message for one in client.read_logs(limit=200, sort=LogSort.TIMESTAMP_DESC))
            time.sleep(0.2)
    assert "is quarantined" in logs
    kept = {"logs": logs, "artifact": str(Artifact.get("validate"))}
    for path in [*(plan.parent / "reports").rglob("*"), *(plan.parent / "store" / "verify").rglob("*")]:
        if path.is_file() and path.parent.name != "assets" and path.suffix != ".parquet":
            kept[str(path)] = path.read_text()
    kept["history"] = str(read_history(plan.parent / "reports" / "checks" / "history").to_pylist())
    assert len(kept) > 20
    assert [name for name, text in kept.items() if "secret.example" in text] == []

    def ask(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["checks", *words, "--plan", str(plan)])
        return result.exit_code, result.output + str(result.exception or "")

    code, told = ask("show", "shop/00000002", "--json")
    found = json.loads(told)["snapshots"][0]
    assert (code, found["state"], found["last_good"]) == (0, "quarantined", "shop/00000001")
    assert "orders.kind.allowed" in {one["rule"] for one in found["findings"]}
    assert "secret.example" not in told
    assert "orders.kind.allowed" in ask("show")[1]

    rows = ["show", "shop/00000002", "--rule", "orders.kind.allowed", "--rows", "5"]
    code, told = ask(*rows)
    assert code != 0 and "give your --name" in told and "secret.example" not in told
    code, told = ask(*rows, "--name", "Ada", "--json")
    shown = json.loads(told)
    assert code == 0 and len(shown["rows"]) == 2
    assert {row[shown["columns"].index("kind")] for row in shown["rows"]} == {"mal@secret.example"}
    with open_journal(load_plan(plan)) as journal:
        asked = journal.get_state("checks.rows_shown")
    assert asked is not None
    assert (asked["by"], asked["rule"], asked["snapshot"]) == ("Ada", "orders.kind.allowed", "shop/00000002")
    assert (
        "whole"
        in ask("show", "shop/00000002", "--rule", "orders.rows_at_least", "--rows", "5", "--name", "Ada")[1]
    )
    assert (
        "No contract has a rule"
        in ask("show", "shop/00000002", "--rule", "a.b", "--rows", "5", "--name", "A")[1]
    )

    code, told = ask("history", "--json")
    since = {one["rule"]: (one["since"], one["failed_now"]) for one in json.loads(told)["standing"]}
    assert since["orders.kind.allowed"] == ("shop/00000002", 2)
    code, told = ask("history", "--rule", "orders.kind.allowed")
    assert [line.split("\t")[2:4] for line in told.splitlines()[1:]] == [["held", "0"], ["failed", "2"]]
    assert "No check of a rule" in ask("history", "--rule", "nothing")[1]


def test_what_cannot_be_checked_is_refused_with_the_next_step(
    plan: Path, back_up: Callable[..., str]
) -> None:
    from flows.validate import validate

    with pytest.raises(MailstayError, match=r"store"):
        validate(plan=str(plan))
    back_up()
    with pytest.raises(UsageError, match=r"no source 'crm'.*use one of: shop"):
        validate(plan=str(plan), source="crm")
    with pytest.raises(UsageError, match="not of source"):
        validate(plan=str(plan), snapshot="shop/00000001", source="esp")
    with pytest.raises(UsageError, match="not a snapshot id"):
        validate(plan=str(plan), snapshot="../../etc")


@pytest.mark.kill
@pytest.mark.parametrize(
    ("point", "state"),
    [
        ("history.append", "committed"),
        ("validate.before_verdict", "committed"),
        ("validate.after_verdict", "quarantined"),
        ("validate.before_page", "quarantined"),
    ],
)
def test_a_killed_validate_leaves_the_snapshot_unproven_or_judged_and_the_next_run_judges_it(
    plan: Path, back_up: Callable[..., str], point: str, state: str
) -> None:
    from flows.validate import validate

    snapshot_id = back_up(*HARM)
    killed = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from flows.validate import validate; validate(plan=sys.argv[1])",
            plan,
        ],
        cwd=REPOSITORY,
        env={**os.environ, "MAILSTAY_CRASH_AT": point},
        capture_output=True,
        timeout=240,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    store = Store.open(str(plan.parent / "store"))
    assert store.state(snapshot_id) == state
    again = validate(plan=str(plan))
    assert again.outcome == store.state(snapshot_id) == "quarantined"
    assert "is quarantined" in Path(again.snapshots[0].page).read_text()
    assert len(list((plan.parent / "reports").rglob("history/*/*.parquet"))) == 1, (
        "the repeated check added nothing"
    )


def test_the_form_of_the_flow_describes_every_field() -> None:
    from prefect.utilities.callables import parameter_schema

    from flows.validate import validate

    schema = parameter_schema(validate.fn).model_dump()
    assert list(schema["properties"]) == ["plan", "snapshot", "source"]
    assert all(field.get("description") for field in schema["properties"].values())
    assert schema["required"] == []
