"""What proving 25 rules over one table costs, beside the tools that do the same, and what proving it again costs.

    pip install -r bench/peers.txt
    python bench/validate.py --rows 5000000 --json

The table is `events` (9 columns) with its `subscribers` (a twentieth of the rows) and `campaigns` (a ten-thousandth),
in the Parquet segments that a backup would write; 13 kinds of violation are planted. `mailstay` and `GX over DuckDB`
are the same stock suite on the fused and on the adapted engine; `SQL by hand` is the quickest set of DuckDB statements
that we found, which keeps nothing. What the cases found is held against each other: if two differ, nothing is printed.
`mailstay, again` proves the table after 1 % of its rows were appended, with what the run before it kept.
`mailstay, one broken` has a rule that DuckDB refuses among the 25: it must come out as broken, the others as ever.
CPU seconds are those of the whole process from the end of its imports on; objects are hashed by none. A peer that is not installed
is left out, and said so.
"""

# ruff: noqa: E501 - the scripts of the cases

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.harness import MeasurementError, Watch, arguments, bench, report

ROOT = Path(__file__).resolve().parent.parent
TYPES = ["sent", "delivered", "opened", "clicked", "bounced"]
EMAIL = r"^[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}$"
FLOOR, CEILING = "2025-01-01 00:00:00", "2026-06-01 00:00:00"
SEGMENT_ROWS = 65_536

# The 13 kinds of violation are planted in rows that are far from each other; N is the number of rows.
EVENTS = """
SELECT CASE WHEN i IN (N // 2, N // 3) THEN i - 1 ELSE i END AS event_id,
    CASE WHEN i % (N // 7) = 3 THEN NULL WHEN i % (N // 9) = 5 THEN 900000000 + i
        WHEN i % (N // 11) = 1 THEN 7 ELSE 1 + (hash(i) % (N // 20))::BIGINT END AS subscriber_id,
    CASE WHEN i % (N // 5) = 11 THEN 800000000 WHEN i % (N // 11) IN (0, 1) THEN 1
        ELSE 1 + i * (N // 10000) // (N + 1) END::INTEGER AS campaign_id,
    CASE WHEN i % (N // 6) = 2 THEN 'exploded' WHEN i % (N // 11) IN (0, 1) THEN 'sent'
        ELSE (['sent', 'delivered', 'opened', 'clicked', 'bounced'])
        [1 + ((hash(i + 7) % 100) * (hash(i + 13) % 100) // 2000)::INTEGER] END AS event_type,
    CASE WHEN i % (N // 4) = 9 THEN TIMESTAMP '2031-01-01' WHEN i % (N // 11) IN (0, 1) THEN TIMESTAMP '2025-01-01'
        ELSE TIMESTAMP '2025-01-01' + to_milliseconds(i * (30000000000 // N)) END AS occurred_at,
    CASE WHEN i % (N // 8) = 4 THEN TIMESTAMP '2024-12-31' ELSE TIMESTAMP '2031-01-02'
        - to_milliseconds(hash(i + 3) % 5000)
        END AS received_at,
    CASE WHEN i % (N // 10) = 6 THEN 'no address' ELSE 'user' || (1 + hash(i) % (N // 20)) || '@mail' ||
        (hash(i) % 97) || '.example' END AS email,
    CASE WHEN i % (N // 3) = 8 THEN -5 WHEN hash(i + 5) % 5 = 0 THEN (hash(i + 6) % 20000) / 100.0 END::DOUBLE AS revenue,
    hash(i + 9) % 33 = 0 AS is_bot
FROM range(FIRST, LAST) t(i)
"""
SUBSCRIBERS = (
    "SELECT i AS subscriber_id, 'user' || i || '@mail.example' AS email FROM range(1, N // 20 + 1) t(i)"
)
CAMPAIGNS = """
SELECT c::INTEGER AS campaign_id, coalesce(n, 0) + CASE WHEN c = 3 THEN 1 ELSE 0 END AS sent FROM range(1, N // 10000 + 1) t(c)
LEFT JOIN (SELECT campaign_id, count(*) AS n FROM read_parquet('EVENTS/*.parquet') GROUP BY 1) e ON e.campaign_id = c
"""

