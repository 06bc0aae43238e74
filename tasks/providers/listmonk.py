"""The connector for listmonk (v6), its REST dialect under `/api`.

listmonk keeps no log of who got a campaign. Where `/api/extensions/messages` and `/api/extensions/events` exist
(the simulated ESP has them; a listmonk whose messenger is our own relay can offer them) the send log is read from
there; where they answer 404, `send_log` and `events` raise `NotOffered` and the ledger has less to go by.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from http import HTTPStatus
from typing import Any, cast, get_args

import httpx

from tasks.core import Clock
from tasks.providers.errors import NotOffered, ProviderGarbled, ProviderRefused
from tasks.providers.http import JsonApi, parse_time
from tasks.providers.listmonk_export import ListmonkExport
from tasks.providers.model import (
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
    SendStatus,
    Suppression,
    SuppressionReason,
    Trap,
)
from tasks.providers.shapes import chunks, integer, mapping, probed, rows_of, whole, written

_STATUSES = get_args(CampaignStatus)
_SEND_STATUSES = get_args(SendStatus)
_PAGE_ROWS = 50  # listmonk cuts any larger per_page down to this
_LOG_ROWS = 5000
_IDS_PER_CALL = 500

_STATES = "knadh/listmonk v6.2.0 internal/core/campaigns.go (UpdateCampaignStatus)"
_PIPE = "knadh/listmonk v6.2.0 internal/manager/pipe.go"
LISTMONK = Capabilities(
    kind="listmonk",
    title="listmonk",
    actions=(
        Capability(
            "pause",
            "running",
            "paused",
            undo="resume",
            restores_exactly=False,
            limits="each of the ten workers may still send one message",
            leaves_behind="the sending pointer, which after a crash is ahead of what was sent (#3022)",
            source=_PIPE,
        ),
        Capability("cancel", "running", "cancelled", undo=None, restores_exactly=False, source=_STATES),
        Capability(
            "unschedule",
            "scheduled",
            "draft",
            undo="reschedule",
            restores_exactly=True,
            deadline="before send_at: the scan every five seconds starts whatever is due",
            limits="a scheduled campaign can neither be paused nor cancelled",
            source=_STATES,
        ),
        Capability(
            "resume",
            "paused",
            "running",
            undo="pause",
            restores_exactly=False,
            limits="goes on from the pointer: it may skip people for good, or mail some twice (#3022, #2070)",
            source=_PIPE,
        ),
        Capability("cancel", "paused", "cancelled", undo=None, restores_exactly=False, source=_STATES),
        Capability(
            "reschedule",
            "draft",
            "scheduled",
            undo="unschedule",
            restores_exactly=True,
            limits="needs a stored send_at; one that is past starts at once, however late (#1801)",
            source=_STATES,
        ),
        Capability("start", "draft", "running", undo="pause", restores_exactly=False, source=_STATES),
        Capability(
            "retire",
            "draft",
            "draft",
            undo=None,
            restores_exactly=False,
            limits="a draft cannot be cancelled: it stays, without a time and tagged",
            source=_STATES,
        ),
    ),
    send_log=True,
    resume_per_recipient=False,
    fires_late=True,
    stop_all="not through the API: stop the server's process, or start it with --passive",
    page_rows=_PAGE_ROWS,
    needs_user=True,
    traps=(
        Trap(
            "scheduled cannot be paused",
            "PUT status=paused of a scheduled campaign is refused; only draft takes it off the schedule",
            "respond unschedules to draft; send_at stays stored, and is compared after the undo",
            _STATES,
        ),
        Trap(
            "a past send_at fires at once",
            "scheduling again a campaign whose time is past starts it at the next scan, however late",
            "recover never schedules again what is past: the remaining people get a catch-up campaign in time, or none",
            "knadh/listmonk#1801",
        ),
        Trap(
            "the rewind needs a send",
            "a pause moves the pointer back to the last message sent, but only if one was: after an outage of SMTP it"
            " stays behind a whole batch that nobody got",
            "recover mails by the ledger and never resumes by the pointer",
            f"{_PIPE}; knadh/listmonk#3022",
        ),
        Trap(
            "the old pipe still works",
            "resuming before the stopped pipe is gone from the running stats repeats work",
            "recover waits until neither the running stats nor the send log show any movement",
            _PIPE,
        ),
        Trap(
            "running, but nothing moves",
            "after a resume a campaign can stay `running` while `sent` stands still",
            "monitor calls it stalled, and a catch-up that does not move is cancelled",
            "knadh/listmonk#2921, #2610",
        ),
        Trap(
            "a restored database sends at boot",
            "rows that were running or scheduled in the backup send again as soon as the server starts",
            "restore brings them back paused, or draft without a time",
            "knadh/listmonk#1801",
        ),
        Trap(
            "healthy without a database",
            "/api/health answers true whatever the state of the database",
            "the probe reads a campaign and the running stats instead",
            "knadh/listmonk v6.2.0 cmd/handlers.go",
        ),
    ),
)


class Listmonk:
    """A listmonk server. See `tasks.providers.Provider` for what each method promises."""

    capabilities = LISTMONK

    def __init__(
        self,
        name: str,
        api_url: str,
        *,
        user: str,
        token: str,
        timeout_seconds: float,
        clock: Clock,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.name = name
        self._clock = clock
        base = api_url.rstrip("/")
        base = base if base.endswith("/api") else f"{base}/api"
        self._api = JsonApi(
            name,
            base,
            auth=(user, token),
            envelope="data",
            timeout_seconds=timeout_seconds,
            clock=clock,
            transport=transport,
        )

    def close(self) -> None:
        """Give the connections back."""
        self._api.close()

    def export(self) -> ListmonkExport:
        """Return what can be exported; nothing is asked yet."""
        return ListmonkExport(self._api)

    # Health -----------------------------------------------------------------------------------------------------

    def health(self) -> Probe:
        """Read one campaign and the running stats: `/health` answers true without looking at its database."""

        def look() -> None:
            self._api.get("/campaigns", {"page": 1, "per_page": 1, "no_body": "true"}, attempts=1)
            self._api.get("/campaigns/running/stats", attempts=1)

        return probed(look, self._clock)

    def running_stats(self) -> list[RunningStats]:
        """Return the campaigns that the sender works on now, stopping ones included."""
        where = f"{self.name}: running stats"
        rows = rows_of(self._api.get("/campaigns/running/stats"), where, "results")
        return [
            RunningStats(
                campaign_id=integer(row, "id", where),
                status=str(row.get("status", "running")),
                to_send=integer(row, "to_send", where),
                sent=integer(row, "sent", where),
                updated_at=parse_time(row.get("updated_at"), where),
            )
            for row in rows
        ]

    # Campaigns --------------------------------------------------------------------------------------------------

    def campaigns(self) -> list[Campaign]:
        """Return every campaign, checked against the total that the provider promised."""
        return [self._campaign(row) for row in self._pages("/campaigns", {"no_body": "true"})]

    def campaign(self, campaign_id: int) -> Campaign:
        """Return one campaign as it is now."""
        return self._campaign(
            mapping(self._api.get(f"/campaigns/{campaign_id}", {"no_body": "true"}), self.name)
        )

    def find_campaign(self, name: str) -> Campaign | None:
        """Return the campaign called exactly `name` (the oldest of several)."""
        same = [one for one in self.campaigns() if one.name == name]
        return min(same, key=lambda one: one.id, default=None)

    def pause(self, campaign_id: int) -> None:
        """Stop a running campaign."""
        self._set_status(campaign_id, "paused")

    def unschedule(self, campaign_id: int) -> None:
        """Take a scheduled campaign back to draft; its time stays stored."""
        self._set_status(campaign_id, "draft")

    def reschedule(self, campaign_id: int, send_at: datetime | None = None) -> None:
        """Schedule a draft or paused campaign at its stored time, which listmonk never loses."""
        self._set_status(campaign_id, "scheduled")

    def start(self, campaign_id: int) -> None:
        """Start a draft or paused campaign (one with a send_at is stored as scheduled and starts when it is due)."""
        self._set_status(campaign_id, "running")

    def cancel(self, campaign_id: int) -> None:
        """End a running or paused campaign for good."""
        self._set_status(campaign_id, "cancelled")

    def retire(self, campaign_id: int, tag: str) -> None:
        """Take the time of a draft away and tag it; a send_at that is past could not be stored again anyway."""
        row = mapping(self._api.get(f"/campaigns/{campaign_id}"), self.name)
        body = _copyable(row) | {
            "name": row["name"],
            "lists": [one["id"] for one in row.get("lists") or [] if one.get("id")],
            "tags": sorted({*(row.get("tags") or []), tag}),
            "send_at": None,
        }
        self._api.send("PUT", f"/campaigns/{campaign_id}", body)

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
        row = mapping(self._api.get(f"/campaigns/{copy_of}"), self.name)
        attribs = dict(row.get("attribs") or {}) | {"catch_up_of": copy_of, "catch_up_step": step}
        if latest_useful_at is not None:
            attribs["latest_useful_at"] = latest_useful_at.isoformat()
        body = _copyable(row) | {
            "name": name,
            "lists": [list_id],
            "tags": sorted({*(row.get("tags") or []), *tags}),
            "attribs": attribs,
            "send_at": send_at.isoformat() if send_at else None,
        }
        return written(lambda: self._campaign(mapping(self._api.send("POST", "/campaigns", body), self.name)))

    def _set_status(self, campaign_id: int, status: CampaignStatus) -> None:
        self._api.send("PUT", f"/campaigns/{campaign_id}/status", {"status": status})

    def _campaign(self, row: dict[str, Any]) -> Campaign:
        where = f"{self.name}: campaign {row.get('id')}"
        status = row.get("status")
        if status not in _STATUSES:
            raise ProviderGarbled(
                f"A campaign has the unknown status {str(status)[:40]!r}",
                outcome_unknown=False,
                where=where,
                fix="check the version of listmonk against the connector's (v6)",
            )
        attribs = row.get("attribs") or {}
        of = attribs.get("catch_up_of")
        return Campaign(
            id=integer(row, "id", where),
            uuid=str(row.get("uuid", "")),
            name=str(row.get("name", "")),
            kind=str(attribs.get("kind") or "other"),
            status=cast(CampaignStatus, status),
            send_at=parse_time(row.get("send_at"), where),
            latest_useful_at=parse_time(attribs.get("latest_useful_at"), where),
            list_ids=tuple(int(one["id"]) for one in row.get("lists") or [] if one.get("id")),
            to_send=integer(row, "to_send", where),
            sent=integer(row, "sent", where),
            started_at=parse_time(row.get("started_at"), where),
            tags=tuple(str(tag) for tag in row.get("tags") or []),
            subject=str(row.get("subject", "")),
            catch_up_of=int(of) if of is not None else None,
            step=int(attribs.get("catch_up_step") or 0) if of is not None else 0,
        )

    # Lists and subscribers --------------------------------------------------------------------------------------

    def lists(self) -> list[MailingList]:
        """Return every list."""
        where = f"{self.name}: lists"
        return [
            MailingList(integer(row, "id", where), str(row.get("name", "")))
            for row in self._pages("/lists", {})
        ]

    def find_list(self, name: str) -> MailingList | None:
        """Return the list called exactly `name` (the oldest of several)."""
        same = [one for one in self.lists() if one.name == name]
        return min(same, key=lambda one: one.id, default=None)

    def create_list(self, name: str, *, among: Sequence[int] = ()) -> MailingList:
        """Create a private single opt-in list."""
        body = {"name": name, "type": "private", "optin": "single", "tags": ["mailstay"]}

        def create() -> MailingList:
            row = mapping(self._api.send("POST", "/lists", body), self.name)
            return MailingList(integer(row, "id", f"{self.name}: lists"), str(row.get("name", "")))

        return written(create)

    def delete_list(self, list_id: int) -> None:
        """Delete a list; its subscribers stay."""
        self._api.send("DELETE", f"/lists/{list_id}")

    def add_to_list(self, list_id: int, subscriber_ids: Iterable[int]) -> None:
        """Put subscribers on a list as confirmed; who is on it already stays."""
        for ids in chunks(sorted(set(subscriber_ids)), _IDS_PER_CALL):
            body = {"ids": ids, "action": "add", "target_list_ids": [list_id], "status": "confirmed"}
            self._api.send("PUT", "/subscribers/lists", body)

    def memberships(self, list_ids: Iterable[int] | None = None) -> list[Membership]:
        """Return who is on the given lists (None: on any list), with their status."""
        wanted = None if list_ids is None else sorted(set(list_ids))
        if wanted == []:
            return []
        rows = self._pages("/subscribers", {"list_id": wanted} if wanted else {})
        found = [one for row in rows for one in _memberships(row, self.name)]
        return found if wanted is None else [one for one in found if one.list_id in set(wanted)]

    def memberships_of_people_on(self, list_id: int) -> list[Membership]:
        """Return every membership, on any list, of the people who are on `list_id`."""
        return [
            one
            for row in self._pages("/subscribers", {"list_id": [list_id]})
            if any(one.get("id") == list_id for one in row.get("lists") or [])
            for one in _memberships(row, self.name)
        ]

    def subscriber_ids(self) -> set[int]:
        """Return the ids of all subscribers that there are, on a list or not."""
        where = f"{self.name}: subscribers"
        return {integer(row, "id", where) for row in self._pages("/subscribers", {})}

    def addresses(self) -> dict[int, str]:
        """Return the address of every subscriber by id; personal data, never to be logged or kept."""
        where = f"{self.name}: subscribers"
        rows = self._pages("/subscribers", {})
        return {integer(row, "id", where): str(row.get("email", "")) for row in rows}

    def suppressions(self) -> list[Suppression]:
        """Return whom listmonk would not mail, and whom it should not: hard bounces and complaints included."""
        found: list[Suppression] = []
        for row in self._pages("/subscribers", {}):
            subscriber = integer(row, "id", f"{self.name}: subscribers")
            if row.get("status") in ("blocklisted", "disabled"):
                found.append(Suppression(subscriber, "manual"))
            found += [
                Suppression(subscriber, "unsubscribed", one.list_id)
                for one in _memberships(row, self.name)
                if one.status == "unsubscribed"
            ]
        for row in self._pages("/bounces", {"order": "asc"}):
            where = f"{self.name}: bounces"
            if row.get("type") in ("hard", "complaint"):
                reason: SuppressionReason = "complaint" if row["type"] == "complaint" else "hard_bounce"
                found.append(Suppression(integer(row, "subscriber_id", where), reason))
        return found

    def set_unsubscribed(self, subscriber_ids: Iterable[int], list_ids: Iterable[int]) -> None:
        """Unsubscribe people from lists."""
        lists = sorted(set(list_ids))
        if not lists:
            return
        for ids in chunks(sorted(set(subscriber_ids)), _IDS_PER_CALL):
            body = {"ids": ids, "action": "unsubscribe", "target_list_ids": lists}
            self._api.send("PUT", "/subscribers/lists", body)

    def blocklist(self, subscriber_ids: Iterable[int]) -> None:
        """Block people from every campaign."""
        for ids in chunks(sorted(set(subscriber_ids)), _IDS_PER_CALL):
            self._api.send("PUT", "/subscribers/blocklist", {"ids": ids})

    # Evidence ---------------------------------------------------------------------------------------------------

    def send_log(self, campaign_id: int) -> Iterator[SendRecord]:
        """Yield the sender's own log of a campaign, in the order of attempts."""
        where = f"{self.name}: send log"
        for row in self._after("/extensions/messages", {"campaign_id": campaign_id}, 0):
            status = row.get("status")
            if status not in _SEND_STATUSES:
                raise ProviderGarbled(
                    f"The send log has the unknown status {str(status)[:40]!r}",
                    outcome_unknown=False,
                    where=where,
                )
            at = parse_time(row.get("updated_at") or row.get("queued_at"), where)
            if at is None:
                raise ProviderGarbled(
                    "The send log has a line without a time", outcome_unknown=False, where=where
                )
            if integer(row, "campaign_id", where) == campaign_id:
                yield SendRecord(
                    campaign_id,
                    integer(row, "subscriber_id", where),
                    cast(SendStatus, status),
                    at,
                    smtp_code=row.get("smtp_code"),
                )

    def events(self, after_id: int = 0, campaign_id: int | None = None) -> Iterator[ProviderEvent]:
        """Yield the events (of one campaign) after `after_id`, oldest first."""
        where = f"{self.name}: events"
        wanted = {} if campaign_id is None else {"campaign_id": campaign_id}
        for row in self._after("/extensions/events", wanted, after_id):
            if campaign_id not in (None, row.get("campaign_id")):
                continue
            at = parse_time(row.get("occurred_at"), where)
            if at is None:
                raise ProviderGarbled("An event has no time", outcome_unknown=False, where=where)
            yield ProviderEvent(
                event_id=integer(row, "id", where),
                type=str(row.get("type", "")),
                campaign_id=integer(row, "campaign_id", where),
                subscriber_id=integer(row, "subscriber_id", where),
                occurred_at=at,
            )

    # Paging -----------------------------------------------------------------------------------------------------

    def _pages(self, path: str, params: dict[str, Any]) -> list[dict[str, Any]]:
        """Return all rows of a paged list, as many as it promises."""
        return whole(lambda: self._pages_once(path, params), self.name, f"{self.name}: GET {path}")

    def _pages_once(self, path: str, params: dict[str, Any]) -> tuple[list[dict[str, Any]], int]:
        where = f"{self.name}: GET {path}"
        found: dict[int, dict[str, Any]] = {}
        page, total, totals = 1, 0, set()
        while True:
            answer = mapping(
                self._api.get(path, {"order": "ASC"} | params | {"page": page, "per_page": _PAGE_ROWS}), where
            )
            rows = rows_of(answer, where, "results")
            total = integer(answer, "total", where)
            totals.add(total)
            found |= {integer(row, "id", where): row for row in rows}
            if not rows or page * _PAGE_ROWS >= total:
                break
            page += 1
        return list(found.values()), total if len(totals) == 1 else -1

    def _after(self, path: str, params: dict[str, Any], after_id: int) -> Iterator[dict[str, Any]]:
        """Yield rows by rising id: a row that is added while reading is neither skipped nor read twice."""
        where = f"{self.name}: GET {path}"
        while True:
            try:
                answer = self._api.get(path, params | {"after_id": after_id, "limit": _LOG_ROWS})
            except ProviderRefused as error:
                if error.status != HTTPStatus.NOT_FOUND:
                    raise
                raise NotOffered(error.what, status=error.status, where=where) from None
            rows = rows_of(answer, where, "results")
            for row in rows:
                number = integer(row, "id", where)
                if number <= after_id:
                    raise ProviderGarbled("Rows do not come by rising id", outcome_unknown=False, where=where)
                after_id = number
                yield row
            if not rows:
                return


