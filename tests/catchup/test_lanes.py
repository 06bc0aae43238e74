"""The ramp of each mailbox provider against a real ESP: one stops, the others go on; no day brings more than it may."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from datetime import timedelta

import pyarrow.parquet as pq
import pytest
import yaml

from tasks.catchup import stepping
from tasks.incidents import Journal
from tasks.snapshots import Store, generate_key, take_snapshot
from tasks.sources import open_source
from tests.catchup.conftest import Bench

pytestmark = pytest.mark.integration
HOUR = timedelta(hours=1)


@pytest.fixture
def bench(new_bench, monkeypatch) -> Bench:
    monkeypatch.setattr(Bench, "domains", ("gmail.com", "yahoo.co.uk"))
    return new_bench()


def gmail(who: int) -> bool:
    return who % 2 == 0


def events(bench, kind, campaign, people) -> None:
    """Let the ESP know of events, as a mailbox provider tells it; it counts its own, so it is stopped meanwhile."""
    bench.esp.kill()
    at = bench.clock.now().replace(tzinfo=None).isoformat(sep=" ")
    with closing(sqlite3.connect(bench.folder / "esp.sqlite", timeout=20)) as connection, connection:
        connection.executemany(
            "INSERT INTO events (type, campaign_id, subscriber_id, occurred_at) VALUES (?, ?, ?, ?)",
            [(kind, campaign, who, at) for who in people],
        )
    bench.esp.restart()


def last_engaged(bench) -> list[int]:
    """Return who has opened or clicked, whoever did so last first; the simulated people do it by themselves too."""
    with closing(sqlite3.connect(bench.folder / "esp.sqlite")) as connection:
        rows = connection.execute(
            "SELECT subscriber_id, max(occurred_at) AS at FROM events WHERE type IN ('open', 'click')"
            " GROUP BY subscriber_id ORDER BY at DESC, subscriber_id"
        ).fetchall()
    return [who for who, _ in rows]


def got(bench, number) -> Counter[str]:
    return Counter("gmail" if gmail(who) else "yahoo" for who, _ in bench.mailed()[number])


def test_where_one_mailbox_provider_complains_the_others_go_on_and_its_people_are_listed(
    bench, monkeypatch
) -> None:
    number = bench.campaign("News", at=HOUR)
    incident = bench.respond(number)
    bench.clock.advance(2 * HOUR)
    passed: list[str] = []

    def complain(point: str) -> None:
        passed.append(point)
        if point == "recover.step:done" and passed.count(point) == 1:
            [step] = [one for one in bench.provider().campaigns() if one.catch_up_of == number]
            mailed = [who for who, _ in bench.mailed()[number] if gmail(who)]
            events(bench, "complaint", step.id, mailed[:2])

    monkeypatch.setattr(stepping, "crash_point", complain)
    with pytest.raises(AssertionError, match=r"the ramp stopped at gmail: 2 complaints among 20 messages"):
        bench.recover(incident)
    assert got(bench, number) == {"gmail": 20, "yahoo": 80}
    held = pq.read_table(bench.folder / "state" / incident / f"ramp-held-{number}.parquet").to_pylist()
    mailed = {who for who, _ in bench.mailed()[number]}
    assert {one["subscriber_id"] for one in held} == set(range(1, 161)) - mailed
    assert {one["mailbox_provider"] for one in held} == {"gmail"}
    with Journal.open(bench.journal_url, bench.clock) as journal:
        [asked] = [one for one in journal.approvals(incident) if one.status == "awaiting"]
        assert asked.actions[0]["target"].startswith("ramp/gmail/after-step-")
        journal.answer_approval(asked.id, "approved", "Ada", False, "cli")
    bench.recover(incident)
    bench.judge(bench.ledgers(incident))
    assert got(bench, number) == {"gmail": 80, "yahoo": 80}
    sizes = [
        one.sent for one in sorted(bench.provider().campaigns(), key=lambda one: one.step) if one.catch_up_of
    ]
    assert sizes == [40, 40, 20, 20, 40], "a canary to each, then yahoo alone, then gmail again from a canary"


def test_a_day_brings_no_more_than_the_factor_of_the_trailing_volume_and_the_engaged_come_first(
    bench,
) -> None:
    plan = yaml.safe_load(bench.plan_path.read_text())
    plan["sources"]["esp"] = {"url": f"sqlite:///{bench.folder / 'esp.sqlite'}", "mapping": "listmonk"}
    plan["providers"]["esp"]["source"] = "esp"
    plan["lateness"]["newsletter"]["useful_for_minutes"] = 5000
    plan["ramp"] = {"canary": 10, "factor": 1.5, "max_step": 60}
    bench.plan_path.write_text(yaml.safe_dump(plan))
    old = bench.campaign("Old", status="running", people=range(1, 61))
    bench.clock.advance(HOUR)
    events(bench, "open", old, [51, 52])
    bench.clock.advance(HOUR)
    events(bench, "click", old, [59, 60])
    store = Store.open(str(bench.folder / "store"), signing_key=generate_key(), create=True)
    source = open_source("esp", f"sqlite:///{bench.folder / 'esp.sqlite'}")
    taken = take_snapshot(source, store, clock=bench.clock, plan_digest="")
    engaged = last_engaged(bench)
    store.mark(taken.snapshot_id, "valid", findings=[], at=bench.clock.now(), by="test")
    bench.clock.advance(48 * HOUR)

    number = bench.campaign("News", at=HOUR)
    incident = bench.respond(number)
    bench.clock.advance(2 * HOUR)
    with pytest.raises(AssertionError, match="gmail has had what a day may bring: run recover again after"):
        bench.recover(incident)
    assert got(bench, number) == {"gmail": 45, "yahoo": 45}, "30 people each were mailed on the busiest day"
    first = {who for who, _ in bench.mailed()[number][:20]}
    order = [*engaged, *(who for who in range(1, 161) if who not in engaged)]
    assert engaged[:2] == [59, 60]
    assert first == {
        *[who for who in order if gmail(who)][:10],
        *[who for who in order if not gmail(who)][:10],
    }
    with Journal.open(bench.journal_url, bench.clock) as journal:
        cost = next(one.text for one in journal.timeline(incident) if one.kind == "ramp")
    assert "gmail: 80 people in" in cost
    assert "and 24." in cost, "hours, for the second day"
    bench.clock.advance(25 * HOUR)
    bench.recover(incident)
    bench.judge(bench.ledgers(incident))
    times = [at for _, at in bench.mailed()[number]]
    assert len(times) == 160
    assert all(sum(at - 24 * HOUR < one <= at for one in times) <= 90 for at in times)
