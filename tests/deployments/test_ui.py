"""What an operator sees: the run form of `respond` with its descriptions, and approval through the Resume dialog."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.core import SystemClock
from tasks.incidents import Journal
from tasks.plan import load_plan

pytestmark = [pytest.mark.integration, pytest.mark.browser]

WAIT_MS = 60_000


@pytest.fixture
def page(chromium: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        page = browser.new_page(viewport={"width": 1400, "height": 1600})
        page.set_default_timeout(WAIT_MS)
        yield page
        browser.close()


def shot(page: Any, tmp_path: Path, name: str) -> None:
    """Keep a picture, in MAILSTAY_SHOTS if that is set, so that a person can look at it."""
    folder = Path(os.environ.get("MAILSTAY_SHOTS") or tmp_path)
    page.screenshot(path=str(folder / f"{name}.png"))


FORMS = {
    "respond": {"provider", "cause_class", "seen", "impact_started_at", "scope", "mode", "approval", "name"},
    "restore": {"source", "into", "snapshot", "mode", "apply", "tables", "keys", "subscribers", "unproven"},
    "erase": {"person", "name", "ground", "rewrite", "override_holds", "confirm"},
    "verify": {"part"},
}


@pytest.mark.parametrize(
    "name", ["respond", *(pytest.param(name, marks=pytest.mark.slow) for name in FORMS if name != "respond")]
)
def test_the_run_form_shows_every_field_with_its_description(
    deployed: Any, page: Any, tmp_path: Path, name: str
) -> None:
    found = deployed.deployment(name)
    page.goto(f"{deployed.api.removesuffix('/api')}/v2/deployments/deployment/{found['id']}/run")
    fields = found["parameter_openapi_schema"]["properties"]
    for field in fields:
        page.locator("label", has_text=field).first.wait_for(state="visible")
    shot(page, tmp_path, f"form-{name}")
    assert FORMS[name] <= set(fields)
    text = " ".join(page.inner_text("body").split())
    for key, field in fields.items():
        assert " ".join(field["description"].split()) in text, key
    for choice in (one for one in fields.values() if "enum" in one and "default" in one):
        assert page.get_by_text(choice["default"], exact=True).first.is_visible()
    wide = page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert wide, "no field leaves the page"


def test_approval_in_the_ui_resumes_the_run_and_stops_the_campaigns(
    deployed: Any, sending_site: Path, worker: Path, page: Any, tmp_path: Path
) -> None:
    run_id = deployed.start(
        "respond",
        plan=str(sending_site / "plan.yaml"),
        provider="listmonk",
        mode="act",
        approval="ask",
        wait_minutes=10,
    )
    paused = deployed.wait_for(lambda: deployed.run(run_id)["state_type"] == "PAUSED", 120)
    assert paused, (deployed.run(run_id)["state"], worker.read_text()[-4000:])

    page.goto(f"{deployed.api.removesuffix('/api')}/v2/runs/flow-run/{run_id}")
    page.get_by_text("Paused").first.wait_for()
    page.locator("button[aria-haspopup=menu]").last.click()
    page.get_by_role("menuitem", name="Resume").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("Your name, for the record.").wait_for()
    shot(page, tmp_path, "dialog")
    assert "INC-0001" in dialog.inner_text()
    assert "@" not in dialog.inner_text(), "no address of anybody"
    dialog.get_by_label("Select Decision").click()
    page.get_by_role("option", name="approve").click()
    dialog.get_by_label("Name").last.fill("Ada")
    dialog.get_by_role("button", name="Resume").click()

    def ended() -> Any:
        run = deployed.run(run_id)
        return run if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED") else None

    run = deployed.wait_for(ended, 120)
    page.reload()
    page.get_by_text("respond-listmonk-act").first.wait_for()
    shot(page, tmp_path, "resumed")
    assert run and run["state_type"] == "COMPLETED", (run, worker.read_text()[-4000:])
    loaded = load_plan(sending_site / "plan.yaml")
    with Journal.open(loaded.journal_url(), SystemClock()) as journal:
        [approval] = journal.approvals("INC-0001")
        actions = journal.actions("INC-0001")
    assert (approval.status, approval.name, approval.vouched, approval.via) == (
        "approved",
        "Ada",
        False,
        "ui",
    )
    assert [(one.kind, one.target, one.status) for one in actions] == [("pause", "campaign/1", "done")]
