"""Telling people: templates, channels, and the promise of the next update, judged afterwards."""

from tasks.comms.cadence import Promise, PromiseStatus, Told, due, judge_promises, next_update_at
from tasks.comms.channels import (
    AppriseChannel,
    Channel,
    FolderChannel,
    Message,
    SmtpChannel,
    open_channel,
)
from tasks.comms.errors import ChannelFailed, CommsError
from tasks.comms.telling import Register, Telling, tell
from tasks.comms.writing import (
    CampaignLine,
    Report,
    Situation,
    Written,
    write_apology,
    write_notice,
    write_update,
    write_vendor_ticket,
)

__all__ = [
    "AppriseChannel",
    "CampaignLine",
    "Channel",
    "ChannelFailed",
    "CommsError",
    "FolderChannel",
    "Message",
    "Promise",
    "PromiseStatus",
    "Register",
    "Report",
    "Situation",
    "SmtpChannel",
    "Telling",
    "Told",
    "Written",
    "due",
    "judge_promises",
    "next_update_at",
    "open_channel",
    "tell",
    "write_apology",
    "write_notice",
    "write_update",
    "write_vendor_ticket",
]
