"""The flow `respond` on a real Prefect server against the simulated provider: planning, agreeing, stopping once."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from datetime import timedelta

import pytest

from tasks.core import SystemClock, open_clock
from tasks.drills import World
from tasks.incidents import Journal
from tasks.plan import load_plan
from tasks.providers import connect_provider

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def story(tmp_path_factory, prefect_server):
    """The runs of `respond` over one outage, in order, each with what the provider and the journal held after it."""
    from flows.backup import backup
    from flows.respond import respond
    from flows.validate import validate

    saved = dict(os.environ)
    found: dict[str, object] = {}
    with World.create(tmp_path_factory.mktemp("respond") / "world", seed=7, scale="small") as world:
        os.environ.update(world.env)
        plan = str(world.plan_path)
        world.play_until(world.at("02:00"))
        backup(plan=plan)
        validate(plan=plan)
        world.play_until(world.at("08:30"))
        found["down"] = respond(provider="listmonk", plan=plan, mode="act", approval="policy", name="desk")
        world.play_until(world.at("09:25"))
        found["before"] = _statuses(world)
        found["planned"] = respond(provider="listmonk", plan=plan, mode="plan", name="desk")
        found["after plan"] = _statuses(world)
        found["asked"] = respond(provider="listmonk", plan=plan, mode="act", approval="ask", name="desk")
        found["after asking"] = _statuses(world)
        with _journal(world) as journal:
            (waiting,) = [one for one in journal.approvals("INC-0001") if one.status == "awaiting"]
            found["question"] = waiting
            journal.answer_approval(waiting.id, "approved", "head of marketing", False, "cli")
        found["acted"] = respond(provider="listmonk", plan=plan, mode="act", approval="ask", name="desk")
        found["again"] = respond(provider="listmonk", plan=plan, mode="act", approval="ask", name="desk")
        found["after acting"] = _statuses(world)
        with _journal(world) as journal:
            found["actions"] = journal.actions("INC-0001")
            found["incident"] = journal.incident("INC-0001")
            found["told"] = journal.communications("INC-0001")
        found["outbox"] = [path.read_text() for path in (world.folder / "outbox").rglob("*.eml")]
        yield found
    os.environ.clear()
    os.environ.update(saved)


def _statuses(world: World) -> dict[int, str]:
    provider = connect_provider(
        "listmonk",
        load_plan(world.plan_path).provider("listmonk"),
        world.esp.user,
        world.esp.token,
        world.clock,
    )
    found = {one.id: one.status for one in provider.campaigns()}
    provider.close()
    return found


def _journal(world: World) -> Journal:
    loaded = load_plan(world.plan_path)
    return Journal.open(loaded.journal_url(), open_clock(loaded.clock_spec()))


def test_a_silent_provider_holds_the_run_and_the_plan_comes_from_the_last_good_snapshot(story):
    down = story["down"]
    assert down.held
    assert "does not answer" in down.reason
    assert down.actions == {}
    assert {line["action"] for line in down.plan} == {"unschedule"}  # as the snapshot of 02:00 knew them
    assert len(down.plan) >= 3


def test_plan_mode_changes_nothing_at_the_provider(story):
    assert story["after plan"] == story["before"]
    assert {line["action"] for line in story["planned"].plan} == {"pause", "unschedule"}
    assert all(line["undoable"] and line["if_nothing"] for line in story["planned"].plan)


def test_without_an_answer_the_run_is_held_and_only_what_was_approved_before_is_stopped(story):
    """The policy's answer of 08:30 covers taking back to draft; pausing what runs by now is a new question."""
    assert story["asked"].held
    assert story["asked"].approval == "awaiting"
    before, after = story["before"], story["after asking"]
    assert {one["kind"] for one in story["question"].actions} == {"pause"}
    for line in story["planned"].plan:
        expected = "running" if line["action"] == "pause" else "draft"
        assert after[line["campaign_id"]] == expected
    planned = {line["campaign_id"] for line in story["planned"].plan}
    assert all(after[number] == status for number, status in before.items() if number not in planned)


def test_the_next_run_goes_on_from_the_answer_in_the_journal(story):
    assert not story["acted"].held
    assert story["acted"].approval == "approved"
    stopped = {line["campaign_id"] for line in story["planned"].plan}
    assert {story["after acting"][number] for number in stopped} == {"paused", "draft"}


def test_no_campaign_is_stopped_twice_however_often_the_flow_runs(story):
    assert Counter(one.target for one in story["actions"]).most_common(1)[0][1] == 1
    assert {one.status for one in story["actions"]} == {"done"}
    assert story["again"].actions == story["acted"].actions


def test_every_action_keeps_what_is_needed_to_undo_it(story):
    for one in story["actions"]:
        assert one.undo["action"] in ("resume", "reschedule")
        assert one.previous_state["status"] in ("running", "scheduled")
        if one.kind == "unschedule":
            assert one.previous_state["send_at"]


def test_people_were_told_once_per_news_with_a_promise_and_without_an_address(story):
    assert len({one.message_id for one in story["told"]}) == len(story["told"]) > 0
    assert all(one.promised_next_at is not None and one.status == "sent" for one in story["told"])
    assert not any("@shop.example" in text for text in story["outbox"])


def test_the_incident_waits_for_the_vendor_and_was_acknowledged(story):
    assert story["incident"].on_hold == "awaiting_vendor"
    assert "acknowledged_at" in story["incident"].timestamps


def test_an_answer_from_elsewhere_resumes_a_run_that_waits_on_its_form(prefect_server, tmp_path, monkeypatch):
    """The form is Prefect's; the answer is written to the journal by another process, as the command line does."""
    from prefect import flow

    from tasks.response.agreeing import agree
    from tasks.response.steps import Run, _ask_on_the_form
    from tasks.response.table import PlanLine

    url = f"sqlite:///{tmp_path / 'journal.db'}"
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "version: 1\nname: Shop\njournal: " + url + "\nstore: {url: store}\n"
        "sources: {esp: {url: 'sqlite:///esp.db'}}\n"
        "providers: {listmonk: {kind: listmonk, api_url: 'http://127.0.0.1:9'}}\n"
    )
    line = PlanLine(1, "Sale", "sale", "running", 10, None, None, "pause", "resume", "goes on", 0)
    clock = SystemClock()
    with Journal.open(url, clock) as journal:
        incident = journal.declare(
            "listmonk", cause_class="unknown", summary="x", detected_at=clock.now(), declared_by="desk"
        )
        asked = agree(
            journal,
            incident.id,
            [line],
            use_policy=False,
            policy_actions=(),
            expires_at=clock.now() + timedelta(hours=1),
        ).waiting
    assert asked is not None

    @flow
    def waits() -> str:
        run = Run(str(plan), "listmonk", "desk")
        run.incident = incident.id
        _ask_on_the_form(run, [line], asked.id, 60)
        return "went on"

    def answer() -> None:
        time.sleep(3)
        with Journal.open(url, clock) as journal:
            journal.answer_approval(asked.id, "approved", "desk", False, "cli")

    thread = threading.Thread(target=answer)
    thread.start()
    began = time.monotonic()
    assert waits() == "went on"
    thread.join()
    assert time.monotonic() - began < 40  # the answer, not the deadline, ended the wait
    with Journal.open(url, clock) as journal:
        assert journal.approval(asked.id).status == "approved"
