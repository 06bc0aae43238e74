"""Every kind of damage is found by verify, which names object, table and snapshot; readers refuse it too."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core import DrivenClock, canonical_json, digest_of
from tasks.snapshots import (
    Damaged,
    Manifest,
    ObjectRef,
    SigningKey,
    Store,
    StoreError,
    connect,
    generate_key,
    public_key_hex,
    verify,
)
from tasks.snapshots.signing import sealed, unsealed

Take = Callable[..., Manifest]


@pytest.fixture
def filled(store: Store, taken: Take, change: Callable[[str], None]) -> Store:
    """A store with three snapshots; the second and third differ from the first in `prices` only."""
    for number in range(3):
        taken(store)
        change(f"INSERT INTO prices VALUES ('new {number}', 1)")
    return store


def object_of(store: Store, table: str, snapshot: str = "shop/00000002") -> tuple[ObjectRef, Path]:
    ref = store.manifest(snapshot).tables[table].objects[0]
    assert store.storage.root is not None
    return ref, store.storage.root / ref.path


def manifest_file(store: Store, sequence: int) -> Path:
    assert store.storage.root is not None
    return store.storage.root / f"snapshots/shop/{sequence:08d}.json"


def assert_refused(store: Store, ref: ObjectRef, table: str) -> None:
    """verify names the damage, and no reader gets the file."""
    report = verify(store, level="content")
    assert not report.ok
    assert {(one.snapshot_id, one.table, one.object) for one in report.findings} == {
        ("shop/00000002", table, ref.sha256)
    }
    for part in (ref.sha256, table, "shop/00000002"):
        assert part in report.findings[0].message
    with pytest.raises(Damaged, match=f"{ref.sha256}.*shop/00000002.*{table}"):
        Store.open(store.url).table_files("shop/00000002", table)
    with pytest.raises(Damaged):
        connect(Store.open(store.url), {"shop": "shop/00000002"})


@pytest.mark.parametrize("seed", range(40))
def test_a_flipped_bit_anywhere_in_an_object_is_found(filled: Store, seed: int) -> None:
    ref, path = object_of(filled, "prices")
    content, rng = bytearray(path.read_bytes()), random.Random(seed)
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    assert_refused(filled, ref, "prices")


@pytest.mark.parametrize("keep", [0, 1, 0.5, -1])
def test_a_truncated_object_is_found_without_reading_it(filled: Store, keep: float) -> None:
    ref, path = object_of(filled, "prices")
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if 0 < keep < 1 else int(keep)])
    report = verify(filled, level="structure")
    assert [(one.kind, one.object) for one in report.findings] == [("object_size", ref.sha256)]
    assert_refused(filled, ref, "prices")


def test_an_object_swapped_for_a_valid_one_of_another_snapshot_is_found(filled: Store) -> None:
    ref, path = object_of(filled, "prices")
    shutil.copyfile(object_of(filled, "prices", "shop/00000001")[1], path)
    assert pq.read_table(path).num_rows == 500, "any Parquet reader would take it"
    assert_refused(filled, ref, "prices")


def test_an_object_swapped_for_one_of_the_same_size_is_found_by_content_only(filled: Store) -> None:
    ref, path = object_of(filled, "prices")
    pad = 0
    for _ in range(5):
        table = pa.table({"code": ["p1"], "price": [9]})
        with pq.ParquetWriter(path, table.schema) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata({"pad": "x" * pad})
        pad += ref.bytes - path.stat().st_size
    assert (path.stat().st_size, pq.read_table(path).num_rows) == (ref.bytes, 1), (
        "a valid file of the same size"
    )
    assert verify(filled, level="structure").ok
    assert_refused(filled, ref, "prices")


def test_a_missing_object_is_named_for_every_snapshot_that_needs_it(filled: Store) -> None:
    ref, path = object_of(filled, "customers")
    path.unlink()
    report = verify(filled, level="structure")
    assert [(one.kind, one.snapshot_id, one.table) for one in report.findings] == [
        ("object_missing", f"shop/0000000{number}", "customers") for number in (1, 2, 3)
    ]
    assert {one.object for one in report.findings} == {ref.sha256}


@pytest.mark.parametrize("seed", range(40))
def test_a_flipped_bit_anywhere_in_a_manifest_is_found(filled: Store, seed: int) -> None:
    path, rng = manifest_file(filled, 2), random.Random(seed)
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    report = verify(filled, level="structure")
    assert [(one.kind, one.snapshot_id) for one in report.findings] == [("manifest_changed", "shop/00000002")]
    with pytest.raises(Damaged):
        filled.table_files("shop/00000002", "prices")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("plan_digest", "1" * 64),
        ("parent_digest", None),
        ("started_at", "2001-01-01T00:00:00Z"),
        ("tables", {}),
    ],
)
def test_an_edited_manifest_is_found(filled: Store, field: str, value: object) -> None:
    path = manifest_file(filled, 2)
    envelope = json.loads(path.read_bytes())
    envelope["body"][field] = value
    path.write_bytes(canonical_json(envelope) + b"\n")
    finding = verify(filled, level="structure").findings[0]
    assert (finding.kind, finding.snapshot_id) == ("manifest_changed", "shop/00000002")
    assert "signature" in finding.message


def test_white_space_added_to_a_manifest_is_found(filled: Store) -> None:
    path = manifest_file(filled, 2)
    path.write_text(json.dumps(json.loads(path.read_bytes()), indent=1))
    assert verify(filled, level="structure").findings[0].kind == "manifest_changed"


def test_a_manifest_signed_with_another_key_is_found(filled: Store) -> None:
    path = manifest_file(filled, 2)
    path.write_bytes(sealed(json.loads(path.read_bytes())["body"], generate_key()))
    finding = verify(filled, level="structure").findings[0]
    assert (finding.kind, finding.snapshot_id) == ("manifest_changed", "shop/00000002")
    assert "another key" in finding.message


def test_a_manifest_rewritten_with_the_right_key_breaks_the_chain(filled: Store, key: SigningKey) -> None:
    path = manifest_file(filled, 2)
    body = unsealed(path.read_bytes(), filled.public_key_hex, where="")
    path.write_bytes(sealed({**body, "plan_digest": "1" * 64}, key))
    report = verify(filled, level="structure")
    assert [(one.kind, one.snapshot_id) for one in report.findings] == [("chain_broken", "shop/00000003")]


def test_a_manifest_removed_in_the_middle_is_found(filled: Store) -> None:
    manifest_file(filled, 2).unlink()
    report = verify(filled, level="structure")
    assert [(one.kind, one.snapshot_id) for one in report.findings] == [("manifest_missing", "shop/00000002")]


def test_a_removed_tail_is_found_by_the_anchor_written_down_outside(filled: Store) -> None:
    anchor = filled.manifest("shop/00000003").digest
    assert verify(filled, level="structure", anchors={"shop": anchor}).ok
    manifest_file(filled, 3).unlink()
    assert verify(filled, level="structure").ok, "the store alone cannot know"
    report = verify(filled, level="structure", anchors={"shop": anchor})
    assert [one.kind for one in report.findings] == ["anchor_missing"]


def test_a_manifest_put_in_the_place_of_another_is_found(filled: Store) -> None:
    shutil.copyfile(manifest_file(filled, 1), manifest_file(filled, 2))
    finding = verify(filled, level="structure").findings[0]
    assert (finding.kind, finding.snapshot_id) == ("manifest_changed", "shop/00000002")


def test_a_manifest_of_another_store_with_the_same_key_is_found(
    filled: Store, tmp_path: Path, key: SigningKey, taken: Take
) -> None:
    other = Store.open(str(tmp_path / "other"), signing_key=key, create=True)
    taken(other)
    shutil.copyfile(manifest_file(other, 1), manifest_file(filled, 1))
    assert verify(filled, level="structure").findings[0].kind == "manifest_changed"


def test_a_stray_file_among_the_manifests_is_found(filled: Store) -> None:
    manifest_file(filled, 2).with_name("00000002.json.bak").write_text("{}")
    assert [one.kind for one in verify(filled, level="structure").findings] == ["stray_file"]


def test_a_snapshot_committed_while_verify_looks_for_strays_is_none(
    filled: Store, taken: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = filled.storage.list

    def after_a_commit(prefix: str) -> list[str]:
        found = listed(prefix)
        monkeypatch.undo()
        taken(Store.open(filled.url, signing_key=filled._key))
        return found

    monkeypatch.setattr(filled.storage, "list", after_a_commit)
    assert verify(filled, level="structure").ok


def test_a_replaced_store_file_is_found(filled: Store) -> None:
    assert filled.storage.root is not None
    path = filled.storage.root / "store.json"
    content = path.read_bytes()
    path.write_bytes(content.replace(filled.public_key_hex.encode(), b"ab" * 32))
    assert [one.kind for one in verify(filled, level="structure").findings] == ["store_changed"]
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        assert not filled.is_described(), at
    path.write_bytes(content)
    assert verify(filled, level="structure").ok


def test_a_changed_verdict_never_makes_a_snapshot_valid(filled: Store, clock: DrivenClock) -> None:
    filled.mark("shop/00000002", "valid", findings=[], at=clock.now(), by="validate")
    filled.mark("shop/00000002", "quarantined", findings=[], at=clock.now(), by="validate")
    assert filled.storage.root is not None
    path = filled.storage.root / "verify/shop/00000002/000002.json"
    path.write_bytes(path.read_bytes().replace(b"quarantined", b"valid"))
    assert filled.state("shop/00000002") == "committed"
    assert [one.kind for one in verify(filled, level="structure").findings] == ["verdict_changed"]


def test_a_verdict_moved_to_another_snapshot_does_not_count(filled: Store, clock: DrivenClock) -> None:
    filled.mark("shop/00000001", "valid", findings=[], at=clock.now(), by="validate")
    assert filled.storage.root is not None
    shutil.copytree(
        filled.storage.root / "verify/shop/00000001", filled.storage.root / "verify/shop/00000002"
    )
    assert (filled.state("shop/00000001"), filled.state("shop/00000002")) == ("valid", "committed")


def test_a_snapshot_in_the_place_of_a_judged_one_does_not_inherit_its_verdict(
    filled: Store, taken: Take, clock: DrivenClock
) -> None:
    filled.mark("shop/00000003", "valid", findings=[], at=clock.now(), by="validate")
    assert filled.latest("shop").snapshot_id == "shop/00000003"  # type: ignore[union-attr]
    head = verify(filled, level="structure").heads["shop"]
    manifest_file(filled, 3).unlink()
    clock.advance(60)
    assert taken(filled).snapshot_id == "shop/00000003"
    assert filled.state("shop/00000003") == "committed"
    assert filled.list("shop")[-1].state == "committed"
    assert filled.latest("shop") is None
    assert [one.kind for one in verify(filled, level="structure").findings] == ["verdict_changed"]
    kinds = {one.kind for one in verify(filled, level="structure", anchors={"shop": head}).findings}
    assert kinds == {"verdict_changed", "anchor_missing"}


def test_stray_files_among_the_verdicts_disturb_nobody(filled: Store, clock: DrivenClock) -> None:
    filled.mark("shop/00000001", "valid", findings=[], at=clock.now(), by="validate")
    assert filled.storage.root is not None
    (filled.storage.root / "verify/shop/00000001/.DS_Store").write_bytes(b"x")
    assert filled.mark("shop/00000001", "quarantined", findings=[], at=clock.now(), by="x").number == 2
    assert filled.state("shop/00000001") == "quarantined"


def test_an_object_that_the_disk_cannot_read_is_named_like_every_other_damage(filled: Store) -> None:
    """A folder in the place of the object: reading it is an error of the disk, not of its content."""
    ref, path = object_of(filled, "customers", "shop/00000001")
    path.unlink()
    path.mkdir()
    with pytest.raises(StoreError, match="The disk refused to read: Is a directory"):
        filled.storage.hash(ref.path)
    found = verify(filled, level="content").findings
    assert {one.table for one in found} == {"customers"}
    assert {one.object for one in found} == {ref.sha256}


def test_a_changed_hold_is_found(filled: Store, clock: DrivenClock) -> None:
    filled.hold("shop/00000002", reason="incident 1", by="respond", at=clock.now())
    assert filled.storage.root is not None
    path = next((filled.storage.root / "holds/shop/00000002").iterdir())
    path.write_bytes(path.read_bytes().replace(b'"released_by":null', b'"released_by":"x"'))
    assert [one.kind for one in verify(filled, level="structure").findings] == ["hold_changed"]


def test_every_fault_is_named_and_not_only_the_first(filled: Store) -> None:
    object_of(filled, "prices", "shop/00000001")[1].unlink()
    object_of(filled, "prices", "shop/00000003")[1].write_bytes(b"")
    manifest_file(filled, 2).write_bytes(b"{}")
    found = {(one.kind, one.snapshot_id) for one in verify(filled, level="content").findings}
    assert found == {
        ("object_missing", "shop/00000001"),
        ("manifest_changed", "shop/00000002"),
        ("object_size", "shop/00000003"),
    }


def edited(store: Store, sequence: int, key: SigningKey | None = None, **changes: object) -> None:
    """Overwrite a manifest with changes, signed with `key` or with the old signature left."""
    path = f"snapshots/shop/{sequence:08d}.json"
    envelope = json.loads(store.storage.get(path))
    envelope["body"].update(changes)
    store.storage.put(path, sealed(envelope["body"], key) if key else canonical_json(envelope) + b"\n")


def swapped(store: Store) -> None:
    """Put a valid object of another snapshot in the place of one."""
    ours, theirs = (store.manifest(f"shop/0000000{n}").tables["prices"].objects[0].path for n in (2, 1))
    store.storage.put(ours, store.storage.get(theirs))


def signed_anew(store: Store) -> None:
    """Sign the whole chain with another key, links and all, and put that key into the store's file."""
    other, parent = generate_key(), None
    for sequence in (1, 2, 3):
        path = f"snapshots/shop/{sequence:08d}.json"
        body = {
            **json.loads(store.storage.get(path))["body"],
            "parent_digest": parent,
            "plan_digest": "2" * 64,
        }
        store.storage.put(path, sealed(body, other))
        parent = digest_of(body)
    facts = json.loads(store.storage.get("store.json"))
    content = {**facts, "public_key": public_key_hex(other)}
    store.storage.put("store.json", canonical_json(content) + b"\n")


