"""The response to an outage: what is due, what this provider allows, who agreed, and stopping it exactly once."""

from tasks.response.acting import Looks, stop_campaign
from tasks.response.agreeing import Agreed, agree, question_of
from tasks.response.reading import Calendar, read_calendar
from tasks.response.reporting import situation_of
from tasks.response.table import (
    HORIZON,
    PlanLine,
    Sending,
    by_urgency,
    markdown_table,
    plan_table,
    time_to_stop,
    undo_in_words,
)

__all__ = [
    "HORIZON",
    "Agreed",
    "Calendar",
    "Looks",
    "PlanLine",
    "Sending",
    "agree",
    "by_urgency",
    "markdown_table",
    "plan_table",
    "question_of",
    "read_calendar",
    "situation_of",
    "stop_campaign",
    "time_to_stop",
    "undo_in_words",
]
