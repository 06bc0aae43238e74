"""The simulated API answers as listmonk's documentation says."""

from __future__ import annotations

import asyncio
import base64
import functools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tasks.drills.esp import schema
from tasks.drills.esp.api import build_api
from tasks.drills.esp.transport import Outgoing

Make = Callable[..., Any]


class Client:
    """Asks an ASGI application, without a network."""

    def __init__(self, application: Any, auth: tuple[str, str] | None = None) -> None:
        self._transport = httpx.ASGITransport(application)
        self.auth = auth

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            client = httpx.AsyncClient(
                transport=self._transport, base_url="http://esp.example", auth=self.auth
            )
            return await client.request(method, path, **arguments)

        return asyncio.run(ask())

    get = functools.partialmethod(request, "GET")
    post = functools.partialmethod(request, "POST")
    put = functools.partialmethod(request, "PUT")
    patch = functools.partialmethod(request, "PATCH")
    delete = functools.partialmethod(request, "DELETE")


USER, TOKEN = "mailstay", "secret"


@pytest.fixture
def served(bench: Make) -> tuple[Any, Client]:
    """An engine with 120 people and a client of its API (the ASGI application itself, no network)."""
    one = bench(120)
    return one, Client(build_api(one.engine, user=USER, token=TOKEN, seed=3), (USER, TOKEN))


def body(**fields: Any) -> dict[str, Any]:
    return {"name": "C", "subject": "s", "lists": [1], "body": "b", "content_type": "plain"} | fields


def make(client: Client, **fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = client.post("/api/campaigns", json=body(**fields)).json()["data"]
    return found


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 403),
        ("Basic !!!", 403),
        ("Bearer x", 403),
        ("token mailstay", 403),
        ("token mailstay:wrong", 403),
        ("token mailstay:secret", 200),
        ("Basic " + base64.b64encode(b"mailstay:secret").decode(), 200),
        ("Basic " + base64.b64encode(b"mailstay:wrong").decode(), 403),
    ],
)
def test_credentials_are_basic_or_token(served: tuple[Any, Client], header: str | None, status: int) -> None:
    _, client = served
    client.auth = None
    answer = client.get("/api/lists", headers={"Authorization": header} if header else {})
    assert answer.status_code == status
    assert set(answer.json()) == {"data"} if status == 200 else {"message"}


def test_health_is_public_and_says_true(served: tuple[Any, Client]) -> None:
    _, client = served
    client.auth = None
    assert client.get("/health").json() == {"data": True}
    assert client.get("/api/health").status_code == 403


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("GET", "/api/campaigns/999", None, 400),
        ("GET", "/api/campaigns/nonsense", None, 400),
        ("GET", "/api/subscribers/999", None, 400),
        ("GET", "/api/lists/999", None, 400),
        ("GET", "/api/bounces/999", None, 400),
        ("GET", "/api/templates/999", None, 400),
        ("GET", "/api/nothing", None, 404),
        ("PATCH", "/api/lists", {}, 405),
        ("POST", "/api/campaigns", body(name=""), 400),
        ("POST", "/api/campaigns", body(subject=" "), 400),
        ("POST", "/api/campaigns", body(lists=[]), 400),
        ("POST", "/api/campaigns", body(lists=[77]), 400),
        ("POST", "/api/campaigns", body(lists=["1"]), 400),
        ("POST", "/api/campaigns", body(send_at="2011-11-15T00:00:00Z"), 400),
        ("POST", "/api/campaigns", body(send_at="tomorrow"), 400),
        ("POST", "/api/campaigns", body(content_type="pdf"), 400),
        ("POST", "/api/campaigns", body(template_id=99), 400),
        ("POST", "/api/campaigns", ["not an object"], 400),
        ("POST", "/api/subscribers", {"email": "nobody"}, 400),
        ("POST", "/api/subscribers", {"email": "C1@shop.example"}, 409),
        ("PUT", "/api/subscribers/lists", {"ids": [1], "action": "explode", "target_list_ids": [1]}, 400),
        ("PUT", "/api/subscribers/lists", {"ids": [], "action": "add", "target_list_ids": [1]}, 400),
        ("PUT", "/api/subscribers/lists", {"ids": [1], "action": "add", "target_list_ids": []}, 400),
        ("PUT", "/api/subscribers/blocklist", {}, 400),
        ("GET", "/api/subscribers?list_id=x", None, 400),
        ("GET", "/api/subscribers?query=1%3B%20DROP%20TABLE%20lists", None, 400),
        ("GET", "/api/subscribers?query=no_such_column%3D1", None, 400),
        ("GET", "/api/campaigns?page=x", None, 400),
        ("GET", "/api/campaigns/analytics/views?id=1", None, 400),
        ("GET", "/api/campaigns/analytics/moods?id=1&from=2011-11-01&to=2011-12-01", None, 400),
        ("GET", "/api/maintenance/analytics/bounces/export", None, 400),
        ("POST", "/api/tx", {"subscriber_email": "a@b.example", "template_id": 1}, 400),
        ("DELETE", "/api/templates/1", None, 400),
        ("POST", "/subscription/x/y", None, 404),
    ],
)
def test_what_is_wrong_is_refused_with_a_message(
    served: tuple[Any, Client], method: str, path: str, content: Any, status: int
) -> None:
    _, client = served
    answer = (
        client.request(method, path, json=content) if content is not None else client.request(method, path)
    )
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"message"} and answer.json()["message"]


