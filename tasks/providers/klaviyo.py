"""The connector for Klaviyo: e-mail campaigns, lists and segments, profiles with their consent.

Klaviyo has no pause: a send job is reverted to a draft, or cancelled for good. What Mailstay must know of a campaign
stands in its name: `Sale {kind:sale}`. Its ids are text; each stands here as a number made from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from http import HTTPStatus

import httpx

from tasks.core import Clock
from tasks.providers.errors import ProviderGarbled, ProviderRefused, ProviderUnavailable
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
    RateLimit,
    RunningStats,
    SendRecord,
    Suppression,
    SuppressionReason,
    Trap,
)
from tasks.providers.shapes import (
    Numbers,
    Row,
    awaited,
    being_sent,
    chunks,
    distinct,
    integer,
    known_status,
    mapping,
    not_told,
    of_people_on,
    person_number,
    planned_time,
    probed,
    read_after,
    rows_of,
    text,
    written,
)

_REVISION = "2026-07-15"
_CAMPAIGN_ROWS = 100
_PROFILE_ROWS = 100
_LIST_ROWS = 10
_PROFILES_PER_CALL = 1000
_ADDRESSES_PER_CALL = 100
_BEING_MADE = " (being made)"
_A_LOOK_HOLDS = timedelta(seconds=2)
_COUNTS_HOLD = timedelta(minutes=1)
_COUNTED_DAYS = timedelta(days=30)
_SECOND, _MINUTE, _DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(days=1)
_REASONS: dict[str, SuppressionReason] = {
    "HARD_BOUNCE": "hard_bounce",
    "INVALID_EMAIL": "hard_bounce",
    "SPAM_COMPLAINT": "complaint",
    "UNSUBSCRIBE": "unsubscribed",
    "USER_SUPPRESSED": "manual",
}

_DESCRIPTION = f"klaviyo/openapi revision {_REVISION}"
_SEND_JOBS = f"{_DESCRIPTION}, /api/campaign-send-jobs"
_CHANGE_JOB = f"{_SEND_JOBS}/{{id}}"


def _limits(
    name: str, a_second: int, a_minute: int, covers: str, paths: tuple[str, ...], a_day: int = 0
) -> tuple[RateLimit, ...]:
    """Return the burst, the steady and the daily limit of some calls; the steady one is called `name`."""
    windows = [
        (f"{name}, burst", a_second, _SECOND),
        (name, a_minute, _MINUTE),
        (f"{name}, daily", a_day, _DAY),
    ]
    return tuple(
        RateLimit(title, calls, per, covers, _DESCRIPTION, paths) for title, calls, per in windows if calls
    )


KLAVIYO = Capabilities(
    kind="klaviyo",
    title="Klaviyo",
    actions=(
        Capability(
            "unschedule",
            "scheduled",
            "draft",
            undo="reschedule",
            restores_exactly=True,
            rate="send jobs",
            deadline="before it begins: one that has begun is not reverted",
            limits="its send job is reverted; its time stays stored",
            source=f"{_CHANGE_JOB} (revert)",
        ),
        Capability(
            "reschedule",
            "draft",
            "scheduled",
            undo="unschedule",
            restores_exactly=True,
            rate="send jobs",
            limits="a time that is past is not asked for: what Klaviyo does with it is not documented",
            source=_SEND_JOBS,
        ),
        Capability(
            "start",
            "draft",
            "running",
            undo=None,
            restores_exactly=False,
            rate="send jobs",
            limits="sends at once, and cannot be paused",
            source=_SEND_JOBS,
        ),
        Capability(
            "cancel",
            "running",
            "cancelled",
            undo=None,
            restores_exactly=False,
            rate="send jobs",
            limits="for good: whoever was not reached gets nothing",
            source=f"{_CHANGE_JOB} (cancel)",
        ),
        Capability(
            "cancel",
            "scheduled",
            "cancelled",
            undo=None,
            restores_exactly=False,
            rate="send jobs",
            limits="for good; respond reverts instead",
            source=f"{_CHANGE_JOB} (cancel)",
        ),
        Capability(
            "retire",
            "draft",
            "draft",
            undo=None,
            restores_exactly=False,
            rate="campaigns",
            limits="a draft cannot be cancelled: it stays, to be sent by hand only, and marked in its name",
            source=f"{_DESCRIPTION}, PATCH /api/campaigns/{{id}}",
        ),
    ),
    send_log=False,
    resume_per_recipient=False,
    fires_late=None,
    stop_all="not through the API",
    page_rows=_CAMPAIGN_ROWS,
    list_opt_outs=False,
    drafts_are_untouched=False,
    rates=(
        *_limits("campaigns", 10, 150, "each look at campaigns", ("/campaigns", "/campaign-")),
        *_limits("one campaign", 10, 150, "each look at one campaign", ("GET /campaigns/",)),
        *_limits("changes", 10, 150, "changes of a campaign", ("PATCH /campaigns/",)),
        *_limits("estimates", 10, 150, "estimates of an audience", ("/campaign-recipient-estimations/",)),
        *_limits("send jobs", 10, 150, "sending, reverting, cancelling", ("/campaign-send-jobs",)),
        *_limits("reports", 1, 2, "what campaigns sent", ("/campaign-values-reports",), 225),
        *_limits("metrics", 10, 150, "metrics", ("/metrics",)),
        *_limits(
            "people", 75, 750, "reading lists, segments and profiles", ("/lists", "/segments", "/profile")
        ),
        *_limits("new lists", 10, 150, "making a list", ("POST /lists",), 150),
        *_limits("list changes", 10, 150, "changes of lists", ("POST /lists/", "DELETE /lists/")),
    ),
    by_hand=(
        ByHand(
            "running",
            "log in and cancel it: for good, whoever was not reached gets nothing",
            f"{_CHANGE_JOB} (cancel)",
        ),
    ),
    traps=(
        Trap(
            "revert is no pause",
            "a campaign that is being sent can be reverted to a draft, which shows nothing of whom it reached",
            "only what is looked at as scheduled is reverted; a draft counts as untouched only where the journal says"
            " that it was stopped before its time",
            f"{_CHANGE_JOB}; what a revert leaves of a part that was sent is not documented",
        ),
        Trap(
            "no page promises a total",
            "lists are read by a cursor, and nothing says how many rows there are",
            "every page is followed to the end; a cursor that comes again is an error, never an end",
            _DESCRIPTION,
        ),
        Trap(
            "a page of lists is ten",
            "lists and segments come ten at a time, profiles at most a hundred",
            "the documented sizes are asked for, and every page is read",
            f"{_DESCRIPTION}, /api/lists",
        ),
        Trap(
            "campaigns need a channel",
            "without a filter by channel the list of campaigns is refused",
            "e-mail campaigns are asked for; others are not Mailstay's",
            f"{_DESCRIPTION}, /api/campaigns",
        ),
        Trap(
            "counts are two calls a minute",
            "what a campaign sent stands only in a report: 2 calls a minute, 225 a day",
            "one report tells of all campaigns, and is asked at most once a minute, and only while one of them sends",
            f"{_DESCRIPTION}, /api/campaign-values-reports",
        ),
        Trap(
            "the audience is an estimate",
            "how many people a campaign goes to is estimated, and only that",
            "the plan of respond shows the estimate; nobody is judged by it",
            f"{_DESCRIPTION}, /api/campaign-recipient-estimations",
        ),
        Trap(
            "smart sending skips people",
            "whoever got a message lately is left out without a word",
            "a catch-up has it off: it goes to exactly its list, less the campaign's excluded audiences",
            f"{_DESCRIPTION}, send_options",
        ),
        Trap(
            "unsubscribing a stranger of a list is global",
            "the call that unsubscribes from a list does so everywhere for who is not on it",
            "it is not used: people are taken off lists, and opt-outs suppress",
            f"{_DESCRIPTION}, /api/profile-subscription-bulk-delete-jobs",
        ),
        Trap(
            "removed is not unsubscribed",
            "taking a profile off a list leaves no mark of an opt-out",
            "opt-outs are kept by the shop and asked again before each step",
            f"{_DESCRIPTION}, DELETE /api/lists/{{id}}/relationships/profiles",
        ),
    ),
)
_NOT_TOLD = (
    "Klaviyo keeps no log of whom a campaign was sent to; the shop's webhook receipts are asked instead"
)
_STATUSES: dict[str, CampaignStatus] = {
    "Draft": "draft",
    "Scheduled": "scheduled",
    "Preparing to schedule": "scheduled",
    "Preparing to send": "running",
    "Queued without Recipients": "running",
    "Adding Recipients": "running",
    "Sending": "running",
    "Sending Segments": "running",
    "Variations Sent": "running",
    "Sent": "finished",
    **dict.fromkeys(
        (
            "Cancelled", "Cancelled: Account Disabled", "Cancelled: Billing Limit", "Cancelled: Internal Error",
            "Cancelled: Misconfigured", "Cancelled: No Recipients", "Cancelled: Smart Sending",
        ),
        "cancelled",
    ),
}  # fmt: skip


class Klaviyo:
    """A Klaviyo account. See `tasks.providers.Provider` for what each method promises."""

    capabilities = KLAVIYO

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
        self._segments: set[str] = set()
        self._estimates: dict[str, int] = {}
        self._looked: dict[int, tuple[CampaignStatus, datetime]] = {}
        self._counts: dict[str, Row] = {}
        self._counted_at: datetime | None = None
        self._metric = ""
        self._api = JsonApi(
            name,
            below(api_url, "/api"),
            headers={
                "Authorization": f"Klaviyo-API-Key {token}",
                "revision": _REVISION,
                "Accept": "application/vnd.api+json",
                "Content-Type": "application/vnd.api+json",
            },
            timeout_seconds=timeout_seconds,
            clock=clock,
            rates=KLAVIYO.rates,
            patience=patience,
            transport=transport,
        )

    def close(self) -> None:
        """Give the connections back."""
        self._api.close()

    # Health -----------------------------------------------------------------------------------------------------

    def health(self) -> Probe:
        """Read one profile, which costs nothing of the limit for campaigns; never raises."""

        def look() -> None:
            rows_of(self._data(self._api.get("/profiles", {"page[size]": 1}, attempts=1)), self.name)

        return probed(look, self._clock)

    def running_stats(self) -> list[RunningStats]:
        """Return the campaigns that are being sent now."""
        return being_sent(self.campaigns())

    # Campaigns --------------------------------------------------------------------------------------------------

    def campaigns(self) -> list[Campaign]:
        """Return every e-mail campaign; Klaviyo promises no total, so every page is followed to the end."""
        rows = self._rows_of_campaigns()
        # The report is scarce: as long as nothing is being sent, no pass of `monitor` asks for it.
        sending = any(
            _STATUSES.get(str(_attributes(row, self.name).get("status"))) == "running" for row in rows
        )
        return [self._campaign(row, counted=sending) for row in rows]

    def campaign(self, campaign_id: int) -> Campaign:
        """Return one campaign as it is now."""
        return self._campaign(self._row(campaign_id))

    def find_campaign(self, name: str) -> Campaign | None:
        """Return the campaign called exactly `name` (the oldest of several)."""
        return next((one for one in self.campaigns() if one.name == name), None)

    def pause(self, campaign_id: int) -> None:
        """Refuse: Klaviyo has no pause."""
        raise ProviderRefused(
            "Klaviyo cannot pause a campaign",
            status=0,
            where=f"{self.name}: campaign {campaign_id}",
            fix="cancel it in Klaviyo, if nobody else is to get it",
        )

    def unschedule(self, campaign_id: int) -> None:
        """Revert a scheduled campaign to a draft; one that is being sent is left alone."""
        status, at = self._looked.get(campaign_id, ("draft", datetime.min.replace(tzinfo=UTC)))
        if status != "scheduled" or self._clock.now() - at > _A_LOOK_HOLDS:
            status = self.campaign(campaign_id).status
        if status != "scheduled":
            raise ProviderRefused(
                f"The campaign is {status}, not scheduled: a revert would hide whom it reached",
                status=0,
                where=f"{self.name}: campaign {campaign_id}",
            )
        self._looked.pop(campaign_id, None)
        self._change_job(campaign_id, "revert")

    def reschedule(self, campaign_id: int, send_at: datetime | None = None) -> None:
        """Send a draft at its stored time or, without one, at `send_at`."""
        row, where = self._row(campaign_id), f"{self.name}: campaign {campaign_id}"
        stored = _time_of(_attributes(row, where), where)
        at = planned_time(stored or send_at, where, "Klaviyo")
        if at <= self._clock.now():
            raise ProviderRefused("The time of the campaign is past", status=0, where=where)
        if stored is None:
            self._change(text(row, "id", where), {"send_strategy": _at(at)})
        self._send(campaign_id)

    def start(self, campaign_id: int) -> None:
        """Send a draft at once."""
        self._change(self._campaign_ids[campaign_id], {"send_strategy": {"method": "immediate"}})
        self._send(campaign_id)

    def cancel(self, campaign_id: int) -> None:
        """End a campaign that is scheduled or being sent for good."""
        self._change_job(campaign_id, "cancel")

    def retire(self, campaign_id: int, tag: str) -> None:
        """Take the time of a draft away and mark it in its name."""
        row, where = self._row(campaign_id), f"{self.name}: campaign {campaign_id}"
        name, labels = _labels(row, where)
        title = labels.marked(tag).title(name)
        body = {"name": title, "send_strategy": {"method": "immediate"}}
        self._change(text(row, "id", where), body)

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

        A clone goes to the original's audience until it is changed, so it gets its name with its own audience.
        """
        row, where = self._row(copy_of), f"{self.name}: campaign {copy_of}"
        _, labels = _labels(row, where)
        labels = labels.of_catch_up(copy_of, step, tags, latest_useful_at)
        begun = self.find_campaign(name + _BEING_MADE)
        if begun is None:
            wanted = {"new_name": name + _BEING_MADE}
            made = self._api.send(
                "POST", "/campaign-clone", _resource("campaign", text(row, "id", where), wanted)
            )
            identifier = written(lambda: text(mapping(self._data(made), where), "id", where))
        else:
            identifier = begun.uuid
        audiences = _attributes(row, where).get("audiences") or {}
        changes = {
            "name": labels.title(name),
            "audiences": {
                "included": [self._list_ids[list_id]],
                "excluded": list(audiences.get("excluded") or ()),
            },
            "send_options": {"use_smart_sending": False},
            "send_strategy": _at(send_at) if send_at else {"method": "immediate"},
        }
        self._change(identifier, changes)
        number = self._campaign_ids.add(identifier)
        return read_after(lambda: self.campaign(number))

    def _send(self, campaign_id: int) -> None:
        self._api.send(
            "POST",
            "/campaign-send-jobs",
            {"data": {"type": "campaign-send-job", "id": self._campaign_ids[campaign_id]}},
        )

    def _change_job(self, campaign_id: int, action: str) -> None:
        identifier = self._campaign_ids[campaign_id]
        body = _resource("campaign-send-job", identifier, {"action": action})
        self._api.send("PATCH", f"/campaign-send-jobs/{identifier}", body)

    def _change(self, identifier: str, attributes: Row) -> None:
        self._api.send("PATCH", f"/campaigns/{identifier}", _resource("campaign", identifier, attributes))

    def _row(self, campaign_id: int) -> Row:
        path = f"/campaigns/{self._campaign_ids[campaign_id]}"
        where = f"{self.name}: campaign {campaign_id}"
        answer = mapping(self._api.get(path, {"include": "campaign-messages"}), where)
        return _with_message(mapping(self._data(answer), where), rows_of(answer, where, "included"))

    def _rows_of_campaigns(self) -> list[Row]:
        asked = {
            "filter": "equals(messages.channel,'email')",
            "include": "campaign-messages",
            "sort": "created_at",
            "page[size]": _CAMPAIGN_ROWS,
        }
        rows = self._pages("/campaigns", asked)
        for row in rows:
            self._campaign_ids.add(text(row, "id", self.name))
        return rows

    def _campaign(self, row: Row, *, counted: bool = True) -> Campaign:
        identifier = text(row, "id", self.name)
        where = f"{self.name}: campaign {identifier}"
        about = _attributes(row, where)
        name, labels = _labels(row, where)
        status = known_status(about.get("status"), _STATUSES, where, _REVISION)
        number = self._campaign_ids.add(identifier)
        self._looked[number] = (status, self._clock.now())
        stored = _time_of(about, where)
        now = self._clock.now()
        # A draft whose time has come may have been reverted half way.
        maybe = status == "draft" and stored is not None and now - _COUNTED_DAYS <= stored <= now
        begun = maybe or status in ("running", "finished", "cancelled")
        counts = self._counted().get(identifier, {}) if begun and counted else {}
        sent = int(counts.get("recipients") or 0)
        sent_at = parse_time(about.get("send_time"), where)
        started = sent_at if status in ("running", "finished") or sent else None
        estimated = self._estimate(identifier) if status in ("scheduled", "running") else 0
        return Campaign(
            id=number,
            uuid=identifier,
            name=name,
            kind=labels.kind,
            status=status,
            send_at=stored or (None if status == "draft" else sent_at),
            latest_useful_at=labels.latest_useful_at,
            list_ids=tuple(
                self._list_ids.add(str(one)) for one in (about.get("audiences") or {}).get("included") or ()
            ),
            to_send=max(estimated, sent),
            sent=sent,
            started_at=started,
            tags=labels.tags,
            subject=str(row.get("subject") or ""),
            catch_up_of=labels.catch_up_of,
            step=labels.step,
            bounced=int(counts.get("bounced") or 0),
            complaints=int(counts.get("spam_complaints") or 0),
        )

    def _estimate(self, identifier: str) -> int:
        """Return how many people Klaviyo thinks a campaign goes to; asked once, for it is only that."""
        if identifier not in self._estimates:
            where = f"{self.name}: estimate for campaign {identifier}"
            try:
                answer = self._api.get(f"/campaign-recipient-estimations/{identifier}")
                about = _attributes(mapping(self._data(answer), where), where)
                self._estimates[identifier] = integer(about, "estimated_recipient_count", where)
            except ProviderRefused as error:
                if error.status != HTTPStatus.NOT_FOUND:
                    raise
                return 0
        return self._estimates[identifier]

    def _counted(self) -> dict[str, Row]:
        """Return what the campaigns of the last 30 days sent; the calls are too scarce to ask for each."""
        now, where = self._clock.now(), f"{self.name}: report on campaigns"
        if self._counted_at is not None and now - self._counted_at < _COUNTS_HOLD:
            return self._counts
        if not self._metric:
            # Every report wants a metric of conversion, whether it is asked for conversions or not.
            metrics = self._pages("/metrics", {})
            self._metric = text(metrics[0], "id", where) if metrics else ""
        if self._metric:
            attributes = {
                "statistics": ["recipients", "bounced", "spam_complaints"],
                "timeframe": {"key": "last_30_days"},
                "conversion_metric_id": self._metric,
            }
            body = {"data": {"type": "campaign-values-report", "attributes": attributes}}
            answer = mapping(self._data(self._ask_report(body)), where)
            counts: dict[str, Row] = {}
            for row in rows_of(_attributes(answer, where), where, "results"):
                # A campaign with variants has a row for each.
                total = counts.setdefault(str((row.get("groupings") or {}).get("campaign_id")), {})
                for key, value in mapping(row.get("statistics"), where).items():
                    total[key] = total.get(key, 0) + int(value or 0)
            self._counts = counts
        self._counted_at = now
        return self._counts

    def _ask_report(self, body: Row) -> object:
        try:
            return self._api.send("POST", "/campaign-values-reports", body)
        except ProviderUnavailable as error:
            error.outcome_unknown = False  # it only reads
            raise

    # Lists and people -------------------------------------------------------------------------------------------

    def lists(self) -> list[MailingList]:
        """Return every list; segments, whose people Klaviyo chooses, are not among them."""
        where = f"{self.name}: lists"
        return [
            MailingList(
                self._list_ids.add(text(row, "id", where)), str(_attributes(row, where).get("name") or "")
            )
            for row in self._pages("/lists", {"sort": "created", "page[size]": _LIST_ROWS})
        ]

    def find_list(self, name: str) -> MailingList | None:
        """Return the list called exactly `name` (the oldest of several)."""
        return next((one for one in self.lists() if one.name == name), None)

    def create_list(self, name: str, *, among: Sequence[int] = ()) -> MailingList:
        """Create a single opt-in list."""
        where = f"{self.name}: lists"
        attributes = {"name": name, "opt_in_process": "single_opt_in"}
        made = self._api.send("POST", "/lists", {"data": {"type": "list", "attributes": attributes}})
        identifier = written(lambda: text(mapping(self._data(made), where), "id", where))
        return MailingList(self._list_ids.add(identifier), name)

    def delete_list(self, list_id: int) -> None:
        """Delete a list; its profiles stay."""
        self._api.send("DELETE", f"/lists/{self._list_ids[list_id]}")

    def add_to_list(self, list_id: int, subscriber_ids: Iterable[int]) -> None:
        """Put profiles on a list; who is on it already stays."""
        self._change_list("POST", list_id, subscriber_ids)

    def memberships(self, list_ids: Iterable[int] | None = None) -> list[Membership]:
        """Return who is on the given lists or segments (None: on any list), suppressed people marked as such."""
        wanted = [one.id for one in self.lists()] if list_ids is None else sorted(set(list_ids))
        return [
            self._membership(row, number, self._list_ids[number])
            for number in wanted
            for row in self._people_of(self._list_ids[number])
        ]

    def memberships_of_people_on(self, list_id: int) -> list[Membership]:
        """Return every membership, on any list, of the people who are on `list_id`."""
        return of_people_on(self.memberships(), list_id)

    def subscriber_ids(self) -> set[int]:
        """Return the ids of all profiles that there are, on a list or not."""
        return {self._person(row) for row in self._profiles()}

    def addresses(self) -> dict[int, str]:
        """Return the address of every profile by id; personal data, never to be logged or kept."""
        return {self._person(row): self._address(row) for row in self._profiles()}

    def suppressions(self) -> list[Suppression]:
        """Return whom Klaviyo would not mail, at all or through one list."""
        found = []
        for row in self._profiles():
            number, marketing = self._person(row), self._marketing(row)
            # A reason that is new to us still is one.
            reasons = [
                _REASONS.get(str(one.get("reason")), "manual") for one in marketing.get("suppression") or ()
            ]
            if not reasons and marketing.get("can_receive_email_marketing") is not True:
                reasons = ["unsubscribed"]
            found += [Suppression(number, reason) for reason in dict.fromkeys(reasons)]
            found += [
                Suppression(number, "unsubscribed", self._list_ids.add(str(one["list_id"])))
                for one in marketing.get("list_suppressions") or ()
            ]
        return found

    def set_unsubscribed(self, subscriber_ids: Iterable[int], list_ids: Iterable[int]) -> None:
        """Take people off lists, which leaves no mark; the call that leaves one may unsubscribe them everywhere."""
        people = sorted(set(subscriber_ids))
        for number in sorted(set(list_ids)):
            self._change_list("DELETE", number, people)

    def blocklist(self, subscriber_ids: Iterable[int]) -> None:
        """Suppress people, and wait until Klaviyo has done it."""
        wanted = set(subscriber_ids)
        people = (
            [self._address(row) for row in self._profiles() if self._person(row) in wanted] if wanted else []
        )
        kind = "profile-suppression-bulk-create-job"
        for part in chunks(filter(None, people), _ADDRESSES_PER_CALL):
            profiles = [{"type": "profile", "attributes": {"email": one}} for one in part]
            body = {"data": {"type": kind, "attributes": {"profiles": {"data": profiles}}}}
            accepted = self._api.send("POST", f"/{kind}s", body)
            self._await_job(f"/{kind}s", accepted)

    def _change_list(self, method: str, list_id: int, subscriber_ids: Iterable[int]) -> None:
        wanted = set(subscriber_ids)
        people = [row["id"] for row in self._profiles() if self._person(row) in wanted] if wanted else []
        path = f"/lists/{self._list_ids[list_id]}/relationships/profiles"
        for part in chunks(people, _PROFILES_PER_CALL):
            self._api.send(method, path, {"data": [{"type": "profile", "id": one} for one in part]})

    def _profiles(self, path: str = "/profiles") -> list[Row]:
        asked = {"additional-fields[profile]": "subscriptions", "page[size]": _PROFILE_ROWS}
        rows = self._pages(path, asked)
        distinct(((self._person(row), str(row["id"])) for row in rows), f"{self.name}: profiles")
        return rows

    def _people_of(self, identifier: str) -> list[Row]:
        """Return the profiles of a list or, if there is no such list, of the segment of that id."""
        if identifier not in self._segments:
            try:
                return self._profiles(f"/lists/{identifier}/profiles")
            except ProviderRefused as error:
                if error.status != HTTPStatus.NOT_FOUND:
                    raise
        found = self._profiles(f"/segments/{identifier}/profiles")
        self._segments.add(identifier)
        return found

    def _person(self, row: Row) -> int:
        about = _attributes(row, f"{self.name}: profiles")
        return person_number(about.get("external_id"), str(row["id"]))

    def _address(self, row: Row) -> str:
        return str(_attributes(row, f"{self.name}: profiles").get("email") or "")

    def _marketing(self, row: Row) -> Row:
        about = _attributes(row, f"{self.name}: profiles")
        email = (about.get("subscriptions") or {}).get("email") or {}
        return mapping(email.get("marketing") or {}, f"{self.name}: profiles")

    def _membership(self, row: Row, number: int, identifier: str) -> Membership:
        where, marketing = f"{self.name}: profiles", self._marketing(row)
        about = _attributes(row, where)
        left = [one for one in marketing.get("list_suppressions") or () if one.get("list_id") == identifier]
        times = [
            parse_time(one.get("timestamp"), where) for one in (*left, *(marketing.get("suppression") or ()))
        ]
        # What is not clearly allowed is not.
        allowed = marketing.get("can_receive_email_marketing") is True
        return Membership(
            self._person(row),
            number,
            "unsubscribed" if left else "confirmed",
            "enabled" if allowed else "blocklisted",
            since=parse_time(about.get("joined_group_at") or about.get("created"), where),
            left_at=min((one for one in times if one), default=None),
        )

    # Evidence ---------------------------------------------------------------------------------------------------

    def send_log(self, campaign_id: int) -> Iterator[SendRecord]:
        """Raise `NotOffered`: a report counts, and names nobody."""
        raise not_told(_NOT_TOLD, self.name, campaign_id)

    def events(self, after_id: int = 0, campaign_id: int | None = None) -> Iterator[ProviderEvent]:
        """Raise `NotOffered`: Klaviyo's events carry no number to go on from."""
        raise not_told(_NOT_TOLD, self.name, campaign_id)

    # JSON:API ---------------------------------------------------------------------------------------------------

    def _data(self, answer: object) -> object:
        return mapping(answer, self.name).get("data")

    def _pages(self, path: str, params: Row) -> list[Row]:
        """Return all rows behind `path`; only the cursor of `next` is used, never its address."""
        where = f"{self.name}: GET {path}"
        found: dict[str, Row] = {}
        cursor, cursors = "", {""}
        while True:
            answer = mapping(
                self._api.get(path, params | ({"page[cursor]": cursor} if cursor else {})), where
            )
            included = rows_of(answer, where, "included")
            found |= {
                text(row, "id", where): _with_message(row, included) for row in rows_of(answer, where, "data")
            }
            following = (answer.get("links") or {}).get("next")
            if not following:
                return list(found.values())
            cursor = httpx.URL(str(following)).params.get("page[cursor]", "")
            if cursor in cursors:
                raise ProviderGarbled(
                    f"{self.name} names a next page that is none",
                    outcome_unknown=False,
                    where=where,
                    fix="try again; if it stays so, the provider's answers cannot be relied on",
                )
            cursors.add(cursor)

    def _await_job(self, path: str, accepted: object) -> None:
        """Wait for a job that Klaviyo has accepted; a failed wait leaves the outcome unknown."""
        where = f"{self.name}: GET {path}"
        number = written(lambda: text(mapping(self._data(accepted), where), "id", where))

        def look() -> Row:
            return _attributes(mapping(self._data(self._api.get(f"{path}/{number}")), where), where)

        waiting = ("queued", "processing")
        read_after(lambda: awaited(look, self._clock, self.name, where, ready=("complete",), waiting=waiting))


