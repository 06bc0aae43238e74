"""Tables at the limit of what databases allow: there, verified, and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from tasks.core import SystemClock
from tasks.snapshots import Store, restore, take_snapshot, verify
from tasks.sources import open_source, open_target

HOSTILE = [
    "Mixed Case",
    'say "so"',
    "100 %s",
    "a.b",
    "ünï ✓",
    "semi;colon",
    "new\nline",
    "select",
    "$1",
    ":name",
    "a'b",
]
LARGE = 100 * 2**20


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    if request.param == "postgresql":
        new: Callable[[], str] = request.getfixturevalue("new_database")
        return new
    names = iter(range(9))
    return lambda: f"sqlite:///{tmp_path / f'{next(names)}.db'}"


def proven(store: Store, new_url: Callable[[], str], *statements: str) -> dict[str, int]:
    """Run the statements, back up, verify, restore, and return the rows of each table."""
    url = new_url()
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(
                statement.replace("%", "%%") if engine.name == "postgresql" else statement
            )
    engine.dispose()
    manifest = take_snapshot(open_source("shop", url), store, clock=SystemClock(), plan_digest="")
    assert verify(store, level="content").ok
    back = restore(store, manifest.snapshot_id, open_target(new_url()), clock=SystemClock(), unproven=True)
    assert back.equal
    return {name: entry.rows for name, entry in manifest.tables.items()}


def test_a_table_of_a_thousand_columns(store: Store, new_url: Callable[[], str]) -> None:
    columns = ", ".join(f"c{n} {('integer', 'text')[n % 2]}" for n in range(1000))
    values = ", ".join((str(n), f"'v{n}'")[n % 2] for n in range(1000))
    found = proven(
        store, new_url, f"CREATE TABLE wide ({columns})", *[f"INSERT INTO wide VALUES ({values})"] * 3
    )
    assert found == {"wide": 3}


def test_a_value_of_a_hundred_megabytes_among_small_ones(store: Store, new_url: Callable[[], str]) -> None:
    url = new_url()
    huge = (
        f"repeat('mail', {LARGE // 4})" if url.startswith("postgresql") else f"printf('%.*c', {LARGE}, 'x')"
    )
    found = proven(
        store,
        new_url,
        "CREATE TABLE mails (id integer PRIMARY KEY, body text)",
        "INSERT INTO mails VALUES (1, 'short'), (3, NULL), (4, 'short too')",
        f"INSERT INTO mails VALUES (2, {huge})",
    )
    assert found == {"mails": 4}


def test_names_that_need_quoting_everywhere(store: Store, new_url: Callable[[], str]) -> None:
    def quoted(name: str) -> str:
        return '"' + name.replace('"', '""') + '"'

    columns = ", ".join(f"{quoted(name)} text" for name in HOSTILE)
    values = ", ".join(["'v'"] * len(HOSTILE))
    found = proven(
        store,
        new_url,
        *(f"CREATE TABLE {quoted(name)} ({columns}, PRIMARY KEY ({quoted(name)}))" for name in HOSTILE),
        *(f"INSERT INTO {quoted(name)} VALUES ({values})" for name in HOSTILE),
    )
    assert found == dict.fromkeys(sorted(HOSTILE), 1)


def test_tables_without_rows_or_without_a_key_and_rows_that_are_alike(
    store: Store, new_url: Callable[[], str]
) -> None:
    found = proven(
        store,
        new_url,
        "CREATE TABLE bare (id integer PRIMARY KEY, v text)",
        "CREATE TABLE keyless (v text, n integer)",
        "INSERT INTO keyless VALUES ('a', 1), ('a', 1), (NULL, NULL), (NULL, NULL), ('b', 2)",
    )
    assert found == {"bare": 0, "keyless": 5}
