"""The sample shop is the real data, dirt included, and the same however it is cut."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tasks.drills import DrillError, build_shop
from tasks.drills import shop as s

CUT = datetime(2011, 3, 1, tzinfo=UTC)
END = datetime(2011, 3, 15, tzinfo=UTC)


def content(url: str) -> dict[str, list[tuple[Any, ...]]]:
    engine = sa.create_engine(url)
    try:
        with engine.connect() as connection:
            return {
                table.name: [
                    tuple(row) for row in connection.execute(sa.select(table).order_by(*table.primary_key))
                ]
                for table in s.METADATA.sorted_tables
            }
    finally:
        engine.dispose()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, s.ShopFacts]:
    url = f"sqlite:///{tmp_path_factory.mktemp('shop') / 'shop.sqlite'}"
    return url, build_shop(url, seed=1)


def ask(url: str, query: str) -> Any:
    engine = sa.create_engine(url)
    try:
        with engine.connect() as connection:
            return connection.execute(sa.text(query)).scalar_one()
    finally:
        engine.dispose()


def test_every_invoice_line_is_in_the_shop(whole: tuple[str, s.ShopFacts]) -> None:
    _, facts = whole
    assert facts.rows["order_lines"] + facts.rows["return_lines"] == 541_909
    assert facts.rows["orders"] + facts.rows["returns"] == 25_900
    assert facts.rows["customers"] == 4_372
    assert facts.rows["return_lines"] == 9_288
    assert facts.first_at == datetime(2010, 12, 1, 8, 26, tzinfo=UTC)


def test_the_real_dirt_is_kept(whole: tuple[str, s.ShopFacts]) -> None:
    url, _ = whole
    assert ask(url, "SELECT count(*) FROM orders WHERE customer_id IS NULL") > 2000
    assert ask(url, "SELECT count(*) FROM orders WHERE kind = 'adjustment'") == 3
    assert ask(url, "SELECT count(*) FROM order_lines WHERE unit_price = 0") > 2000
    assert ask(url, "SELECT count(*) FROM order_lines WHERE description IS NULL") > 1000
    twins = """SELECT count(*) FROM (SELECT order_id, stock_code, description, quantity, unit_price FROM order_lines
        GROUP BY 1, 2, 3, 4, 5 HAVING count(*) > 1)"""
    assert ask(url, twins) > 4000, "duplicate lines, each with its own id"


def test_lines_sum_to_their_orders_and_returns_are_negative(whole: tuple[str, s.ShopFacts]) -> None:
    url, _ = whole
    for head, lines, key in (("orders", "order_lines", "order_id"), ("returns", "return_lines", "return_id")):
        wrong = f"""SELECT count(*) FROM {head} JOIN (SELECT {key}, sum(line_total_minor) AS total FROM {lines}
            GROUP BY {key}) AS sums USING ({key}) WHERE total <> total_minor"""
        assert ask(url, wrong) == 0
    assert ask(url, "SELECT count(*) FROM returns WHERE total_minor > 0") == 0
    assert ask(url, "SELECT sum(total_minor) FROM orders") + ask(
        url, "SELECT sum(total_minor) FROM returns"
    ) == (974774793)


def test_a_shop_cut_and_continued_is_the_shop_built_at_once(tmp_path: Path) -> None:
    once, twice = (f"sqlite:///{tmp_path / name}" for name in ("once.sqlite", "twice.sqlite"))
    build_shop(once, seed=1, until=END)
    build_shop(twice, seed=1, until=CUT)
    engine = sa.create_engine(twice)
    with engine.begin() as connection:
        added = s.append_shop(connection, seed=1, since=CUT, until=END)
    engine.dispose()
    assert added["orders"] > 100
    assert content(once) == content(twice)


def test_a_share_of_the_shop_depends_on_the_seed_and_keeps_whole_customers(tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path / f'{n}.sqlite'}" for n in range(3)]
    for url, seed in zip(urls, (1, 1, 2), strict=True):
        build_shop(url, seed=seed, until=END, share=0.1)
    first, same, other = (content(url) for url in urls)
    assert first == same != other
    assert 0.06 < len(first["customers"]) / 1500 < 0.16


def test_a_database_that_holds_a_shop_is_left_alone(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shop.sqlite'}"
    build_shop(url, seed=1, until=CUT, share=0.02)
    with pytest.raises(DrillError, match="already"):
        build_shop(url, seed=1)


@pytest.mark.integration
def test_postgresql_holds_the_same_shop_as_sqlite(tmp_path: Path, new_database: Callable[[], str]) -> None:
    lite, postgres = f"sqlite:///{tmp_path / 'shop.sqlite'}", new_database()
    for url in (lite, postgres):
        build_shop(url, seed=1, until=END, share=0.3)
    assert content(lite) == content(postgres)
