"""Every dialect of status page becomes one shape, and nothing that a page may answer reads as all clear by accident."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.outages import Signal, UnreadablePage, page_json, page_signal, read_page, read_status_page
from tasks.plan import StatusPagePlan

PAGES = Path(__file__).parent / "data" / "pages"
NOW = datetime(2026, 3, 2, 9, 40, tzinfo=UTC)
STATUS_IO = "/1.0/status/0123456789abcdef01234567"
DIALECTS = ("statuspage", "incident_io", "instatus", "better_stack", "status_io", "sorry", "aws_health")
ADDRESSES = sorted({f"/{file.relative_to(case)}" for case in PAGES.glob("*/*") for file in case.rglob("*")})
ONE_PART = {"aws_health": ["ses-eu-west-1"]}


def answers(kind: str, case: str) -> dict[str, bytes]:
    """The bodies of one case by the path that they are asked for at."""
    folder = PAGES / kind / case
    return {f"/{file.relative_to(folder)}": file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def plan(kind: str, url: str = "https://status.example.com", **more: Any) -> StatusPagePlan:
    if kind == "status_io":
        url += STATUS_IO
    elif kind != "aws_health":
        more.setdefault("name", "Example ESP")
    more.setdefault("components", ONE_PART.get(kind, ["Email sending"]))
    return StatusPagePlan(url=url, kind=kind, **more)


def mime(kind: str) -> str:
    return "application/json;charset=utf-16" if kind == "aws_health" else "application/json; charset=utf-8"


def read(page_server: Callable[..., str], kind: str, case: str, **more: Any) -> Signal:
    url = page_server(paths=answers(kind, case), kind=mime(kind))
    return read_status_page(plan(kind, url, **more), at=NOW, timeout_seconds=5)


@pytest.mark.parametrize(
    ("kind", "case", "verdict", "started", "posted"),
    [
        ("statuspage", "all_clear", "good", None, None),
        ("statuspage", "outage", "bad", "09:05", "09:20"),
        ("statuspage", "open_behind_green", "degraded", "09:05", "09:20"),
        ("incident_io", "all_clear", "good", None, None),
        ("incident_io", "null_when_empty", "good", None, None),
        ("incident_io", "outage", "bad", None, None),  # its incidents name no component
        ("incident_io", "open_behind_green", "unknown", None, None),
        ("instatus", "all_clear", "good", None, None),
        ("instatus", "outage", "bad", None, None),
        ("instatus", "open_behind_green", "unknown", None, None),
        ("better_stack", "all_clear", "good", None, None),
        ("better_stack", "outage", "bad", "09:05", "09:20"),
        ("better_stack", "open_behind_green", "degraded", "09:05", "09:20"),
        ("status_io", "all_clear", "good", None, None),
        ("status_io", "outage", "bad", "09:05", "09:20"),
        ("status_io", "security", "bad", "09:05", "09:20"),
        ("status_io", "open_behind_green", "degraded", "09:05", "09:20"),
        ("sorry", "all_clear", "good", None, None),
        ("sorry", "outage", "degraded", None, None),
        ("sorry", "open_behind_green", "unknown", None, None),
        ("aws_health", "all_clear", "good", None, None),
        ("aws_health", "nothing_open", "good", None, None),
        ("aws_health", "outage", "bad", "09:05", "09:20"),
        ("aws_health", "open_behind_green", "degraded", "09:05", "09:20"),
    ],
)
def test_a_page_is_read_in_its_dialect_over_http(
    page_server: Callable[..., str],
    kind: str,
    case: str,
    verdict: str,
    started: str | None,
    posted: str | None,
) -> None:
    signal = read(page_server, kind, case)
    assert signal.verdict == verdict, signal.seen

    def clock(name: str) -> str | None:
        stated = signal.details[name]
        return stated and datetime.fromisoformat(stated).strftime("%H:%M")

    assert (clock("impact_started_at"), clock("status_posted_at")) == (started, posted)


@pytest.mark.parametrize("kind", [one for one in DIALECTS if one != "aws_health"])
def test_without_components_the_page_as_a_whole_counts(page_server: Callable[..., str], kind: str) -> None:
    assert read(page_server, kind, "all_clear", components=[]).verdict == "good"
    whole = read(page_server, kind, "outage", components=[])
    assert whole.verdict == ("degraded" if kind == "sorry" else "bad")
    assert whole.details["impact_started_at"] == "2026-03-02T09:05:00+00:00"
    assert read(page_server, kind, "open_behind_green", components=[]).verdict == "degraded"


@pytest.mark.parametrize("kind", DIALECTS)
def test_a_component_that_the_page_does_not_have_is_unknown(
    page_server: Callable[..., str], kind: str
) -> None:
    assert read(page_server, kind, "all_clear", components=["Email sendng"]).verdict == "unknown"


@pytest.mark.parametrize("kind", [one for one in DIALECTS if one not in ("status_io", "aws_health")])
def test_the_page_of_somebody_else_is_unknown(page_server: Callable[..., str], kind: str) -> None:
    signal = read(page_server, kind, "all_clear", name="Another ESP")
    assert signal.verdict == "unknown"
    assert "'Example ESP', not of 'Another ESP'" in signal.seen


@pytest.mark.parametrize("kind", DIALECTS)
@pytest.mark.parametrize("case", ["all_clear", "outage"])
def test_a_page_read_in_another_dialect_is_never_all_clear(kind: str, case: str) -> None:
    bodies = answers(kind, case)
    for other in DIALECTS:
        if other == kind or {kind, other} == {"statuspage", "incident_io"}:
            continue
        for body in bodies.values():
            everywhere = dict.fromkeys((*bodies, *ADDRESSES), body)
            signal = signal_of(other, everywhere, mime(kind))
            assert signal is None or signal.verdict == "unknown"
    if kind == "incident_io":
        left_out = signal_of("statuspage", bodies, mime(kind))
        assert left_out is not None
        assert left_out.verdict == ("unknown" if case == "all_clear" else "bad")


def test_a_container_of_status_io_is_watched_by_its_full_name(page_server: Callable[..., str]) -> None:
    assert read(page_server, "status_io", "outage", components=["Email sending / US"]).verdict == "good"
    assert read(page_server, "status_io", "outage", components=["Email sending / EU"]).verdict == "bad"
    assert read(page_server, "status_io", "outage", components=["API / US"]).verdict == "good"


def test_two_components_of_one_name_are_told_apart_by_id_only(page_server: Callable[..., str]) -> None:
    assert read(page_server, "incident_io", "all_clear", components=["API"]).verdict == "unknown"
    one = read(page_server, "incident_io", "all_clear", components=["01JEXAMPLE0API000000000001"])
    assert one.verdict == "good"


def test_an_outage_of_another_region_is_not_ours_and_a_name_without_region_is_nobodys(
    page_server: Callable[..., str],
) -> None:
    assert read(page_server, "aws_health", "outage", components=["ses-us-east-1"]).verdict == "good"
    assert read(page_server, "aws_health", "outage", components=["ses-me-central-1"]).verdict == "bad"
    assert read(page_server, "aws_health", "nothing_open", components=["ses"]).verdict == "unknown"


def test_aws_health_in_another_encoding_is_not_aws_health(page_server: Callable[..., str]) -> None:
    for body in (
        b"[]",
        "[]".encode("utf-16-be"),
        "[]".encode("utf-16-le"),
        b"\xfe\xff\x00",
        b"\xfe\xff\x00[",
        b"\xef\xbb\xbf[]",
    ):
        url = page_server(paths={"/public/currentevents": body}, kind=mime("aws_health"))
        assert read_status_page(plan("aws_health", url), at=NOW, timeout_seconds=5).verdict == "unknown"
    url = page_server(paths={"/public/currentevents": "[]".encode("utf-16")}, kind=mime("aws_health"))
    assert read_status_page(plan("aws_health", url), at=NOW, timeout_seconds=5).verdict == "good"


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"kind": "status_io", "url": "https://api.status.io/1.0/status/abc"}, "24 hexadecimal"),
        ({"kind": "aws_health", "url": "https://health.aws.amazon.com"}, "name components"),
        (
            {"kind": "aws_health", "url": "https://x", "components": ["ses-eu-west-1"], "name": "AWS"},
            "leave name",
        ),
    ],
)
def test_a_plan_that_cannot_prove_whose_page_it_is_is_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        StatusPagePlan(**settings)


def test_a_page_that_drips_its_answer_costs_the_time_out_and_no_more(page_server: Callable[..., str]) -> None:
    url = page_server(b" " * 2_000, drip=True)
    signal = read_status_page(plan("statuspage", url), at=NOW, timeout_seconds=0.5)
    assert (signal.verdict, signal.details) == ("unknown", {"unreachable": True})


def test_a_page_that_sends_elsewhere_is_not_followed(page_server: Callable[..., str]) -> None:
    elsewhere = "http://127.0.0.1:1/api/v2/summary.json"
    for status in (301, 302, 307, 308):
        url = page_server(b"", status=status, location=elsewhere)
        signal = read_status_page(plan("statuspage", url), at=NOW, timeout_seconds=5)
        assert signal.seen == f"the status page cannot be read: The status page answered HTTP {status}"


def test_an_event_that_names_no_service_may_be_ours_and_is_not_all_clear() -> None:
    [(path, body)] = answers("aws_health", "outage").items()
    [elsewhere, ours] = decoded("aws_health", body)
    for broken in ({**ours, "service": None}, {**ours, "service": ""}, {**ours, "arn": 7}, None):
        assert (
            signal_of("aws_health", {path: encoded("aws_health", [elsewhere, broken])}, "application/json")
            is None
        )


def test_half_a_letter_in_a_post_does_not_stop_the_journal() -> None:
    [(path, body)] = answers("statuspage", "outage").items()
    content = body.replace(b"A database failed.", b"A \\ud800 database \\u0000 failed.")
    signal = signal_of("statuspage", {path: content}, "application/json")
    assert signal is not None
    assert "A ? database   failed." in signal.details["words"]


def test_times_that_no_clock_has_are_left_out(page_server: Callable[..., str]) -> None:
    [(path, body)] = answers("statuspage", "outage").items()
    for nonsense in (
        "9999-12-31T23:59:59-14:00",
        "0001-01-01T00:00:00+14:00",
        "2026-03-02T10:00:00Z",
        "soon",
    ):
        content = body.replace(b"2026-03-02T09:05:00.000Z", nonsense.encode())
        url = page_server(paths={path: content})
        signal = read_status_page(plan("statuspage", url), at=NOW, timeout_seconds=5)
        assert (signal.verdict, signal.details["impact_started_at"]) == ("bad", None)


# Fuzzing -------------------------------------------------------------------------------------------------------------

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(
        ["operational", "UP", "resolved", "none", "", "\ud800", "0", "100", "9999-12-31T23:59:59Z"]
    )
)
JUNK = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "name"]), inner),
    max_leaves=6,
)


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value that a mutation may change."""
    inside = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(found for key, child in inside for found in places(child, (*path, key)))]


