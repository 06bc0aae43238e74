"""The contract of a table: what must hold of it in every snapshot, as typed data read from one YAML file."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.checks.findings import Severity

ColumnType = Literal[
    "text", "integer", "decimal", "number", "boolean", "timestamp", "date", "time", "json", "binary"
]
Share = Annotated[float, Field(ge=0, le=1)]
Auto = Literal["auto"]
Slug = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
FormatName = Literal["email", "uuid", "url", "currency"]

FORMATS: dict[str, str] = {
    # The HTML standard's valid e-mail address (a deliberate, usable subset of RFC 5322), and a dot in the domain.
    "email": (
        r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@"
        r"([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])$"
    ),
    "uuid": r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$",
    "url": r"^https?://[^\s/]+(/\S*)?$",
    "currency": r"^[A-Z]{3}$",
}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Rule(_Part):
    severity: Severity = Field(
        "critical", description="What a breach means: critical quarantines, warning and info only report."
    )


class _RowRule(_Rule):
    tolerate: Share = Field(
        0, description="Share of the values that may break the rule: for dirt that is known."
    )


class Nulls(_Rule):
    """How many values of a column may be missing."""

    at_most: Share | Auto = Field(
        0.0,
        description="Share of the rows without a value: 0 = every row has one, 1 = all may lack it, "
        "`auto` = what earlier valid snapshots lead to expect, and never all.",
    )


class Unique(_Rule):
    """No value occurs twice."""


class Allowed(_RowRule):
    """The values that a column may have."""

    values: list[str | int | bool] = Field(min_length=1, description="Every value that is allowed.")


class Format(_RowRule):
    """What a text looks like: a known format by name, or a regular expression."""

    name: FormatName | None = Field(None, description="A known format.")
    pattern: str | None = Field(None, description="A regular expression (RE2) that is searched for.")

    @model_validator(mode="after")
    def _one(self) -> Format:
        if (self.name is None) == (self.pattern is None):
            raise ValueError("give exactly one of name and pattern")
        return self

    @property
    def regex(self) -> str:
        """The regular expression that a value must match."""
        return FORMATS[self.name] if self.name else str(self.pattern)


class Range(_RowRule):
    """The smallest and the largest number allowed, both included."""

    min: float | None = Field(None, description="Smallest allowed value.")
    max: float | None = Field(None, description="Largest allowed value.")

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} exceeds max {self.max:g}")
        return self


class Dates(_RowRule):
    """Between which moments a date may lie; the end is measured from the snapshot's consistency point."""

    not_before: date | None = Field(None, description="The first day that is possible (UTC).")
    not_after: Literal["snapshot", "open"] = Field(
        "snapshot", description="`snapshot`: not after the snapshot's consistency point; `open`: no end."
    )
    ahead_minutes: int = Field(
        5,
        ge=0,
        description="Minutes after the consistency point that still pass: clocks differ by some, "
        "and a schedule reaches into the future.",
    )

    @model_validator(mode="after")
    def _says_something(self) -> Dates:
        if self.not_before is None and self.not_after == "open":
            raise ValueError("give not_before, or not_after: snapshot")
        return self


class Length(_RowRule):
    """How long a text may be."""

    max: int = Field(ge=1, description="Most characters.")


class NoAddresses(_RowRule):
    """The text holds no e-mail address: a column that does is personal data and should say so."""

    severity: Severity = Field("warning", description="What an address in the column means.")


class Fresh(_Rule):
    """How old the newest moment of the column may be when the snapshot is taken: stale data comes from a stale copy."""

    within_minutes: Annotated[int, Field(ge=1)] | Auto = Field(
        description="Minutes between the newest value and the snapshot's consistency point; "
        "`auto` = what earlier valid snapshots lead to expect."
    )
    severity: Severity = Field("warning", description="What it means if the newest value is older.")


class Drift(_Rule):
    """How far the spread of values may move since the last valid snapshot, as population stability index.

    Counted by each allowed value, by true and false, or, for numbers, by sign and half octave.
    """

    at_most: Annotated[float, Field(gt=0)] = Field(
        0.25, description="The largest index that passes: 0.1 is a shift worth a look, 0.25 a large one."
    )
    severity: Severity = Field("warning", description="What a larger shift means.")


