"""Charts: what is drawn follows from the figures, and one drawing serves light, dark, print, phone and reader."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from xml.etree import ElementTree

import pytest

from tasks.pages import COLOURS, Drawing, draw, png_of
from tasks.reports import ReviewContent
from tasks.reports.charts import draw_loss, draw_placebos, draw_revenue

SVG = "{http://www.w3.org/2000/svg}"


def drawings(content: ReviewContent) -> list[Drawing]:
    revenue = draw_revenue(content)
    assert revenue is not None
    assert content.loss is not None
    errors = [float(one) for one in range(-90_000, 91_000, 9_000)]
    return [revenue, draw_loss(content.loss, "GBP"), draw_placebos(errors, 124_000, "GBP")]


def words(svg: str) -> list[str]:
    return ["".join(one.itertext()) for one in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_every_colour_is_a_variable_that_has_a_dark_value(content: ReviewContent) -> None:
    for drawing in drawings(content):
        style = drawing.wide.split("<style>")[1].split("</style>")[0]
        dark = style.split("dark){")[1].split("}}")[0]
        body = drawing.wide.replace(style, "")
        used = set(re.findall(r'(?:fill|stroke)="([^"]+)"', body)) - {"none", "transparent"}
        assert used
        for one in used:
            name = re.fullmatch(r"var\(--mc-(\w+),#\w{6}\)", one)
            assert name, f"{one} does not follow the reader's scheme"
            assert f"--mc-{name[1]}:" in dark


def test_a_drawing_says_what_it_shows_to_who_cannot_see_it(content: ReviewContent) -> None:
    for drawing in drawings(content):
        for svg in (drawing.wide, drawing.narrow):
            root = ElementTree.fromstring(svg)
            said = {one.get("id"): one.text for one in root if one.tag in (f"{SVG}title", f"{SVG}desc")}
            assert root.get("role") == "img"
            assert [said[one] for one in root.get("aria-labelledby", "").split()] == [
                drawing.title,
                drawing.alt,
            ]
            assert not re.search(r' aria-(?!labelledby)\w+="', svg)


def test_ids_of_two_drawings_never_meet_on_one_page(content: ReviewContent) -> None:
    ids = [
        one
        for drawing in drawings(content)
        for svg in (drawing.wide, drawing.narrow)
        for one in re.findall(r' id="([^"]+)"', svg)
    ]
    assert len(ids) == len(set(ids))


def test_a_hostile_text_stays_text() -> None:
    import altair

    chart = altair.Chart(altair.Data(values=[{}])).mark_text(text="<script>alert(1)</script>")
    drawn = draw(lambda width: chart.properties(width=width), "<b>t</b>", "</desc><script>")
    assert "<script" not in drawn.wide
    assert "<b>" not in drawn.wide


def test_the_narrow_drawing_fits_a_phone(content: ReviewContent) -> None:
    for drawing in drawings(content):
        assert float(ElementTree.fromstring(drawing.narrow).get("width", "0")) <= 460


def test_the_outage_is_marked_only_where_the_series_shows_it(content: ReviewContent) -> None:
    def marked(changed: ReviewContent) -> bool:
        drawing = draw_revenue(changed)
        assert drawing is not None
        return "provider down" in words(drawing.wide)

    assert marked(content)
    week = timedelta(days=7)
    start, end = content.hours[0].at - week, content.hours[0].at - week / 2
    assert not marked(
        replace(content, outage=replace(content.outage, impact_started_at=start, restored_at=end))
    )
    assert marked(replace(content, outage=replace(content.outage, restored_at=None)))


def test_the_last_hours_shortfall_is_the_sum_that_the_table_gives(content: ReviewContent) -> None:
    from tasks.reports.charts import _revenue

    spec = _revenue(content, 960).to_dict()
    values = [row["value"] for row in _values(spec) if "value" in row]
    total = sum(one.expected_minor - one.actual_minor for one in content.hours) / 100
    assert any(abs(one - total) < 0.01 for one in values)


def _values(node: object) -> list[dict[str, float]]:
    if isinstance(node, dict):
        mine = node["values"] if isinstance(node.get("values"), list) else []
        return [
            *(one for one in mine if isinstance(one, dict)),
            *(r for v in node.values() for r in _values(v)),
        ]
    return [row for one in node for row in _values(one)] if isinstance(node, list) else []


def test_a_widest_interval_is_not_called_95_percent_in_the_chart(content: ReviewContent) -> None:
    assert content.loss is not None
    loss = replace(content.loss, net=replace(content.loss.net, low_confidence=True))
    assert "95 %" not in words(draw_loss(loss, "GBP").wide)
    assert "widest" in words(draw_loss(loss, "GBP").wide)


def test_a_currency_without_minor_units_keeps_its_amounts(content: ReviewContent) -> None:
    assert content.loss is not None
    assert any("JPY 124,000" in one for one in words(draw_loss(content.loss, "JPY").wide))


@pytest.mark.parametrize("width", ["wide", "narrow"])
def test_a_picture_is_in_the_colours_of_print(content: ReviewContent, width: str) -> None:
    assert content.loss is not None
    picture = png_of(getattr(draw_loss(content.loss, "GBP"), width))
    assert picture.startswith(b"\x89PNG")
    assert len(set(COLOURS.values())) == len(COLOURS)
