"""Staying inside a provider's documented rate limit, so that it never has to refuse us."""

from __future__ import annotations

from collections import deque
from datetime import datetime, timedelta

from tasks.core import Clock
from tasks.providers.errors import ProviderUnavailable
from tasks.providers.model import RateLimit


class Pace:
    """At most `limit.calls` calls within any `limit.per`, by this process; what the server counts is heard too.

    A bucket that refills while it is emptied lets twice its size through in one window. Here the window slides: a call
    goes out when the one `limit.calls` before it has left the window.

    Args:
        limit: the limit.
        clock: what waiting goes by.
    """

    def __init__(self, limit: RateLimit, clock: Clock) -> None:
        self.limit = limit
        self._clock = clock
        self._calls: deque[datetime] = deque(maxlen=limit.calls)
        self._not_before: datetime | None = None

    def wait(self, patience: timedelta, where: str) -> None:
        """Return when a call may go out, and count it.

        Raises:
            ProviderUnavailable: that is longer away than `patience`; nothing was sent.
        """
        now = self._clock.now()
        ready = [now]
        if len(self._calls) == self.limit.calls:
            ready.append(self._calls[0] + self.limit.per)
        if self._not_before is not None:
            ready.append(self._not_before)
        seconds = (max(ready) - now).total_seconds()
        if seconds > patience.total_seconds():
            raise ProviderUnavailable(
                f"The limit of {self.limit.calls} calls per {in_words(self.limit.per)} is used up",
                outcome_unknown=False,
                retry_after=seconds,
                where=where,
                fix=f"try again in {round(seconds / 60) or 1} min",
            )
        if seconds > 0:
            self._clock.sleep(seconds)
        self._calls.append(self._clock.now())

    def heard(self, remaining: int, reset_seconds: float) -> None:
        """Take note of what the server says is left of its window: somebody else may use the same key."""
        self._not_before = (
            self._clock.now() + timedelta(seconds=reset_seconds)
            if remaining <= 0 and reset_seconds > 0
            else None
        )


def in_words(span: timedelta) -> str:
    """Return `span` as people say it after "per" or "for": `second`, `hour`, `72 hours`."""
    seconds = round(span.total_seconds())
    for size, name in ((3600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= size and seconds % size == 0:
            count = seconds // size
            return name if count == 1 else f"{count} {name}s"
    return f"{seconds} seconds"
