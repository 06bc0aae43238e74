"""The canonical row hash: equal rows agree however they are stored, different rows do not."""

from __future__ import annotations

import json
import struct
from datetime import UTC, date, datetime
from decimal import Context, Decimal

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core import TableChecksum, native, row_hashes

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
    assert row_hashes(one)[0] != row_hashes(other)[0]


def test_null_and_empty_and_the_word_null_differ() -> None:
    hashes = row_hashes(pa.record_batch({"a": pa.array([None, "", "N", "null"], pa.string())}))
    assert len(set(hashes.tolist())) == 4


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
    left_hashes, right_hashes = (row_hashes(pa.record_batch({"v": one})) for one in (left, right))
    assert left_hashes.tolist() == right_hashes.tolist()


def test_nested_values_and_nothing_at_all_have_a_hash() -> None:
    batch = pa.record_batch(
        {"l": pa.array([[1, None], None]), "s": pa.array([{"k": 1}, {"k": 2}]), "n": pa.nulls(2)}
    )
    assert len(set(row_hashes(batch).tolist())) == 2
    assert TableChecksum().hexdigest() == "0" * 32


kinds = st.sampled_from(
    [
        (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
        (pa.int8(), st.integers(-128, 127)),
        (pa.uint64(), st.integers(0, 2**64 - 1)),
        (pa.float64(), st.floats()),
        (pa.float32(), st.floats(width=32)),
        (pa.bool_(), st.booleans()),
        (pa.string(), st.text(max_size=40)),
        (pa.large_string(), st.text(max_size=9)),
        (pa.string_view(), st.text(max_size=20)),
        (pa.binary(), st.binary(max_size=40)),
        (pa.binary(16), st.binary(min_size=16, max_size=16)),
        (pa.uuid(), st.uuids()),
        (pa.date32(), st.dates()),
        (pa.timestamp("us"), st.datetimes()),
        (pa.timestamp("ns"), st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1))),  # noqa: DTZ001
        (pa.time64("us"), st.times()),
        (pa.decimal128(38, 4), st.decimals(-(10**33), 10**33, places=4)),
        (pa.decimal256(70, 4), st.decimals(-(10**65), 10**65, places=4)),
        (pa.list_(pa.int64()), st.lists(st.integers(-9, 9), max_size=3)),
    ]
)


@st.composite
def batches(draw: st.DrawFn) -> pa.RecordBatch:
    rows = draw(st.integers(0, 12))
    columns = []
    for kind, values in draw(st.lists(kinds, min_size=1, max_size=4)):
        drawn = draw(st.lists(st.none() | values, min_size=rows + 2, max_size=rows + 2))
        columns.append(pa.array(drawn, kind).slice(draw(st.integers(0, 2)), rows))
    return pa.RecordBatch.from_arrays(columns, names=[str(at) for at in range(len(columns))])


@given(batches())
def test_the_hash_follows_the_written_rule_with_and_without_compiled_code(batch: pa.RecordBatch) -> None:
    expected = [spelled_out(batch, at) for at in range(batch.num_rows)]
    assert row_hashes(batch).tolist() == expected
    library, native.library = native.library, None
    try:
        assert row_hashes(batch).tolist() == expected
    finally:
        native.library = library


MASK = 2**64 - 1
STEP = 0x9E3779B97F4A7C15


def mix(x: int) -> int:
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


def spelled_out(batch: pa.RecordBatch, at: int) -> int:
    """The rule of the module, one value at a time."""
    row = 0x243F6A8885A308D3
    for column in batch.columns:
        value = column[at]
        row = mix(((row ^ cell(column.type, value)) + STEP) & MASK)
        if not value.is_valid:
            row ^= 0x13198A2E03707344
    return row


def cell(kind: pa.DataType, value: pa.Scalar) -> int:
    if not value.is_valid:
        return 0
    if isinstance(kind, pa.BaseExtensionType):
        return text_cell(value.value.as_py())
    if pa.types.is_floating(kind):
        number = value.as_py()
        return 0x7FF8000000000000 if number != number else struct.unpack("<Q", struct.pack("<d", number))[0]
    if pa.types.is_decimal(kind):
        scaled = int(value.as_py().scaleb(kind.scale, Context(prec=80)))
        words = [scaled >> 64 * k & MASK for k in range(kind.bit_width // 64)]
        sign = MASK if words[0] >> 63 else 0
        further = sum(mix((word ^ sign) * (2 * k + 1) & MASK) for k, word in enumerate(words[1:], 1))
        return (words[0] + kind.scale * 0x452821E638D01377 + further) & MASK
    if pa.types.is_nested(kind):
        return text_cell(json.dumps(value.as_py()).encode())
    if pa.types.is_boolean(kind):
        return int(value.as_py())
    if pa.types.is_integer(kind):
        return int(value.as_py()) & MASK
    if pa.types.is_temporal(kind):
        return int(value.value) & MASK
    raw = value.as_py()
    return text_cell(raw.encode() if isinstance(raw, str) else raw)


def text_cell(raw: bytes) -> int:
    words = [int.from_bytes(raw[at : at + 8], "little") for at in range(0, max(len(raw), 1), 8)]
    return mix((len(raw) + sum(mix((word + k * STEP) & MASK) for k, word in enumerate(words, 1))) & MASK)


def test_a_long_value_beside_short_ones_is_hashed_a_piece_at_a_time() -> None:
    batch = pa.record_batch({"v": pa.array(["a", "b" * 1_000_003, "c" * 300_000, ""])})
    with_compiled = row_hashes(batch).tolist()
    library, native.library = native.library, None
    try:
        assert row_hashes(batch).tolist() == with_compiled
    finally:
        native.library = library


def test_among_a_million_rows_that_differ_in_little_no_two_hash_the_same() -> None:
    numbers = pa.array(range(1_000_000), pa.int64())
    text = pc.binary_join_element_wise("user", pc.cast(numbers, pa.string()), "@mail.example", "")
    for batch in (
        pa.record_batch({"a": numbers, "b": numbers}),
        pa.record_batch({"t": text}),
        pa.record_batch({"a": pc.divide(numbers, 1000), "b": pc.bit_wise_and(numbers, 1023), "t": text}),
    ):
        assert len(set(row_hashes(batch).tolist())) == 1_000_000
