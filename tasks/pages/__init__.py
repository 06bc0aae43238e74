"""How a page of ours looks: what it consists of, drawings, and one HTML file that needs nothing else."""

from tasks.pages.blocks import (
    Block,
    Bullets,
    Cell,
    Chart,
    Code,
    Document,
    Heading,
    KeyFigure,
    Paragraph,
    Section,
    Table,
)
from tasks.pages.drawing import NARROW, WIDE, Drawing, Scale, open_svg, round_ticks
from tasks.pages.rendering import render_html

__all__ = [
    "NARROW",
    "WIDE",
    "Block",
    "Bullets",
    "Cell",
    "Chart",
    "Code",
    "Document",
    "Drawing",
    "Heading",
    "KeyFigure",
    "Paragraph",
    "Scale",
    "Section",
    "Table",
    "open_svg",
    "render_html",
    "round_ticks",
]
