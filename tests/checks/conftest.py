"""A small clean shop and provider as Parquet files, contracts to hold them against, and a scan for addresses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.checks.contracts import Contract
from tasks.checks.findings import CheckReport
from tasks.checks.loading import load_contracts
from tasks.checks.measuring import Measurer, Table
from tasks.checks.past import Past
from tasks.checks.profiling import Profiled, profile
from tasks.checks.running import SnapshotData, TableData, check_data
from tasks.checks.schema_drift import Shape
from tasks.sources import ColumnFacts, ForeignKey, TableFacts

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
    "consent_requests": pa.schema(
        [
            ("request_id", pa.int32()),
            ("customer_id", pa.int32()),
            ("kind", pa.string()),
            ("campaign_id", pa.int32()),
            ("requested_at", pa.timestamp("us")),
            ("forwarded_at", pa.timestamp("us")),
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


ESP_SCHEMAS = {
    "lists": pa.schema([("id", pa.int32()), ("optin", pa.string())]),
    "subscribers": pa.schema(
        [
            ("id", pa.int32()),
            ("email", pa.string()),
            ("status", pa.string()),
            ("updated_at", pa.timestamp("us")),
        ]
    ),
    "subscriber_lists": pa.schema(
        [
            ("subscriber_id", pa.int32()),
            ("list_id", pa.int32()),
            ("status", pa.string()),
            ("updated_at", pa.timestamp("us")),
        ]
    ),
    "campaigns": pa.schema([("id", pa.int32()), ("status", pa.string()), ("sent", pa.int32())]),
    "campaign_lists": pa.schema([("id", pa.int32()), ("campaign_id", pa.int32()), ("list_id", pa.int32())]),
    "messages": pa.schema(
        [
            ("id", pa.int32()),
            ("campaign_id", pa.int32()),
            ("subscriber_id", pa.int32()),
            ("status", pa.string()),
            ("queued_at", pa.timestamp("us")),
        ]
    ),
}
"""The columns of the provider's tables that the rules across tables are about; see `esp_contracts`."""


class Tables:
    """Clean tables as rows that a test may harm, and how they become a snapshot.

    Attributes:
        rows: the rows of each table.
        schemas: the Arrow schema of each table.
        counted: what the source is said to have counted, where that is not the number of rows.
        previous: the rows of the last valid snapshot, where there is no `past`.
        declared: what the source declares of a column, `table.column`: its type, and whether it may be empty.
        keys: the declared primary keys, where they are not those of the contract.
        unlinked: tables that declare no foreign key any more.
    """

    source = ""

    def __init__(self, folder: Path, rows: dict[str, list[Row]], schemas: dict[str, pa.Schema]) -> None:
        self.folder = folder
        self.rows = rows
        self.schemas = dict(schemas)
        self.counted: dict[str, int] = {}
        self.previous: dict[str, int] = {}
        self.declared: dict[str, tuple[str, bool]] = {}
        self.keys: dict[str, tuple[str, ...]] = {}
        self.unlinked: set[str] = set()

    def data(self, **known: Any) -> SnapshotData:
        """Write the Parquet files and return them as a snapshot."""
        files = self.written(self.folder)
        past: Past | None = known.get("past")
        before = {name: one.rows for name, one in past.history[0].tables.items()} if past is not None else {}
        tables = {
            name: TableData(
                files=(files[name],),
                source_rows=self.counted.get(name, len(rows)),
                previous_rows=self.previous.get(name, before.get(name)),
                shape=self.shape(name),
            )
            for name, rows in self.rows.items()
        }
        return SnapshotData(f"{self.source}/00000003", AT, tables, **known)

    def written(self, folder: Path) -> dict[str, str]:
        """Write every table and return its file."""
        folder.mkdir(exist_ok=True)
        for name, rows in self.rows.items():
            pq.write_table(pa.Table.from_pylist(rows, schema=self.schemas[name]), folder / f"{name}.parquet")
        return {name: str(folder / f"{name}.parquet") for name in self.rows}

    def shape(self, name: str) -> Shape:
        """Return what the source declares of a table."""
        columns = []
        for field in self.schemas[name]:
            kind, nullable = self.declared.get(f"{name}.{field.name}", (str(field.type), False))
            columns.append(ColumnFacts(field.name, kind, nullable))
        key = self.keys.get(name, (self.schemas[name].names[0],))
        links = () if name in self.unlinked else LINKS.get(name, ())
        return Shape(TableFacts(name, tuple(columns), key, links, ""), self.schemas[name])

    def as_past(self, contracts: dict[str, Contract], **known: Any) -> Past:
        """Return these tables as the last valid snapshot, and as every one of the ten before it."""
        files = self.written(self.folder / "was")
        with duckdb.connect() as connection:
            profiles = {}
            for name, path in files.items():
                connection.execute(f"CREATE VIEW {name} AS SELECT * FROM '{path}'")
                kinds = {row[0]: row[1] for row in connection.execute(f"DESCRIBE {name}").fetchall()}
                measurer = Measurer(connection, {name: Table((path,), kinds)})
                profiles[name] = profile(contracts[name], [path], kinds, measurer.measure)
        return Past(
            snapshot_id=f"{self.source}/00000002",
            shapes={name: self.shape(name) for name in files},
            files=lambda table: [files[table]],
            history=[Profiled(f"{self.source}/{n}", AT - timedelta(days=n), profiles) for n in range(1, 11)],
            **known,
        )


