"""What PostgreSQL's WAL summaries (17 and later) prove about its tables; FORMAT.md says why nothing can be missed.

A WAL summary names every block of every file that a part of the log writes to. Facts that cannot be read, or prove too
little, are no error: the tables are read then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from tasks.core import digest_of
from tasks.sources.changes import (
    ChangeFacts,
    Changes,
    Mark,
    Server,
    Summary,
    TableState,
    covering,
    differing,
    doubt,
    marks_kept,
    position,
)
from tasks.sources.errors import SourceError

WAIT_SECONDS = 60.0
"""How long the summary behind a checkpoint is waited for; PostgreSQL's own incremental backup waits as long."""
WAIT_UNASKED_SECONDS = 10.0
"""How long another's checkpoint is waited for where the role may not ask for one."""
_FIRST_VERSION = 170_000

# Output functions that depend on settings which a backup fixes, or on what goes into `TableState.form`.
_STEADY = (
    "date_out timestamp_out timestamptz_out interval_out cash_out "
    "array_out record_out range_out multirange_out enum_out"
)


@dataclass(frozen=True)
class _Point:
    """The point in time of the snapshot, in the log and among the transactions."""

    version: int
    standby: bool
    fsync: bool
    xmin: int
    lsn: str
    started: str


@dataclass(frozen=True)
class _Log:
    """What the server tells about its log, by a connection of its own."""

    server: Server
    marks: tuple[Mark, ...]
    summaries: tuple[Summary, ...]
    problem: str | None


def found_changes(
    raw: Any,
    connect: Callable[[], AbstractContextManager[Any]],
    schema: str,
    tables: Sequence[str],
    before: ChangeFacts | None,
) -> Changes:
    """Return which tables read as they did at `before`, and what the next snapshot needs to say the same.

    Asks for a checkpoint where the role may (`pg_checkpoint`): a summary ends at one.

    Args:
        raw: the psycopg connection, in the snapshot's transaction, the tables locked.
        connect: opens further connections to the same database.
        schema: where the tables are.
        tables: their names.
        before: the facts of the earlier snapshot.
    """
    import psycopg

    try:
        with raw.transaction():  # a savepoint: the snapshot outlives a fact that cannot be read
            point = _point(raw)
            if problem := _unable(point):
                return _none(tables, problem)
            states = {name: _state(raw, schema, name) for name in tables}
        with connect() as beside:
            return _compared(beside, point, states, before)
    except (psycopg.Error, SourceError) as error:
        return _none(tables, f"its change facts could not be read ({str(error).splitlines()[0]})")


def _none(tables: Sequence[str], problem: str, facts: ChangeFacts | None = None) -> Changes:
    return Changes(facts, frozenset(), dict.fromkeys(tables, problem))


def _unable(point: _Point) -> str | None:
    if point.standby:
        return "the server is a standby"
    if point.version < _FIRST_VERSION:
        return f"PostgreSQL {point.version // 10_000} keeps no summaries of its log (17 and later do)"
    return None if point.fsync else "fsync is off: a crash can undo what the log says"


def _compared(
    raw: Any, point: _Point, states: dict[str, TableState | str], before: ChangeFacts | None
) -> Changes:
    log = _log(raw, point)
    known = {name: state for name, state in states.items() if isinstance(state, TableState)}
    same_log = before is not None and before.server == log.server
    floor, marks = marks_kept((*(before.marks if before and same_log else ()), *log.marks), point.xmin)
    facts = ChangeFacts(
        server=log.server,
        since=floor.lsn if floor else None,
        through=min((end for _, end in log.summaries if position(end) >= position(point.lsn)), key=position)
        if log.problem is None
        else None,
        marks=marks,
        tables=known,
    )
    problem = log.problem or doubt(before, log.server, log.summaries, point.lsn)
    if problem is not None or before is None or before.since is None:
        return _none(list(states), problem or "", facts)
    parts = covering(log.summaries, before.since, point.lsn) or []
    why = differing(before, known, _written(raw, log.server, parts, known))
    why |= {name: state for name, state in states.items() if isinstance(state, str)}
    return Changes(facts, frozenset(states.keys() - why.keys()), why)


def _point(raw: Any) -> _Point:
    # The insert position: with synchronous_commit off a snapshot shows what is not written to the log's files yet.
    row = raw.execute(
        """
        SELECT current_setting('server_version_num')::int, pg_is_in_recovery(), current_setting('fsync')::boolean,
               pg_snapshot_xmin(pg_current_snapshot())::text::bigint,
               CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn()::text ELSE '0/0' END,
               extract(epoch FROM pg_postmaster_start_time())::text
        """
    ).fetchone()
    return _Point(*row)


