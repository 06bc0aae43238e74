"""A restore gives the database back as it was, value for value, or leaves the target as it found it."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core import DrivenClock, SystemClock, UsageError
from tasks.snapshots import (
    Damaged,
    Manifest,
    NotGivenBack,
    SigningKey,
    SnapshotError,
    Store,
    key_pem,
    restore,
    take_snapshot,
)
from tasks.sources import SourceError, TableFacts, open_source, open_target

Rows = list[tuple[Any, ...]]
SHOP = [
    "CREATE TABLE customers (id INTEGER PRIMARY KEY AUTOINCREMENT, email TEXT NOT NULL COLLATE NOCASE UNIQUE,"
    " joined TIMESTAMP, born DATE, opens TIME, vip BOOLEAN, doc JSON, photo BLOB, mixed, credit NUMERIC(9,2))",
    "CREATE TABLE orders (a TEXT, b INTEGER, customer INTEGER REFERENCES customers (id), total NUMERIC(9,2),"
    " twice GENERATED ALWAYS AS (total * 2) STORED, half GENERATED ALWAYS AS (total / 2), PRIMARY KEY (a, b))"
    " WITHOUT ROWID",
    "CREATE INDEX by_customer ON orders (customer) WHERE total > 0",
    "CREATE TABLE log (what TEXT)",
    "CREATE TRIGGER noted AFTER INSERT ON orders BEGIN INSERT INTO log VALUES ('order ' || new.a); END",
    'CREATE TABLE "Odd ""name; --" ("a.b" TEXT, "select" INTEGER, rowid TEXT)',
    "INSERT INTO customers (id, email, joined, born, opens, vip, doc, photo, mixed, credit) VALUES"
    " (7, 'a@shop.example', '2011-11-16 07:00:00', '1980-02-29', '09:30:00', 1, '{\"a\":[1,2.50]}', X'00ff', 1.5, 0.1),"
    " (9, 'ünï ''q''', '2011-11-16 07:00:00.000004', NULL, '23:59:59.000001', 0, NULL, X'', X'61', 12),"
    " (12, CAST(X'636166e9' AS TEXT), NULL, NULL, NULL, NULL, NULL, NULL, 'text', NULL)",
    "DELETE FROM customers WHERE id = 12 AND 0",
    "INSERT INTO orders (a, b, customer, total) VALUES ('x', 1, 7, 9.99), ('x', 2, 9, 5), ('y', 1, NULL, -3.5)",
    "INSERT INTO \"Odd \"\"name; --\" VALUES ('', 1, NULL), ('', 1, NULL), (NULL, NULL, 'r')",
    "DELETE FROM customers WHERE id = 12",
]


def built(path: Path, *statements: str) -> str:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    return f"sqlite:///{path}"


def stored(url: str) -> dict[str, Rows]:
    """Every value of every table of a SQLite file with its storage class, and the schema."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found: dict[str, Rows] = {
            "": connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY type, name").fetchall()
        }
        for name in names:
            table = '"' + name.replace('"', '""') + '"'
            columns = [
                '"' + row[1].replace('"', '""') + '"'
                for row in connection.execute(f"PRAGMA table_xinfo({table})")
            ]
            picked = ", ".join(
                f"typeof({one}), hex({one}), iif(typeof({one}) = 'real', printf('%!.17g', {one}), NULL)"
                for one in columns
            )
            found[name] = sorted(connection.execute(f"SELECT {picked} FROM {table}").fetchall(), key=str)
    return found


def snapshot(store: Store, url: str, name: str = "shop") -> str:
    manifest = take_snapshot(open_source(name, url), store, clock=SystemClock(), plan_digest="")
    store.mark(manifest.snapshot_id, "valid", findings=[], at=SystemClock().now(), by="test")
    return manifest.snapshot_id


def restored(store: Store, name: str, url: str, **options: Any) -> Any:
    return restore(store, name, open_target(url), clock=SystemClock(), **options)


def facts(url: str) -> dict[str, TableFacts]:
    with open_source("s", url).open(SystemClock()) as reader:
        return {one.name: one for one in reader.tables()}


# SQLite ---------------------------------------------------------------------------------------------------------


