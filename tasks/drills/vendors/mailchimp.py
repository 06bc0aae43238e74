"""A simulated Mailchimp: campaigns with their actions, audiences with tags, reports.

From the vendor's description (Marketing API 3.0.55): only RSS-driven campaigns pause, `cancel-send` is for regular and
plain-text campaigns of Pro accounts and ends them for good, an unscheduled campaign has no time, schedules are on the
quarter-hour, and a listing gives ten rows unless asked for more.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tasks.core import DrivenClock
from tasks.drills.vendors.server import Answer, Asked, Handler, Vendor

_MOST_ROWS, _MOST_MEMBERS = 1000, 500
_QUARTER = timedelta(minutes=15)


@dataclass
class _Campaign:
    id: str
    type: str
    created_at: datetime
    status: str = "save"
    settings: dict[str, Any] = field(default_factory=dict)
    tracking: dict[str, Any] = field(default_factory=dict)
    recipients: dict[str, Any] = field(default_factory=dict)
    content: dict[str, Any] = field(default_factory=dict)
    send_time: datetime | None = None
    queue: list[str] = field(default_factory=list)
    reached: list[str] = field(default_factory=list)


class SimulatedMailchimp(Vendor):
    """A Mailchimp account with people `c1@shop.example`, … in one audience called News.

    Attributes:
        news: the id of the audience News.
        stuck: while True nothing leaves: campaigns stay as they are being sent.
        pro: whether the account has Mailchimp Pro, which can cancel.
        busy: how many of the next calls are refused by what stands in front of the API.
    """

    prefix = "/3.0"

    def __init__(self, clock: DrivenClock, people: int = 40) -> None:
        self.stuck, self.pro, self.busy = False, True, 0
        self.news = "a1b2c3d4e5"
        self._names = {self.news: "News"}
        self._tags: dict[tuple[str, int], tuple[str, set[str]]] = {}
        self._campaigns: dict[str, _Campaign] = {}
        self._complaints: list[dict[str, Any]] = []
        self._members: dict[str, dict[str, dict[str, Any]]] = {self.news: {}}
        super().__init__(clock)
        for number in range(1, people + 1):
            self.subscribe(self.news, number, clock.now() - timedelta(days=30))

    # What a drill does beside the API

    def subscribe(self, audience: str, number: int, at: datetime) -> None:
        """Let a customer subscribe to an audience."""
        email = f"c{number}@shop.example"
        self._members[audience][_hash(email)] = {
            "id": _hash(email), "email_address": email, "status": "subscribed", "list_id": audience,
            "merge_fields": {"EXT_ID": str(number)}, "timestamp_opt": _time(at), "timestamp_signup": "",
            "last_changed": _time(at),
        }  # fmt: skip

    def add_audience(self, name: str, *numbers: int) -> str:
        """Add an audience with some customers and return its id."""
        audience = f"b{len(self._names):09d}"
        self._names[audience], self._members[audience] = name, {}
        for number in numbers:
            self.subscribe(audience, number, self.clock.now() - timedelta(days=30))
        return audience

    def change(self, number: int, status: str, audience: str = "") -> None:
        """Let a customer become `unsubscribed`, `cleaned`, `pending`, … in an audience (News)."""
        member = self._members[audience or self.news][_hash(f"c{number}@shop.example")]
        member |= {"status": status, "last_changed": _time(self.clock.now())}

    def complain(self, number: int) -> None:
        """Let a customer report a campaign as abuse, which unsubscribes."""
        self.change(number, "unsubscribed")
        email = f"c{number}@shop.example"
        self._complaints.append(
            {"id": len(self._complaints) + 1, "email_id": _hash(email), "email_address": email}
        )

    def add_feed(self, title: str) -> str:
        """Add an RSS-driven campaign to News that is being sent again and again; return its id."""
        one = self._new("rss")
        one.settings = {"title": title, "subject_line": title}
        one.recipients, one.status = {"list_id": self.news}, "sending"
        return one.id

    # The vendor

    def authorised(self, headers: Mapping[str, str]) -> bool:
        """Whether a request carries the token; the user may be anything."""
        return (
            headers.get("Authorization") == f"Basic {b64encode(f'mailstay:{self.token}'.encode()).decode()}"
        )

    def refusal(self, status: int, message: str) -> Answer:
        """Return a refusal as Mailchimp words it."""
        title = {401: "API Key Invalid", 404: "Resource Not Found"}.get(status, "Bad Request")
        return Answer(status, {"type": "about:blank", "title": title, "status": status, "detail": message})

    def limited(self, method: str, path: str) -> tuple[Answer | None, dict[str, str]]:
        """Refuse while too many calls are under way, with no JSON: it never reached the API."""
        if not self.busy:
            return None, {}
        self.busy -= 1
        return Answer(403, b"Forbidden"), {}

    def routes(self) -> list[tuple[str, str, Handler]]:
        """Return what is offered."""
        one, inside = "/campaigns/{id}", "/lists/{id}/segments/{segment}"
        actions = {
            "schedule": self._schedule, "unschedule": self._unschedule, "send": self._send_now,
            "cancel-send": self._cancel, "pause": self._pause, "resume": self._resume,
        }  # fmt: skip
        return [
            ("GET", "/campaigns", self._list_campaigns),
            ("POST", "/campaigns", self._create),
            ("GET", one, lambda ask: self._on(ask, lambda it: Answer(200, self._shown(it)))),
            ("PATCH", one, lambda ask: self._on(ask, lambda it: self._change(it, ask.body))),
            ("GET", f"{one}/content", lambda ask: self._on(ask, lambda it: Answer(200, it.content))),
            ("PUT", f"{one}/content", lambda ask: self._on(ask, lambda it: self._write(it, ask.body))),
            *(
                ("POST", f"{one}/actions/{name}", self._acting(act)) for name, act in actions.items()
            ),
            ("GET", "/reports/{id}", lambda ask: self._on(ask, self._report)),
            ("GET", "/reports/{id}/sent-to", lambda ask: self._on(ask, lambda it: self._sent_to(it, ask))),
            ("GET", "/lists", self._list_audiences),
            ("POST", "/lists/{id}", self._batch),
            ("GET", "/lists/{id}/members", self._list_members),
            ("GET", "/lists/{id}/abuse-reports", self._abuse),
            ("GET", "/lists/{id}/segments", self._list_tags),
            ("POST", "/lists/{id}/segments", self._create_tag),
            ("POST", inside, lambda ask: self._in_tag(ask, self._tag_people)),
            ("DELETE", inside, lambda ask: self._in_tag(ask, self._delete_tag)),
            ("GET", f"{inside}/members", lambda ask: self._in_tag(ask, self._tagged)),
        ]  # fmt: skip

    def act(self, now: datetime) -> None:
        """Begin what is due and let messages leave."""
        for one in self._campaigns.values():
            if one.type == "rss":
                continue
            if one.status == "schedule" and one.send_time is not None and one.send_time <= now:
                self._begin(one, one.send_time)
            if one.status == "sending" and one.send_time is not None and not self.stuck:
                due = int((now - one.send_time) / timedelta(minutes=1) * self.messages_per_minute)
                for who in one.queue[len(one.reached) : due]:
                    self.deliver(
                        _name(one), self._members[one.recipients["list_id"]][who]["email_address"], now
                    )
                    one.reached.append(who)
                if len(one.reached) == len(one.queue):
                    one.status = "sent"

    def _begin(self, one: _Campaign, at: datetime) -> None:
        one.status, one.send_time, one.queue = "sending", at, self._audience(one)

    def _audience(self, one: _Campaign) -> list[str]:
        audience = str(one.recipients.get("list_id"))
        members = self._members.get(audience, {})
        number = (one.recipients.get("segment_opts") or {}).get("saved_segment_id")
        chosen = set(members) if number is None else self._tags.get((audience, number), ("", set()))[1]
        return [who for who, member in members.items() if who in chosen and member["status"] == "subscribed"]

    # Campaigns

    def _new(self, kind: str) -> _Campaign:
        one = _Campaign(f"{len(self._campaigns) + 1:010x}", kind, self.clock.now())
        self._campaigns[one.id] = one
        return one

    def _on(self, ask: Asked, then: Any) -> Answer:
        one = self._campaigns.get(ask.path[0])
        answer: Answer = then(one) if one else self.refusal(404, "The requested resource could not be found.")
        return answer

    def _acting(self, act: Any) -> Handler:
        return lambda ask: self._on(ask, lambda one: act(one, ask.body or {}))

    def _list_campaigns(self, ask: Asked) -> Answer:
        wanted = ask.query.get("status")
        rows = [self._shown(one) for one in self._campaigns.values() if wanted in (None, one.status)]
        return _page("campaigns", rows, ask)

    def _create(self, ask: Asked) -> Answer:
        one = self._new(ask.body["type"])
        one.tracking = ask.body.get("tracking", {})
        self._change(one, ask.body)
        return Answer(200, self._shown(one))

    def _change(self, one: _Campaign, body: Mapping[str, Any]) -> Answer:
        if one.status not in ("save", "paused"):
            return self.refusal(400, "A campaign that is not a draft cannot be changed.")
        one.settings |= body.get("settings", {})
        one.recipients = body.get("recipients", one.recipients)
        return Answer(200, self._shown(one))

    def _write(self, one: _Campaign, body: Mapping[str, Any]) -> Answer:
        if one.status != "save":
            return self.refusal(400, "A campaign that is not a draft cannot be changed.")
        one.content = dict(body)
        return Answer(200, one.content)

    def _not_ready(self, one: _Campaign) -> Answer | None:
        if one.status != "save" or not one.content or not one.recipients.get("list_id"):
            return self.refusal(400, "Your Campaign is not ready to send.")
        return None

    def _schedule(self, one: _Campaign, body: Mapping[str, Any]) -> Answer:
        at = datetime.fromisoformat(body["schedule_time"])
        if at <= self.clock.now() or (at - datetime(1970, 1, 1, tzinfo=UTC)) % _QUARTER:
            return self.refusal(400, "Please schedule on the quarter-hour and in the future.")
        refused = self._not_ready(one)
        if refused is None:
            one.status, one.send_time = "schedule", at
        return refused or Answer(204)

    def _unschedule(self, one: _Campaign, _: Mapping[str, Any]) -> Answer:
        if one.status != "schedule":
            return self.refusal(400, "This campaign is not scheduled, or it has begun.")
        one.status, one.send_time = "save", None
        return Answer(204)

    def _send_now(self, one: _Campaign, _: Mapping[str, Any]) -> Answer:
        refused = self._not_ready(one)
        if refused is None:
            self._begin(one, self.clock.now())
        return refused or Answer(204)

    def _cancel(self, one: _Campaign, _: Mapping[str, Any]) -> Answer:
        if not self.pro:
            return self.refusal(403, "Canceling campaigns is a Pro feature.")
        if one.status != "sending" or one.type not in ("regular", "plaintext"):
            return self.refusal(400, "This campaign cannot be canceled.")
        one.status = "canceled"
        return Answer(204)

    def _pause(self, one: _Campaign, _: Mapping[str, Any]) -> Answer:
        if one.type != "rss" or one.status != "sending":
            return self.refusal(400, "Only RSS campaigns can be paused.")
        one.status = "paused"
        return Answer(204)

    def _resume(self, one: _Campaign, _: Mapping[str, Any]) -> Answer:
        if one.type != "rss" or one.status != "paused":
            return self.refusal(400, "Only RSS campaigns can be resumed.")
        one.status = "sending"
        return Answer(204)

    def _shown(self, one: _Campaign) -> dict[str, Any]:
        count = len(one.queue) if one.queue else len(self._audience(one))
        row = {
            "id": one.id, "type": one.type, "status": one.status, "create_time": _time(one.created_at),
            "emails_sent": len(one.reached), "send_time": _time(one.send_time) if one.send_time else "",
            "settings": one.settings, "tracking": one.tracking,
            "recipients": {**one.recipients, "recipient_count": count},
        }  # fmt: skip
        if one.status == "sending":
            row["delivery_status"] = {
                "enabled": True,
                "can_cancel": self.pro,
                "emails_sent": len(one.reached),
            }
        return row

    def _report(self, one: _Campaign) -> Answer:
        if one.status in ("save", "schedule"):
            return self.refusal(404, "The requested resource could not be found.")
        return Answer(200, {
            "id": one.id, "emails_sent": len(one.reached), "abuse_reports": 0,
            "bounces": {"hard_bounces": 0, "soft_bounces": 0},
        })  # fmt: skip

    def _sent_to(self, one: _Campaign, ask: Asked) -> Answer:
        members = self._members[one.recipients["list_id"]]
        rows = [
            {"email_id": who, "email_address": members[who]["email_address"], "status": "sent",
             "merge_fields": members[who]["merge_fields"]}
            for who in one.reached
        ]  # fmt: skip
        return _page("sent_to", rows, ask)

    # Audiences

    def _list_audiences(self, ask: Asked) -> Answer:
        return _page("lists", [{"id": one, "name": name} for one, name in self._names.items()], ask)

    def _list_members(self, ask: Asked) -> Answer:
        return _page("members", list(self._members[ask.path[0]].values()), ask)

    def _batch(self, ask: Asked) -> Answer:
        if len(ask.body["members"]) > _MOST_MEMBERS:
            return self.refusal(400, "at most 500 members at once")
        for change in ask.body["members"]:
            member = self._members[ask.path[0]][_hash(change["email_address"])]
            member |= {"status": change["status"], "last_changed": _time(self.clock.now())}
        return Answer(200, {"error_count": 0, "errors": [], "total_updated": len(ask.body["members"])})

    def _abuse(self, ask: Asked) -> Answer:
        return _page("abuse_reports", self._complaints if ask.path[0] == self.news else [], ask)

    def _list_tags(self, ask: Asked) -> Answer:
        rows = [
            {"id": number, "name": name, "type": "static", "member_count": len(people)}
            for (audience, number), (name, people) in self._tags.items()
            if audience == ask.path[0]
        ]
        return _page("segments", rows, ask)

    def _create_tag(self, ask: Asked) -> Answer:
        number = 100 + len(self._tags)
        while (ask.path[0], number) in self._tags:
            number += 1
        self._tags[ask.path[0], number] = (ask.body["name"], set())
        return Answer(200, {"id": number, "name": ask.body["name"], "type": "static", "member_count": 0})

    def _in_tag(self, ask: Asked, then: Any) -> Answer:
        key = (ask.path[0], int(ask.path[1]))
        answer: Answer = then(ask, key) if key in self._tags else self.refusal(404, "no such segment")
        return answer

    def _tag_people(self, ask: Asked, key: tuple[str, int]) -> Answer:
        people = ask.body.get("members_to_add", [])
        if len(people) > _MOST_MEMBERS:
            return self.refusal(400, "at most 500 members at once")
        self._tags[key][1].update(_hash(one) for one in people if _hash(one) in self._members[key[0]])
        return Answer(200, {"total_added": len(people), "total_removed": 0, "error_count": 0, "errors": []})

    def _delete_tag(self, _: Asked, key: tuple[str, int]) -> Answer:
        del self._tags[key]
        return Answer(204)

    def _tagged(self, ask: Asked, key: tuple[str, int]) -> Answer:
        hidden = {
            status
            for status, option in (("unsubscribed", "include_unsubscribed"), ("cleaned", "include_cleaned"))
            if ask.query.get(option) != "true"
        }
        members = self._members[key[0]]
        rows = [members[who] for who in sorted(self._tags[key][1]) if members[who]["status"] not in hidden]
        return _page("members", rows, ask)


def _name(one: _Campaign) -> str:
    return str(one.settings.get("title", "")).partition(" {")[0]


def _page(key: str, rows: list[dict[str, Any]], ask: Asked) -> Answer:
    start, size = int(ask.query.get("offset", 0)), min(int(ask.query.get("count", 10)), _MOST_ROWS)
    return Answer(200, {key: rows[start : start + size], "total_items": len(rows)})


def _hash(email: str) -> str:
    return hashlib.md5(email.lower().encode(), usedforsecurity=False).hexdigest()


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S+00:00}"