def _resource(kind: str, identifier: str, attributes: Row) -> Row:
    return {"data": {"type": kind, "id": identifier, "attributes": attributes}}


def _attributes(row: Row, where: str) -> Row:
    return mapping(row.get("attributes"), where)


def _labels(row: Row, where: str) -> tuple[str, Labels]:
    return Labels.of_title(str(_attributes(row, where).get("name") or ""), where)


def _with_message(row: Row, included: Iterable[Row]) -> Row:
    """Return a campaign with the subject of its first message, which lies beside it."""
    messages = ((row.get("relationships") or {}).get("campaign-messages") or {}).get("data") or ()
    ids = {str(one.get("id")) for one in messages}
    for one in included:
        if one.get("type") == "campaign-message" and str(one.get("id")) in ids:
            definition = (one.get("attributes") or {}).get("definition") or {}
            return row | {"subject": (definition.get("content") or {}).get("subject")}
    return row


def _time_of(about: Row, where: str) -> datetime | None:
    """Return the time that a campaign stores: an exact one, or the day that Klaviyo chooses the hour of."""
    strategy = about.get("send_strategy") or {}
    return parse_time(strategy.get("datetime") or strategy.get("date"), where)


def _at(moment: datetime) -> Row:
    return {"method": "static", "datetime": f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S+00:00}"}
