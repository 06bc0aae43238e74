"""What people read: the page of a snapshot, the page over all, and Data Docs, in a browser that reaches nobody."""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tasks.checks import last_good_before, load_contracts, mark_snapshot, remember, run_checks
from tasks.checks.result_page import page_path, write_index, write_page
from tasks.core import DrivenClock
from tasks.drills import build_shop
from tasks.snapshots import Store, generate_key, take_snapshot
from tasks.sources import open_source

pytestmark = pytest.mark.browser

REPOSITORY = Path(__file__).resolve().parents[2]
HARM = [
    (),
    (
        "UPDATE orders SET kind = 'eve@secret.example' WHERE rowid IN (1, 2)",
    ),
    (
        "UPDATE customers SET email = 'eve@secret.example, bob' "
        "WHERE customer_id IN (SELECT customer_id FROM customers LIMIT 2)",
        "ALTER TABLE orders DROP COLUMN generated",
        "ALTER TABLE orders ADD COLUMN \"eve@secret.example\" INTEGER",
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of everything that checks wrote about three snapshots: a clean one and two that are not."""
    home = tmp_path_factory.mktemp("pages")
    clock = DrivenClock.create(home / "clock.json", datetime(2011, 11, 16, 7, 0, tzinfo=UTC))
    url = f"sqlite:///{home / 'shop.db'}"
    build_shop(url, seed=7, until=datetime(2011, 11, 16, tzinfo=UTC), share=0.02)
    store = Store.open(str(home / "store"), signing_key=generate_key(), create=True)
    contracts = load_contracts(REPOSITORY / "data/expectations/shop")
    contracts = {name: contracts[name] for name in ("customers", "orders", "order_lines")}
    folder = home / "checks"
    for harm in HARM:
        with closing(sqlite3.connect(home / "shop.db")) as connection:
            for statement in harm:
                connection.execute(statement)
            connection.commit()
        clock.advance(3600)
        one = take_snapshot(open_source("shop", url), store, clock=clock, plan_digest="0" * 64).snapshot_id
        report = run_checks(
            store,
            one,
            contracts,
            previous=last_good_before(store, one),
            docs_folder=page_path(folder, one).parent / "data-docs",
            docs_assets=folder / "assets",
            clock=clock,
        )
        remember(folder / "history", report)
        mark_snapshot(store, report, clock=clock)
        write_page(store, one, folder, "Test <Shop>")
    write_index(store, folder, "Test <Shop>")
    return folder


@dataclass
class Seen:
    """A page in the browser, what it asked for, and what it complained about."""

    page: Any
    asked: list[str]
    complaints: list[str]

    def open(self, path: Path) -> Seen:
        self.page.goto(path.as_uri())
        return self

    def fits(self) -> bool:
        return bool(self.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


def serious(seen: Seen) -> list[str]:
    """What axe-core finds that keeps people from using the page: its rule, and where."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(seen.page).response["violations"]
    return [
        f"{one['id']}: {node['html'][:160]}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    # A proxy that nobody is: whatever is not a file fails, and is recorded as asked for.
    flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--proxy-server=127.0.0.1:9"]
    flags += [
        "--no-first-run",
        "--disable-background-networking",
        "--disable-sync",
        "--disable-component-update",
    ]
    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=chromium, args=flags)
        yield started
        started.close()


@pytest.fixture
def look(browser: Any) -> Iterator[Callable[..., Seen]]:
    """A function that opens an empty page of a width and a scheme of colours."""
    pages = []

    def start(width: int = 1400, scheme: str = "light") -> Seen:
        page = browser.new_page(viewport={"width": width, "height": 1000}, color_scheme=scheme)
        page.set_default_timeout(20_000)
        seen = Seen(page, [], [])
        page.on("request", lambda request: seen.asked.append(request.url))
        page.on("console", lambda message: seen.complaints.append(message.text))
        page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        pages.append(page)
        return seen

    yield start
    for page in pages:
        page.close()


def shot(seen: Seen, name: str, tmp_path: Path) -> None:
    """Keep a picture, in MAILSTAY_SHOTS if that is set, so that a person can look at it."""
    seen.page.screenshot(
        path=str(Path(os.environ.get("MAILSTAY_SHOTS") or tmp_path) / f"{name}.png"), full_page=True
    )


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (400, "dark")])
def test_the_page_of_a_snapshot_tells_everything_and_asks_nobody(
    checked: Path, look: Callable[..., Seen], width: int, scheme: str, tmp_path: Path
) -> None:
    path = page_path(checked, "shop/00000003")
    seen = look(width, scheme).open(path)
    shot(seen, f"result-{width}", tmp_path)
    text = " ".join(seen.page.inner_text("body").split())
    for said in (
        "shop/00000003 is quarantined",
        "shop/00000001, the last good snapshot",
        "The oldest stands since shop/00000002.",
        "customers.email.format",
        "the rule that it is written as an email address",
        "orders.generated.not_null",
        "orders has no column generated",
        "orders.campaign_id.range",
        "mailstay checks show shop/00000003 --rule customers.email.format",
        "mailstay restore shop --snapshot shop/00000001 --into",
        "Test <Shop>",
    ):
        assert said.lower() in text.lower(), said
    section = {
        one.get_attribute("aria-labelledby"): one.inner_text()
        for one in seen.page.query_selector_all("main > section[aria-labelledby]")
    }
    assert "could not be asked" in section["broken"] and "orders.generated.not_null" in section["broken"]
    assert "orders.kind.allowed" in section["bad"] and "orders.generated.not_null" not in section["bad"]
    assert "customer_id=" in section["bad"], "keys of some rows"
    assert seen.fits()
    shown = "[...document.querySelectorAll('figure svg')].filter(s => s.getBoundingClientRect().width > 0)"
    assert seen.page.evaluate(f"{shown}.length") == 3, "a trend for each table"
    assert "over 3 snapshots" in seen.page.evaluate(f"{shown}[0].querySelector('desc').textContent")
    line = seen.page.evaluate(f"{shown}[0].querySelector('.mark-line path').getAttribute('d')")
    assert len(re.findall("[ML]", line)) == 3, "a point for each snapshot"
    dark = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (dark == "rgb(17, 21, 26)") == (scheme == "dark")
    assert seen.complaints == []
    assert seen.asked == [path.as_uri()], "one file, and no request"
    assert serious(seen) == []
    seen.page.click("text=Data Docs of Great Expectations")
    seen.page.wait_for_url("**/data-docs/index.html")


