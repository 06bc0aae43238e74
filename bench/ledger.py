"""What the ledger of ten million messages costs, to build and to ask, beside the merge that pandas offers.

    .venv/bin/python bench/ledger.py --json

One campaign to `--rows` people; evidence in three Parquet files, in no order: the log of the sender (95 % of the
people, one line in a thousand without an answer), the events of the provider (80 %) and the webhooks that reached the
shop (60 %). Cases: `mailstay` builds the ledger (`build_ledger`: DuckDB, spilling above 1 GB), counts the outcomes and
reads whom to mail; `pandas` concatenates the evidence, sorts it by what it proves, keeps the first line of each person,
merges that into the audience, and writes, counts and reads the same. Both count the outcomes, and must agree.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.harness import MeasurementError, Watch, arguments, bench, report

MAKE = """
import sys, duckdb
rows, folder = int(sys.argv[1]), sys.argv[2]
con = duckdb.connect(config={"threads": 2, "memory_limit": "2GB", "temp_directory": folder + "/.spill"})
con.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
sign = '''
SELECT 1::BIGINT AS campaign_id, (range * 3 + 1)::BIGINT AS subscriber_id, {outcome} AS outcome,
    TIMESTAMPTZ '2011-11-16 08:00:00+00' + to_microseconds(range * {pace}) AS at, '{witness}' AS witness
FROM range({rows}) WHERE {where} ORDER BY hash(range, '{witness}')
'''
files = {
    "audience": f"SELECT (range * 3 + 1)::BIGINT AS subscriber_id FROM range({rows})",
    "send_log": sign.format(rows=rows, witness="send_log", pace=300, where="range % 20 <> 0",
        outcome="CASE WHEN range % 1000 = 1 THEN 'unknown' ELSE 'accepted' END"),
    "events": sign.format(rows=rows, witness="event", pace=310, where="range % 20 <> 0 AND hash(range) % 10 < 8",
        outcome="CASE WHEN hash(range) % 100 = 1 THEN 'bounced' ELSE 'delivered' END"),
    "webhooks": sign.format(rows=rows, witness="webhook", pace=320, outcome="'delivered'",
        where="range % 20 <> 0 AND hash(range + 7) % 10 < 6"),
}
for name, query in files.items():
    con.execute(f"COPY ({query}) TO '{folder}/{name}.parquet' (FORMAT parquet, COMPRESSION zstd)")
"""
MAILSTAY = """
import json, sys
from pathlib import Path
from tasks.catchup import build_ledger
folder = Path(sys.argv[1])
ledger = build_ledger(1, into=folder / "ledger.parquet", audience=folder / "audience.parquet",
    evidence=[folder / f"{name}.parquet" for name in ("send_log", "events", "webhooks")])
left = ledger.people("not_attempted")
(folder / "mailstay.json").write_text(json.dumps({name: n for name, n in sorted(ledger.counts().items()) if n}))
"""
PANDAS = """
import json, sys
from pathlib import Path
import pandas as pd
folder = Path(sys.argv[1])
signs = pd.concat(pd.read_parquet(folder / f"{name}.parquet") for name in ("send_log", "events", "webhooks"))
signs["weight"] = signs["outcome"].map({"unknown": 1, "accepted": 2, "bounced": 3, "delivered": 4})
signs = signs.sort_values(["subscriber_id", "weight", "at"], ascending=[True, False, True])
best = signs.drop_duplicates("subscriber_id").drop(columns="weight")
ledger = pd.read_parquet(folder / "audience.parquet").merge(best, on="subscriber_id", how="left")
ledger["outcome"] = ledger["outcome"].fillna("not_attempted")
ledger.sort_values("subscriber_id").to_parquet(folder / "pandas.parquet", compression="zstd")
left = ledger.loc[ledger["outcome"] == "not_attempted", "subscriber_id"]
counts = ledger["outcome"].value_counts().sort_index()
(folder / "pandas.json").write_text(json.dumps({name: int(n) for name, n in counts.items()}))
"""


def main() -> None:
    parser = arguments(__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000_000, help="people of the campaign")
    parser.set_defaults(runs=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        print(f"  {options.rows:,} people and their evidence are made", file=sys.stderr)
        subprocess.run([sys.executable, "-c", MAKE, str(options.rows), name], check=True)
        cases = {
            case: [sys.executable, "-c", code, name]
            for case, code in (("mailstay", MAILSTAY), ("pandas", PANDAS))
        }
        measured = bench(
            "ledger", options.rows, cases, options.runs, ours="mailstay", watch=Watch(), imports={}
        )
        found = {case: (folder / f"{case}.json").read_text() for case in cases}
        if len(set(found.values())) > 1:
            raise MeasurementError(f"the two do not agree: {found}")
    report(measured, as_json=options.json)


if __name__ == "__main__":
    main()