LINKS = {"orders": (ForeignKey(("customer_id",), "customers", ("customer_id",)),)}


class Shop(Tables):
    """A clean shop: twenty customers with an order each; the first one left, the second came back."""

    source = "shop"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, {name: [] for name in SCHEMAS}, SCHEMAS)
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
                    "ordered_at": born + timedelta(days=99 + n),
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

        wishes = [(12001, "unsubscribe", 30), (12002, "unsubscribe", 30), (12002, "subscribe", 20)]
        wishes += [(12003, "subscribe", 40), (12003, "unsubscribe", 10)]
        for n, (customer, kind, days) in enumerate(wishes, 1):
            at = AT.replace(tzinfo=None) - timedelta(days=days)
            self.wish(n, customer, kind, at)

    def wish(self, number: int, customer: int, kind: str, at: datetime) -> None:
        """Add a request of consent."""
        self.rows["consent_requests"].append(
            {
                "request_id": number,
                "customer_id": customer,
                "kind": kind,
                "campaign_id": None,
                "requested_at": at,
                "forwarded_at": at,
            }
        )


class Esp(Tables):
    """A clean provider: one list with single and one with double opt-in, a campaign to each person on the first.

    Subscriber 1 is blocklisted, 2 has left list 1, 3 has left list 2; the others are on both.
    """

    source = "esp"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, {name: [] for name in ESP_SCHEMAS}, ESP_SCHEMAS)
        self.keys["subscriber_lists"] = ("subscriber_id", "list_id")
        self.rows["lists"] += [{"id": 1, "optin": "single"}, {"id": 2, "optin": "double"}]
        then = AT.replace(tzinfo=None) - timedelta(days=20)
        for n in range(1, CUSTOMERS + 1):
            blocked = "blocklisted" if n == 1 else "enabled"
            self.rows["subscribers"].append(
                {"id": n, "email": f"c{n}@shop.example", "status": blocked, "updated_at": then}
            )
            for on in (1, 2):
                left = n == 1 or n == on + 1
                self.rows["subscriber_lists"].append(
                    {
                        "subscriber_id": n,
                        "list_id": on,
                        "status": "unsubscribed" if left else "confirmed",
                        "updated_at": then,
                    }
                )
            if n > 2:
                self.rows["messages"].append(
                    {
                        "id": n,
                        "campaign_id": 1,
                        "subscriber_id": n,
                        "status": "accepted",
                        "queued_at": then + timedelta(days=1),
                    }
                )
        self.rows["campaigns"] += [
            {"id": 1, "status": "finished", "sent": CUSTOMERS - 2},
            {"id": 2, "status": "draft", "sent": 0},
        ]
        self.rows["campaign_lists"] += [
            {"id": 1, "campaign_id": 1, "list_id": 1},
            {"id": 2, "campaign_id": 2, "list_id": 2},
        ]


UTC_TIME = pa.timestamp("us", "UTC")
EXPORT_SCHEMAS = {
    "brevo": {
        "contacts": pa.schema(
            [
                ("id", pa.int64()),
                ("email", pa.string()),
                ("ext_id", pa.string()),
                ("emailBlacklisted", pa.bool_()),
                ("modifiedAt", UTC_TIME),
                ("listIds", pa.string()),
                ("listUnsubscribed", pa.string()),
            ]
        ),
        "lists": pa.schema([("id", pa.int64()), ("name", pa.string())]),
        "blocked_contacts": pa.schema(
            [("email", pa.string()), ("senderEmail", pa.string()), ("blockedAt", UTC_TIME)]
        ),
    },
    "listmonk_api": {
        "subscribers": pa.schema(
            [
                ("id", pa.int64()),
                ("email", pa.string()),
                ("status", pa.string()),
                ("updated_at", UTC_TIME),
                ("lists", pa.string()),
            ]
        ),
        "lists": pa.schema([("id", pa.int64()), ("optin", pa.string()), ("subscriber_count", pa.string())]),
    },
    "sendgrid": {
        "contacts": pa.schema([("contact_id", pa.string()), ("email", pa.string())]),
        "lists": pa.schema([("id", pa.string()), ("name", pa.string()), ("contact_count", pa.int64())]),
        "list_contacts": pa.schema([("list_id", pa.string()), ("contact_id", pa.string())]),
        "unsubscribes": pa.schema([("email", pa.string()), ("created", pa.int64())]),
    },
}
"""The columns of providers' exports that the rules of consent and of counts are about."""


