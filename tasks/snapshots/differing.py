"""One table of a database in use beside the same table of a snapshot: what differs, and what is done about it.

Both are read once, to the disk; DuckDB matches their rows by comparable bytes, and says per differing row what to do.
"""

# ruff: noqa: S608 - every value and name in the SQL is numbered by us or quoted
from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core import Progress, UsageError, plural
from tasks.snapshots.comparing import Relations, counted, matched, unmatched
from tasks.snapshots.errors import SnapshotError
from tasks.snapshots.models import Manifest
from tasks.snapshots.persons import Cut, without
from tasks.snapshots.reading import sql_text
from tasks.snapshots.rules import StatusRule
from tasks.snapshots.store import Store
from tasks.snapshots.taking import arrow_schema
from tasks.sources import (
    LiveWriter,
    ReadColumn,
    SourceReader,
    TableFacts,
    ValueDoesNotFit,
    adapted,
    comparable,
)

if TYPE_CHECKING:
    import duckdb

Mode = Literal["insert-missing", "overwrite"]
Action = Literal["insert", "update", "restrict"]
Change = Callable[[pa.Array], pa.Array]

_BATCH_ROWS = 65_536
_NAMED = 5  # keys that a note names


@dataclass(frozen=True)
class MergedTable:
    """One table of a restore into a database in use.

    Attributes:
        only_in_snapshot: rows whose key the database does not have.
        only_in_database: rows whose key the snapshot does not have; they are left alone.
        different: rows with the same key and other values.
        columns: different rows per column, in the order of the table.
        inserted: rows that were, or would be, inserted.
        updated: rows that were, or would be, set back.
        restricted: rows whose consent is stricter than the snapshot has it, or was made stricter than it is now.
        written: rows that were, or would be, written in any way.
        notes: what was left alone or is not carried, in words.
    """

    name: str
    only_in_snapshot: int
    only_in_database: int
    different: int
    columns: dict[str, int]
    inserted: int
    updated: int
    restricted: int
    written: int
    notes: tuple[str, ...]


