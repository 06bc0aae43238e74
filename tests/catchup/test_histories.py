"""Random histories of an outage: calendars, faults, kills of the ESP and of our runs, opt-outs, clocks; then the judge.

Every history ends as an incident should: the ESP works again, and runs of `recover` follow each other until one of
them resolves the incident. What must hold is read from the mailbox, the ESP's own tables and the frozen ledgers.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.catchup.inside import MEANWHILE, PEOPLE, InsideBench, killable

MINUTE = timedelta(minutes=1)
TRIES = 25
AGREED = frozenset({"catch_up", "reschedule", "drop"})
FAULTS: dict[str, dict[str, Any]] = {
    "hard_down": {},
    "stalled": {},
    "slow": {"seconds": 0.0, "speed": 0.25},
    "partial": {"share": 0.3},
    "relay_refusing": {},
    "reply_lost": {"share": 0.3},
    "unsubscribe_failing": {},
}


@dataclass(frozen=True)
class Planned:
    """A campaign of the calendar: `at` minutes from now (None: it runs already), useful `useful` minutes after that."""

    kind: str
    at: int | None
    useful: int | None
    people: tuple[int, int] | None

    def create(self, bench: InsideBench, number: int) -> None:
        low, high = self.people or (1, PEOPLE)
        bench.campaign(
            f"{self.kind} {number}",
            kind=self.kind,
            at=None if self.at is None else self.at * MINUTE,
            deadline=None if self.useful is None else ((self.at or 0) + self.useful) * MINUTE,
            status="running" if self.at is None else "scheduled",
            people=None if self.people is None else range(low, high + 1),
        )


@dataclass(frozen=True)
class Happening:
    """One thing that happens in a history; `what` names it, `how` says how much of it."""

    what: str
    how: Any = None

    def __call__(self, bench: InsideBench) -> None:
        getattr(self, f"_{self.what}")(bench)

    def _time(self, bench: InsideBench) -> None:
        bench.leave_alone()
        bench.clock.advance(self.how * MINUTE)
        bench.leave_alone()

    def _fault(self, bench: InsideBench) -> None:
        bench.esp.fault(self.how, **FAULTS[self.how])
        bench.leave_alone()

    def _clear(self, bench: InsideBench) -> None:
        bench.esp.clear(self.how)

    def _die_in_a_batch(self, bench: InsideBench) -> None:
        bench.esp.fault("kill_mid_batch", after=self.how)
        bench.leave_alone()

    def _kill(self, bench: InsideBench) -> None:
        bench.esp.kill()
        bench.leave_alone()

    def _restart(self, bench: InsideBench) -> None:
        bench.esp.restart()

    def _wire(self, bench: InsideBench) -> None:
        bench.wire.share = self.how

    def _opt_out(self, bench: InsideBench) -> None:
        who, minutes = self.how
        bench.clock.later(minutes * MINUTE, lambda: bench.opt_out_now(who))

    def _receipts(self, bench: InsideBench) -> None:
        """Some webhooks of what was delivered reach the shop."""
        for mail in bench.esp.messages()[:: self.how]:
            bench.webhook("delivered", mail.campaign_id, mail.subscriber_id)

    def _respond(self, bench: InsideBench) -> None:
        bench.respond_once(self.how)

    def _recover(self, bench: InsideBench) -> None:
        crash_at, yes = self.how
        if bench.is_open():
            bench.recover_once(AGREED | {yes}, crash_at)

    def _abort(self, bench: InsideBench) -> None:
        crash_at, leave = self.how
        if bench.is_open():
            bench.abort_once(leave=leave, crash_at=crash_at)

    def _false_alarm(self, bench: InsideBench) -> None:
        """The response is aborted within the hour; either may be killed first."""
        killed_at, minutes, aborted_at, leave = self.how
        bench.respond_once(killed_at)
        bench.respond_once()
        bench.clock.advance(minutes * MINUTE)
        if bench.is_open():
            bench.abort_once(leave=leave, crash_at=aborted_at)
            bench.abort_once(leave=leave)

    def _two(self, bench: InsideBench) -> None:
        """Somebody else acts while a run stands at one of its points, for so many minutes: its lease may be over."""
        first, minutes, second = self.how

        def meanwhile() -> None:
            bench.leave_alone()
            bench.clock.advance(minutes * MINUTE)
            second(bench)

        MEANWHILE.append(meanwhile)
        first(bench)
        MEANWHILE.clear()


def happening(what: str, how: st.SearchStrategy[Any] | None = None) -> st.SearchStrategy[Happening]:
    return st.builds(Happening, st.just(what), st.none() if how is None else how)


CRASHES = st.one_of(st.just(0), st.integers(1, 40), st.integers(1, 500))
ANSWERS = st.sampled_from(["send_anyway", "drop_anyway"])
CALENDARS = st.lists(
    st.builds(
        Planned,
        st.sampled_from(["newsletter", "launch", "sale", "winback", "other"]),
        st.one_of(st.none(), st.integers(1, 20), st.integers(1, 900)),
        st.one_of(st.none(), st.integers(2, 600)),
        st.one_of(st.none(), st.sampled_from([(1, 8), (5, 20), (20, PEOPLE)])),
    ),
    min_size=1,
    max_size=3,
)
OUTAGES = st.lists(
    st.one_of(
        happening("die_in_a_batch", st.integers(1, 25)),
        happening("fault", st.sampled_from(["reply_lost", "relay_refusing", "stalled", "hard_down"])),
        happening("kill"),
    ),
    max_size=2,
)
RUNS = st.one_of(
    happening("respond", CRASHES),
    happening("recover", st.tuples(CRASHES, ANSWERS)),
    happening("abort", st.tuples(CRASHES, st.booleans())),
)
HISTORIES = st.lists(
    st.one_of(
        happening("time", st.one_of(st.integers(1, 15), st.integers(1, 400))),
        happening("fault", st.sampled_from(sorted(FAULTS))),
        happening("clear", st.sampled_from(sorted(FAULTS))),
        happening("die_in_a_batch", st.integers(1, 25)),
        happening("kill"),
        happening("restart"),
        happening("wire", st.sampled_from([0.0, 0.02, 0.1])),
        happening("opt_out", st.tuples(st.integers(1, PEOPLE), st.integers(0, 200))),
        happening("receipts", st.integers(1, 3)),
        RUNS,
        happening("false_alarm", st.tuples(CRASHES, st.integers(0, 60), CRASHES, st.booleans())),
        happening("two", st.tuples(RUNS, st.sampled_from([0, 5, 45]), RUNS)),
    ),
    min_size=1,
    max_size=9,
)


def play(
    *,
    speed: int,
    batch: int,
    seed: int,
    calendar: list[Planned],
    sent: int,
    outage: list[Happening],
    history: list[Happening],
    yes: str,
    quiet: dict[str, str] | None,
) -> None:
    """Play a history to its end and judge it."""
    bench = InsideBench(speed=speed, batch=batch, seed=seed, quiet_hours=quiet)
    try:
        for number, one in enumerate(calendar):
            one.create(bench, number)
        bench.before = {one.id: one for one in bench.provider().campaigns()}
        bench.clock.advance(5 + sent * 60 / speed)
        for happen in outage:
            happen(bench)
        bench.clock.advance(MINUTE)
        for happen in history:
            happen(bench)
        work_again(bench)
        finish(bench, AGREED | {yes})
        judge_ledgers(bench)
        bench.clock.advance(timedelta(days=3))
        judge_mailbox(bench)
    finally:
        bench.close()


def work_again(bench: InsideBench) -> None:
    """The outage is over: the ESP works, the wire too."""
    for name in [*FAULTS, "kill_mid_batch"]:
        bench.esp.clear(name)
    bench.wire.share = 0.0
    bench.esp.restart()


def finish(bench: InsideBench, agreed: frozenset[str]) -> None:
    """Respond, and recover until a run resolves the incident."""
    assert bench.respond_once() is None
    for _ in range(TRIES):
        ended = bench.recover_once(agreed)
        if ended is None:
            return
        bench.clock.advance(5 * MINUTE)
    raise AssertionError(f"not resolved after {TRIES} runs: {ended}")


def judge_ledgers(bench: InsideBench) -> None:
    """One verdict per held campaign, one outcome per person, unknown only where a reply was lost, all put back."""
    ledgers = bench.ledgers(bench.incident)
    assert set(ledgers) == set(bench.outcomes), "a held campaign without a ledger, or the other way round"
    for proposed in bench.verdicts:
        assert len({one.campaign_id for one in proposed}) == len(proposed), "two verdicts on one campaign"
        assert {one.campaign_id for one in proposed} <= set(bench.outcomes)
    decided = {one.campaign_id for proposed in bench.verdicts for one in proposed}
    assert decided == set(bench.outcomes), "a held campaign without a verdict"
    lost = bench.lost_replies()
    for number, told in ledgers.items():
        counts = Counter(who for people in told.values() for who in people)
        assert set(counts.values()) <= {1}, "two outcomes for one person"
        joined = {who for who in bench.audience[number] if not was_out(bench, who, number)}
        assert joined <= set(counts) <= bench.audience[number], "the outcomes do not partition the audience"
        assert {(number, who) for who in told["unknown"]} <= lost, "unknown, though no reply was lost"
    for number, outcome in bench.outcomes.items():
        if outcome.done == "put_back":
            now = bench.provider().campaign(number)
            assert now == bench.before[number] or now.status in ("running", "finished"), (
                "not put back as it was"
            )


def was_out(bench: InsideBench, who: int, number: int) -> bool:
    """Whether somebody had left before the campaign was due, and so is of nobody's audience."""
    return who in bench.opted_out and bench.opted_out[who] <= bench.planned[number]


