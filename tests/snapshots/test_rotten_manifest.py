"""A manifest that rotted on the disk: backups go on, nobody restores from it, and the way out is named and works."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace

import pytest

from tasks.core import DrivenClock
from tasks.snapshots import (
    Damaged,
    Manifest,
    SnapshotError,
    Store,
    StoreError,
    costs,
    give_up,
    prune,
    verify,
)

Take = Callable[..., Manifest]
FIRST = "snapshots/shop/00000001.json"
NEWEST = "snapshots/shop/00000003.json"
RULES = SimpleNamespace(
    keep_last=1,
    keep_within_days=0,
    keep_hourly=0,
    keep_daily=0,
    keep_weekly=0,
    keep_monthly=0,
    keep_yearly=0,
)


@pytest.fixture
def filled(store: Store, taken: Take, change: Callable[[str], None], clock: DrivenClock) -> Store:
    """A store with three valid snapshots."""
    for number in range(3):
        name = taken(store).snapshot_id
        store.mark(name, "valid", findings=[], at=clock.now(), by="validate")
        change(f"INSERT INTO prices VALUES ('new {number}', 1)")
        clock.advance(3600)
    return store


def flipped(content: bytes) -> bytes:
    return content[:300] + bytes([content[300] ^ 4]) + content[301:]


ROT: dict[str, Callable[[bytes], bytes]] = {
    "a bit flipped": flipped,
    "cut in half": lambda content: content[: len(content) // 2],
    "emptied": lambda _: b"",
    "zeroed": lambda content: bytes(len(content)),
}


def rotted(store: Store, how: str = "a bit flipped", path: str = NEWEST) -> bytes:
    """Let a manifest rot and return what it was."""
    was = store.storage.get(path)
    store.storage.put(path, ROT[how](was))
    return was


def found(store: Store, **anchors: str) -> list[tuple[str, str]]:
    return [
        (one.kind, one.snapshot_id)
        for one in verify(store, level="content", anchors=anchors or None).findings
    ]


@pytest.mark.parametrize("how", ROT)
def test_a_backup_follows_a_newest_manifest_that_rotted_and_says_so(
    store: Store, taken: Take, how: str
) -> None:
    taken(store)
    rotted(store, how, FIRST)
    made = taken(store)
    assert made.snapshot_id == "shop/00000002"
    assert made.parent_digest == hashlib.sha256(store.storage.get(FIRST)).hexdigest()
    assert made.parent_unreadable
    assert store.manifest(made.snapshot_id) == made
    assert found(store) == [("manifest_changed", "shop/00000001")]
    assert (
        "`mailstay snapshots give-up shop/00000001`" in verify(store, level="structure").findings[0].message
    )
    assert {one.reason for one in costs(store, made.snapshot_id)} == {
        "shop/00000001 cannot be read: nothing to compare with"
    }
    assert taken(store).parent_digest == made.digest, "and the chain goes on as ever"


def test_a_manifest_that_the_disk_refuses_to_read_stops_no_backup(
    store: Store, taken: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken(store)
    get = store.storage.get

    def refusing(path: str) -> bytes:
        if path == FIRST:
            raise StoreError("The disk refused to get: Input/output error")
        return get(path)

    monkeypatch.setattr(store.storage, "get", refusing)
    made = taken(store)
    assert (made.snapshot_id, made.parent_digest) == ("shop/00000002", None)
    assert "Input/output error" in (made.parent_unreadable or "")
    assert found(store) == [("manifest_changed", "shop/00000001")]


def test_a_byte_changed_on_its_way_from_the_disk_is_no_rot(
    store: Store, taken: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = taken(store)
    get, reads = store.storage.get, itertools.count()

    def every_other_wrong(path: str) -> bytes:
        content = get(path)
        return flipped(content) if path == FIRST and next(reads) % 2 == 0 else content

    monkeypatch.setattr(store.storage, "get", every_other_wrong)
    made = taken(store)
    assert next(reads) > 2
    assert (made.parent_digest, made.parent_unreadable) == (first.digest, None)


def test_nobody_restores_from_a_snapshot_whose_manifest_rotted(filled: Store) -> None:
    assert filled.newest_valid("shop").snapshot_id == "shop/00000003"
    rotted(filled)
    assert filled.state("shop/00000003") == "quarantined"
    assert filled.newest_valid("shop").snapshot_id == "shop/00000002"
    assert [one.snapshot_id for one in filled.list()] == ["shop/00000001", "shop/00000002"]
    assert list(filled.unreadable()) == ["shop/00000003"]
    with pytest.raises(Damaged, match="bring this file back from a copy"):
        filled.table_files("shop/00000003", "prices")


def test_a_rotten_manifest_that_is_brought_back_is_as_good_as_before(filled: Store, taken: Take) -> None:
    was = rotted(filled)
    taken(filled)
    filled.storage.put(NEWEST, was)
    assert found(filled) == []
    assert filled.newest_valid("shop").snapshot_id == "shop/00000003"


def test_another_manifest_in_the_place_of_a_rotten_one_is_named(filled: Store, taken: Take) -> None:
    rotted(filled)
    head = taken(filled).digest
    filled.storage.put(NEWEST, filled.storage.get("snapshots/shop/00000002.json"))
    assert found(filled, shop=head) == [("manifest_changed", "shop/00000003")]
    filled.storage.delete(NEWEST)
    assert found(filled, shop=head) == [("manifest_missing", "shop/00000003")]
    filled.storage.delete("snapshots/shop/00000004.json")
    assert found(filled, shop=head) == [("anchor_missing", "")]


def test_nothing_is_removed_while_a_manifest_is_rotten(
    filled: Store, taken: Take, clock: DrivenClock
) -> None:
    rotted(filled)
    taken(filled)
    with pytest.raises(Damaged, match="give-up shop/00000003"):
        prune(filled, RULES, clock=clock, dry=False)
    assert len(filled.snapshot_ids()) == 4


@pytest.mark.parametrize("sequence", [1, 3])
def test_a_rotten_snapshot_is_given_up_by_a_tombstone_and_the_chain_verifies(
    filled: Store, taken: Take, clock: DrivenClock, sequence: int
) -> None:
    name, anchor = f"shop/{sequence:08d}", filled.manifest(f"shop/{sequence:08d}").digest
    alone = {ref.sha256 for ref in filled.manifest(name).objects}
    rotted(filled, path=f"snapshots/{name}.json")
    taken(filled)
    alone -= {ref.sha256 for one in filled.manifests(strict=False) for ref in one.objects}
    assert give_up(filled, name, clock=clock, by="ops").unreadable
    assert found(filled) == [("manifest_changed", name)], "without a word that it is meant nothing happens"
    assert give_up(filled, name, clock=clock, by="ops", dry=False) == filled.tombstone(name)
    assert found(filled, shop=anchor) == []
    prune(filled, RULES, clock=clock, dry=False)
    assert alone
    assert alone <= filled.condemned().keys(), "what only it held goes after the grace"
    clock.advance(25 * 3600)
    prune(filled, RULES, clock=clock, grace=timedelta(hours=24), dry=False)
    assert not any(filled.storage.size(f"objects/{one[:2]}/{one}.parquet") for one in alone)
    assert found(filled) == []


@pytest.mark.parametrize("order", [(2, 3), (3, 2)])
def test_neighbours_that_rotted_are_given_up_in_any_order(
    filled: Store, taken: Take, clock: DrivenClock, order: tuple[int, int]
) -> None:
    for sequence in order:
        rotted(filled, path=f"snapshots/shop/{sequence:08d}.json")
    taken(filled)
    for sequence in order:
        give_up(filled, f"shop/{sequence:08d}", clock=clock, by="ops", dry=False)
    assert found(filled) == []


def test_a_backup_follows_a_rotten_manifest_on_every_store(
    any_store: Store, taken: Take, clock: DrivenClock
) -> None:
    taken(any_store)
    rotted(any_store, path=FIRST)
    head = taken(any_store).digest
    assert found(any_store, shop=head) == [("manifest_changed", "shop/00000001")]
    give_up(any_store, "shop/00000001", clock=clock, by="ops", dry=False)
    assert found(any_store, shop=head) == []


def test_giving_up_goes_on_where_it_was_stopped(
    filled: Store, taken: Take, clock: DrivenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotted(filled)
    taken(filled)
    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(Store, "remove", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        give_up(filled, "shop/00000003", clock=clock, by="ops", dry=False)
    assert found(filled) == [("manifest_changed", "shop/00000003")]
    clock.advance(60)
    assert give_up(filled, "shop/00000003", clock=clock, by="ops", dry=False).at < clock.now()
    assert found(filled) == []


def test_only_what_cannot_be_read_and_is_not_the_newest_is_given_up(
    filled: Store, clock: DrivenClock
) -> None:
    with pytest.raises(SnapshotError, match="can be read"):
        give_up(filled, "shop/00000002", clock=clock, by="ops", dry=False)
    rotted(filled)
    with pytest.raises(SnapshotError, match="run a backup first"):
        give_up(filled, "shop/00000003", clock=clock, by="ops", dry=False)
