"""What is generated depends on the seed and on what is asked, never on the order of asking."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.drills import DrillError
from tasks.drills.calendar import campaign_calendar, joins_at, list_members, opt_outs, outage_day
from tasks.drills.draws import stable_uuid, uniform
from tasks.drills.esp.behaviour import Rates, fates
from tasks.drills.esp.faults import FAULTS, Faults
from tasks.drills.scenario import SCENARIOS, first_harm, restored_after


@given(seed=st.integers(0, 2**32), ids=st.lists(st.integers(0, 10**6), min_size=1, unique=True))
def test_a_draw_is_the_same_for_one_as_for_many(seed: int, ids: list[int]) -> None:
    together = uniform(seed, "q", 4, ids)
    assert [uniform(seed, "q", 4, [one])[0] for one in ids] == list(together)
    assert ((together >= 0) & (together < 1)).all()


def test_draws_are_uniform_and_differ_by_question() -> None:
    ids = np.arange(20_000)
    first, second = uniform(1, "a", 0, ids), uniform(1, "b", 0, ids)
    assert abs(first.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03


def test_the_fate_of_a_message_does_not_depend_on_who_else_was_mailed() -> None:
    everyone = np.arange(1, 3001)
    some = everyone[::7]
    of_all = fates(5, 9, everyone, Rates()).to_pylist()
    of_some = fates(5, 9, some, Rates()).to_pylist()
    wanted = {int(one) for one in some}
    assert {(int(some[row["row"]]), row["type"], row["delay_us"]) for row in of_some} == {
        (int(everyone[row["row"]]), row["type"], row["delay_us"])
        for row in of_all
        if int(everyone[row["row"]]) in wanted
    }


def test_a_message_bounces_or_is_delivered_and_is_opened_only_after_that() -> None:
    rows = fates(5, 9, np.arange(1, 5001), Rates()).to_pylist()
    delivered = {row["row"]: row["delay_us"] for row in rows if row["type"] == "delivered"}
    bounced = {row["row"] for row in rows if row["type"] == "bounce"}
    assert len(delivered) + len(bounced) == 5000 and not bounced & set(delivered)
    opened = {row["row"]: row["delay_us"] for row in rows if row["type"] == "open"}
    assert all(opened[row] >= delivered[row] for row in opened)
    clicked = {row["row"]: row["delay_us"] for row in rows if row["type"] == "click"}
    assert all(clicked[row] > opened[row] for row in clicked)
    assert 0.2 < len(opened) / 5000 < 0.36


@pytest.mark.parametrize("seed", range(20))
def test_the_outage_falls_on_a_midweek_day_of_autumn(seed: int) -> None:
    day = outage_day(seed)
    assert day.weekday() in (1, 2, 3)
    assert (9, 1) < (day.month, day.day) < (11, 30)


def test_different_seeds_give_different_days() -> None:
    assert len({outage_day(seed) for seed in range(40)}) > 15


def test_the_calendar_of_the_outage_day_has_one_of_each_kind_and_ids_rise_with_time() -> None:
    day = outage_day(7)
    calendar = campaign_calendar(day, 26)
    today = [one for one in calendar if one.send_at.date() == day]
    assert [one.kind for one in today] == ["newsletter", "launch", "sale", "winback"]
    assert [one.send_at.hour for one in today] == [8, 9, 10, 11]
    assert all(one.send_at.date() == one.latest_useful_at.date() for one in today if one.latest_useful_at)
    assert [one.id for one in calendar] == list(range(1, len(calendar) + 1))
    assert [one.send_at for one in calendar] == sorted(one.send_at for one in calendar)


def test_opt_outs_are_different_people_and_most_fall_into_the_outage() -> None:
    day = outage_day(7)
    ids = np.arange(1, 500)
    found = opt_outs(7, day, ids, 12)
    assert len({one.customer_id for one in found}) == len(found)
    midnight = datetime.combine(day, datetime.min.time(), UTC)
    inside = [
        one for one in found if timedelta(hours=8, minutes=12) < one.at - midnight < timedelta(hours=13)
    ]
    assert len(inside) == 12
    assert found == opt_outs(7, day, ids, 12)


def test_a_winback_list_takes_newsletter_readers_only() -> None:
    ids = np.arange(1, 5000)
    winback = list_members(7, 9, ids)
    assert winback.any() and not (winback & ~list_members(7, 1, ids)).any()


def test_a_customer_joins_with_the_next_nightly_sign_up() -> None:
    late = datetime(2011, 11, 15, 23, 0, tzinfo=UTC)
    early = datetime(2011, 11, 16, 0, 30, tzinfo=UTC)
    assert joins_at(late) == joins_at(early) == datetime(2011, 11, 16, 1, 0, tzinfo=UTC)
    assert joins_at(joins_at(early)) > joins_at(early)


def test_uuids_are_stable_and_valid() -> None:
    assert stable_uuid(1, "list", 1) == stable_uuid(1, "list", 1) != stable_uuid(1, "list", 2)
    assert stable_uuid(1, "list", 1)[14] == "4"


def test_faults_outlive_their_process_and_refuse_what_they_do_not_know(tmp_path) -> None:  # type: ignore[no-untyped-def]
    faults = Faults(tmp_path / "faults.json")
    faults.turn_on("partial", share=0.5)
    again = Faults(tmp_path / "faults.json")
    assert again.get("partial", "share", 0) == 0.5
    assert again.get("slow", "seconds", 0) == 0
    again.turn_off("partial")
    faults.reload()
    assert "partial" not in faults
    for wrong in (
        lambda: faults.turn_on("rain"),
        lambda: faults.turn_on("slow", colour=1),
        lambda: faults.turn_off("x"),
    ):
        with pytest.raises(DrillError):
            wrong()


def test_every_scenario_uses_known_faults_in_the_order_of_time() -> None:
    for name, steps in SCENARIOS.items():
        assert [one.at for one in steps] == sorted(one.at for one in steps), name
        for one in steps:
            if one.do in ("fault", "clear"):
                assert set(one.settings) - {"after_share"} <= set(FAULTS[one.what].settings)


def test_a_scenario_says_when_harm_begins_and_ends() -> None:
    assert restored_after(SCENARIOS["demo"]) == timedelta(hours=13, minutes=10)
    assert first_harm(SCENARIOS["demo"]) is None, "it begins with the kill"
    assert first_harm(SCENARIOS["hard_down"]) == timedelta(hours=9, minutes=50)
    assert restored_after(SCENARIOS["quiet"]) is None
