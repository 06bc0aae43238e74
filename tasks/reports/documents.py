"""A report as a Word document: the same sections, words and figures in the same order, charts as pictures.

Needs python-docx, the extra `documents`. Headings are heading styles, so that a reader can jump; the first row of
every table is its header and repeats on each page; every picture says what it shows.
"""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core import UsageError
from tasks.pages import Bullets, Chart, Code, Document, Paragraph, Table, kept_page, png_of
from tasks.reports.errors import ReportError
from tasks.reports.writing import KEPT, versions

if TYPE_CHECKING:
    from docx.document import Document as Word

_INK, _SOFT = (0x1D, 0x24, 0x30), (0x56, 0x60, 0x70)
_TONES = {"good": (0x2C, 0x6E, 0x49), "bad": (0xA8, 0x42, 0x1A), "quiet": _SOFT}
_RULE = "DFE3E8"


def export_docx(reports: Path, incident: str, version: int = 0, to: Path | None = None) -> Path:
    """Write a version of an incident's report as a Word document and return its path.

    Args:
        reports: the folder of all reports.
        incident: its id.
        version: 0 takes the newest.
        to: the file to write; `report.docx` beside the report if None.

    Raises:
        UsageError: python-docx is not installed, there is no such report, or `to` is no `.docx`.
        ReportError: the report was written by a Mailstay that kept no page.
    """
    if importlib.util.find_spec("docx") is None:
        raise UsageError(
            "Word documents need python-docx, which is not installed",
            fix="pip install 'mailstay[documents]'",
        )
    known = versions(reports, incident)
    number = version or max(known, default=0)
    if number not in known:
        raise UsageError(
            f"There is no version {number} of the report of {incident}"
            if known
            else f"There is no report of {incident}",
            where=str(reports),
            fix=f"use one of {', '.join(map(str, known))}" if known else "run review first",
        )
    folder = reports / incident / f"v{number:02d}"
    if not (folder / KEPT).exists():
        raise ReportError(
            "This version was written before pages were kept", where=str(folder), fix="run review again"
        )
    target = to or folder / "report.docx"
    if target.suffix != ".docx":
        raise UsageError("The file to write is no .docx", where=str(target), fix="end its name in .docx")
    written = render_docx(kept_page(folder / KEPT))
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.draft")
    draft.write_bytes(written)
    draft.replace(target)
    return target


def render_docx(document: Document) -> bytes:
    """Return a page as the bytes of a Word document."""
    import docx

    word = docx.Document()
    _prepare(word, document)
    word.add_paragraph(document.kicker, style="Subtitle")
    word.add_heading(document.title, level=0)
    word.add_paragraph().add_run(document.standing).bold = True
    if document.notice:
        word.add_paragraph(document.notice)
    if document.warning:
        _lead(word, "Read with care", document.warning)
    _facts(word, document.facts)
    word.add_heading("Bottom line", level=1)
    for lead, text in document.lines:
        _lead(word, lead, text)
    _grid(
        word,
        ("Figure", "Value", "Remark"),
        (False, True, False),
        [[(one.label, "", ""), (one.value, "", one.tone), (one.note, "", "")] for one in document.figures],
    )
    for number, section in enumerate(document.sections, 1):
        word.add_heading(f"{number}. {section.title}", level=1)
        for block in section.blocks:
            _block(word, block)
    out = io.BytesIO()
    word.save(out)
    return out.getvalue()


def _prepare(word: Word, document: Document) -> None:
    from docx.enum.section import WD_ORIENT
    from docx.shared import Cm, Pt, RGBColor

    core = word.core_properties
    core.title, core.subject = document.title, document.kicker
    core.author = core.last_modified_by = "Mailstay"
    core.category, core.language = "Post-incident report", "en"
    core.comments = document.standing
    core.keywords = ", ".join(value for name, value in document.facts if name in ("Incident", "Provider"))
    page = word.sections[0]
    page.orientation = WD_ORIENT.PORTRAIT
    page.page_width, page.page_height = Cm(21), Cm(29.7)
    page.left_margin = page.right_margin = Cm(2)
    page.top_margin = page.bottom_margin = Cm(1.8)
    for name, size in (
        ("Normal", 10),
        ("Title", 24),
        ("Heading 1", 15),
        ("Heading 2", 11.5),
        ("Subtitle", 10),
    ):
        style: Any = word.styles[name]
        style.font.name, style.font.size = "Calibri", Pt(size)
        style.font.color.rgb = RGBColor(*(_SOFT if name == "Subtitle" else _INK))


