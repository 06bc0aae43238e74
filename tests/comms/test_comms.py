"""Messages say what they must, promise the next one, and reach their channel once."""

from __future__ import annotations

import email
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email import policy
from pathlib import Path
from typing import Any

import pytest

from tasks.comms import (
    CampaignLine,
    ChannelFailed,
    FolderChannel,
    Message,
    Report,
    Situation,
    SmtpChannel,
    Told,
    Written,
    due,
    judge_promises,
    next_update_at,
    write_notice,
    write_update,
    write_vendor_ticket,
)

NOW = datetime(2011, 11, 16, 8, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def situation(**changes: Any) -> Situation:
    values: dict[str, Any] = {
        "company": "Shop", "incident_id": "INC-0001", "provider": "esp", "state": "investigating",
        "severity": 2, "summary": "The API refuses connections.", "cause_class": "technical_failure",
        "impact_started_at": None, "detected_at": NOW, "as_of": NOW,
        "campaigns": (CampaignLine("Sale", "sale", 1200, NOW, NOW + 600 * MINUTE, "paused", "£900"),),
        "done": ("Sale paused",), "needs": ("approve",), "next_steps": ("we watch",), "at_stake": "£900",
    }  # fmt: skip
    return Situation(**{**values, **changes})


def message(name: str = "m-1", text: str = "Hello") -> Message:
    return Message(name, "cmo", "INC-0001", Written("Subject", text, f"<p>{text}</p>"), NOW)


@pytest.mark.parametrize("report", ["tactical", "executive", "audience"])
def test_every_update_promises_the_next_in_text_and_html(report: Report) -> None:
    written = write_update(report, situation(), next_update_at=NOW + 60 * MINUTE)
    assert "by 2011-11-16 09:00 UTC" in written.text
    assert "by 2011-11-16 09:00 UTC" in written.html
    with pytest.raises(ValueError, match="promises"):
        write_update(report, situation(), next_update_at=None)
    assert "last" in write_update(report, situation(over=True), next_update_at=None).text


def test_a_tactical_report_is_conditions_actions_needs_and_an_executive_one_status_overview_steps() -> None:
    tactical = write_update("tactical", situation(), next_update_at=NOW).text
    executive = write_update("executive", situation(), next_update_at=NOW).text
    assert tactical.index("CONDITIONS") < tactical.index("ACTIONS") < tactical.index("NEEDS")
    assert executive.index("CURRENT STATUS") < executive.index("OVERVIEW") < executive.index("NEXT STEPS")
    assert "Impact began: not known" in tactical


def test_an_audience_is_promised_no_time_of_restoration_and_no_internals() -> None:
    written = write_update("audience", situation(), next_update_at=NOW + 60 * MINUTE)
    for inner in ("INC-0001", "SEV", "esp ", "£900", "restored by"):
        assert inner not in written.text


@pytest.mark.parametrize("report", ["tactical", "executive", "audience"])
def test_hostile_text_is_escaped_in_html(report: Report) -> None:
    bad = "<script>alert(1)</script>"
    hostile = situation(company=bad, summary=bad, campaigns=(CampaignLine(bad, bad, 1, None, None, bad),))
    assert "<script>" not in write_update(report, hostile, next_update_at=NOW).html


def test_a_drill_says_that_it_is_one() -> None:
    assert "drill" in write_update("tactical", situation(simulated=True), next_update_at=NOW).text
    assert "must not be sent" in write_vendor_ticket(situation(simulated=True), support="", evidence=()).text


def test_the_vendor_ticket_carries_the_evidence_and_asks_who_was_mailed() -> None:
    text = write_vendor_ticket(situation(), support="help desk", evidence=("probe: refused 12 times",)).text
    assert "probe: refused 12 times" in text
    assert "by recipient" in text


def test_a_notice_carries_no_address() -> None:
    written = write_notice("Failed for a@b.example", "x c@d.example y", company="Shop", as_of=NOW)
    assert "@" not in written.subject + written.text + written.html


def test_the_promised_time_is_a_whole_minute_and_never_too_soon() -> None:
    assert next_update_at(NOW, 30) == NOW + 30 * MINUTE
    assert next_update_at(NOW + timedelta(seconds=1), 30) == NOW + 31 * MINUTE


def test_promises_are_judged_kept_late_pending_and_overdue() -> None:
    told = [
        Told("a", NOW, NOW + 30 * MINUTE),
        Told("a", NOW + 30 * MINUTE, NOW + 60 * MINUTE),
        Told("a", NOW + 70 * MINUTE, NOW + 100 * MINUTE),
        Told("b", NOW, NOW + 120 * MINUTE),
        Told("c", NOW, None),
    ]
    judged = judge_promises(told, NOW + 110 * MINUTE)
    assert [(one.stakeholder, one.status, one.late_by) for one in judged] == [
        ("a", "kept", timedelta(0)),
        ("a", "late", 10 * MINUTE),
        ("a", "overdue", 10 * MINUTE),
        ("b", "pending", timedelta(0)),
    ]
    assert due(told, NOW + 110 * MINUTE) == ["a"]


def test_a_folder_takes_the_same_message_once_and_whole(tmp_path: Path) -> None:
    channel = FolderChannel(tmp_path / "out")
    channel.deliver(message())
    channel.deliver(message(text="Another body under the same name"))
    [path] = (tmp_path / "out").iterdir()
    parsed = email.message_from_bytes(path.read_bytes(), policy=policy.default)
    assert parsed["Message-ID"] == "<m-1@mailstay.invalid>"
    assert parsed.get_body(("plain",)).get_content().strip() == "Hello"


def test_a_folder_that_cannot_be_written_is_a_known_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ChannelFailed) as failed:
        FolderChannel(tmp_path / "file").deliver(message())
    assert failed.value.outcome_unknown is False


