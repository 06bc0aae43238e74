"""The flow `abort` on a real Prefect server, and its command: planned, asked, put back, compared, closed, told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from tasks.comms import Told, judge_promises
from tasks.incidents import Journal
from tests.catchup.conftest import Bench

pytestmark = pytest.mark.integration
HOUR = timedelta(hours=1)
RESPOND = {
    "provider": "esp", "mode": "act", "approval": "policy", "name": "desk", "wait_minutes": 0,
    "seen": "nothing is sent",
}  # fmt: skip


@pytest.fixture(scope="module")
def story(tmp_path_factory, prefect_server):
    """A false alarm, run by run: what each came to, and what the provider and the journal held at the end."""
    from datetime import UTC, datetime

    from flows.abort import abort
    from flows.respond import respond
    from tasks.core import DrivenClock

    saved = dict(os.environ)
    folder = tmp_path_factory.mktemp("abort")
    clock = DrivenClock.create(folder / "clock.json", datetime(2011, 11, 16, 7, 0, tzinfo=UTC))
    bench = Bench(folder, clock, people=30)
    found: dict[str, object] = {}
    try:
        past, ahead = bench.campaign("Past", at=HOUR), bench.campaign("Ahead", at=5 * HOUR)
        provider = bench.provider()
        before = provider.campaign(ahead)
        plan = str(bench.plan_path)
        respond(plan=plan, **RESPOND)
        clock.advance(2 * HOUR)
        found["planned"] = abort(plan=plan, name="desk")
        found["untouched"] = provider.campaign(ahead).status
        options = {"plan": plan, "mode": "act", "name": "desk", "wait_minutes": 0}
        found["asked"] = abort(**options, approval="ask")
        with Journal.open(bench.journal_url, clock) as journal:
            found["questions"] = [one for one in journal.approvals("INC-0001") if one.status == "awaiting"]
        found["by policy"] = abort(**options, approval="policy")
        found["back"] = provider.campaign(ahead) == before
        found["still"] = provider.campaign(past).status
        with Journal.open(bench.journal_url, clock) as journal:
            for one in journal.approvals("INC-0001"):
                if one.status == "awaiting" and one.actions[0]["kind"] == "leave":
                    journal.answer_approval(one.id, "approved", "head of marketing", False, "cli")
        command = [
            str(Path(sys.executable).with_name("mailstay")),
            "abort",
            "INC-0001",
            "--name",
            "desk",
            "--mode",
            "act",
            "--json",
        ]
        done = subprocess.run(
            [*command, "--plan", plan, "--reason", "a probe was misread"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=200,
        )
        found["command"] = (done.returncode, done.stdout, done.stderr)
        found["again"] = abort(**options, incident="INC-0001")
        with Journal.open(bench.journal_url, clock) as journal:
            found["incident"] = journal.incident("INC-0001")
            found["timeline"] = journal.timeline("INC-0001")
            found["told"] = journal.communications("INC-0001")
        found["outbox"] = [path.read_text() for path in (folder / "outbox").glob("*.eml")]
        found["after"] = respond(plan=plan, **RESPOND).incident
        provider.close()
        yield found | {"past": past, "ahead": ahead, "now": clock.now()}
    finally:
        bench.close()
        os.environ.clear()
        os.environ.update(saved)


def test_the_plan_says_what_would_be_put_back_and_changes_nothing(story):
    planned = story["planned"]
    assert (planned.state, story["untouched"]) == ("planned", "draft")
    assert {one["campaign_id"]: one["way"] for one in planned.plan} == {
        story["past"]: "held",
        story["ahead"]: "undo",
    }


def test_without_an_answer_it_is_held_with_a_question_per_kind_of_risk(story):
    assert story["asked"].state == "held"
    kinds = sorted(one.actions[0]["kind"] for one in story["questions"])
    assert kinds == ["leave", "reschedule"]


def test_the_policy_puts_back_what_is_exactly_as_it_was_and_never_leaves_anything(story):
    assert story["back"]
    assert (story["by policy"].state, story["still"]) == ("held", "draft")
    assert "its time is past" in story["by policy"].reason
    same = {one["campaign_id"]: one["as_it_was"] for one in story["by policy"].compared}
    assert same == {story["past"]: False, story["ahead"]: True}


def test_with_a_persons_yes_the_command_closes_the_incident_and_shows_each_difference(story):
    code, said, wrong = story["command"]
    assert code == 0, wrong
    result = json.loads(said)
    assert (result["state"], result["left"]) == ("aborted", [story["past"]])
    [past] = [one for one in result["compared"] if one["campaign_id"] == story["past"]]
    assert past["differences"] == [{"field": "status", "was": "scheduled", "now": "draft"}]
    assert story["incident"].state == "canceled"
    assert any("a probe was misread" in one.text for one in story["timeline"])


def test_run_again_it_says_so_and_does_nothing(story):
    assert (story["again"].state, story["again"].plan) == ("aborted", [])
    assert story["after"] == "INC-0002"


def test_people_are_told_that_it_was_a_false_alarm_and_no_promise_is_left_open(story):
    told = [
        Told(one.stakeholder, one.sent_at, one.promised_next_at)
        for one in story["told"]
        if one.sent_at is not None
    ]
    judged = judge_promises(told, story["now"])
    assert judged
    assert {one.status for one in judged} <= {"kept", "late"}
    assert any("1 campaign put back as before the response" in text for text in story["outbox"])
