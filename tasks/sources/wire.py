"""Receiving a COPY (…) TO STDOUT in binary form: many rows at a time from the connection's own socket.

libpq hands out COPY data row by row, which costs more than decoding it. Where the connection is neither encrypted nor
in the middle of something, the query goes over its socket instead, and libpq knows nothing of it: the messages are
those of PostgreSQL's protocol 3, "Message Formats". Otherwise libpq's way is taken; the rows are the same.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Generator
from contextlib import closing
from typing import Any

import numpy as np

from tasks.sources.decoding import SLACK, Broken, Rows, frames
from tasks.sources.errors import SourceError

BLOCK_BYTES = 4 * 2**20
_FEW_BYTES = 2**15  # a table as small as that is not waited for
_GATHERING = 0.0003
"""Seconds in which more may arrive. PostgreSQL sends 8 KiB at a time, and waking up for each costs both sides more."""

_READY = b"Z\0\0\0\5"
_SIGNATURE = b"PGCOPY\n\xff\r\n\0"


def copied(raw: Any, query: str, where: str) -> Generator[Rows]:
    """Yield the rows of `query`, some thousands at a time; each is valid until the next is asked for.

    The transaction goes on as before, also when the rows are not read to their end.

    Args:
        raw: the psycopg connection, in a transaction.
        query: a SELECT without parameters.
        where: names the table in an error.

    Raises:
        SourceError: PostgreSQL refused the query, or the connection broke.
    """
    statement = f"COPY ({query}) TO STDOUT (FORMAT binary)"
    raw.execute("SAVEPOINT mailstay_copy")
    done = False
    try:
        way = _direct(raw, statement, where) if _is_plain(raw) else _by_libpq(raw, statement)
        with closing(way) as blocks:
            yield from blocks
        done = True
    finally:
        if not raw.closed:
            raw.execute("RELEASE SAVEPOINT mailstay_copy" if done else "ROLLBACK TO SAVEPOINT mailstay_copy")


def _is_plain(raw: Any) -> bool:
    return not (raw.pgconn.ssl_in_use or raw.pgconn.used_gssapi)


def _direct(raw: Any, statement: str, where: str) -> Generator[Rows]:
    with socket.socket(fileno=os.dup(raw.pgconn.socket)) as connection:
        text = statement.encode() + b"\0"
        _send(connection, b"Q" + struct.pack("!i", 4 + len(text)) + text)
        block, filled, first = _room(BLOCK_BYTES), 0, True
        ready = more = False
        try:
            while not ready:
                if not more:
                    room = memoryview(block)[filled:-SLACK]
                    filled += _receive(connection, room, where, gathering=filled > _FEW_BYTES)
                    full = filled == len(block) - SLACK
                    if not full and bytes(block[max(0, filled - 6) : filled - 1]) != _READY:
                        continue
                starts, ends, used, other = frames(block[:filled])
                if len(starts):
                    if first:
                        starts, ends = _without_header(block, starts, ends)
                        first = False
                    if len(starts) and ends[-1] - starts[-1] == 2:  # the trailer: a row of -1 fields
                        starts, ends = starts[:-1], ends[:-1]
                    if len(starts):
                        yield Rows(block, starts, ends)
                needed = max(BLOCK_BYTES, _size(block, used) if filled - used >= 5 else 0)
                after = block if len(block) == needed + SLACK else _room(needed)
                after[: filled - used] = block[used:filled].copy()
                block, filled = after, filled - used
                before = filled
                if other:
                    filled, ready = _messages(block, filled, where)
                more = filled < before
        finally:
            if not ready:
                raw.cancel()
                _drain(connection, block, filled, where)


def _room(size: int) -> Any:
    return np.empty(size + SLACK, np.uint8)


def _without_header(block: Any, starts: Any, ends: Any) -> tuple[Any, Any]:
    head = bytes(block[starts[0] : starts[0] + 19])
    if not head.startswith(_SIGNATURE):
        raise Broken
    starts = starts.copy()
    starts[0] += 19 + struct.unpack("!i", head[15:])[0]
    return (starts[1:], ends[1:]) if starts[0] == ends[0] else (starts, ends)


def _messages(block: Any, filled: int, where: str) -> tuple[int, bool]:
    """Take the messages other than data from the front of `block`; return what is left, and whether all is done."""
    at, done = 0, False
    while not done and filled - at >= 5 and block[at] != ord("d"):
        kind, size = chr(block[at]), _size(block, at)
        if filled - at < size:
            break
        if kind == "E":
            raise SourceError(_reason(bytes(block[at + 5 : at + size])), where=where)
        done = kind == "Z"
        at += size
    block[: filled - at] = block[at:filled].copy()
    return filled - at, done


def _drain(connection: socket.socket, block: Any, filled: int, where: str) -> None:
    """Read on until PostgreSQL is ready for the next query."""
    while True:
        at = 0
        while filled - at >= 5 and filled - at >= (size := _size(block, at)):
            if block[at] == ord("Z"):
                return
            at += size
        block[: filled - at] = block[at:filled].copy()
        filled -= at
        if filled == len(block):
            block = np.concatenate([block, np.empty_like(block)])
        filled += _receive(connection, memoryview(block)[filled:], where)


def _size(block: Any, at: int) -> int:
    """Return the length of the message that begins there."""
    return 1 + int.from_bytes(bytes(block[at + 1 : at + 5]))


def _send(connection: socket.socket, message: bytes) -> None:
    while message:
        select.select([], [connection], [])
        message = message[connection.send(message) :]


def _receive(connection: socket.socket, into: memoryview, where: str, *, gathering: bool = False) -> int:
    waiting = select.poll()
    waiting.register(connection, select.POLLIN)
    while True:
        try:
            got = connection.recv_into(into)
        except BlockingIOError:
            waiting.poll()
            if gathering:
                time.sleep(_GATHERING)
            continue
        if not got:
            raise SourceError("PostgreSQL closed the connection", where=where)
        return got


def _reason(fields: bytes) -> str:
    """Return the first line of an ErrorResponse, which names no values (those are in its detail)."""
    texts = {part[:1]: part[1:].decode(errors="replace") for part in fields.split(b"\0") if part}
    return texts.get(b"M", "unknown error")


def _by_libpq(raw: Any, statement: str) -> Generator[Rows]:
    with raw.cursor() as cursor, cursor.copy(statement) as copy:
        waiting: list[bytes] = []
        size, first = 0, True
        for piece in copy:
            row = bytes(piece)
            if first:
                if not row.startswith(_SIGNATURE):
                    raise Broken
                row = row[19 + struct.unpack("!i", row[15:19])[0] :]
                first = False
            if len(row) > 2:  # neither the header alone nor the trailer
                waiting.append(row)
                size += len(row)
            if size >= BLOCK_BYTES:
                yield _joined(waiting)
                waiting, size = [], 0
        if waiting:
            yield _joined(waiting)


def _joined(pieces: list[bytes]) -> Rows:
    ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
    return Rows(np.frombuffer(b"".join([*pieces, bytes(SLACK)]), np.uint8), starts, ends)
