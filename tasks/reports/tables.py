"""The tables beside a report: what it shows, and the rows behind its messages, its money and its rates.

From these rows the message counts, the deferred revenue, the intervals and the rates can be recomputed; how, says
`describe_tables`. What a placebo window earned and was forecast comes from the orders, by the report's queries.

Names, types and meanings of the columns are `TABLES`; they are stable, because the dataset across incidents is made
of the same tables. The meaning of a column also stands in the Parquet file, as the field's metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.reports.content import ReputationRow, ReviewContent

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """One column: `type` is `text`, `count`, `number`, `flag` or `time` (UTC)."""

    name: str
    type: str
    meaning: str


@dataclass(frozen=True)
class TableSpec:
    """One table: what a row is, its columns, and how it is made."""

    name: str
    row_is: str
    columns: tuple[Column, ...]
    rows: Callable[[ReviewContent], Iterator[Row] | pd.DataFrame | None]


def build_tables(content: ReviewContent, version: int) -> dict[str, pa.Table]:
    """Return every table of a report by name; each row starts with the incident and the version."""
    import pyarrow as pa

    types = {
        "text": pa.string(),
        "count": pa.int64(),
        "number": pa.float64(),
        "flag": pa.bool_(),
        "time": pa.timestamp("us", tz="UTC"),
    }
    built = {}
    for spec in TABLES:
        columns = KEY + spec.columns
        schema = pa.schema(
            [
                pa.field(one.name, types[one.type], metadata={"meaning": one.meaning, "type": one.type})
                for one in columns
            ],
            metadata={"row_is": spec.row_is},
        )
        key: dict[str, str | int] = {"incident": content.header.incident_id, "version": version}
        found = spec.rows(content)
        if found is None or isinstance(found, Iterator):
            rows = [{**key, **row} for row in found or ()]
            built[spec.name] = pa.Table.from_pylist(rows, schema=schema)
        else:
            built[spec.name] = pa.Table.from_pandas(found.assign(**key), schema=schema, preserve_index=False)
    return built


_RECOMPUTE = (
    "## How to recompute a figure",
    "",
    "- A message count of `report` is the number of rows of `message_fates` with that fate (`dropped` counts `bounced`",
    "  too, `due` all fates but `unknown` and `not_due`) or with that flag.",
    "- `deferred` is the sum of `deferred_orders.total_minor`; `gross` is `net` plus `deferred`.",
    "- A rate of `reputation` is `count / messages`, or `baseline_count / baseline_messages`.",
    "- An interval of `net`, `during` or `unaided`: sort the `placebos` of that statistic by `score`; let W be the sum",
    "  of their `weight` and Q(p) the first score at which the weights sum to p (W + 1) or more. The bounds of level L",
    "  are Q((1 + L) / 2) and, on the scores with the opposite sign, minus Q((1 + L) / 2); at 95 % each is the mean of",
    "  that and plus or minus Q(L) on the absolute scores. Without such a score the highest is taken, plus a quarter",
    "  of their range: `low_confidence` is set then. Both times `scale_minor` (times 1.5 if `near_holiday`), plus",
    "  `forecast_minor`, not below 0, minus `observed_minor`. The bounds of `gross` are those of `net` plus that of",
    "  `deferred`.",
    "- `expected_minor` is `forecast_minor` plus the weighted mean of the scores times `scale_minor`, not below 0",
    "  (0 where the forecast is 0); `loss_minor` is `expected_minor` minus `observed_minor`.",
)


def describe_tables() -> str:
    """Return the documentation of all tables as Markdown: it lies beside the dataset."""
    lines = [
        "# Tables of the reports",
        "",
        "Every report has these tables in `<incident>/v<NN>/tables/`; the dataset holds the same rows of all",
        "incidents and versions as `<table>-<incident>-v<NN>.parquet`. Read one table over all incidents with",
        "DuckDB: `SELECT * FROM 'loss-*.parquet'`. Only the highest version of an incident is current.",
        "",
        "Money is in minor units of `report.currency`, times are UTC, durations are seconds, rates are fractions.",
        "",
        "`message_fates` and `deferred_orders` name people by the provider's id only, never by an address.",
        "",
        *_RECOMPUTE,
    ]
    for spec in TABLES:
        lines += ["", f"## {spec.name}", "", f"One row is {spec.row_is}.", ""]
        lines += ["| column | type | meaning |", "|---|---|---|"]
        lines += [f"| {one.name} | {one.type} | {one.meaning} |" for one in KEY + spec.columns]
    return "\n".join(lines) + "\n"


def _report(content: ReviewContent) -> Iterator[Row]:
    header, outage, messages = content.header, content.outage, content.messages
    duration = outage.duration
    yield {
        "company": header.company,
        "provider": header.provider,
        "severity": header.severity,
        "cause_class": content.cause.cause_class,
        "settlement": header.settlement,
        "completeness": header.completeness,
        "issued_at": header.issued_at,
        "settle_by": header.settle_by,
        "currency": header.currency,
        "timezone": header.timezone,
        "simulated": header.simulated,
        "plan_digest": header.plan_digest,
        "impact_started_at": outage.impact_started_at,
        "restored_at": outage.restored_at,
        "resolved_at": outage.resolved_at,
        "impact_seconds": None if duration is None else duration.total_seconds(),
        "due": messages.due,
        "delayed": messages.delayed,
        "on_time": messages.on_time,
        "suppressed": messages.suppressed,
        "dropped": messages.dropped,
        "unknown": messages.unknown,
        "duplicated": messages.duplicated,
        "after_latest_useful": messages.after_latest_useful,
        "to_opted_out": messages.to_opted_out,
        "attributed_minor": content.loss.attributed_minor if content.loss else None,
        "attribution_model": content.loss.attribution_model if content.loss else None,
        "loss_missing_because": content.loss_missing_because or None,
    }


def _messages(content: ReviewContent) -> Iterator[Row]:
    for one in content.campaigns:
        yield {
            "campaign_id": one.campaign_id,
            "campaign": one.name,
            "kind": one.kind,
            "planned_at": one.planned_at,
            "latest_useful_at": one.latest_useful_at,
            "verdict": one.verdict,
            "reason": one.reason,
            "due": one.due,
            "delayed": one.delayed,
            "on_time": one.on_time,
            "suppressed": one.suppressed,
            "dropped": one.dropped,
            "unknown": one.unknown,
            "delay_median_minutes": one.delay_median_minutes,
            "delay_max_minutes": one.delay_max_minutes,
        }


def _loss(content: ReviewContent) -> Iterator[Row]:
    if content.loss is None:
        return
    loss = content.loss
    for one in (loss.gross, loss.deferred, loss.net, loss.during, loss.unaided, loss.second):
        if one is None:
            continue
        base = {
            "statistic": one.statistic,
            "window_start": one.start,
            "window_end": one.end,
            "expected_minor": one.expected_minor,
            "observed_minor": one.observed_minor,
            "loss_minor": one.loss_minor,
            "probability_of_loss": one.probability_of_loss,
            "effective_placebos": one.effective_placebos,
            "low_confidence": one.low_confidence,
            "noise_floor_minor": one.noise_floor_minor,
            "control": one.control,
            "near_holiday": one.near_holiday,
            "forecast_minor": one.forecast_minor,
            "scale_minor": one.scale_minor,
        }
        if not one.intervals:
            yield base
        for bounds in one.intervals:
            yield base | {
                "level": bounds.level,
                "low_minor": bounds.low_minor,
                "high_minor": bounds.high_minor,
            }


def _record(content: ReviewContent) -> Iterator[Row]:
    record = content.record
    if record is None:
        return
    for level, held in record.held:
        yield {
            "level": level,
            "held": held,
            "windows": record.windows,
            "false_claims": record.false_claims,
            "bias": record.bias,
            "warning": record.warning,
        }


def _series(content: ReviewContent) -> Iterator[Row]:
    for one in content.hours:
        yield {
            "hour": one.at,
            "actual_minor": one.actual_minor,
            "expected_minor": one.expected_minor,
            "low_minor": one.low_minor,
            "high_minor": one.high_minor,
        }


def _impact(content: ReviewContent) -> Iterator[Row]:
    for one in content.impact_lines:
        yield {
            "line": one.name,
            "value": one.value,
            "unit": one.unit,
            "checked": one.checked,
            "note": one.note,
        }


def _metrics(content: ReviewContent) -> Iterator[Row]:
    for one in content.metrics:
        yield {
            "metric": one.name,
            "from_anchor": one.from_anchor,
            "to_anchor": one.to_anchor,
            "seconds": one.seconds,
            "status": one.status,
        }


def _objectives(content: ReviewContent) -> Iterator[Row]:
    for one in content.objectives:
        yield {
            "object": one.object,
            "rpo_target_s": one.rpo_target_s,
            "rpo_actual_s": one.rpo_actual_s,
            "rto_target_s": one.rto_target_s,
            "rto_actual_s": one.rto_actual_s,
            "mtpd_s": one.mtpd_s,
            "met": one.met,
            "note": one.note,
        }


def _timeline(content: ReviewContent) -> Iterator[Row]:
    for one in content.timeline:
        yield {"at": one.at, "kind": one.kind, "text": one.text, "evidence": one.evidence}


def _decisions(content: ReviewContent) -> Iterator[Row]:
    for one in content.decisions:
        yield {
            "subject": one.subject,
            "decision": one.decision,
            "by": one.by,
            "vouched": one.vouched,
            "via": one.via,
            "asked_at": one.asked_at,
            "answered_at": one.answered_at,
        }


def _actions(content: ReviewContent) -> Iterator[Row]:
    for one in content.actions:
        yield {"kind": one.kind, "status": one.status, "count": one.count}


def _communications(content: ReviewContent) -> Iterator[Row]:
    for one in content.communications:
        yield {
            "stakeholder": one.stakeholder,
            "channel": one.channel,
            "report": one.report,
            "subject": one.subject,
            "status": one.status,
            "sent_at": one.sent_at,
            "promised_next_at": one.promised_next_at,
            "kept": one.kept,
        }


def _reputation(content: ReviewContent) -> Iterator[Row]:
    yield from (_rate(one) for one in content.reputation)


def _inboxes(content: ReviewContent) -> Iterator[Row]:
    for one in content.inboxes:
        yield {"mailbox": one.mailbox} | _rate(one)
    for seen in content.opens:
        yield {
            "mailbox": seen.mailbox,
            "rate": "open",
            "baseline": seen.opened_before / seen.messages_before if seen.messages_before else None,
            "after": seen.opened / seen.messages if seen.messages else None,
            "alarm": False,
            "note": "reported, never judged",
            "count": seen.opened,
            "messages": seen.messages,
            "baseline_count": seen.opened_before,
            "baseline_messages": seen.messages_before,
        }


def _watch(content: ReviewContent) -> Iterator[Row]:
    yield from (vars(one) for one in content.watch)


def _rate(one: ReputationRow) -> Row:
    return {
        "rate": one.metric,
        "baseline": one.baseline,
        "after": one.after,
        "z": one.z,
        "alarm": one.alarm,
        "threshold": one.threshold,
        "note": one.note,
        "count": one.count,
        "messages": one.messages,
        "baseline_count": one.baseline_count,
        "baseline_messages": one.baseline_messages,
        "p_value": one.p_value,
    }


def _data_loss(content: ReviewContent) -> Iterator[Row]:
    for one in content.data:
        yield {
            "source": one.source,
            "table": one.table,
            "at_risk": one.at_risk,
            "lost": one.lost,
            "witness": one.witness,
            "estimated": one.estimated,
            "note": one.note,
        }


def _findings(content: ReviewContent) -> Iterator[Row]:
    for one in content.findings:
        yield {"kind": one.kind, "text": one.text, "expected": one.expected, "seen": one.seen}


def _changes(content: ReviewContent) -> Iterator[Row]:
    for one in content.changes:
        yield {"figure": one.figure, "before": one.before, "after": one.after}


def _proposals(content: ReviewContent) -> Iterator[Row]:
    for one in content.proposals:
        yield {"key": one.key, "before": str(one.before), "after": str(one.after), "because": one.because}


def _lessons(content: ReviewContent) -> Iterator[Row]:
    for one in content.lessons:
        yield {"kind": one.kind, "text": one.text}


def _action_items(content: ReviewContent) -> Iterator[Row]:
    for one in content.action_items:
        yield {
            "title": one.title,
            "type": one.type,
            "priority": one.priority,
            "owner": one.owner,
            "due_at": one.due_at,
            "proof": one.proof,
            "status": one.status,
            "evidence": one.evidence,
        }


KEY = (
    Column("incident", "text", "the incident, `INC-0001`"),
    Column("version", "count", "version of the report, 1 for the first"),
)
"""Columns that every table starts with."""

_COUNTS = (
    Column(
        "due",
        "count",
        "planned from impact_started_at to restored_at, or left of a campaign that the impact cut "
        "short; outcome known",
    ),
    Column("delayed", "count", "due, and sent more than five minutes late"),
    Column("on_time", "count", "due, and sent within five minutes of the planned time"),
    Column("suppressed", "count", "due, not sent, the person opted out after the planned time"),
    Column("dropped", "count", "due, not sent for any other reason"),
    Column(
        "unknown", "count", "handed over and never answered; in no other count; none of earlier incidents"
    ),
)

_RATE = (
    Column("rate", "text", "its name"),
    Column("baseline", "number", "before the outage"),
    Column("after", "number", "after it"),
    Column("z", "number", "difference in standard errors"),
    Column("alarm", "flag", "it needs somebody to act"),
    Column("threshold", "number", "the limit it is held against"),
    Column("note", "text", "a remark"),
    Column("count", "count", "messages of the catch-up that had it"),
    Column("messages", "count", "messages of the catch-up"),
    Column("baseline_count", "count", "messages before the outage that had it"),
    Column("baseline_messages", "count", "messages before the outage"),
    Column("p_value", "number", "probability of so many or more in a campaign like those before"),
)

TABLES: tuple[TableSpec, ...] = (
    TableSpec(
        "report",
        "one version of a report: its header, the outage, all message counts",
        (
            Column("company", "text", "whose plan this is"),
            Column("provider", "text", "the provider that failed"),
            Column("severity", "text", "SEV-1 (worst) to SEV-5"),
            Column("cause_class", "text", "class of the cause"),
            Column("settlement", "text", "`provisional` or `settled`"),
            Column("completeness", "number", "share of the settled window whose data is in, 0 to 1"),
            Column("issued_at", "time", "when this version was made"),
            Column("settle_by", "time", "when the figures are final"),
            Column("currency", "text", "ISO 4217; all `_minor` columns are in its minor unit"),
            Column("timezone", "text", "business time zone"),
            Column("simulated", "flag", "times come from a driven clock"),
            Column("plan_digest", "text", "digest of the plan in force"),
            Column("impact_started_at", "time", "start of the impact; empty: unknown"),
            Column("restored_at", "time", "measured restoration of the provider"),
            Column("resolved_at", "time", "resolution of the incident"),
            Column("impact_seconds", "number", "restored_at minus impact_started_at"),
            *_COUNTS,
            Column("duplicated", "count", "sent more than once to the same person"),
            Column("after_latest_useful", "count", "sent after the campaign's latest_useful_at"),
            Column("to_opted_out", "count", "sent after the person's opt-out had reached us"),
            Column("attributed_minor", "count", "what the attribution model claims; not the loss"),
            Column("attribution_model", "text", "how that claim is made"),
            Column("loss_missing_because", "text", "why there is no estimate; empty: there is one"),
        ),
        _report,
    ),
    TableSpec(
        "messages",
        "one campaign; its counts sum to those of `report`",
        (
            Column("campaign_id", "count", "the provider's id; a catch-up copy counts as its original"),
            Column("campaign", "text", "its name"),
            Column("kind", "text", "its kind, as the plan's lateness rules name it"),
            Column("planned_at", "time", "when it was to be sent"),
            Column("latest_useful_at", "time", "after it the message must not go out; empty: no limit"),
            Column("verdict", "text", "`send`, `reschedule`, `drop`, `needs_approval`, or empty"),
            Column("reason", "text", "the verdict's reason"),
            *_COUNTS,
            Column("delay_median_minutes", "number", "median delay of its delayed messages"),
            Column("delay_max_minutes", "number", "longest delay"),
        ),
        _messages,
    ),
    TableSpec(
        "loss",
        "one statistic at one level of its interval",
        (
            Column(
                "statistic",
                "text",
                "`net`: outage and recovery in one; `deferred`: what late messages brought; "
                "`gross` = `net` + `deferred`; `during`: the outage alone; `unaided`: `net` without the control; "
                "`second`: `net` by another method, never mixed into it",
            ),
            Column("window_start", "time", "first moment of the window"),
            Column("window_end", "time", "end of the window (excluded)"),
            Column("expected_minor", "count", "the counterfactual total"),
            Column("observed_minor", "count", "what came in"),
            Column("loss_minor", "count", "expected minus observed; for `deferred` what came later"),
            Column("level", "number", "probability that the interval holds the truth; empty: no interval"),
            Column("low_minor", "count", "lower bound of the loss"),
            Column("high_minor", "count", "upper bound of the loss"),
            Column(
                "probability_of_loss", "number", "weight of placebos that leave a loss; empty for `gross`"
            ),
            Column("effective_placebos", "number", "sum of the placebos' weights"),
            Column(
                "low_confidence", "flag", "too little weight for a 95 % bound (below 39): it is extrapolated"
            ),
            Column(
                "noise_floor_minor",
                "count",
                "width of a 95 % interval if the mean were known exactly; with a "
                "control, of e-mail orders only",
            ),
            Column("control", "text", "what served as an unaffected control"),
            Column(
                "near_holiday", "flag", "the window touches a public holiday: the interval was widened by 1.5"
            ),
            Column("forecast_minor", "number", "the forecast before the placebos' mean error corrects it"),
            Column("scale_minor", "number", "size of an ordinary error of this window"),
        ),
        _loss,
    ),
    TableSpec(
        "record",
        "one level of the interval on the shop's own past windows in which nothing happened",
        (
            Column("level", "number", "probability that the interval promises"),
            Column("held", "count", "windows that it held, each judged by what was known before it"),
            Column("windows", "count", "windows judged"),
            Column("false_claims", "count", "windows in which the 95 % interval would have claimed a loss"),
            Column(
                "bias", "number", "expected minus observed over all windows, as a share of what was observed"
            ),
            Column("warning", "text", "what is off; empty: nothing"),
        ),
        _record,
    ),
    TableSpec(
        "placebos",
        "one past window that was forecast as the outage's was, behind one statistic",
        (
            Column("statistic", "text", "`net`, `during` or `unaided`"),
            Column("start", "time", "first moment of the past window; it is as long as the statistic's"),
            Column("observed_minor", "count", "what came in"),
            Column("expected_minor", "number", "what was forecast with what was known before it"),
            Column("scale_minor", "number", "size of an ordinary error of it"),
            Column("score", "number", "observed minus expected, over scale"),
            Column("weight", "number", "how much it counts: newer and more alike counts more, at most 1"),
            Column("near_holiday", "flag", "it touches a public holiday"),
        ),
        lambda content: content.basis.placebos,
    ),
    TableSpec(
        "message_fates",
        "one message: a campaign to a subscriber",
        (
            Column("campaign_id", "count", "the provider's id; a catch-up copy counts as its original"),
            Column("subscriber_id", "count", "the provider's id of the person"),
            Column(
                "fate",
                "text",
                "`delayed`, `on_time`, `suppressed`, `dropped`, `bounced`, `unknown`; `not_due` "
                "where only a flag counts it",
            ),
            Column("planned_at", "time", "when it was to be sent"),
            Column("attempted_at", "time", "when it was sent or tried; empty: never"),
            Column("late_minutes", "number", "attempted minus planned, of what was sent"),
            Column("duplicated", "flag", "it was sent more than once"),
            Column("after_latest_useful", "flag", "it was sent after the campaign's latest_useful_at"),
            Column("to_opted_out", "flag", "it was sent after the person's opt-out had reached us"),
        ),
        lambda content: content.basis.message_fates,
    ),
    TableSpec(
        "deferred_orders",
        "one order that a late message brought",
        (
            Column("campaign_id", "count", "the campaign that it names"),
            Column("subscriber_id", "count", "who bought"),
            Column("ordered_at", "time", "when"),
            Column("total_minor", "count", "its value"),
        ),
        lambda content: content.basis.deferred_orders,
    ),
    TableSpec(
        "series",
        "one hour of revenue",
        (
            Column("hour", "time", "start of the hour"),
            Column("actual_minor", "count", "revenue that came in"),
            Column("expected_minor", "number", "revenue to be expected without the outage"),
            Column("low_minor", "number", "lower end of the hour's 95 % band"),
            Column("high_minor", "number", "upper end of the hour's 95 % band"),
        ),
        _series,
    ),
    TableSpec(
        "impact",
        "one further line of the impact table",
        (
            Column("line", "text", "what was looked at"),
            Column("value", "number", "the figure; empty: not measured"),
            Column("unit", "text", "what is counted"),
            Column("checked", "text", "where it was looked for"),
            Column("note", "text", "a remark"),
        ),
        _impact,
    ),
    TableSpec(
        "metrics",
        "the time between two anchors",
        (
            Column("metric", "text", "its name"),
            Column("from_anchor", "text", "first timestamp"),
            Column("to_anchor", "text", "second timestamp"),
            Column("seconds", "number", "second minus first"),
            Column("status", "text", "`recorded`, `pending`, `not_applicable`, `invalid`"),
        ),
        _metrics,
    ),
    TableSpec(
        "objectives",
        "one marketing object's objectives and actuals",
        (
            Column("object", "text", "the marketing object"),
            Column("rpo_target_s", "number", "how old restored data may be"),
            Column("rpo_actual_s", "number", "how old it was"),
            Column("rto_target_s", "number", "how long restoring may take"),
            Column("rto_actual_s", "number", "how long it took"),
            Column("mtpd_s", "number", "longest tolerable disruption"),
            Column("met", "flag", "all that could be compared stayed within; empty: nothing could"),
            Column("note", "text", "a remark"),
        ),
        _objectives,
    ),
    TableSpec(
        "timeline",
        "one fact of the incident",
        (
            Column("at", "time", "when it happened"),
            Column("kind", "text", "its kind in the journal"),
            Column("text", "text", "the fact in words"),
            Column("evidence", "text", "where it is written down"),
        ),
        _timeline,
    ),
    TableSpec(
        "decisions",
        "one question that was asked",
        (
            Column("subject", "text", "what was asked"),
            Column("decision", "text", "the answer, or `awaiting`, `expired`"),
            Column("by", "text", "who answered"),
            Column("vouched", "flag", "a login stands behind that name"),
            Column("via", "text", "`ui`, `cli` or `policy`"),
            Column("asked_at", "time", "when it was asked"),
            Column("answered_at", "time", "when it was answered"),
        ),
        _decisions,
    ),
    TableSpec(
        "actions",
        "the changes outside Mailstay of one kind that ended alike",
        (
            Column("kind", "text", "kind of the change"),
            Column("status", "text", "`done`, `failed`, `unknown`, `not_done`, `intended`"),
            Column("count", "count", "how many"),
        ),
        _actions,
    ),
    TableSpec(
        "communications",
        "one message to one stakeholder",
        (
            Column("stakeholder", "text", "whom it went to, as the plan names it"),
            Column("channel", "text", "the channel"),
            Column("report", "text", "its form"),
            Column("subject", "text", "its subject"),
            Column("status", "text", "`sent`, `failed`, `unknown`, `intended`"),
            Column("sent_at", "time", "when it went out"),
            Column("promised_next_at", "time", "when it promised the next one; empty: it was the last"),
            Column("kept", "flag", "the promise was kept; empty: not due"),
        ),
        _communications,
    ),
    TableSpec(
        "reputation",
        "one deliverability rate over all mailbox providers",
        _RATE,
        _reputation,
    ),
    TableSpec(
        "inboxes",
        "one deliverability rate at one mailbox provider",
        (
            Column("mailbox", "text", "`gmail`, `outlook`, `yahoo`, `apple`, one of the plan, or `other`"),
            *_RATE,
        ),
        _inboxes,
    ),
    TableSpec(
        "watch",
        "what was sent to one mailbox provider on one day after the outage",
        (
            Column("day", "count", "1 is the day that begins with the restoration; up to 14"),
            Column("mailbox", "text", "the mailbox provider"),
            Column("messages", "count", "sent on that day"),
            Column("bounce", "count", "of these bounced"),
            Column("complaint", "count", "of these complained of"),
            Column("unsubscribe", "count", "of these answered by an opt-out"),
            Column("deferral", "count", "put off by a mail server, on top of `messages`"),
        ),
        _watch,
    ),
    TableSpec(
        "data_loss",
        "one table of one source",
        (
            Column("source", "text", "the plan's name of the source"),
            Column("table", "text", "the raw table; of an estimate what would be in it"),
            Column(
                "at_risk",
                "count",
                "rows born after the last valid snapshot and up to the impact; empty: no birth time",
            ),
            Column(
                "lost",
                "count",
                "rows gone after the recovery; empty: nothing could tell; never sum both kinds",
            ),
            Column("witness", "text", "what the loss was compared with"),
            Column("estimated", "flag", "`lost` is an estimate because nothing witnesses it"),
            Column("note", "text", "a remark"),
        ),
        _data_loss,
    ),
    TableSpec(
        "findings",
        "one departure of the journal from the plan",
        (
            Column("kind", "text", "`missing`, `late`, `out_of_order`"),
            Column("text", "text", "what it was"),
            Column("expected", "text", "what the plan asks for"),
            Column("seen", "text", "what the journal shows"),
        ),
        _findings,
    ),
    TableSpec(
        "changes",
        "one headline figure that is not what the version before said",
        (
            Column("figure", "text", "what it is"),
            Column("before", "text", "as the version before showed it; — if it did not"),
            Column("after", "text", "as this version shows it"),
        ),
        _changes,
    ),
    TableSpec(
        "proposals",
        "one change to the plan that follows from what was measured",
        (
            Column("key", "text", "path to the value in the plan"),
            Column("before", "text", "the value in the plan that was in force"),
            Column("after", "text", "the value that is proposed"),
            Column("because", "text", "what the incident showed"),
        ),
        _proposals,
    ),
    TableSpec(
        "lessons",
        "one thing that went well or poorly, or where we got lucky",
        (
            Column("kind", "text", "`well`, `poorly`, `lucky`"),
            Column("text", "text", "in words"),
        ),
        _lessons,
    ),
    TableSpec(
        "action_items",
        "one piece of work left behind",
        (
            Column("title", "text", "what is to be done"),
            Column("type", "text", "`prevent`, `mitigate`, `detect`, `repair`, `investigate`"),
            Column("priority", "text", "how urgent"),
            Column("owner", "text", "the team that owns it"),
            Column("due_at", "time", "when it is due"),
            Column("proof", "text", "what proves it done"),
            Column("status", "text", "`outstanding`, `completed`, `not_doing`"),
            Column("evidence", "text", "the proof, once it is completed"),
        ),
        _action_items,
    ),
)
"""Every table of a report."""
