"""Work that goes on behind the caller's back, in order, and never far behind."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, ParamSpec

P = ParamSpec("P")
_WAITING = 2  # pieces of work that wait at most, so that memory stays bounded


class Behind(Generic[P]):
    """Calls one function in a thread of its own, one call after the other; use as a context manager.

    What a call raises is raised by a later call or at the end, and no further call is made.

    Args:
        work: the function; the caller must not touch what it works on before the block has ended.
    """

    def __init__(self, work: Callable[P, object]) -> None:
        self._work = work
        self._pool = ThreadPoolExecutor(1, "mailstay-behind")
        self._waiting: deque[Future[None]] = deque()
        self._failed = False

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Have the function called with these arguments; waits while too many calls are outstanding."""
        while len(self._waiting) >= _WAITING:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(self._run, *args, **kwargs))

    def _run(self, *args: P.args, **kwargs: P.kwargs) -> None:
        if self._failed:
            return
        try:
            self._work(*args, **kwargs)
        except BaseException:
            self._failed = True
            raise

    def __enter__(self) -> Behind[P]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        try:
            while kind is None and self._waiting:
                self._waiting.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)
