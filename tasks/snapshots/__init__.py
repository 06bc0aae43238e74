"""The snapshot store: take, commit, verify, mark and read snapshots. FORMAT.md describes what lies on the disk."""

from tasks.snapshots.canonical import CANONICAL
from tasks.snapshots.costing import TableCost, costs
from tasks.snapshots.coverage import LastRead, Overdue, Part, choose_part, last_read, overdue
from tasks.snapshots.differing import MergedTable, Mode
from tasks.snapshots.diffing import TableDiff, diff
from tasks.snapshots.erasing import Erased, ErasedTable, Mention, erase, erased_rows, readmit
from tasks.snapshots.erasures import Ledger, read_ledger
from tasks.snapshots.errors import (
    AlreadyCommitted,
    Damaged,
    NoSnapshot,
    NoStore,
    NotGivenBack,
    SnapshotError,
    StoreError,
)
from tasks.snapshots.exporting import Exported, ExportedTable, export
from tasks.snapshots.merging import Merged, merge
from tasks.snapshots.models import (
    Erasure,
    Ground,
    Hold,
    Level,
    Link,
    Manifest,
    ObjectRef,
    PartChoice,
    ReadBack,
    Release,
    SnapshotChoice,
    SnapshotInfo,
    State,
    TableEntry,
    Verdict,
    snapshot_name,
    split_name,
)
from tasks.snapshots.persons import PERSONS, PersonTable
from tasks.snapshots.pruning import Pruned, give_up, prune
from tasks.snapshots.reading import canonical_views, connect, parquet_scan, query
from tasks.snapshots.rehearsing import Reached, Rehearsed, prove_by_restore, scratch
from tasks.snapshots.restoring import Restored, RestoredTable, restore
from tasks.snapshots.retention import kept_until
from tasks.snapshots.selecting import parse_keys
from tasks.snapshots.signing import (
    SigningKey,
    generate_key,
    key_pem,
    load_key,
    load_or_create_key,
    public_key_hex,
)
from tasks.snapshots.store import Store, open_store
from tasks.snapshots.taking import arrow_schema, take_snapshot
from tasks.snapshots.verifying import VerifyFinding, VerifyReport, verify, verify_and_record

__all__ = [
    "CANONICAL",
    "PERSONS",
    "AlreadyCommitted",
    "Damaged",
    "Erased",
    "ErasedTable",
    "Erasure",
    "Exported",
    "ExportedTable",
    "Ground",
    "Hold",
    "LastRead",
    "Ledger",
    "Level",
    "Link",
    "Manifest",
    "Mention",
    "Merged",
    "MergedTable",
    "Mode",
    "NoSnapshot",
    "NoStore",
    "NotGivenBack",
    "ObjectRef",
    "Overdue",
    "Part",
    "PartChoice",
    "PersonTable",
    "Pruned",
    "Reached",
    "ReadBack",
    "Rehearsed",
    "Release",
    "Restored",
    "RestoredTable",
    "SigningKey",
    "SnapshotChoice",
    "SnapshotError",
    "SnapshotInfo",
    "State",
    "Store",
    "StoreError",
    "TableCost",
    "TableDiff",
    "TableEntry",
    "Verdict",
    "VerifyFinding",
    "VerifyReport",
    "arrow_schema",
    "canonical_views",
    "choose_part",
    "connect",
    "costs",
    "diff",
    "erase",
    "erased_rows",
    "export",
    "generate_key",
    "give_up",
    "kept_until",
    "key_pem",
    "last_read",
    "load_key",
    "load_or_create_key",
    "merge",
    "open_store",
    "overdue",
    "parquet_scan",
    "parse_keys",
    "prove_by_restore",
    "prune",
    "public_key_hex",
    "query",
    "read_ledger",
    "readmit",
    "restore",
    "scratch",
    "snapshot_name",
    "split_name",
    "take_snapshot",
    "verify",
    "verify_and_record",
]
