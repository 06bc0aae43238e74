"""What can go wrong in a drill."""

from __future__ import annotations

from tasks.core import MailstayError


class DrillError(MailstayError):
    """A simulated server did not start or stop, an unknown fault was asked for, or a world cannot be built."""
