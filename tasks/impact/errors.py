"""The base of what `impact` raises."""

from __future__ import annotations

from tasks.core import MailstayError


class ImpactError(MailstayError):
    """An impact cannot be measured from what is there; the message says what is missing."""


class TooLittleHistory(ImpactError):
    """There is less history before the outage than an honest interval needs."""
