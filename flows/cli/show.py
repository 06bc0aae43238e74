"""How the command line shows things: bars and tables for a person, plain lines when piped, JSON on request."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tasks.core import Money, plural
from tasks.providers import in_words

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class Bars:
    """Progress as bars on a terminal; when piped, one line per finished piece of work that took over two seconds."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._live = err.is_terminal and not quiet
        self._quiet = quiet
        self._bar: Progress | None = None
        self._title = ""
        self._began = 0.0
        self._units = self._bytes = 0

    def start(self, title: str, total: int | None = None) -> None:
        """Begin work called `title` of `total` units."""
        self.finish()
        self._title, self._began = title, time.monotonic()
        self._units = self._bytes = 0
        if self._live:
            self._bar = Progress(
                TextColumn("  {task.description}"),
                BarColumn(bar_width=28),
                MofNCompleteColumn(),
                TextColumn("{task.fields[size]}"),
                TimeRemainingColumn(),
                console=err,
                transient=True,
            )
            self._bar.add_task(title, total=total, size="")
            self._bar.start()

    def advance(self, units: int = 1, nbytes: int = 0) -> None:
        """Report that `units` more are done, of `nbytes` bytes."""
        self._units, self._bytes = self._units + units, self._bytes + nbytes
        if self._bar is not None:
            self._bar.update(
                self._bar.task_ids[0], advance=units, size=size(self._bytes) if self._bytes else ""
            )

    def finish(self, note: str = "") -> None:
        """End the current work."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        elif self._title and not self._quiet and time.monotonic() - self._began > 2:
            done = f"{plural(self._units, 'row')}, {size(self._bytes)}" if self._bytes else "done"
            err.print(
                f"  {self._title}: {note or done} ({time.monotonic() - self._began:.0f} s)", markup=False
            )
        self._title = ""


def plain(value: Any) -> Any:
    """Return `value` as what JSON can say: dataclasses and models become objects, times ISO 8601."""
    if isinstance(value, BaseModel):
        return plain(value.model_dump())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, Path):
        return str(value)
    return value


def as_json(value: Any) -> None:
    """Print `value` as one JSON object on standard output, and nothing else."""
    sys.stdout.write(json.dumps(plain(value), indent=2, ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, numbers: Sequence[str] = ()) -> None:
    """Print rows under `columns`: aligned on a terminal, tab-separated when piped."""
    if not out.is_terminal:
        for row in [columns, *rows]:
            # Not through rich, which turns tabs into spaces.
            sys.stdout.write("\t".join("" if cell is None else str(cell) for cell in row) + "\n")
        return
    drawn = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 3, 0, 0))
    for column in columns:
        drawn.add_column(column, justify="right" if column in numbers else "left")
    for row in rows:
        drawn.add_row(*("" if cell is None else str(cell) for cell in row))
    out.print(drawn)


def when(moment: datetime | None, otherwise: str = "—") -> str:
    """Return `moment` to the minute in UTC, or a dash."""
    return otherwise if moment is None else f"{moment:%Y-%m-%d %H:%M}"


def size(count: int) -> str:
    """Return `count` bytes as B, KiB, MiB or GiB."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


@contextlib.contextmanager
def story(*, quiet: bool = False) -> Iterator[None]:
    """Print the lines of a demo's story as they are told, with the seconds since it began."""
    logger = logging.getLogger("mailstay.story")
    handler = _Lines()
    logger.setLevel(logging.INFO)
    logger.propagate = False
    if not quiet:
        logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self._began = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        out.print(f"{time.monotonic() - self._began:4.0f} s  {record.getMessage()}", markup=False)