def _memberships(row: dict[str, Any], name: str) -> list[Membership]:
    where = f"{name}: subscriber {row.get('id')}"
    subscriber_status = row.get("status")
    if subscriber_status not in ("enabled", "disabled", "blocklisted"):
        raise ProviderGarbled("A subscriber has an unknown status", outcome_unknown=False, where=where)
    found = []
    for one in row.get("lists") or []:
        status = one.get("subscription_status")
        if status not in ("unconfirmed", "confirmed", "unsubscribed"):
            raise ProviderGarbled("A subscription has an unknown status", outcome_unknown=False, where=where)
        left = [
            parse_time(changed, where)
            for gone, changed in (
                (status == "unsubscribed", one.get("subscription_updated_at")),
                (subscriber_status != "enabled", row.get("updated_at")),
            )
            if gone
        ]
        found.append(
            Membership(
                integer(row, "id", where),
                integer(one, "id", where),
                status,
                subscriber_status,
                since=parse_time(one.get("subscription_created_at"), where),
                left_at=min((at for at in left if at is not None), default=None),
            )
        )
    return found


def _copyable(row: dict[str, Any]) -> dict[str, Any]:
    keys = (
        "subject", "from_email", "type", "content_type", "body", "body_source", "altbody", "messenger",
        "template_id", "headers", "attribs",
    )  # fmt: skip
    return {key: row[key] for key in keys if row.get(key) is not None}
