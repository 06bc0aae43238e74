"""The ramp: small first, never more than double, never later than the deadline, stopped by complaints."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.catchup import (
    Lane,
    RampLimits,
    StepResult,
    course,
    engaged_first,
    limit_passed,
    mailbox_providers,
    next_step,
    pick,
)

NOW = datetime(2011, 11, 16, 13, 0, tzinfo=UTC)
DAY = timedelta(days=1)
LIMITS = RampLimits(canary=50, factor=2.0, max_step=400, max_bounce_rate=0.05, max_complaint_rate=0.001)


def steps(lanes, remaining, *, minutes=600, limits=LIMITS, speed=60, now=NOW):
    deadline = None if minutes is None else now + timedelta(minutes=minutes)
    return next_step(
        limits, lanes, remaining=remaining, now=now, deadline=deadline, messages_per_minute=speed
    )


def step(done=(), *, remaining=10_000, **more):
    return steps({"gmail": Lane(tuple(done))}, {"gmail": remaining}, **more)


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
    assert step([good(50)], remaining=0).size == 0


def test_a_step_fits_into_half_of_the_time_that_is_left() -> None:
    assert step([good(200)], minutes=4, speed=60).size == 120


def test_without_time_nothing_is_started() -> None:
    for minutes in (0, -10):
        found = step(minutes=minutes)
        assert (found.size, found.no_time) == (0, True)


def test_a_complaint_spike_stops_the_ramp_within_one_step() -> None:
    found = step([good(50), StepResult(100, 100, complaints=3)])
    assert found.size == 0
    assert "complaints" in found.stopped["gmail"]


def test_bounces_above_the_limit_stop_the_ramp() -> None:
    assert step([StepResult(50, 50, bounced=3)]).stopped
    assert not step([StepResult(50, 50, bounced=2)]).stopped


def test_one_complaint_in_a_canary_of_fifty_is_not_yet_a_rate() -> None:
    assert not step([StepResult(50, 50, complaints=1)]).stopped


def test_many_small_steps_with_a_complaint_each_stop_it_together() -> None:
    assert limit_passed(LIMITS, [StepResult(50, 50, complaints=1)] * 2)


def test_one_mailbox_provider_stops_and_the_others_go_on() -> None:
    bad, fine = Lane((StepResult(50, 50, complaints=2),)), Lane((good(50),))
    found = steps({"gmail": bad, "yahoo": fine}, {"gmail": 500, "yahoo": 500, "apple": 500})
    assert dict(found.sizes) == {"yahoo": 100, "apple": 50}
    assert (found.size, list(found.stopped)) == (150, ["gmail"])


def test_in_no_day_a_mailbox_provider_gets_more_than_the_factor_of_its_trailing_volume() -> None:
    full = Lane((good(400),), daily=300, volume=((NOW - DAY / 2, 400), (NOW - DAY / 4, 150)))
    assert steps({"gmail": full}, {"gmail": 500}).size == 50
    used = Lane((good(400),), daily=300, volume=((NOW - DAY / 2, 400), (NOW - DAY / 4, 200)))
    found = steps({"gmail": used}, {"gmail": 500, "yahoo": 7})
    assert dict(found.waits) == {"gmail": NOW + DAY / 2}
    assert found.size == 7, "the others go on"


def test_where_nobody_was_mailed_lately_a_day_brings_a_canary() -> None:
    assert steps({"gmail": Lane(daily=0)}, {"gmail": 500}).size == 50
    assert steps({"gmail": Lane((good(50),), 0, ((NOW, 50),))}, {"gmail": 500}).size == 0


def test_a_step_takes_the_first_of_each_mailbox_provider() -> None:
    names = pa.array(["gmail", "yahoo", "gmail", "gmail", "yahoo", "apple"])
    assert pick(names, {"gmail": 2, "yahoo": 1}, 9).to_pylist() == [0, 1, 2]
    assert pick(names, {"gmail": 2, "yahoo": 9, "apple": 1}, 4).to_pylist() == [0, 1, 2, 4]
    assert pick(names.slice(0, 0), {}, 4).to_pylist() == []


def test_the_cost_of_a_ramp_is_told_for_each_mailbox_provider_over_several_days() -> None:
    lanes = {"gmail": Lane(daily=100), "yahoo": Lane((StepResult(9, 9, bounced=9),))}
    left = {"gmail": 450, "apple": 60, "yahoo": 8}
    cost = course(LIMITS, lanes, remaining=left, now=NOW, deadline=NOW + 2.5 * DAY, messages_per_minute=60)
    assert {name: (one.people, one.held) for name, one in cost.lanes.items()} == {
        "apple": (60, 0), "gmail": (450, 0), "yahoo": (0, 8)
    }  # fmt: skip
    assert cost.lanes["apple"].minutes < 10
    assert 2 * 1440 < cost.lanes["gmail"].minutes < 2.1 * 1440
    one_day = course(LIMITS, lanes, remaining=left, now=NOW, deadline=NOW + DAY / 2, messages_per_minute=60)
    assert one_day.lanes["gmail"].people == 200


@pytest.mark.parametrize(
    ("address", "name"),
    [("a@gmail.com", "gmail"), ("A@GoogleMail.com", "gmail"), ("a@hotmail.co.uk", "outlook"), ("a@aol.com", "yahoo"),
     ("a@me.com", "apple"), ("a@yahoo.co.jp", "other"), ("a@wholesale.example", "gmail"), ("a@gmx.de", "gmx"),
     ("a@outlook.com", "partner"), ('"a@gmail.com"@shop.example', "other"), ("", "other")],
)  # fmt: skip
def test_an_address_belongs_to_the_mailbox_provider_of_its_domain(address, name) -> None:
    more = {"gmail": ["wholesale.example"], "gmx": ["GMX.de"], "partner": ["outlook.com"]}
    assert mailbox_providers([address], more).to_pylist() == [name]


def test_whoever_opened_or_clicked_last_comes_first() -> None:
    seen = pa.table({"subscriber_id": [3, 2, 9], "at": [NOW - DAY, NOW, NOW]}).cast(
        pa.schema([("subscriber_id", pa.int64()), ("at", pa.timestamp("us", tz="UTC"))])
    )
    assert engaged_first(pa.array([1, 2, 3, 4, 9]), seen).to_pylist() == [2, 9, 3, 1, 4]
    assert engaged_first(pa.array([3, 1]), seen.slice(0, 0)).to_pylist() == [1, 3]


limits = st.builds(
    RampLimits,
    canary=st.integers(1, 500),
    factor=st.floats(1.01, 10),
    max_step=st.integers(1, 5000),
    max_bounce_rate=st.floats(0.001, 1),
    max_complaint_rate=st.floats(0.001, 1),
)
lanes = st.dictionaries(
    st.sampled_from(["gmail", "outlook", "yahoo", "apple", "other"]),
    st.tuples(st.integers(0, 600), st.one_of(st.none(), st.integers(0, 800))),
    min_size=1,
)
any_ramp = given(limits, lanes, st.integers(-10, 3000), st.integers(1, 2000), st.randoms())


def check_ramp(ramp, world, minutes, speed, random) -> None:
    """Play a whole ramp at half the promised speed: nothing late or too large, everybody once, engaged first."""
    now, deadline = NOW, NOW + timedelta(minutes=minutes)
    people = [name for name, (count, _) in world.items() for _ in range(count)]
    random.shuffle(people)
    waiting = pa.array(people, pa.string())
    state = {name: Lane(daily=daily) for name, (_, daily) in world.items()}
    mailed = dict.fromkeys(world, 0)
    for _ in range(30):
        left = {name: people.count(name) - mailed[name] for name in world}
        found = next_step(ramp, state, remaining=left, now=now, deadline=deadline, messages_per_minute=speed)
        if not found.size:
            open_to = {name for name in left if left[name]} - {*found.stopped, *found.waits}
            assert found.no_time or not open_to, "somebody could have been mailed"
            break
        chosen = pick(waiting, found.sizes, found.size).to_pylist()
        assert len(chosen) == found.size == len(set(chosen))
        took = {name: sum(waiting[place].as_py() == name for place in chosen) for name in world}
        now += timedelta(minutes=found.size / (speed / 2))
        assert now <= deadline
        for name, size in took.items():
            lane = state[name]
            largest = max((one.accepted for one in lane.done), default=0)
            assert size <= min(ramp.max_step, max(ramp.canary, largest * ramp.factor), left[name])
            if size:
                assert not limit_passed(ramp, lane.done)
                places = [place for place, one in enumerate(waiting.to_pylist()) if one == name]
                assert [one for one in chosen if one in set(places)] == places[:size], (
                    "not the first of their own"
                )
                accepted = random.randint(0, size)
                result = StepResult(size, accepted, complaints=random.choice([0, 0, 0, min(2, accepted)]))
                volume = (*lane.volume, (now, size))
                state[name] = Lane((*lane.done, result), lane.daily, volume)
                mailed[name] += size
                if lane.daily is not None:
                    day = sum(count for when, count in volume if when > now - DAY)
                    most = lane.daily * ramp.factor if lane.daily else ramp.canary
                    assert day <= most, "more than a day may bring"
        kept = sorted(set(range(len(waiting))) - set(chosen))
        waiting = waiting.take(pa.array(kept, pa.int64()))
    assert len(waiting) + sum(mailed.values()) == len(people), "somebody is lost or mailed twice"


@any_ramp
@settings(max_examples=20, deadline=None)
def test_whatever_the_limits_no_mailbox_provider_gets_too_much_or_late(
    ramp, world, minutes, speed, random
) -> None:
    check_ramp(ramp, world, minutes, speed, random)


@pytest.mark.slow
@any_ramp
@settings(max_examples=1000, deadline=None)
def test_over_a_thousand_limits_no_mailbox_provider_gets_too_much_or_late(
    ramp, world, minutes, speed, random
) -> None:
    check_ramp(ramp, world, minutes, speed, random)
