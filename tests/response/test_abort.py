"""Aborting a response at listmonk, SendGrid and Brevo: what was is back, field by field; the mailbox is the judge."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks.catchup import LEASE, Desk, Stopped
from tasks.core import DrivenClock, UsageError
from tasks.incidents import Journal, LeaseHeld, StaleToken
from tasks.plan import load_plan
from tasks.providers import open_provider
from tasks.response.aborting import Abort, Compared, refuse_if_past
from tasks.response.undoing import Undoing
from tests.catchup.conftest import Bench
from tests.catchup.test_vendors import VendorBench, scheduled

pytestmark = pytest.mark.integration
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


def abort(
    bench: Bench | VendorBench,
    incident: str,
    *,
    agreed: frozenset[str] = frozenset({"undo"}),
    leave: bool = False,
) -> tuple[list[Undoing], list[Compared]]:
    """Abort as the flow does, agreeing to every line of the plan whose way is in `agreed`; close if all is steady."""
    path = bench.plan if isinstance(bench, VendorBench) else bench.plan_path
    with (
        open_provider(load_plan(path), "esp") as provider,
        Journal.open(bench.journal_url, bench.clock) as journal,
    ):
        refuse_if_past(journal, journal.incident(incident))
        lease = journal.lease(incident, "test", LEASE)
        desk = Desk(load_plan(path), journal, provider, bench.clock, journal.incident(incident), lease)
        try:
            work = Abort(desk)
            work.begin()
            lines = work.plan()
            work.apply_opt_outs()
            to = {one.campaign_id: frozenset({one.action}) for one in lines if one.way in agreed}
            problems = work.undo(lines, to)
            compared = work.compare()
            after = work.plan()
            left = {one.campaign_id for one in after if leave and one.way in ("ask", "held")}
            if problems := [*problems, *work.unsteady(after, left, compared)]:
                raise Stopped("; ".join(problems))
            work.close("desk", "false alarm")
            return lines, compared
        finally:
            journal.release(desk.lease or lease)


def state(bench: Bench | VendorBench, incident: str) -> str:
    with Journal.open(bench.journal_url, bench.clock) as journal:
        return journal.incident(incident).state


@pytest.fixture(params=["sendgrid", "brevo"])
def vendor(
    request: pytest.FixtureRequest, tmp_path: Path, clock: DrivenClock, monkeypatch: pytest.MonkeyPatch
) -> Iterator[VendorBench]:
    made = VendorBench(request.param, tmp_path, clock, monkeypatch)
    yield made
    made.vendors.__exit__()


@pytest.fixture
def bench(tmp_path: Path, clock: DrivenClock) -> Iterator[Bench]:
    made = Bench(tmp_path, clock, people=30)
    yield made
    made.close()


def test_a_vendors_campaign_is_exactly_as_it_was_and_goes_out_on_time_without_who_left(
    vendor: VendorBench,
) -> None:
    number = scheduled(vendor, "News", 5 * HOUR, kind="newsletter")
    before = vendor.vendors.provider.campaign(number)
    incident, _ = vendor.respond()
    vendor.clock.advance(HOUR)
    vendor.opt_out(7)
    [line], [compared] = abort(vendor, incident)
    assert (line.way, compared.as_it_was, compared.differences) == ("undo", True, ())
    assert vendor.vendors.provider.campaign(number) == before
    assert state(vendor, incident) == "canceled"
    vendor.clock.advance(5 * HOUR)
    assert set(vendor.judge()) == {f"c{n}@shop.example" for n in range(1, 41)} - {"c7@shop.example"}


def test_a_vendors_campaign_whose_time_is_past_stays_held_until_somebody_decides(vendor: VendorBench) -> None:
    scheduled(vendor, "News", HOUR, kind="newsletter")
    incident, _ = vendor.respond()
    vendor.clock.advance(2 * HOUR)
    with pytest.raises(Stopped, match="still stopped"):
        abort(vendor, incident)
    assert state(vendor, incident) == "investigating"
    abort(vendor, incident, leave=True)
    vendor.clock.advance(24 * HOUR)
    assert state(vendor, incident) == "canceled"
    assert not vendor.judge()


@pytest.mark.parametrize("vendor", ["sendgrid"], indirect=True)
def test_a_batch_goes_on_when_it_was_due(vendor: VendorBench, tmp_path: Path) -> None:
    at = vendor.clock.now() + 2 * HOUR
    vendor.vendors.server.add_batch("b1", at, ["x1", "x2", "x3"])
    (tmp_path / "batches.csv").write_text(
        f"batch_id,name,send_at,people,kind\nb1,Receipts,{at.isoformat()},3,newsletter\n"
    )
    vendor.write_plan(batches="batches.csv")
    incident, _ = vendor.respond()
    [line], _ = abort(vendor, incident)
    assert line.action == "resume"
    vendor.clock.advance(3 * HOUR)
    assert len(vendor.judge()) == 3


def test_at_listmonk_what_is_ahead_is_back_what_is_past_is_held_and_recover_mails_the_rest(
    bench: Bench,
) -> None:
    past, ahead = bench.campaign("Past", at=HOUR), bench.campaign("Ahead", at=5 * HOUR)
    provider = bench.provider()
    before = provider.campaign(ahead)
    incident = bench.respond(past, ahead)
    bench.clock.advance(2 * HOUR)
    with pytest.raises(Stopped, match="its time is past"):
        abort(bench, incident)
    assert provider.campaign(ahead) == before
    assert provider.campaign(past).status == "draft"
    [outcome] = bench.recover(incident)
    assert (outcome.campaign_id, outcome.done) == (past, "caught_up")
    assert provider.campaign(ahead) == before
    bench.clock.advance(5 * HOUR)
    bench.judge(bench.ledgers(incident))
    assert {number: len(mails) for number, mails in bench.mailed().items()} == {past: 30, ahead: 30}
    provider.close()


def test_a_campaign_paused_half_way_goes_on_only_when_a_person_says_so(bench: Bench) -> None:
    number = bench.campaign("News", status="running")
    bench.clock.advance(10)
    incident = bench.respond(number)
    with pytest.raises(Stopped, match="goes on from the pointer"):
        abort(bench, incident)
    bench.clock.advance(MINUTE)
    assert 0 < len(bench.mailed()[number]) < 30
    abort(bench, incident, agreed=frozenset({"undo", "ask"}))
    bench.clock.advance(5 * MINUTE)
    assert len(bench.mailed()[number]) == 30


def test_what_somebody_moved_meanwhile_is_left_as_they_made_it_and_named(bench: Bench) -> None:
    number = bench.campaign("Sale", at=3 * HOUR)
    incident = bench.respond(number)
    known = bench.ask("GET", f"/api/campaigns/{number}")["data"]
    moved = (bench.clock.now() + 6 * HOUR).isoformat()
    body = {key: known[key] for key in ("name", "subject", "body", "attribs")} | {
        "lists": [1],
        "send_at": moved,
    }
    bench.ask("PUT", f"/api/campaigns/{number}", body)
    with pytest.raises(
        Stopped, match=r"somebody changed it since: send_at was 2011-11-16T10:00:00.*13:00:00"
    ):
        abort(bench, incident)
    provider = bench.provider()
    assert provider.campaign(number).status == "draft"
    provider.close()


def test_a_response_and_an_abort_at_once_one_holds_the_lease_and_a_stale_one_does_nothing(
    bench: Bench,
) -> None:
    number = bench.campaign("Sale", at=3 * HOUR)
    incident = bench.respond(number)
    provider = bench.provider()
    with Journal.open(bench.journal_url, bench.clock) as journal:
        lease = journal.lease(incident, "somebody else", LEASE)
        with pytest.raises(LeaseHeld, match="somebody else"):
            abort(bench, incident)
        desk = Desk(
            load_plan(bench.plan_path), journal, provider, bench.clock, journal.incident(incident), lease
        )
        stale = Abort(desk)
        lines = stale.plan()
        journal.release(lease)
        journal.lease(incident, "the next", LEASE)
        with pytest.raises(StaleToken):
            stale.undo(lines, {number: frozenset({"reschedule"})})
    assert provider.campaign(number).status == "draft"
    provider.close()


@pytest.mark.parametrize("cut", ["has begun", "is resolved"])
def test_it_is_refused_where_it_would_contradict_what_was_decided(bench: Bench, cut: str) -> None:
    incident = bench.respond(bench.campaign("Sale", at=3 * HOUR))
    with Journal.open(bench.journal_url, bench.clock) as journal:
        if cut == "is resolved":
            journal.transition(incident, "resolved", "desk", "by hand")
        else:
            journal.put_state(f"recover/{incident}/held", {"campaigns": []}, incident_id=incident)
    with pytest.raises(UsageError, match=cut):
        abort(bench, incident)


def test_where_opt_outs_cannot_be_read_nothing_is_put_back(bench: Bench) -> None:
    number = bench.campaign("Sale", at=3 * HOUR)
    incident = bench.respond(number)
    bench.write_plan(sources={"shop": {"url": "sqlite:///gone.sqlite", "mapping": "shop"}})
    with pytest.raises(Stopped, match="then run abort again; nothing was put back"):
        abort(bench, incident)
    provider = bench.provider()
    assert provider.campaign(number).status == "draft"
    provider.close()


def test_a_stop_after_an_undo_is_undone_anew(bench: Bench, new_run: Callable[..., Any]) -> None:
    number = bench.campaign("Sale", at=3 * HOUR)
    for _ in range(2):
        new_run(bench, number)
        provider = bench.provider()
        assert provider.campaign(number).status == "draft"
        with pytest.raises(Stopped, match="does not answer"):
            bench.esp.fault("hard_down")
            abort(bench, "INC-0001")
        bench.esp.clear("hard_down")
        with Journal.open(bench.journal_url, bench.clock) as journal:
            lease = journal.lease("INC-0001", "test", LEASE)
            desk = Desk(
                load_plan(bench.plan_path),
                journal,
                provider,
                bench.clock,
                journal.incident("INC-0001"),
                lease,
            )
            work = Abort(desk)
            work.undo(work.plan(), {number: frozenset({"reschedule"})})
            journal.release(lease)
        assert provider.campaign(number).status == "scheduled"
        provider.close()
    with Journal.open(bench.journal_url, bench.clock) as journal:
        keys = [one.key for one in journal.actions("INC-0001")]
    stop = f"respond/unschedule/{number}"
    assert keys == [stop, f"abort/{stop}", f"{stop}/2", f"abort/{stop}/2"]


@pytest.fixture
def new_run() -> Callable[..., Any]:
    """A function that has the response stop a campaign, as the flow does."""
    from tasks.response import plan_table, read_calendar, stop_campaign

    def stop(bench: Bench, number: int) -> None:
        provider = bench.provider()
        with Journal.open(bench.journal_url, bench.clock) as journal:
            incident = journal.declare(
                "esp", cause_class="unknown", summary="x", detected_at=bench.clock.now(), declared_by="desk",
                state="investigating",
            ).id  # fmt: skip
            found = read_calendar(load_plan(bench.plan_path), "esp", provider).sendings
            [line] = plan_table(found, provider.capabilities, bench.clock.now(), lateness={}, scope=[number])
            stop_campaign(journal, incident, provider, line, token=None)
        provider.close()

    return stop