def demo_end(result: Any) -> None:
    """Print where a demo ended: the estimate beside the truth, the promises, and what to look at next."""
    messages, loss, data = result.messages, result.loss, result.data_loss
    truth = messages["truth"]
    covered = "inside" if loss["low"] <= loss["truth"] <= loss["high"] else "outside"
    table(
        ["", "reported", "true"],
        [
            ["messages due in the outage", f"{messages['due']:,}", f"{truth['due']:,}"],
            ["delayed", f"{messages['delayed']:,}", f"{truth['delayed']:,}"],
            ["dropped", f"{messages['dropped']:,}", f"{truth['dropped']:,}"],
            ["outcome unknown, listed for a decision", f"{messages['unknown']:,}", f"{truth['unknown']:,}"],
            ["rows at risk", f"{data['at_risk']:,}", f"{data['at_risk_truth']:,}"],
            ["rows lost", f"{data['rows']:,}", f"{data['truth']:,}"],
            [f"net loss, {loss['currency']}", f"{loss['estimate']:,.0f}", f"{loss['truth']:,.0f}"],
        ],
        numbers=["reported", "true"],
    )
    out.print(
        f"The 95 % interval is {loss['low']:,.0f} to {loss['high']:,.0f} {loss['currency']}: the truth lies {covered}."
    )
    out.print(
        f"By the mailbox: mailed twice {messages['duplicated']}, too late {messages['after_latest_useful']}, "
        f"although opted out {messages['to_opted_out']}."
    )
    folder = Path(result.report).parents[3]
    out.print(f"\nReport: {result.report}", markup=False)
    out.print("Look next:")
    out.print(
        f"  mailstay incidents show {result.incident['id']} --plan {folder / 'plan.yaml'}", markup=False
    )
    out.print(f"  mailstay snapshots list --plan {folder / 'plan.yaml'}", markup=False)
    out.print(f"Done in {result.seconds:.0f} s.")


def restored(result: Any) -> None:
    """Show what a restore brought back, and what it did not."""
    table(
        ["table", "rows", "unable to send", "of the erased", "seconds", "not brought back"],
        [
            [
                one.name,
                f"{one.rows:,}",
                one.disarmed or "",
                one.erased or "",
                f"{one.seconds:.1f}",
                "; ".join(one.lost),
            ]
            for one in result.tables
        ],
        numbers=("rows", "unable to send", "of the erased", "seconds"),
    )
    out.print(
        f"{result.snapshot_id} ({result.state}): {result.rows:,} rows in {result.seconds:.1f} s; "
        "every table reads back as it was saved.",
        markup=False,
    )


def merged(result: Any) -> None:
    """Print what differs between a snapshot and a database in use, and what was or would be done about it.

    `missing` rows are only in the snapshot, `extra` ones only in the database; `strict` counts consents that stay, or
    become, stricter than one side has them.
    """
    names = ("missing", "extra", "different", "inserted", "set back", "strict")
    table(
        ["table", *names],
        [
            [
                one.name,
                f"{one.only_in_snapshot:,}",
                f"{one.only_in_database:,}",
                f"{one.different:,}",
                f"{one.inserted:,}",
                f"{one.updated:,}",
                f"{one.restricted:,}",
            ]
            for one in result.tables
        ],
        numbers=names,
    )
    for one in result.tables:
        columns = ", ".join(f"{name} ({count:,})" for name, count in one.columns.items())
        for note in ([f"differs in {columns}"] if columns else []) + list(one.notes):
            out.print(f"{one.name}: {note}", markup=False)
    out.print(f"Every differing row is in {result.folder} (personal data).", markup=False)
    if result.applied:
        out.print(
            f"{result.snapshot_id} ({result.state}), {result.mode}: applied in {result.seconds:.1f} s; "
            "the database holds exactly this.",
            markup=False,
        )
    elif any(one.written for one in result.tables):
        out.print("Nothing was changed. Next: the same with --apply", markup=False)
    else:
        out.print("Nothing was changed, and nothing would be.", markup=False)


def rehearsed(found: Sequence[Any]) -> None:
    """Print what a rehearsal brought back, and what it means for the plan."""
    table(
        ["source", "snapshot", "rows", "seconds", "problem"],
        [
            [one.source, one.snapshot_id, f"{one.rows:,}", f"{one.seconds:.1f}", one.problem or "—"]
            for one in found
        ],
        numbers=("rows", "seconds"),
    )
    table(
        ["object", "data age", "RPO", "restored in", "RTO", "met"],
        [
            [
                one.name,
                f"{one.rpa_minutes:,.0f} min",
                f"{one.rpo_minutes:,} min",
                f"{one.rta_minutes:,.1f} min",
                f"{one.rto_minutes:,} min",
                "yes" if one.met else "NO",
            ]
            for source in found
            for one in source.objects
        ],
        numbers=("data age", "RPO", "restored in", "RTO"),
    )


