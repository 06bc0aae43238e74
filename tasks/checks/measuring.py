"""Measuring tables in few statements: all aggregates of a table in one, keys in another, and only what is not kept.

Knows nothing of Great Expectations. Everything is measured by segment and put together, so that the measure is that of
the whole table whichever segments were read; a property test holds it against the table in one piece.
"""

# ruff: noqa: S608 - every name passes `quote`, every value `literal`

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tasks.checks.kept import Kept, Keys, as_json, can_keep, digest_asked, from_json
from tasks.checks.measures import (
    BadRows,
    HasType,
    Measure,
    Mergeable,
    Misadded,
    Orphans,
    OutOfRange,
    Quantiles,
    Repeats,
    Steps,
    Whole,
)
from tasks.checks.sql import quote
from tasks.snapshots import parquet_scan

if TYPE_CHECKING:
    import duckdb

_INTEGER = re.compile(r"^(TINYINT|SMALLINT|INTEGER|BIGINT|UTINYINT|USMALLINT|UINTEGER)$")
_MOMENT = re.compile(r"^(DATE|TIMESTAMP(_S|_MS|_NS)?( WITH TIME ZONE)?)$")
_NESTED = re.compile(r"^(STRUCT|MAP|UNION|VARIANT)|\[\d*\]$")
_BATCH_ROWS = 131_072
_SUSPECTS = 10_000
_DISTINCT = 50_000  # numbers of a column that are counted one by one
_NO_KEYS: Keys = np.empty(0, np.uint64)
_MANY = 8  # new keys are looked up among the old ones while there are at least this many times more of those


@dataclass(frozen=True)
class Table:
    """A table as its segments.

    Attributes:
        files: the Parquet files in the order of the rows, at least one.
        segments: the SHA-256 of each file; empty where it is not known: then nothing of it is kept.
        columns: the DuckDB type of every column.
        personal: columns that hold personal data: nothing of their values is kept.
    """

    files: tuple[str, ...]
    columns: Mapping[str, str]
    segments: tuple[str, ...] = ()
    personal: frozenset[str] = frozenset()

    @cached_property
    def tells(self) -> bool:
        """Whether DuckDB tells the segments apart: a column of the table may have the name it does it by."""
        return all(column.lower() != "file_index" for column in self.columns)


@dataclass
class Answer:
    """What was measured.

    Attributes:
        value: the measure; a count for measures of bad rows.
        error: why it could not be measured; empty if it could.
        by_segment: bad rows of each segment, where they are known.
        keys: of repeated keys those that repeat.
    """

    value: Any = None
    error: str = ""
    by_segment: tuple[int, ...] = ()
    keys: Keys | None = None


@dataclass
class _Listed:
    """The keys of one segment, read when they are needed, and what is known of them without reading."""

    count: int
    low: int
    high: int
    ascending: bool
    keys: Keys | None = None


