"""How a table went over snapshots, as three small drawings: its rows, what failed in it, how long its checks took."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from tasks.pages import COLOURS, WIDE, Drawing, draw

if TYPE_CHECKING:
    import altair

_HEIGHT, _MARGIN, _GAP = 92, 68, 26


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
    return draw(lambda width: _panels(points, width), f"{table} over snapshots", _describe(table, points))


def _panels(points: Sequence[Point], width: int) -> altair.TopLevelMixin:
    import altair as alt

    panels: list[tuple[str, str, Callable[[Point], float | None]]] = [
        ("Rows", "ink", lambda one: one.rows),
        ("Failed, summed over the rules", "loss", lambda one: one.failed),
        ("Seconds", "expected", lambda one: one.seconds),
    ]
    abreast = 3 if width >= WIDE else 1
    parts = [
        _panel(title, COLOURS[colour], [value(one) for one in points], points).properties(
            width=width // abreast - _MARGIN, height=_HEIGHT, title=title
        )
        for title, colour, value in panels
    ]
    return alt.hconcat(*parts, spacing=_GAP) if abreast == 3 else alt.vconcat(*parts)


def _panel(
    title: str, colour: str, values: Sequence[float | None], points: Sequence[Point]
) -> altair.LayerChart | altair.FacetChart:
    """One figure over the snapshots in their order; a gap is one that is not known."""
    import altair as alt

    last = len(points) - 1
    ends = [f"{points[at].at:%Y-%m-%d}" for at in (0, last)]
    x = alt.X(
        "at:Q",
        title=None,
        scale=alt.Scale(domain=[0, max(last, 1)], nice=False),
        axis=alt.Axis(
            values=sorted({0, last}),
            labelExpr=f"datum.value == 0 ? {json.dumps(ends[0])} : {json.dumps(ends[1])}",
            labelFlush=True,
            labelBound=False,
            labelOverlap=False,
        ),
    )
    least = 0.001 if title == "Seconds" else 1
    top = max([one for one in values if one is not None] + [least])
    y = alt.Y(
        "value:Q",
        title=None,
        scale=alt.Scale(domain=[0, top], nice=3),
        axis=alt.Axis(tickCount=3, format="~s" if top >= 1000 else "~g"),
    )
    rows = [{"at": at, "value": value} for at, value in enumerate(values)]
    known = [one for one in rows[-1:] if one["value"] is not None]
    return alt.layer(
        alt.Chart(alt.Data(values=rows)).mark_line(color=colour, strokeWidth=2).encode(x=x, y=y),
        alt.Chart(alt.Data(values=known))
        .mark_point(filled=True, size=55, opacity=1, fill=COLOURS["paper"], stroke=colour, strokeWidth=2)
        .encode(x=x, y=y),
    )


def _describe(table: str, points: Sequence[Point]) -> str:
    first, last = points[0], points[-1]
    rows = "unknown" if last.rows is None else f"{last.rows:,}"
    return (
        f"{table} over {len(points)} snapshots, {first.snapshot} to {last.snapshot}: {rows} rows, "
        f"{last.failed:,} failed and {last.broken} broken rules in the last, checked in {last.seconds:.2f} s."
    )