class Part:
    """One table that both the snapshot and the database have; lives as long as the transaction."""

    facts: TableFacts
    relations: Relations

    def __init__(
        self,
        store: Store,
        manifest: Manifest,
        name: str,
        number: int,
        rule: StatusRule | None,
        cuts: Sequence[Cut],
        dialect: str,
        connection: duckdb.DuckDBPyConnection,
        scratch: Path,
        progress: Progress,
    ) -> None:
        self.name = name
        self._entry = manifest.tables[name]
        self._files = store.table_files(manifest.snapshot_id, name)
        self._number = number
        self._rule = rule
        self._cuts = cuts
        self._erased = 0
        self._origin = manifest.dialect
        self._dialect = dialect
        self._connection = connection
        self._scratch = scratch
        self._progress = progress
        self._notes: list[str] = []
        self._keyless = ""

    def compare(self, reader: SourceReader) -> None:
        """Read both sides and make them comparable."""
        self._before = self._spilled(reader, "before")
        self.facts = reader.facts(self.name)
        theirs = {column.facts.name: column for column in self._before}
        ours = [
            ReadColumn(facts, field.type, self._origin)
            for facts, field in zip(self._entry.facts.columns, arrow_schema(self._entry), strict=True)
        ]
        self._at = [
            at
            for at, column in enumerate(ours)
            if column.facts.name in theirs
            and (not theirs[column.facts.name].facts.generated or column.facts.name in self.facts.primary_key)
        ]
        self._live = [theirs[ours[at].facts.name] for at in self._at]
        pairs = [adapted(ours[at], live, self.name) for at, live in zip(self._at, self._live, strict=True)]
        self._written = [column for column, _ in pairs]
        self._changes = [change for _, change in pairs]
        names = [column.facts.name for column in self._live]
        gone = [column.facts.name for column in ours if column.facts.name not in theirs]
        new = [name for name in theirs if name not in {column.facts.name for column in ours}]
        self._notes += [f"column {name} is not in the database" for name in gone]
        self._notes += [f"column {name} is not in the snapshot" for name in new]
        key = self.facts.primary_key
        keyed = bool(key) and set(key) == set(self._entry.facts.primary_key)
        self.relations = Relations(
            self.name, self._number, tuple(names), tuple(names.index(one) for one in key) if keyed else ()
        )
        self._represent([self._written, self._live])
        if not keyed:
            self._keyless = "it has no primary key" if not key else "its primary key is another one"
        elif self._unkeyed_rows():
            self._keyless = "rows have no value in the primary key"
            self.relations = replace(self.relations, key=())
        if self._keyless:
            self._notes.append(f"{self._keyless}: compared as a whole, never written")
        self._status = self._status_column(names)

    def refuse_keyless(self) -> None:
        """Make sure that rows can be told apart.

        Raises:
            UsageError: they cannot.
        """
        if self._keyless:
            raise UsageError(
                f"Rows of {self.name} cannot be written one by one: {self._keyless}",
                fix="leave the table out, or restore it whole into an empty database and move it over",
            )

    def another(self, m: str) -> str:
        """Return SQL that is true where the two rows of one key are not the same thing; empty if never."""
        if self._rule is None or not self.relations.key:
            return ""
        numbers = [
            self.relations.columns.index(one) for one in self._rule.same if one in self.relations.columns
        ]
        differs = " OR ".join(f"{m}.a{at} IS DISTINCT FROM {m}.b{at}" for at in numbers)
        return f"{m}.kind = 'different' AND ({differs})" if differs else ""

    def decide(self, mode: Mode, condition: str, strangers: str) -> None:
        """Say for every differing row that `condition` selects what is done, and that rows of `strangers` are left."""
        self._mode: Mode = mode
        relations, count = self.relations, len(self.relations.columns)
        if not relations.key:
            rows = unmatched(count, a=relations.a, b=relations.b)
            self._connection.execute(
                f"CREATE TABLE {relations.d} AS SELECT NULL::BIGINT AS an, NULL::BIGINT AS bn, *, 'leave' AS action,"
                f" '' AS reason, NULL::VARCHAR AS becomes FROM ({rows}) m WHERE {condition}"
            )
            return
        rows = matched(count, relations.key, a=relations.a, b=relations.b, also="a.n AS an, b.n AS bn")
        another = " OR ".join(f"({one})" for one in (self.another("m"), strangers) if one)
        reason, action, becomes = self._decisions(mode, another or "false")
        self._connection.execute(
            f"CREATE TABLE {relations.d} AS SELECT *, CASE WHEN reason <> '' THEN 'leave' ELSE {action} END AS action,"
            f" {becomes} AS becomes FROM (SELECT *, {reason} AS reason FROM ({rows}) m"
            f" WHERE kind <> 'same' AND ({condition}))"
        )

    def told(self) -> MergedTable:
        """Return the counts."""
        relations = self.relations
        counts = counted(self._connection, relations.d, len(relations.columns))
        did = dict(self._rows(f"SELECT action, count(*) FROM {relations.d} GROUP BY 1"))
        restricted = 0
        if self._status is not None and self._rule is not None:
            other = f"reason = '' AND becomes IS DISTINCT FROM decode(b{self._status})"
            if self._rule.consent:
                also = "action = 'restrict'" if self._mode == "insert-missing" else other
                told = f"{also} OR action = 'insert' AND {other}"
                [(restricted,)] = self._rows(f"SELECT count(*) FROM {relations.d} WHERE {told}")
            elif disarmed := self._keys(f"action <> 'leave' AND {other}"):
                self._notes.append(f"{disarmed}: {self._rule.column} is another than saved, unable to send")
        if self._erased:
            self._notes.append(f"{plural(self._erased, 'row')} of erased persons: not brought back as theirs")
        for reason, text in _REASONS.items():
            if named := self._keys(f"reason = '{reason}'"):
                self._notes.append(text.format(rows=named))
        return MergedTable(
            self.name,
            counts.only_b,
            counts.only_a,
            counts.different,
            {name: count for name, count in zip(relations.columns, counts.columns, strict=True) if count},
            did.get("insert", 0),
            did.get("update", 0),
            restricted,
            self._written_rows(),
            tuple(self._notes),
        )

    def writes(self, action: Action) -> int:
        """Return how many rows are written in that way."""
        [(count,)] = self._rows(f"SELECT count(*) FROM {self.relations.d} WHERE action = '{action}'")
        return int(count)

    def _written_rows(self) -> int:
        return self.writes("insert") + self.writes("update") + self.writes("restrict")

    def write(self, writer: LiveWriter) -> None:
        """Write the rows: those that are there first, unless they may name one that is not there yet."""
        key = set(self.relations.key)
        everything = [at for at, one in enumerate(self._live) if not one.facts.generated or at in key]
        plain = [at for at in everything if not self._live[at].facts.generated]
        passes: list[tuple[Action, list[int]]] = [("update", everything), ("insert", plain)]
        if any(link.references == self.name for link in self.facts.foreign_keys):
            passes.reverse()
        if self._status is not None:
            passes.append(("restrict", [*self.relations.key, self._status]))
        for action, columns in passes:
            if count := self.writes(action):
                self._progress.start(f"{self.name} ({action})", count)
                facts = replace(
                    self.facts,
                    columns=tuple(replace(self._written[at].facts, generated=False) for at in columns),
                )
                change = writer.insert if action == "insert" else writer.update
                change(facts, self._chosen(action, columns))
                self._progress.finish()

    def holds(self, after: SourceReader) -> bool:
        """Say whether the table is now what it was before with the decided rows written, and nothing else."""
        relations = self.relations
        if not self._written_rows():
            return True
        named = {column.facts.name: column for column in self._spilled(after, "after")}
        now = [named[name] for name in relations.columns]
        if [_way(one) for one in now] != [_way(one) for one in self._live]:
            self._represent([self._written, self._live, now])
            self._connection.execute(f"ALTER TABLE {relations.d} RENAME TO decided")
            same = "o.an IS NOT DISTINCT FROM m.an AND o.bn IS NOT DISTINCT FROM m.bn"
            self.decide(self._mode, f"EXISTS (SELECT 1 FROM decided o WHERE {same} AND o.reason = '')", "")
            self._connection.execute("DROP TABLE decided")
        changes = [one[-1] for one in self._ways([self._written, self._live, now])]
        self._fill("z", self._file("after"), changes)
        on = " AND ".join(f"coalesce(d.a{at}, d.b{at}) IS NOT DISTINCT FROM a.c{at}" for at in relations.key)
        columns = range(len(relations.columns))
        kept = ", ".join(f"a.c{at}" for at in columns)
        written = ", ".join(self._result(at) for at in columns)
        expected = (
            f"SELECT {kept} FROM {relations.a} a WHERE NOT EXISTS"
            f" (SELECT 1 FROM {relations.d} d WHERE d.action IN ('update', 'restrict') AND {on})"
            f" UNION ALL SELECT {written} FROM {relations.d} WHERE action <> 'leave'"
        )
        found = ", ".join(f"c{at}" for at in columns)
        [(missing, more)] = self._rows(
            f"SELECT (SELECT count(*) FROM ({expected} EXCEPT ALL SELECT {found} FROM z)),"
            f" (SELECT count(*) FROM z) - (SELECT count(*) FROM ({expected}))"
        )
        return bool(missing == 0 and more == 0)

    def _result(self, at: int) -> str:
        """Return SQL for the value that a written row must have in a column."""
        if at == self._status:
            return "encode(becomes)"
        return f"CASE WHEN action = 'restrict' THEN a{at} ELSE b{at} END"

    def _decisions(self, mode: Mode, another: str) -> tuple[str, str, str]:
        """Return SQL for why a row is left alone, for what is done with it, and for the status that it then has."""
        values = [
            at
            for at, column in enumerate(self._live)
            if at not in self.relations.key and at != self._status and not column.facts.generated
        ]
        differs = " OR ".join(f"a{at} IS DISTINCT FROM b{at}" for at in values) or "false"
        rule = self._rule if self._status is not None else None
        if rule is None:
            update = f"WHEN kind = 'different' AND ({differs}) THEN 'update'" if mode == "overwrite" else ""
            reason = f"CASE WHEN {another} THEN 'another' ELSE '' END"
            return (
                reason,
                f"CASE WHEN kind = 'only_b' THEN 'insert' {update} ELSE 'leave' END",
                "NULL::VARCHAR",
            )
        now, then = f"decode(a{self._status})", f"decode(b{self._status})"
        back = _case(then, rule.becomes, then)
        stricter = f"{_rank(now, rule)} > {_rank(back, rule)}"
        looser = f"{_rank(back, rule)} > {_rank(now, rule)}"
        set_back = f"CASE WHEN kind = 'different' AND {stricter} THEN {now} ELSE {back} END"
        raised = f"CASE WHEN {looser} THEN {back} ELSE {now} END"
        reason = (
            f"CASE WHEN {another} THEN 'another' WHEN kind = 'different' AND {now} IN ({_listed(rule.becomes)})"
            f" THEN 'sending' WHEN {self._withdrawn(rule, then)} THEN 'withdrawn' ELSE '' END"
        )
        if mode == "overwrite":
            other = f"WHEN kind = 'different' AND ({differs} OR ({set_back}) IS DISTINCT FROM {now}) THEN 'update'"
            return reason, f"CASE WHEN kind = 'only_b' THEN 'insert' {other} ELSE 'leave' END", set_back
        other = f"WHEN kind = 'different' AND {looser} THEN 'restrict'" if rule.consent else ""
        becomes = f"CASE WHEN kind = 'only_b' THEN {back} ELSE {raised} END"
        return reason, f"CASE WHEN kind = 'only_b' THEN 'insert' {other} ELSE 'leave' END", becomes

    def _withdrawn(self, rule: StatusRule, then: str) -> str:
        """Return SQL that is true for a lost wish of the loosest kind by a person who has a stricter one now."""
        if rule.wish_of not in self.relations.columns:
            return "false"
        who, status = self.relations.columns.index(rule.wish_of), self._status
        loosest = _listed(rule.order[0])
        return (
            f"kind = 'only_b' AND {then} IN ({loosest}) AND b{who} IN"
            f" (SELECT c{who} FROM {self.relations.a}"
            f" WHERE c{who} IS NOT NULL AND decode(c{status}) NOT IN ({loosest}))"
        )

    def _status_column(self, names: Sequence[str]) -> int | None:
        if self._rule is None or self._rule.column not in names or not self.relations.key:
            return None
        at = names.index(self._rule.column)
        for column in (self._written[at], self._live[at]):
            if not pa.types.is_string(column.arrow) or column.facts.cast not in (None, "text"):
                raise SnapshotError(
                    "The column holds something else than text, so nothing says which value is stricter",
                    where=f"{self.name}.{self._rule.column}",
                    fix="correct the values, or leave the table out",
                )
        return at

    def _unkeyed_rows(self) -> int:
        empty = " OR ".join(f"c{at} IS NULL" for at in self.relations.key)
        sides = " UNION ALL ".join(
            f"SELECT 1 FROM {side} WHERE {empty}" for side in (self.relations.a, self.relations.b)
        )
        [(count,)] = self._rows(f"SELECT count(*) FROM ({sides})")
        return int(count)

    def _keys(self, condition: str) -> str:
        """Return how many differing rows meet `condition`, with the keys of the first; empty if none does."""
        shown = [self.relations.plain(at, f"coalesce(a{at}, b{at})") for at in self.relations.key]
        key = " || '/' || ".join(f"({one})" for one in shown) or "NULL::VARCHAR"
        rows = self._rows(
            f"SELECT {key}, count(*) OVER () FROM {self.relations.d} WHERE {condition} ORDER BY an, bn LIMIT {_NAMED}"
        )
        if not rows:
            return ""
        more = ", …" if rows[0][1] > len(rows) else ""
        return f"{plural(rows[0][1], 'row')} ({', '.join(str(one[0]) for one in rows)}{more})"

    # Reading and filling ------------------------------------------------------------------------------------------

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        return self._connection.execute(query).fetchall()

    def _file(self, moment: str) -> Path:
        return self._scratch / f"{self._number}-{moment}.arrow"

    def _spilled(self, reader: SourceReader, moment: str) -> list[ReadColumn]:
        """Write the database's rows to the disk as they are read now, and return how that was."""
        while True:
            self._progress.start(f"{self.name} (database)", reader.row_count(self.name))
            options = pa.ipc.IpcWriteOptions(compression="zstd")
            schema = reader.schema(self.name)
            try:
                with pa.ipc.new_file(str(self._file(moment)), schema, options=options) as out:
                    for batch in reader.batches(self.name):
                        out.write_batch(batch)
                        self._progress.advance(batch.num_rows)
            except ValueDoesNotFit:
                continue  # its column is read as text from now on, as a backup has to
            self._progress.finish()
            facts = reader.facts(self.name).columns
            return [
                ReadColumn(one, field.type, self._dialect) for one, field in zip(facts, schema, strict=True)
            ]

    def _saved(self) -> Iterator[pa.RecordBatch]:
        """Yield the snapshot's rows as they are written to the database, in the order of `n`: no erased person's."""
        schema = arrow_schema(self._entry)
        self._erased = 0
        for path in self._files:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                for saved in file.iter_batches(_BATCH_ROWS):
                    batch, gone, unlinked = without(saved, self._cuts)
                    self._erased += gone + unlinked
                    arrays = [
                        change(batch.column(at).cast(schema.field(at).type))
                        for at, change in zip(self._at, self._changes, strict=True)
                    ]
                    yield pa.RecordBatch.from_arrays(arrays, names=list(self.relations.columns))

    def _ways(self, sides: Sequence[Sequence[ReadColumn]]) -> list[list[Change]]:
        return [comparable(ways) for ways in zip(*sides, strict=True)]

    def _represent(self, sides: Sequence[Sequence[ReadColumn]]) -> None:
        """Fill both relations with bytes that compare across all `sides`."""
        ways = self._ways(sides)
        self._progress.start(f"{self.name} (snapshot)", self._entry.rows)
        self._fill(self.relations.b, self._saved(), [one[0] for one in ways])
        self._progress.finish()
        self._fill(self.relations.a, self._file("before"), [one[1] for one in ways])
        plain = [len({_way(side[at]) for side in sides}) == 1 for at in range(len(ways))]
        binary = {at for at, one in enumerate(plain) if one and pa.types.is_binary(self._live[at].arrow)}
        self.relations = replace(self.relations, binary=frozenset(binary))

    def _fill(self, relation: str, rows: Path | Iterable[pa.RecordBatch], changes: Sequence[Change]) -> None:
        columns = "".join(f", c{at} BLOB" for at in range(len(changes)))
        self._connection.execute(f"CREATE OR REPLACE TABLE {relation} (n BIGINT{columns})")
        n = 0
        for batch in self._kept(rows) if isinstance(rows, Path) else rows:
            arrays = [change(batch.column(at)) for at, change in enumerate(changes)]
            numbers = pa.array(range(n, n + batch.num_rows), pa.int64())
            names = ["n", *(f"c{at}" for at in range(len(changes)))]
            self._connection.register("filling", pa.Table.from_arrays([numbers, *arrays], names=names))
            self._connection.execute(f"INSERT INTO {relation} SELECT * FROM filling")
            self._connection.unregister("filling")
            n += batch.num_rows

    def _kept(self, path: Path) -> Iterator[pa.RecordBatch]:
        """Yield the compared columns of rows that were written to the disk."""
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as file:
            for number in range(file.num_record_batches):
                batch = file.get_batch(number)
                positions = {name: at for at, name in enumerate(file.schema.names)}
                yield batch.select([positions[name] for name in self.relations.columns])

    def _chosen(self, action: Action, columns: Sequence[int]) -> Iterator[pa.RecordBatch]:
        """Yield the rows to write in that way, with `columns` alone and the status that was decided."""
        n = 0
        for batch in self._saved():
            picked = self._connection.sql(
                f"SELECT bn - {n} AS at, becomes FROM {self.relations.d}"
                f" WHERE action = '{action}' AND bn >= {n} AND bn < {n + batch.num_rows} ORDER BY bn"
            ).to_arrow_table()
            n += batch.num_rows
            if picked.num_rows == 0:
                continue
            rows = batch.take(picked.column("at").combine_chunks())
            if self._status is not None:
                status = picked.column("becomes").combine_chunks().cast(pa.string())
                rows = rows.set_column(self._status, self.relations.columns[self._status], status)
            self._progress.advance(rows.num_rows)
            yield rows.select(list(columns))


