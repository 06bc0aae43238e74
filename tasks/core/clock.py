"""The clock: real, or driven by a drill. Every module asks one of these for the time, never the system.

A driven clock lives in a file so that all processes of a drill (flows, simulated ESP) share one time. Whoever
sleeps or advances moves it, and waits until each live follower (a process that acts as time passes) has caught
up: a drill then gives the same result each time.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from tasks.core.errors import MailstayError

_CATCH_UP_SECONDS = 120.0
_POLL_SECONDS = 0.002


class ClockError(MailstayError):
    """A driven clock's file is missing or damaged, time was asked to go back, or a follower did not keep up."""


class Clock(Protocol):
    """Tells the time (UTC, timezone-aware) and waits."""

    @property
    def simulated(self) -> bool:
        """Whether times from this clock must be labelled as simulated."""

    def now(self) -> datetime:
        """Return the current time in UTC."""

    def sleep(self, seconds: float) -> None:
        """Return once `seconds` of this clock's time have passed."""


class SystemClock:
    """The computer's own clock."""

    simulated = False

    def now(self) -> datetime:
        """Return the current time in UTC."""
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        """Block for `seconds`."""
        time.sleep(max(0.0, seconds))


class DrivenClock:
    """A clock in the file `path`, moved only by `advance`, `set` and `sleep`."""

    simulated = True

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._followers = self.path.with_name(self.path.name + ".followers")

    @classmethod
    def create(cls, path: Path | str, start: datetime) -> DrivenClock:
        """Write a new clock file that stands at `start` and return its clock."""
        clock = cls(path)
        clock.path.parent.mkdir(parents=True, exist_ok=True)
        _write(clock.path, {"now": _utc(start).isoformat()})
        return clock

    def now(self) -> datetime:
        """Return the time the clock stands at.

        Raises:
            ClockError: the file is missing or damaged.
        """
        try:
            return datetime.fromisoformat(json.loads(self.path.read_text())["now"])
        except (OSError, ValueError, KeyError) as error:
            raise ClockError(
                "The driven clock cannot be read", where=str(self.path), fix="start the drill again"
            ) from error

    def advance(self, step: timedelta | float) -> datetime:
        """Move the clock by `step` (seconds or a timedelta), wait for the followers, return the new time."""
        delta = step if isinstance(step, timedelta) else timedelta(seconds=step)
        return self.set(self.now() + delta)

    def set(self, moment: datetime) -> datetime:
        """Move the clock forward to `moment` and wait for the followers.

        Raises:
            ClockError: `moment` lies before the clock's time, or a follower lives but did not catch up.
        """
        moment = _utc(moment)
        if moment < self.now():
            raise ClockError(f"A clock does not go back to {moment.isoformat()}", where=str(self.path))
        _write(self.path, {"now": moment.isoformat()})
        deadline = time.monotonic() + _CATCH_UP_SECONDS
        while behind := [name for name in self._live() if self._reached(name) < moment]:
            if time.monotonic() > deadline:
                raise ClockError(f"{', '.join(behind)} did not follow the clock", where=str(self.path))
            time.sleep(_POLL_SECONDS)
        return moment

    def sleep(self, seconds: float) -> None:
        """Advance the clock by `seconds`: whoever waits in a drill moves its time."""
        if seconds > 0:
            self.advance(seconds)

    @contextlib.contextmanager
    def follow(self, name: str) -> Iterator[Follower]:
        """Register this process as one that acts as time passes, until the block ends."""
        self._followers.mkdir(parents=True, exist_ok=True)
        follower = Follower(self, self._followers / f"{name}.json")
        follower.caught_up(self.now())
        try:
            yield follower
        finally:
            follower.path.unlink(missing_ok=True)

    def _live(self) -> list[str]:
        if not self._followers.is_dir():
            return []
        return [path.stem for path in self._followers.glob("*.json") if _alive(_read(path).get("pid", 0))]

    def _reached(self, name: str) -> datetime:
        at = _read(self._followers / f"{name}.json").get("at")
        return datetime.fromisoformat(at) if at else datetime.max.replace(tzinfo=UTC)


class Follower:
    """The mark of a process that follows a driven clock."""

    def __init__(self, clock: DrivenClock, path: Path) -> None:
        self.clock = clock
        self.path = path

    def caught_up(self, moment: datetime) -> None:
        """Say that everything due up to `moment` has been done."""
        _write(self.path, {"pid": os.getpid(), "at": _utc(moment).isoformat()})


def open_clock(spec: str) -> Clock:
    """Return the clock that `spec` names: `system`, or `driven:PATH` for a clock file of a drill.

    Raises:
        ClockError: `spec` is neither.
    """
    if spec == "system":
        return SystemClock()
    kind, _, path = spec.partition(":")
    if kind == "driven" and path:
        return DrivenClock(path)
    raise ClockError(f"Unknown clock {spec!r}", fix="write `system` or `driven:PATH`")


def _utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("a time without a zone is not accepted")
    return moment.astimezone(UTC)


def _write(path: Path, content: dict[str, object]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(content))
    partial.replace(path)


def _read(path: Path) -> dict[str, str]:
    try:
        content: dict[str, str] = json.loads(path.read_text())
        return content
    except (OSError, ValueError):
        return {}


def _alive(pid: int | str) -> bool:
    """Whether process `pid` runs (a killed one that was not yet reaped does not)."""
    try:
        os.kill(int(pid), 0)
        state = Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, PermissionError, ValueError):
        return False
    except OSError:
        return True
    return int(pid) > 0 and state not in {"Z", "X"}
