"""On a real Prefect server: prefect.yaml deploys, schedules make runs, the event of monitor starts respond."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tasks.incidents import Journal
from tasks.plan import load_plan

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
