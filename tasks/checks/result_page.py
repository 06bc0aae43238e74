"""The pages that tell what the checks found: one per snapshot, and one over all snapshots of all sources.

They are made of what is stored (the signed verdict and the history), so that they can be made again at any time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tasks.checks.checking import last_good_before
from tasks.checks.findings import SEVERITIES, CheckFinding
from tasks.checks.history import read_history
from tasks.checks.releasing import BY
from tasks.checks.trends import Point, draw_trend
from tasks.core import plural, replace_file
from tasks.pages import (
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
    render_html,
)
from tasks.snapshots import Release, Store, Verdict, split_name

SNAPSHOTS = 60
"""Snapshots that a trend shows."""
LISTED = 500
"""Snapshots of a source that the page over all of them lists."""

_MEANS = {
    "critical": "Critical: the snapshot is quarantined",
    "warning": "Warnings: reported, the snapshot may be used",
    "info": "For the record",
}


@dataclass(frozen=True)
class Told:
    """All that the page of one snapshot shows.

    Attributes:
        company: whose snapshots these are.
        state: what it may be used for now.
        marked_by: who said so last.
        findings: what the checks found, worst first.
        last_good: the newest valid snapshot before it; empty if there is none.
        rules: the history's rows of this snapshot.
        trend: its tables over the snapshots until this one.
        docs: the way to its Data Docs from the page; empty if there are none.
        release: where it is valid because a person said so: who, why, and in spite of what.
    """

    company: str
    snapshot_id: str
    state: str
    marked_by: str
    findings: Sequence[CheckFinding]
    last_good: str
    rules: Sequence[Mapping[str, Any]]
    trend: Mapping[str, Sequence[Point]]
    docs: str = ""
    release: Release | None = None

    def came_out(self, status: str) -> list[Mapping[str, Any]]:
        """Return the rules that came out so."""
        return [one for one in self.rules if one["status"] == status]


@dataclass(frozen=True)
class Line:
    """One snapshot on the page over all of them; counts are None where its checks left no history."""

    snapshot_id: str
    consistency_at: datetime
    state: str
    rows: int
    counts: Mapping[str, int] | None
    page: str = ""


def page_path(folder: Path, snapshot_id: str) -> Path:
    """Return where the page of a snapshot lies below the folder of everything that checks write."""
    source, sequence = split_name(snapshot_id)
    return folder / source / f"{sequence:08d}" / "result.html"


def write_page(store: Store, snapshot_id: str, folder: Path, company: str) -> Path:
    """Write the page of one checked snapshot and return its path.

    Args:
        store: holds the verdict.
        snapshot_id: which snapshot.
        folder: the folder of everything that checks write.
        company: whose snapshots these are.
    """
    path = page_path(folder, snapshot_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, render_html(compose_result(gather(store, snapshot_id, folder, company))).encode())
    return path


def write_index(store: Store, folder: Path, company: str) -> Path:
    """Write the page over all snapshots of the store and return its path; see `write_page`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "index.html"
    replace_file(path, render_html(compose_index(_lines(store, folder), company)).encode())
    return path


def gather(store: Store, snapshot_id: str, folder: Path, company: str) -> Told:
    """Return what is known of a checked snapshot; without a verdict of the checks there is no finding."""
    said = [one for one in store.verdicts(snapshot_id) if isinstance(one, Verdict) and one.by == BY]
    states = [one for one in store.verdicts(snapshot_id) if isinstance(one, Verdict) and one.state]
    source, _ = split_name(snapshot_id)
    rules = read_history(folder / "history", source=source, snapshot=snapshot_id).to_pylist()
    past = read_history(folder / "history", source=source, before=snapshot_id, last=SNAPSHOTS - 1).to_pylist()
    good = last_good_before(store, snapshot_id)
    state = store.state(snapshot_id)
    return Told(
        company=company,
        snapshot_id=snapshot_id,
        state=state,
        marked_by=states[-1].by if states else "",
        findings=[CheckFinding(**one) for one in said[-1].findings] if said else [],
        last_good=good.snapshot_id if good else "",
        rules=rules,
        trend=_trend([*past, *rules]),
        docs="data-docs/index.html"
        if (page_path(folder, snapshot_id).parent / "data-docs/index.html").exists()
        else "",
        release=states[-1].release if state == "valid" else None,
    )