def exported(result: Any) -> None:
    """Show what an export wrote, and which columns it had to write in another way."""
    table(
        ["table", "file", "rows", "of the erased", "size", "not as in the snapshot"],
        [
            [
                one.name,
                one.file,
                f"{one.rows:,}",
                one.erased or "",
                size(one.bytes),
                "; ".join(one.changed) or "—",
            ]
            for one in result.tables
        ],
        numbers=["rows", "of the erased", "size"],
    )
    out.print(f"{result.snapshot_id} ({result.state}) as {result.form} in {result.folder}", markup=False)


def pruned(result: Any) -> None:
    """Print what is kept and why, and what goes."""
    table(
        ["snapshot", "taken (UTC)", "kept because"],
        [
            [
                one.snapshot_id,
                when(one.at),
                "; ".join(one.because) or ("would go" if result.dry else "removed"),
            ]
            for one in result.snapshots
        ],
    )
    out.print(
        f"{plural(len(result.removed), 'snapshot')} {'would go' if result.dry else 'removed'}; "
        f"{plural(result.condemned, 'object')} ({size(result.condemned_bytes)}) "
        f"{'would be marked' if result.dry else 'marked'}, "
        f"{plural(result.deleted, 'object')} ({size(result.deleted_bytes)}) "
        f"{'would be deleted' if result.dry else 'deleted'}",
        markup=False,
    )
    if result.waiting:
        out.print(f"No object was deleted: {result.waiting}", markup=False)
    if result.dry:
        out.print("Nothing was changed. Next: the same with --confirm", markup=False)


def erased(result: Any, *, rewrite: bool) -> None:
    """Print what an erasure takes from each table, what it had to leave, and until when."""
    table(
        ["source", "table", "by", "snapshots", "rows that go", "rows of nobody"],
        [
            [one.source, one.table, ", ".join(one.columns), one.snapshots, one.rows or "", one.unlinked or ""]
            for one in result.tables
        ],
        numbers=("snapshots", "rows that go", "rows of nobody"),
    )
    lines = [f"person {result.person}"]
    if not rewrite:
        lines.append("The objects stay as they are; --rewrite replaces them")
    elif result.dry:
        lines.append(f"{plural(len(result.replaced), 'snapshot')} would be replaced")
    else:
        lines.append(
            f"{plural(len(result.replaced), 'snapshot')} replaced, "
            f"{plural(result.deleted, 'object')} ({size(result.deleted_bytes)}) deleted"
        )
    if result.holding and result.until and not (rewrite and result.dry):
        lines.append(
            f"They hold the person until {when(result.until)} (UTC) at the latest, then a prune deletes them: "
            "if backups go on, are valid, and nobody holds them"
        )
    lines += [f"{one} is held and stays: --override-holds replaces it too" for one in result.held]
    lines += [f"{one} still has the person: delete them there, then erase again" for one in result.still_in]
    lines += [
        f"The address also stands in {one.source}.{one.table}, column {one.column} "
        f"({plural(one.rows, 'row')}, {plural(one.snapshots, 'snapshot')}): look, and correct it in the source"
        for one in result.mentions
    ]
    lines += [f"{one} has no mapping: nothing says what names a person there" for one in result.unknown]
    if result.others:
        lines.append(f"{plural(result.others, 'record')} had the address once and another since: left alone")
    lines.append(
        "Nothing was changed. Next: the same with --confirm"
        if result.dry
        else f"Entry {result.entry} of the ledger keeps the person out of every restore"
    )
    out.print("\n".join(lines), markup=False)


def backups(taken: Sequence[Any]) -> None:
    """Print what a backup took."""
    table(
        ["snapshot", "tables", "not read", "rows", "size", "verified", "seconds"],
        [
            [
                one.snapshot_id,
                one.tables,
                one.unread or "",
                f"{one.rows:,}",
                size(one.bytes),
                "every byte" if one.verified else "DAMAGED",
                f"{one.seconds:.1f}",
            ]
            for one in taken
        ],
        numbers=["tables", "not read", "rows", "size", "seconds"],
    )
    for one in taken:
        if one.parent_unreadable:
            err.print(
                f"The snapshot before {one.snapshot_id} cannot be read; `mailstay snapshots verify` says what to do",
                markup=False,
                style="red",
            )


