"""Where messages go: a folder of .eml files, SMTP, or whatever apprise knows.

A folder takes a message once however often it is handed over (its file is named after the message id); the others
cannot promise that, so a message whose hand-over was cut short is not handed over again.
"""

from __future__ import annotations

import hashlib
import os
import smtplib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from tasks.comms.errors import ChannelFailed, CommsError
from tasks.comms.writing import Written
from tasks.core import crash_point, mask_addresses
from tasks.plan import LoadedPlan, PlanError, secret

_SENDER = "Mailstay <mailstay@mailstay.invalid>"


@dataclass(frozen=True)
class Message:
    """One message to one stakeholder; `message_id` names it for ever."""

    message_id: str
    stakeholder: str
    incident_id: str
    written: Written
    at: datetime
    simulated: bool = False

    def to_email(self, *, sender: str = _SENDER, to: str = "") -> EmailMessage:
        """Return the message as e-mail: the same bytes for the same message."""
        email = EmailMessage(policy=SMTP)
        email["From"] = sender
        email["To"] = to or f"{_plain(self.stakeholder)}:;"
        email["Subject"] = self.written.subject
        email["Date"] = format_datetime(self.at)
        email["Message-ID"] = f"<{self.message_id}@mailstay.invalid>"
        email["Auto-Submitted"] = "auto-generated"  # RFC 3834
        email["X-Mailstay-Stakeholder"] = _plain(self.stakeholder)
        if self.incident_id:
            email["X-Mailstay-Incident"] = self.incident_id
        if self.simulated:
            email["X-Mailstay-Simulated"] = "yes"
        email.set_content(self.written.text)
        if self.written.html:
            email.add_alternative(self.written.html, subtype="html")
            email.set_boundary(f"mailstay-{hashlib.sha256(self.message_id.encode()).hexdigest()[:24]}")
        return email


class Channel(Protocol):
    """Takes messages.

    Attributes:
        takes_once: whether handing the same message over again is harmless.
    """

    takes_once: bool

    def deliver(self, message: Message) -> int:
        """Hand the message over and return how many of its recipients were refused.

        Raises:
            ChannelFailed: it was not taken, or that is not known.
        """


def open_channel(plan: LoadedPlan, name: str) -> Channel:
    """Return the channel that the plan calls `name`.

    Raises:
        PlanError: there is none, or its environment variable is not set.
    """
    channel = plan.plan.channels.get(name)
    if channel is None:
        raise PlanError(f"The plan has no channel {name!r}", where=str(plan.path), fix="add it to channels")
    if channel.kind == "folder":
        assert channel.path is not None
        return FolderChannel(plan.resolve(channel.path))
    url = secret(channel.url_env or "", f"{plan.path}: channels.{name}")
    if channel.kind == "smtp":
        return SmtpChannel(name, url, channel.to)
    return AppriseChannel(name, url)


