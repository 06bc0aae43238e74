"""What an outage did: revenue against its counterfactual, messages, reputation, data, objectives.

The names load with their module when first used: pandas is not paid for by who only generates orders.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tasks.impact.errors import ImpactError, TooLittleHistory
from tasks.impact.revenue import (
    RESPONSE_PROFILES,
    ResponseProfile,
    respond_to_send,
    still_interested,
)

if TYPE_CHECKING:
    from tasks.impact.counterfactual import (
        LEVELS,
        LOW_CONFIDENCE_BELOW,
        Calendar,
        Counterfactual,
        Forecast,
        Interval,
        LossEstimate,
        ShopHistory,
    )
    from tasks.impact.dataloss import DataImpact, TableAbout, measure_data
    from tasks.impact.extract import Evidence, reactions_of, read_evidence, sends_of
    from tasks.impact.messages import (
        LATE_AFTER,
        SHORT_SCOPE,
        MessageCounts,
        MessageImpact,
        measure_messages,
        measured_impact_start,
    )
    from tasks.impact.money import MoneyImpact, measure_money
    from tasks.impact.objectives import ObjectiveCheck, check_objectives
    from tasks.impact.opinion import SecondOpinion, second_opinion
    from tasks.impact.record import Coverage, TrackRecord, track_record
    from tasks.impact.reputation import LIMITS, ReputationCheck, check_reputation

_LAZY = {
    "tasks.impact.counterfactual": (
        "LEVELS",
        "LOW_CONFIDENCE_BELOW",
        "Calendar",
        "Counterfactual",
        "Forecast",
        "Interval",
        "LossEstimate",
        "ShopHistory",
    ),
    "tasks.impact.dataloss": (
        "DataImpact",
        "TableAbout",
        "measure_data",
    ),
    "tasks.impact.extract": (
        "Evidence",
        "reactions_of",
        "read_evidence",
        "sends_of",
    ),
    "tasks.impact.messages": (
        "LATE_AFTER",
        "SHORT_SCOPE",
        "MessageCounts",
        "MessageImpact",
        "measure_messages",
        "measured_impact_start",
    ),
    "tasks.impact.money": (
        "MoneyImpact",
        "measure_money",
    ),
    "tasks.impact.objectives": (
        "ObjectiveCheck",
        "check_objectives",
    ),
    "tasks.impact.opinion": ("SecondOpinion", "second_opinion"),
    "tasks.impact.record": ("Coverage", "TrackRecord", "track_record"),
    "tasks.impact.reputation": (
        "LIMITS",
        "ReputationCheck",
        "check_reputation",
    ),
}
_HOME = {name: module for module, names in _LAZY.items() for name in names}

__all__ = [
    "LATE_AFTER",
    "LEVELS",
    "LIMITS",
    "LOW_CONFIDENCE_BELOW",
    "RESPONSE_PROFILES",
    "SHORT_SCOPE",
    "Calendar",
    "Counterfactual",
    "Coverage",
    "DataImpact",
    "Evidence",
    "Forecast",
    "ImpactError",
    "Interval",
    "LossEstimate",
    "MessageCounts",
    "MessageImpact",
    "MoneyImpact",
    "ObjectiveCheck",
    "ReputationCheck",
    "ResponseProfile",
    "SecondOpinion",
    "ShopHistory",
    "TableAbout",
    "TooLittleHistory",
    "TrackRecord",
    "check_objectives",
    "check_reputation",
    "measure_data",
    "measure_messages",
    "measure_money",
    "measured_impact_start",
    "reactions_of",
    "read_evidence",
    "respond_to_send",
    "second_opinion",
    "sends_of",
    "still_interested",
    "track_record",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"tasks.impact has no {name}")
    return getattr(import_module(_HOME[name]), name)
