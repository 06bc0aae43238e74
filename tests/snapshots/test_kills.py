"""SIGKILL at every write step of a snapshot: nothing half done is visible and the next run goes through."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.core import DrivenClock
from tasks.snapshots import Manifest, SigningKey, Store, key_pem, verify

pytestmark = pytest.mark.kill

# Every write step in the order it is passed; `#n` the n-th passing. The last two points lie after the commit.
POINTS = [
    "snapshot.begin",
    "spool.opened",
    "spool.row_group#2",
    "spool.closed",
    "object.before_put#2",
    "storage.file_synced",
    "storage.file_moved",
    "object.after_put#3",
    "snapshot.table_done",
    "snapshot.objects_stored",
    "commit.before_manifest",
    "storage.staged",
    "storage.linked",
    "commit.after_manifest",
]
COMMITTED = {"storage.linked", "commit.after_manifest"}

SCRIPT = """
import sys
from tasks.core import DrivenClock
from tasks.snapshots import open_store, take_snapshot
from tasks.sources import open_source
database, store, key, clock = sys.argv[1:]
take_snapshot(
    open_source("shop", f"sqlite:///{database}"), open_store(store, signing_key=key), clock=DrivenClock(clock),
    plan_digest="0" * 64, object_bytes=4096,
)
"""


@pytest.fixture
def backup(
    database: Path, store: Store, key: SigningKey, clock: DrivenClock, tmp_path: Path
) -> Callable[[str], int]:
    """A function that takes a snapshot in a process of its own, killed at the given point, and returns its code."""
    (tmp_path / "key.pem").write_bytes(key_pem(key))

    def run(crash_at: str) -> int:
        arguments = [str(database), store.url, str(tmp_path / "key.pem"), str(clock.path)]
        environment = {**os.environ, "MAILSTAY_CRASH_AT": crash_at, "PYTHONPATH": str(Path.cwd())}
        if not crash_at:
            del environment["MAILSTAY_CRASH_AT"]
        return subprocess.run(
            [sys.executable, "-c", SCRIPT, *arguments], env=environment, check=False
        ).returncode

    return run


@pytest.mark.parametrize("point", POINTS)
def test_a_backup_killed_at(
    point: str,
    store: Store,
    backup: Callable[[str], int],
    taken: Callable[..., Manifest],
    change: Callable[[str], None],
) -> None:
    first = taken(store, object_bytes=4096)
    change("UPDATE customers SET customer_id = customer_id + 10000")
    change("UPDATE prices SET price = price + 1")
    known = set(store.storage.list("objects/"))

    assert backup(point) == -signal.SIGKILL, "the point was not passed"

    assert verify(store, level="content").ok
    committed = ["shop/00000001", "shop/00000002"] if point in COMMITTED else ["shop/00000001"]
    assert [info.snapshot_id for info in store.list()] == committed
    assert store.manifest("shop/00000001") == first
    left = [path for path in store.storage.list("objects/") if path not in known]
    assert all(store.storage.hash(path)[0] in path for path in left), "an object is named when it is complete"

    stamps = {path: inode(store, path) for path in left}
    manifest = taken(store, object_bytes=4096)
    assert verify(store, level="content").ok
    assert manifest.sequence == len(committed) + 1
    assert {path: inode(store, path) for path in left} == stamps, "what the killed run stored is reused"
    needed = {ref.path for table in manifest.tables.values() for ref in table.objects}
    assert set(left) <= needed, "the killed run left nothing but objects that the next run needs"


def inode(store: Store, path: str) -> int:
    assert store.storage.root is not None
    return (store.storage.root / path).stat().st_ino


@pytest.mark.slow
def test_a_backup_killed_at_any_step_at_all(
    store: Store, backup: Callable[[str], int], change: Callable[[str], None]
) -> None:
    """Walks through every passing of every point, the source changing each time."""
    step = 1
    while backup(f"*#{step}") == -signal.SIGKILL:
        assert verify(store, level="content").ok
        change(
            f"UPDATE customers SET email = 'changed{step}@shop.example' WHERE customer_id % 7 = {step % 7}"
        )
        step += 1
    assert step > 40
    assert verify(store, level="content").ok


def test_a_kill_while_a_verdict_is_written_leaves_the_state_before_or_after(
    store: Store, taken: Callable[..., Manifest], key: SigningKey, clock: DrivenClock, tmp_path: Path
) -> None:
    (tmp_path / "key.pem").write_bytes(key_pem(key))
    name = taken(store).snapshot_id
    script = (
        "import sys; from tasks.core import DrivenClock; from tasks.snapshots import open_store;"
        "open_store(sys.argv[1], signing_key=sys.argv[2]).mark(sys.argv[3], 'valid', findings=[],"
        " at=DrivenClock(sys.argv[4]).now(), by='validate')"
    )
    arguments = [store.url, str(tmp_path / "key.pem"), name, str(clock.path)]
    for point, state in {
        "verdict.before_put": "committed",
        "storage.staged": "committed",
        "verdict.after_put": "valid",
    }.items():
        environment = {**os.environ, "MAILSTAY_CRASH_AT": point, "PYTHONPATH": str(Path.cwd())}
        killed = subprocess.run([sys.executable, "-c", script, *arguments], env=environment, check=False)
        assert killed.returncode == -signal.SIGKILL
        assert store.state(name) == state
        assert verify(store, level="content").ok
