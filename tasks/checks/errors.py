"""What this package raises on purpose."""

from __future__ import annotations

from tasks.core import MailstayError, UsageError


class ChecksError(MailstayError):
    """A snapshot could not be checked."""


class ContractError(ChecksError, UsageError):
    """A contract cannot be used as it stands; the message names file, line, field and the fix."""
