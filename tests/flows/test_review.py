"""The flow `review` on a real Prefect server, over a whole played outage, held against the world's truth."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tasks.core import open_clock
from tasks.drills import World
from tasks.incidents import Journal
from tasks.plan import load_plan, secret

pytestmark = pytest.mark.integration


@dataclass
class Played:
    """An outage that was played to its end, with the reviews made on the way."""

    plan: Path
    incident: str = ""
    truth: Any = None
    early: Any = None
    settled: Any = None
    again: Any = None
    waiting: Any = None
    settling: Any = None
    over: Any = None
    refusals: dict[str, str] = field(default_factory=dict)
    told: dict[str, int] = field(default_factory=dict)


@pytest.fixture(scope="module")
def played(tmp_path_factory, prefect_server):
    """A small world: backup, outage, a response by hand, the real recovery, and reviews before and after settling."""
    from flows.review import review
    from flows.settle import settle

    folder = tmp_path_factory.mktemp("review")
    saved = dict(os.environ)
    with World.create(folder / "world", seed=7, scale="small") as world:
        os.environ.update(world.env)
        plan = str(world.plan_path)
        result = Played(world.plan_path)
        world.play_until(world.at("02:00"))
        _snapshots(world)
        result.incident = _respond(world)
        result.refusals["open"] = _refusal(review, plan=plan, incident=result.incident)
        world.play_until(world.at("13:15"))
        resolved = _recover(world, result.incident)
        result.refusals["no snapshot"] = _refusal(review, plan=plan)
        world.advance(30)
        _snapshots(world)
        result.early = review(plan=plan)
        result.told["early"] = _told(world, result.incident)
        result.refusals["settle"] = _refusal(review, plan=plan, settle=True)
        result.waiting = settle(plan=plan)
        world.play_until(resolved + timedelta(hours=48, minutes=30))
        result.settling = [settle(plan=plan)]
        _snapshots(world)
        result.settling.append(settle(plan=plan))
        [result.settled] = result.settling[-1].reports
        result.over = settle(plan=plan)
        result.told["settled"] = _told(world, result.incident)
        result.again = review(plan=plan, incident=result.incident)
        result.told["again"] = _told(world, result.incident)
        result.truth = world.truth(resolved_at=resolved)
        yield result
    os.environ.clear()
    os.environ.update(saved)


def test_messages_equal_the_truth(played):
    found, truth = played.settled.messages, played.truth.messages
    names = ("due", "delayed", "on_time", "suppressed", "dropped", "unknown", "duplicated", "to_opted_out")
    assert {name: found[name] for name in names} == {name: getattr(truth, name) for name in names}
    assert found["delayed"] > 100
    assert found["dropped"] > 10
    assert found["unknown"] > 0


def test_rows_at_risk_and_rows_lost_equal_the_truth_table_by_table(played):
    truth = played.truth
    assert {name: played.settled.rows_at_risk.get(name) for name in truth.rows_at_risk} == truth.rows_at_risk
    assert {name: played.settled.rows_lost.get(name, 0) for name in truth.rows_lost} == truth.rows_lost
    assert sum(truth.rows_lost.values()) > 0
    others = {name: rows for name, rows in played.settled.rows_lost.items() if name not in truth.rows_lost}
    assert not any(others.values())


def test_the_loss_has_an_interval_around_it_and_deferred_is_exact(played):
    loss, truth = played.settled.loss, played.truth.loss
    assert loss["low"] < loss["net"] < loss["high"]
    assert loss["deferred"] == truth.deferred_minor
    assert loss["gross"] == loss["net"] + loss["deferred"]
    assert loss["low"] <= truth.net_minor <= loss["high"]  # this seed; tests/impact holds the frequency
    assert loss["currency"] == "GBP"


RECOMPUTE = Path(__file__).resolve().parents[2] / "docs" / "recompute.py"


def recompute(folder: Path) -> tuple[int, dict[str, list[str]]]:
    """Run the page's script on a report; return its exit code and the words of every line, by figure."""
    done = subprocess.run([sys.executable, RECOMPUTE, folder], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, {one[:32].strip(): one[32:].split() for one in done.stdout.splitlines()}


def test_the_headline_is_recomputed_from_the_tables_by_the_script_of_the_docs(played):
    folder = Path(played.settled.report).parent
    code, found = recompute(folder)
    assert code == 0
    messages, loss = played.settled.messages, played.settled.loss
    for name, count in messages.items():
        assert found[f"messages {name.replace('_', ' ')}"] == [str(count)] * 2
    assert found["deferred, minor units"] == [str(loss["deferred"])] * 2
    assert found["net loss, minor units"] == [str(loss["net"])] * 2
    assert found["net loss, 95 %, minor units"] == [f"({loss['low']},", f"{loss['high']})"] * 2
    assert {"during loss, minor units", "unaided loss, minor units", "bounce rate"} <= set(found)
    table = pd.read_parquet(folder / "tables" / "loss.parquet").set_index(["statistic", "level"])
    gross = table.loc["gross", 0.95]
    assert (gross["loss_minor"], gross["low_minor"]) == (loss["gross"], loss["low"] + loss["deferred"])
    assert pd.isna(gross["probability_of_loss"])  # that of net, which late orders are part of


@pytest.mark.parametrize(
    ("table", "figure"),
    [
        ("message_fates", "messages delayed"),
        ("deferred_orders", "deferred, minor units"),
        ("placebos", "net loss, 95 %, minor units"),
    ],
)
def test_the_script_sees_a_figure_that_does_not_follow_from_its_rows(played, tmp_path, table, figure):
    shutil.copytree(Path(played.settled.report).parent, tmp_path / "report")
    path = tmp_path / "report" / "tables" / f"{table}.parquet"
    rows = pd.read_parquet(path)
    rows[rows.index % 2 == 0].to_parquet(path)
    code, found = recompute(tmp_path / "report")
    assert code == 1
    assert found[figure][-1] == "DIFFERS"


def test_the_bounces_of_the_catch_up_are_counted_from_events_and_from_its_messages_only(played):
    folder = Path(played.settled.report).parent / "tables"
    rate = pd.read_parquet(folder / "reputation.parquet").set_index("rate").loc["bounce"]
    lines = pd.read_parquet(folder / "impact.parquet").set_index("line")
    fates = pd.read_parquet(folder / "message_fates.parquet")
    assert lines.loc["Messages that bounced in the catch-up", "value"] == rate["count"]
    restored = played.truth.restored_at
    caught_up = fates[(fates["attempted_at"] >= restored) & fates["fate"].isin(["delayed", "bounced"])]
    assert 0 < rate["messages"] <= len(caught_up)


def test_a_report_is_provisional_until_late_data_are_in_and_then_issued_again(played):
    assert (played.early.version, played.early.settled) == (1, False)
    assert (played.settled.version, played.settled.settled) == (2, True)
    assert Path(played.early.report).exists()
    assert Path(played.settled.report).exists()
    assert "Late data can still change the figures" in played.refusals["settle"]


def test_settle_waits_for_the_time_and_then_for_the_snapshots_and_then_for_nothing(played):
    incident = played.incident
    assert "until then orders and events can come late" in played.waiting.waiting[incident]
    assert "a valid snapshot of esp and shop from after" in played.settling[0].waiting[incident]
    assert [one.incident for one in played.settling[1].reports] == [incident]
    assert played.settling[1].waiting == {}
    assert (played.over.reports, played.over.waiting) == ((), {})


def test_settle_reminds_of_work_that_is_due_once_a_week(played):
    reminded = [one.reminded for one in (played.waiting, *played.settling, played.over)]
    assert reminded[0] == ("marketing_team",)
    assert (
        sum(len(one) for one in reminded) <= 2
    )  # the items that are due in two days become overdue meanwhile
    mails = [one.read_text() for one in (played.plan.parent / "outbox").glob("**/*.eml")]
    assert any("Decide on the messages whose outcome nobody knows" in one for one in mails)


def test_the_table_of_changes_is_the_difference_of_the_two_versions_and_names_who_had_the_old_one(played):
    before, after = (Path(one.report).parent / "tables" for one in (played.early, played.settled))
    changes = pd.read_parquet(after / "changes.parquet").set_index("figure")
    assert len(pd.read_parquet(before / "changes.parquet")) == 0

    def said(folder: Path) -> dict[str, str]:
        report = pd.read_parquet(folder / "report.parquet").iloc[0]
        deferred = pd.read_parquet(folder / "deferred_orders.parquet")["total_minor"].sum()
        counts = ("due", "delayed", "on_time", "suppressed", "dropped", "unknown", "duplicated")
        figures = {f"messages {one.replace('_', ' ')}": f"{report[one]:,}" for one in counts}
        return figures | {"standing": report["settlement"], "deferred loss": f"£{deferred / 100:,.0f}"}

    old, new = said(before), said(after)
    assert old["deferred loss"] != new["deferred loss"]  # late orders came in
    for figure in old:
        if old[figure] == new[figure]:
            assert figure not in changes.index
        else:
            assert tuple(changes.loc[figure, ["before", "after"]]) == (old[figure], new[figure])
    assert "leadership" in Path(played.settled.report).read_text().split("Who had the old ones")[1][:300]


def test_a_review_made_again_gives_the_same_figures_and_repeats_no_action_item(played):
    assert played.again.version == 3
    assert (played.again.messages, played.again.loss) == (played.settled.messages, played.settled.loss)
    loaded = load_plan(played.plan)
    with Journal.open(loaded.journal_url(), open_clock(loaded.clock_spec())) as journal:
        titles = [one.title for one in journal.action_items(played.incident)]
    assert titles
    assert len(titles) == len(set(titles))


def test_the_start_of_the_impact_is_measured_from_the_senders_log_and_journaled(played):
    loaded = load_plan(played.plan)
    with Journal.open(loaded.journal_url(), open_clock(loaded.clock_spec())) as journal:
        started = journal.timestamps(played.incident)["impact_started_at"]
        assert any("sender's own log" in one.text for one in journal.timeline(played.incident))
    assert abs(started - played.truth.impact_started_at) <= timedelta(seconds=20)


def test_leadership_is_told_of_new_figures_once_and_no_address_is_in_any_message(played):
    loaded = load_plan(played.plan)
    with Journal.open(loaded.journal_url(), open_clock(loaded.clock_spec())) as journal:
        told = [one for one in journal.communications(played.incident) if "executive" in one.report]
    assert {one.status for one in told} == {"sent"}
    assert played.told["settled"] > played.told["early"] > 0
    assert played.told["again"] == played.told["settled"]  # the figures did not change
    mails = list((played.plan.parent / "outbox").glob("**/*.eml"))
    assert mails
    assert not any("shop.example" in one.read_text() for one in mails)


def test_what_is_missing_is_said_with_what_to_do(played):
    assert "not resolved" in played.refusals["open"]
    assert "run backup and validate" in played.refusals["no snapshot"]


def _snapshots(world: World) -> None:
    from tasks.snapshots import take_snapshot
    from tasks.snapshots.steps import open_plan_store
    from tasks.sources import open_source

    loaded = load_plan(world.plan_path)
    store = open_plan_store(loaded, create=True)
    for source in ("shop", "esp"):
        manifest = take_snapshot(
            open_source(source, loaded.source_url(source)),
            store,
            clock=world.clock,
            plan_digest=loaded.digest,
        )
        store.mark(manifest.snapshot_id, "valid", findings=[], at=world.clock.now(), by="test")
        if world.impact_started_at is None:
            world.note_snapshot(source, store.info(manifest.snapshot_id).consistency_at)


def _respond(world: World) -> str:
    """Declare the incident while the provider is dead, and stop what is due once it answers again."""
    from tasks.providers import connect_provider

    loaded = load_plan(world.plan_path)
    settings = loaded.provider("listmonk")
    world.play_until(world.at("08:25"))
    with Journal.open(loaded.journal_url(), world.clock) as journal:
        incident = journal.declare(
            "listmonk", cause_class="technical_failure", summary="the API refuses connections",
            detected_at=world.clock.now(), declared_by="desk", state="investigating",
        )  # fmt: skip
        world.play_until(world.at("09:25"))
        user, token = secret(settings.user_env, "test"), secret(settings.token_env, "test")
        provider = connect_provider("listmonk", settings, user, token, world.clock)
        for one in provider.campaigns():
            if one.status not in ("running", "scheduled") or (
                one.send_at and one.send_at > world.at("20:00")
            ):
                continue
            kind = "pause" if one.status == "running" else "unschedule"
            action = journal.intend(
                incident.id, f"{kind}:{one.id}", kind=kind, target=f"campaign/{one.id}", payload={},
                previous_state={"status": one.status, "send_at": one.send_at.isoformat() if one.send_at else None},
                undo={"action": "resume"},
            )  # fmt: skip
            getattr(provider, kind)(one.id)
            journal.complete(action.id, {})
        provider.close()
    return incident.id


def _recover(world: World, incident: str) -> Any:
    """Run the flow `recover`, agree to what it asks, and run it again; return when the incident was resolved."""
    from flows.recover import recover

    plan = str(world.plan_path)
    loaded = load_plan(world.plan_path)
    recover(plan=plan, incident=incident, approval="ask", name="desk")
    with Journal.open(loaded.journal_url(), world.clock) as journal:
        for one in journal.approvals(incident):
            if one.status == "awaiting":
                journal.answer_approval(one.id, "approved", "Ada", False, "cli")
    done = recover(plan=plan, incident=incident, approval="ask", name="desk")
    assert done.state == "resolved", done.reason
    with Journal.open(loaded.journal_url(), world.clock) as journal:
        return journal.timestamps(incident)["resolved_at"]


def _told(world: World, incident: str) -> int:
    loaded = load_plan(world.plan_path)
    with Journal.open(loaded.journal_url(), world.clock) as journal:
        return len(journal.communications(incident))


def _refusal(flow: Any, **options: Any) -> str:
    with pytest.raises(Exception) as caught:
        flow(**options)
    return str(caught.value)
