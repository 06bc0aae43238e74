"""How the report says figures, times and estimates: one place, so that HTML and Markdown say the same."""

from __future__ import annotations

from datetime import datetime, timedelta

from tasks.core import Money, plural
from tasks.reports.content import Estimate, Loss, ReviewContent

NOT_KNOWN = "not known"
SIGNIFICANCE_LEVEL = 0.95


def say_time(at: datetime | None, *, year: bool = False) -> str:
    """Return `16 Nov 10:12`, with `year` `Wed 16 Nov 2011, 10:12 UTC`; unknown times say so."""
    if at is None:
        return NOT_KNOWN
    return f"{at:%a} {at.day} {at:%b %Y, %H:%M} UTC" if year else f"{at.day}\u00a0{at:%b}\u00a0{at:%H:%M}"


def say_span(start: datetime, end: datetime) -> str:
    """Return a window in words; the day stands once where both ends share it."""
    if start.date() == end.date():
        return f"{start:%a} {start.day} {start:%b %Y, %H:%M} to {end:%H:%M} UTC"
    return f"{start:%a} {start.day} {start:%b %Y, %H:%M} to {end:%a} {end.day} {end:%b, %H:%M} UTC"


def say_duration(seconds: float | timedelta | None) -> str:
    """Return `4 h 58 min`, `2 min 10 s`, `1 d 3 h`: two units at most."""
    if seconds is None:
        return NOT_KNOWN
    value = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
    sign, left = ("−" if value < 0 else ""), round(abs(value))
    if left == 0:
        return "0 s"
    # Rounded to what is shown, so that 3,599 s never reads "59 min 59 s" beside "1 h".
    left = round(left / 3600) * 3600 if left >= 86_400 else round(left / 60) * 60 if left >= 3600 else left
    parts = []
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
    return sign + " ".join(parts[:2])


def say_minutes(minutes: float | None) -> str:
    """Return a delay given in minutes."""
    return "—" if minutes is None else say_duration(minutes * 60)


def say_rate(rate: float | None) -> str:
    """Return a fraction as a percentage, with as many digits as a complaint rate needs."""
    if rate is None:
        return "—"
    return say_percent(rate, 2 if abs(rate) < 0.1 else 1)


def say_percent(share: float, digits: int = 0) -> str:
    """Return a fraction as `60 %`, with a true minus sign and a space that never breaks."""
    return f"{share * 100:.{digits}f}\u00a0%".replace("-", "−")


def say_money(minor: float, currency: str) -> str:
    """Return an amount in whole major units with a true minus sign."""
    return Money(round(minor), currency).whole().replace("-", "−")


def say_bounds(estimate: Estimate, currency: str, level: float = SIGNIFICANCE_LEVEL) -> str:
    """Return `£120 to £4,300`, or that there is no interval."""
    bounds = estimate.bounds(level)
    if bounds is None:
        return "no interval"
    return f"{say_money(bounds.low_minor, currency)} to {say_money(bounds.high_minor, currency)}"


def say_level(estimate: Estimate, level: float = SIGNIFICANCE_LEVEL) -> str:
    """Name the interval; one that rests on too few placebo windows is never called a 95 % one."""
    if estimate.low_confidence and level >= SIGNIFICANCE_LEVEL:
        return "widest interval, low confidence:"
    return f"{say_percent(level)} interval"


def includes_zero(estimate: Estimate, level: float = SIGNIFICANCE_LEVEL) -> bool:
    """Whether the interval cannot tell a loss from none; true also where there is no interval."""
    bounds = estimate.bounds(level)
    return bounds is None or bounds.low_minor <= 0 <= bounds.high_minor


def recovered_share(loss: Loss) -> float | None:
    """Return deferred over gross, or None where noise makes that no share: no gross loss, or outside 0 to 1."""
    if loss.gross.loss_minor <= 0:
        return None
    share = loss.deferred_minor / loss.gross.loss_minor
    return share if 0 <= share <= 1 else None


