"""The journal's tables. Every row is a fact with its place in one order (`seq`); none is ever changed.

A fact is one row of `journal_facts` and one of its own table with the same `seq` (joined-table inheritance), so
that everything about an incident can be read in the order it was written, whatever kind it is.
"""

# ruff: noqa: RUF012  (SQLAlchemy reads these class attributes as configuration)

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Seq = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
VERSION_TABLE = "journal_version"


class UtcTime(sa.types.TypeDecorator[datetime]):
    """A time in UTC, to the microsecond; a time without a zone is refused, SQLite gets it without one."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Return `value` in UTC as the database takes it."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone is not accepted")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Return the stored time with its zone."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Where the tables are collected."""

    type_annotation_map = {
        datetime: UtcTime(),
        dict[str, Any]: sa.JSON(),
        list[dict[str, Any]]: sa.JSON(),
    }


class Fact(Base):
    """Any fact: its place in the order, what it is about, and when it was written."""

    __tablename__ = "journal_facts"
    __table_args__ = {"sqlite_autoincrement": True}
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "fact"}

    seq: Mapped[int] = mapped_column(Seq, primary_key=True, autoincrement=True)
    kind: Mapped[str] = mapped_column(sa.String(24))
    incident_id: Mapped[str | None] = mapped_column(sa.String(16), index=True)
    recorded_at: Mapped[datetime]


def _seq() -> Any:
    return mapped_column(Seq, sa.ForeignKey("journal_facts.seq"), primary_key=True)


class Declaration(Fact):
    """An incident was declared."""

    __tablename__ = "journal_declarations"
    __mapper_args__ = {"polymorphic_identity": "declaration"}

    seq: Mapped[int] = _seq()
    number: Mapped[int] = mapped_column(unique=True)
    provider: Mapped[str] = mapped_column(sa.String(64), index=True)
    cause_class: Mapped[str] = mapped_column(sa.String(32))
    summary: Mapped[str] = mapped_column(sa.Text)
    declared_by: Mapped[str] = mapped_column(sa.String(200))
    vouched: Mapped[bool]


class StateChange(Fact):
    """An incident entered a state, or was put on hold or taken off it."""

    __tablename__ = "journal_states"
    __mapper_args__ = {"polymorphic_identity": "state"}

    seq: Mapped[int] = _seq()
    state: Mapped[str] = mapped_column(sa.String(16))
    on_hold: Mapped[str] = mapped_column(sa.String(24))
    by_name: Mapped[str] = mapped_column(sa.String(200))
    reason: Mapped[str] = mapped_column(sa.Text)
    at: Mapped[datetime]


class Timestamp(Fact):
    """One of an incident's timestamps was found out, corrected, or (no time) withdrawn."""

    __tablename__ = "journal_timestamps"
    __mapper_args__ = {"polymorphic_identity": "timestamp"}

    seq: Mapped[int] = _seq()
    name: Mapped[str] = mapped_column(sa.String(24))
    at: Mapped[datetime | None]
    by_name: Mapped[str] = mapped_column(sa.String(200))


class Note(Fact):
    """Something worth telling in the timeline."""

    __tablename__ = "journal_notes"
    __mapper_args__ = {"polymorphic_identity": "note"}

    seq: Mapped[int] = _seq()
    note_kind: Mapped[str] = mapped_column(sa.String(64))
    text: Mapped[str] = mapped_column(sa.Text)
    data: Mapped[dict[str, Any]]
    at: Mapped[datetime]


class ApprovalRequest(Fact):
    """A person was asked whether actions may happen."""

    __tablename__ = "journal_approvals"
    __mapper_args__ = {"polymorphic_identity": "approval"}

    seq: Mapped[int] = _seq()
    subject: Mapped[str] = mapped_column(sa.Text)
    actions: Mapped[list[dict[str, Any]]]
    expires_at: Mapped[datetime]


class ApprovalAnswer(Fact):
    """The one answer to an approval: approved, rejected, or expired."""

    __tablename__ = "journal_answers"
    __mapper_args__ = {"polymorphic_identity": "answer"}

    seq: Mapped[int] = _seq()
    approval_id: Mapped[int] = mapped_column(Seq, sa.ForeignKey("journal_approvals.seq"), unique=True)
    decision: Mapped[str] = mapped_column(sa.String(12))
    name: Mapped[str] = mapped_column(sa.String(200))
    vouched: Mapped[bool]
    via: Mapped[str] = mapped_column(sa.String(12))


