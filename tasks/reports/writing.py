"""One version of a report on disk: folder, tables, HTML, Markdown, and its rows in the dataset of all incidents."""

from __future__ import annotations

import re
import shutil
import uuid
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from tasks.core import crash_point, create_file, mask_addresses
from tasks.pages import keep_page, render_html
from tasks.reports.content import ChangeRow, ReviewContent
from tasks.reports.document import compose
from tasks.reports.errors import ReportError
from tasks.reports.markdown import render_markdown
from tasks.reports.tables import build_tables, describe_tables
from tasks.reports.updates import updates
from tasks.reports.words import say_money, say_percent

KEPT = "page.json"
"""The page of a version as it was composed: every other form is rendered from it."""

_VERSION = re.compile(r"v(\d{2,})")
_INCIDENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_Any = TypeVar("_Any")


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


def write_report(content: ReviewContent, folder: Path) -> WrittenReport:
    """Write the next version of an incident's report; no version is ever overwritten.

    A version appears whole (a folder is renamed into place) or not at all. Its rows in the dataset follow; should the
    process die before they do, the next version of the incident adds them.

    Args:
        content: what it shows. E-mail addresses anywhere in it are masked.
        folder: the folder of all reports (`plan.reports`); the dataset across incidents is `dataset` in it.

    Raises:
        ReportError: the content contradicts itself, or the incident id is no folder name.
    """
    incident = content.header.incident_id
    if not _INCIDENT.fullmatch(incident):
        raise ReportError("The incident id is no folder name", where="header.incident_id")
    check_content(content)
    content = _masked(content)
    home = folder / incident
    home.mkdir(parents=True, exist_ok=True)
    while True:
        version = max(versions(folder, incident), default=0) + 1
        changed = content
        if version > 1 and not content.changes:
            changed = replace(content, changes=changes_since(home / f"v{version - 1:02d}", content))
        final = home / f"v{version:02d}"
        draft = home / f".draft-{uuid.uuid4().hex}"
        try:
            _write_version(changed, version, draft)
            crash_point("reports.version:written")
            try:
                draft.rename(final)
            except OSError:
                if not final.exists():
                    raise
                continue
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        break
    crash_point("reports.version:published")
    dataset = _fill_dataset(home, incident, folder / "dataset")
    return WrittenReport(
        version=version,
        folder=final,
        html=final / "report.html",
        markdown=final / "report.md",
        tables={one.stem: one for one in sorted((final / "tables").glob("*.parquet"))},
        dataset=dataset[version],
    )


def versions(folder: Path, incident: str) -> list[int]:
    """Return the versions that an incident's report has, oldest first."""
    found = [_VERSION.fullmatch(one.name) for one in (folder / incident).glob("v*")]
    return sorted(int(one.group(1)) for one in found if one)


def first_issued(folder: Path, incident: str) -> datetime | None:
    """Return when the first version of an incident's report was made; None if there is none."""
    import pyarrow.parquet as pq

    first = folder / incident / "v01" / "tables" / "report.parquet"
    issued: datetime | None = (
        pq.ParquetFile(first).read(["issued_at"]).column(0)[0].as_py() if first.exists() else None
    )
    return issued


def check_content(content: ReviewContent) -> None:
    """Refuse figures that contradict each other: a reader who adds up must get the totals.

    Raises:
        ReportError: naming the first contradiction.
    """
    messages = content.messages
    parts = messages.delayed + messages.on_time + messages.suppressed + messages.dropped
    if parts != messages.due:
        raise ReportError(
            f"{messages.due} messages were due, but delayed, on time, suppressed and dropped make {parts}",
            where="messages",
        )
    if content.campaigns:
        for name in ("due", "delayed", "on_time", "suppressed", "dropped", "unknown"):
            total, summed = getattr(messages, name), sum(getattr(one, name) for one in content.campaigns)
            if total != summed:
                raise ReportError(
                    f"The campaigns' {name} sum to {summed}, the total says {total}", where="campaigns"
                )
    loss = content.loss
    if loss and abs(loss.gross.loss_minor - loss.deferred_minor - loss.net.loss_minor) > 1:
        raise ReportError("Gross loss is not deferred plus net loss", where="loss")


