"""A provider's account through the flows: backed up, proven by proposed contracts, restored into an empty database."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from tasks.core import DrivenClock
from tasks.drills import SimulatedBrevo
from tasks.snapshots import Store, load_or_create_key

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("prefect_server")]


def test_an_account_is_backed_up_proven_and_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.backup import backup
    from flows.restore import restore
    from flows.validate import validate
    from tasks.checks import propose_contracts, write_contracts

    clock = DrivenClock.create(tmp_path / "clock.json", datetime(2011, 11, 16, 7, 0, tzinfo=UTC))
    monkeypatch.setenv("MAILSTAY_SIGNING_KEY", str(tmp_path / "key.pem"))
    monkeypatch.setenv("MAILSTAY_BREVO_TOKEN", "drill-token")
    load_or_create_key(tmp_path / "key.pem")
    plan = tmp_path / "plan.yaml"
    with SimulatedBrevo(clock, 30) as vendor:
        vendor.opt_out(3)
        content = {
            "version": 1, "name": "Test Shop", "clock": "driven:clock.json", "journal": "sqlite:///journal.db",
            "reports": "reports", "state": "state", "store": {"url": "store"},
            "sources": {"crm": {"provider": "brevo", "exclude": ["folders"], "contracts": "expectations/crm"}},
            "providers": {"brevo": {"kind": "brevo", "api_url": vendor.url, "token_env": "MAILSTAY_BREVO_TOKEN"}},
        }  # fmt: skip
        plan.write_text(yaml.safe_dump(content))
        (taken,) = backup(plan=str(plan))
    assert (taken.snapshot_id, taken.verified, taken.tables) == ("crm/00000001", True, 6)
    assert not list((tmp_path / "state" / "exports" / "crm").iterdir())

    store = Store.open(str(tmp_path / "store"))
    folder = tmp_path / "expectations" / "crm"
    write_contracts(
        store, "crm/00000001", propose_contracts(store, "crm/00000001"), folder, force=False, clock=clock
    )
    validate(plan=str(plan))
    assert [one.state for one in store.list()] == ["valid"]

    del content["sources"]["crm"]["contracts"]
    plan.write_text(yaml.safe_dump(content))
    (checked,) = validate(plan=str(plan)).snapshots
    assert (checked.outcome, checked.critical) == ("valid", 0), "by the contracts that come with Mailstay"
    assert checked.warnings == 1, (
        "events have no key, so no contract; folders are not backed up, and not missed"
    )

    restore("crm", into=f"sqlite:///{tmp_path / 'restored.db'}", plan=str(plan))
    with closing(sqlite3.connect(tmp_path / "restored.db")) as database:
        query = 'SELECT id FROM contacts WHERE "emailBlacklisted"'
        assert database.execute(query).fetchall() == [(3,)]