def test_the_page_over_all_snapshots_leads_to_each_and_asks_nobody(
    checked: Path, look: Callable[..., Seen], tmp_path: Path
) -> None:
    for width in (1400, 400):
        seen = look(width).open(checked / "index.html")
        shot(seen, f"index-{width}", tmp_path)
        assert seen.fits()
        rows = seen.page.locator("tbody tr").all_inner_texts()
        assert [re.split(r"\s+", one.strip())[0] for one in rows] == [f"shop/0000000{n}" for n in (3, 2, 1)]
        assert "Restores use shop/00000001" in seen.page.inner_text("body")
        assert seen.asked == [(checked / "index.html").as_uri()]
        assert serious(seen) == []
        assert seen.complaints == []
    seen.open(page_path(checked, "shop/00000001"))
    assert "mailstay restore" not in seen.page.inner_text("body"), "a valid snapshot needs no other"
    seen.open(checked / "index.html").page.click("text=shop/00000002")
    seen.page.wait_for_url("**/shop/00000002/result.html")
    assert "is quarantined" in seen.page.inner_text("h1")


def test_the_index_of_data_docs_is_complete_offline(
    checked: Path, look: Callable[..., Seen], tmp_path: Path
) -> None:
    docs = checked / "shop" / "00000003" / "data-docs"
    seen = look().open(docs / "index.html")
    page = seen.page
    shot(seen, "docs-index", tmp_path)
    rows = page.locator("#Validation-Results tbody tr")
    assert rows.count() == 3, "the table is drawn"
    icons = page.locator("#Validation-Results tbody i.fas")
    assert icons.count() == 3
    for icon in icons.all():
        assert icon.bounding_box()["width"] > 8
        assert "data:image/svg" in icon.evaluate("one => getComputedStyle(one).webkitMaskImage")
    assert page.evaluate("getComputedStyle(document.querySelector('.nav-tabs')).display") == "flex", "styled"
    page.select_option(".bootstrap-table-filter-control-asset_name", label="orders")
    until(lambda: rows.count() == 1)
    page.click("text=Clear Filters")
    until(lambda: rows.count() == 3)
    page.click("#Expectation-Suites-tab")
    page.locator("#Expectation-Suites tbody tr").first.wait_for(state="visible")
    only_files(seen, checked)
    page.click("text=the page of this snapshot")
    page.wait_for_url("**/00000003/result.html")
    assert "is quarantined" in page.inner_text("h1"), "what Data Docs do not hold is one click away"