def rows_lost(content: ReviewContent) -> int | None:
    """Return the rows lost over all tables, as witnessed; None where no table could tell."""
    known = [one.lost for one in content.data if one.lost is not None and not one.estimated]
    return sum(known) if known else None


def rows_at_risk(content: ReviewContent) -> int:
    """Return the rows over all tables that no valid snapshot held when the impact began."""
    return sum(one.at_risk or 0 for one in content.data)


def rows_estimated_lost(content: ReviewContent) -> int:
    """Return the rows that may be lost by estimate, because nothing witnesses them."""
    return sum(one.lost or 0 for one in content.data if one.estimated)


def bottom_line(content: ReviewContent) -> list[tuple[str, str]]:
    """Return at most five labelled sentences that a reader who stops here must know."""
    outage, header = content.outage, content.header
    lines: list[tuple[str, str]] = []
    if outage.impact_started_at and outage.restored_at:
        span = say_span(outage.impact_started_at, outage.restored_at)
        what = f"{span}, {say_duration(outage.duration)}."
    elif outage.impact_started_at:
        what = f"Since {say_time(outage.impact_started_at, year=True)}; restoration not measured yet."
    else:
        what = "The start of the impact is not known, so nothing that is counted from it is shown."
    lines.append(("Outage", f"{what} {outage.affected}".strip()))
    lines.append(("Money", _money_line(content, header.currency)))
    lost, risk = rows_lost(content), rows_at_risk(content)
    if not content.data:
        data = "Not examined."
    elif lost is None:
        data = f"{plural(risk, 'row')} at risk; nothing could tell whether any was lost."
    else:
        data = f"{plural(lost, 'row') if lost else 'No row'} lost"
        if about := rows_estimated_lost(content):
            data += f", at most about {about:,} more by estimate"
        data += f"; {plural(risk, 'row')} had no valid backup when the impact began."
    lines.append(("Data", data))
    breaches = content.consent_breaches
    lines.append(
        (
            "Consent",
            "No message went to anybody who had opted out."
            if breaches == 0
            else f"{plural(breaches, 'message')} went to people who had opted out.",
        )
    )
    lines.append(("Decision asked", outage.decision_asked or "None."))
    return lines


def explain_loss(loss: Loss, currency: str) -> list[tuple[str, str]]:
    """Put the net loss in words: average, cumulative, relative, significance, what it means."""
    net = loss.net
    bounds = net.bounds(SIGNIFICANCE_LEVEL)
    hours = max(net.hours, 1e-9)
    name = say_level(net)

    def each(minor: float) -> str:
        return say_money(minor / hours, currency)

    window = f"Over {say_span(net.start, net.end)} ({net.hours:,.0f} h)"
    said = f" ({name} {each(bounds.low_minor)} to {each(bounds.high_minor)})" if bounds else ""
    less = "less" if net.loss_minor >= 0 else "more"
    lines = [
        (
            "Average",
            f"{window} the shop took {each(net.observed_minor)} an hour; {each(net.expected_minor)} was to be "
            f"expected. That is {each(abs(net.loss_minor))} an hour {less} than expected; the loss an hour is "
            f"{each(net.loss_minor)}{said}.",
        ),
        (
            "Cumulative",
            f"{say_money(net.observed_minor, currency)} came in, {say_money(net.expected_minor, currency)} was to be "
            f"expected: a net loss of {say_money(net.loss_minor, currency)}"
            + (f" ({name} {say_bounds(net, currency)})" if bounds else "")
            + f". Of a gross loss of {say_money(loss.gross.loss_minor, currency)}, "
            f"{say_money(loss.deferred_minor, currency)} came later.",
        ),
    ]
    if net.expected_minor > 0:
        share = net.loss_minor / net.expected_minor
        text = f"{say_percent(abs(share), 1)} {'below' if share >= 0 else 'above'} expectation"
        if bounds:
            low, high = bounds.low_minor / net.expected_minor, bounds.high_minor / net.expected_minor
            text += f"; as a loss, {say_percent(low, 1)} to {say_percent(high, 1)}"
        lines.append(("Relative", text + "."))
    lines.append(("Significance", say_significance(net)))
    lines.append(("What it means", _meaning(loss, currency)))
    return lines


