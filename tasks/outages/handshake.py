"""An SMTP handshake with the server that takes our mail: does it greet, encrypt, and show a certificate that holds."""

from __future__ import annotations

import contextlib
import smtplib
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tasks.outages.deadline import within
from tasks.outages.signals import Signal
from tasks.plan import SmtpPlan

LAST_DAY = timedelta(days=1)
"""A certificate that ends within this time is an outage with a date."""


@dataclass(frozen=True)
class Handshake:
    """How a handshake ended.

    Attributes:
        wrong: what was wrong; empty when nothing was.
        certificate_until: when the server's certificate ends; None where it shows none.
    """

    wrong: str = ""
    certificate_until: datetime | None = None


def smtp_handshake(settings: SmtpPlan) -> Handshake:
    """Greet the server, encrypt as the plan says, check its certificate, and leave: no message is begun."""
    try:
        return within(settings.timeout_seconds, lambda: _greet(settings))
    except ssl.SSLCertVerificationError as error:
        return Handshake(f"its certificate does not hold: {error.verify_message}")
    except smtplib.SMTPResponseException as error:
        return Handshake(f"it answered {error.smtp_code}")
    except smtplib.SMTPNotSupportedError:
        return Handshake("it does not offer STARTTLS")
    except TimeoutError:
        return Handshake(f"no answer within {settings.timeout_seconds:g} s")
    except (OSError, smtplib.SMTPException, UnicodeError) as error:
        return Handshake(f"it does not answer ({type(error).__name__})")


def smtp_signal(found: Handshake, at: datetime, now: datetime, *, warn_days: int) -> Signal:
    """Return the `smtp` signal: bad when the handshake failed, degraded on the last day of the certificate.

    Args:
        found: how the handshake ended.
        at: the time of the pass.
        now: the real time, by which a certificate ends, whatever clock the plan has.
        warn_days: how many days before its end the certificate is spoken of.
    """
    until = found.certificate_until
    details = {"certificate_until": until and until.isoformat()}
    if found.wrong:
        return Signal("smtp", "bad", f"the SMTP server takes no mail: {found.wrong}", at, details)
    if until is not None and until - now <= LAST_DAY:
        seen = f"the SMTP server's certificate ends at {until:%Y-%m-%d %H:%M} UTC"
        return Signal("smtp", "degraded", seen, at, details)
    seen = "the SMTP server shakes hands"
    if until is not None and until - now <= timedelta(days=warn_days):
        seen += f"; its certificate ends on {until:%Y-%m-%d}"
    return Signal("smtp", "good", seen, at, details)


def _greet(settings: SmtpPlan) -> Handshake:
    context = ssl.create_default_context()
    wait = settings.timeout_seconds
    if settings.encryption == "tls":
        server: smtplib.SMTP = smtplib.SMTP_SSL(settings.host, settings.port, timeout=wait, context=context)
    else:
        server = smtplib.SMTP(settings.host, settings.port, timeout=wait)
    try:
        code, text = server.ehlo()
        if settings.encryption == "starttls":
            server.starttls(context=context)
            code, text = server.ehlo()
        if code != 250:
            raise smtplib.SMTPResponseException(code, text)
        shown = server.sock.getpeercert() if isinstance(server.sock, ssl.SSLSocket) else None
        until = str(shown["notAfter"]) if shown else None
        ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(until), UTC) if until else None
        return Handshake(certificate_until=ends)
    finally:
        with contextlib.suppress(OSError, smtplib.SMTPException):
            server.quit()