def test_a_sqlite_file_comes_back_value_for_value_with_its_schema(store: Store, tmp_path: Path) -> None:
    source = built(tmp_path / "shop.db", *SHOP)
    result = restored(store, snapshot(store, source), f"sqlite:///{tmp_path / 'back.db'}")
    assert result.equal
    assert result.rows == 2 + 3 + 3 + 3
    assert stored(f"sqlite:///{tmp_path / 'back.db'}") == stored(source)
    with closing(sqlite3.connect(tmp_path / "back.db")) as connection:
        new = connection.execute("INSERT INTO customers (email) VALUES ('new') RETURNING id").fetchone()
    assert new == (13,), "AUTOINCREMENT goes on where it stood: 12 was given already"


VALUES = st.lists(
    st.one_of(
        st.none(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False),
        st.text(st.characters(exclude_categories=["Cs"])),
        st.binary(),
        st.sampled_from(["2011-11-16", "2011-11-16T07:00:00.100000", "07:00:00", "1.50", "0012"]),
        st.dates().map(str),
        st.datetimes().map(lambda one: one.isoformat(" ")),
        st.datetimes().map(lambda one: one.isoformat(timespec="microseconds")),
        st.times().map(str),
    ),
    max_size=12,
)
DECLARED = st.sampled_from(
    ["INTEGER", "BOOLEAN", "NUMERIC(9,3)", "NUMERIC", "REAL", "TEXT", "BLOB", "DATE", "TIMESTAMP", "TIME", ""]
)


@settings(max_examples=80)
@given(VALUES, DECLARED)
def test_whatever_sqlite_holds_under_whatever_type_comes_back_with_its_storage_class(
    tmp_path_factory: pytest.TempPathFactory, key: SigningKey, values: list[Any], declared: str
) -> None:
    check_any(tmp_path_factory.mktemp("any"), key, values, declared)


@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
@pytest.mark.parametrize("declared", ["NUMERIC", "NUMERIC(9,3)", "REAL", "TEXT", "INTEGER"])
def test_infinity_comes_back_as_a_number(
    tmp_path: Path, key: SigningKey, value: float, declared: str
) -> None:
    check_any(tmp_path, key, [1, value, None], declared)


@pytest.mark.slow
@settings(max_examples=3000)
@given(VALUES, DECLARED)
def test_whatever_sqlite_holds_comes_back_in_thousands_of_cases(
    tmp_path_factory: pytest.TempPathFactory, key: SigningKey, values: list[Any], declared: str
) -> None:
    check_any(tmp_path_factory.mktemp("any"), key, values, declared)


def check_any(folder: Path, key: SigningKey, values: list[Any], declared: str) -> None:
    source = built(folder / "source.db", f"CREATE TABLE t (id INTEGER PRIMARY KEY, v {declared})")
    with closing(sqlite3.connect(folder / "source.db")) as connection:
        connection.executemany("INSERT INTO t VALUES (?, ?)", list(enumerate(values)))
        connection.commit()
    store = Store.open(str(folder / "store"), signing_key=key, create=True)
    try:
        name = snapshot(store, source)
    except SourceError as refused:
        assert "not UTF-8" in str(refused) or "represented" in str(refused)
        return
    restored(store, name, f"sqlite:///{folder / 'back.db'}")
    assert stored(f"sqlite:///{folder / 'back.db'}") == stored(source)


def test_only_some_tables_can_be_restored(store: Store, tmp_path: Path) -> None:
    name = snapshot(store, built(tmp_path / "shop.db", *SHOP))
    result = restored(store, name, f"sqlite:///{tmp_path / 'back.db'}", tables=["orders"])
    assert [one.name for one in result.tables] == ["orders"]
    with pytest.raises(UsageError, match="has no table 'order'"):
        restored(store, name, f"sqlite:///{tmp_path / 'other.db'}", tables=["order"])


# What must not happen -------------------------------------------------------------------------------------------


def test_a_snapshot_that_is_not_valid_is_not_restored_unless_asked_for(
    store: Store, taken: Callable[..., Manifest], tmp_path: Path
) -> None:
    name = taken(store).snapshot_id
    with pytest.raises(SnapshotError, match="committed: nothing proves"):
        restored(store, name, f"sqlite:///{tmp_path / 'back.db'}")
    assert restored(store, name, f"sqlite:///{tmp_path / 'back.db'}", unproven=True).state == "committed"