_REASONS = {
    "another": "{rows} of somebody else in the database: left alone",
    "sending": "{rows} sending or scheduled in the database: left alone, pause them first",
    "withdrawn": "{rows} of persons who have opted out since: not brought back",
}


def _way(column: ReadColumn) -> tuple[pa.DataType, str | None, str | None, str]:
    return column.arrow, column.facts.cast, column.facts.form, column.dialect


def _listed(values: Iterable[str]) -> str:
    return ", ".join(map(sql_text, values)) or "NULL"


def _case(value: str, cases: Mapping[str, str], otherwise: str) -> str:
    whens = "".join(f" WHEN {sql_text(one)} THEN {sql_text(other)}" for one, other in cases.items())
    return f"CASE {value}{whens} ELSE {otherwise} END" if whens else otherwise


def _rank(value: str, rule: StatusRule) -> str:
    """Return SQL for how strict a status is; one that nobody knows is stricter than the loosest only."""
    whens = "".join(f" WHEN {value} IN ({_listed(group)}) THEN {at}" for at, group in enumerate(rule.order))
    return f"CASE{whens} ELSE 0.5 END"


def write_differences(
    connection: duckdb.DuckDBPyConnection,
    folder: Path,
    relations: Mapping[str, Relations],
    tables: Sequence[MergedTable],
) -> None:
    """Write every differing row as Parquet, a file a table, and `summary.parquet` with the counts.

    The files hold personal data: only their owner may read them.
    """
    folder.mkdir(mode=0o700, parents=True)
    summary: list[tuple[str, str | None, str | None, str, int]] = []
    for number, table in enumerate(tables, 1):
        file = None
        if table.name in relations and (table.only_in_snapshot or table.only_in_database or table.different):
            file = f"{number:03d}-{re.sub('[^A-Za-z0-9_-]+', '_', table.name)[:60]}.parquet"
            _write_rows(connection, folder / file, relations[table.name])
        kinds = ("only_in_snapshot", "only_in_database", "different", "inserted", "updated", "restricted")
        summary += [(table.name, file, None, kind, getattr(table, kind)) for kind in kinds]
        summary += [(table.name, file, column, "different", count) for column, count in table.columns.items()]
    columns = ("table", "file", "column", "kind", "rows")
    pq.write_table(
        pa.table(
            {name: [row[at] for row in summary] for at, name in enumerate(columns)},
            schema=pa.schema([(name, pa.int64() if name == "rows" else pa.string()) for name in columns]),
        ),
        folder / "summary.parquet",
    )


