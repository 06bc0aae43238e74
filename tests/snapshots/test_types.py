"""Every type of PostgreSQL there and back; docs/reference/types.md is what this test found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import sqlalchemy as sa

from tasks.core import SystemClock
from tasks.snapshots import NotGivenBack, Store, arrow_schema, diff, restore, take_snapshot
from tasks.sources import open_source, open_target

pytestmark = pytest.mark.integration

PAGE = Path(__file__).resolve().parents[2] / "docs/reference/types.md"

# The type; values that it is made for; values at its edge, which may need the text of the whole column.
TYPES: list[tuple[str, list[str], list[str]]] = [
    ("smallint", ["-32768", "32767"], []),
    ("integer", ["-2147483648", "2147483647"], []),
    ("bigint", ["-9223372036854775808", "9223372036854775807"], []),
    ("numeric(12,2)", ["-9999999999.99", "0.10"], ["'NaN'"]),
    ("numeric(38,10)", ["1234567890123456789012345678.0123456789"], ["'NaN'"]),
    ("numeric(70,2)", ["1e60", "-0.01"], ["'NaN'"]),
    ("numeric", ["1.10", "1e-30", "1e120"], ["'NaN'", "'Infinity'"]),
    ("real", ["0.1", "'Infinity'"], ["'-0'", "'NaN'"]),
    ("double precision", ["1e-308", "'-Infinity'"], ["'-0'", "'NaN'"]),
    ("money", ["'-12.50'"], []),
    ("boolean", ["true", "false"], []),
    ("text", ["''", "E'na\\u00efve\\n\\t\"''\\\\'", "'NULL'"], []),
    ("varchar(9)", ["''", "'a b  '"], []),
    ("char(5)", ["'ab'"], []),
    ("bytea", ["''", "'\\x00ff5c'"], []),
    ("date", ["'0001-01-01'", "'9999-12-31'"], ["'infinity'", "'0044-03-15 BC'"]),
    ("timestamp", ["'2011-11-16 07:00:00.000004'"], ["'-infinity'", "'12011-01-01'"]),
    ("timestamptz", ["'2011-11-16 07:00:00.5+02'"], ["'infinity'", "'0044-03-15 BC'"]),
    ("time", ["'23:59:59.999999'"], ["'24:00'"]),
    ("timetz", ["'01:02:03+02'", "'24:00-07'"], []),
    ("interval", ["'1 mon -2 days 3.5 s'", "'-178000000 years'"], []),
    ("uuid", ["'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"], []),
    ("json", ['\'{"b":  1, "b": 2 }\'', "'null'"], []),
    ("jsonb", ['\'{"bb": 1.10, "a": [12345678901234567890.123]}\'', "'null'"], []),
    ("integer[]", ["'[2:3][1:2]={{1,2},{3,NULL}}'", "'{}'"], []),
    ("text[]", ['\'{"a,b",NULL,"c d",""}\''], []),
    ("int4range", ["'[1,5)'", "'empty'"], []),
    ("tstzmultirange", ["'{[2011-01-01,2011-01-02),[2012-01-01,)}'"], []),
    ("inet", ["'10.0.0.1/8'", "'::1'"], []),
    ("bit varying", ["B'101'", "B''"], []),
    ("point", ["'(1,2.5)'"], []),
    ("tsvector", ["'a:1 b:2'"], []),
    ("mood (an enum)", ["'so so'", "'it''s'"], []),
    ("small (a domain over integer)", ["4"], []),
    ("pair (a composite)", ["'(1,\"a, b\")'", "'(,)'"], []),
]
HEAD = """# PostgreSQL types

What became of each type when the test `tests/snapshots/test_types.py` backed it up on a real server and restored it:
into PostgreSQL, where every value must come back as the same text, and into SQLite, where it must read back as it was
written. NULL is among the values of every type. *Text* is PostgreSQL's own text of the value, recorded as a cast and
given back to the type's own input. A value at the edge of a type (infinity, NaN, a year after 9999, 24:00) makes its
whole column text.

Written by `pytest tests/snapshots/test_types.py --write-docs`.

