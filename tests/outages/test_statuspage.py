"""Status pages: believed only as themselves; unreadable is unknown and never down."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.outages import UnreadablePage, page_signal, parse_incidents, parse_summary, read_status_page
from tasks.plan import StatusPagePlan

DATA = Path(__file__).parents[2] / "data"
NOW = datetime(2011, 11, 16, 7, 0, tzinfo=UTC)


def part(name: str, status: str, key: str | None = None, **more: Any) -> dict[str, Any]:
    return {"id": key or name.lower().replace(" ", "-"), "name": name, "status": status, **more}


def summary(*parts: dict[str, Any], indicator: str = "none", **more: Any) -> dict[str, Any]:
    return {
        "page": {"id": "kctbh9vrtdwd", "name": "Example ESP", "url": "https://status.example.com"},
        "status": {"indicator": indicator, "description": "…"},
        "components": list(parts),
        "incidents": [],
        "scheduled_maintenances": [],
        **more,
    }


def verdict(content: Any, *wanted: str) -> str:
    page = parse_summary(json.dumps(content).encode(), "application/json; charset=utf-8")
    return page_signal(page, wanted, NOW).verdict


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("operational", "good"),
        ("degraded_performance", "degraded"),
        ("partial_outage", "bad"),
        ("major_outage", "bad"),
        ("full_outage", "bad"),  # incident.io
        ("under_maintenance", "unknown"),
        ("something new", "unknown"),
        (None, "unknown"),
        (7, "unknown"),
    ],
)
def test_a_components_status_becomes_a_verdict(status: Any, expected: str) -> None:
    assert verdict(summary(part("Email sending", status)), "Email sending") == expected


@pytest.mark.parametrize(
    ("indicator", "expected"),
    [
        ("none", "good"),
        ("minor", "degraded"),
        ("major", "bad"),
        ("critical", "bad"),
        ("maintenance", "unknown"),
        ("?", "unknown"),
    ],
)
def test_without_components_in_the_plan_the_indicator_counts(indicator: str, expected: str) -> None:
    assert verdict(summary(part("API", "operational"), indicator=indicator)) == expected


def test_a_page_that_contradicts_itself_is_not_all_clear() -> None:
    assert verdict(summary(part("API", "major_outage"), indicator="none")) == "unknown"


def test_only_the_components_that_matter_count() -> None:
    page = summary(
        part("Email sending", "operational"), part("Landing pages", "major_outage"), indicator="critical"
    )
    assert verdict(page, "Email sending") == "good"
    assert verdict(page, "Email sending", "Landing pages") == "bad"


def test_components_are_keyed_by_id_because_names_are_not_unique() -> None:
    page = summary(part("API", "operational", "01HQ"), part("API", "major_outage", "01HR"))
    assert verdict(page, "01HQ") == "good"
    assert verdict(page, "01HR") == "bad"
    assert verdict(page, "API") == "unknown", "two are called so: which one matters is not known"


def test_a_component_that_is_not_on_the_page_keeps_a_green_page_from_being_good() -> None:
    page = summary(part("API", "operational"))
    signal = page_signal(
        parse_summary(json.dumps(page).encode(), "application/json"), ["API", "Sending"], NOW
    )
    assert signal.verdict == "unknown"
    assert signal.details["missing_components"] == ["Sending"]


@pytest.mark.parametrize("broken", [None, {}, [7], [{"name": "no id"}], "none"])
def test_incidents_that_cannot_be_read_keep_a_page_from_being_all_clear(broken: Any) -> None:
    page = summary(part("API", "operational"), incidents=broken)
    assert verdict(page, "API") == "unknown"
    assert verdict(summary(part("API", "major_outage"), incidents=broken), "API") == "bad"


def test_the_signal_carries_what_the_vendor_says_about_the_start_and_its_first_post() -> None:
    incident = {
        "id": "w554d74dv18j",
        "name": "Delayed e-mail",
        "status": "investigating",
        "impact": "major",
        "started_at": "2011-11-16T06:05:00.000Z",
        "created_at": "2011-11-16T06:40:00.000Z",
        "components": [{"id": "email-sending"}],
        "incident_updates": [
            {"status": "investigating", "created_at": "2011-11-16T06:40:00Z", "affected_components": None}
        ],
    }
    over = {**incident, "id": "other", "status": "postmortem", "started_at": "2011-11-10T00:00:00Z"}
    elsewhere = {
        **incident,
        "id": "third",
        "components": [{"id": "landing"}],
        "started_at": "2011-11-16T01:00:00Z",
    }
    page = summary(
        part("Email sending", "major_outage"),
        part("Landing", "operational"),
        incidents=[over, elsewhere, incident],
    )
    read = parse_summary(json.dumps(page).encode(), "application/json")
    details = page_signal(read, ["Email sending"], NOW).details
    assert details["impact_started_at"] == "2011-11-16T06:05:00+00:00"
    assert details["status_posted_at"] == "2011-11-16T06:40:00+00:00"
    assert [one["id"] for one in details["incidents"]] == ["w554d74dv18j"]


@pytest.mark.parametrize(
    ("body", "kind", "why"),
    [
        (b"<html>", "text/html", "not JSON"),
        (b"{}", "", "no content type"),
        (b"{", "application/json", "damaged"),
        (b"\xff\xfe\x00", "application/json", "damaged"),
        (b"[" * 100_000, "application/json", "damaged"),
        (b"[]", "application/json", "no 'status'"),
        (
            b'{"page": {"name": " "}, "status": {}, "components": []}',
            "application/json",
            "whose it is",
        ),
        (b'{"page": {"name": "Example ESP"}}', "application/json", "no 'status'"),
        (
            b'{"page": {"name": "Example ESP"}, "status": {}, "components": [{}]}',
            "application/json",
            "no id or name",
        ),
        (
            json.dumps({**summary(), "page": {"name": "Other"}}).encode(),
            "application/json",
            "'Other', not of",
        ),
    ],
)
def test_what_is_not_the_page_of_the_plan_is_unreadable(body: bytes, kind: str, why: str) -> None:
    with pytest.raises(UnreadablePage, match=why):
        parse_summary(body, kind, name="Example ESP")


def test_every_shape_of_a_real_page_is_read(github_incidents: bytes) -> None:
    incidents = parse_incidents(github_incidents, "application/json", name="GitHub")
    assert len(incidents) == 11
    assert {one.impact for one in incidents} == {"none", "minor", "major", "critical"}
    assert all(one.over and one.started_at and one.first_posted_at for one in incidents)
    assert sum(not one.affected for one in incidents) == 5


@pytest.fixture(scope="module")
def thirteen_years() -> bytes:
    """1,282 incidents with 2,801 posts of one real Statuspage, 2010 to 2023 (Unlicense)."""
    return gzip.decompress((DATA / "outages" / "github.json.gz").read_bytes())


def test_thirteen_years_of_a_real_page_are_read_without_loss(thirteen_years: bytes) -> None:
    raw = json.loads(thirteen_years)["incidents"]
    read = parse_incidents(thirteen_years, "application/json", name="GitHub")
    assert (len(read), sum(len(one.updates) for one in read)) == (1_282, 2_801)
    assert [one.id for one in read] == [one["id"] for one in raw]
    assert all(one.over and one.started_at and one.resolved_at and one.first_posted_at for one in read)
    assert sum(bool(one.affected) for one in read) == sum(
        bool(one.get("components") or any(post["affected_components"] for post in one["incident_updates"]))
        for one in raw
    )


def test_every_post_of_thirteen_years_changes_the_page_as_it_was_that_minute(thirteen_years: bytes) -> None:
    """After each post, what the page showed of that incident is what the signal says of its components."""
    said = {"operational": "degraded", "degraded_performance": "degraded"}
    posts = 0
    for one in json.loads(thirteen_years)["incidents"][:200]:
        for index, post in reversed(list(enumerate(one["incident_updates"]))):
            at = datetime.fromisoformat(post["created_at"])
            touched = post["affected_components"] or []
            if not touched or post["status"] in ("resolved", "postmortem", "monitoring"):
                continue
            shown = {**one, "status": post["status"], "incident_updates": one["incident_updates"][index:]}
            page = summary(
                *(part(each["name"], each["new_status"], each["code"]) for each in touched),
                incidents=[shown],
            )
            signal = page_signal(
                parse_summary(json.dumps(page).encode(), "application/json"), [touched[0]["code"]], at
            )
            expected = said.get(touched[0]["new_status"], "bad")
            if one["impact"] == "none" and touched[0]["new_status"] == "operational":
                expected = "good"
            assert signal.verdict == expected, (one["id"], post["id"], signal.seen)
            assert signal.details["status_posted_at"] <= at.isoformat()
            posts += 1
    assert posts > 300


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["id", "name", "status", "components", "incidents", "started_at", "code", "group"]
            ),
            inner,
        )
    ),
    max_leaves=12,
)


@given(JSON, JSON, JSON)
def test_nonsense_inside_a_page_is_read_or_refused_and_never_breaks(
    parts: Any, incidents: Any, status: Any
) -> None:
    page = {"page": {"name": "Example ESP"}, "status": status, "components": parts, "incidents": incidents}
    body = json.dumps(page).encode()
    try:
        signal = page_signal(parse_summary(body, "application/json"), ["Email sending"], NOW)
    except UnreadablePage:
        return
    assert signal.verdict in ("good", "degraded", "bad", "unknown")


def read(url: str, name: str | None = "Example ESP") -> tuple[str, str]:
    page = StatusPagePlan(url=url, name=name, components=["Email sending"])
    signal = read_status_page(page, at=NOW, timeout_seconds=2)
    return signal.verdict, signal.seen


def test_a_page_is_read_over_http(page_server: Callable[..., str]) -> None:
    url = page_server(json.dumps(summary(part("Email sending", "major_outage"))).encode())
    assert read(url + "/") == ("bad", "the status page says Email sending major outage")


def test_any_failure_of_the_page_is_unknown(page_server: Callable[..., str]) -> None:
    good = json.dumps(summary(part("Email sending", "operational"))).encode()
    assert read(page_server(b"<html>ok</html>", "text/html"))[0] == "unknown"
    assert read(page_server(good, status=503)) == (
        "unknown",
        "the status page cannot be read: The status page answered HTTP 503",
    )
    assert read(page_server(b" " * 5_000_000))[0] == "unknown"
    assert read(page_server(b"", status=302, location="http://127.0.0.1:1/"))[0] == "unknown"
    assert read("http://127.0.0.1:1") == ("unknown", "the status page did not answer (ConnectError)")
    assert read("nonsense")[0] == "unknown"
    assert read(page_server(good), name="Another ESP")[0] == "unknown"
    assert read(page_server(good))[0] == "good"
