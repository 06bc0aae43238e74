"""What FORMAT.md promises of a store: it is documented, it can be copied, and a query reads snapshots alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.core import UsageError
from tasks.snapshots import Manifest, Store, query
from tasks.sources import CASTS

PAGE = (Path(__file__).parents[2] / "tasks" / "snapshots" / "FORMAT.md").read_text()


def test_the_page_documents_every_cast() -> None:
    assert set(re.findall(r"^\| `(\w+)` \| (?!what)", PAGE.partition("### Casts")[2], re.MULTILINE)) == set(
        CASTS
    )


def test_a_store_that_was_copied_elsewhere_still_verifies(
    store: Store, taken: Callable[..., Manifest], tmp_path: Path
) -> None:
    import shutil

    from tasks.snapshots import verify

    taken(store)
    assert store.storage.root is not None
    shutil.copytree(store.storage.root, tmp_path / "elsewhere")
    assert str(store.storage.root) not in (tmp_path / "elsewhere/snapshots/shop/00000001.json").read_text()
    assert verify(Store.open(str(tmp_path / "elsewhere")), level="content").ok


def test_a_query_reads_snapshots_under_their_names_and_nothing_else(
    store: Store, taken: Callable[..., Manifest], change: Callable[[str], None], tmp_path: Path
) -> None:
    taken(store)
    change("DELETE FROM customers WHERE customer_id < 10")
    taken(store)
    names, rows = query(
        store,
        {"old": "shop/00000001", "new": "shop/00000002"},
        "SELECT count(*) AS gone FROM old.customers ANTI JOIN new.customers USING (customer_id)",
    )
    assert (names, rows) == (["gone"], [(10,)])
    (tmp_path / "secret.csv").write_text("a\n1\n")
    for sql in (
        f"SELECT * FROM read_csv('{tmp_path / 'secret.csv'}')",
        f"COPY (SELECT 1) TO '{tmp_path / 'out.csv'}'",
        f"ATTACH '{tmp_path / 'other.db'}'",
        "SET enable_external_access = true",
        "INSTALL httpfs",
        "SELECT * FROM shop.nothing",
        "SELEC 1",
    ):
        with pytest.raises(UsageError, match="DuckDB does not answer that"):
            query(store, {"shop": "shop/00000002"}, sql)
    assert not (tmp_path / "out.csv").exists()
