"""Asking a JSON API over HTTP so that it is always known what a failure means.

Reads are repeated when the connection fails, the server is ill or asks to wait (`Retry-After`); a write is sent
once. Whatever is not JSON of the API itself is refused, for an error page with status 200 is not an answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from tasks.core import Clock, mask_addresses
from tasks.providers.errors import ProviderGarbled, ProviderRefused, ProviderUnavailable

_READ_ATTEMPTS = 4
_BACKOFF_SECONDS = (0.5, 2.0, 5.0)
_LONGEST_WAIT = 60.0
# The connection was never made: the server cannot have seen the request.
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)

Json = Any


class JsonApi:
    """A JSON API under one base URL.

    Args:
        name: the provider's name, for messages.
        base_url: everything is asked below it.
        auth: HTTP Basic user and token; never part of a message.
        timeout_seconds: longest wait for a connection and for each part of an answer.
        clock: what waiting between two reads goes by.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        *,
        auth: tuple[str, str],
        timeout_seconds: float,
        clock: Clock,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.name = name
        self._clock = clock
        self._client = httpx.Client(
            base_url=base_url.rstrip("/"),
            auth=auth,
            timeout=httpx.Timeout(timeout_seconds, connect=min(5.0, timeout_seconds)),
            # A connection kept for long may be closed by the server just as a write goes out: that would be an
            # unknown outcome for nothing.
            limits=httpx.Limits(max_connections=4, max_keepalive_connections=2, keepalive_expiry=2.0),
            headers={"Accept": "application/json", "User-Agent": "mailstay"},
            follow_redirects=False,
            transport=transport,
        )

    def get(
        self, path: str, params: Mapping[str, Any] | None = None, *, attempts: int = _READ_ATTEMPTS
    ) -> Json:
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
                if isinstance(error, ProviderRefused) and error.status != httpx.codes.TOO_MANY_REQUESTS:
                    raise
                if error.retry_after is not None:
                    wait = error.retry_after
                if attempt == attempts or wait > _LONGEST_WAIT:
                    raise
                self._clock.sleep(wait)
        raise AssertionError("unreachable")

    def send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Json:
        """Send one change and return the JSON that the API answers. It is never sent again from here.

        Raises:
            ProviderUnavailable: no usable answer; `outcome_unknown` says whether it may have been done.
            ProviderRefused: the API said no, nothing was changed.
        """
        return self._ask(method, path, body=body)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

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
        kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
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
        if not isinstance(content, dict) or "data" not in content:
            raise ProviderGarbled(
                f"{self.name} answered JSON without `data`", outcome_unknown=writes, where=where
            )
        return content["data"]

    def _retry_after(self, answer: httpx.Response) -> float | None:
        text = answer.headers.get("retry-after", "").strip()
        if not text:
            return None
        if text.isdigit():
            return float(text)
        try:
            moment = parsedate_to_datetime(text)
        except ValueError:
            return None
        # The server's own clock, where it tells it: ours may be a driven one.
        try:
            now = parsedate_to_datetime(answer.headers.get("date", ""))
        except ValueError:
            now = self._clock.now()
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0.0, (moment - now).total_seconds())


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
    text = content.get("message") if isinstance(content, dict) else None
    return mask_addresses(str(text))[:200] if text else "without a reason"


def _short(error: Exception) -> str:
    text = re.sub(r"^\[Errno -?\d+\] ", "", mask_addresses(str(error)))[:120]
    return text[:1].lower() + text[1:] if text else type(error).__name__
