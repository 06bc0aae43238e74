"""Decide whether subscribers are told that we are sorry, and draft it for exactly those who are meant."""

from __future__ import annotations

from typing import Literal

from prefect import flow

from tasks.catchup import Apology
from tasks.catchup.steps import decide_apology, publish_apology, recovering


@flow(name="apologise", flow_run_name="apologise-{incident}-{to}")
def apologise(
    incident: str,
    plan: str = "plan.yaml",
    to: Literal["none", "fix_in_place", "affected_only", "all"] = "affected_only",
    name: str = "",
) -> Apology:
    """Record the decision on an apology, and draft it. Sends nothing, to nobody.

    The list of people and the text are written for a person to read; a yes (`mailstay incidents approve`) is good for
    exactly that list and that text, and this run again records it. Nobody who opted out, was erased or must not be
    mailed is on the list. A decision stands: a second apology would go to the same people again.

    Args:
        incident: Id of the incident, such as INC-0001; it must have been recovered for affected_only.
        plan: Path of the continuity plan. Decides where the drafts are written.
        to: none tells nobody; fix_in_place mends what was wrong and tells nobody; affected_only is the ledger's set,
            late or not mailed; all is everybody who may be mailed.
        name: Your name, as the journal shows who ran this.

    Returns:
        Whether it is decided or waits for a yes, how many people, and the files of the list and the text.
    """
    with recovering(plan, incident, name, flow="apologise") as run:
        decide_apology(run, to)
    return publish_apology(run, to)