class Measurer:
    """Measures the tables of one snapshot over one DuckDB connection.

    Args:
        connection: where the tables are views by their name.
        tables: the tables.
        kept: what earlier runs kept; None: everything is read, nothing is kept.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, tables: Mapping[str, Table], kept: Kept | None = None
    ) -> None:
        self.connection = connection
        self.tables = tables
        self.statements: list[str] = []
        self._kept = kept
        self._answers: dict[tuple[str, Measure], Answer] = {}
        self._listed: dict[tuple[str, tuple[str, ...]], list[_Listed]] = {}
        self._rows: dict[str, list[int]] = {}

    def measure(self, name: str, measures: Iterable[Measure]) -> dict[Measure, Answer]:
        """Return an answer to every measure of the table `name`; what was asked before is not read again."""
        wanted = list(dict.fromkeys(measures))
        todo = [one for one in wanted if (name, one) not in self._answers]
        if todo:
            self._answers |= {(name, one): answer for one, answer in self._all(name, todo).items()}
            if self._kept is not None and self._segment(name, 0):
                self._kept.keep_figures(name)
        return {one: self._answers[name, one] for one in wanted}

    def examples(
        self, name: str, measures: Iterable[Measure], columns: Sequence[str], most: int
    ) -> dict[Measure, list[tuple[Any, ...]]]:
        """Return the values of `columns` in a few bad rows that each of `measures` counted, smallest first.

        Only as many segments as hold that many bad rows are read, from the first one on; all in one statement.
        """
        found: dict[Measure, list[tuple[Any, ...]]] = {}
        asked, repeated, named = {}, {}, {}
        kept = self._kept_examples(name)
        for at, one in enumerate(dict.fromkeys(measures)):
            answer = self._answers[name, one]
            if not answer.value:
                continue
            enough = most if answer.keys is None else most * _MANY  # many rows may share a key
            read = _first(answer.by_segment, enough)
            if digest := self._asked_examples(name, one, columns, most, read):
                named[digest] = one
            if (known := kept.get(digest)) is not None:
                found[one] = [tuple(map(from_json, row)) for row in known]
                continue
            held = f"mailstay_repeated_{at}"
            if isinstance(one, Repeats) and answer.keys is not None:
                repeated[held] = self._keys_table(name, one, answer.keys)
            source, where = self._bad(name, one, self._scan(name, read), held)
            listed = ", ".join(f"here.{quote(column)}" for column in columns)
            asked[one] = (
                f"SELECT DISTINCT {listed} FROM {source} WHERE {where} ORDER BY ALL LIMIT {int(most)}"
            )
        if asked:
            numbered = [f"SELECT {at}, * FROM ({query})" for at, query in enumerate(asked.values())]
            with self._held(**repeated):
                rows = self._ask(" UNION ALL ".join(numbered))
            found |= {one: [row[1:] for row in rows if row[0] == at] for at, one in enumerate(asked)}
        self._keep_examples(name, {digest: found[one] for digest, one in named.items()})
        return found

    # ---- one table

    def _all(self, name: str, todo: list[Measure]) -> dict[Measure, Answer]:
        table = self.tables[name]
        answers: dict[Measure, Answer] = {}
        for one in todo:
            if absent := sorted(set(one.columns) - set(table.columns)):
                answers[one] = Answer(error=f"there is no column {', '.join(absent)}")
            elif isinstance(one, HasType):
                answers[one] = Answer(int(re.search(one.family, table.columns[one.column]) is None))
        ask = [one for one in todo if one not in answers]
        answers |= self._merge(
            name, [one for one in ask if isinstance(one, Mergeable)], self._edges(name, ask)
        )
        listing = [one for one in ask if isinstance(one, Repeats | Steps) and self._listable(table, one)]
        self._list(name, [one.columns for one in listing])
        for one in ask:
            if one not in answers and not isinstance(one, Whole | Quantiles):
                try:
                    answers[one] = self._other(name, one)
                except _duckdb_error() as error:
                    answers[one] = Answer(error=str(error))
        for (of, _), listed in self._listed.items():
            for each in listed if of == name else ():
                each.keys = None
        quantiles = {one: self._quantiles(name, one) for one in ask if isinstance(one, Quantiles)}
        answers |= {one: answer for one, answer in quantiles.items() if answer is not None}
        return answers | self._whole(
            name, [one for one in ask if isinstance(one, Whole | Quantiles) and one not in answers]
        )

    def _other(self, name: str, measure: Measure) -> Answer:
        match measure:
            case Repeats():
                return self._repeats(name, measure)
            case Steps():
                return self._steps(name, measure)
            case Orphans():
                return self._orphans(name, measure)
            case Misadded():
                return self._misadded(name, measure)
        raise TypeError(f"{type(measure).__name__} is measured elsewhere")

    def _merge(
        self, name: str, merging: list[Mergeable], also: Mapping[str, tuple[str, ...]]
    ) -> dict[Measure, Answer]:
        """Answer all that aggregates of the segments answer; `also` are taken for later in the same pass."""
        parts = {one: one.parts() for one in merging}
        asked = {part: one.columns for one in merging for part in parts[one]}
        found, errors = self._parts(name, {**asked, **also})
        answers: dict[Measure, Answer] = {}
        for one in merging:
            if broken := [errors[part] for part in parts[one] if part in errors]:
                answers[one] = Answer(error=broken[0])
                continue
            rows = [[segment[part] for part in parts[one]] for segment in found]
            if isinstance(one, OutOfRange):
                answers[one] = self._out_of_range(name, one, rows)
            elif isinstance(one, BadRows) and one.free and any(row[1] for row in rows):
                answers[one] = Answer(error=self._reason(name, one))
            elif isinstance(one, BadRows):
                answers[one] = Answer(one.merged(rows), by_segment=tuple(int(row[0] or 0) for row in rows))
            else:
                answers[one] = Answer(one.merged(rows))
        return answers

    def _out_of_range(self, name: str, measure: OutOfRange, edges: list[list[Any]]) -> Answer:
        """Count the moments outside of bounds in the segments whose edges do not lie within."""
        outside = [at for at, row in enumerate(edges) if measure.outside(row)]
        counts = [0] * len(edges)
        part = f"count_if({measure.where})"
        found, errors = self._parts(name, {part: measure.columns}, outside) if outside else ([], {})
        if errors:
            return Answer(error=errors[part])
        for at, segment in zip(outside, found, strict=True):
            counts[at] = int(segment[part] or 0)
        return Answer(sum(counts), by_segment=tuple(counts))

    def _parts(
        self, name: str, columns: Mapping[str, tuple[str, ...]], among: Sequence[int] | None = None
    ) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """Return each segment's aggregates by their SQL, and why some could not be taken.

        Segments that lack the same aggregates are read together: after a first run these are the new ones.

        Args:
            name: the table.
            columns: the columns that each aggregate uses.
            among: positions of the segments; None: all.
        """
        table = self.tables[name]
        digests = {
            part: digest_asked(part, table.columns)
            for part, used in columns.items()
            if not self._gives_value(table, part, used)
        }
        kept = self._figures_of(name)
        found: dict[int, dict[str, Any]] = {}
        lacking: dict[tuple[str, ...], list[int]] = {}
        for at in range(self._pieces(name)) if among is None else among:
            known = kept.get(self._segment(name, at), {})
            found[at] = {
                part: from_json(known[digest]) for part, digest in digests.items() if digest in known
            }
            if missing := tuple(part for part in columns if part not in found[at]):
                lacking.setdefault(missing, []).append(at)
        errors: dict[str, str] = {}
        for parts, read in lacking.items():
            rows, broken = self._aggregate(name, list(parts), read)
            errors |= broken
            for at, row in zip(read, rows, strict=True):
                found[at] |= row
                if segment := self._segment(name, at):
                    kept.setdefault(segment, {}).update(
                        {
                            digests[part]: as_json(value)
                            for part, value in row.items()
                            if part in digests and (can_keep(value) or part.startswith("histogram("))
                        }
                    )
        return list(found.values()), errors

    def _aggregate(
        self, name: str, parts: list[str], read: Sequence[int]
    ) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """Read segments once for all aggregates; those that DuckDB refuses are found by asking it what they mean."""
        try:
            return self._aggregated(name, parts, read), {}
        except _duckdb_error() as first:
            errors = {part: why for part in parts if (why := self._refused(name, part))}
            if not errors:  # it failed on a value: each by itself, once
                rows: list[dict[str, Any]] = [{} for _ in read]
                for part in parts:
                    try:
                        for row, more in zip(rows, self._aggregated(name, [part], read), strict=True):
                            row.update(more)
                    except _duckdb_error() as error:
                        errors[part] = str(error)
                return rows, errors or {part: str(first) for part in parts}
        good = [part for part in parts if part not in errors]
        if not good:
            return [{} for _ in read], errors
        rows, more_errors = self._aggregate(name, good, read)
        return rows, errors | more_errors

    def _aggregated(self, name: str, parts: list[str], read: Sequence[int]) -> list[dict[str, Any]]:
        listed = ", ".join(parts)
        rows = self._ask(f"SELECT {self._at(name)}, {listed} FROM {self._scan(name, read)} here GROUP BY 1")
        by_file = {int(row[0]): dict(zip(parts, row[1:], strict=True)) for row in rows}
        return [by_file.get(at, dict.fromkeys(parts)) for at in range(len(read))]

    def _refused(self, name: str, part: str) -> str:
        """Return why DuckDB cannot make sense of an aggregate; empty if it can. Reads nothing."""
        try:
            self._ask(f"EXPLAIN SELECT {part} FROM {quote(name)} here")
        except _duckdb_error() as error:
            return str(error)
        return ""

    def _reason(self, name: str, measure: BadRows) -> str:
        """Return what DuckDB says of the first row for which a condition cannot be evaluated."""
        try:
            self._ask(f"SELECT count_if({measure.where}) FROM {quote(name)}")
        except _duckdb_error() as error:
            return str(error)
        return "it cannot be evaluated for every row"

    def _whole(self, name: str, measures: Sequence[Whole | Quantiles]) -> dict[Measure, Answer]:
        if not measures:
            return {}
        asked = [one.expression for one in measures]
        try:
            (row,) = self._ask(f"SELECT {', '.join(asked)} FROM {quote(name)}")
            return {one: Answer(value) for one, value in zip(measures, row, strict=True)}
        except _duckdb_error() as error:
            if len(measures) == 1:
                return {measures[0]: Answer(error=str(error))}
            return {one: answer for each in measures for one, answer in self._whole(name, [each]).items()}

    def _quantiles(self, name: str, measure: Quantiles) -> Answer | None:
        """Answer from how often each number occurs, which is kept; None where there are too many, or no numbers."""
        table, column = self.tables[name], measure.column
        whole = _INTEGER.match(table.columns[column])
        if not whole and table.columns[column] not in ("FLOAT", "DOUBLE"):
            return None
        if not self._segment(name, 0) or column in table.personal or not measure.exact:
            return None
        spread = self._spread(name, column, np.int64 if whole else np.float64)
        return Answer(measure.of(*spread)) if spread is not None else None

    def _spread(
        self, name: str, column: str, kind: type[np.int64 | np.float64]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]] | None:
        """Return the numbers of a column in order and how often each occurs; None if they are too many to keep."""
        assert self._kept is not None
        segments = self.tables[name].segments
        asked = digest_asked("occurring", column, self.tables[name].columns)
        figures = self._kept.figures(name).setdefault("occurring", {})
        noted = figures.get(asked, {})
        if noted.get("many"):
            return None
        before, now = Counter(noted.get("segments", ())), Counter(segments)
        pairs = {segment: self._kept.keys(segment, asked) for segment in before - now}
        if any(pair is None for pair in pairs.values()):  # what has gone is not known: all is counted again
            noted, before, pairs = {}, Counter(), {}
        values = [np.array(noted.get("values", ()), kind)]
        counts = [np.array(noted.get("counts", ()), np.int64)]
        came = [segments.index(segment) for segment in now - before]
        for segment, pair in itertools.chain(pairs.items(), self._occurring(name, column, kind, asked, came)):
            one, times = pair.reshape(2, -1)  # type: ignore[union-attr]
            values.append(one.view(kind))
            counts.append(times.view(np.int64) * (now[segment] - before[segment]))
            if sum(map(len, values)) > 4 * _DISTINCT:
                values, counts = map(list, zip(_added(values, counts), strict=True))
            if len(values[0]) > _DISTINCT:
                figures[asked] = {"many": True}
                return None
        found, times = _added(values, counts)
        if len(found) > _DISTINCT:
            figures[asked] = {"many": True}
            return None
        figures[asked] = {"segments": list(segments), "values": found.tolist(), "counts": times.tolist()}
        return found, times

    def _occurring(
        self, name: str, column: str, kind: type[np.int64 | np.float64], asked: str, places: Sequence[int]
    ) -> Iterator[tuple[str, Keys]]:
        """Yield of segments the numbers of a column and how often each occurs, one after the other; they are kept."""
        if not places:
            return
        assert self._kept is not None
        sql = f"CAST(here.{quote(column)} AS {'BIGINT' if kind is np.int64 else 'DOUBLE'})"
        for at, (numbers,) in zip(places, self._read_numbers(name, [sql], places), strict=True):
            values, counts = np.unique(numbers.view(kind), return_counts=True)
            pair = np.concatenate([values.view(np.uint64), counts.astype(np.int64).view(np.uint64)])
            self._kept.keep_keys(self._segment(name, at), asked, pair)
            yield self._segment(name, at), pair

    # ---- keys

    def _listable(self, table: Table, measure: Repeats | Steps) -> bool:
        types = [table.columns[column] for column in measure.columns]
        if isinstance(measure, Steps):
            return bool(_INTEGER.match(types[0]) or _MOMENT.match(types[0]))
        return not any(_NESTED.search(kind) for kind in types)

    def _key(self, table: Table, columns: Sequence[str]) -> tuple[str, bool]:
        """Return the SQL of a key as 64 bits, null where a part is missing, and whether it is the value itself.

        A hash finds every repeated key, and perhaps two that are different: what it finds is compared by value.
        """
        if len(columns) == 1:
            kind = table.columns[columns[0]]
            if _INTEGER.match(kind):
                return f"CAST(here.{quote(columns[0])} AS BIGINT)", True
            if kind == "DATE":
                return f"CAST(epoch(here.{quote(columns[0])}) AS BIGINT)", True
            if _MOMENT.match(kind):
                return f"epoch_{'ns' if kind == 'TIMESTAMP_NS' else 'us'}(here.{quote(columns[0])})", True
        listed = [f"here.{quote(column)}" for column in columns]
        there = " AND ".join(f"{one} IS NOT NULL" for one in listed)
        return f"CASE WHEN {there} THEN hash({', '.join(listed)}) END", False

    def _list(self, name: str, wanted: Iterable[tuple[str, ...]]) -> None:
        """Read the keys of all `wanted` columns in one statement, from the segments whose keys are not kept."""
        todo = [one for one in dict.fromkeys(wanted) if (name, one) not in self._listed]
        if not todo:
            return
        known: dict[tuple[str, ...], dict[int, _Listed]] = {one: self._kept_list(name, one) for one in todo}
        read = [at for at in range(self._pieces(name)) if any(at not in known[one] for one in todo)]
        if read:
            for at, arrays in zip(read, self._read_keys(name, todo, read), strict=True):
                for one, (keys, signed) in zip(todo, arrays, strict=True):
                    known[one][at] = _listed(keys, signed)
                    self._keep_list(name, one, at, known[one][at])
        for one in todo:
            self._listed[name, one] = [known[one][at] for at in range(self._pieces(name))]

    def _read_keys(
        self, name: str, wanted: Sequence[tuple[str, ...]], read: Sequence[int]
    ) -> Iterator[list[tuple[Keys, bool]]]:
        """Yield per segment the keys of each of `wanted`, and whether they are the values themselves."""
        asked = [self._key(self.tables[name], one) for one in wanted]
        for arrays in self._read_numbers(name, [sql for sql, _ in asked], read):
            yield [(keys, exact) for keys, (_, exact) in zip(arrays, asked, strict=True)]

    def _read_numbers(self, name: str, asked: Sequence[str], read: Sequence[int]) -> Iterator[list[Keys]]:
        """Yield per segment what each expression of 64 bits gives, without nulls, in the order of the rows."""
        listed = ", ".join(f"{sql} AS k{at}" for at, sql in enumerate(asked))
        query = f"SELECT {self._at(name)}, {listed} FROM {self._scan(name, read)} here"
        self.statements.append(query)
        reader = self.connection.sql(query).to_arrow_reader(_BATCH_ROWS)
        open_segment, pieces = 0, [[] for _ in asked]  # type: ignore[var-annotated]

        def finished() -> list[Keys]:
            return [np.concatenate(piece) if piece else _NO_KEYS for piece in pieces]

        for batch in reader:
            ends = np.asarray(batch.column(0))
            for start, end in _runs(ends):
                while int(ends[start]) > open_segment:
                    yield finished()
                    open_segment, pieces = open_segment + 1, [[] for _ in asked]
                for piece, column in zip(pieces, batch.columns[1:], strict=True):
                    values = column.slice(start, end - start).drop_null()
                    piece.append(values.to_numpy(zero_copy_only=False).view(np.uint64))
        for _ in range(open_segment, len(read)):
            yield finished()
            pieces = [[] for _ in asked]

    def _repeats(self, name: str, measure: Repeats) -> Answer:
        table, columns = self.tables[name], measure.columns
        if not self._listable(table, measure):
            return self._repeats_by_value(name, measure)
        self._list(name, [columns])
        listed = self._listed[name, columns]
        _, exact = self._key(table, columns)
        there = sorted((one for one in listed if one.count), key=lambda one: one.low)
        apart = all(one.high < other.low for one, other in pairwise(there))
        unique = Answer(0, by_segment=(0,) * len(listed))
        if exact and apart and all(one.ascending for one in there):
            return unique
        held = self._suspects(name, measure)
        answer = self._counted(name, measure, held) if any(map(len, held)) else unique
        self._note_repeated(name, measure, held, answer)
        return answer

    def _suspects(self, name: str, measure: Repeats) -> list[Keys]:
        """Return of each segment the keys that may occur twice, as often as it has them.

        Segments that were compared before are compared only with new ones, and only where they may hold the same keys.
        """
        columns, places = measure.columns, range(self._pieces(name))
        before, noted = self._repeated_before(name, measure)
        new = []
        for at in places:  # a segment that stands there once more than before was not compared with itself
            if before[segment := self._segment(name, at)]:
                before[segment] -= 1
            else:
                new.append(at)
        rows = [one.count for one in self._listed[name, columns]]
        if sum(rows[at] for at in new) * _MANY > sum(rows):
            return self._found(name, columns, _twice(self._arrays(name, columns, places)), places)
        fresh = np.sort(np.concatenate([_NO_KEYS, *self._arrays(name, columns, new)]))
        twice = fresh[1:][fresh[1:] == fresh[:-1]]
        near = self._near(name, measure, new)
        found = dict(zip(near, self._found(name, columns, fresh, near), strict=True))
        old = np.concatenate([_NO_KEYS, *noted.values()])
        suspects = np.unique(np.concatenate([old, twice, *found.values()]))
        held = dict(zip(new, self._found(name, columns, suspects, new), strict=True))
        for at in places:
            if at not in held:
                more = found.get(at, _NO_KEYS)
                known = noted.get(self._segment(name, at), _NO_KEYS)
                held[at] = np.concatenate([known, more[~np.isin(more, old)]]) if len(more) else known
        return [held[at] for at in places]

    def _edges(self, name: str, measures: Iterable[Measure]) -> dict[str, tuple[str, ...]]:
        """Return the aggregates that bound the parts of keys of several columns, where they may be kept."""
        if not self._segment(name, 0):
            return {}
        table = self.tables[name]
        return {
            f"{edge}({key})": (column,)
            for one in measures
            if isinstance(one, Repeats) and len(one.columns) > 1
            for column in one.columns
            if column in table.columns and column not in table.personal
            for key, exact in [self._key(table, [column])]
            if exact
            for edge in ("min", "max")
        }

    def _near(self, name: str, measure: Repeats, new: Sequence[int]) -> list[int]:
        """Return the places of other segments that no part of the key keeps apart from all `new` ones."""
        edges = self._edges(name, [measure])
        others = [at for at in range(self._pieces(name)) if at not in set(new)]
        found, errors = self._parts(name, edges)
        if errors or not edges or not new:
            return others if new else []
        # A segment without a value has no key either: its lowest is above its highest, so that it is near to none.
        ends = np.array(
            [[2 - at % 2 if one[p] is None else one[p] for at, p in enumerate(edges)] for one in found]
        )
        low, high = ends[:, 0::2], ends[:, 1::2]
        return [at for at in others if ((low[at] <= high[new]) & (high[at] >= low[new])).all(axis=1).any()]

    def _found(self, name: str, columns: tuple[str, ...], some: Keys, places: Sequence[int]) -> list[Keys]:
        """Return which of the keys `some` each segment holds; only those are read whose ends have one between them."""
        listed = self._listed[name, columns]
        _, exact = self._key(self.tables[name], columns)
        values = np.sort(some.view(np.int64) if exact else some)
        kind = values.dtype.type
        near = [
            at
            for at in places
            if listed[at].count
            and np.searchsorted(values, kind(listed[at].low))
            < np.searchsorted(values, kind(listed[at].high), side="right")
        ]
        if not near:
            return [_NO_KEYS for _ in places]
        among = _finder(some)
        found = {
            at: keys[among(keys)] for at, keys in zip(near, self._arrays(name, columns, near), strict=True)
        }
        return [found.get(at, _NO_KEYS) for at in places]

    def _counted(self, name: str, measure: Repeats, held: list[Keys]) -> Answer:
        """Count the rows of repeated keys; those of hashes by value, in the segments that hold one."""
        key, exact = self._key(self.tables[name], measure.columns)
        if exact:
            keys, times = np.unique(np.concatenate(held), return_counts=True)
            repeated, count = keys[times > 1], int(times[times > 1].sum())
        else:
            count, repeated = self._counted_by_value(name, measure, key, held)
        found = tuple(int(np.isin(keys, repeated).sum()) if len(keys) else 0 for keys in held)
        return Answer(count, by_segment=found, keys=repeated)

    def _counted_by_value(self, name: str, measure: Repeats, key: str, held: list[Keys]) -> tuple[int, Keys]:
        """Return how many rows repeat their values, and the keys of those; read only where that may have changed."""
        holding = [at for at, keys in enumerate(held) if len(keys)]
        suspects = np.unique(np.concatenate(held))
        asked = self._asked_count(name, held)
        known = self._noted(name, measure).get("counted", {})
        if known.get("asked") == asked:
            return known["count"], np.array(known["keys"], np.uint64)
        listed = ", ".join(f"here.{quote(column)}" for column in measure.columns)
        scan = self._scan(name, holding)
        with self._held(mailstay_repeated=self._keys_table(name, measure, suspects)):
            groups = self._ask(
                f"SELECT any_value({key}), count(*) FROM {scan} here "
                f"WHERE {key} IN (FROM mailstay_repeated) GROUP BY {listed} HAVING count(*) > 1"
            )
        repeated = np.unique(np.array([group[0] for group in groups], dtype=np.uint64))
        return sum(int(group[1]) for group in groups), repeated

    def _keys_table(self, name: str, measure: Repeats, keys: Keys) -> Any:
        _, exact = self._key(self.tables[name], measure.columns)
        return _arrow(mailstay_key=keys.view(np.int64) if exact else keys)

    def _repeats_by_value(self, name: str, measure: Repeats) -> Answer:
        listed = ", ".join(map(quote, measure.columns))
        there = " AND ".join(f"{quote(column)} IS NOT NULL" for column in measure.columns)
        ((count,),) = self._ask(
            f"SELECT coalesce(sum(n), 0) FROM (SELECT count(*) AS n FROM {quote(name)} WHERE {there} "
            f"GROUP BY {listed} HAVING count(*) > 1)"
        )
        return Answer(int(count))

    def _steps(self, name: str, measure: Steps) -> Answer:
        """Count values that do not rise (or fall); in the order of the rows, across the ends of segments."""
        if not self._listable(self.tables[name], measure):
            sign = ("<" if measure.strictly else "<=") if measure.up else (">" if measure.strictly else ">=")
            column = quote(measure.column)
            ((count,),) = self._ask(
                f"SELECT count_if(NOT (before {sign} now)) FROM "
                f"(SELECT {column} AS now, lag({column}) OVER () AS before FROM {quote(name)} "
                f"WHERE {column} IS NOT NULL) WHERE before IS NOT NULL"
            )
            return Answer(int(count))
        listed = self._listed[name, measure.columns]
        rough = [at for at, one in enumerate(listed) if one.count and not (one.ascending and measure.up)]
        arrays = dict(zip(rough, self._arrays(name, measure.columns, rough), strict=True))
        counts, before = [], np.empty(0, np.int64)
        for at, one in enumerate(listed):
            ends = np.array(
                [one.low, one.high][: one.count], np.int64
            )  # all that matters of an ascending list
            values = np.concatenate([before, arrays[at].view(np.int64) if at in arrays else ends])
            now, last = (values[1:], values[:-1]) if measure.up else (values[:-1], values[1:])
            counts.append(int(((now <= last) if measure.strictly else (now < last)).sum()))
            before = values[-1:]
        return Answer(sum(counts), by_segment=tuple(counts))

    def _arrays(self, name: str, columns: tuple[str, ...], places: Sequence[int]) -> list[Keys]:
        """Return the keys of segments; what is neither in memory nor kept is read."""
        listed = self._listed[name, columns]
        asked = self._asked_keys(name, columns)
        missing = []
        for at in places:
            keys = listed[at].keys
            if keys is None and self._kept is not None and (segment := self._segment(name, at)):
                keys = self._kept.keys(segment, asked)
            if keys is None or len(keys) != listed[at].count:
                missing.append(at)
            else:
                listed[at].keys = keys
        if missing:
            for at, ((keys, _),) in zip(missing, self._read_keys(name, [columns], missing), strict=True):
                listed[at].keys = keys
        return [found for at in places if (found := listed[at].keys) is not None]

    # ---- other tables

    def _orphans(self, name: str, measure: Orphans) -> Answer:
        """Count rows without their parent; a segment that had none keeps having none while no parent has gone."""
        parent = self.tables.get(measure.table)
        if parent is None or (gone := set(measure.referred) - set(parent.columns)):
            what = (
                f"the table {measure.table} is missing" if parent is None else f"{measure.table} lacks {gone}"
            )
            return Answer(error=what)
        places = range(self._pieces(name))
        known = self._known_orphans(name, measure)
        stale = [at for at in places if self._segment(name, at) not in known]
        counts = {at: known[self._segment(name, at)] for at in places if at not in set(stale)}
        if stale:
            source, where = self._bad(name, measure, self._scan(name, stale))
            rows = self._ask(f"SELECT {self._at(name)}, count(*) FROM {source} WHERE {where} GROUP BY 1")
            counts |= dict.fromkeys(stale, 0) | {stale[int(row[0])]: int(row[1]) for row in rows}
        listed = tuple(counts[at] for at in places)
        self._note_orphans(name, measure, listed)
        return Answer(sum(listed), by_segment=listed)

    def _misadded(self, name: str, measure: Misadded) -> Answer:
        """Count numbers that are not the sum of theirs; sums of whole numbers by a whole number are kept by segment."""
        there = self.tables.get(measure.table)
        if there is None:
            return Answer(error=f"the table {measure.table} is missing")
        by_segment = self._sums_by_segment(there, measure)
        sums = "mailstay_sums" if by_segment else f"({measure.summed(quote(measure.table))})"
        source, where = measure.source(quote(name), sums)
        with self._held(**({"mailstay_sums": self._sums(measure)} if by_segment else {})):
            ((count,),) = self._ask(f"SELECT count(*) FROM {source} WHERE {where}")
        return Answer(int(count))

    def _sums_by_segment(self, there: Table, measure: Misadded) -> bool:
        by = [column for _, column in measure.by]
        return (
            len(by) == 1
            and by[0] in there.columns
            and _INTEGER.match(there.columns[by[0]]) is not None
            and (measure.sum_of is None or _INTEGER.match(there.columns.get(measure.sum_of, "")) is not None)
            and not {*by, measure.sum_of} & there.personal
        )

    def _sums(self, measure: Misadded) -> Any:
        """Return the sums over all segments, as Arrow; those of a segment are pairs of numbers."""
        name, by = measure.table, measure.by[0][1]
        asked = digest_asked(measure.summed("there"), self.tables[name].columns)
        known: dict[int, npt.NDArray[np.int64]] = {}
        for at in range(self._pieces(name)):
            segment = self._segment(name, at)
            keys = self._kept.keys(segment, asked) if self._kept is not None and segment else None
            if keys is not None:
                known[at] = keys.view(np.int64).reshape(2, -1)
        read = [at for at in range(self._pieces(name)) if at not in known]
        if read:
            summed = measure.summed(f"{self._scan(name, read)} here", self._at(name))
            rows = self._arrow_of(
                f"SELECT piece, CAST(k AS BIGINT), CAST(s AS BIGINT) FROM ({summed}) summed(piece, k, s) "
                f"WHERE k IS NOT NULL AND s IS NOT NULL ORDER BY ALL"
            )
            places, *pair = [np.asarray(column) for column in rows.columns]
            ends = np.searchsorted(places, np.arange(len(read) + 1))
            for at, start, end in zip(read, ends[:-1], ends[1:], strict=True):
                known[at] = np.stack([pair[0][start:end], pair[1][start:end]]).astype(np.int64)
                if self._kept is not None and (segment := self._segment(name, at)):
                    self._kept.keep_keys(segment, asked, known[at].reshape(-1).view(np.uint64))
        keys, sums = np.concatenate([known[at] for at in range(self._pieces(name))], axis=1)
        groups, place = np.unique(keys, return_inverse=True)
        total = np.zeros(len(groups), np.int64)
        np.add.at(total, place, sums)
        return _arrow(**{by: groups, "mailstay_sum": total})

    # ---- what is kept

    def _segment(self, name: str, at: int) -> str:
        """Return the digest of a segment that things may be kept of; empty if nothing may."""
        table = self.tables[name]
        return table.segments[at] if self._kept is not None and table.segments and table.tells else ""

    def _figures_of(self, name: str) -> dict[str, Any]:
        if self._kept is None or not self._segment(name, 0):
            return {}
        figures: dict[str, Any] = self._kept.figures(name).setdefault("segments", {})
        for segment in figures.keys() - set(self.tables[name].segments):
            del figures[segment]
        return figures

    def _gives_value(self, table: Table, part: str, used: tuple[str, ...]) -> bool:
        """Return whether an aggregate is a value of a personal column, rather than a number of rows."""
        return bool(table.personal & set(used)) and not part.startswith(("count(", "count_if("))

    def _asked_keys(self, name: str, columns: tuple[str, ...]) -> str:
        table = self.tables[name]
        return digest_asked(self._key(table, columns)[0], table.columns)

    def _kept_list(self, name: str, columns: tuple[str, ...]) -> dict[int, _Listed]:
        figures, asked = self._figures_of(name), self._asked_keys(name, columns)
        known = {at: figures.get(self._segment(name, at), {}).get(asked) for at in range(self._pieces(name))}
        return {at: _Listed(*listed) for at, listed in known.items() if listed is not None}

    def _keep_list(self, name: str, columns: tuple[str, ...], at: int, listed: _Listed) -> None:
        segment, table = self._segment(name, at), self.tables[name]
        if self._kept is None or not segment or table.personal & set(columns) or listed.keys is None:
            return
        asked = self._asked_keys(name, columns)
        self._figures_of(name).setdefault(segment, {})[asked] = [
            listed.count,
            listed.low,
            listed.high,
            listed.ascending,
        ]
        _, exact = self._key(table, columns)
        if not (exact and listed.ascending):  # the ends say nearly all of an ascending list
            self._kept.keep_keys(segment, asked, listed.keys)

    def _noted(self, name: str, measure: Repeats) -> dict[str, Any]:
        noted = self._kept.figures(name).get("repeated", {}) if self._kept is not None else {}
        found: dict[str, Any] = noted.get(self._asked_keys(name, measure.columns), {})
        return found

    def _repeated_before(self, name: str, measure: Repeats) -> tuple[Counter[str], dict[str, Keys]]:
        """Return how often each segment was compared with the others before, and its keys that were suspected then."""
        noted = self._noted(name, measure)
        held = {segment: np.array(keys, np.uint64) for segment, keys in noted.get("held", {}).items()}
        return Counter(noted.get("segments", ())), held

    def _note_repeated(self, name: str, measure: Repeats, held: list[Keys], answer: Answer) -> None:
        table = self.tables[name]
        if self._kept is None or not self._segment(name, 0) or table.personal & set(measure.columns):
            return
        noted: dict[str, Any] = {}
        holding = {table.segments[at]: keys.tolist() for at, keys in enumerate(held) if len(keys)}
        if sum(map(len, held)) <= _SUSPECTS:
            noted = {"segments": list(table.segments), "held": holding}
            if answer.keys is not None:
                asked = self._asked_count(name, held)
                noted["counted"] = {"asked": asked, "count": answer.value, "keys": answer.keys.tolist()}
        self._kept.figures(name).setdefault("repeated", {})[self._asked_keys(name, measure.columns)] = noted

    def _asked_count(self, name: str, held: list[Keys]) -> str:
        holding = [self._segment(name, at) for at, keys in enumerate(held) if len(keys)]
        return digest_asked(holding, _digest(np.unique(np.concatenate(held))))

    def _kept_examples(self, name: str) -> dict[str, list[Any]]:
        if self._kept is None or not self._segment(name, 0):
            return {}
        kept: dict[str, list[Any]] = self._kept.figures(name).get("examples", {})
        return kept

    def _asked_examples(
        self, name: str, measure: Measure, columns: Sequence[str], most: int, read: Sequence[int] | None
    ) -> str:
        """Return the digest of all that examples depend on: the question and what is read; empty if none are kept."""
        table = self.tables[name]
        other = self.tables[measure.table] if isinstance(measure, Orphans | Misadded) else table
        if not self._segment(name, 0) or not other.segments or table.personal & set(columns):
            return ""
        content = [table.segments[at] for at in (range(len(table.segments)) if read is None else read)]
        keys = self._answers[name, measure].keys
        repeated = _digest(keys) if keys is not None else ""
        elsewhere = (other.segments, other.columns) if other is not table else ()
        return digest_asked(measure, columns, most, content, elsewhere, repeated, table.columns)

    def _keep_examples(self, name: str, found: Mapping[str, list[tuple[Any, ...]]]) -> None:
        """Keep the examples of this time for the next: numbers and moments, never a text."""
        if self._kept is None or not found:
            return
        now = {
            asked: [[as_json(value) for value in row] for row in rows]
            for asked, rows in found.items()
            if all(can_keep(value) for row in rows for value in row)
        }
        if now != self._kept_examples(name):
            self._kept.figures(name)["examples"] = now
            self._kept.keep_figures(name)

    def _known_orphans(self, name: str, measure: Orphans) -> dict[str, int]:
        """Return the orphans of segments that are the same as when they were counted, in spite of other parents."""
        if self._kept is None or not self._segment(name, 0):
            return {}
        noted = self._kept.figures(name).get("orphans", {}).get(self._asked_orphans(name, measure))
        if noted is None:
            return {}
        before, now = noted["parents"], list(self.tables[measure.table].segments)
        counts: dict[str, int] = noted["counts"]
        if before == now:
            return counts
        if not self._only_more(measure, before, now):
            return {}
        return {segment: count for segment, count in counts.items() if count == 0}

    def _only_more(self, measure: Orphans, before: list[str], now: list[str]) -> bool:
        """Return whether every key that was in the parent table still is."""
        name, columns = measure.table, measure.referred
        if self._kept is None or self.tables[name].personal & set(columns):
            return False
        asked = self._asked_keys(name, columns)
        gone = [self._kept.keys(segment, asked) for segment in before if segment not in set(now)]
        if any(keys is None for keys in gone):
            return False
        lost = np.unique(
            np.concatenate([keys for keys in gone if keys is not None] or [np.empty(0, np.uint64)])
        )
        if not len(lost):
            return True
        self._list(name, [columns])
        fresh = self._arrays(
            name, columns, [at for at, segment in enumerate(now) if segment not in set(before)]
        )
        came = np.unique(np.concatenate(fresh)) if fresh else np.empty(0, np.uint64)
        return bool(np.isin(lost, came, assume_unique=True).all())

    def _note_orphans(self, name: str, measure: Orphans, counts: tuple[int, ...]) -> None:
        parent = self.tables[measure.table]
        if self._kept is None or not self._segment(name, 0) or not self._segment(measure.table, 0):
            return
        if not parent.personal & set(measure.referred):
            self._list(measure.table, [measure.referred])
            asked = self._asked_keys(measure.table, measure.referred)
            arrays = self._arrays(measure.table, measure.referred, range(self._pieces(measure.table)))
            for segment, keys in zip(parent.segments, arrays, strict=True):
                self._kept.keep_keys(segment, asked, keys)
        noted = self._kept.figures(name).setdefault("orphans", {})
        noted[self._asked_orphans(name, measure)] = {
            "parents": list(parent.segments),
            "counts": dict(zip(self.tables[name].segments, counts, strict=True)),
        }

    def _asked_orphans(self, name: str, measure: Orphans) -> str:
        return digest_asked(measure, self.tables[name].columns, self.tables[measure.table].columns)

    # ---- SQL

    def _scan(self, name: str, read: Sequence[int] | None = None) -> str:
        table = self.tables[name]
        return parquet_scan(
            table.files if read is None or not table.tells else [table.files[at] for at in read]
        )

    def _at(self, name: str) -> str:
        """Return the SQL of a row's position among the segments that are read."""
        return "here.file_index" if self.tables[name].tells else "0"

    def _pieces(self, name: str) -> int:
        table = self.tables[name]
        return len(table.files) if table.tells else 1

    @contextmanager
    def _held(self, **tables: Any) -> Iterator[None]:
        """Let DuckDB read Arrow tables by name meanwhile."""
        for name, table in tables.items():
            self.connection.register(name, table)
        try:
            yield
        finally:
            for name in tables:
                self.connection.unregister(name)

    def _arrow_of(self, query: str) -> Any:
        self.statements.append(query)
        return self.connection.sql(query).to_arrow_table()

    def _bad(self, name: str, measure: Measure, scan: str, held: str = "") -> tuple[str, str]:
        """Return what to read bad rows from, where they are named `here`, and their condition.

        `held` names the keys that repeat.
        """
        match measure:
            case BadRows() | OutOfRange():
                return f"{scan} here", measure.where
            case Repeats() if not self._listable(self.tables[name], measure):
                listed = ", ".join(f"here.{quote(column)}" for column in measure.columns)
                twice = f"SELECT {listed} FROM {quote(name)} here GROUP BY {listed} HAVING count(*) > 1"
                return f"{scan} here", f"({listed}) IN ({twice})"
            case Repeats():
                key, _ = self._key(self.tables[name], measure.columns)
                return f"{scan} here", f"{key} IN (FROM {held})"
            case Orphans():
                match_ = " AND ".join(
                    f"there.{quote(right)} = here.{quote(left)}"
                    for left, right in zip(measure.columns, measure.referred, strict=True)
                )
                there = " AND ".join(f"here.{quote(column)} IS NOT NULL" for column in measure.columns)
                return f"{scan} here ANTI JOIN {quote(measure.table)} there ON {match_}", there
            case Misadded():
                return measure.source(scan, f"({measure.summed(quote(measure.table))})")
        raise TypeError(f"{type(measure).__name__} counts no rows")

    def _ask(self, query: str) -> list[tuple[Any, ...]]:
        self.statements.append(query)
        return self.connection.execute(query).fetchall()


