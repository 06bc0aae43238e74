"""What a database proves about its own changes: the facts that a snapshot keeps so that the next need not read all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Summary = tuple[str, str]
"""The begin and the end of the part of the log that one summary covers, as LSNs such as `0/17075E8`."""


@dataclass(frozen=True)
class Server:
    """Which history of changes it is: every restore, failover and restart begins another.

    Args:
        system: the identifier that `initdb` gave.
        timeline: raised by every promotion and every recovery to a point in time.
        started: when the server was started, in seconds since 1970.
        database: the oid of the database.
    """

    system: str
    timeline: int
    started: str
    database: int


@dataclass(frozen=True)
class Mark:
    """A point of the log: transactions numbered `next_xid` and later have written nothing before `lsn`."""

    next_xid: int
    lsn: str


@dataclass(frozen=True)
class TableState:
    """What a table consists of: while it stays the same, only writing to its files changes what its rows read as.

    Args:
        files: of the table, its partitions and their TOAST tables, each as `tablespace/filenode`.
        form: digest of what else decides that: column numbers, types, enum labels, row level security.
    """

    files: tuple[str, ...]
    form: str


@dataclass(frozen=True)
class ChangeFacts:
    """What a snapshot keeps of its source's changes.

    Args:
        server: whose log it is.
        since: whatever the snapshot does not show was written at or after this LSN; None if that is not known.
        through: end of a summary of the log behind all that the snapshot shows; None if there was none in time.
        marks: points of the log from which the next snapshot can find its own `since`, oldest first.
        tables: the state of every table whose changes are all in the log.
    """

    server: Server
    since: str | None
    through: str | None
    marks: tuple[Mark, ...]
    tables: dict[str, TableState]


@dataclass(frozen=True)
class Changes:
    """What changed since an earlier snapshot.

    Args:
        facts: to be kept with the snapshot of now; None if the database tells too little.
        unchanged: the tables that provably read as they did.
        why: of every other table why that cannot be said of it, as the end of a sentence: `its files were written to`.
    """

    facts: ChangeFacts | None
    unchanged: frozenset[str]
    why: dict[str, str]


def position(lsn: str) -> int:
    """Return the number of bytes of log before `lsn`."""
    high, _, low = lsn.partition("/")
    return int(high, 16) << 32 | int(low, 16)


def covering(summaries: Sequence[Summary], begin: str, end: str) -> list[Summary] | None:
    """Return the summaries that together cover the log from `begin` to `end`; None if a part of it is in none."""
    reached, found = position(begin), []
    for one in sorted(summaries, key=lambda one: position(one[0])):
        if position(one[1]) <= position(begin) or position(one[0]) >= position(end):
            continue
        if position(one[0]) > reached:
            return None
        reached = max(reached, position(one[1]))
        found.append(one)
    return found if reached >= position(end) else None


def marks_kept(marks: Sequence[Mark], xmin: int) -> tuple[Mark | None, tuple[Mark, ...]]:
    """Return the newest mark before every transaction that a snapshot does not show, and the marks worth keeping.

    Args:
        marks: in the order of the log.
        xmin: the oldest transaction that was in flight at the snapshot.
    """
    before = [one for one in marks if one.next_xid <= xmin]
    floor = before[-1] if before else None
    # Marks between are left out: the ones kept are enough, at worst for a begin that is earlier than it need be.
    return floor, (*before[-1:], *[one for one in marks if one.next_xid > xmin][-2:])


def doubt(before: ChangeFacts | None, server: Server, summaries: Sequence[Summary], end: str) -> str | None:
    """Return why the summaries cannot prove what changed between `before` and `end`; None if they can."""
    if before is None:
        return "the snapshot before holds no change facts"
    if (before.server.system, before.server.database) != (server.system, server.database):
        return "the snapshot before was taken of another database"
    if before.server != server:
        return "the server was started again, or another one took over"
    if before.since is None:
        return "a transaction was in flight whose beginning in the log is not known"
    if before.through is None:
        return "no summary of the log had reached the snapshot before"
    if before.through not in {edge for one in summaries for edge in one}:
        return "the log is not the one that the snapshot before saw, or its summaries were removed"
    if covering(summaries, before.since, end) is None:
        return "summaries of the log are missing"
    return None


def differing(
    before: ChangeFacts, states: Mapping[str, TableState], written: frozenset[str]
) -> dict[str, str]:
    """Return of each table that may read differently why.

    Args:
        before: the facts of the earlier snapshot.
        states: what the tables consist of now.
        written: the files that were written to since.
    """
    found = {}
    for name, state in states.items():
        known = before.tables.get(name)
        if known is None:
            found[name] = "the snapshot before holds no change facts of it"
        elif known.files != state.files:
            found[name] = "it was truncated, rewritten or replaced"
        elif known.form != state.form:
            found[name] = "its columns or types were changed"
        elif not written.isdisjoint(state.files):
            found[name] = "its files were written to"
    return found
