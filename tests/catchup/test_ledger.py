"""The ledger: one outcome per person, whatever the witnesses say, and no file that was touched is believed."""

import atexit
import shutil
import tempfile
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import catchup
from tasks.catchup import (
    OUTCOMES,
    CatchupError,
    events_table,
    evidence_of_events,
    evidence_of_log,
    evidence_table,
    log_has_holes,
    log_lines,
    people_table,
    read_frozen,
    write_frozen,
)
from tasks.providers import ProviderEvent, SendRecord

FOLDER = Path(tempfile.mkdtemp())
atexit.register(shutil.rmtree, FOLDER)
AT = datetime(2011, 11, 16, 8, 0, tzinfo=UTC)


def build_ledger(campaign_id, **facts):
    return catchup.build_ledger(campaign_id, into=FOLDER / "ledger.parquet", **facts)


def people(ledger, outcome):
    return ledger.people(outcome).to_pylist()


def sign(who, outcome, campaign=1, witness="send_log", minute=0):
    return (campaign, who, outcome, AT + timedelta(minutes=minute), witness)


def outcome_of(ledger, who):
    [row] = [row for row in ledger.table.to_pylist() if row["subscriber_id"] == who]
    return row


def test_a_message_left_between_sending_and_its_answer_is_unknown_and_not_mailed_again() -> None:
    log = evidence_of_log(log_lines([SendRecord(1, 7, "sending", AT), SendRecord(1, 8, "accepted", AT)]))
    ledger = build_ledger(1, audience=[7, 8, 9], evidence=[log])
    assert people(ledger, "unknown") == [7]
    assert people(ledger, "not_attempted") == [9]


def test_a_delivery_event_settles_an_unknown_message() -> None:
    ledger = build_ledger(
        1,
        audience=[7],
        evidence=[evidence_table([sign(7, "unknown"), sign(7, "delivered", witness="webhook", minute=60)])],
    )
    row = outcome_of(ledger, 7)
    assert (row["outcome"], row["witness"]) == ("delivered", "webhook")


def test_catch_up_campaigns_count_for_the_original() -> None:
    ledger = build_ledger(1, audience=[7, 8], evidence=[evidence_table([sign(7, "accepted", campaign=55)])])
    assert outcome_of(ledger, 7)["sent_by_campaign_id"] == 55
    assert people(ledger, "not_attempted") == [8]


def test_whoever_was_mailed_and_then_opted_out_stays_mailed() -> None:
    ledger = build_ledger(
        1, audience=[7, 8], evidence=[evidence_table([sign(7, "accepted")])], suppressed=[7, 8]
    )
    assert ledger.counts()["accepted"] == 1
    assert people(ledger, "suppressed") == [8]


def test_whoever_was_mailed_but_left_the_list_is_not_forgotten() -> None:
    ledger = build_ledger(1, audience=[8], evidence=[evidence_table([sign(7, "accepted")])])
    assert [row["subscriber_id"] for row in ledger.table.to_pylist()] == [7, 8]


def test_whoever_is_over_the_frequency_cap_is_dropped_with_that_reason_unless_mailed_already() -> None:
    ledger = build_ledger(
        1, audience=[7, 8, 9], evidence=[evidence_table([sign(7, "accepted")])], capped=[7, 8], suppressed=[9],
        ended=("expired", "too late"),
    )  # fmt: skip
    told = {row["subscriber_id"]: (row["outcome"], row["reason"]) for row in ledger.table.to_pylist()}
    assert told[8] == ("dropped", "frequency cap")
    assert (told[7][0], told[9][0]) == ("accepted", "suppressed")


def test_a_log_with_holes_proves_nobody_unmailed() -> None:
    ledger = build_ledger(
        1, audience=[7, 8], evidence=[evidence_table([sign(7, "accepted")])], log_trusted=False
    )
    assert people(ledger, "unknown") == [8]
    assert people(ledger, "not_attempted") == []