NOTHING = (
    st.none()
    | st.booleans()
    | st.integers(10**4, 10**30)
    | st.floats()
    | st.lists(st.none() | st.integers(10**4))
)
"""What no dialect takes for a word of its own: nothing that it could say all clear with."""


def mutated(data: st.DataObject, content: Any, junk: st.SearchStrategy[Any]) -> Any:
    """`content` with up to three of its places removed or replaced; a list keeps its rows."""
    content = copy.deepcopy(content)
    for _ in range(data.draw(st.integers(1, 3))):
        found = [one for one in places(content) if one]
        if not found:
            return content
        *path, last = data.draw(st.sampled_from(found))
        node = content
        for step in path:
            node = node[step]
        if isinstance(node, dict) and data.draw(st.booleans()):
            del node[last]
        else:
            node[last] = data.draw(junk)
    return content


def signal_of(kind: str, bodies: dict[str, bytes], content_type: str) -> Signal | None:
    """What the page says, as the monitor would see it; None where it is unreadable."""
    settings = plan(kind)

    def ask(*paths: str, utf_16: bool = False) -> Any:
        for path in paths:
            address = STATUS_IO if kind == "status_io" else path
            if address in bodies:
                return page_json(bodies[address], content_type, utf_16=utf_16)
        raise UnreadablePage("HTTP 404")

    try:
        page = read_page(settings.kind, ask, settings.components, name=settings.name)
    except UnreadablePage:
        return None
    signal = page_signal(page, settings.components, NOW)
    json.dumps(signal.to_dict(), allow_nan=False, ensure_ascii=False).encode()  # it goes into the journal
    signal.seen.encode()
    return signal