# What the cases share: each is given the folder of the data and writes {check: bad rows or True/False}.
HEAD = f"""
import sys, json, glob, pathlib, contextlib
root, data, work, case = sys.argv[1:5]
sys.path.insert(0, root)
files = {{name: sorted(glob.glob(f"{{data}}/{{name}}/*.parquet")) for name in ("events", "subscribers", "campaigns")}}
TYPES, EMAIL, FLOOR, CEILING = {TYPES!r}, {EMAIL!r}, {FLOOR!r}, {CEILING!r}
def say(found):
    pathlib.Path(work, f"{{case}}.json").write_text(json.dumps(found, sort_keys=True))
"""
SUITE = """
from datetime import datetime
moment = datetime.fromisoformat
NN = "expect_column_values_to_not_be_null"
def rows(query):
    return ("expect_no_such_rows", {"unexpected_rows_query": query})
def sums(table): return f"SELECT e.event_id FROM {{batch}} e LEFT JOIN {table} s ON s.{table[:-1]}_id = e.{table[:-1]}_id WHERE e.{table[:-1]}_id IS NOT NULL AND s.{table[:-1]}_id IS NULL"
CHECKS = {
    "c01": ("expect_table_row_count_to_be_between", {"min_value": 1000}),
    "c02": ("expect_table_columns_to_match_set", {"column_set": ["event_id", "subscriber_id", "campaign_id", "event_type", "occurred_at", "received_at", "email", "revenue", "is_bot"]}),
    "c03": ("expect_column_to_exist", {"column": "event_id"}),
    "c04": ("expect_column_values_to_be_in_type_list", {"column": "occurred_at", "type_list": ["TIMESTAMP", "DATETIME"]}),
    "c05": ("expect_column_values_to_be_in_type_list", {"column": "revenue", "type_list": ["DOUBLE", "FLOAT"]}),
    "c06": (NN, {"column": "event_id"}),
    "c07": (NN, {"column": "subscriber_id"}),
    "c08": (NN, {"column": "event_type"}),
    "c09": (NN, {"column": "occurred_at"}),
    "c10": ("expect_column_values_to_be_unique", {"column": "event_id"}),
    "c11": ("expect_compound_columns_to_be_unique", {"column_list": ["subscriber_id", "campaign_id", "event_type", "occurred_at"], "ignore_row_if": "any_value_is_missing"}),
    "c12": ("expect_column_values_to_be_in_set", {"column": "event_type", "value_set": TYPES}),
    "c13": ("expect_column_values_to_be_between", {"column": "revenue", "min_value": 0, "max_value": 1000}),
    "c14": ("expect_column_values_to_match_regex", {"column": "email", "regex": EMAIL}),
    "c15": ("expect_column_values_to_be_between", {"column": "occurred_at", "min_value": moment(FLOOR), "max_value": moment(CEILING)}),
    "c16": ("expect_column_max_to_be_between", {"column": "occurred_at", "min_value": moment("2025-06-01 00:00:00")}),
    "c17": ("expect_column_values_to_be_increasing", {"column": "occurred_at"}),
    "c18": ("expect_column_mean_to_be_between", {"column": "revenue", "min_value": 90, "max_value": 110}),
    "c19": ("expect_column_stdev_to_be_between", {"column": "revenue", "min_value": 50, "max_value": 65}),
    "c20": ("expect_column_quantile_values_to_be_between", {"column": "revenue", "quantile_ranges": {"quantiles": [0.1, 0.5, 0.9], "value_ranges": [[10, 30], [90, 110], [170, 190]]}}),
    "c21": ("expect_column_values_to_not_be_null", {"column": "revenue", "mostly": 0.1}),
    "c22": rows(sums("subscribers")),
    "c23": rows(sums("campaigns")),
    "c24": ("expect_column_pair_values_a_to_be_greater_than_b", {"column_A": "received_at", "column_B": "occurred_at", "or_equal": True}),
    "c25": rows("SELECT c.campaign_id FROM campaigns c LEFT JOIN (SELECT campaign_id, count(*) n FROM {batch} e GROUP BY ALL) e ON e.campaign_id = c.campaign_id WHERE c.sent <> coalesce(e.n, 0)"),
}
BROKEN, ONCE = set(), contextlib.nullcontext
def raised(info): return info.get("raised_exception", any(isinstance(v, dict) for v in info.values()))
def validate(batch, checks):
    import great_expectations as gx
    from great_expectations.expectations.registry import get_expectation_impl
    suite = gx.ExpectationSuite("s", [get_expectation_impl(kind)(**kwargs, meta={"check": name}) for name, (kind, kwargs) in checks.items()])
    with ONCE():
        outcome = batch.validate(suite, result_format={"result_format": "SUMMARY", "partial_unexpected_count": 0})
    found = {}
    for one in outcome.results:
        name = one.expectation_config.meta["check"]
        assert raised(one.exception_info) == (name in BROKEN), (name, one.exception_info)
        if name in BROKEN: continue
        count = one.result.get("unexpected_count")
        if count is None and "rows" in checks[name][0]: count = one.result["observed_value"]
        found[name] = [bool(one.success), count if name not in ("c01", "c02") else None]
    return found
"""
CONTEXT = """
import great_expectations as gx
from tasks.checks import suites, fused
context, source = suites.open_context("bench", files)
"""
OURS = (
    HEAD
    + SUITE
    + CONTEXT
    + """
from tasks.checks.measures import Misadded, Orphans
from tasks.checks.kept import Kept
ONCE = suites.configured_once
engine = source.get_execution_engine()
kept = Kept(pathlib.Path(work, "kept"), b"bench") if KEEP else None
segments = {name: [str(pathlib.Path(one).relative_to(data)) for one in listed] for name, listed in files.items()}
measurer = engine.prepare(files, segments=segments, kept=kept, personal={"events": frozenset(["email"]), "subscribers": frozenset(["email"])})
for name, table in (("c22", "subscribers"), ("c23", "campaigns")):
    engine.knows(CHECKS[name][1]["unexpected_rows_query"], Orphans((table[:-1] + "_id",), table, (table[:-1] + "_id",)))
asset = source.add_table_asset("events", table_name="events")
checks = dict(CHECKS)
del checks["c25"]
found = validate(asset.add_batch_definition_whole_table("b").get_batch(), checks)
sums = Misadded("sent", "events", None, (("campaign_id", "campaign_id"),))
asset = source.add_table_asset("campaigns", table_name="campaigns")
engine.knows("SELECT 25 FROM {batch}", sums)
found |= validate(asset.add_batch_definition_whole_table("b").get_batch(), {"c25": rows("SELECT 25 FROM {batch}")})
failing = [suites.measured(engine, "events", *CHECKS[name]) or engine._known[CHECKS[name][1]["unexpected_rows_query"]]
    for name, (success, count) in found.items() if not success and count and name not in ("c17", "c25")]
keys = measurer.examples("events", failing, ["event_id"], 5)
assert all(keys.values()) and len(keys) > 8, keys
print(len(measurer.statements), "statements, keys of", len(keys), "rules", file=sys.stderr)
pathlib.Path(work, f"{case}.sql").write_text("\\n".join(measurer.statements))
say(found)
"""
)
BREAK = """
CHECKS["c14"][1]["regex"] = "(?<=never)a look-behind"
BROKEN.add("c14")
"""
STOCK = (
    HEAD
    + SUITE
    + """
import great_expectations as gx
from tasks.checks import suites, engine, fused
context, _ = suites.open_context("bench", files)
source = context.data_sources.add_duckdb_parquet("stock", tables=files)
checks = dict(CHECKS)
increasing = checks.pop("c17")
checks["c17"] = rows("SELECT 1 FROM (SELECT occurred_at AS now, lag(occurred_at) OVER () AS before FROM {batch}) x WHERE now < before")
asset = source.add_table_asset("events", table_name="events")
say(validate(asset.add_batch_definition_whole_table("b").get_batch(), checks))
"""
)
PANDAS = (
    HEAD
    + SUITE
    + """
import great_expectations as gx, pandas as pd
from tasks.checks import engine
frames = {name: pd.concat([pd.read_parquet(one) for one in listed], ignore_index=True) for name, listed in files.items()}
events = frames["events"]
context = gx.get_context(mode="ephemeral")
context.variables.progress_bars = {"globally": False, "metric_calculations": False}
checks = {name: one for name, one in CHECKS.items() if one[0] != "expect_no_such_rows"}
checks["c04"] = ("expect_column_values_to_be_of_type", {"column": "occurred_at", "type_": "datetime64"})
checks["c05"] = ("expect_column_values_to_be_of_type", {"column": "revenue", "type_": "float64"})
batch = context.data_sources.add_pandas("p").add_dataframe_asset("events").add_batch_definition_whole_dataframe("all").get_batch({"dataframe": events})
found = validate(batch, checks)
for name, table in (("c22", "subscribers"), ("c23", "campaigns")):
    key = events[table[:-1] + "_id"]
    bad = int((key.notna() & ~key.isin(frames[table][table[:-1] + "_id"])).sum())
    found[name] = [bad == 0, bad]
sent = events.groupby("campaign_id").size().reindex(frames["campaigns"].campaign_id, fill_value=0).to_numpy()
bad = int((sent != frames["campaigns"].sent.to_numpy()).sum())
found["c25"] = [bad == 0, bad]
say(found)
"""
)
BY_HAND = (
    HEAD
    + """
import duckdb
con = duckdb.connect(config={"threads": 2})
scan = {name: "read_parquet([" + ", ".join(f"'{one}'" for one in listed) + "])" for name, listed in files.items()}
E = scan["events"]
def one(query): return con.execute(query).fetchall()[0]
types = dict((row[0], row[1]) for row in con.execute(f"DESCRIBE SELECT * FROM {E}").fetchall())
listed = ", ".join(f"'{one}'" for one in TYPES)
r = one(f'''SELECT count(*), count_if(event_id IS NULL), count_if(subscriber_id IS NULL), count_if(event_type IS NULL), count_if(occurred_at IS NULL),
    count_if(event_type NOT IN ({listed})), count_if(NOT (revenue >= 0 AND revenue <= 1000)), count_if(NOT (occurred_at >= '{FLOOR}' AND occurred_at <= '{CEILING}')),
    max(occurred_at) >= TIMESTAMP '2025-06-01', avg(revenue), stddev_samp(revenue), quantile_disc(revenue, [0.1, 0.5, 0.9]), count(revenue) / count(*), count_if(NOT (received_at >= occurred_at)),
    min(event_id, 5) FILTER (WHERE subscriber_id IS NULL), min(event_id, 5) FILTER (WHERE event_type NOT IN ({listed})), min(event_id, 5) FILTER (WHERE NOT (revenue >= 0 AND revenue <= 1000)),
    min(event_id, 5) FILTER (WHERE NOT (occurred_at >= '{FLOOR}' AND occurred_at <= '{CEILING}')), min(event_id, 5) FILTER (WHERE NOT (received_at >= occurred_at)) FROM {E}''')
p = one(f'''SELECT coalesce(sum(n) FILTER (NOT regexp_matches(g.email, '{EMAIL}')), 0), coalesce(sum(n) FILTER (g.subscriber_id IS NOT NULL AND s.subscriber_id IS NULL), 0)
    FROM (SELECT subscriber_id, email, count(*) n FROM {E} GROUP BY ALL) g LEFT JOIN {scan["subscribers"]} s ON s.subscriber_id = g.subscriber_id''')
c = one(f'''SELECT coalesce(sum(g.n) FILTER (g.campaign_id IS NOT NULL AND c.campaign_id IS NULL), 0), count_if(c.campaign_id IS NOT NULL AND c.sent <> coalesce(g.n, 0))
    FROM (SELECT campaign_id, count(*) n FROM {E} GROUP BY 1) g FULL JOIN {scan["campaigns"]} c ON c.campaign_id = g.campaign_id''')
u = one(f"SELECT coalesce(sum(n), 0), min(event_id, 5) FROM (SELECT event_id, count(*) n FROM {E} GROUP BY 1 HAVING count(*) > 1)")
k = "subscriber_id, campaign_id, event_type, occurred_at"
there = " AND ".join(f"{column} IS NOT NULL" for column in k.split(", "))
d = one(f"SELECT coalesce(sum(n), 0) FROM (SELECT count(*) n FROM {E} WHERE {there} GROUP BY {k} HAVING count(*) > 1)")
m = one(f"SELECT count_if(now < before) FROM (SELECT occurred_at now, lag(occurred_at) OVER () before FROM {E})")
ok = lambda count: [int(count) == 0, int(count)]
say({"c01": [r[0] >= 1000, None], "c02": [len(types) == 9, None], "c03": ["event_id" in types, None], "c04": [types["occurred_at"] == "TIMESTAMP", None], "c05": [types["revenue"] == "DOUBLE", None],
    "c06": ok(r[1]), "c07": ok(r[2]), "c08": ok(r[3]), "c09": ok(r[4]), "c10": ok(u[0]), "c11": ok(d[0]), "c12": ok(r[5]), "c13": ok(r[6]), "c14": ok(p[0]), "c15": ok(r[7]), "c16": [r[8], None], "c17": ok(m[0]),
    "c18": [90 <= r[9] <= 110, None], "c19": [50 <= r[10] <= 65, None], "c20": [all(a <= q <= b for q, (a, b) in zip(r[11], [(10, 30), (90, 110), (170, 190)])), None], "c21": [r[12] >= 0.1, r[0] - round(r[12] * r[0])],
    "c22": ok(p[1]), "c23": ok(c[0]), "c24": ok(r[13]), "c25": ok(c[1])})
"""
)
PANDERA = (
    HEAD
    + """
import polars as pl, pandera.polars as pa
from pandera.api.polars.types import PolarsData
E = pl.read_parquet(files["events"])
S, C = (pl.read_parquet(files[name]) for name in ("subscribers", "campaigns"))
def rule(condition): return pa.Check(lambda data: data.lazyframe.select(condition))
k = ["subscriber_id", "campaign_id", "event_type", "occurred_at"]
columns = {
    "event_id": pa.Column(pl.Int64, nullable=False, unique=True),
    "subscriber_id": pa.Column(pl.Int64, rule(pl.col("subscriber_id").is_in(S["subscriber_id"].implode())), nullable=False),
    "campaign_id": pa.Column(pl.Int32, rule(pl.col("campaign_id").is_in(C["campaign_id"].implode())), nullable=True),
    "event_type": pa.Column(pl.String, pa.Check.isin(TYPES), nullable=False),
    "occurred_at": pa.Column(pl.Datetime("us"), [pa.Check.in_range(*(pl.Series([t]).str.to_datetime()[0] for t in (FLOOR, CEILING))), rule((pl.col("occurred_at").diff() >= 0).fill_null(True))], nullable=False),
    "received_at": pa.Column(pl.Datetime("us")), "email": pa.Column(pl.String, pa.Check.str_matches(EMAIL)),
    "revenue": pa.Column(pl.Float64, [pa.Check.in_range(0, 1000)], nullable=True), "is_bot": pa.Column(pl.Boolean),
}
schema = pa.DataFrameSchema(columns, checks=[rule(pl.col("received_at") >= pl.col("occurred_at"))])
try:
    schema.validate(E, lazy=True)
    failed = []
except pa.errors.SchemaErrors as error:
    failed = [one.check for one in error.schema_errors] if hasattr(error, "schema_errors") else [1]
assert len(failed) >= 8, len(failed)
r = E["revenue"]
assert 90 < r.mean() < 110 and 50 < r.std() < 65 and [r.quantile(q) for q in (.1, .5, .9)] and E["occurred_at"].max()
twice = E.drop_nulls(k).select(pl.struct(k).is_duplicated().sum()).item()
sent = C.join(E.group_by("campaign_id").len(), on="campaign_id", how="left").select((pl.col("sent") != pl.col("len").fill_null(0)).sum()).item()
assert twice and sent == 1, (twice, sent)
"""
)
GX = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom tasks.checks import engine, fused, suites\nimport pyarrow.parquet"
IMPORTS = {
    **dict.fromkeys(
        (
            "mailstay",
            "mailstay, one broken",
            "mailstay, keeping",
            "mailstay, again",
            "GX over DuckDB",
            "GX on pandas",
        ),
        GX,
    ),
    "SQL by hand": "import duckdb",
    "pandera, polars": "import polars, pandera.polars",
}
CLOCK = """
import atexit, time
def ended(began=time.process_time()):
    with open(sys.argv[3] + "/cpu", "w") as file:
        file.write(str(time.process_time() - began))
atexit.register(ended)
"""
NEEDS = {"pandera, polars": "pandera"}