def judge_mailbox(bench: InsideBench) -> None:
    """Nobody twice, nobody who had opted out, nothing late, nobody forgotten; as far as it was ours to prevent."""
    stored = bench.campaigns()
    got: dict[int, Counter[int]] = {number: Counter() for number in bench.planned}
    for mail in bench.esp.messages():
        row = stored[mail.campaign_id]
        original = row.attribs.get("catch_up_of", row.id)
        got[original][mail.subscriber_id] += 1
        started = row.started_at.replace(tzinfo=mail.received_at.tzinfo)
        ours = original != row.id
        held = bench.stopped_at.get(row.id)
        if not ours and held is not None and mail.received_at > held:
            assert started > held, "the original's own pointer sent again"
            ours = True
        back = bench.given_back.get(row.id)
        if not ours and back is not None and started > back:
            ours = True
            on_time = row.send_at.replace(tzinfo=started.tzinfo) + MINUTE
            assert started <= on_time or row.id in bench.exempt, (
                f"campaign {row.id} was put back and began late"
            )
        if ours:
            assert_wanted(bench, mail, started)
            limit = bench.useful_until(original)
            late = limit is not None and mail.received_at > limit
            assert not late or row.id in bench.exempt, f"campaign {original} went out late"
        if original != row.id and row.send_at is None and row.id not in bench.exempt:
            quiet = bench.loaded.plan.quiet_hours
            assert quiet is None or quiet.over(mail.received_at) is None, (
                f"step {row.id} went out in quiet hours"
            )
    for number, people in got.items():
        assert set(people.values()) <= {1}, f"campaign {number}: somebody was mailed twice"
    accounts: dict[int, set[int]] = {}
    for incident in bench.incidents:
        for number, told in bench.ledgers(incident).items():
            people = accounts.setdefault(number, set(got[number]))
            people.update(*(told[name] for name in ("suppressed", "expired", "dropped", "unknown")))
    for number, accounted in accounts.items():
        if number in bench.left:
            continue
        missing = {who for who in bench.audience[number] - accounted if who not in bench.opted_out}
        assert not missing, f"campaign {number}: {missing} forgotten"


