"""The history of checks: how every rule came out on every snapshot, as Parquet that one query reads.

One immutable file per check of a snapshot, `<source>/<sequence>-<run>.parquet`; many are merged into one. It holds
counts and names of rules, tables and columns: no key and no value of any row.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.checks.findings import CheckReport
from tasks.core import crash_point, create_file
from tasks.snapshots import split_name

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

MERGE_AFTER = 200
"""Files of single checks that a source may have before they are merged."""

_SINGLE = re.compile(r"(\d{8,})-(\d+)\.parquet")
_TIMES = ["seconds", "checked_at", "run"]


# As docs/analyst.md has it for the files themselves.
_STANDING = """
WITH numbered AS (
    SELECT *, dense_rank() OVER (PARTITION BY source ORDER BY snapshot) AS n FROM checks
), newest AS (
    SELECT source, max(n) AS n FROM numbered GROUP BY source
), failing AS (
    SELECT *, n - row_number() OVER (PARTITION BY source, rule ORDER BY n) AS stretch
    FROM numbered WHERE status IN ('failed', 'broken')
)
SELECT source, rule, min(snapshot) AS since, min(consistency_at) AS since_when, count(*) AS snapshots,
       arg_max(failed, n) AS failed_now, arg_max(status, n) AS status, arg_max(severity, n) AS severity
FROM failing
GROUP BY source, rule, stretch
HAVING max(n) = (SELECT newest.n FROM newest WHERE newest.source = failing.source)
ORDER BY source, since, rule
"""


def history_schema() -> pa.Schema:
    """Return the columns of the history; new ones may come, these stay.

    `run` counts the checks of one snapshot: its newest is what is known of the snapshot now.
    """
    import pyarrow as pa

    moment = pa.timestamp("us", "UTC")
    return pa.schema(
        [
            ("snapshot", pa.string()),
            ("source", pa.string()),
            ("consistency_at", moment),
            ("outcome", pa.string()),
            ("table", pa.string()),
            ("column", pa.string()),
            ("rule", pa.string()),
            ("kind", pa.string()),
            ("severity", pa.string()),
            ("status", pa.string()),
            ("failed", pa.int64()),
            ("total", pa.int64()),
            ("rows", pa.int64()),
            ("null_share", pa.float64()),
            ("observed", pa.float64()),
            ("seconds", pa.float64()),
            ("contract", pa.string()),
            ("checked_at", moment),
            ("run", pa.int32()),
        ]
    )


def remember(folder: Path, report: CheckReport) -> bool:
    """Add a report's results to the history and return True; a check that found the same again adds nothing.

    Whatever it is killed at, the history then holds all of the report or nothing of it.

    Args:
        folder: the folder of the history.
        report: what was found.
    """
    import pyarrow.parquet as pq

    source, sequence = split_name(report.snapshot_id)
    home = folder / source
    home.mkdir(parents=True, exist_ok=True)
    while True:
        known = _checks_of(home, report.snapshot_id)
        run = max(known.column("run").to_pylist(), default=0)
        rows = _rows(report, run + 1)
        if run and _same(known, rows):
            return False
        buffer = io.BytesIO()
        pq.write_table(rows, buffer, compression="zstd")
        crash_point("history.append")
        if create_file(home / f"{sequence:08d}-{run + 1}.parquet", buffer.getvalue()):
            break
    if sum(1 for _ in _singles(home)) > MERGE_AFTER:
        merge(home)
    return True


def read_history(
    folder: Path,
    *,
    source: str | None = None,
    table: str | None = None,
    rule: str | None = None,
    snapshot: str | None = None,
    before: str | None = None,
    last: int | None = None,
) -> pa.Table:
    """Return how rules came out, by snapshot and rule: of each snapshot the newest check.

    Args:
        folder: the folder of the history; without one nothing is known.
        source: only this source.
        table: only this table.
        rule: only this rule.
        snapshot: only this snapshot.
        before: only snapshots of a source before this one, by id.
        last: only so many of the newest snapshots of each source.
    """
    homes = [one for one in sorted(folder.glob("*")) if source in (None, one.name)]
    of_snapshots, of_rules = ["true"], ["true"]
    values: list[Any] = []
    if snapshot is not None:
        of_snapshots.append("snapshot = ?")
        values.append(snapshot)
    if before is not None:
        of_snapshots.append("source = ? AND snapshot < ?")
        values += [split_name(before)[0], before]
    newest = "run = max(run) OVER (PARTITION BY snapshot)"
    if last is not None:
        newest += f" AND dense_rank() OVER (PARTITION BY source ORDER BY snapshot DESC) <= {last:d}"
    for name, value in (("table", table), ("rule", rule)):
        if value is not None:
            of_rules.append(f'"{name}" = ?')
            values.append(value)
    return _select(
        homes,
        f"WHERE {' AND '.join(of_snapshots)} QUALIFY {newest}",
        f"WHERE {' AND '.join(of_rules)} ORDER BY snapshot, rule",
        values,
    )


def standing(folder: Path, source: str | None = None) -> list[dict[str, Any]]:
    """Return what is failing or cannot be asked in the newest snapshot of each source, and since which snapshot.

    Args:
        folder: the folder of the history.
        source: only this source.
    """
    checks = read_history(folder, source=source)
    with contextlib.closing(_connect()) as connection:
        connection.register("checks", checks)
        found = connection.sql(_STANDING)
        return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]


def merge(home: Path) -> None:
    """Merge all files of one source's history into one; what a killed merge left twice counts once."""
    files = _files(home)
    number = max((int(one.stem.split("-")[1]) for one in home.glob("merged-*.parquet")), default=0) + 1
    draft = home / f".merged-{uuid.uuid4().hex}"
    with contextlib.closing(_connect()) as connection:
        columns = ", ".join(f'"{name}"' for name in history_schema().names)
        connection.execute(
            f"COPY (SELECT DISTINCT {columns} FROM {_scan(files)} ORDER BY snapshot, run, rule) "  # noqa: S608
            f"TO {_text(draft)} (FORMAT parquet, COMPRESSION zstd)"
        )
    draft.rename(home / f"merged-{number:04d}.parquet")
    crash_point("history.merged")
    for one in files:
        one.unlink(missing_ok=True)


