"""A report as sections of paragraphs, tables, lists and charts, in the order a reader needs them.

HTML and Markdown only render what stands here; so both say the same in the same order: header, bottom line, impact,
money, timeline, objectives, cause, decisions, reputation, communications, lessons, actions, appendix.
"""

from __future__ import annotations

from collections.abc import Iterable

from tasks.core import plural
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
)
from tasks.reports.charts import draw_loss, draw_placebos, draw_revenue
from tasks.reports.content import Loss, ReputationRow, ReviewContent
from tasks.reports.words import (
    NOT_KNOWN,
    bottom_line,
    explain_loss,
    includes_zero,
    recovered_share,
    rows_at_risk,
    rows_estimated_lost,
    rows_lost,
    say_bounds,
    say_cautions,
    say_duration,
    say_level,
    say_minutes,
    say_money,
    say_percent,
    say_rate,
    say_time,
)


def compose(content: ReviewContent, version: int) -> Document:
    """Arrange the content of a report (pure)."""
    header = content.header
    settled = header.settlement == "settled"
    standing = (
        "Settled: no later data can change a figure."
        if settled
        else f"Provisional: late data may still change a figure, until {say_time(header.settle_by, year=True)}."
    )
    facts = (
        ("Incident", header.incident_id),
        ("Provider", header.provider),
        ("Severity", header.severity or NOT_KNOWN),
        ("Version", f"{version}, {header.settlement}"),
        ("Issued", say_time(header.issued_at, year=True)),
        ("Figures final", say_time(header.settle_by, year=True)),
        ("Data complete", f"{say_percent(header.completeness)}"),
        ("Times", f"UTC (business time zone {header.timezone})"),
        ("Currency", header.currency),
        ("Owner", header.owner or "not named"),
        ("Approver", header.approver or "not named"),
    )
    sections = [
        Section("impact", "Impact", tuple(_impact(content))),
        Section("money", "How the money was estimated", tuple(_money(content))),
        Section("timeline", "Timeline", tuple(_timeline(content))),
        Section("objectives", "Objectives and actuals", tuple(_objectives(content))),
        Section("cause", "Cause", tuple(_cause(content))),
        Section("decisions", "Decisions", tuple(_decisions(content))),
        Section("reputation", "Reputation", tuple(_reputation(content))),
        Section("communications", "Communications", tuple(_communications(content))),
        Section("lessons", "What went well, poorly, and where we got lucky", tuple(_lessons(content))),
        Section("actions", "Actions", tuple(_items(content))),
        Section("appendix", "Appendix", tuple(_appendix(content))),
    ]
    changed = _changes(content)
    return Document(
        title=header.title[:1].upper() + header.title[1:],
        kicker=f"{header.company} · Post-incident report",
        standing=standing,
        good=settled,
        notice="Simulated times: this report comes from a drill on a driven clock."
        if header.simulated
        else "",
        warning=f"{content.record.warning}. The last part of the appendix shows it."
        if content.record and content.record.warning
        else "",
        facts=facts,
        lines=tuple(bottom_line(content)),
        figures=tuple(_figures(content)),
        sections=tuple(
            ([Section("changes", "Changed since the version before", changed)] if changed else []) + sections
        ),
    )


def _figures(content: ReviewContent) -> Iterable[KeyFigure]:
    messages, loss, currency = content.messages, content.loss, content.header.currency
    yield KeyFigure(
        "Provider down", say_duration(content.outage.duration), "measured, not read from a status page"
    )
    if loss is None:
        yield KeyFigure("Net loss", "not estimated", content.loss_missing_because)
    else:
        zero = " · includes zero" if loss.net.intervals and includes_zero(loss.net) else ""
        yield KeyFigure(
            "Net loss",
            say_money(loss.net.loss_minor, currency),
            f"{say_level(loss.net)} {say_bounds(loss.net, currency)}{zero}",
        )
        share = recovered_share(loss)
        yield KeyFigure(
            "Came later",
            say_money(loss.deferred_minor, currency),
            "deferred, not lost" if share is None else f"{say_percent(share)} of the gross loss",
        )
    yield KeyFigure("Delayed", f"{messages.delayed:,}", f"of {plural(messages.due, 'message')} due")
    unknown = f", {messages.unknown:,} of unknown outcome" if messages.unknown else ""
    yield KeyFigure(
        "Dropped", f"{messages.dropped:,}", f"{messages.suppressed:,} held back by opt-out{unknown}"
    )
    lost = rows_lost(content)
    about = rows_estimated_lost(content)
    note = f"{rows_at_risk(content):,} at risk"
    note += f"; at most about {about:,} more by estimate" if about else ""
    yield KeyFigure("Rows lost", NOT_KNOWN if lost is None else f"{lost:,}", note, "bad" if lost else "")


