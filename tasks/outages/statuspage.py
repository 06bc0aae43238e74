"""Status pages in Statuspage v2 JSON: Atlassian's, and the clone of incident.io with its quirks.

A page is believed only when it is JSON, has the shape, and says by name that it is the page of the plan; many vendors
answer any path with 200 and HTML. Everything else is `UnreadablePage`: unknown, never down. Components are keyed by
id, because names are not unique. Times and words that we do not know are left out, not guessed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import httpx
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from tasks.outages.errors import UnreadablePage
from tasks.outages.signals import Signal, Verdict

ComponentStatus = Literal[
    "operational", "degraded_performance", "partial_outage", "major_outage", "under_maintenance", "unknown"
]

MAX_BYTES = 4 * 1024 * 1024
"""A longer answer is not a status summary."""

_KNOWN: tuple[ComponentStatus, ...] = (
    "operational",
    "degraded_performance",
    "partial_outage",
    "major_outage",
    "under_maintenance",
)
_ALIASES: dict[str, ComponentStatus] = {"full_outage": "major_outage"}
_VERDICTS: dict[ComponentStatus, Verdict] = {
    "operational": "good",
    "degraded_performance": "degraded",
    "partial_outage": "bad",
    "major_outage": "bad",
    "under_maintenance": "unknown",
    "unknown": "unknown",
}
_INDICATORS: dict[str, ComponentStatus] = {
    "none": "operational",
    "minor": "degraded_performance",
    "major": "partial_outage",
    "critical": "major_outage",
    "maintenance": "under_maintenance",
}
_OVER = ("resolved", "postmortem", "completed")


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _time(value: object) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


_Text = Annotated[str, BeforeValidator(_text)]
_Moment = Annotated[datetime | None, BeforeValidator(_time)]


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class PageComponent(_Lenient):
    """One part of the provider's service."""

    id: str = Field(min_length=1)
    name: str
    status: ComponentStatus = "unknown"
    group: bool = False

    @field_validator("status", mode="before")
    @classmethod
    def _status(cls, value: object) -> ComponentStatus:
        return _component_status(value)

    @field_validator("group", mode="before")
    @classmethod
    def _group(cls, value: object) -> bool:
        return value is True


class PageUpdate(_Lenient):
    """One post of the vendor about an incident."""

    status: _Text = ""
    posted_at: _Moment = Field(None, validation_alias="display_at")
    created_at: _Moment = None
    affected: frozenset[str] = Field(frozenset(), validation_alias="affected_components")

    @field_validator("affected", mode="before")
    @classmethod
    def _affected(cls, value: object) -> frozenset[str]:
        return _ids(value, "code")


class PageIncident(_Lenient):
    """What the vendor says about one incident or one announced maintenance."""

    id: str = Field(min_length=1)
    name: _Text = ""
    status: _Text = ""
    impact: _Text = "none"
    started_at: _Moment = None
    created_at: _Moment = None
    resolved_at: _Moment = None
    component_ids: frozenset[str] = Field(frozenset(), validation_alias="components")
    updates: tuple[PageUpdate, ...] = Field((), validation_alias="incident_updates")

    @field_validator("component_ids", mode="before")
    @classmethod
    def _components(cls, value: object) -> frozenset[str]:
        return _ids(value, "id")

    @field_validator("updates", mode="before")
    @classmethod
    def _updates(cls, value: object) -> list[object]:
        return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []

    @property
    def over(self) -> bool:
        """Whether the vendor says that it is over."""
        return self.status in _OVER

    @property
    def first_posted_at(self) -> datetime | None:
        """When the vendor first said something: `status_posted_at`."""
        posts = [update.created_at or update.posted_at for update in self.updates]
        return min((post for post in posts if post is not None), default=self.created_at)

    @property
    def affected(self) -> frozenset[str]:
        """Ids of the components it touches, as its head or any of its updates says."""
        return self.component_ids.union(*(update.affected for update in self.updates))


class StatusPage(_Lenient):
    """A page that was read and is the one it should be."""

    name: str
    indicator: ComponentStatus
    components: tuple[PageComponent, ...]
    incidents: tuple[PageIncident, ...] = ()
    maintenances: tuple[PageIncident, ...] = ()

    def component(self, wanted: str) -> PageComponent | None:
        """Return the component with the id `wanted`, or the only one with that name (case does not matter)."""
        for part in self.components:
            if part.id == wanted:
                return part
        named = [
            part for part in self.components if part.name.strip().casefold() == wanted.strip().casefold()
        ]
        return named[0] if len(named) == 1 else None

    def watched(self, wanted: Sequence[str]) -> tuple[list[PageComponent], list[str]]:
        """Return the components of `wanted` that the page has, and the names of those that it has not (or twice)."""
        found = [(name, self.component(name)) for name in wanted]
        return [part for _, part in found if part], [name for name, part in found if part is None]

    def open_incidents(self, wanted: Sequence[str] = ()) -> list[PageIncident]:
        """Return the incidents that are not over and touch one of the components `wanted` (all, when empty)."""
        ids = {part.id for part in self.watched(wanted)[0]}
        return [one for one in self.incidents if not one.over and (not wanted or one.affected & ids)]


