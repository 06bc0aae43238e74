"""Retention says why a snapshot is kept; a prune removes the rest and never an object that is needed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core import DrivenClock, UsageError
from tasks.snapshots import (
    Damaged,
    Manifest,
    SigningKey,
    SnapshotInfo,
    Store,
    key_pem,
    prune,
    verify,
)
from tasks.snapshots.leases import lease
from tasks.snapshots.retention import decide

NOW = datetime(2011, 11, 16, 12, 0, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@dataclass
class Keep:
    keep_last: int = 0
    keep_within_days: int = 0
    keep_hourly: int = 0
    keep_daily: int = 0
    keep_weekly: int = 0
    keep_monthly: int = 0
    keep_yearly: int = 0


def info(number: int, at: datetime, state: Any = "valid", held: list[str] | None = None) -> SnapshotInfo:
    return SnapshotInfo(
        f"shop/{number:08d}", "shop", number, at, at, at, 1, 10, ("t",), state, "content", held or []
    )


def kept(snapshots: list[SnapshotInfo], rules: Keep) -> dict[int, tuple[str, ...]]:
    return {int(one.snapshot_id[-8:]): one.because for one in decide(snapshots, rules, NOW) if one.kept}


def test_every_kept_snapshot_says_why() -> None:
    snapshots = [info(n, NOW - (10 - n) * DAY) for n in range(1, 11)]
    found = kept(snapshots, Keep(keep_last=2, keep_daily=3, keep_weekly=2))
    assert found == {
        10: ("newest", "newest valid", "last 1 of 2", "daily 2011-11-16", "weekly 2011-W46"),
        9: ("last 2 of 2", "daily 2011-11-15"),
        8: ("daily 2011-11-14",),
        7: ("weekly 2011-W45",),
    }


def test_a_quarantined_snapshot_never_takes_the_place_of_a_good_one() -> None:
    snapshots = [
        info(1, NOW - 3 * HOUR),
        info(2, NOW - 2 * HOUR, "quarantined"),
        info(3, NOW - HOUR, "quarantined"),
    ]
    assert kept(snapshots, Keep(keep_daily=1)) == {1: ("newest valid", "daily 2011-11-16"), 3: ("newest",)}


def test_a_held_snapshot_and_the_last_good_one_stay_whatever_the_rules() -> None:
    snapshots = [
        info(1, NOW - 9 * DAY, held=["incident INC-0001"]),
        info(2, NOW - 8 * DAY),
        info(3, NOW, "committed"),
    ]
    assert kept(snapshots, Keep(keep_last=1)) == {
        1: ("held: incident INC-0001",), 2: ("newest valid",), 3: ("newest", "last 1 of 1"),
    }  # fmt: skip


@given(
    st.lists(
        st.tuples(st.integers(0, 900), st.sampled_from(["valid", "quarantined", "committed"])),
        min_size=1,
        max_size=40,
    ),
    st.builds(Keep, *[st.integers(0, 4)] * 7),
)
def test_no_rule_keeps_more_than_it_says_and_the_good_ones_survive(
    ages: list[tuple[int, str]], rules: Keep
) -> None:
    ages.sort(reverse=True)
    snapshots = [info(n, NOW - hours * HOUR, state) for n, (hours, state) in enumerate(ages, 1)]
    found = kept(snapshots, rules)
    assert len(snapshots) in found
    if good := [one.sequence for one in snapshots if one.state == "valid"]:
        assert max(good) in found
    for name in ("hourly", "daily", "weekly", "monthly", "yearly"):
        periods = [why for reasons in found.values() for why in reasons if why.startswith(f"{name} ")]
        assert len(periods) == len(set(periods)) <= getattr(rules, f"keep_{name}")
    assert (
        sum(any(why.startswith("last ") for why in reasons) for reasons in found.values()) <= rules.keep_last
    )


# Pruning a store ------------------------------------------------------------------------------------------------


def grown(
    store: Store, taken: Callable[..., Manifest], change: Callable[[str], None], clock: DrivenClock
) -> None:
    """Four snapshots a day apart, each with prices of its own."""
    for number in range(4):
        change(f"UPDATE prices SET price = price + {number}")
        taken(store)
        clock.advance(DAY)


def objects(store: Store) -> set[str]:
    return set(store.storage.list("objects/"))


def test_a_dry_run_changes_nothing_and_says_what_would_go(
    any_store: Store, taken: Callable[..., Manifest], change: Callable[[str], None], clock: DrivenClock
) -> None:
    grown(any_store, taken, change, clock)
    before = any_store.storage.list("")
    found = prune(any_store, Keep(keep_last=2), clock=clock)
    assert (found.dry, found.removed) == (True, ["shop/00000001", "shop/00000002"])
    assert (found.condemned, found.deleted) == (2, 0)
    assert any_store.storage.list("") == before


def test_snapshots_go_at_once_their_objects_after_the_grace_and_the_chain_still_verifies(
    any_store: Store, taken: Callable[..., Manifest], change: Callable[[str], None], clock: DrivenClock
) -> None:
    store = any_store
    grown(store, taken, change, clock)
    head = verify(store, level="structure").heads
    before = objects(store)
    first = prune(store, Keep(keep_last=2), clock=clock, dry=False)
    assert store.snapshot_ids() == ["shop/00000003", "shop/00000004"]
    assert (first.condemned, first.deleted, objects(store)) == (2, 0, before)
    assert verify(store, level="content", anchors=head).ok
    clock.advance(23 * HOUR)
    assert prune(store, Keep(keep_last=2), clock=clock, dry=False).deleted == 0
    clock.advance(HOUR)
    second = prune(store, Keep(keep_last=2), clock=clock, dry=False)
    assert (second.deleted, len(objects(store))) == (2, len(before) - 2)
    assert store.storage.list("condemned/") == []
    assert verify(store, level="content", anchors=head).ok
    assert taken(store).sequence == 5
    assert verify(store, level="content", anchors=head).ok


def test_an_object_that_a_backup_needs_again_is_saved(
    store: Store, taken: Callable[..., Manifest], change: Callable[[str], None], clock: DrivenClock
) -> None:
    taken(store)
    change("UPDATE prices SET price = price + 1")
    clock.advance(DAY)
    taken(store)
    clock.advance(DAY)
    assert prune(store, Keep(keep_last=1), clock=clock, dry=False).condemned == 1
    change("UPDATE prices SET price = price - 1")
    clock.advance(30 * HOUR)
    taken(store)  # the same bytes as the first: the condemned object is needed again
    found = prune(store, Keep(keep_last=1), clock=clock, dry=False)
    assert found.deleted == 0
    assert store.storage.list("condemned/")[0:1] != []  # now the second one's
    assert verify(store, level="content").ok


def test_nothing_is_deleted_while_a_backup_runs_and_a_dead_one_does_not_count(
    store: Store, taken: Callable[..., Manifest], change: Callable[[str], None], clock: DrivenClock
) -> None:
    grown(store, taken, change, clock)
    prune(store, Keep(keep_last=1), clock=clock, dry=False)
    clock.advance(2 * DAY)
    with lease(store, "backup"):
        found = prune(store, Keep(keep_last=1), clock=clock, dry=False)
        assert (found.deleted, "a backup is running" in found.waiting) == (0, True)
    program = (
        "import os, signal, sys; from tasks.snapshots import open_store; from tasks.snapshots.leases import lease\n"
        "with lease(open_store(sys.argv[1]), 'backup'): os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-c", program, store.url]
    assert subprocess.run(command, check=False, cwd=Path(__file__).parents[2]).returncode == -signal.SIGKILL
    assert len(store.storage.list("leases/")) == 1
    assert prune(store, Keep(keep_last=1), clock=clock, dry=False).deleted == 3
    assert store.storage.list("leases/") == []


def test_a_backup_waits_until_a_prune_has_deleted(
    store: Store, taken: Callable[..., Manifest], tmp_path: Path
) -> None:
    program = (
        "import sys, time; from tasks.snapshots import open_store; from tasks.snapshots.leases import lease\n"
        "with lease(open_store(sys.argv[1]), 'prune'):\n print('held', flush=True); time.sleep(1.5)"
    )
    command = [sys.executable, "-c", program, store.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as deleting:
        assert deleting.stdout is not None
        deleting.stdout.readline()
        taken(store)
        deleting.wait(30)
        assert deleting.returncode == 0
    assert store.snapshot_ids() == ["shop/00000001"]


def test_rules_that_keep_nothing_are_refused(store: Store, clock: DrivenClock) -> None:
    with pytest.raises(UsageError, match="No rule keeps anything"):
        prune(store, Keep(), clock=clock)


def test_a_changed_tombstone_and_a_manifest_removed_without_one_are_found(
    store: Store, taken: Callable[..., Manifest], change: Callable[[str], None], clock: DrivenClock
) -> None:
    grown(store, taken, change, clock)
    prune(store, Keep(keep_last=2), clock=clock, dry=False)
    assert store.storage.root is not None
    stone = store.storage.root / "tombstones/shop/00000001.json"
    content = stone.read_bytes()
    stone.write_bytes(content.replace(b'"by":"prune"', b'"by":"nobody"'))
    assert [one.kind for one in verify(store, level="structure").findings] == ["tombstone_changed"]
    stone.write_bytes(content)
    (store.storage.root / "tombstones/shop/00000002.json").unlink()
    assert [one.kind for one in verify(store, level="structure").findings] == ["manifest_missing"]


def test_nothing_is_removed_while_a_verdict_cannot_be_read(
    store: Store, taken: Callable[..., Manifest], change: Callable[[str], None], clock: DrivenClock
) -> None:
    """It may be the one that makes a snapshot the newest valid one."""
    grown(store, taken, change, clock)
    store.mark("shop/00000002", "valid", findings=[], at=clock.now(), by="validate")
    assert store.storage.root is not None
    verdict = store.storage.root / "verify/shop/00000002/000001.json"
    verdict.write_bytes(verdict.read_bytes()[:-2])
    with pytest.raises(Damaged, match=r"verify/shop/00000002/000001.json.*run validate"):
        prune(store, Keep(keep_last=1), clock=clock, dry=False)
    assert len(store.snapshot_ids()) == 4
    store.mark("shop/00000002", "valid", findings=[], at=clock.now(), by="validate")
    assert prune(store, Keep(keep_last=1), clock=clock, dry=False).removed == [
        "shop/00000001",
        "shop/00000003",
    ]


POINTS = [
    "prune.tombstoned",
    "prune.manifest_removed",
    "prune.manifest_removed#2",
    "prune.condemned",
    "prune.condemned#2",
    "prune.object_deleted",
    "prune.object_deleted#2",
]


@pytest.mark.kill
@pytest.mark.parametrize("point", POINTS)
def test_a_killed_prune_leaves_a_store_that_verifies_and_the_next_one_finishes(
    store: Store,
    key: SigningKey,
    taken: Callable[..., Manifest],
    change: Callable[[str], None],
    clock: DrivenClock,
    tmp_path: Path,
    point: str,
) -> None:
    grown(store, taken, change, clock)
    if "deleted" in point:
        prune(store, Keep(keep_last=1), clock=clock, dry=False)
        clock.advance(2 * DAY)
    (tmp_path / "key.pem").write_bytes(key_pem(key))
    program = (
        "import sys; from tasks.core import DrivenClock; from tasks.plan.models import Retention;"
        "from tasks.snapshots import open_store, prune;"
        "prune(open_store(sys.argv[1], signing_key=sys.argv[2]), Retention(keep_last=1, keep_daily=0, keep_weekly=0,"
        " keep_monthly=0), clock=DrivenClock(sys.argv[3]), dry=False)"
    )
    killed = subprocess.run(
        [sys.executable, "-c", program, store.url, str(tmp_path / "key.pem"), str(clock.path)],
        env={**os.environ, "MAILSTAY_CRASH_AT": point},
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert verify(store, level="content").ok
    assert store.snapshot_ids()[-1] == "shop/00000004"
    prune(store, Keep(keep_last=1), clock=clock, dry=False)
    clock.advance(2 * DAY)
    prune(store, Keep(keep_last=1), clock=clock, dry=False)
    assert store.snapshot_ids() == ["shop/00000004"]
    needed = {ref.path for table in store.manifest("shop/00000004").tables.values() for ref in table.objects}
    assert objects(store) == needed
    assert verify(store, level="content").ok
