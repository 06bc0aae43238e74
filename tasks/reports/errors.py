"""Errors of the reports."""

from __future__ import annotations

from tasks.core import MailstayError


class ReportError(MailstayError):
    """A report could not be written, or what it was to be written from contradicts itself."""
