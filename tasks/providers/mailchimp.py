"""The connector for Mailchimp: campaigns, audiences with their tags and segments, who got a campaign once it was sent.

Mailchimp gives campaigns no tags, so what Mailstay must know of one stands in its title: `Sale {kind:sale}`. A list is
an audience, or a tag or segment of one. Its ids are text; each stands here as a number made from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus

import httpx

from tasks.core import Clock
from tasks.providers.errors import NotOffered, ProviderRefused
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
    Trap,
)
from tasks.providers.shapes import (
    Numbers,
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

_ROWS = 1000
_MEMBERS_PER_CALL = 500
_BEING_MADE = " (being made)"
_CONDITIONS = "?"
"""Marks the audience of a campaign that goes to conditions of its own, which only Mailchimp can evaluate."""

_DESCRIPTION = "Mailchimp Marketing API 3.0.55 description"
_ACTIONS = f"{_DESCRIPTION}, /campaigns/{{campaign_id}}/actions"
_LIMITS = "Mailchimp Marketing API, fundamentals: throttling (10 simultaneous connections, 120 s)"
MAILCHIMP = Capabilities(
    kind="mailchimp",
    title="Mailchimp",
    actions=(
        Capability(
            "unschedule",
            "scheduled",
            "draft",
            undo="reschedule",
            restores_exactly=True,
            deadline="before it begins: a campaign that is being sent is refused",
            leaves_behind="no time in Mailchimp: the journal keeps it; batch delivery and Timewarp must be set again",
            source=f"{_ACTIONS}/unschedule",
        ),
        Capability(
            "reschedule",
            "draft",
            "scheduled",
            undo="unschedule",
            restores_exactly=True,
            limits="only on the quarter-hour, and not in the past",
            source=f"{_ACTIONS}/schedule",
        ),
        Capability(
            "start",
            "draft",
            "running",
            undo=None,
            restores_exactly=False,
            limits="sends at once, and cannot be paused",
            source=f"{_ACTIONS}/send",
        ),
        Capability(
            "cancel",
            "running",
            "cancelled",
            undo=None,
            restores_exactly=False,
            deadline="before everybody has it",
            limits="regular and plain-text campaigns of accounts with Mailchimp Pro; it cannot be resumed",
            source=f"{_ACTIONS}/cancel-send",
        ),
        Capability(
            "retire",
            "draft",
            "draft",
            undo=None,
            restores_exactly=False,
            limits="a draft cannot be cancelled: it stays, without a time and marked in its title",
            source=f"{_DESCRIPTION}, PATCH /campaigns/{{campaign_id}}",
        ),
        Capability(
            "pause",
            "running",
            "paused",
            undo="resume",
            restores_exactly=True,
            limits="RSS-driven campaigns only",
            source=f"{_ACTIONS}/pause",
            of="feed",
        ),
        Capability(
            "resume",
            "paused",
            "running",
            undo="pause",
            restores_exactly=True,
            limits="RSS-driven campaigns only; whether an issue that was due meanwhile is sent is not documented",
            source=f"{_ACTIONS}/resume",
            of="feed",
        ),
    ),
    send_log=True,
    resume_per_recipient=False,
    fires_late=None,
    stop_all="not through the API",
    page_rows=_ROWS,
    slots=timedelta(minutes=15),
    connections=10,
    limits_source=_LIMITS,
    by_hand=(
        ByHand(
            "running",
            "log in and cancel it, with Mailchimp Pro: for good, whoever was not reached gets nothing",
            f"{_ACTIONS}/cancel-send",
        ),
    ),
    traps=(
        Trap(
            "a pause is for RSS alone",
            "the API has `pause` and `resume`, but for RSS-driven campaigns only",
            "the plan of respond says of any other that it cannot be stopped",
            f"{_ACTIONS}/pause",
        ),
        Trap(
            "a cancelled send ends for good",
            "cancel-send needs Mailchimp Pro, and nothing resumes what it stopped",
            "respond never cancels; recover cancels only a catch-up of its own",
            f"{_ACTIONS}/cancel-send",
        ),
        Trap(
            "unscheduled forgets its time",
            "a campaign that is taken off the schedule is a draft without a time",
            "the journal keeps the time, and the undo sets it again",
            f"{_DESCRIPTION}, send_time",
        ),
        Trap(
            "quarter-hours only",
            "a time that is not :00, :15, :30 or :45 is refused",
            "a catch-up is scheduled at the next quarter-hour, and judged by that",
            f"{_ACTIONS}/schedule",
        ),
        Trap(
            "a page is ten rows",
            "a listing gives 10 rows unless asked for more, and never more than 1,000",
            "pages of 1,000 are read, and held against total_items",
            "airbytehq/airbyte#41988; " + _DESCRIPTION,
        ),
        Trap(
            "a bare 403 means busy",
            "too many calls at once are refused with 429, or with a 403 without any JSON",
            "one call at a time; such a 403 is a limit and no missing permission",
            _LIMITS,
        ),
        Trap(
            "a tag has no opt-out",
            "people leave an audience, never a tag or segment of it",
            "an opt-out from a tag is one from its audience",
            f"{_DESCRIPTION}, /lists/{{list_id}}/segments",
        ),
        Trap(
            "who got it shows at the end",
            "the report names recipients; of a campaign that is being sent it is not said to be whole",
            "it is asked once a campaign is sent or cancelled, and held against emails_sent",
            f"{_DESCRIPTION}, /reports/{{campaign_id}}/sent-to",
        ),
        Trap(
            "conditions are not a list",
            "a campaign may go to conditions of its own, which only Mailchimp can evaluate",
            "recover stops at such a campaign: save the conditions as a segment and choose that",
            f"{_DESCRIPTION}, segment_opts",
        ),
    ),
)
_NOT_TOLD = "Mailchimp names who got a campaign only once it was sent or cancelled"
_STATUSES: dict[str, CampaignStatus] = {
    "save": "draft",
    "schedule": "scheduled",
    "sending": "running",
    "canceling": "running",
    "paused": "paused",
    "sent": "finished",
    "archived": "finished",
    "canceled": "cancelled",
}


class Mailchimp:
    """A Mailchimp account. See `tasks.providers.Provider` for what each method promises."""

    capabilities = MAILCHIMP

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
        self._campaign_ids = Numbers("campaign", name, self._rows_of_campaigns)
        self._list_ids = Numbers("list", name, self.campaigns)
        self._api = JsonApi(
            name,
            below(api_url, "/3.0"),
            auth=("mailstay", token),
            bare_403_is_busy=True,
            timeout_seconds=timeout_seconds,
            clock=clock,
            patience=patience,
            transport=transport,
        )

    def close(self) -> None:
        """Give the connections back."""
        self._api.close()

    # Health -----------------------------------------------------------------------------------------------------

    def health(self) -> Probe:
        """Read one campaign, which says more than the ping; never raises."""

        def look() -> None:
            answer = self._api.get("/campaigns", {"count": 1}, attempts=1)
            rows_of(mapping(answer, self.name), self.name, "campaigns")

        return probed(look, self._clock)

    def running_stats(self) -> list[RunningStats]:
        """Return the campaigns that are being sent now; a feed is not, it only might be."""
        rows = self._pages("/campaigns", "campaigns", {"status": "sending"})
        return being_sent(map(self._campaign, rows))

    # Campaigns --------------------------------------------------------------------------------------------------

    def campaigns(self) -> list[Campaign]:
        """Return every campaign, checked against the total that Mailchimp promised."""
        self._all_lists()
        return [self._campaign(row) for row in self._rows_of_campaigns()]

    def campaign(self, campaign_id: int) -> Campaign:
        """Return one campaign as it is now, with its bounces and complaints."""
        row = self._row(campaign_id)
        one = self._campaign(row)
        if one.status in ("draft", "scheduled") or one.of == "feed":
            return one
        report = self._report(text(row, "id", self.name))
        bounces = report.get("bounces") or {}
        return replace(
            one,
            bounced=int(bounces.get("hard_bounces") or 0) + int(bounces.get("soft_bounces") or 0),
            complaints=int(report.get("abuse_reports") or 0),
        )

    def find_campaign(self, name: str) -> Campaign | None:
        """Return the campaign called exactly `name` (the oldest of several)."""
        return next((one for one in self.campaigns() if one.name == name), None)

    def pause(self, campaign_id: int) -> None:
        """Pause an RSS-driven campaign; nothing pauses any other."""
        if self._row(campaign_id).get("type") != "rss":
            raise NotOffered(
                "Mailchimp cannot pause a campaign, unless it is driven by RSS",
                status=0,
                where=f"{self.name}: campaign {campaign_id}",
            )
        self._act(campaign_id, "pause")

    def unschedule(self, campaign_id: int) -> None:
        """Take a scheduled campaign back to draft; Mailchimp forgets its time."""
        self._act(campaign_id, "unschedule")

    def reschedule(self, campaign_id: int, send_at: datetime | None = None) -> None:
        """Schedule a draft at the time of its title or, without one, at `send_at`; let a feed go on."""
        row = self._row(campaign_id)
        if row.get("type") == "rss":
            self._act(campaign_id, "resume")
            return
        where = f"{self.name}: campaign {campaign_id}"
        at = planned_time(_labels(row, where)[1].send_at or send_at, where, "Mailchimp")
        self._act(campaign_id, "schedule", {"schedule_time": _utc(at)})

    def start(self, campaign_id: int) -> None:
        """Send a draft at once; let a feed go on."""
        feed = self._row(campaign_id).get("type") == "rss"
        self._act(campaign_id, "resume" if feed else "send")

    def cancel(self, campaign_id: int) -> None:
        """Stop a campaign that is being sent for good, which Mailchimp Pro alone can."""
        self._act(campaign_id, "cancel-send")

    def retire(self, campaign_id: int, tag: str) -> None:
        """Take the time of a draft away and mark it in its title."""
        row, where = self._row(campaign_id), f"{self.name}: campaign {campaign_id}"
        name, labels = _labels(row, where)
        title = labels.marked(tag).title(name)
        self._retitle(text(row, "id", where), mapping(row.get("settings"), where), title)

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

        It gets its name last, once it has its content: what is found under that name is whole.
        """
        row, where = self._row(copy_of), f"{self.name}: campaign {copy_of}"
        _, labels = _labels(row, where)
        labels = labels.of_catch_up(copy_of, step, tags, latest_useful_at, send_at)
        settings = _settings(mapping(row.get("settings"), where))
        begun = self.find_campaign(name + _BEING_MADE)
        if begun is None:
            body = {
                # A winner among variants was chosen long ago or never will be: a catch-up has one content.
                "type": "plaintext" if row.get("type") == "plaintext" else "regular",
                "recipients": self._recipients(list_id),
                "settings": settings | {"title": name + _BEING_MADE},
                "tracking": _tracking(row),
            }
            made = self._api.send("POST", "/campaigns", body)
            identifier = written(lambda: text(mapping(made, where), "id", where))
        else:
            identifier = begun.uuid
        content = read_after(
            lambda: mapping(self._api.get(f"/campaigns/{text(row, 'id', where)}/content"), where)
        )
        kept = {key: content[key] for key in ("html", "plain_text") if content.get(key)}
        self._api.send("PUT", f"/campaigns/{identifier}/content", kept)
        self._retitle(identifier, settings, labels.title(name))
        number = self._campaign_ids.add(identifier)
        return read_after(lambda: self.campaign(number))

    def _act(self, campaign_id: int, action: str, body: Row | None = None) -> None:
        self._api.send("POST", f"/campaigns/{self._campaign_ids[campaign_id]}/actions/{action}", body)

    def _retitle(self, identifier: str, settings: Row, title: str) -> None:
        needed = {key: str(settings.get(key) or "") for key in ("subject_line", "from_name", "reply_to")}
        self._api.send("PATCH", f"/campaigns/{identifier}", {"settings": needed | {"title": title}})

    def _row(self, campaign_id: int) -> Row:
        identifier = self._campaign_ids[campaign_id]
        return mapping(self._api.get(f"/campaigns/{identifier}"), f"{self.name}: campaign {campaign_id}")

    def _rows_of_campaigns(self) -> list[Row]:
        rows = self._pages("/campaigns", "campaigns", {"sort_field": "create_time", "sort_dir": "ASC"})
        for row in rows:
            self._campaign_ids.add(text(row, "id", self.name))
        return rows

    def _report(self, identifier: str) -> Row:
        try:
            return mapping(self._api.get(f"/reports/{identifier}"), f"{self.name}: reports")
        except ProviderRefused as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return {}

    def _campaign(self, row: Row) -> Campaign:
        identifier = text(row, "id", self.name)
        where = f"{self.name}: campaign {identifier}"
        name, labels = _labels(row, where)
        status = known_status(row.get("status"), _STATUSES, where, "3.0")
        feed = row.get("type") == "rss"
        at = parse_time(row.get("send_time"), where)
        recipients = row.get("recipients") or {}
        delivered = (row.get("delivery_status") or {}).get("emails_sent")
        sent = 0 if feed else max(int(row.get("emails_sent") or 0), int(delivered or 0))
        begun = status in ("running", "finished", "cancelled") and not feed
        return Campaign(
            id=self._campaign_ids.add(identifier),
            uuid=identifier,
            name=name,
            kind=labels.kind,
            status=status,
            send_at=labels.send_at if status == "draft" else None if feed else at,
            latest_useful_at=labels.latest_useful_at,
            list_ids=tuple(self._list_ids.add(one) for one in _audience(recipients, identifier)),
            to_send=sent if status == "finished" else int(recipients.get("recipient_count") or 0),
            sent=sent,
            started_at=at if begun else None,
            tags=labels.tags,
            subject=str((row.get("settings") or {}).get("subject_line") or ""),
            catch_up_of=labels.catch_up_of,
            step=labels.step,
            of="feed" if feed else "campaign",
        )

    # Lists and people -------------------------------------------------------------------------------------------

    def lists(self) -> list[MailingList]:
        """Return every audience, and the tags and segments of each."""
        return [MailingList(self._list_ids.add(one), name) for one, name in self._all_lists()]

    def find_list(self, name: str) -> MailingList | None:
        """Return the audience, tag or segment called exactly `name` (the first of several)."""
        return next((one for one in self.lists() if one.name == name), None)

    def create_list(self, name: str, *, among: Sequence[int] = ()) -> MailingList:
        """Create a tag in the audience that the lists `among` belong to, or in the only one."""
        where = f"{self.name}: lists"
        audiences = {self._list_ids[number].partition("/")[0] for number in among}
        audiences = audiences or {one for one, _ in self._audiences()}
        if len(audiences) != 1:
            raise ProviderRefused(
                f"Mailchimp keeps a tag in one audience, and here are {len(audiences)} to choose from",
                status=0,
                where=where,
            )
        audience = audiences.pop()
        made = self._api.send("POST", f"/lists/{audience}/segments", {"name": name, "static_segment": []})
        number = written(lambda: integer(mapping(made, where), "id", where))
        return MailingList(self._list_ids.add(f"{audience}/{number}"), name)

    def delete_list(self, list_id: int) -> None:
        """Delete a tag; its people stay. An audience is never deleted: their consents would go with it."""
        audience, segment = self._list(list_id)
        if not segment:
            raise NotOffered(
                "An audience is not deleted: its people and their consents would go with it",
                status=0,
                where=f"{self.name}: list {list_id}",
            )
        self._api.send("DELETE", f"/lists/{audience}/segments/{segment}")

    def add_to_list(self, list_id: int, subscriber_ids: Iterable[int]) -> None:
        """Give people of the audience a tag; who has it already keeps it."""
        audience, segment = self._list(list_id)
        if not segment:
            raise NotOffered(
                "Mailstay subscribes nobody to an audience", status=0, where=f"{self.name}: list {list_id}"
            )
        wanted = set(subscriber_ids)
        people = [_address(row) for row in self._members(audience) if _person(row) in wanted]
        for part in chunks(people, _MEMBERS_PER_CALL):
            self._api.send("POST", f"/lists/{audience}/segments/{segment}", {"members_to_add": list(part)})

    def memberships(self, list_ids: Iterable[int] | None = None) -> list[Membership]:
        """Return who is on the given lists (None: on any), those who opted out of the audience included."""
        wanted = [one.id for one in self.lists()] if list_ids is None else sorted(set(list_ids))
        return [
            _membership(row, number, self.name)
            for number in wanted
            for row in self._members(*self._list(number))
        ]

    def memberships_of_people_on(self, list_id: int) -> list[Membership]:
        """Return every membership, on any list, of the people who are on `list_id`."""
        return of_people_on(self.memberships(), list_id)

    def subscriber_ids(self) -> set[int]:
        """Return the ids of all people that there are, in whichever audience."""
        return {_person(row) for row in self._everybody()}

    def addresses(self) -> dict[int, str]:
        """Return the address of every person by id; personal data, never to be logged or kept."""
        return {_person(row): _address(row) for row in self._everybody()}

    def suppressions(self) -> list[Suppression]:
        """Return whom Mailchimp would not mail: everywhere, or in one audience and its tags where another has them."""
        by_person: dict[int, dict[str, Row]] = {}
        inside: dict[str, list[int]] = {}
        found = []
        for audience, _ in self._audiences():
            inside[audience] = [self._list_ids.add(audience)]
            inside[audience] += [self._list_ids.add(one) for one, _ in self._segments(audience)]
            members = self._members(audience)
            by_hash = {row["id"]: _person(row) for row in members}
            for row in members:
                by_person.setdefault(_person(row), {})[audience] = row
            found += [
                Suppression(by_hash[row["email_id"]], "complaint")
                for row in self._pages(f"/lists/{audience}/abuse-reports", "abuse_reports", {})
                if row.get("email_id") in by_hash
            ]
        for number, rows in by_person.items():
            left = {audience: row for audience, row in rows.items() if row.get("status") != "subscribed"}
            if any(row.get("status") == "cleaned" for row in left.values()):
                found.append(Suppression(number, "hard_bounce"))
            if len(left) == len(rows):
                found.append(Suppression(number, "unsubscribed"))
            else:
                found += [
                    Suppression(number, "unsubscribed", one) for audience in left for one in inside[audience]
                ]
        return found

    def set_unsubscribed(self, subscriber_ids: Iterable[int], list_ids: Iterable[int]) -> None:
        """Unsubscribe people from the audiences of lists."""
        wanted = set(subscriber_ids)
        if wanted:
            for audience in sorted({self._list(number)[0] for number in list_ids}):
                self._unsubscribe(audience, wanted)

    def blocklist(self, subscriber_ids: Iterable[int]) -> None:
        """Unsubscribe people from every audience."""
        for audience, _ in self._audiences():
            self._unsubscribe(audience, set(subscriber_ids))

    def _unsubscribe(self, audience: str, wanted: set[int]) -> None:
        people = [
            _address(row)
            for row in self._members(audience)
            if _person(row) in wanted and row.get("status") in ("subscribed", "pending")
        ]
        for part in chunks(people, _MEMBERS_PER_CALL):
            members = [{"email_address": one, "status": "unsubscribed"} for one in part]
            self._api.send("POST", f"/lists/{audience}", {"members": members, "update_existing": True})

    def _audiences(self) -> list[tuple[str, str]]:
        where = f"{self.name}: lists"
        return [
            (text(row, "id", where), str(row.get("name", ""))) for row in self._pages("/lists", "lists", {})
        ]

    def _segments(self, audience: str) -> list[tuple[str, str]]:
        where = f"{self.name}: segments"
        return [
            (f"{audience}/{integer(row, 'id', where)}", str(row.get("name", "")))
            for row in self._pages(f"/lists/{audience}/segments", "segments", {})
        ]

    def _all_lists(self) -> list[tuple[str, str]]:
        found = self._audiences()
        found += [one for audience, _ in found for one in self._segments(audience)]
        for one, _ in found:
            self._list_ids.add(one)
        return found

    def _list(self, number: int) -> tuple[str, str]:
        """Return the audience and the tag or segment of it that a number stands for; the latter may be empty."""
        audience, _, segment = self._list_ids[number].partition("/")
        if segment.startswith(_CONDITIONS):
            raise ProviderRefused(
                "A campaign goes to conditions of its own, which only Mailchimp can evaluate",
                status=0,
                where=f"{self.name}: campaign {segment.removeprefix(_CONDITIONS)}",
                fix="save its conditions as a segment in Mailchimp and choose that, then run it again",
            )
        return audience, segment

    def _recipients(self, list_id: int) -> Row:
        audience, segment = self._list(list_id)
        return {"list_id": audience} | (
            {"segment_opts": {"saved_segment_id": int(segment)}} if segment else {}
        )

    def _members(self, audience: str, segment: str = "") -> list[Row]:
        path, params = f"/lists/{audience}/members", {}
        if segment:
            path = f"/lists/{audience}/segments/{segment}/members"
            params = {"include_unsubscribed": "true", "include_cleaned": "true"}
        rows = self._pages(path, "members", params)
        distinct(((_person(row), str(row["id"])) for row in rows), f"{self.name}: members")
        return rows

    def _everybody(self) -> Iterator[Row]:
        for audience, _ in self._audiences():
            yield from self._members(audience)

    # Evidence ---------------------------------------------------------------------------------------------------

    def send_log(self, campaign_id: int) -> Iterator[SendRecord]:
        """Yield who got a campaign that was sent or cancelled; one that never began has nobody.

        Raises:
            NotOffered: it is being sent, or is a feed.
        """
        row = self._row(campaign_id)
        one = self._campaign(row)
        if one.status in ("running", "paused") or one.of == "feed":
            raise not_told(_NOT_TOLD, self.name, campaign_id)
        if one.status in ("draft", "scheduled"):
            return
        path = f"/reports/{one.uuid}/sent-to"
        for sent in self._pages(path, "sent_to", {}, key=lambda got: text(got, "email_id", path)):
            yield SendRecord(
                campaign_id, _person(sent, "email_id"), "accepted", one.started_at or self._clock.now()
            )

    def events(self, after_id: int = 0, campaign_id: int | None = None) -> Iterator[ProviderEvent]:
        """Raise `NotOffered`: the reports name who opened a message, but give no event an id to go on from."""
        raise not_told("Mailchimp's reports are no stream of events", self.name, campaign_id)

    # Paging -----------------------------------------------------------------------------------------------------

    def _pages(
        self, path: str, key_of_rows: str, params: Row, *, key: Callable[[Row], object] | None = None
    ) -> list[Row]:
        where = f"{self.name}: GET {path}"

        def ask(offset: int) -> tuple[list[Row], int]:
            answer = mapping(self._api.get(path, params | {"count": _ROWS, "offset": offset}), where)
            return rows_of(answer, where, key_of_rows), integer(answer, "total_items", where)

        return paged(ask, _ROWS, key or (lambda row: str(row.get("id"))), self.name, where)