def _count(value: float | None, checked: str, unit: str = "") -> Cell:
    """A count, with its unit; a zero says what was looked at, a missing one that nobody looked."""
    if value is None:
        return Cell("not measured", tone="quiet")
    if value == 0:
        return Cell("0, checked", checked, "good")
    said = f"{value:,.0f}" if float(value).is_integer() else f"{value:,.2f}"
    return Cell(f"{said} {unit.removesuffix('s') if value == 1 else unit}".strip())


def _impact(content: ReviewContent) -> Iterable[Block]:
    messages, outage = content.messages, content.outage
    minutes = None if outage.duration is None else round(outage.duration.total_seconds() / 60)
    log, lists = "the provider's send log and the ledger", "opt-outs of the shop and the provider"
    standard: list[tuple[str, float | None, str, str, str]] = [
        (
            "Impact",
            minutes,
            "minutes",
            "probes and the send log",
            "from the first thing due to the measured restoration",
        ),
        ("Messages due in the outage", messages.due, "messages", "send plan and audience", ""),
        ("of these delayed", messages.delayed, "messages", log, "more than five minutes late"),
        ("of these on time", messages.on_time, "messages", log, ""),
        (
            "of these held back by opt-out",
            messages.suppressed,
            "messages",
            lists,
            "opted out after the planned time",
        ),
        ("of these dropped", messages.dropped, "messages", log, ""),
        (
            "Messages of unknown outcome",
            messages.unknown,
            "messages",
            log,
            "handed over, never answered; not sent again",
        ),
        ("Messages duplicated", messages.duplicated, "messages", log, ""),
        ("Messages after they were useful", messages.after_latest_useful, "messages", log, ""),
        ("Messages to people who had opted out", messages.to_opted_out, "messages", lists, ""),
    ]
    rows = []
    for name, value, unit, checked, note in standard:
        cell = _count(value, checked, unit)
        bad = value and name in (
            "Messages duplicated",
            "Messages after they were useful",
            "Messages to people who had opted out",
        )
        rows.append(
            (
                Cell(name, tone="part" if name.startswith("of these") else ""),
                Cell(cell.text, "", "bad" if bad else cell.tone),
                Cell(cell.note or note),
            )
        )
    for line in content.impact_lines:
        cell = _count(line.value, line.checked, line.unit)
        remark = "; ".join(part for part in (cell.note, line.note) if part)
        rows.append((Cell(line.name), Cell(cell.text, "", cell.tone), Cell(remark)))
    yield Table((Heading("What"), Heading("Figure", True), Heading("Checked, remarks")), tuple(rows))
    if content.campaigns:
        yield _campaigns(content)
    if content.data:
        yield _data(content)


def _campaigns(content: ReviewContent) -> Table:
    rows = []
    for one in content.campaigns:
        tone = {"drop": "bad", "send": "good"}.get(one.verdict, "")
        latest = f"useful until {say_time(one.latest_useful_at)}" if one.latest_useful_at else ""
        delay = say_minutes(one.delay_median_minutes)
        longest = f"longest {say_minutes(one.delay_max_minutes)}" if one.delay_max_minutes is not None else ""
        rows.append(
            (
                Cell(one.name, f"{one.kind} · {one.campaign_id}"),
                Cell(say_time(one.planned_at), latest),
                Cell(one.verdict.replace("_", " ") or "—", one.reason, tone),
                *(
                    Cell(f"{value:,}", tone="" if value else "quiet")
                    for value in (one.due, one.delayed, one.suppressed, one.dropped, one.unknown)
                ),
                Cell(delay, longest),
            )
        )
    return Table(
        (
            Heading("Campaign"),
            Heading("Planned (UTC)"),
            Heading("Verdict"),
            *(
                Heading(name, True)
                for name in ("Due", "Delayed", "Opted out", "Dropped", "Unknown", "Median delay")
            ),
        ),
        tuple(rows),
        "Campaign by campaign",
    )


