"""A snapshot's tables as CSV or Delta Lake for other people's tools; FORMAT.md says how each value is spelled.

Nothing is there until everything is: the folder is written beside its name and renamed. Nothing is overwritten.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from tasks.core import Progress, SilentProgress, UsageError, crash_point
from tasks.snapshots.erasing import erased_rows, unreplaced
from tasks.snapshots.erasures import read_ledger
from tasks.snapshots.errors import SnapshotError
from tasks.snapshots.models import State, TableEntry
from tasks.snapshots.restoring import TableRows, chosen_tables, proven_state
from tasks.snapshots.storage import sync_path
from tasks.snapshots.store import Store
from tasks.snapshots.taking import arrow_schema
from tasks.sources import uuid_text

Form = Literal["csv", "delta"]
DESCRIPTION = "export.json"
"""The file of an export that says what each column was."""

_NAME_CHARACTERS = 200  # of the 255 that a file's name may have


@dataclass(frozen=True)
class ExportedTable:
    """One table of an export.

    Attributes:
        file: the CSV file, or the folder of the Delta table, below the export's folder.
        rows: rows written.
        erased: rows that were left out, or written as those of nobody, because their person was erased.
        changed: what could not be written as it is, and the rule that was applied instead, in words.
    """

    name: str
    file: str
    rows: int
    erased: int
    bytes: int
    changed: tuple[str, ...]


@dataclass(frozen=True)
class Exported:
    """What an export wrote; `state` is the snapshot's, and anything but `valid` was asked for by name."""

    snapshot_id: str
    state: State
    form: Form
    folder: str
    tables: list[ExportedTable]


