"""Reading no faster than the source's owner allows: a token bucket over the bytes that were read."""

from __future__ import annotations

from tasks.core import Clock


class RateLimit:
    """Holds its caller back to `bytes_per_second` on average, after a first second's worth that is free.

    What counts are the bytes of Arrow batches, which is near what the database sent before compression. The bucket may
    go below empty, so that a batch larger than it still passes; the wait comes after.

    Args:
        bytes_per_second: the rate, and the most that is saved up while nobody reads.
        clock: measures the time and waits.
    """

    def __init__(self, bytes_per_second: int, clock: Clock) -> None:
        self._rate, self._clock = bytes_per_second, clock
        self._saved = float(bytes_per_second)
        self._at = clock.now()

    def take(self, count: int) -> None:
        """Account for `count` bytes that were read, and return when reading may go on."""
        now = self._clock.now()
        earned = (now - self._at).total_seconds() * self._rate
        self._saved, self._at = min(self._rate, self._saved + earned) - count, now
        if self._saved < 0:
            self._clock.sleep(-self._saved / self._rate)
