"""What a page consists of: sections of paragraphs, tables, lists and charts, in the order a reader needs them."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.pages.drawing import Drawing


@dataclass(frozen=True)
class Cell:
    """One cell: its text, a smaller note, a tone (`good`, `bad`, `quiet`, `part` or none), and where it leads."""

    text: str
    note: str = ""
    tone: str = ""
    href: str = ""


@dataclass(frozen=True)
class Heading:
    """One column of a table; numbers are set flush right."""

    title: str
    numeric: bool = False


@dataclass(frozen=True)
class Table:
    """A table; its first column names the row."""

    headings: tuple[Heading, ...]
    rows: tuple[tuple[Cell, ...], ...]
    title: str = ""


@dataclass(frozen=True)
class Paragraph:
    """A paragraph, with a word or two that lead it, and the page it leads to."""

    text: str
    lead: str = ""
    href: str = ""


@dataclass(frozen=True)
class Bullets:
    """A list under its own small title."""

    title: str
    items: tuple[str, ...]


@dataclass(frozen=True)
class Chart:
    """A drawing and its caption."""

    drawing: Drawing
    caption: str


@dataclass(frozen=True)
class Code:
    """A query, with its name."""

    name: str
    text: str


Block = Table | Paragraph | Bullets | Chart | Code


@dataclass(frozen=True)
class Section:
    """One numbered part of the page."""

    id: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class KeyFigure:
    """One figure of the bottom line panel."""

    label: str
    value: str
    note: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Document:
    """A whole page, ready to be rendered.

    Attributes:
        title: its heading.
        kicker: the small line above it.
        standing: how things stand, in one sentence.
        good: whether that is what one hopes for.
        notice: what a reader must know first; may be empty.
        warning: why a figure deserves less trust than it claims; may be empty.
        facts: names and values below the heading.
        lines: the bottom line: a word that leads, and what it says.
        figures: the few figures that matter.
        sections: the rest.
    """

    title: str
    kicker: str
    standing: str
    good: bool
    notice: str
    facts: tuple[tuple[str, str], ...]
    lines: tuple[tuple[str, str], ...]
    figures: tuple[KeyFigure, ...]
    sections: tuple[Section, ...]
    warning: str = ""
