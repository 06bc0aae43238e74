"""Writing tables back: one transaction that is committed only when what was written reads back as it should."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import pyarrow as pa

from tasks.core import Clock
from tasks.sources.facts import TableFacts
from tasks.sources.reading import SourceReader


class Target(Protocol):
    """An empty database, or one that has none of the tables to be written."""

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""

    def open(self, clock: Clock) -> AbstractContextManager[TargetWriter]:
        """Begin one transaction; it is rolled back unless `commit` is called.

        Raises:
            SourceError: the database cannot be reached or written.
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
