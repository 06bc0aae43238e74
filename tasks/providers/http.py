"""Asking a JSON API over HTTP so that it is always known what a failure means.

Reads are repeated when the connection fails, the server is ill or asks to wait (`Retry-After`). A write is sent once,
and again only after HTTP 429, which is a promise that nothing was done. Whatever is not JSON of the API itself is
refused, for an error page with status 200 is not an answer.
"""

from __future__ import annotations

import re
import ssl
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any

import httpx

from tasks.core import Clock, mask_addresses
from tasks.providers.errors import ProviderGarbled, ProviderRefused, ProviderUnavailable
from tasks.providers.model import RateLimit
from tasks.providers.pace import Pace

_ATTEMPTS = 4
_BACKOFF_SECONDS = (0.5, 2.0, 5.0)
PATIENCE = timedelta(minutes=1)
"""The longest that is waited because a provider asks for it, where its limits name no longer window."""

# The connection was never made: the server cannot have seen the request.
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)
_TOO_MANY = httpx.codes.TOO_MANY_REQUESTS

Json = Any


class JsonApi:
    """A JSON API under one base URL.

    Args:
        name: the provider's name, for messages.
        base_url: everything is asked below it.
        auth: HTTP Basic user and token; never part of a message.
        headers: sent with each request, such as one with the token; never part of a message.
        envelope: the key that every answer wraps its content in; empty where there is none.
        bare_403_is_busy: whether a 403 that is not JSON comes from in front of the API and means too many calls.
        timeout_seconds: longest wait for a connection and for each part of an answer.
        clock: what waiting goes by.
        rates: the documented limits that calls are kept inside of.
        patience: longest wait for a limit, or because the server asks for it.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        *,
        auth: tuple[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        envelope: str = "",
        bare_403_is_busy: bool = False,
        timeout_seconds: float,
        clock: Clock,
        rates: Sequence[RateLimit] = (),
        patience: timedelta = PATIENCE,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.name = name
        self._clock = clock
        self._envelope = envelope
        self._bare_403_is_busy = bare_403_is_busy
        self._patience = patience
        self._paces = [Pace(one, clock) for one in rates]
        self._timeout = httpx.Timeout(timeout_seconds, connect=min(5.0, timeout_seconds))
        self._client = httpx.Client(
            base_url=base_url.rstrip("/"),
            auth=auth,
            timeout=self._timeout,
            # A connection kept for long may be closed by the server just as a write goes out: that would be an
            # unknown outcome for nothing.
            limits=httpx.Limits(max_connections=4, max_keepalive_connections=2, keepalive_expiry=2.0),
            headers={"Accept": "application/json", "User-Agent": "mailstay", **(headers or {})},
            follow_redirects=False,
            transport=transport,
            verify=_tls(),
        )

    def get(self, path: str, params: Mapping[str, Any] | None = None, *, attempts: int = _ATTEMPTS) -> Json:
        """Return the JSON that GET `path` answers.

        Raises:
            ProviderUnavailable: no usable answer after `attempts` tries; nothing can have changed.
            ProviderRefused: the API said no.
        """
        for attempt in range(1, attempts + 1):
            try:
                return self._ask("GET", path, params=params)
            except (ProviderUnavailable, ProviderRefused) as error:
                wait = _BACKOFF_SECONDS[min(attempt, len(_BACKOFF_SECONDS)) - 1]
                if isinstance(error, ProviderRefused) and error.status != _TOO_MANY:
                    raise
                if error.retry_after is not None:
                    wait = error.retry_after
                if attempt == attempts or wait > self._patience.total_seconds():
                    raise
                self._clock.sleep(wait)
        raise AssertionError("unreachable")

    def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> Json:
        """Send one change and return the JSON that the API answers, None where it answers nothing (HTTP 204).

        It is sent again only after HTTP 429 with a time to wait: then nothing was done.

        Raises:
            ProviderUnavailable: no usable answer; `outcome_unknown` says whether it may have been done.
            ProviderRefused: the API said no, nothing was changed.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._ask(method, path, body=body, params=params)
            except ProviderRefused as error:
                wait = error.retry_after
                if error.status != _TOO_MANY or wait is None or attempt == _ATTEMPTS:
                    raise
                if wait > self._patience.total_seconds():
                    raise
                self._clock.sleep(wait)
        raise AssertionError("unreachable")

    def download(self, url: str, hosts: Collection[str]) -> Iterator[str]:
        """Yield the lines of the file at `url` without their ends. See `file_lines`."""
        for line in self.file_lines(url, hosts):
            yield line.rstrip("\n").rstrip("\r")

    def file_lines(self, url: str, hosts: Collection[str]) -> Iterator[str]:
        """Yield the lines of the file at `url` as they are, unpacked if it is gzip; the token is not sent along.

        Args:
            url: as the API gave it.
            hosts: hosts that a file may come from, besides the API's own.

        Raises:
            ProviderRefused: it lies elsewhere, or is not given.
            ProviderUnavailable: it could not be read to its end.
        """
        host, own = httpx.URL(url).host, self._client.base_url.host
        where = f"{self.name}: a file at {host}"
        if host != own and host not in hosts:
            raise ProviderRefused(
                f"{self.name} offers its export at a host that the plan does not name",
                status=0,
                where=where,
                fix=f"add {host} to the provider's download_hosts in the plan, if it is the provider's",
            )
        kept, encoding = b"", "utf-8-sig"
        try:
            with (
                httpx.Client(timeout=self._timeout, verify=_tls()) as client,
                client.stream("GET", url) as answer,
            ):
                if answer.status_code != httpx.codes.OK:
                    raise ProviderUnavailable(
                        f"{self.name}'s export answered HTTP {answer.status_code}",
                        outcome_unknown=False,
                        where=where,
                    )
                for part in _unpacked(answer.iter_bytes()):
                    *lines, kept = (kept + part).split(b"\n")
                    for line in lines:
                        yield line.decode(encoding) + "\n"
                        encoding = "utf-8"  # only the first line may begin with the mark of the byte order
                if kept:
                    yield kept.decode(encoding)
        except (httpx.HTTPError, zlib.error, UnicodeDecodeError, EOFError) as error:
            raise ProviderUnavailable(
                f"{self.name}'s export could not be read to its end: {_short(error)}",
                outcome_unknown=False,
                where=where,
            ) from None

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _paces_of(self, method: str, path: str) -> list[Pace]:
        """Return every limit that a call counts against: those of the longest beginning that fits, else the general."""

        def fit(pace: Pace) -> int:
            ways = (path, f"{method} {path}")
            fits = [len(start) for start in pace.limit.paths if any(way.startswith(start) for way in ways)]
            return max(fits, default=-1 if pace.limit.paths else 0)

        best = max(map(fit, self._paces), default=-1)
        return [one for one in self._paces if best >= 0 and fit(one) == best]

    def _ask(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Json:
        writes = method != "GET"
        where = f"{self.name}: {method} {path}"
        paces = self._paces_of(method, path)
        for pace in paces:
            pace.wait(self._patience, where)
        try:
            answer = self._client.request(method, path, params=params, json=body)
        except _NEVER_SENT as error:
            raise ProviderUnavailable(
                f"{self.name} cannot be reached: {_short(error)}", outcome_unknown=False, where=where
            ) from None
        except httpx.TimeoutException:
            raise ProviderUnavailable(
                f"{self.name} did not answer in time", outcome_unknown=writes, where=where
            ) from None
        except httpx.HTTPError as error:
            raise ProviderUnavailable(
                f"The connection to {self.name} broke: {_short(error)}", outcome_unknown=writes, where=where
            ) from None
        for pace in paces:
            self._listen(pace, answer)
        kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        is_json = kind == "application/json" or kind.endswith("+json")
        if self._bare_403_is_busy and answer.status_code == httpx.codes.FORBIDDEN and not is_json:
            raise ProviderRefused(
                f"{self.name} refused with a bare HTTP 403: too many calls of this account at once",
                status=_TOO_MANY,
                where=where,
                fix="try again when the account's other programs are done",
            )
        if httpx.codes.is_client_error(answer.status_code):
            raise ProviderRefused(
                f"{self.name} refused with HTTP {answer.status_code}: {_message(answer)}",
                status=answer.status_code,
                retry_after=self._retry_after(answer),
                where=where,
                fix=_FIXES.get(answer.status_code),
            )
        if httpx.codes.is_server_error(answer.status_code):
            raise ProviderUnavailable(
                f"{self.name} answered HTTP {answer.status_code}",
                outcome_unknown=writes,
                retry_after=self._retry_after(answer),
                where=where,
            )
        if not httpx.codes.is_success(answer.status_code):
            raise ProviderGarbled(
                f"{self.name} answered HTTP {answer.status_code}, which its API never does",
                outcome_unknown=writes,
                where=where,
                fix="check that api_url in the plan is the API itself",
            )
        if answer.status_code == httpx.codes.NO_CONTENT:
            return None
        if not is_json:
            raise ProviderGarbled(
                f"{self.name} answered {kind or 'something without a type'} where JSON was expected",
                outcome_unknown=writes,
                where=where,
                fix="check that api_url in the plan is the API itself and not a page in front of it",
            )
        try:
            content = answer.json()
        except ValueError:
            raise ProviderGarbled(
                f"{self.name} answered JSON that cannot be read (cut short, perhaps)",
                outcome_unknown=writes,
                where=where,
            ) from None
        if not self._envelope:
            return content
        if not isinstance(content, dict) or self._envelope not in content:
            raise ProviderGarbled(
                f"{self.name} answered JSON without `{self._envelope}`", outcome_unknown=writes, where=where
            )
        return content[self._envelope]

    def _listen(self, pace: Pace, answer: httpx.Response) -> None:
        remaining = answer.headers.get("x-sib-ratelimit-remaining", "").strip()
        reset = answer.headers.get("x-sib-ratelimit-reset", "").strip()
        if remaining.isdigit() and reset.isdigit():
            pace.heard(int(remaining), float(reset))

    def _retry_after(self, answer: httpx.Response) -> float | None:
        """Return how many seconds the server asks to wait, in whichever of the ways that providers have for it."""
        text = answer.headers.get("retry-after", "").strip()
        if not text and answer.status_code == _TOO_MANY:
            seconds = answer.headers.get("x-sib-ratelimit-reset", "").strip()
            moment = answer.headers.get("x-ratelimit-reset", "").strip()
            if seconds.isdigit():
                return float(seconds)
            if moment.isdigit():
                return max(0.0, float(moment) - self._servers_time(answer).timestamp())
        if not text:
            return None
        if text.isdigit():
            return float(text)
        try:
            until = parsedate_to_datetime(text)
        except ValueError:
            return None
        if until.tzinfo is None:
            until = until.replace(tzinfo=UTC)
        return max(0.0, (until - self._servers_time(answer)).total_seconds())

    def _servers_time(self, answer: httpx.Response) -> datetime:
        """Return the server's own time, where it tells it: our clock may be a driven one."""
        try:
            now = parsedate_to_datetime(answer.headers.get("date", ""))
        except ValueError:
            return self._clock.now()
        return now.replace(tzinfo=UTC) if now.tzinfo is None else now


def below(api_url: str, version: str) -> str:
    """Return the URL that calls of an API's `version` go below, whether the plan names it or not."""
    base = api_url.rstrip("/")
    return base if base.endswith(version) else f"{base}{version}"


@cache
def _tls() -> ssl.SSLContext:
    """Return the one TLS context: reading the authorities takes longer than most calls."""
    return httpx.create_ssl_context()


def _unpacked(parts: Iterator[bytes]) -> Iterator[bytes]:
    first = next(parts, b"")
    if first[:2] != b"\x1f\x8b":
        yield first
        yield from parts
        return
    unpack = zlib.decompressobj(zlib.MAX_WBITS | 16)
    yield unpack.decompress(first)
    for part in parts:
        yield unpack.decompress(part)
    if not unpack.eof:
        raise EOFError("the file ends too early")


def parse_time(value: Any, where: str) -> datetime | None:
    """Return the RFC 3339 time `value` in UTC, None for null; a time without a zone is taken as UTC.

    Raises:
        ProviderGarbled: it is not a time.
    """
    if value is None or value == "":
        return None
    try:
        moment = datetime.fromisoformat(str(value).replace(" ", "T", 1))
    except ValueError:
        raise ProviderGarbled("A time cannot be read", outcome_unknown=False, where=where) from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


_FIXES = {
    401: "check the provider's user and token in the environment",
    403: "give the API user the permission that this call needs",
    404: "check that api_url in the plan is right and that the object still exists",
}


def _message(answer: httpx.Response) -> str:
    try:
        content = answer.json()
    except ValueError:
        return "without a reason"
    if not isinstance(content, dict):
        return "without a reason"
    errors = content.get("errors")  # SendGrid and JSON:API
    first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else {}
    said = (content.get("message"), first.get("message"), first.get("detail"), content.get("detail"))
    text = next(filter(None, said), None)
    return mask_addresses(str(text))[:200] if text else "without a reason"


def _short(error: Exception) -> str:
    text = re.sub(r"^\[Errno -?\d+\] ", "", mask_addresses(str(error)))[:120]
    return text[:1].lower() + text[1:] if text else type(error).__name__
