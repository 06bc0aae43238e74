"""What listmonk's API gives: subscribers with their subscriptions, lists, campaigns, templates, bounces.

Subscribers carry their consent and are read last but for bounces, which only add to it. Views and clicks have no
paged list in the API; its own PostgreSQL, read as a database, has everything.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial

from tasks.providers.exporting import (
    ExportTable,
    Look,
    Part,
    Step,
    columns,
    numbered_pages,
    rising_ids,
)
from tasks.providers.http import JsonApi
from tasks.providers.shapes import rows_of

_PAGE_ROWS = 50
_LOG_ROWS = 1000

TABLES = (
    ExportTable(
        "subscribers",
        "A subscriber; `lists` holds each subscription with its status.",
        columns(integer="id", text="uuid email name status", time="created_at updated_at", json="attribs lists"),
        ("id",),
        "updated_at",
    ),
    ExportTable(
        "lists",
        "A list.",
        columns(
            integer="id", text="uuid name type optin", time="created_at updated_at", json="tags subscriber_count"
        ),
        ("id",),
        "updated_at",
    ),
    ExportTable(
        "campaigns",
        "A campaign with its content and the lists it goes to.",
        columns(
            integer="id to_send sent",
            text="uuid name subject from_email body altbody content_type status type messenger",
            time="send_at started_at created_at updated_at",
            json="lists tags attribs headers template_id views clicks bounces",
        ),
        ("id",),
        "updated_at",
    ),
    ExportTable(
        "templates", "A template.",
        columns(
            integer="id", text="name type subject body", boolean="is_default", time="created_at updated_at"
        ),
        ("id",),
        "updated_at",
    ),
    ExportTable(
        "bounces", "A bounce or complaint.",
        columns(
            integer="id subscriber_id", text="type source email subscriber_uuid", time="created_at",
            json="meta campaign",
        ),
        ("id",),
        "created_at",
    ),
    ExportTable(
        "messages", "A line of the sender's own log, where the server keeps one.",
        columns(
            integer="id campaign_id subscriber_id smtp_code", text="status", time="queued_at updated_at"
        ),
        ("id",),
        "updated_at",
    ),
    ExportTable(
        "events", "An event, where the server keeps them.",
        columns(integer="id campaign_id subscriber_id", text="type", time="occurred_at"),
        ("id",),
        "occurred_at",
    ),
)  # fmt: skip


class ListmonkExport:
    """The export of a listmonk server through its API."""

    tables = TABLES

    def __init__(self, api: JsonApi) -> None:
        self._api = api

    def steps(self, started: datetime) -> tuple[Step, ...]:
        """Return the steps of an export, people last."""
        pages = partial(numbered_pages, self._api, size=_PAGE_ROWS, order="ASC")
        log = partial(rising_ids, self._api, size=_LOG_ROWS)
        return (
            Step("lists", "lists", pages("/lists")),
            Step("templates", "templates", self._templates()),
            Step("campaigns", "campaigns", pages("/campaigns")),
            Step("send log", "messages", log("/extensions/messages"), optional=True),
            Step("events", "events", log("/extensions/events"), optional=True),
            Step("subscribers", "subscribers", pages("/subscribers"), consent=True),
            Step("bounces", "bounces", pages("/bounces", order="asc"), consent=True),
        )

    def _templates(self) -> Callable[[Look], Part]:
        path = "/templates"
        asked = {"no_body": "false"}
        return lambda _: Part(rows_of(self._api.get(path, asked), f"{self._api.name}: GET {path}"), None)