def export(
    store: Store,
    snapshot_id: str,
    to: Path,
    *,
    form: Form = "csv",
    mapping: str | None = None,
    tables: Sequence[str] = (),
    unproven: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Write the tables of a snapshot into the new or empty folder `to`; every object is hashed before it is read.

    Whoever the ledger of erased persons names is left out.

    Args:
        store: where the snapshot is.
        snapshot_id: which one.
        to: the folder; its parent must be there.
        form: `csv`, one file a table; or `delta`, one Delta Lake table each.
        mapping: the mapping of the source: decides what names a person.
        tables: only these; all if empty.
        unproven: export although the snapshot is not `valid`.
        progress: is told of every table, its rows and bytes.

    Raises:
        UsageError: the folder is not empty, or there is no such table, or Delta is not installed.
        SnapshotError: the snapshot is not `valid`, or the disk refused; nothing is left then.
        StoreError: somebody was erased, and the store was opened without its key.
        Damaged: an object is missing or changed; nothing is left then.
    """
    progress = progress or SilentProgress()
    write, unfit = (_write_csv, _unfit_for_csv) if form == "csv" else (_delta_writer(), _unfit_for_delta)
    state = proven_state(store, snapshot_id, unproven=unproven)
    manifest = store.manifest(snapshot_id)
    entries = chosen_tables(manifest, tables)
    done: list[ExportedTable] = []
    about: dict[str, Any] = {
        "snapshot_id": snapshot_id,
        "manifest_digest": manifest.digest,
        "state": state,
        "format": form,
        "tables": {},
    }
    with unreplaced(store, manifest), _new_folder(to, store.storage.root) as folder:
        cuts = erased_rows(store, read_ledger(store), manifest, mapping, progress)
        for (name, entry), file in zip(entries.items(), _file_names(entries), strict=True):
            progress.start(name, entry.rows)
            rows = TableRows(store, snapshot_id, name, entry, progress, cuts=cuts.get(name, ()))
            columns = _columns(arrow_schema(entry), unfit, distinct=form == "delta")
            schema = pa.schema([(one.written, pa.string() if one.spelled else one.type) for one in columns])
            path = folder / (f"{file}.csv" if form == "csv" else file)
            write(path, schema, (_spelled(batch, columns, schema) for batch in rows))
            rows.check()
            progress.finish()
            changed = () if form == "csv" else tuple(one.told for one in columns if one.told)
            done.append(ExportedTable(name, path.name, rows.written.rows, rows.erased, _size(path), changed))
            about["tables"][name] = _described(entry, rows.written.rows, columns, path)
            crash_point("export.table")
        text = json.dumps(about, indent=1, ensure_ascii=False)
        (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")
    return Exported(snapshot_id, state, form, str(to), done)


@dataclass(frozen=True)
class _Column:
    """A column as the snapshot has it and as it is written: under which name, and whether as text."""

    name: str
    type: pa.DataType
    written: str
    spelled: bool

    @property
    def told(self) -> str:
        """What is not as in the snapshot, in words."""
        parts = [f"named {self.written}"] if self.written != self.name else []
        parts += [f"{self.type} as text"] if self.spelled else []
        return f"column {self.name}: {', '.join(parts)}" if parts else ""


def _columns(schema: pa.Schema, unfit: Callable[[pa.DataType], bool], *, distinct: bool) -> list[_Column]:
    names = _distinct(schema.names) if distinct else schema.names
    return [
        _Column(field.name, field.type, written, unfit(field.type))
        for field, written in zip(schema, names, strict=True)
    ]


def _distinct(names: Iterable[str]) -> list[str]:
    """Return the names with a number at those that only differ in case from one before."""
    taken: set[str] = set()
    found = []
    for name in names:
        chosen, number = name, 1
        while chosen.casefold() in taken:
            chosen, number = f"{name}_{number}", number + 1
        taken.add(chosen.casefold())
        found.append(chosen)
    return found


def _file_names(tables: Iterable[str]) -> list[str]:
    """Return a name for each table's file that every file system, URL and Delta reader takes as it is."""
    return _distinct(re.sub(r"[^A-Za-z0-9_-]", "_", name)[:_NAME_CHARACTERS] or "_" for name in tables)


def _spelled(batch: pa.RecordBatch, columns: Sequence[_Column], schema: pa.Schema) -> pa.RecordBatch:
    arrays = [
        _text(array) if one.spelled else array for array, one in zip(batch.columns, columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _text(array: pa.Array) -> pa.Array:
    """Return the values as text from which each can be made again."""
    if pa.types.is_binary(array.type):
        return pa.array(
            [None if one is None else "\\x" + one.hex() for one in array.to_pylist()], pa.string()
        )
    if array.type == pa.uuid():
        return uuid_text(array)
    text = array.cast(pa.string())
    if pa.types.is_decimal(array.type) and pc.any(pc.match_substring(text, "E")).as_py():
        # Arrow writes 1E-8: exact, but no decimal to most readers.
        return pa.array([None if one is None else f"{one:f}" for one in array.to_pylist()], pa.string())
    return text


def _unfit_for_csv(kind: pa.DataType) -> bool:
    return True


def _unfit_for_delta(kind: pa.DataType) -> bool:
    """Return whether Delta has no such type: times of day, UUIDs, unsigned, more than 38 digits, negative scales."""
    return bool(
        pa.types.is_time(kind)
        or pa.types.is_unsigned_integer(kind)
        or kind == pa.uuid()
        or pa.types.is_decimal256(kind)
        or (pa.types.is_decimal(kind) and kind.scale < 0)
    )


def _write_csv(path: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
    options = pyarrow.csv.WriteOptions(quoting_style="all_valid")
    with pyarrow.csv.CSVWriter(path, schema, write_options=options) as writer:
        for batch in batches:
            writer.write(batch)


def _delta_writer() -> Callable[[Path, pa.Schema, Iterator[pa.RecordBatch]], None]:
    try:
        from deltalake import write_deltalake
    except ImportError:
        raise UsageError("Delta needs the package deltalake", fix="pip install 'mailstay[delta]'") from None

    def write(path: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        if "%" in str(path):  # its readers and writers decode such a path once too often
            raise UsageError("Delta does not work below a folder with % in its name", fix="name another one")
        if not schema.names:
            raise UsageError(
                f"Delta holds no table without a column: {path.name}",
                fix="name the other tables with --table",
            )
        try:
            write_deltalake(path.as_uri(), pa.RecordBatchReader.from_batches(schema, batches))
        except Exception as error:  # it has no base class for what its Rust side raises
            reason = str(error).splitlines()[0]
            raise SnapshotError(f"Delta does not take the table: {reason}", where=path.name) from None

    return write


def _described(entry: TableEntry, rows: int, columns: Sequence[_Column], path: Path) -> dict[str, Any]:
    """Return what a reader needs to make the values again."""
    facts = {column.name: column for column in entry.facts.columns}
    described: dict[str, Any] = {
        "file": path.name,
        "rows": rows,
        "primary_key": entry.facts.primary_key,
        "columns": [
            {
                "name": one.written,
                "source_name": one.name,
                "type": str(one.type),
                "as_text": one.spelled,
                "source_type": facts[one.name].source_type,
                "cast": facts[one.name].cast,
            }
            for one in columns
        ],
    }
    if path.is_file():
        with path.open("rb") as file:
            described["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    return described


def _size(path: Path) -> int:
    return sum(one.stat().st_size for one in ([path] if path.is_file() else path.rglob("*")) if one.is_file())


@contextlib.contextmanager
def _new_folder(to: Path, store_root: Path | None) -> Iterator[Path]:
    """Yield an empty folder that becomes `to` when the block ends well, and is removed when it does not."""
    to = to.expanduser().resolve()
    if store_root is not None and to.is_relative_to(store_root):
        raise UsageError(
            "An export cannot go into the store itself", where=str(to), fix="name a folder elsewhere"
        )
    if (to.exists() and not to.is_dir()) or (to.is_dir() and any(to.iterdir())):
        raise UsageError(
            "The folder is not empty: nothing is overwritten", where=str(to), fix="name a new one"
        )
    if not to.parent.is_dir():
        raise UsageError("There is no such folder", where=str(to.parent), fix="create it first")
    partial = to.with_name(f".{to.name}.partial")
    try:
        with _locked(partial):
            try:
                yield partial
                for one in (*partial.rglob("*"), partial):
                    sync_path(one)
                crash_point("export.before_rename")
                partial.rename(to)  # refused if somebody filled the folder meanwhile
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
    except OSError as error:
        raise SnapshotError(
            f"The export could not be written: {error.strerror or error}", where=str(to)
        ) from None
    sync_path(to.parent)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Have `folder` empty and to ourselves; what a killed export left in it is removed."""
    folder.mkdir(exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                "Another export writes there just now", where=str(folder), fix="wait for it"
            ) from None
        for left in folder.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield
    finally:
        os.close(descriptor)
