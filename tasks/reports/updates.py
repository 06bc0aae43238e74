"""What each circle is told once an incident is reviewed, from the figures of the report: drafts, sent by nobody.

Audience and support hear nothing of money; no time of a restoration is promised to anybody; data loss or its absence
is stated in every one (PagerDuty's guide to external communication).
"""

from __future__ import annotations

from tasks.core import plural
from tasks.reports.content import ReviewContent
from tasks.reports.markdown import escape
from tasks.reports.words import (
    SIGNIFICANCE_LEVEL,
    bottom_line,
    rows_lost,
    say_duration,
    say_money,
    say_span,
    say_time,
)


def updates(content: ReviewContent, version: int) -> dict[str, str]:
    """Return the drafts as Markdown, by circle: `board`, `executives`, `support` and `audience`."""
    return {
        "board": _board(content, version),
        "executives": _executives(content, version),
        "support": _support(content),
        "audience": _audience(content),
    }


def _board(content: ReviewContent, version: int) -> str:
    header, loss, currency = content.header, content.loss, content.header.currency
    lines = [
        f"# {header.incident_id} for the board: {escape(header.title)}",
        "",
        _standing(content, version),
        "",
    ]
    lines += [f"- **{lead}.** {escape(text)}" for lead, text in bottom_line(content)]
    bounds = loss.net.bounds(SIGNIFICANCE_LEVEL) if loss else None
    if bounds:
        lines.append(f"- **Worst reasonable case.** {say_money(bounds.high_minor, currency)} net.")
    missed = [one.object.replace("_", " ") for one in content.objectives if one.met is False]
    lines.append(
        f"- **Objectives.** Missed: {', '.join(missed)}."
        if missed
        else "- **Objectives.** None that was measured was missed."
    )
    lines.append(f"- **What follows.** {_work(content)}")
    return "\n".join(lines) + "\n"


def _executives(content: ReviewContent, version: int) -> str:
    header, messages = content.header, content.messages
    lines = [
        f"# {header.incident_id} for executives: {escape(header.title)}",
        "",
        _standing(content, version),
        "",
    ]
    lines += [f"- **{lead}.** {escape(text)}" for lead, text in bottom_line(content)]
    lines.append(
        f"- **Messages.** {messages.due:,} were due, {messages.delayed:,} came late, {messages.dropped:,} were "
        f"dropped, {messages.duplicated:,} went out twice, {messages.unknown:,} are of unknown outcome."
    )
    lines.append(f"- **Next steps.** {_work(content)}")
    lines += [
        f"  - {escape(one.title)} ({one.owner or 'nobody'})"
        for one in content.action_items
        if one.priority == "P0"
    ]
    return "\n".join(lines) + "\n"


def _support(content: ReviewContent) -> str:
    messages = content.messages
    lines = [
        f"# {content.header.incident_id} for customer support",
        "",
        f"**What happened.** {_when(content)} Our e-mail provider did not send as it should.",
        "",
        "**What customers may ask about**",
        "",
        f"- {plural(messages.delayed, 'message')} came late; {plural(messages.dropped, 'message')} will not come.",
        f"- {plural(messages.duplicated, 'message')} arrived twice.",
        f"- {plural(messages.to_opted_out, 'message')} went to people who had opted out.",
        f"- {_data(content)}",
    ]
    for one in content.campaigns:
        if one.due or one.unknown:
            offer = f", its offer ended {say_time(one.latest_useful_at)} UTC" if one.latest_useful_at else ""
            lines.append(f"- {escape(one.name)}: {one.delayed:,} late, {one.dropped:,} not sent{offer}.")
    lines += [
        "",
        "**What not to promise.** No message that was dropped comes later.",
    ]
    return "\n".join(lines) + "\n"


def _audience(content: ReviewContent) -> str:
    messages = content.messages
    some = messages.delayed + messages.dropped > 0
    lines = [
        f"# Our e-mails: {'what happened' if some else 'nothing you need to do'}",
        "",
        _when(content)
        + " Some of our e-mails "
        + ("came late or did not come. We are sorry." if some else "could have come late. None did."),
        "",
        f"What we did: {'we sent what was still useful and left out the rest' if some else 'we watched and checked'}."
        + (" Nobody who had unsubscribed was written to." if not messages.to_opted_out else ""),
        "",
        _data(content),
    ]
    return "\n".join(lines) + "\n"


def _standing(content: ReviewContent, version: int) -> str:
    header = content.header
    final = "" if header.settlement == "settled" else f"; final {say_time(header.settle_by, year=True)}"
    return f"Version {version} of the report, {header.settlement}{final}."


def _when(content: ReviewContent) -> str:
    outage = content.outage
    if outage.impact_started_at and outage.restored_at:
        span = say_span(outage.impact_started_at, outage.restored_at)
        return f"{span} ({say_duration(outage.duration)})."
    return "When it began is not known."


def _data(content: ReviewContent) -> str:
    lost = rows_lost(content)
    if lost is None:
        return "Whether data were lost is not known yet."
    return "No data were lost." if lost == 0 else f"{plural(lost, 'record')} of our own were lost."


def _work(content: ReviewContent) -> str:
    open_ones = [one for one in content.action_items if one.status == "outstanding"]
    first = min((one.due_at for one in open_ones if one.due_at), default=None)
    due = f", the first due {first.day} {first:%b %Y}" if first else ""
    return (
        f"{plural(len(open_ones), 'action item')} outstanding{due}."
        if open_ones
        else "No action item is outstanding."
    )