class Export(Tables):
    """The clean export of an account: five people on two lists; the first is blocked, the second has left list 1."""

    def __init__(self, folder: Path, source: str) -> None:
        schemas = EXPORT_SCHEMAS[source]
        super().__init__(folder, {name: [] for name in schemas}, schemas)
        self.source, self.keys = source, {}
        then = AT - timedelta(days=20)
        for n in (1, 2):
            more = {"name": "News", "optin": "double", "contact_count": 5, "subscriber_count": "5"}
            self.add("lists", id=str(n) if source == "sendgrid" else n, **more)
        for n in range(1, 6):
            on = [one for one in (1, 2) if (n, one) != (2, 1)]
            self.add(
                "subscribers" if source == "listmonk_api" else "contacts",
                id=n,
                contact_id=f"c{n}",
                ext_id=str(12000 + n),
                email=f"c{n}@shop.example",
                emailBlacklisted=n == 1,
                status="blocklisted" if n == 1 else "enabled",
                modifiedAt=then,
                updated_at=then,
                listIds=json.dumps(on),
                listUnsubscribed=json.dumps([1] if n == 2 else []),
                lists=json.dumps([_subscription(one, one in on) for one in (1, 2)]),
            )
            for one in ("1", "2"):
                self.add("list_contacts", list_id=one, contact_id=f"c{n}")
        self.add("unsubscribes", email="c1@shop.example", created=int(then.timestamp()))
        self.add("blocked_contacts", email="c1@shop.example", senderEmail="news@shop.example", blockedAt=then)

    def add(self, table: str, **values: Any) -> None:
        """Add a row to a table that this export has, of the columns that it has."""
        if table in self.schemas:
            self.rows[table].append({name: values[name] for name in self.schemas[table].names})


def _subscription(on: int, confirmed: bool) -> Row:
    status = "confirmed" if confirmed else "unsubscribed"
    return {"id": on, "subscription_status": status, "subscription_updated_at": "2011-10-20T10:00:00Z"}


@pytest.fixture
def brevo(tmp_path: Path) -> Export:
    return Export(tmp_path, "brevo")


@pytest.fixture
def listmonk_api(tmp_path: Path) -> Export:
    return Export(tmp_path, "listmonk_api")


@pytest.fixture
def sendgrid(tmp_path: Path) -> Export:
    return Export(tmp_path, "sendgrid")


@pytest.fixture
def esp(tmp_path: Path) -> Esp:
    return Esp(tmp_path)


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


@pytest.fixture(scope="session")
def esp_contracts() -> dict[str, Contract]:
    """The shipped contracts of the small provider, cut to the columns that it has."""
    return _cut("listmonk", ESP_SCHEMAS)


@pytest.fixture(scope="session")
def contracts_by_source(
    contracts: dict[str, Contract], esp_contracts: dict[str, Contract]
) -> dict[str, dict[str, Contract]]:
    """The contracts of every kind of small tables."""
    exports = {source: _cut(source, schemas) for source, schemas in EXPORT_SCHEMAS.items()}
    return {"shop": contracts, "esp": esp_contracts, **exports}


def _cut(kind: str, schemas: dict[str, pa.Schema]) -> dict[str, Contract]:
    cut = {}
    for name, contract in load_contracts(REPOSITORY / "data/expectations" / kind).items():
        if name not in schemas:
            continue
        columns = {one: contract.columns[one] for one in schemas[name].names}
        rules = [rule for rule in contract.row_rules if set(rule.columns) <= set(columns)]
        keys = [key for key in contract.foreign_keys if set(key.columns) <= set(columns)]
        cut[name] = contract.model_copy(update={"columns": columns, "row_rules": rules, "foreign_keys": keys})
    return cut


@pytest.fixture
def check(contracts_by_source: dict[str, dict[str, Contract]]) -> Callable[..., CheckReport]:
    """A function that holds small tables against the shipped contracts, or against some of them."""

    def run(tables: Tables, docs_folder: Path | None = None, only: str = "", **known: Any) -> CheckReport:
        of = contracts_by_source[tables.source]
        used = {name: one for name, one in of.items() if name in (only, "subscribers")} if only in of else of
        return check_data(tables.data(**known), used, at=AT, docs_folder=docs_folder)

    return run


@pytest.fixture(scope="session")
def addresses_in() -> Callable[[Any], list[str]]:
    """A function that lists the e-mail addresses in a text, in the parts of a value, or in the files of a folder."""

    def texts(thing: Any) -> Iterator[str]:
        if isinstance(thing, Path):
            for path in sorted(thing.rglob("*")):
                pages = path.parent.name != "assets"  # vendored files name their authors
                if pages and path.suffix in {".html", ".json", ".js", ".css", ".txt", ".md", ".svg"}:
                    yield path.read_text(encoding="utf-8")
        else:
            yield str(thing)

    def scan(thing: Any) -> list[str]:
        return [found for text in texts(thing) for found in ADDRESS.findall(text)]

    return scan
