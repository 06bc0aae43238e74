"""Real processes at one store at once, and a disk that is full: nothing committed is lost, nothing half is visible."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.core import MailstayError, UsageError
from tests.snapshots.world import (
    DAY,
    GOING,
    OPERATIONS,
    World,
    assert_done,
    assert_whole,
    built,
    plain,
    rows_of,
)

Mortal = Callable[..., list[int]]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> World:
    return built(tmp_path_factory.mktemp("world") / "template")


def order(name: str, world: World, **more: Any) -> dict[str, Any]:
    return {"do": name, "home": str(world.home), "url": world.url, **more}


def run_together(mortal: Mortal, template: World, rounds: int) -> None:
    """Two backups, a prune and a verify at once, again and again, while the source grows and time passes."""
    world, pick = template.copy("backup"), random.Random(rounds)
    gone: set[str] = set()
    for number in range(100, 100 + rounds):
        world.change(f"INSERT INTO orders VALUES ({number}, {number}, 'round {number}')")
        world.change(f"DELETE FROM orders WHERE id = {number - 2}")
        before = set(world.store().snapshot_ids())
        orders = [
            order(name, world, wait=pick.random() * 0.15) for name in ("backup", "backup", "prune", "verify")
        ]
        assert mortal(*orders) == [0, 0, 0, 0]
        store = world.store()
        after = store.snapshot_ids()
        for name in set(after) - before:
            assert plain(rows_of(store, name, "orders")) == plain(world.source_rows()["orders"])
            world.tell(name)
        gone |= before - set(after)
        assert_whole(world, going=tuple(gone))
        world.clock.advance(DAY)
    world.prune()
    world.clock.advance(2 * DAY)
    world.prune()
    store = world.store()
    needed = {ref.path for one in store.manifests() for table in one.tables.values() for ref in table.objects}
    assert set(store.storage.list("objects/")) == needed
    assert len(gone) >= rounds - 1


@pytest.mark.kill
def test_two_backups_a_prune_and_a_verify_at_once(
    mortal: Mortal, template: World, record_property: Callable[..., None]
) -> None:
    run_together(mortal, template, 6)
    record_property("cases", 6)


@pytest.mark.slow
@pytest.mark.kill
def test_two_backups_a_prune_and_a_verify_at_once_again_and_again(
    mortal: Mortal, template: World, record_property: Callable[..., None]
) -> None:
    run_together(mortal, template, 150)
    record_property("cases", 150)


# A full disk ----------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(at: Path, kilobytes: int) -> Iterator[Path]:
    """Mount a file system of that size; skips where this process may not mount."""
    at.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(at)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("a small disk needs the command mount")
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", str(at)], check=True)


def room(disk: Path, free: int) -> Path:
    """Fill the disk until `free` bytes are left; return the ballast."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
    with ballast.open("r+b") as file:
        file.truncate(max(0, ballast.stat().st_size - free))
    return ballast


def fill_up(template: World, disk: Path, free: int) -> bool:
    """Run every operation with that much room; return whether one of them ran out of it."""
    full = False
    for name in OPERATIONS:
        world = template.copy(name)
        moved = replace(world, url=str(disk / "store"))
        if world.root.exists():
            subprocess.run(["cp", "-r", str(world.root), moved.url], check=True)
        ballast = room(disk, free)
        try:
            OPERATIONS[name](moved)
        except MailstayError as error:
            assert "No space left on device" in str(error), name
            full = True
        else:
            assert_done(moved, name)
            (world.home / "back.db").unlink(missing_ok=True)
        assert_whole(moved, going=(GOING,))
        ballast.unlink()
        try:
            OPERATIONS[name](moved)
        except UsageError:
            assert name == "release", "it was released already"
        assert_done(moved, name)
        assert_whole(moved, going=(GOING,))
        subprocess.run(["rm", "-r", moved.url], check=True)
    return full


@pytest.mark.integration
@pytest.mark.parametrize("free", [0, 8192])
def test_a_full_disk_stops_an_operation_with_one_error_and_harms_nothing(
    template: World, tmp_path: Path, free: int
) -> None:
    with small_disk(tmp_path / "disk", 1024) as disk:
        assert fill_up(template, disk, free)


@pytest.mark.slow
@pytest.mark.integration
def test_a_disk_that_fills_up_at_any_page_harms_nothing(
    template: World, tmp_path: Path, record_property: Callable[..., None]
) -> None:
    with small_disk(tmp_path / "disk", 1024) as disk:
        pages = 0
        while fill_up(template, disk, pages * 4096):
            pages += 1
    assert pages >= 4
    record_property("cases", pages * len(OPERATIONS))


@pytest.mark.parametrize("limit", [1, 600, 2000])
def test_a_file_that_may_not_grow_stops_a_backup_with_one_error(
    mortal: Mortal, template: World, limit: int
) -> None:
    world = template.copy("backup")
    assert mortal(order("backup", world, file_limit=limit)) == [1], "an error of ours, no traceback"
    assert_whole(world)
    OPERATIONS["backup"](world)
    assert_done(world, "backup")
