"""What Brevo gives of an account: contacts with their consent, lists, campaigns, templates, events.

Outside contacts a standard account may ask 100 times an hour, so what may have to wait for its hour is read first and
people after it: contacts, then blocked recipients, then the contacts that changed since the export began. An opt-out
that came while contacts were read is in the last of these.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

from tasks.providers.exporting import ExportTable, Look, Part, Step, columns, overlapping_pages
from tasks.providers.http import JsonApi
from tasks.providers.shapes import rows_of

_EVENT_ROWS = 5000
_EVENT_DAYS = 89  # Brevo refuses a range of more than 90 days, both ends counted
_CLOCKS_DIFFER = timedelta(minutes=15)

TABLES = (
    ExportTable(
        "contacts",
        "A contact, with what it opted out of.",
        columns(
            integer="id", text="email ext_id", boolean="emailBlacklisted smsBlacklisted", time="createdAt modifiedAt",
            json="listIds listUnsubscribed attributes",
        ),
        ("id",),
        "modifiedAt",
    ),
    ExportTable(
        "lists", "A list.",
        columns(integer="id", text="name", json="folderId totalBlacklisted totalSubscribers uniqueSubscribers"),
        ("id",),
    ),
    ExportTable(
        "folders", "A folder of lists.",
        columns(integer="id", text="name", json="totalBlacklisted totalSubscribers uniqueSubscribers"),
        ("id",),
    ),
    ExportTable(
        "campaigns",
        "An e-mail campaign, its counts of the last six months included.",
        columns(
            integer="id",
            text="name subject previewText type status tag replyTo toField htmlContent header footer",
            time="scheduledAt sentDate createdAt modifiedAt",
            boolean="testSent",
            json="sender recipients statistics",
        ),
        ("id",),
        "modifiedAt",
    ),
    ExportTable(
        "templates",
        "A template of transactional mail.",
        columns(
            integer="id", text="name subject tag replyTo toField htmlContent", boolean="isActive testSent",
            time="createdAt modifiedAt", json="sender",
        ),
        ("id",),
        "modifiedAt",
    ),
    ExportTable(
        "blocked_contacts",
        "A recipient that gets no transactional mail, and why.",
        columns(text="email senderEmail", time="blockedAt", json="reason"),
        ("email", "senderEmail"),
        "blockedAt",
    ),
    ExportTable(
        "events",
        "Something that happened to a transactional message in the last 90 days; Brevo numbers none.",
        columns(text="email event subject messageId reason tag ip link from", time="date", json="templateId"),
        (),
        "date",
    ),
)  # fmt: skip


class BrevoExport:
    """The export of a Brevo account."""

    tables = TABLES

    def __init__(self, api: JsonApi) -> None:
        self._api = api

    def steps(self, started: datetime) -> tuple[Step, ...]:
        """Return the steps of an export that began at `started`, people last."""
        pages = partial(overlapping_pages, self._api)
        since = f"{(started - _CLOCKS_DIFFER).astimezone(UTC):%Y-%m-%dT%H:%M:%S.000Z}"
        return (
            Step("lists", "lists", pages("/contacts/lists", "lists", 50)),
            Step("folders", "folders", pages("/contacts/folders", "folders", 50)),
            Step("templates", "templates", pages("/smtp/templates", "templates", 1000)),
            Step(
                "campaigns",
                "campaigns",
                pages("/emailCampaigns", "campaigns", 100, statistics="globalStats"),
            ),
            Step("events", "events", self._events(started)),
            Step("contacts", "contacts", pages("/contacts", "contacts", 1000)),
            Step(
                "blocked recipients",
                "blocked_contacts",
                pages("/smtp/blockedContacts", "contacts", 100),
                consent=True,
            ),
            Step(
                "contacts changed meanwhile",
                "contacts",
                pages("/contacts", "contacts", 1000, modifiedSince=since),
                consent=True,
            ),
        )

    def _events(self, started: datetime) -> Callable[[Look], Part]:
        """Read by offset up to an empty page, for no total is promised; new events come at the end."""
        path = "/smtp/statistics/events"
        days = {
            "startDate": f"{(started - timedelta(days=_EVENT_DAYS)).date()}",
            "endDate": f"{started.date()}",
        }

        def read(look: Look) -> Part:
            offset = int(look.at.get("offset", 0))
            asked = days | {"limit": _EVENT_ROWS, "offset": offset, "sort": "asc"}
            rows = rows_of(self._api.get(path, asked), f"{self._api.name}: GET {path}", "events")
            return Part(rows, {"offset": offset + len(rows)} if rows else None)

        return read
