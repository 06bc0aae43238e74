"""Erase a person: out of every restore at once and, if asked for, out of every object of the store."""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from pydantic import Field

from tasks.checks.steps import forget_segments
from tasks.snapshots import Erased, Ground
from tasks.snapshots.steps import erase_person, publish_erasure, verify_replaced

# In the schema only: Prefect's API then refuses an address before a run is made of it; a check by Prefect would log it.
KeyedHash = Annotated[str, Field(json_schema_extra={"pattern": "^[0-9a-f]{64}$"})]


@flow(name="erase", flow_run_name="erase-{plan}")
def erase(
    person: KeyedHash,
    name: str,
    ground: Ground,
    plan: str = "plan.yaml",
    rewrite: bool = False,
    override_holds: bool = False,
    confirm: bool = False,
) -> Erased:
    """Enter a person into the ledger of the erased, and with `rewrite` replace the objects that hold them.

    Without `confirm` nothing is changed and the run says what would happen. With it no restore brings the person back,
    and their address counts as opted out. `rewrite` REPLACES every snapshot that holds them, verifies it again, and
    deletes the old objects for good, at once. The person must be deleted in the sources first, or the next backup
    brings them into the store again.

    Args:
        person: Keyed hash of the address, as `mailstay erase ADDRESS` prints it. Never the address: a run keeps its
            parameters.
        name: Your name, for the record.
        ground: Why, by GDPR Article 17(1).
        plan: Path of the continuity plan. Decides the store, and by each source's mapping what names a person.
        rewrite: Replace the objects that hold the person. Without it they live until retention removes them.
        override_holds: Replace held snapshots too. Without it they are left alone and named.
        confirm: Really do it. Leave it off to see what would happen.

    Returns:
        What each table loses, the snapshots replaced and held, where the address stands besides, and until when.
    """
    found = erase_person(plan, person, name, ground, rewrite, override_holds, confirm)
    if rewrite and confirm:
        forget_segments(plan)
    verify_replaced(plan, found)
    publish_erasure(found)
    return found
