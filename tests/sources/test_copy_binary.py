"""COPY BINARY: both decoders give the same and refuse the same, and what is written is what PostgreSQL sends."""
# ruff: noqa: DTZ001 (the columns under test hold naive times)

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core import native
from tasks.sources import decoding, encoding
from tasks.sources.columns import Unfit

MIDNIGHT_2000 = dt.datetime(2000, 1, 1)


@contextmanager
def python_only() -> Iterator[None]:
    library, native.library = native.library, None
    try:
        yield
    finally:
        native.library = library


def numeric(value: Decimal) -> bytes:
    """Encode as numeric_send does: digits to base 10,000 without zeros at either end."""
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    scale = max(0, -exponent)
    number = ("".join(map(str, digits)) + "0" * max(0, exponent)).zfill(scale + 1)
    whole, fraction = (
        (number[: len(number) - scale], number[len(number) - scale :]) if scale else (number, "")
    )
    whole = whole.zfill((len(whole) + 3) // 4 * 4)
    fraction = fraction.ljust((len(fraction) + 3) // 4 * 4, "0")
    groups = [int((whole + fraction)[at : at + 4]) for at in range(0, len(whole + fraction), 4)]
    weight = len(whole) // 4 - 1
    while groups and groups[0] == 0:
        groups, weight = groups[1:], weight - 1
    while groups and groups[-1] == 0:
        groups = groups[:-1]
    return struct.pack(
        f"!hhHh{len(groups)}h", len(groups), weight if groups else 0, 0x4000 if sign else 0, scale, *groups
    )


def microseconds(value: dt.datetime) -> int:
    return (value - MIDNIGHT_2000) // dt.timedelta(microseconds=1)


FIRST = microseconds(dt.datetime(1, 1, 1))
LAST = microseconds(dt.datetime(9999, 12, 31, 23, 59, 59, 999999))

KINDS: dict[str, tuple[pa.DataType, decoding.Decode, st.SearchStrategy[Any], Any]] = {
    "bigint": (
        pa.int64(),
        decoding.whole_numbers(pa.int64()),
        st.integers(-(2**63), 2**63 - 1),
        lambda one: struct.pack("!q", one),
    ),
    "integer": (
        pa.int32(),
        decoding.whole_numbers(pa.int32()),
        st.integers(-(2**31), 2**31 - 1),
        lambda one: struct.pack("!i", one),
    ),
    "smallint": (
        pa.int16(),
        decoding.whole_numbers(pa.int16()),
        st.integers(-(2**15), 2**15 - 1),
        lambda one: struct.pack("!h", one),
    ),
    "double": (
        pa.float64(),
        decoding.whole_numbers(pa.float64()),
        st.floats(allow_nan=False),
        lambda one: struct.pack("!d", one),
    ),
    "boolean": (pa.bool_(), decoding.boolean, st.booleans(), lambda one: bytes([one])),
    "text": (pa.string(), decoding.text, st.text(max_size=40), str.encode),
    "bytea": (
        pa.binary(),
        decoding.binary,
        # Among them what looks like messages and rows of the protocol.
        st.binary(max_size=40) | st.just(b"d\0\0\0\x0a\0\1\0\0\0\0d\0\0\0\x0a\0\1\0\0\0\0"),
        lambda one: one,
    ),
    "jsonb": (pa.string(), decoding.json_text, st.text(max_size=20), lambda one: b"\1" + one.encode()),
    "uuid": (pa.uuid(), decoding.uuid, st.uuids(), lambda one: one.bytes),
    "date": (
        pa.date32(),
        decoding.date,
        st.dates(),
        lambda one: struct.pack("!i", one.toordinal() - dt.date(2000, 1, 1).toordinal()),
    ),
    "timestamp": (
        pa.timestamp("us"),
        decoding.timestamp(None),
        st.datetimes(),
        lambda one: struct.pack("!q", microseconds(one)),
    ),
    "time": (
        pa.time64("us"),
        decoding.time_of_day,
        st.times(),
        lambda one: struct.pack("!q", microseconds(dt.datetime.combine(MIDNIGHT_2000, one))),
    ),
    "numeric(18,6)": (
        pa.decimal128(18, 6),
        decoding.decimal(pa.decimal128(18, 6)),
        st.decimals(-(10**12) + 1, 10**12 - 1, places=6),
        numeric,
    ),
    "numeric(18,0)": (
        pa.decimal128(18, 0),
        decoding.decimal(pa.decimal128(18, 0)),
        st.integers(-(10**18) + 1, 10**18 - 1).map(Decimal),
        numeric,
    ),
    "numeric(18,18)": (
        pa.decimal128(18, 18),
        decoding.decimal(pa.decimal128(18, 18)),
        st.decimals(-1, 1, places=18).filter(lambda one: abs(one) < 1),
        numeric,
    ),
}


def message(row: bytes) -> bytes:
    return b"d" + struct.pack("!i", 4 + len(row)) + row


def row_of(values: list[bytes | None]) -> bytes:
    sized = (struct.pack("!i", -1) if one is None else struct.pack("!i", len(one)) + one for one in values)
    return struct.pack("!h", len(values)) + b"".join(sized)


def block_of(stream: bytes) -> Any:
    return np.frombuffer(stream, np.uint8).copy()


@given(st.data())
def test_whatever_the_values_both_decoders_give_them_back(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=5))
    rows = data.draw(
        st.lists(st.tuples(*(st.none() | KINDS[name][2] for name in names)), min_size=1, max_size=12)
    )
    stream = b"".join(
        message(
            row_of(
                [None if one is None else KINDS[name][3](one) for name, one in zip(names, row, strict=True)]
            )
        )
        for row in rows
    )
    cut = data.draw(st.integers(0, 20))
    tail = (b"c\0\0\0\4" + b"C\0\0\0\x0bCOPY 1\0")[:cut]

    def found() -> tuple[decoding.Rows, int, bool]:
        starts, ends, used, other = decoding.frames(block_of(stream + tail))
        return decoding.Rows(block_of(stream + bytes(decoding.SLACK)), starts, ends), used, other

    decoders = [KINDS[name][1] for name in names]
    framed, used, other = found()
    with python_only():
        again, *rest = found()
        assert decoding.decoded(again, decoders) is None
    arrays = [
        decode(field) for decode, field in zip(decoders, decoding.fields(again, len(names)), strict=True)
    ]
    twins = decoding.decoded(framed, decoders) if native.library else arrays
    assert twins is not None
    assert (used, other) == (len(stream), cut >= 5)
    assert rest == [used, other]
    for name, array, twin, column in zip(names, arrays, twins, zip(*rows, strict=True), strict=True):
        assert array.type == KINDS[name][0]
        assert array.to_pylist() == list(column)
        twin.validate(full=True)
        assert twin.type == array.type
        assert twin.equals(array)


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("date", struct.pack("!i", 2**31 - 1)),
        ("date", struct.pack("!i", -(2**31))),
        ("date", struct.pack("!i", dt.date(9999, 12, 31).toordinal() - dt.date(2000, 1, 1).toordinal() + 1)),
        ("timestamp", struct.pack("!q", 2**63 - 1)),
        ("timestamp", struct.pack("!q", -(2**63))),
        ("timestamp", struct.pack("!q", LAST + 1)),
        ("timestamp", struct.pack("!q", FIRST - 1)),
        ("time", struct.pack("!q", 86_400_000_000)),
        ("text", b"\xff"),
        ("numeric(18,6)", struct.pack("!hhHh", 0, 0, 0xC000, 0)),  # NaN
        ("numeric(18,6)", struct.pack("!hhHh", 0, 0, 0xD000, 0)),  # infinity
        ("numeric(18,6)", struct.pack("!hhHhh", 1, -2, 0, 8, 1)),  # more digits than the scale
        ("numeric(18,6)", struct.pack("!hhHhh", 1, 9, 0, 0, 1)),  # more digits than the type
        ("numeric(18,0)", struct.pack("!hhHhh", 1, 4, 0, 0, 9999)),
    ],
)
def test_a_value_that_the_type_does_not_hold_is_unfit(name: str, raw: bytes) -> None:
    block = block_of(row_of([raw]) + bytes(decoding.SLACK))
    rows = decoding.Rows(block, np.array([0]), np.array([len(block) - decoding.SLACK]))

    assert decoding.decoded(rows, [KINDS[name][1]]) is None
    with pytest.raises(Unfit):
        KINDS[name][1](decoding.fields(rows, 1)[0])


