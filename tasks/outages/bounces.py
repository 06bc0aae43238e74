"""What receiving servers answer: enhanced status codes (RFC 3463) in classes, and bounces beyond the usual.

Mail that is accepted by the provider and refused by the receivers looks healthy to every probe of the provider.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from tasks.core import plural
from tasks.outages.counts import CampaignCount
from tasks.outages.signals import Signal

BounceClass = Literal["address", "mailbox", "system", "network", "protocol", "content", "policy", "other"]

REVIEWED_AT = 0.05
"""Share of bounces at which Amazon SES puts an account under review."""

PAUSED_AT = 0.10
"""Share of bounces at which Amazon SES may stop an account from sending."""

WINDOW = timedelta(minutes=60)
ENOUGH_MESSAGES = 100
ENOUGH_CODES = 20
_SURE = 3.0  # standard errors: by chance in fewer than one pass in 700

_ENHANCED = re.compile(r"(?<![\d.])([245])\.(\d{1,3})\.(\d{1,3})(?![\d.])")
_REPLY = re.compile(r"(?<!\d)([45])\d\d(?!\d)")
_SUBJECTS: dict[int, BounceClass] = {
    1: "address",
    2: "mailbox",
    3: "system",
    4: "network",
    5: "protocol",
    6: "content",
    7: "policy",
}
_NOT_OF_THE_PERSON: frozenset[BounceClass] = frozenset({"system", "network", "protocol", "policy"})


@dataclass(frozen=True)
class Diagnosis:
    """What one answer of a receiving server says.

    Attributes:
        lasting: whether it is a bounce (5.x.x) and not a deferral (4.x.x), which is tried again.
        about: `address` and `mailbox` speak of the person; `system`, `network`, `protocol` and `policy` of the way.
    """

    lasting: bool
    about: BounceClass

    @property
    def of_the_way(self) -> bool:
        """Whether it says something about the sender or the way, and not about the person."""
        return self.about in _NOT_OF_THE_PERSON


def diagnose(text: str) -> Diagnosis | None:
    """Return the class of an SMTP reply or of a DSN's status; None where it has no code or is a success.

    The enhanced code counts (RFC 3463 §3); without one the reply code tells at least whether it is lasting.
    """
    code = _ENHANCED.search(text)
    if code:
        if code[1] == "2":
            return None
        return Diagnosis(code[1] == "5", _SUBJECTS.get(int(code[2]), "other"))
    reply = _REPLY.search(text)
    return Diagnosis(reply[1] == "5", "other") if reply else None


@dataclass(frozen=True)
class BounceMemory:
    """Bounces and accepted messages of the last passes.

    Attributes:
        counted: per campaign id, its counts of sent and bounced in the last pass.
        steps: by how much they grew in each pass of the last `WINDOW`: when, messages, bounces.
    """

    counted: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    steps: tuple[tuple[datetime, int, int], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the memory as JSON-able values."""
        return {
            "counted": {str(key): list(pair) for key, pair in self.counted.items()},
            "steps": [[at.isoformat(), sent, bounced] for at, sent, bounced in self.steps],
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any] | None) -> BounceMemory:
        """Return the memory that `to_dict` wrote; nothing gives an empty one."""
        if not content:
            return cls()
        return cls(
            {int(key): (pair[0], pair[1]) for key, pair in content["counted"].items()},
            tuple((datetime.fromisoformat(at), sent, bounced) for at, sent, bounced in content["steps"]),
        )


def bounce_signal(
    memory: BounceMemory,
    campaigns: Sequence[CampaignCount],
    diagnostics: Sequence[str] | None,
    at: datetime,
) -> tuple[BounceMemory, Signal]:
    """Return the memory for the next pass and the `bounces` signal.

    bad: more than a tenth of the last hour's messages bounced, or most of at least 20 coded answers are lasting ones
    about the sender or the way (policy 5.7.x, routing 5.4.x, …). degraded: more than a twentieth, or most coded answers
    are deferrals of that kind. A share counts once it lies three standard errors above its limit (Wilson), and above
    three times what is usual here: a small campaign to old addresses is no outage.

    Args:
        memory: what the last passes saw.
        campaigns: as the provider has them now.
        diagnostics: replies of receiving servers in the last hour, where our shop keeps them.
        at: the time of the pass.
    """
    counted = {one.campaign_id: (one.sent, one.bounced) for one in campaigns}
    grown = [
        (max(0, sent - memory.counted[key][0]), max(0, bounced - memory.counted[key][1]))
        for key, (sent, bounced) in counted.items()
        if key in memory.counted
    ]
    step = (at, sum(sent for sent, _ in grown), sum(bounced for _, bounced in grown))
    steps = tuple(one for one in (*memory.steps, step) if at - WINDOW < one[0] <= at)
    kept = BounceMemory(counted, steps)
    sent, bounced = sum(one[1] for one in steps), sum(one[2] for one in steps)
    usual = _share([one for one in campaigns if one.status == "finished"])
    found = [one for text in diagnostics or () if (one := diagnose(text))]
    classes = Counter(f"{'bounce' if one.lasting else 'deferral'}: {one.about}" for one in found)
    details = {"sent": sent, "bounced": bounced, "usual_share": usual, "classes": dict(classes)}
    if len(found) >= ENOUGH_CODES:
        refused = sum(one.lasting and one.of_the_way for one in found)
        deferred = sum(not one.lasting and one.of_the_way for one in found)
        worst = next(iter(classes.most_common(1)))[0]
        if 2 * refused > len(found):
            seen = f"receivers refuse us: {refused} of {plural(len(found), 'coded answer')}, most as {worst}"
            return kept, Signal("bounces", "bad", seen, at, details)
        if 2 * (refused + deferred) > len(found):
            seen = f"receivers defer us: {deferred} of {plural(len(found), 'coded answer')}, most as {worst}"
            return kept, Signal("bounces", "degraded", seen, at, details)
    if sent < ENOUGH_MESSAGES:
        return kept, Signal("bounces", "unknown", "too few messages to judge bounces", at, details)
    surely = _at_least(bounced, sent)
    seen = f"{plural(bounced, 'bounce')} of {plural(sent, 'message')} in the last hour"
    for limit, verdict in ((PAUSED_AT, "bad"), (REVIEWED_AT, "degraded")):
        if surely > max(limit, 3 * usual):
            return kept, Signal("bounces", verdict, seen, at, details)  # type: ignore[arg-type]
    return kept, Signal("bounces", "good", seen, at, details)


def _share(campaigns: Sequence[CampaignCount]) -> float:
    sent = sum(one.sent for one in campaigns)
    return sum(one.bounced for one in campaigns) / sent if sent else 0.0


def _at_least(hits: int, of: int) -> float:
    """Return the lower end of Wilson's interval for the share `hits` of `of`."""
    hits = min(hits, of)  # bounces of earlier messages arrive late
    share, z = hits / of, _SURE
    middle = share + z * z / (2 * of)
    spread = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return (middle - spread) / (1 + z * z / of)
