"""A whole world: the same seed gives the same outage, and its truth is what the mailbox and the databases show."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from tasks.drills import DrillError, World
from tasks.drills import shop as s
from tasks.drills.esp import schema
from tasks.plan import lint, load_plan

pytestmark = [pytest.mark.integration, pytest.mark.kill]


@dataclass
class Played:
    """A world whose scenario was played to the end, without anybody responding."""

    world: World
    truth: Any
    mailbox: str

    def ask(self, database: str, query: str) -> Any:
        engine = self.world._esp_database if database == "esp" else self.world._shop.engine
        with engine.connect() as connection:
            return connection.execute(sa.text(query)).all()


def play(folder: Path, **arguments: Any) -> Played:
    world = World.create(folder, scale="small", **arguments)
    world.note_snapshot("shop", world.at("02:00"))
    world.note_snapshot("esp", world.at("02:00"))
    world.play_until(world.at("13:20", day=2))
    truth = world.truth() if world.impact_started_at else None
    return Played(world, truth, world.sink.mailbox.read_text())


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    played = play(tmp_path_factory.mktemp("demo"))
    yield played
    played.world.close()


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    played = play(tmp_path_factory.mktemp("quiet"), scenario="quiet")
    yield played
    played.world.close()


def dump(played: Played) -> dict[str, list[Any]]:
    tables = {}
    for engine, metadata in (
        (played.world._esp_database, schema.METADATA),
        (played.world._shop.engine, s.METADATA),
    ):
        with engine.connect() as connection:
            for table in metadata.sorted_tables:
                tables[table.name] = connection.execute(sa.select(table).order_by(*table.primary_key)).all()
    return tables


def test_the_same_seed_gives_the_same_mailbox_truth_and_databases(demo: Played, tmp_path: Path) -> None:
    again = play(tmp_path / "again")
    try:
        assert again.mailbox == demo.mailbox
        assert again.truth == demo.truth
        assert dump(again) == dump(demo)
    finally:
        again.world.close()


def test_the_plan_of_a_world_loads_and_lacks_nothing(demo: Played) -> None:
    loaded = load_plan(demo.world.plan_path)
    assert lint(loaded.plan) == []
    assert loaded.clock_spec() == f"driven:{demo.world.clock.path}"
    assert httpx.get(loaded.provider("listmonk").api_url + "/health").status_code == 200
    names = {line.partition("=")[0] for line in (demo.world.folder / "env").read_text().splitlines()}
    assert names == set(demo.world.env) >= {"MAILSTAY_ESP_USER", "MAILSTAY_ESP_TOKEN", "MAILSTAY_SIGNING_KEY"}


def test_the_secrets_of_a_world_are_not_in_its_plan(demo: Played) -> None:
    assert demo.world.env["MAILSTAY_ESP_TOKEN"] not in demo.world.plan_path.read_text()


def test_without_an_outage_the_mailbox_holds_exactly_what_was_due_when_it_was_due(quiet: Played) -> None:
    got = {(mail.campaign_id, mail.subscriber_id): mail.received_at for mail in quiet.world.sink.messages()}
    assert got == {key: at for key, at in quiet.world._planned.items() if at <= quiet.world.clock.now()}
    assert len(got) > 500
    with pytest.raises(DrillError, match="No outage"):
        quiet.world.truth()


def test_without_an_outage_every_opt_out_and_sign_up_was_forwarded(quiet: Played) -> None:
    assert quiet.ask("shop", "SELECT count(*) FROM consent_requests WHERE forwarded_at IS NULL") == [(0,)]


def test_the_outage_begins_inside_the_newsletter_and_the_esp_is_dead_for_an_hour(demo: Played) -> None:
    impact = demo.truth.impact_started_at
    assert demo.world.at("08:00") < impact < demo.world.at("08:30")
    during = [
        mail for mail in demo.world.sink.messages() if impact < mail.received_at < demo.world.at("13:10")
    ]
    assert during == []
    assert demo.truth.restored_at == demo.world.at("13:10")


def test_the_messages_of_the_truth_add_up_against_mailbox_and_log(demo: Played) -> None:
    truth, world = demo.truth.messages, demo.world
    assert truth.due == truth.delayed + truth.on_time + truth.suppressed + truth.dropped
    unknown = {
        tuple(row)
        for row in demo.ask("esp", "SELECT campaign_id, subscriber_id FROM messages WHERE status = 'sending'")
    }
    got = {(mail.campaign_id, mail.subscriber_id): mail.received_at for mail in world.sink.messages()}
    due = {
        k: at
        for k, at in world._planned.items()
        if demo.truth.impact_started_at <= at < demo.truth.restored_at
    }
    assert truth.unknown == len(unknown) > 0 and truth.unknown_delivered == len(unknown & set(got)) > 0
    assert truth.due == len(set(due) - unknown)
    late = {k for k, at in due.items() if k in got and got[k] - at > timedelta(minutes=5)} - unknown
    assert truth.delayed == len(late) > 0
    assert truth.dropped > 0, "the naive resume lost people"
    assert truth.after_latest_useful > 0 and truth.to_opted_out > 0, "nobody responded"
    assert truth.duplicated == 0


def test_the_net_loss_is_the_difference_between_two_worlds(demo: Played, quiet: Played) -> None:
    window = f"ordered_at >= '{_sql(demo.truth.impact_started_at)}' AND ordered_at < '{_sql(quiet.world.clock.now())}'"
    query = f"SELECT coalesce(sum(total_minor), 0) FROM orders WHERE channel = 'email' AND {window}"
    ((booked,),), ((would,),) = demo.ask("shop", query), quiet.ask("shop", query)
    truth = demo.world.truth(resolved_at=demo.world.at("13:20"))
    assert truth.loss.net_minor == would - booked > 0
    assert truth.loss.net_minor == truth.loss.gross_minor - truth.loss.deferred_minor


def test_rows_at_risk_are_those_born_between_the_snapshot_and_the_impact(demo: Played) -> None:
    risk, lost = demo.truth.rows_at_risk, demo.truth.rows_lost
    low, high = _sql(demo.world.at("02:00")), _sql(demo.truth.impact_started_at)
    nine = _sql(demo.world.at("09:00"))
    ((messages,),) = demo.ask(
        "esp", f"SELECT count(*) FROM messages WHERE queued_at > '{low}' AND queued_at < '{nine}'"
    )
    ((receipts,),) = demo.ask(
        "shop",
        f"SELECT count(*) FROM webhook_receipts WHERE received_at > '{low}' AND received_at <= '{high}'",
    )
    ((events,),) = demo.ask(
        "esp", f"SELECT count(*) FROM events WHERE occurred_at > '{low}' AND occurred_at <= '{high}'"
    )
    assert risk["messages"] == messages > 0
    assert risk["webhook_receipts"] == receipts == risk["events"]
    assert risk["events"] == events + lost["events"] and lost["events"] > 0


def test_a_fresher_snapshot_leaves_fewer_rows_at_risk(demo: Played) -> None:
    late = demo.world.truth(
        snapshots={"esp": demo.truth.impact_started_at, "shop": demo.truth.impact_started_at}
    )
    assert set(late.rows_at_risk.values()) == {0}
    demo.world.truth()


def test_webhooks_witness_every_event_that_was_lost(demo: Played) -> None:
    witnessed = {
        tuple(row)
        for row in demo.ask(
            "shop", "SELECT provider_event_id, event_type, campaign_id, subscriber_id FROM webhook_receipts"
        )
    }
    kept = {tuple(row) for row in demo.ask("esp", "SELECT id, type, campaign_id, subscriber_id FROM events")}
    assert len(witnessed - kept) == demo.truth.rows_lost["events"]


def test_opt_outs_during_the_outage_reach_the_shop_and_not_the_esp(demo: Played) -> None:
    during = demo.truth.opted_out_during
    assert len(during) == 4
    for one in during:
        ((forwarded,),) = demo.ask(
            "shop",
            "SELECT forwarded_at FROM consent_requests "
            f"WHERE kind = 'unsubscribe' AND customer_id = {one['subscriber_id']}",
        )
        assert forwarded is None
        still = demo.ask(
            "esp", f"SELECT status FROM subscriber_lists WHERE subscriber_id = {one['subscriber_id']}"
        )
        assert {row.status for row in still} == {"confirmed"}


def test_generated_orders_are_marked_and_tagged_and_sum_to_their_lines(demo: Played) -> None:
    assert demo.ask("shop", "SELECT count(*) FROM orders WHERE generated <> (channel = 'email')") == [(0,)]
    assert demo.ask(
        "shop",
        "SELECT count(*) FROM orders WHERE generated AND (campaign_id IS NULL OR order_id NOT LIKE 'E%')",
    ) == [(0,)]
    assert demo.ask(
        "shop",
        "SELECT count(*) FROM order_lines JOIN orders USING (order_id) "
        "WHERE generated AND line_total_minor <> total_minor",
    ) == [(0,)]
    ((mailed,),) = demo.ask("shop", "SELECT count(*) FROM orders WHERE generated")
    assert mailed > 50


def test_history_reconciles_sent_with_the_log_and_the_log_with_events(demo: Played) -> None:
    wrong = """SELECT c.id FROM campaigns c JOIN (SELECT campaign_id, count(*) AS n FROM messages GROUP BY 1) m
        ON m.campaign_id = c.id WHERE c.status = 'finished' AND c.updated_at < '{}' AND c.sent <> m.n"""
    assert demo.ask("esp", wrong.format(_sql(demo.world.at("00:00")))) == []
    before = f"< '{_sql(demo.world.at('00:00'))}'"
    ((log,),) = demo.ask("esp", f"SELECT count(*) FROM messages WHERE queued_at {before}")
    ((sent,),) = demo.ask("esp", f"SELECT count(*) FROM events WHERE type = 'sent' AND occurred_at {before}")
    assert log == sent > 1000


def test_truth_json_is_written_beside_the_data(demo: Played) -> None:
    written = json.loads((demo.world.folder / "truth.json").read_text())
    assert written["messages"]["due"] == demo.truth.messages.due
    assert written["loss"]["currency"] == "GBP"


def test_a_catch_up_copy_counts_as_its_original(tmp_path: Path) -> None:
    with World.create(tmp_path / "w", scale="small", seed=11) as world:
        world.play_until(world.at("12:00"))
        api = httpx.Client(base_url=world.esp.api_url, auth=(world.esp.user, world.esp.token))
        newsletter = next(one for one in world._calendar if one.send_at == world.at("08:00"))
        planned = sorted(who for key, who in world._planned if key == newsletter.id)
        late = planned[-20:]
        api.put(f"/api/campaigns/{newsletter.id}/status", json={"status": "paused"}).raise_for_status()
        made = api.post("/api/lists", json={"name": "catch-up"}).json()["data"]["id"]
        api.put(
            "/api/subscribers/lists",
            json={"ids": late, "action": "add", "target_list_ids": [made], "status": "confirmed"},
        ).raise_for_status()
        copy = api.post(
            "/api/campaigns",
            json={
                "name": "c",
                "subject": "s",
                "lists": [made],
                "attribs": {"kind": "newsletter", "catch_up_of": newsletter.id},
            },
        ).json()["data"]["id"]
        world.play_until(world.at("13:30"))
        before = world.truth().messages.delayed
        api.put(f"/api/campaigns/{copy}/status", json={"status": "running"}).raise_for_status()
        world.play_until(world.at("14:30"))
        api.close()
        assert {mail.subscriber_id for mail in world.sink.messages() if mail.campaign_id == copy} == set(late)
        assert world.truth().messages.delayed - before == len(late) > 0


def test_an_honest_outage_has_a_beginning_an_end_and_a_post(tmp_path: Path) -> None:
    with World.create(tmp_path / "w", scale="small", scenario="hard_down") as world:
        world.play_until(world.at("10:30"))
        assert world.impact_started_at == world.at("09:50")
        assert httpx.get(world.esp.api_url + "/health").status_code == 503
        assert httpx.get(world.esp.status_url + "/api/v2/summary.json").json()["incidents"]
        world.play_until(world.at("14:00"))
        truth = world.truth()
        assert truth.messages.unknown == 0 and truth.messages.dropped == 0 < truth.messages.delayed


def test_a_folder_that_holds_a_world_is_left_alone(demo: Played) -> None:
    with pytest.raises(DrillError, match="already"):
        World.create(demo.world.folder)
    with pytest.raises(DrillError, match="scale"):
        World.create(demo.world.folder / "x", scale="enormous")


def test_time_moved_in_other_steps_gives_the_same_outage(demo: Played, tmp_path: Path) -> None:
    with World.create(tmp_path / "w", scale="small") as world:
        while world.clock.now() < world.at("13:00"):
            world.advance(11.7)
        world.play_until(world.at("13:20", day=2))
        got = {(mail.campaign_id, mail.subscriber_id, mail.received_at) for mail in world.sink.messages()}
        assert world.impact_started_at == demo.truth.impact_started_at
    assert got == {(m.campaign_id, m.subscriber_id, m.received_at) for m in demo.world.sink.messages()}


def test_the_same_outage_on_postgresql_has_the_same_truth(
    demo: Played, tmp_path: Path, new_database: Callable[[], str]
) -> None:
    played = play(tmp_path / "w", shop_url=new_database(), esp_url=new_database())
    try:
        assert played.mailbox == demo.mailbox
        assert played.truth == demo.world.truth()
        assert load_plan(played.world.plan_path).plan.sources["shop"].url_env == "MAILSTAY_SHOP_URL"
    finally:
        played.world.close()


def _sql(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f")
