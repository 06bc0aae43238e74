"""The flow `recover` on a real Prefect server: held where it must be, resolved in the end, told to people."""

import importlib.util
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from tasks.incidents import Journal

pytestmark = pytest.mark.integration
HOUR = timedelta(hours=1)


def _bench_module():
    path = Path(__file__).parents[1] / "catchup" / "conftest.py"
    spec = importlib.util.spec_from_file_location("recovery_bench", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


new_bench = _bench_module().new_bench


@pytest.fixture
def bench(new_bench):
    return new_bench(people=60)


def run(bench, **options):
    from flows.recover import recover

    return recover(plan=str(bench.plan_path), name="desk", **options)


def test_without_an_answer_it_ends_as_held_and_after_one_it_goes_on(bench, prefect_server) -> None:
    number = bench.campaign("News", at=HOUR)
    incident = bench.respond(number)
    bench.clock.advance(2 * HOUR)
    held = run(bench, approval="ask")
    assert held.state == "held"
    assert "not agreed to" in held.reason
    assert bench.mailed()[number] == []
    with Journal.open(bench.journal_url, bench.clock) as journal:
        [approval] = journal.approvals(incident)
        assert approval.actions[0]["kind"] == "catch_up"
        journal.answer_approval(approval.id, "approved", "Ada", False, "cli")
    done = run(bench, approval="ask")
    assert done.state == "resolved"
    assert done.outcomes["delivered"] + done.outcomes["accepted"] == 60
    bench.judge(bench.ledgers(incident))


def test_the_policy_lets_a_whole_recovery_through_and_people_are_told(bench, prefect_server) -> None:
    sale = bench.campaign("Sale", kind="sale", at=HOUR, deadline=2 * HOUR)
    news = bench.campaign("News", at=HOUR)
    incident = bench.respond(sale, news, impact_hours_ago=0.5)
    bench.clock.advance(3 * HOUR)
    bench.opt_out(5)
    done = run(bench, approval="policy")
    assert (done.state, done.opted_out, done.unknown) == ("resolved", 1, "")
    assert {one["campaign_id"]: one["done"] for one in done.campaigns} == {sale: "dropped", news: "caught_up"}
    with Journal.open(bench.journal_url, bench.clock) as journal:
        times = journal.timestamps(incident)
        assert journal.incident(incident).state == "resolved"
        assert times["impact_started_at"] < times["mitigated_at"] <= times["resolved_at"]
        [told] = journal.communications(incident)
        assert (told.status, told.promised_next_at) == ("sent", None)
    [mail] = (bench.folder / "outbox").glob("**/*.eml")
    assert "shop.example" not in mail.read_text()
    bench.judge(bench.ledgers(incident))


def test_a_green_status_page_does_not_make_a_dead_provider_restored(bench, prefect_server) -> None:
    bench.campaign("News", at=HOUR)
    incident = bench.respond()
    bench.esp.fault("status_green")
    bench.esp.fault("hard_down", mode="503")
    held = run(bench, approval="policy")
    assert held.state == "held"
    assert "not back" in held.reason
    with Journal.open(bench.journal_url, bench.clock) as journal:
        assert journal.incident(incident).state == "investigating"
        assert "mitigated_at" not in journal.timestamps(incident)


def test_a_provider_that_takes_mail_and_does_not_deliver_it_is_not_back(
    bench, prefect_server, monkeypatch
) -> None:
    monkeypatch.setenv("BENCH_SEED", "c1@shop.example")
    bench.write_plan(seed=True)
    number = bench.campaign("News", at=HOUR)
    incident = bench.respond(number)
    bench.clock.advance(2 * HOUR)
    bench.esp.fault("accept_but_not_deliver")
    held = run(bench, approval="policy")
    assert held.state == "held"
    assert "did not arrive" in held.reason
    assert bench.mailed()[number] == []
    bench.esp.clear("accept_but_not_deliver")
    bench.clock.advance(HOUR)
    done = run(bench, approval="policy")
    assert done.state == "resolved"
    with Journal.open(bench.journal_url, bench.clock) as journal:
        assert any("a seed message arrived" in one.text for one in journal.timeline(incident))


def test_a_second_run_keeps_the_time_at_which_the_provider_was_first_measured_to_be_back(
    bench, prefect_server
) -> None:
    incident = bench.respond(bench.campaign("News", at=HOUR))
    bench.clock.advance(2 * HOUR)
    assert run(bench, approval="ask").state == "held"
    first = bench.clock.now()
    bench.clock.advance(2 * HOUR)
    with Journal.open(bench.journal_url, bench.clock) as journal:
        [approval] = journal.approvals(incident)
        journal.answer_approval(approval.id, "approved", "Ada", False, "cli")
        journal.put_on_hold(incident, "awaiting_vendor", "desk", "a ticket is open")
    assert run(bench, approval="ask").state == "resolved"
    with Journal.open(bench.journal_url, bench.clock) as journal:
        assert journal.timestamps(incident)["mitigated_at"] <= first
        assert journal.incident(incident).on_hold == ""


def test_a_campaign_the_plan_asks_about_waits_for_a_person_even_under_the_policy(
    bench, prefect_server
) -> None:
    bench.write_plan(lateness={"newsletter": {"useful_for_minutes": 600, "when_late": "needs_approval"}})
    number = bench.campaign("News", at=HOUR)
    incident = bench.respond(number)
    bench.clock.advance(2 * HOUR)
    assert run(bench, approval="policy").state == "held"
    with Journal.open(bench.journal_url, bench.clock) as journal:
        [approval] = journal.approvals(incident)
        journal.answer_approval(approval.id, "rejected", "Ada", False, "cli")
    done = run(bench, approval="policy")
    assert (done.state, done.outcomes["dropped"]) == ("resolved", 60)
    assert bench.mailed()[number] == []


def test_two_runs_do_not_recover_at_once(bench, prefect_server) -> None:
    from tasks.incidents import LeaseHeld

    incident = bench.respond(bench.campaign("News", at=HOUR))
    with Journal.open(bench.journal_url, bench.clock) as journal:
        lease = journal.lease(incident, "somebody else", HOUR)
        with pytest.raises(LeaseHeld, match="somebody else"):
            run(bench, approval="policy")
        journal.release(lease)


def test_without_an_open_incident_it_says_what_to_do(bench, prefect_server) -> None:
    with pytest.raises(Exception, match="No incident is open"):
        run(bench, approval="policy")


def test_an_incident_that_is_over_is_refused_and_healthy_campaigns_are_left_alone(
    bench, prefect_server
) -> None:
    from tasks.core import UsageError

    running = bench.campaign("News", status="running")
    incident = bench.respond()
    with Journal.open(bench.journal_url, bench.clock) as journal:
        journal.transition(incident, "canceled", "desk", "a false alarm")
    with pytest.raises(UsageError, match="is canceled: there is nothing of it to recover"):
        run(bench, approval="policy", incident=incident)
    assert bench.provider().campaign(running).status == "running"


def test_an_incident_that_a_killed_run_resolved_is_gone_on_with(bench, prefect_server) -> None:
    incident = bench.respond(bench.campaign("News", at=HOUR))
    bench.clock.advance(2 * HOUR)
    assert run(bench, approval="policy").state == "resolved"
    assert run(bench, approval="policy", incident=incident).state == "resolved"


def test_whose_outcome_nobody_knows_is_listed_while_the_recovery_is_held(bench, prefect_server) -> None:
    from tasks.catchup.errors import CatchupError
    from tasks.catchup.recovery import Recovery

    number = bench.campaign("News", status="running")
    bench.die(30)
    bench.esp.restart()
    bench.respond(number, impact_hours_ago=1)
    with pytest.MonkeyPatch.context() as patched:

        def must_stop(*_: object) -> None:
            raise CatchupError("a limit was passed")

        patched.setattr(Recovery, "resume", must_stop)
        held = run(bench, approval="policy")
    assert held.state == "held"
    assert Path(held.unknown).is_file()


def test_a_held_recovery_tells_its_desk_once_and_subscribers_nothing(bench, prefect_server) -> None:
    bench.write_plan(
        stakeholders={
            "desk": {"channel": "outbox", "report": "tactical"},
            "customers": {"channel": "outbox", "report": "audience"},
        }
    )
    incident = bench.respond(bench.campaign("News", at=HOUR))
    for mode in ("503", "refuse"):  # the same news, seen by another sign
        bench.esp.fault("hard_down", mode=mode)
        assert run(bench, approval="policy").state == "held"
    with Journal.open(bench.journal_url, bench.clock) as journal:
        assert [one.stakeholder for one in journal.communications(incident)] == ["desk"]
    [mail] = (bench.folder / "outbox").glob("**/*.eml")
    assert "does not work again yet" in mail.read_text()


def test_a_run_that_waits_for_an_answer_keeps_its_lease(bench, prefect_server, monkeypatch) -> None:
    import threading
    import time

    from prefect import flow

    from tasks.catchup import steps
    from tasks.catchup.recovery import Question
    from tasks.core import SystemClock

    bench.write_plan(clock="system", approval={"policy_actions": [], "wait_minutes": 1})
    monkeypatch.setattr(steps, "POLL_SECONDS", 0.2)
    with Journal.open(bench.journal_url, SystemClock()) as journal:
        incident = journal.declare(
            "esp", cause_class="unknown", summary="s", detected_at=SystemClock().now(), declared_by="desk"
        ).id
        lease = journal.lease(incident, "test", timedelta(seconds=2))
    waiting = steps.Run(str(bench.plan_path), incident, lease)

    @flow
    def waits():
        question = Question(3, "News", "send", "late_but_useful", "why", 10, 0, "catch_up", False)
        return steps.ask_for_agreement(waiting, [question], "ask")

    def answer() -> None:
        with Journal.open(bench.journal_url, SystemClock()) as journal:
            while not (asked := journal.approvals(incident)):
                time.sleep(0.1)
            time.sleep(0.5)
            journal.answer_approval(asked[0].id, "approved", "Ada", False, "cli")

    thread = threading.Thread(target=answer)
    thread.start()
    assert waits() == {3: frozenset({"catch_up"})}
    thread.join()
    assert waiting.lease.expires_at > lease.expires_at + timedelta(minutes=20)
