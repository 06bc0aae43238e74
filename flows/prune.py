"""Apply retention to the store: what no rule keeps goes, its objects a day later."""

from __future__ import annotations

from prefect import flow

from tasks.snapshots import Pruned
from tasks.snapshots.steps import prune_store, publish_prune


@flow(name="prune", flow_run_name="prune-{plan}")
def prune(plan: str = "plan.yaml", confirm: bool = False) -> Pruned:
    """Remove the snapshots that no rule of the plan's retention keeps.

    Without `confirm` nothing is changed and the run says what would go. With it snapshots are REMOVED for good; their
    objects are only marked, and deleted by a run after the grace that the plan names, never while a backup runs. The
    newest snapshot of a source, its newest valid one and whatever an incident holds always stay.

    Args:
        plan: Path of the continuity plan. Decides the rules and the grace.
        confirm: Really remove. Leave it off to see what would happen.

    Returns:
        Every snapshot with the rules that keep it, what went, and the objects marked and deleted.
    """
    found = prune_store(plan, confirm)
    publish_prune(found)
    return found
