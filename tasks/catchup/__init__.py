"""Sending what an outage held back: verdict per campaign, ledger per message, consent gate, ramp.

The promise: at most one mail per person and campaign, nobody who opted out, nothing after `latest_useful_at`, and
nobody silently forgotten: an outcome that cannot be known is listed as `unknown` for a person to decide.
"""

from tasks.catchup.consent import Blind, ConsentFeed, ConsentRequest, Gate, consent_gate, latest_wish
from tasks.catchup.desk import settle_stops
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

__all__ = [
    "EVIDENCE",
    "LEDGER",
    "OUTCOMES",
    "Blind",
    "CatchupError",
    "Change",
    "ConsentFeed",
    "ConsentRequest",
    "Decision",
    "Gate",
    "Held",
    "Ledger",
    "NextStep",
    "Outcome",
    "OutcomeUnknown",
    "RampLimits",
    "Reason",
    "StepResult",
    "Verdict",
    "approved",
    "build_ledger",
    "capacity",
    "consent_gate",
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
    "next_step",
    "people_table",
    "read_frozen",
    "settle_stops",
    "write_frozen",
]