def assert_wanted(bench: InsideBench, mail: Any, started: Any) -> None:
    """Whoever had opted out before their campaign began, as far as anybody of ours could know it, gets nothing."""
    left = bench.opted_out.get(mail.subscriber_id)
    if left is None or started <= left:
        return
    known = mail.subscriber_id in bench.forwarded or any(left < gate < started for gate in bench.gates)
    assert not known, f"{mail.subscriber_id} was mailed after opting out"


WORLDS: dict[str, st.SearchStrategy[Any]] = {
    "speed": st.sampled_from([6, 30, 120]),
    "batch": st.sampled_from([5, 20, 100]),
    "seed": st.integers(0, 10**6),
    "calendar": CALENDARS,
    "sent": st.integers(0, 12),
    "outage": OUTAGES,
    "history": HISTORIES,
    "yes": ANSWERS,
    "quiet": st.one_of(st.none(), st.just({"begin": "08:30", "end": "10:00"})),
}


@given(**WORLDS)
@settings(max_examples=4)
def test_whatever_happens_in_an_outage_the_promise_is_kept(**world: Any) -> None:
    with killable():
        play(**world)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@given(**WORLDS)
@settings(max_examples=2000)
def test_whatever_happens_in_an_outage_the_promise_is_kept_in_two_thousand_histories(**world: Any) -> None:
    with killable():
        play(**world)


