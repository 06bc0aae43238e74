"""What a log that is cut into summaries proves: nothing beyond a gap, in another history, or before its begin."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.sources.changes import (
    ChangeFacts,
    Mark,
    Server,
    TableState,
    covering,
    differing,
    doubt,
    marks_kept,
    position,
)

HERE = Server("7", 1, "100.5", 5)
BEFORE = ChangeFacts(HERE, since="0/20", through="0/30", marks=(), tables={})
LOG = [("0/10", "0/20"), ("0/20", "0/30"), ("0/30", "0/40"), ("0/40", "1/0")]


def test_a_position_counts_both_halves() -> None:
    assert (position("0/FF"), position("2/1")) == (255, 2 * 2**32 + 1)


def test_a_log_that_reaches_from_one_snapshot_to_the_next_proves() -> None:
    assert doubt(BEFORE, HERE, LOG, "0/45") is None
    assert covering(LOG, "0/20", "0/45") == LOG[1:]


@pytest.mark.parametrize(
    ("before", "server", "log", "end", "why"),
    [
        (None, HERE, LOG, "0/45", "the snapshot before holds no change facts"),
        (BEFORE, replace(HERE, system="8"), LOG, "0/45", "the snapshot before was taken of another database"),
        (BEFORE, replace(HERE, database=6), LOG, "0/45", "the snapshot before was taken of another database"),
        (BEFORE, replace(HERE, timeline=2), LOG, "0/45", "the server was started again, or another one took over"),
        (BEFORE, replace(HERE, started="9"), LOG, "0/45", "the server was started again, or another one took over"),
        (replace(BEFORE, since=None), HERE, LOG, "0/45", "a transaction was in flight whose beginning"),
        (replace(BEFORE, through=None), HERE, LOG, "0/45", "no summary of the log had reached the snapshot before"),
        (replace(BEFORE, through="0/2F"), HERE, LOG, "0/45", "the log is not the one that the snapshot before saw"),
        (BEFORE, HERE, LOG, "1/1", "summaries of the log are missing"),
        (BEFORE, HERE, [*LOG[:2], *LOG[3:]], "0/45", "summaries of the log are missing"),
        (replace(BEFORE, since="0/8"), HERE, LOG, "0/45", "summaries of the log are missing"),
    ],
)  # fmt: skip
def test_what_cannot_be_proven_is_named(
    before: ChangeFacts | None, server: Server, log: list[tuple[str, str]], end: str, why: str
) -> None:
    assert (doubt(before, server, log, end) or "").startswith(why)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30))), st.integers(0, 30), st.integers(0, 30))
def test_summaries_cover_a_part_exactly_if_they_hold_each_of_its_bytes(
    edges: list[tuple[int, int]], begin: int, end: int
) -> None:
    log = [(min(one), max(one)) for one in edges]
    held = {byte for low, high in log for byte in range(low, high)}
    named = [(f"0/{low:X}", f"0/{high:X}") for low, high in log]
    found = covering(named, f"0/{begin:X}", f"0/{end:X}")
    assert (found is not None) == (set(range(begin, end)) <= held)
    needed = {one for one in named if max(position(one[0]), begin) < min(position(one[1]), end)}
    assert found is None or needed <= set(found)


@given(st.lists(st.integers(0, 20)), st.lists(st.integers(0, 20)), st.data())
def test_a_begin_is_never_later_than_what_was_in_flight_wrote(
    numbers: list[int], snapshots: list[int], data: st.DataObject
) -> None:
    """A mark says that transactions from its number on write behind it; the oldest in flight only ever grows."""
    seen = [Mark(number, f"0/{number:X}") for number in sorted(numbers)]
    kept: tuple[Mark, ...] = ()
    for xmin in sorted(snapshots):
        known = [one for one in seen if data.draw(st.booleans()) or one in kept]
        floor, kept = marks_kept(sorted({*kept, *known}, key=lambda one: one.next_xid), xmin)
        assert floor is None or floor.next_xid <= xmin
        assert len(kept) <= 3
        assert not floor or kept[0] == floor


def test_the_newest_begin_that_is_early_enough_is_chosen() -> None:
    marks = [Mark(number, f"0/{number}") for number in (1, 3, 5, 6, 7, 8)]
    assert marks_kept(marks, 4) == (Mark(3, "0/3"), (Mark(3, "0/3"), Mark(7, "0/7"), Mark(8, "0/8")))
    assert marks_kept(marks[1:], 2) == (None, (Mark(7, "0/7"), Mark(8, "0/8")))


@pytest.mark.parametrize(
    ("now", "written", "why"),
    [
        (TableState(("1/2", "1/3"), "f"), {"1/9", "2/2"}, None),
        (TableState(("1/2", "1/3"), "f"), {"1/3"}, "its files were written to"),
        (TableState(("1/2",), "f"), set(), "it was truncated, rewritten or replaced"),
        (TableState(("1/2", "1/3"), "g"), set(), "its columns or types were changed"),
    ],
)
def test_a_table_is_the_same_if_its_files_and_form_are_and_nothing_was_written(
    now: TableState, written: set[str], why: str | None
) -> None:
    before = replace(BEFORE, tables={"t": TableState(("1/2", "1/3"), "f")})
    assert differing(before, {"t": now}, frozenset(written)).get("t") == why
    assert differing(BEFORE, {"t": now}, frozenset(written))["t"].startswith("the snapshot before holds no")
