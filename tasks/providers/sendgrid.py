"""The connector for Twilio SendGrid: Marketing Campaigns (Single Sends) and batches of the Mail Send API.

SendGrid has no per-recipient log of a Single Send in its API: who got one is told by its Event Webhook alone, so
`send_log` and `events` raise `NotOffered`. Its ids are text; each stands here as a number made from it.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

import httpx

from tasks.core import Clock
from tasks.providers.batches import Batch
from tasks.providers.errors import (
    NotOffered,
    ProviderGarbled,
    ProviderRefused,
)
from tasks.providers.http import PATIENCE, JsonApi, below, parse_time
from tasks.providers.labels import Labels
from tasks.providers.model import (
    ByHand,
    Campaign,
    CampaignStatus,
    Capabilities,
    Capability,
    MailingList,
    Membership,
    Probe,
    ProviderEvent,
    RunningStats,
    SendRecord,
    Suppression,
    SuppressionReason,
    Trap,
)
from tasks.providers.sendgrid_export import SendGridExport
from tasks.providers.shapes import (
    CAMPAIGN_BITS,
    Row,
    awaited,
    being_sent,
    chunks,
    distinct,
    integer,
    known_status,
    mapping,
    not_told,
    number_of,
    of_people_on,
    person_number,
    planned_time,
    probed,
    read_after,
    rows_of,
    text,
    whole,
    written,
)

_PAGE_ROWS = 100
_STATS_ROWS = 50
_SUPPRESSION_ROWS = 500
_CONTACTS_PER_CALL = 1000
_IDS_PER_CALL = 100
_ADDRESSES_PER_CALL = 1000
_MOST_CATEGORIES = 10
_IN_FLIGHT = timedelta(hours=1)
_MAIL_EXPIRES = timedelta(hours=72)
_SUPPRESSED_BY: tuple[tuple[str, SuppressionReason], ...] = (
    ("/suppression/unsubscribes", "unsubscribed"),
    ("/suppression/spam_reports", "complaint"),
    ("/suppression/bounces", "hard_bounce"),
    ("/suppression/invalid_emails", "hard_bounce"),
)

_SCHEDULED_SENDS = "twilio.com/docs/sendgrid/api-reference/cancel-scheduled-sends"
_SINGLE_SENDS = "twilio/sendgrid-oai tsg_mc_singlesends_v3.json"
_CONTACTS = "twilio/sendgrid-oai tsg_mc_contacts_v3.json"
SENDGRID = Capabilities(
    kind="sendgrid",
    title="SendGrid",
    actions=(
        Capability(
            "unschedule",
            "scheduled",
            "draft",
            undo="reschedule",
            restores_exactly=True,
            deadline="before it is triggered: nothing stops a Single Send in flight",
            source=_SINGLE_SENDS,
        ),
        Capability(
            "reschedule",
            "draft",
            "scheduled",
            undo="unschedule",
            restores_exactly=True,
            limits="a send_at that is past is refused",
            source=_SINGLE_SENDS,
        ),
        Capability(
            "start",
            "draft",
            "running",
            undo=None,
            restores_exactly=False,
            limits="sends at once, and cannot be stopped again",
            source=_SINGLE_SENDS,
        ),
        Capability(
            "retire",
            "draft",
            "draft",
            undo=None,
            restores_exactly=False,
            limits="a draft cannot be cancelled: it stays, without a time and tagged",
            source=_SINGLE_SENDS,
        ),
        Capability(
            "pause",
            "scheduled",
            "paused",
            undo="resume",
            restores_exactly=True,
            before=timedelta(minutes=10),
            expires=_MAIL_EXPIRES,
            deadline="10 minutes before send_at",
            limits="only mail sent with a batch_id, at most 10 batches at a time",
            leaves_behind="nothing, if it is resumed within 72 hours of send_at; after that the mail is discarded",
            source=_SCHEDULED_SENDS,
            of="batch",
        ),
        Capability(
            "resume",
            "paused",
            "scheduled",
            undo="pause",
            restores_exactly=True,
            expires=_MAIL_EXPIRES,
            limits="a batch whose send_at is past is sent at once",
            source=_SCHEDULED_SENDS,
            of="batch",
        ),
        Capability(
            "cancel",
            "paused",
            "cancelled",
            undo=None,
            restores_exactly=False,
            limits="the mail of the batch is discarded",
            source=_SCHEDULED_SENDS,
            of="batch",
        ),
    ),
    send_log=False,
    resume_per_recipient=False,
    fires_late=None,
    stop_all="not through the API",
    by_hand=(
        ByHand("running", "nothing stops a Single Send that was triggered", _SINGLE_SENDS),
        ByHand(
            "scheduled", "it is too late: it is sent unless support stops it", _SCHEDULED_SENDS, of="batch"
        ),
    ),
    page_rows=_PAGE_ROWS,
    list_opt_outs=False,
    traps=(
        Trap(
            "triggered says nothing",
            "a Single Send stays `triggered` whether it is in flight, done, or was never begun",
            "in flight while nothing of it has left, and for an hour while less left than its lists hold",
            _SINGLE_SENDS,
        ),
        Trap(
            "contacts are cut at 50",
            "GET /marketing/contacts gives 50 contacts whatever there are",
            "people are read from a contacts export, whose rows are held against the count it promises",
            "NangoHQ/integration-templates#585",
        ),
        Trap(
            "batches are invisible until stopped",
            "GET /user/scheduled_sends lists only what is paused or cancelled",
            "the plan names a file in which the shop keeps its batches",
            "sendgrid/sendgrid-nodejs#1245",
        ),
        Trap(
            "paused mail is thrown away",
            "a paused batch is discarded 72 hours after its send_at",
            "the plan of respond says until when it must be resumed",
            _SCHEDULED_SENDS,
        ),
        Trap(
            "contacts change later",
            "adding people to a list is a job that is done some time after it was accepted",
            "the job is waited for, and the list is read back",
            _CONTACTS,
        ),
        Trap(
            "a group counts for all",
            "an unsubscribe belongs to a suppression group, and a list does not say which group is its own",
            "whoever left any group gets no catch-up",
            "twilio/sendgrid-oai tsg_suppressions_v3.json",
        ),
    ),
)


@dataclass(frozen=True)
class _Contact:
    id: int
    uuid: str
    email: str
    created_at: datetime | None
    identifiers: dict[str, str]


class SendGrid:
    """A SendGrid account. See `tasks.providers.Provider` for what each method promises."""

    capabilities = SENDGRID

    def __init__(
        self,
        name: str,
        api_url: str,
        *,
        token: str,
        timeout_seconds: float,
        clock: Clock,
        batches: Sequence[Batch] = (),
        download_hosts: Collection[str] = (),
        patience: timedelta = PATIENCE,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.name = name
        self._clock = clock
        self._batches = {number_of(f"batch:{one.id}", CAMPAIGN_BITS): one for one in batches}
        self._hosts = download_hosts
        self._campaign_ids: dict[int, str] = {}
        self._list_ids: dict[int, str] = {}
        self._api = JsonApi(
            name,
            below(api_url, "/v3"),
            headers={"Authorization": f"Bearer {token}"},
            timeout_seconds=timeout_seconds,
            clock=clock,
            patience=patience,
            transport=transport,
        )

    def close(self) -> None:
        """Give the connections back."""
        self._api.close()

    def export(self) -> SendGridExport:
        """Return what can be exported; nothing is asked yet."""
        return SendGridExport(self._api, self._hosts, self._clock)

    # Health -----------------------------------------------------------------------------------------------------

    def health(self) -> Probe:
        """Read one Single Send; never raises."""

        def look() -> None:
            answer = self._api.get("/marketing/singlesends", {"page_size": 1}, attempts=1)
            rows_of(mapping(answer, self.name), self.name, "result")

        return probed(look, self._clock)

    def running_stats(self) -> list[RunningStats]:
        """Return the Single Sends that may be in flight."""
        return being_sent(self.campaigns())

    # Campaigns --------------------------------------------------------------------------------------------------

    def campaigns(self) -> list[Campaign]:
        """Return every Single Send, checked against the total that SendGrid promised, and the batches of the plan."""
        rows = self._single_sends()
        stats = self._stats() if any(row.get("status") == "triggered" for row in rows) else {}
        counts = {one: count for one, _, count in self._all_lists()}
        singles = []
        for row in rows:
            # The list tells nothing of the audience; of what is over it is not needed.
            uuid = text(row, "id", self.name)
            at = parse_time(row.get("send_at") or row.get("updated_at"), self.name)
            over = _requests(stats.get(uuid)) and at is not None and not self._is_recent(at)
            full = row if over else mapping(self._api.get(f"/marketing/singlesends/{uuid}"), self.name)
            singles.append(self._campaign(full, stats, counts))
        return [*singles, *self._batch_campaigns()]

    def campaign(self, campaign_id: int) -> Campaign:
        """Return one Single Send or batch as it is now."""
        if campaign_id in self._batches:
            return next(one for one in self._batch_campaigns() if one.id == campaign_id)
        uuid = self._campaign_uuid(campaign_id)
        row = mapping(self._api.get(f"/marketing/singlesends/{uuid}"), self.name)
        stats = self._stats(uuid) if row.get("status") == "triggered" else {}
        return self._campaign(row, stats, {one: count for one, _, count in self._all_lists()})

    def find_campaign(self, name: str) -> Campaign | None:
        """Return the Single Send called exactly `name` (the oldest of several)."""
        same = [row for row in self._single_sends() if row.get("name") == name]
        first = min(same, key=lambda row: str(row.get("created_at", "")), default=None)
        return None if first is None else self.campaign(number_of(str(first["id"]), CAMPAIGN_BITS))

    def pause(self, campaign_id: int) -> None:
        """Pause a batch; nothing stops a Single Send in flight."""
        body = {"batch_id": self._batch(campaign_id).id, "status": "pause"}
        self._api.send("POST", "/user/scheduled_sends", body)

    def unschedule(self, campaign_id: int) -> None:
        """Take a Single Send off the schedule."""
        self._api.send("DELETE", f"/marketing/singlesends/{self._campaign_uuid(campaign_id)}/schedule")

    def reschedule(self, campaign_id: int, send_at: datetime | None = None) -> None:
        """Schedule a Single Send at its stored time or, if that is gone, at `send_at`; let a paused batch go on."""
        if campaign_id in self._batches:
            self._api.send("DELETE", f"/user/scheduled_sends/{self._batch(campaign_id).id}")
            return
        uuid = self._campaign_uuid(campaign_id)
        stored = mapping(self._api.get(f"/marketing/singlesends/{uuid}"), self.name).get("send_at")
        at = parse_time(stored, f"{self.name}: campaign {uuid}") or send_at
        at = planned_time(at, f"{self.name}: campaign {uuid}", "SendGrid")
        self._api.send("PUT", f"/marketing/singlesends/{uuid}/schedule", {"send_at": _utc(at)})

    def start(self, campaign_id: int) -> None:
        """Send a draft at once, or let a paused batch go on."""
        if campaign_id in self._batches:
            self.reschedule(campaign_id)
            return
        uuid = self._campaign_uuid(campaign_id)
        self._api.send("PUT", f"/marketing/singlesends/{uuid}/schedule", {"send_at": "now"})

    def cancel(self, campaign_id: int) -> None:
        """Discard the mail of a paused batch for good."""
        batch = self._batch(campaign_id)
        self._api.send("PATCH", f"/user/scheduled_sends/{batch.id}", {"status": "cancel"})

    def retire(self, campaign_id: int, tag: str) -> None:
        """Take the time of a draft away and tag it."""
        uuid = self._campaign_uuid(campaign_id)
        where = f"{self.name}: campaign {uuid}"
        row = mapping(self._api.get(f"/marketing/singlesends/{uuid}"), self.name)
        labels = Labels.read(row.get("categories") or (), where)
        body = {
            "name": text(row, "name", where),
            "categories": labels.marked(tag).write(_MOST_CATEGORIES),
            "send_at": None,
        }
        self._api.send("PATCH", f"/marketing/singlesends/{uuid}", body)

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
        """Create a draft with the content of `copy_of`, for the people of `list_id` only."""
        uuid = self._campaign_uuid(copy_of)
        where = f"{self.name}: campaign {uuid}"
        row = mapping(self._api.get(f"/marketing/singlesends/{uuid}"), where)
        labels = Labels.read(row.get("categories") or (), where)
        labels = labels.of_catch_up(copy_of, step, tags, latest_useful_at)
        body: Row = {
            "name": name,
            "categories": labels.write(_MOST_CATEGORIES),
            "send_to": {"list_ids": [self._list_uuid(list_id)]},
            "email_config": _content(mapping(row.get("email_config"), where)),
        }
        if send_at is not None:
            body["send_at"] = _utc(send_at)
        made = self._api.send("POST", "/marketing/singlesends", body)
        created = written(lambda: text(mapping(made, where), "id", where))
        self._campaign_ids[number_of(created, CAMPAIGN_BITS)] = created
        return read_after(lambda: self.campaign(number_of(created, CAMPAIGN_BITS)))

    def _single_sends(self) -> list[Row]:
        rows = self._pages("/marketing/singlesends", _PAGE_ROWS)
        where = f"{self.name}: Single Sends"
        self._campaign_ids |= _by_number((text(row, "id", where) for row in rows), where)
        return rows

    def _campaign_uuid(self, number: int) -> str:
        if number in self._batches:
            raise NotOffered(
                "A batch of messages has no such thing", status=0, where=f"{self.name}: batch {number}"
            )
        if number not in self._campaign_ids:
            self._single_sends()
        if number not in self._campaign_ids:
            raise ProviderRefused(
                "There is no such Single Send",
                status=HTTPStatus.NOT_FOUND,
                where=f"{self.name}: campaign {number}",
            )
        return self._campaign_ids[number]

    def _stats(self, uuid: str = "") -> dict[str, Row]:
        where = f"{self.name}: statistics"
        path = "/marketing/stats/singlesends"
        try:
            rows = self._pages(f"{path}/{uuid}" if uuid else path, _STATS_ROWS, key="results", unique=False)
        except ProviderRefused as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            rows = []
        found: dict[str, Row] = {}
        for row in rows:
            one = mapping(row.get("stats"), where)
            total = found.setdefault(text(row, "id", where), dict.fromkeys(_COUNTED, 0))
            for key in _COUNTED:
                total[key] += integer(one, key, where)
        return found

    def _is_recent(self, at: datetime) -> bool:
        return self._clock.now() - at < _IN_FLIGHT

    def _campaign(self, row: Row, stats: dict[str, Row], counts: dict[str, int]) -> Campaign:
        where = f"{self.name}: campaign {row.get('id')}"
        status = known_status(row.get("status"), _STATUSES, where, "v3", "Single Send")
        send_at = parse_time(row.get("send_at"), where)
        labels = Labels.read(row.get("categories") or (), where)
        send_to = row.get("send_to") or {}
        lists = [str(one) for one in send_to.get("list_ids") or ()]
        uuid = text(row, "id", where)
        number = number_of(uuid, CAMPAIGN_BITS)
        self._campaign_ids[number] = uuid
        sent = _requests(stats.get(uuid))
        known = stats.get(uuid) or {}
        started = (send_at or parse_time(row.get("updated_at"), where)) if status == "running" else None
        planned = sum(counts.get(one, 0) for one in lists)
        in_flight = started is not None and sent < planned and (not sent or self._is_recent(started))
        if status == "running" and not in_flight:
            status = "finished"
        for one in lists:
            self._list_ids[number_of(one, CAMPAIGN_BITS)] = one
        return Campaign(
            id=number,
            uuid=uuid,
            name=str(row.get("name", "")),
            kind=labels.kind,
            status=status,
            send_at=send_at,
            latest_useful_at=labels.latest_useful_at,
            list_ids=tuple(number_of(one, CAMPAIGN_BITS) for one in lists),
            # SendGrid never says whom it meant to mail: only as long as nothing left do the lists stand for that.
            to_send=sent or planned,
            sent=sent,
            started_at=started,
            tags=labels.tags,
            subject=str((row.get("email_config") or {}).get("subject") or ""),
            catch_up_of=labels.catch_up_of,
            step=labels.step,
            bounced=known.get("bounces", 0),
            complaints=known.get("spam_reports", 0),
        )

    # Batches of the Mail Send API -------------------------------------------------------------------------------

    def _batch(self, number: int) -> Batch:
        if number not in self._batches:
            raise NotOffered(
                "SendGrid cannot stop a Single Send that was triggered",
                status=0,
                where=f"{self.name}: campaign {number}",
            )
        return self._batches[number]

    def _batch_campaigns(self) -> list[Campaign]:
        if not self._batches:
            return []
        where, now = f"{self.name}: scheduled sends", self._clock.now()
        stopped = {
            text(row, "batch_id", where): text(row, "status", where)
            for row in rows_of(self._api.get("/user/scheduled_sends"), where)
        }
        found = []
        for number, one in self._batches.items():
            status = _batch_status(stopped.get(one.id), one.send_at, now, where)
            found.append(
                Campaign(
                    id=number,
                    uuid=one.id,
                    name=one.name,
                    kind=one.kind,
                    status=status,
                    send_at=one.send_at,
                    latest_useful_at=one.latest_useful_at,
                    list_ids=(),
                    to_send=one.people,
                    sent=one.people if status == "finished" else 0,
                    started_at=one.send_at if status == "finished" else None,
                    tags=(),
                    subject="",
                    of="batch",
                )
            )
        return found

    # Lists and people -------------------------------------------------------------------------------------------

    def lists(self) -> list[MailingList]:
        """Return every list."""
        return [MailingList(number_of(uuid, CAMPAIGN_BITS), name) for uuid, name, _ in self._all_lists()]

    def find_list(self, name: str) -> MailingList | None:
        """Return the list called exactly `name`; SendGrid allows a name once."""
        return next((one for one in self.lists() if one.name == name), None)

    def create_list(self, name: str, *, among: Sequence[int] = ()) -> MailingList:
        """Create a list."""
        where = f"{self.name}: lists"
        made = self._api.send("POST", "/marketing/lists", {"name": name})
        uuid = written(lambda: text(mapping(made, where), "id", where))
        number = number_of(uuid, CAMPAIGN_BITS)
        self._list_ids[number] = uuid
        return MailingList(number, name)

    def delete_list(self, list_id: int) -> None:
        """Delete a list; its contacts stay."""
        self._api.send("DELETE", f"/marketing/lists/{self._list_uuid(list_id)}")

    def add_to_list(self, list_id: int, subscriber_ids: Iterable[int]) -> None:
        """Put contacts on a list and wait until SendGrid has done it."""
        uuid, wanted = self._list_uuid(list_id), set(subscriber_ids)
        people = [one for one in self._contacts() if one.id in wanted]
        for part in chunks(people, _CONTACTS_PER_CALL):
            body = {
                "list_ids": [uuid],
                "contacts": [{"email": one.email, **one.identifiers} for one in part],
            }
            self._await_job(self._api.send("PUT", "/marketing/contacts", body))

    def memberships(self, list_ids: Iterable[int] | None = None) -> list[Membership]:
        """Return who is on the given lists (None: on any list), suppressed people marked as such."""
        wanted = [one.id for one in self.lists()] if list_ids is None else sorted(set(list_ids))
        if not wanted:
            return []
        suppressed = self._suppressed()
        found = []
        for number in wanted:
            for one in self._contacts(self._list_uuid(number)):
                gone = suppressed.get(one.email.lower())
                found.append(
                    Membership(
                        one.id,
                        number,
                        "confirmed",
                        "blocklisted" if gone else "enabled",
                        # Nobody came onto a list before being a contact.
                        since=one.created_at,
                        left_at=gone[1] if gone else None,
                    )
                )
        return found

    def memberships_of_people_on(self, list_id: int) -> list[Membership]:
        """Return every membership, on any list, of the people who are on `list_id`."""
        return of_people_on(self.memberships(), list_id)

    def subscriber_ids(self) -> set[int]:
        """Return the ids of all contacts that there are, on a list or not."""
        return {one.id for one in self._contacts()}

    def addresses(self) -> dict[int, str]:
        """Return the address of every contact by id; personal data, never to be logged or kept."""
        return {one.id: one.email for one in self._contacts()}

    def suppressions(self) -> list[Suppression]:
        """Return whom SendGrid would not mail, whatever the reason and the group."""
        suppressed = self._suppressed()
        return [
            Suppression(one.id, suppressed[one.email.lower()][0])
            for one in self._contacts()
            if one.email.lower() in suppressed
        ]

    def set_unsubscribed(self, subscriber_ids: Iterable[int], list_ids: Iterable[int]) -> None:
        """Take people off lists: an unsubscribe from one list is not a thing that SendGrid knows."""
        people = sorted(set(subscriber_ids))
        if not people:
            return
        names = {one.id: one.uuid for one in self._contacts()}
        for number in sorted(set(list_ids)):
            for part in chunks([names[who] for who in people if who in names], _IDS_PER_CALL):
                path = f"/marketing/lists/{self._list_uuid(number)}/contacts"
                self._await_job(self._api.send("DELETE", path, params={"contact_ids": ",".join(part)}))

    def blocklist(self, subscriber_ids: Iterable[int]) -> None:
        """Block people from every message, through the global suppressions."""
        wanted = set(subscriber_ids)
        emails = [one.email for one in self._contacts() if one.id in wanted]
        for part in chunks(emails, _ADDRESSES_PER_CALL):
            self._api.send("POST", "/asm/suppressions/global", {"recipient_emails": part})

    def _all_lists(self) -> list[tuple[str, str, int]]:
        where = f"{self.name}: lists"
        found = [
            (text(row, "id", where), str(row.get("name", "")), integer(row, "contact_count", where))
            for row in self._pages("/marketing/lists", _PAGE_ROWS)
        ]
        self._list_ids |= _by_number((uuid for uuid, *_ in found), where)
        return found

    def _list_uuid(self, number: int) -> str:
        if number not in self._list_ids:
            self._all_lists()
        if number not in self._list_ids:
            raise ProviderRefused(
                "There is no such list", status=HTTPStatus.NOT_FOUND, where=f"{self.name}: list {number}"
            )
        return self._list_ids[number]

    def _contacts(self, list_uuid: str = "") -> list[_Contact]:
        """Return all contacts (of a list) from an export: a listing gives 50 whatever there are."""
        where = f"{self.name}: contacts export"
        body: Row = {"file_type": "csv", "notifications": {"email": False}}
        if list_uuid:
            body["list_ids"] = [list_uuid]
        number = text(
            mapping(self._api.send("POST", "/marketing/contacts/exports", body), where), "id", where
        )
        path = f"/marketing/contacts/exports/{number}"
        export = self._await(path, ready=("ready",))
        found = [
            one
            for url in export.get("urls") or ()
            for one in _read_contacts(self._api.download(str(url), self._hosts), where)
        ]
        promised = integer(export, "contact_count", where)
        if len(found) != promised:
            raise ProviderGarbled(
                f"{self.name} promised {promised} contacts but exported {len(found)}",
                outcome_unknown=False,
                where=where,
                fix="try again; if it stays so, the export cannot be relied on",
            )
        distinct(((one.id, one.uuid) for one in found), where)
        return found

    def _suppressed(self) -> dict[str, tuple[SuppressionReason, datetime | None]]:
        """Return who must not be mailed, by address: the first reason, and since when at the earliest."""
        found: dict[str, tuple[SuppressionReason, datetime | None]] = {}
        where = f"{self.name}: suppressions"

        def add(row: Row, reason: SuppressionReason, key: str) -> None:
            at = datetime.fromtimestamp(integer(row, key, where), UTC)
            email = text(row, "email", where).lower()
            known = found.get(email)
            if known is None or (known[1] is not None and at < known[1]):
                found[email] = (known[0] if known else reason, at)

        for path, reason in _SUPPRESSED_BY:
            for row in self._offsets(path):
                add(row, reason, "created")
        for row in rows_of(self._api.get("/asm/suppressions"), where):
            add(row, "unsubscribed", "created_at")
        return found

    # Evidence ---------------------------------------------------------------------------------------------------

    def send_log(self, campaign_id: int) -> Iterator[SendRecord]:
        """Raise `NotOffered`: the API does not say who got a Single Send."""
        raise not_told(_ONLY_WEBHOOK, self.name, campaign_id)

    def events(self, after_id: int = 0, campaign_id: int | None = None) -> Iterator[ProviderEvent]:
        """Raise `NotOffered`: events come through the Event Webhook alone."""
        raise not_told(_ONLY_WEBHOOK, self.name, campaign_id)

    # Paging and jobs --------------------------------------------------------------------------------------------

    def _pages(self, path: str, size: int, *, key: str = "result", unique: bool = True) -> list[Row]:
        """Return all rows behind `path`, page by page; only the token of `next` is used, never its address."""
        where = f"{self.name}: GET {path}"

        def read() -> tuple[list[Row], int]:
            found: list[Row] = []
            promised, token = -1, ""
            tokens = {token}
            while True:
                params: Row = {"page_size": size} | ({"page_token": token} if token else {})
                answer = mapping(self._api.get(path, params), where)
                found += rows_of(answer, where, key)
                about = answer.get("_metadata") or {}
                if isinstance(about.get("count"), int):
                    promised = about["count"]
                token = httpx.URL(str(about.get("next") or "")).params.get("page_token", "")
                if not token or token in tokens:
                    break
                tokens.add(token)
            if not unique:
                return found, len(found)
            rows = list({text(row, "id", where): row for row in found}.values())
            return rows, len(rows) if promised < 0 else promised

        return whole(read, self.name, where)

    def _offsets(self, path: str) -> Iterator[Row]:
        """Yield the rows of a list that promises no total, up to an empty page: a short one is not the last."""
        where, offset = f"{self.name}: GET {path}", 0
        while True:
            rows = rows_of(self._api.get(path, {"limit": _SUPPRESSION_ROWS, "offset": offset}), where)
            yield from rows
            offset += len(rows)
            if not rows:
                return

    def _await_job(self, accepted: Any) -> None:
        """Wait for a change of contacts that SendGrid has accepted; a failed wait leaves the outcome unknown."""
        where = f"{self.name}: contacts job"
        number = written(lambda: text(mapping(accepted, where), "job_id", where))
        read_after(lambda: self._await(f"/marketing/contacts/imports/{number}", ready=("completed",)))

    def _await(self, path: str, *, ready: Collection[str]) -> Row:
        where = f"{self.name}: GET {path}"
        return awaited(
            lambda: mapping(self._api.get(path), where),
            self._clock,
            self.name,
            where,
            ready=ready,
            waiting=("pending",),
        )


_ONLY_WEBHOOK = "SendGrid tells who got a message only through its Event Webhook"
_STATUSES: dict[str, CampaignStatus] = {"draft": "draft", "scheduled": "scheduled", "triggered": "running"}
_COUNTED = ("requests", "bounces", "spam_reports")
_IDENTIFIERS = ("phone_number_id", "external_id", "anonymous_id")


def _by_number(uuids: Iterable[str], where: str) -> dict[int, str]:
    return distinct(((number_of(one, CAMPAIGN_BITS), one) for one in uuids), where)


def _requests(stats: Row | None) -> int:
    return int(stats["requests"]) if stats else 0


def _batch_status(stopped: str | None, send_at: datetime, now: datetime, where: str) -> CampaignStatus:
    if stopped is None:
        return "scheduled" if now < send_at else "finished"
    if stopped == "cancel" or (stopped == "pause" and now >= send_at + _MAIL_EXPIRES):
        return "cancelled"
    if stopped != "pause":
        raise ProviderGarbled(
            f"A batch has the unknown status {stopped[:40]!r}", outcome_unknown=False, where=where
        )
    return "paused"


def _read_contacts(lines: Iterator[str], where: str) -> Iterator[_Contact]:
    reader = csv.DictReader(lines)
    columns = {str(name).strip().lower(): name for name in reader.fieldnames or ()}
    if missing := {"contact_id", "email"} - set(columns):
        raise ProviderGarbled(
            f"The export has no column {', '.join(sorted(missing))}", outcome_unknown=False, where=where
        )
    for row in reader:
        given = {name: row[column] or "" for name, column in columns.items()}
        uuid = given["contact_id"]
        if not uuid or not given["email"]:
            raise ProviderGarbled(
                "A contact of the export has no id or address", outcome_unknown=False, where=where
            )
        yield _Contact(
            person_number(given.get("external_id"), uuid),
            uuid,
            given["email"],
            parse_time(given.get("created_at"), where),
            {name: given[name] for name in _IDENTIFIERS if given.get(name)},
        )


def _content(config: Row) -> Row:
    """Return what makes up the message; with a design, its own subject and texts must not be sent along."""
    common = ("editor", "suppression_group_id", "custom_unsubscribe_url", "sender_id", "ip_pool")
    own = ("subject", "html_content", "plain_content", "generate_plain_content")
    keys = (*common, "design_id") if config.get("design_id") else (*common, *own)
    return {key: config[key] for key in keys if config.get(key) is not None}


def _utc(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
