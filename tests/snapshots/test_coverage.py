"""Reading a store in parts: what was read when is kept per object, and what is damaged taints who holds it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core import DrivenClock, UsageError, sha256_hex
from tasks.snapshots import (
    Damaged,
    Manifest,
    Part,
    SigningKey,
    Store,
    StoreError,
    VerifyReport,
    choose_part,
    key_pem,
    last_read,
    overdue,
    verify,
    verify_and_record,
)

MONTH = timedelta(days=30)


@pytest.fixture
def filled(store: Store, taken: Callable[..., Manifest], change: Callable[[str], None]) -> Store:
    """A store with two snapshots of some thirty objects; they differ in the first customers only."""
    taken(store, object_bytes=2048, batch_rows=100)
    change("UPDATE customers SET email = 'other@shop.example' WHERE customer_id < 10")
    taken(store, object_bytes=2048, batch_rows=100)
    return store


@pytest.fixture
def read(clock: DrivenClock) -> Callable[..., VerifyReport]:
    """A function that reads a part of a store a day later."""

    def run(store: Store, part: str | None, **options: object) -> VerifyReport:
        now = clock.advance(timedelta(days=1))
        chosen = choose_part(store, part) if part else None
        return verify_and_record(store, part=chosen, at=now, by="test", within=MONTH, **options)  # type: ignore[arg-type]

    return run


def objects(store: Store) -> set[str]:
    return {ref.sha256 for name in store.snapshot_ids() for ref in store.manifest(name).objects}


@given(st.lists(st.binary(), max_size=60, unique=True), st.integers(1, 40))
def test_the_parts_hold_every_object_once_and_an_object_stays_in_its_part(
    contents: list[bytes], of: int
) -> None:
    hashes = [sha256_hex(one) for one in contents]
    parts = [Part(number, of) for number in range(1, of + 1)]
    assert sorted(name for part in parts for name in hashes if part.holds(name)) == sorted(hashes)


def test_all_parts_together_read_every_byte_and_say_when(
    filled: Store, read: Callable[..., VerifyReport], clock: DrivenClock
) -> None:
    everything = objects(filled)
    assert len(everything) > 20
    began = clock.now()
    reports = [read(filled, f"{number}/5") for number in range(1, 6)]
    assert sum(one.objects for one in reports) == len(everything)
    assert all(0 < one.objects < len(everything) and one.ok and one.recorded for one in reports)
    found = last_read(
        filled, [ref for name in filled.snapshot_ids() for ref in filled.manifest(name).objects]
    )
    assert {name: one and one.at for name, one in found.items()} == {
        name: began + timedelta(days=number)
        for name in everything
        for number in range(1, 6)
        if Part(number, 5).holds(name)
    }


def test_a_snapshot_counts_as_verified_when_the_last_of_its_objects_was_read_and_never_as_valid(
    filled: Store, read: Callable[..., VerifyReport]
) -> None:
    name = "shop/00000001"
    for number in (1, 2, 3):
        assert filled.info(name).verified is None
        read(filled, f"{number}/3")
    assert (filled.info(name).verified, filled.state(name)) == ("content", "committed")
    before = len(filled.verdicts(name))
    for number in (1, 2, 3):
        read(filled, f"{number}/3")
    assert len(filled.verdicts(name)) == before, "what it already counts as is not said again"


def test_parts_that_lie_too_far_apart_prove_nothing_together(
    filled: Store, read: Callable[..., VerifyReport], clock: DrivenClock
) -> None:
    read(filled, "1/2")
    clock.advance(MONTH)
    read(filled, "2/2")
    assert filled.info("shop/00000001").verified is None
    read(filled, "1/2")
    assert filled.info("shop/00000001").verified == "content"


def test_next_takes_the_part_that_has_waited_longest(
    filled: Store, read: Callable[..., VerifyReport]
) -> None:
    assert [read(filled, "next/3").part for _ in range(4)] == ["1/3", "2/3", "3/3", "1/3"]
    read(filled, "2/3")
    assert choose_part(filled, "next/3") == Part(3, 3)


def test_a_damaged_object_quarantines_every_snapshot_that_holds_it_and_no_other(
    filled: Store,
    read: Callable[..., VerifyReport],
    taken: Callable[..., Manifest],
    change: Callable[[str], None],
) -> None:
    change("DELETE FROM prices")
    third = taken(filled, object_bytes=2048, batch_rows=100).snapshot_id
    [ref, *_] = filled.manifest("shop/00000001").tables["prices"].objects
    assert filled.storage.root is not None
    path = filled.storage.root / ref.path
    path.write_bytes(path.read_bytes()[::-1])
    part = next(f"{number}/4" for number in range(1, 5) if Part(number, 4).holds(ref.sha256))
    other = next(f"{number}/4" for number in range(1, 5) if not Part(number, 4).holds(ref.sha256))

    assert read(filled, other).ok, "the damage is in another part"
    report = read(filled, part)

    assert {(one.kind, one.object) for one in report.findings} == {("object_changed", ref.sha256)}
    states = {name: filled.state(name) for name in filled.snapshot_ids()}
    assert states == {
        "shop/00000001": "quarantined",
        "shop/00000002": "quarantined",
        third: "committed",
    }
    last = last_read(filled, [ref])[ref.sha256]
    assert last is not None and not last.whole
    assert filled.info("shop/00000001").verified is None


def test_a_damage_that_was_read_for_another_snapshot_keeps_this_one_from_counting_as_verified(
    filled: Store, read: Callable[..., VerifyReport], clock: DrivenClock
) -> None:
    [ref, *_] = filled.manifest("shop/00000001").tables["prices"].objects
    path = Path(filled.url) / ref.path
    content = path.read_bytes()
    parts = sorted((Part(1, 2), Part(2, 2)), key=lambda part: part.holds(ref.sha256), reverse=True)
    damaged, other = map(str, parts)
    path.write_bytes(content)
    read(filled, damaged)
    path.write_bytes(content[::-1])
    assert not verify_and_record(filled, "shop/00000002", at=clock.now(), by="test").ok
    read(filled, other)
    assert filled.info("shop/00000001").verified is None


def test_a_repaired_object_must_be_read_again_before_the_snapshot_counts_as_verified(
    filled: Store, read: Callable[..., VerifyReport]
) -> None:
    [ref, *_] = filled.manifest("shop/00000001").tables["prices"].objects
    assert filled.storage.root is not None
    path = filled.storage.root / ref.path
    content = path.read_bytes()
    path.write_bytes(content[::-1])
    read(filled, "1/1")
    path.write_bytes(content)
    other = next(f"{number}/2" for number in (1, 2) if not Part(number, 2).holds(ref.sha256))
    read(filled, other)
    assert filled.info("shop/00000001").verified is None
    read(filled, "1/1")
    assert (filled.info("shop/00000001").verified, filled.state("shop/00000001")) == (
        "content",
        "quarantined",
    )


def test_objects_that_wait_too_long_are_named_the_longest_first(
    filled: Store, read: Callable[..., VerifyReport], clock: DrivenClock
) -> None:
    assert {one.last_read for one in overdue(filled, within=MONTH, now=clock.now())} == {None}
    read(filled, "1/2")
    clock.advance(timedelta(days=20))
    first = clock.now()
    read(filled, "2/2")
    clock.advance(timedelta(days=15))
    late = overdue(filled, within=MONTH, now=clock.now())
    assert {one.sha256 for one in late} == {one for one in objects(filled) if Part(1, 2).holds(one)}
    assert {one.last_read for one in late} == {first - timedelta(days=20)}
    assert overdue(filled, within=timedelta(days=90), now=clock.now()) == []
    ages = [one.last_read for one in overdue(filled, within=timedelta(days=1), now=clock.now())]
    assert len(set(ages)) == 2 and ages == sorted(ages)  # type: ignore[type-var]


def test_records_that_newer_ones_supersede_go(
    filled: Store, read: Callable[..., VerifyReport], taken: Callable[..., Manifest]
) -> None:
    for number in (1, 2, 3, 1, 2, 3, 1):
        read(filled, f"{number}/3")
    kept = [one for one in filled.readbacks() if not isinstance(one, Damaged)]
    assert [one.part for one in kept] == ["2/3", "3/3", "1/3"]
    read(filled, None)
    assert len(filled.readbacks()) == 1
    assert overdue(filled, within=MONTH, now=kept[-1].at) == []


def test_a_record_of_100_000_objects_stays_below_two_megabytes(store: Store, clock: DrivenClock) -> None:
    store.note_read(
        whole=[sha256_hex(str(n).encode()) for n in range(100_000)],
        damaged=[],
        part=None,
        at=clock.now(),
        by="test",
    )
    assert store.storage.size("readbacks/000001.json") < 2_000_000  # type: ignore[operator]


def test_a_record_that_was_tampered_with_is_named_and_does_not_count(
    filled: Store, read: Callable[..., VerifyReport], clock: DrivenClock
) -> None:
    read(filled, "1/1")
    path = Path(filled.url) / "readbacks/000001.json"
    path.write_bytes(path.read_bytes().replace(b'"by":"test"', b'"by":"tost"'))
    assert [one.kind for one in verify(filled, level="structure").findings] == ["readback_changed"]
    assert len(overdue(filled, within=MONTH, now=clock.now())) == len(objects(filled))
    path.unlink()
    read(filled, "1/1")
    path.rename(path.with_name("000002.json"))
    assert [one.kind for one in verify(filled, level="structure").findings] == ["readback_changed"]


def test_without_the_signing_key_nothing_is_read(
    filled: Store, clock: DrivenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyless = Store.open(filled.url)
    monkeypatch.setattr(keyless.storage, "hash", None)
    with pytest.raises(StoreError, match="without its signing key"):
        verify_and_record(keyless, part=Part(1, 2), at=clock.now(), by="test")


@pytest.mark.parametrize("text", ["", "0/3", "4/3", "1/0", "next", "next/0", "-1/3", "a/b", "1/3/5"])
def test_what_is_no_part_is_refused(filled: Store, text: str) -> None:
    with pytest.raises(UsageError, match="write 3/7"):
        choose_part(filled, text)


SCRIPT = """
import sys
from datetime import timedelta
from tasks.core import DrivenClock
from tasks.snapshots import Part, open_store, verify_and_record
store, key, clock = sys.argv[1:]
verify_and_record(open_store(store, signing_key=key), part=Part(1, 1), at=DrivenClock(clock).now(), by="test")
"""


@pytest.mark.kill
@pytest.mark.parametrize(
    "point",
    [
        "verdict.before_put",
        "verdict.after_put",
        "readback.before_put",
        "readback.after_put",
        "readback.forgotten",
    ],
)
def test_a_run_killed_at(
    point: str,
    filled: Store,
    key: SigningKey,
    clock: DrivenClock,
    tmp_path: Path,
    read: Callable[..., VerifyReport],
) -> None:
    (tmp_path / "key.pem").write_bytes(key_pem(key))
    read(filled, "1/2")  # a record for the killed run to supersede
    [ref, *_] = filled.manifest("shop/00000002").tables["prices"].objects
    path = Path(filled.url) / ref.path
    path.write_bytes(path.read_bytes()[::-1])
    arguments = [filled.url, str(tmp_path / "key.pem"), str(clock.path)]
    environment = {**os.environ, "MAILSTAY_CRASH_AT": point, "PYTHONPATH": str(Path.cwd())}
    killed = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL, "the point was not passed"

    assert {one.kind for one in verify(filled, level="structure").findings} == set()
    if last_read(filled, [ref])[ref.sha256] and not last_read(filled, [ref])[ref.sha256].whole:  # type: ignore[union-attr]
        assert filled.state("shop/00000001") == filled.state("shop/00000002") == "quarantined", (
            "a reading is kept only once its consequence is"
        )
    assert not read(filled, "1/1").ok
    assert filled.state("shop/00000001") == filled.state("shop/00000002") == "quarantined"
    assert len(filled.readbacks()) == 1


@settings(max_examples=15)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=12))
def test_superseding_records_loses_no_reading(
    tmp_path_factory: pytest.TempPathFactory, key: SigningKey, runs: list[tuple[int, int]]
) -> None:
    """Whatever parts are read in whatever order, the newest reading of each object is the one that is kept."""
    import sqlite3
    from contextlib import closing

    from tasks.core import SystemClock
    from tasks.snapshots import take_snapshot
    from tasks.sources import open_source

    folder = tmp_path_factory.mktemp("coverage")
    store = Store.open(str(folder / "store"), signing_key=key, create=True)
    with closing(sqlite3.connect(folder / "s.db")) as connection:
        for number in range(8):
            connection.execute(f"CREATE TABLE t{number} AS SELECT {number} AS v")
        connection.commit()
    manifest = take_snapshot(
        open_source("s", f"sqlite:///{folder / 's.db'}"), store, clock=SystemClock(), plan_digest=""
    )
    expected = dict.fromkeys((ref.sha256 for ref in manifest.objects), None)
    now = manifest.finished_at
    for number, of in runs:
        now += timedelta(days=1)
        part = Part(min(number, of), of)
        verify_and_record(store, part=part, at=now, by="test")
        expected |= {name: now for name in expected if part.holds(name)}
        found = last_read(store, manifest.objects)
        assert {name: one and one.at for name, one in found.items()} == expected
