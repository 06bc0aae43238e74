"""What a failing connection means: nothing happened, or nobody knows. A write is never sent twice."""

import json
from datetime import timedelta

import pytest

from tasks.providers import ProviderGarbled, ProviderRefused, ProviderUnavailable

CAMPAIGN = {
    "id": 1, "uuid": "u", "name": "n", "status": "running", "send_at": None, "lists": [{"id": 1}], "to_send": 1,
    "sent": 0, "started_at": None, "tags": [], "subject": "s", "attribs": {},
}  # fmt: skip


def ok(answer, data):
    return answer(json.dumps({"data": data}))


def page(answer, rows, total):
    return ok(answer, {"results": rows, "total": total, "per_page": 50, "page": 1})


def test_a_refused_connection_changed_nothing(connect_to, wire) -> None:
    url = wire(None).url
    gone = url.rsplit(":", 1)[0] + ":1"
    with pytest.raises(ProviderUnavailable) as caught:
        connect_to(gone).pause(1)
    assert caught.value.outcome_unknown is False


@pytest.mark.parametrize(
    "lost",
    [None, b"", b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 90\r\n\r\n{"da'],
    ids=["closed", "closed without a byte", "cut in the middle"],
)
def test_a_lost_answer_to_a_write_leaves_its_outcome_unknown_and_is_not_sent_again(
    connect_to, wire, lost
) -> None:
    server = wire(lost)
    with pytest.raises(ProviderUnavailable) as caught:
        connect_to(server.url).pause(1)
    assert caught.value.outcome_unknown is True
    assert server.requests == [b"PUT /api/campaigns/1/status HTTP/1.1"]


def test_a_write_that_is_never_answered_is_unknown(connect_to, wire) -> None:
    server = wire("hang")
    with pytest.raises(ProviderUnavailable, match="in time") as caught:
        connect_to(server.url, timeout=0.3).start(1)
    assert caught.value.outcome_unknown is True
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", ["500 Oops", "502 Bad Gateway", "503 Busy"])
def test_a_server_error_on_a_write_is_unknown(connect_to, wire, answer, status) -> None:
    server = wire(answer("{}", status))
    with pytest.raises(ProviderUnavailable) as caught:
        connect_to(server.url).cancel(1)
    assert caught.value.outcome_unknown is True
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "code"), [("400 Bad Request", 400), ("403 Forbidden", 403), ("429 Slow", 429)]
)
def test_a_refusal_says_that_nothing_was_changed_and_why(connect_to, wire, answer, status, code) -> None:
    server = wire(answer('{"message": "Only active campaigns can be paused."}', status))
    with pytest.raises(ProviderRefused, match="Only active campaigns") as caught:
        connect_to(server.url).pause(1)
    assert caught.value.status == code
    assert len(server.requests) == 1


def test_an_error_shows_no_address_and_no_token(connect_to, wire, answer) -> None:
    server = wire(answer('{"message": "jane.doe@example.com is not known"}', "400 Bad Request"))
    with pytest.raises(ProviderRefused) as caught:
        connect_to(server.url).pause(1)
    assert "jane" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_page_of_html_with_status_200_is_no_answer(connect_to, wire, answer) -> None:
    html = answer("<html>Welcome</html>", kind="text/html")
    with pytest.raises(ProviderGarbled, match="text/html where JSON was expected") as caught:
        connect_to(wire(html).url).campaign(1)
    assert caught.value.outcome_unknown is False
    with pytest.raises(ProviderGarbled) as caught:
        connect_to(wire(html).url).pause(1)
    assert caught.value.outcome_unknown is True


def test_json_that_is_cut_short_is_no_answer(connect_to, wire, answer) -> None:
    with pytest.raises(ProviderGarbled, match="cut short"):
        connect_to(wire(answer('{"data": {"id": 1, ')).url).campaign(1)


def test_an_unknown_status_of_a_campaign_is_refused(connect_to, wire, answer) -> None:
    server = wire(ok(answer, CAMPAIGN | {"status": "hibernating"}))
    with pytest.raises(ProviderGarbled, match="hibernating"):
        connect_to(server.url).campaign(1)