class Column(_Part):
    """What must hold of one column."""

    type: ColumnType = Field(
        description="The family of types. `number` = whole, decimal or floating; `json` = text that holds JSON."
    )
    description: str = Field("", description="What the column means.")
    personal: bool = Field(
        False, description="Holds personal data: its values never appear in findings, messages or Data Docs."
    )
    severity: Severity = Field(
        "critical", description="What it means if the column is missing or has another type."
    )
    nulls: Nulls = Field(Nulls(), description="How many values may be missing; none unless said.")
    unique: Unique | None = Field(None, description="No value occurs twice.")
    allowed: Allowed | None = Field(None, description="The values it may have.")
    format: Format | None = Field(None, description="What a text looks like.")
    range: Range | None = Field(None, description="Smallest and largest number.")
    dates: Dates | None = Field(None, description="Earliest and latest moment.")
    length: Length | None = Field(None, description="Most characters of a text.")
    no_addresses: NoAddresses | None = Field(None, description="No e-mail address stands in it.")
    fresh: Fresh | None = Field(None, description="How old its newest moment may be.")
    drift: Drift | None = Field(
        None, description="How far its values may shift since the last valid snapshot."
    )


class Rows(_Rule):
    """How many rows the table must have. That it has as many as its source had is always checked."""

    at_least: int = Field(1, ge=0, description="Fewest rows; 0 says that an empty table is fine.")
    shrink_at_most: Share = Field(
        1, description="Share of the last valid snapshot's rows that may have gone; 1 = all."
    )
    shrink_severity: Severity = Field("critical", description="What it means if more rows have gone.")
    grow_at_most: Annotated[float, Field(ge=0)] | None = Field(
        None,
        description="Rows that may have come, as a share of the last valid snapshot's: 1 = at most twice as many.",
    )
    grow_severity: Severity = Field("warning", description="What it means if more rows have come.")
    change: Auto | None = Field(
        None, description="`auto`: it grows or shrinks no faster than earlier valid snapshots lead to expect."
    )
    change_severity: Severity = Field("warning", description="What an unexpected change means.")


class ForeignKeyRule(_Rule):
    """A foreign key: a row whose columns all have a value needs its row in the other table."""

    columns: list[str] = Field(min_length=1, description="The columns here.")
    references: str = Field(description="The table they refer to.")
    referred: list[str] = Field(min_length=1, description="The columns there, in the same order.")

    @model_validator(mode="after")
    def _pairs(self) -> ForeignKeyRule:
        if len(self.columns) != len(self.referred):
            raise ValueError(f"{len(self.columns)} columns refer to {len(self.referred)}")
        return self


class UniqueTogether(_Rule):
    """No combination of values occurs twice; a row that lacks one of them is not compared."""

    columns: list[str] = Field(min_length=2, description="The columns; for one column use its `unique`.")


class RowRule(_RowRule):
    """A condition on the columns of one row, as in a CHECK constraint: unknown (null) passes."""

    name: Slug = Field(description="The rule's name, unique in the table.")
    says: str = Field(min_length=1, description="The rule in words, for the reader of a finding.")
    holds: str = Field(min_length=1, description="The condition in SQL (DuckDB).")
    columns: list[str] = Field(min_length=1, description="The columns that the condition uses.")


class HasRows(_RowRule):
    """A foreign key the other way round: a row here has its rows in another table."""

    name: Slug = Field(description="The rule's name, unique in the table.")
    table: str = Field(description="The table that must have rows.")
    by: dict[str, str] = Field(min_length=1, description="Column here: column there, to join by.")
    at_least: int = Field(1, ge=0, description="Fewest rows there.")
    at_most: int | None = Field(None, ge=0, description="Most rows there.")
    where: str = Field("", description="Only rows there for which this condition holds (SQL) are counted.")
    only: str = Field("", description="Only rows here for which this condition holds (SQL) are looked at.")

    @model_validator(mode="after")
    def _possible(self) -> HasRows:
        if self.at_most is not None and self.at_most < self.at_least:
            raise ValueError(f"at_least {self.at_least} exceeds at_most {self.at_most}")
        if self.at_least == 0 and self.at_most is None:
            raise ValueError("give at_least or at_most")
        return self


class NoRows(_Rule):
    """A condition across tables: a query that finds the rows here that break it."""

    name: Slug = Field(description="The rule's name, unique in the table.")
    says: str = Field(min_length=1, description="The rule in words, for the reader of a finding.")
    finds: str = Field(
        min_length=1,
        description="A SELECT (DuckDB) over the source's tables that gives the primary keys of bad rows.",
    )


class AddsUp(_RowRule):
    """A reconciliation: a number here equals the sum of a number over its rows in another table, or their count."""

    name: Slug = Field(description="The rule's name, unique in the table.")
    column: str = Field(description="The number here.")
    table: str = Field(description="The table whose rows are summed.")
    sum_of: str | None = Field(None, description="The number there; without it the rows there are counted.")
    where: str = Field("", description="Only rows there for which this condition holds (SQL) count.")
    only: str = Field("", description="Only rows here for which this condition holds (SQL) are looked at.")
    by: dict[str, str] = Field(min_length=1, description="Column here: column there, to join by.")
    within: float = Field(0, ge=0, description="Difference that still counts as equal.")
    rows_without: Literal["skip", "zero"] = Field(
        "zero", description="A row with nothing to sum: its sum is zero, or it is not looked at."
    )


