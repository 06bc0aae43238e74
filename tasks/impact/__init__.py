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
    expected_value_minor,
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
}
_HOME = {name: module for module, names in _LAZY.items() for name in names}

__all__ = [
    "LEVELS",
    "LOW_CONFIDENCE_BELOW",
    "RESPONSE_PROFILES",
    "Calendar",
    "Counterfactual",
    "Forecast",
    "ImpactError",
    "Interval",
    "LossEstimate",
    "ResponseProfile",
    "ShopHistory",
    "TooLittleHistory",
    "expected_value_minor",
    "respond_to_send",
    "still_interested",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"tasks.impact has no {name}")
    return getattr(import_module(_HOME[name]), name)
