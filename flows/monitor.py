"""Watch the providers of the plan: one pass a run; a suspicion tells people, a confirmed outage starts `respond`."""

from __future__ import annotations

from prefect import flow

from tasks.comms.steps import keep_promises
from tasks.outages.steps import (
    Failures,
    ProviderWatch,
    choose_providers,
    conclude_pass,
    look,
    publish_watch,
    record_changes,
    remember,
    start_response,
    tell_people,
)


@flow(name="monitor", flow_run_name="monitor-{provider}")
def monitor(plan: str = "plan.yaml", provider: str = "all") -> list[ProviderWatch]:
    """Look at every provider once and go on from where the last run ended.

    Reads the status page, the API, the seed mailbox and the shop; changes nothing at the provider (a seed message is
    the only mail that goes out). A suspicion opens an incident in `triage` and tells the stakeholders who get tactical
    reports. A confirmed outage moves it to `investigating` and emits `mailstay.outage.confirmed`, which starts
    `respond` in plan mode. When the provider works again, the incident is `monitoring`; `recover` resolves it.

    Args:
        plan: Path of the continuity plan. Decides what is watched, when a signal counts, and who is told.
        provider: Name of one provider of the plan, or `all`. Naming one leaves the others unwatched in this run.

    An update that was promised to stakeholders for the time until the next pass goes out by itself; to an audience only
    if a person approved that.

    An error with one provider does not leave the others unwatched; the run fails at its end all the same.

    Returns:
        Per provider its phase, what changed in this pass, the severity, the incident, and what was seen.
    """
    watched, failures = [], Failures()
    for name in choose_providers(plan, provider):
        with failures.of(name):
            seen = look(plan, name)
            found = conclude_pass(plan, name, seen)
            if found.eventful:
                found = record_changes(plan, found)
                start_response(plan, found)
                tell_people(plan, found)
                publish_watch(found)
            watched.append(remember(plan, found))
    with failures.of("promised updates"):
        keep_promises(plan)
    failures.fail_if_any()
    return watched
