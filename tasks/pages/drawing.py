"""Charts as self-contained SVG: each drawn for one width in pixels, so that its text stays readable.

A wide one is for a page, a narrow one for a phone. Colours are CSS variables with a dark variant inside the SVG, so
that the same drawing works in the page and as an image in Markdown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

WIDE, NARROW = 960, 430
"""Widths that the charts are drawn for, in pixels."""

_FONT = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif"
_STYLE = f"""
.mc{{--mc-ink:#1d2430;--mc-soft:#5c6675;--mc-rule:#dfe3e8;--mc-actual:#1d2430;--mc-expected:#1f6f8b;
--mc-band:#1f6f8b;--mc-outage:#b4532a;--mc-loss:#b4532a;--mc-paper:#ffffff;font-family:{_FONT};
font-variant-numeric:tabular-nums}}
@media (prefers-color-scheme:dark){{.mc{{--mc-ink:#e6e9ee;--mc-soft:#9aa5b4;--mc-rule:#323a46;--mc-actual:#f2f4f7;
--mc-expected:#6cc0dc;--mc-band:#6cc0dc;--mc-outage:#e08a5f;--mc-loss:#e08a5f;--mc-paper:#171c23}}}}
@media print{{.mc{{--mc-ink:#1d2430;--mc-soft:#5c6675;--mc-rule:#dfe3e8;--mc-actual:#1d2430;--mc-expected:#1f6f8b;
--mc-band:#1f6f8b;--mc-outage:#b4532a;--mc-loss:#b4532a;--mc-paper:#ffffff}}}}
.mc text{{fill:var(--mc-soft);font-size:12.5px}}.mc .t{{fill:var(--mc-ink);font-weight:600}}
.mc .rule{{stroke:var(--mc-rule);stroke-width:1}}.mc .zero{{stroke:var(--mc-soft);stroke-width:1}}
.mc .band{{fill:var(--mc-band);opacity:.16}}.mc .expected{{stroke:var(--mc-expected);fill:none;stroke-width:2;
stroke-dasharray:6 4}}.mc .actual{{stroke:var(--mc-actual);fill:none;stroke-width:2;stroke-linejoin:round}}
.mc .outage{{fill:var(--mc-outage);opacity:.10}}.mc .edge{{stroke:var(--mc-outage);stroke-width:1.5}}
.mc .o{{fill:var(--mc-outage);font-weight:600}}.mc .cum{{stroke:var(--mc-loss);fill:none;stroke-width:2}}
.mc .i95{{fill:var(--mc-band);opacity:.20}}.mc .i80{{fill:var(--mc-band);opacity:.34}}
.mc .i50{{fill:var(--mc-band);opacity:.62}}.mc .dot{{fill:var(--mc-paper);stroke:var(--mc-actual);stroke-width:2.5}}
"""


@dataclass(frozen=True)
class Drawing:
    """One chart in both widths, and what it shows in words for who cannot see it."""

    wide: str
    narrow: str
    alt: str


class Scale:
    """A linear map from values to pixels."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high, self.start, self.end = low, high if high > low else low + 1, start, end

    def __call__(self, value: float) -> float:
        """Return where `value` lies."""
        part = (value - self.low) / (self.high - self.low)
        return self.start + part * (self.end - self.start)


def open_svg(width: int, height: float, alt: str) -> str:
    """Return the beginning of a drawing, with what it shows in words; `</svg>` ends it."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="mc" role="img" viewBox="0 0 {width} {height:.0f}" '
        f'width="{width}" height="{height:.0f}"><title>{escape(alt)}</title><style>{_STYLE}</style>'
    )


def round_ticks(low: float, high: float, most: int) -> list[float]:
    """Return round steps (1, 2, 5 times a power of ten) from at or below `low` to at or above `high`."""
    span = max(high - low, 1.0)
    rough = span / max(most, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(one * power for one in (1, 2, 5, 10) if one * power >= rough)
    start, end = math.floor(low / step), math.ceil(high / step)
    return [index * step for index in range(start, end + 1)]