def _block(word: Word, block: Table | Paragraph | Bullets | Chart | Code) -> None:
    from docx.shared import Cm, Pt

    if isinstance(block, Paragraph):
        _lead(word, block.lead, block.text)
    elif isinstance(block, Bullets):
        word.add_heading(block.title, level=2)
        for item in block.items:
            word.add_paragraph(item, style="List Bullet")
    elif isinstance(block, Code):
        word.add_heading(block.name, level=2)
        run = word.add_paragraph().add_run(block.text)
        run.font.name, run.font.size = "Consolas", Pt(8)
    elif isinstance(block, Chart):
        picture = word.add_picture(io.BytesIO(png_of(block.drawing.wide)), width=Cm(17))
        about = picture._inline.docPr  # python-docx has no public way to the alternative text
        about.set("title", block.drawing.title)
        about.set("descr", block.drawing.alt)
        word.add_paragraph(block.caption, style="Caption")
    else:
        if block.title:
            word.add_heading(block.title, level=2)
        _grid(
            word,
            tuple(one.title for one in block.headings),
            tuple(one.numeric for one in block.headings),
            [[(cell.text, cell.note, cell.tone) for cell in row] for row in block.rows],
        )


def _lead(word: Word, lead: str, text: str) -> None:
    paragraph = word.add_paragraph()
    if lead:
        paragraph.add_run(f"{lead}. ").bold = True
    paragraph.add_run(text)


def _facts(word: Word, facts: tuple[tuple[str, str], ...]) -> None:
    _grid(
        word, ("Fact", "Value"), (False, False), [[(name, "", ""), (value, "", "")] for name, value in facts]
    )


def _grid(
    word: Word, headings: tuple[str, ...], numeric: tuple[bool, ...], rows: list[list[tuple[str, str, str]]]
) -> None:
    """A table whose first row is its header; a cell is text, note and tone."""
    from docx.enum.text import WD_ALIGN_PARAGRAPH
    from docx.oxml import OxmlElement
    from docx.oxml.ns import qn
    from docx.shared import Pt, RGBColor

    table = word.add_table(rows=0, cols=len(headings))
    table.style = "Table Grid"
    small = Pt(7.5 if len(headings) > 5 else 8.5)
    for number, row in enumerate([[(one, "", "") for one in headings], *rows]):
        cells = table.add_row().cells
        for at, (text, note, tone) in enumerate(row):
            paragraph = cells[at].paragraphs[0]
            paragraph.paragraph_format.space_after = Pt(0)
            if numeric[at]:
                paragraph.alignment = WD_ALIGN_PARAGRAPH.RIGHT
            run = paragraph.add_run(text)
            run.bold, run.font.size = number == 0, small
            if tone in _TONES:
                run.font.color.rgb = RGBColor(*_TONES[tone])
            if note:
                beside = cells[at].add_paragraph().add_run(note)
                beside.font.size, beside.font.color.rgb = Pt(7), RGBColor(*_SOFT)
        # A row that a page cuts is hard to read, and a header that does not repeat leaves columns without a name.
        properties = table.rows[number]._tr.get_or_add_trPr()
        properties.append(OxmlElement("w:cantSplit"))
        if number == 0:
            properties.append(OxmlElement("w:tblHeader"))
    borders = OxmlElement("w:tblBorders")
    for side in ("top", "bottom", "insideH"):
        line = OxmlElement(f"w:{side}")
        for name, value in (("val", "single"), ("sz", "4"), ("color", _RULE)):
            line.set(qn(f"w:{name}"), value)
        borders.append(line)
    for side in ("left", "right", "insideV"):
        line = OxmlElement(f"w:{side}")
        line.set(qn("w:val"), "nil")
        borders.append(line)
    table._tbl.tblPr.append(borders)
    word.add_paragraph().paragraph_format.space_after = Pt(2)
