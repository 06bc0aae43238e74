"""What SendGrid gives of an account: contacts and their lists from export jobs, Single Sends, templates, suppressions.

A contact carries no consent, so suppressions are read after all contacts, and twice: they promise no total, and a row
that is taken away while they are paged would hide another. Who is in either reading is suppressed. Events are told by
the Event Webhook alone.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from typing import Any

import httpx

from tasks.core import Clock, mask_addresses
from tasks.providers.errors import ProviderGarbled, ProviderRefused
from tasks.providers.exporting import Cursor, ExportTable, Look, Part, RowsMoved, Step, columns, is_missing
from tasks.providers.http import JsonApi
from tasks.providers.shapes import Row, integer, mapping, rows_of, text

_LOOK_SECONDS = 2.0
_PART_MEGABYTES = 50
_SUPPRESSIONS = {
    "bounces": ("integer", "created", "email reason status"),
    "blocks": ("integer", "created", "email reason status"),
    "spam_reports": ("integer", "created", "email ip"),
    "invalid_emails": ("integer", "created", "email reason"),
    "unsubscribes": ("integer", "created", "email"),
}

TABLES = (
    ExportTable(
        "contacts",
        "A contact, as the export writes it; custom fields are in `other`.",
        columns(
            text="contact_id email external_id anonymous_id phone_number_id first_name last_name country",
            time="created_at updated_at",
        ),
        ("contact_id",),
        "updated_at",
    ),
    ExportTable("lists", "A list.", columns(text="id name", integer="contact_count"), ("id",)),
    ExportTable(
        "list_contacts", "A contact on a list.", columns(text="list_id contact_id"), ("list_id", "contact_id")
    ),
    ExportTable(
        "singlesends",
        "A Single Send with its audience and content.",
        columns(
            text="id name status", time="send_at created_at updated_at", json="categories send_to email_config"
        ),
        ("id",),
        "updated_at",
    ),
    ExportTable(
        "singlesend_stats", "What SendGrid counted for a Single Send.", columns(text="id", json="stats"), ("id",)
    ),
    ExportTable(
        "designs",
        "A design of Marketing Campaigns.",
        columns(
            text="id name editor subject html_content plain_content", time="created_at updated_at",
            json="generate_plain_content",
        ),
        ("id",),
        "updated_at",
    ),
    ExportTable(
        "templates",
        "A template of transactional mail with all its versions.",
        columns(text="id name generation", time="updated_at", json="versions"),
        ("id",),
        "updated_at",
    ),
    *(
        ExportTable(
            name, f"An address on the suppression list `{name}`; times are seconds since 1970.",
            columns(text=names, integer=when), ("email",),
        )
        for name, (_, when, names) in _SUPPRESSIONS.items()
    ),
    ExportTable(
        "suppression_groups",
        "A group that people can unsubscribe from.",
        columns(integer="id", text="name description", boolean="is_default", json="unsubscribes"),
        ("id",),
    ),
    ExportTable(
        "group_suppressions",
        "An address that left a group; the time is in seconds since 1970.",
        columns(text="email group_name", integer="group_id created_at"),
        ("email", "group_id"),
    ),
)  # fmt: skip


class SendGridExport:
    """The export of a SendGrid account.

    Args:
        api: the account's API.
        hosts: hosts that export files may be fetched from, besides the API's own.
        clock: what waiting for a job goes by.
    """

    tables = TABLES

    def __init__(self, api: JsonApi, hosts: Collection[str], clock: Clock) -> None:
        self._api, self._hosts, self._clock = api, hosts, clock

    def steps(self, started: datetime) -> tuple[Step, ...]:
        """Return the steps of an export, suppressions last."""
        suppressions = [
            *(Step(name, name, self._suppressions(f"/suppression/{name}"), consent=True) for name in _SUPPRESSIONS),
            Step("group suppressions", "group_suppressions", self._at_once("/asm/suppressions"), consent=True),
        ]  # fmt: skip
        return (
            Step("lists", "lists", self._pages("/marketing/lists", 100)),
            Step("Single Sends", "singlesends", self._pages("/marketing/singlesends", 100, details=True)),
            Step(
                "statistics",
                "singlesend_stats",
                self._pages("/marketing/stats/singlesends", 50, key="results", counted=False),
            ),
            Step("designs", "designs", self._pages("/designs", 100, summary="false")),
            Step(
                "templates",
                "templates",
                self._pages("/templates", 200, details=True, generations="legacy,dynamic"),
            ),
            Step("groups", "suppression_groups", self._at_once("/asm/groups")),
            Step("contacts", "contacts", self._contacts),
            Step("contacts of lists", "list_contacts", self._list_contacts),
            *suppressions,
            *suppressions,
        )

    # Contacts: jobs and their files -----------------------------------------------------------------------------

    def _contacts(self, look: Look) -> Part:
        return self._job(look.at, {}, lambda row: row)

    def _list_contacts(self, look: Look) -> Part:
        lists = look.at.get("lists")
        if lists is None:
            found = self._lists()
            return Part((), {"lists": found, "promised": 0} if found else None, (0, 0))
        (number, _), *left = lists
        job = {key: value for key, value in look.at.items() if key not in ("lists", "promised")}
        part = self._job(
            job,
            {"list_ids": [number]},
            lambda row: {"list_id": number, "contact_id": row["contact_id"]},
        )
        if part.then is not None:
            return Part(part.rows, part.then | {"lists": lists, "promised": look.at["promised"]})
        promised = look.at["promised"] + (part.promised[0] if part.promised else 0)
        return Part(part.rows, {"lists": left, "promised": promised} if left else None, (promised, promised))

    def _lists(self) -> list[tuple[str, str]]:
        read, found, at = self._pages("/marketing/lists", 100), [], Cursor()
        while True:
            part = read(Look(at, lambda _: False))
            found += [(str(row["id"]), str(row.get("name", ""))) for row in part.rows]
            if part.then is None:
                return found
            at = part.then

    def _job(self, at: Cursor, body: Row, shaped: Callable[[Row], Row]) -> Part:
        """Ask for an export of contacts, wait for it, then read one of its files after the other."""
        path, where = "/marketing/contacts/exports", f"{self._api.name}: contacts export"
        if "job" not in at:
            asked = body | {
                "file_type": "csv",
                "max_file_size": _PART_MEGABYTES,
                "notifications": {"email": False},
            }
            made = mapping(self._api.send("POST", path, asked), where)
            return Part((), {"job": text(made, "id", where)})
        job = mapping(self._api.get(f"{path}/{at['job']}"), where)
        if job.get("status") == "pending":
            self._clock.sleep(_LOOK_SECONDS)
            return Part((), at)
        if job.get("status") != "ready":
            raise ProviderGarbled(
                f"{self._api.name} did not do a job: "
                f"{mask_addresses(str(job.get('message') or job.get('status')))[:120]}",
                outcome_unknown=False,
                where=where,
            )
        promised = integer(job, "contact_count", where)
        urls = job.get("urls") or []
        number = int(at.get("file", 0))
        rows: Iterator[Row] = iter(())
        if number < len(urls):
            read = _contacts_of(self._api.file_lines(str(urls[number]), self._hosts), where)
            rows = (shaped(row) for row in read)
        last = number + 1 >= len(urls)
        return Part(rows, None if last else {**at, "file": number + 1}, (promised, promised))

    # Lists of other things --------------------------------------------------------------------------------------

    def _pages(
        self, path: str, size: int, *, key: str = "result", details: bool = False, counted: bool = True, **params: Any
    ) -> Callable[[Look], Part]:  # fmt: skip
        """Read page by page; only the token of `next` is used, never its address."""
        where = f"{self._api.name}: GET {path}"

        def read(look: Look) -> Part:
            token = str(look.at.get("token", ""))
            asked = {**params, "page_size": size} | ({"page_token": token} if token else {})
            answer = mapping(self._api.get(path, asked), where)
            rows = rows_of(answer, where, key)
            about = answer.get("_metadata") or {}
            count = about.get("count") if counted and isinstance(about.get("count"), int) else None
            # Where a row was added or taken away, pages have shifted.
            if look.at and count != look.at.get("count"):
                raise RowsMoved
            then = httpx.URL(str(about.get("next") or "")).params.get("page_token", "")
            if then and then in (token, *look.at.get("tokens", ())):
                raise RowsMoved
            if details:
                try:
                    rows = [
                        row | mapping(self._api.get(f"{path}/{text(row, 'id', where)}"), where)
                        for row in rows
                    ]
                except ProviderRefused as error:
                    if is_missing(error):  # it was deleted meanwhile
                        raise RowsMoved from None
                    raise
            cursor = {"token": then, "tokens": [*look.at.get("tokens", ()), token], "count": count}
            return Part(rows, cursor if then else None, None if count is None else (count, count))

        return read

    def _suppressions(self, path: str) -> Callable[[Look], Part]:
        """Read by offset up to an empty page: a short one is not the last."""

        def read(look: Look) -> Part:
            offset = int(look.at.get("offset", 0))
            answer = self._api.get(path, {"limit": 500, "offset": offset})
            rows = rows_of(answer, f"{self._api.name}: GET {path}")
            return Part(rows, {"offset": offset + len(rows)} if rows else None)

        return read

    def _at_once(self, path: str) -> Callable[[Look], Part]:
        return lambda _: Part(rows_of(self._api.get(path), f"{self._api.name}: GET {path}"), None)


def _contacts_of(lines: Iterator[str], where: str) -> Iterator[Row]:
    reader = csv.reader(lines, strict=True)
    try:
        names: Sequence[str] = [one.strip().lower() for one in next(reader, [])]
        if missing := {"contact_id", "email"} - set(names):
            raise ProviderGarbled(
                f"The export has no column {', '.join(sorted(missing))}", outcome_unknown=False, where=where
            )
        for values in reader:
            if len(values) != len(names):
                raise ProviderGarbled(
                    f"Line {reader.line_num} of the export has {len(values)} fields where its head has {len(names)}",
                    outcome_unknown=False,
                    where=where,
                )
            yield dict(zip(names, values, strict=True))
    except csv.Error as error:
        raise ProviderGarbled(
            f"Line {reader.line_num} of the export is no CSV: {error}", outcome_unknown=False, where=where
        ) from None
