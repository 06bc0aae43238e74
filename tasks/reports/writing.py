"""One version of a report on disk: folder, tables, HTML, Markdown, and its rows in the dataset of all incidents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tasks.reports.content import ReviewContent
from tasks.reports.errors import ReportError


@dataclass(frozen=True)
class WrittenReport:
    """Where one version of a report lies.

    Attributes:
        version: 1 for the first of an incident.
        folder: `<reports>/<incident>/v<NN>`.
        tables: Parquet file per table name.
        dataset: Parquet file per table of the dataset across incidents.
    """

    version: int
    folder: Path
    html: Path
    markdown: Path
    tables: dict[str, Path]
    dataset: dict[str, Path]


def write_report(content: ReviewContent, folder: Path, dataset_folder: Path | None = None) -> WrittenReport:
    """Write the next version of an incident's report; no version is ever overwritten.

    Args:
        content: what it shows. E-mail addresses anywhere in it are masked.
        folder: the folder of all reports (`plan.reports`).
        dataset_folder: the dataset across incidents; None: `<folder>/dataset`.

    Raises:
        ReportError: the content contradicts itself, or the folder cannot be written.
    """
    raise ReportError("Reports are not written yet")