def encoded(kind: str, content: Any) -> bytes:
    text = json.dumps(content)
    return b"\xfe\xff" + text.encode("utf-16-be") if kind == "aws_health" else text.encode()


def decoded(kind: str, body: bytes) -> Any:
    return json.loads(body.decode("utf-16") if kind == "aws_health" else body)


def damage(kind: str, data: st.DataObject) -> None:
    """Damage one answer of a page in an outage: whatever is lost of it, what is left is not all clear."""
    bodies = answers(kind, "outage")
    path = data.draw(st.sampled_from(sorted(bodies)))
    how = data.draw(st.sampled_from(["mutate", "mutate", "cut", "html", "missing", "other page"]))
    content_type, whole = mime(kind), bodies[path]
    if how == "mutate":
        bodies[path] = encoded(kind, mutated(data, decoded(kind, whole), NOTHING))
    elif how == "cut":
        bodies[path] = whole[: data.draw(st.integers(0, len(whole) - 3))]
    elif how == "html":
        content_type = data.draw(
            st.sampled_from(["text/html", "", "text/plain", "application/xml", "\udcff"])
        )
    elif how == "other page":
        bodies[path] = encoded(kind, data.draw(JUNK | st.just({"page": {"name": "Example ESP"}})))
        if kind == "aws_health":
            bodies[path] += b"\x00]"
    else:
        del bodies[path]
    signal = signal_of(kind, bodies, content_type)
    assert signal is None or signal.verdict != "good", signal.seen


