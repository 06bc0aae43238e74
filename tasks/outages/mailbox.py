"""Looking for a seed message in its mailbox: over IMAP, or over HTTP at a mail catcher that shows messages as JSON."""

from __future__ import annotations

import contextlib
import imaplib
import ssl
from urllib.parse import unquote, urlsplit

import httpx

from tasks.outages.deadline import within

MAX_BYTES = 8 * 1024 * 1024


def seed_arrived(
    mailbox_url: str, token: str, *, timeout_seconds: float, password: str | None = None
) -> bool | None:
    """Return whether the mailbox holds the seed `token`; None when it cannot be read.

    Args:
        mailbox_url: `imaps://user@host/INBOX` (or `imap://`), looked through by the seed's header; or an `http` address
            that answers JSON with subjects or headers (Mailpit's `/api/v1/messages`, the sink of a drill).
        token: the text that only this seed has.
        timeout_seconds: how long all of it may take.
        password: of the mailbox, for IMAP.
    """
    look = _in_imap if urlsplit(mailbox_url).scheme in ("imap", "imaps") else _in_json
    with contextlib.suppress(
        httpx.HTTPError, httpx.InvalidURL, imaplib.IMAP4.error, OSError, ValueError, EOFError
    ):
        return within(timeout_seconds, lambda: look(mailbox_url, token, timeout_seconds, password or ""))
    return None


def _in_json(url: str, token: str, timeout: float, password: str) -> bool | None:
    answer = httpx.get(url, timeout=timeout, headers={"Accept": "application/json"})
    kind = answer.headers.get("content-type", "")
    if answer.status_code != httpx.codes.OK or "json" not in kind or len(answer.content) > MAX_BYTES:
        return None
    return token in answer.text


def _in_imap(url: str, token: str, timeout: float, password: str) -> bool | None:
    parts = urlsplit(url)
    host, folder = parts.hostname or "", unquote(parts.path.lstrip("/")) or "INBOX"
    if parts.scheme == "imaps":
        context = ssl.create_default_context()
        box: imaplib.IMAP4 = imaplib.IMAP4_SSL(host, parts.port or 993, ssl_context=context, timeout=timeout)
    else:
        box = imaplib.IMAP4(host, parts.port or 143, timeout=timeout)
    try:
        box.login(unquote(parts.username or ""), password)
        status, _ = box.select(_quoted(folder), readonly=True)  # a probe leaves no message as read
        if status != "OK":
            return None
        status, found = box.uid("SEARCH", "HEADER", "X-Mailstay-Seed", _quoted(token))
        return bool(found and found[0] and found[0].split()) if status == "OK" else None
    finally:
        with contextlib.suppress(OSError, imaplib.IMAP4.error):
            box.logout()


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
