"""The charts of a report: revenue against expectation, the loss with its intervals, and what past windows say of it."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from tasks.core import Money
from tasks.pages import COLOURS, WIDE, Drawing, draw
from tasks.reports.content import Estimate, Loss, ReviewContent
from tasks.reports.words import say_money

if TYPE_CHECKING:
    import altair

_MARGIN = 80
_LABEL_ROOM = 100
_ACTUAL, _EXPECTED, _BAND = "Actual, by the hour", "Expected without the outage", "95 % band of one hour"
_SERIES = {_ACTUAL: COLOURS["ink"], _EXPECTED: COLOURS["expected"], _BAND: COLOURS["usual"]}
_CLOCK = (
    "utchours(datum.value) == 0 || datum.index == 0 ? [utcFormat(datum.value, '%H:%M'), "
    "utcFormat(datum.value, '%-d %b')] : utcFormat(datum.value, '%H:%M')"
)
_NAMES = {"gross": "Gross loss", "deferred": "Came later", "net": "Net loss", "second": "Second opinion"}


def draw_revenue(content: ReviewContent) -> Drawing | None:
    """Draw hourly revenue against expectation, and below it the shortfall so far; None without a series."""
    if len(content.hours) < 2:
        return None
    currency = content.header.currency
    actual = sum(one.actual_minor for one in content.hours)
    expected = sum(one.expected_minor for one in content.hours)
    alt = (
        f"Revenue by the hour, {len(content.hours)} hours: {say_money(actual, currency)} came in, "
        f"{say_money(expected, currency)} was to be expected without the outage."
    )
    return draw(lambda width: _revenue(content, width), "Revenue against expectation", alt)


def draw_loss(loss: Loss, currency: str) -> Drawing:
    """Draw gross, deferred and net, and the second opinion, with their 50, 80 and 95 % intervals on one axis."""
    rows = [one for one in (loss.gross, loss.deferred, loss.net, loss.second) if one is not None]
    parts = (f"{_NAMES[one.statistic].lower()} {say_money(one.loss_minor, currency)}" for one in rows)
    alt = "Loss with its intervals: " + ", ".join(parts) + "."
    last = "widest" if loss.net.low_confidence else "95 %"
    return draw(lambda width: _loss(rows, currency, width, last), "The loss with its intervals", alt)


def draw_placebos(errors_minor: list[float], loss_minor: int, currency: str) -> Drawing:
    """Draw what the same estimate finds in past windows in which nothing happened, and this outage beside them."""
    beyond = sum(one >= loss_minor for one in errors_minor)
    alt = (
        f"In {len(errors_minor):,} past windows in which nothing happened the same estimate finds a loss from "
        f"{say_money(min(errors_minor), currency)} to {say_money(max(errors_minor), currency)}; in {beyond:,} of them "
        f"at least this outage's {say_money(loss_minor, currency)}."
    )
    return draw(
        lambda width: _placebos(errors_minor, loss_minor, currency, width),
        "Past windows and this outage",
        alt,
    )


def _revenue(content: ReviewContent, width: int) -> altair.TopLevelMixin:
    import altair as alt

    hours, currency, wide = content.hours, content.header.currency, width >= WIDE
    half, whole = timedelta(minutes=30), timedelta(hours=1)
    first, last = hours[0].at, hours[-1].at + whole
    actual = [{"at": one.at, "value": one.actual_minor} for one in hours]
    actual.append({"at": last, "value": hours[-1].actual_minor})
    middle: list[dict[str, Any]] = [{"at": one.at + half, "value": one.expected_minor} for one in hours]
    band = [
        {"at": one.at + half, "value": one.low_minor, "high": one.high_minor}
        for one in hours
        if one.low_minor is not None and one.high_minor is not None
    ]
    total, short = 0.0, [{"at": first, "value": 0.0}]
    for one in hours:
        total += one.expected_minor - one.actual_minor
        short.append({"at": one.at + whole, "value": total})

    x = alt.X(
        "at:T",
        title=None,
        scale=alt.Scale(type="utc", domain=[first.isoformat(), last.isoformat()], nice=False),
        axis=alt.Axis(tickCount=9 if wide else 4, labelExpr=_CLOCK, labelFlush=True),
    )
    names = [one for one in _SERIES if band or one != _BAND]
    kind = alt.Color(
        "kind:N",
        scale=alt.Scale(domain=names, range=[_SERIES[one] for one in names]),
        legend=alt.Legend(symbolType="square", columns=3 if wide else 1),
    )

    def line(rows: list[dict[str, Any]], name: str, ticks: int = 5) -> altair.Chart:
        y = alt.Y("value:Q", axis=_money_axis(currency, title=None, tickCount=ticks))
        return alt.Chart(_rows([one | {"kind": name} for one in rows], currency)).encode(x=x, y=y)

    shade, label = _outage(content, x, width)
    above = alt.layer(
        *shade,
        line(band, _BAND).mark_area(opacity=0.55).encode(y2="high:Q", color=kind),
        line(middle, _EXPECTED).mark_line(strokeDash=[6, 4]).encode(color=kind),
        line(actual, _ACTUAL).mark_line(interpolate="step-after").encode(color=kind),
        label,
    )
    below = alt.layer(
        *shade,
        alt.Chart(alt.Data(values=[{}])).mark_rule(color=COLOURS["soft"]).encode(y=alt.datum(0)),
        line(short, "", ticks=3).mark_line(color=COLOURS["loss"]),
    )
    inner = width - _MARGIN
    return alt.vconcat(
        above.properties(width=inner, height=250 if wide else 210),
        below.properties(width=inner, height=110, title="Shortfall so far (expected − actual)"),
    )


def _outage(content: ReviewContent, x: Any, width: int) -> tuple[list[altair.Chart], altair.Chart]:
    """The outage as a shaded span with its edges, and its label: inside, or where there is room beside it."""
    import altair as alt

    first, last = content.hours[0].at, content.hours[-1].at + timedelta(hours=1)
    start = max(content.outage.impact_started_at or last, first)
    end = min(content.outage.restored_at or last, last)
    if start >= end:
        start = end = last
    room = (end - start) / (last - first) * (width - _MARGIN)
    align: Literal["left", "right"] = "left"
    at = start if room > _LABEL_ROOM else end
    if at is end and (last - end) / (last - first) < 0.25:
        align, at = "right", start
    inset = 5 if align == "left" else -5

    def chart(rows: list[dict[str, Any]]) -> altair.Chart:
        return alt.Chart(_rows(rows if end > start else [], "")).encode(x=x)

    shade = [
        chart([{"at": start, "end": end.isoformat()}])
        .mark_rect(color=COLOURS["loss"], opacity=0.1)
        .encode(x2="end:T"),
        chart([{"at": start}]).mark_rule(color=COLOURS["loss"], strokeWidth=1.5),
        chart([{"at": end}]).mark_rule(color=COLOURS["loss"], strokeWidth=1.5, strokeDash=[3, 3]),
    ]
    label = chart([{"at": at}]).mark_text(
        text="provider down",
        align=align,
        dx=inset,
        baseline="top",
        fontSize=12.5,
        fontWeight=600,
        color=COLOURS["loss"],
    )
    return shade, label.encode(y=alt.value(4))


def _loss(rows: list[Estimate], currency: str, width: int, widest: str) -> altair.TopLevelMixin:
    import altair as alt

    levels = {0.95: widest, 0.8: "80 %", 0.5: "50 %"}
    names = {one.statistic: f"{_NAMES[one.statistic]}|{say_money(one.loss_minor, currency)}" for one in rows}
    bars = [
        {"name": names[one.statistic], "level": levels[level], "value": b.low_minor, "high": b.high_minor}
        for level in levels
        for one in rows
        if (b := one.bounds(level))
    ]
    points = [{"name": names[one.statistic], "value": one.loss_minor} for one in rows]
    axis = _money_axis(currency, title=None, tickCount=6 if width >= WIDE else 3, grid=True)
    x = alt.X("value:Q", axis=axis, scale=alt.Scale(zero=True, nice=True))
    y = alt.Y(
        "name:N",
        title=None,
        sort=list(names.values()),
        axis=alt.Axis(labelExpr="split(datum.value, '|')", labelColor=COLOURS["ink"], labelLimit=0),
    )
    shades = [COLOURS["rare"], COLOURS["usual"], COLOURS["likely"]]
    level = alt.Color(
        "level:N",
        scale=alt.Scale(domain=list(levels.values()), range=shades),
        legend=alt.Legend(symbolType="square", columns=3),
    )
    layers: altair.LayerChart = (
        alt.layer(
            alt.Chart(_rows(bars, currency))
            .mark_bar(height=15, cornerRadius=3)
            .encode(x=x, x2="high:Q", y=y, color=level),
            alt.Chart(alt.Data(values=[{}])).mark_rule(color=COLOURS["soft"]).encode(x=alt.datum(0)),
            alt.Chart(_rows(points, currency))
            .mark_point(
                filled=True,
                size=110,
                stroke=COLOURS["ink"],
                strokeWidth=2.5,
                fill=COLOURS["paper"],
                opacity=1,
            )
            .encode(x=x, y=y),
        )
        .resolve_scale(color="independent")
        .properties(width=width - 2 * _MARGIN, height=50 * len(rows))
    )
    return layers


def _placebos(errors: list[float], loss: int, currency: str, width: int) -> altair.TopLevelMixin:
    import altair as alt

    low, high = min(errors), max(errors)
    bins = 24 if width >= WIDE else 14
    size = max((high - low) / bins, 1.0)
    counted = Counter(min(int((one - low) / size), bins - 1) for one in errors)
    columns = [
        {"value": low + at * size, "high": low + (at + 1) * size, "windows": count}
        for at, count in sorted(counted.items())
    ]
    axis = _money_axis(currency, title="Loss that the estimate finds", tickCount=8 if width >= WIDE else 4)
    x = alt.X("value:Q", axis=axis, scale=alt.Scale(nice=True, zero=True))
    y = alt.Y("windows:Q", title="Past windows", axis=alt.Axis(tickCount=4, tickMinStep=1))
    here = alt.Chart(_rows([{"value": loss}], currency)).encode(x=x)
    beyond = loss > (low + high) / 2
    label = here.mark_text(
        text="this outage",
        align="right" if beyond else "left",
        dx=-6 if beyond else 6,
        baseline="top",
        fontSize=12.5,
        fontWeight=600,
        color=COLOURS["loss"],
    )
    layers = alt.layer(
        alt.Chart(_rows(columns, currency))
        .mark_bar(color=COLOURS["usual"], stroke=COLOURS["paper"], strokeWidth=0.5)
        .encode(x=x, x2="high:Q", y=y),
        here.mark_rule(color=COLOURS["loss"], strokeWidth=2),
        label.encode(y=alt.value(2)),
    )
    return layers.properties(width=width - _MARGIN - 30, height=150)


def _rows(rows: list[dict[str, Any]], currency: str) -> altair.Data:
    """Rows as Vega takes them: times as text, `value` and `high` in major units of the currency."""
    import altair as alt

    def plain(name: str, value: Any) -> Any:
        if isinstance(value, datetime):
            return value.isoformat()
        return float(Money(round(value), currency).amount) if name in ("value", "high") else value

    return alt.Data(values=[{name: plain(name, value) for name, value in one.items()} for one in rows])


def _money_axis(currency: str, **options: Any) -> altair.Axis:
    """An axis of amounts: £800, £2.5k, £1M."""
    import altair as alt

    symbol = json.dumps(Money(0, currency).whole()[:-1])
    form = "abs(datum.value) >= 1000 ? '~s' : '~g'"
    label = f"(datum.value < 0 ? '−' : '') + {symbol} + format(abs(datum.value), {form})"
    return alt.Axis(labelExpr=label, **options)