def validations(result: Any) -> None:
    """Print the verdict on each snapshot, with the reason of a quarantine."""
    for one in result.snapshots:
        out.print(one.reason, markup=False)
        out.print(f"  Page: {one.page}", markup=False)


def told_checks(told: Any, folder: Path, rule: str) -> dict[str, Any]:
    """Return what is known of one checked snapshot as plain data, of one rule if it is named."""
    from tasks.checks import page_path

    page = page_path(folder, told.snapshot_id)
    return {
        "snapshot": told.snapshot_id,
        "state": told.state,
        "marked_by": told.marked_by,
        "last_good": told.last_good,
        "release": plain(told.release),
        "findings": [plain(one) for one in told.findings if rule in ("", one.rule)],
        "unexercised": [one["rule"] for one in told.came_out("unexercised") if rule in ("", one["rule"])],
        "rules": len(told.rules),
        "page": str(page) if page.exists() else "",
    }


def checks_of(told: Sequence[Mapping[str, Any]]) -> None:
    """Print what the checks found in each snapshot."""
    for one in told:
        out.print(f"{one['snapshot']}: {one['state']}, {plural(one['rules'], 'rule')} asked", markup=False)
        if one["findings"]:
            table(
                ["severity", "status", "rule", "failed", "of", "since", "keys"],
                [
                    [
                        found["severity"],
                        found["status"],
                        found["rule"],
                        f"{found['failed']:,}",
                        f"{found['total']:,}",
                        found["since"],
                        ", ".join(found["sample_keys"]),
                    ]
                    for found in one["findings"]
                ],
                numbers=["failed", "of"],
            )
        if one["unexercised"]:
            out.print(
                f"{plural(len(one['unexercised']), 'rule')} held only because there was no value",
                markup=False,
            )
        if one["release"]:
            out.print("Released by {by}: {because}".format(**one["release"]), markup=False)
        if one["state"] == "quarantined":
            out.print(f"Last good: {one['last_good'] or 'none'}", markup=False)
        if one["page"]:
            out.print(f"Page: {one['page']}", markup=False)


def released(snapshot: str, release: Any) -> None:
    """Print who says that a snapshot may be used, why, and in spite of what."""
    out.print(
        f"{snapshot} is valid: released by {release.by} on {when(release.at)}, because {release.because}",
        markup=False,
    )
    for finding in release.findings:
        out.print(f"  {finding['message']}", markup=False)


def rule_history(found: Sequence[Mapping[str, Any]]) -> None:
    """Print how one rule went, snapshot by snapshot."""
    table(
        ["snapshot", "shows the moment", "status", "failed", "of", "rows"],
        [
            [
                one["snapshot"],
                when(one["consistency_at"]),
                one["status"],
                f"{one['failed']:,}",
                f"{one['total']:,}",
                "—" if one["rows"] is None else f"{one['rows']:,}",
            ]
            for one in found
        ],
        numbers=["failed", "of", "rows"],
    )


def standing(found: Sequence[Mapping[str, Any]]) -> None:
    """Print what fails in the newest snapshots, and since when."""
    if not found:
        out.print("Nothing fails in the newest checked snapshots.")
        return
    table(
        ["rule", "severity", "status", "since", "shows the moment", "snapshots", "failed now"],
        [
            [
                one["rule"],
                one["severity"],
                one["status"],
                one["since"],
                when(one["since_when"]),
                one["snapshots"],
                f"{one['failed_now']:,}",
            ]
            for one in found
        ],
        numbers=["snapshots", "failed now"],
    )


def proposed(result: Any, *, named: bool) -> None:
    """Say which contracts were written, and what their own snapshot gives against them."""
    out.print(f"{plural(len(result.tables), 'contract')} in {result.folder}", highlight=False)
    for finding in result.report.findings:
        out.print(f"  {finding.severity}: {finding.message}", highlight=False, markup=False)
    out.print(f"{result.report.snapshot_id} is {result.report.outcome} against them", highlight=False)
    if not named:
        out.print(f"For validate to use them, name the folder as `contracts` of {result.source} in the plan")