def test_a_body_that_is_not_json_is_refused(served: tuple[Any, Client]) -> None:
    _, client = served
    answer = client.post("/api/lists", content=b"{", headers={"Content-Type": "application/json"})
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("asked", "given"), [("", 20), ("per_page=7", 7), ("per_page=500", 50), ("per_page=all", 120)]
)
def test_pages_hold_twenty_rows_unless_asked_and_fifty_at_most(
    served: tuple[Any, Client], asked: str, given: int
) -> None:
    _, client = served
    page = client.get(f"/api/subscribers?{asked}").json()["data"]
    assert (len(page["results"]), page["per_page"], page["total"], page["page"]) == (given, given, 120, 1)


def test_all_pages_together_are_everybody_once_and_keep_the_total(served: tuple[Any, Client]) -> None:
    _, client = served
    pages = [client.get(f"/api/subscribers?per_page=50&page={n}").json()["data"] for n in (1, 2, 3, 4)]
    assert [page["total"] for page in pages] == [120] * 4
    assert [len(page["results"]) for page in pages] == [50, 50, 20, 0]
    assert len({row["id"] for page in pages for row in page["results"]}) == 120


def test_subscribers_can_be_filtered_by_list_status_search_and_sql(served: tuple[Any, Client]) -> None:
    _, client = served
    client.put(
        "/api/subscribers/lists", json={"ids": [3, 4], "action": "unsubscribe", "target_list_ids": [1]}
    ).raise_for_status()

    def total(query: str) -> int:
        return int(client.get(f"/api/subscribers?{query}").json()["data"]["total"])

    assert total("list_id=1") == 120
    assert total("list_id=1&subscription_status=unsubscribed") == 2
    assert total("list_id=2") == 0
    assert total("search=c11@") == 1
    assert total("query=subscribers.attribs->>'country' = 'France'") == 60
    row = client.get("/api/subscribers/3").json()["data"]
    (one,) = row["lists"]
    assert one["subscription_status"] == "unsubscribed"
    assert one["subscription_updated_at"] == "2011-11-16T07:00:00Z" > one["subscription_created_at"]


def test_a_subscriber_can_be_created_patched_put_blocked_and_deleted(
    served: tuple[Any, Client],
) -> None:
    _, client = served
    made = client.post(
        "/api/subscribers",
        json={"email": "New@Shop.example", "name": "N", "lists": [1], "attribs": {"customer_id": 700},
              "preconfirm_subscriptions": True},
    ).json()["data"]  # fmt: skip
    assert (made["id"], made["email"], made["lists"][0]["subscription_status"]) == (
        700,
        "new@shop.example",
        "confirmed",
    )
    patched = client.patch("/api/subscribers/700", json={"name": "M", "attribs": {"x": 1}}).json()["data"]
    assert (patched["name"], patched["attribs"], len(patched["lists"])) == (
        "M",
        {"customer_id": 700, "x": 1},
        1,
    )
    put = client.put("/api/subscribers/700", json={"name": "O"}).json()["data"]
    assert put["lists"] == [], "a PUT without lists takes them all away, as documented"
    client.put(
        "/api/subscribers/lists",
        json={"ids": [700], "action": "add", "target_list_ids": [1], "status": "confirmed"},
    )
    client.put("/api/subscribers/700/blocklist").raise_for_status()
    blocked = client.get("/api/subscribers/700").json()["data"]
    assert (blocked["status"], blocked["lists"][0]["subscription_status"]) == ("blocklisted", "unsubscribed")
    client.delete("/api/subscribers/700").raise_for_status()
    assert client.get("/api/subscribers/700").status_code == 400