def _write_rows(connection: duckdb.DuckDBPyConnection, path: Path, relations: Relations) -> None:
    kind = _case("kind", {"only_a": "only_in_database", "only_b": "only_in_snapshot"}, "kind")
    wanted = {
        "kind": kind,
        "action": "action",
        "status_becomes": "CASE WHEN action <> 'leave' THEN becomes END",
    }
    for at in relations.key:
        wanted[f"key.{relations.columns[at]}"] = relations.shown(at, f"coalesce(a{at}, b{at})")
    for at, name in enumerate(relations.columns):
        wanted[f"database.{name}"] = relations.shown(at, f"a{at}")
        wanted[f"snapshot.{name}"] = relations.shown(at, f"b{at}")
    values = ", ".join(f"CAST({one} AS VARCHAR) AS v{at}" for at, one in enumerate(wanted.values()))
    schema = pa.schema([(name, pa.string()) for name in wanted], {"table": relations.table})
    reader = connection.sql(f"SELECT {values} FROM {relations.d} ORDER BY kind, bn, an").to_arrow_reader(
        _BATCH_ROWS
    )
    with pq.ParquetWriter(path, schema, compression="zstd") as out:
        for batch in reader:
            arrays = [column.cast(pa.string()) for column in batch.columns]
            out.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
