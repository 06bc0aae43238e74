"""What an outage did: revenue against its counterfactual, messages, reputation, data, objectives."""

from tasks.impact.errors import ImpactError, TooLittleHistory
from tasks.impact.revenue import (
    RESPONSE_PROFILES,
    ResponseProfile,
    expected_value_minor,
    respond_to_send,
    still_interested,
)

__all__ = [
    "RESPONSE_PROFILES",
    "ImpactError",
    "ResponseProfile",
    "TooLittleHistory",
    "expected_value_minor",
    "respond_to_send",
    "still_interested",
]
