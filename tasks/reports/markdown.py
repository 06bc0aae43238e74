"""A report as Markdown, for a Prefect artifact, a wiki or a terminal: the same words, under 200 KB."""

from __future__ import annotations

import base64
import re

from tasks.core import plural
from tasks.pages import Bullets, Chart, Code, Document, Paragraph, Table

LIMIT_BYTES = 190_000
"""A Prefect Markdown artifact is refused above 200 KB."""

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~#!])")


def render_markdown(document: Document) -> str:
    """Render a report; long tables are cut, with a line that says so, until it fits the limit."""
    for most in (400, 150, 60, 25, 10):
        text = _render(document, most)
        if len(text.encode()) <= LIMIT_BYTES:
            return text
    return text.encode()[:LIMIT_BYTES].decode(errors="ignore")


def _render(document: Document, most_rows: int) -> str:
    out = [
        f"# {escape(document.title)}",
        "",
        f"{escape(document.kicker)}. **{escape(document.standing)}**",
        "",
    ]
    if document.notice:
        out += [f"> {escape(document.notice)}", ""]
    if document.warning:
        out += [f"> **Read with care.** {escape(document.warning)}", ""]
    out += [" · ".join(f"{escape(name)}: {escape(value)}" for name, value in document.facts), ""]
    out += ["## Bottom line", ""]
    out += [f"- **{escape(lead)}.** {escape(text)}" for lead, text in document.lines] + [""]
    out += ["| | | |", "|---|---:|---|"]
    out += [
        f"| {escape(one.label)} | **{escape(one.value)}** | {escape(one.note)} |" for one in document.figures
    ]
    for number, section in enumerate(document.sections, 1):
        out += ["", f"## {number}. {escape(section.title)}", ""]
        for block in section.blocks:
            if isinstance(block, Paragraph):
                out += [(f"**{escape(block.lead)}.** " if block.lead else "") + escape(block.text), ""]
            elif isinstance(block, Bullets):
                out += [f"**{escape(block.title)}**", "", *(f"- {escape(one)}" for one in block.items), ""]
            elif isinstance(block, Code):
                out += [
                    f"**{escape(block.name)}**",
                    "",
                    *(f"    {line}" for line in block.text.splitlines()),
                    "",
                ]
            elif isinstance(block, Chart):
                image = base64.b64encode(block.drawing.wide.encode()).decode()
                out += [
                    f"![{escape(block.drawing.alt)}](data:image/svg+xml;base64,{image})",
                    "",
                    escape(block.caption),
                    "",
                ]
            else:
                out += _table(block, most_rows)
    return "\n".join(out).rstrip() + "\n"


def _table(table: Table, most_rows: int) -> list[str]:
    out = [f"**{escape(table.title)}**", ""] if table.title else []
    out.append("| " + " | ".join(escape(one.title) for one in table.headings) + " |")
    out.append("|" + "|".join("---:" if one.numeric else "---" for one in table.headings) + "|")
    for row in table.rows[:most_rows]:
        cells = [escape(one.text) + (f" ({escape(one.note)})" if one.note else "") for one in row]
        out.append("| " + " | ".join(cells) + " |")
    left = len(table.rows) - most_rows
    return [
        *out,
        "",
        *([f"… and {plural(left, 'more row', 'more rows')}: see the tables.", ""] if left > 0 else []),
    ]


def escape(text: str) -> str:
    """Return a text on one line in which nothing is Markdown."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