def _data(content: ReviewContent) -> Table:
    rows = []
    whole = [one for one in content.data if not one.at_risk and one.lost == 0 and not one.estimated]
    for one in content.data:
        if len(whole) > 2 and one in whole:
            continue
        lost = Cell(f"about {one.lost:,}") if one.estimated and one.lost is not None else _count(one.lost, "")
        by = f"witness: {one.witness}" if one.witness else "nothing witnesses it"
        if one.estimated and one.witness:
            by = f"estimated: {one.witness}"
        rows.append(
            (
                Cell(one.table, one.source),
                Cell("—" if one.at_risk is None else f"{one.at_risk:,}", tone="" if one.at_risk else "quiet"),
                Cell(lost.text, "", "bad" if one.lost and not one.estimated else lost.tone),
                Cell(by, one.note),
            )
        )
    if len(whole) > 2:
        named = (each for one in whole for each in one.witness.split(" and ") if each)
        witnesses = ", ".join(dict.fromkeys(named))
        rows.append(
            (
                Cell(f"{len(whole)} other tables", ", ".join(f"{one.source}.{one.table}" for one in whole)),
                Cell("0", tone="quiet"),
                Cell("0, checked", tone="good"),
                Cell(f"witness: {witnesses}" if witnesses else "nothing witnesses it"),
            )
        )
    return Table(
        (
            Heading("Table"),
            Heading("Rows at risk", True),
            Heading("Rows lost", True),
            Heading("How it is known"),
        ),
        tuple(rows),
        "Data at risk and data lost",
    )


def _money(content: ReviewContent) -> Iterable[Block]:
    loss, currency = content.loss, content.header.currency
    revenue = draw_revenue(content)
    if revenue:
        yield Chart(
            revenue,
            "Revenue by the hour against what was to be expected. The band is what chance does to one hour; the "
            "interval of the loss is that of the whole window and is shown below, never the sum of hours.",
        )
    if loss is None:
        yield Paragraph(content.loss_missing_because or "No reason was given.", "Not estimated")
        return
    yield Chart(
        draw_loss(loss, currency),
        "The loss with its intervals, from past windows of the same length and time of day.",
    )
    rows = []
    names = {
        "gross": "Gross loss",
        "deferred": "Came later (deferred)",
        "net": "Net loss",
        "unaided": "Net loss, without the control",
        "second": "Net loss, second opinion",
        "during": "While it lasted",
    }
    for one in (loss.gross, loss.deferred, loss.net, loss.second, loss.unaided, loss.during):
        if one is not None:
            rows.append(
                (
                    Cell(names[one.statistic], f"{say_time(one.start)} to {say_time(one.end)}"),
                    Cell("—" if one.statistic == "deferred" else say_money(one.expected_minor, currency)),
                    Cell("—" if one.statistic == "deferred" else say_money(one.observed_minor, currency)),
                    Cell(say_money(one.loss_minor, currency)),
                    *(
                        Cell(say_bounds(one, currency, level) if one.bounds(level) else "—")
                        for level in (0.5, 0.8, 0.95)
                    ),
                )
            )
    if loss.attributed_minor is not None:
        rows.append(
            (
                Cell("Attribution", "a model's claim, for comparison; not the loss"),
                Cell("—"),
                Cell("—"),
                Cell(say_money(loss.attributed_minor, currency)),
                Cell("—"),
                Cell("—"),
                Cell("—"),
            )
        )
    last = "Widest" if loss.net.low_confidence else "95 %"
    yield Table(
        (
            Heading("Statistic"),
            *(Heading(name, True) for name in ("Expected", "Actual", "Loss", "50 %", "80 %", last)),
        ),
        tuple(rows),
    )
    basis = []
    if loss.net.effective_placebos is not None:
        basis.append(
            f"past windows of a weight of {loss.net.effective_placebos:.0f} (one just like this window weighs 1)"
        )
    if loss.net.noise_floor_minor is not None:
        basis.append(f"noise floor {say_money(loss.net.noise_floor_minor, currency)}")
    if loss.net.probability_of_loss is not None:
        basis.append(f"weight of a loss {say_percent(loss.net.probability_of_loss)}")
    if loss.net.control:
        basis.append(f"control: {loss.net.control}")
    if basis:
        yield Paragraph("; ".join(basis) + ".", "Basis")
    yield _second_opinion(loss)
    yield from _came_back(loss, currency)
    *words, meaning = explain_loss(loss, currency)
    for lead, text in words:
        yield Paragraph(text, lead)
    if cautions := say_cautions(loss, currency):
        yield Bullets("Cautions", tuple(cautions))
    yield Paragraph(meaning[1], meaning[0])


