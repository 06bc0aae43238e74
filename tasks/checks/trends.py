"""How a table went over snapshots, as three small drawings: its rows, what failed in it, how long its checks took."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape

from tasks.pages import NARROW, WIDE, Drawing, Scale, open_svg, round_ticks

_HEIGHT, _LEFT, _GAP = 92, 52, 26


@dataclass(frozen=True)
class Point:
    """One table in one snapshot.

    Attributes:
        at: the moment that the snapshot shows.
        rows: its rows; None if they could not be counted.
        failed: rows that broke a rule, summed over the rules.
        broken: rules that could not be asked.
        seconds: how long its checks took.
    """

    snapshot: str
    at: datetime
    rows: int | None
    failed: int
    broken: int
    seconds: float


def draw_trend(table: str, points: Sequence[Point]) -> Drawing:
    """Draw how a table went; `points` are in the order of time."""
    alt = _describe(table, points)
    return Drawing(_draw(points, WIDE, alt), _draw(points, NARROW, alt), alt)


def _draw(points: Sequence[Point], width: int, alt: str) -> str:
    panels: list[tuple[str, str, Callable[[Point], float | None]]] = [
        ("Rows", "actual", lambda one: one.rows),
        ("Failed, summed over the rules", "cum", lambda one: one.failed),
        ("Seconds", "expected", lambda one: one.seconds),
    ]
    abreast = 3 if width >= WIDE else 1
    room = (width - _GAP * (abreast - 1)) / abreast
    tall = _HEIGHT + 60
    out = [open_svg(width, tall * (3 // abreast), alt)]
    for number, (title, kind, value) in enumerate(panels):
        left = (number % abreast) * (room + _GAP)
        top = (number // abreast) * tall
        out += _panel(title, kind, points, value, left + _LEFT, left + room, top + 30)
    return "".join(out) + "</svg>"


def _panel(
    title: str,
    kind: str,
    points: Sequence[Point],
    value: Callable[[Point], float | None],
    left: float,
    right: float,
    top: float,
) -> list[str]:
    values = [value(one) for one in points]
    known = [one for one in values if one is not None]
    ticks = round_ticks(0, max([*known, 1 if kind != "expected" else 0.001]), 2)
    y = Scale(0, ticks[-1], top + _HEIGHT, top)
    x = Scale(0, max(len(points) - 1, 1), left, right - 6)
    out = [f'<text class="t" x="{left - _LEFT:.0f}" y="{top - 14:.0f}">{title}</text>']
    for tick in ticks:
        out.append(
            f'<line class="rule" x1="{left:.0f}" x2="{right:.0f}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
            f'<text x="{left - 8:.0f}" y="{y(tick) + 4:.1f}" text-anchor="end">{escape(_short(tick))}</text>'
        )
    for run in _runs(values):
        line = " ".join(f"{x(at):.1f},{y(amount):.1f}" for at, amount in run)
        out.append(f'<polyline class="{kind}" points="{line}"/>')
    if values and values[-1] is not None:
        out.append(f'<circle class="dot" cx="{x(len(values) - 1):.1f}" cy="{y(values[-1]):.1f}" r="4"/>')
    for at, side in ((0, "start"), (len(points) - 1, "end")):
        if at == 0 or len(points) > 1:
            where = left if at == 0 else right
            out.append(
                f'<text x="{where:.0f}" y="{top + _HEIGHT + 18:.0f}" text-anchor="{side}">'
                f"{points[at].at:%Y-%m-%d %H:%M}</text>"
            )
    return out


def _runs(values: Sequence[float | None]) -> list[list[tuple[int, float]]]:
    """Return the stretches without a gap."""
    runs: list[list[tuple[int, float]]] = [[]]
    for at, value in enumerate(values):
        if value is None:
            runs.append([])
        else:
            runs[-1].append((at, value))
    return [one for one in runs if one]


def _short(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:.3g}"


def _describe(table: str, points: Sequence[Point]) -> str:
    first, last = points[0], points[-1]
    rows = "unknown" if last.rows is None else f"{last.rows:,}"
    return (
        f"{table} over {len(points)} snapshots, {first.snapshot} to {last.snapshot}: {rows} rows, "
        f"{last.failed:,} failed and {last.broken} broken rules in the last, checked in {last.seconds:.2f} s."
    )