def test_lists_count_their_people_and_a_deleted_one_leaves_its_name_with_campaigns(
    served: tuple[Any, Client],
) -> None:
    _, client = served
    made = client.post("/api/lists", json={"name": "Catch-up", "type": "private", "optin": "single"}).json()[
        "data"
    ]
    client.put(
        "/api/subscribers/lists",
        json={"ids": [1, 2, 9999], "action": "add", "target_list_ids": [made["id"]], "status": "confirmed"},
    ).raise_for_status()
    assert client.get(f"/api/lists/{made['id']}").json()["data"]["subscriber_count"] == 2
    campaign = make(client, lists=[made["id"]])
    client.put(
        "/api/subscribers/lists", json={"ids": [2], "action": "remove", "target_list_ids": [made["id"]]}
    ).raise_for_status()
    assert client.get(f"/api/lists/{made['id']}").json()["data"]["subscriber_count"] == 1
    client.delete(f"/api/lists/{made['id']}").raise_for_status()
    assert client.get(f"/api/campaigns/{campaign['id']}").json()["data"]["lists"] == [
        {"id": 0, "name": "Catch-up"}
    ]


def test_a_campaign_keeps_what_an_update_does_not_name(served: tuple[Any, Client]) -> None:
    _, client = served
    made = make(client, attribs={"kind": "sale"}, tags=["a"], send_at="2011-11-16T09:00:00Z")
    changed = client.put(f"/api/campaigns/{made['id']}", json={"name": "D", "lists": [1]}).json()["data"]
    assert (changed["name"], changed["subject"], changed["attribs"], changed["tags"], changed["send_at"]) == (
        "D", "s", {"kind": "sale"}, ["a"], "2011-11-16T09:00:00Z",
    )  # fmt: skip


def test_taking_the_time_away_from_a_scheduled_campaign_makes_it_a_draft(
    served: tuple[Any, Client],
) -> None:
    _, client = served
    made = make(client, send_at="2011-11-16T09:00:00Z")
    client.put(f"/api/campaigns/{made['id']}/status", json={"status": "scheduled"}).raise_for_status()
    changed = client.put(f"/api/campaigns/{made['id']}", json={"lists": [1], "send_at": None}).json()["data"]
    assert (changed["status"], changed["send_at"]) == ("draft", None)


def test_an_update_whose_stored_time_is_past_is_refused_but_its_status_can_change(
    served: tuple[Any, Client],
) -> None:
    one, client = served
    made = make(client, send_at="2011-11-16T07:10:00Z")
    one.work(3600)
    assert client.put(f"/api/campaigns/{made['id']}", json={"lists": [1]}).status_code == 400
    assert client.put(f"/api/campaigns/{made['id']}/status", json={"status": "scheduled"}).status_code == 200


def test_a_status_change_answers_what_was_asked_and_refuses_the_rest(
    served: tuple[Any, Client],
) -> None:
    _, client = served
    made = make(client, send_at="2011-11-16T09:00:00Z")
    path = f"/api/campaigns/{made['id']}/status"
    assert client.put(path, json={"status": "running"}).json()["data"]["status"] == "running"
    assert client.get(f"/api/campaigns/{made['id']}").json()["data"]["status"] == "scheduled"
    for wrong in ("paused", "cancelled", "scheduled"):
        answer = client.put(path, json={"status": wrong})
        assert (answer.status_code, set(answer.json())) == (400, {"message"})
    assert client.put(path, json={"status": "draft"}).status_code == 200


