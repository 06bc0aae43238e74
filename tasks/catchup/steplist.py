"""The steps of a recovery as the journal holds them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from tasks.catchup.desk import Desk, parse
from tasks.incidents import Action

STEP_KIND = "catch_up"


@dataclass(frozen=True)
class Step:
    """One step as the journal holds it: of which campaign, for whom (a frozen file), and what its things are called.

    Attributes:
        start_at: when the provider itself is to start it; None where we start it and watch.
    """

    action: Action
    number: int
    of: int
    file: str
    digest: str
    list_name: str
    campaign_name: str
    deadline: datetime | None
    start_at: datetime | None

    @classmethod
    def read(cls, action: Action) -> Step:
        """Return the step that `action` wrote down."""
        facts = action.payload
        return cls(
            action,
            int(facts["step"]),
            int(facts["campaign_id"]),
            facts["file"],
            facts["digest"],
            facts["list"],
            facts["name"],
            parse(facts["deadline"]),
            parse(facts["start_at"]),
        )

    @property
    def key(self) -> str:
        """The step's key in the journal."""
        return self.action.key

    @property
    def done(self) -> bool:
        """Whether nothing is left to do for it."""
        return self.action.status == "done"


def steps_of(desk: Desk, campaign_id: int | None = None) -> list[Step]:
    """Return the steps (of one campaign) in the order in which they were written down."""
    prefix = "recover:catch-up:" if campaign_id is None else f"recover:catch-up:{campaign_id}:"
    return [Step.read(action) for action in desk.actions(STEP_KIND, prefix)]