TAMPERING: dict[str, tuple[Callable[[Store], object], set[tuple[str, str]]]] = {
    "an object replaced by another valid one": (swapped, {("object_size", "shop/00000002")}),
    "a manifest edited": (
        lambda store: edited(store, 2, plan_digest="1" * 64),
        {("manifest_changed", "shop/00000002")},
    ),
    "a manifest signed with another key": (
        lambda store: edited(store, 2, generate_key()),
        {("manifest_changed", "shop/00000002")},
    ),
    "a manifest edited by who has the key": (
        lambda store: edited(store, 2, store._key, plan_digest="1" * 64),
        {("chain_broken", "shop/00000003")},
    ),
    "a snapshot removed from the middle": (
        lambda store: store.storage.delete("snapshots/shop/00000002.json"),
        {("manifest_missing", "shop/00000002")},
    ),
    "a snapshot removed from the start": (
        lambda store: store.storage.delete("snapshots/shop/00000001.json"),
        {("manifest_missing", "shop/00000001")},
    ),
    "a snapshot removed from the end": (
        lambda store: store.storage.delete("snapshots/shop/00000003.json"),
        {("anchor_missing", "")},
    ),
    "all snapshots removed": (
        lambda store: [store.storage.delete(path) for path in store.storage.list("snapshots/")],
        {("anchor_missing", "")},
    ),
    "the newest replaced by who has the key": (
        lambda store: edited(store, 3, store._key, plan_digest="1" * 64),
        {("anchor_missing", "")},
    ),
    "the chain signed anew with another key": (
        signed_anew,
        {
            ("store_changed", ""),
            ("anchor_missing", ""),
            *(("manifest_changed", f"shop/0000000{n}") for n in (1, 2, 3)),
        },
    ),
}


