"""Three outages by script, through the real review: the report says the right thing of each, in every form."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.compute as pc
import pytest

from tasks.core import UsageError
from tasks.reports import export_docx
from tests.reports import scripted
from tests.reports.scripted import Script

_SALES = tuple(
    ("sale", datetime(2011, month, day, 9)) for month, day in ((6, 13), (7, 18), (8, 22), (9, 19), (10, 24))
)
MONDAY = datetime(2011, 11, 28, 8, 50)
HISTORIES = {
    "cyber-monday": Script(
        MONDAY,
        MONDAY + timedelta(hours=5),
        (*_SALES, ("sale", datetime(2011, 11, 28, 9))),
        summary="the provider accepts nothing on the morning of Cyber Monday",
        opted_out=7,
        unsubscribed=23,
        bounces={"yahoo.com": 0.15},
    ),
    "partial": Script(
        datetime(2011, 10, 10, 16),
        datetime(2011, 10, 12, 8),
        _SALES[:4],
        through=0.2,
        summary="four of five messages are refused",
    ),
    "night": Script(
        datetime(2011, 10, 13, 2),
        datetime(2011, 10, 13, 2, 10),
        _SALES[:4],
        summary="the API answered nothing for ten minutes at night",
    ),
}


def text_of(page: str) -> str:
    body = re.sub(r"<style>.*?</style>", " ", page, flags=re.S)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


def line(written: Any, name: str) -> str:
    found = re.search(rf"<dt>{name}</dt><dd>(.*?)</dd>", written.html.read_text())
    assert found, name
    return text_of(found[1])


def table(written: Any, name: str) -> pd.DataFrame:
    return pd.read_parquet(written.tables[name])


def zeros(written: Any) -> dict[str, str]:
    found = re.findall(
        r"<tr>\s*<th scope=.row[^>]*>(.*?)</th>\s*<td[^>]*>(.*?)</td>", written.html.read_text(), re.S
    )
    return {text_of(name): text_of(value) for name, value in found}


SETTLED = HISTORIES["cyber-monday"].restored + timedelta(hours=scripted.SETTLE_HOURS + 1)


def to_opted_out(shop: scripted.Shop, known: datetime) -> int:
    """The messages that went out after their reader had opted out, as far as the opt-outs are known."""
    asked = shop.consent.to_pandas().rename(columns={"customer_id": "subscriber_id"})
    sent = shop.messages.to_pandas().query("smtp_code == 250")
    both = sent.merge(asked[asked["created_at"] <= known], on="subscriber_id")
    return int(((both["queued_at"] > both["created_at"]) & (both["queued_at"] <= min(known, SETTLED))).sum())


class Reviewed:
    """A history that was reviewed an hour after the outage, with late data missing, and again once it settled."""

    def __init__(self, folder: Path, script: Script, *, early: bool = False) -> None:
        self.shop = scripted.build(folder, script)
        scripted.play(self.shop)
        self.hidden = script.restored + timedelta(minutes=45)
        if early:
            scripted.snapshot(self.shop, hide_after=self.hidden)
            self.early = scripted.review(self.shop)
        scripted.settle(self.shop)
        self.case, self.figures, self.content, self.written = scripted.review(self.shop)


@pytest.fixture(scope="module")
def monday(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reviewed]:
    yield Reviewed(tmp_path_factory.mktemp("monday"), HISTORIES["cyber-monday"], early=True)


def test_five_hours_of_cyber_monday_cost_money_and_the_first_five_lines_say_so(monday: Reviewed) -> None:
    assert monday.content.loss
    net = monday.content.loss.net
    bounds = net.bounds(0.95)
    assert 0 < bounds.low_minor <= monday.shop.true_net_minor <= bounds.high_minor
    assert line(monday.written, "Outage").startswith("Mon 28 Nov 2011, 08:50 to 13:50 UTC, 5 h.")
    assert f"Net loss £{net.loss_minor / 100:,.0f} (95 % interval £" in line(monday.written, "Money")
    assert line(monday.written, "Money").endswith("A loss is established.")
    assert "No row lost" in line(monday.written, "Data")
    assert (
        line(monday.written, "Consent")
        == f"{to_opted_out(monday.shop, SETTLED)} messages went to people who had opted out."
    )
    assert zeros(monday.written)["Messages duplicated"] == "0, checked"


def test_the_messages_that_went_out_after_the_outage_are_all_late_or_bounced(monday: Reviewed) -> None:
    counts, script = monday.content.messages, monday.shop.script
    assert counts.due == script.subscribers == counts.delayed + counts.dropped
    codes = monday.shop.messages.filter(
        pc.greater_equal(monday.shop.messages["queued_at"], pd.Timestamp(script.restored))
    ).filter(pc.field("smtp_code") == 550)
    sale = (
        monday.shop.campaigns[-2][0]
        if monday.shop.campaigns[-1][2] != "sale"
        else monday.shop.campaigns[-1][0]
    )
    assert counts.dropped == codes.filter(pc.field("campaign_id") == sale).num_rows


def test_late_orders_and_late_opt_outs_are_in_the_table_of_changes_exactly(monday: Reviewed) -> None:
    changes = table(monday.written, "changes").set_index("figure")
    shop, script = monday.shop, monday.shop.script
    sale = next(number for number, _, _, at in shop.campaigns if at == datetime(2011, 11, 28, 9))

    def deferred(known: datetime) -> str:
        mine = shop.orders.filter(pc.field("campaign_id") == sale).to_pandas()
        return f"£{mine.loc[mine['ordered_at'] < known, 'total_minor'].sum() / 100:,.0f}"

    def unsubscribed(known: datetime) -> int:
        asked = shop.consent.to_pandas()
        return int(((asked["campaign_id"] == sale) & (asked["created_at"] <= known)).sum())

    def shown(figure: str) -> tuple[str, str]:
        return tuple(changes.loc[figure, ["before", "after"]])

    sent = monday.content.messages.delayed + monday.content.messages.dropped
    assert shown("deferred loss") == (deferred(monday.hidden), deferred(SETTLED))
    assert unsubscribed(SETTLED) == script.unsubscribed > unsubscribed(monday.hidden) == 0
    assert shown("unsubscribe of the catch-up")[1] == f"{script.unsubscribed} of {sent:,}"
    assert shown("unsubscribe of the catch-up")[0].startswith("0 of ")
    assert shown("standing") == ("provisional", "settled")
    assert shown("messages to opted out") == ("7", str(to_opted_out(shop, SETTLED)))
    assert "messages due" not in changes.index, "it was known from the start"
    early = monday.early[2]
    net = [f"£{one.loss.net.loss_minor / 100:,.0f}".replace("£-", "−£") for one in (early, monday.content)]
    assert shown("net loss") == tuple(net)


def test_who_had_the_old_figures_is_named(monday: Reviewed) -> None:
    assert "leadership" in text_of(monday.written.html.read_text()).split("Who had the old ones")[1][:120]


def test_one_mailbox_provider_that_turns_mail_away_is_not_hidden_by_the_others(monday: Reviewed) -> None:
    shop = monday.shop
    inboxes = table(monday.written, "inboxes").set_index(["mailbox", "rate"])
    late = shop.messages.to_pandas()
    sale = next(number for number, _, _, at in shop.campaigns if at == datetime(2011, 11, 28, 9))
    late = late[late["campaign_id"] == sale]
    domain = late["subscriber_id"].map(lambda one: scripted.DOMAINS[one % len(scripted.DOMAINS)])
    for name, domains in {"yahoo": "yahoo.com", "gmail": "gmail.com", "other": "post.example"}.items():
        mine = late[domain == domains]
        row = inboxes.loc[name, "bounce"]
        assert (row["count"], row["messages"]) == ((mine["smtp_code"] == 550).sum(), len(mine))
    bounces = inboxes.xs("bounce", level="rate")
    assert list(bounces.index[bounces["alarm"]]) == ["yahoo"]
    assert not inboxes.xs("open", level="rate")["alarm"].any()
    whole = table(monday.written, "reputation").set_index("rate")
    for rate in ("bounce", "complaint", "unsubscribe", "deferral"):
        assert inboxes.xs(rate, level="rate")["count"].sum() == whole.loc[rate, "count"]
    page = text_of(monday.written.html.read_text())
    assert "At yahoo the catch-up's bounce rate was" in page
    assert "Open rate: reported, never judged" in page


def test_the_days_after_the_outage_add_up_to_the_senders_log(monday: Reviewed) -> None:
    days = table(monday.written, "watch")
    shop = monday.shop
    sent = shop.messages.to_pandas()
    known = pd.Timestamp(monday.case.data_until).tz_localize(None)
    after = sent[(sent["queued_at"] >= shop.script.restored) & (sent["queued_at"] < known)]
    assert days["messages"].sum() == len(after)
    assert days["bounce"].sum() == (after["smtp_code"] == 550).sum()
    assert set(days["day"]) <= {1, 2, 3}
    assert "D+1" in text_of(monday.written.html.read_text())


@pytest.mark.parametrize("circle", ["board", "executives", "support", "audience"])
def test_every_number_of_an_update_stands_in_the_report(monday: Reviewed, circle: str) -> None:
    update = (monday.written.folder / "updates" / f"{circle}.md").read_text()
    page = text_of(monday.written.html.read_text())
    numbers = set(re.findall(r"−?£?\d[\d,.]*\d|\d", update.split("\n", 1)[1]))
    assert numbers
    for one in numbers:
        assert re.search(rf"(?<![\d,]){re.escape(one)}(?![\d])", page), f"{one} is not in the report"
    money = circle in ("board", "executives")
    assert ("£" in update) == money
    assert ("No data were lost" in update) or ("No row lost" in update)
    if circle == "support":
        assert f"{monday.content.messages.delayed:,} messages came late" in update


def test_the_word_document_says_the_same_in_the_same_order(monday: Reviewed) -> None:
    docx = pytest.importorskip("docx")
    reports = monday.written.folder.parent.parent
    word = docx.Document(str(export_docx(reports, monday.shop.incident)))
    page = monday.written.html.read_text()

    titles = [
        unescape(re.sub(r"<[^>]+>", " ", one)).split() for one in re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    ]
    headings = [one.text.split() for one in word.paragraphs if one.style.name == "Heading 1"]
    assert [[word.strip(".") for word in one] for one in headings] == titles

    cells = [
        [text_of(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)]
        for body in re.findall(r"<table.*?</table>", page, re.S)
        for row in re.findall(r"<tr>(.*?)</tr>", body, re.S)
    ]
    tables = word.tables[2:]  # facts and bottom line are lists on the page
    read = [[" ".join(cell.text.split()) for cell in row.cells] for one in tables for row in one.rows]
    assert read == cells
    lines = {one.text for one in word.paragraphs}
    for lead in ("Outage", "Money", "Data", "Consent"):
        assert any(" ".join(one.split()) == f"{lead}. {line(monday.written, lead)}" for one in lines)


def test_the_word_document_names_its_pictures_headers_and_itself(monday: Reviewed) -> None:
    docx = pytest.importorskip("docx")
    word = docx.Document(str(export_docx(monday.written.folder.parent.parent, monday.shop.incident, 2)))
    said = [one._inline.docPr.get("descr") for one in word.inline_shapes]
    alts = re.findall(r"<desc[^>]*>(.*?)</desc>", monday.written.html.read_text())
    assert said == [unescape(one) for one in alts[::2]]
    assert all(one._inline.graphic.graphicData.pic is not None for one in word.inline_shapes)
    assert word.core_properties.title == monday.content.header.title
    assert word.core_properties.keywords == f"{monday.shop.incident}, listmonk"
    for one in word.tables:
        assert one.rows[0]._tr.trPr.xpath("w:tblHeader"), "the first row is no header"


def test_an_export_that_cannot_be_says_what_to_do(
    monday: Reviewed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports, incident = monday.written.folder.parent.parent, monday.shop.incident
    with pytest.raises(UsageError, match="There is no version 9"):
        export_docx(reports, incident, 9)
    with pytest.raises(UsageError, match="There is no report of INC-7777"):
        export_docx(reports, "INC-7777")
    with pytest.raises(UsageError, match=r"no \.docx"):
        export_docx(reports, incident, 0, tmp_path / "report.pdf")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="need python-docx") as caught:
        export_docx(reports, incident)
    assert "mailstay[documents]" in str(caught.value)


@pytest.mark.browser
def test_axe_finds_no_serious_problem_with_the_network_off_in_both_schemes_and_widths(
    monday: Reviewed, chromium: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import sync_playwright

    bad: dict[tuple[Any, ...], str] = {}
    wide = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for scheme, width in (("light", 1200), ("light", 420), ("dark", 1200), ("dark", 420)):
            page = browser.new_page(
                viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True, bypass_csp=True
            )
            page.goto(monday.written.html.as_uri())
            for one in Axe().run(page).response["violations"]:
                if one["impact"] in ("serious", "critical"):
                    bad[scheme, width, one["id"]] = one["nodes"][0]["html"][:200]
            if page.evaluate("document.documentElement.scrollWidth > window.innerWidth"):
                wide.append((scheme, width))
        browser.close()
    assert bad == {}
    assert wide == []


@pytest.mark.slow
def test_forty_hours_in_which_one_of_five_got_through_cannot_be_told_from_chance(tmp_path: Path) -> None:
    found = Reviewed(tmp_path, HISTORIES["partial"])
    counts = found.content.messages
    assert found.content.loss
    net = found.content.loss.net
    bounds = net.bounds(0.95)
    assert bounds.low_minor <= 0 < found.shop.true_net_minor <= bounds.high_minor
    assert counts.due == counts.delayed + counts.on_time + counts.dropped == 3000
    assert 0.17 < counts.on_time / counts.due < 0.23
    money = line(found.written, "Money")
    assert f"Net loss £{net.loss_minor / 100:,.0f}" in money
    assert money.endswith("The interval includes zero: no loss is established.")
    page = text_of(found.written.html.read_text())
    assert "Net loss 10 Oct 16:00 to 14 Oct 09:00" in page, "what is not significant stays in the table"
    assert "cannot be told from an ordinary week" in page


@pytest.mark.slow
def test_ten_minutes_at_night_cost_nothing_and_every_zero_says_what_was_checked(tmp_path: Path) -> None:
    found = Reviewed(tmp_path, HISTORIES["night"])
    assert found.shop.true_net_minor == 0
    assert found.content.messages.due == 0
    assert (
        line(found.written, "Outage") == "Thu 13 Oct 2011, 02:00 to 02:10 UTC, 10 min. No campaign was due."
    )
    assert line(found.written, "Money").endswith("no message was due: nothing points to a loss.")
    shown = zeros(found.written)
    for name in (
        "Messages due in the outage", "of these delayed", "of these dropped", "Messages of unknown outcome",
        "Messages duplicated", "Messages after they were useful", "Messages to people who had opted out",
    ):  # fmt: skip
        assert shown[name] == "0, checked", name
    assert shown["Impact"] == "10 minutes"
    assert (
        (found.written.folder / "updates" / "audience.md")
        .read_text()
        .startswith("# Our e-mails: nothing you need to do")
    )
    assert found.case.restored_at == datetime(2011, 10, 13, 2, 10, tzinfo=UTC)
