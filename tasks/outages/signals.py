"""What one pass of `monitor` sees: a signal per kind of evidence, each with a verdict and a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

Verdict = Literal["good", "degraded", "bad", "unknown"]
SignalKind = Literal[
    "status_page", "api", "smtp", "seed", "sending", "bounces", "consent", "unsubscribe", "webhooks"
]

OWN_SIGNALS: frozenset[SignalKind] = frozenset(
    {"api", "smtp", "seed", "sending", "bounces", "consent", "unsubscribe", "webhooks"}
)
"""The kinds that we measure ourselves. A vendor's page is a claim: only these prove an outage or its end."""


@dataclass(frozen=True)
class Signal:
    """One kind of evidence in one pass.

    Attributes:
        kind: `status_page` (the vendor's claim), `api` (does it answer, right and in time), `smtp` (does it shake
            hands), `seed` (does a message reach a mailbox), `sending` (does `sent` of running campaigns move),
            `bounces` (do receivers take what is sent), `consent` (are opt-outs accepted), `unsubscribe` (does the
            opt-out page open), `webhooks` (do events arrive for what was accepted, and in time).
        verdict: `unknown` when nothing could be learned, which is never evidence of an outage.
        seen: one sentence for people, without personal data.
        at: when it was seen, on the clock of the plan.
        details: figures behind the sentence, JSON-able.
    """

    kind: SignalKind
    verdict: Verdict
    seen: str
    at: datetime
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def own(self) -> bool:
        """Whether we measured this ourselves."""
        return self.kind in OWN_SIGNALS

    def to_dict(self) -> dict[str, Any]:
        """Return the signal as JSON-able values, for the journal."""
        return {
            "kind": self.kind,
            "verdict": self.verdict,
            "seen": self.seen,
            "at": self.at.isoformat(),
            "details": dict(self.details),
        }