def _second_opinion(loss: Loss) -> Paragraph:
    if loss.second is None:
        text = "None: it needs statsmodels (pip install 'mailstay[second-opinion]') and 39 past windows."
        return Paragraph(text, "Second opinion")
    return Paragraph(
        "A structural time series (level, day and week in state space) of the revenue alone, without control and send "
        f"plan. Its own 95 % interval was made {loss.stretched or 1:.1f} times as wide, so that it holds in "
        f"{loss.second.effective_placebos or 0:.0f} past windows of this shop. It stands beside the estimate and is "
        "never mixed into it.",
        "Second opinion",
    )


def _came_back(loss: Loss, currency: str) -> Iterable[Block]:
    """Deferred revenue in two ways and their difference; nothing is added up from both."""
    if loss.returned_minor is None:
        return
    floor = loss.net.noise_floor_minor
    noise = f"; chance alone moves it by about {say_money(floor / 2, currency)} either way" if floor else ""
    rows = (
        (
            "Order by order (deferred)",
            loss.deferred_minor,
            "orders that late messages brought, counted one by one: the figure that is used",
        ),
        (
            "Seen from above (returned)",
            loss.returned_minor,
            "loss while it lasted minus net loss: a check, far less certain",
        ),
        (
            "Difference",
            loss.deferred_minor - loss.returned_minor,
            "above zero, pulled forward: late orders in place of others that would have come anyway; below zero: what "
            f"came back without a message{noise}",
        ),
    )
    yield Table(
        (Heading("What came later"), Heading("Amount", True), Heading("How it is known")),
        tuple((Cell(name), Cell(say_money(minor, currency)), Cell(known)) for name, minor, known in rows),
        "Deferred and pulled forward",
    )


def _timeline(content: ReviewContent) -> Iterable[Block]:
    if not content.timeline:
        yield Paragraph("Nothing was recorded.")
        return
    yield Table(
        (Heading("Time (UTC)"), Heading("Event"), Heading("Evidence")),
        tuple(
            (
                Cell(f"{one.at.day} {one.at:%b %H:%M:%S}"),
                Cell(one.text, one.kind.replace("_", " ")),
                Cell(one.evidence or "—", tone="quiet"),
            )
            for one in content.timeline
        ),
    )


def _objectives(content: ReviewContent) -> Iterable[Block]:
    if content.objectives:
        rows = []
        for one in content.objectives:
            word, tone = {True: ("met", "good"), False: ("missed", "bad"), None: ("not comparable", "quiet")}[
                one.met
            ]
            met = Cell(word, one.note, tone)
            values = (one.rpo_target_s, one.rpo_actual_s, one.rto_target_s, one.rto_actual_s, one.mtpd_s)
            rows.append(
                (Cell(one.object), *(Cell("—" if v is None else say_duration(v)) for v in values), met)
            )
        yield Table(
            (
                Heading("Object"),
                *(Heading(n, True) for n in ("RPO", "RPO actual", "RTO", "RTO actual", "MTPD")),
                Heading("Result"),
            ),
            tuple(rows),
            "Recovery objectives",
        )
    if content.metrics:
        yield Table(
            (Heading("Metric"), Heading("From"), Heading("To"), Heading("Time", True), Heading("Status")),
            tuple(
                (
                    Cell(one.name.replace("_", " ")),
                    Cell(one.from_anchor.replace("_", " ")),
                    Cell(one.to_anchor.replace("_", " ")),
                    Cell("—" if one.seconds is None else say_duration(one.seconds)),
                    Cell(
                        one.status.replace("_", " "),
                        tone={"recorded": "", "invalid": "bad"}.get(one.status, "quiet"),
                    ),
                )
                for one in content.metrics
            ),
            "Metrics, each between two anchors",
        )
    if not content.objectives and not content.metrics:
        yield Paragraph("No objective and no metric was given.")


