"""Power loss at every write step: what was not fsynced is forgotten, what was reported as done is there."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import obstore
import pytest

from tasks.snapshots import StoreError
from tasks.snapshots.storage import Storage
from tests.snapshots.world import GOING, OPERATIONS, World, assert_done, assert_whole, backup, built

WRITING = ("backup", "first backup", "prune", "hold", "release", "mark", "rehearse")


class Disk:
    """What a disk below a folder still has after a power loss: contents and folder entries as of their last fsync.

    Whether anything newer is there as well is open: POSIX promises neither that it is nor that it is not.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.steps = root, 0
        self.contents: dict[int, bytes] = {}
        self.entries: dict[int, dict[str, int]] = {}
        self._pinned: dict[
            int, int
        ] = {}  # an open descriptor keeps the number of an inode from being used again
        self._watch: Callable[[], None] | None = None
        for path in [root, *root.rglob("*")]:
            self.synced(path)

    def close(self) -> None:
        for descriptor in self._pinned.values():
            os.close(descriptor)

    def synced(self, path: Path) -> None:
        """Take the folder's entries, or the file's content, as durable."""
        inode = self._pin(path)
        if path.is_dir():
            self.entries[inode] = self._listed(path)
        else:
            self.contents[inode] = path.read_bytes()

    def _pin(self, path: Path) -> int:
        inode = path.stat().st_ino
        if inode not in self._pinned:
            self._pinned[inode] = os.open(path, os.O_RDONLY)
        return inode

    def _listed(self, folder: Path) -> dict[str, int]:
        return {one.name: self._pin(one) for one in folder.iterdir()}

    def left(self, to: Path, pick: random.Random | None) -> Path:
        """Build below `to` what a power loss now could leave: the least of it, or a random part of what is newer."""
        self._rebuild(self._pin(self.root), self.root, to, pick)
        return to

    def _rebuild(self, inode: int, now: Path | None, to: Path, pick: random.Random | None) -> None:
        to.mkdir()
        durable, newer = self.entries.get(inode, {}), self._listed(now) if now else {}
        for name in durable.keys() | newer.keys():
            entries = durable if pick is None or pick.random() < 0.5 else newer
            if (there := entries.get(name)) is None:
                continue
            if stat.S_ISDIR(os.fstat(self._pinned[there]).st_mode):
                self._rebuild(
                    there, now / name if now and newer.get(name) == there else None, to / name, pick
                )
            elif there in self.contents:
                (to / name).write_bytes(self.contents[there])
            else:
                content = b"" if pick is None else os.pread(self._pinned[there], 2**20, 0)
                (to / name).write_bytes(content[: pick.randrange(len(content) + 1)] if pick else content)

    @contextmanager
    def watched(self, at_every_step: Callable[[], None]) -> Iterator[None]:
        """Call `at_every_step` after each change and before and after each fsync below the folder."""
        busy = False

        def step() -> None:
            nonlocal busy
            if not busy:
                busy = True
                self.steps += 1
                at_every_step()
                busy = False

        fsync = os.fsync

        def synced(descriptor: int) -> None:
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            inside = path.is_relative_to(self.root)
            if inside:
                step()
            fsync(descriptor)
            if inside:
                self.synced(path)
                step()

        def then_step(do: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **options: Any) -> Any:
                answer = do(*args, **options)
                step()
                return answer

            return call

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", synced)
            for name in ("link", "replace", "mkdir", "unlink"):
                patch.setattr(os, name, then_step(getattr(os, name)))
            patch.setattr(obstore, "delete", then_step(obstore.delete))
            yield


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> World:
    return built(tmp_path_factory.mktemp("world") / "template")


def lose_power(template: World, name: str, variants: int, every: int = 1) -> int:
    """Run the operation, at every step build what a power loss could leave, and check that; return how many."""
    world = template.copy(name)
    outer = world.home / "disk"
    outer.mkdir()
    moved = replace(world, url=str(outer / "new" / "store" if name == "first backup" else outer / "store"))
    if world.root.exists():
        world.root.rename(moved.root)
    disk, pick, tried = Disk(outer), random.Random(name), 0

    def check(done: bool = False) -> None:
        nonlocal tried
        if disk.steps % every and not done:
            return
        for variant in range(variants):
            tried += 1
            left = disk.left(world.home / f"left-{tried}", pick if variant else None)
            after = replace(world, url=str(left / moved.root.relative_to(outer)))
            assert_whole(after, going=(GOING,))
            if done:
                assert_done(after, name)

    with disk.watched(check):
        OPERATIONS[name](moved)
    check(done=True)
    disk.close()
    assert disk.steps > 5
    return tried


@pytest.mark.parametrize("name", WRITING)
def test_what_was_committed_survives_a_power_loss(
    template: World, name: str, record_property: Callable[..., None]
) -> None:
    record_property("cases", lose_power(template, name, variants=1, every=9))


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITING)
def test_what_was_committed_survives_a_power_loss_at_every_step(
    template: World, name: str, record_property: Callable[..., None]
) -> None:
    record_property("cases", lose_power(template, name, variants=8))


def test_an_object_of_a_run_killed_before_its_fsync_is_made_durable_by_the_next(
    template: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run finds the object there; its name must be on the disk before the manifest counts on it."""
    world = template.copy("backup")
    disk, settle = Disk(world.root), Storage.settle

    def killed(self: Storage, path: str) -> None:
        if path.startswith("objects/"):
            raise StoreError("killed")
        settle(self, path)

    with monkeypatch.context() as patch, disk.watched(lambda: None):
        patch.setattr(Storage, "settle", killed)
        with pytest.raises(StoreError, match="killed"):
            backup(world)
    with disk.watched(lambda: None):
        backup(world)
    after = replace(world, url=str(disk.left(world.home / "left", None)))
    disk.close()
    assert_whole(after)
    assert_done(after, "backup")