@pytest.mark.parametrize("what", TAMPERING)
def test_tampering_is_named_on_every_store(
    any_store: Store, taken: Take, change: Callable[[str], None], what: str
) -> None:
    for number in range(3):
        taken(any_store)
        change(f"INSERT INTO prices VALUES ('new {number}', 1)")
    pinned = verify(any_store, level="structure").heads
    tamper, named = TAMPERING[what]
    tamper(any_store)
    report = verify(any_store, level="content", anchors=pinned)
    assert {(one.kind, one.snapshot_id) for one in report.findings} == named


def test_a_chain_signed_anew_is_refused_by_the_pinned_key_and_seen_by_the_anchor(
    any_store: Store, taken: Take
) -> None:
    for _ in range(3):
        taken(any_store)
    pinned = verify(any_store, level="structure").heads
    signed_anew(any_store)
    with pytest.raises(StoreError, match="not the one pinned in the plan"):
        Store.open(any_store.url, public_key=any_store.public_key_hex)
    unpinned = Store.open(any_store.url)
    assert verify(unpinned, level="content").ok, "the store alone cannot know"
    kinds = {one.kind for one in verify(unpinned, level="content", anchors=pinned).findings}
    assert kinds == {"anchor_missing"}


def test_a_damaged_object_is_replaced_by_the_next_backup_of_the_same_rows(filled: Store, taken: Take) -> None:
    ref, path = object_of(filled, "customers")
    path.write_bytes(path.read_bytes()[::-1])
    assert not verify(filled, level="content").ok
    taken(filled)
    assert verify(filled, level="content").ok
    assert ref.sha256 in path.name


