"""What can go wrong on the way to a reader."""

from __future__ import annotations

from tasks.core import MailstayError


class CommsError(MailstayError):
    """A message could not be written or handed to its channel."""


class ChannelFailed(CommsError):
    """The channel did not take the message.

    Attributes:
        outcome_unknown: whether it may have been taken all the same; it is then not sent again.
    """

    def __init__(
        self, what: str, *, outcome_unknown: bool, where: str | None = None, fix: str | None = None
    ) -> None:
        self.outcome_unknown = outcome_unknown
        super().__init__(what, where=where, fix=fix)
