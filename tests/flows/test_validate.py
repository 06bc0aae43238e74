"""The validate flow on a real Prefect server: valid and quarantined are results, shown, signed, and survive a kill."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
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
    assert docs == plan.parent / "reports" / "checks" / "shop" / "00000002"
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
    ("point", "state"), [("validate.before_verdict", "committed"), ("validate.after_verdict", "quarantined")]
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
    assert validate(plan=str(plan)).outcome == "quarantined"
    assert store.state(snapshot_id) == "quarantined"


def test_the_form_of_the_flow_describes_every_field() -> None:
    from prefect.utilities.callables import parameter_schema

    from flows.validate import validate

    schema = parameter_schema(validate.fn).model_dump()
    assert list(schema["properties"]) == ["plan", "snapshot", "source"]
    assert all(field.get("description") for field in schema["properties"].values())
    assert schema["required"] == []
