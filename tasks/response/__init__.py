"""The response to an outage: what is due, what this provider allows, who agreed, and stopping it exactly once."""

from tasks.response.acting import stop_campaign
from tasks.response.agreeing import Agreed, agree, question_of
from tasks.response.reading import Calendar, read_calendar
from tasks.response.table import HORIZON, PlanLine, Sending, markdown_table, plan_table

__all__ = [
    "HORIZON",
    "Agreed",
    "Calendar",
    "PlanLine",
    "Sending",
    "agree",
    "markdown_table",
    "plan_table",
    "question_of",
    "read_calendar",
    "stop_campaign",
]