def test_a_created_campaign_that_cannot_be_read_is_an_unknown_outcome(connect_to, wire, answer) -> None:
    server = wire(ok(answer, CAMPAIGN), ok(answer, CAMPAIGN | {"status": "new"}))
    with pytest.raises(ProviderGarbled) as caught:
        connect_to(server.url).create_campaign(copy_of=1, name="n", list_id=1)
    assert caught.value.outcome_unknown is True


def test_a_redirect_is_not_followed(connect_to, wire, answer) -> None:
    server = wire(answer("", "302 Found", Location="http://127.0.0.1:1/"))
    with pytest.raises(ProviderGarbled, match="HTTP 302"):
        connect_to(server.url).campaign(1)


def test_a_read_is_repeated_until_it_succeeds(connect_to, wire, answer) -> None:
    server = wire(None, answer("{}", "503 Busy"), ok(answer, CAMPAIGN))
    assert connect_to(server.url).campaign(1).status == "running"
    assert len(server.requests) == 3


def test_a_read_waits_as_long_as_it_was_asked_to(connect_to, wire, answer, clock) -> None:
    before = clock.now()
    server = wire(answer("{}", "429 Slow", Retry_After="7"), ok(answer, CAMPAIGN))
    connect_to(server.url).campaign(1)
    assert clock.now() - before == timedelta(seconds=7)


def test_a_wait_may_be_a_date_by_the_servers_own_clock(connect_to, wire, answer, clock) -> None:
    before = clock.now()
    dates = {"Date": "Wed, 16 Nov 2011 06:00:00 GMT", "Retry_After": "Wed, 16 Nov 2011 06:00:20 GMT"}
    server = wire(answer("{}", "503 Busy", **dates), ok(answer, CAMPAIGN))
    connect_to(server.url).campaign(1)
    assert clock.now() - before == timedelta(seconds=20)


def test_a_wait_of_an_hour_is_not_waited_for(connect_to, wire, answer) -> None:
    server = wire(answer("{}", "503 Busy", Retry_After="3600"))
    with pytest.raises(ProviderUnavailable) as caught:
        connect_to(server.url).campaign(1)
    assert caught.value.retry_after == 3600
    assert len(server.requests) == 1


def test_a_refused_read_is_not_repeated(connect_to, wire, answer) -> None:
    server = wire(answer("{}", "403 Forbidden"))
    with pytest.raises(ProviderRefused, match="permission"):
        connect_to(server.url).campaign(1)
    assert len(server.requests) == 1


def test_fewer_rows_than_promised_are_not_taken_for_all(connect_to, wire, answer) -> None:
    rows = [CAMPAIGN | {"id": number} for number in range(1, 11)]
    server = wire(page(answer, rows, total=37))
    with pytest.raises(ProviderGarbled, match="promised 37 rows but gave 10"):
        connect_to(server.url).campaigns()


def test_the_same_page_twice_is_not_taken_for_two(connect_to, wire, answer) -> None:
    rows = [CAMPAIGN | {"id": number} for number in range(1, 51)]
    server = wire(page(answer, rows, total=100))
    with pytest.raises(ProviderGarbled, match="promised 100 rows but gave 50"):
        connect_to(server.url).campaigns()


def test_a_list_that_grows_while_it_is_read_is_read_again(connect_to, wire, answer) -> None:
    rows = [CAMPAIGN | {"id": number} for number in range(1, 52)]
    server = wire(
        page(answer, rows[:50], 51), page(answer, rows[49:50], 52),
        page(answer, rows[:50], 51), page(answer, rows[50:], 51),
    )  # fmt: skip
    assert len(connect_to(server.url).campaigns()) == 51


def test_a_log_whose_rows_do_not_rise_is_refused(connect_to, wire, answer) -> None:
    row = {
        "id": 5,
        "campaign_id": 1,
        "subscriber_id": 1,
        "status": "accepted",
        "updated_at": "2011-11-16T08:00:00Z",
    }
    server = wire(ok(answer, {"results": [row, row | {"id": 4}]}))
    with pytest.raises(ProviderGarbled, match="rising id"):
        list(connect_to(server.url).send_log(1))


def test_a_dead_provider_is_not_healthy_and_raises_nothing(connect_to) -> None:
    probe = connect_to("http://127.0.0.1:1").health()
    assert not probe.ok
    assert "cannot be reached" in probe.detail


def test_a_welcome_page_is_not_healthy(connect_to, wire, answer) -> None:
    assert not connect_to(wire(answer("<html>", kind="text/html")).url).health().ok
