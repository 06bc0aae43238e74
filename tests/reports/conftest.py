"""A whole review of a made-up outage, with hostile texts where people can write them."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tasks.reports import (
    ActionItemRow,
    ActionRow,
    Appendix,
    Bounds,
    CampaignRow,
    Cause,
    CommunicationRow,
    DataRow,
    DecisionRow,
    Estimate,
    FindingRow,
    Header,
    HourPoint,
    ImpactLine,
    LessonRow,
    Loss,
    MessageCounts,
    MetricRow,
    ObjectiveRow,
    Outage,
    PlaceboRecord,
    ReputationRow,
    ReviewContent,
    SimilarRow,
    TimelineRow,
    with_noise_band,
)

DAY = datetime(2011, 11, 16, tzinfo=UTC)
HOSTILE = '<script>alert("x")</script> & "Sale" | `rm` <img src=http://evil.example/p.gif>'


def at(hour: int, minute: int = 0, days: int = 0) -> datetime:
    return DAY + timedelta(days=days, hours=hour, minutes=minute)


@pytest.fixture
def hostile() -> str:
    """A campaign name that would break out of HTML or Markdown if it could."""
    return HOSTILE


@pytest.fixture
def content() -> ReviewContent:
    """A full review: net loss 1,240.00, interval from below zero, 3 tables, 4 campaigns."""
    start, restored, settled = at(8, 12), at(13, 10), at(13, 40, 2)
    hours = []
    for index in range(54):
        moment = at(8) + timedelta(hours=index)
        expected = 42_000 * max(math.sin((moment.hour - 6) / 14 * math.pi), 0.02) ** 1.3
        down = moment < restored
        actual = expected * (0.55 if down else 1.0 + 0.14 * math.sin(index * 2.1))
        hours.append(HourPoint(moment, round(actual), expected))
    gross = Estimate(
        "gross",
        start,
        settled,
        1_410_000,
        1_180_000,
        310_000,
        (Bounds(0.5, 190_000, 420_000), Bounds(0.8, 60_000, 560_000), Bounds(0.95, -90_000, 730_000)),
        0.91,
        58.0,
        False,
        540_000,
        "untagged orders",
    )
    deferred = Estimate("deferred", start, settled, 0, 186_000, 186_000)
    net = Estimate(
        "net",
        start,
        settled,
        1_410_000,
        1_286_000,
        124_000,
        (Bounds(0.5, 20_000, 230_000), Bounds(0.8, -110_000, 360_000), Bounds(0.95, -260_000, 540_000)),
        0.78,
        58.0,
        False,
        540_000,
        "untagged orders",
    )
    return ReviewContent(
        header=Header(
            "Kontor & Söhne",
            "INC-0001",
            "Newsletter provider down on the morning of the one-day sale",
            "listmonk",
            "SEV-2",
            at(14, 0, 2),
            "provisional",
            "GBP",
            settle_by=at(13, 40, 2),
            completeness=0.97,
            timezone="Europe/London",
            simulated=True,
            owner="lifecycle marketing",
            plan_digest="ab" * 32,
        ),
        outage=Outage(
            start,
            restored,
            at(13, 40),
            "The morning newsletter stopped half way; three campaigns were held.",
            "Approve a second provider for time-critical sends (decision of the head of marketing).",
        ),
        messages=MessageCounts(due=2840, delayed=1904, on_time=31, suppressed=17, dropped=888, unknown=6),
        loss=Loss(
            gross,
            net,
            deferred,
            second=replace(
                net,
                statistic="second",
                loss_minor=98_000,
                observed_minor=1_286_000,
                expected_minor=1_384_000,
                effective_placebos=91.0,
            ),
            stretched=1.3,
            returned_minor=150_000,
            attributed_minor=402_000,
            attribution_model="last click, 5 days",
        ),
        record=PlaceboRecord(
            120,
            ((0.5, 58), (0.8, 97), (0.95, 114)),
            3,
            0.012,
            errors_minor=tuple(200_000 * math.sin(1.7 * one) for one in range(120)),
        ),
        impact_lines=(
            ImpactLine("Webhooks lost", 412, "events", "receipts against the event log"),
            ImpactLine("Unsubscribe requests refused", 0, "requests", "the shop's consent requests"),
            ImpactLine("Support contacts", None, "contacts", note="no source for them in the plan"),
        ),
        campaigns=(
            CampaignRow(
                11,
                HOSTILE,
                "newsletter",
                at(8),
                None,
                "send",
                "still useful",
                1220,
                1189,
                31,
                0,
                0,
                6,
                312.0,
                331.5,
            ),
            CampaignRow(
                12,
                "Autumn launch: the enamel jug",
                "launch",
                at(9),
                at(11, 30),
                "drop",
                "its use ended in the outage",
                888,
                0,
                0,
                0,
                888,
            ),
            CampaignRow(
                13,
                "One day only: 20 % off",
                "sale",
                at(10),
                at(20),
                "send",
                "useful until the evening",
                640,
                629,
                0,
                11,
                0,
                0,
                214.0,
                262.0,
            ),
            CampaignRow(
                14,
                "We miss you",
                "winback",
                at(11),
                None,
                "reschedule",
                "can wait for the ramp",
                92,
                86,
                0,
                6,
                0,
                0,
                1300.0,
                1320.0,
            ),
        ),
        hours=with_noise_band(tuple(hours), 540_000),
        metrics=(
            MetricRow("time_to_detect", "impact_started_at", "detected_at", 480.0, "recorded"),
            MetricRow("time_to_acknowledge", "declared_at", "acknowledged_at", 95.0, "recorded"),
            MetricRow("time_to_resolve", "declared_at", "resolved_at", 18_900.0, "recorded"),
            MetricRow("status_page_delay", "impact_started_at", "status_posted_at", 8_880.0, "recorded"),
            MetricRow("time_to_close", "resolved_at", "closed_at", None, "pending"),
            MetricRow("time_to_mitigate", "impact_started_at", "mitigated_at", -30.0, "invalid"),
        ),
        objectives=(
            ObjectiveRow("contacts", 86_400, 26_000, 14_400, 17_880, 172_800),
            ObjectiveRow("consent", 3_600, 0, 3_600, 1_200, 7_200, "the shop's own record witnesses it"),
            ObjectiveRow("templates", 604_800, 26_000, None, None, None),
            ObjectiveRow("automations"),
        ),
        timeline=(
            TimelineRow(
                at(2), "backup", "Last valid snapshots before the outage", "esp/00000003, shop/00000003"
            ),
            TimelineRow(start, "impact", "Sending stopped: 6 messages were under way", "probe 118"),
            TimelineRow(at(8, 20), "declared", "Declared by monitor after three failed probes"),
            TimelineRow(at(8, 26), "paused", "Campaigns 12, 13 and 14 unscheduled", "action 4"),
            TimelineRow(at(10, 40), "status", "The vendor's status page first said so", "status page"),
            TimelineRow(restored, "restored", "Sending measured to work again", "canary 3"),
            TimelineRow(at(13, 40), "resolved", "Backlog cleared; asked by jane.doe@shop.example"),
        ),
        decisions=(
            DecisionRow(
                "Hold three campaigns",
                "approved",
                "on-call marketing",
                at(8, 22),
                at(8, 25),
                "ui",
                True,
            ),
            DecisionRow("Send an apology", "rejected", "policy", at(14), at(14, 5), "policy"),
        ),
        actions=(
            ActionRow("unschedule", "done", 3),
            ActionRow("add_to_list", "done", 9),
            ActionRow("start", "unknown", 1),
        ),
        communications=(
            CommunicationRow(
                "shop management",
                "email",
                "executive",
                "INC-0001: e-mail is down",
                at(8, 30),
                "sent",
                at(9, 30),
                True,
            ),
            CommunicationRow(
                "customer service",
                "folder",
                "tactical",
                "INC-0001: update 2",
                at(9, 55),
                "sent",
                at(10, 55),
                False,
            ),
            CommunicationRow("shop management", "email", "executive", "INC-0001: over", at(13, 50), "sent"),
        ),
        reputation=(
            ReputationRow("complaint_rate", 0.0004, 0.0006, 0.8, False, 0.001),
            ReputationRow("bounce_rate", 0.011, 0.024, 3.2, True, 0.02, "three days after"),
            ReputationRow("deferral_rate", None, None, note="the provider does not say"),
        ),
        data=(
            DataRow("listmonk", "events", 512, 431, "webhook receipts"),
            DataRow("listmonk", "subscribers", 9, 0, "the shop's customers"),
            DataRow("listmonk", "campaign_views", 240, 210, "views per delivered message", True),
            DataRow("listmonk", "templates", 0, None),
        ),
        findings=(
            FindingRow(
                "late", "Customer service was not told when promised", "next update 10:55", "none until 13:50"
            ),
            FindingRow("missing", "Restore of contacts was never drilled", "every 90 days", "never"),
        ),
        lessons=(
            LessonRow("well", "Nobody who had opted out was mailed."),
            LessonRow("poorly", "The launch lost its whole audience."),
            LessonRow("lucky", "The sale ran until the evening."),
        ),
        action_items=(
            ActionItemRow(
                "Connect a second provider for time-critical sends",
                "mitigate",
                "P1",
                "platform",
                at(0, days=30),
                "a drill sends one campaign through it",
            ),
            ActionItemRow("Drill the restore of contacts", "prevent", "P2", "", None),
        ),
        similar_incidents=(
            SimilarRow("INC-0000", "provider down for 2 h", "same provider listmonk", "closed"),
        ),
        cause=Cause(
            "technical_failure",
            "The provider's sending process died and came back without its workers.",
            ("The status page stayed green for two hours.", "No second provider."),
            "Probes of the send log.",
            "Restart.",
        ),
        appendix=Appendix(
            sources=("esp/00000003 (digest 41ab…)", "journal, 63 facts"),
            assumptions=("Refunds are not deducted.",),
            queries=(
                (
                    "Messages due",
                    "SELECT count(*) FROM canonical.messages\nWHERE planned_at >= $impact_started_at",
                ),
            ),
            unknown_file="INC-0001/unknown.parquet",
        ),
    )
