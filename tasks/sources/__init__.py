"""SQL databases as Arrow batches, read from one consistent point and written back: exact, or its cast is kept."""

from tasks.sources.adapting import ReadColumn, adapted, comparable
from tasks.sources.changes import ChangeFacts, Changes
from tasks.sources.columns import Column, Unfit, plain
from tasks.sources.errors import SourceError, ValueDoesNotFit
from tasks.sources.facts import CASTS, ColumnFacts, ForeignKey, TableFacts
from tasks.sources.opening import open_source, open_target
from tasks.sources.porting import portable, ported, uuid_text
from tasks.sources.reading import (
    BATCH_BYTES,
    BATCH_ROWS,
    Cursor,
    CursorReader,
    Source,
    SourceReader,
    Table,
    chosen,
)
from tasks.sources.target import LiveWriter, Target, TargetWriter

__all__ = [
    "BATCH_BYTES",
    "BATCH_ROWS",
    "CASTS",
    "ChangeFacts",
    "Changes",
    "Column",
    "ColumnFacts",
    "Cursor",
    "CursorReader",
    "ForeignKey",
    "LiveWriter",
    "ReadColumn",
    "Source",
    "SourceError",
    "SourceReader",
    "Table",
    "TableFacts",
    "Target",
    "TargetWriter",
    "Unfit",
    "ValueDoesNotFit",
    "adapted",
    "chosen",
    "comparable",
    "open_source",
    "open_target",
    "plain",
    "portable",
    "ported",
    "uuid_text",
]
