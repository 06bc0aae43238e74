"""Read the store's objects in full, one part a run: after as many runs as there are parts every byte was read."""

from __future__ import annotations

from prefect import flow

from tasks.snapshots import PartChoice
from tasks.snapshots.steps import Verified, publish_verification, refuse_damage, verify_part


@flow(name="verify", flow_run_name="verify-{part}")
def verify(plan: str = "plan.yaml", part: PartChoice = "next/7") -> Verified:
    """Prove that the store still holds what was committed, however old it is.

    Disks lose data that nobody reads. Checks every manifest and the chain, reads one part of all objects in full,
    and keeps for each object when that was. A damaged object quarantines every snapshot that holds it, and the run
    fails. Changes nothing else; a snapshot becomes `valid` through `validate` only.

    Args:
        plan: Path of the continuity plan. Decides the store, and after how many days an object counts as overdue.
        part: Which part is read, such as 3/7 for the third of seven, or next/7 for the one that has waited longest.
            More parts make each run shorter and a full round longer; 1/1 reads everything.

    Returns:
        The part, its objects and bytes, what is damaged, and how many objects wait too long.
    """
    found = verify_part(plan, part)
    publish_verification(found)
    refuse_damage(found)
    return found