class Intent(Fact):
    """An action is about to be asked for."""

    __tablename__ = "journal_actions"
    __mapper_args__ = {"polymorphic_identity": "action"}

    seq: Mapped[int] = _seq()
    scoped_key: Mapped[str] = mapped_column(sa.String(300), unique=True)
    key: Mapped[str] = mapped_column(sa.String(280))
    action_kind: Mapped[str] = mapped_column(sa.String(32))
    target: Mapped[str] = mapped_column(sa.String(200))
    payload: Mapped[dict[str, Any]]
    previous_state: Mapped[dict[str, Any]]
    undo: Mapped[dict[str, Any]]


class Outcome(Fact):
    """What became of an action."""

    __tablename__ = "journal_outcomes"
    __mapper_args__ = {"polymorphic_identity": "outcome"}

    seq: Mapped[int] = _seq()
    action_id: Mapped[int] = mapped_column(Seq, sa.ForeignKey("journal_actions.seq"), index=True)
    status: Mapped[str] = mapped_column(sa.String(12))
    result: Mapped[dict[str, Any]]
    error: Mapped[str] = mapped_column(sa.Text)
    evidence: Mapped[dict[str, Any]]


class Saying(Fact):
    """A message to a stakeholder is about to be sent."""

    __tablename__ = "journal_communications"
    __mapper_args__ = {"polymorphic_identity": "communication"}

    seq: Mapped[int] = _seq()
    message_id: Mapped[str] = mapped_column(sa.String(250), unique=True)
    stakeholder: Mapped[str] = mapped_column(sa.String(100))
    channel: Mapped[str] = mapped_column(sa.String(100))
    report: Mapped[str] = mapped_column(sa.String(24))
    subject: Mapped[str] = mapped_column(sa.Text)
    body_digest: Mapped[str] = mapped_column(sa.String(64))
    promised_next_at: Mapped[datetime | None]


class Delivery(Fact):
    """What became of a message to a stakeholder."""

    __tablename__ = "journal_deliveries"
    __mapper_args__ = {"polymorphic_identity": "delivery"}

    seq: Mapped[int] = _seq()
    communication_id: Mapped[int] = mapped_column(
        Seq, sa.ForeignKey("journal_communications.seq"), index=True
    )
    status: Mapped[str] = mapped_column(sa.String(12))
    error: Mapped[str] = mapped_column(sa.Text)


class LeaseChange(Fact):
    """A lease was granted (its `seq` is the token), renewed or released."""

    __tablename__ = "journal_leases"
    __mapper_args__ = {"polymorphic_identity": "lease"}

    seq: Mapped[int] = _seq()
    change: Mapped[str] = mapped_column(sa.String(12))
    token: Mapped[int | None] = mapped_column(Seq)
    holder: Mapped[str] = mapped_column(sa.String(200))
    process: Mapped[str] = mapped_column(sa.String(200))
    expires_at: Mapped[datetime]


class Value(Fact):
    """The new value of a key (a detector's state, a step's result)."""

    __tablename__ = "journal_values"
    __mapper_args__ = {"polymorphic_identity": "value"}

    seq: Mapped[int] = _seq()
    key: Mapped[str] = mapped_column(sa.String(250), index=True)
    value: Mapped[dict[str, Any]]


class Item(Fact):
    """Work that an incident leaves behind."""

    __tablename__ = "journal_items"
    __mapper_args__ = {"polymorphic_identity": "item"}

    seq: Mapped[int] = _seq()
    title: Mapped[str] = mapped_column(sa.Text)
    item_type: Mapped[str] = mapped_column(sa.String(16))
    priority: Mapped[str] = mapped_column(sa.String(4))
    owner: Mapped[str] = mapped_column(sa.String(200))
    due_at: Mapped[datetime]
    proof: Mapped[str] = mapped_column(sa.Text)


class ItemUpdate(Fact):
    """An action item was completed, or it was decided not to do it."""

    __tablename__ = "journal_item_updates"
    __mapper_args__ = {"polymorphic_identity": "item_update"}

    seq: Mapped[int] = _seq()
    item_id: Mapped[int] = mapped_column(Seq, sa.ForeignKey("journal_items.seq"), index=True)
    status: Mapped[str] = mapped_column(sa.String(16))
    evidence: Mapped[str] = mapped_column(sa.Text)
    by_name: Mapped[str] = mapped_column(sa.String(200))


#: Columns beside `seq` that are unique: SQLite's INSERT OR REPLACE must not slip past the triggers through them.
UNIQUE_COLUMNS: dict[str, str] = {
    "journal_declarations": "number",
    "journal_answers": "approval_id",
    "journal_actions": "scoped_key",
    "journal_communications": "message_id",
}
