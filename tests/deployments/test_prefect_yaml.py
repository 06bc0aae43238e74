"""prefect.yaml and the templates beside it, without a server: Prefect ignores what it does not know, we do not."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOYMENTS = Path(__file__).resolve().parents[2] / "deployments"

TOP = {"name", "prefect-version", "definitions", "pull", "deployments"}
DEPLOYMENT = {
    "name",
    "entrypoint",
    "description",
    "tags",
    "version",
    "parameters",
    "schedules",
    "concurrency_limit",
    "enforce_parameter_schema",
    "work_pool",
    "triggers",
}
SCHEDULE = {"cron", "interval", "rrule", "timezone", "anchor_date", "active", "parameters", "slug"}
LIMIT = {"limit", "collision_strategy", "grace_period_seconds"}
POOL = {"name", "work_queue_name", "job_variables"}
TRIGGER = {
    "type",
    "enabled",
    "name",
    "description",
    "expect",
    "match",
    "for_each",
    "posture",
    "threshold",
    "within",
    "parameters",
}

RUNBOOKS = (
    "apologise",
    "backup",
    "validate",
    "verify",
    "prune",
    "rehearse",
    "restore",
    "erase",
    "monitor",
    "respond",
    "abort",
    "recover",
    "review",
    "settle",
    "notify",
)


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOYMENTS / "prefect.yaml").read_text())
    return found


def unknown_keys(content: dict[str, Any]) -> list[str]:
    """Return every key that Prefect would ignore without a word."""
    found = [f"{key}" for key in content.keys() - TOP]
    for one in content["deployments"]:
        parts = [
            ("", one, DEPLOYMENT),
            ("concurrency_limit.", one.get("concurrency_limit", {}), LIMIT),
            ("work_pool.", one.get("work_pool", {}), POOL),
            *(("schedules.", schedule, SCHEDULE) for schedule in one.get("schedules", [])),
            *(("triggers.", trigger, TRIGGER) for trigger in one.get("triggers", [])),
        ]
        for where, part, known in parts:
            found += [f"{one['name']}.{where}{key}" for key in part.keys() - known]
    return found


def test_no_key_is_one_that_prefect_ignores(content: dict[str, Any]) -> None:
    assert unknown_keys(content) == []


def test_the_lint_finds_a_misspelt_key_at_every_level(content: dict[str, Any]) -> None:
    broken = json.loads(json.dumps(content))
    respond = next(one for one in broken["deployments"] if one["name"] == "respond")
    backup = next(one for one in broken["deployments"] if one["name"] == "backup")
    broken["deployment"] = []
    respond["paramaters"] = {}
    respond["work_pool"]["queue"] = "x"
    respond["triggers"][0]["treshold"] = 1
    respond["concurrency_limit"]["strategy"] = 1
    backup["schedules"][0]["max_scheduled_runs"] = 3
    assert sorted(unknown_keys(broken)) == [
        "backup.schedules.max_scheduled_runs",
        "deployment",
        "respond.concurrency_limit.strategy",
        "respond.paramaters",
        "respond.triggers.treshold",
        "respond.work_pool.queue",
    ]


def test_every_runbook_is_deployed_under_its_own_name(content: dict[str, Any]) -> None:
    deployed = {one["name"]: one["entrypoint"] for one in content["deployments"]}
    assert deployed == {name: f"flows.{name}.{name}" for name in RUNBOOKS}


@pytest.mark.parametrize("name", RUNBOOKS)
def test_what_is_deployed_fits_its_flow(content: dict[str, Any], name: str) -> None:
    deployment = next(one for one in content["deployments"] if one["name"] == name)
    flow = getattr(importlib.import_module(f"flows.{name}"), name)
    known = inspect.signature(flow.fn).parameters
    assert known["plan"].default == "plan.yaml"
    given = set(deployment["parameters"])
    for trigger in deployment.get("triggers", []):
        given |= set(trigger["parameters"])
    assert given <= set(known)


@pytest.mark.parametrize("name", RUNBOOKS)
def test_the_form_of_every_flow_describes_every_field(name: str) -> None:
    from prefect.utilities.callables import parameter_schema

    flow = getattr(importlib.import_module(f"flows.{name}"), name)
    schema = parameter_schema(flow)
    bare = [key for key, field in schema.properties.items() if not field.get("description")]
    assert bare == []


PLAIN = {"string", "boolean", "integer", "number"}
CHANGES = {"apply", "confirm", "rewrite", "override_holds", "unproven"}


@pytest.mark.parametrize("name", RUNBOOKS)
def test_the_form_of_every_flow_has_plain_fields_in_order_and_changes_nothing_by_itself(name: str) -> None:
    from prefect.utilities.callables import parameter_schema

    schema = parameter_schema(getattr(importlib.import_module(f"flows.{name}"), name))
    fields = dict(sorted(schema.properties.items(), key=lambda one: one[1]["position"]))
    assert not schema.definitions, "a field of its own type is shown as a box of JSON"
    for key, field in fields.items():
        assert field["title"] == key
        kind = field["items"]["type"] if field.get("type") == "array" else field.get("type")
        assert kind in PLAIN, f"{key}: {field}"
        assert (key in schema.required) == ("default" not in field)
        assert not (key in CHANGES and field["default"]), key
    required = [key in schema.required for key in fields]
    assert required == sorted(required, reverse=True), "what must be given comes first"


@pytest.mark.parametrize(
    ("name", "field", "good", "slips"),
    [
        ("restore", "snapshot", ["latest", "shop/00000042"], ["shop/42", "newest", "shop-00000042", ""]),
        ("validate", "snapshot", ["latest", "shop/00000042"], ["shop/42", "all"]),
        ("verify", "part", ["next/7", "3/7", "1/1"], ["3 of 7", "3/", "all"]),
        ("erase", "person", ["ab" * 32], ["ann@shop.example", ""]),
        ("erase", "ground", ["objection"], ["because"]),
        ("restore", "mode", ["empty", "insert-missing", "overwrite"], ["insert"]),
    ],
)
def test_a_slip_of_the_pen_is_refused_by_the_form(
    name: str, field: str, good: list[str], slips: list[str]
) -> None:
    from prefect.utilities.callables import parameter_schema
    from prefect.utilities.schema_tools import validate

    schema = parameter_schema(getattr(importlib.import_module(f"flows.{name}"), name)).model_dump()
    only = {"type": "object", "properties": {field: schema["properties"][field]}}
    assert [value for value in [*good, *slips] if validate({field: value}, only)] == slips


def test_the_response_starts_in_plan_mode_and_asks(content: dict[str, Any]) -> None:
    respond = next(one for one in content["deployments"] if one["name"] == "respond")
    [trigger] = respond["triggers"]
    assert (trigger["parameters"]["mode"], trigger["parameters"]["approval"]) == ("plan", "ask")


def test_validation_is_scheduled_after_the_backup(content: dict[str, Any]) -> None:
    times = {}
    for one in content["deployments"]:
        for schedule in one.get("schedules", []):
            if "cron" in schedule:
                minute, hour, *_ = schedule["cron"].split()
                times[one["name"]] = (int(hour), int(minute))
    assert times["backup"] < times["validate"]


def test_the_templates_name_the_same_pool_and_files_that_exist() -> None:
    objects = list(yaml.safe_load_all((DEPLOYMENTS / "kubernetes" / "worker.yaml").read_text()))
    assert [one["kind"] for one in objects] == ["ConfigMap", "PersistentVolumeClaim", "Deployment"]
    [container] = objects[-1]["spec"]["template"]["spec"]["containers"]
    assert container["args"][-2:] == ["--pool", "mailstay"]
    for line in (DEPLOYMENTS / "container" / "Dockerfile").read_text().splitlines():
        if copied := re.match(r"COPY (?!--from)(.+) \S+$", line):
            for path in copied[1].split():
                assert (DEPLOYMENTS.parent / path).exists(), path


def test_no_secret_is_written_into_any_template() -> None:
    for path in DEPLOYMENTS.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert not re.search(r"(?i)(password|token|api_key)\s*[:=]\s*[\"']?\w{8,}", path.read_text()), (
                path
            )