@given(st.data(), st.binary(max_size=80))
def test_what_is_no_row_of_these_types_is_refused_by_both_and_read_past_by_neither(
    data: st.DataObject, noise: bytes
) -> None:
    names = data.draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=3))
    lengths = st.sampled_from([-1, 0, 1, 2, 4, 8, 10, 12, 16, 20])
    sized = data.draw(st.lists(st.tuples(lengths, st.binary(min_size=20, max_size=20)), max_size=3))
    likely = struct.pack("!h", len(names)) + b"".join(
        struct.pack("!i", length) + some[: max(0, length)] for length, some in sized
    )
    raw = likely if len(sized) == len(names) and data.draw(st.booleans()) else noise
    block = block_of(raw + bytes(decoding.SLACK))
    rows = decoding.Rows(block, np.array([0]), np.array([len(raw)]))
    decoders = [KINDS[name][1] for name in names]
    compiled = decoding.decoded(rows, decoders)
    try:
        fields = decoding.fields(rows, len(names))
        assert all(field.positions[0] + max(0, int(field.lengths[0])) <= len(raw) for field in fields)
        arrays = [decode(field) for decode, field in zip(decoders, fields, strict=True)]
    except (decoding.Broken, Unfit):
        assert compiled is None
        return
    if native.library:
        assert compiled is not None
        assert [repr(one) for one in compiled] == [repr(one) for one in arrays]  # NaN is not equal to itself


