"""A restore into a database in use writes exactly what it said, never loosens a consent, and never half."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks.core import SystemClock, UsageError
from tasks.snapshots import (
    Merged,
    NotGivenBack,
    SigningKey,
    SnapshotError,
    Store,
    key_pem,
    merge,
    parse_keys,
    take_snapshot,
)
from tasks.sources import SourceError, open_source, open_target

ESP = """
CREATE TABLE subscribers (id INTEGER PRIMARY KEY, uuid TEXT, email TEXT UNIQUE, status TEXT);
CREATE TABLE lists (id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE subscriber_lists (subscriber_id INTEGER REFERENCES subscribers, list_id INTEGER REFERENCES lists,
    status TEXT, PRIMARY KEY (subscriber_id, list_id));
CREATE TABLE bounces (id INTEGER PRIMARY KEY, subscriber_id INTEGER, type TEXT);
CREATE TABLE campaigns (id INTEGER PRIMARY KEY, name TEXT, status TEXT);
CREATE TABLE notes (what TEXT);
INSERT INTO subscribers VALUES (1, 'u1', 'a@x.example', 'enabled'), (2, 'u2', 'b@x.example', 'blocklisted'),
    (3, 'u3', 'c@x.example', 'enabled');
INSERT INTO lists VALUES (1, 'news'), (2, 'sale');
INSERT INTO subscriber_lists VALUES (1, 1, 'confirmed'), (2, 1, 'unsubscribed'), (3, 1, 'confirmed'),
    (3, 2, 'confirmed');
INSERT INTO bounces VALUES (1, 1, 'soft');
INSERT INTO campaigns VALUES (1, 'a', 'running'), (2, 'b', 'scheduled'), (3, 'c', 'running'), (4, 'd', 'draft');
INSERT INTO notes VALUES ('x'), ('x');
"""


def script(path: Path | str, statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(statements)


def rows(path: Path | str, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def dump(path: Path | str) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def snapshot(store: Store, url: str) -> str:
    manifest = take_snapshot(open_source("esp", url), store, clock=SystemClock(), plan_digest="")
    store.mark(manifest.snapshot_id, "valid", findings=[], at=SystemClock().now(), by="test")
    return manifest.snapshot_id


class Live:
    """A database in use with a snapshot of how it was."""

    def __init__(self, folder: Path, store: Store, statements: str, url: str = "") -> None:
        self.store, self.path = store, folder / "live.db"
        self.url = url or f"sqlite:///{self.path}"
        self.folder = folder
        self.number = 0
        self.run(statements)
        self.snapshot = snapshot(store, self.url)

    def run(self, statements: str) -> None:
        if self.url.startswith("sqlite"):
            script(self.path, statements)
            return
        engine = sa.create_engine(self.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(statements.replace("%", "%%"))
        engine.dispose()

    def rows(self, query: str) -> list[Any]:
        if self.url.startswith("sqlite"):
            return rows(self.path, query)
        engine = sa.create_engine(self.url)
        with engine.connect() as connection:
            found = [tuple(row) for row in connection.exec_driver_sql(query)]
        engine.dispose()
        return found

    def merge(self, mode: Any, **options: Any) -> Merged:
        self.number += 1
        options = {"apply": True, **options}
        return merge(
            self.store,
            self.snapshot,
            open_target(options.pop("into", self.url)),
            self.folder / f"differences-{self.number}",
            clock=SystemClock(),
            mode=mode,
            **options,
        )


@pytest.fixture
def esp(store: Store, tmp_path: Path) -> Live:
    """A small ESP as it was saved, and then used and damaged."""
    live = Live(tmp_path, store, ESP)
    live.run(
        "DELETE FROM subscriber_lists WHERE list_id = 1; DELETE FROM lists WHERE id = 1;"
        "UPDATE subscribers SET email = 'new@x.example' WHERE id = 1;"
        "INSERT INTO subscribers VALUES (9, 'u9', 'z@x.example', 'enabled');"
        "INSERT INTO notes VALUES ('y')"
    )
    return live


def told(found: Merged) -> dict[str, tuple[Any, ...]]:
    return {
        one.name: (
            one.only_in_snapshot, one.only_in_database, one.different, one.columns, one.inserted, one.updated
        )
        for one in found.tables
    }  # fmt: skip


# What differs ---------------------------------------------------------------------------------------------------


def test_a_dry_run_says_row_by_row_what_differs_and_changes_nothing(esp: Live) -> None:
    before = dump(esp.path)
    found = esp.merge("overwrite", apply=False, mapping="listmonk")
    assert dump(esp.path) == before
    assert not found.applied
    assert told(found) == {
        "bounces": (0, 0, 0, {}, 0, 0),
        "campaigns": (0, 0, 0, {}, 0, 0),
        "lists": (1, 0, 0, {}, 1, 0),
        "notes": (0, 1, 0, {}, 0, 0),
        "subscribers": (0, 1, 1, {"email": 1}, 0, 1),
        "subscriber_lists": (3, 0, 0, {}, 3, 0),
    }
    assert not any(one.inserted for one in esp.merge("overwrite", apply=False, tables=["subscribers"]).tables)


def test_the_differences_can_be_recomputed_from_their_parquet_files(esp: Live) -> None:
    found = esp.merge("overwrite", apply=False)
    summary = pq.read_table(Path(found.folder) / "summary.parquet").to_pylist()
    assert [(one["table"], one["kind"], one["rows"]) for one in summary if one["column"] == "email"] == [
        ("subscribers", "different", 1)
    ]
    [file] = {one["file"] for one in summary if one["table"] == "subscribers"}
    table = pq.read_table(Path(found.folder) / file)
    assert table.schema.metadata[b"table"] == b"subscribers"
    assert [
        (one["kind"], one["action"], one["key.id"], one["database.email"], one["snapshot.email"])
        for one in table.to_pylist()
    ] == [
        ("different", "update", "1", "new@x.example", "a@x.example"),
        ("only_in_database", "leave", "9", "z@x.example", None),
    ]
    assert Path(found.folder).stat().st_mode & 0o077 == 0, "personal data: for its owner alone"


def test_each_mode_writes_what_it_says_and_leaves_new_rows_alone(esp: Live) -> None:
    esp.merge("insert-missing")
    assert esp.rows("SELECT id, name FROM lists ORDER BY id") == [(1, "news"), (2, "sale")]
    assert len(esp.rows("SELECT * FROM subscriber_lists")) == 4
    assert esp.rows("SELECT email FROM subscribers ORDER BY id")[0] == ("new@x.example",)
    esp.merge("overwrite")
    assert esp.rows("SELECT id, email FROM subscribers ORDER BY id") == [
        (1, "a@x.example"), (2, "b@x.example"), (3, "c@x.example"), (9, "z@x.example"),
    ]  # fmt: skip
    again = esp.merge("overwrite", apply=False)
    assert not any(one.written for one in again.tables)


# Which rows -----------------------------------------------------------------------------------------------------


def test_rows_are_chosen_by_table_by_key_and_by_person(esp: Live) -> None:
    by_key = esp.merge(
        "insert-missing", apply=False, keys=parse_keys(["subscriber_lists:1/1,3/1", 'lists:["1"]'])
    )
    assert told(by_key) == {"lists": (1, 0, 0, {}, 1, 0), "subscriber_lists": (2, 0, 0, {}, 2, 0)}
    esp.merge("insert-missing", tables=["lists"])
    assert esp.rows("SELECT count(*) FROM subscriber_lists") == [(1,)]
    person = esp.merge("overwrite", mapping="listmonk", subscribers=["1"])
    assert told(person) == {
        "bounces": (0, 0, 0, {}, 0, 0),
        "subscribers": (0, 0, 1, {"email": 1}, 0, 1),
        "subscriber_lists": (1, 0, 0, {}, 1, 0),
    }
    assert esp.rows("SELECT subscriber_id FROM subscriber_lists ORDER BY 1") == [(1,), (3,)]


SHOP = """
CREATE TABLE customers (customer_id INTEGER PRIMARY KEY, email TEXT);
CREATE TABLE orders (order_id TEXT PRIMARY KEY, customer_id INTEGER);
CREATE TABLE order_lines (line_id INTEGER PRIMARY KEY, order_id TEXT);
CREATE TABLE consent_requests (request_id INTEGER PRIMARY KEY, customer_id INTEGER, kind TEXT, requested_at TEXT);
INSERT INTO customers VALUES (1, 'a'), (2, 'b');
INSERT INTO orders VALUES ('o''1', 1), ('o2', 2);
INSERT INTO order_lines VALUES (1, 'o''1'), (2, 'o2'), (3, 'o''1');
"""


def test_a_persons_rows_are_found_through_the_rows_they_belong_to(store: Store, tmp_path: Path) -> None:
    shop = Live(tmp_path, store, SHOP)
    shop.run("DELETE FROM order_lines; DELETE FROM orders")
    shop.merge("insert-missing", mapping="shop", subscribers=["1"])
    assert shop.rows("SELECT order_id FROM orders") == [("o'1",)]
    assert shop.rows("SELECT line_id FROM order_lines ORDER BY 1") == [(1,), (3,)]


def test_what_is_not_there_is_refused_by_name(esp: Live) -> None:
    for options, message in (
        ({"tables": ["nope"]}, "has no table 'nope'"),
        ({"keys": {"lists": [("77",)]}}, "Neither the snapshot nor the database has id 77"),
        ({"keys": {"subscriber_lists": [("1",)]}}, r"primary key is \(subscriber_id, list_id\)"),
        ({"keys": {"notes": [("x",)]}}, "without a primary key cannot be chosen"),
        ({"subscribers": ["1"]}, "Nothing says which rows belong to a person"),
        ({"subscribers": ["77"], "mapping": "listmonk"}, "Neither the snapshot nor the database has id 77"),
        ({"subscribers": ["1"], "mapping": "listmonk", "tables": ["lists"]}, "belong to no person"),
    ):
        with pytest.raises(UsageError, match=message):
            esp.merge("overwrite", **options)
    esp.run("DROP TABLE bounces")
    with pytest.raises(UsageError, match="The database has no table 'bounces'"):
        esp.merge("overwrite", tables=["bounces"])
    [absent] = [one for one in esp.merge("overwrite").tables if one.name == "bounces"]
    assert "--mode empty" in absent.notes[0]


@pytest.mark.parametrize("option", ["lists", "lists:", ":1", "lists:[1"])
def test_a_key_that_cannot_be_read_is_refused(option: str) -> None:
    with pytest.raises(UsageError):
        parse_keys([option])


def test_rows_without_a_key_are_compared_and_never_written(esp: Live) -> None:
    with pytest.raises(UsageError, match="it has no primary key"):
        esp.merge("insert-missing", tables=["notes"])
    [found] = [one for one in esp.merge("overwrite").tables if one.name == "notes"]
    assert (found.only_in_database, found.written) == (1, 0)
    assert "no primary key" in found.notes[0]
    esp.run("CREATE TABLE k (code TEXT PRIMARY KEY, v); INSERT INTO k VALUES (NULL, 1), (NULL, 2)")
    esp.snapshot = snapshot(esp.store, esp.url)
    with pytest.raises(UsageError, match="rows have no value in the primary key"):
        esp.merge("insert-missing", tables=["k"])


# Consent, and what sends ----------------------------------------------------------------------------------------

STATUSES = st.sampled_from(["enabled", "disabled", "blocklisted", "odd"])
ON_LIST = st.sampled_from(["confirmed", "unconfirmed", "unsubscribed"])
BOUNCE = st.sampled_from(["soft", "hard", "complaint"])
STATES = st.fixed_dictionaries(
    {
        "subscribers": st.dictionaries(st.integers(1, 5), STATUSES),
        "subscriber_lists": st.dictionaries(st.integers(1, 5), ON_LIST),
        "bounces": st.dictionaries(st.integers(1, 5), BOUNCE),
    }
)
STRICTNESS = {
    "subscribers": {"enabled": 0, "odd": 0.5, "disabled": 1, "blocklisted": 2},
    "subscriber_lists": {"confirmed": 0, "unconfirmed": 1, "unsubscribed": 2},
    "bounces": {"soft": 0, "hard": 1, "complaint": 2},
}


def set_state(path: Path, state: dict[str, dict[int, str]]) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for table in STRICTNESS:
            connection.execute(f"DELETE FROM {table}")
        for one, status in state["subscribers"].items():
            connection.execute(
                "INSERT INTO subscribers VALUES (?, ?, ?, ?)", (one, f"u{one}", f"e{one}", status)
            )
        for one, status in state["subscriber_lists"].items():
            connection.execute("INSERT INTO subscriber_lists VALUES (?, 1, ?)", (one, status))
        for one, kind in state["bounces"].items():
            connection.execute("INSERT INTO bounces VALUES (?, ?, ?)", (one, one, kind))
        connection.commit()


def check_consent(
    folder: Path, key: SigningKey, then: dict[str, dict[int, str]], now: dict[str, dict[int, str]], mode: str
) -> None:
    store = Store.open(str(folder / "store"), signing_key=key, create=True)
    live = Live(folder, store, ESP.replace(" REFERENCES subscribers", "").replace(" REFERENCES lists", ""))
    set_state(live.path, then)
    live.snapshot = snapshot(store, live.url)
    set_state(live.path, now)
    live.merge(mode, mapping="listmonk")
    for table, ranks in STRICTNESS.items():
        key_column, status = ("id", "status") if table == "subscribers" else ("subscriber_id", "status")
        status = "type" if table == "bounces" else status
        result = dict(live.rows(f"SELECT {key_column}, {status} FROM {table}"))
        assert result.keys() == then[table].keys() | now[table].keys()
        for one, found in result.items():
            both = [state[table][one] for state in (then, now) if one in state[table]]
            assert ranks[found] == max(ranks[status] for status in both)


@settings(max_examples=25)
@given(STATES, STATES, st.sampled_from(["insert-missing", "overwrite"]))
def test_no_mode_makes_a_consent_looser_than_it_was_saved_or_is(
    tmp_path_factory: pytest.TempPathFactory, key: SigningKey, then: Any, now: Any, mode: str
) -> None:
    check_consent(tmp_path_factory.mktemp("consent"), key, then, now, mode)


@pytest.mark.slow
@settings(max_examples=500)
@given(STATES, STATES, st.sampled_from(["insert-missing", "overwrite"]))
def test_no_mode_makes_a_consent_looser_in_hundreds_of_cases(
    tmp_path_factory: pytest.TempPathFactory, key: SigningKey, then: Any, now: Any, mode: str
) -> None:
    check_consent(tmp_path_factory.mktemp("consent"), key, then, now, mode)


def test_the_stricter_status_wins_in_a_row_that_is_not_to_be_overwritten(esp: Live) -> None:
    esp.run("UPDATE subscribers SET status = 'enabled', email = 'kept@x.example' WHERE id = 2")
    found = esp.merge("insert-missing", mapping="listmonk")
    assert esp.rows("SELECT email, status FROM subscribers WHERE id = 2") == [
        ("kept@x.example", "blocklisted")
    ]
    assert {one.name: one.restricted for one in found.tables}["subscribers"] == 1


WISHES = st.dictionaries(
    st.integers(1, 6),
    st.tuples(st.integers(1, 2), st.sampled_from(["subscribe", "unsubscribe"]), st.integers(1, 3)),
)


@settings(max_examples=25)
@example({1: (1, "subscribe", 3)}, {1}, {1: (1, "unsubscribe", 1)}, "insert-missing")
@given(WISHES, st.sets(st.integers(1, 6)), WISHES, st.sampled_from(["insert-missing", "overwrite"]))
def test_nobody_who_has_opted_out_is_opted_in_again_by_a_lost_wish(
    tmp_path_factory: pytest.TempPathFactory, key: SigningKey, saved: Any, lost: set[int], new: Any, mode: str
) -> None:
    folder = tmp_path_factory.mktemp("wishes")
    shop = Live(folder, Store.open(str(folder / "store"), signing_key=key, create=True), SHOP)

    def write(wishes: Any, offset: int) -> None:
        with closing(sqlite3.connect(shop.path)) as connection:
            connection.executemany(
                "INSERT INTO consent_requests VALUES (?, ?, ?, ?)",
                [(n + offset, who, kind, f"2011-11-{at:02}") for n, (who, kind, at) in wishes.items()],
            )
            connection.commit()

    def opted_out() -> set[int]:
        latest: dict[int, tuple[Any, ...]] = {}
        for who, kind, at in shop.rows("SELECT customer_id, kind, requested_at FROM consent_requests"):
            latest[who] = max(latest.get(who, ("", False)), (at, kind == "unsubscribe"))
        return {who for who, (_, out) in latest.items() if out}

    write(saved, 0)
    shop.snapshot = snapshot(shop.store, shop.url)
    with closing(sqlite3.connect(shop.path)) as connection:
        connection.executemany("DELETE FROM consent_requests WHERE request_id = ?", [(one,) for one in lost])
        connection.commit()
    write(new, 100)
    before = opted_out()
    shop.merge(mode, mapping="shop")
    assert opted_out() >= before
    unsubscribed = {n for n, (_, kind, _) in saved.items() if kind == "unsubscribe"}
    assert {row[0] for row in shop.rows("SELECT request_id FROM consent_requests")} >= unsubscribed


def test_a_person_whose_id_stands_for_somebody_else_is_left_alone_with_all_rows(esp: Live) -> None:
    esp.run("INSERT INTO lists VALUES (1, 'news'); UPDATE subscribers SET uuid = 'other' WHERE id = 3")
    found = {one.name: one for one in esp.merge("overwrite", mapping="listmonk").tables}
    assert found["subscribers"].notes == ("1 row (3) of somebody else in the database: left alone",)
    assert esp.rows("SELECT uuid FROM subscribers WHERE id = 3") == [("other",)]
    assert esp.rows("SELECT subscriber_id FROM subscriber_lists WHERE list_id = 1 ORDER BY 1") == [(1,), (2,)]
    assert "(3/1)" in found["subscriber_lists"].notes[0]
    only = esp.merge("overwrite", mapping="listmonk", tables=["subscriber_lists"])
    assert not any(one.written for one in only.tables), "also where the persons themselves are not restored"


def test_a_campaign_never_comes_back_able_to_send_and_one_that_sends_now_is_left_alone(esp: Live) -> None:
    esp.run(
        "DELETE FROM campaigns WHERE id IN (1, 2); "
        "UPDATE campaigns SET name = 'sent', status = 'finished' WHERE id = 3;"
        "UPDATE campaigns SET name = 'x', status = 'running' WHERE id = 4;"
    )
    found = {one.name: one for one in esp.merge("overwrite", mapping="listmonk").tables}["campaigns"]
    assert esp.rows("SELECT * FROM campaigns ORDER BY id") == [
        (1, "a", "paused"), (2, "b", "draft"), (3, "c", "finished"), (4, "x", "running"),
    ]  # fmt: skip
    assert any("(4) sending or scheduled" in note for note in found.notes)


def test_a_status_that_is_no_text_is_refused(esp: Live) -> None:
    esp.run("UPDATE subscribers SET status = X'00' WHERE id = 1")
    with pytest.raises(SnapshotError, match="which value is stricter"):
        esp.merge("overwrite", mapping="listmonk")


# What must not happen -------------------------------------------------------------------------------------------


def test_a_row_whose_parent_is_not_there_is_refused_and_nothing_is_kept(esp: Live) -> None:
    esp.run("INSERT INTO subscriber_lists VALUES (77, 2, 'confirmed')")  # broken before: not our doing
    before = dump(esp.path)
    with pytest.raises(SourceError, match="subscriber_lists names a row of lists that"):
        esp.merge("insert-missing", tables=["subscriber_lists"])
    assert dump(esp.path) == before
    esp.merge("insert-missing")


def test_a_unique_value_that_another_row_has_now_is_refused_without_being_told(esp: Live) -> None:
    esp.run("DELETE FROM subscribers WHERE id = 3; UPDATE subscribers SET email = 'c@x.example' WHERE id = 9")
    before = dump(esp.path)
    with pytest.raises(SourceError, match=r"subscribers\.email") as refused:
        esp.merge("insert-missing", tables=["subscribers"])
    assert "c@x.example" not in str(refused.value)
    assert dump(esp.path) == before


@pytest.mark.parametrize(
    "trigger",
    [
        "CREATE TRIGGER t AFTER INSERT ON lists BEGIN UPDATE lists SET name = upper(name) WHERE id = new.id; END",
        "CREATE TRIGGER t AFTER INSERT ON lists BEGIN UPDATE lists SET name = 'x' WHERE id = 2; END",
        "DELETE FROM subscriber_lists;"
        "CREATE TRIGGER t AFTER INSERT ON lists BEGIN DELETE FROM lists WHERE id = 2; END",
        "CREATE TRIGGER t AFTER INSERT ON lists WHEN new.id < 50 BEGIN INSERT INTO lists VALUES (50, 'x'); END",
    ],
)
def test_a_database_that_makes_something_else_of_it_keeps_nothing(esp: Live, trigger: str) -> None:
    esp.run(trigger)
    before = dump(esp.path)
    with pytest.raises(NotGivenBack, match="1 table: lists"):
        esp.merge("insert-missing", tables=["lists"])
    assert dump(esp.path) == before


def test_columns_that_only_one_side_has_are_named_and_left_alone(esp: Live) -> None:
    esp.run(
        "ALTER TABLE lists DROP COLUMN name; ALTER TABLE lists ADD COLUMN kind TEXT DEFAULT 'k';"
        "UPDATE lists SET kind = 'mine'"
    )
    found = {one.name: one for one in esp.merge("overwrite").tables}["lists"]
    assert found.notes == ("column name is not in the database", "column kind is not in the snapshot")
    assert esp.rows("SELECT * FROM lists ORDER BY id") == [(1, "k"), (2, "mine")]


# Against a model ------------------------------------------------------------------------------------------------

VALUES = st.one_of(
    st.none(),
    st.integers(-3, 3),
    st.sampled_from([2**62, 0.5, -0.0, 1e300, float("inf")]),
    st.sampled_from(["", "a", "é'\"\\", "5", "1.50", "0.5"]),
    st.binary(max_size=2),
    st.sampled_from(
        ["2011-11-16", "2011-11-16 07:00:00", "2011-11-16T07:00:00", "2011-11-16 07:00:00.5",
         "2011-11-16 07:00:00.500000",
         "2011-11-16 07:00:00.000000", "07:00:00", "infinity"]
    ),
)  # fmt: skip
DECLARED = st.sampled_from(
    ["INTEGER", "BOOLEAN", "NUMERIC(9,3)", "REAL", "TEXT", "BLOB", "TIMESTAMP", "DATE", ""]
)
KEYS = st.one_of(st.integers(-2, 5), st.sampled_from(["a", "A", "a/b", "'", "x,y"]))


def stored(path: Path) -> dict[Any, Any]:
    """Every row of `t` by key, the value with its storage class."""
    return {
        row[0]: row[1:]
        for row in rows(path, "SELECT hex(k) || typeof(k), typeof(v), hex(v), quote(v) FROM t")
    }


def check_model(
    folder: Path, key: SigningKey, then: dict[Any, Any], now: dict[Any, Any], declared: str, mode: str
) -> None:
    store = Store.open(str(folder / "store"), signing_key=key, create=True)
    path = folder / "live.db"

    def fill(content: dict[Any, Any]) -> dict[Any, Any]:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("DELETE FROM t")
            connection.executemany("INSERT INTO t (k, v) VALUES (?, ?)", list(content.items()))
            connection.commit()
        return stored(path)

    script(path, f"CREATE TABLE t (k NOT NULL PRIMARY KEY, v {declared}, twice AS (v || v)) WITHOUT ROWID")
    saved = fill(then)
    name = snapshot(store, f"sqlite:///{path}")
    before = fill(now)
    target = open_target(f"sqlite:///{path}")
    found = merge(store, name, target, folder / "dry", clock=SystemClock(), mode=mode, apply=False)  # type: ignore[arg-type]
    assert stored(path) == before
    shared = saved.keys() & before.keys()
    assert (
        found.tables[0].only_in_snapshot,
        found.tables[0].only_in_database,
        found.tables[0].different,
    ) == (
        len(saved.keys() - shared),
        len(before.keys() - shared),
        sum(saved[one] != before[one] for one in shared),
    )
    merge(store, name, target, folder / "real", clock=SystemClock(), mode=mode, apply=True)  # type: ignore[arg-type]
    assert stored(path) == (saved | before if mode == "insert-missing" else before | saved)


MODES = st.sampled_from(["insert-missing", "overwrite"])


@settings(max_examples=40)
@given(st.dictionaries(KEYS, VALUES, max_size=6), st.dictionaries(KEYS, VALUES, max_size=6), DECLARED, MODES)
def test_sqlite_holds_afterwards_what_a_model_says(
    tmp_path_factory: pytest.TempPathFactory, key: SigningKey, then: Any, now: Any, declared: str, mode: str
) -> None:
    check_model(tmp_path_factory.mktemp("model"), key, then, now, declared, mode)


@pytest.mark.slow
@settings(max_examples=1500)
@given(st.dictionaries(KEYS, VALUES, max_size=6), st.dictionaries(KEYS, VALUES, max_size=6), DECLARED, MODES)
def test_sqlite_holds_what_a_model_says_in_more_than_a_thousand_cases(
    tmp_path_factory: pytest.TempPathFactory, key: SigningKey, then: Any, now: Any, declared: str, mode: str
) -> None:
    check_model(tmp_path_factory.mktemp("model"), key, then, now, declared, mode)


# PostgreSQL -----------------------------------------------------------------------------------------------------

TABLES = """
CREATE TYPE mood AS ENUM ('so so', 'it''s', 'fine');
CREATE DOMAIN small AS integer CHECK (value < 100);
CREATE TABLE parents (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, code text UNIQUE, feeling mood,
    price numeric(9,2), tax numeric GENERATED ALWAYS AS (price * 0.2) STORED, n small, doc jsonb, raw json,
    at timestamptz, day date, span interval, tags text[], photo bytea, real real, any_ numeric);
CREATE TABLE "Kids ""x" (id serial, parent bigint NOT NULL REFERENCES parents ON DELETE CASCADE,
    up int, PRIMARY KEY (id));
ALTER TABLE "Kids ""x" ADD FOREIGN KEY (up) REFERENCES "Kids ""x";
CREATE TABLE events (id bigint, at date NOT NULL, what text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE events_2011 PARTITION OF events FOR VALUES FROM ('2011-01-01') TO ('2012-01-01');
INSERT INTO parents (code, feeling, price, n, doc, raw, at, day, span, tags, photo, real, any_)
    SELECT 'c' || n, (ARRAY['so so', 'it''s', 'fine', NULL])[n]::mood, n / 8.0, n, '{"b": 1.10, "a": [1e2]}',
        '{"b":  1, "b": 2 }', '2011-11-16 07:00:00.5+02', 'infinity', '1 mon -2 days 3.5 s',
        ARRAY['a,b', NULL, '"'], '\\x00ff5c', 0.1, 'NaN' FROM generate_series(1, 4) n;
INSERT INTO "Kids ""x" (parent, up) VALUES (1, NULL), (2, 1), (2, 2);
INSERT INTO events VALUES (1, '2011-11-16', 'a'), (2, '2011-11-17', 'b');
"""


@pytest.fixture
def server(store: Store, tmp_path: Path, new_database: Callable[[], str]) -> Live:
    """A small PostgreSQL database as it was saved."""
    return Live(tmp_path, store, TABLES.replace("\\\\x", "\\x"), new_database())


EVERYTHING = (
    "SELECT p::text FROM parents p ORDER BY id",
    'SELECT k::text FROM "Kids ""x" k ORDER BY id',
    "SELECT e::text FROM events e ORDER BY id",
)


@pytest.mark.integration
def test_postgresql_gets_back_every_type_with_its_own_numbers_and_sequences_go_on(server: Live) -> None:
    saved = [server.rows(query) for query in EVERYTHING]
    server.run(
        'DELETE FROM "Kids ""x"; DELETE FROM parents WHERE id IN (3, 4); DELETE FROM events WHERE id = 1;'
        "UPDATE parents SET price = 7, doc = '{}', raw = '{}', at = now(), day = '2011-01-01', span = '1 s',"
        " tags = NULL, feeling = 'fine', photo = NULL, real = 1, any_ = 1.50 WHERE id = 1;"
        "UPDATE events SET what = 'x' WHERE id = 2;"
        'ALTER TABLE parents ALTER COLUMN id RESTART WITH 3; SELECT setval(\'"Kids ""x_id_seq"\', 50)'
    )
    found = server.merge("overwrite", apply=False)
    assert told(found)["parents"][:3] == (2, 0, 1)
    assert set(told(found)["parents"][3]) == {
        "price", "doc", "raw", "at", "day", "span", "tags", "feeling", "photo", "real", "any_",
    }  # fmt: skip
    server.merge("overwrite")
    assert [server.rows(query) for query in EVERYTHING] == saved
    server.run('INSERT INTO parents (code) VALUES (\'new\'); INSERT INTO "Kids ""x" (parent) VALUES (1)')
    assert server.rows("SELECT max(id) FROM parents") == [(5,)]
    assert server.rows('SELECT max(id) FROM "Kids ""x"') == [(51,)], "a sequence never goes back"


@pytest.mark.integration
def test_postgresql_refuses_what_its_keys_refuse_and_keeps_nothing(server: Live) -> None:
    server.run("DELETE FROM parents WHERE id = 2")
    before = [server.rows(query) for query in EVERYTHING]
    with pytest.raises(SourceError, match=r"refused a row: .*foreign key"):
        server.merge("insert-missing", tables=['Kids "x'])
    server.run("UPDATE parents SET code = 'c2' WHERE id = 4")
    with pytest.raises(SourceError, match=r"refused a row: .*unique"):
        server.merge("insert-missing", tables=["parents"])
    server.run("UPDATE parents SET code = 'c4' WHERE id = 4")
    assert [server.rows(query) for query in EVERYTHING] == before
    server.merge("insert-missing")
    assert server.rows('SELECT count(*) FROM "Kids ""x"') == [(3,)]


@pytest.mark.integration
def test_a_trigger_of_postgresql_finds_its_own_tables_and_may_not_change_what_is_written(
    server: Live,
) -> None:
    server.run(
        "CREATE TABLE audit (what text); CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN INSERT INTO audit VALUES ('x'); RETURN new; END$$;"
        "CREATE TRIGGER t BEFORE INSERT ON events_2011 FOR EACH ROW EXECUTE FUNCTION noted();"
        "DELETE FROM events WHERE id = 1"
    )
    server.merge("insert-missing", tables=["events"])
    assert server.rows("SELECT count(*) FROM audit") == [(1,)]
    server.run(
        "DELETE FROM events WHERE id = 1; CREATE OR REPLACE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN new.what = 'changed'; RETURN new; END$$"
    )
    with pytest.raises(NotGivenBack, match="1 table: events"):
        server.merge("insert-missing", tables=["events"])
    assert server.rows("SELECT id FROM events") == [(2,)]


@pytest.mark.integration
def test_a_restore_that_postgresql_takes_back_leaves_a_gap_in_the_numbers_and_no_more(server: Live) -> None:
    server.run(
        "DELETE FROM parents WHERE id IN (3, 4); ALTER TABLE parents ALTER COLUMN id RESTART WITH 3;"
        "CREATE FUNCTION loud() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN new.day = '2000-01-01'; RETURN new; END$$;"
        "CREATE TRIGGER t BEFORE INSERT ON parents FOR EACH ROW EXECUTE FUNCTION loud()"
    )
    before = [server.rows(query) for query in EVERYTHING]
    with pytest.raises(NotGivenBack, match="1 table: parents"):
        server.merge("insert-missing")
    assert [server.rows(query) for query in EVERYTHING] == before
    server.run("DROP TRIGGER t ON parents; INSERT INTO parents (code) VALUES ('new')")
    assert server.rows("SELECT id FROM parents WHERE code = 'new'") == [(5,)], "3 and 4 are given to nobody"
    server.merge("insert-missing")
    assert server.rows("SELECT array_agg(id ORDER BY id) FROM parents WHERE id > 2") == [([3, 4, 5],)]


@pytest.mark.integration
def test_others_read_while_it_is_applied_and_a_dry_run_needs_no_right_to_write(server: Live) -> None:
    server.run(
        "DELETE FROM events WHERE id = 1; CREATE ROLE reader_only LOGIN;"
        " GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader_only"
    )
    url = sa.make_url(server.url).set(username="reader_only").render_as_string(hide_password=False)
    found = server.merge("insert-missing", apply=False, into=url, tables=["events"])
    assert told(found)["events"][0] == 1
    with pytest.raises(SourceError, match="permission denied"):
        server.merge("insert-missing", into=url, tables=["events"])
    with open_target(server.url).live(SystemClock(), ["events"], write=True):
        assert server.rows("SELECT id FROM events") == [(2,)]
    server.run("DROP OWNED BY reader_only; DROP ROLE reader_only")


PG_TYPES = {
    "int": st.integers(-5, 5),
    "bigint": st.sampled_from([0, 2**62]),
    "text": st.sampled_from(["", "a", "é'\\", "NULL", "\t"]),
    "numeric": st.sampled_from(["1.50", "1.5", "NaN", "-0.000001"]),
    "numeric(9,3)": st.sampled_from(["1.500", "0.001", "NaN"]),
    "timestamp": st.sampled_from(
        ["2011-11-16 07:00:00", "2011-11-16 07:00:00.5", "infinity", "0044-03-15 BC"]
    ),
    "timestamptz": st.sampled_from(["2011-11-16 07:00:00+02", "-infinity"]),
    "date": st.sampled_from(["2011-11-16", "infinity"]),
    "time": st.sampled_from(["24:00", "00:00", "07:00:00.000001"]),
    "interval": st.sampled_from(["1 day", "24:00"]),
    "double precision": st.sampled_from(["NaN", "-0", "0.1", "Infinity"]),
    "bytea": st.sampled_from(["\\x", "\\x00ff"]),
    "jsonb": st.sampled_from(['{"a": 1.10}', "null", '{"b":[], "a":1e2}']),
    "int[]": st.sampled_from(["{}", "{1,NULL}", "[2:3]={1,2}"]),
    "boolean": st.booleans(),
}


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, dict[int, Any], dict[int, Any], str]:
    declared = draw(st.sampled_from(list(PG_TYPES)))
    side = st.dictionaries(st.integers(0, 6), st.one_of(st.none(), PG_TYPES[declared]), max_size=7)
    return declared, draw(side), draw(side), draw(MODES)


def check_postgresql_model(
    folder: Path, key: SigningKey, url: str, case: tuple[str, dict[int, Any], dict[int, Any], str]
) -> None:
    declared, then, now, mode = case
    store = Store.open(str(folder / "store"), signing_key=key, create=True)
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:

        def texts() -> dict[int, Any]:
            found = connection.exec_driver_sql("SELECT k, v::text, n FROM t")
            return {row[0]: tuple(row[1:]) for row in found}

        def fill(content: dict[int, Any]) -> dict[int, Any]:
            connection.exec_driver_sql("TRUNCATE t")
            for one, value in content.items():
                connection.exec_driver_sql(
                    f"INSERT INTO t (k, v) OVERRIDING SYSTEM VALUE VALUES (%s, %s::text::{declared})",
                    (one, None if value is None else str(value)),
                )
            return texts()

        connection.exec_driver_sql("DROP TABLE IF EXISTS t")
        connection.exec_driver_sql(
            f"CREATE TABLE t (k int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v {declared},"
            " n int GENERATED ALWAYS AS (k * 2) STORED)"
        )
        saved = fill(then)
        name = snapshot(store, url)
        before = fill(now)
        for apply in (False, True):
            found = merge(
                store,
                name,
                open_target(url),
                folder / str(apply),
                clock=SystemClock(),
                mode=mode,
                apply=apply,  # type: ignore[arg-type]
            )
            shared = saved.keys() & before.keys()
            assert found.tables[0].different == sum(saved[one] != before[one] for one in shared)
            after = saved | before if mode == "insert-missing" else before | saved
            assert texts() == (after if apply else before)
    engine.dispose()


@pytest.mark.integration
@settings(max_examples=40)
@given(cases())
def test_postgresql_holds_afterwards_what_a_model_says(
    tmp_path_factory: pytest.TempPathFactory, key: SigningKey, model_database: str, case: Any
) -> None:
    check_postgresql_model(tmp_path_factory.mktemp("model"), key, model_database, case)


@pytest.mark.integration
@pytest.mark.slow
@settings(max_examples=500)
@given(cases())
def test_postgresql_holds_what_a_model_says_in_hundreds_of_cases(
    tmp_path_factory: pytest.TempPathFactory, key: SigningKey, model_database: str, case: Any
) -> None:
    check_postgresql_model(tmp_path_factory.mktemp("model"), key, model_database, case)


@pytest.fixture(scope="module")
def model_database(postgres_server: str) -> Iterator[str]:
    engine = sa.create_engine(postgres_server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE DATABASE live_model")
        yield sa.make_url(postgres_server).set(database="live_model").render_as_string(hide_password=False)
        connection.exec_driver_sql("DROP DATABASE live_model WITH (FORCE)")
    engine.dispose()


# From one kind of database to the other -------------------------------------------------------------------------

PLAIN = (
    "CREATE TABLE t (id {int} PRIMARY KEY, name {text}, price numeric(9,2), at timestamp, day date, ok boolean,"
    " doc {json}, photo {bytes}, f {float}, u {uuid})"
)
POSTGRESQL = {
    "int": "int",
    "text": "varchar(20)",
    "json": "jsonb",
    "bytes": "bytea",
    "float": "double precision",
    "uuid": "uuid",
}
SQLITE = {"int": "INTEGER", "text": "TEXT", "json": "JSON", "bytes": "BLOB", "float": "REAL", "uuid": "TEXT"}
FILLED = (
    "INSERT INTO t VALUES (1, 'é''', 0.3, '2011-11-16 07:00:00.500000', '2011-11-16', true, '{\"a\":1.10}', {photo},"
    " 0.1, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'),"
    " (2, NULL, 12, '2011-11-16 08:00:00.000000', NULL, false, NULL, NULL, NULL, NULL)"
)


@pytest.mark.integration
@pytest.mark.parametrize("origin", ["sqlite", "postgresql"])
def test_a_snapshot_of_one_kind_goes_into_a_database_in_use_of_the_other(
    store: Store, tmp_path: Path, new_database: Callable[[], str], origin: str
) -> None:
    databases = {
        "sqlite": Live(
            tmp_path, store, PLAIN.format_map(SQLITE) + ";" + FILLED.replace("{photo}", "X'00ff'")
        ),
        "postgresql": Live(
            tmp_path,
            store,
            PLAIN.format_map(POSTGRESQL) + ";" + FILLED.replace("{photo}", "'\\x00ff'"),
            new_database(),
        ),
    }
    source = databases.pop(origin)
    [target] = databases.values()
    assert told(source.merge("overwrite", into=target.url, apply=False))["t"] == (0, 0, 0, {}, 0, 0)
    query = (
        "SELECT id, name, price, CAST(at AS {text}), day, ok, f, CAST(u AS {text}) FROM t ORDER BY id".format(
            text="VARCHAR(40)"
        )
    )
    before = target.rows(query)
    target.run(
        "DELETE FROM t WHERE id = 2; UPDATE t SET price = 1, at = NULL, doc = NULL, f = 5,"
        " u = '00000000-0000-0000-0000-000000000000' WHERE id = 1"
    )
    found = source.merge("overwrite", into=target.url)
    assert told(found)["t"] == (1, 0, 1, {"price": 1, "at": 1, "doc": 1, "f": 1, "u": 1}, 1, 1)
    assert target.rows(query) == before


@pytest.mark.integration
def test_a_value_that_the_other_kind_cannot_hold_is_refused_by_column(
    store: Store, tmp_path: Path, new_database: Callable[[], str]
) -> None:
    source = Live(
        tmp_path,
        store,
        f"CREATE TABLE t (id INTEGER PRIMARY KEY, v INTEGER); INSERT INTO t VALUES (1, {2**40})",
    )
    target = Live(tmp_path, store, "CREATE TABLE t (id int PRIMARY KEY, v int)", new_database())
    with pytest.raises(SourceError, match=r"INTEGER cannot be written as integer \(t.v\)"):
        source.merge("insert-missing", into=target.url)
    assert target.rows("SELECT * FROM t") == []


# Kills ----------------------------------------------------------------------------------------------------------

POINTS = {
    "live.compared": False,
    "live.written": False,
    "live.written#2": False,
    "live.written#3": False,
    "live.checked": False,
    "live.committed": True,
}
MERGE = """
import sys; from pathlib import Path; from tasks.core import SystemClock; from tasks.snapshots import merge, open_store
from tasks.sources import open_target
store, key, name, url, folder = sys.argv[1:]
merge(open_store(store, signing_key=key), name, open_target(url), Path(folder), clock=SystemClock(), mode="overwrite",
      apply=True, mapping="listmonk")
"""


@pytest.mark.kill
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def test_a_killed_restore_leaves_a_database_in_use_as_before_or_as_after(
    request: pytest.FixtureRequest, store: Store, key: SigningKey, tmp_path: Path, kind: str, point: str
) -> None:
    url = request.getfixturevalue("new_database")() if kind == "postgresql" else ""
    live = Live(tmp_path, store, ESP.replace("TEXT UNIQUE", "TEXT"), url)
    live.run(
        "DELETE FROM subscriber_lists; DELETE FROM lists WHERE id = 1;"
        "UPDATE campaigns SET name = 'x', status = 'draft';"
        "UPDATE subscribers SET email = 'x', status = 'blocklisted' WHERE id < 3"
    )
    queries = [
        f"SELECT * FROM {table} ORDER BY 1, 2"
        for table in ("subscribers", "lists", "subscriber_lists", "campaigns")
    ]
    before = [live.rows(query) for query in queries]
    (tmp_path / "key.pem").write_bytes(key_pem(key))
    killed = subprocess.run(
        [
            sys.executable,
            "-c",
            MERGE,
            store.url,
            str(tmp_path / "key.pem"),
            live.snapshot,
            live.url,
            str(tmp_path / "d"),
        ],
        env={**os.environ, "MAILSTAY_CRASH_AT": point},
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    left = [live.rows(query) for query in queries]
    if not POINTS[point]:
        assert left == before
    live.merge("overwrite", mapping="listmonk")
    after = [live.rows(query) for query in queries]
    assert after != before
    if POINTS[point]:
        assert left == after