def _log(raw: Any, point: _Point) -> _Log:
    import psycopg

    raw.rollback()
    raw.autocommit = True
    raw.execute("SET statement_timeout = 0")
    server = _server(raw)
    if server.started != point.started:
        raise SourceError("a further connection reached another server")
    marks, problem = [_mark(raw)], None
    if not raw.execute("SELECT current_setting('summarize_wal')::boolean").fetchone()[0]:
        problem = "summarize_wal is off"
    elif not _reached(raw, point.lsn, 0.0):
        seconds, fix = WAIT_SECONDS, ""
        try:
            raw.execute("CHECKPOINT")
        except psycopg.errors.InsufficientPrivilege:
            seconds, fix = WAIT_UNASKED_SECONDS, " (grant pg_checkpoint to the role)"
        if not _reached(raw, point.lsn, seconds):
            problem = f"no summary of the log reached this point within {seconds:.0f} s{fix}"
    marks.append(_mark(raw))
    found = raw.execute(
        "SELECT start_lsn::text, end_lsn::text FROM pg_available_wal_summaries() WHERE tli = %s",
        (server.timeline,),
    ).fetchall()
    if problem is None and not any(position(end) >= position(point.lsn) for _, end in found):
        problem = "summaries of the log are missing"
    return _Log(server, tuple(marks), tuple(found), problem)


def _server(raw: Any) -> Server:
    system, segment, started, database = raw.execute(
        """
        SELECT system_identifier::text, pg_walfile_name(pg_current_wal_insert_lsn()),
               extract(epoch FROM pg_postmaster_start_time())::text,
               (SELECT oid::bigint FROM pg_database WHERE datname = current_database())
        FROM pg_control_system()
        """
    ).fetchone()
    return Server(system, int(segment[:8], 16), started, database)


def _mark(raw: Any) -> Mark:
    """Return the last checkpoint: the next transaction's number was read after its place in the log was fixed."""
    redo, number = raw.execute("SELECT redo_lsn::text, next_xid FROM pg_control_checkpoint()").fetchone()
    epoch, _, xid = number.partition(":")
    return Mark(int(epoch) << 32 | int(xid), redo)


def _reached(raw: Any, lsn: str, seconds: float) -> bool:
    """Return whether the summaries go as far as `lsn`, after at most so many seconds."""
    until = time.monotonic() + seconds
    query = "SELECT summarized_lsn >= %s::pg_lsn FROM pg_get_wal_summarizer_state()"
    while not raw.execute(query, (lsn,)).fetchone()[0]:
        if time.monotonic() >= until:
            return False
        time.sleep(0.02)
    return True


def _written(
    raw: Any, server: Server, parts: Sequence[Summary], states: dict[str, TableState]
) -> frozenset[str]:
    """Return which files of tables `parts` of the log write to, cut or remove."""
    files = {one for state in states.values() for one in state.files}
    nodes = sorted({int(one.partition("/")[2]) for one in files})
    found = raw.execute(
        """
        SELECT DISTINCT w.reltablespace::bigint, w.relfilenode::bigint
        FROM unnest(%s::pg_lsn[], %s::pg_lsn[]) AS part (begins, ends)
        CROSS JOIN LATERAL pg_wal_summary_contents(%s, part.begins, part.ends) AS w
        WHERE w.reldatabase = %s AND w.relfilenode = ANY (%s::bigint[])
        """,
        ([one[0] for one in parts], [one[1] for one in parts], server.timeline, server.database, [0, *nodes]),
    ).fetchall()
    # File 0 stands for the whole database, which was copied or removed.
    return (
        frozenset(files) if any(node == 0 for _, node in found) else frozenset(f"{a}/{b}" for a, b in found)
    )


