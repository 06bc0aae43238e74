"""A page as one HTML file that needs nothing else: no script, no font, no picture, no request."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.pages.blocks import Document

if TYPE_CHECKING:
    from markupsafe import Markup

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_TEMPLATES = Path(__file__).parent / "templates"


def render_html(document: Document) -> str:
    """Render a page; every text is escaped, only our own drawings and style sheet are not."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["dates"] = _whole_dates
    environment.filters["drawing"] = Markup  # who draws escapes every text
    environment.tests["of_kind"] = lambda block, name: type(block).__name__ == name
    style = Markup((_TEMPLATES / "page.css").read_text(encoding="utf-8"))  # noqa: S704  (our own file)
    return environment.get_template("page.html.j2").render(document=document, style=style)


def _whole_dates(text: str) -> Markup:
    """Escape a text and keep its dates from breaking over two lines at a hyphen."""
    from markupsafe import Markup, escape

    dated = _DATE.sub(lambda one: f'<span class="date">{one.group()}</span>', str(escape(text)))
    return Markup(dated)  # noqa: S704  (escaped above; a date holds digits and hyphens only)
