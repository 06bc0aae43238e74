"""A simulated SendGrid: Single Sends, contacts with their jobs and exports, suppressions, batches of the Mail Send API.

From the vendor's descriptions (twilio/sendgrid-oai) and its page on scheduled sends: a Single Send that was triggered
cannot be stopped, a schedule in the past is refused, a batch must be stopped ten minutes before its time, at most ten
batches at once, and paused mail is thrown away after 72 hours.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tasks.core import DrivenClock
from tasks.drills.draws import stable_uuid
from tasks.drills.vendors.server import Answer, Asked, Handler, Vendor, packed

_JOB = timedelta(seconds=3)
_NOTICE = timedelta(minutes=10)
_KEPT = timedelta(hours=72)
_MOST_BATCHES = 10
_LISTS = ("unsubscribes", "bounces", "spam_reports", "invalid_emails", "blocks")


@dataclass
class _Single:
    id: str
    name: str
    created_at: datetime
    status: str = "draft"
    categories: list[str] = field(default_factory=list)
    send_at: datetime | None = None
    lists: list[str] = field(default_factory=list)
    email_config: dict[str, Any] = field(default_factory=dict)
    queue: list[str] = field(default_factory=list)
    sent: int = 0


@dataclass
class _Batch:
    send_at: datetime
    people: list[str]
    held: str = ""
    held_in_time: bool = False
    over: bool = False


class SimulatedSendGrid(Vendor):
    """A SendGrid account with contacts `c1@shop.example`, … on one list called News.

    Attributes:
        news: the id of the list News.
        stuck: while True nothing leaves: Single Sends are triggered and stay so.
        numbered: whether contacts carry the shop's customer number as `external_id`.
        fields: custom fields by contact, whose number is that of its address.
    """

    def __init__(self, clock: DrivenClock, people: int = 40) -> None:
        self.stuck = False
        self._singles: dict[str, _Single] = {}
        self._batches: dict[str, _Batch] = {}
        self._jobs: dict[str, tuple[datetime, Any]] = {}
        self._files: dict[str, bytes] = {}
        self._made = 0
        created = clock.now() - timedelta(days=30)
        self.numbered = True
        self._contacts = {
            stable_uuid(7, "contact", number): (f"c{number}@shop.example", created)
            for number in range(1, people + 1)
        }
        self.news = stable_uuid(7, "list", 1)
        self._lists: dict[str, tuple[str, set[str]]] = {self.news: ("News", set(self._contacts))}
        self._suppressed: dict[str, dict[str, int]] = {one: {} for one in (*_LISTS, "group")}
        self.fields: dict[int, dict[str, str]] = {}
        self._designs: dict[str, dict[str, Any]] = {}
        self._templates: dict[str, dict[str, Any]] = {}
        super().__init__(clock)

    # What a drill does beside the API

    def suppress(self, kind: str, *numbers: int) -> None:
        """Put contacts on a suppression list: unsubscribes, bounces, spam_reports, invalid_emails, blocks, or group."""
        for number in numbers:
            self._suppressed[kind][f"c{number}@shop.example"] = int(self.clock.now().timestamp())

    def release(self, kind: str, number: int) -> None:
        """Take a contact off a suppression list."""
        del self._suppressed[kind][f"c{number}@shop.example"]

    def write_design(self, name: str, html: str) -> None:
        """Make a design, and a transactional template of one version."""
        at, number = _time(self.clock.now()), stable_uuid(7, "design", len(self._designs))
        version = {
            "id": number,
            "active": 1,
            "name": name,
            "subject": name,
            "html_content": html,
            "updated_at": at,
        }
        self._designs[number] = {
            "id": number, "name": name, "editor": "code", "subject": name, "html_content": html, "plain_content": "",
            "generate_plain_content": True, "created_at": at, "updated_at": at,
        }  # fmt: skip
        other = stable_uuid(7, "template", len(self._templates))
        self._templates[other] = {
            "id": other, "name": name, "generation": "dynamic", "updated_at": at, "versions": [version],
        }  # fmt: skip

    def add_batch(self, batch_id: str, send_at: datetime, people: Iterable[str]) -> None:
        """Take messages of the Mail Send API under `batch_id`, to be sent at `send_at`."""
        self._batches[batch_id] = _Batch(send_at, list(people))

    # The vendor

    def authorised(self, headers: Mapping[str, str]) -> bool:
        """Whether a request carries the token."""
        return headers.get("Authorization") == f"Bearer {self.token}"

    def refusal(self, status: int, message: str) -> Answer:
        """Return a refusal as SendGrid words it."""
        return Answer(status, {"errors": [{"message": message, "field": None}]})

    def routes(self) -> list[tuple[str, str, Handler]]:
        """Return what is offered."""
        single, contacts, held = "/marketing/singlesends", "/marketing/contacts", "/user/scheduled_sends"
        return [
            ("GET", single, lambda ask: self._page([_short(one) for one in self._singles.values()], ask)),
            ("POST", single, self._create),
            ("GET", f"{single}/{{id}}", lambda ask: self._on(ask, lambda one: Answer(200, _full(one)))),
            ("PATCH", f"{single}/{{id}}", lambda ask: self._on(ask, lambda one: self._change(one, ask.body))),
            ("PUT", f"{single}/{{id}}/schedule", lambda ask: self._on(ask, lambda one: self._plan(one, ask))),
            ("DELETE", f"{single}/{{id}}/schedule", lambda ask: self._on(ask, self._unplan)),
            (
                "GET",
                "/marketing/stats/singlesends",
                lambda ask: self._stats(ask, list(self._singles.values())),
            ),
            (
                "GET",
                "/marketing/stats/singlesends/{id}",
                lambda ask: self._on(ask, lambda one: self._stats(ask, [one])),
            ),
            ("GET", "/marketing/lists", lambda ask: self._page(self._list_rows(), ask)),
            ("POST", "/marketing/lists", self._create_list),
            ("DELETE", "/marketing/lists/{id}", self._delete_list),
            ("DELETE", "/marketing/lists/{id}/contacts", self._take_off),
            ("PUT", contacts, self._upsert),
            ("GET", f"{contacts}/imports/{{id}}", self._job),
            ("POST", f"{contacts}/exports", self._export),
            ("GET", f"{contacts}/exports/{{id}}", self._exported),
            ("POST", "/asm/suppressions/global", self._suppress_globally),
            ("GET", "/asm/suppressions", lambda _: Answer(200, self._group_rows())),
            ("GET", "/asm/groups", lambda _: Answer(200, [_GROUP])),
            ("GET", "/designs", lambda ask: self._page(list(self._designs.values()), ask)),
            ("GET", "/templates", lambda ask: self._page(_without_content(self._templates), ask)),
            ("GET", "/templates/{id}", lambda ask: Answer(200, self._templates[ask.path[0]])),
            *(("GET", f"/suppression/{kind}", self._suppressions_of(kind)) for kind in _LISTS),
            (
                "GET",
                held,
                lambda _: Answer(200, [_held(*one) for one in self._batches.items() if one[1].held]),
            ),
            ("POST", held, self._hold),
            ("PATCH", f"{held}/{{id}}", self._rehold),
            ("DELETE", f"{held}/{{id}}", self._release),
        ]

    def act(self, now: datetime) -> None:
        """Trigger what is due and let messages leave, as many a minute as the account may."""
        for one in self._singles.values():
            if one.status == "scheduled" and one.send_at is not None and one.send_at <= now:
                self._trigger(one)
            if one.status == "triggered" and one.send_at is not None and not self.stuck:
                due = int((now - one.send_at) / timedelta(minutes=1) * self.messages_per_minute)
                for contact in one.queue[one.sent : due]:
                    self.deliver(one.name, self._contacts[contact][0], now)
                one.sent = max(one.sent, min(due, len(one.queue)))
        for name, batch in self._batches.items():
            if batch.held and (batch.held == "cancel" or now >= batch.send_at + _KEPT) and batch.held_in_time:
                batch.over = True
            if not batch.over and now >= batch.send_at and not (batch.held and batch.held_in_time):
                batch.over = True
                for who in batch.people:
                    self.deliver(name, who, now)

    def file(self, path: str) -> Answer:
        """Return an export file."""
        found = self._files.get(path)
        return Answer(200, found) if found is not None else self.refusal(404, "no such file")

    def _trigger(self, one: _Single) -> None:
        one.status = "triggered"
        suppressed = {email for emails in self._suppressed.values() for email in emails}
        people = {who for number in one.lists for who in self._lists[number][1]}
        one.queue = sorted(who for who in people if self._contacts[who][0] not in suppressed)

    # Single Sends

    def _on(self, ask: Asked, then: Any) -> Answer:
        one = self._singles.get(ask.path[0])
        answer: Answer = then(one) if one else self.refusal(404, "singlesend not found")
        return answer

    def _create(self, ask: Asked) -> Answer:
        self._made += 1
        one = _Single(stable_uuid(7, "single", self._made), ask.body["name"], self.clock.now())
        self._singles[one.id] = one
        return Answer(201, self._change(one, ask.body).content)

    def _change(self, one: _Single, body: Mapping[str, Any]) -> Answer:
        if one.status != "draft":
            return self.refusal(400, "only a draft can be changed")
        one.name = body.get("name", one.name)
        one.categories = body.get("categories", one.categories)
        if len(one.categories) > 10:
            return self.refusal(400, "at most 10 categories")
        one.email_config = body.get("email_config", one.email_config)
        one.lists = body.get("send_to", {}).get("list_ids", one.lists)
        if "send_at" in body:
            one.send_at = datetime.fromisoformat(body["send_at"]) if body["send_at"] else None
        return Answer(200, _full(one))

    def _plan(self, one: _Single, ask: Asked) -> Answer:
        if one.status != "draft":
            return self.refusal(400, "already scheduled")
        now, wanted = self.clock.now(), ask.body["send_at"]
        at = now if wanted == "now" else datetime.fromisoformat(wanted)
        if at < now:
            return self.refusal(400, "send_at must be in the future")
        if not one.lists or not all(number in self._lists for number in one.lists):
            return self.refusal(400, "send_to must name a list")
        one.send_at, one.status = at, "scheduled"
        self.act(now)
        return Answer(201, {"send_at": at.isoformat(), "status": "scheduled"})

    def _unplan(self, one: _Single) -> Answer:
        if one.status != "scheduled" or one.send_at is None:
            return self.refusal(400, "the Single Send is not scheduled")
        one.status = "draft"
        return Answer(200, {"send_at": one.send_at.isoformat(), "status": "draft"})

    def _stats(self, ask: Asked, singles: list[_Single]) -> Answer:
        zero = dict.fromkeys(
            ("bounce_drops", "bounces", "clicks", "delivered", "invalid_emails", "opens", "requests",
             "spam_report_drops", "spam_reports", "unique_clicks", "unique_opens", "unsubscribes"), 0
        )  # fmt: skip
        rows = [
            {"id": one.id, "ab_variation": "all", "ab_phase": "all", "aggregation": "total",
             "stats": zero | {"requests": one.sent, "delivered": one.sent}}
            for one in singles
            if one.status == "triggered"
        ]  # fmt: skip
        return self._page(rows, ask, key="results")

    # Lists and contacts

    def _list_rows(self) -> list[dict[str, Any]]:
        return [
            {"id": number, "name": name, "contact_count": len(people)}
            for number, (name, people) in self._lists.items()
        ]

    def _create_list(self, ask: Asked) -> Answer:
        if any(name == ask.body["name"] for name, _ in self._lists.values()):
            return self.refusal(400, "there is a list of that name")
        self._made += 1
        number = stable_uuid(7, "new list", self._made)
        self._lists[number] = (ask.body["name"], set())
        return Answer(201, {"id": number, "name": ask.body["name"], "contact_count": 0})

    def _delete_list(self, ask: Asked) -> Answer:
        if self._lists.pop(ask.path[0], None) is None:
            return self.refusal(404, "list not found")
        return Answer(204)

    def _take_off(self, ask: Asked) -> Answer:
        people = set(ask.query["contact_ids"].split(","))
        if ask.path[0] not in self._lists:
            return self.refusal(404, "list not found")
        return self._later(lambda: self._lists[ask.path[0]][1].difference_update(people))

    def _upsert(self, ask: Asked) -> Answer:
        known = {email: who for who, (email, _) in self._contacts.items()}
        wanted = [known[one["email"]] for one in ask.body["contacts"] if one["email"] in known]

        def put() -> None:
            for number in ask.body.get("list_ids", []):
                self._lists[number][1].update(wanted)

        return self._later(put)

    def _later(self, do: Any) -> Answer:
        self._made += 1
        name = stable_uuid(7, "job", self._made)
        self._jobs[name] = (self.clock.now() + _JOB, do)
        return Answer(202, {"job_id": name})

    def _job(self, ask: Asked) -> Answer:
        if ask.path[0] not in self._jobs:
            return self.refusal(404, "no such job")
        due, do = self._jobs[ask.path[0]]
        done = due <= self.clock.now()
        if done and do is not None:
            do()
            self._jobs[ask.path[0]] = (due, None)
        status = "completed" if done else "pending"
        return Answer(200, {"id": ask.path[0], "status": status, "job_type": "upsert", "results": {}})

    def _export(self, ask: Asked) -> Answer:
        numbers = (ask.body or {}).get("list_ids")
        people = (
            set(self._contacts)
            if not numbers
            else {who for number in numbers if number in self._lists for who in self._lists[number][1]}
        )
        self._made += 1
        name = stable_uuid(7, "export", self._made)
        rows = sorted((self._contacts[who][0], who, self._contacts[who][1]) for who in people)
        named = sorted({key for fields in self.fields.values() for key in fields})
        half = (len(rows) + 1) // 2
        for part, some in enumerate((rows[:half], rows[half:])):
            text = io.StringIO(newline="")
            write = csv.writer(text).writerow
            write(["EMAIL", "EXTERNAL_ID", "CONTACT_ID", "CREATED_AT", "UPDATED_AT", *named])
            for email, who, at in some:
                number = email[1:-13]
                own = self.fields.get(int(number), {})
                known = number if self.numbered else ""
                write([email, known, who, _time(at), _time(at), *(own.get(key, "") for key in named)])
            self._files[f"/exports/{name}-{part}.csv.gz"] = packed(text.getvalue())
        self._jobs[name] = (self.clock.now() + _JOB, len(rows))
        return Answer(202, {"_metadata": {}, "id": name})

    def _exported(self, ask: Asked) -> Answer:
        if ask.path[0] not in self._jobs:
            return self.refusal(404, "no such export")
        due, count = self._jobs[ask.path[0]]
        about: dict[str, Any] = {"id": ask.path[0], "status": "pending"}
        if due <= self.clock.now():
            urls = [f"{self.url}/exports/{ask.path[0]}-{part}.csv.gz" for part in (0, 1)]
            about |= {"status": "ready", "contact_count": count, "urls": urls}
        moment = f"{due:%Y-%m-%dT%H:%M:%SZ}"
        return Answer(200, about | {"created_at": moment, "updated_at": moment, "expires_at": moment})

    # Suppressions

    def _suppressions_of(self, kind: str) -> Handler:
        def answer(ask: Asked) -> Answer:
            start, size = int(ask.query.get("offset", 0)), int(ask.query.get("limit", 500))
            rows = [{"created": at, "email": email} for email, at in self._suppressed[kind].items()]
            return Answer(200, rows[start : start + size])

        return answer

    def _group_rows(self) -> list[dict[str, Any]]:
        return [
            {"email": email, "group_id": 1, "group_name": "Weekly", "created_at": at}
            for email, at in self._suppressed["group"].items()
        ]

    def _suppress_globally(self, ask: Asked) -> Answer:
        at = int(self.clock.now().timestamp())
        self._suppressed["unsubscribes"].update(dict.fromkeys(ask.body["recipient_emails"], at))
        return Answer(201, {"recipient_emails": ask.body["recipient_emails"]})

    # Batches

    def _hold(self, ask: Asked) -> Answer:
        batch = self._batches.get(ask.body["batch_id"])
        if batch is None or batch.held:
            return self.refusal(400, "batch id not found, or a status was set already")
        if sum(bool(one.held) for one in self._batches.values()) >= _MOST_BATCHES:
            return self.refusal(400, "maximum number of cancellations/pauses reached")
        batch.held = ask.body["status"]
        batch.held_in_time = self.clock.now() <= batch.send_at - _NOTICE
        return Answer(201, {"batch_id": ask.body["batch_id"], "status": batch.held})

    def _rehold(self, ask: Asked) -> Answer:
        batch = self._batches.get(ask.path[0])
        if batch is None or not batch.held:
            return self.refusal(404, "no status is set")
        batch.held = ask.body["status"]
        return Answer(204)

    def _release(self, ask: Asked) -> Answer:
        batch = self._batches.get(ask.path[0])
        if batch is None or not batch.held:
            return self.refusal(404, "no status is set")
        batch.held = ""
        self.act(self.clock.now())
        return Answer(204)

    def _page(self, rows: list[dict[str, Any]], ask: Asked, *, key: str = "result") -> Answer:
        size, start = int(ask.query.get("page_size", 100)), int(ask.query.get("page_token", 0) or 0)
        about: dict[str, Any] = {"count": len(rows)}
        if start + size < len(rows):
            about["next"] = f"https://api.sendgrid.com/v3/next?page_size={size}&page_token={start + size}"
        return Answer(200, {key: rows[start : start + size], "_metadata": about})


_GROUP = {"id": 1, "name": "Weekly", "description": "", "is_default": False, "unsubscribes": 0}


def _without_content(templates: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**one, "versions": [{"id": it["id"]} for it in one["versions"]]} for one in templates.values()]


def _held(name: str, batch: _Batch) -> dict[str, str]:
    return {"batch_id": name, "status": batch.held}


def _short(one: _Single) -> dict[str, Any]:
    row = {
        "id": one.id, "name": one.name, "abtest": None, "status": one.status, "categories": one.categories,
        "is_abtest": False, "updated_at": _time(one.send_at or one.created_at), "created_at": _time(one.created_at),
    }  # fmt: skip
    return row | ({"send_at": _time(one.send_at)} if one.send_at else {})


def _full(one: _Single) -> dict[str, Any]:
    row = {key: value for key, value in _short(one).items() if key not in ("abtest", "is_abtest")}
    send_to = {"list_ids": one.lists, "segment_ids": [], "all": False}
    return row | {"send_to": send_to, "email_config": one.email_config}


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
