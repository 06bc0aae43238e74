"""An apology: for exactly those who are meant, approved word for word, and never sent."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.catchup import affected, apology_audience, build_ledger, evidence_table
from tasks.catchup.apology import Apologising
from tasks.catchup.desk import LEASE, Desk
from tasks.core import UsageError
from tasks.incidents import Journal
from tasks.plan import load_plan

FOLDER = Path(tempfile.mkdtemp())
atexit.register(shutil.rmtree, FOLDER)
BEGAN = datetime(2011, 11, 16, 8, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
OUTCOMES = ("accepted", "delivered", "bounced", "unknown")


def check_audience(signs, suppressed, ended, mailable, blocked) -> None:
    """Hold the audience against the ledgers, person by person."""
    people = range(1, 9)
    paths, late = [], set()
    for campaign, of_campaign in enumerate(signs, start=1):
        rows = {who: (outcome, by, minutes) for who, outcome, by, minutes in of_campaign}
        evidence = evidence_table(
            (campaign + 100 * by, who, outcome, BEGAN + timedelta(minutes=minutes), "send_log")
            for who, (outcome, by, minutes) in rows.items()
        )
        path = FOLDER / f"ledger-{campaign}.parquet"
        build_ledger(
            campaign, into=path, audience=people, evidence=[evidence], suppressed=suppressed, ended=ended
        )
        paths.append(path)
        for who in people:
            outcome, by, minutes = rows.get(who, ("none", 0, 0))
            if outcome in ("accepted", "delivered"):
                late |= {who} if by or minutes >= 0 else set()
            elif outcome == "unknown" or (outcome == "none" and who not in suppressed):
                late.add(who)
    found = affected(paths, began=BEGAN, folder=FOLDER)
    assert found.to_pylist() == sorted(late), "the ledger's set and nothing else"
    audience = apology_audience(found, pa.array(sorted(mailable), pa.int64()), blocked, folder=FOLDER)
    assert audience.to_pylist() == sorted((late & mailable) - blocked)


some = st.sets(st.integers(1, 10))
worlds = given(
    st.lists(
        st.lists(
            st.tuples(st.integers(1, 8), st.sampled_from(OUTCOMES), st.integers(0, 1), st.integers(-90, 90))
        ),
        max_size=3,
    ),
    some,
    st.sampled_from([None, ("expired", "late"), ("dropped", "decided")]),
    some,
    some,
)


@worlds
@settings(max_examples=25, deadline=None)
def test_the_audience_is_the_ledgers_set_without_who_must_not_be_mailed(
    signs, suppressed, ended, mailable, blocked
) -> None:
    check_audience(signs, suppressed, ended, mailable, blocked)


@pytest.mark.slow
@worlds
@settings(max_examples=2000, deadline=None)
def test_the_audience_is_the_ledgers_set_in_thousands_of_ledgers(
    signs, suppressed, ended, mailable, blocked
) -> None:
    check_audience(signs, suppressed, ended, mailable, blocked)


def apologise(bench, incident, to="affected_only"):
    """Apologise as the flow does, without Prefect around it."""
    with Journal.open(bench.journal_url, bench.clock) as journal:
        lease = journal.lease(incident, "test", LEASE)
        desk = Desk(
            load_plan(bench.plan_path),
            journal,
            bench.provider(),
            bench.clock,
            journal.incident(incident),
            lease,
        )
        try:
            return Apologising(desk).decide(to)
        finally:
            journal.release(desk.lease or lease)


def answer(bench, incident, yes="approved") -> None:
    with Journal.open(bench.journal_url, bench.clock) as journal:
        [waiting] = [one for one in journal.approvals(incident) if one.status == "awaiting"]
        journal.answer_approval(waiting.id, yes, "Ada", False, "cli")


@pytest.fixture
def recovered(new_bench):
    """A newsletter of which a part went out in time, the rest late, one person unknown; another was put back."""
    bench = new_bench(people=60)
    number = bench.campaign("News", status="running", people=range(1, 51))
    bench.campaign("Tomorrow", at=24 * HOUR)
    bench.die(20)
    bench.esp.fault("stalled")
    bench.clock.advance(HOUR)
    bench.esp.restart()
    bench.clock.advance(30)
    incident = bench.respond(number, number + 1, impact_hours_ago=1)
    bench.esp.clear("stalled")
    return bench, number, incident


@pytest.mark.integration
def test_an_apology_is_drafted_for_those_affected_and_decided_by_a_yes_and_nothing_is_sent(recovered) -> None:
    bench, number, incident = recovered
    with pytest.raises(UsageError, match="was not recovered"):
        apologise(bench, incident)
    bench.recover(incident)
    began = bench.clock.now() - 2 * HOUR
    bench.opt_out(45)
    sent = bench.sink.messages()
    campaigns = {one.id: one.status for one in bench.provider().campaigns()}

    held = apologise(bench, incident)
    assert (held.state, "waits" in held.reason) == ("held", True)
    assert apologise(bench, incident) == held, "the same question, not another"
    listed = set(pq.read_table(held.listed)["subscriber_id"].to_pylist())
    with Journal.open(bench.journal_url, bench.clock) as journal:
        impact = journal.incident(incident).timestamps["impact_started_at"]
    assert impact > began - 24 * HOUR
    in_time = {who for who, at in bench.mailed()[number] if at < impact}
    unsure = bench.ledgers(incident)[number]["unknown"]
    assert listed == set(range(1, 51)) - (in_time - unsure) - {45}
    assert in_time
    text = Path(held.text).read_text()
    assert "reached you late, or not at all" in text
    assert Path(held.text).with_suffix(".html").exists()

    bench.opt_out(44)
    answer(bench, incident)
    again = apologise(bench, incident)
    assert again.state == "held", "a yes is good for the people it was asked about, not for others"
    assert again.people == held.people - 1
    answer(bench, incident)
    decided = apologise(bench, incident)
    assert (decided.state, decided.people) == ("decided", held.people - 1)
    assert 44 not in pq.read_table(decided.listed)["subscriber_id"].to_pylist()
    with pytest.raises(UsageError, match="decided already: affected_only"):
        apologise(bench, incident, to="all")
    bench.clock.advance(HOUR)
    assert bench.sink.messages() == sent
    assert {one.id: one.status for one in bench.provider().campaigns()} == campaigns


@pytest.mark.integration
def test_to_all_goes_nobody_who_opted_out_and_a_no_decides_nothing(recovered) -> None:
    bench, _, incident = recovered
    bench.recover(incident)
    bench.opt_out(7, 55)
    everybody = apologise(bench, incident, to="all")
    assert set(pq.read_table(everybody.listed)["subscriber_id"].to_pylist()) == set(range(1, 61)) - {7, 55}
    answer(bench, incident, yes="rejected")
    assert apologise(bench, incident, to="all").state == "held"
    nobody = apologise(bench, incident, to="fix_in_place")
    assert (nobody.people, nobody.listed, nobody.text) == (0, "", "")
