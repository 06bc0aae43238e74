"""Opening the journal that a plan names."""

from __future__ import annotations

from tasks.core import open_clock
from tasks.incidents.journal import Journal
from tasks.plan import LoadedPlan


def open_journal(plan: LoadedPlan) -> Journal:
    """Open the journal of `plan`, on the clock of `plan`; a context manager that closes it.

    Raises:
        JournalError: the database does not answer, is of another kind, or was written by a newer Mailstay.
    """
    return Journal.open(plan.journal_url(), open_clock(plan.clock_spec()))
