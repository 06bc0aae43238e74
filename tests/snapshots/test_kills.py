"""SIGKILL at every write step of a snapshot: nothing half done is visible and the next run goes through."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.core import DrivenClock, UsageError
from tasks.snapshots import Manifest, SigningKey, Store, key_pem, verify
from tests.snapshots.world import (
    DAY,
    GOING,
    OPERATIONS,
    VALID,
    World,
    assert_done,
    assert_whole,
    built,
    given_back,
    plain,
)

pytestmark = pytest.mark.kill
Mortal = Callable[..., list[int]]

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


# Every operation, at every step of its own ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> World:
    return built(tmp_path_factory.mktemp("world") / "template")


def order(name: str, world: World, **more: Any) -> dict[str, Any]:
    return {"do": name, "home": str(world.home), "url": world.url, "target": world.target, **more}


def kill_at(mortal: Mortal, template: World, name: str, step: int, target: str = "") -> bool:
    """Kill the operation at its step number `step` and check what is left; return False if it has no such step."""
    world = replace(template.copy(name), target=target)
    [code] = mortal(order(name, world, crash_at=f"*#{step}"))
    if code == 0:
        return False
    assert code == -signal.SIGKILL
    assert_whole(world, going=(GOING,))
    if name == "restore" and (there := given_back(world)):
        assert {table: plain(rows) for table, rows in there.items()} == {
            table: plain(rows) for table, rows in world.truth()[VALID].items()
        }, "all of it, or nothing"
        return True
    try:
        OPERATIONS[name](world)
    except UsageError:
        assert name == "release", "it was released already"
    assert_done(world, name)
    assert_whole(world, going=(GOING,))
    assert_reclaimed(world)
    shutil.rmtree(world.home)
    return True


def assert_reclaimed(world: World) -> None:
    """Nothing that a dead run left takes space once the next backup has run and the grace is over."""
    old = time.time() - 3600
    for path in (world.root / ".spool").iterdir():
        os.utime(path, (old, old))
    world.take()
    assert list((world.root / ".spool").iterdir()) == []
    for _ in range(2):
        world.prune()
        world.clock.advance(2 * DAY)
    world.prune()
    storage = world.store().storage
    needed = {
        ref.path
        for one in world.store().manifests()
        for table in one.tables.values()
        for ref in table.objects
    }
    assert set(storage.list("objects/")) == needed
    assert storage.list("leases/") == storage.list("condemned/") == []


KILLED = ("backup", "first backup", "prune", "restore", "rehearse", "hold", "release", "mark")


@pytest.mark.parametrize("name", KILLED)
def test_an_operation_killed_at_some_steps(mortal: Mortal, template: World, name: str) -> None:
    """At the first steps, and at random ones, of which the later may not exist."""
    for step in [1, 2, *random.Random(name).sample(range(3, 30), 3)]:
        kill_at(mortal, template, name, step)


@pytest.mark.slow
@pytest.mark.parametrize("name", KILLED)
def test_an_operation_killed_at_every_step(mortal: Mortal, template: World, name: str) -> None:
    steps = itertools.takewhile(lambda step: kill_at(mortal, template, name, step), itertools.count(1))
    least = {"prune": 14, "hold": 2, "release": 2, "mark": 4, "restore": 8, "rehearse": 12}
    assert max(steps) >= least.get(name, 20)


@pytest.mark.integration
def test_a_restore_into_postgresql_killed_at_every_step(
    mortal: Mortal, template: World, new_database: Callable[[], str]
) -> None:
    step = 1
    while kill_at(mortal, template, "restore", step, target=new_database()):
        step += 1
    assert step > 8
