"""Our own probes against real servers on loopback: SMTP with certificates, a mailbox over IMAP, the opt-out page."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tasks.outages import Handshake, seed_arrived, smtp_handshake, smtp_signal, unsubscribe_signal
from tasks.plan import SmtpPlan
from tests.outages.imap_server import ImapServer

NOW = datetime(2011, 11, 16, 9, 0, tzinfo=UTC)
TODAY = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)


def certificate(
    folder: Path, *, host: str = "localhost", ends: datetime = TODAY + 30 * DAY
) -> ssl.SSLContext:
    """A certificate that signs itself, and a server's context that shows it; `SSL_CERT_FILE` may trust it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(TODAY, ends) - 30 * DAY)
        .not_valid_after(ends)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


class Recorder:
    """Takes messages; a probe must not give it any."""

    def __init__(self) -> None:
        self.messages = 0

    async def handle_DATA(self, *_: Any) -> str:
        self.messages += 1
        return "250 OK"


@pytest.fixture
def smtp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., SmtpPlan]]:
    """A function that starts a real SMTP server and returns the plan that probes it."""
    started: list[Controller] = []

    def start(encryption: str = "starttls", *, trusted: bool = True, **made: Any) -> SmtpPlan:
        context = certificate(tmp_path, **made)
        if trusted:
            monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "server.pem"))
        else:
            monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        inside = {"starttls": {"tls_context": context}}.get(encryption, {})

        class Server(Controller):
            def factory(self) -> SMTP:
                return SMTP(self.handler, hostname="localhost", **inside)

        outside = context if encryption == "tls" else None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = Server(Recorder(), hostname="127.0.0.1", port=port, ssl_context=outside)
        server.start()
        started.append(server)
        return SmtpPlan(host="localhost", port=port, encryption=encryption, timeout_seconds=3)

    yield start
    for server in started:
        assert server.handler.messages == 0
        server.stop()


def judged(found: Handshake) -> tuple[str, str]:
    signal = smtp_signal(found, NOW, TODAY, warn_days=14)
    return signal.verdict, signal.seen


@pytest.mark.parametrize("encryption", ["starttls", "tls"])
def test_a_server_that_shakes_hands_is_good_and_its_certificate_is_known(
    smtp: Callable[..., SmtpPlan], encryption: str
) -> None:
    found = smtp_handshake(smtp(encryption))
    assert (found.wrong, found.certificate_until) == ("", TODAY + 30 * DAY)
    assert judged(found) == ("good", "the SMTP server shakes hands")


def test_a_certificate_that_ends_soon_is_spoken_of_and_on_its_last_day_degraded(
    smtp: Callable[..., SmtpPlan],
) -> None:
    verdict, seen = judged(smtp_handshake(smtp(ends=TODAY + 5 * DAY)))
    assert verdict == "good"
    assert f"ends on {TODAY + 5 * DAY:%Y-%m-%d}" in seen
    assert judged(smtp_handshake(smtp(ends=TODAY + DAY / 2)))[0] == "degraded"


def test_a_certificate_that_ended_or_bears_another_name_or_is_nobodys_is_bad(
    smtp: Callable[..., SmtpPlan],
) -> None:
    assert "expired" in judged(smtp_handshake(smtp(ends=TODAY - DAY)))[1]
    assert "mismatch" in judged(smtp_handshake(smtp(host="mail.example.org")))[1].lower()
    verdict, seen = judged(smtp_handshake(smtp(trusted=False)))
    assert (verdict, "does not hold" in seen) == ("bad", True)


def test_a_server_without_encryption_is_bad_where_the_plan_asks_for_it(smtp: Callable[..., SmtpPlan]) -> None:
    plain = smtp("none")
    assert judged(smtp_handshake(plain)) == ("good", "the SMTP server shakes hands")
    asked = plain.model_copy(update={"encryption": "starttls"})
    assert judged(smtp_handshake(asked)) == (
        "bad",
        "the SMTP server takes no mail: it does not offer STARTTLS",
    )


def test_what_is_no_smtp_server_is_bad_within_its_time(page_server: Callable[..., str]) -> None:
    port = int(page_server(b"<html>").rpartition(":")[2])
    web = SmtpPlan(host="127.0.0.1", port=port, timeout_seconds=0.5)
    assert judged(smtp_handshake(web))[1] == "the SMTP server takes no mail: no answer within 0.5 s"
    nobody = SmtpPlan(host="127.0.0.1", port=1, timeout_seconds=2)
    assert judged(smtp_handshake(nobody))[1].endswith("(ConnectionRefusedError)")


# The seed's mailbox over IMAP -----------------------------------------------------------------------------------------

MESSAGE = "From: news@shop.example\r\nX-Mailstay-Seed: mailstay-seed-listmonk-1\r\nSubject: hello\r\n\r\nbody"


@pytest.fixture
def imap() -> Iterator[ImapServer]:
    server = ImapServer()
    yield server
    server.close()


def arrived(server: ImapServer, token: str = "mailstay-seed-listmonk-1", **more: Any) -> bool | None:
    more.setdefault("password", server.mailbox.password)
    more.setdefault("timeout_seconds", 3)
    return seed_arrived(more.pop("url", server.url()), token, **more)


def test_a_seed_is_found_in_its_mailbox_and_left_unread(imap: ImapServer) -> None:
    assert arrived(imap) is False
    imap.mailbox.folders["INBOX"].append(MESSAGE.replace("\r\n", "\n"))
    assert arrived(imap) is True
    assert arrived(imap, "mailstay-seed-listmonk-2") is False
    assert 'EXAMINE "INBOX"' in imap.mailbox.seen
    assert not any(line.startswith(("SELECT", "STORE", "FETCH")) for line in imap.mailbox.seen)


def test_a_mailbox_that_cannot_be_read_is_unknown_and_no_lost_seed(imap: ImapServer) -> None:
    assert arrived(imap, password="wrong") is None
    assert arrived(imap, url=imap.url("Nowhere")) is None
    assert arrived(imap, url="imap://seed@127.0.0.1:1/INBOX") is None
    assert arrived(imap, url="imap://seed@127.0.0.1:notaport/INBOX") is None
    assert arrived(imap, url=imap.url().replace("imap:", "imaps:")) is None


def test_a_mailbox_that_stops_answering_costs_its_time_out(imap: ImapServer) -> None:
    imap.mailbox.mute_after = 1
    began = dt.datetime.now(UTC)
    assert arrived(imap, timeout_seconds=0.4) is None
    assert dt.datetime.now(UTC) - began < timedelta(seconds=2)


# The opt-out page -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "verdict"),
    [(200, "good"), (302, "good"), (404, "bad"), (410, "bad"), (500, "bad"), (503, "bad")],
)
def test_the_opt_out_page_opens_or_fails(page_server: Callable[..., str], status: int, verdict: str) -> None:
    url = page_server(b"<html>", "text/html", status, "/elsewhere") + "/u/secret-of-a-person"
    signal = unsubscribe_signal(url, NOW, timeout_seconds=2)
    assert signal.verdict == verdict
    assert "secret-of-a-person" not in str(signal.to_dict())


def test_an_opt_out_page_that_nobody_serves_is_bad() -> None:
    signal = unsubscribe_signal("http://127.0.0.1:1/u", NOW, timeout_seconds=2)
    assert (signal.verdict, signal.seen) == ("bad", "the opt-out page fails: no answer (ConnectError)")
