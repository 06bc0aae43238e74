"""The consent gate: who must not be mailed, from every witness there is; the most restrictive one wins.

Four witnesses: our own opt-out endpoint (the shop's consent requests, also those that the provider never took), the
provider as it is now, the last valid snapshot (a suppression that has disappeared since then), and the ledger of erased
persons (an import may have brought one back). Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from tasks.core import plural
from tasks.providers import Suppression

Witness = Literal["shop", "provider", "snapshot", "ledger"]


@dataclass(frozen=True)
class ConsentRequest:
    """What a person asked of us: `unsubscribe` or `subscribe`; `forwarded` says whether the provider took it."""

    request_id: int
    subscriber_id: int
    kind: Literal["unsubscribe", "subscribe"]
    requested_at: datetime
    forwarded: bool


@dataclass(frozen=True)
class ConsentFeed:
    """The consent requests as we could read them.

    Attributes:
        as_of: everything asked up to this moment is in; older than now where a replica lags.
        error: why it could not be read; empty if it could.
    """

    as_of: datetime | None
    requests: tuple[ConsentRequest, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class Blind:
    """Minutes of which a witness cannot tell who opted out; `since` is None where nobody knows when they began."""

    witness: Witness
    since: datetime | None
    until: datetime
    why: str

    def __str__(self) -> str:
        if self.since is None:
            return f"{self.witness}: blind until {self.until:%Y-%m-%d %H:%M UTC}: {self.why}"
        minutes = plural(-(-(self.until - self.since) // timedelta(minutes=1)), "minute")
        return (
            f"{self.witness}: blind from {self.since:%Y-%m-%d %H:%M} to {self.until:%Y-%m-%d %H:%M UTC} ({minutes}):"
            f" {self.why}"
        )


@dataclass(frozen=True)
class Gate:
    """The answer of the gate.

    Attributes:
        open: whether anything may be resumed at all.
        closed_because: why not, in sentences.
        blocked: subscribers who must not be mailed by any campaign, with the first witness that says so.
        blocked_on_list: per list the subscribers who must not be mailed through it.
        to_push: subscribers whose opt-out the provider does not have and must get before anything is sent.
        vanished: (subscriber, list or None) whose suppression was in the snapshot and is gone at the provider.
        opted_out_since: opt-outs asked since the impact began, which the report counts.
        blind: the minutes of which a witness cannot tell. The gate may be open all the same: the others can.
    """

    open: bool
    closed_because: tuple[str, ...]
    blocked: dict[int, Witness]
    blocked_on_list: dict[int, frozenset[int]]
    to_push: frozenset[int]
    vanished: frozenset[tuple[int, int | None]]
    opted_out_since: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    blind: tuple[Blind, ...] = ()

    def blocks(self, subscriber_id: int, list_ids: Iterable[int]) -> bool:
        """Whether `subscriber_id` must not get a campaign that goes to `list_ids`."""
        return subscriber_id in self.blocked or any(
            subscriber_id in self.blocked_on_list.get(one, ()) for one in list_ids
        )

    def blocked_for(self, list_ids: Iterable[int]) -> frozenset[int]:
        """Return everybody who must not get a campaign that goes to `list_ids`."""
        found = set(self.blocked)
        for one in list_ids:
            found |= self.blocked_on_list.get(one, frozenset())
        return frozenset(found)


def consent_gate(
    *,
    feed: ConsentFeed,
    provider: Iterable[Suppression],
    snapshot: Iterable[Suppression] | None,
    erased: Iterable[int] = (),
    now: datetime,
    needed_as_of: datetime,
    impact_started_at: datetime | None = None,
    snapshot_at: datetime | None = None,
    max_lag: timedelta = timedelta(minutes=15),
) -> Gate:
    """Return who must not be mailed, and whether the gate is open.

    Args:
        feed: the shop's consent requests.
        provider: the provider's suppressions, read now.
        snapshot: the suppressions of the last valid snapshot; None where there is none (the gate says so but opens:
            the two live witnesses are enough).
        erased: subscribers who were erased and are back without having asked for it.
        now: the time of the decision.
        needed_as_of: the feed must hold everything up to here (when restoration was measured).
        impact_started_at: counts the opt-outs of the outage.
        snapshot_at: of when the snapshot is.
        max_lag: how far the feed may be behind `now`.
    """
    closed: list[str] = []
    if feed.error or feed.as_of is None:
        closed.append(f"the consent feed cannot be read: {feed.error or 'no time of reading'}")
    else:
        if now - feed.as_of > max_lag:
            minutes = round((now - feed.as_of) / timedelta(minutes=1))
            closed.append(f"the consent feed is {minutes} minutes behind")
        if feed.as_of < needed_as_of:
            closed.append("the consent feed does not reach the end of the outage")

    wishes = latest_wish(feed.requests)
    opted_out = {who for who, wish in wishes.items() if wish.kind == "unsubscribe"}
    now_suppressed = _split(provider)
    then_suppressed = _split(snapshot or ())
    vanished = {
        (who, on)
        for on, people in then_suppressed.items()
        for who in people
        if who not in now_suppressed.get(on, ())
    }
    # A list-wide suppression that became a global one has not vanished.
    vanished = {(who, on) for who, on in vanished if who not in now_suppressed.get(None, ())}

    blocked: dict[int, Witness] = {}
    sources: list[tuple[Witness, Iterable[int]]] = [
        ("shop", opted_out),
        ("provider", now_suppressed.get(None, ())),
        ("snapshot", then_suppressed.get(None, ())),
        ("ledger", back := frozenset(erased)),
    ]
    for witness, people in sources:
        for who in people:
            blocked.setdefault(who, witness)
    on_list: dict[int, set[int]] = {}
    for split in (now_suppressed, then_suppressed):
        for on, people in split.items():
            if on is not None:
                on_list.setdefault(on, set()).update(people)

    asked_again = {who for who, wish in wishes.items() if wish.kind == "subscribe"}
    blind: list[Blind] = []
    if feed.error or feed.as_of is None:
        blind.append(Blind("shop", impact_started_at, now, "its consent requests cannot be read"))
    elif feed.as_of < now:
        blind.append(Blind("shop", feed.as_of, now, "what was asked since then is not in its database yet"))
    if snapshot is None:
        why = "there is no valid snapshot to tell which opt-outs the provider has lost"
        blind.append(Blind("snapshot", None, now, why))
    elif vanished:
        why = "it lost opt-outs that the snapshot has; of those it took later nobody else may know"
        blind.append(Blind("provider", snapshot_at, now, why))
    return Gate(
        open=not closed,
        blind=tuple(blind),
        closed_because=tuple(closed),
        blocked=blocked,
        blocked_on_list={on: frozenset(people) for on, people in on_list.items()},
        to_push=back.union(opted_out),
        vanished=frozenset((who, on) for who, on in vanished if who not in asked_again),
        opted_out_since=sum(
            1
            for who in opted_out
            if impact_started_at is None or wishes[who].requested_at >= impact_started_at
        ),
        counts={
            "shop": len(opted_out),
            "not_forwarded": sum(1 for who in opted_out if not wishes[who].forwarded),
            "provider": sum(len(people) for people in now_suppressed.values()),
            "snapshot": sum(len(people) for people in then_suppressed.values()),
            "vanished": len(vanished),
            "erased": len(back),
        },
    )


def latest_wish(requests: Iterable[ConsentRequest]) -> dict[int, ConsentRequest]:
    """Return each person's last request; of two at the same moment the opt-out counts."""
    latest: dict[int, ConsentRequest] = {}
    for one in requests:
        before = latest.get(one.subscriber_id)
        if before is None or _order(one) >= _order(before):
            latest[one.subscriber_id] = one
    return latest


def _order(request: ConsentRequest) -> tuple[datetime, bool, int]:
    return request.requested_at, request.kind == "unsubscribe", request.request_id


def _split(suppressions: Iterable[Suppression]) -> dict[int | None, set[int]]:
    found: dict[int | None, set[int]] = {}
    for one in suppressions:
        found.setdefault(one.list_id, set()).add(one.subscriber_id)
    return found
