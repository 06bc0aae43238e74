"""What can go wrong while a source is read."""

from __future__ import annotations

from tasks.core import MailstayError


class SourceError(MailstayError):
    """A source cannot be read as asked. Base of every error of this package."""


class ValueDoesNotFit(SourceError):
    """A stored value does not fit the type of its column as it was read so far.

    The reader has already widened the column (its `schema` and facts now say so): read the table again from the
    start and the value comes as recorded text. Never holds the value itself, which may be personal data.
    """

    def __init__(self, table: str, column: str, cast: str) -> None:
        self.table = table
        self.column = column
        self.cast = cast
        super().__init__(
            f"A value does not fit the declared type; the column is now read with the cast {cast!r}",
            where=f"{table}.{column}",
            fix="read the table again from its first row",
        )