def say_significance(estimate: Estimate) -> str:
    """Say whether the interval tells a loss from none, at the level it can bear."""
    bounds = estimate.bounds(SIGNIFICANCE_LEVEL)
    chance = (
        ""
        if estimate.probability_of_loss is None
        else f" The weight of past windows that point to a loss is {say_percent(estimate.probability_of_loss)}."
    )
    if bounds is None:
        return "There is no interval, so nothing can be said about chance." + chance
    if includes_zero(estimate):
        return (
            "The interval includes zero: this outage alone cannot be told from an ordinary week. The point estimate "
            "is the best single guess, not an established loss." + chance
        )
    if bounds.low_minor > 0 and estimate.low_confidence:
        return (
            "The widest interval excludes zero, but it is an extrapolation: a loss is likely, not established."
            + chance
        )
    if bounds.low_minor > 0:
        return "The interval excludes zero: a loss is established beyond ordinary variation." + chance
    return "The whole interval lies below zero: more came in than was to be expected." + chance


def say_cautions(loss: Loss, currency: str) -> list[str]:
    """List the reservations that the estimate itself calls for, then those that were given."""
    net = loss.net
    said = []
    if net.low_confidence and not any("confidence" in one.lower() for one in loss.cautions):
        said.append(
            f"Only {net.effective_placebos or 0:.0f} effective placebo windows stand behind it: its widest interval "
            "is an extrapolation and must not be read as 95 %."
        )
    if net.near_holiday:
        said.append("The window touches a public holiday; the interval was widened.")
    if not net.control or net.control == "none":
        said.append("No unaffected control was at hand.")
    if net.noise_floor_minor is not None:
        said.append(
            f"Chance alone, with the mean {'of e-mail orders ' if net.control not in ('', 'none') else ''}known "
            f"exactly, makes an interval {say_money(net.noise_floor_minor, currency)} wide: a much smaller loss cannot "
            "be seen in one window."
        )
    return said + list(loss.cautions)


def _money_line(content: ReviewContent, currency: str) -> str:
    loss = content.loss
    if loss is None:
        why = content.loss_missing_because or "no reason was given"
        return f"Not estimated: {why.rstrip('.')}."
    share = recovered_share(loss)
    back = f"; {say_percent(share)} of the gross loss came later" if share is not None else ""
    bounds = loss.net.bounds(SIGNIFICANCE_LEVEL)
    within = f" ({say_level(loss.net)} {say_bounds(loss.net, currency)})" if bounds else ""
    said = f"Net loss {say_money(loss.net.loss_minor, currency)}{within}{back}."
    if bounds is None:
        return said
    if includes_zero(loss.net):
        idle = content.messages.due == 0 and content.messages.unknown == 0
        return f"{said} The interval includes zero" + (
            ", and no message was due: nothing points to a loss." if idle else ": no loss is established."
        )
    if bounds.low_minor > 0:
        return f"{said} A loss is {'likely, not established' if loss.net.low_confidence else 'established'}."
    return f"{said} More came in than was to be expected."


def _meaning(loss: Loss, currency: str) -> str:
    bounds = loss.net.bounds(SIGNIFICANCE_LEVEL)
    text = (
        f"A plan for the worst reasonable case should reckon with {say_money(bounds.high_minor, currency)}; "
        if bounds
        else ""
    )
    text += "without the catch-up the loss would have been nearer to the gross figure."
    if loss.attributed_minor is not None:
        how = f" ({loss.attribution_model})" if loss.attribution_model else ""
        text += (
            f" Attribution{how} gives {say_money(loss.attributed_minor, currency)}: a model's claim, shown beside the "
            "estimate for comparison; it is not the loss."
        )
    return text[0].upper() + text[1:]
