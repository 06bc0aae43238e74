"""The status machine of a campaign, as listmonk v6.2.0 has it, quirks included (pure).

Source: knadh/listmonk internal/core/campaigns.go (UpdateCampaignStatus), queries/campaigns.sql
(update-campaign-status).
"""

from __future__ import annotations

STATUSES = ("draft", "scheduled", "running", "paused", "cancelled", "finished")
EDITABLE = ("draft", "scheduled", "paused")

_ALLOWED_FROM = {
    "draft": (("scheduled",), "Only scheduled campaigns can be saved as drafts."),
    "scheduled": (("draft", "paused"), "Only draft campaigns can be scheduled."),
    "running": (("paused", "draft"), "Only paused campaigns and drafts can be started."),
    "paused": (("running",), "Only active campaigns can be paused."),
    "cancelled": (("running", "paused"), "Only active campaigns can be cancelled."),
}


class StatusRefused(ValueError):
    """The change is not allowed; the text is what listmonk answers with 400."""


def change_status(current: str, wanted: str, *, has_send_at: bool) -> str:
    """Return the status that is stored when a campaign in `current` is set to `wanted`.

    Two quirks are kept: `finished` is accepted from any status, and `running` is stored as `scheduled` where the
    campaign has a send_at (the answer still says `running`; the next scan starts it if it is due).

    Raises:
        StatusRefused: the change is not allowed.
    """
    if wanted not in STATUSES:
        raise StatusRefused("Invalid status.")
    allowed, refusal = _ALLOWED_FROM.get(wanted, (STATUSES, ""))
    if wanted == "scheduled" and not has_send_at:
        raise StatusRefused("Campaign needs a `send_at` date to be scheduled.")
    if current not in allowed:
        raise StatusRefused(refusal)
    return "scheduled" if wanted == "running" and has_send_at else wanted