def _state(raw: Any, schema: str, name: str) -> TableState | str:
    """Return what a table consists of, or why its changes are not all in the log."""
    found = raw.execute(
        """
        SELECT c.oid::bigint, c.relkind::text, c.relpersistence::text, a.amname,
               c.relrowsecurity, c.relforcerowsecurity,
               coalesce(nullif(c.reltablespace, 0), d.dattablespace)::text || '/' || pg_relation_filenode(c.oid),
               coalesce(nullif(t.reltablespace, 0), d.dattablespace)::text || '/' || pg_relation_filenode(t.oid)
        FROM pg_class r
        JOIN pg_namespace n ON n.oid = r.relnamespace
        JOIN pg_database d ON d.datname = current_database()
        JOIN pg_class c ON c.oid = r.oid OR c.oid IN (SELECT relid FROM pg_partition_tree(r.oid))
        LEFT JOIN pg_class t ON t.oid = c.reltoastrelid
        LEFT JOIN pg_am a ON a.oid = c.relam
        WHERE n.nspname = %s AND r.relname = %s
        ORDER BY c.oid <> r.oid, c.oid
        """,
        (schema, name),
    ).fetchall()
    files = []
    for _, kind, persistence, method, _, _, file, toast in found:
        if kind == "f":
            return "a partition is a foreign table"
        if kind == "p":
            continue
        if persistence != "p":
            return "it is unlogged"
        if method != "heap":
            return f"it is kept by the access method {method}"
        files += [one for one in (file, toast) if one is not None]
    oid, *security = found[0][0], found[0][4], found[0][5]
    types = _types(raw, oid)
    if (unsteady := _unsteady(raw, oid, types)) is not None:
        return unsteady
    return TableState(tuple(files), digest_of([oid, security, *_form(raw, oid, types)]))


def _types(raw: Any, oid: int) -> list[int]:
    """Return the types of a table's columns, and all that they are built of."""
    rows = raw.execute(
        """
        WITH RECURSIVE used (typid) AS (
            SELECT atttypid FROM pg_attribute WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped
            UNION
            SELECT part.typid FROM used
            JOIN pg_type t ON t.oid = used.typid
            CROSS JOIN LATERAL (
                SELECT unnest(ARRAY[t.typelem, t.typbasetype])
                UNION ALL SELECT rngsubtype FROM pg_range WHERE t.oid IN (rngtypid, rngmultitypid)
                UNION ALL SELECT atttypid FROM pg_attribute
                    WHERE attrelid = t.typrelid AND attnum > 0 AND NOT attisdropped
            ) AS part (typid)
            WHERE part.typid <> 0
        )
        SELECT typid::bigint FROM used ORDER BY typid
        """,
        (oid,),
    ).fetchall()
    return [row[0] for row in rows]


def _unsteady(raw: Any, oid: int, types: Sequence[int]) -> str | None:
    """Return why rows can read differently although nobody wrote to the table."""
    row = raw.execute(
        """
        SELECT attname FROM pg_attribute
        WHERE attrelid = %s AND attgenerated = 'v' AND NOT attisdropped ORDER BY attnum LIMIT 1
        """,
        (oid,),
    ).fetchone()
    if row is not None:
        return f"its column {row[0]} is computed when it is read"
    # A regclass reads as the name that its table has now; a function that is not the server's own can be replaced.
    row = raw.execute(
        """
        SELECT format_type(t.oid, NULL) FROM pg_type t
        JOIN pg_proc p ON p.oid = t.typoutput
        JOIN pg_language l ON l.oid = p.prolang
        LEFT JOIN pg_cast c ON c.castsource = t.oid AND c.casttarget = 'text'::regtype AND c.castfunc >= 16384
        WHERE t.oid = ANY (%s::bigint[])
        AND (l.lanname <> 'internal' OR (p.provolatile <> 'i' AND p.proname <> ALL (%s)) OR c.oid IS NOT NULL)
        ORDER BY 1 LIMIT 1
        """,
        (types, _STEADY.split()),
    ).fetchone()
    return (
        f"values of its type {row[0]} can read differently though no row was written"
        if row is not None
        else None
    )


def _form(raw: Any, oid: int, types: Sequence[int]) -> list[Any]:
    """Return what decides how rows read: column numbers (none is used twice), types, fields and labels."""
    columns = raw.execute(
        """
        SELECT attrelid::bigint, attnum, atttypid::bigint, atttypmod FROM pg_attribute
        WHERE (attrelid = %s OR attrelid IN (SELECT typrelid FROM pg_type WHERE oid = ANY (%s::bigint[])))
        AND attnum > 0 AND NOT attisdropped ORDER BY 1, 2
        """,
        (oid, types),
    ).fetchall()
    labels = raw.execute(
        "SELECT oid::bigint, enumlabel FROM pg_enum WHERE enumtypid = ANY (%s::bigint[]) ORDER BY oid",
        (types,),
    ).fetchall()
    return [columns, labels]