def test_a_running_or_finished_campaign_cannot_be_edited(served: tuple[Any, Client]) -> None:
    one, client = served
    made = make(client)
    client.put(f"/api/campaigns/{made['id']}/status", json={"status": "running"}).raise_for_status()
    assert client.put(f"/api/campaigns/{made['id']}", json=body()).status_code == 400
    one.work(300)
    assert client.get(f"/api/campaigns/{made['id']}").json()["data"]["status"] == "finished"
    assert client.put(f"/api/campaigns/{made['id']}", json=body()).status_code == 400


def test_running_stats_list_what_runs_and_what_is_still_stopping(served: tuple[Any, Client]) -> None:
    one, client = served
    assert client.get("/api/campaigns/running/stats").json() == {"data": []}
    made = make(client)
    client.put(f"/api/campaigns/{made['id']}/status", json={"status": "running"}).raise_for_status()
    one.work(22)
    (row,) = client.get("/api/campaigns/running/stats").json()["data"]
    assert (row["id"], row["to_send"], row["sent"]) == (made["id"], 120, 15), "`sent` is written at each scan"
    assert len(one.got(made["id"])) == 17
    client.put(f"/api/campaigns/{made['id']}/status", json={"status": "paused"}).raise_for_status()
    assert [row["status"] for row in client.get("/api/campaigns/running/stats").json()["data"]] == ["paused"]
    one.work(5)
    assert client.get("/api/campaigns/running/stats").json() == {"data": []}


def test_campaigns_can_be_filtered_and_their_bodies_left_out(served: tuple[Any, Client]) -> None:
    _, client = served
    make(client, name="Spring", tags=["a", "b"])
    make(client, name="Summer", tags=["b"])

    def names(query: str) -> list[str]:
        return [row["name"] for row in client.get(f"/api/campaigns?{query}").json()["data"]["results"]]

    assert names("") == ["Summer", "Spring"], "newest first"
    assert names("order_by=name&order=ASC") == ["Spring", "Summer"]
    assert names("tags=a") == ["Spring"] and names("query=umm") == ["Summer"]
    assert names("status=draft&status=running") == ["Summer", "Spring"] and names("status=paused") == []
    (first, *_) = client.get("/api/campaigns?no_body=true").json()["data"]["results"]
    assert "body" not in first


def test_the_send_log_and_the_events_are_read_by_rising_id(bench: Make) -> None:
    one = bench(120, events=True, messages_per_minute=6000, batch_size=1000)
    one.campaign()
    one.campaign()
    one.work(86400)
    client = Client(build_api(one.engine, user=USER, token=TOKEN, seed=3))
    client.auth = (USER, TOKEN)
    for path, total in (("messages", 240), ("events", len(one.webhooks))):
        seen: list[int] = []
        while rows := client.get(
            f"/api/extensions/{path}?after_id={seen[-1] if seen else 0}&limit=50"
        ).json()["data"]["results"]:
            seen += [row["id"] for row in rows]
        assert seen == sorted(set(seen)) and len(seen) == total
        rows = client.get(f"/api/extensions/{path}?campaign_id=2&limit=10000").json()["data"]["results"]
        assert {row["campaign_id"] for row in rows} == {2}


def test_analytics_and_exports_count_what_happened(bench: Make) -> None:
    one = bench(400, events=True, messages_per_minute=6000, batch_size=1000)
    one.campaign()
    one.work(5 * 86400)
    client = Client(build_api(one.engine, user=USER, token=TOKEN, seed=3))
    client.auth = (USER, TOKEN)
    shown = client.get("/api/campaigns/1").json()["data"]
    span = "id=1&from=2011-11-16&to=2011-11-20"
    for kind in ("views", "clicks", "bounces"):
        rows = client.get(f"/api/campaigns/analytics/{kind}?{span}").json()["data"]
        assert sum(row["count"] for row in rows) == shown[kind]
        assert [row["timestamp"] for row in rows] == sorted(row["timestamp"] for row in rows)
    assert shown["views"] > 50
    links = client.get(f"/api/campaigns/analytics/links?{span}").json()["data"]
    assert sum(row["count"] for row in links) == shown["clicks"]
    export = client.get("/api/maintenance/analytics/views/export?since=2011-11-16T08:00:00Z").text
    assert 0 < len(export.splitlines()) - 1 < shown["views"]
    people = client.get("/api/subscribers/export").text.splitlines()
    assert people[0] == "uuid,email,name,attributes,status,created_at,updated_at" and len(people) == 401
    viewer = next(row[2] for row in one.table(schema.CAMPAIGN_VIEWS))
    own = client.get(f"/api/subscribers/{viewer}/export").json()
    assert (own["profile"][0]["id"], len(own["campaign_views"])) == (viewer, 1)


