"""The flow `respond` on a real Prefect server against the simulated provider: planning, agreeing, stopping once."""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
import yaml
from prefect.logging import disable_run_logger

from tasks.core import SystemClock, open_clock
from tasks.drills import World
from tasks.incidents import Journal
from tasks.plan import load_plan
from tasks.providers import connect_provider

pytestmark = pytest.mark.integration
HOUR = timedelta(hours=1)


def _bench_module():
    path = Path(__file__).parents[1] / "catchup" / "conftest.py"
    spec = importlib.util.spec_from_file_location("response_bench", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


new_bench = _bench_module().new_bench


@pytest.fixture
def bench(new_bench):
    return new_bench(people=60)


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
        key = os.environ.pop("MAILSTAY_SIGNING_KEY")
        found["keyless"] = respond(provider="listmonk", plan=plan, mode="plan", name="desk")
        found["no key"] = _notes(world, "no_snapshot")
        os.environ["MAILSTAY_SIGNING_KEY"] = key
        stranger = world.plan_path.with_name("stranger.yaml")
        settings = yaml.safe_load(world.plan_path.read_text())
        settings["store"]["public_key"] = "00" * 32
        stranger.write_text(yaml.safe_dump(settings))
        found["strange store"] = respond(provider="listmonk", plan=str(stranger), mode="plan", name="desk")
        found["not ours"] = _notes(world, "no_snapshot")
        found["down"] = respond(provider="listmonk", plan=plan, mode="act", approval="policy", name="desk")
        world.play_until(world.at("09:25"))
        found["before"] = _statuses(world)
        found["planned"] = respond(provider="listmonk", plan=plan, mode="plan", name="desk")
        found["after plan"] = _statuses(world)
        holds = {path: path.read_bytes() for path in (world.folder / "store" / "holds").rglob("*.json")}
        for path, content in holds.items():
            path.write_bytes(content.replace(b"INC-0001", b"INC-0666"))
        found["tampered"] = respond(provider="listmonk", plan=plan, mode="plan", name="desk")
        found["damage"] = _notes(world, "no_snapshot")[-2:]
        for path, content in holds.items():
            path.write_bytes(content)
        found["asked"] = respond(provider="listmonk", plan=plan, mode="act", approval="ask", name="desk")
        found["after asking"] = _statuses(world)
        with _journal(world) as journal:
            (waiting,) = [one for one in journal.approvals("INC-0001") if one.status == "awaiting"]
            found["question"] = waiting
            journal.answer_approval(waiting.id, "approved", "head of marketing", False, "cli")
        found["acted"] = respond(provider="listmonk", plan=plan, mode="act", approval="ask", name="desk")
        found["again"] = respond(provider="listmonk", plan=plan, mode="act", approval="ask", name="desk")
        found["ticket"] = Path(found["again"].vendor_ticket).read_text()
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


def _notes(world: World, kind: str) -> list[str]:
    with _journal(world) as journal:
        return [entry.text for entry in journal.timeline("INC-0001") if entry.kind == kind]


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


def test_without_the_key_that_signs_a_hold_the_plan_is_made_all_the_same(story):
    assert len(story["keyless"].plan) >= 3
    assert {text.partition(":")[0] for text in story["no key"]} == {
        "no snapshot of shop is held",
        "no snapshot of esp is held",
    }


def test_a_store_that_is_not_ours_is_named_and_not_taken_for_an_empty_one(story):
    assert story["strange store"].incident == "INC-0001"
    assert any("not the one pinned in the plan" in text for text in story["not ours"])
    assert not any("there is no good snapshot" in text for text in story["not ours"])


def test_a_hold_that_was_tampered_with_is_named_and_the_plan_is_made_all_the_same(story):
    assert len(story["tampered"].plan) == len(story["planned"].plan)
    assert all(" is held: " in text and "hold" in text.partition(" is held: ")[2] for text in story["damage"])


def test_the_ticket_names_the_campaigns_also_after_they_were_stopped(story):
    assert story["again"].plan == []
    stopped = [line for line in story["planned"].plan if line["campaign_id"] in story["after acting"]]
    assert stopped
    for line in stopped:
        assert f"- {line['name']}: " in story["ticket"]
    assert "; stopped" in story["ticket"]


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


def _plan_of(bench, *campaigns: int):
    """Declare the incident and return a run of `respond` with a line of the plan per campaign, as it stands now."""
    from tasks.response.steps import Run, plan_campaigns

    run = Run(str(bench.plan_path), "esp", "desk")
    run.incident = bench.respond()
    with disable_run_logger():
        lines = plan_campaigns.fn(run, campaigns)
    assert [line.campaign_id for line in lines] == list(campaigns)
    return run, lines


def _stop(run, lines, **agreed) -> int:
    from tasks.response.agreeing import Agreed
    from tasks.response.steps import stop_campaigns

    with disable_run_logger():
        return stop_campaigns.fn(run, Agreed(tuple(lines), (), None, **agreed))


def test_one_line_of_the_plan_that_is_stale_keeps_no_other_campaign_from_being_stopped(bench):
    started = bench.campaign("Soon", at=0.1 * HOUR)
    gone = bench.campaign("Gone", at=0.5 * HOUR)
    later = bench.campaign("Later", at=HOUR)
    run, lines = _plan_of(bench, started, gone, later)
    auth = (bench.esp.user, bench.esp.token)
    httpx.delete(f"{bench.esp.api_url}/api/campaigns/{gone}", auth=auth).raise_for_status()
    bench.clock.advance(0.11 * HOUR)
    provider = bench.provider()
    assert provider.campaign(started).status == "running"
    assert _stop(run, lines) == 2
    assert {number: provider.campaign(number).status for number in (started, later)} == {
        started: "paused",
        later: "draft",
    }
    assert f"campaign {gone}: " in run.reason
    with Journal.open(bench.journal_url, bench.clock) as journal:
        assert journal.incident(run.incident).on_hold == ""
        assert not any("everything due is stopped" in one.text for one in journal.timeline(run.incident))
        assert {(one.kind, one.target) for one in journal.actions(run.incident) if one.status == "done"} == {
            ("pause", f"campaign/{started}"),
            ("unschedule", f"campaign/{later}"),
        }


def test_the_policys_yes_to_unscheduling_does_not_cover_a_pause_that_the_plan_does_not_list(bench):
    bench.write_plan(approval={"policy_actions": ["unschedule"], "wait_minutes": 0})
    started = bench.campaign("Soon", at=0.1 * HOUR)
    run, lines = _plan_of(bench, started)
    bench.clock.advance(0.11 * HOUR)
    assert _stop(run, lines, by_policy=frozenset({started})) == 0
    assert bench.provider().campaign(started).status == "running"
    assert f"campaign {started}: " in run.reason


def test_everything_is_said_to_be_stopped_only_when_it_is(bench):
    first, second = bench.campaign("One", at=0.5 * HOUR), bench.campaign("Two", at=HOUR)
    run, lines = _plan_of(bench, first, second)
    run.whole = True
    assert _stop(run, lines[:1]) == 1
    with Journal.open(bench.journal_url, bench.clock) as journal:
        texts = [one.text for one in journal.timeline(run.incident)]
    assert any("what was agreed to is stopped" in text for text in texts)
    assert not any("everything due is stopped" in text for text in texts)


def test_a_campaign_that_was_renamed_since_an_unfinished_stop_is_stopped(bench, monkeypatch):
    from tasks.catchup import journaled

    number = bench.campaign("News", at=HOUR)
    run, lines = _plan_of(bench, number)

    def killed(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(journaled, "crash_point", killed)
    with pytest.raises(KeyboardInterrupt):
        _stop(run, lines)
    monkeypatch.undo()
    auth = (bench.esp.user, bench.esp.token)
    url = f"{bench.esp.api_url}/api/campaigns/{number}"
    known = httpx.get(url, auth=auth).raise_for_status().json()["data"]
    body = {
        "name": "Better news", "subject": known["subject"], "lists": [1], "body": known["body"],
        "send_at": known["send_at"], "attribs": known["attribs"],
    }  # fmt: skip
    httpx.put(url, json=body, auth=auth).raise_for_status()
    from tasks.response.steps import plan_campaigns

    with disable_run_logger():
        lines = plan_campaigns.fn(run, [number])
    assert lines[0].name == "Better news"
    assert _stop(run, lines) == 1
    assert bench.provider().campaign(number).status == "draft"


def test_a_no_counts_for_the_run_that_asked_and_the_next_run_asks_anew(tmp_path, clock):
    from tasks.response.agreeing import Agreed, agree
    from tasks.response.table import PlanLine

    line = PlanLine(1, "Sale", "sale", "running", 10, None, None, "pause", "resume", "goes on", 0)
    with Journal.open(f"sqlite:///{tmp_path / 'journal.db'}", clock) as journal:
        incident = journal.declare(
            "esp", cause_class="unknown", summary="x", detected_at=clock.now(), declared_by="desk"
        ).id

        def ask(*asked: int) -> Agreed:
            expires_at = clock.now() + HOUR
            return agree(
                journal,
                incident,
                [line],
                use_policy=False,
                policy_actions=(),
                expires_at=expires_at,
                asked=asked,
            )

        first = ask().waiting
        journal.answer_approval(first.id, "rejected", "Ada", False, "cli")
        assert ask(first.id) == Agreed((), (line,), None)
        second = ask().waiting
        assert second is not None
        assert second.id != first.id
        journal.answer_approval(second.id, "approved", "Ada", False, "cli")
        assert ask() == Agreed((line,), (), None)
