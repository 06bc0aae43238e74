"""What was fetched of an export so far: a SQLite file that gets rows and the cursor behind them in one transaction.

A killed export goes on after its last whole part. The file holds personal data: its folder is the owner's alone, and
it goes when the snapshot is committed or the export is too old to be taken up again.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

from tasks.core import Clock, UsageError, crash_point
from tasks.providers import ExportTable, Part, ProviderGarbled

KEPT = timedelta(hours=12)
"""How long after its beginning an export is taken up again; after that it begins anew."""

_FORMAT = 1
_SCHEMA = """
CREATE TABLE export (format INTEGER, digest TEXT, started TEXT, finished TEXT);
CREATE TABLE steps (step INTEGER PRIMARY KEY, cursor TEXT, least INTEGER, most INTEGER, state TEXT, began TEXT);
CREATE TABLE rows (name TEXT, k1, k2, step INTEGER, data TEXT NOT NULL, PRIMARY KEY (name, k1, k2, step))
    WITHOUT ROWID;
"""
_NEWEST = """
FROM rows r WHERE r.name = ? AND NOT EXISTS (
    SELECT 1 FROM rows l WHERE l.name = r.name AND l.k1 = r.k1 AND l.k2 = r.k2 AND l.step > r.step
)
"""

Key = tuple[Any, Any]


class Spool:
    """The spool of one source; used by one process at a time.

    Args:
        folder: where it lies; made if it is not there.
        digest: of everything that decides what is fetched: a spool of another one begins anew.
        clock: tells when the export began.

    Raises:
        UsageError: another process is at it.
    """

    def __init__(self, folder: Path, digest: str, clock: Clock) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path = folder / "export.sqlite"
        self._digest, self._clock = digest, clock
        self._connect()
        known = self._read()
        if known is None:
            self._begin_anew()
        self.started = self._read() or clock.now()

    def close(self) -> None:
        """Let go of the file, which stays."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def discard(self) -> None:
        """Delete the file."""
        self.close()
        for end in ("", "-journal"):
            self.path.with_name(self.path.name + end).unlink(missing_ok=True)

    @property
    def finished(self) -> datetime | None:
        """When the last part came; None while parts are missing."""
        (text,) = self._file.execute("SELECT finished FROM export").fetchone()
        return None if text is None else datetime.fromisoformat(text)

    def finish(self) -> None:
        """Note that every part is there."""
        with self._file:
            self._file.execute("UPDATE export SET finished = ?", [self._clock.now().isoformat()])

    def state(self, step: int) -> tuple[str, dict[str, Any]]:
        """Return what became of a step and its cursor.

        It is empty while parts are missing, `over` when the last one came, `done` when it was checked, `absent` where
        the provider has no such thing.
        """
        row = self._file.execute("SELECT state, cursor FROM steps WHERE step = ?", [step]).fetchone()
        return (row[0], json.loads(row[1])) if row else ("", {})

    def began(self, step: int) -> datetime | None:
        """Return when a step began; None if it has not."""
        row = self._file.execute("SELECT began FROM steps WHERE step = ?", [step]).fetchone()
        return None if row is None else datetime.fromisoformat(row[0])

    def keep(self, step: int, table: ExportTable, part: Part, where: str) -> int:
        """Keep a part and where the step goes on, and return how many rows came with it.

        Raises:
            ProviderGarbled: a row has no key.
        """
        with self._file:
            self._note(step, part.then, part.promised)
            before = self._file.total_changes
            after = self.count(step, table) if not table.key else 0
            self._file.executemany(
                "INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?, ?)",
                (
                    (table.name, *key_of(table, row, after + at, where), step, json.dumps(row))
                    for at, row in enumerate(part.rows)
                ),
            )
            came = self._file.total_changes - before
        crash_point("export.part")
        return came

    def end(self, step: int, state: str) -> None:
        """Note that a step is `done`, or its table `absent`."""
        with self._file:
            if self.began(step) is None:
                self._note(step, None, None)
            self._file.execute("UPDATE steps SET state = ? WHERE step = ?", [state, step])

    def restart(self, step: int, table: ExportTable) -> None:
        """Forget the rows of a step and begin it again."""
        with self._file:
            self._file.execute("DELETE FROM rows WHERE name = ? AND step = ?", [table.name, step])
            self._file.execute("DELETE FROM steps WHERE step = ?", [step])

    def promised(self, step: int) -> tuple[int, int] | None:
        """Return the fewest and the most rows that the provider promised for a step."""
        row = self._file.execute("SELECT least, most FROM steps WHERE step = ?", [step]).fetchone()
        return None if row is None or row[0] is None else (row[0], row[1])

    def count(self, step: int, table: ExportTable) -> int:
        """Return how many rows of a table a step has given."""
        query = "SELECT count(*) FROM rows WHERE name = ? AND step = ?"
        return int(self._file.execute(query, [table.name, step]).fetchone()[0])

    def seen(self, step: int, table: ExportTable, where: str) -> Callable[[dict[str, Any]], bool]:
        """Return whether a step has given a row."""
        query = "SELECT 1 FROM rows WHERE name = ? AND k1 = ? AND k2 = ? AND step = ?"
        return lambda row: (
            self._file.execute(query, [table.name, *key_of(table, row, 0, where), step]).fetchone()
            is not None
        )

    def row_count(self, table: str) -> int:
        """Return how many rows the table has."""
        return int(self._file.execute(f"SELECT count(*) {_NEWEST}", [table]).fetchone()[0])

    def rows(self, table: str) -> sqlite3.Cursor:
        """Return the rows of the table as JSON, by key, each as the last step gave it."""
        return self._file.execute(f"SELECT r.data {_NEWEST} ORDER BY r.k1, r.k2", [table])

    def changed(self, table: ExportTable, since: datetime) -> int:
        """Return how many rows say that they changed at or after `since`."""
        if not table.changed:
            return 0
        query = f"SELECT json_extract(r.data, '$.' || ?) {_NEWEST}"
        found = self._file.execute(query, [f'"{table.changed}"', table.name])
        return sum(_is_after(one, since) for (one,) in found)

    def _connect(self) -> None:
        self.path.touch(mode=0o600)
        self._file = sqlite3.connect(self.path, timeout=0)
        self._file.execute("PRAGMA locking_mode = EXCLUSIVE")
        try:
            self._file.execute("BEGIN EXCLUSIVE")
            self._file.commit()
        except sqlite3.OperationalError:
            self._file.close()
            raise UsageError(
                "Another process exports this source just now",
                where=str(self.path),
                fix="wait for it; what it has fetched is used again if it is killed",
            ) from None
        except sqlite3.DatabaseError:
            self.discard()
            self._connect()

    def _read(self) -> datetime | None:
        """Return when the export began that can be taken up, if there is one."""
        with suppress(sqlite3.DatabaseError, TypeError, ValueError):
            row = self._file.execute("SELECT format, digest, started FROM export").fetchone()
            started = datetime.fromisoformat(row[2])
            if row[:2] == (_FORMAT, self._digest) and self._clock.now() < started + KEPT:
                return started
        return None

    def _begin_anew(self) -> None:
        self.discard()
        self._connect()
        self._file.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
        with self._file:
            self._file.execute(
                "INSERT INTO export VALUES (?, ?, ?, NULL)",
                [_FORMAT, self._digest, self._clock.now().isoformat()],
            )

    def _note(self, step: int, cursor: dict[str, Any] | None, promised: tuple[int, int] | None) -> None:
        began = self.began(step) or self._clock.now()
        least, most = promised or self.promised(step) or (None, None)
        self._file.execute(
            "INSERT OR REPLACE INTO steps VALUES (?, ?, ?, ?, ?, ?)",
            [
                step,
                json.dumps(cursor or {}),
                least,
                most,
                "over" if cursor is None else "",
                began.isoformat(),
            ],
        )


def key_of(table: ExportTable, row: dict[str, Any], number: int, where: str) -> Key:
    """Return what a row is found by; `number` where the provider names none.

    Raises:
        ProviderGarbled: a part of the key is missing, or is neither text nor a number.
    """
    if not table.key:
        return number, ""
    found = [row.get(name) for name in table.key]
    for name, value in zip(table.key, found, strict=True):
        wanted = int if next(one.kind for one in table.columns if one.name == name) == "integer" else str
        fits = type(value) is wanted and (not isinstance(value, int) or -(2**63) <= value < 2**63)
        if not fits:
            raise ProviderGarbled(
                f"A row of {table.name} has no `{name}` that it could be named by",
                outcome_unknown=False,
                where=where,
            )
    return found[0], found[1] if len(found) > 1 else ""


def changed_tables(spool: Spool, tables: Sequence[ExportTable]) -> str:
    """Return which tables have rows that changed while the export ran, and how many: `contacts 3, lists 1`."""
    counts = {one.name: spool.changed(one, spool.started) for one in tables}
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count)


def _is_after(text: Any, since: datetime) -> bool:
    with suppress(TypeError, ValueError):
        return datetime.fromisoformat(text) >= since
    return False