def test_one_click_unsubscribes_from_the_campaigns_lists_and_leaves_an_event(bench: Make) -> None:
    one = bench(3, events=True)
    one.campaign()
    client = Client(build_api(one.engine, user=USER, token=TOKEN, seed=3))
    assert client.post("/subscription/c1/s2").json() == {"data": True}
    client.auth = (USER, TOKEN)
    lists = client.get("/api/subscribers/2").json()["data"]["lists"]
    assert [item["subscription_status"] for item in lists] == ["unsubscribed"]
    (event,) = client.get("/api/extensions/events").json()["data"]["results"]
    assert (event["type"], event["subscriber_id"]) == ("unsubscribe", 2)


@pytest.mark.parametrize(
    ("method", "path", "content"),
    [
        ("PUT", "/api/subscribers/lists", {"ids": [1], "action": "unsubscribe", "target_list_ids": [1]}),
        ("PUT", "/api/subscribers/1/blocklist", None),
        ("PUT", "/api/subscribers/blocklist", {"ids": [1]}),
        ("PATCH", "/api/subscribers/1", {"status": "blocklisted"}),
        ("POST", "/subscription/c1/s1", None),
    ],
)
def test_with_unsubscribe_failing_no_way_to_leave_works_and_the_rest_does(
    served: tuple[Any, Client], method: str, path: str, content: Any
) -> None:
    one, client = served
    one.campaign()
    one.faults.turn_on("unsubscribe_failing")
    assert client.request(method, path, json=content).status_code == 500
    row = client.get("/api/subscribers/1").json()["data"]
    assert (row["status"], row["lists"][0]["subscription_status"]) == ("enabled", "confirmed")
    one.faults.turn_off("unsubscribe_failing")
    assert client.request(method, path, json=content).status_code == 200


def test_partial_refuses_about_a_fifth_of_the_requests(served: tuple[Any, Client]) -> None:
    one, client = served
    one.faults.turn_on("partial")
    answers = [client.get("/api/lists").status_code for _ in range(200)]
    assert set(answers) == {200, 503}
    assert 20 < answers.count(503) < 60


def test_hard_down_answers_503_and_slow_waits(served: tuple[Any, Client]) -> None:
    one, client = served
    one.faults.turn_on("hard_down")
    assert client.get("/health").status_code == 503
    one.faults.turn_off("hard_down")
    one.faults.turn_on("slow", seconds=0.2)
    begun = datetime.now(UTC)
    assert client.get("/health").status_code == 200
    assert datetime.now(UTC) - begun > timedelta(seconds=0.2)


def test_a_transactional_message_goes_out_at_once_and_nowhere_while_stalled(
    served: tuple[Any, Client], tmp_path: Path
) -> None:
    one, client = served
    message = {"subscriber_email": "seed@probe.example", "template_id": 2, "data": {"token": "t-1\r\nBcc: x"}}
    assert client.post("/api/tx", json=message).json() == {"data": True}
    assert [sent.seed for sent in one.post.sent] == ["t-1Bcc: x"]
    one.faults.turn_on("stalled")
    assert client.post("/api/tx", json=message).json() == {"data": True}, "a false green"
    assert len(one.post.sent) == 1
    one.faults.turn_off("stalled")
    one.post.code = 451
    assert client.post("/api/tx", json=message).status_code == 500


def test_a_subject_cannot_smuggle_headers_in_and_a_lone_dot_does_not_end_the_message() -> None:
    message = Outgoing(
        1, 2, datetime.now(UTC), "a@b.example", "c2@shop.example", "x\r\nBcc: y", "one\n.\ntwo"
    )
    head, _, text = message.to_bytes().decode().partition("\r\n\r\n")
    assert not any(line.startswith("Bcc") for line in head.split("\r\n"))
    assert text == "one\r\n..\r\ntwo\r\n"