def changes_since(before: Path, content: ReviewContent) -> tuple[ChangeRow, ...]:
    """Compare the headline figures with those of an earlier version.

    Args:
        before: that version's folder.
        content: the new version.
    """
    import pyarrow.parquet as pq

    old = {
        name: pq.ParquetFile(before / "tables" / f"{name}.parquet").read().to_pylist()
        for name in ("report", "loss", "data_loss", "reputation")
    }
    new = {name: table.to_pylist() for name, table in build_tables(content, 0).items() if name in old}
    then, now = _headline(old), _headline(new)
    return tuple(
        ChangeRow(figure, then.get(figure, "—"), now.get(figure, "—"))
        for figure in dict.fromkeys([*then, *now])
        if then.get(figure) != now.get(figure)
    )


def _headline(tables: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    report = tables["report"][0]
    currency = report["currency"]
    said = {"standing": str(report["settlement"]), "data complete": say_percent(report["completeness"])}
    for name in (
        "due", "delayed", "on_time", "suppressed", "dropped", "unknown", "duplicated", "after_latest_useful",
        "to_opted_out",
    ):  # fmt: skip
        said[f"messages {name.replace('_', ' ')}"] = f"{report[name]:,}"
    for row in tables["loss"]:
        if row["statistic"] not in ("gross", "deferred", "net"):
            continue
        said[f"{row['statistic']} loss"] = say_money(row["loss_minor"], currency)
        if row["level"] == 0.95:
            low, high = say_money(row["low_minor"], currency), say_money(row["high_minor"], currency)
            said[f"{row['statistic']} loss, interval"] = f"{low} to {high}"
    for row in tables["reputation"]:
        if row["count"] is not None:
            said[f"{row['rate'].replace('_', ' ')} of the catch-up"] = (
                f"{row['count']:,} of {row['messages']:,}"
            )
    if tables["data_loss"]:
        said["rows at risk"] = f"{sum(row['at_risk'] or 0 for row in tables['data_loss']):,}"
        said["rows lost"] = (
            f"{sum(row['lost'] or 0 for row in tables['data_loss'] if not row['estimated']):,}"
        )
    return said


def _write_version(content: ReviewContent, version: int, folder: Path) -> None:
    import pyarrow.parquet as pq

    (folder / "tables").mkdir(parents=True)
    for name, table in build_tables(content, version).items():
        pq.write_table(table, folder / "tables" / f"{name}.parquet", compression="zstd")
    if content.plan_patch:
        (folder / "plan.patch").write_text(content.plan_patch, encoding="utf-8")
    document = compose(content, version)
    (folder / "report.html").write_text(render_html(document), encoding="utf-8")
    (folder / "report.md").write_text(render_markdown(document), encoding="utf-8")
    keep_page(document, folder / KEPT)
    (folder / "updates").mkdir()
    for circle, text in updates(content, version).items():
        (folder / "updates" / f"{circle}.md").write_text(text, encoding="utf-8")


def _fill_dataset(home: Path, incident: str, dataset: Path) -> dict[int, dict[str, Path]]:
    """Give the dataset every table of every version of an incident that it lacks; what it has stays."""
    dataset.mkdir(parents=True, exist_ok=True)
    create_file(dataset / "README.md", describe_tables().encode())
    placed: dict[int, dict[str, Path]] = {}
    for version in versions(home.parent, incident):
        placed[version] = {}
        for table in sorted((home / f"v{version:02d}" / "tables").glob("*.parquet")):
            target = dataset / f"{table.stem}-{incident}-v{version:02d}.parquet"
            if not target.exists():
                create_file(target, table.read_bytes())
            placed[version][table.stem] = target
    return placed


def _masked(value: _Any) -> _Any:
    """Return `value` with every e-mail address in every text of it masked."""
    masked: Any = value
    if isinstance(value, str):
        masked = mask_addresses(value)
    elif isinstance(value, tuple):
        masked = tuple(_masked(one) for one in value)
    elif is_dataclass(value) and not isinstance(value, type):
        masked = replace(value, **{one.name: _masked(getattr(value, one.name)) for one in fields(value)})
    result: _Any = masked
    return result