@given(st.binary(max_size=80))
def test_messages_are_cut_the_same_way_by_both(raw: bytes) -> None:
    def outcome() -> tuple[list[int], list[int], int, bool]:
        starts, ends, used, other = decoding.frames(block_of(raw))
        return starts.tolist(), ends.tolist(), used, other

    compiled = outcome()
    with python_only():
        assert outcome() == compiled


DECLARED = {
    "double": "double precision",
    "timestamp": "timestamp without time zone",
    "time": "time without time zone",
    "numeric(18,6)": "numeric",
    "numeric(18,0)": "numeric",
    "numeric(18,18)": "numeric",
}


@pytest.mark.skipif(native.library is None, reason="no C compiler built the loops that write COPY BINARY")
@given(st.data())
def test_what_is_written_is_what_postgresql_itself_would_send(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=5))
    rows = data.draw(
        st.lists(st.tuples(*(st.none() | KINDS[name][2] for name in names)), min_size=0, max_size=12)
    )
    begin = data.draw(st.integers(0, len(rows)))
    columns = [[row[at] for row in rows] for at in range(len(names))]
    batch = pa.RecordBatch.from_arrays(
        [pa.array(column, KINDS[name][0]) for name, column in zip(names, columns, strict=True)],
        names=[str(at) for at in range(len(names))],
    ).slice(begin)
    forms = [encoding.form_of(KINDS[name][0], DECLARED.get(name, name)) for name in names]
    assert None not in forms
    expected = b"".join(
        row_of([None if one is None else KINDS[name][3](one) for name, one in zip(names, row, strict=True)])
        for row in rows[begin:]
    )
    assert bytes(encoding.encoded(batch, forms)) == expected


@pytest.mark.skipif(native.library is None, reason="no C compiler built the loops that write COPY BINARY")
@given(st.decimals(-(10**20) + 1, 10**20 - 1, places=18))
def test_a_decimal_of_38_digits_is_written_as_postgresql_sends_it(value: Decimal) -> None:
    kind = pa.decimal128(38, 18)
    batch = pa.RecordBatch.from_arrays([pa.array([value], kind)], names=["v"])
    form = encoding.form_of(kind, "numeric")
    assert form is not None
    assert bytes(encoding.encoded(batch, [form])) == row_of([numeric(value)])
