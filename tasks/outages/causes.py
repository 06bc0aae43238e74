"""What class of cause the evidence speaks for: a suggestion with its reasons, which only a person makes the cause.

Words on a status page are the vendor's, and early ones are often wrong; so a class is never concluded from one word
alone where another has better evidence, and `technical_failure` is what remains when we measure an outage and nothing
speaks for anything else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tasks.core import plural
from tasks.outages.signals import Signal
from tasks.plan import CauseClass

MANY_OPT_OUTS = 50
"""So many opt-outs within an hour are no people who read a newsletter, where far fewer are usual."""

_WORDS: tuple[tuple[CauseClass, str, int], ...] = (
    (
        "cyber_attack",
        r"unauthori[sz]ed|security (?:incident|event|breach)|breach(?:ed)?\b|compromised|attack(?:er|ers|s)?\b|ddos"
        r"|denial[- ]of[- ]service|malicious|ransomware|phishing|stolen credentials",
        2,
    ),
    (
        "natural_disaster",
        r"flood(?:ing)?\b|storm\b|hurricane|earthquake|wildfire|\bfire\b|lightning|power (?:loss|outage|failure)"
        r"|cooling|data ?cent(?:er|re) (?:is )?(?:down|offline|evacuat\w+)|(?:whole|entire) region",
        2,
    ),
    (
        "human_error",
        r"misconfigur\w+|configuration (?:change|error)|bad deploy\w*|faulty (?:deploy\w*|release)|human error"
        r"|accidental(?:ly)?|roll(?:ed|ing)? back|recent (?:deploy\w*|release|change)",
        2,
    ),
    (
        "provider_suspension",
        r"account (?:has been |is |was )?(?:suspended|disabled|under review)|terms of service",
        3,
    ),
    (
        "technical_failure",
        r"database|hardware|network|disk|storage|memory|capacity|overload\w*|replication|queue|latency|software bug",
        1,
    ),
)
_AUTHENTICATION = re.compile(r"HTTP 40[13]\b|credentials|unauthori[sz]ed|forbidden", re.IGNORECASE)


@dataclass(frozen=True)
class Suggestion:
    """A class of cause and what speaks for it.

    Attributes:
        cause: one of the plan's cause classes.
        weight: how much speaks for it; the largest is named first.
        evidence: one sentence each.
    """

    cause: CauseClass
    weight: int
    evidence: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values, for the journal."""
        return {"cause_class": self.cause, "weight": self.weight, "evidence": list(self.evidence)}


@dataclass(frozen=True)
class Surroundings:
    """What was going on around the outage, besides its signals.

    Attributes:
        own_changes: what we changed ourselves shortly before it began, one sentence each.
        others_down: other providers whose outages are open at the same time.
        usual_opt_outs: opt-outs of a usual hour.
    """

    own_changes: tuple[str, ...] = ()
    others_down: tuple[str, ...] = ()
    usual_opt_outs: float = 0.0


def suggest_causes(signals: Sequence[Signal], around: Surroundings = Surroundings()) -> list[Suggestion]:
    """Return the classes that something speaks for, the best supported first; none while nothing is wrong."""
    by_kind = {one.kind: one for one in signals}
    found: list[tuple[CauseClass, int, str]] = []
    page = by_kind.get("status_page")
    words = str(page.details.get("words", "")) if page else ""
    for cause, pattern, weight in _WORDS:
        said = re.search(pattern, words, re.IGNORECASE)
        if said:
            found.append((cause, weight, f"the status page says {said[0].lower()!r}"))
    api = by_kind.get("api")
    if api and api.verdict == "bad" and _AUTHENTICATION.search(api.seen):
        found.append(("cyber_attack", 2, f"our key is refused: {api.seen}"))
        found.append(("provider_suspension", 2, f"our key is refused: {api.seen}"))
    consent = by_kind.get("consent")
    opt_outs = int(consent.details.get("requests", 0)) if consent else 0
    if opt_outs >= max(MANY_OPT_OUTS, 10 * around.usual_opt_outs):
        found.append(("cyber_attack", 3, f"{plural(opt_outs, 'opt-out')} within an hour"))
    bounces = by_kind.get("bounces")
    if bounces and bounces.verdict == "bad" and "refuse" in bounces.seen:
        found.append(("provider_suspension", 1, bounces.seen))
    found += [("human_error", 3, change) for change in around.own_changes]
    if around.others_down:
        found.append(("natural_disaster", 2, f"at the same time down: {', '.join(around.others_down)}"))
    if page and re.search(r"multiple services|availability zone|region availability", words, re.IGNORECASE):
        found.append(("natural_disaster", 2, "the status page speaks of a whole region"))
    broken = [one for one in signals if one.own and one.verdict == "bad"]
    if broken and not found:
        found.append(("technical_failure", 1, f"{broken[0].seen}, and nothing speaks for anything else"))
    causes = dict.fromkeys(cause for cause, _, _ in found)
    suggestions = [
        Suggestion(
            cause,
            sum(weight for other, weight, _ in found if other == cause),
            tuple(why for other, _, why in found if other == cause),
        )
        for cause in causes
    ]
    return sorted(suggestions, key=lambda one: -one.weight)
