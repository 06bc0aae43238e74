"""Measuring whether a provider works again: probes in a row, mail that moves, a seed message that arrives.

No status page is asked: it may be green while nothing is delivered.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from tasks.catchup.desk import TICK_SECONDS, Desk, iso, parse
from tasks.core import plural
from tasks.outages import SeedFailed, SeedRefused, SeedRoute, seed_arrived, seed_route, seed_token, send_seed

PROBE_SECONDS = 60.0


@dataclass(frozen=True)
class Restoration:
    """Whether the provider works again, as measured.

    Attributes:
        at: when it was first measured to work, of the time since it last did not.
        good: good probes in a row.
        needed: how many the plan asks for.
        seen: what was wrong, or what was right.
    """

    restored: bool
    at: datetime
    good: int
    needed: int
    seen: str


def measure(desk: Desk) -> Restoration:
    """Probe until enough answers in a row are good; the first bad one ends it.

    A campaign that runs while its `sent` stands still through all probes shows a provider that is not back, and so
    does a seed message that was taken and has not arrived by the last probe. A seed that could not be sent for a
    reason of ours, or whose mailbox cannot be read, speaks neither way and is named.
    """
    found = _measure(desk)
    known = parse((desk.recall("restored") or {}).get("at"))
    if not found.restored:
        if known is not None:
            desk.keep("restored", {})
        return found
    desk.keep("restored", {"at": iso(known or found.at), "measured_at": iso(found.at), "good": found.good})
    return replace(found, at=known or found.at)


def _measure(desk: Desk) -> Restoration:
    rules = desk.plan.plan.detection
    needed = rules.clear_after

    def failed(good: int, seen: str) -> Restoration:
        return Restoration(False, desk.clock.now(), good, needed, seen)

    if not (probe := desk.provider.health()).ok:
        return failed(0, probe.detail)
    before = sent_by_running(desk)
    seed, remark = _send_seed(desk)
    if seed is not None and not seed.token:
        return failed(0, remark)
    for good in range(needed):
        probe = desk.provider.health()
        if not probe.ok or probe.seconds > rules.slow_seconds:
            return failed(good, probe.detail or f"it took {probe.seconds:.1f} s to answer")
        desk.clock.sleep(PROBE_SECONDS)
    after = sent_by_running(desk)
    stuck = [number for number, sent in before.items() if after.get(number) == sent]
    if before and len(stuck) == len(before):
        return failed(needed, f"{plural(len(stuck), 'campaign')} run without sending")
    if seed is not None:
        arrived = seed_arrived(
            seed.route.mailbox_url,
            seed.token,
            timeout_seconds=desk.settings.seed_timeout_seconds,
            password=seed.route.mailbox_password,
        )
        if arrived is False:
            return failed(needed, "a seed message was taken, but it did not arrive")
        remark = "a seed message arrived" if arrived else "the seed mailbox could not be read"
    seen = f"{plural(needed, 'good probe')} in a row" + (f"; {remark}" if remark else "")
    return Restoration(True, desk.clock.now(), needed, needed, seen)


def sent_by_running(desk: Desk) -> dict[int, int]:
    """Return what each running campaign has sent so far."""
    return {one.campaign_id: one.sent for one in desk.provider.running_stats() if one.status == "running"}


def stuck(desk: Desk) -> list[str]:
    """Watch what runs now until its `sent` has moved, or the plan's patience is over; return what does not move."""
    until = desk.clock.now() + timedelta(minutes=max(1, desk.plan.plan.detection.stalled_minutes))
    waiting = sent_by_running(desk)
    while waiting and desk.clock.now() < until:
        desk.keep_lease()
        desk.clock.sleep(TICK_SECONDS)
        now = sent_by_running(desk)
        waiting = {number: sent for number, sent in waiting.items() if now.get(number) == sent}
    return [f"campaign {number} runs, but nothing is sent" for number in waiting]


@dataclass(frozen=True)
class _Seed:
    """A seed message on its way; without a token where the provider did not take it."""

    route: SeedRoute
    token: str


def _send_seed(desk: Desk) -> tuple[_Seed | None, str]:
    """Send a seed message where the plan has a mailbox for it; return it, and what speaks against it."""
    route = seed_route(desk.plan, desk.incident.provider)
    if route is None:
        return None, ""
    settings = desk.settings
    token = seed_token(desk.incident.provider, desk.clock.now())
    try:
        send_seed(
            settings.api_url, route.auth, route.address, token, timeout_seconds=settings.timeout_seconds
        )
    except SeedRefused as error:
        return None, f"no seed message could be sent: {error.what}"
    except SeedFailed as error:
        return _Seed(route, ""), error.what
    return _Seed(route, token), ""