def _rows(report: CheckReport, run: int) -> pa.Table:
    import pyarrow as pa

    whole = {
        "snapshot": report.snapshot_id,
        "source": split_name(report.snapshot_id)[0],
        "consistency_at": report.consistency_at,
        "outcome": report.outcome,
        "checked_at": report.checked_at,
        "run": run,
    }
    rows = [{**whole, **dataclasses.asdict(one)} for one in report.results]
    return pa.Table.from_pylist(rows, schema=history_schema())


def _checks_of(home: Path, snapshot_id: str) -> pa.Table:
    return _select([home], "WHERE snapshot = ?", "ORDER BY run, rule", [snapshot_id])


def _select(homes: list[Path], which: str, rest: str, values: list[Any]) -> pa.Table:
    """Read the history; a merge meanwhile takes files away, and then it is read again."""
    import duckdb

    for attempt in range(5):
        files = [file for home in homes for file in _files(home)]
        if not files:
            return history_schema().empty_table()
        columns = ", ".join(f'"{name}"' for name in history_schema().names)
        try:
            with contextlib.closing(_connect()) as connection:
                found = connection.sql(
                    f"SELECT DISTINCT {columns} FROM (SELECT * FROM {_scan(files)} {which}) {rest}",  # noqa: S608
                    params=values,
                )
                return found.to_arrow_table().cast(history_schema())
        except duckdb.IOException:
            if attempt == 4:
                raise
    raise AssertionError


def _connect() -> duckdb.DuckDBPyConnection:
    import duckdb

    connection = duckdb.connect(":memory:")
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET enable_progress_bar = false")
    connection.register("columns_of_now", history_schema().empty_table())
    return connection


def _scan(files: list[Path]) -> str:
    """Return what reads files as one table with all columns; those that came after a file are empty in it."""
    named = ", ".join(map(_text, files))
    parquet = f"read_parquet([{named}], union_by_name = true, hive_partitioning = false)"
    return f"(FROM columns_of_now UNION ALL BY NAME FROM {parquet})"


def _text(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _files(home: Path) -> list[Path]:
    return [*sorted(home.glob("merged-*.parquet")), *_singles(home)]


def _singles(home: Path) -> Iterator[Path]:
    return (one for one in sorted(home.glob("*.parquet")) if _SINGLE.fullmatch(one.name))


def _same(known: pa.Table, rows: pa.Table) -> bool:
    """Return whether the newest check in `known` found what `rows` say."""
    import pyarrow.compute as pc

    newest = pc.equal(known.column("run"), pc.max(known.column("run")))
    before, now = (one.drop_columns(_TIMES).sort_by("rule") for one in (known.filter(newest), rows))
    return bool(before.equals(now))
