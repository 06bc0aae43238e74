"""The figures of the truth mean what their docstrings say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tasks.drills.truth import Booking, Delivery, loss_truth, message_truth

IMPACT = datetime(2011, 11, 16, 8, 0, tzinfo=UTC)
RESTORED = IMPACT + timedelta(hours=5)


def at(minutes: float) -> datetime:
    return IMPACT + timedelta(minutes=minutes)


def test_every_due_message_is_delayed_or_on_time_or_suppressed_or_dropped() -> None:
    planned = {(1, n): at(n) for n in range(-2, 6)} | {(2, 1): RESTORED}
    delivered = [
        Delivery((1, -1), at(-1)),
        Delivery((1, 0), at(5)),  # five minutes late is still on time
        Delivery((1, 1), at(7)),
        Delivery((1, 5), at(500)),
        Delivery((1, 5), at(501)),
        Delivery((2, 1), RESTORED),
    ]
    truth = message_truth(
        planned,
        delivered,
        unknown={(1, 2)},
        opted_out={3: at(60), 5: at(200), 4: at(1)},
        latest_useful={1: at(400)},
        impact_started_at=IMPACT,
        restored_at=RESTORED,
    )
    assert (truth.due, truth.on_time, truth.delayed, truth.suppressed, truth.dropped) == (5, 1, 2, 1, 1)
    assert (truth.unknown, truth.unknown_delivered) == (1, 0)
    assert (truth.duplicated, truth.after_latest_useful, truth.to_opted_out) == (1, 2, 2)


def test_the_net_loss_is_what_the_undisturbed_world_booked_more() -> None:
    planned = {(1, 1): at(0), (1, 2): at(1), (1, 3): at(-10)}
    undisturbed = [
        Booking((1, 1), at(30), 1000),
        Booking((1, 2), at(400), 500),
        Booking((1, 3), at(10), 70),
        Booking((1, 2), at(9999), 1),
    ]
    actual = [
        Booking((1, 3), at(10), 70),
        Booking((1, 1), at(600), 1000),
        Booking((1, 99), at(700), 30),  # mailed by mistake, after an opt-out
    ]
    loss = loss_truth(
        undisturbed,
        actual,
        planned,
        impact_started_at=IMPACT,
        restored_at=RESTORED,
        settled_at=at(5000),
        currency="GBP",
    )
    assert (loss.gross_minor, loss.deferred_minor, loss.net_minor) == (1500, 1030, 470)
    assert loss.during_outage_minor == 1000