def contract_problems(problems: Sequence[Any]) -> None:
    """Print each problem of the contracts on a line of its own."""
    for problem in problems:
        out.print(str(problem), highlight=False, markup=False, soft_wrap=True)
    if not problems:
        out.print("The contracts fit")


def rules(found: Sequence[Any]) -> None:
    """Print the rules of contracts."""
    table(
        ["table", "column", "rule", "severity", "says"],
        [(one["table"], one["column"], one["kind"], one["severity"], one["says"]) for one in found],
    )


def snapshot_list(found: Sequence[Any], rotten: Mapping[str, str]) -> None:
    """Print a line per snapshot, and those whose manifest cannot be read, with why and what to do."""
    table(
        ["snapshot", "consistent at", "tables", "rows", "size", "state", "verified", "held by"],
        [
            [
                one.snapshot_id,
                when(one.consistency_at),
                len(one.tables),
                f"{one.rows:,}",
                size(one.bytes),
                f"{one.state} (released)" if one.release else one.state,
                one.verified or "—",
                ", ".join(one.held_by) or "—",
            ]
            for one in found
        ],
        numbers=["tables", "rows", "size"],
    )
    for name, why in rotten.items():
        err.print(f"{name} cannot be read: {why}", markup=False, style="red")


def snapshot(manifest: Any, costs: Sequence[Any], read: Mapping[str, Any]) -> None:
    """Print one snapshot's facts, its tables, what each cost and why, and since when all of it has been read."""
    out.print(f"{manifest.snapshot_id}  {manifest.started_at:%Y-%m-%d %H:%M:%S} UTC", markup=False)
    for key, value in manifest.consistency.items():
        out.print(f"  {key}: {value}", markup=False)
    if manifest.parent_unreadable:
        out.print(f"  the snapshot before could not be read: {manifest.parent_unreadable}", markup=False)
    table(
        ["table", "rows", "objects", "size", "read in full", "checksum", "casts"],
        [
            [
                name,
                f"{entry.rows:,}",
                len(entry.objects),
                size(sum(one.bytes for one in entry.objects)),
                _read_since([read[one.sha256] for one in entry.objects]),
                entry.checksum[:12],
                ", ".join(f"{one.name}: {one.cast}" for one in entry.facts.columns if one.cast) or "—",
            ]
            for name, entry in manifest.tables.items()
        ],
        numbers=["rows", "objects", "size"],
    )
    out.print()
    table(
        ["table", "new objects", "new", "reused objects", "reused", "why"],
        [
            [
                one.name,
                one.new_objects,
                size(one.new_bytes),
                one.reused_objects,
                size(one.reused_bytes),
                one.reason,
            ]
            for one in costs
        ],
        numbers=["new objects", "new", "reused objects", "reused"],
    )


def _read_since(readings: Sequence[Any]) -> str:
    """Return when the object that waited longest was read, how many never were, or how many are damaged."""
    if damaged := sum(one is not None and not one.whole for one in readings):
        return f"{damaged} DAMAGED"
    if never := sum(one is None for one in readings):
        return f"{never} never"
    return when(min(one.at for one in readings))


def differences(found: Sequence[Any]) -> None:
    """Print what differs between two snapshots, the tables that are the same counted last."""
    changed = [one for one in found if one.state != "same"]
    table(
        ["table", "state", "added", "removed", "changed", "where"],
        [
            [
                one.name,
                one.state,
                f"{one.added:,}",
                f"{one.removed:,}",
                f"{one.changed:,}",
                "; ".join([*one.schema, *(f"{name}: {count:,}" for name, count in one.columns.items())]),
            ]
            for one in changed
        ],
        numbers=("added", "removed", "changed"),
    )
    out.print(f"{plural(len(found) - len(changed), 'table')} the same", markup=False)


