"""Whether the rows in a snapshot's Parquet give the checksums that `backup` took of them on their way from the source.

The checksum does not depend on the order of rows and can be added up, so that after a snapshot whose checksums were
proven only the objects that came or went are read: once for the whole table if that is less.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.checks.findings import CheckFinding
from tasks.core import TableChecksum
from tasks.snapshots import ObjectRef, TableEntry, arrow_schema

_BATCH_ROWS = 65_536


def checksum_of(
    now: TableEntry,
    files: Sequence[str],
    before: TableEntry | None,
    files_before: Callable[[], Sequence[str]],
) -> TableChecksum:
    """Return the checksum of a table's rows, read from its Parquet.

    Args:
        now: the table.
        files: its Parquet files, one for each of its objects.
        before: the same table in an earlier snapshot whose checksum was proven; None without one.
        files_before: gives that table's files.
    """
    counts = Counter(ref.sha256 for ref in now.objects)
    if before is not None:
        earlier = Counter(ref.sha256 for ref in before.objects)
        came, went = counts - earlier, earlier - counts
        if _rows(now.objects, came) + _rows(before.objects, went) <= now.rows:
            total = TableChecksum.known(before.rows, before.checksum)
            total.merge(_read(now, files, came))
            if went:
                total.remove(_read(before, files_before(), went))
            return total
    return _read(now, files, counts)


def mismatch(table: str, entry: TableEntry, found: TableChecksum) -> CheckFinding | None:
    """Return the finding that a table's rows are not those that the source gave; None if they are."""
    if (found.rows, found.hexdigest()) == (entry.rows, entry.checksum):
        return None
    return CheckFinding(
        f"{table}.checksum_matches_source",
        table,
        "",
        "critical",
        max(1, abs(found.rows - entry.rows)),
        entry.rows,
        [],
        f"{table}: its rows do not give the checksum that backup took of them at the source",
    )


def _rows(objects: Sequence[ObjectRef], wanted: Counter[str]) -> int:
    rows = {ref.sha256: ref.rows for ref in objects}
    return sum(rows[name] * count for name, count in wanted.items())


def _read(entry: TableEntry, files: Sequence[str], wanted: Counter[str]) -> TableChecksum:
    schema, total, left = arrow_schema(entry), TableChecksum(), Counter(wanted)
    for ref, path in zip(entry.objects, files, strict=True):
        if not left[ref.sha256]:
            continue
        left[ref.sha256] -= 1
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for batch in file.iter_batches(_BATCH_ROWS):
                columns = [
                    column.cast(field.type) for column, field in zip(batch.columns, schema, strict=True)
                ]
                total.update(pa.RecordBatch.from_arrays(columns, schema=schema))
    return total
