"""Charts as self-contained SVG, made with Altair and vl-convert in the one theme of all pages.

Each is drawn for two widths, so that its text stays readable on a page and on a phone. A chart names colours of
`COLOURS`; the drawing holds them as CSS variables with a dark variant inside, so that it follows the reader's scheme
in a page and as an image in Markdown, and prints in the light one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import altair

WIDE, NARROW = 960, 430
"""Widths that the charts are drawn for, in pixels."""

_FONT = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif"
_DARK = {
    "ink": "#e6e9ee",
    "soft": "#a3adbb",
    "rule": "#323a46",
    "expected": "#6cc0dc",
    "likely": "#5b9fb7",
    "usual": "#3d6676",
    "rare": "#2a434f",
    "loss": "#e08a5f",
    "paper": "#171c23",
}
COLOURS = {
    "ink": "#1d2430",
    "soft": "#566070",
    "rule": "#dfe3e8",
    "expected": "#1f6f8b",
    "likely": "#4c8ca2",
    "usual": "#a5c5d1",
    "rare": "#d2e2e8",
    "loss": "#b4532a",
    "paper": "#fffffe",
}
"""What a chart may be coloured with, by name, as it looks on white; each is one of a kind, so that it can be told."""

_CONFIG: dict[str, Any] = {
    "aria": False,
    "background": "transparent",
    "font": _FONT,
    "padding": {"left": 10, "top": 4, "right": 14, "bottom": 2},
    "view": {"stroke": None},
    "concat": {"spacing": 18},
    "axis": {
        "labelColor": COLOURS["soft"],
        "labelFontSize": 12.5,
        "gridColor": COLOURS["rule"],
        "domain": False,
        "ticks": False,
        "labelPadding": 7,
        "titleColor": COLOURS["ink"],
        "titleFontSize": 12.5,
    },
    "axisX": {"grid": False, "ticks": True, "tickColor": COLOURS["soft"], "tickSize": 4, "labelPadding": 4},
    "title": {"anchor": "start", "color": COLOURS["ink"], "fontSize": 12.5, "fontWeight": 600, "offset": 8},
    "legend": {
        "orient": "top",
        "title": None,
        "labelColor": COLOURS["soft"],
        "labelFontSize": 12.5,
        "labelLimit": 0,
        "symbolSize": 120,
        "symbolStrokeWidth": 2,
        "columnPadding": 34,
        "symbolOpacity": 1,
        "offset": 12,
    },
}
_VARIABLE = re.compile(r"var\(--mc-\w+,(#\w{6})\)")
_NAMED = {colour: f"var(--mc-{name},{colour})" for name, colour in COLOURS.items()}
_OURS = re.compile("|".join(_NAMED))
_ROLES = re.compile(r' (?:role|aria-[a-z]+)="[^"]*"')


def _variables(colours: dict[str, str]) -> str:
    return ";".join(f"--mc-{name}:{colour}" for name, colour in colours.items())


_STYLE = (
    f".mc{{{_variables(COLOURS)};font-variant-numeric:tabular-nums}}"
    f"@media (prefers-color-scheme:dark){{.mc{{{_variables(_DARK)}}}}}"
    f"@media print{{.mc{{{_variables(COLOURS)}}}}}"
)


@dataclass(frozen=True)
class Drawing:
    """One chart in both widths, its title, and what it shows in words for who cannot see it."""

    wide: str
    narrow: str
    title: str
    alt: str


def draw(build: Callable[[int], altair.TopLevelMixin], title: str, alt: str) -> Drawing:
    """Draw a chart in both widths.

    Args:
        build: makes the chart for a width in pixels; colours are those of `COLOURS`, texts are escaped here.
        title: what it is, in a few words.
        alt: what it shows, in words.
    """
    wide, narrow = (
        _svg(json.dumps(build(width).to_dict(validate=False)), title, alt) for width in (WIDE, NARROW)
    )
    return Drawing(wide, narrow, title, alt)


def png_of(svg: str) -> bytes:
    """Return a drawing as a picture on white, twice as fine as the screen's pixels, for who takes no SVG."""
    import vl_convert

    plain = _VARIABLE.sub(r"\1", svg.replace(f"<style>{_STYLE}</style>", ""))
    return bytes(vl_convert.svg_to_png(plain, scale=2))


@lru_cache(maxsize=64)
def _svg(spec: str, title: str, alt: str) -> str:
    import vl_convert

    drawn = str(vl_convert.vegalite_to_svg(json.loads(spec) | {"config": _CONFIG}))
    head, body = drawn.split(">", 1)
    size = re.search(r'width="(\S+)" height="(\S+)"', head)
    assert size is not None
    body = _OURS.sub(lambda one: _NAMED[one[0]], _ROLES.sub("", body))
    # Several drawings share one page: an id of one must not name a part of another.
    name = "mc" + hashlib.sha256(drawn.encode()).hexdigest()[:10]
    body = re.sub(r'(id="|url\(#)(?=\w)', rf"\1{name}-", body)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="mc" role="img" aria-labelledby="{name}-t {name}-d" '
        f'viewBox="0 0 {size[1]} {size[2]}" width="{size[1]}" height="{size[2]}">'
        f'<title id="{name}-t">{escape(title)}</title><desc id="{name}-d">{escape(alt)}</desc>'
        f"<style>{_STYLE}</style>{body}"
    )