def parse_summary(body: bytes, content_type: str, *, name: str | None = None) -> StatusPage:
    """Return the page in the answer to `/api/v2/summary.json`.

    Args:
        body: the answer as it came.
        content_type: its `Content-Type` header.
        name: what the page must call itself; None accepts any name.

    Raises:
        UnreadablePage: it is not JSON, lacks page, status or components, or is another page.
    """
    content = _page_json(body, content_type, name)
    status, parts = content.get("status"), content.get("components")
    if not isinstance(status, Mapping) or not isinstance(parts, list):
        raise UnreadablePage(
            "The status page has no status and components", fix="check status_page.url in the plan"
        )
    components = []
    for part in parts:
        try:
            components.append(PageComponent.model_validate(part))
        except ValidationError as error:
            raise UnreadablePage("A component of the status page has no id or name") from error
    return StatusPage(
        name=content["page"]["name"],
        indicator=_INDICATORS.get(_text(status.get("indicator")), "unknown"),
        components=tuple(components),
        incidents=_incidents(content.get("incidents")),
        maintenances=_incidents(content.get("scheduled_maintenances")),
    )


def parse_incidents(body: bytes, content_type: str, *, name: str | None = None) -> tuple[PageIncident, ...]:
    """Return the incidents in the answer to `/api/v2/incidents.json`, as the page orders them.

    Raises:
        UnreadablePage: it is not JSON, or not the page that it should be.
    """
    return _incidents(_page_json(body, content_type, name).get("incidents"))


def page_signal(page: StatusPage, wanted: Sequence[str], at: datetime) -> Signal:
    """Return what `page` says of the components `wanted` (ids or names; empty: the page's indicator).

    The worst component counts. Announced maintenance is neither good nor bad. A component that the page does not
    have makes the rest unknown when that is all well: the one that matters may be the missing one.
    """
    parts, missing = page.watched(wanted)
    if not wanted:
        verdict = _VERDICTS[page.indicator]
        seen = f"the status page says {_words(page.indicator)}"
    else:
        order: tuple[Verdict, ...] = ("bad", "degraded", "unknown", "good")
        verdicts = [_VERDICTS[part.status] for part in parts] + ["unknown" for _ in missing]
        verdict = next(level for level in order if level in verdicts)
        told = [f"{part.name} {_words(part.status)}" for part in parts]
        told += [f"{name} is not on it" for name in missing]
        seen = "the status page says " + ", ".join(told)
    incidents = page.open_incidents(wanted)
    started = [one.started_at for one in incidents if one.started_at]
    posted = [one.first_posted_at for one in incidents if one.first_posted_at]
    details = {
        "incidents": [{"id": one.id, "name": one.name, "impact": one.impact} for one in incidents],
        "impact_started_at": min(started).isoformat() if started else None,
        "status_posted_at": min(posted).isoformat() if posted else None,
        "missing_components": missing,
    }
    return Signal("status_page", verdict, seen, at, details)


def read_status_page(
    url: str, *, name: str | None, components: Sequence[str], at: datetime, timeout_seconds: float
) -> Signal:
    """Read the page at `url` and return its signal; an unreadable page gives `unknown` and says why.

    Redirects are not followed: outbound calls go only to hosts that the plan names.
    """
    address = url.rstrip("/") + "/api/v2/summary.json"
    try:
        with httpx.Client(timeout=timeout_seconds, headers={"Accept": "application/json"}) as client:
            with client.stream("GET", address) as answer:
                if answer.status_code != httpx.codes.OK:
                    raise UnreadablePage(f"The status page answered HTTP {answer.status_code}")
                body = bytearray()
                for chunk in answer.iter_bytes():
                    body += chunk
                    if len(body) > MAX_BYTES:
                        raise UnreadablePage("The status page answered more than a summary can be")
                page = parse_summary(bytes(body), answer.headers.get("content-type", ""), name=name)
    except UnreadablePage as error:
        return Signal("status_page", "unknown", f"the status page cannot be read: {error.what}", at)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        seen = f"the status page did not answer ({type(error).__name__})"
        return Signal("status_page", "unknown", seen, at, {"unreachable": True})
    return page_signal(page, components, at)


def _page_json(body: bytes, content_type: str, name: str | None) -> dict[str, Any]:
    kind = content_type.partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise UnreadablePage(f"The status page answered {kind or 'no content type'}, not JSON")
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UnreadablePage("The status page's JSON is damaged") from error
    page = content.get("page") if isinstance(content, dict) else None
    called = page.get("name") if isinstance(page, Mapping) else None
    if not isinstance(called, str) or not called.strip():
        raise UnreadablePage("The status page does not say whose it is")
    if name is not None and called.strip().casefold() != name.strip().casefold():
        raise UnreadablePage(
            f"The status page is that of {called!r}, not of {name!r}", fix="check status_page in the plan"
        )
    return dict(content)


def _incidents(value: object) -> tuple[PageIncident, ...]:
    """Return the incidents of a list; an absent key (incident.io) is none, a broken entry is left out."""
    found = []
    for one in value if isinstance(value, list) else ():
        try:
            found.append(PageIncident.model_validate(one))
        except ValidationError:
            continue
    return tuple(found)


def _component_status(value: object) -> ComponentStatus:
    text = _text(value)
    if text in _ALIASES:
        return _ALIASES[text]
    return next((known for known in _KNOWN if known == text), "unknown")


def _ids(value: object, key: str) -> frozenset[str]:
    parts = value if isinstance(value, list) else []
    return frozenset(
        part[key] for part in parts if isinstance(part, Mapping) and isinstance(part.get(key), str)
    )


def _words(status: ComponentStatus) -> str:
    return status.replace("_", " ")
