"""The consent gate: every witness counts, the most restrictive wins, and no news is not good news."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.catchup import ConsentFeed, ConsentRequest, consent_gate
from tasks.providers import Suppression

NOW = datetime(2011, 11, 16, 13, 0, tzinfo=UTC)
RESTORED = NOW - timedelta(minutes=5)


def asked(who, kind="unsubscribe", minutes_ago=60, forwarded=False, number=1) -> ConsentRequest:
    return ConsentRequest(number, who, kind, NOW - timedelta(minutes=minutes_ago), forwarded)


def gate(requests=(), provider=(), snapshot=(), *, as_of=NOW, error="", **more):
    return consent_gate(
        feed=ConsentFeed(as_of, tuple(requests), error),
        provider=provider,
        snapshot=snapshot,
        now=NOW,
        needed_as_of=RESTORED,
        **more,
    )


def test_an_opt_out_that_the_provider_never_took_blocks_and_is_pushed() -> None:
    found = gate([asked(7)])
    assert found.open
    assert found.blocked == {7: "shop"}
    assert found.to_push == {7}
    assert found.counts["not_forwarded"] == 1


def test_an_opt_out_that_was_forwarded_but_lost_by_the_provider_blocks_all_the_same() -> None:
    assert gate([asked(7, forwarded=True)]).blocks(7, [1])


def test_the_last_wish_counts() -> None:
    found = gate([asked(7, minutes_ago=60), asked(7, "subscribe", minutes_ago=10, number=2)])
    assert not found.blocks(7, [1])
    found = gate([asked(7, "subscribe", minutes_ago=60), asked(7, minutes_ago=10, number=2)])
    assert found.blocks(7, [1])


def test_of_two_wishes_at_the_same_moment_the_opt_out_counts() -> None:
    both = [asked(7, number=1), asked(7, "subscribe", number=2)]
    assert gate(both).blocks(7, [1])
    assert gate(both[::-1]).blocks(7, [1])


def test_whoever_was_erased_and_is_back_is_blocked_and_unsubscribed_though_the_shop_has_a_wish() -> None:
    found = gate([asked(7, "subscribe")], erased=[7])
    assert found.blocked == {7: "ledger"}
    assert found.to_push == {7}


def test_a_renewed_subscription_does_not_lift_what_the_provider_says() -> None:
    found = gate([asked(7, "subscribe")], provider=[Suppression(7, "complaint")])
    assert found.blocks(7, [1])


def test_a_suppression_that_vanished_since_the_snapshot_still_blocks() -> None:
    found = gate(snapshot=[Suppression(7, "unsubscribed", 3)])
    assert found.vanished == {(7, 3)}
    assert found.blocks(7, [3])
    assert not found.blocks(7, [4])


def test_leaving_one_list_does_not_block_another() -> None:
    found = gate(provider=[Suppression(7, "unsubscribed", 3), Suppression(8, "manual")])
    assert found.blocked_for([3]) == {7, 8}
    assert found.blocked_for([4]) == {8}


def test_the_gate_is_red_when_the_feed_cannot_be_read() -> None:
    found = gate(as_of=None, error="connection refused")
    assert not found.open
    assert "cannot be read" in found.closed_because[0]


def test_the_gate_is_red_when_the_feed_lags() -> None:
    assert "20 minutes behind" in gate(as_of=NOW - timedelta(minutes=20)).closed_because[0]


def test_the_gate_is_red_when_the_feed_ends_before_the_outage_did() -> None:
    found = gate(as_of=RESTORED - timedelta(seconds=1))
    assert found.closed_because == ("the consent feed does not reach the end of the outage",)


def test_opt_outs_of_the_outage_are_counted() -> None:
    requests = [asked(7, minutes_ago=60), asked(8, minutes_ago=600, number=2)]
    assert gate(requests, impact_started_at=NOW - timedelta(minutes=300)).opted_out_since == 1


people = st.integers(1, 20)
suppression = st.builds(
    Suppression,
    people,
    st.sampled_from(["unsubscribed", "complaint", "manual"]),
    st.none() | st.integers(1, 3),
)
requests = st.lists(
    st.builds(
        asked,
        people,
        st.sampled_from(["unsubscribe", "subscribe"]),
        st.integers(0, 500),
        st.booleans(),
        st.integers(1, 1000),
    ),
    max_size=30,
)
any_gate = given(requests, st.lists(suppression), st.none() | st.lists(suppression))


def check_most_restrictive(wishes, provider, snapshot) -> None:
    found = gate(wishes, provider, snapshot)
    for who in range(1, 21):
        mine = sorted(
            (one for one in wishes if one.subscriber_id == who),
            key=lambda one: (one.requested_at, one.kind == "unsubscribe"),
        )
        out = bool(mine) and mine[-1].kind == "unsubscribe"
        for on in (1, 2, 3):
            said = any(
                one.subscriber_id == who and one.list_id in (None, on)
                for one in [*provider, *(snapshot or ())]
            )
            assert found.blocks(who, [on]) == (out or said)
            assert (who in found.blocked_for([on])) == found.blocks(who, [on])
        assert (who in found.to_push) == out


@any_gate
@settings(max_examples=100)
def test_one_witness_is_enough_to_block(wishes, provider, snapshot) -> None:
    check_most_restrictive(wishes, provider, snapshot)


@pytest.mark.slow
@any_gate
@settings(max_examples=3000)
def test_one_witness_is_enough_to_block_in_thousands_of_cases(wishes, provider, snapshot) -> None:
    check_most_restrictive(wishes, provider, snapshot)


def test_the_gate_says_which_minutes_a_witness_is_blind_for() -> None:
    lagging = gate(as_of=NOW - timedelta(minutes=4))
    assert lagging.open
    assert [str(one) for one in lagging.blind] == [
        "shop: blind from 2011-11-16 12:56 to 2011-11-16 13:00 UTC (4 minutes): what was asked since then is not in its"
        " database yet"
    ]
    began = NOW - timedelta(hours=2)
    unreadable = gate(as_of=None, error="it is away", impact_started_at=began)
    assert not unreadable.open
    [blind] = unreadable.blind
    assert (blind.witness, blind.since, blind.until) == ("shop", began, NOW)
    assert not gate().blind


def test_a_provider_that_lost_opt_outs_is_blind_since_the_snapshot_and_no_snapshot_tells_nothing() -> None:
    taken = NOW - timedelta(days=1)
    lost = gate(snapshot=[Suppression(7, "unsubscribed", 1)], snapshot_at=taken)
    [blind] = lost.blind
    assert (blind.witness, blind.since, blind.until) == ("provider", taken, NOW)
    [blind] = gate(snapshot=None).blind
    assert (blind.witness, blind.since) == ("snapshot", None)