def _labels(row: Row, where: str) -> tuple[str, Labels]:
    return Labels.of_title(str((row.get("settings") or {}).get("title") or ""), where)


def _audience(recipients: Row, campaign: str) -> Iterator[str]:
    audience, options = str(recipients.get("list_id") or ""), recipients.get("segment_opts") or {}
    if not audience:
        return
    if options.get("saved_segment_id"):
        yield f"{audience}/{options['saved_segment_id']}"
    elif options.get("conditions") or options.get("prebuilt_segment_id"):
        yield f"{audience}/{_CONDITIONS}{campaign}"
    else:
        yield audience


def _settings(settings: Row) -> Row:
    keys = (
        "subject_line", "preview_text", "from_name", "reply_to", "to_name", "authenticate", "auto_footer", "inline_css",
    )  # fmt: skip
    return {key: settings[key] for key in keys if settings.get(key) is not None}


def _tracking(row: Row) -> Row:
    keys = ("opens", "html_clicks", "text_clicks", "google_analytics", "ecomm360")
    return {key: row["tracking"][key] for key in keys if (row.get("tracking") or {}).get(key) is not None}


def _person(row: Row, key: str = "id") -> int:
    fields = row.get("merge_fields")
    return person_number(fields.get("EXT_ID") if isinstance(fields, dict) else None, str(row[key]))


def _address(row: Row) -> str:
    return str(row.get("email_address") or "")


def _membership(row: Row, number: int, name: str) -> Membership:
    where, status = f"{name}: members", row.get("status")
    return Membership(
        _person(row),
        number,
        {"subscribed": "confirmed", "unsubscribed": "unsubscribed"}.get(str(status), "unconfirmed"),  # type: ignore[arg-type]
        # What is not clearly allowed is not: pending, transactional, archived, and whatever comes later.
        {"subscribed": "enabled", "unsubscribed": "enabled", "cleaned": "blocklisted"}.get(
            str(status), "disabled"
        ),  # type: ignore[arg-type]
        since=parse_time(row.get("timestamp_opt") or row.get("timestamp_signup"), where),
        left_at=None if status == "subscribed" else parse_time(row.get("last_changed"), where),
    )


def _utc(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S+00:00}"
