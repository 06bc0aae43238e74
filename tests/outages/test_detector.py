"""The detector: hysteresis, what counts as evidence, no flood. Pure, so thousands of histories are tried."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.outages import DetectorState, Signal, Transition, judge, settle, verdict_of
from tasks.plan import DetectionPlan

START = datetime(2011, 11, 16, 7, 0, tzinfo=UTC)
RULES = DetectionPlan(suspect_after=1, confirm_after=2, clear_after=3)

KINDS = st.sampled_from(["status_page", "api", "seed", "sending", "consent", "webhooks"])
VERDICTS = st.sampled_from(["good", "degraded", "bad", "unknown"])
PASSES = st.lists(st.dictionaries(KINDS, VERDICTS), max_size=60)
PLANS = st.builds(
    DetectionPlan,
    suspect_after=st.integers(1, 4),
    confirm_after=st.integers(1, 5),
    clear_after=st.integers(1, 5),
)


def signals(at: datetime = START, **verdicts: str) -> list[Signal]:
    return [Signal(kind, verdict, f"{kind} {verdict}", at) for kind, verdict in verdicts.items()]


def play(
    passes: list[dict[str, str]], rules: DetectionPlan = RULES, state: DetectorState | None = None
) -> tuple[DetectorState, list[list[str]]]:
    """Return the last state and, per pass, the changes; the state travels as JSON, as it does in the journal."""
    state = state or DetectorState()
    told = []
    now = state.last_pass_at or START
    for verdicts in passes:
        now += timedelta(minutes=5)
        state, changes = judge(state, signals(now, **verdicts), now, rules)
        state = DetectorState.from_dict(json.loads(json.dumps(state.to_dict())))
        told.append([change.to for change in changes])
    return state, told


DOWN, UP = {"status_page": "good", "api": "bad"}, {"status_page": "good", "api": "good"}


def test_the_first_bad_pass_suspects_and_the_second_confirms() -> None:
    state, told = play([UP, DOWN, DOWN])
    assert told == [[], ["suspected"], ["confirmed"]]
    assert state.phase == "confirmed"
    assert state.first_bad_at == START + timedelta(minutes=10)


def test_a_green_status_page_does_not_hide_a_dead_provider() -> None:
    now = START
    state, _ = judge(DetectorState(), signals(now, **DOWN), now, RULES)
    state, changes = judge(state, signals(now, **DOWN), now + timedelta(minutes=5), RULES)
    assert [change.to for change in changes] == ["confirmed"]
    assert changes[0].false_green
    assert state.false_green_since == START


def test_a_green_status_page_alone_clears_nothing() -> None:
    state, told = play([DOWN, DOWN] + [{"status_page": "good", "api": "unknown"}] * 10)
    assert state.phase == "confirmed"
    assert told[2:] == [[]] * 10


@pytest.mark.parametrize("page", ["unknown", "good", "degraded", "bad"])
def test_a_page_alone_never_confirms_while_our_own_measurements_are_good(page: str) -> None:
    state, told = play([{"status_page": page, "api": "good"}] * 30)
    assert state.phase in ("clear", "suspected")
    assert sum(len(changes) for changes in told) <= 1


def test_an_unreadable_page_is_no_evidence_of_anything() -> None:
    state, told = play([{"status_page": "unknown"}] * 20)
    assert state.phase == "clear"
    assert not any(told)


def test_a_red_page_is_believed_when_nothing_can_be_measured() -> None:
    assert play([{"status_page": "bad", "api": "unknown"}] * 2)[1] == [["suspected"], ["confirmed"]]


def test_a_page_that_stays_red_after_a_measured_recovery_raises_no_second_alarm() -> None:
    red_but_working = {"status_page": "bad", "api": "good"}
    state, told = play([DOWN, DOWN] + [red_but_working] * 20)
    assert told[2:5] == [["clearing"], [], ["cleared"]]
    assert told[5:] == [[]] * 17
    state, told = play([UP, red_but_working, red_but_working], state=state)
    assert told == [[], [], ["suspected"]], "once it was green, the next red says something new"


def test_degraded_passes_make_people_look_and_confirm_nothing() -> None:
    state, told = play([{"api": "degraded"}] * 40)
    assert state.phase == "suspected"
    assert told == [[], ["suspected"]] + [[]] * 38, "one such pass is what any network has now and then"


def test_a_partial_outage_whose_bad_passes_are_not_in_a_row_is_confirmed() -> None:
    _, told = play([DOWN, UP, UP, DOWN])
    assert told == [["suspected"], [], [], ["confirmed"]]


def test_what_stood_still_must_be_seen_moving_before_the_outage_clears() -> None:
    stalled = {"api": "good", "sending": "bad"}
    silent = {"api": "good", "sending": "unknown"}
    moving = {"api": "good", "sending": "good"}
    state, _ = play([stalled, stalled] + [silent] * 30)
    assert state.phase == "confirmed"
    assert play([moving] * 3, state=state)[1] == [["clearing"], [], ["cleared"]]


def test_a_seed_message_that_arrives_vouches_for_sending() -> None:
    state, _ = play([{"api": "good", "sending": "bad"}] * 2)
    state, told = play([{"api": "good", "sending": "unknown", "seed": "good"}] * 3, state=state)
    assert told == [["clearing"], [], ["cleared"]]


def test_opt_outs_that_keep_silent_are_let_go_after_as_many_passes_again() -> None:
    state, _ = play([{"api": "good", "consent": "bad"}] * 2)
    state, told = play([{"api": "good", "consent": "unknown"}] * 6, state=state)
    assert [change for changes in told for change in changes] == ["clearing", "cleared"]
    assert told[-1] == ["cleared"]


def test_a_suspicion_that_was_nothing_clears_as_a_false_alarm() -> None:
    state = DetectorState()
    now, changes = START, []
    for verdicts in [DOWN, UP, UP, UP]:
        now += timedelta(minutes=5)
        state, changes = judge(state, signals(now, **verdicts), now, RULES)
    assert [(change.to, change.false_alarm) for change in changes] == [("cleared", True)]
    assert state.phase == "clear"


def test_a_signal_that_flaps_every_other_pass_does_not_flood() -> None:
    _, told = play([DOWN, UP] * 200)
    assert [change for changes in told for change in changes] == [
        "suspected",
        "confirmed",
        "clearing",
        "relapsed",
    ]


def test_single_blips_alarm_once_and_then_only_when_they_come_closer_together() -> None:
    _, told = play([DOWN, UP, UP, UP, UP] * 40)
    assert [change for changes in told for change in changes] == ["suspected", "cleared"]


def test_a_retried_pass_does_not_count_twice() -> None:
    state, _ = judge(DetectorState(), signals(**DOWN), START, RULES)
    again, changes = judge(state, signals(**DOWN), START, RULES)
    assert (again, changes) == (state, [])


def test_the_journal_has_the_last_word() -> None:
    state, _ = play([DOWN, DOWN])
    rested = settle(state, START + timedelta(hours=1))
    assert rested.phase == "clear"
    assert play([DOWN, DOWN], state=rested)[1] == [["suspected"], ["confirmed"]]


def test_a_transition_says_when_it_was_detected_and_what_spoke_for_it() -> None:
    now = START
    state, _ = judge(DetectorState(), signals(now, **DOWN), now, RULES)
    later = now + timedelta(minutes=5)
    _, [confirmed] = judge(state, signals(later, api="bad", sending="bad", seed="unknown"), later, RULES)
    assert confirmed == Transition("confirmed", "suspected", later, now, ("api bad", "sending bad"))


@given(PASSES, PLANS)
def test_nothing_is_confirmed_without_confirm_after_bad_passes(
    passes: list[dict[str, str]], rules: DetectionPlan
) -> None:
    check_confirmation(passes, rules)


@given(PASSES, PLANS)
def test_nothing_clears_without_clear_after_good_passes_in_a_row(
    passes: list[dict[str, str]], rules: DetectionPlan
) -> None:
    check_clearing(passes, rules)


@pytest.mark.slow
@settings(max_examples=20_000)
@given(PASSES, PLANS)
def test_hysteresis_holds_in_thousands_of_histories(
    passes: list[dict[str, str]], rules: DetectionPlan
) -> None:
    check_confirmation(passes, rules)
    check_clearing(passes, rules)


@given(PASSES, PLANS)
def test_changes_follow_the_order_of_an_outage(passes: list[dict[str, str]], rules: DetectionPlan) -> None:
    follows = {
        "cleared": {"suspected"},
        "suspected": {"confirmed", "cleared"},
        "confirmed": {"clearing"},
        "clearing": {"relapsed", "cleared"},
        "relapsed": {"clearing"},
    }
    last = "cleared"
    for changes in play(passes, rules)[1]:
        for change in changes:
            assert change in follows[last]
            last = change


@given(st.integers(1, 4), st.integers(1, 4), PLANS)
def test_any_steady_flapping_ends_in_silence_or_in_separate_outages(
    bad: int, good: int, rules: DetectionPlan
) -> None:
    _, told = play([DOWN] * bad + [UP] * good, rules)
    _, told = play(([DOWN] * bad + [UP] * good) * 50, rules)
    changes = [change for one in told for change in one]
    if good < rules.clear_after:
        assert len(changes) <= 2 + 2 * 4, "at most one clearing and relapse per doubling of patience"
    if bad < rules.confirm_after and good >= rules.clear_after:
        assert changes.count("suspected") <= 1 + rules.confirm_after


def check_confirmation(passes: list[dict[str, str]], rules: DetectionPlan) -> None:
    state, now, bad, confirmed = DetectorState(), START, 0, False
    for verdicts in passes:
        now += timedelta(minutes=1)
        seen = signals(now, **verdicts)
        bad += verdict_of(seen, state) == "bad"
        state, changes = judge(state, seen, now, rules)
        for change in changes:
            if change.to == "confirmed":
                assert bad >= rules.confirm_after
                confirmed = True
            if change.to == "cleared":
                bad, confirmed = 0, False
        assert confirmed == (state.phase in ("confirmed", "clearing"))


def check_clearing(passes: list[dict[str, str]], rules: DetectionPlan) -> None:
    state, now, good = DetectorState(), START, 0
    for verdicts in passes:
        now += timedelta(minutes=1)
        seen = signals(now, **verdicts)
        verdict = verdict_of(seen, state)
        good = good + 1 if verdict == "good" else good if verdict == "unknown" else 0
        state, changes = judge(state, seen, now, rules)
        if any(change.to == "cleared" for change in changes):
            assert good >= rules.clear_after
            assert verdict == "good"
            assert any(signal.own and signal.verdict == "good" for signal in seen)
