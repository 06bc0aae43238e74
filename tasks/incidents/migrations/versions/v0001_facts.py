"""The journal's facts, and the triggers that keep them as they were written."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SEQ = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)

UNIQUE = {
    "journal_declarations": "number",
    "journal_answers": "approval_id",
    "journal_actions": "scoped_key",
    "journal_communications": "message_id",
}


def upgrade() -> None:
    op.create_table(
        "journal_facts",
        sa.Column("seq", SEQ, primary_key=True, autoincrement=True),
        sa.Column("kind", sa.String(24), nullable=False),
        sa.Column("incident_id", sa.String(16), nullable=True, index=True),
        sa.Column("recorded_at", TIME, nullable=False),
        sqlite_autoincrement=True,
    )
    tables = ["journal_facts"]

    def table(name: str, *columns: sa.Column) -> None:
        seq = sa.Column("seq", SEQ, sa.ForeignKey("journal_facts.seq"), primary_key=True, autoincrement=False)
        op.create_table(name, seq, *columns)
        tables.append(name)

    def text(name: str, length: int | None = None, **options: bool) -> sa.Column:
        return sa.Column(name, sa.String(length) if length else sa.Text(), nullable=False, **options)

    def reference(name: str, other: str, **options: bool) -> sa.Column:
        return sa.Column(name, SEQ, sa.ForeignKey(f"{other}.seq"), nullable=False, **options)

    def json(name: str) -> sa.Column:
        return sa.Column(name, sa.JSON(), nullable=False)

    def time(name: str, nullable: bool = False) -> sa.Column:
        return sa.Column(name, TIME, nullable=nullable)

    table(
        "journal_declarations",
        sa.Column("number", sa.Integer(), nullable=False, unique=True),
        text("provider", 64, index=True),
        text("cause_class", 32),
        text("summary"),
        text("declared_by", 200),
        sa.Column("vouched", sa.Boolean(), nullable=False),
    )
    table(
        "journal_states",
        text("state", 16),
        text("on_hold", 24),
        text("by_name", 200),
        text("reason"),
        time("at"),
    )
    table("journal_timestamps", text("name", 24), time("at", nullable=True), text("by_name", 200))
    table("journal_notes", text("note_kind", 64), text("text"), json("data"), time("at"))
    table("journal_approvals", text("subject"), json("actions"), time("expires_at"))
    table(
        "journal_answers",
        reference("approval_id", "journal_approvals", unique=True),
        text("decision", 12),
        text("name", 200),
        sa.Column("vouched", sa.Boolean(), nullable=False),
        text("via", 12),
    )
    table(
        "journal_actions",
        text("scoped_key", 300, unique=True),
        text("key", 280),
        text("action_kind", 32),
        text("target", 200),
        json("payload"),
        json("previous_state"),
        json("undo"),
    )
    table(
        "journal_outcomes",
        reference("action_id", "journal_actions", index=True),
        text("status", 12),
        json("result"),
        text("error"),
        json("evidence"),
    )
    table(
        "journal_communications",
        text("message_id", 250, unique=True),
        text("stakeholder", 100),
        text("channel", 100),
        text("report", 24),
        text("subject"),
        text("body_digest", 64),
        time("promised_next_at", nullable=True),
    )
    table(
        "journal_deliveries",
        reference("communication_id", "journal_communications", index=True),
        text("status", 12),
        text("error"),
    )
    table(
        "journal_leases",
        text("change", 12),
        sa.Column("token", SEQ, nullable=True),
        text("holder", 200),
        text("process", 200),
        time("expires_at"),
    )
    table("journal_values", text("key", 250, index=True), json("value"))
    table(
        "journal_items",
        text("title"),
        text("item_type", 16),
        text("priority", 4),
        text("owner", 200),
        time("due_at"),
        text("proof"),
    )
    table(
        "journal_item_updates",
        reference("item_id", "journal_items", index=True),
        text("status", 16),
        text("evidence"),
        text("by_name", 200),
    )
    if op.get_bind().dialect.name == "sqlite":
        for name in tables:
            _protect_sqlite(name)
    else:
        _protect_postgresql(tables)


def downgrade() -> None:
    raise NotImplementedError("the journal keeps every fact: there is no way back")


def _protect_sqlite(name: str) -> None:
    refuse = f"SELECT RAISE(ABORT, '{name} is append-only')"
    for what in ("UPDATE", "DELETE"):
        op.execute(f"CREATE TRIGGER {name}_no_{what.lower()} BEFORE {what} ON {name} BEGIN {refuse}; END")
    # INSERT OR REPLACE removes the old row without firing a DELETE trigger
    same = "seq = NEW.seq" + (f" OR {UNIQUE[name]} = NEW.{UNIQUE[name]}" if name in UNIQUE else "")
    op.execute(
        f"CREATE TRIGGER {name}_no_replace BEFORE INSERT ON {name} "
        f"WHEN EXISTS (SELECT 1 FROM {name} WHERE {same}) BEGIN {refuse}; END"
    )


def _protect_postgresql(tables: list[str]) -> None:
    op.execute(
        "CREATE FUNCTION journal_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"
    )
    for name in tables:
        op.execute(
            f"CREATE TRIGGER {name}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {name} "
            "FOR EACH STATEMENT EXECUTE FUNCTION journal_append_only()"
        )