def test_a_database_that_holds_a_table_of_that_name_is_left_alone(store: Store, tmp_path: Path) -> None:
    name = snapshot(store, built(tmp_path / "shop.db", *SHOP))
    other = built(tmp_path / "other.db", "CREATE TABLE Log (x)", "INSERT INTO Log VALUES (1)")
    before = stored(other)
    with pytest.raises(SourceError, match="has a table 'log' already"):
        restored(store, name, other)
    assert stored(other) == before


def test_a_damaged_object_stops_it_and_nothing_is_kept(store: Store, tmp_path: Path) -> None:
    name = snapshot(store, built(tmp_path / "shop.db", *SHOP))
    assert store.storage.root is not None
    path = store.storage.root / store.manifest(name).tables["orders"].objects[0].path
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(Damaged, match="table orders"):
        restored(store, name, f"sqlite:///{tmp_path / 'back.db'}")
    assert stored(f"sqlite:///{tmp_path / 'back.db'}") == {"": []}


def test_a_database_that_gives_back_something_else_keeps_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A target that quietly changes a value, as a trigger or a faulty driver would."""
    from tasks.sources import sqlite_target

    name = snapshot(store, built(tmp_path / "shop.db", *SHOP))
    finish = sqlite_target._Writer.finish

    def meddling(self: Any, tables: Any) -> None:
        finish(self, tables)
        self._connection.execute("UPDATE orders SET total = total + 0.01 WHERE b = 2")

    monkeypatch.setattr(sqlite_target._Writer, "finish", meddling)
    with pytest.raises(SnapshotError, match="does not give back what was written to 1 table: orders"):
        restored(store, name, f"sqlite:///{tmp_path / 'back.db'}")
    assert stored(f"sqlite:///{tmp_path / 'back.db'}") == {"": []}


POINTS = {
    "restore.created": False,
    "restore.loaded#2": False,
    "restore.finished": False,
    "restore.compared": False,
    "restore.committed": True,
}


@pytest.mark.kill
@pytest.mark.parametrize("point", POINTS)
def test_a_killed_restore_leaves_an_empty_database_or_a_whole_one(
    store: Store, key: SigningKey, clock: DrivenClock, tmp_path: Path, point: str
) -> None:
    source = built(tmp_path / "shop.db", *SHOP)
    name = snapshot(store, source)
    target = f"sqlite:///{tmp_path / 'back.db'}"
    (tmp_path / "key.pem").write_bytes(key_pem(key))
    script = (
        "import sys; from tasks.core import SystemClock; from tasks.snapshots import open_store, restore;"
        "from tasks.sources import open_target;"
        "restore(open_store(sys.argv[1], signing_key=sys.argv[2]), sys.argv[3], open_target(sys.argv[4]),"
        " clock=SystemClock())"
    )
    killed = subprocess.run(
        [sys.executable, "-c", script, store.url, str(tmp_path / "key.pem"), name, target],
        env={**os.environ, "MAILSTAY_CRASH_AT": point},
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    if POINTS[point]:
        assert stored(target) == stored(source)
    else:
        assert stored(target) == {"": []}
        restored(store, name, target)
        assert stored(target) == stored(source)


CAMPAIGNS = [
    "CREATE TABLE campaigns (id INTEGER PRIMARY KEY, name TEXT, status TEXT, send_at TIMESTAMP)",
    "INSERT INTO campaigns VALUES (1, 'a', 'running', NULL), (2, 'b', 'scheduled', '2011-11-17 09:00:00'),"
    " (3, 'c', 'finished', NULL), (4, 'd', 'draft', NULL), (5, 'e', NULL, NULL)",
]


def test_a_campaign_never_comes_back_able_to_send(store: Store, tmp_path: Path) -> None:
    name = snapshot(store, built(tmp_path / "esp.db", *CAMPAIGNS), "esp")
    result = restored(store, name, f"sqlite:///{tmp_path / 'back.db'}", mapping="listmonk")
    assert [(one.name, one.disarmed) for one in result.tables] == [("campaigns", 2)]
    with closing(sqlite3.connect(tmp_path / "back.db")) as connection:
        assert connection.execute("SELECT status, send_at FROM campaigns ORDER BY id").fetchall() == [
            ("paused", None), ("draft", "2011-11-17 09:00:00"), ("finished", None), ("draft", None), (None, None),
        ]  # fmt: skip


# PostgreSQL -----------------------------------------------------------------------------------------------------

TYPES = {
    "smallint": "-32768", "integer": "7", "bigint": "9223372036854775807", "numeric(12,3)": "2.55",
    "numeric(50,2)": "1e40", "numeric": "'-1.1000'", "numeric(9,1)": "'NaN'", "double precision": "'-Infinity'",
    "real": "0.1", "boolean": "true", "text": r"E'na\u00efve ''q'' \\ \n \t ,\"'", "char(5)": "'ab'",
    "varchar(9)": "''", "bytea": r"'\x00ff5c'", "date": "'infinity'", "timestamp": "'-infinity'",
    "timestamptz": "'12011-01-01 00:00Z'", "time": "'24:00'", "timetz": "'01:02:03+02'",
    "interval": "'1 mon -2 days 3.5 s'", "money": "'12.50'", "integer[]": "'[2:3][1:2]={{1,2},{3,NULL}}'",
    "text[]": """'{"a,b",NULL,"c d","\\""}'""", "int4range": "'[1,5)'", "int4multirange": "'{[1,2),[4,5)}'",
    "inet": "'10.0.0.1/8'", "uuid": "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "jsonb": """'{"bb": 1.10, "a": [1e2]}'""",
    "json": """'{"b":  1, "b": 2 }'""", "bit varying": "B'101'", "point": "'(1,2.5)'",
    "tsvector": "'a:1 b:2'", "macaddr": "'08:00:2b:01:02:03'", "mood": "'so so'", "small": "4",
    "pair": """'(1,"a, b")'""", "mood[]": "'{fine,\"so so\"}'",
}  # fmt: skip


@pytest.fixture
def writer(new_database: Callable[[], str]) -> Iterator[sa.Connection]:
    engine = sa.create_engine(new_database(), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in (
            "CREATE TYPE mood AS ENUM ('so so', 'it''s', 'fine')",
            "CREATE DOMAIN small AS integer DEFAULT 3 NOT NULL CHECK (value < 10)",
            "CREATE TYPE pair AS (n integer, t text)",
        ):
            connection.exec_driver_sql(statement)
        yield connection
    engine.dispose()


def url_of(connection: sa.Connection) -> str:
    return connection.engine.url.render_as_string(hide_password=False)


def texts(url: str, *queries: str) -> list[Any]:
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        found = [connection.exec_driver_sql(query).fetchall() for query in queries]
    engine.dispose()
    return found


@pytest.mark.integration
def test_every_type_of_postgresql_comes_back_as_the_same_text(
    store: Store, writer: sa.Connection, new_database: Callable[[], str]
) -> None:
    columns = ", ".join(f"c{number} {name}" for number, name in enumerate(TYPES))
    writer.exec_driver_sql(f"CREATE TABLE t (id int PRIMARY KEY, {columns})".replace("%", "%%"))
    writer.exec_driver_sql(f"INSERT INTO t VALUES (1, {', '.join(TYPES.values())})".replace("%", "%%"))
    nothing = ", ".join("4" if name == "small" else "NULL" for name in TYPES)
    writer.exec_driver_sql(f"INSERT INTO t VALUES (2, {nothing})")
    source, target = url_of(writer), new_database()
    result = restored(store, snapshot(store, source), target)
    assert result.equal
    query = "SELECT t::text FROM t ORDER BY id"
    assert texts(target, query) == texts(source, query)
    assert facts(target) == facts(source)


@pytest.mark.integration
@pytest.mark.parametrize("compiled", [True, False])
def test_types_that_have_a_binary_form_come_back_at_their_limits(
    store: Store,
    writer: sa.Connection,
    new_database: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
    compiled: bool,
) -> None:
    if not compiled:
        monkeypatch.setattr("tasks.core.native.library", None)
    for statement in (
        "CREATE TYPE weather AS ENUM ('so so', 'fine')",
        "CREATE DOMAIN cents AS numeric(18,2)",
        "CREATE TABLE t (a smallint, b int PRIMARY KEY, c bigint, d real, e float8, f boolean, g text, h varchar(9),"
        " i char(4), j bytea, k uuid, l date, m timestamp, n timestamptz, o time, p numeric(18,18), q numeric(38,10),"
        " r jsonb, s json, u weather, v cents)",
        "INSERT INTO t VALUES (-32768, -2147483648, -9223372036854775808, '-0', 'NaN', true, '', 'ü', 'x', '',"
        " '00000000-0000-0000-0000-000000000000', '0001-01-01', '0001-01-01', '9999-12-31 23:59:59.999999Z', '0:00',"
        " 0.000000000000000001, -9999999999999999999999999999.9999999999, '{\"b\": 1.10}', '{\"b\" : 1.10 }', 'so so',"
        " -9999999999999999.99)",
        "INSERT INTO t VALUES (32767, 2147483647, 9223372036854775807, 'infinity', '-infinity', false,"
        " repeat('x', 99999), '', '', decode(repeat('00ff', 5000), 'hex'), 'ffffffff-ffff-ffff-ffff-ffffffffffff',"
        " '9999-12-31', '9999-12-31', '0001-01-01Z', '23:59:59.999999', -0.999999999999999999, 0,"
        " 'null', 'null', 'fine', 0)",
        "INSERT INTO t (b) VALUES (0)",
    ):
        writer.exec_driver_sql(statement)
    target = new_database()
    assert restored(store, snapshot(store, url_of(writer)), target).equal
    query = "SELECT t::text FROM t ORDER BY b"
    assert texts(target, query) == texts(url_of(writer), query)
    assert facts(target) == facts(url_of(writer))


@pytest.mark.integration
def test_a_postgresql_schema_comes_back_with_keys_sequences_partitions_and_comments(
    store: Store, writer: sa.Connection, new_database: Callable[[], str]
) -> None:
    for statement in (
        "CREATE SEQUENCE loose START 100 INCREMENT 5 CYCLE MAXVALUE 1000",
        "CREATE TABLE parents (id serial PRIMARY KEY, code text COLLATE \"C\" UNIQUE, n int DEFAULT nextval('loose'),"
        " feeling mood DEFAULT 'fine')",
        'CREATE TABLE "Kids %% ""x" (id bigint GENERATED ALWAYS AS IDENTITY (START 7 INCREMENT 3) PRIMARY KEY,'
        " parent int NOT NULL REFERENCES parents ON DELETE CASCADE, price numeric(9,2) CHECK (price > 0),"
        " tax numeric GENERATED ALWAYS AS (price * 0.2) STORED,"
        " EXCLUDE USING gist (int4range(parent, parent + 1) WITH &&))",
        "CREATE TABLE events (id bigint, at date NOT NULL, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)",
        "CREATE TABLE events_2011 PARTITION OF events FOR VALUES FROM ('2011-01-01') TO ('2012-01-01')"
        " PARTITION BY LIST (id)",
        "CREATE TABLE events_2011_a PARTITION OF events_2011 DEFAULT",
        "CREATE TABLE empty ()",
        "CREATE INDEX by_feeling ON parents (lower(code) DESC) WHERE n > 0",
        "COMMENT ON TABLE parents IS 'it''s a \\ table'",
        "COMMENT ON COLUMN parents.code IS 'the code'",
        "CREATE VIEW seen AS SELECT id FROM parents",
        "INSERT INTO parents (code) VALUES ('b'), ('A'), (NULL)",
        'INSERT INTO "Kids %% ""x" (parent, price) VALUES (1, 9.99), (2, 5)',
        "INSERT INTO events VALUES (1, '2011-11-16'), (2, '2011-11-17')",
    ):
        writer.exec_driver_sql(statement)
    source, target = url_of(writer), new_database()
    result = restored(store, snapshot(store, source), target)
    lost = {one.name: one.lost for one in result.tables}
    assert lost["parents"] == ("view public.seen",)
    expected = facts(source)
    found = facts(target)
    assert {name: one.lost for name, one in found.items() if one.lost} == {}
    assert found == {name: replace(one, lost=()) for name, one in expected.items()}
    new = texts(
        target,
        'INSERT INTO "Kids %% ""x" (parent, price) VALUES (3, 1) RETURNING id, tax',
        "INSERT INTO parents (code) VALUES ('z') RETURNING id, n",
        "SELECT tableoid::regclass::text, id FROM events ORDER BY id",
    )
    assert new == [
        [(13, sa.Numeric().python_type("0.200"))],
        [(4, 115)],
        [("events_2011_a", 1), ("events_2011_a", 2)],
    ]


@pytest.mark.integration
def test_a_restore_that_fails_half_way_leaves_postgresql_as_it_was(
    store: Store, writer: sa.Connection, new_database: Callable[[], str]
) -> None:
    writer.exec_driver_sql("CREATE TABLE a (id int PRIMARY KEY)")
    writer.exec_driver_sql("CREATE TABLE b (id int PRIMARY KEY, v text)")
    writer.exec_driver_sql("INSERT INTO b VALUES (1, 'x')")
    name = snapshot(store, url_of(writer))
    target = new_database()
    texts(target, "SELECT 1")
    engine = sa.create_engine(target, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE b (something text)")
    with pytest.raises(SourceError, match="has a table 'b' already"):
        restored(store, name, target)
    assert set(facts(target)) == {"b"}
    engine.dispose()


@pytest.mark.integration
def test_a_part_of_the_tables_comes_without_foreign_keys_to_the_others_and_says_so(
    store: Store, writer: sa.Connection, new_database: Callable[[], str]
) -> None:
    writer.exec_driver_sql("CREATE TABLE p (id int PRIMARY KEY)")
    writer.exec_driver_sql("CREATE TABLE k (id int PRIMARY KEY, p int REFERENCES p)")
    result = restored(store, snapshot(store, url_of(writer)), new_database(), tables=["k"])
    assert result.tables[0].lost == ("foreign keys: a table that they name was left out",)


# From one kind of database to the other -------------------------------------------------------------------------


@pytest.mark.integration
def test_a_postgresql_snapshot_can_be_restored_into_sqlite_for_a_drill(
    store: Store, writer: sa.Connection, tmp_path: Path
) -> None:
    columns = ", ".join(f"c{number} {name}" for number, name in enumerate(TYPES))
    writer.exec_driver_sql(f"CREATE TABLE t (id int PRIMARY KEY, {columns})".replace("%", "%%"))
    writer.exec_driver_sql(f"INSERT INTO t VALUES (1, {', '.join(TYPES.values())})".replace("%", "%%"))
    writer.exec_driver_sql(
        "CREATE TABLE fits (id bigint PRIMARY KEY REFERENCES t, r real, f float8, n numeric(9,2), w numeric(38,10),"
        " d date, at timestamp, tz timestamptz, c time, b bytea, ok boolean, doc jsonb, k serial)"
    )
    writer.exec_driver_sql(
        "INSERT INTO fits VALUES (1, 0.1, 1e300, 0.30, 1234567890123456789.0123456789, '2011-11-16',"
        " '2011-11-16 07:00', '2011-11-16 07:00:00.000004+02', '23:59:59', '\\x00ff', false,"
        ' \'{"b": 1.10, "a": null}\')'
    )
    result = restored(store, snapshot(store, url_of(writer)), f"sqlite:///{tmp_path / 'drill.db'}")
    assert result.equal
    lost = {one.name: one.lost for one in result.tables}
    assert "foreign keys" in lost["fits"]
    assert "keys, indexes and sequence values of the source" in lost["fits"]


@pytest.mark.integration
def test_a_value_that_the_other_kind_of_database_cannot_hold_stops_the_restore(
    store: Store, writer: sa.Connection, tmp_path: Path
) -> None:
    writer.exec_driver_sql("CREATE TABLE t (id int PRIMARY KEY, f float8)")
    writer.exec_driver_sql("INSERT INTO t VALUES (1, 'NaN')")  # SQLite makes NULL of it
    with pytest.raises(NotGivenBack, match="1 table: t"):
        restored(store, snapshot(store, url_of(writer)), f"sqlite:///{tmp_path / 'drill.db'}")
    assert stored(f"sqlite:///{tmp_path / 'drill.db'}") == {"": []}


@pytest.mark.integration
def test_a_sqlite_snapshot_can_be_restored_into_postgresql(
    store: Store, tmp_path: Path, new_database: Callable[[], str]
) -> None:
    name = snapshot(store, built(tmp_path / "shop.db", *SHOP))
    target = new_database()
    result = restored(store, name, target)
    assert result.equal
    assert texts(target, "SELECT id, joined::text, vip FROM customers ORDER BY id")[0][0] == (
        7, "2011-11-16 07:00:00", True,
    )  # fmt: skip
    assert any("computed" in one for table in result.tables for one in table.lost)