class FolderChannel:
    """Writes each message to `folder` as an .eml file: for drills, tests, and a mail client to open."""

    takes_once = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def deliver(self, message: Message) -> int:
        """Write the message's file, whole or not at all; one that is there already is left as it is."""
        path = self.folder / f"{hashlib.sha256(message.message_id.encode()).hexdigest()[:32]}.eml"
        crash_point("channel.deliver:before")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write(path, message.to_email().as_bytes())
        except OSError as error:
            raise ChannelFailed(
                f"The message cannot be written: {error.strerror}",
                outcome_unknown=False,
                where=str(self.folder),
                fix="make the folder writable",
            ) from error
        crash_point("channel.deliver:after")
        return 0

    def _write(self, path: Path, content: bytes) -> None:
        handle, partial = tempfile.mkstemp(dir=self.folder, prefix=".partial-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(partial, path)
            except FileExistsError:
                return
        finally:
            Path(partial).unlink(missing_ok=True)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class SmtpChannel:
    """Sends each message by SMTP.

    Args:
        name: the channel's name in the plan, for messages.
        url: `smtp://user:password@host:587` (STARTTLS, except to this machine) or `smtps://…:465`; `?from=` sets the
            sender.
        to: the recipients' addresses.
        timeout: seconds to wait for an answer.
    """

    takes_once = False

    def __init__(self, name: str, url: str, to: Sequence[str], *, timeout: float = 30.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("smtp", "smtps") or not parts.hostname:
            raise CommsError(
                "The URL of the channel is not smtp:// or smtps://",
                where=f"channels.{name}",
                fix="see the plan",
            )
        if not to:
            raise CommsError("The channel has no recipients", where=f"channels.{name}", fix="add `to`")
        self.name = name
        self._parts = parts
        self._to = list(to)
        self._timeout = timeout
        self._sender = parse_qs(parts.query).get("from", [_SENDER])[0]

    def deliver(self, message: Message) -> int:
        """Send the message in one SMTP transaction."""
        email = message.to_email(sender=self._sender, to=", ".join(self._to))
        crash_point("channel.deliver:before")
        try:
            session = self._connect()
        except (OSError, smtplib.SMTPException) as error:
            raise self._failed("cannot be reached", error, unknown=False) from None
        with session:
            try:
                session.ehlo_or_helo_if_needed()
                code, _ = session.mail(_address(self._sender))
                if code >= 400:
                    raise smtplib.SMTPResponseException(code, b"the sender is refused")
                refused = sum(session.rcpt(_address(one))[0] >= 400 for one in self._to)
                if refused == len(self._to):
                    raise smtplib.SMTPResponseException(550, b"every recipient is refused")
            except (OSError, smtplib.SMTPException) as error:
                raise self._failed("refused the message", error, unknown=False) from None
            try:
                code, _ = session.data(email.as_bytes())
            except smtplib.SMTPDataError as error:
                raise self._failed("refused the message", error, unknown=False) from None
            except (OSError, smtplib.SMTPException) as error:
                raise self._failed("did not say whether it took the message", error, unknown=True) from None
            if code != 250:
                answer = smtplib.SMTPResponseException(code, b"not taken")
                raise self._failed("refused the message", answer, unknown=False)
            crash_point("channel.deliver:after")
        return refused

    def _connect(self) -> smtplib.SMTP:
        parts = self._parts
        host = parts.hostname or ""
        session: smtplib.SMTP
        if parts.scheme == "smtps":
            session = smtplib.SMTP_SSL(host, parts.port or 465, timeout=self._timeout)
        else:
            session = smtplib.SMTP(host, parts.port or 587, timeout=self._timeout)
            if host not in ("127.0.0.1", "::1", "localhost"):
                session.starttls()
        if parts.username:
            session.login(unquote(parts.username), unquote(parts.password or ""))
        return session

    def _failed(self, what: str, error: Exception, *, unknown: bool) -> ChannelFailed:
        code = f" ({error.smtp_code})" if isinstance(error, smtplib.SMTPResponseException) else ""
        return ChannelFailed(
            f"The SMTP server {what}{code}: {type(error).__name__}",
            outcome_unknown=unknown,
            where=f"channels.{self.name}",
            fix="look whether it arrived before sending it by hand" if unknown else "check the channel's URL",
        )


class AppriseChannel:
    """Sends each message as a notification through apprise (Slack, Teams, e-mail, a webhook and many more)."""

    takes_once = False

    def __init__(self, name: str, url: str) -> None:
        import apprise

        self.name = name
        self._apprise = apprise.Apprise()
        if not self._apprise.add(url):
            raise CommsError(
                "The URL of the channel is not one that apprise knows",
                where=f"channels.{name}",
                fix="see apprise",
            )

    def deliver(self, message: Message) -> int:
        """Notify; apprise says only whether every target took it."""
        crash_point("channel.deliver:before")
        taken = self._apprise.notify(
            title=message.written.subject, body=message.written.text, body_format="text"
        )
        if not taken:
            raise ChannelFailed(
                "The service did not take the message",
                outcome_unknown=False,
                where=f"channels.{self.name}",
                fix="check the channel's URL and the service",
            )
        crash_point("channel.deliver:after")
        return 0


def _plain(name: str) -> str:
    """Return a name that can stand in a header as it is."""
    return "".join(letter if letter.isalnum() or letter in "-_. " else "-" for letter in mask_addresses(name))


def _address(mailbox: str) -> str:
    _, _, address = mailbox.rpartition("<")
    return address.rstrip(">").strip()
