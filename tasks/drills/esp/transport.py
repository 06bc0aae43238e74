"""How the sender hands messages over: real SMTP, or nowhere (for the world without an outage)."""

from __future__ import annotations

import smtplib
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from typing import Protocol

ACCEPTED = 250
REFUSED_FOR_NOW = 451
NO_REPLY = 0
"""The whole message went out and the connection broke before the reply: it may have been taken."""

GO_AHEAD = 354


@dataclass(frozen=True)
class Outgoing:
    """One message on its way."""

    campaign_id: int
    subscriber_id: int
    at: datetime
    sender: str
    recipient: str
    subject: str
    body: str
    unsubscribe_url: str = ""
    seed: str = ""

    @property
    def message_id(self) -> str:
        """The Message-ID: the same for the same campaign and subscriber."""
        if self.seed:
            return f"<{self.seed}@esp.example>"
        return f"<{self.campaign_id}.{self.subscriber_id}@esp.example>"

    def to_bytes(self) -> bytes:
        """Return the message as it goes into DATA, dots stuffed (RFC 5321 §4.5.2), without the closing dot."""
        lines = [
            f"From: {self.sender}",
            f"To: {self.recipient}",
            f"Subject: {' '.join(self.subject.splitlines())}",
            f"Date: {format_datetime(self.at)}",
            f"Message-ID: {self.message_id}",
            f"X-Drill-Time: {self.at.isoformat()}",
        ]
        if self.seed:
            lines.append(f"X-Mailstay-Seed: {self.seed}")
        else:
            lines += [f"X-Campaign-Id: {self.campaign_id}", f"X-Subscriber-Id: {self.subscriber_id}"]
        if self.unsubscribe_url:
            lines += [
                f"List-Unsubscribe: <{self.unsubscribe_url}>",
                "List-Unsubscribe-Post: List-Unsubscribe=One-Click",
            ]
        body = "\r\n".join(
            line.replace(".", "..", 1) if line.startswith(".") else line for line in self.body.splitlines()
        )
        return ("\r\n".join([*lines, "", body]) + "\r\n").encode()


class Transport(Protocol):
    """Takes one message at a time and says with which SMTP code."""

    def send(self, message: Outgoing) -> int:
        """Hand `message` over and return the reply code; 250 is accepted, `NO_REPLY` may have been."""


class Nowhere:
    """Accepts every message and forgets it."""

    def send(self, message: Outgoing) -> int:
        """Return 250."""
        return ACCEPTED


class Smtp:
    """One lasting SMTP connection, one transaction per message; it connects again after a failure."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._session: smtplib.SMTP | None = None

    def send(self, message: Outgoing) -> int:
        """Hand `message` over and return the reply code; a connection lost before the message counts as 451."""
        try:
            session = self._session or self._connect()
            if (refusal := self._announce(session, message)) is not None:
                return refusal
        except (OSError, smtplib.SMTPException):
            self.close()
            return REFUSED_FOR_NOW
        try:
            session.send(message.to_bytes() + b".\r\n")
            return session.getreply()[0]
        except (OSError, smtplib.SMTPException):
            self.close()
            return NO_REPLY

    def close(self) -> None:
        """Drop the connection."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _connect(self) -> smtplib.SMTP:
        session = smtplib.SMTP(*self._address, local_hostname="esp.example", timeout=30)
        session.ehlo()
        self._session = session
        return session

    @staticmethod
    def _announce(session: smtplib.SMTP, message: Outgoing) -> int | None:
        """Say what is to come and return the code that refuses it; None where the server waits for the message."""
        sender = message.sender.rpartition("<")[2].rstrip(">")
        commands = (f"MAIL FROM:<{sender}>", f"RCPT TO:<{message.recipient}>", "DATA")
        if session.has_extn("pipelining"):  # RFC 2920: one write, then the replies in order
            session.send("".join(f"{command}\r\n" for command in commands))
            replies = [session.getreply()[0] for _ in commands]
        else:
            replies = []
            for command in commands:
                replies.append(session.docmd(command)[0])
                if replies[-1] >= REFUSED_FOR_NOW:
                    break
        if replies[-1] != GO_AHEAD:
            session.rset()
            return next(code for code in replies if code != ACCEPTED)
        return None
