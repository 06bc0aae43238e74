"""Sending what an outage held back: verdict per campaign, ledger per message, consent gate, ramp.

The promise: at most one mail per person and campaign, nobody who opted out, nothing after `latest_useful_at`, and
nobody silently forgotten: an outcome that cannot be known is listed as `unknown` for a person to decide.
"""

from tasks.catchup.consent import Blind, ConsentFeed, ConsentRequest, Gate, consent_gate, latest_wish
from tasks.catchup.desk import (
    BACK,
    LEASE,
    OVER,
    Desk,
    Stopped,
    number_in,
    parse,
    schedule_of,
    settle_stops,
    standing_stops,
    undo_key,
)
from tasks.catchup.errors import CatchupError
from tasks.catchup.journaled import Change, OutcomeUnknown, make
from tasks.catchup.ledger import (
    EVIDENCE,
    LEDGER,
    OUTCOMES,
    Ledger,
    Outcome,
    build_ledger,
    events_table,
    evidence_of_events,
    evidence_of_log,
    evidence_table,
    log_has_holes,
    log_lines,
    people_table,
    read_frozen,
    write_frozen,
)
from tasks.catchup.ramp import NextStep, RampLimits, StepResult, engaged_first, limit_passed, next_step
from tasks.catchup.restoration import stuck
from tasks.catchup.telling import data_loss, news_of
from tasks.catchup.verdicts import (
    Decision,
    Held,
    Reason,
    Verdict,
    approved,
    capacity,
    decide,
    decide_all,
    latest_useful_at,
)
from tasks.catchup.witnesses import Witnesses

__all__ = [
    "BACK",
    "EVIDENCE",
    "LEASE",
    "LEDGER",
    "OUTCOMES",
    "OVER",
    "Blind",
    "CatchupError",
    "Change",
    "ConsentFeed",
    "ConsentRequest",
    "Decision",
    "Desk",
    "Gate",
    "Held",
    "Ledger",
    "NextStep",
    "Outcome",
    "OutcomeUnknown",
    "RampLimits",
    "Reason",
    "StepResult",
    "Stopped",
    "Verdict",
    "Witnesses",
    "approved",
    "build_ledger",
    "capacity",
    "consent_gate",
    "data_loss",
    "decide",
    "decide_all",
    "engaged_first",
    "events_table",
    "evidence_of_events",
    "evidence_of_log",
    "evidence_table",
    "latest_useful_at",
    "latest_wish",
    "limit_passed",
    "log_has_holes",
    "log_lines",
    "make",
    "news_of",
    "next_step",
    "number_in",
    "parse",
    "people_table",
    "read_frozen",
    "schedule_of",
    "settle_stops",
    "standing_stops",
    "stuck",
    "undo_key",
    "write_frozen",
]
