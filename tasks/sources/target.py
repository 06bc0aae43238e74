"""Writing tables back: one transaction that is committed only when what was written reads back as it should."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import pyarrow as pa

from tasks.core import Clock
from tasks.sources.facts import TableFacts
from tasks.sources.reading import SourceReader


class Target(Protocol):
    """A database that tables, or rows of tables that are there, can be written to."""

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""

    def open(self, clock: Clock) -> AbstractContextManager[TargetWriter]:
        """Begin one transaction; it is rolled back unless `commit` is called.

        Raises:
            SourceError: the database cannot be reached or written.
        """

    def live(
        self, clock: Clock, tables: Collection[str], *, write: bool
    ) -> AbstractContextManager[LiveWriter]:
        """Begin one transaction on a database in use; it is rolled back unless `commit` is called.

        Args:
            clock: tells when the transaction began.
            tables: the tables to work on; those that are not there are left out.
            write: keep others from writing to them until the end (they can read). Without it nothing can be written.

        Raises:
            SourceError: the database cannot be reached, or others do not let go of its tables.
        """


class TargetWriter(ABC):
    """Writes tables inside one transaction; lives as long as `Target.open`'s block.

    Attributes:
        namespace: the schema that is written to; empty where the database has none.
    """

    namespace: str = ""

    @abstractmethod
    def create(self, tables: Sequence[TableFacts]) -> None:
        """Create the tables, empty and without keys.

        Raises:
            SourceError: one of them is there already, or its definition is refused.
        """

    @abstractmethod
    def load(self, table: TableFacts, batches: Iterable[pa.RecordBatch]) -> int:
        """Write the rows of one table and return how many; computed columns are left to the database."""

    @abstractmethod
    def finish(self, tables: Sequence[TableFacts]) -> None:
        """Add keys, indexes and sequence values, then foreign keys.

        Raises:
            SourceError: a row breaks a key, which the source then did not enforce.
        """

    @abstractmethod
    def reader(self) -> SourceReader:
        """Return a reader of what this transaction has written."""

    @abstractmethod
    def commit(self) -> None:
        """Keep what was written."""


class LiveWriter(ABC):
    """Changes rows of tables in use inside one transaction; lives as long as `Target.live`'s block."""

    @abstractmethod
    def reader(self) -> SourceReader:
        """Return a reader of the tables as this transaction sees them now."""

    @abstractmethod
    def insert(self, table: TableFacts, batches: Iterable[pa.RecordBatch]) -> None:
        """Insert rows; the columns are those of `table`, and numbers the database would give are given.

        Raises:
            SourceError: the database refuses a row, such as one whose unique value another row has.
        """

    @abstractmethod
    def update(self, table: TableFacts, batches: Iterable[pa.RecordBatch]) -> None:
        """Set the columns of `table` that are not its primary key in the rows with that key.

        Raises:
            SourceError: the database refuses a row.
        """

    @abstractmethod
    def settle(self, tables: Sequence[TableFacts]) -> None:
        """Check what the database has not checked yet, and move sequences behind the rows, never back.

        Raises:
            SourceError: a row names a row of another table that is not there.
        """

    @abstractmethod
    def commit(self) -> None:
        """Keep what was changed."""
