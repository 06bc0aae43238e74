"""Reading SQL databases as Arrow batches: one consistent point in time, every type exact or its cast recorded."""

from tasks.sources.errors import SourceError, ValueDoesNotFit
from tasks.sources.facts import CASTS, ColumnFacts, ForeignKey, TableFacts
from tasks.sources.opening import open_source
from tasks.sources.reading import BATCH_ROWS, Source, SourceReader

__all__ = [
    "BATCH_ROWS",
    "CASTS",
    "ColumnFacts",
    "ForeignKey",
    "Source",
    "SourceError",
    "SourceReader",
    "TableFacts",
    "ValueDoesNotFit",
    "open_source",
]
