"""The frequency cap against an oracle that counts by hand, and what a mailbox provider got by the hour."""

import atexit
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.catchup import Cap, build_ledger, evidence_table, hourly, over_cap, split_by_cap, traffic_table

FOLDER = Path(tempfile.mkdtemp())
atexit.register(shutil.rmtree, FOLDER)
NOW = datetime(2011, 11, 16, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
CAP = Cap(2, 24 * HOUR)


def got(*messages):
    """Messages as (subscriber, hours from now), each of a campaign of its own."""
    return [
        traffic_table(number, pa.array([who], pa.int64()), NOW + hours * HOUR)
        for number, (who, hours) in enumerate(messages)
    ]


def split(people, messages, *, cap=CAP, useful=None, per_minute=60):
    until = None if useful is None else NOW + useful * HOUR
    return split_by_cap(
        pa.array(people, pa.int64()), got(*messages), cap, at=NOW, until=until, per_minute=per_minute, folder=FOLDER
    )  # fmt: skip


def test_whoever_had_their_messages_today_waits_until_the_first_of_them_is_a_day_old() -> None:
    found = split([3, 1, 2], [(1, -20), (1, -2), (2, -20), (3, -25), (3, -1)], useful=48)
    assert found.now.to_pylist() == [3, 2], "the order stays"
    assert (found.later.to_pylist(), found.later_at) == ([1], NOW + 4 * HOUR)
    assert found.never.to_pylist() == []


def test_whoever_waits_longer_than_it_is_useful_is_never_mailed() -> None:
    found = split([1], [(1, -20), (1, -2)], useful=4)
    assert (found.later.to_pylist(), found.later_at, found.never.to_pylist()) == ([], None, [1])


def test_what_is_due_later_counts_too() -> None:
    assert split([1], [(1, -1), (1, 10)]).later_at == NOW + 23 * HOUR
    assert split([1], [(1, -20), (1, 10)]).now.to_pylist() == [1], "no 24 hours hold all three"


def test_only_as_many_wait_as_can_still_be_mailed_then() -> None:
    messages = [(who, hours) for who in range(1, 121) for hours in (-20, -2)]
    found = split(range(1, 121), messages, useful=4 + 1 / 60, per_minute=60)
    assert (len(found.later), len(found.never)) == (60, 60)


def test_a_person_counts_once_per_campaign_whoever_says_so() -> None:
    twice = [traffic_table(1, pa.array([7]), NOW - HOUR), traffic_table(1, pa.array([7]), NOW - 2 * HOUR)]
    path = FOLDER / "ledger.parquet"
    build_ledger(
        2, into=path, audience=[7, 8], evidence=[evidence_table([(2, 7, "accepted", NOW - HOUR, "send_log")])]
    )
    asked = {"cap": Cap(2, 24 * HOUR), "at": NOW, "folder": FOLDER}
    assert over_cap(pa.array([7, 8]), twice, **asked).num_rows == 0
    assert over_cap(pa.array([7, 8]), [*twice, path], **asked)["subscriber_id"].to_pylist() == [7]


def test_volume_is_told_by_the_end_of_the_hour() -> None:
    lanes = pa.table({"subscriber_id": [1, 2], "lane": ["gmail", "yahoo"]})
    found = hourly(got((1, -1.5), (1, -1.25), (2, -30), (3, 2)), lanes, since=NOW - 24 * HOUR, folder=FOLDER)
    assert found == {"gmail": ((NOW - HOUR, 2),), "other": ((NOW + 3 * HOUR, 1),)}


def check_cap(messages, people, cap, useful) -> None:
    """Hold the split against counting by hand: every window of every person."""
    asked = split(people, messages, cap=cap, useful=useful, per_minute=600)
    everybody = [*asked.now.to_pylist(), *asked.later.to_pylist(), *asked.never.to_pylist()]
    assert sorted(everybody) == sorted(people), "everybody is in one part, once"
    for part, at in ((asked.now, NOW), (asked.later, asked.later_at)):
        for who in part.to_pylist():
            assert not too_many(messages, who, at, cap), f"{who} gets more than the cap allows"
            assert at == NOW or too_many(messages, who, NOW, cap), f"{who} waits for nothing"
    for who in asked.never.to_pylist():
        assert too_many(messages, who, NOW, cap)


def too_many(messages, who, at, cap) -> bool:
    times = sorted([*(NOW + hours * HOUR for one, hours in messages if one == who), at])
    for last in times:
        window = [one for one in times if last - cap.per < one <= last]
        if len(window) > cap.messages and at in window:
            return True
    return False


caps = given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(-40, 40)), max_size=14),
    st.lists(st.integers(1, 5), unique=True, max_size=5),
    st.builds(Cap, st.integers(1, 3), st.integers(1, 40).map(lambda hours: hours * HOUR)),
    st.one_of(st.none(), st.integers(1, 60)),
)


@caps
@settings(max_examples=40, deadline=None)
def test_nobody_is_mailed_above_the_cap_and_nobody_waits_for_nothing(messages, people, cap, useful) -> None:
    check_cap(messages, people, cap, useful)


@pytest.mark.slow
@caps
@settings(max_examples=3000, deadline=None)
def test_nobody_is_mailed_above_the_cap_in_thousands_of_calendars(messages, people, cap, useful) -> None:
    check_cap(messages, people, cap, useful)
