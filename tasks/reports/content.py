"""Everything a post-incident report shows, as plain facts: what the review fills in and every writer reads.

Reports compute nothing about the outage; they arrange what stands here. Times are UTC and aware, money is integer
minor units of `Header.currency`, durations are seconds, rates are fractions. Optional parts stay empty: an empty
part is left out of the report, a count of zero is shown as "0, checked".
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pandas as pd

Settlement = Literal["provisional", "settled"]
Statistic = Literal["gross", "deferred", "net", "during", "unaided", "second"]
FindingKind = Literal["missing", "late", "out_of_order"]
Lesson = Literal["well", "poorly", "lucky"]


@dataclass(frozen=True)
class Header:
    """Who wrote what about which incident, and how final it is.

    Attributes:
        company: whose plan this is, as the plan names it.
        incident_id: `INC-0001`.
        title: the incident in one line.
        issued_at: when this version was made.
        settlement: `provisional` while late data may still change a figure.
        settle_by: when the figures are final.
        completeness: share of the settled window whose data is in, 0 to 1.
        timezone: the business time zone; the report's times are UTC and say so.
        simulated: the times come from a driven clock (a drill, a demo).
        owner: who keeps this report; `approver`: who signs it. Empty: nobody is named yet.
        plan_digest: digest of the plan that was in force.
    """

    company: str
    incident_id: str
    title: str
    provider: str
    severity: str
    issued_at: datetime
    settlement: Settlement
    currency: str
    settle_by: datetime | None = None
    completeness: float = 1.0
    timezone: str = "UTC"
    simulated: bool = False
    owner: str = ""
    approver: str = ""
    plan_digest: str = ""


@dataclass(frozen=True)
class Outage:
    """When the impact was, as measured; None where nobody knows.

    Attributes:
        impact_started_at: the first moment at which something was due and could not happen. Never guessed.
        restored_at: when the provider was measured to work again (not when its status page said so).
        resolved_at: when the incident was resolved.
        affected: what was hit, in words.
        decision_asked: what the reader is asked to decide; empty: nothing.
    """

    impact_started_at: datetime | None
    restored_at: datetime | None = None
    resolved_at: datetime | None = None
    affected: str = ""
    decision_asked: str = ""

    @property
    def duration(self) -> timedelta | None:
        """From the start of the impact to the measured restoration, where both are known."""
        if self.impact_started_at is None or self.restored_at is None:
            return None
        return self.restored_at - self.impact_started_at


@dataclass(frozen=True)
class MessageCounts:
    """Messages, each a campaign and a subscriber. A catch-up copy counts as its original campaign.

    Attributes:
        due: planned from impact_started_at (included) to restored_at (excluded), outcome known.
        delayed: due, and sent more than five minutes after the planned time.
        on_time: due, and sent within five minutes of it.
        suppressed: due, not sent, and the person opted out after the planned time.
        dropped: due and not sent for any other reason. due = delayed + on_time + suppressed + dropped.
        unknown: handed over when the provider died, never answered: counted here only.
        duplicated: sent more than once to the same person.
        after_latest_useful: sent after the campaign's latest_useful_at.
        to_opted_out: sent after the person's opt-out had reached us.
    """

    due: int
    delayed: int
    on_time: int
    suppressed: int
    dropped: int
    unknown: int
    duplicated: int = 0
    after_latest_useful: int = 0
    to_opted_out: int = 0


@dataclass(frozen=True)
class ImpactLine:
    """One line of the impact table.

    Attributes:
        value: the figure; None: it was not measured, and `note` says why.
        unit: what is counted ("messages", "rows", "minutes", "requests").
        checked: what was looked at to know it: shown beside a zero ("0, checked: ...").
    """

    name: str
    value: float | None
    unit: str
    checked: str = ""
    note: str = ""


@dataclass(frozen=True)
class CampaignRow:
    """What happened to one campaign. The counts mean what they mean in `MessageCounts`.

    Attributes:
        verdict: `send`, `reschedule`, `drop`, `needs_approval`, or empty where none was needed.
        reason: the verdict's reason.
        delay_median_minutes: over its delayed messages; None where there are none.
    """

    campaign_id: int
    name: str
    kind: str
    planned_at: datetime | None
    latest_useful_at: datetime | None = None
    verdict: str = ""
    reason: str = ""
    due: int = 0
    delayed: int = 0
    on_time: int = 0
    suppressed: int = 0
    dropped: int = 0
    unknown: int = 0
    delay_median_minutes: float | None = None
    delay_max_minutes: float | None = None


@dataclass(frozen=True)
class Bounds:
    """Bounds that hold the true loss with probability `level` (0.5, 0.8, 0.95), in minor units."""

    level: float
    low_minor: int
    high_minor: int


@dataclass(frozen=True)
class Estimate:
    """One statistic of the loss, over one window.

    Attributes:
        statistic: `net` (outage and recovery in one), `deferred` (what late messages brought), `gross` (their sum),
            `during` (the outage alone), `unaided` (`net` without the control) or `second` (`net` by another method).
        expected_minor: the counterfactual total of the window; `observed_minor`: what came in.
        loss_minor: expected minus observed (for `deferred`: what came later).
        intervals: one per level; empty where none was estimated.
        probability_of_loss: weight of the placebo windows that leave the counterfactual above what came in.
        effective_placebos: weight of the placebo windows behind the interval; one just like this window weighs 1.
        low_confidence: less of it than a 95 % bound needs.
        noise_floor_minor: width of a 95 % interval if the mean were known exactly; with a control, of e-mail orders
            only.
        control: what served as an unaffected control.
        near_holiday: the window touches a public holiday, the interval was widened.
        forecast_minor: the forecast before the placebos' mean error corrects it; None: not a forecast of its own.
        scale_minor: size of an ordinary error of the window; None likewise.
    """

    statistic: Statistic
    start: datetime
    end: datetime
    expected_minor: int
    observed_minor: int
    loss_minor: int
    intervals: tuple[Bounds, ...] = ()
    probability_of_loss: float | None = None
    effective_placebos: float | None = None
    low_confidence: bool = False
    noise_floor_minor: int | None = None
    control: str = ""
    near_holiday: bool = False
    forecast_minor: float | None = None
    scale_minor: float | None = None

    def bounds(self, level: float) -> Bounds | None:
        """Return the interval of `level`, or None."""
        return next((one for one in self.intervals if abs(one.level - level) < 1e-9), None)

    @property
    def hours(self) -> float:
        """Length of the window."""
        return (self.end - self.start).total_seconds() / 3600


@dataclass(frozen=True)
class Loss:
    """What the outage cost: gross = deferred + net.

    Attributes:
        attributed_minor: what the provider's attribution model claims for these campaigns in the window: shown
            beside the estimate, labelled, never as the loss. None: not known.
        attribution_model: how that claim is made, in words.
        cautions: reservations about the estimate, in words.
        during: the outage window alone; unaided: net without the control; second: net by another method, shown beside
            the estimate and never mixed into it. None: not estimated.
        stretched: how many times as wide as its own the second method's interval had to be made to fit the past.
        returned_minor: loss of the outage alone minus net loss: what came back seen from above, a check on deferred.
    """

    gross: Estimate
    net: Estimate
    deferred: Estimate | None = None
    during: Estimate | None = None
    unaided: Estimate | None = None
    second: Estimate | None = None
    stretched: float | None = None
    returned_minor: int | None = None
    attributed_minor: int | None = None
    attribution_model: str = ""
    cautions: tuple[str, ...] = ()

    @property
    def deferred_minor(self) -> int:
        """What came later instead of not at all."""
        return self.deferred.loss_minor if self.deferred else self.gross.loss_minor - self.net.loss_minor


@dataclass(frozen=True)
class PlaceboRecord:
    """How often the method was right on this shop's own past: windows in which nothing happened.

    Attributes:
        windows: past windows judged, each as long as the net window and by what was known before it.
        held: level of the interval and the windows it held.
        false_claims: windows in which the 95 % interval would have claimed a loss.
        bias: expected minus observed over all of them, as a share of what was observed.
        warning: what is off, in words; empty where the intervals hold what they promise.
        errors_minor: the loss that the estimate finds in each past window, where the windows are known.
    """

    windows: int
    held: tuple[tuple[float, int], ...]
    false_claims: int
    bias: float
    warning: str = ""
    errors_minor: tuple[float, ...] = ()


@dataclass(frozen=True)
class HourPoint:
    """One hour of the revenue chart. `low_minor` and `high_minor`: the hour's own 95 % band, None: no band."""

    at: datetime
    actual_minor: int
    expected_minor: float
    low_minor: float | None = None
    high_minor: float | None = None


