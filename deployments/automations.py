"""Create or update the automations that watch over the flows themselves. Run it again after every deploy.

    python deployments/automations.py

They are found by name, so that a second run changes what differs and adds nothing. What starts `respond` is not
here: it belongs to its deployment (prefect.yaml).
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.automations import AutomationCore
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, RunDeployment
from prefect.events.schemas.automations import EventTrigger, Posture

NOTIFY = "notify/notify"
PLAN = "plan.yaml"
HEARTBEAT_LOST_AFTER = timedelta(seconds=90)
"""Three heartbeats of the 30 s that prefect.yaml sets for every run."""


def automations(notify_id: UUID, plan: str = PLAN) -> list[AutomationCore]:
    """Return the automations as they should be.

    Args:
        notify_id: the deployment that tells people.
        plan: the plan that `notify` reads its channels from.
    """
    flow_run: dict[str, Any] = {"prefect.resource.id": "prefect.flow-run.*"}
    return [
        AutomationCore(
            name="mailstay: tell people about a failed run",
            description="A flow of Mailstay failed or crashed: its channels are told by the deployment `notify`.",
            trigger=EventTrigger(
                expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.flow-run.TimedOut"},
                match=flow_run,
                match_related={"prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.mailstay"},
                for_each={"prefect.resource.id"},
                posture=Posture.Reactive,
                threshold=1,
                within=timedelta(0),
            ),
            actions=[
                RunDeployment(
                    deployment_id=notify_id,
                    parameters={
                        "plan": plan,
                        "title": "{{ flow.name }} {{ flow_run.state.name }}",
                        # no filter such as `ui_url`: Prefect registers them for notifications only
                        "text": "Run {{ flow_run.name }} ({{ flow_run.id }}): {{ flow_run.state.message }}",
                    },
                )
            ],
        ),
        AutomationCore(
            name="mailstay: mark a run whose process died",
            description="No heartbeat for 90 seconds: the run is marked as crashed, so that it can be run again.",
            trigger=EventTrigger(
                after={"prefect.flow-run.heartbeat"},
                expect={
                    "prefect.flow-run.heartbeat",
                    "prefect.flow-run.Completed",
                    "prefect.flow-run.Failed",
                    "prefect.flow-run.Cancelled",
                    "prefect.flow-run.Crashed",
                    "prefect.flow-run.Suspended",
                },
                match=flow_run,
                match_related={"prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.mailstay"},
                for_each={"prefect.resource.id"},
                posture=Posture.Proactive,
                threshold=1,
                within=HEARTBEAT_LOST_AFTER,
            ),
            actions=[
                ChangeFlowRunState(
                    state=StateType.CRASHED, name="Crashed", message="The process sends no more heartbeats."
                )
            ],
        ),
    ]


def upsert(client: SyncPrefectClient, wanted: AutomationCore) -> str:
    """Bring one automation to what is wanted and return what was done: `created`, `updated` or `unchanged`.

    More than one of the same name (made by hand) become one.
    """
    known = client.read_automations_by_name(name=wanted.name)
    for extra in known[1:]:
        client.delete_automation(extra.id)
    if not known:
        client.create_automation(wanted)
        return "created"
    current = AutomationCore(**known[0].model_dump(exclude={"id", "owner_resource"}))
    if (
        current.model_dump() == wanted.model_dump()
    ):  # not as JSON: there the order of a set differs by process
        return "unchanged"
    client.update_automation(known[0].id, wanted)
    return "updated"


def main() -> None:
    """Bring every automation up to date and say what was done."""
    with get_client(sync_client=True) as client:
        notify_id = client.read_deployment_by_name(NOTIFY).id
        for wanted in automations(notify_id):
            print(f"{upsert(client, wanted)}: {wanted.name}")  # noqa: T201 its output


if __name__ == "__main__":
    main()
