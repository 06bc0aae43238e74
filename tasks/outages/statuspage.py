"""What a status page says, in one shape for all vendors' dialects (`dialects.py` reads them into it).

A page is believed only when it is JSON, has the shape, and says by name that it is the page of the plan; many vendors
answer any path with 200 and HTML. Everything else is `UnreadablePage`: unknown, never down. Components are keyed by
id, because names are not unique. Times and words that we do not know are left out, not guessed, and what could not be
read keeps a page from being all clear.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from tasks.outages.signals import Signal, Verdict

ComponentStatus = Literal[
    "operational", "degraded_performance", "partial_outage", "major_outage", "under_maintenance", "unknown"
]

SKEW = timedelta(minutes=5)
"""Clocks differ a little; what a page states of a time further ahead is not believed."""

_LONGEST_TEXT = 2_000
_VERDICTS: dict[ComponentStatus, Verdict] = {
    "operational": "good",
    "degraded_performance": "degraded",
    "partial_outage": "bad",
    "major_outage": "bad",
    "under_maintenance": "unknown",
    "unknown": "unknown",
}
_WORST_FIRST: tuple[Verdict, ...] = ("bad", "degraded", "unknown", "good")
_OVER = ("resolved", "postmortem", "completed")
HARMLESS = ("none", "maintenance")
"""Impacts of incidents that stop nothing."""


def plain_text(value: object) -> str:
    """Return a text that can be stored and shown wherever it goes: no lone surrogates or control characters."""
    if not isinstance(value, str):
        return ""
    known = value[:_LONGEST_TEXT].encode("utf-8", "replace").decode()
    return "".join(letter if letter.isprintable() else " " for letter in known)


def page_time(value: object) -> datetime | None:
    """Return the moment that `value` states in ISO 8601, in UTC; None for anything else."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _id(value: object) -> str:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else plain_text(value)


_Text = Annotated[str, BeforeValidator(plain_text)]
_Id = Annotated[str, BeforeValidator(_id), Field(min_length=1)]
_Moment = Annotated[datetime | None, BeforeValidator(page_time)]


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class PageComponent(_Lenient):
    """One part of the provider's service."""

    id: _Id
    name: _Text
    status: ComponentStatus = "unknown"


class PageUpdate(_Lenient):
    """One post of the vendor about an incident."""

    status: _Text = ""
    body: _Text = ""
    posted_at: _Moment = Field(None, validation_alias="display_at")
    created_at: _Moment = None
    affected: frozenset[str] = Field(frozenset(), validation_alias="affected_components")

    @field_validator("affected", mode="before")
    @classmethod
    def _affected(cls, value: object) -> frozenset[str]:
        return _ids(value, "code")


class PageIncident(_Lenient):
    """What the vendor says about one incident or one announced maintenance."""

    id: _Id
    name: _Text = ""
    status: _Text = ""
    impact: _Text = ""
    started_at: _Moment = None
    created_at: _Moment = None
    resolved_at: _Moment = None
    component_ids: frozenset[str] = Field(frozenset(), validation_alias="components")
    named: frozenset[str] = frozenset()
    updates: tuple[PageUpdate, ...] = Field((), validation_alias="incident_updates")

    @model_validator(mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        return (
            {**value, "named": _ids(value.get("components"), "name")} if isinstance(value, Mapping) else value
        )

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
    def hurting(self) -> bool:
        """Whether the vendor says that something does not work because of it, and no fix is in yet."""
        return not self.over and self.status != "monitoring" and self.impact not in HARMLESS

    @property
    def words(self) -> str:
        """All that the vendor wrote about it."""
        return " ".join([self.name, *(update.body for update in self.updates)])

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
    """A page that was read and is the one it should be.

    Attributes:
        name: what it calls itself; empty in the dialects that name nobody.
        indicator: the state of the whole.
        components: its parts.
        incidents: those that the vendor shows, open ones and some that are over.
        maintenances: announced ones.
        doubts: what of it could not be read: with any, the page is not all clear.
    """

    name: str
    indicator: ComponentStatus
    components: tuple[PageComponent, ...]
    incidents: tuple[PageIncident, ...] = ()
    maintenances: tuple[PageIncident, ...] = ()
    doubts: tuple[str, ...] = ()

    def component(self, wanted: str) -> PageComponent | None:
        """Return the only component with the id `wanted`, or the only one with that name (case does not matter)."""
        named = [part for part in self.components if part.id == wanted] or [
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


def page_signal(page: StatusPage, wanted: Sequence[str], at: datetime) -> Signal:
    """Return what `page` says of the components `wanted` (ids or names; empty: the page as a whole).

    The worst component counts. Announced maintenance is neither good nor bad. An open incident of one of them is
    degraded at least, whatever colour the component still has. The page is good only if nothing speaks against it: a
    component that it does not have, an incident that names no component, components that contradict the whole, or
    anything that could not be read makes it unknown.
    """
    parts, missing = page.watched(wanted)
    if wanted:
        told = [f"{part.name} {_words(part.status)}" for part in parts]
        told += [f"{plain_text(name)} is not on it" for name in missing]
        verdicts = [_VERDICTS[part.status] for part in parts] + ["unknown" for _ in missing]
    else:
        told, verdicts = [_words(page.indicator)], [_VERDICTS[page.indicator]]
    incidents = page.open_incidents(wanted)
    hurting = [one for one in incidents if one.hurting]
    if hurting:
        verdicts.append("degraded")
        told += [f"{one.name!r} is open" for one in hurting[:3]]
    verdict = next(level for level in _WORST_FIRST if level in verdicts)
    against = _against(page, wanted)
    if verdict == "good" and against:
        verdict, told = "unknown", told + against
    started = _stated((one.started_at for one in incidents), at)
    posted = _stated((one.first_posted_at for one in incidents), at)
    details = {
        "incidents": [{"id": one.id, "name": one.name, "impact": one.impact} for one in incidents],
        "impact_started_at": min(started).isoformat() if started else None,
        "status_posted_at": min(posted).isoformat() if posted else None,
        "missing_components": missing,
        "words": " ".join(one.words for one in incidents)[:_LONGEST_TEXT],
    }
    return Signal("status_page", verdict, "the status page says " + ", ".join(told), at, details)


def incidents_of(value: object) -> tuple[tuple[PageIncident, ...], tuple[str, ...]]:
    """Return the incidents of a list and, in words, what of it could not be read."""
    if not isinstance(value, list):
        return (), ("its incidents cannot be read",)
    found, broken = [], 0
    for one in value:
        try:
            found.append(PageIncident.model_validate(one))
        except ValidationError:
            broken += 1
    return tuple(found), ("an incident on it cannot be read",) if broken else ()


def _against(page: StatusPage, wanted: Sequence[str]) -> list[str]:
    """Return what keeps a page that looks good from being all clear."""
    against = list(page.doubts)
    if any(one.hurting and not one.affected for one in page.incidents):
        against.append("an open incident names no component")
    if not wanted and any(_VERDICTS[part.status] in ("bad", "degraded") for part in page.components):
        against.append("a component says otherwise")
    return against


def _stated(times: Iterable[datetime | None], at: datetime) -> list[datetime]:
    return [time for time in times if time is not None and time <= at + SKEW]


def _ids(value: object, key: str) -> frozenset[str]:
    parts = value if isinstance(value, list) else []
    return frozenset(_id(part.get(key)) for part in parts if isinstance(part, Mapping)) - {""}


def _words(status: ComponentStatus) -> str:
    return status.replace("_", " ")
