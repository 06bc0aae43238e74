"""The two charts of a report as self-contained SVG: revenue against expectation, and the loss with its intervals.

Each is drawn for one width in pixels, so that its text stays readable: a wide one for a page, a narrow one for a phone.
Colours are CSS variables with a dark variant inside the SVG, so that the same drawing works in the page and as an
image in Markdown.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from html import escape

from tasks.core import Money
from tasks.pages import NARROW, WIDE, Drawing, Scale, open_svg, round_ticks
from tasks.reports.content import Estimate, Loss, ReviewContent
from tasks.reports.words import say_money


def draw_revenue(content: ReviewContent) -> Drawing | None:
    """Draw hourly revenue against expectation, and below it the shortfall so far; None without a series."""
    if len(content.hours) < 2:
        return None
    alt = _describe(content)
    return Drawing(_revenue(content, WIDE, alt), _revenue(content, NARROW, alt), alt)


def draw_loss(loss: Loss, currency: str) -> Drawing:
    """Draw gross, deferred and net with their 50, 80 and 95 % intervals on one axis."""
    parts = [
        f"{one.statistic} {say_money(one.loss_minor, currency)}"
        for one in (loss.gross, loss.deferred, loss.net)
        if one
    ]
    alt = "Loss with its intervals: " + ", ".join(parts) + "."
    return Drawing(_loss(loss, currency, WIDE, alt), _loss(loss, currency, NARROW, alt), alt)


def _revenue(content: ReviewContent, width: int, alt: str) -> str:
    hours, currency = content.hours, content.header.currency
    wide = width >= WIDE
    left, right, top = (66, 20, 44) if wide else (50, 10, 62)
    upper, gap, lower = (250, 46, 110) if wide else (210, 44, 100)
    height = top + upper + gap + lower + 34
    first, last = hours[0].at, hours[-1].at + timedelta(hours=1)
    x = Scale(first.timestamp(), last.timestamp(), left, width - right)
    peak = max(max(one.actual_minor, one.expected_minor, one.high_minor or 0.0) for one in hours)
    ticks = round_ticks(0, peak, 5)
    y = Scale(0, max(peak, ticks[-1]), top + upper, top)
    out = [open_svg(width, height, alt)]
    out += _outage(content, x, top, top + upper + gap + lower, wide)
    out += _grid(ticks, y, left, width - right, currency)
    middle = [x((one.at + timedelta(minutes=30)).timestamp()) for one in hours]
    banded = [
        (at, one.low_minor, one.high_minor)
        for at, one in zip(middle, hours, strict=True)
        if one.low_minor is not None and one.high_minor is not None
    ]
    if banded:
        up = [f"{at:.1f},{y(high):.1f}" for at, _, high in banded]
        down = [f"{at:.1f},{y(max(low, 0)):.1f}" for at, low, _ in reversed(banded)]
        out.append(f'<polygon class="band" points="{" ".join(up + down)}"/>')
    expected = " ".join(
        f"{at:.1f},{y(one.expected_minor):.1f}" for at, one in zip(middle, hours, strict=True)
    )
    out.append(f'<polyline class="expected" points="{expected}"/>')
    steps = []
    for one in hours:
        here, there = x(one.at.timestamp()), x((one.at + timedelta(hours=1)).timestamp())
        steps += [f"{here:.1f},{y(one.actual_minor):.1f}", f"{there:.1f},{y(one.actual_minor):.1f}"]
    out.append(f'<polyline class="actual" points="{" ".join(steps)}"/>')
    out += _legend(left, 18, wide, bool(banded))
    out += _shortfall(content, x, top + upper + gap, lower, left, width - right)
    out += _hours_axis(first, last, x, top + upper + gap + lower, 8 if wide else 4)
    return "".join(out) + "</svg>"


def _shortfall(
    content: ReviewContent, x: Scale, top: float, height: float, left: float, right: float
) -> list[str]:
    """The running sum of expected minus actual."""
    currency = content.header.currency
    total, path = 0.0, [(content.hours[0].at.timestamp(), 0.0)]
    for one in content.hours:
        total += one.expected_minor - one.actual_minor
        path.append(((one.at + timedelta(hours=1)).timestamp(), total))
    values = [value for _, value in path] + [0.0]
    ticks = round_ticks(min(values), max(values), 3)
    y = Scale(min(ticks[0], *values), max(ticks[-1], *values), top + height, top)
    out = _grid(ticks, y, left, right, currency)
    points = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in path)
    out.append(f'<line class="zero" x1="{left}" x2="{right}" y1="{y(0):.1f}" y2="{y(0):.1f}"/>')
    out.append(f'<polyline class="cum" points="{points}"/>')
    out.append(f'<text class="t" x="{left}" y="{top - 12:.1f}">Shortfall so far (expected − actual)</text>')
    return out


def _outage(content: ReviewContent, x: Scale, top: float, bottom: float, wide: bool) -> list[str]:
    start, end = content.outage.impact_started_at, content.outage.restored_at
    if start is None:
        return []
    begin = max(x(start.timestamp()), x.start)
    finish = min(x(end.timestamp()), x.end) if end else x.end
    if finish <= begin:
        return []
    out = [
        f'<rect class="outage" x="{begin:.1f}" y="{top}" width="{finish - begin:.1f}" height="{bottom - top:.1f}"/>',
        f'<line class="edge" x1="{begin:.1f}" x2="{begin:.1f}" y1="{top - 6}" y2="{bottom:.1f}"/>',
    ]
    label = "provider down" if wide else "down"
    room = 7.5 * len(label) + 10
    if finish - begin >= room:
        at, side = begin + 5, "start"
    elif finish + room <= x.end:
        at, side = finish + 6, "start"
    else:
        at, side = begin - 6, "end"
    out.append(f'<text class="o" x="{at:.1f}" y="{top + 10:.1f}" text-anchor="{side}">{label}</text>')
    if end:
        out.append(
            f'<line class="edge" x1="{finish:.1f}" x2="{finish:.1f}" y1="{top - 6}" y2="{bottom:.1f}" '
            'stroke-dasharray="3 3"/>'
        )
    return out


def _legend(left: float, y: float, wide: bool, banded: bool) -> list[str]:
    items = [("actual", "Actual, by the hour"), ("expected", "Expected without the outage")]
    if banded:
        items.append(("band", "95 % band of one hour"))
    out, at, row = [], float(left if wide else 8), y
    for kind, text in items:
        length = 34 + 7.0 * len(text)
        if not wide and at + length > NARROW:
            at, row = 8.0, row + 20
        if kind == "band":
            out.append(f'<rect class="band" x="{at:.0f}" y="{row - 10:.0f}" width="24" height="12"/>')
        else:
            out.append(
                f'<line class="{kind}" x1="{at:.0f}" x2="{at + 24:.0f}" y1="{row - 4:.0f}" y2="{row - 4:.0f}"/>'
            )
        out.append(f'<text x="{at + 30:.0f}" y="{row:.0f}">{text}</text>')
        at += length + 14
    return out


def _grid(ticks: list[float], y: Scale, left: float, right: float, currency: str) -> list[str]:
    out = []
    for tick in ticks:
        at = y(tick)
        out.append(f'<line class="rule" x1="{left}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        out.append(
            f'<text x="{left - 8}" y="{at + 4:.1f}" text-anchor="end">{escape(_short(tick, currency))}</text>'
        )
    return out


def _hours_axis(first: datetime, last: datetime, x: Scale, y: float, most: int) -> list[str]:
    span = (last - first).total_seconds() / 3600
    step = next((one for one in (1, 2, 3, 6, 12, 24, 48, 96, 168) if span / one <= most), 336)
    at = first.replace(minute=0, second=0, microsecond=0)
    at = at.replace(hour=at.hour - at.hour % step if step < 24 else 0)
    out, day = [], None
    while at <= last:
        if at >= first:
            place = x(at.timestamp())
            text = f"{at:%H:%M}" if step < 24 else f"{at:%a} {at.day}"
            out.append(f'<line class="zero" x1="{place:.1f}" x2="{place:.1f}" y1="{y}" y2="{y + 4}"/>')
            side = "end" if place > x.end - 14 else "middle"
            out.append(f'<text x="{place:.1f}" y="{y + 17}" text-anchor="{side}">{text}</text>')
            if step < 24 and at.date() != day and place < x.end - 30:
                out.append(
                    f'<text class="t" x="{place:.1f}" y="{y + 32}" text-anchor="middle">{at.day} {at:%b}</text>'
                )
                day = at.date()
        at += timedelta(hours=step)
    return out


def _loss(loss: Loss, currency: str, width: int, alt: str) -> str:
    wide = width >= WIDE
    rows = [one for one in (loss.gross, loss.deferred, loss.net) if one is not None]
    left, right, row, top = (210, 30, 46, 34) if wide else (14, 14, 62, 54)
    bottom = top + row * len(rows)
    values = [0.0] + [float(one.loss_minor) for one in rows]
    values += [float(v) for one in rows for b in one.intervals for v in (b.low_minor, b.high_minor)]
    ticks = round_ticks(min(values), max(values), 5 if wide else 3)
    x = Scale(min(ticks[0], *values), max(ticks[-1], *values), left, width - right)
    out = [open_svg(width, bottom + 34, alt)]
    for tick in ticks:
        kind = "zero" if tick == 0 else "rule"
        side = "end" if x(tick) > width - 20 else "start" if x(tick) < 20 else "middle"
        out.append(
            f'<line class="{kind}" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{top - 6}" y2="{bottom}"/>'
            f'<text x="{x(tick):.1f}" y="{bottom + 18}" text-anchor="{side}">{escape(_short(tick, currency))}</text>'
        )
    key = float(left if wide else 8)
    levels = (("i95", "95 %" if not loss.net.low_confidence else "widest"), ("i80", "80 %"), ("i50", "50 %"))
    for kind, text in levels:
        out.append(f'<rect class="{kind}" x="{key:.0f}" y="8" width="22" height="12" rx="2"/>')
        out.append(f'<text x="{key + 28:.0f}" y="19">{text}</text>')
        key += 82
    out.append(f'<circle class="dot" cx="{key + 8:.0f}" cy="14" r="5"/>')
    out.append(f'<text x="{key + 20:.0f}" y="19">best estimate</text>')
    for index, one in enumerate(rows):
        out += _strip(one, currency, x, top + row * index, row, wide)
    return "".join(out) + "</svg>"


def _strip(one: Estimate, currency: str, x: Scale, top: float, row: float, wide: bool) -> list[str]:
    names = {"gross": "Gross loss", "deferred": "Came later", "net": "Net loss"}
    middle = top + row / 2 if wide else top + row - 18
    amount = escape(say_money(one.loss_minor, currency))
    if wide:
        out = [
            f'<text class="t" x="0" y="{middle + 4:.1f}">{names[one.statistic]}</text>',
            f'<text x="{x.start - 24:.0f}" y="{middle + 4:.1f}" text-anchor="end">{amount}</text>',
        ]
    else:
        out = [
            f'<text class="t" x="8" y="{top + 16:.1f}">{names[one.statistic]}</text>',
            f'<text x="{x.end:.0f}" y="{top + 16:.1f}" text-anchor="end">{amount}</text>',
        ]
    for level, kind, tall in ((0.95, "i95", 14), (0.8, "i80", 14), (0.5, "i50", 14)):
        bounds = one.bounds(level)
        if bounds is None:
            continue
        low, high = x(bounds.low_minor), x(bounds.high_minor)
        out.append(
            f'<rect class="{kind}" x="{low:.1f}" y="{middle - tall / 2:.1f}" width="{max(high - low, 1):.1f}" '
            f'height="{tall}" rx="3"/>'
        )
    out.append(f'<circle class="dot" cx="{x(one.loss_minor):.1f}" cy="{middle:.1f}" r="5.5"/>')
    return out


def _describe(content: ReviewContent) -> str:
    currency = content.header.currency
    actual = sum(one.actual_minor for one in content.hours)
    expected = sum(one.expected_minor for one in content.hours)
    return (
        f"Revenue by the hour, {len(content.hours)} hours: {say_money(actual, currency)} came in, "
        f"{say_money(expected, currency)} was to be expected without the outage."
    )


def _short(minor: float, currency: str) -> str:
    """A tick's amount: £800, £2.5k, £1M."""
    amount = Money(round(minor), currency).amount
    symbol = Money(0, currency).whole()[:-1]
    sign = "−" if amount < 0 else ""
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if abs(amount) >= size:
            return f"{sign}{symbol}{abs(float(amount)) / size:g}{unit}"
    return f"{sign}{symbol}{abs(float(amount)):g}"
