"""A report as one HTML file that needs nothing else: no script, no font, no picture, no request."""

from __future__ import annotations

from pathlib import Path

from tasks.reports.document import Document

_TEMPLATES = Path(__file__).parent / "templates"


def render_html(document: Document) -> str:
    """Render a report; every text is escaped, only our own drawings and style sheet are not."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["drawing"] = Markup  # charts.py escapes every text
    environment.tests["of_kind"] = lambda block, name: type(block).__name__ == name
    style = Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8"))  # noqa: S704  (our own file)
    return environment.get_template("report.html.j2").render(document=document, style=style)
