"""Reading a status page over HTTP: bounded in time and size, and only from the host that the plan names."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import httpx

from tasks.outages.deadline import within
from tasks.outages.dialects import read_page
from tasks.outages.errors import UnreadablePage
from tasks.outages.signals import Signal
from tasks.outages.statuspage import HARMLESS, PageIncident, StatusPage, page_signal, plain_text
from tasks.plan import StatusPagePlan

MAX_BYTES = 4 * 1024 * 1024
"""A longer answer is not a status page."""

_UTF_16_MARKS = (b"\xfe\xff", b"\xff\xfe")


def read_status_page(page: StatusPagePlan, *, at: datetime, timeout_seconds: float) -> Signal:
    """Read the page of the plan and return its signal; an unreadable page gives `unknown` and says why.

    Redirects are not followed: outbound calls go only to hosts that the plan names.

    Args:
        page: where it is, its dialect, its name, and the components that matter.
        at: the time of the pass.
        timeout_seconds: how long all of it may take.
    """
    try:
        read = within(timeout_seconds, lambda: _read(page, timeout_seconds))
    except UnreadablePage as error:
        return Signal("status_page", "unknown", f"the status page cannot be read: {error.what}", at)
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
        seen = f"the status page did not answer ({type(error).__name__})"
        return Signal("status_page", "unknown", seen, at, {"unreachable": True})
    except Exception as error:  # a defect in our reading of a page must not end the watch of a provider
        seen = f"the status page cannot be read ({type(error).__name__})"
        return Signal("status_page", "unknown", seen, at, {"defect": True})
    return page_signal(read, page.components, at)


def past_incidents(page: StatusPagePlan, *, timeout_seconds: float) -> list[tuple[datetime, datetime]]:
    """Return when each earlier incident of the components that matter began and ended, as the page states.

    Only the dialects of Statuspage show what is over; for any other, and for a page that cannot be read, nothing.
    """
    if page.kind not in ("statuspage", "incident_io"):
        return []
    try:
        incidents = within(timeout_seconds, lambda: _history(page, timeout_seconds))
    except (UnreadablePage, httpx.HTTPError, httpx.InvalidURL, TimeoutError):
        return []
    wanted = {one.casefold() for one in page.components}
    return [
        (one.started_at, one.resolved_at)
        for one in incidents
        if one.started_at
        and one.resolved_at
        and one.resolved_at > one.started_at
        and one.impact not in HARMLESS
        and (
            not wanted
            or not one.affected
            or wanted & {part.casefold() for part in (*one.affected, *one.named)}
        )
    ]


def parse_summary(body: bytes, content_type: str, *, name: str | None = None) -> StatusPage:
    """Return the page in the answer to `/api/v2/summary.json` of a Statuspage.

    Args:
        body: the answer as it came.
        content_type: its `Content-Type` header.
        name: what the page must call itself; None accepts any name.

    Raises:
        UnreadablePage: it is not JSON, lacks page, status or components, or is another page.
    """
    return read_page("statuspage", lambda _: page_json(body, content_type), (), name=name)


def parse_incidents(body: bytes, content_type: str, *, name: str | None = None) -> tuple[PageIncident, ...]:
    """Return the incidents in the answer to `/api/v2/incidents.json`, as the page orders them.

    Raises:
        UnreadablePage: it is not JSON, or not the page that it should be.
    """
    content = page_json(body, content_type)
    whole: dict[str, Any] = {"status": {}, "components": [], "scheduled_maintenances": []}
    if not isinstance(content, dict):
        raise UnreadablePage("The status page does not say whose it is")
    return read_page("statuspage", lambda _: {**content, **whole}, (), name=name).incidents


def page_json(body: bytes, content_type: str, *, utf_16: bool = False) -> Any:
    """Return the JSON in `body`.

    Args:
        body: the answer as it came.
        content_type: its `Content-Type` header, which must be that of JSON.
        utf_16: whether it must be UTF-16 with its mark, as AWS answers.

    Raises:
        UnreadablePage: it is something else, or damaged.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise UnreadablePage(f"The status page answered {plain_text(kind) or 'no content type'}, not JSON")
    if utf_16 and not body.startswith(_UTF_16_MARKS):
        raise UnreadablePage("The status page is not in UTF-16, as AWS Health is")
    try:
        return json.loads(body.decode("utf-16") if utf_16 else body, parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        raise UnreadablePage("The status page's JSON is damaged") from error


def _refused(constant: str) -> None:
    raise ValueError(constant)


def _history(page: StatusPagePlan, timeout_seconds: float) -> tuple[PageIncident, ...]:
    with httpx.Client(timeout=timeout_seconds, headers={"Accept": "application/json"}) as client:
        body, kind = _fetch(client, page.url.rstrip("/") + "/api/v2/incidents.json")
    return parse_incidents(body, kind, name=page.name)


def _read(page: StatusPagePlan, timeout_seconds: float) -> StatusPage:
    with httpx.Client(timeout=timeout_seconds, headers={"Accept": "application/json"}) as client:

        def ask(*paths: str, utf_16: bool = False) -> Any:
            for path in paths[:-1]:
                try:
                    return _answer(client, page.url.rstrip("/") + path, utf_16=utf_16)
                except UnreadablePage:
                    continue
            return _answer(client, page.url.rstrip("/") + paths[-1], utf_16=utf_16)

        return read_page(page.kind, ask, page.components, name=page.name)


def _answer(client: httpx.Client, address: str, *, utf_16: bool) -> Any:
    body, kind = _fetch(client, address)
    return page_json(body, kind, utf_16=utf_16)


def _fetch(client: httpx.Client, address: str) -> tuple[bytes, str]:
    with client.stream("GET", address) as answer:
        if answer.status_code != httpx.codes.OK:
            raise UnreadablePage(f"The status page answered HTTP {answer.status_code}")
        body = bytearray()
        for chunk in answer.iter_bytes():
            body += chunk
            if len(body) > MAX_BYTES:
                raise UnreadablePage("The status page answered more than a status page can be")
        return bytes(body), answer.headers.get("content-type", "")
