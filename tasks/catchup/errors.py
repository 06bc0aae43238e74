"""What can be wrong with a catch-up before anything is sent."""

from __future__ import annotations

from tasks.core import MailstayError


class CatchupError(MailstayError):
    """A catch-up cannot go on as it stands; nothing was sent because of it."""
