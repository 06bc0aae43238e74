"""Whether the page that an opt-out link leads to opens. It is left again: RFC 8058 lets only a POST opt out.

The address is that of the seed subscriber, so that a provider which opts out on opening harms nobody.
"""

from __future__ import annotations

from datetime import datetime

import httpx

from tasks.outages.deadline import within
from tasks.outages.signals import Signal, Verdict

TRIES = 2
"""One failure is what any network does now and then."""


def unsubscribe_signal(url: str, at: datetime, *, timeout_seconds: float) -> Signal:
    """Return the `unsubscribe` signal: bad when the page failed each time, degraded when it failed once.

    Args:
        url: the opt-out address; it stays out of the signal, because it identifies a subscriber.
        at: the time of the pass.
        timeout_seconds: how long one try may take.
    """
    failures = []
    for _ in range(TRIES):
        failed = _open(url, timeout_seconds)
        if not failed:
            break
        failures.append(failed)
    verdict: Verdict = "bad" if len(failures) == TRIES else "degraded" if failures else "good"
    seen = f"the opt-out page fails: {failures[-1]}" if failures else "the opt-out page opens"
    return Signal("unsubscribe", verdict, seen, at, {"failed": len(failures)})


def _open(url: str, timeout_seconds: float) -> str:
    """Return what was wrong; empty when the page opened."""

    def look() -> str:
        with httpx.Client(timeout=timeout_seconds) as client, client.stream("GET", url) as answer:
            # A redirect is an answer of the provider; where it leads may be a host that the plan does not name.
            return "" if answer.is_success or answer.is_redirect else f"HTTP {answer.status_code}"

    try:
        return within(timeout_seconds, look)
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
        return f"no answer ({type(error).__name__})"
