"""Every kind of store keeps the same promises: one suite for a local folder and a real S3 server."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tasks.core import DrivenClock, UsageError
from tasks.snapshots import (
    AlreadyCommitted,
    Manifest,
    Part,
    SigningKey,
    SnapshotError,
    Store,
    StoreError,
    connect,
    export,
    generate_key,
    last_read,
    verify,
    verify_and_record,
)
from tasks.snapshots.storage import Storage

Take = Callable[..., Manifest]


def test_a_snapshot_is_committed_whole_and_reads_back(any_store: Store, taken: Take) -> None:
    manifest = taken(any_store)
    assert verify(any_store, level="content").ok
    info = any_store.info(manifest.snapshot_id)
    assert (info.snapshot_id, info.state, info.rows) == ("shop/00000001", "committed", 2503)
    with connect(any_store, {"shop": manifest.snapshot_id}) as connection:
        query = "SELECT count(*), sum(price), (SELECT count(*) FROM shop.no_rows) FROM shop.prices"
        assert connection.execute(query).fetchone() == (500, sum(range(500)) / 8, 0)
        assert connection.execute('SELECT count("a.b") FROM shop."Odd ""name; --"').fetchone() == (2,)


def test_the_second_snapshot_of_unchanged_tables_stores_no_object(any_store: Store, taken: Take) -> None:
    first = taken(any_store)
    objects = any_store.storage.list("objects/")
    second = taken(any_store)
    assert any_store.storage.list("objects/") == objects
    assert {name: one.objects for name, one in second.tables.items()} == {
        name: one.objects for name, one in first.tables.items()
    }
    assert {one.new_bytes for one in second.tables.values()} == {0}
    assert second.parent_digest == first.digest
    assert [one.snapshot_id for one in any_store.list()] == ["shop/00000001", "shop/00000002"]


def test_the_same_name_is_committed_once(any_store: Store, taken: Take) -> None:
    manifest = taken(any_store)
    before = any_store.storage.get("snapshots/shop/00000001.json")
    with pytest.raises(AlreadyCommitted):
        any_store.commit(manifest.model_copy(update={"plan_digest": "1" * 64}))
    assert any_store.storage.get("snapshots/shop/00000001.json") == before


def test_a_commit_that_landed_but_was_reported_failed_is_not_committed_twice(
    any_store: Store, taken: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, answers = any_store.storage._create, []

    def lost(path: str, content: bytes) -> None:
        create(path, content)
        if path.startswith("snapshots/"):
            answers.append(path)
            raise (FileExistsError(path), StoreError("The answer was lost"))[len(answers) % 2]

    monkeypatch.setattr(any_store.storage, "_create", lost)
    assert [taken(any_store).sequence, taken(any_store).sequence] == [1, 2]
    assert answers == ["snapshots/shop/00000001.json", "snapshots/shop/00000002.json"]
    assert any_store.snapshot_ids() == ["shop/00000001", "shop/00000002"]


def test_of_many_writers_of_one_name_exactly_one_succeeds(any_store: Store) -> None:
    outcomes: list[str] = []
    start = threading.Barrier(8)

    def write(number: int) -> None:
        start.wait()
        try:
            any_store.storage.put_new("snapshots/shop/00000009.json", f"{number}".encode())
            outcomes.append(f"{number}")
        except AlreadyCommitted:
            outcomes.append("refused")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes)[1:] == ["refused"] * 7
    assert any_store.storage.get("snapshots/shop/00000009.json").decode() == sorted(outcomes)[0]


def test_two_backups_at_once_commit_one_after_the_other(any_store: Store, taken: Take) -> None:
    start = threading.Barrier(2)
    commit = any_store.commit

    def together(manifest: Manifest) -> None:
        if manifest.sequence == 1:
            start.wait(60)  # both have read the chain and want number 1
        commit(manifest)

    any_store.commit = together  # type: ignore[method-assign]
    done: list[str] = []

    def back_up(plan_digest: str) -> None:
        done.append(taken(any_store, plan_digest=plan_digest).snapshot_id)

    threads = [threading.Thread(target=back_up, args=(one * 64,)) for one in "12"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == ["shop/00000001", "shop/00000002"]
    assert verify(any_store, level="content").ok


def test_a_backup_of_an_older_point_does_not_follow_a_newer_one(
    any_store: Store, taken: Take, clock: DrivenClock
) -> None:
    put, calls = any_store.put_object, []

    def overtaken(*args: object) -> bool:
        if not calls:
            calls.append(1)
            clock.advance(60)
            taken(Store.open(any_store.url, signing_key=any_store._key))
        return put(*args)  # type: ignore[arg-type]

    any_store.put_object = overtaken  # type: ignore[method-assign]
    with pytest.raises(SnapshotError, match="later point in time"):
        taken(any_store)
    assert any_store.snapshot_ids() == ["shop/00000001"]


def test_marks_decide_the_state_and_holds_can_be_released(
    any_store: Store, taken: Take, clock: DrivenClock
) -> None:
    name = taken(any_store).snapshot_id
    assert any_store.latest("shop") is None
    any_store.note_verified(name, "content", findings=[], at=clock.now(), by="backup")
    any_store.mark(name, "valid", findings=[], at=clock.now(), by="validate")
    any_store.hold(name, reason="incident 1", by="respond", at=clock.now())
    any_store.hold(name, reason="incident 1", by="respond", at=clock.now())
    info = any_store.latest("shop")
    assert info is not None
    assert (info.state, info.verified, info.held_by) == ("valid", "content", ["incident 1"])
    any_store.mark(name, "quarantined", findings=[{"rule": "keys"}], at=clock.now(), by="validate")
    assert (any_store.state(name), any_store.latest("shop")) == ("quarantined", None)
    any_store.release(name, reason="incident 1", by="review", at=clock.now())
    assert any_store.holds(name) == []
    assert any_store.info(name).held_by == []
    with pytest.raises(UsageError):
        any_store.release(name, reason="incident 1", by="review", at=clock.now())


def test_a_reader_without_the_key_can_read_and_cannot_write(
    any_store: Store, taken: Take, clock: DrivenClock
) -> None:
    name = taken(any_store).snapshot_id
    reader = Store.open(any_store.url, public_key=any_store.public_key_hex)
    assert verify(reader, level="content").ok
    with pytest.raises(StoreError, match="signing key"):
        reader.mark(name, "valid", findings=[], at=clock.now(), by="validate")
    assert reader.state(name) == "committed"


def test_another_key_is_refused(any_store: Store, key: SigningKey) -> None:
    with pytest.raises(StoreError, match="not this store's"):
        Store.open(any_store.url, signing_key=generate_key())
    with pytest.raises(StoreError, match="pinned in the plan"):
        Store.open(any_store.url, signing_key=key, public_key="ab" * 32)


def test_every_object_is_checked_zstd_parquet(any_store: Store, taken: Take) -> None:
    manifest = taken(any_store)
    for path in any_store.table_files(manifest.snapshot_id, "customers"):
        file = pq.ParquetFile(path, page_checksum_verification=True)
        column = file.metadata.row_group(0).column(0)
        assert (column.compression, column.is_stats_set) == ("ZSTD", True)
        assert file.read().num_rows == 2000


def test_the_parts_of_any_store_are_read_and_kept(any_store: Store, taken: Take, clock: DrivenClock) -> None:
    ref = taken(any_store).tables["prices"].objects[0]
    held, other = sorted((Part(1, 2), Part(2, 2)), key=lambda part: not part.holds(ref.sha256))
    for part in (held, other):
        assert verify_and_record(any_store, part=part, at=clock.now(), by="test").ok
    assert any_store.info("shop/00000001").verified == "content"
    assert {one.whole for one in last_read(any_store, [ref]).values() if one} == {True}
    any_store.storage.put(ref.path, b"?" * ref.bytes)
    report = verify_and_record(any_store, part=held, at=clock.advance(60), by="test")
    assert [(one.kind, one.object) for one in report.findings] == [("object_changed", ref.sha256)]
    assert any_store.state("shop/00000001") == "quarantined"
    assert len(any_store.readbacks()) == 2


def test_a_snapshot_of_any_store_is_exported(any_store: Store, taken: Take, tmp_path: Path) -> None:
    result = export(any_store, taken(any_store).snapshot_id, tmp_path / "out", unproven=True)
    assert sum(one.rows for one in result.tables) == 2503
    assert (tmp_path / "out/prices.csv").read_text().startswith('"code","price"\n"p0","0.000"\n')


def test_a_store_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no store"):
        Store.open(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="no store"):
        Store.open(str(tmp_path / "empty"))


def test_what_is_stored_can_be_listed_sized_read_and_deleted(any_store: Store) -> None:
    storage: Storage = any_store.storage
    storage.put("holds/a/b.json", b"one")
    storage.put("holds/a/b.json", b"three")
    assert (storage.size("holds/a/b.json"), storage.get("holds/a/b.json")) == (5, b"three")
    assert storage.list("holds/") == ["holds/a/b.json"]
    storage.delete("holds/a/b.json")
    storage.delete("holds/a/b.json")
    assert (storage.size("holds/a/b.json"), storage.list("holds/")) == (None, [])
    with pytest.raises(FileNotFoundError):
        storage.get("holds/a/b.json")