def compose_result(told: Told) -> Document:
    """Arrange the page of one snapshot (pure)."""
    bad = told.state == "quarantined"
    first = told.rules[0] if told.rules else {}
    source, sequence = split_name(told.snapshot_id)
    facts = [
        ("Source", source),
        ("Snapshot", f"{sequence:08d}"),
        ("Shows the moment", _time(first.get("consistency_at"))),
        ("Checked", _time(first.get("checked_at"))),
        ("Marked by", told.marked_by or "nobody yet"),
        ("Checks took", f"{sum(_seconds(told.rules).values()):.1f} s"),
        ("Last good before it", told.last_good or "none"),
        ("Times", "UTC"),
    ]
    return Document(
        title=f"{told.snapshot_id} is {told.state}",
        kicker=f"{told.company} · Checks of a snapshot",
        standing={
            "quarantined": "Quarantined: nothing is restored or recovered from it.",
            "valid": f"Valid{' by release' * (told.release is not None)}: restores and recoveries may use it.",
        }.get(told.state, "Not proven: restores do not use it."),
        good=told.state == "valid",
        notice="",
        facts=tuple(facts),
        lines=tuple(_bottom_line(told, bad)),
        figures=tuple(_figures(told)),
        sections=(
            Section("bad", "Bad data", tuple(_bad_data(told))),
            Section("broken", "Rules that could not be asked", tuple(_broken(told))),
            Section("unexercised", "Held only because there was no value", tuple(_unexercised(told))),
            Section("tables", "Table by table", tuple(_tables(told))),
            Section("trend", "Over the snapshots", tuple(_trends(told))),
            Section("further", "Look further", tuple(_further(told))),
        ),
    )


def compose_index(lines: Mapping[str, Sequence[Line]], company: str) -> Document:
    """Arrange the page over all snapshots, newest first, by source (pure)."""
    newest = {source: found[0] for source, found in lines.items() if found}
    bad = [one.snapshot_id for one in newest.values() if one.state == "quarantined"]
    return Document(
        title="Which snapshots are proven",
        kicker=f"{company} · Checks",
        standing=f"The newest is quarantined: {', '.join(bad)}."
        if bad
        else "No newest snapshot is quarantined.",
        good=not bad,
        notice="",
        facts=(
            ("Sources", str(len(lines))),
            ("Snapshots", f"{sum(map(len, lines.values())):,}"),
            ("Times", "UTC"),
        ),
        lines=tuple(
            (
                source,
                f"Restores use {_newest_valid(found)}; the newest, {found[0].snapshot_id}, is {found[0].state}.",
            )
            for source, found in lines.items()
            if found
        ),
        figures=tuple(
            KeyFigure(
                source,
                f"{sum(one.state == 'valid' for one in found):,} valid",
                f"{sum(one.state == 'quarantined' for one in found):,} quarantined, "
                f"{sum(one.state == 'committed' for one in found):,} not proven",
            )
            for source, found in lines.items()
        ),
        sections=tuple(Section(source, source, tuple(_listed(found))) for source, found in lines.items()),
    )


def _bottom_line(told: Told, bad: bool) -> Iterator[tuple[str, str]]:
    critical = [one for one in told.findings if one.severity == "critical"]
    failed = [one for one in critical if one.status == "failed"]
    parts = [f"{plural(len(failed), 'critical rule')} failed"] if failed else []
    if len(critical) > len(failed):
        parts.append(f"{plural(len(critical) - len(failed), 'critical rule')} could not be asked")
    lesser = len(told.findings) - len(critical)
    what = " and ".join(parts) or "No critical rule failed"
    yield "What", f"{what}; {plural(lesser, 'finding')} of lesser severity."
    if told.findings:
        named = critical or told.findings
        places = list(dict.fromkeys(".".join(filter(None, (one.table, one.column))) for one in named))
        more = f" and {len(places) - 6} more" if len(places) > 6 else ""
        yield "Where", ", ".join(places[:6]) + more + "."
        oldest = min(one.since or told.snapshot_id for one in named)
        yield (
            "Since",
            "New in this snapshot." if oldest == told.snapshot_id else f"The oldest stands since {oldest}.",
        )
    if told.release is not None:
        yield "Released", f"By {told.release.by} on {_time(told.release.at)}: {told.release.because}"
    if bad:
        yield (
            "Use instead",
            f"{told.last_good}, the last good snapshot; restore takes the newest valid one by itself."
            if told.last_good
            else "There is no good snapshot before it.",
        )
        yield (
            "Next",
            "Look at the rows with the command at the end of this page, mend the source and back up again, or correct "
            "the contract and validate again. If this is how the data is, say so with the last command there.",
        )


