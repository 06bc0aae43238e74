"""The connector for Brevo: e-mail campaigns, contacts and their lists.

Outside contacts a standard account may ask 100 times an hour, so campaigns are read by the page and never one by one
where that can be helped. Brevo exports recipients only of a campaign that was sent, so `send_log` and `events` raise
`NotOffered`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from tasks.core import Clock
from tasks.providers.brevo_export import BrevoExport
from tasks.providers.http import PATIENCE, JsonApi, below, parse_time
from tasks.providers.labels import Labels
from tasks.providers.model import (
    Campaign,
    CampaignStatus,
    Capabilities,
    Capability,
    MailingList,
    Membership,
    Probe,
    ProviderEvent,
    RateLimit,
    RunningStats,
    SendRecord,
    Suppression,
    SuppressionReason,
    Trap,
)
from tasks.providers.shapes import (
    Row,
    being_sent,
    chunks,
    distinct,
    integer,
    known_status,
    mapping,
    not_told,
    of_people_on,
    paged,
    person_number,
    planned_time,
    probed,
    read_after,
    rows_of,
    text,
    written,
)

_CAMPAIGN_ROWS = 100
_CONTACT_ROWS = 1000
_LIST_ROWS = 50
_BLOCKED_ROWS = 100
_IDS_PER_CALL = 150
_CONTACTS_PER_CALL = 100
_TAG_SEPARATOR = "; "
_REASONS: dict[str, SuppressionReason] = {
    "hardBounce": "hard_bounce",
    "contactFlaggedAsSpam": "complaint",
    "adminBlocked": "manual",
    "unsubscribedViaMA": "unsubscribed",
    "unsubscribedViaEmail": "unsubscribed",
    "unsubscribedViaApi": "unsubscribed",
}

_STATUS_CALL = (
    "developers.brevo.com/reference/update-campaign-status; that `queued` resumes is not documented"
)
_LIMITS = "developers.brevo.com/docs/api-limits"
BREVO = Capabilities(
    kind="brevo",
    title="Brevo",
    actions=(
        Capability(
            "unschedule",
            "scheduled",
            "draft",
            undo="reschedule",
            restores_exactly=True,
            rate="general",
            deadline="before scheduledAt",
            limits="it is suspended: Brevo shows it so, its time stays stored",
            source=_STATUS_CALL,
        ),
        Capability(
            "pause",
            "running",
            "paused",
            undo="resume",
            restores_exactly=False,
            rate="general",
            leaves_behind="people who were mailed; Brevo names them only once the campaign is sent",
            source=_STATUS_CALL,
        ),
        Capability(
            "reschedule",
            "draft",
            "scheduled",
            undo="unschedule",
            restores_exactly=True,
            rate="general",
            limits="a scheduledAt that is past is refused",
            source=_STATUS_CALL,
        ),
        Capability(
            "resume",
            "paused",
            "running",
            undo="pause",
            restores_exactly=False,
            rate="general",
            limits="whether it skips those who were mailed is not documented",
            source=_STATUS_CALL,
        ),
        Capability(
            "start",
            "draft",
            "running",
            undo="pause",
            restores_exactly=False,
            rate="general",
            source="developers.brevo.com/reference/send-email-campaign-now",
        ),
        Capability(
            "cancel",
            "paused",
            "finished",
            undo=None,
            restores_exactly=False,
            rate="general",
            limits="it is archived: what Brevo's own `cancel` leaves is not documented",
            source=_STATUS_CALL,
        ),
        Capability(
            "retire",
            "draft",
            "draft",
            undo=None,
            restores_exactly=False,
            rate="general",
            limits="tagged, and turned into a plain draft",
            source=_STATUS_CALL,
        ),
    ),
    send_log=False,
    resume_per_recipient=False,
    fires_late=None,
    stop_all="not through the API",
    page_rows=_CAMPAIGN_ROWS,
    list_opt_outs=False,
    rates=(
        RateLimit(
            "contacts", 10, timedelta(seconds=1), "contacts, lists and folders", _LIMITS, ("/contacts",)
        ),
        RateLimit(
            "transactional",
            1000,
            timedelta(seconds=1),
            "blocked contacts",
            _LIMITS,
            ("/smtp/blockedContacts",),
        ),
        RateLimit("general", 100, timedelta(hours=1), "everything else, campaigns among it", _LIMITS),
    ),
    traps=(
        Trap(
            "100 calls an hour",
            "a campaign costs a call to stop, and every look at it another one",
            "campaigns are looked at by the page, the most urgent are stopped first, the plan says how long it takes",
            _LIMITS,
        ),
        Trap(
            "429 names no Retry-After",
            "the time to wait stands in x-sib-ratelimit-reset",
            "it is waited for; a write is sent again only then, for 429 says that nothing was done",
            "developers.brevo.com/docs/limit-headers",
        ),
        Trap(
            "suspended is two things",
            "Brevo calls both a scheduled campaign that was stopped and one stopped half way `suspended`",
            "a draft with a time as long as that is ahead, for the counters lag; after it recover asks the journal"
            " whether it was stopped before its time",
            _STATUS_CALL,
        ),
        Trap(
            "numbers of six months only",
            "globalStats counts events of the last six months",
            "only campaigns of an incident are judged by them",
            "Brevo API v3 description, GET /emailCampaigns (statistics)",
        ),
        Trap(
            "removed is not unsubscribed",
            "taking a contact off a list leaves no mark of an opt-out",
            "opt-outs are kept by the shop and asked again before each step",
            "Brevo API v3 description, POST /contacts/lists/{listId}/contacts/remove",
        ),
    ),
)


class Brevo:
    """A Brevo account. See `tasks.providers.Provider` for what each method promises."""

    capabilities = BREVO

    def __init__(
        self,
        name: str,
        api_url: str,
        *,
        token: str,
        timeout_seconds: float,
        clock: Clock,
        patience: timedelta = PATIENCE,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.name = name
        self._clock = clock
        self._api = JsonApi(
            name,
            below(api_url, "/v3"),
            headers={"api-key": token},
            timeout_seconds=timeout_seconds,
            clock=clock,
            rates=BREVO.rates,
            patience=patience,
            transport=transport,
        )

    def close(self) -> None:
        """Give the connections back."""
        self._api.close()

    def export(self) -> BrevoExport:
        """Return what can be exported; nothing is asked yet."""
        return BrevoExport(self._api)

    # Health -----------------------------------------------------------------------------------------------------

    def health(self) -> Probe:
        """Read one contact, which costs nothing of the hourly limit; never raises."""

        def look() -> None:
            answer = self._api.get("/contacts", {"limit": 1, "offset": 0, "sort": "asc"}, attempts=1)
            rows_of(mapping(answer, self.name), self.name, "contacts")

        return probed(look, self._clock)

    def running_stats(self) -> list[RunningStats]:
        """Return the campaigns that are being sent now."""
        running = self._campaigns({"status": "inProcess"})
        return being_sent(running)

    # Campaigns --------------------------------------------------------------------------------------------------

    def campaigns(self) -> list[Campaign]:
        """Return every campaign, checked against the total that Brevo promised."""
        return self._campaigns({})

    def campaign(self, campaign_id: int) -> Campaign:
        """Return one campaign as it is now."""
        answer = self._api.get(f"/emailCampaigns/{campaign_id}", {"statistics": "globalStats"})
        return self._campaign(mapping(answer, self.name))

    def find_campaign(self, name: str) -> Campaign | None:
        """Return the campaign called exactly `name` (the oldest of several)."""
        same = [one for one in self.campaigns() if one.name == name]
        return min(same, key=lambda one: one.id, default=None)

    def pause(self, campaign_id: int) -> None:
        """Suspend a campaign that is being sent."""
        self._set_status(campaign_id, "suspended")

    def unschedule(self, campaign_id: int) -> None:
        """Suspend a scheduled campaign; its time stays stored."""
        self._set_status(campaign_id, "suspended")

    def reschedule(self, campaign_id: int, send_at: datetime | None = None) -> None:
        """Queue a suspended campaign again; give a plain draft its time."""
        row = mapping(self._api.get(f"/emailCampaigns/{campaign_id}"), self.name)
        where = f"{self.name}: campaign {campaign_id}"
        if row.get("status") == "suspended":
            self._set_status(campaign_id, "queued")
            return
        at = planned_time(Labels.read(_tags(row), where).send_at or send_at, where, "Brevo")
        self._api.send("PUT", f"/emailCampaigns/{campaign_id}", {"scheduledAt": _utc(at)})

    def start(self, campaign_id: int) -> None:
        """Send a draft at once; queue a suspended campaign again."""
        row = mapping(self._api.get(f"/emailCampaigns/{campaign_id}"), self.name)
        if row.get("status") == "suspended":
            self._set_status(campaign_id, "queued")
        else:
            self._api.send("POST", f"/emailCampaigns/{campaign_id}/sendNow")

    def cancel(self, campaign_id: int) -> None:
        """Archive a campaign, so that it never sends again."""
        self._set_status(campaign_id, "archive")

    def retire(self, campaign_id: int, tag: str) -> None:
        """Tag a campaign that nothing was sent of and make it a plain draft, which has no time."""
        row = mapping(self._api.get(f"/emailCampaigns/{campaign_id}"), self.name)
        labels = Labels.read(_tags(row), f"{self.name}: campaign {campaign_id}")
        tags = labels.marked(tag).write()
        self._api.send("PUT", f"/emailCampaigns/{campaign_id}", {"tag": _TAG_SEPARATOR.join(tags)})
        if row.get("status") != "draft":
            self._set_status(campaign_id, "draft")

    def create_campaign(
        self,
        *,
        copy_of: int,
        name: str,
        list_id: int,
        tags: Sequence[str] = (),
        step: int = 1,
        latest_useful_at: datetime | None = None,
        send_at: datetime | None = None,
    ) -> Campaign:
        """Create a draft with the content of `copy_of`, for the people of `list_id` only.

        Brevo schedules whatever is created with a time, so the time waits in the tag until `reschedule`.
        """
        where = f"{self.name}: campaign {copy_of}"
        row = mapping(self._api.get(f"/emailCampaigns/{copy_of}"), where)
        labels = Labels.read(_tags(row), where)
        labels = labels.of_catch_up(copy_of, step, tags, latest_useful_at, send_at)
        body = _content(row) | {
            "name": name,
            "recipients": {"listIds": [list_id]},
            "tag": _TAG_SEPARATOR.join(labels.write()),
        }
        made = self._api.send("POST", "/emailCampaigns", body)
        number = written(lambda: integer(mapping(made, where), "id", where))
        return read_after(lambda: self.campaign(number))

    def _set_status(self, campaign_id: int, status: str) -> None:
        self._api.send("PUT", f"/emailCampaigns/{campaign_id}/status", {"status": status})

    def _campaigns(self, params: Row) -> list[Campaign]:
        asked = params | {"statistics": "globalStats", "excludeHtmlContent": "true"}
        rows = self._offsets("/emailCampaigns", "campaigns", _CAMPAIGN_ROWS, asked)
        return [self._campaign(row) for row in rows]

    def _campaign(self, row: Row) -> Campaign:
        number = integer(row, "id", self.name)
        where = f"{self.name}: campaign {number}"
        labels = Labels.read(_tags(row), where)
        statistics = row.get("statistics") or {}
        counted = statistics.get("globalStats") or {}
        sent, remaining = int(counted.get("sent") or 0), int(statistics.get("remaining") or 0)
        word = str(row.get("status"))
        status = known_status(word, _STATUSES, where, "v3")
        started = parse_time(row.get("sentDate"), where)
        scheduled = parse_time(row.get("scheduledAt"), where)
        if word == "suspended" and (sent or scheduled is None or scheduled <= self._clock.now()):
            # The counters lag behind: only what is not due yet surely never began.
            status = "paused"
        if started is None and (status in ("running", "paused", "finished") and sent):
            started = scheduled
        return Campaign(
            id=number,
            uuid=str(number),
            name=str(row.get("name", "")),
            kind=labels.kind,
            status=status,
            # A plain draft is not sent, whatever time it once had.
            send_at=labels.send_at if word == "draft" else scheduled,
            latest_useful_at=labels.latest_useful_at,
            list_ids=tuple(int(one) for one in (row.get("recipients") or {}).get("lists") or ()),
            to_send=sent + remaining if status in ("running", "paused") else sent,
            sent=sent,
            started_at=started,
            tags=labels.tags,
            subject=str(row.get("subject") or ""),
            catch_up_of=labels.catch_up_of,
            step=labels.step,
            bounced=int(counted.get("hardBounces") or 0) + int(counted.get("softBounces") or 0),
            complaints=int(counted.get("complaints") or 0),
        )

    # Lists and people -------------------------------------------------------------------------------------------

    def lists(self) -> list[MailingList]:
        """Return every list."""
        where = f"{self.name}: lists"
        return [
            MailingList(integer(row, "id", where), str(row.get("name", "")))
            for row in self._offsets("/contacts/lists", "lists", _LIST_ROWS, {})
        ]

    def find_list(self, name: str) -> MailingList | None:
        """Return the list called exactly `name` (the oldest of several)."""
        same = [one for one in self.lists() if one.name == name]
        return min(same, key=lambda one: one.id, default=None)

    def create_list(self, name: str, *, among: Sequence[int] = ()) -> MailingList:
        """Create a list, in the first folder that there is."""
        where = f"{self.name}: lists"
        folders = self._offsets("/contacts/folders", "folders", _LIST_ROWS, {})
        if folders:
            folder = integer(folders[0], "id", where)
        else:
            answer = self._api.send("POST", "/contacts/folders", {"name": "mailstay"})
            folder = integer(mapping(answer, where), "id", where)
        made = self._api.send("POST", "/contacts/lists", {"name": name, "folderId": folder})
        return MailingList(written(lambda: integer(mapping(made, where), "id", where)), name)

    def delete_list(self, list_id: int) -> None:
        """Delete a list; its contacts stay."""
        self._api.send("DELETE", f"/contacts/lists/{list_id}")

    def add_to_list(self, list_id: int, subscriber_ids: Iterable[int]) -> None:
        """Put contacts on a list; who is on it already stays."""
        self._change_list(list_id, "add", subscriber_ids)

    def memberships(self, list_ids: Iterable[int] | None = None) -> list[Membership]:
        """Return who is on the given lists (None: on any list), those who left them included."""
        wanted = None if list_ids is None else set(list_ids)
        if wanted == set():
            return []
        blocked = self._blocked()
        found = [one for row in self._contacts() for one in _memberships(row, blocked, self.name)]
        return found if wanted is None else [one for one in found if one.list_id in wanted]

    def memberships_of_people_on(self, list_id: int) -> list[Membership]:
        """Return every membership, on any list, of the people who are on `list_id`."""
        return of_people_on(self.memberships(), list_id)

    def subscriber_ids(self) -> set[int]:
        """Return the ids of all contacts that there are, on a list or not."""
        return {_person(row) for row in self._contacts()}

    def addresses(self) -> dict[int, str]:
        """Return the address of every contact by id; personal data, never to be logged or kept."""
        return {_person(row): str(row.get("email") or "") for row in self._contacts()}

    def suppressions(self) -> list[Suppression]:
        """Return whom Brevo would not mail, blocked transactional recipients included."""
        blocked = self._blocked()
        found: list[Suppression] = []
        for row in self._contacts():
            number = _person(row)
            if row.get("emailBlacklisted") is not False:
                found.append(Suppression(number, "unsubscribed"))
            found += [
                Suppression(number, "unsubscribed", int(one)) for one in row.get("listUnsubscribed") or ()
            ]
            if gone := blocked.get(str(row.get("email") or "").lower()):
                found.append(Suppression(number, gone[0]))
        return found

    def set_unsubscribed(self, subscriber_ids: Iterable[int], list_ids: Iterable[int]) -> None:
        """Take people off lists: the API cannot mark an unsubscribe from one list."""
        people = sorted(set(subscriber_ids))
        for number in sorted(set(list_ids)):
            self._change_list(number, "remove", people)

    def blocklist(self, subscriber_ids: Iterable[int]) -> None:
        """Block people from every campaign."""
        wanted = set(subscriber_ids)
        people = [row["id"] for row in self._contacts() if _person(row) in wanted]
        for part in chunks(people, _CONTACTS_PER_CALL):
            body = {"contacts": [{"id": number, "emailBlacklisted": True} for number in part]}
            self._api.send("POST", "/contacts/batch", body)

    def _change_list(self, list_id: int, what: str, subscriber_ids: Iterable[int]) -> None:
        wanted = set(subscriber_ids)
        if not wanted:
            return
        # Brevo refuses a change that changes nothing.
        people = [
            row["id"]
            for row in self._contacts()
            if _person(row) in wanted
            and (list_id in {int(one) for one in row.get("listIds") or ()}) == (what == "remove")
        ]
        for part in chunks(people, _IDS_PER_CALL):
            self._api.send("POST", f"/contacts/lists/{list_id}/contacts/{what}", {"ids": list(part)})

    def _contacts(self) -> list[Row]:
        rows = self._offsets("/contacts", "contacts", _CONTACT_ROWS, {})
        distinct(((_person(row), str(row["id"])) for row in rows), f"{self.name}: contacts")
        return rows

    def _blocked(self) -> dict[str, tuple[SuppressionReason, datetime | None]]:
        """Return the blocked recipients of transactional mail by address, with the reason and since when."""
        where = f"{self.name}: blocked contacts"
        rows = self._offsets("/smtp/blockedContacts", "contacts", _BLOCKED_ROWS, {}, key=_blocked_key)
        return {
            text(row, "email", where).lower(): (
                # A reason that is new to us still is one.
                _REASONS.get(str((row.get("reason") or {}).get("code")), "manual"),
                parse_time(row.get("blockedAt"), where),
            )
            for row in rows
        }

    # Evidence ---------------------------------------------------------------------------------------------------

    def send_log(self, campaign_id: int) -> Iterator[SendRecord]:
        """Raise `NotOffered`: recipients are exported only of a campaign that was sent."""
        raise not_told(_NOT_TOLD, self.name, campaign_id)

    def events(self, after_id: int = 0, campaign_id: int | None = None) -> Iterator[ProviderEvent]:
        """Raise `NotOffered`: events of campaigns come through webhooks alone."""
        raise not_told(_NOT_TOLD, self.name, campaign_id)

    # Paging -----------------------------------------------------------------------------------------------------

    def _offsets(
        self, path: str, key_of_rows: str, size: int, params: Row, *, key: Callable[[Row], Any] | None = None
    ) -> list[Row]:
        """Return all rows of a paged list, as many as it promises, in the order of their making."""
        where = f"{self.name}: GET {path}"
        identity = key or (lambda row: integer(row, "id", where))

        def ask(offset: int) -> tuple[list[Row], int]:
            answer = mapping(
                self._api.get(path, params | {"limit": size, "offset": offset, "sort": "asc"}), where
            )
            return rows_of(answer, where, key_of_rows), integer(answer, "count", where)

        return paged(ask, size, identity, self.name, where)


_NOT_TOLD = "Brevo tells who got a campaign only through webhooks, or once all of it was sent"
_STATUSES: dict[str, CampaignStatus] = {
    "draft": "draft",
    "suspended": "draft",
    "queued": "scheduled",
    "inReview": "scheduled",
    "in_review": "scheduled",
    "in_process": "running",
    "inProcess": "running",
    "sent": "finished",
    "archive": "finished",
}


def _tags(row: Row) -> list[str]:
    return [one.strip() for one in str(row.get("tag") or "").split(";") if one.strip()]


def _person(row: Row) -> int:
    attributes = row.get("attributes")
    customer = row.get("ext_id") or (attributes.get("EXT_ID") if isinstance(attributes, dict) else None)
    return person_number(customer, str(row["id"]))


def _blocked_key(row: Row) -> tuple[str, str]:
    return str(row.get("email")), str(row.get("senderEmail"))


def _memberships(
    row: Row, blocked: dict[str, tuple[SuppressionReason, datetime | None]], name: str
) -> Iterator[Membership]:
    where = f"{name}: contacts"
    number = _person(row)
    gone = blocked.get(str(row.get("email") or "").lower())
    # What is not clearly allowed is not.
    blacklisted = row.get("emailBlacklisted") is not False
    changed = parse_time(row.get("modifiedAt"), where)
    on = {int(one) for one in row.get("listIds") or ()}
    left = {int(one) for one in row.get("listUnsubscribed") or ()}
    for one in sorted(on | left):
        times = [
            at
            for happened, at in (
                (gone is not None, gone[1] if gone else None),
                (blacklisted or one in left, changed),
            )
            if happened and at is not None
        ]
        yield Membership(
            number,
            one,
            "unsubscribed" if one in left else "confirmed",
            "blocklisted" if blacklisted or gone else "enabled",
            # Nobody came onto a list before being a contact.
            since=parse_time(row.get("createdAt"), where),
            left_at=min(times, default=None),
        )


def _content(row: Row) -> Row:
    keys = (
        "subject", "previewText", "replyTo", "toField", "htmlContent", "header", "footer", "mirrorActive",
        "inlineImageActivation",
    )  # fmt: skip
    # In square brackets Brevo names a default of the account, which it does not take back.
    kept = {key: row[key] for key in keys if row.get(key) is not None and not _is_default(row[key])}
    sender = row.get("sender") or {}
    # Brevo takes a sender by id or by address, not by both.
    kept["sender"] = (
        {"id": sender["id"]}
        if sender.get("id")
        else {key: sender[key] for key in ("name", "email") if key in sender}
    )
    return kept


def _is_default(value: Any) -> bool:
    return value == "" or (isinstance(value, str) and value.startswith("[DEFAULT_"))


def _utc(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S.000Z}"
