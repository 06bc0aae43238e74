"""Errors of the outages package."""

from __future__ import annotations

from tasks.core import MailstayError


class OutageError(MailstayError):
    """Watching a provider did not work in a way that a person must mend."""


class UnreadablePage(OutageError):
    """A status page did not answer, or what it answered is not the page that the plan names.

    The page's state is then unknown. It never means that the provider is down.
    """