| type | as | with an edge value | PostgreSQL again | SQLite |
|---|---|---|---|---|
"""


def test_every_type_comes_back_and_the_page_says_how(
    store: Store, new_database: Callable[[], str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source = new_database()
    tables: dict[str, list[str]] = {}
    statements = [
        "CREATE TYPE mood AS ENUM ('so so', 'it''s')",
        "CREATE DOMAIN small AS integer CHECK (value < 10)",
        "CREATE TYPE pair AS (n integer, t text)",
    ]
    for at, (declared, usual, edge) in enumerate(TYPES):
        for suffix, values in (("", usual), ("_edge", [*usual, *edge] if edge else [])):
            if values:
                name = f"t{at:02}{suffix}"
                tables[name] = values
                rows = ", ".join(f"({n}, {value})" for n, value in enumerate([*values, "NULL"]))
                statements += [
                    f"CREATE TABLE {name} (id int PRIMARY KEY, v {declared.partition(' (')[0]})",
                    f"INSERT INTO {name} VALUES {rows}",
                ]
    run(source, statements)
    manifest = take_snapshot(open_source("types", source), store, clock=SystemClock(), plan_digest="")
    assert set(manifest.tables) == set(tables)

    again = new_database()
    everything = [f"SELECT id, v::text FROM {name} ORDER BY id" for name in tables]
    with_facts = {
        "store": store,
        "snapshot_id": manifest.snapshot_id,
        "clock": SystemClock(),
        "unproven": True,
    }
    back = restore(target=open_target(again), **with_facts)
    same = [one == other for one, other in zip(run(again, everything), run(source, everything), strict=True)]
    in_postgresql = {one.name: one.equal and equal for one, equal in zip(back.tables, same, strict=True)}
    assert all(in_postgresql.values()), [name for name, equal in in_postgresql.items() if not equal]
    drill = f"sqlite:///{tmp_path / 'drill.db'}"
    refused = set()
    for name in tables:
        try:
            assert restore(target=open_target(drill), tables=[name], **with_facts).equal
        except NotGivenBack:
            refused.add(name)

    run(source, [f"UPDATE {name} SET v = NULL WHERE id = 0" for name in tables])
    second = take_snapshot(open_source("types", source), store, clock=SystemClock(), plan_digest="")
    changes = {
        one.name: (one.added, one.removed, one.changed, one.columns)
        for one in diff(store, manifest.snapshot_id, second.snapshot_id)
    }
    assert changes == dict.fromkeys(tables, (0, 0, 1, {"v": 1}))

    lines = []
    for at, (declared, usual, edge) in enumerate(TYPES):
        names = [name for name in (f"t{at:02}", f"t{at:02}_edge") if name in tables]
        form = [form_of(manifest.tables[name]) for name in names]
        count = len(usual) + len(edge) + 1
        read_back = f"{count} of {count} read back"
        if names[-1] in refused:
            assert names[0] not in refused
            read_back = f"refused: {' and '.join(edge)} do not read back".replace("'", "")
        lines.append(
            f"| {declared} | {form[0]} | {form[1] if edge else ''}"
            f" | {count} of {count} values equal | {read_back} |\n"
        )
    page = HEAD + "".join(lines)
    if request.config.getoption("--write-docs"):
        PAGE.write_text(page)
    assert PAGE.read_text() == page, "run pytest tests/snapshots/test_types.py --write-docs"


def form_of(entry: object) -> str:
    kind = arrow_schema(entry).field("v").type  # type: ignore[arg-type]
    cast = entry.facts.columns[1].cast  # type: ignore[attr-defined]
    name = "uuid" if kind == pa.uuid() else str(kind)
    return "text" if cast == "text" else f"`{name}`"


def run(url: str, statements: list[str]) -> list[list[tuple[object, ...]]]:
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    found = []
    with engine.connect() as connection:
        for statement in statements:
            result = connection.exec_driver_sql(statement.replace("%", "%%"))
            found.append([tuple(row) for row in result] if result.returns_rows else [])
    engine.dispose()
    return found