class _Server:
    """An SMTP server that answers DATA as it is told."""

    def __init__(self) -> None:
        self.answer = "250 OK"
        self.taken: list[bytes] = []

    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Any, address: str, _: Any) -> str:
        if address.startswith("no"):
            return "550 no"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, _session: Any, envelope: Any) -> str:
        if self.answer == "hang up":
            server.transport.abort()
            return "250 OK"
        if self.answer.startswith("250"):
            self.taken.append(envelope.content)
        return self.answer


@pytest.fixture
def smtp() -> Iterator[tuple[_Server, str]]:
    import socket

    from aiosmtpd.controller import Controller

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = _Server()
    controller = Controller(server, hostname="127.0.0.1", port=port)
    controller.start()
    yield server, f"smtp://127.0.0.1:{port}"
    controller.stop()


@pytest.mark.integration
def test_smtp_delivers_and_counts_refused_recipients(smtp: tuple[_Server, str]) -> None:
    server, url = smtp
    refused = SmtpChannel("mail", url, ["yes@shop.example", "no@shop.example"]).deliver(message())
    assert refused == 1
    assert b"Message-ID: <m-1@mailstay.invalid>" in server.taken[0]


@pytest.mark.integration
@pytest.mark.parametrize(("answer", "unknown"), [("552 too big", False), ("hang up", True)])
def test_smtp_tells_refused_from_unknown(smtp: tuple[_Server, str], answer: str, unknown: bool) -> None:
    server, url = smtp
    server.answer = answer
    with pytest.raises(ChannelFailed) as failed:
        SmtpChannel("mail", url, ["yes@shop.example"], timeout=5).deliver(message())
    assert failed.value.outcome_unknown is unknown
    assert "@" not in str(failed.value)


@pytest.mark.integration
def test_smtp_that_refuses_everybody_or_is_not_there_is_a_known_failure(smtp: tuple[_Server, str]) -> None:
    for url, to in ((smtp[1], "no@shop.example"), ("smtp://127.0.0.1:9", "yes@shop.example")):
        with pytest.raises(ChannelFailed) as failed:
            SmtpChannel("mail", url, [to], timeout=5).deliver(message())
        assert failed.value.outcome_unknown is False