@pytest.mark.parametrize(
    ("smtp_code", "outcome"),
    [(550, "bounced"), (421, "not_attempted"), (None, "unknown"), (250, "unknown")],
)
def test_a_failed_line_of_the_log_counts_by_the_reply_it_got(smtp_code, outcome) -> None:
    log = evidence_of_log(log_lines([SendRecord(1, 7, "failed", AT, smtp_code)]))
    assert build_ledger(1, audience=[7], evidence=[log]).counts()[outcome] == 1


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [("sent", "accepted"), ("delivered", "delivered"), ("open", "delivered"), ("click", "delivered"),
     ("complaint", "delivered"), ("bounce", "bounced"), ("something new", "not_attempted")],
)  # fmt: skip
def test_an_event_proves_what_it_says(kind, outcome) -> None:
    events = evidence_of_events(events_table([ProviderEvent(1, kind, 1, 7, AT)]))
    assert build_ledger(1, audience=[7], evidence=[events]).counts()[outcome] == 1


def test_a_log_that_lacks_what_a_webhook_saw_has_holes() -> None:
    log = log_lines([SendRecord(1, 7, "accepted", AT)])
    seen = evidence_table([sign(8, "delivered", witness="webhook")])
    nothing = evidence_table([])
    assert log_has_holes(log, seen, sent_by_counter={})
    assert not log_has_holes(log, nothing, sent_by_counter={1: 1})
    assert log_has_holes(log, nothing, sent_by_counter={1: 2})


def test_a_frozen_file_that_was_changed_is_refused(tmp_path) -> None:
    path = tmp_path / "target.parquet"
    digest = write_frozen(people_table([3, 1, 2]), path)
    assert read_frozen(path, digest)["subscriber_id"].to_pylist() == [3, 1, 2]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CatchupError, match="was changed"):
        read_frozen(path, digest)
    path.unlink()
    with pytest.raises(CatchupError, match="is gone"):
        read_frozen(path, digest)


persons = st.integers(1, 60)
signs = st.lists(
    st.tuples(
        st.integers(1, 3),
        persons,
        st.sampled_from(["delivered", "bounced", "accepted", "unknown"]),
        st.integers(0, 500).map(lambda n: AT + timedelta(minutes=n)),
        st.sampled_from(["send_log", "event", "webhook", "snapshot"]),
    ),
    max_size=60,
)
ended = st.one_of(st.none(), st.tuples(st.sampled_from(["expired", "dropped"]), st.just("decided")))
any_ledger = given(
    st.sets(persons), signs, st.sets(persons), ended, st.sets(persons), st.booleans(), st.sets(persons)
)


def check_partition(audience, rows, suppressed, decided, later, trusted, unreachable) -> None:
    ledger = build_ledger(
        1,
        audience=audience,
        evidence=[evidence_table(rows[::2]), evidence_table(rows[1::2])],
        suppressed=suppressed,
        ended=decided,
        still_to_come=later,
        log_trusted=trusted,
        unreachable=unreachable,
    )
    everybody = audience | {row[1] for row in rows}
    found = ledger.table["subscriber_id"].to_pylist()
    assert found == sorted(everybody)
    assert sum(ledger.counts().values()) == len(everybody)
    assert set(ledger.counts()) == set(OUTCOMES)
    attempted = {row[1] for row in rows}
    may_be_mailed = set(people(ledger, "not_attempted"))
    assert not may_be_mailed & (attempted | suppressed | unreachable)
    assert not decided or may_be_mailed <= later
    assert trusted or not may_be_mailed
    outcomes = Counter(row["outcome"] for row in ledger.table.to_pylist())
    assert {name: n for name, n in ledger.counts().items() if n} == dict(outcomes)
    for row in ledger.table.to_pylist():
        proofs = {sign[2] for sign in rows if sign[1] == row["subscriber_id"]}
        if proofs - {"unknown"}:
            assert row["outcome"] in proofs - {"unknown"}


@any_ledger
@settings(max_examples=40)
def test_the_outcomes_partition_the_audience(
    audience, rows, suppressed, decided, later, trusted, unreachable
) -> None:
    check_partition(audience, rows, suppressed, decided, later, trusted, unreachable)


@pytest.mark.slow
@any_ledger
@settings(max_examples=3000)
def test_the_outcomes_partition_thousands_of_audiences(
    audience, rows, suppressed, decided, later, trusted, unreachable
) -> None:
    check_partition(audience, rows, suppressed, decided, later, trusted, unreachable)