class SchemaChanges(_Part):
    """What a change of the schema since the last valid snapshot means, unless the contract already asks for it.

    A change that the contract names (a new column that it lists, a type that it asks for) is `info`: somebody has
    reviewed it.
    """

    added: Severity = Field("warning", description="A column is new.")
    removed: Severity = Field("critical", description="A column is gone.")
    renamed: Severity = Field("critical", description="A column is gone, and a new one is its like.")
    retyped: Severity = Field(
        "critical", description="A column has a type of another family, or is read as text."
    )
    narrowed: Severity = Field(
        "warning", description="A column holds less than before, such as shorter texts."
    )
    widened: Severity = Field("info", description="A column holds more than before, such as longer texts.")
    nullable: Severity = Field("warning", description="A column may be empty now.")
    not_nullable: Severity = Field("info", description="A column may not be empty any more.")
    key: Severity = Field("critical", description="The primary key is another one.")
    foreign_key: Severity = Field("warning", description="A declared foreign key is gone.")


class Purpose(_Part):
    """What an opt-out was from, such as a list: with it gone, nobody can be mailed through it."""

    column: str = Field(description="The column here.")
    table: str = Field(description="The table it refers to.")
    key: str = Field(description="The column there.")
    double_opt_in: dict[str, str] = Field(
        default={},
        description="Column there: value that means that the person confirms by mail before `confirmed` counts.",
    )
    confirmed: list[str] = Field(
        default=[], description="Values of the consent column that such a confirmation gives."
    )


class Consent(_Part):
    """Which rows say that somebody must not be mailed.

    Held against the last valid snapshot, and always critical: an opt-out that is gone, one that became mailable, one
    whose date moved back. Legitimate are a person whom the store's ledger erased; a later opt-in in the consent log, or
    by double opt-in; an opt-out that stays somewhere else (a wider one, the same address, the log); a purpose that is
    gone. For sources of a mapping that Mailstay knows, the contracts that come with it decide, whatever others say.
    """

    kind: Literal["state", "log"] = Field(
        "state",
        description="`state`: a row says what holds now. "
        "`log`: a row is one wish and never changes; a person's latest one counts.",
    )
    person: str = Field(description="The column that names the person.")
    column: str = Field(description="The column that says whether they may be mailed.")
    blocked: list[str] = Field(
        default=[], description="Its values that say: they must not be mailed. Empty: every row says so."
    )
    since: str = Field(
        description="The column that says when that was said: a moment, or seconds since 1970 as a whole number."
    )
    rows: str = Field(
        "",
        description="Where several consents stand in one row: a SELECT (DuckDB) from `{table}` that gives a row for "
        "each, with the primary key and the columns named here.",
    )
    by: list[str] = Field(
        default=[], description="The columns of `rows` that name a consent; else it is the primary key."
    )
    address: str | None = Field(
        None, description="The column with the address: a row made again is the same person's."
    )
    covered_by: str | None = Field(
        None,
        description="A table whose own consent rows are wider: whoever is blocked there is blocked here.",
    )
    purpose: Purpose | None = Field(None, description="What the opt-out is from.")


class Contract(_Part):
    """What must hold of one table in every snapshot."""

    table: str = Field(min_length=1, description="The table; the file is named after it.")
    description: str = Field("", description="What a row is.")
    primary_key: list[str] = Field(
        min_length=1, description="The columns that name a row: never null, never twice; samples quote them."
    )
    key_severity: Severity = Field("critical", description="What a duplicate or missing key means.")
    columns: dict[str, Column] = Field(min_length=1, description="Every column.")
    unknown_columns: Severity = Field(
        "warning", description="What a column means that the contract does not name."
    )
    rows: Rows = Field(Rows(), description="How many rows there must be.")
    foreign_keys: list[ForeignKeyRule] = Field(default=[], description="References to other tables.")
    unique_together: list[UniqueTogether] = Field(
        default=[], description="Combinations of columns that occur once, beside the primary key."
    )
    row_rules: list[RowRule] = Field(default=[], description="Conditions on the columns of one row.")
    adds_up: list[AddsUp] = Field(default=[], description="Sums and counts that agree with another table.")
    has_rows: list[HasRows] = Field(default=[], description="Rows that must be there in another table.")
    no_rows: list[NoRows] = Field(
        default=[], description="Conditions across tables, as queries for bad rows."
    )
    schema_changes: SchemaChanges = Field(
        SchemaChanges(), description="What changes of the schema since the last valid snapshot mean."
    )
    consent: Consent | None = Field(None, description="Which rows say that somebody must not be mailed.")

    def personal_columns(self) -> set[str]:
        """Return the columns that hold personal data."""
        return {name for name, column in self.columns.items() if column.personal}