def test_a_response_in_the_middle_of_a_catch_up_leaves_no_step_stopped_for_ever() -> None:
    # Found as a history of which nothing could be left out: a killed recovery, a response, two lost replies.
    with killable():
        play(
            speed=6,
            batch=20,
            seed=3045,
            calendar=[Planned("launch", 4, 431, None)],
            sent=11,
            outage=[Happening("die_in_a_batch", 2)],
            history=[
                Happening("recover", (261, "drop_anyway")),
                Happening("false_alarm", (0, 53, 0, False)),
                Happening("recover", (128, "drop_anyway")),
                Happening("false_alarm", (6, 6, 382, True)),
                Happening("time", 13),
                Happening("receipts", 3),
                Happening("two", (Happening("respond", 477), 0, Happening("respond", 0))),
                Happening("opt_out", (12, 138)),
                Happening("die_in_a_batch", 13),
            ],
            yes="send_anyway",
            quiet={"begin": "08:30", "end": "10:00"},
        )


def test_a_catch_up_stops_as_quiet_hours_begin_and_the_rest_goes_out_in_the_morning() -> None:
    with killable():
        bench = InsideBench(speed=6, batch=100, seed=1, quiet_hours={"begin": "08:06", "end": "10:00"})
        try:
            Planned("newsletter", 5, None, None).create(bench, 0)
            assert bench.respond_once() is None
            bench.clock.advance(60 * MINUTE)
            assert bench.recover_once(AGREED) is None
            before = [mail.received_at for mail in bench.esp.messages()]
            assert 0 < len(before) < PEOPLE
            assert max(before).strftime("%H:%M") < "08:06"
            assert [one.done for one in bench.outcomes.values()] == ["scheduled"]
            bench.clock.advance(timedelta(hours=5))
            judge_mailbox(bench)
            after = [mail.received_at for mail in bench.esp.messages()][len(before) :]
            assert len(before) + len(after) == PEOPLE
            assert min(after).strftime("%H:%M") >= "10:00"
        finally:
            bench.close()


def test_a_campaign_that_is_in_time_alone_but_not_beside_what_else_is_due_then_is_not_just_put_back() -> None:
    at_once = [Planned("newsletter", 6, useful, None) for useful in (None, 2, None)]
    with killable():
        play(
            speed=30, batch=5, seed=0, calendar=at_once, sent=0, outage=[], history=[Happening("time", 1)],
            yes="send_anyway", quiet=None,
        )  # fmt: skip