def _figures(told: Told) -> Iterator[KeyFigure]:
    for severity in SEVERITIES:
        count = sum(one.severity == severity and one.status == "failed" for one in told.findings)
        yield KeyFigure(
            severity.capitalize(),
            f"{count:,}",
            "rules that the data breaks",
            "bad" if count and severity == "critical" else "",
        )
    broken = sum(one.status == "broken" for one in told.findings)
    yield KeyFigure("Could not be asked", f"{broken:,}", "nothing is known of these", "bad" if broken else "")
    yield KeyFigure("Held", f"{len(told.came_out('held')):,}", f"of {plural(len(told.rules), 'rule')}")
    yield KeyFigure(
        "Without a value", f"{len(told.came_out('unexercised')):,}", "held because nothing was there"
    )


def _bad_data(told: Told) -> Iterator[Block]:
    failed = [one for one in told.findings if one.status == "failed"]
    for severity in SEVERITIES:
        found = [one for one in failed if one.severity == severity]
        if found:
            yield Table(
                (
                    Heading("Rule"),
                    Heading("Failed", True),
                    Heading("Of", True),
                    Heading("Since"),
                    Heading("Keys of some rows"),
                ),
                tuple(
                    (
                        Cell(one.rule, one.message.partition("; ")[0]),
                        Cell(f"{one.failed:,}", tone="bad" if severity == "critical" else ""),
                        Cell(f"{one.total:,}"),
                        _since(told, one),
                        Cell(", ".join(one.sample_keys)),
                    )
                    for one in found
                ),
                _MEANS[severity],
            )
    if not failed:
        yield Paragraph("No rule that was asked is broken by the data.")


def _broken(told: Told) -> Iterator[Block]:
    broken = [one for one in told.findings if one.status == "broken"]
    if not broken:
        yield Paragraph("Every rule could be asked.")
        return
    yield Paragraph(
        "These say nothing about the data: a column, a table or a condition is not as the rule needs it."
    )
    yield Table(
        (Heading("Rule"), Heading("Severity"), Heading("Since")),
        tuple(
            (
                Cell(one.rule, one.message),
                Cell(one.severity, tone="bad" if one.severity == "critical" else ""),
                _since(told, one),
            )
            for one in broken
        ),
    )


def _unexercised(told: Told) -> Iterator[Block]:
    rules = [str(one["rule"]) for one in told.came_out("unexercised")]
    if rules:
        yield Paragraph(
            "A rule about values says nothing of a column that has none. These proved nothing here."
        )
        yield Bullets(plural(len(rules), "rule"), tuple(rules))
    else:
        yield Paragraph("Every rule that held had something to hold against.")


def _tables(told: Told) -> Iterator[Block]:
    seconds = _seconds(told.rules)
    rows = []
    for table in sorted({str(one["table"]) for one in told.rules}):
        mine = [one for one in told.rules if one["table"] == table]
        counted = next((one["rows"] for one in mine if one["rows"] is not None), None)
        count = {
            name: sum(one["status"] == name for one in mine) for name in ("failed", "broken", "unexercised")
        }
        rows.append(
            (
                Cell(table),
                Cell(
                    "not known" if counted is None else f"{counted:,}",
                    tone="quiet" if counted is None else "",
                ),
                Cell(f"{len(mine):,}"),
                *(
                    Cell(
                        f"{amount:,}", tone="quiet" if not amount else "" if name == "unexercised" else "bad"
                    )
                    for name, amount in count.items()
                ),
                Cell(f"{seconds.get(table, 0):.2f}"),
            )
        )
    names = ("Rows", "Rules", "Failed", "Not asked", "Without a value", "Seconds")
    yield Table((Heading("Table"), *(Heading(name, True) for name in names)), tuple(rows))


def _trends(told: Told) -> Iterator[Block]:
    for table, points in told.trend.items():
        yield Chart(draw_trend(table, points), f"{table}, over {plural(len(points), 'snapshot')}")


