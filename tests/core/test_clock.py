"""The clock: one time for every process of a drill."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tasks.core import ClockError, DrivenClock, SystemClock, open_clock


def test_system_clock_is_aware_and_not_simulated() -> None:
    clock = open_clock("system")
    assert isinstance(clock, SystemClock)
    assert clock.now().tzinfo is UTC
    assert not clock.simulated


def test_sleep_moves_a_driven_clock_for_every_reader(clock: DrivenClock) -> None:
    before = clock.now()
    clock.sleep(90)
    assert open_clock(f"driven:{clock.path}").now() == before + timedelta(seconds=90)


def test_a_driven_clock_does_not_go_back(clock: DrivenClock) -> None:
    with pytest.raises(ClockError, match="does not go back"):
        clock.set(clock.now() - timedelta(seconds=1))


def test_a_damaged_clock_file_is_a_clear_error(clock: DrivenClock) -> None:
    clock.path.write_text("{")
    with pytest.raises(ClockError, match=r"cannot be read.*start the drill again"):
        clock.now()


@pytest.mark.parametrize("spec", ["", "sundial", "driven:", "driven"])
def test_an_unknown_clock_is_refused(spec: str) -> None:
    with pytest.raises(ClockError, match="Unknown clock"):
        open_clock(spec)


def test_a_time_without_a_zone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="zone"):
        DrivenClock.create(tmp_path / "c.json", datetime(2011, 11, 1))  # noqa: DTZ001 - that is the point


def test_advance_returns_only_after_a_follower_caught_up(clock: DrivenClock) -> None:
    done: list[datetime] = []
    stop = threading.Event()

    def follow() -> None:
        with clock.follow("esp") as follower:
            reached = clock.now()  # before anybody moves it
            ready.set()
            while not stop.is_set():
                if (now := clock.now()) > reached:
                    stop.wait(0.05)
                    done.append(now)
                    follower.caught_up(now)
                    reached = now

    ready = threading.Event()
    thread = threading.Thread(target=follow)
    thread.start()
    ready.wait(5)
    try:
        for _ in range(3):
            moment = clock.advance(60)
            assert done[-1] == moment
    finally:
        stop.set()
        thread.join()


def test_a_killed_follower_holds_nobody_up(clock: DrivenClock) -> None:
    script = (
        "import os, signal, sys\n"
        "from tasks.core import DrivenClock\n"
        "with DrivenClock(sys.argv[1]).follow('esp'):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.Popen([sys.executable, "-c", script, str(clock.path)])
    while not list(clock.path.parent.glob("clock.json.followers/esp.json")) and killed.poll() is None:
        pass
    before = clock.now()
    clock.advance(60)  # the process is dead, reaped or not
    killed.wait()
    clock.advance(60)
    assert clock.now() == before + timedelta(seconds=120)
