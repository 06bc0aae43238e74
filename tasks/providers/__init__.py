"""What each e-mail service provider can do, and doing it: list, pause, unschedule, cancel, start, export.

A provider says what it cannot do before that is needed (`Capabilities`). A write is sent once: a lost answer is an
unknown outcome, which the caller reads back.
"""

from tasks.providers.connect import connect_provider, open_provider
from tasks.providers.errors import (
    NotOffered,
    ProviderGarbled,
    ProviderRefused,
    ProvidersError,
    ProviderUnavailable,
)
from tasks.providers.listmonk import LISTMONK
from tasks.providers.model import (
    Action,
    Campaign,
    CampaignStatus,
    Capabilities,
    Capability,
    MailingList,
    Membership,
    Probe,
    Provider,
    ProviderEvent,
    RunningStats,
    SendRecord,
    SendStatus,
    Suppression,
    SuppressionReason,
)

__all__ = [
    "LISTMONK",
    "Action",
    "Campaign",
    "CampaignStatus",
    "Capabilities",
    "Capability",
    "MailingList",
    "Membership",
    "NotOffered",
    "Probe",
    "Provider",
    "ProviderEvent",
    "ProviderGarbled",
    "ProviderRefused",
    "ProviderUnavailable",
    "ProvidersError",
    "RunningStats",
    "SendRecord",
    "SendStatus",
    "Suppression",
    "SuppressionReason",
    "connect_provider",
    "open_provider",
]
