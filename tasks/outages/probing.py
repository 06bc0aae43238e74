"""What the answers to a few questions to the API say. Pure: the questions are asked by the provider's connector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from tasks.core import plural
from tasks.outages.signals import Signal, Verdict

ROUNDS = 5
"""Questions in one pass: one in five failing shows in two passes of three, and a vendor's rate limit is far away."""

GIVE_UP_AFTER = 3
"""When the first three questions fail, the rest would only wait for the same time-out."""


@dataclass(frozen=True)
class Answer:
    """How one question to the API went.

    Attributes:
        ok: whether the answer was right.
        seconds: how long it took, in real time.
        detail: what was wrong; empty when nothing was.
    """

    ok: bool
    seconds: float
    detail: str = ""


def enough(answers: Sequence[Answer]) -> bool:
    """Whether no further question is needed in this pass."""
    return len(answers) >= ROUNDS or (
        len(answers) >= GIVE_UP_AFTER and not any(answer.ok for answer in answers)
    )


def api_signal(answers: Sequence[Answer], at: datetime, *, slow_seconds: float) -> Signal:
    """Return the `api` signal: bad when two answers (or all) failed, degraded when one did or half were slow.

    One failure alone is what any network does now and then; it makes people look, not an outage.
    """
    failed = [answer for answer in answers if not answer.ok]
    took = sorted(answer.seconds for answer in answers if answer.ok)
    middle = took[len(took) // 2] if took else None
    details = {"asked": len(answers), "failed": len(failed), "median_seconds": middle}
    verdict: Verdict
    if not answers:
        return Signal("api", "unknown", "the API was not asked", at, details)
    if len(failed) == len(answers):
        verdict, seen = "bad", f"the API does not work: {failed[-1].detail}"
    elif failed:
        verdict = "bad" if len(failed) > 1 else "degraded"
        seen = f"the API failed {len(failed)} of {plural(len(answers), 'time')}: {failed[-1].detail}"
    elif middle is not None and middle > slow_seconds:
        verdict, seen = "degraded", f"the API is slow: {middle:.1f} s where {slow_seconds:g} s are allowed"
    else:
        verdict, seen = "good", "the API answers"
    return Signal("api", verdict, seen, at, details)
