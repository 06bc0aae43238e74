"""The verify flow on a real Prefect server: part after part, and a damage that fails the run and quarantines."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from tasks.core import UsageError
from tasks.snapshots import Damaged, Part, Store, load_or_create_key, overdue

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("prefect_server")]


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plan with a shop of eight tables that has been backed up."""
    from flows.backup import backup

    with closing(sqlite3.connect(tmp_path / "shop.db")) as shop:
        for number in range(8):
            shop.execute(f"CREATE TABLE t{number} AS SELECT {number} AS v")
        shop.commit()
    monkeypatch.setenv("MAILSTAY_SIGNING_KEY", str(tmp_path / "key.pem"))
    load_or_create_key(tmp_path / "key.pem")
    content = {
        "version": 1,
        "name": "Test Shop",
        "journal": "sqlite:///journal.db",
        "store": {"url": "store"},
        "sources": {"shop": {"url": "sqlite:///shop.db", "limit_rate": "50MiB/s"}},
        "providers": {"listmonk": {"kind": "listmonk", "api_url": "http://127.0.0.1:9"}},
    }
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    backup(plan=str(tmp_path / "plan.yaml"))
    return tmp_path / "plan.yaml"


def test_each_run_takes_the_part_that_has_waited_longest(plan: Path) -> None:
    from prefect.artifacts import Artifact

    from flows.verify import verify

    found = [verify(plan=str(plan), part="next/2") for _ in range(3)]
    assert [one.part for one in found] == ["1/2", "2/2", "1/2"]
    assert found[0].objects + found[1].objects == 8
    assert {one.overdue for one in found} == {0}, "the backup read them all a moment ago"
    artifact = Artifact.get("verify")
    assert artifact is not None and "Part 1/2 read in full" in str(artifact.data)


def test_a_damage_quarantines_and_fails_the_run_so_that_people_are_told(plan: Path) -> None:
    from flows.verify import verify

    store = Store.open(str(plan.parent / "store"))
    ref = store.manifest("shop/00000001").objects[0]
    path = plan.parent / "store" / ref.path
    path.write_bytes(path.read_bytes()[::-1])
    held, other = sorted((Part(1, 2), Part(2, 2)), key=lambda part: not part.holds(ref.sha256))
    assert verify(plan=str(plan), part=str(other)).findings == []
    with pytest.raises(Damaged, match=f"1 finding.*{ref.sha256}"):
        verify(plan=str(plan), part=str(held))
    assert store.state("shop/00000001") == "quarantined"


def test_what_is_no_part_is_said(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.verify import verify
    from tasks.snapshots.steps import verify_part

    monkeypatch.setattr(verify_part, "retries", 0)
    with pytest.raises(UsageError, match="write 3/7"):
        verify(plan=str(plan), part="8/7")


def test_a_backup_reads_every_byte_back_and_that_counts_as_read(plan: Path) -> None:
    from datetime import timedelta

    from tasks.core import SystemClock

    store = Store.open(str(plan.parent / "store"))
    [record] = store.readbacks()
    assert not isinstance(record, Damaged) and (record.by, len(record.whole)) == ("backup", 8)
    assert overdue(store, within=timedelta(days=1), now=SystemClock().now()) == []


def test_the_rate_of_the_plan_and_of_the_run_reach_the_source(
    plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.backup import backup
    from tasks.snapshots import pacing

    rates: list[int] = []
    real = pacing.RateLimit.__init__

    def noting(self: pacing.RateLimit, rate: int, clock: object) -> None:
        rates.append(rate)
        real(self, rate, clock)  # type: ignore[arg-type]

    monkeypatch.setattr(pacing.RateLimit, "__init__", noting)
    backup(plan=str(plan))
    backup(plan=str(plan), limit_rate="3 MB/s")
    assert rates == [50 * 2**20, 3_000_000]
