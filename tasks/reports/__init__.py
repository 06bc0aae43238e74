"""Post-incident reports: one self-contained HTML file, Markdown, and the Parquet tables every figure comes from.

The review fills in a `ReviewContent`; `write_report` puts the next version on disk.
"""

from __future__ import annotations

from tasks.reports.content import (
    ActionItemRow,
    ActionRow,
    Appendix,
    Basis,
    Bounds,
    CampaignRow,
    Cause,
    ChangeRow,
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
from tasks.reports.documents import export_docx
from tasks.reports.errors import ReportError
from tasks.reports.followup import FollowUp, Reminder, follow_up, reminder, say_due
from tasks.reports.writing import WrittenReport, write_report

__all__ = [
    "ActionItemRow",
    "ActionRow",
    "Appendix",
    "Basis",
    "Bounds",
    "CampaignRow",
    "Cause",
    "ChangeRow",
    "CommunicationRow",
    "DataRow",
    "DecisionRow",
    "Estimate",
    "FindingRow",
    "FollowUp",
    "Header",
    "HourPoint",
    "ImpactLine",
    "LessonRow",
    "Loss",
    "MessageCounts",
    "MetricRow",
    "ObjectiveRow",
    "Outage",
    "PlaceboRecord",
    "Reminder",
    "ReportError",
    "ReputationRow",
    "ReviewContent",
    "SimilarRow",
    "TimelineRow",
    "WrittenReport",
    "export_docx",
    "follow_up",
    "reminder",
    "say_due",
    "with_noise_band",
    "write_report",
]
