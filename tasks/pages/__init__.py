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
from tasks.pages.drawing import COLOURS, NARROW, WIDE, Drawing, draw, png_of
from tasks.pages.keeping import keep_page, kept_page
from tasks.pages.rendering import render_html

__all__ = [
    "COLOURS",
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
    "Section",
    "Table",
    "draw",
    "keep_page",
    "kept_page",
    "png_of",
    "render_html",
]
