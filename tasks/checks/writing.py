"""Writing proposed contracts: all of them or none, never over what somebody has edited, and only what lints."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tasks.checks.checking import run_checks
from tasks.checks.findings import CheckReport
from tasks.checks.loading import load_contracts
from tasks.core import Clock, UsageError
from tasks.snapshots import Store, split_name


@dataclass(frozen=True)
class Proposed:
    """What was proposed.

    Attributes:
        source: whose tables they are of.
        folder: where the contracts are.
        tables: the tables that have one now.
        report: what the snapshot gives when it is held against them.
    """

    source: str
    folder: str
    tables: list[str]
    report: CheckReport


def write_contracts(
    store: Store, snapshot_id: str, texts: Mapping[str, str], folder: Path, *, force: bool, clock: Clock
) -> Proposed:
    """Write a contract per table into `folder`, after all were read back and the snapshot was held against them.

    Raises:
        UsageError: a contract is there already, and `force` was not given.
        ContractError: what was proposed does not lint.
    """
    taken = [name for name in texts if (folder / f"{name}.yaml").exists()]
    if taken and not force:
        raise UsageError(
            f"There is a contract of {', '.join(taken)} already",
            where=str(folder),
            fix="name another folder with --into, or give --force to replace what was edited",
        )
    folder.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".proposed-", dir=folder))
    try:
        for name, text in texts.items():
            (staging / f"{name}.yaml").write_text(text, encoding="utf-8")
        contracts = load_contracts(staging)
        report = run_checks(store, snapshot_id, contracts, previous=None, docs_folder=None, clock=clock)
        for name in texts:
            (staging / f"{name}.yaml").replace(folder / f"{name}.yaml")
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Proposed(split_name(snapshot_id)[0], str(folder), list(texts), report)