def _cause(content: ReviewContent) -> Iterable[Block]:
    cause = content.cause
    yield Paragraph(cause.cause_class.replace("_", " ").capitalize() + ".", "Class")
    for lead, text in (
        ("Trigger", cause.trigger),
        ("Detection", cause.detection),
        ("Resolution", cause.resolution),
    ):
        if text:
            yield Paragraph(f"{text[:1].upper()}{text[1:].rstrip('.')}.", lead)
    if cause.factors:
        yield Bullets("Contributing factors", cause.factors)


def _decisions(content: ReviewContent) -> Iterable[Block]:
    if content.decisions:
        yield Table(
            (
                Heading("Asked"),
                Heading("Decision"),
                Heading("By"),
                Heading("Asked at"),
                Heading("Answered at"),
            ),
            tuple(
                (
                    Cell(one.subject),
                    Cell(one.decision, tone={"approved": "good", "rejected": "bad"}.get(one.decision, "")),
                    Cell(
                        one.by or "—",
                        ", ".join(p for p in (one.via, "" if one.vouched else "name not vouched for") if p),
                    ),
                    Cell(say_time(one.asked_at)),
                    Cell(say_time(one.answered_at) if one.answered_at else "not answered"),
                )
                for one in content.decisions
            ),
        )
    else:
        yield Paragraph("No approval was asked for.")
    if content.actions:
        yield Table(
            (Heading("Change made outside"), Heading("How it ended"), Heading("Count", True)),
            tuple(
                (
                    Cell(one.kind.replace("_", " ")),
                    Cell(
                        one.status.replace("_", " "),
                        tone={"done": "good", "failed": "bad", "unknown": "bad"}.get(one.status, ""),
                    ),
                    Cell(f"{one.count:,}"),
                )
                for one in content.actions
            ),
            "What was changed",
        )


def _reputation(content: ReviewContent) -> Iterable[Block]:
    if not content.reputation:
        yield Paragraph("Not examined.")
        return
    yield _rates(content.reputation, "")
    if content.inboxes:
        yield _rates(content.inboxes, "At each mailbox provider")
    if content.opens:
        yield Table(
            (Heading("Opened"), Heading("Before", True), Heading("After", True)),
            tuple(
                (
                    Cell(one.mailbox),
                    _share(one.opened_before, one.messages_before),
                    _share(one.opened, one.messages),
                )
                for one in content.opens
            ),
            "Open rate: reported, never judged",
        )
        yield Paragraph("An open rate is no measure of deliverability: filters open mail that nobody reads.")
    if content.watch:
        yield _watch(content)


def _rates(rows: tuple[ReputationRow, ...], title: str) -> Table:
    return Table(
        (
            Heading("Rate"),
            *(Heading(n, True) for n in ("Before", "After", "Limit", "Standard errors")),
            Heading("Result"),
        ),
        tuple(
            (
                Cell(f"{one.mailbox} {one.metric.replace('_', ' ')}".strip(), one.note),
                Cell(say_rate(one.baseline), _of(one.baseline_count, one.baseline_messages)),
                Cell(say_rate(one.after), _of(one.count, one.messages)),
                Cell(say_rate(one.threshold)),
                Cell("—" if one.z is None else f"{one.z:+.1f}".replace("-", "−")),
                Cell("act", tone="bad")
                if one.alarm
                else Cell(
                    "in band" if one.after is not None else "not measured",
                    tone="good" if one.after is not None else "quiet",
                ),
            )
            for one in rows
        ),
        title,
    )


