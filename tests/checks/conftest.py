"""A small clean shop as Parquet files, contracts to hold it against, and a scan for addresses."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.checks.contracts import Contract
from tasks.checks.findings import CheckReport
from tasks.checks.loading import load_contracts
from tasks.checks.running import SnapshotData, TableData, check_data

REPOSITORY = Path(__file__).resolve().parents[2]
AT = datetime(2011, 11, 16, 7, 0, tzinfo=UTC)
ADDRESS = re.compile(r"[A-Za-z0-9._%+'-]+@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}")
CUSTOMERS = 20

Row = dict[str, Any]

SCHEMAS = {
    "customers": pa.schema(
        [
            ("customer_id", pa.int32()),
            ("email", pa.string()),
            ("country", pa.string()),
            ("created_at", pa.timestamp("us")),
        ]
    ),
    "orders": pa.schema(
        [
            ("order_id", pa.string()),
            ("customer_id", pa.int32()),
            ("ordered_at", pa.timestamp("us")),
            ("country", pa.string()),
            ("kind", pa.string()),
            ("channel", pa.string()),
            ("campaign_id", pa.int32()),
            ("total_minor", pa.int64()),
            ("currency", pa.string()),
            ("generated", pa.bool_()),
        ]
    ),
    "order_lines": pa.schema(
        [
            ("line_id", pa.int32()),
            ("order_id", pa.string()),
            ("line_no", pa.int32()),
            ("stock_code", pa.string()),
            ("description", pa.string()),
            ("quantity", pa.int32()),
            ("unit_price", pa.decimal128(12, 3)),
            ("line_total_minor", pa.int64()),
        ]
    ),
}


class Shop:
    """The tables of a clean shop as rows that a test may harm, and how they become a snapshot.

    Attributes:
        rows: the rows of each table.
        schemas: the Arrow schema of each table.
        counted: what the source is said to have counted, where that is not the number of rows.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.schemas = dict(SCHEMAS)
        self.counted: dict[str, int] = {}
        self.previous: dict[str, int] = {}
        self.rows: dict[str, list[Row]] = {"customers": [], "orders": [], "order_lines": []}
        for n in range(1, CUSTOMERS + 1):
            born = AT.replace(tzinfo=None) - timedelta(days=100 + n)
            order, customer = f"{536000 + n}", 12000 + n
            self.rows["customers"].append(
                {
                    "customer_id": customer,
                    "email": f"c{customer}@shop.example",
                    "country": "EIRE",
                    "created_at": born,
                }
            )
            self.rows["orders"].append(
                {
                    "order_id": order,
                    "customer_id": customer,
                    "ordered_at": born + timedelta(days=n),
                    "country": "EIRE",
                    "kind": "sale",
                    "channel": "web",
                    "campaign_id": None,
                    "total_minor": 765,
                    "currency": "GBP",
                    "generated": False,
                }
            )
            self.rows["order_lines"].append(
                {
                    "line_id": n,
                    "order_id": order,
                    "line_no": 1,
                    "stock_code": "85123A",
                    "description": "HEART",
                    "quantity": 3,
                    "unit_price": Decimal("2.550"),
                    "line_total_minor": 765,
                }
            )

    def data(self, **known: Any) -> SnapshotData:
        """Write the Parquet files and return them as a snapshot."""
        tables = {}
        for name, rows in self.rows.items():
            path = self.folder / f"{name}.parquet"
            pq.write_table(pa.Table.from_pylist(rows, schema=self.schemas[name]), path)
            tables[name] = TableData(
                files=(str(path),),
                source_rows=self.counted.get(name, len(rows)),
                previous_rows=self.previous.get(name),
            )
        return SnapshotData("shop/00000003", AT, tables, **known)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@pytest.fixture(scope="session")
def contracts() -> dict[str, Contract]:
    """The shipped contracts of the three tables of the small shop."""
    return {
        name: contract
        for name, contract in load_contracts(REPOSITORY / "data/expectations/shop").items()
        if name in SCHEMAS
    }


@pytest.fixture
def check(contracts: dict[str, Contract]) -> Callable[..., CheckReport]:
    """A function that holds a small shop against the shipped contracts, or against that of one table."""

    def run(shop: Shop, docs_folder: Path | None = None, only: str = "", **known: Any) -> CheckReport:
        used = {only: contracts[only]} if only in contracts else contracts
        return check_data(shop.data(**known), used, at=AT, docs_folder=docs_folder)

    return run


@pytest.fixture(scope="session")
def addresses_in() -> Callable[[Any], list[str]]:
    """A function that lists the e-mail addresses in a text, in the parts of a value, or in the files of a folder."""

    def texts(thing: Any) -> Iterator[str]:
        if isinstance(thing, Path):
            for path in sorted(thing.rglob("*")):
                if path.suffix in {".html", ".json", ".js", ".css", ".txt", ".md", ".svg"}:
                    yield path.read_text(encoding="utf-8")
        else:
            yield str(thing)

    def scan(thing: Any) -> list[str]:
        return [found for text in texts(thing) for found in ADDRESS.findall(text)]

    return scan
