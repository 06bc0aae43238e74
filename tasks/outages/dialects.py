"""The dialects of status pages: where each is asked, and how its answers become a `StatusPage`.

Each vendor's entries are translated into those of Statuspage v2, the most common one. `statuspage` and `incident_io`
answer the same address in the same shape; the clone leaves out (or sets to null) what is empty, which in Atlassian's
own form would be damage. A dialect is named in the plan and never guessed: vendors imitate each other's addresses, and
a page read in the wrong dialect may look empty, which is to say all clear.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from tasks.outages.errors import UnreadablePage
from tasks.outages.statuspage import (
    ComponentStatus,
    PageComponent,
    PageIncident,
    StatusPage,
    incidents_of,
    plain_text,
)
from tasks.plan import StatusPageKind

Ask = Callable[..., Any]
"""Asks the page for the JSON below one path (or the first of several that exists); raises `UnreadablePage`."""

_PAGES_OF_COMPONENTS = 4


def read_page(
    kind: StatusPageKind, ask: Ask, wanted: Sequence[str], *, name: str | None = None
) -> StatusPage:
    """Return the page that `ask` reaches, in the dialect `kind`.

    Args:
        kind: its dialect.
        ask: gives the JSON at a path of the page.
        wanted: the components that matter, by id or name: some dialects show them at a further address.
        name: what the page must call itself; None accepts any name.

    Raises:
        UnreadablePage: it is not what its dialect says, or another page.
    """
    page = _READERS[kind](ask, wanted)
    if name is not None and page.name.strip().casefold() != name.strip().casefold():
        raise UnreadablePage(
            f"The status page is that of {page.name!r}, not of {name!r}", fix="check status_page in the plan"
        )
    return page


# Statuspage v2 -------------------------------------------------------------------------------------------------------


def _statuspage(ask: Ask, wanted: Sequence[str]) -> StatusPage:
    return _version_2(ask("/api/v2/summary.json"), empty_is_left_out=False)


def _incident_io(ask: Ask, wanted: Sequence[str]) -> StatusPage:
    return _version_2(ask("/api/v2/summary.json"), empty_is_left_out=True)


def _version_2(content: Any, *, empty_is_left_out: bool) -> StatusPage:
    status = _part(content, "status", dict)
    doubts: tuple[str, ...] = ()
    entries = {}
    for key in ("incidents", "scheduled_maintenances"):
        listed = content.get(key)
        if listed is None and empty_is_left_out:
            listed = []
        entries[key], unread = incidents_of(listed)
        doubts += unread
    return StatusPage(
        name=_name(_part(content, "page", dict)),
        indicator=_INDICATORS.get(plain_text(status.get("indicator")), "unknown"),
        components=_components(_part(content, "components", list), "name", "status", _SAME),
        incidents=entries["incidents"],
        maintenances=entries["scheduled_maintenances"],
        doubts=doubts,
    )


_INDICATORS: dict[str, ComponentStatus] = {
    "none": "operational",
    "minor": "degraded_performance",
    "major": "partial_outage",
    "critical": "major_outage",
    "maintenance": "under_maintenance",
}
_SAME: dict[object, ComponentStatus] = {
    "operational": "operational",
    "degraded_performance": "degraded_performance",
    "partial_outage": "partial_outage",
    "major_outage": "major_outage",
    "full_outage": "major_outage",  # incident.io
    "under_maintenance": "under_maintenance",
}


# Instatus ------------------------------------------------------------------------------------------------------------


def _instatus(ask: Ask, wanted: Sequence[str]) -> StatusPage:
    content = ask("/summary.json")
    page = _part(content, "page", dict)
    incidents, doubts = _translated(content.get("activeIncidents", []), _instatus_incident)
    maintenances, more = _translated(content.get("activeMaintenances", []), _instatus_maintenance)
    parts: tuple[PageComponent, ...] = ()
    if wanted:
        listed = ask("/v3/components.json", "/v2/components.json")
        # Documented as a bare list, seen as an object with a list.
        rows = listed if isinstance(listed, list) else _part(listed, "components", list)
        parts = _components(list(_with_children(rows)), "name", "status", _INSTATUS)
    indicator = _state(page.get("status"), _INSTATUS_PAGE)
    if indicator == "degraded_performance":
        levels = {one.impact for one in incidents if not one.over}
        indicator = next((state for impact, state in _HAS_ISSUES if impact in levels), indicator)
    return StatusPage(
        name=_name(page),
        indicator=indicator,
        components=parts,
        incidents=incidents,
        maintenances=maintenances,
        doubts=doubts + more,
    )


_INSTATUS: dict[object, ComponentStatus] = {
    "OPERATIONAL": "operational",
    "DEGRADEDPERFORMANCE": "degraded_performance",
    "MINOROUTAGE": "partial_outage",
    "PARTIALOUTAGE": "partial_outage",
    "MAJOROUTAGE": "major_outage",
    "UNDERMAINTENANCE": "under_maintenance",
}
_IMPACT_OF: dict[ComponentStatus, str] = {
    "operational": "none",
    "degraded_performance": "minor",
    "partial_outage": "major",
    "major_outage": "critical",
    "under_maintenance": "maintenance",
    "unknown": "unknown",
}
_INSTATUS_PAGE: dict[object, ComponentStatus] = {
    "UP": "operational",
    "HASISSUES": "degraded_performance",
    "UNDERMAINTENANCE": "under_maintenance",
}
_HAS_ISSUES: tuple[tuple[str, ComponentStatus], ...] = (
    ("critical", "major_outage"),
    ("major", "partial_outage"),
)


def _instatus_incident(entry: Mapping[str, Any]) -> dict[str, Any]:
    started = _javascript_time(entry.get("started"))
    impact = _IMPACT_OF[_state(entry.get("impact"), _INSTATUS)]
    return {
        "id": entry.get("id") or entry.get("url"),
        "name": entry.get("name"),
        "status": plain_text(entry.get("status")).lower(),
        "impact": "unknown" if impact == "maintenance" else impact,
        "started_at": started,
        "created_at": started,
    }


def _instatus_maintenance(entry: Mapping[str, Any]) -> dict[str, Any]:
    known = {"NOTSTARTEDYET": "scheduled", "INPROGRESS": "in_progress", "COMPLETED": "completed"}
    return {
        "id": entry.get("id") or entry.get("url"),
        "name": entry.get("name"),
        "status": known.get(plain_text(entry.get("status")), ""),
        "impact": "maintenance",
        "started_at": _javascript_time(entry.get("start")),
    }


def _with_children(rows: Sequence[Any]) -> Iterator[Any]:
    for row in rows:
        yield row
        children = row.get("children") if isinstance(row, Mapping) else None
        yield from children if isinstance(children, list) else ()


def _javascript_time(value: object) -> str | None:
    """Return in ISO 8601 what JavaScript prints of a date: `Sat Jun 11 2022 18:55:50 GMT+0000 (…)`."""
    text = plain_text(value)
    try:
        return datetime.strptime(text.partition(" (")[0], "%a %b %d %Y %H:%M:%S GMT%z").isoformat()
    except ValueError:
        return text or None


# Better Stack --------------------------------------------------------------------------------------------------------


def _better_stack(ask: Ask, wanted: Sequence[str]) -> StatusPage:
    content = ask("/index.json")
    data = _part(content, "data", dict)
    if data.get("type") != "status_page":
        raise UnreadablePage("The status page's JSON is not that of a status page")
    about = _part(data, "attributes", dict)
    included = [row for row in _part(content, "included", list) if isinstance(row, Mapping)]
    updates = {plain_text(row.get("id")): row for row in _of_type(included, "status_update")}
    reports, doubts = _translated(
        _of_type(included, "status_report"), lambda row: _better_stack_report(row, updates)
    )
    parts = [{**_inside(row), "id": row.get("id")} for row in _of_type(included, "status_page_resource")]
    return StatusPage(
        name=_name(about, "company_name"),
        indicator=_state(about.get("aggregate_state"), _BETTER_STACK),
        components=_components(parts, "public_name", "status", _BETTER_STACK),
        incidents=tuple(one for one in reports if one.impact != "maintenance"),
        maintenances=tuple(one for one in reports if one.impact == "maintenance"),
        doubts=doubts,
    )


_BETTER_STACK: dict[object, ComponentStatus] = {
    "operational": "operational",
    "degraded": "degraded_performance",
    "downtime": "major_outage",
    "maintenance": "under_maintenance",
}


def _better_stack_report(row: Mapping[str, Any], updates: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    about = _inside(row)
    linked = row.get("relationships")
    for step in ("status_updates", "data"):
        linked = linked.get(step) if isinstance(linked, Mapping) else None
    ids = [one.get("id") for one in linked if isinstance(one, Mapping)] if isinstance(linked, list) else []
    posts = [_inside(updates[key]) for key in map(plain_text, ids) if key in updates]
    touched = about.get("affected_resources")
    state = about.get("aggregate_state")
    planned = about.get("report_type") == "maintenance" or state == "maintenance"
    return {
        "id": row.get("id"),
        "name": about.get("title"),
        # `ends_at` may be null in a report that is over: its state counts.
        "status": "resolved" if state == "resolved" else "investigating",
        "impact": "maintenance" if planned else _IMPACT_OF[_state(state, _BETTER_STACK)],
        "started_at": about.get("starts_at"),
        "components": [
            {"id": one.get("status_page_resource_id")}
            for one in (touched if isinstance(touched, list) else [])
            if isinstance(one, Mapping)
        ],
        "incident_updates": [
            {"created_at": one.get("published_at"), "body": one.get("message")} for one in posts
        ],
    }


def _of_type(rows: Sequence[Mapping[str, Any]], wanted: str) -> list[Mapping[str, Any]]:
    return [row for row in rows if row.get("type") == wanted]


def _inside(row: Mapping[str, Any]) -> Mapping[str, Any]:
    about = row.get("attributes")
    return about if isinstance(about, Mapping) else {}


# Status.io -----------------------------------------------------------------------------------------------------------


def _status_io(ask: Ask, wanted: Sequence[str]) -> StatusPage:
    result = _part(ask(""), "result", dict)
    rows = _part(result, "status", list)
    maintenance = _part(result, "maintenance", dict)
    incidents, doubts = _translated(result.get("incidents"), _status_io_entry)
    planned, more = _translated(maintenance.get("active"), _status_io_entry)
    return StatusPage(
        name="",  # the answer names nobody: the page's id in the address is its identity
        indicator=_state(_part(result, "status_overall", dict).get("status_code"), _STATUS_IO),
        components=_components(list(_with_containers(rows)), "name", "status_code", _STATUS_IO),
        incidents=incidents,
        maintenances=planned,
        doubts=doubts + more,
    )


_STATUS_IO: dict[object, ComponentStatus] = {
    100: "operational",
    200: "under_maintenance",
    300: "degraded_performance",
    400: "partial_outage",
    500: "major_outage",
    600: "major_outage",  # a security event
}


def _with_containers(rows: Sequence[Any]) -> Iterator[Any]:
    """Return each component and each of its containers, which stand under several components with one id."""
    for row in rows:
        yield row
        inside = row.get("containers", []) if isinstance(row, Mapping) else []
        if not isinstance(inside, list):
            raise UnreadablePage("The status page's containers are not a list")
        for one in inside:
            if isinstance(one, Mapping):
                names = f"{plain_text(row.get('name'))} / {plain_text(one.get('name'))}"
                yield {**one, "id": f"{row.get('id')}/{one.get('id')}", "name": names}


def _status_io_entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    messages = entry.get("messages")
    posts = [one for one in messages if isinstance(one, Mapping)] if isinstance(messages, list) else []
    parts, containers = (
        [one.get("_id") or one.get("id") for one in listed if isinstance(one, Mapping)]
        if isinstance(listed := entry.get(key), list)
        else []
        for key in ("components_affected", "containers_affected")
    )
    levels = [_IMPACT_OF[_state(post.get("status"), _STATUS_IO)] for post in posts]
    return {
        "id": entry.get("_id") or entry.get("id"),
        "name": entry.get("name"),
        "status": "investigating",  # only active ones are shown
        "impact": next((level for level in levels if level not in ("none", "unknown")), "unknown"),
        "started_at": entry.get("datetime_open"),
        "created_at": entry.get("datetime_open"),
        "components": [
            {"id": one} for one in (*parts, *(f"{part}/{one}" for part in parts for one in containers))
        ],
        "incident_updates": [
            {"created_at": post.get("datetime"), "body": post.get("details")} for post in posts
        ],
    }


# Sorry ---------------------------------------------------------------------------------------------------------------


def _sorry(ask: Ask, wanted: Sequence[str]) -> StatusPage:
    page = _part(ask("/api/v1/status"), "page", dict)
    notices, doubts = _translated(_part(ask("/api/v1/notices"), "notices", list), _sorry_notice)
    rows: list[Any] = []
    if wanted:
        for number in range(1, _PAGES_OF_COMPONENTS + 1):
            content = ask("/api/v1/components" + ("" if number == 1 else f"?page={number}"))
            rows += _part(content, "components", list)
            meta = content.get("meta")
            if not isinstance(meta, Mapping) or not meta.get("next_page"):
                break
    return StatusPage(
        name=_name(page),
        indicator=_state(page.get("state"), _SORRY),
        components=_components(rows, "name", "state", _SORRY),
        incidents=tuple(one for one in notices if one.impact != "maintenance"),
        maintenances=tuple(one for one in notices if one.impact == "maintenance"),
        doubts=doubts,
    )


_SORRY: dict[object, ComponentStatus] = {
    "operational": "operational",
    "degraded": "degraded_performance",
    "partially-degraded": "degraded_performance",
    "under_maintenance": "under_maintenance",
}
_SORRY_STATES = {"recovering": "monitoring", "false_alarm": "resolved", "complete": "completed"}


def _sorry_notice(entry: Mapping[str, Any]) -> dict[str, Any]:
    state = plain_text(entry.get("state"))
    over = entry.get("timeline_state") in ("past_recent", "past_distant")
    touched = entry.get("components")
    latest = entry.get("latest_update")
    return {
        "id": entry.get("id"),
        "name": entry.get("subject"),
        "status": "resolved" if over else _SORRY_STATES.get(state, state),
        "impact": {"planned": "maintenance", "general": "none"}.get(plain_text(entry.get("type")), "minor"),
        "started_at": entry.get("began_at"),
        "created_at": entry.get("created_at") or entry.get("began_at"),
        "components": touched,
        "incident_updates": [
            {"body": entry.get("synopsis")},
            {"body": latest.get("content") if isinstance(latest, Mapping) else ""},
        ],
    }


# AWS Health ----------------------------------------------------------------------------------------------------------

AWS_SERVICE = re.compile(r"[a-z0-9-]+-(?P<region>[a-z]{2}(?:-gov|-iso[a-z]?)?-[a-z]+-\d)")
"""How AWS Health names a service in a region: `ses-eu-west-1`."""


def _aws_health(ask: Ask, wanted: Sequence[str]) -> StatusPage:
    """Read the list of open events: what is not in it works, so only names that can be in it count as operational."""
    content = ask("/public/currentevents", utf_16=True)
    if not isinstance(content, list):
        raise UnreadablePage("AWS Health did not answer a list of events")
    events = []
    for event in content:
        arn, service = (event.get("arn"), event.get("service")) if isinstance(event, Mapping) else ("", "")
        if not plain_text(arn).startswith("arn:aws") or not plain_text(service):
            raise UnreadablePage("AWS Health listed something that is no event")
        events.append(event)
    parts = [
        PageComponent(id=name, name=name, status=_aws_status(events, name, match["region"]))
        for name in wanted
        if (match := AWS_SERVICE.fullmatch(name))
    ]
    incidents, doubts = _translated(events, lambda event: _aws_event(event, wanted))
    return StatusPage(
        name="", indicator="unknown", components=tuple(parts), incidents=incidents, doubts=doubts
    )


_AWS: dict[object, ComponentStatus] = {
    "0": "operational",
    "1": "degraded_performance",  # "informational" is how each of their disruptions begins
    "2": "degraded_performance",
    "3": "major_outage",
}
_WORSE: tuple[ComponentStatus, ...] = (
    "operational",
    "unknown",
    "degraded_performance",
    "partial_outage",
    "major_outage",
)


def _aws_touches(event: Mapping[str, Any], service: str, region: str) -> ComponentStatus | None:
    """Return what `event` says of the service; None where it is about others."""
    status = _state(event.get("status"), _AWS)
    if event.get("service") == service:
        return status
    impacted = event.get("impacted_services")
    entry = impacted.get(service) if isinstance(impacted, Mapping) else None
    if isinstance(entry, Mapping):
        return "operational" if status == "operational" else _state(entry.get("current"), _AWS)
    whole_region = event.get("service") == f"multipleservices-{region}"
    return status if whole_region and not isinstance(impacted, Mapping) else None


def _aws_status(events: Sequence[Mapping[str, Any]], service: str, region: str) -> ComponentStatus:
    told = [state for event in events if (state := _aws_touches(event, service, region))]
    return max(told, key=_WORSE.index, default="operational")


def _aws_event(event: Mapping[str, Any], wanted: Sequence[str]) -> dict[str, Any]:
    log = event.get("event_log")
    posts = [one for one in log if isinstance(one, Mapping)] if isinstance(log, list) else []
    touched = [
        {"id": name}
        for name in wanted
        if (match := AWS_SERVICE.fullmatch(name)) and _aws_touches(event, name, match["region"])
    ]
    status = _state(event.get("status"), _AWS)
    return {
        "id": event.get("arn"),
        "name": f"{plain_text(event.get('service_name'))}: {plain_text(event.get('summary'))}",
        "status": "resolved" if status == "operational" else "investigating",
        "impact": _IMPACT_OF[status],
        "started_at": _epoch(event.get("date")),
        "created_at": _epoch(event.get("date")),
        # One that is not about ours names its own service, so that it is not taken for one that may be about ours.
        "components": touched or [{"id": event.get("service")}],
        "incident_updates": [
            {"created_at": _epoch(one.get("timestamp")), "body": one.get("message")} for one in posts
        ],
    }


def _epoch(value: object) -> str | None:
    try:
        return datetime.fromtimestamp(int(str(value)), UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return None


# All -----------------------------------------------------------------------------------------------------------------

_READERS: dict[StatusPageKind, Callable[[Ask, Sequence[str]], StatusPage]] = {
    "statuspage": _statuspage,
    "incident_io": _incident_io,
    "instatus": _instatus,
    "better_stack": _better_stack,
    "status_io": _status_io,
    "sorry": _sorry,
    "aws_health": _aws_health,
}


def _part(content: Any, key: str, kind: type) -> Any:
    part = content.get(key) if isinstance(content, Mapping) else None
    if not isinstance(part, kind):
        raise UnreadablePage(
            f"The status page's JSON has no {key!r} where its dialect has one",
            fix="check status_page.url and status_page.kind in the plan",
        )
    return part


def _name(about: Mapping[str, Any], key: str = "name") -> str:
    called = plain_text(about.get(key))
    if not called.strip():
        raise UnreadablePage("The status page does not say whose it is")
    return called


def _state(value: object, known: Mapping[object, ComponentStatus]) -> ComponentStatus:
    return (
        known.get(value, "unknown")
        if isinstance(value, str | int) and not isinstance(value, bool)
        else "unknown"
    )


def _components(
    rows: Sequence[Any], name: str, status: str, known: Mapping[object, ComponentStatus]
) -> tuple[PageComponent, ...]:
    try:
        return tuple(
            PageComponent.model_validate(
                {"id": row["id"], "name": row[name], "status": _state(row.get(status), known)}
            )
            for row in rows
        )
    except (ValidationError, KeyError, TypeError, AttributeError) as error:
        raise UnreadablePage("A component of the status page has no id or name") from error


def _translated(
    rows: Any, translate: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> tuple[tuple[PageIncident, ...], tuple[str, ...]]:
    if not isinstance(rows, list):
        return incidents_of(rows)
    return incidents_of([translate(row) if isinstance(row, Mapping) else row for row in rows])
