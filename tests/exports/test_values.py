"""Whatever people write into their contacts comes through an export, a snapshot and a restore as it was."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks.core import DrivenClock
from tasks.providers.shapes import CAMPAIGN_BITS, number_of, person_number
from tasks.snapshots import restore
from tasks.sources import open_target
from tests.exports.conftest import Account, opened

NASTY = [
    "",
    "🧾",
    "it's",
    'say "no"',
    "a,b;c",
    "line\nbreak",
    "\r\n",
    "\r",
    " \t ",
    "\\N",
    "NULL",
    "\u2028",
    "é",
    "a\x00b",
]
anything = st.text(st.characters(), max_size=10) | st.sampled_from([*NASTY, "\ud800"])
writable = st.text(max_size=10) | st.sampled_from(NASTY)
document = st.dictionaries(
    anything, anything | st.integers(-(2**70), 2**70) | st.booleans() | st.none() | st.lists(anything, max_size=2),
    max_size=3,
)  # fmt: skip
contact = st.fixed_dictionaries(
    {"email": anything, "ext_id": st.none() | anything, "emailBlacklisted": st.booleans() | anything,
     "attributes": document},
    optional={"listIds": st.lists(st.integers(0, 2**40), max_size=3), "unheard of": anything},
)  # fmt: skip


def run(kind: str) -> Any:
    """Open an empty account in a folder of its own."""
    folder = TemporaryDirectory()
    home = Path(folder.name)
    clock = DrivenClock.create(home / "clock.json", datetime(2011, 11, 16, 7, 0, tzinfo=UTC))
    return folder, opened(kind, clock, home, 0)


def as_json(value: Any, cast: str | None) -> Any:
    return json.loads(value) if cast == "text" and value is not None else value


def brevo_round_trip(contacts: list[dict[str, Any]]) -> None:
    folder, opening = run("brevo")
    with folder, opening as one:
        for number, fields in enumerate(contacts, 1):
            one.vendor.write_contact(number, **fields)
        taken = one.backup()
        casts = {column.name: column.cast for column in taken.tables["contacts"].facts.columns}
        assert len(one.rows(taken, "contacts")) == len(contacts)
        for row in [*one.rows(taken, "contacts"), *restored(one, taken.snapshot_id, "contacts")]:
            there = one.vendor._contacts[row["id"]]
            for name in ("email", "ext_id"):
                assert as_json(row[name], casts[name]) == there.get(name)
            flag = as_json(row["emailBlacklisted"], casts["emailBlacklisted"])
            assert flag == there["emailBlacklisted"]
            assert json.loads(row["attributes"]) == there["attributes"]
            assert json.loads(row["listIds"]) == there["listIds"]
            rest = {key: value for key, value in there.items() if key == "unheard of"}
            assert json.loads(row["other"] or "{}") == rest


def restored(one: Account, snapshot_id: str, table: str) -> list[dict[str, Any]]:
    target = one.home / "restored.sqlite"
    assert restore(
        one.store, snapshot_id, open_target(f"sqlite:///{target}"), clock=one.clock, unproven=True
    ).equal
    with closing(sqlite3.connect(target)) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute(f"SELECT * FROM {table}")]


def sendgrid_round_trip(people: list[dict[str, str]]) -> None:
    folder, opening = run("sendgrid")
    with folder, opening as one:
        for number, fields in enumerate(people, 1):
            one.vendor._contacts[f"id{number}"] = (f"c{number}@shop.example", one.clock.now())
            one.vendor.fields[number] = fields
        taken = one.backup()
        named = {name for fields in people for name in fields}
        rows = one.rows(taken, "contacts")
        assert len(rows) == len(people)
        for row in [*rows, *restored(one, taken.snapshot_id, "contacts")]:
            fields = people[int(row["contact_id"][2:]) - 1]
            given = {"first_name": row["first_name"], **json.loads(row["other"] or "{}")}
            assert {name: given[name] for name in named} == {name: fields.get(name, "") for name in named}


custom = st.dictionaries(st.sampled_from(["first_name", "note", "été 'x'"]), writable, max_size=3)


@example([{"email": "a\x00b", "ext_id": "\ud800", "emailBlacklisted": "🧾", "attributes": {"\ud800": 2**70}}])
@settings(max_examples=8)
@given(st.lists(contact, max_size=4))
def test_values_of_brevo_come_back(contacts: list[dict[str, Any]]) -> None:
    brevo_round_trip(contacts)


@pytest.mark.slow
@settings(max_examples=300)
@given(st.lists(contact, max_size=12))
def test_many_audiences_of_brevo_come_back(contacts: list[dict[str, Any]]) -> None:
    brevo_round_trip(contacts)


@example([{"note": value} for value in NASTY])
@settings(max_examples=3)
@given(st.lists(custom, max_size=4))
def test_values_of_sendgrid_come_back(people: list[dict[str, str]]) -> None:
    sendgrid_round_trip(people)


@pytest.mark.slow
@settings(max_examples=150)
@given(st.lists(custom, max_size=12))
def test_many_audiences_of_sendgrid_come_back(people: list[dict[str, str]]) -> None:
    sendgrid_round_trip(people)


@given(
    st.lists(
        st.tuples(st.none() | writable | st.integers(0, 2**70).map(str), st.text(max_size=20)), min_size=1
    )
)
def test_sql_gives_people_and_things_the_numbers_that_connectors_give_them(
    pairs: list[tuple[str | None, str]],
) -> None:
    import duckdb

    from tasks.snapshots.reading import _MACROS

    database = duckdb.connect()
    database.execute("CREATE SCHEMA canonical")
    for macro in _MACROS:
        database.execute(f"CREATE MACRO canonical.{macro}")
    for customer, identifier in pairs:
        found = database.execute("SELECT canonical.person_number(?, ?), canonical.id_number(?)",
                                 [customer, identifier, identifier]).fetchall()  # fmt: skip
        assert found == [(person_number(customer, identifier), number_of(identifier, CAMPAIGN_BITS))]
