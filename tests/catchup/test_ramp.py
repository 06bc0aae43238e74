"""The ramp: small first, never more than double, never later than the deadline, stopped by complaints."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.catchup import RampLimits, StepResult, engaged_first, limit_passed, next_step

NOW = datetime(2011, 11, 16, 13, 0, tzinfo=UTC)
LIMITS = RampLimits(canary=50, factor=2.0, max_step=400, max_bounce_rate=0.05, max_complaint_rate=0.001)


def step(done=(), *, remaining=10_000, minutes=600, limits=LIMITS, speed=60):
    deadline = None if minutes is None else NOW + timedelta(minutes=minutes)
    return next_step(
        limits, list(done), remaining=remaining, now=NOW, deadline=deadline, messages_per_minute=speed
    )


def good(size) -> StepResult:
    return StepResult(size, size)


def test_volume_comes_back_in_growing_steps_up_to_the_largest() -> None:
    done: list[StepResult] = []
    for _ in range(6):
        done.append(good(step(done).size))
    assert [one.size for one in done] == [50, 100, 200, 400, 400, 400]


def test_a_step_grows_from_what_was_taken_not_from_what_was_tried() -> None:
    assert step([StepResult(size=200, accepted=60)]).size == 120


def test_the_last_step_is_what_is_left() -> None:
    assert step([good(50)], remaining=7).size == 7
    assert step([good(50)], remaining=0).reason == "finished"


def test_a_step_fits_into_half_of_the_time_that_is_left() -> None:
    assert step([good(200)], minutes=4, speed=60).size == 120


def test_without_time_nothing_is_started() -> None:
    for minutes in (0, -10):
        found = step(minutes=minutes)
        assert (found.size, found.no_time) == (0, True)


def test_a_complaint_spike_stops_the_ramp_within_one_step() -> None:
    found = step([good(50), StepResult(100, 100, complaints=3)])
    assert (found.size, found.stopped) == (0, True)
    assert "complaints" in found.reason


def test_bounces_above_the_limit_stop_the_ramp() -> None:
    assert step([StepResult(50, 50, bounced=3)]).stopped
    assert not step([StepResult(50, 50, bounced=2)]).stopped


def test_one_complaint_in_a_canary_of_fifty_is_not_yet_a_rate() -> None:
    assert not step([StepResult(50, 50, complaints=1)]).stopped


def test_many_small_steps_with_a_complaint_each_stop_it_together() -> None:
    assert limit_passed(LIMITS, [StepResult(50, 50, complaints=1)] * 2)


def test_engaged_people_come_first() -> None:
    engagement = pa.table({"subscriber_id": [3, 2], "times": [2, 5]})
    assert engaged_first(pa.array([1, 2, 3]), engagement).to_pylist() == [2, 3, 1]
    assert engaged_first(pa.array([3, 1]), engagement.slice(0, 0)).to_pylist() == [1, 3]


limits = st.builds(
    RampLimits,
    canary=st.integers(1, 500),
    factor=st.floats(1.01, 10),
    max_step=st.integers(1, 5000),
    max_bounce_rate=st.floats(0.001, 1),
    max_complaint_rate=st.floats(0.001, 1),
)
any_ramp = given(limits, st.integers(0, 20_000), st.integers(-10, 3000), st.integers(1, 2000), st.randoms())


def check_ramp(ramp, remaining, minutes, speed, random) -> None:
    """Play a whole ramp at half the promised speed: nothing is late, nobody is left while there is time."""
    now, deadline = NOW, NOW + timedelta(minutes=minutes)
    done: list[StepResult] = []
    while len(done) < 30:
        found = next_step(
            ramp, done, remaining=remaining, now=now, deadline=deadline, messages_per_minute=speed
        )
        if not found.size:
            assert found.stopped or found.no_time or remaining == 0
            break
        assert found.size <= min(ramp.max_step, remaining)
        largest = max((one.accepted for one in done), default=0)
        assert found.size <= max(ramp.canary, largest * ramp.factor)
        now += timedelta(minutes=found.size / (speed / 2))
        assert now <= deadline
        accepted = random.randint(0, found.size)
        done.append(StepResult(found.size, accepted))
        remaining -= found.size


@any_ramp
@settings(max_examples=100)
def test_whatever_the_limits_no_step_is_late_or_too_large(ramp, remaining, minutes, speed, random) -> None:
    check_ramp(ramp, remaining, minutes, speed, random)


@pytest.mark.slow
@any_ramp
@settings(max_examples=3000)
def test_over_thousands_of_limits_no_step_is_late_or_too_large(
    ramp, remaining, minutes, speed, random
) -> None:
    check_ramp(ramp, remaining, minutes, speed, random)