def of_size(query: str, rows: int, **names: str) -> str:
    """Return `query` for a number of rows, with other names replaced too."""
    for name, value in {"N": str(rows), **names}.items():
        query = re.sub(rf"\b{name}\b", value, query)
    return query


def write(folder: Path, query: str, first: int = 0) -> None:
    """Write the rows of `query` as the segments that a backup would write."""
    import duckdb
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tasks.snapshots.spool import ROW_GROUP_ROWS, writer_options

    folder.mkdir(parents=True, exist_ok=True)
    connection = duckdb.connect()
    for number, batch in enumerate(connection.sql(query).to_arrow_reader(SEGMENT_ROWS), first):
        table = pa.Table.from_batches([batch])
        with pq.ParquetWriter(
            folder / f"{number:06d}.parquet", table.schema, **writer_options(table.schema, table)
        ) as writer:
            writer.write_table(table, row_group_size=ROW_GROUP_ROWS)


def prepare(folder: Path, rows: int) -> None:
    """Write the tables, and beside them the same with 1 % more events, whose old segments are the same files."""
    data, grown = folder / f"data-{rows}", folder / f"grown-{rows}"
    if grown.exists():
        return
    print(f"  {rows:,} rows are made", file=sys.stderr)
    events = of_size(EVENTS, rows, FIRST="1", LAST=str(rows + 1))
    shutil.rmtree(data, ignore_errors=True)
    write(data / "events", events)
    write(data / "subscribers", of_size(SUBSCRIBERS, rows))
    write(data / "campaigns", of_size(CAMPAIGNS, rows, EVENTS=str(data / "events")))
    fresh = grown.with_name("fresh")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(data, fresh)
    more = of_size(EVENTS, rows, FIRST=str(rows + 1), LAST=str(rows + 1 + rows // 100))
    write(fresh / "events", more, first=len(list((data / "events").iterdir())))
    fresh.rename(grown)


def measure(options: argparse.Namespace, folder: Path) -> int:
    """Run the cases of one size, hold what they found against each other, and print what they cost."""
    prepare(folder, options.rows)
    data, grown, work = folder / f"data-{options.rows}", folder / f"grown-{options.rows}", folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    anew = "import shutil, sys; shutil.rmtree(sys.argv[3] + '/kept', ignore_errors=True)\n"
    texts = {
        "mailstay": OURS.replace("KEEP", "False"),
        "mailstay, one broken": OURS.replace("KEEP", "False").replace(CONTEXT, BREAK + CONTEXT),
        "mailstay, keeping": anew + OURS.replace("KEEP", "True"),
        "mailstay, again": OURS.replace("KEEP", "True"),  # always after the one that keeps
        "SQL by hand": BY_HAND,
        "GX over DuckDB": STOCK,
        "GX on pandas": PANDAS,
        "pandera, polars": PANDERA,
    }
    cases = {
        name: [
            sys.executable,
            "-c",
            f"import sys\n{IMPORTS[name]}\n{CLOCK}{text}",
            str(ROOT),
            str(grown if name == "mailstay, again" else data),
            str(work),
            name,
        ]
        for name, text in texts.items()
        if installed(name) and name in (options.only or texts)
    }
    try:
        watch = Watch(own_cpu=lambda: float((work / "cpu").read_text()))
        measured = bench("validate", options.rows, cases, options.runs, ours="mailstay", watch=watch)
        failing = agreed(work)
    except (MeasurementError, OSError) as error:
        print(f"could not measure: {error}", file=sys.stderr)
        return 1
    for path in sorted(work.glob("*.sql")):
        print(f"  {path.stem}: {path.read_text().count(chr(10)) + 1} statements", file=sys.stderr)
    print(f"  all agree; broken are {' '.join(failing)}", file=sys.stderr)
    report(measured, as_json=options.json)
    return 0


def agreed(work: Path) -> list[str]:
    """Return the rules that are broken by what every case found.

    Raises:
        MeasurementError: two cases found different things.
    """
    found = {path.stem: json.loads(path.read_text()) for path in work.glob("*.json")}
    found.pop("mailstay, again", None)  # of more rows
    first, wanted = next(iter(found.items()))
    for name, one in found.items():
        if wrong := {check: (one[check], wanted[check]) for check in one if one[check] != wanted[check]}:
            raise MeasurementError(f"{name} and {first} find different things: {wrong}")
    return sorted(check for check, (success, _) in wanted.items() if not success)


def installed(case: str) -> bool:
    """Say whether what the case needs is there, and print it when it is not."""
    module = NEEDS.get(case)
    if module is None or importlib.util.find_spec(module):
        return True
    print(f"  {case} is left out: {module} is not installed (bench/peers.txt)", file=sys.stderr)
    return False


def main() -> int:
    """Measure and print; 1 only when it could not measure."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--only", action="append", default=[], help="a case; repeat it for more")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.folder or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        return measure(options, folder)


if __name__ == "__main__":
    sys.exit(main())