def verification(report: Any, late: Sequence[Any], days: int) -> None:
    """Print every damage that was found, or that there is none, and which objects were not read for too long."""
    for one in report.findings:
        place = " ".join(str(part) for part in (one.snapshot_id, one.table, one.object) if part)
        out.print(f"{one.kind}: {one.message} [{place}]", markup=False)
    verdict = "whole" if report.ok else plural(len(report.findings), "finding")
    part = f" (part {report.part})" if report.part else ""
    kept = "; kept per object" if report.recorded else "; not kept, for want of the signing key"
    kept = kept if report.level == "content" else ""
    out.print(
        f"{report.level}{part}: {plural(report.objects, 'object')}, {size(report.bytes)}: {verdict}{kept}",
        markup=False,
    )
    if late:
        out.print(
            f"{plural(len(late), 'object')} ({size(sum(one.bytes for one in late))}) not read in full for "
            f"{plural(days, 'day')}; the longest: {late[0].sha256} ({when(late[0].last_read, 'never')})",
            markup=False,
        )
    for name, forms in report.replaced.items():
        took = ", ".join(
            f"{when(one.at)} for {plural(len(one.erasures), 'entry', 'entries')} of the ledger"
            for one in forms
        )
        out.print(f"{name} was replaced by an erasure: {took}", markup=False)
    for source, head in report.heads.items():
        out.print(f"head of {source}: {head}  (store.anchors of the plan takes it)", markup=False)


def incident_list(found: Sequence[Any]) -> None:
    """Print a line per incident."""
    table(
        ["incident", "provider", "state", "cause", "declared", "resolved", "summary"],
        [
            [
                one.id,
                one.provider,
                one.state,
                one.cause_class,
                when(one.timestamps.get("declared_at")),
                when(one.timestamps.get("resolved_at")),
                one.summary,
            ]
            for one in found
        ],
    )


def incident(content: dict[str, Any]) -> None:
    """Print everything the journal knows of one incident, for a person in a hurry: state first, history last."""
    head = content["incident"]
    out.print(f"{head.id}  {head.provider}  {head.state}  {head.cause_class}", markup=False)
    out.print(f"  {head.summary}", markup=False)
    for kind, at in content["timestamps"].items():
        out.print(f"  {kind:<18} {at:%Y-%m-%d %H:%M:%S} UTC", markup=False)
    out.print("\nMetrics")
    table(
        ["metric", "from", "to", "minutes", "status"],
        [
            [
                one.name,
                one.from_anchor,
                one.to_anchor,
                "" if one.seconds is None else f"{one.seconds / 60:.1f}",
                one.status,
            ]
            for one in content["metrics"]
        ],
        numbers=["minutes"],
    )
    if content["approvals"]:
        out.print("\nApprovals")
        table(
            ["id", "subject", "status", "by", "through", "allows"],
            [
                [one.id, one.subject, one.status, one.name, one.via, _allows(one.actions)]
                for one in content["approvals"]
            ],
        )
    if content["actions"]:
        out.print("\nActions")
        table(
            ["action", "target", "status", "intended", "error"],
            [
                [one.kind, one.target, one.status, when(one.intended_at), one.error]
                for one in content["actions"]
            ],
        )
    out.print("\nTimeline (UTC)")
    table(
        ["time", "what", "text"],
        [[when(one.at), one.kind, one.text] for one in content["timeline"]],
    )


def follow_ups(found: Sequence[Any]) -> None:
    """Print action items, the one that is due first on top."""
    from tasks.reports import say_due

    if not found:
        out.print("Nothing is left to do.")
        return
    table(
        ["no.", "incident", "what", "type", "owner", "standing", "due", "done when"],
        [
            [
                one.item.id,
                one.item.incident_id,
                one.item.title,
                f"{one.item.type} {one.item.priority}",
                one.item.owner,
                one.standing,
                say_due(one) if one.item.status == "outstanding" else one.item.evidence,
                one.item.proof,
            ]
            for one in found
        ],
        numbers=["no."],
    )


def _allows(actions: Sequence[dict[str, Any]]) -> str:
    return "; ".join(
        f"{one['kind']} {one['target']}" + ("" if one.get("undoable", True) else " (for good)")
        for one in actions
    )


