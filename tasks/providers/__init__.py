"""What each e-mail service provider can do, and doing it: list, pause, unschedule, cancel, start, export.

A provider says what it cannot do before that is needed (`Capabilities`). A write is sent once: a lost answer is an
unknown outcome, which the caller reads back.
"""

from tasks.providers.brevo import BREVO
from tasks.providers.connect import EXPORT_TABLES, PROVIDERS, capabilities_of, connect_provider, open_provider
from tasks.providers.errors import (
    NotOffered,
    ProviderGarbled,
    ProviderRefused,
    ProvidersError,
    ProviderUnavailable,
)
from tasks.providers.exporting import (
    Export,
    ExportColumn,
    Exporting,
    ExportTable,
    Look,
    Part,
    RowsMoved,
    Step,
    is_missing,
)
from tasks.providers.klaviyo import KLAVIYO
from tasks.providers.listmonk import LISTMONK
from tasks.providers.mailchimp import MAILCHIMP
from tasks.providers.model import (
    Action,
    Campaign,
    CampaignStatus,
    Capabilities,
    Capability,
    Kind,
    MailingList,
    Membership,
    Probe,
    Provider,
    ProviderEvent,
    RateLimit,
    RunningStats,
    SendRecord,
    SendStatus,
    Suppression,
    SuppressionReason,
    Trap,
)
from tasks.providers.pace import in_words
from tasks.providers.sendgrid import SENDGRID
from tasks.providers.shapes import ANONYMOUS

__all__ = [
    "ANONYMOUS",
    "BREVO",
    "EXPORT_TABLES",
    "KLAVIYO",
    "LISTMONK",
    "MAILCHIMP",
    "PROVIDERS",
    "SENDGRID",
    "Action",
    "Campaign",
    "CampaignStatus",
    "Capabilities",
    "Capability",
    "Export",
    "ExportColumn",
    "ExportTable",
    "Exporting",
    "Kind",
    "Look",
    "MailingList",
    "Membership",
    "NotOffered",
    "Part",
    "Probe",
    "Provider",
    "ProviderEvent",
    "ProviderGarbled",
    "ProviderRefused",
    "ProviderUnavailable",
    "ProvidersError",
    "RateLimit",
    "RowsMoved",
    "RunningStats",
    "SendRecord",
    "SendStatus",
    "Step",
    "Suppression",
    "SuppressionReason",
    "Trap",
    "capabilities_of",
    "connect_provider",
    "in_words",
    "is_missing",
    "open_provider",
]
