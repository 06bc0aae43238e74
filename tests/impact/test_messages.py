"""What became of each message, term by term, on the smallest worlds that show it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.impact import ImpactError, measure_messages, measured_impact_start

EIGHT = datetime(2011, 11, 16, 8, 0, tzinfo=UTC)
RESTORED = EIGHT + timedelta(hours=5)


def minutes(count):
    return EIGHT + timedelta(minutes=count)


def campaigns(*rows):
    columns = ["campaign_id", "name", "kind", "send_at", "latest_useful_at", "audience"]
    frame = pd.DataFrame(rows or [(1, "News", "newsletter", EIGHT, None, 3)], columns=columns)
    for column in ("send_at", "latest_useful_at"):
        frame[column] = pd.to_datetime(frame[column], utc=True).astype("datetime64[us, UTC]")
    return frame


def attempts(*rows):
    frame = pd.DataFrame(rows, columns=["campaign_id", "subscriber_id", "outcome", "attempted_at", "copies"])
    frame["attempted_at"] = pd.to_datetime(frame["attempted_at"], utc=True).astype("datetime64[us, UTC]")
    return frame


def measure(
    tried,
    *,
    audience=(10, 11, 12),
    opt_outs=(),
    plans=None,
    start=EIGHT,
    restored=RESTORED,
    speed=60,
    held=(),
):
    plans = campaigns() if plans is None else plans
    return measure_messages(
        plans,
        attempts(*tried),
        pd.DataFrame(
            [(one, who) for one in plans["campaign_id"] for who in audience],
            columns=["campaign_id", "subscriber_id"],
        ),
        pd.DataFrame(list(opt_outs), columns=["subscriber_id", "requested_at"]),
        impact_started_at=start,
        restored_at=restored,
        until=RESTORED + timedelta(hours=48),
        messages_per_minute=speed,
        held=held,
    )


def fates(found):
    return dict(zip(found.messages["subscriber_id"], found.messages["fate"], strict=True))


def test_late_in_time_and_never_are_told_apart():
    found = measure([(1, 10, "accepted", minutes(300), 1), (1, 11, "accepted", minutes(4), 1)])
    assert fates(found) == {10: "delayed", 11: "on_time", 12: "dropped"}
    assert found.counts.due == 3
    assert found.counts.minutes_longest == 300


def test_five_minutes_late_is_on_time_and_a_second_more_is_delayed():
    planned = minutes(0)
    found = measure(
        [
            (1, 10, "accepted", planned + timedelta(minutes=5), 1),
            (1, 11, "accepted", planned + timedelta(minutes=5, seconds=2), 1),
        ],
        audience=(10, 11),
    )
    assert fates(found) == {10: "on_time", 11: "delayed"}  # the second is planned one second later


def test_who_opted_out_after_the_planned_time_is_suppressed_and_who_did_before_was_not_due():
    found = measure([], audience=(10, 11), opt_outs=[(10, minutes(60)), (11, minutes(-60))])
    assert fates(found) == {10: "suppressed"}
    assert found.counts.due == 1


def test_an_open_outcome_is_unknown_and_not_due():
    found = measure([(1, 10, "unknown", EIGHT, 1)], audience=(10, 11))
    assert fates(found) == {10: "unknown", 11: "dropped"}
    assert (found.counts.due, found.counts.unknown) == (1, 1)


def test_what_went_out_before_the_impact_is_none_of_its_business():
    found = measure([(1, 10, "accepted", EIGHT, 1)], start=minutes(1) - timedelta(seconds=59))
    assert 10 not in fates(found)
    assert found.counts.due == 2


def test_an_open_outcome_of_an_earlier_incident_is_not_counted_again():
    found = measure(
        [
            (1, 10, "unknown", EIGHT - timedelta(days=30), 1),
            (1, 11, "unknown", EIGHT - timedelta(hours=1), 1),
        ],
        plans=campaigns((1, "News", "newsletter", EIGHT - timedelta(days=30), None, 2)),
        audience=(10, 11),
    )
    assert fates(found) == {11: "unknown"}
    assert found.counts.unknown == 1


def test_who_joined_the_list_of_a_finished_campaign_was_not_due():
    finished = campaigns((1, "News", "newsletter", minutes(-120), None, 2))
    sent = [(1, who, "accepted", minutes(-120), 1) for who in (10, 11)]
    found = measure(sent, plans=finished)
    assert found.counts.due == 0
    assert not len(found.planned_sends)


def test_the_rest_of_a_campaign_that_the_impact_cut_short_is_due_though_planned_before_it():
    begun = campaigns((1, "News", "newsletter", minutes(-10), None, 3))
    found = measure([(1, 10, "accepted", minutes(-10), 1), (1, 11, "accepted", minutes(300), 1)], plans=begun)
    assert fates(found) == {11: "delayed", 12: "dropped"}


def test_a_campaign_that_never_began_before_the_impact_is_due_only_if_the_recovery_held_it():
    waiting = campaigns((1, "News", "newsletter", minutes(-10), None, 3))
    assert measure([], plans=waiting).counts.due == 0
    assert measure([], plans=waiting, held=[1]).counts.due == 3


def test_every_count_is_the_number_of_messages_listed_with_it():
    later = campaigns(
        (1, "News", "newsletter", EIGHT, None, 3), (2, "Later", "sale", RESTORED, RESTORED + timedelta(hours=1), 3)
    )  # fmt: skip
    found = measure(
        [(1, 10, "accepted", minutes(300), 2), (2, 11, "accepted", RESTORED + timedelta(hours=2), 1)],
        plans=later,
        opt_outs=[(12, minutes(1))],
    )
    listed = found.messages
    assert fates(measure([])) == {10: "dropped", 11: "dropped", 12: "dropped"}
    assert listed["fate"].value_counts().to_dict() == {
        "delayed": 1,
        "dropped": 1,
        "suppressed": 1,
        "not_due": 1,
    }
    assert int(listed["after_latest_useful"].sum()) == found.counts.after_latest_useful == 1
    assert int(listed["duplicated"].sum()) == found.counts.duplicated == 1
    assert found.campaigns[["due", "after_latest_useful"]].values.tolist() == [[3, 0], [0, 1]]


def test_a_campaign_planned_after_restoration_is_not_due_but_still_planned():
    later = campaigns((2, "Later", "winback", RESTORED + timedelta(hours=1), None, 2))
    found = measure([], audience=(10, 11), plans=later)
    assert found.counts.due == 0
    assert found.planned_sends["messages"].sum() == 2


def test_broken_promises_are_counted_even_where_the_message_came():
    plans = campaigns((1, "Sale", "sale", EIGHT, minutes(60), 3))
    found = measure(
        [
            (1, 10, "accepted", minutes(90), 1),
            (1, 11, "accepted", minutes(30), 2),
            (1, 12, "accepted", minutes(40), 1),
        ],
        plans=plans,
        opt_outs=[(12, minutes(20))],
    )
    counts = found.counts
    assert (counts.after_latest_useful, counts.duplicated, counts.to_opted_out) == (1, 1, 1)
    assert found.campaigns.loc[0, ["after_latest_useful", "duplicated", "to_opted_out"]].tolist() == [1, 1, 1]


@given(
    st.lists(
        st.tuples(st.sampled_from(["accepted", "bounced", "unknown", "none"]), st.integers(-30, 900)),
        max_size=30,
    )
)
def test_due_is_the_sum_of_its_fates(people):
    tried = [(1, who, what, minutes(at), 1) for who, (what, at) in enumerate(people) if what != "none"]
    counts = measure(tried, audience=tuple(range(len(people)))).counts
    assert counts.due == counts.delayed + counts.on_time + counts.suppressed + counts.dropped + counts.bounced


def test_two_standing_opt_outs_of_one_person_are_refused():
    with pytest.raises(ImpactError, match="two standing opt-outs"):
        measure([], opt_outs=[(10, EIGHT), (10, RESTORED)])


def test_the_impact_begins_with_the_first_open_message_of_a_campaign_cut_in_the_middle():
    tried = attempts(
        (1, 10, "accepted", minutes(0), 1),
        (1, 11, "unknown", minutes(1), 1),
        (1, 12, "unknown", minutes(2), 1),
        (1, 13, "accepted", minutes(310), 1),
    )
    plans = campaigns((1, "News", "newsletter", EIGHT, None, 4))
    assert measured_impact_start(plans, tried, detected_at=minutes(20), restored_at=RESTORED) == minutes(1)


def test_the_impact_begins_with_the_first_send_that_did_not_start_where_nothing_was_cut():
    tried = attempts((1, 10, "accepted", minutes(-600), 1))
    plans = campaigns(
        (1, "News", "newsletter", minutes(-600), None, 1), (2, "Launch", "launch", minutes(30), None, 2)
    )
    assert measured_impact_start(plans, tried, detected_at=minutes(10), restored_at=RESTORED) == minutes(30)


def test_a_log_without_a_silence_says_nothing():
    tried = attempts((1, 10, "accepted", minutes(0), 1))
    plans = campaigns((1, "News", "newsletter", EIGHT, None, 1))
    assert measured_impact_start(plans, tried, detected_at=minutes(20), restored_at=RESTORED) is None
