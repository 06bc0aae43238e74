"""The simulated ESP's tables: a subset of listmonk v6, and two of our own.

`messages` (the sender's log) and `events` are extensions: listmonk keeps no record of who got a campaign. All times
are naive UTC.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

METADATA = sa.MetaData()


def _key() -> sa.Column[int]:
    return sa.Column("id", sa.Integer, primary_key=True, autoincrement=True)


def _times() -> tuple[sa.Column[Any], sa.Column[Any]]:
    return (
        sa.Column("created_at", sa.TIMESTAMP, nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP, nullable=False),
    )


SUBSCRIBERS = sa.Table(
    "subscribers",
    METADATA,
    _key(),
    sa.Column("uuid", sa.String(36), nullable=False, unique=True),
    sa.Column("email", sa.String(254), nullable=False, unique=True),
    sa.Column("name", sa.String(254), nullable=False),
    sa.Column("attribs", sa.JSON, nullable=False),
    sa.Column("status", sa.String(12), nullable=False),
    *_times(),
)
LISTS = sa.Table(
    "lists",
    METADATA,
    _key(),
    sa.Column("uuid", sa.String(36), nullable=False, unique=True),
    sa.Column("name", sa.String(254), nullable=False),
    sa.Column("type", sa.String(12), nullable=False),
    sa.Column("optin", sa.String(12), nullable=False),
    sa.Column("status", sa.String(12), nullable=False),
    sa.Column("tags", sa.JSON, nullable=False),
    *_times(),
)
SUBSCRIBER_LISTS = sa.Table(
    "subscriber_lists",
    METADATA,
    sa.Column("subscriber_id", sa.Integer, sa.ForeignKey("subscribers.id"), primary_key=True),
    sa.Column("list_id", sa.Integer, sa.ForeignKey("lists.id"), primary_key=True, index=True),
    sa.Column("status", sa.String(12), nullable=False),
    *_times(),
)
TEMPLATES = sa.Table(
    "templates",
    METADATA,
    _key(),
    sa.Column("name", sa.String(254), nullable=False),
    sa.Column("type", sa.String(16), nullable=False),
    sa.Column("subject", sa.String(254), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("is_default", sa.Boolean, nullable=False),
    *_times(),
)
CAMPAIGNS = sa.Table(
    "campaigns",
    METADATA,
    _key(),
    sa.Column("uuid", sa.String(36), nullable=False, unique=True),
    sa.Column("name", sa.String(254), nullable=False),
    sa.Column("subject", sa.String(254), nullable=False),
    sa.Column("from_email", sa.String(254), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("content_type", sa.String(12), nullable=False),
    sa.Column("send_at", sa.TIMESTAMP),
    sa.Column("status", sa.String(12), nullable=False, index=True),
    sa.Column("tags", sa.JSON, nullable=False),
    sa.Column("attribs", sa.JSON, nullable=False),
    sa.Column("type", sa.String(12), nullable=False),
    sa.Column("template_id", sa.Integer, sa.ForeignKey("templates.id")),
    sa.Column("to_send", sa.Integer, nullable=False),
    sa.Column("sent", sa.Integer, nullable=False),
    sa.Column("max_subscriber_id", sa.Integer, nullable=False),
    sa.Column("last_subscriber_id", sa.Integer, nullable=False),
    sa.Column("started_at", sa.TIMESTAMP),
    *_times(),
)
CAMPAIGN_LISTS = sa.Table(
    "campaign_lists",
    METADATA,
    _key(),
    sa.Column("campaign_id", sa.Integer, sa.ForeignKey("campaigns.id"), nullable=False, index=True),
    sa.Column("list_id", sa.Integer, sa.ForeignKey("lists.id")),
    sa.Column("list_name", sa.String(254), nullable=False),
)
CAMPAIGN_VIEWS = sa.Table(
    "campaign_views",
    METADATA,
    _key(),
    sa.Column("campaign_id", sa.Integer, sa.ForeignKey("campaigns.id"), nullable=False, index=True),
    sa.Column("subscriber_id", sa.Integer, sa.ForeignKey("subscribers.id")),
    sa.Column("created_at", sa.TIMESTAMP, nullable=False),
    sqlite_autoincrement=True,
)
LINKS = sa.Table(
    "links",
    METADATA,
    _key(),
    sa.Column("uuid", sa.String(36), nullable=False, unique=True),
    sa.Column("url", sa.Text, nullable=False, unique=True),
)
LINK_CLICKS = sa.Table(
    "link_clicks",
    METADATA,
    _key(),
    sa.Column("campaign_id", sa.Integer, sa.ForeignKey("campaigns.id"), nullable=False, index=True),
    sa.Column("link_id", sa.Integer, sa.ForeignKey("links.id"), nullable=False),
    sa.Column("subscriber_id", sa.Integer, sa.ForeignKey("subscribers.id")),
    sa.Column("created_at", sa.TIMESTAMP, nullable=False),
    sqlite_autoincrement=True,
)
BOUNCES = sa.Table(
    "bounces",
    METADATA,
    _key(),
    sa.Column("subscriber_id", sa.Integer, sa.ForeignKey("subscribers.id"), nullable=False, index=True),
    sa.Column("campaign_id", sa.Integer, sa.ForeignKey("campaigns.id"), index=True),
    sa.Column("type", sa.String(12), nullable=False),
    sa.Column("source", sa.String(254), nullable=False),
    sa.Column("meta", sa.JSON, nullable=False),
    sa.Column("created_at", sa.TIMESTAMP, nullable=False),
    sqlite_autoincrement=True,
)
MESSAGES = sa.Table(
    "messages",
    METADATA,
    _key(),
    sa.Column("campaign_id", sa.Integer, sa.ForeignKey("campaigns.id"), nullable=False),
    sa.Column("subscriber_id", sa.Integer, sa.ForeignKey("subscribers.id"), nullable=False),
    sa.Column("status", sa.String(12), nullable=False),
    sa.Column("queued_at", sa.TIMESTAMP, nullable=False),
    sa.Column("updated_at", sa.TIMESTAMP, nullable=False),
    sa.Column("smtp_code", sa.Integer),
    sa.UniqueConstraint("campaign_id", "subscriber_id"),
    sqlite_autoincrement=True,
)
EVENTS = sa.Table(
    "events",
    METADATA,
    _key(),
    sa.Column("type", sa.String(12), nullable=False),
    sa.Column("campaign_id", sa.Integer, sa.ForeignKey("campaigns.id"), nullable=False),
    sa.Column("subscriber_id", sa.Integer, sa.ForeignKey("subscribers.id"), nullable=False),
    sa.Column("occurred_at", sa.TIMESTAMP, nullable=False),
    sqlite_autoincrement=True,
)


def connect(url: str, *, durable: bool = True) -> sa.Engine:
    """Return an engine for the ESP's database, its tables created where they are missing.

    SQLite runs in WAL mode: a reader (a backup) never blocks the sender, and a killed process loses no commit.
    `durable=False` is for throw-away copies.
    """
    sqlite = url.startswith("sqlite")
    engine = sa.create_engine(url, connect_args={"check_same_thread": False} if sqlite else {})
    if sqlite:

        @sa.event.listens_for(engine, "connect")
        def _prepare(connection: Any, _: object) -> None:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {'NORMAL' if durable else 'OFF'}")
            connection.execute("PRAGMA busy_timeout = 30000")

    METADATA.create_all(engine)
    return engine
