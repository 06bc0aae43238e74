"""What the journal refuses, and why."""

from __future__ import annotations

from datetime import datetime

from tasks.core import MailstayError


class JournalError(MailstayError):
    """The journal refused a fact or could not be opened."""


class UnknownIncident(JournalError):
    """The journal has no incident, approval, action, message or item with this id."""

    exit_code = 2


class ForbiddenTransition(JournalError):
    """An incident cannot go from its state to the one asked for."""


class ImpossibleOrder(JournalError):
    """A timestamp would lie on the wrong side of another; `earlier` and `later` name the two anchors."""

    def __init__(self, what: str, *, earlier: str, later: str, where: str | None = None) -> None:
        self.earlier = earlier
        self.later = later
        super().__init__(what, where=where, fix=f"correct {earlier} or {later}")


class ActionConflict(JournalError):
    """An action's key was used for something else, or its outcome does not follow from the one before."""


class ApprovalClosed(JournalError):
    """The approval was already answered, or its time is over."""


class LeaseHeld(JournalError):
    """Somebody else works on the incident: `holder` until `until`."""

    def __init__(self, incident_id: str, *, holder: str, until: datetime) -> None:
        self.holder = holder
        self.until = until
        super().__init__(
            f"{incident_id} is being worked on by {holder} until {until.isoformat()}",
            fix="wait for that run, or run again after that time",
        )


class StaleToken(JournalError):
    """The lease behind this write was released or taken over; nothing was written."""
