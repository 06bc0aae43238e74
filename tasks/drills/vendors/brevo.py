"""A simulated Brevo: e-mail campaigns with their states, contacts, lists, and the limits of a standard account."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tasks.core import DrivenClock
from tasks.drills.vendors.server import Answer, Asked, Handler, Vendor, Window

_HOURLY, _PER_SECOND = 100, 10
_PARTLY_SENT = "a campaign that was partly sent cannot become a draft"


@dataclass
class _Campaign:
    id: int
    fields: dict[str, Any]
    created_at: datetime
    status: str = "draft"
    scheduled_at: datetime | None = None
    begun_at: datetime | None = None
    queue: list[int] = field(default_factory=list)
    sent: int = 0


class SimulatedBrevo(Vendor):
    """A Brevo account with contacts `c1@shop.example`, … (ids from 1) on list 1.

    Attributes:
        stuck: while True nothing leaves: campaigns stay in process.
    """

    def __init__(self, clock: DrivenClock, people: int = 40) -> None:
        self.stuck = False
        self._campaigns: dict[int, _Campaign] = {}
        created = _time(clock.now() - timedelta(days=30))
        self._contacts: dict[int, dict[str, Any]] = {
            number: {
                "id": number, "email": f"c{number}@shop.example", "emailBlacklisted": False, "smsBlacklisted": False,
                "createdAt": created, "modifiedAt": created, "listIds": [1], "listUnsubscribed": None,
                "attributes": {"EXT_ID": str(number)},
            }
            for number in range(1, people + 1)
        }  # fmt: skip
        self._lists = {1: "News"}
        self._folders = {1: "Your first folder"}
        self._blocked: list[dict[str, Any]] = []
        self._templates: dict[int, dict[str, Any]] = {}
        self._events: list[dict[str, Any]] = []
        self._windows = {
            "general": Window(_HOURLY, timedelta(hours=1)),
            "contacts": Window(_PER_SECOND, timedelta(seconds=1)),
        }
        super().__init__(clock)

    # What a drill does beside the API

    def opt_out(self, *numbers: int, on: int | None = None) -> None:
        """Let people unsubscribe, from one list or from everything."""
        for number in numbers:
            contact = self._contacts[number]
            contact["modifiedAt"] = _time(self.clock.now())
            if on is None:
                contact["emailBlacklisted"] = True
            else:
                contact["listIds"] = [one for one in contact["listIds"] if one != on]
                contact["listUnsubscribed"] = [*(contact["listUnsubscribed"] or []), on]

    def block(self, number: int, code: str) -> None:
        """Put a contact on the list of blocked recipients, for a reason such as `hardBounce`."""
        self._blocked.append(
            {"email": f"c{number}@shop.example", "senderEmail": "news@shop.example",
             "reason": {"code": code, "message": code}, "blockedAt": _time(self.clock.now())}
        )  # fmt: skip

    def write_contact(self, number: int, **fields: Any) -> None:
        """Make or change a contact; `attributes` are added to those it has."""
        now = _time(self.clock.now())
        known = self._contacts.get(number) or {
            "id": number, "email": f"c{number}@shop.example", "emailBlacklisted": False, "smsBlacklisted": False,
            "createdAt": now, "listIds": [1], "listUnsubscribed": None, "attributes": {},
        }  # fmt: skip
        attributes = known["attributes"] | fields.pop("attributes", {})
        self._contacts[number] = known | fields | {"modifiedAt": now, "attributes": attributes}

    def delete_contact(self, number: int) -> None:
        """Delete a contact."""
        del self._contacts[number]

    def write_template(self, name: str, html: str) -> None:
        """Make a template."""
        number, now = len(self._templates) + 1, _time(self.clock.now())
        self._templates[number] = {
            "id": number, "name": name, "subject": name, "isActive": True, "testSent": False, "htmlContent": html,
            "sender": {"id": "1", "name": "Shop", "email": "news@shop.example"}, "replyTo": "", "toField": "",
            "tag": "", "createdAt": now, "modifiedAt": now, "doiTemplate": False,
        }  # fmt: skip

    def happen(self, event: str, number: int, message: str) -> None:
        """Let something happen to a transactional message."""
        self._events.append(
            {"email": f"c{number}@shop.example", "date": _time(self.clock.now()), "subject": "Your order",
             "messageId": f"<{message}@mail>", "event": event, "tag": "", "from": "news@shop.example"}
        )  # fmt: skip

    # The vendor

    def authorised(self, headers: Mapping[str, str]) -> bool:
        """Whether a request carries the token."""
        return headers.get("api-key") == self.token

    def refusal(self, status: int, message: str) -> Answer:
        """Return a refusal as Brevo words it."""
        return Answer(
            status,
            {"code": "document_not_found" if status == 404 else "invalid_parameter", "message": message},
        )

    def limited(self, method: str, path: str) -> tuple[Answer | None, dict[str, str]]:
        """Count the call against its window."""
        if path == "/v3/smtp/blockedContacts":
            return None, {}
        name = "contacts" if path.startswith("/v3/contacts") else "general"
        window, now = self._windows[name], self.clock.now()
        too_many = window.take(now)
        headers = {
            "x-sib-ratelimit-limit": str(window.calls),
            "x-sib-ratelimit-remaining": str(window.calls - window.used),
            "x-sib-ratelimit-reset": str(window.seconds_left(now)),
        }
        if not too_many:
            return None, headers
        return Answer(429, {"code": "too_many_requests", "message": "rate limit exceeded"}, headers), headers

    def routes(self) -> list[tuple[str, str, Handler]]:
        """Return what is offered."""
        one = "/emailCampaigns/{id}"
        return [
            ("GET", "/emailCampaigns", self._list_campaigns),
            ("POST", "/emailCampaigns", self._create),
            ("GET", one, lambda ask: self._on(ask, lambda it: Answer(200, self._shown(it)))),
            ("PUT", one, lambda ask: self._on(ask, lambda it: self._change(it, ask.body))),
            (
                "PUT",
                f"{one}/status",
                lambda ask: self._on(ask, lambda it: self._status(it, ask.body["status"])),
            ),
            ("POST", f"{one}/sendNow", lambda ask: self._on(ask, self._send_now)),
            ("GET", "/contacts", self._list_contacts),
            ("POST", "/contacts/batch", self._change_contacts),
            ("GET", "/contacts/lists", lambda ask: _page("lists", _named(self._lists), ask)),
            ("POST", "/contacts/lists", self._create_list),
            ("DELETE", "/contacts/lists/{id}", self._delete_list),
            ("POST", "/contacts/lists/{id}/contacts/add", lambda ask: self._members(ask, add=True)),
            ("POST", "/contacts/lists/{id}/contacts/remove", lambda ask: self._members(ask, add=False)),
            ("GET", "/contacts/folders", lambda ask: _page("folders", _named(self._folders), ask)),
            ("POST", "/contacts/folders", self._create_folder),
            ("GET", "/smtp/blockedContacts", lambda ask: _page("contacts", self._blocked, ask)),
            ("GET", "/smtp/templates", lambda ask: _page("templates", list(self._templates.values()), ask)),
            ("GET", "/smtp/statistics/events", self._list_events),
        ]

    def act(self, now: datetime) -> None:
        """Begin what is due and let messages leave."""
        for one in self._campaigns.values():
            if one.status == "queued" and one.scheduled_at is not None and one.scheduled_at <= now:
                self._begin(one, one.scheduled_at)
            if one.status == "in_process" and one.begun_at is not None and not self.stuck:
                due = int((now - one.begun_at) / timedelta(minutes=1) * self.messages_per_minute)
                for who in one.queue[:due]:
                    self.deliver(one.fields["name"], self._contacts[who]["email"], now)
                one.sent += len(one.queue[:due])
                one.queue = one.queue[due:]
                one.begun_at = now if due else one.begun_at
                if not one.queue:
                    one.status = "sent"

    def _begin(self, one: _Campaign, at: datetime) -> None:
        one.status, one.begun_at = "in_process", at
        if one.queue or one.sent:
            return
        wanted = set((one.fields.get("recipients") or {}).get("listIds") or ())
        one.queue = [
            number
            for number, contact in self._contacts.items()
            if wanted & set(contact["listIds"]) and not contact["emailBlacklisted"]
        ]

    # Campaigns

    def _on(self, ask: Asked, then: Any) -> Answer:
        one = self._campaigns.get(int(ask.path[0]))
        answer: Answer = then(one) if one else self.refusal(404, "Campaign ID does not exist")
        return answer

    def _list_campaigns(self, ask: Asked) -> Answer:
        words = {"inProcess": "in_process", "inReview": "in_review"}
        wanted = ask.query.get("status")
        rows = [
            self._shown(one)
            for one in self._campaigns.values()
            if wanted is None or one.status == words.get(wanted, wanted)
        ]
        return _page("campaigns", rows, ask)

    def _create(self, ask: Asked) -> Answer:
        number = len(self._campaigns) + 1
        one = _Campaign(number, {}, self.clock.now())
        answer = self._change(one, ask.body)
        if answer.status != 204:
            return answer
        self._campaigns[number] = one
        return Answer(201, {"id": number})

    def _change(self, one: _Campaign, body: Mapping[str, Any]) -> Answer:
        if one.status not in ("draft", "suspended"):
            return self.refusal(400, "only a draft or a suspended campaign can be changed")
        if "scheduledAt" in body:
            at = datetime.fromisoformat(body["scheduledAt"])
            if at < self.clock.now():
                return self.refusal(400, "Schedule date should be greater than the current date")
            one.scheduled_at, one.status = at, "queued"
        one.fields = {**one.fields, **{key: value for key, value in body.items() if key != "scheduledAt"}}
        return Answer(204)

    def _status(self, one: _Campaign, wanted: str) -> Answer:
        now = self.clock.now()
        if wanted == "suspended" and one.status in ("queued", "in_process"):
            one.status = "suspended"
        elif wanted == "queued" and one.status == "suspended":
            if one.sent:
                self._begin(one, now)
            elif one.scheduled_at is None or one.scheduled_at < now:
                return self.refusal(400, "Schedule date should be greater than the current date")
            else:
                one.status = "queued"
        elif wanted == "draft" and one.status == "suspended":
            if one.sent:
                return self.refusal(400, _PARTLY_SENT)
            one.status = "draft"
        elif wanted == "archive" and one.status in ("suspended", "sent", "draft"):
            one.status = "archive"
        else:
            return self.refusal(400, f"a campaign that is {one.status} cannot become {wanted}")
        return Answer(204)

    def _send_now(self, one: _Campaign) -> Answer:
        if one.status not in ("draft", "suspended", "queued"):
            return self.refusal(400, "Campaign is already sent")
        self._begin(one, self.clock.now())
        return Answer(204)

    def _shown(self, one: _Campaign) -> dict[str, Any]:
        lists = (one.fields.get("recipients") or {}).get("listIds") or []
        return {
            "header": "[DEFAULT_HEADER]", "footer": "[DEFAULT_FOOTER]", "testSent": False, "htmlContent": "",
            "replyTo": "[DEFAULT_REPLY_TO]",
            **{key: value for key, value in one.fields.items() if key != "recipients"},
            "id": one.id, "type": "classic", "status": one.status,
            "scheduledAt": _time(one.scheduled_at) if one.scheduled_at else "",
            "createdAt": _time(one.created_at), "modifiedAt": _time(one.created_at),
            "recipients": {"lists": lists, "exclusionLists": []},
            "statistics": {
                "globalStats": {"sent": one.sent, "delivered": one.sent, "hardBounces": 0, "softBounces": 0,
                                "complaints": 0, "unsubscriptions": 0},
                "remaining": len(one.queue),
            },
            **({"sentDate": _time(one.begun_at)} if one.status == "sent" and one.begun_at else {}),
        }  # fmt: skip

    # Lists and contacts

    def _list_contacts(self, ask: Asked) -> Answer:
        since = ask.query.get("modifiedSince")
        rows = [
            one
            for _, one in sorted(self._contacts.items())
            if since is None or datetime.fromisoformat(one["modifiedAt"]) >= datetime.fromisoformat(since)
        ]
        return _page("contacts", rows, ask)

    def _list_events(self, ask: Asked) -> Answer:
        """Answer without a total; a range of more than 90 days is refused."""
        first, last = (datetime.fromisoformat(ask.query[one]).date() for one in ("startDate", "endDate"))
        if last < first or last - first >= timedelta(days=90):
            return self.refusal(400, "the range must not exceed 90 days")
        rows = [one for one in self._events if first <= datetime.fromisoformat(one["date"]).date() <= last]
        found = _page("events", rows, ask).content
        return Answer(200, {"events": found["events"]} if found["events"] else {})

    def _create_folder(self, ask: Asked) -> Answer:
        number = len(self._folders) + 1
        self._folders[number] = ask.body["name"]
        return Answer(201, {"id": number})

    def _create_list(self, ask: Asked) -> Answer:
        if ask.body["folderId"] not in self._folders:
            return self.refusal(400, "Folder ID does not exist")
        number = max(self._lists) + 1
        self._lists[number] = ask.body["name"]
        return Answer(201, {"id": number})

    def _delete_list(self, ask: Asked) -> Answer:
        number = int(ask.path[0])
        if self._lists.pop(number, None) is None:
            return self.refusal(404, "List ID does not exist")
        for contact in self._contacts.values():
            contact["listIds"] = [one for one in contact["listIds"] if one != number]
        return Answer(204)

    def _members(self, ask: Asked, *, add: bool) -> Answer:
        number, people = int(ask.path[0]), ask.body["ids"]
        if number not in self._lists:
            return self.refusal(404, "List ID does not exist")
        if len(people) > 150:
            return self.refusal(400, "at most 150 contacts at once")
        there = [who for who in people if (number in self._contacts[who]["listIds"]) is not add]
        if not there:
            return self.refusal(400, f"Contacts {'already in' if add else 'already removed from'} list")
        for who in there:
            on = self._contacts[who]["listIds"]
            self._contacts[who]["listIds"] = [*on, number] if add else [one for one in on if one != number]
        failed = [who for who in people if who not in there]
        return Answer(201, {"contacts": {"success": there, "failure": failed, "total": len(there)}})

    def _change_contacts(self, ask: Asked) -> Answer:
        if len(ask.body["contacts"]) > 100:
            return self.refusal(400, "at most 100 contacts at once")
        for change in ask.body["contacts"]:
            changed = {key: value for key, value in change.items() if key != "id"}
            self._contacts[change["id"]] |= changed | {"modifiedAt": _time(self.clock.now())}
        return Answer(204)


def _named(names: dict[int, str]) -> list[dict[str, Any]]:
    return [{"id": number, "name": name} for number, name in names.items()]


def _page(key: str, rows: list[dict[str, Any]], ask: Asked) -> Answer:
    start, size = int(ask.query.get("offset", 0)), int(ask.query.get("limit", 50))
    ordered = rows if ask.query.get("sort") == "asc" else rows[::-1]
    return Answer(200, {key: ordered[start : start + size], "count": len(rows)})


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S+00:00}"