@pytest.mark.parametrize(
    "name", ["../shop/00000001", "shop/../00000001", "/etc/passwd", "shop/1", "shop/00000001.json"]
)
def test_a_snapshot_id_cannot_leave_the_store(filled: Store, name: str) -> None:
    with pytest.raises(Exception, match="is not a snapshot id"):
        filled.table_files(name, "prices")


def test_an_object_name_in_a_signed_manifest_cannot_leave_the_store(filled: Store, key: SigningKey) -> None:
    path = manifest_file(filled, 3)
    body = unsealed(path.read_bytes(), filled.public_key_hex, where="")
    body["tables"]["prices"]["objects"][0]["sha256"] = "../../../../etc/passwd"
    path.write_bytes(sealed(body, key))
    with pytest.raises(Damaged, match="does not fit the format"):
        filled.table_files("shop/00000003", "prices")


@settings(max_examples=60)
@given(st.binary(max_size=300))
def test_no_bytes_pass_as_a_record_without_the_key(content: bytes) -> None:
    with pytest.raises(Damaged):
        unsealed(content, "ab" * 32, where="x")


def test_page_checksums_stand_in_the_file_itself(filled: Store) -> None:
    _, path = object_of(filled, "customers")
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises((OSError, pa.ArrowInvalid)):
        pq.ParquetFile(path, page_checksum_verification=True).read()