def test_a_validation_page_of_data_docs_is_complete_offline(
    checked: Path, look: Callable[..., Seen], tmp_path: Path
) -> None:
    (path,) = (checked / "shop" / "00000003" / "data-docs" / "validations" / "customers").rglob("*.html")
    seen = look().open(path)
    page = seen.page
    shot(seen, "docs-validation", tmp_path)
    everything = page.locator("tbody tr:visible").count()
    assert everything > 15
    assert page.locator("i.fas.fa-check-circle:visible").count() > 10
    assert page.locator("i.fas.fa-times:visible").count() >= 1
    page.click("text=Failed Only")
    until(lambda: 0 < page.locator("tbody tr:visible").count() < everything)
    page.click("text=Show more info")
    page.locator("text=Great Expectations Version").first.wait_for(state="visible")
    only_files(seen, checked)


def until(holds: Callable[[], bool]) -> None:
    """Wait; the page's policy forbids what Playwright would wait with."""
    ends = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.05)


def only_files(seen: Seen, folder: Path) -> None:
    assert seen.complaints == []
    assert len(seen.asked) == 10
    assert all(one.startswith(folder.as_uri()) for one in seen.asked)


def test_a_page_of_data_docs_may_not_load_from_elsewhere(checked: Path, look: Callable[..., Seen]) -> None:
    """The policy of the page itself stops what a later Great Expectations may bring."""
    page = checked / "shop" / "00000003" / "data-docs" / "index.html"
    spoiled = page.with_name("spoiled.html")
    spoiled.write_text(page.read_text().replace("</body>", '<img src="http://127.0.0.1:9/pixel.png"></body>'))
    seen = look().open(spoiled)
    assert any("Content Security Policy" in one for one in seen.complaints)


def test_no_page_holds_an_address_that_was_planted(checked: Path) -> None:
    pages = [one for one in checked.rglob("*") if one.is_file() and one.parent.name != "assets"]
    assert len(pages) > 20
    assert [
        one for one in pages if b"eve@" in one.read_bytes() or b"secret.example" in one.read_bytes()
    ] == []


def test_the_assets_are_the_files_of_the_pinned_packages() -> None:
    """Every file that a page loads is kept with its licence, and none is kept that no page loads."""
    from tasks.checks import docs
    from tasks.checks.assets import renew

    kept = {Path(name).name for _, names in renew.PACKAGES.values() for name in names}
    assert kept | {"icons.css"} == {*docs._STYLES, *docs._SCRIPTS}
    licences = (renew.FOLDER / "LICENSES.md").read_text()
    for package, (_, names) in renew.PACKAGES.items():
        assert " ".join(package.rsplit("@", 1)) in licences
        assert all(f"`{Path(name).name}`" in licences for name in names)
    assert {one.name for one in renew.FOLDER.iterdir() if one.suffix in (".js", ".css")} == kept | {
        "icons.css"
    }