def response(result: Any, currency: str) -> None:
    """Print the plan that a person decides on, then what was done and what is open."""
    if result.plan:
        table(
            [
                "campaign",
                "kind",
                "people",
                "due (UTC)",
                "useful until",
                "do",
                "before",
                "undo",
                "if nothing is done",
                "at stake",
            ],
            [
                [
                    one["name"],
                    one["kind"],
                    f"{one['audience']:,}",
                    when(one["due_at"]),
                    when(one["useful_until"]),
                    one["action"] or "nothing stops it",
                    when(one["act_before"]),
                    one["undo"] + (f" by {when(one['lost_after'])}" if one["lost_after"] else "") or "—",
                    one["if_nothing"],
                    Money(one["at_stake_minor"], currency).whole() if one["at_stake_minor"] else "—",
                ]
                for one in result.plan
            ],
            numbers=["people", "at stake"],
        )
    done = ", ".join(f"{count} {status}" for status, count in result.actions.items())
    out.print(f"{result.incident}: {done or 'nothing was changed at the provider'}", markup=False)
    if result.held:
        out.print(f"Held: {result.reason}", markup=False)
        out.print(f"Next: mailstay incidents show {result.incident}, then run respond again", markup=False)
    elif result.plan and not done:
        out.print("Next: the same with --mode act, which asks before it stops anything", markup=False)
    if result.vendor_ticket:
        out.print(f"Text for the provider's support: {result.vendor_ticket}", markup=False)


def aborted(result: Any) -> None:
    """Print what an abort does or did per campaign, how each differs from before, and what is open."""
    if result.plan and not result.compared:
        table(
            ["campaign", "due (UTC)", "what", "why"],
            [
                [one["name"], when(one["due_at"]), one["way"].replace("_", " "), one["why"]]
                for one in result.plan
            ],
        )
    if result.compared:
        table(
            ["campaign", "as before", "differences"],
            [
                [
                    one["name"],
                    "yes" if one["as_it_was"] else "no",
                    "; ".join(
                        f"{each['field']}: {each['was']} → {each['now']}" for each in one["differences"]
                    )
                    or "none",
                ]
                for one in result.compared
            ],
        )
    out.print(f"{result.incident}: {result.state}", markup=False)
    if result.state == "held":
        out.print(f"Held: {result.reason}", markup=False)
    elif result.state == "planned":
        out.print("Next: the same with --mode act, which asks before it puts anything back", markup=False)


def recovery(result: Any) -> None:
    """Print what a recovery came to."""
    out.print(f"{result.incident}: {result.state}", markup=False)
    if result.reason:
        out.print(f"Held: {result.reason}", markup=False)
    counts = ["people", "expire", "later", "capped"]
    if result.verdicts:
        table(
            ["campaign", "verdict", *counts, "why"],
            [
                [one["name"], one["verdict"].replace("_", " "),
                 *(f"{one[key]:,}" for key in ("people", "cut", "deferred", "capped")), one["why"]]
                for one in result.verdicts
            ],
            numbers=counts,
        )  # fmt: skip
    table(["outcome", "people"], [[k, f"{n:,}"] for k, n in result.outcomes.items()], numbers=["people"])
    if result.unknown:
        out.print(f"Outcomes that nobody knows, for a decision: {result.unknown}", markup=False)


def apology(result: Any) -> None:
    """Print what is drafted or decided about an apology."""
    told = "" if not result.listed else f" to {result.people:,} people"
    out.print(f"{result.incident}: apology {result.audience}{told}: {result.state}", markup=False)
    if result.listed:
        out.print(f"The people (subscriber ids): {result.listed}", markup=False)
        out.print(f"The draft: {result.text}", markup=False)
    if result.reason:
        out.print(f"Held: {result.reason}", markup=False)
    else:
        out.print("Nothing was sent: sending it is yours to do.", markup=False)


def reviewed(result: Any) -> None:
    """Print what a review came to."""
    loss = result.loss
    out.print(
        f"{result.incident}: report v{result.version:02d} ({'settled' if result.settled else 'provisional'})"
    )
    out.print(
        "  net loss {} (95 %: {} to {})".format(
            *(Money(loss[name], loss["currency"]).whole() for name in ("net", "low", "high"))
        ),
        markup=False,
    )
    out.print(f"  {result.report}", markup=False)


def settled(result: Any) -> None:
    """Print the reports that were settled, what the others wait for, and who was reminded."""
    for one in result.reports:
        reviewed(one)
    for incident, missing in result.waiting.items():
        out.print(f"{incident} waits for {missing}", markup=False)
    if result.reminded:
        out.print(f"reminded of action items: {', '.join(result.reminded)}", markup=False)
    if not (result.reports or result.waiting):
        out.print("Every report is settled.")