def _listed(keys: Keys, signed: bool) -> _Listed:
    if not len(keys):
        return _Listed(0, 0, 0, True, keys)
    values = keys.view(np.int64) if signed else keys
    ascending = bool((values[1:] > values[:-1]).all())
    low, high = (values[0], values[-1]) if ascending else (values.min(), values.max())
    return _Listed(len(keys), int(low), int(high), ascending, keys)


def _digest(keys: Keys) -> str:
    return hashlib.sha256(keys.tobytes()).hexdigest()


def _added(
    values: Sequence[npt.NDArray[Any]], counts: Sequence[npt.NDArray[np.int64]]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Return each value once, in order, with the sum of its counts; those that no longer occur are left out."""
    found, place = np.unique(np.concatenate(values), return_inverse=True)
    total = np.zeros(len(found), np.int64)
    np.add.at(total, place, np.concatenate(counts))
    return found[total > 0], total[total > 0]


def _twice(arrays: Sequence[Keys]) -> Keys:
    keys = np.concatenate(arrays)
    keys.sort()
    return np.unique(keys[1:][keys[1:] == keys[:-1]])


def _finder(some: Keys) -> Callable[[Keys], npt.NDArray[np.bool_]]:
    """Return what tells which keys are among `some`: most by a table of bits, the rest by searching."""
    bits = max(10, min(24, len(some).bit_length() + 6))
    marks: npt.NDArray[np.bool_] = np.zeros(1 << bits, np.bool_)
    mixed = np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing spreads small numbers over the table
    shift = np.uint64(64 - bits)
    marks[(some * mixed) >> shift] = True
    wanted = np.unique(some)

    def among(keys: Keys) -> npt.NDArray[np.bool_]:
        found: npt.NDArray[np.bool_] = marks[(keys * mixed) >> shift]
        places = np.flatnonzero(found)
        at = np.minimum(np.searchsorted(wanted, keys[places]), max(0, len(wanted) - 1))
        found[places] = wanted[at] == keys[places] if len(wanted) else False
        return found

    return among


def _runs(values: npt.NDArray[Any]) -> Iterator[tuple[int, int]]:
    edges = np.flatnonzero(values[1:] != values[:-1]) + 1
    starts = [0, *edges.tolist()]
    yield from zip(starts, [*edges.tolist(), len(values)], strict=True) if len(values) else ()


def _first(by_segment: Sequence[int], most: int) -> list[int] | None:
    """Return the first segments that hold `most` bad rows between them; None where it is not known."""
    if not by_segment:
        return None
    chosen, rows = [], 0
    for at, count in enumerate(by_segment):
        if count and rows < most:
            chosen.append(at)
            rows += count
    return chosen


def _arrow(**columns: Any) -> Any:
    import pyarrow as pa

    return pa.table(columns)


def _duckdb_error() -> type[Exception]:
    import duckdb

    return duckdb.Error
