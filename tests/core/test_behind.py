"""Work behind the caller's back: in order, bounded, and never lost."""

from __future__ import annotations

import threading

import pytest

from tasks.core import Behind


def test_calls_are_made_in_order_and_all_are_done_at_the_end() -> None:
    done: list[int] = []
    with Behind(done.append) as later:
        for number in range(100):
            later(number)
    assert done == list(range(100))


def test_the_caller_waits_when_the_work_does_not_keep_up() -> None:
    go, called = threading.Event(), []

    def work(number: int) -> None:
        called.append(number)
        assert go.wait(30)

    def feed() -> None:
        with Behind(work) as later:
            for number in range(10):
                later(number)
                handed.append(number)

    handed: list[int] = []
    feeder = threading.Thread(target=feed)
    feeder.start()
    feeder.join(0.5)
    assert feeder.is_alive()
    assert len(handed) <= 3
    go.set()
    feeder.join(30)
    assert called == list(range(10))


def test_an_error_reaches_the_caller_and_nothing_is_done_after_it() -> None:
    done: list[int] = []

    def work(number: int) -> None:
        if number == 3:
            raise ValueError("three")
        done.append(number)

    with pytest.raises(ValueError, match="three"), Behind(work) as later:
        for number in range(10):
            later(number)
    assert done == [0, 1, 2]


def test_an_error_of_the_caller_is_not_hidden_by_the_work() -> None:
    with pytest.raises(KeyError), Behind(lambda: None) as later:
        later()
        raise KeyError("mine")
