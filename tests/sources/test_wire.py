"""Receiving COPY on a real server: over the socket or through libpq, whole or broken off, the rows are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import psycopg
import pytest
import sqlalchemy as sa

from tasks.sources import SourceError, decoding, wire

pytestmark = pytest.mark.integration


@pytest.fixture
def raw(new_database: Callable[[], str]) -> Iterator[psycopg.Connection]:
    url = sa.make_url(new_database()).set(drivername="postgresql")
    with psycopg.connect(url.render_as_string(hide_password=False)) as connection:
        yield connection
        with suppress(psycopg.OperationalError):  # one test ends the server's side
            connection.rollback()


@pytest.fixture(params=["socket", "libpq"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "libpq":
        monkeypatch.setattr(wire, "_is_plain", lambda raw: False)
    return str(request.param)


def received(raw: psycopg.Connection, query: str) -> list[bytes]:
    """Return the last field of every row."""
    values = []
    for rows in wire.copied(raw, query, "t"):
        fields = decoding.fields(rows, 2)
        for at, length in zip(fields[1].positions.tolist(), fields[1].lengths.tolist(), strict=True):
            values.append(bytes(rows.block[at : at + length]))
    return values


def test_many_rows_and_one_that_is_larger_than_a_block_come_whole(raw: psycopg.Connection, way: str) -> None:
    query = (
        "SELECT i, CASE WHEN i = 40000 THEN repeat('x', 9000001) WHEN i = 99999 THEN repeat('y', 4194304)"
        " ELSE repeat('d', i % 300) END FROM generate_series(1, 100000) i"
    )
    values = received(raw, query)
    assert [len(value) for value in values] == [
        9_000_001 if i == 40_000 else 4_194_304 if i == 99_999 else i % 300 for i in range(1, 100_001)
    ]
    assert raw.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_few_rows_or_none(raw: psycopg.Connection, way: str, rows: int) -> None:
    assert received(raw, f"SELECT i, 'v' FROM generate_series(1, {rows}) i") == [b"v"] * rows


def test_what_is_broken_off_leaves_the_transaction_as_it_was(raw: psycopg.Connection, way: str) -> None:
    raw.execute("CREATE TEMP TABLE t AS SELECT i, repeat('v', 100) v FROM generate_series(1, 500000) i")
    for _ in range(3):
        with closing(wire.copied(raw, "SELECT i, v FROM t", "t")) as blocks:
            assert len(next(blocks))
        assert raw.execute("SELECT count(*) FROM t").fetchone() == (500_000,)


def test_an_error_amid_the_rows_is_the_servers_own_word(raw: psycopg.Connection, way: str) -> None:
    raw.execute("CREATE TEMP TABLE t AS SELECT i FROM generate_series(1, 200000) i")
    with pytest.raises((SourceError, psycopg.Error), match="division by zero"):
        received(raw, "SELECT i, 1 / (199000 - i) FROM t")
    assert raw.execute("SELECT count(*) FROM t").fetchone() == (200_000,)


def test_a_server_that_goes_away_is_an_error_and_no_end(
    raw: psycopg.Connection, new_database: Callable[[], str], way: str
) -> None:
    with psycopg.connect(
        sa.make_url(new_database()).set(drivername="postgresql").render_as_string(hide_password=False),
        autocommit=True,
    ) as other:
        blocks = wire.copied(raw, "SELECT i, repeat('v', 100) FROM generate_series(1, 5000000) i", "t")
        next(blocks)
        other.execute("SELECT pg_terminate_backend(%s)", (raw.info.backend_pid,))
        with pytest.raises((SourceError, psycopg.Error)):
            for _ in blocks:
                pass
