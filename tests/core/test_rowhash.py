"""The canonical row hash: equal rows agree however they are stored, different rows do not."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core import TableChecksum, row_hashes

texts = st.none() | st.text(max_size=8)
rows = st.lists(
    st.tuples(texts, st.none() | st.integers(-(2**63), 2**63 - 1), st.none() | st.floats()), max_size=12
)


def checksum(table: pa.Table, batch_rows: int = 4) -> str:
    total = TableChecksum()
    for batch in table.to_batches(max_chunksize=batch_rows):
        total.update(batch)
    return total.hexdigest()


def build(values: list[tuple[str | None, int | None, float | None]]) -> pa.Table:
    names, numbers, floats = zip(*values, strict=True) if values else ((), (), ())
    return pa.table(
        {
            "a": pa.array(names, pa.string()),
            "b": pa.array(numbers, pa.int64()),
            "c": pa.array(floats, pa.float64()),
        }
    )


@given(rows, st.randoms(use_true_random=False))
def test_the_order_of_rows_and_batches_does_not_matter(values: list, random) -> None:
    shuffled = values[:]
    random.shuffle(shuffled)
    assert checksum(build(values)) == checksum(build(shuffled), batch_rows=3)


@given(rows.filter(bool), st.data())
def test_a_changed_cell_a_lost_row_and_a_repeated_row_all_show(values: list, data: st.DataObject) -> None:
    table = build(values)
    at = data.draw(st.integers(0, len(values) - 1))
    changed = values[:]
    changed[at] = (f"{values[at][0] or ''}x", *values[at][1:])
    assert checksum(build(changed)) != checksum(table)
    assert checksum(build(values[:at] + values[at + 1 :])) != checksum(table)
    assert checksum(build([*values, values[at]])) != checksum(table)


@given(rows, rows)
def test_checksums_of_parts_merge_into_that_of_the_whole(first: list, second: list) -> None:
    left, right, whole = TableChecksum(), TableChecksum(), TableChecksum()
    for total, values in ((left, first), (right, second), (whole, first + second)):
        for batch in build(values).to_batches():
            total.update(batch)
    left.merge(right)
    assert (left.hexdigest(), left.rows) == (whole.hexdigest(), whole.rows)


def test_separators_in_values_cannot_make_two_rows_alike() -> None:
    one = pa.record_batch({"a": ["x1:y"], "b": ["z"]})
    other = pa.record_batch({"a": ["x"], "b": ["1:yz"]})
    assert row_hashes(one) != row_hashes(other)


def test_null_and_empty_and_the_word_null_differ() -> None:
    hashes = row_hashes(pa.record_batch({"a": pa.array([None, "", "N", "null"], pa.string())}))
    assert len(set(hashes)) == 4


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (pa.array(["a", None]), pa.array(["a", None]).dictionary_encode()),
        (pa.array(["a", None]), pa.array(["a", None], pa.large_string())),
        (pa.array([1, None], pa.int16()), pa.array([1, None], pa.int64())),
        (
            pa.array([datetime(2011, 1, 1, tzinfo=UTC)], pa.timestamp("ms", "UTC")),
            pa.array([datetime(2011, 1, 1, tzinfo=UTC)], pa.timestamp("us", "UTC")),
        ),
        (pa.array([date(2011, 1, 1)], pa.date32()), pa.array([date(2011, 1, 1)], pa.date64())),
        (
            pa.array([Decimal("1.50")], pa.decimal128(10, 2)),
            pa.array([Decimal("1.50")], pa.decimal256(50, 2)),
        ),
        (pa.array([b"\x00\xff"], pa.binary()), pa.array([b"\x00\xff"], pa.binary(2))),
        (pa.array([b"\x00\xff"], pa.binary()), pa.array([b"\x00\xff"], pa.large_binary())),
    ],
    ids=[
        "dictionary",
        "large string",
        "integer width",
        "time unit",
        "date width",
        "decimal width",
        "fixed",
        "large",
    ],
)
def test_the_same_value_in_another_storage_type_hashes_the_same(left: pa.Array, right: pa.Array) -> None:
    assert row_hashes(pa.record_batch({"v": left})) == row_hashes(pa.record_batch({"v": right}))


def test_nested_values_and_nothing_at_all_have_a_hash() -> None:
    batch = pa.record_batch(
        {"l": pa.array([[1, None], None]), "s": pa.array([{"k": 1}, {"k": 2}]), "n": pa.nulls(2)}
    )
    assert len(set(row_hashes(batch))) == 2
    assert TableChecksum().hexdigest() == "0" * 32
