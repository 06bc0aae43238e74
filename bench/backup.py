"""What a verified snapshot of the sample shop costs, beside pandas and SQLite's own copy.

    .venv/bin/python bench/backup.py --json

Cases: `mailstay` takes a snapshot (zstd Parquet, page CRC, SHA-256, row checksum, signed manifest); `pandas` reads
every table with `read_sql` and writes Parquet; `sqlite backup` copies the file with the online backup API, which is the
floor: it neither converts nor hashes a row.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.harness import MeasurementError, arguments, bench, report

# In a process of its own: a child's peak memory counts what its parent had when it was started.
BUILD = """
import sys
import sqlalchemy as sa
from tasks.drills import build_shop
url = sys.argv[1]
engine = sa.create_engine(url)
if not sa.inspect(engine).get_table_names():
    build_shop(url, seed=7)
with engine.connect() as connection:
    print(sum(
        connection.execute(sa.select(sa.func.count()).select_from(sa.table(name))).scalar_one()
        for name in sa.inspect(engine).get_table_names()
    ))
"""
MAILSTAY = """
import sys
from tasks.core import open_clock
from tasks.snapshots import Store, load_or_create_key, take_snapshot
from tasks.sources import open_source
import shutil, pathlib
folder = pathlib.Path(sys.argv[2]) / "store"
shutil.rmtree(folder, ignore_errors=True)
store = Store.open(str(folder), signing_key=load_or_create_key(pathlib.Path(sys.argv[2]) / "key.pem"), create=True)
take_snapshot(open_source("shop", sys.argv[1]), store, clock=open_clock("system"), plan_digest="0" * 64)
"""
PANDAS = """
import sys, pathlib, pandas, sqlalchemy
engine = sqlalchemy.create_engine(sys.argv[1])
for table in sqlalchemy.inspect(engine).get_table_names():
    frame = pandas.read_sql_table(table, engine)
    frame.to_parquet(pathlib.Path(sys.argv[2]) / f"{table}.parquet", compression="zstd")
"""
SQLITE = """
import sys, sqlite3, pathlib
source = sqlite3.connect(sys.argv[1].removeprefix("sqlite:///"))
source.backup(sqlite3.connect(pathlib.Path(sys.argv[2]) / "copy.db"))
"""


def main() -> int:
    """Measure and print; 1 only when it could not measure."""
    options = arguments(__doc__ or "").parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            url = f"sqlite:///{folder / 'shop.db'}"
            built = subprocess.run(
                [sys.executable, "-c", BUILD, url], capture_output=True, text=True, check=False
            )
            if built.returncode:
                raise MeasurementError(f"the shop could not be built: {built.stderr[-500:]}")
            rows = int(built.stdout)
            cases = {
                name: [sys.executable, "-c", script, url, str(folder)]
                for name, script in (("mailstay", MAILSTAY), ("pandas", PANDAS), ("sqlite backup", SQLITE))
            }
            measured = bench("backup", rows, cases, options.runs, ours="mailstay")
        except (MeasurementError, OSError) as error:
            print(f"could not measure: {error}", file=sys.stderr)
            return 1
    report(measured, as_json=options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
