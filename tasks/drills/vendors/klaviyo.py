"""A simulated Klaviyo: campaigns with their send jobs, lists, a segment, profiles with consent, reports, rate limits.

From the vendor's description (klaviyo/openapi revision 2026-07-15): no pause; a send job is cancelled for good or
reverted to a draft, also while it is being sent; what a revert leaves of a part that was sent is not documented, and
here the draft shows nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tasks.core import DrivenClock
from tasks.drills.vendors.server import Answer, Asked, Handler, Vendor, Window

_JOB = timedelta(seconds=3)
_SECOND, _MINUTE, _DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(days=1)
_PLAIN, _PEOPLE, _REPORTS = (10, 150, 0), (75, 750, 0), (1, 2, 225)
_MOST = {"/campaigns": 100, "/profiles": 100, "/lists": 10, "/metrics": 200}


@dataclass
class _Campaign:
    id: str
    name: str
    created_at: datetime
    status: str = "Draft"
    audiences: dict[str, list[str]] = field(default_factory=dict)
    strategy: dict[str, Any] = field(default_factory=lambda: {"method": "immediate"})
    subject: str = ""
    smart: bool = True
    begun_at: datetime | None = None
    queue: list[str] = field(default_factory=list)
    reached: list[str] = field(default_factory=list)


class SimulatedKlaviyo(Vendor):
    """A Klaviyo account with profiles `c1@shop.example`, … on one list called News.

    Attributes:
        news: the id of the list News.
        segment: the id of a segment with the first five people.
        stuck: while True nothing leaves: campaigns stay as they are being sent.
    """

    prefix = "/api"
    content_type = "application/vnd.api+json"

    def __init__(self, clock: DrivenClock, people: int = 40) -> None:
        self.stuck = False
        self.news, self.segment = "NEWS01", "SEGM01"
        self._campaigns: dict[str, _Campaign] = {}
        created = _time(clock.now() - timedelta(days=30))
        self._profiles: dict[str, dict[str, Any]] = {
            f"01P{number:06d}": {
                "email": f"c{number}@shop.example", "external_id": str(number), "created": created, "updated": created,
                "subscriptions": {"email": {"marketing": {
                    "can_receive_email_marketing": True, "consent": "SUBSCRIBED", "suppression": [],
                    "list_suppressions": [],
                }}},
            }
            for number in range(1, people + 1)
        }  # fmt: skip
        self._lists: dict[str, tuple[str, dict[str, str]]] = {
            self.news: ("News", dict.fromkeys(self._profiles, created))
        }
        self._jobs: dict[str, tuple[datetime, list[str]]] = {}
        self._windows: dict[str, list[Window]] = {}
        self._made = 0
        super().__init__(clock)

    # What a drill does beside the API

    def suppress(self, number: int, reason: str, on: str = "") -> None:
        """Suppress a customer, for one list or for all."""
        entry = {"reason": reason, "timestamp": _time(self.clock.now())}
        marketing = self._marketing(f"01P{number:06d}")
        if on:
            marketing["list_suppressions"] = [*marketing["list_suppressions"], entry | {"list_id": on}]
        else:
            marketing["suppression"] = [*marketing["suppression"], entry]
            marketing["can_receive_email_marketing"] = False

    def _marketing(self, who: str) -> dict[str, Any]:
        found: dict[str, Any] = self._profiles[who]["subscriptions"]["email"]["marketing"]
        return found

    # The vendor

    def authorised(self, headers: Mapping[str, str]) -> bool:
        """Whether a request carries the token."""
        return headers.get("Authorization") == f"Klaviyo-API-Key {self.token}"

    def refusal(self, status: int, message: str) -> Answer:
        """Return a refusal as Klaviyo words it."""
        error = {"id": "x", "status": status, "code": "invalid", "title": "Invalid input.", "detail": message}
        return Answer(status, {"errors": [error]})

    def limited(self, method: str, path: str) -> tuple[Answer | None, dict[str, str]]:
        """Count the call against the windows of its own endpoint."""
        place = path.removeprefix(self.prefix).split("/")[1]
        endpoint = f"{method} {place} {path.count('/')}"
        reads = method == "GET" and place in ("lists", "segments", "profiles")
        suppresses = place.startswith("profile-")
        a_second, a_minute, a_day = (
            _REPORTS if place == "campaign-values-reports" else _PEOPLE if reads or suppresses else _PLAIN
        )
        if endpoint == "POST lists 2":
            a_day = 150
        windows = self._windows.setdefault(
            endpoint,
            [Window(*one) for one in ((a_second, _SECOND), (a_minute, _MINUTE), (a_day, _DAY)) if one[0]],
        )
        now = self.clock.now()
        full = [one for one in windows if one.take(now)]
        if not full:
            return None, {}
        wait = max(one.seconds_left(now) for one in full)
        refused = self.refusal(429, "Request was throttled.")
        return Answer(429, refused.content, {"Retry-After": str(wait)}), {}

    def routes(self) -> list[tuple[str, str, Handler]]:
        """Return what is offered."""
        jobs, suppressions = "/campaign-send-jobs", "/profile-suppression-bulk-create-jobs"
        members = "/lists/{id}/relationships/profiles"
        return [
            ("GET", "/campaigns", self._list_campaigns),
            ("GET", "/campaigns/{id}", lambda ask: self._on(ask, self._one)),
            ("PATCH", "/campaigns/{id}", lambda ask: self._on(ask, lambda one: self._change(one, ask))),
            ("POST", "/campaign-clone", self._clone),
            ("POST", jobs, self._send),
            ("PATCH", f"{jobs}/{{id}}", lambda ask: self._on(ask, lambda one: self._change_job(one, ask))),
            ("GET", "/campaign-recipient-estimations/{id}", lambda ask: self._on(ask, self._estimate)),
            ("POST", "/campaign-values-reports", self._report),
            ("GET", "/metrics", lambda ask: self._page("/metrics", [_METRIC], ask)),
            ("GET", "/lists", lambda ask: self._page("/lists", self._list_rows(), ask)),
            ("POST", "/lists", self._create_list),
            ("DELETE", "/lists/{id}", self._delete_list),
            ("GET", "/lists/{id}/profiles", self._on_list),
            ("GET", "/segments/{id}/profiles", self._in_segment),
            ("POST", members, lambda ask: self._members(ask, add=True)),
            ("DELETE", members, lambda ask: self._members(ask, add=False)),
            ("GET", "/profiles", lambda ask: self._page("/profiles", [*map(self._profile, self._profiles)], ask)),
            ("POST", suppressions, self._suppress_many),
            ("GET", f"{suppressions}/{{id}}", self._job),
        ]  # fmt: skip

    def act(self, now: datetime) -> None:
        """Begin what is due and let messages leave."""
        for name, (due, people) in self._jobs.items():
            if due <= now and people:
                for who in people:
                    self.suppress(int(self._profiles[who]["external_id"]), "USER_SUPPRESSED")
                self._jobs[name] = (due, [])
        for one in self._campaigns.values():
            at = _strategy_time(one)
            if one.status == "Scheduled" and at is not None and at <= now:
                self._begin(one, at)
            if one.status == "Sending" and one.begun_at is not None and not self.stuck:
                due_now = int((now - one.begun_at) / timedelta(minutes=1) * self.messages_per_minute)
                for who in one.queue[len(one.reached) : due_now]:
                    self.deliver(one.name.partition(" {")[0], self._profiles[who]["email"], now)
                    one.reached.append(who)
                if len(one.reached) == len(one.queue):
                    one.status = "Sent"

    def _begin(self, one: _Campaign, at: datetime) -> None:
        one.status, one.begun_at = "Sending", at
        one.queue, one.reached = self._audience(one), []

    def _audience(self, one: _Campaign) -> list[str]:
        wanted = self._in(one.audiences.get("included", [])) - self._in(one.audiences.get("excluded", []))
        lists = set(one.audiences.get("included", []))
        return sorted(
            who
            for who in wanted
            if self._marketing(who)["can_receive_email_marketing"]
            and not lists & {entry["list_id"] for entry in self._marketing(who)["list_suppressions"]}
        )

    def _in(self, audiences: list[str]) -> set[str]:
        found: set[str] = set()
        for one in audiences:
            found |= set(
                list(self._profiles)[:5] if one == self.segment else self._lists.get(one, ("", {}))[1]
            )
        return found

    # Campaigns

    def _on(self, ask: Asked, then: Any) -> Answer:
        one = self._campaigns.get(ask.path[0])
        answer: Answer = then(one) if one else self.refusal(404, "A campaign with this id does not exist.")
        return answer

    def add_campaign(self, name: str, subject: str, at: datetime | None) -> str:
        """Add a draft to News as a person does it in the editor; return its id."""
        self._made += 1
        one = _Campaign(f"01C{self._made:06d}", name, self.clock.now(), subject=subject)
        one.audiences = {"included": [self.news], "excluded": []}
        if at is not None:
            one.strategy = {"method": "static", "datetime": _time(at)}
        self._campaigns[one.id] = one
        return one.id

    def _list_campaigns(self, ask: Asked) -> Answer:
        if "equals(messages.channel," not in ask.query.get("filter", ""):
            return self.refusal(400, "A channel filter is required to list campaigns.")
        rows = [self._shown(one) for one in self._campaigns.values()]
        page = self._page("/campaigns", rows, ask)
        return Answer(200, page.content | {"included": [_message(one) for one in self._campaigns.values()]})

    def _one(self, one: _Campaign) -> Answer:
        return Answer(200, {"data": self._shown(one), "included": [_message(one)]})

    def _clone(self, ask: Asked) -> Answer:
        original = self._campaigns.get(ask.body["data"]["id"])
        if original is None:
            return self.refusal(404, "A campaign with this id does not exist.")
        copy = self._campaigns[
            self.add_campaign(ask.body["data"]["attributes"]["new_name"], original.subject, None)
        ]
        copy.audiences, copy.strategy = dict(original.audiences), dict(original.strategy)
        return Answer(201, {"data": self._shown(copy)})

    def _change(self, one: _Campaign, ask: Asked) -> Answer:
        if one.status != "Draft":
            return self.refusal(400, "Only a draft can be changed.")
        changes = ask.body["data"]["attributes"]
        one.name = changes.get("name", one.name)
        one.audiences = one.audiences | changes.get("audiences", {})
        one.strategy = changes.get("send_strategy", one.strategy)
        one.smart = changes.get("send_options", {"use_smart_sending": one.smart})["use_smart_sending"]
        return Answer(200, {"data": self._shown(one)})

    def _send(self, ask: Asked) -> Answer:
        one = self._campaigns.get(ask.body["data"]["id"])
        if one is None or one.status != "Draft":
            return self.refusal(400, "The campaign is not a draft.")
        at, now = _strategy_time(one), self.clock.now()
        if at is None:
            self._begin(one, now)
        else:
            one.status = "Scheduled"
            self.act(now)
        return Answer(202, {"data": _row("campaign-send-job", one.id, {"status": "queued"})})

    def _change_job(self, one: _Campaign, ask: Asked) -> Answer:
        if one.status not in ("Scheduled", "Sending"):
            return self.refusal(400, "The campaign is neither scheduled nor sending.")
        reverts = ask.body["data"]["attributes"]["action"] == "revert"
        one.status = "Draft" if reverts else "Cancelled"
        return Answer(204)

    def _estimate(self, one: _Campaign) -> Answer:
        attributes = {"estimated_recipient_count": len(self._audience(one))}
        return Answer(200, {"data": _row("campaign-recipient-estimation", one.id, attributes)})

    def _report(self, ask: Asked) -> Answer:
        if not ask.body["data"]["attributes"].get("conversion_metric_id"):
            return self.refusal(400, "conversion_metric_id is required")
        results = [
            {"groupings": {"campaign_id": one.id, "campaign_message_id": f"{one.id}M", "send_channel": "email"},
             "statistics": {"recipients": float(len(one.reached)), "bounced": 0.0, "spam_complaints": 0.0}}
            for one in self._campaigns.values()
            if one.reached and one.status != "Draft"
        ]  # fmt: skip
        return Answer(200, {"data": _row("campaign-values-report", "x", {"results": results})})

    def _shown(self, one: _Campaign) -> dict[str, Any]:
        at = one.begun_at or (_strategy_time(one) if one.status == "Scheduled" else None)
        attributes = {
            "name": one.name, "status": one.status, "archived": False, "audiences": one.audiences,
            "send_options": {"use_smart_sending": one.smart}, "send_strategy": one.strategy,
            "created_at": _time(one.created_at), "updated_at": _time(one.created_at),
            "scheduled_at": None, "send_time": _time(at) if at and one.status != "Draft" else None,
        }  # fmt: skip
        message = {"data": [{"type": "campaign-message", "id": f"{one.id}M"}]}
        return _row("campaign", one.id, attributes) | {"relationships": {"campaign-messages": message}}

    # Lists and profiles

    def _list_rows(self) -> list[dict[str, Any]]:
        return [_row("list", number, {"name": name}) for number, (name, _) in self._lists.items()]

    def _create_list(self, ask: Asked) -> Answer:
        self._made += 1
        number, name = f"L{self._made:05d}", ask.body["data"]["attributes"]["name"]
        self._lists[number] = (name, {})
        return Answer(201, {"data": _row("list", number, {"name": name})})

    def _delete_list(self, ask: Asked) -> Answer:
        if self._lists.pop(ask.path[0], None) is None:
            return self.refusal(404, "A list with this id does not exist.")
        return Answer(204)

    def _on_list(self, ask: Asked) -> Answer:
        if ask.path[0] not in self._lists:
            return self.refusal(404, "A list with this id does not exist.")
        rows = [self._profile(who, joined=at) for who, at in self._lists[ask.path[0]][1].items()]
        return self._page("/profiles", rows, ask)

    def _in_segment(self, ask: Asked) -> Answer:
        if ask.path[0] != self.segment:
            return self.refusal(404, "A segment with this id does not exist.")
        return self._page("/profiles", [self._profile(who) for who in list(self._profiles)[:5]], ask)

    def _members(self, ask: Asked, *, add: bool) -> Answer:
        people = [one["id"] for one in ask.body["data"]]
        if ask.path[0] not in self._lists:
            return self.refusal(404, "A list with this id does not exist.")
        if len(people) > 1000:
            return self.refusal(400, "at most 1000 profiles at once")
        there = self._lists[ask.path[0]][1]
        for who in people:
            if add:
                there.setdefault(who, _time(self.clock.now()))
            else:
                there.pop(who, None)
        return Answer(204)

    def _suppress_many(self, ask: Asked) -> Answer:
        emails = {one["attributes"]["email"] for one in ask.body["data"]["attributes"]["profiles"]["data"]}
        if len(emails) > 100:
            return self.refusal(400, "at most 100 addresses at once")
        self._made += 1
        name = f"J{self._made:05d}"
        people = [who for who, about in self._profiles.items() if about["email"] in emails]
        self._jobs[name] = (self.clock.now() + _JOB, people)
        return Answer(202, {"data": _row("profile-suppression-bulk-create-job", name, {"status": "queued"})})

    def _job(self, ask: Asked) -> Answer:
        if ask.path[0] not in self._jobs:
            return self.refusal(404, "no such job")
        status = "processing" if self._jobs[ask.path[0]][1] else "complete"
        return Answer(
            200, {"data": _row("profile-suppression-bulk-create-job", ask.path[0], {"status": status})}
        )

    def _profile(self, who: str, joined: str = "") -> dict[str, Any]:
        return _row("profile", who, self._profiles[who] | ({"joined_group_at": joined} if joined else {}))

    def _page(self, kind: str, rows: list[dict[str, Any]], ask: Asked) -> Answer:
        size, start = int(ask.query.get("page[size]", 10)), int(ask.query.get("page[cursor]", 0))
        if size > _MOST[kind]:
            return self.refusal(400, f"page[size] must be at most {_MOST[kind]}")
        more = start + size < len(rows)
        following = f"https://a.klaviyo.com/api/x?page%5Bcursor%5D={start + size}" if more else None
        return Answer(200, {"data": rows[start : start + size], "links": {"next": following}})


def _row(kind: str, identifier: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": kind, "id": identifier, "attributes": dict(attributes)}


_METRIC = _row("metric", "RESQ6t", {"name": "Placed Order"})


def _message(one: _Campaign) -> dict[str, Any]:
    definition = {"channel": "email", "content": {"subject": one.subject}}
    return _row("campaign-message", f"{one.id}M", {"definition": definition})


def _strategy_time(one: _Campaign) -> datetime | None:
    at = one.strategy.get("datetime")
    return datetime.fromisoformat(at) if at else None


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S+00:00}"
