"""Whether a provider works: its status page, our own probes and counts, the detector, severity from the calendar.

The decisions are pure functions (`judge`, `severity_of`, `sending_signal`, …) on plain dataclasses; reading a page and
sending a seed message are the only things here that touch the world.
"""

from tasks.outages.bounces import BounceMemory, Diagnosis, bounce_signal, diagnose
from tasks.outages.calendar import calendar_of, usual_of, value_per_message, with_audiences
from tasks.outages.causes import Suggestion, Surroundings, suggest_causes
from tasks.outages.counts import (
    CampaignCount,
    SeedMemory,
    SendingMemory,
    consent_signal,
    seed_sent,
    seed_signal,
    sending_signal,
    webhook_signal,
)
from tasks.outages.detector import CALM_PASSES, DetectorState, Transition, judge, settle, verdict_of
from tasks.outages.dialects import read_page
from tasks.outages.errors import OutageError, UnreadablePage
from tasks.outages.handshake import Handshake, smtp_handshake, smtp_signal
from tasks.outages.mailbox import seed_arrived
from tasks.outages.optout import unsubscribe_signal
from tasks.outages.probing import Answer, api_signal, enough
from tasks.outages.reading import page_json, parse_incidents, parse_summary, past_incidents, read_status_page
from tasks.outages.replay import (
    QUESTION_FAILS,
    Chronology,
    Quiet,
    Replay,
    read_chronologies,
    replay_outage,
    replay_quiet,
)
from tasks.outages.seed import (
    SeedFailed,
    SeedRefused,
    SeedRoute,
    seed_route,
    seed_token,
    send_seed,
)
from tasks.outages.severity import DueSend, Restore, Severity, Usual, likely_restore, severity_of
from tasks.outages.signals import OWN_SIGNALS, Signal, SignalKind, Verdict
from tasks.outages.statuspage import PageComponent, PageIncident, StatusPage, page_signal
from tasks.outages.watching import Background, Gather, Memory, Observation, Pass, Watched, conclude, observe
from tasks.outages.witness import Earnings, ShopWitness, database_url

__all__ = [
    "CALM_PASSES",
    "OWN_SIGNALS",
    "QUESTION_FAILS",
    "Answer",
    "Background",
    "BounceMemory",
    "CampaignCount",
    "Chronology",
    "DetectorState",
    "Diagnosis",
    "DueSend",
    "Earnings",
    "Gather",
    "Handshake",
    "Memory",
    "Observation",
    "OutageError",
    "PageComponent",
    "PageIncident",
    "Pass",
    "Quiet",
    "Replay",
    "Restore",
    "SeedFailed",
    "SeedMemory",
    "SeedRefused",
    "SeedRoute",
    "SendingMemory",
    "Severity",
    "ShopWitness",
    "Signal",
    "SignalKind",
    "StatusPage",
    "Suggestion",
    "Surroundings",
    "Transition",
    "UnreadablePage",
    "Usual",
    "Verdict",
    "Watched",
    "api_signal",
    "bounce_signal",
    "calendar_of",
    "conclude",
    "consent_signal",
    "database_url",
    "diagnose",
    "enough",
    "judge",
    "likely_restore",
    "observe",
    "page_json",
    "page_signal",
    "parse_incidents",
    "parse_summary",
    "past_incidents",
    "read_chronologies",
    "read_page",
    "read_status_page",
    "replay_outage",
    "replay_quiet",
    "seed_arrived",
    "seed_route",
    "seed_sent",
    "seed_signal",
    "seed_token",
    "send_seed",
    "sending_signal",
    "settle",
    "severity_of",
    "smtp_handshake",
    "smtp_signal",
    "suggest_causes",
    "unsubscribe_signal",
    "usual_of",
    "value_per_message",
    "verdict_of",
    "webhook_signal",
    "with_audiences",
]