def disturb(kind: str, data: st.DataObject) -> None:
    """Change one answer of any page in any way: the monitor reads it or refuses it."""
    bodies = answers(kind, data.draw(st.sampled_from(["outage", "all_clear", "open_behind_green"])))
    path = data.draw(st.sampled_from(sorted(bodies)))
    whole = bodies[path]
    how = data.draw(st.sampled_from(["mutate", "bytes", "encoding"]))
    if how == "mutate":
        bodies[path] = encoded(kind, mutated(data, decoded(kind, whole), JUNK))
    elif how == "bytes":
        place = data.draw(st.integers(0, len(whole) - 1))
        bodies[path] = whole[:place] + data.draw(st.binary(max_size=4)) + whole[place + 1 :]
    else:
        text = whole.decode("utf-16") if kind == "aws_health" else whole.decode()
        bodies[path] = text.encode(
            data.draw(st.sampled_from(["utf-32", "cp037", "utf-7", "utf-16-le"])), "replace"
        )
    signal = signal_of(kind, bodies, mime(kind))
    assert signal is None or signal.verdict in ("good", "degraded", "bad", "unknown")


KINDS = st.sampled_from(DIALECTS)
SLOWLY = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=100, deadline=None, suppress_health_check=SLOWLY)
@given(KINDS, st.data())
def test_whatever_is_lost_of_a_page_in_an_outage_the_rest_is_not_all_clear(
    kind: str, data: st.DataObject
) -> None:
    damage(kind, data)


@settings(max_examples=60, deadline=None, suppress_health_check=SLOWLY)
@given(KINDS, st.data())
def test_no_page_breaks_the_monitor(kind: str, data: st.DataObject) -> None:
    disturb(kind, data)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None, suppress_health_check=SLOWLY)
@given(KINDS, st.data())
def test_thousands_of_damaged_pages_are_never_all_clear(kind: str, data: st.DataObject) -> None:
    damage(kind, data)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None, suppress_health_check=SLOWLY)
@given(KINDS, st.data())
def test_thousands_of_pages_do_not_break_the_monitor(kind: str, data: st.DataObject) -> None:
    disturb(kind, data)
