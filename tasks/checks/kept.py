"""What was measured of a segment, kept for the next validation: figures, and keys as integers or hashes. Never a value.

An entry is found by the SHA-256 of the segment's object and the digest of what was asked, which covers the SQL, the
columns with their types, and the versions of this engine and of DuckDB. Every file is sealed with a secret derived from
the store's signing key: one that is missing, damaged or from somebody else means that the segment is read again.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import shutil
import uuid
from collections.abc import Collection, Mapping
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]

ENGINE_VERSION = 2
"""Raised whenever the same question would be answered differently: what was kept before is then read again."""

_SEAL = 32


class Kept:
    """The aggregates and key lists of one source's segments, in a folder that may be deleted at any time.

    Args:
        folder: where; made when something is kept.
        secret: what files are sealed with.
    """

    def __init__(self, folder: Path, secret: bytes) -> None:
        self.folder = folder
        self._secret = secret
        self._tables: dict[str, dict[str, Any]] = {}

    def figures(self, table: str) -> dict[str, Any]:
        """Return what is kept of a table, a dictionary that the caller changes and gives back to `keep_figures`."""
        if table not in self._tables:
            content = self._read(self.folder / f"{_named(table)}.json")
            self._tables[table] = json.loads(bytes(content)) if content is not None else {}
        return self._tables[table]

    def keep_figures(self, table: str) -> None:
        """Write what the dictionary of a table holds now."""
        self._write(self.folder / f"{_named(table)}.json", json.dumps(self.figures(table)).encode())

    def keys(self, segment: str, asked: str) -> Keys | None:
        """Return the kept keys of a segment, None where there are none that can be trusted."""
        content = self._read(self._keys_path(segment, asked))
        return np.frombuffer(content, dtype="<u8") if content is not None else None

    def keep_keys(self, segment: str, asked: str, keys: Keys) -> None:
        """Keep the keys of a segment; there is only one list that is right, so one that is there already stays."""
        path = self._keys_path(segment, asked)
        if not path.exists():
            self._write(path, keys.astype("<u8", copy=False).tobytes())

    def forget_all_but(self, segments: Collection[str]) -> None:
        """Remove the key lists of every other segment: also those whose objects an erasure or a prune deleted."""
        known = set(segments)
        for path in self.folder.glob("keys/*"):
            if path.name not in known:
                shutil.rmtree(path, ignore_errors=True)

    def _keys_path(self, segment: str, asked: str) -> Path:
        return self.folder / "keys" / segment / f"{asked}.u64"

    def _read(self, path: Path) -> memoryview | None:
        try:
            content = path.read_bytes()
        except OSError:
            return None
        seal, body = content[:_SEAL], memoryview(content)[_SEAL:]
        return body if hmac.compare_digest(seal, self._seal(path, body)) else None

    def _write(self, path: Path, body: bytes) -> None:
        """Put a file in place as a whole; a disk that refuses it costs the next validation time, no more."""
        with contextlib.suppress(OSError):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh = path.with_name(f".{uuid.uuid4().hex}")
            try:
                with fresh.open("xb") as file:
                    os.fchmod(file.fileno(), 0o600)
                    file.write(self._seal(path, body))
                    file.write(body)
                fresh.replace(path)
            finally:
                fresh.unlink(missing_ok=True)

    def _seal(self, path: Path, body: bytes | memoryview) -> bytes:
        """Return the seal of what lies at `path`: the place is part of it, so that files cannot be exchanged."""
        place = path.relative_to(self.folder).as_posix().encode()
        key = hmac.digest(self._secret, place, "sha256")
        return hmac.digest(key, body, "sha256")


def forget_kept(folder: Path) -> None:
    """Remove all that is kept below `folder`: after an erasure nothing may remember the keys of what is gone."""
    shutil.rmtree(folder, ignore_errors=True)


def digest_asked(*asked: object) -> str:
    """Return the digest of a question, which names its answers."""
    import duckdb

    return hashlib.sha256(repr((ENGINE_VERSION, duckdb.__version__, asked)).encode()).hexdigest()[:32]


def can_keep(value: Any) -> bool:
    """Return whether a figure may be kept: numbers and moments; a text may be somebody's name."""
    return value is None or isinstance(value, bool | int | float | Decimal | datetime | date)


def as_json(value: Any) -> Any:
    """Return a figure, or the counts of bins, as JSON holds it, without loss."""
    match value:
        case dict():
            return {"counts": value}
        case datetime():
            return {"moment": value.isoformat()}
        case date():
            return {"day": value.isoformat()}
        case Decimal():
            return {"decimal": str(value)}
    return value


def from_json(value: Any) -> Any:
    """Return the figure that `as_json` turned into JSON."""
    if not isinstance(value, Mapping):
        return value
    match next(iter(value.items())):
        case ("moment", text):
            return datetime.fromisoformat(text)
        case ("day", text):
            return date.fromisoformat(text)
        case ("counts", counts):
            return counts
        case (_, text):
            return Decimal(text)


def _named(table: str) -> str:
    return hashlib.sha256(table.encode()).hexdigest()[:32]
