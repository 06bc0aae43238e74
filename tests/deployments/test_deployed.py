"""On a real Prefect server: prefect.yaml deploys, schedules make runs, the event of monitor starts respond."""

from __future__ import annotations

import importlib.util
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tasks.incidents import Journal
from tasks.plan import load_plan
from tasks.snapshots import load_or_create_key, read_ledger
from tasks.snapshots.steps import open_plan_store, person_hash

pytestmark = pytest.mark.integration

DEPLOYMENTS = Path(__file__).resolve().parents[2] / "deployments"
NAMES = [one["name"] for one in yaml.safe_load((DEPLOYMENTS / "prefect.yaml").read_text())["deployments"]]


def test_prefect_yaml_deploys_without_a_complaint(deployed: Any) -> None:
    assert deployed.exit_code == 0, deployed.output
    assert "error" not in deployed.output.lower(), deployed.output


@pytest.mark.parametrize("name", NAMES)
def test_every_deployment_exists_with_a_form_that_describes_every_field(deployed: Any, name: str) -> None:
    found = deployed.deployment(name)
    assert found["entrypoint"] == f"flows.{name}.{name}"
    assert found["work_pool_name"] == "mailstay"
    assert found["description"]
    bare = [
        key
        for key, field in found["parameter_openapi_schema"]["properties"].items()
        if not field.get("description")
    ]
    assert bare == []


@pytest.mark.parametrize("name", ["backup", "validate", "prune", "rehearse", "monitor"])
def test_the_schedule_makes_runs(deployed: Any, name: str) -> None:
    """Guards against the pair of Prefect and SQLAlchemy in which the scheduler fails without a word."""
    asked = {"deployments": {"id": {"any_": [deployed.deployment(name)["id"]]}}}
    assert deployed.wait_for(lambda: deployed.post("/flow_runs/count", asked)) > 0


def test_a_run_that_may_not_be_is_refused_by_the_form(deployed: Any) -> None:
    body = {"parameters": {"provider": "listmonk", "mode": "panic"}, "state": {"type": "SCHEDULED"}}
    path = f"/deployments/{deployed.deployment('respond')['id']}/create_flow_run"
    answer = deployed.client.post(path, json=body)
    assert answer.status_code == 409
    assert "panic" in answer.text


def test_monitor_confirms_an_outage_and_its_event_starts_respond_in_plan_mode(
    deployed: Any, worker: Path
) -> None:
    def finished(run_id: str) -> Any:
        run = deployed.run(run_id)
        return run if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None

    before = {run["id"] for run in deployed.runs("respond")}
    for _ in range(2):
        started = deployed.start("monitor")
        run = deployed.wait_for(partial(finished, started), 90)
        assert run and run["state_type"] == "COMPLETED", (run, worker.read_text()[-3000:])

    new = deployed.wait_for(lambda: [run for run in deployed.runs("respond") if run["id"] not in before], 30)
    assert len(new) == 1
    parameters = new[0]["parameters"]
    assert (
        parameters.items()
        >= {
            "plan": "plan.yaml",
            "provider": "listmonk",
            "cause_class": "unknown",
            "impact_started_at": "",
            "mode": "plan",
            "approval": "ask",
            "name": "monitor",
        }.items()
    )
    assert "the API does not work" in parameters["seen"]

    run = deployed.wait_for(lambda: finished(new[0]["id"]), 120)
    assert run and run["state_type"] == "COMPLETED", (run, worker.read_text()[-3000:])
    plan = load_plan(deployed.site / "plan.yaml")
    from tasks.core import SystemClock

    with Journal.open(plan.journal_url(), SystemClock()) as journal:
        [incident] = journal.incidents()
        assert incident.state == "investigating"
        assert journal.actions(incident.id) == []
    assert list((deployed.site / "outbox").glob("*.eml"))


def automations() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mailstay_automations", DEPLOYMENTS / "automations.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_automations() -> list[str]:
    done = subprocess.run(
        [sys.executable, str(DEPLOYMENTS / "automations.py")], capture_output=True, text=True, check=True
    )
    return [line.partition(":")[0] for line in done.stdout.splitlines()]


def test_automations_are_created_once_and_mended_when_they_were_changed(deployed: Any) -> None:
    assert run_automations() in (["created", "created"], ["unchanged", "unchanged"])
    assert run_automations() == ["unchanged", "unchanged"]
    ours = [one for one in deployed.post("/automations/filter") if one["name"].startswith("mailstay: ")]
    assert len(ours) == 2
    changed = {key: ours[0][key] for key in ("name", "description", "enabled", "trigger", "actions")}
    by_hand = deployed.client.put(f"/automations/{ours[0]['id']}", json={**changed, "description": "by hand"})
    by_hand.raise_for_status()
    assert sorted(run_automations()) == ["unchanged", "updated"]