def _watch(content: ReviewContent) -> Table:
    """The days after the outage; a cell is one mailbox provider's bounces and complaints of that day's messages."""
    names = sorted({one.mailbox for one in content.watch})
    days = sorted({one.day for one in content.watch})
    seen = {(one.day, one.mailbox): one for one in content.watch}

    def cell(day: int, name: str) -> Cell:
        one = seen.get((day, name))
        if one is None:
            return Cell("—", tone="quiet")
        rates = ", ".join(
            f"{say_percent(count / one.messages, 1)} {what}"
            for count, what in ((one.bounce, "bounced"), (one.complaint, "complained"))
            if one.messages
        )
        return Cell(rates or "none taken", f"of {one.messages:,}; {one.deferral:,} put off")

    return Table(
        (Heading("Sent"), *(Heading(one) for one in names)),
        tuple((Cell(f"D+{day}"), *(cell(day, name) for name in names)) for day in days),
        "Day by day after the outage",
    )


def _share(count: int, messages: int) -> Cell:
    return Cell("—" if not messages else say_percent(count / messages, 1), _of(count, messages))


def _of(count: int | None, messages: int | None) -> str:
    return "" if count is None or messages is None else f"{count:,} of {messages:,}"


def _communications(content: ReviewContent) -> Iterable[Block]:
    if not content.communications:
        yield Paragraph("Nothing was sent to anybody.")
        return
    kept = {True: ("kept", "good"), False: ("not kept", "bad"), None: ("—", "quiet")}
    yield Table(
        (
            Heading("To"),
            Heading("Subject"),
            Heading("Sent (UTC)"),
            Heading("Next promised"),
            Heading("Promise"),
        ),
        tuple(
            (
                Cell(one.stakeholder, f"{one.channel}, {one.report}"),
                Cell(one.subject),
                Cell(say_time(one.sent_at) if one.sent_at else one.status, tone="" if one.sent_at else "bad"),
                Cell(say_time(one.promised_next_at) if one.promised_next_at else "last one"),
                Cell(kept[one.kept][0], tone=kept[one.kept][1]),
            )
            for one in content.communications
        ),
    )


def _lessons(content: ReviewContent) -> Iterable[Block]:
    for kind, title in (("well", "Went well"), ("poorly", "Went poorly"), ("lucky", "Got lucky")):
        items = tuple(one.text for one in content.lessons if one.kind == kind)
        if items:
            yield Bullets(title, items)
    if content.findings:
        yield Table(
            (Heading("Finding"), Heading("Kind"), Heading("Plan"), Heading("Journal")),
            tuple(
                (
                    Cell(one.text),
                    Cell(one.kind.replace("_", " "), tone="bad"),
                    Cell(one.expected or "—"),
                    Cell(one.seen or "—"),
                )
                for one in content.findings
            ),
            "Plan against journal",
        )
    else:
        yield Paragraph("The journal shows nothing missing, late or out of order.", "Plan against journal")
    if content.proposals:
        yield Table(
            (Heading("Key"), Heading("Now", True), Heading("Proposed", True), Heading("Because")),
            tuple(
                (Cell(one.key), Cell(str(one.before)), Cell(str(one.after)), Cell(one.because))
                for one in content.proposals
            ),
            "Proposed changes to the plan",
        )
    if content.plan_patch:
        yield Paragraph(
            "The file “plan.patch” beside this report holds them. Read it, then apply it in the plan's folder with "
            "patch -p0, or refuse it: nothing is changed by itself."
        )


def _items(content: ReviewContent) -> Iterable[Block]:
    if content.action_items:
        yield Table(
            (Heading("Item"), Heading("Type"), Heading("Owner"), Heading("Due"), Heading("Status")),
            tuple(
                (
                    Cell(one.title, f"done when: {one.proof}" if one.proof else ""),
                    Cell(one.type, one.priority),
                    Cell(one.owner or "nobody", tone="" if one.owner else "bad"),
                    Cell(f"{one.due_at.day} {one.due_at:%b %Y}" if one.due_at else "no date"),
                    Cell(
                        one.status.replace("_", " "),
                        one.evidence,
                        "good" if one.status == "completed" else "",
                    ),
                )
                for one in content.action_items
            ),
        )
    else:
        yield Paragraph("No action item was recorded.")
    if content.similar_incidents:
        yield Table(
            (
                Heading("Incident"),
                Heading("Alike"),
                Heading("Would an earlier action have prevented this one?"),
            ),
            tuple(
                (
                    Cell(one.id, one.summary),
                    Cell(one.alike, one.state.replace("_", " ")),
                    Cell(
                        "; ".join((*one.left, *one.done)) or "nothing that was left open would have",
                        tone="bad" if one.left else "",
                    ),
                )
                for one in content.similar_incidents
            ),
            "Similar past incidents",
        )


