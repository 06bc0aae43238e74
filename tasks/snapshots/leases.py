"""Leases in the store: who backs up and who deletes, so that nothing is deleted under a running backup.

Whoever backs up and whoever deletes each write their own lease first and look for the other's then: at least one of two
sees the other. Real time and the process are what counts, also in a drill.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta

from tasks.core import SystemClock, canonical_json
from tasks.snapshots.errors import SnapshotError, StoreError
from tasks.snapshots.store import Store

LEASE = timedelta(hours=24)
_HELD: set[str] = set()  # the leases of this process


@contextlib.contextmanager
def lease(store: Store, kind: str) -> Iterator[str]:
    """Hold a lease of `kind` (`backup`, or `prune` for whoever deletes) while the block runs, and yield its path."""
    path = f"leases/{kind}-{uuid.uuid4().hex}.json"
    held = {
        "kind": kind,
        "host": socket.gethostname(),
        "process": os.getpid(),
        "until": (SystemClock().now() + LEASE).isoformat(),
    }
    _HELD.add(path)
    try:
        store.storage.put(path, canonical_json(held) + b"\n")
        yield path
    finally:
        _HELD.discard(path)
        with contextlib.suppress(
            StoreError
        ):  # one that stays is over with this process; the work itself counts
            store.storage.delete(path)


@contextlib.contextmanager
def sole_deleter(store: Store, *, beside_backups: bool = False) -> Iterator[None]:
    """Hold the lease of `prune` while nobody else deletes and, unless `beside_backups`, nobody backs up.

    Raises:
        SnapshotError: somebody does; nothing was changed.
    """
    with lease(store, "prune") as mine:
        others = live_leases(store, "prune", besides=mine)
        others += [] if beside_backups else live_leases(store, "backup")
        if others:
            raise SnapshotError(
                f"Another run writes to the store just now ({others[0]})",
                where=store.url,
                fix="run it again when that has ended",
            )
        yield


def live_leases(store: Store, kind: str, *, besides: str = "") -> list[str]:
    """Return who holds a lease of `kind`: not one whose time is over or whose process on this machine is dead."""
    found = []
    for path in store.storage.list("leases/"):
        if not path.startswith(f"leases/{kind}-") or path == besides:
            continue
        try:
            held = json.loads(store.storage.get(path))
            host, process, until = held["host"], int(held["process"]), datetime.fromisoformat(held["until"])
        except FileNotFoundError:
            continue
        except (ValueError, KeyError, TypeError):
            found.append(f"{path}, which cannot be read")
            continue
        if until > SystemClock().now() and not (host == socket.gethostname() and _is_over(path, process)):
            found.append(f"process {process} on {host}")
        else:
            store.storage.delete(path)
    return found


def wait_for_prune(store: Store, *, seconds: float = 3600.0) -> None:
    """Wait until nobody deletes objects.

    Raises:
        SnapshotError: somebody still does after `seconds`.
    """
    until = time.monotonic() + seconds
    while others := live_leases(store, "prune"):
        if time.monotonic() > until:
            raise SnapshotError(
                f"A prune is still deleting objects ({others[0]})",
                where=store.url,
                fix="end it, then run the backup again",
            )
        time.sleep(0.2)


def _is_over(path: str, process: int) -> bool:
    if process == os.getpid():
        return path not in _HELD
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