@pytest.mark.slow
def test_an_operator_backs_up_proves_restores_and_erases_by_the_forms_alone(
    deployed: Any, worker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of a bad night; the plan is the operator's own, and so is the database that is restored into."""
    monkeypatch.setenv("MAILSTAY_SIGNING_KEY", str(deployed.site / "key.pem"))
    load_or_create_key(deployed.site / "key.pem")
    plan = str(tmp_path / "plan.yaml")
    (tmp_path / "plan.yaml").write_text((deployed.site / "plan.yaml").read_text())
    with closing(sqlite3.connect(tmp_path / "shop.db")) as shop:
        shop.execute("CREATE TABLE customers (customer_id INTEGER PRIMARY KEY, email TEXT)")
        shop.execute("INSERT INTO customers VALUES (1, 'ann@shop.example'), (2, 'bob@shop.example')")
        shop.commit()

    def ran(name: str, /, **parameters: Any) -> str:
        started = deployed.start(name, plan=plan, **parameters)
        over = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        deployed.wait_for(lambda: deployed.run(started)["state_type"] in over, 180)
        state: str = deployed.run(started)["state_type"]
        return state

    def customers(database: str) -> list[str]:
        with closing(sqlite3.connect(tmp_path / database)) as found:
            return [row[0] for row in found.execute("SELECT email FROM customers ORDER BY 1")]

    assert ran("backup", source="shop") == "COMPLETED", worker.read_text()[-3000:]
    assert ran("verify", part="1/1") == "COMPLETED", worker.read_text()[-3000:]
    into = {"source": "shop", "into": f"sqlite:///{tmp_path / 'new.db'}"}
    assert ran("restore", **into) == "FAILED", "nothing has said yet that the snapshot is valid"
    assert not (tmp_path / "new.db").exists() or (tmp_path / "new.db").stat().st_size == 0
    assert ran("restore", **into, snapshot="shop/00000001", unproven=True) == "COMPLETED"
    assert customers("new.db") == ["ann@shop.example", "bob@shop.example"]

    with closing(sqlite3.connect(tmp_path / "shop.db")) as shop:
        shop.execute("DELETE FROM customers WHERE customer_id = 2")
        shop.commit()
    live = {"source": "shop", "snapshot": "shop/00000001", "mode": "insert-missing", "unproven": True}
    assert ran("restore", **live) == "COMPLETED"
    assert customers("shop.db") == ["ann@shop.example"], "the form changes nothing until `apply` is on"
    assert ran("restore", **live, apply=True) == "COMPLETED"
    assert customers("shop.db") == ["ann@shop.example", "bob@shop.example"]

    person = person_hash(plan, "ann@shop.example")
    erased = {"person": person, "name": "Ops", "ground": "consent_withdrawn", "rewrite": True}
    store = open_plan_store(load_plan(plan))
    assert ran("erase", **erased) == "COMPLETED"
    assert not read_ledger(store).entries
    assert ran("erase", **erased, confirm=True) == "COMPLETED", worker.read_text()[-3000:]
    assert [one.kind for one in read_ledger(store).entries] == ["erased"]
    assert store.manifest("shop/00000001").tables["customers"].rows == 1

    (store.storage.root / store.manifest("shop/00000001").objects[0].path).write_bytes(b"rot")  # type: ignore[operator]
    assert ran("verify", part="1/1") == "FAILED", "and notify tells of it"
    assert "ann@shop.example" not in worker.read_text()


def test_a_failed_run_starts_notify(deployed: Any, worker: Path) -> None:
    run_automations()
    failed = deployed.start("monitor", provider="no-such-provider")
    deployed.wait_for(lambda: deployed.run(failed)["state_type"] == "FAILED", 90)
    assert deployed.run(failed)["state_type"] == "FAILED", worker.read_text()[-3000:]

    def about_it() -> list[dict[str, Any]]:
        return [run for run in deployed.runs("notify") if failed in run["parameters"]["text"]]

    deployed.wait_for(about_it, 30)
    refused = {"filter": {"event": {"name": ["prefect.automation.action.failed"]}}}
    assert about_it(), str([one["payload"] for one in deployed.post("/events/filter", refused)["events"]])
    run = about_it()[0]
    assert run["parameters"]["title"] == "monitor Failed"
    assert "no-such-provider" in run["parameters"]["text"]

    def over() -> bool:
        return all(one["state_type"] in ("COMPLETED", "FAILED") for one in about_it())

    # Prefect 3.8 can fire an automation twice for one event: the people are told once all the same
    time.sleep(3)
    assert deployed.wait_for(over, 90), worker.read_text()[-3000:]
    assert {one["state_type"] for one in about_it()} == {"COMPLETED"}, worker.read_text()[-3000:]
    told = [path for path in (deployed.site / "outbox").glob("*.eml") if failed in path.read_text()]
    assert len(told) == 1
