"""Accounts at simulated vendors, and backups of them in this process or in one that is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tasks.core import DrivenClock
from tasks.drills import SimulatedBrevo, SimulatedSendGrid
from tasks.exports import ExportSource, open_export
from tasks.providers import connect_provider
from tasks.snapshots import Manifest, Store, generate_key, key_pem, take_snapshot
from tests.providers.conftest import create, esp, plan_of, sink  # noqa: F401 fixtures

SCRIPT = """
import sys
from pathlib import Path
from types import SimpleNamespace
from tasks.core import DrivenClock
from tasks.exports import open_export
from tasks.providers import connect_provider
from tasks.snapshots import open_store, take_snapshot
kind, url, token, home = sys.argv[1:]
clock = DrivenClock(Path(home) / "clock.json")
plan = SimpleNamespace(kind=kind, api_url=url, timeout_seconds=5.0, download_hosts=())
provider = connect_provider(kind, plan, "", token, clock)
source = open_export(kind, provider, kind, folder=Path(home) / "spool", account=url)
take_snapshot(source, open_store(f"{home}/store", signing_key=f"{home}/key.pem"), clock=clock, plan_digest="0" * 64)
"""


@dataclass
class Account:
    """An account at a simulated vendor, a store, and backups of the one into the other."""

    kind: str
    vendor: Any
    clock: DrivenClock
    home: Path
    store: Store

    def source(self, **options: Any) -> ExportSource:
        provider = connect_provider(
            self.kind, plan_of(self.vendor.url, kind=self.kind), "", self.vendor.token, self.clock
        )
        return open_export(
            self.kind, provider, self.kind, folder=self.home / "spool", account=self.vendor.url, **options
        )

    def backup(self, **options: Any) -> Manifest:
        source = self.source(**options)
        taken = take_snapshot(source, self.store, clock=self.clock, plan_digest="0" * 64)
        source.discard()
        return taken

    def backup_killed_at(self, point: str) -> int:
        """Take a snapshot in a process of its own, which is killed at `point`, and return its exit code."""
        command = [
            sys.executable,
            "-c",
            SCRIPT,
            self.kind,
            self.vendor.url,
            self.vendor.token,
            str(self.home),
        ]
        environment = {**os.environ, "MAILSTAY_CRASH_AT": point, "PYTHONPATH": str(Path.cwd())}
        return subprocess.run(command, env=environment, check=False).returncode

    def rows(self, taken: Manifest, table: str) -> list[dict[str, Any]]:
        """Return the rows of a table of a snapshot."""
        import pyarrow.parquet as pq

        files = self.store.table_files(taken.snapshot_id, table)
        return [row for file in files for row in pq.read_table(file).to_pylist()]


VENDORS = {"brevo": SimulatedBrevo, "sendgrid": SimulatedSendGrid}


@contextmanager
def opened(kind: str, clock: DrivenClock, home: Path, people: int = 40) -> Iterator[Account]:
    key = generate_key()
    (home / "key.pem").write_bytes(key_pem(key))
    with VENDORS[kind](clock, people) as vendor:
        yield Account(
            kind, vendor, clock, home, Store.open(str(home / "store"), signing_key=key, create=True)
        )


@pytest.fixture
def account(clock: DrivenClock, tmp_path: Path) -> Iterator[Callable[..., Account]]:
    """A function that opens an account of a kind, with so many people."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield lambda kind, people=40: stack.enter_context(opened(kind, clock, tmp_path, people))
