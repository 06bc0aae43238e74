"""Reports: figures come from the tables, hostile text stays text, versions are never overwritten."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from html import unescape
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tasks.reports import (
    Bounds,
    DataRow,
    Loss,
    ReportError,
    ReviewContent,
    TimelineRow,
    WrittenReport,
    write_report,
)


def rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.ParquetFile(path).read().to_pylist()
    return found


def text_of(html: str) -> str:
    """What a reader sees, tags and style left out."""
    body = re.sub(r"<style>.*?</style>", " ", html, flags=re.S)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


@pytest.fixture
def written(content: ReviewContent, tmp_path: Path) -> WrittenReport:
    return write_report(content, tmp_path)


def test_every_headline_figure_is_recomputed_from_the_tables(written: WrittenReport) -> None:
    report = rows(written.tables["report"])[0]
    campaigns = rows(written.tables["messages"])
    loss = {(one["statistic"], one["level"]): one for one in rows(written.tables["loss"])}
    data = rows(written.tables["data_loss"])
    shown = text_of(written.html.read_text())

    def figure(label: str) -> str:
        found = re.search(rf"<dt>{label}</dt><dd class=\"value\">([^<]*)</dd>", written.html.read_text())
        assert found, label
        return found.group(1)

    for name in ("due", "delayed", "on_time", "suppressed", "dropped", "unknown"):
        assert sum(one[name] for one in campaigns) == report[name]
    assert figure("Delayed") == f"{sum(one['delayed'] for one in campaigns):,}"
    assert figure("Dropped") == f"{sum(one['dropped'] for one in campaigns):,}"
    net = loss["net", 0.95]
    assert figure("Net loss") == f"£{net['loss_minor'] / 100:,.0f}"
    assert f"−£{-net['low_minor'] / 100:,.0f} to £{net['high_minor'] / 100:,.0f}" in shown
    deferred = loss["gross", 0.95]["loss_minor"] - net["loss_minor"]
    assert figure("Came later") == f"£{deferred / 100:,.0f}"
    assert f"{100 * deferred / loss['gross', 0.95]['loss_minor']:.0f} % of the gross loss" in shown
    assert figure("Rows lost") == f"{sum(one['lost'] or 0 for one in data if not one['estimated']):,}"
    assert f"about {sum(one['lost'] for one in data if one['estimated']):,} more by estimate" in shown
    assert f"{sum(one['at_risk'] for one in data):,} at risk" in shown
    down = report["restored_at"] - report["impact_started_at"]
    assert down == timedelta(hours=4, minutes=58)
    assert figure("Provider down") == "4 h 58 min"


def test_the_series_of_the_chart_is_in_the_tables(content: ReviewContent, written: WrittenReport) -> None:
    series = rows(written.tables["series"])
    assert [(one["hour"], one["actual_minor"]) for one in series] == [
        (one.at, one.actual_minor) for one in content.hours
    ]
    assert all(one["low_minor"] <= one["expected_minor"] <= one["high_minor"] for one in series)


def test_hostile_names_stay_text(written: WrittenReport, hostile: str) -> None:
    html, markdown = written.html.read_text(), written.markdown.read_text()
    assert "<script" not in html
    assert "<img" not in html
    assert "&lt;script&gt;" in html
    assert re.search(r"(?<!\\)<(script|img)", markdown) is None
    # the name stands in one cell: its pipe does not open another
    row = next(line for line in markdown.splitlines() if "alert" in line)
    assert len(re.findall(r"(?<!\\)\|", row)) == 10


def test_hostile_names_make_no_element_in_rendered_markdown(written: WrittenReport) -> None:
    from markdown_it import MarkdownIt

    rendered = MarkdownIt("default", {"html": True}).render(written.markdown.read_text())
    assert "<script" not in rendered
    assert "evil.example" not in re.findall(r'src="([^"]*)"', rendered)
    assert 'src="http' not in rendered


def test_no_address_is_written_anywhere(written: WrittenReport) -> None:
    for path in [written.html, written.markdown, *written.tables.values(), *written.dataset.values()]:
        text = str(rows(path)) if path.suffix == ".parquet" else path.read_text()
        assert "jane.doe" not in text
    assert "<address>" in str(rows(written.tables["timeline"]))


def test_a_version_is_never_overwritten(content: ReviewContent, tmp_path: Path) -> None:
    first = write_report(content, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    settled = replace(content, header=replace(content.header, settlement="settled", completeness=1.0))
    second = write_report(settled, tmp_path)
    assert (first.version, second.version) == (1, 2)
    assert {path: path.read_bytes() for path in before} == before


def test_a_settled_version_says_what_changed(content: ReviewContent, tmp_path: Path) -> None:
    write_report(content, tmp_path)
    messages = replace(content.messages, duplicated=2)
    settled = replace(content, messages=messages, header=replace(content.header, settlement="settled"))
    page = text_of(write_report(settled, tmp_path).html.read_text())
    assert "Changed since the version before" in page
    assert "Messages duplicated 0 2" in page
    assert "Standing provisional settled" in page


def test_a_version_that_died_before_the_dataset_is_added_by_the_next(
    content: ReviewContent, tmp_path: Path
) -> None:
    first = write_report(content, tmp_path)
    for path in first.dataset.values():
        path.unlink()
    write_report(content, tmp_path)
    assert all(path.exists() for path in first.dataset.values())


def test_the_dataset_holds_all_versions_with_documented_columns(
    content: ReviewContent, tmp_path: Path
) -> None:
    import duckdb

    write_report(content, tmp_path)
    other = replace(content, header=replace(content.header, incident_id="INC-0002"))
    written = write_report(other, tmp_path)
    write_report(other, tmp_path)
    found = duckdb.sql(
        f"SELECT incident, version FROM '{tmp_path}/dataset/report-*.parquet' ORDER BY ALL"
    ).fetchall()
    assert found == [("INC-0001", 1), ("INC-0002", 1), ("INC-0002", 2)]
    documented = (tmp_path / "dataset" / "README.md").read_text()
    for name, path in written.dataset.items():
        section = documented.split(f"## {name}\n")[1].split("\n## ")[0]
        for field in pq.read_schema(path):
            assert f"| {field.name} | " in section
            assert field.metadata[b"meaning"]


def test_zero_is_shown_as_checked_and_the_unmeasured_as_such(written: WrittenReport) -> None:
    page = text_of(written.html.read_text())
    assert "Messages duplicated 0, checked the provider's send log and the ledger" in page
    assert "Unsubscribe requests refused 0, checked the shop's consent requests" in page
    assert "Support contacts not measured no source for them in the plan" in page


def test_whole_tables_share_one_line_that_names_them(content: ReviewContent, tmp_path: Path) -> None:
    whole = tuple(DataRow("shop", name, 0, 0, "last snapshot") for name in ("orders", "returns", "customers"))
    page = text_of(write_report(replace(content, data=content.data + whole), tmp_path).html.read_text())
    assert (
        "3 other tables shop.orders, shop.returns, shop.customers 0 0, checked witness: last snapshot" in page
    )


def test_an_invalid_metric_is_shown_and_a_pending_one_is_not_zero(written: WrittenReport) -> None:
    page = text_of(written.html.read_text())
    assert "time to mitigate impact started at mitigated at −30 s invalid" in page
    assert "time to close resolved at closed at — pending" in page


def test_an_interval_with_zero_says_so_in_the_bottom_line_and_in_the_words(written: WrittenReport) -> None:
    page = text_of(written.html.read_text())
    assert "this outage alone cannot be told from an ordinary week" in page
    assert "Net loss £1,240 (95 % interval −£2,600 to £5,400)" in page
    assert "The interval includes zero: no loss is established." in page


def test_an_interval_above_zero_establishes_a_loss(content: ReviewContent, tmp_path: Path) -> None:
    assert content.loss
    net = replace(content.loss.net, intervals=(Bounds(0.95, 10_000, 240_000),))
    page = text_of(
        write_report(replace(content, loss=replace(content.loss, net=net)), tmp_path).html.read_text()
    )
    assert "a loss is established" in page
    assert "includes zero" not in page


def test_too_few_placebos_are_never_called_95_percent(content: ReviewContent, tmp_path: Path) -> None:
    assert content.loss
    net = replace(content.loss.net, low_confidence=True, effective_placebos=21.0)
    loss: Loss = replace(content.loss, net=net)
    page = text_of(write_report(replace(content, loss=loss), tmp_path).html.read_text())
    assert "widest interval, low confidence:" in page
    assert "Only 21 effective placebo windows" in page
    assert "95 % interval −£2,600" not in page


def test_an_extrapolated_interval_establishes_nothing(content: ReviewContent, tmp_path: Path) -> None:
    assert content.loss
    net = replace(content.loss.net, low_confidence=True, intervals=(Bounds(0.95, 10_000, 240_000),))
    page = text_of(
        write_report(replace(content, loss=replace(content.loss, net=net)), tmp_path).html.read_text()
    )
    assert "a loss is likely, not established" in page


def test_the_record_on_the_shops_own_past_is_shown_with_its_rule(written: WrittenReport) -> None:
    page = text_of(written.html.read_text())
    appendix = page.split("How often the intervals were right in this shop's own past")[1]
    assert "50 % interval held 48.3 % 58 of 120 windows; promised 50 %" in appendix
    assert "95 % interval held 95.0 % 114 of 120 windows; promised 95 %" in appendix
    assert "False claims of a loss 2.5 % 3 of 120 windows" in appendix
    assert "Bias 1.2 %" in appendix
    assert "one-sided binomial test" in appendix
    assert "No level is off." in appendix
    assert "Read with care" not in page
    assert [(one["level"], one["held"]) for one in rows(written.tables["record"])] == [
        (0.5, 58),
        (0.8, 97),
        (0.95, 114),
    ]


def test_a_record_that_is_off_is_said_at_the_top_of_page_and_markdown(
    content: ReviewContent, tmp_path: Path
) -> None:
    assert content.record
    off = replace(content, record=replace(content.record, warning="On this shop's own past <b>70%</b>"))
    written = write_report(off, tmp_path)
    page = text_of(written.html.read_text())
    assert page.index("Read with care. On this shop's own past <b>70%</b>.") < page.index("Bottom line")
    markdown = written.markdown.read_text()
    assert markdown.index("Read with care") < markdown.index("## Bottom line")


def test_the_second_opinion_stands_beside_and_moves_nothing(
    content: ReviewContent, written: WrittenReport, tmp_path: Path
) -> None:
    assert content.loss
    page = text_of(written.html.read_text())
    assert "Net loss, second opinion" in page
    assert "1.3 times as wide, so that it holds in 91 past windows" in page
    without = write_report(replace(content, loss=replace(content.loss, second=None)), tmp_path / "without")
    assert "None: it needs statsmodels" in text_of(without.html.read_text())
    lines = re.compile(r'<dl class="lines">.*?</dl>', re.S)
    assert lines.findall(written.html.read_text()) == lines.findall(without.html.read_text())


def test_deferred_stands_beside_what_is_seen_from_above_with_their_difference(written: WrittenReport) -> None:
    page = text_of(written.html.read_text())
    assert "Order by order (deferred) £1,860" in page
    assert "Seen from above (returned) £1,500" in page
    assert "Difference £360 above zero, pulled forward" in page
    assert "chance alone moves it by about £2,700 either way" in page


def test_a_date_never_breaks_over_two_lines_and_stays_escaped(content: ReviewContent, tmp_path: Path) -> None:
    dated = replace(content, outage=replace(content.outage, affected="<b>Sale 2011-11-17</b>"))
    page = write_report(dated, tmp_path).html.read_text()
    assert '&lt;b&gt;Sale <span class="date">2011-11-17</span>&lt;/b&gt;' in page


def test_without_an_estimate_the_report_says_why(content: ReviewContent, tmp_path: Path) -> None:
    bare = replace(content, loss=None, loss_missing_because="only 12 days of orders", hours=())
    page = text_of(write_report(bare, tmp_path).html.read_text())
    assert "Not estimated: only 12 days of orders." in page


def test_an_unknown_start_stays_unknown(content: ReviewContent, tmp_path: Path) -> None:
    unknown = replace(content, outage=replace(content.outage, impact_started_at=None))
    written = write_report(unknown, tmp_path)
    assert rows(written.tables["report"])[0]["impact_seconds"] is None
    assert "The start of the impact is not known" in text_of(written.html.read_text())


@pytest.mark.parametrize("change", [{"delayed": 1905}, {"due": 2841}])
def test_counts_that_do_not_add_up_are_refused(
    content: ReviewContent, tmp_path: Path, change: dict[str, int]
) -> None:
    wrong = replace(content, messages=replace(content.messages, **change))
    with pytest.raises(ReportError, match="messages were due"):
        write_report(wrong, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_campaigns_that_do_not_sum_to_the_total_are_refused(content: ReviewContent, tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="The campaigns' due sum to"):
        write_report(replace(content, campaigns=content.campaigns[1:]), tmp_path)


def test_an_incident_id_cannot_leave_the_folder(content: ReviewContent, tmp_path: Path) -> None:
    wrong = replace(content, header=replace(content.header, incident_id="../escaped"))
    with pytest.raises(ReportError, match="no folder name"):
        write_report(wrong, tmp_path)


def test_markdown_of_a_long_incident_stays_below_the_artifact_limit(
    content: ReviewContent, tmp_path: Path
) -> None:
    entry = content.timeline[0]
    many = tuple(TimelineRow(entry.at, "note", "a long note " * 20, "journal") for _ in range(5_000))
    written = write_report(replace(content, timeline=many), tmp_path)
    text = written.markdown.read_text()
    assert len(text.encode()) < 200_000
    assert "more rows: see the tables" in text
    assert "## 11. Appendix" in text
    assert len(rows(written.tables["timeline"])) == 5_000


def test_the_sections_stand_in_the_order_of_the_practice(written: WrittenReport) -> None:
    found = re.findall(r'<h2 id="([a-z-]+)"', written.html.read_text())
    assert found == [
        "bottom-line", "impact", "money", "timeline", "objectives", "cause", "decisions", "reputation",
        "communications", "lessons", "actions", "appendix",
    ]  # fmt: skip


@pytest.mark.browser
def test_print_keeps_tables_as_tables_and_cuts_nothing_at_the_edge_of_a_page(
    written: WrittenReport, chromium: str
) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 688, "height": 1000})  # A4 less its margins
        page.goto(written.html.as_uri())
        page.emulate_media(media="print")
        wide = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        shown = page.evaluate(
            "[...new Set([...document.querySelectorAll('thead')].map(t => getComputedStyle(t).display))]"
        )
        browser.close()
    assert wide[0] <= wide[1]
    assert shown == ["table-header-group"]  # it repeats on every page of a long table


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 420])
def test_the_page_never_scrolls_sideways_and_asks_for_nothing(
    written: WrittenReport, chromium: str, width: int, scheme: str
) -> None:
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    arguments += ["--disable-sync", "--disable-component-update"]
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=arguments)
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(written.html.as_uri())
        wide = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        shown = page.evaluate(
            "[...document.querySelectorAll('figure svg')].filter(s => s.getBoundingClientRect().width > 0).length"
        )
        browser.close()
    assert wide[0] <= wide[1]
    assert shown == 3
    assert said == []
    assert asked == [written.html.as_uri()]