def monitored(watched: Sequence[Any]) -> None:
    """Print what one pass over the providers found."""
    for one in watched:
        out.print(
            f"{one.provider}: {one.phase}" + (f" ({one.incident})" if one.incident else ""), markup=False
        )
        for line in one.seen:
            out.print(f"  {line}", markup=False)


def plan_findings(findings: Sequence[Any]) -> None:
    """Print what a plan lacks and how to mend it."""
    for one in findings:
        out.print(f"{one.field}: {one.missing}. To fix it: {one.fix}", markup=False)
    if not findings:
        out.print("The plan is complete.")


def provider_list(found: Sequence[Any]) -> None:
    """Print the kinds of provider in short."""
    table(
        ["kind", "provider", "a scheduled campaign", "one in flight", "calls"],
        [
            [
                one.kind,
                one.title,
                _hold_of(one, "scheduled"),
                _hold_of(one, "running"),
                "; ".join(f"{rate.calls} per {in_words(rate.per)} ({rate.covers})" for rate in one.rates)
                or (f"{one.connections} at once" if one.connections else "no documented limit"),
            ]
            for one in found
        ],
    )


def _hold_of(one: Any, status: Any) -> str:
    hold = one.hold(status)
    return (
        f"{hold.action}, undone by {hold.undo}" if hold else one.left_to_people(status) or "nothing stops it"
    )


def provider(one: Any) -> None:
    """Print what a kind of provider can do, its limits and its traps, each with its source."""
    for title, heads, rows in provider_tables(one):
        out.print(f"\n{title}" if title else "", markup=False, end="\n" if title else "")
        table(heads, rows)
    out.print()
    for name, value in provider_facts(one):
        out.print(f"{name}: {value}", markup=False)


def provider_tables(one: Any) -> list[tuple[str, tuple[str, ...], list[list[str]]]]:
    """Return the tables that tell of a kind of provider: title, columns and rows; none is empty."""
    limits = [[f"{rate.calls} per {in_words(rate.per)}", rate.covers, rate.source] for rate in one.rates]
    if one.connections:
        limits.append([f"{one.connections} at once", "everything", one.limits_source])
    by_hand = [[case.of, case.status, f"not possible: {case.what}", case.source] for case in one.by_hand]
    traps = [[trap.name, trap.what, trap.handled, trap.source] for trap in one.traps]
    tables = [
        ("", _ACTION_COLUMNS, _actions(one)),
        ("What the API cannot stop", ("what", "state", "what a person can do", "source"), by_hand),
        ("Limits", ("calls", "of", "source"), limits),
        ("Traps", ("trap", "what happens", "what Mailstay does", "source"), traps),
    ]
    return [table for table in tables if table[2]]


_ACTION_COLUMNS = (
    "what", "state", "action", "becomes", "undo", "until", "calls", "what it cannot do or leaves", "source",
)  # fmt: skip


def _actions(one: Any) -> list[list[str]]:
    return [
        [
            act.of,
            act.from_status,
            act.action,
            act.to_status,
            (act.undo or "no") + ("" if act.restores_exactly or not act.undo else ", not exactly"),
            "; ".join(
                filter(
                    None,
                    [
                        act.deadline,
                        f"thrown away {in_words(act.expires)} after send_at" if act.expires else "",
                    ],
                )
            ),
            next(
                (f"{rate.calls} per {in_words(rate.per)}" for rate in one.rates if rate.name == act.rate), ""
            ),
            "; ".join(filter(None, [act.limits, f"leaves {act.leaves_behind}" if act.leaves_behind else ""])),
            act.source,
        ]
        for act in one.actions
    ]


def provider_facts(one: Any) -> list[tuple[str, str]]:
    """Return what is true of a kind of provider as a whole."""
    late = {True: "yes, however late", False: "no", None: "not documented"}[one.fires_late]
    return [
        ("Stop everything of the account", one.stop_all),
        ("A scheduled campaign whose time is past is sent", late),
        (
            "It says who was mailed",
            "yes" if one.send_log else "no: the ledger needs the shop's webhook receipts",
        ),
        ("Its own resume skips exactly those who were mailed", "yes" if one.resume_per_recipient else "no"),
    ]
