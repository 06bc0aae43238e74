"""The one base of every error that Mailstay raises on purpose."""

from __future__ import annotations


class MailstayError(Exception):
    """Something went wrong that a person can act on.

    Args:
        what: what was wrong, in one sentence, without personal data.
        where: the file, table, row or field it was found in.
        fix: what to do next.

    The command line prints these three and exits with `exit_code`; a traceback is for defects of ours.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what = what
        self.where = where
        self.fix = fix
        super().__init__(str(self))

    def __str__(self) -> str:
        text = self.what
        if self.where:
            text += f" ({self.where})"
        if self.fix:
            text += f". To fix it: {self.fix}"
        return text


class UsageError(MailstayError):
    """The caller asked for something that cannot be: a wrong option, an unknown name, a broken plan."""

    exit_code = 2