_GLOSSARY = (
    "Counterfactual: what would have been earned without the outage.",
    "Net loss: what never came. Deferred: what late messages still brought. Gross loss: both together.",
    "Interval: bounds that hold the true loss with the stated probability, calibrated on past windows.",
    "Noise floor: how wide an interval is by chance alone, with the mean known exactly; where other orders serve as a "
    "control, the chance of e-mail orders.",
    "RPO, RTO: how old restored data may be, how long restoring may take. MTPD: longest tolerable disruption.",
    "At risk: born after the last valid backup. Lost: gone after the recovery.",
    "Unknown outcome: asked, no answer; reconciled, never blindly sent again.",
)


def _appendix(content: ReviewContent) -> Iterable[Block]:
    appendix = content.appendix
    if content.messages.unknown:
        where = f", listed by subscriber id in {appendix.unknown_file}" if appendix.unknown_file else ""
        yield Paragraph(f"{plural(content.messages.unknown, 'message')}{where}.", "Unknown outcomes")
    if appendix.sources:
        yield Bullets("Sources", appendix.sources)
    if appendix.assumptions:
        yield Bullets("Assumptions", appendix.assumptions)
    for name, text in appendix.queries:
        yield Code(name, text)
    yield Paragraph(
        "The folder “tables” beside this report holds, as Parquet files, what it shows and the rows behind it: the "
        "message counts, the deferred revenue, the intervals and the rates can be recomputed from them.",
        "Tables",
    )
    yield Bullets("Glossary", _GLOSSARY)
    yield from _record(content)


def _record(content: ReviewContent) -> Iterable[Block]:
    """How often the intervals were right in this shop's own past."""
    record, loss, currency = content.record, content.loss, content.header.currency
    title = "How often the intervals were right in this shop's own past"
    if record is None or loss is None:
        yield Paragraph("Too few past windows have a past of their own to judge the intervals by.", title)
        return
    windows = record.windows
    held = [
        (
            f"{say_percent(level)} interval held",
            say_percent(count / windows, 1),
            f"{count:,} of {windows:,} windows; promised {say_percent(level)}",
        )
        for level, count in record.held
    ]
    others = [
        (
            "False claims of a loss",
            say_percent(record.false_claims / windows, 1),
            f"{record.false_claims:,} of {windows:,} windows at 95 %; promised {say_percent(0.025, 1)}",
        ),
        (
            "Bias",
            say_percent(record.bias, 1),
            "expected minus observed over all of them, of what was observed; above zero: losses look too large",
        ),
    ]
    yield Table(
        (Heading("Past windows"), Heading("Result", True), Heading("Counted")),
        tuple((Cell(name), Cell(result), Cell(counted)) for name, result, counted in held + others),
        title,
    )
    yield Paragraph(
        f"{plural(windows, 'past window')} of {loss.net.hours:.0f} h in which nothing happened, each judged by what "
        "was known before it. A level is off, and the head of this report says so, where chance would let it hold so "
        "few less than once in 100 (one-sided binomial test; windows that overlap count once).",
        "Rule",
    )
    yield Paragraph(f"{record.warning or 'No level is off'}.", "Verdict")
    if len(record.errors_minor) > 1:
        yield Chart(
            draw_placebos(list(record.errors_minor), loss.net.loss_minor, currency),
            "What the estimate finds in past windows in which nothing happened, all corrected by the same mean error, "
            "and this outage.",
        )


def _changes(content: ReviewContent) -> tuple[Block, ...]:
    if not content.changes:
        return ()
    rows = tuple(
        (Cell(one.figure[:1].upper() + one.figure[1:]), Cell(one.before), Cell(one.after))
        for one in content.changes
    )
    had = " and ".join(content.had_before)
    return (
        Table((Heading("Figure"), Heading("Before", True), Heading("Now", True)), rows),
        Paragraph(
            f"{had}." if had else "Nobody was sent the figures of an earlier version.", "Who had the old ones"
        ),
    )