def _further(told: Told) -> Iterator[Block]:
    for rule in [one.rule for one in told.findings if one.sample_keys][:1]:
        yield Code(
            "The real rows, for who may see them (personal data; on the terminal only, and who asked is written down)",
            f"mailstay checks show {told.snapshot_id} --rule {rule} --rows 20 --name 'your name'",
        )
    for rule in [one.rule for one in told.findings][:1]:
        yield Code("When did this start", f"mailstay checks history --rule {rule}")
    if told.state == "quarantined":
        if told.last_good:
            source, _ = split_name(told.snapshot_id)
            yield Code(
                "The last good snapshot, into an empty database",
                f"mailstay restore {source} --snapshot {told.last_good} --into sqlite:///restored.db",
            )
        yield Code(
            "This is how the data is: release the snapshot, signed",
            f"mailstay checks release {told.snapshot_id} --by 'your name' --because 'why'",
        )
    if told.docs:
        yield Paragraph("Data Docs of Great Expectations: every rule with what was seen", href=told.docs)
    yield Paragraph("All snapshots of all sources", href="../../index.html")


def _since(told: Told, finding: CheckFinding) -> Cell:
    if finding.since in ("", told.snapshot_id):
        return Cell("new")
    source, sequence = split_name(finding.since)
    return Cell(finding.since, href=f"../../{source}/{sequence:08d}/result.html")


def _listed(lines: Sequence[Line]) -> Iterator[Block]:
    yield _index_table(lines)
    if len(lines) > LISTED:
        yield Paragraph(f"and {len(lines) - LISTED:,} older ones: `mailstay snapshots list`")


def _index_table(lines: Sequence[Line]) -> Table:
    names = ("Critical", "Warnings", "Info", "Not asked", "Rules", "Rows")
    rows = []
    for one in lines[:LISTED]:
        counts = one.counts or {}
        tone = {"quarantined": "bad", "valid": "good"}.get(one.state, "quiet")
        rows.append(
            (
                Cell(one.snapshot_id, href=one.page),
                Cell(_time(one.consistency_at)),
                Cell("not proven" if one.state == "committed" else one.state, tone=tone),
                *(Cell(f"{counts[name]:,}" if name in counts else "—") for name in names[:-1]),
                Cell(f"{one.rows:,}"),
            )
        )
    return Table(
        (
            Heading("Snapshot"),
            Heading("Shows the moment"),
            Heading("State"),
            *(Heading(name, True) for name in names),
        ),
        tuple(rows),
    )


def _lines(store: Store, folder: Path) -> dict[str, list[Line]]:
    counts: dict[str, Counter[str]] = {}
    rules = read_history(folder / "history", last=LISTED).select(["snapshot", "severity", "status"])
    for one in rules.group_by(rules.column_names).aggregate([([], "count_all")]).to_pylist():
        mine, count = counts.setdefault(one["snapshot"], Counter()), one["count_all"]
        mine["Rules"] += count
        mine["Not asked"] += count * (one["status"] == "broken")
        for severity, name in zip(SEVERITIES, ("Critical", "Warnings", "Info"), strict=True):
            mine[name] += count * (one["status"] == "failed" and one["severity"] == severity)
    lines: dict[str, list[Line]] = {}
    for info in reversed(store.list()):
        listed = lines.setdefault(info.source, [])
        page = page_path(folder, info.snapshot_id)
        listed.append(
            Line(
                info.snapshot_id,
                info.consistency_at,
                info.state,
                info.rows,
                counts.get(info.snapshot_id),
                page.relative_to(folder).as_posix() if page.exists() else "",
            )
        )
    return dict(sorted(lines.items()))


def _trend(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Point]]:
    by: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for one in rows:
        by.setdefault((one["table"], one["snapshot"]), []).append(one)
    trend: dict[str, list[Point]] = {}
    for (table, snapshot), rules in sorted(by.items()):
        trend.setdefault(table, []).append(_point(snapshot, rules))
    return {table: points for table, points in trend.items() if any(one.rows is not None for one in points)}


def _point(snapshot: str, rules: Sequence[Mapping[str, Any]]) -> Point:
    return Point(
        snapshot=snapshot,
        at=rules[0]["consistency_at"],
        rows=next((one["rows"] for one in rules if one["rows"] is not None), None),
        failed=sum(one["failed"] for one in rules),
        broken=sum(one["status"] == "broken" for one in rules),
        seconds=max(one["seconds"] for one in rules),
    )


def _seconds(rules: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for one in rules:
        seconds[one["table"]] = max(seconds.get(one["table"], 0.0), one["seconds"])
    return seconds


def _newest_valid(lines: Sequence[Line]) -> str:
    return next((one.snapshot_id for one in lines if one.state == "valid"), "none, as no snapshot is valid")


def _time(moment: datetime | None) -> str:
    return "not known" if moment is None else f"{moment:%Y-%m-%d %H:%M}"