@dataclass(frozen=True)
class MetricRow:
    """The time between two anchors. `seconds` is None unless `status` is `recorded` or `invalid`."""

    name: str
    from_anchor: str
    to_anchor: str
    seconds: float | None
    status: Literal["recorded", "pending", "not_applicable", "invalid"]


@dataclass(frozen=True)
class ObjectiveRow:
    """One marketing object's recovery objectives and what this incident measured, in seconds; None: not known."""

    object: str
    rpo_target_s: float | None = None
    rpo_actual_s: float | None = None
    rto_target_s: float | None = None
    rto_actual_s: float | None = None
    mtpd_s: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether all that has a target and was measured stayed within it; None: nothing could be compared."""
        pairs = [
            (self.rpo_actual_s, self.rpo_target_s),
            (self.rto_actual_s, self.rto_target_s),
            (self.rto_actual_s, self.mtpd_s),
        ]
        known = [actual <= target for actual, target in pairs if actual is not None and target is not None]
        return all(known) if known else None


@dataclass(frozen=True)
class TimelineRow:
    """One fact. `evidence` names where it is written down (a journal entry, a snapshot)."""

    at: datetime
    kind: str
    text: str
    evidence: str = ""


@dataclass(frozen=True)
class DecisionRow:
    """One question that a person (or the plan) answered."""

    subject: str
    decision: str
    by: str
    asked_at: datetime
    answered_at: datetime | None = None
    via: str = ""
    vouched: bool = False


@dataclass(frozen=True)
class ActionRow:
    """Changes made outside Mailstay, by kind and by how they ended."""

    kind: str
    status: str
    count: int


@dataclass(frozen=True)
class CommunicationRow:
    """One message to one stakeholder and whether the promise of the next one was kept (None: not due, or none)."""

    stakeholder: str
    channel: str
    report: str
    subject: str
    sent_at: datetime | None
    status: str
    promised_next_at: datetime | None = None
    kept: bool | None = None


@dataclass(frozen=True)
class ReputationRow:
    """One deliverability rate before the outage and of the catch-up, as fractions, with the counts behind it.

    Attributes:
        mailbox: the mailbox provider; empty: all of them.
        z: difference in standard errors.
        alarm: somebody must act.
        count: catch-up messages of `messages` that had it; `baseline_count` of `baseline_messages` before.
        p_value: probability of so many or more if the catch-up were one more campaign like those before.
    """

    metric: str
    baseline: float | None
    after: float | None
    z: float | None = None
    alarm: bool = False
    threshold: float | None = None
    note: str = ""
    count: int | None = None
    messages: int | None = None
    baseline_count: int | None = None
    baseline_messages: int | None = None
    p_value: float | None = None
    mailbox: str = ""


@dataclass(frozen=True)
class OpenRow:
    """Messages opened at one mailbox provider, before the outage and of the catch-up: reported, never judged."""

    mailbox: str
    opened_before: int
    messages_before: int
    opened: int
    messages: int


@dataclass(frozen=True)
class WatchRow:
    """What was sent to one mailbox provider on a day after the outage (1 is the first), and what it brought."""

    day: int
    mailbox: str
    messages: int
    bounce: int
    complaint: int
    unsubscribe: int
    deferral: int


@dataclass(frozen=True)
class DataRow:
    """Rows of one table at risk and lost.

    Attributes:
        source: the plan's name of the source.
        table: the raw table.
        at_risk: born after the last valid snapshot and up to the start of the impact; None: its rows have no time of
            birth, or the row is an estimate.
        lost: there at the start of the impact, gone after the recovery; None: nothing could tell.
        witness: what the loss was compared with ("webhook receipts"); empty: nothing witnesses it.
        estimated: the loss is an estimate because nothing witnesses it.
    """

    source: str
    table: str
    at_risk: int | None
    lost: int | None
    witness: str = ""
    estimated: bool = False
    note: str = ""


@dataclass(frozen=True)
class FindingRow:
    """Where the journal departs from what the plan asked for."""

    kind: FindingKind
    text: str
    expected: str = ""
    seen: str = ""


@dataclass(frozen=True)
class Proposal:
    """One changed value of the plan: `key` is the path to it; `because` says what the incident showed."""

    key: str
    before: object
    after: object
    because: str


@dataclass(frozen=True)
class LessonRow:
    """What went well, what went poorly, where we got lucky."""

    kind: Lesson
    text: str


@dataclass(frozen=True)
class ActionItemRow:
    """Work left behind: completed only with evidence of `proof`."""

    title: str
    type: str
    priority: str
    owner: str
    due_at: datetime | None
    proof: str = ""
    status: str = "outstanding"
    evidence: str = ""


@dataclass(frozen=True)
class SimilarRow:
    """A similar incident before this one.

    Attributes:
        alike: what it shares with this one.
        left: its work that was not done and would have helped, in words; `done`: what was done and did not.
    """

    id: str
    summary: str
    alike: str
    state: str
    left: tuple[str, ...] = ()
    done: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cause:
    """Trigger, contributing factors and class: never a named culprit."""

    cause_class: str
    trigger: str = ""
    factors: tuple[str, ...] = ()
    detection: str = ""
    resolution: str = ""


@dataclass(frozen=True)
class Appendix:
    """What the figures rest on.

    Attributes:
        sources: what was read (snapshot ids, journal), with digests where there are any.
        assumptions: what was taken for granted.
        queries: name and text of the queries that made the figures.
        unknown_file: file that lists the messages of unknown outcome (by subscriber id); empty: there are none.
    """

    sources: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()
    queries: tuple[tuple[str, str], ...] = ()
    unknown_file: str = ""


@dataclass(frozen=True)
class Basis:
    """The rows behind the figures, as tables that lie beside the report: ids only, never an address.

    Attributes:
        placebos: per placebo window `statistic` (`net`, `during`, `unaided`), `start`, `observed_minor`,
            `expected_minor`, `scale_minor`, `score`, `weight`.
        message_fates: per message `campaign_id`, `subscriber_id`, `fate`, `planned_at`, `attempted_at`,
            `late_minutes`, `duplicated`, `after_latest_useful`, `to_opted_out`.
        deferred_orders: per order of a late message `campaign_id`, `subscriber_id`, `ordered_at`, `total_minor`.
    """

    placebos: pd.DataFrame | None = None
    message_fates: pd.DataFrame | None = None
    deferred_orders: pd.DataFrame | None = None


@dataclass(frozen=True)
class ChangeRow:
    """One figure that changed since the version before (shown when a report is re-issued)."""

    figure: str
    before: str
    after: str


@dataclass(frozen=True)
class ReviewContent:
    """Everything one version of a report shows.

    Attributes:
        loss: None where it could not be estimated; `loss_missing_because` then says why.
        reputation: over all mailbox providers; `inboxes`: of each; `opens`: of each, never judged; `watch`: each day.
        record: the method on this shop's own past; None where too few windows can say.
        impact_lines: lines beside those that follow from `messages`, `data` and `outage`, which are always shown.
        hours: the revenue series of the chart, oldest first.
        changes: what changed since the version before; empty in the first.
        had_before: who was sent the figures of an earlier version, and when.
        proposals: changes to the plan that follow from what was measured; `plan_patch` is all of them as a diff.
        basis: the rows behind the figures; shown nowhere, written as tables.
    """

    header: Header
    outage: Outage
    messages: MessageCounts
    loss: Loss | None = None
    loss_missing_because: str = ""
    record: PlaceboRecord | None = None
    impact_lines: tuple[ImpactLine, ...] = ()
    campaigns: tuple[CampaignRow, ...] = ()
    hours: tuple[HourPoint, ...] = ()
    metrics: tuple[MetricRow, ...] = ()
    objectives: tuple[ObjectiveRow, ...] = ()
    timeline: tuple[TimelineRow, ...] = ()
    decisions: tuple[DecisionRow, ...] = ()
    actions: tuple[ActionRow, ...] = ()
    communications: tuple[CommunicationRow, ...] = ()
    reputation: tuple[ReputationRow, ...] = ()
    inboxes: tuple[ReputationRow, ...] = ()
    opens: tuple[OpenRow, ...] = ()
    watch: tuple[WatchRow, ...] = ()
    data: tuple[DataRow, ...] = ()
    findings: tuple[FindingRow, ...] = ()
    lessons: tuple[LessonRow, ...] = ()
    action_items: tuple[ActionItemRow, ...] = ()
    similar_incidents: tuple[SimilarRow, ...] = ()
    changes: tuple[ChangeRow, ...] = ()
    had_before: tuple[str, ...] = ()
    proposals: tuple[Proposal, ...] = ()
    plan_patch: str = ""
    cause: Cause = field(default_factory=lambda: Cause("unknown"))
    appendix: Appendix = field(default_factory=Appendix)
    basis: Basis = field(default_factory=Basis, compare=False)

    @property
    def consent_breaches(self) -> int:
        """Messages that went to people whose opt-out had reached us."""
        return self.messages.to_opted_out


def with_noise_band(hours: tuple[HourPoint, ...], noise_floor_minor: int) -> tuple[HourPoint, ...]:
    """Give every hour the 95 % band of chance alone.

    The noise floor is the width of the 95 % interval of the whole window's total. In a compound Poisson process the
    variance is proportional to the expectation, so an hour's share of it is the share of its expectation.
    """
    total = sum(max(one.expected_minor, 0.0) for one in hours)
    if total <= 0:
        return hours

    def band(one: HourPoint) -> HourPoint:
        half = noise_floor_minor / 2 * (max(one.expected_minor, 0.0) / total) ** 0.5
        low = max(one.expected_minor - half, 0.0)
        return replace(one, low_minor=low, high_minor=one.expected_minor + half)

    return tuple(band(one) for one in hours)
