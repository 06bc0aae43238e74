"""How long work reports that it moves; what a person sees is decided by the command line."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the progress of one piece of work at a time."""

    def start(self, title: str, total: int | None = None) -> None:
        """Begin work called `title`, of `total` units (rows, messages) where that is known."""

    def advance(self, units: int = 1, nbytes: int = 0) -> None:
        """Report that `units` more are done, of `nbytes` bytes; fewer than none where work begins again."""

    def finish(self, note: str = "") -> None:
        """End the current work, with a short `note` of what came out."""


class SilentProgress:
    """Shows nothing: the default of every function that takes a `Progress`."""

    def start(self, title: str, total: int | None = None) -> None:
        """Ignore the start of `title`."""

    def advance(self, units: int = 1, nbytes: int = 0) -> None:
        """Ignore `units`."""

    def finish(self, note: str = "") -> None:
        """Ignore the end."""


class _Current:
    sink: Progress = SilentProgress()


def report_progress_to(sink: Progress) -> None:
    """Let every later piece of work in this process report to `sink`; the command line calls this once."""
    _Current.sink = sink


def current_progress() -> Progress:
    """Return where work in this process reports its progress."""
    return _Current.sink
