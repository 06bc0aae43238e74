"""Where a response stands, as the journal has it: what every update to stakeholders is written from."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.catchup import number_in, standing_stops
from tasks.comms import CampaignLine, Situation
from tasks.core import Money, plural
from tasks.incidents import Incident, Journal
from tasks.plan import LoadedPlan
from tasks.response.table import PlanLine

_STANDING = {"done": "stopped", "unknown": "outcome unknown"}


def situation_of(
    loaded: LoadedPlan,
    journal: Journal,
    incident: Incident,
    *,
    lines: Sequence[PlanLine] = (),
    done: Sequence[str] | None = None,
    needs: Sequence[str] = (),
    next_steps: Sequence[str] = ("Watch until the provider is measured to be back, then recover.",),
) -> Situation:
    """Return where the response to `incident` stands now.

    Args:
        loaded: the plan.
        journal: the journal.
        incident: the incident as it is now.
        lines: the plan of this run; campaigns that earlier runs acted on come before it.
        done: what was done; how many campaigns stand stopped if left out.
        needs: what is needed of whom.
        next_steps: what happens next.
    """
    actions = journal.actions(incident.id)
    stops = {one.target: one for one in actions if one.kind in ("pause", "unschedule")}
    standing = {one.target for one in standing_stops(actions)}
    stopped = [one for one in stops.values() if one.status == "done" and one.target in standing]
    currency = loaded.plan.report.currency

    def stands(line: PlanLine) -> str:
        target = f"campaign/{line.campaign_id}"
        if target in stops and target not in standing:
            return "as it was"
        return _STANDING.get(stops[target].status if target in stops else "", "not held yet")

    return Situation(
        company=loaded.plan.name,
        incident_id=incident.id,
        provider=incident.provider,
        state=incident.state,
        severity=journal.severity(incident.id),
        summary=incident.summary,
        cause_class=incident.cause_class,
        impact_started_at=incident.timestamps.get("impact_started_at"),
        detected_at=incident.timestamps.get("detected_at"),
        as_of=journal.clock.now(),
        campaigns=tuple(
            CampaignLine(
                name=line.name,
                kind=line.kind,
                audience=line.audience,
                due_at=line.due_at,
                useful_until=line.useful_until,
                standing=stands(line),
                at_stake=Money(line.at_stake_minor, currency).whole() if line.at_stake_minor else "",
            )
            for line in _lines_to_report(journal, incident.id, lines)
        ),
        seen=(incident.summary,),
        done=tuple(done)
        if done is not None
        else ((f"{plural(len(stopped), 'campaign')} stopped",) if stopped else ()),
        needs=tuple(needs),
        next_steps=tuple(next_steps),
        data_loss=_data_loss(journal, incident.id),
        over=not incident.is_open,
        simulated=journal.clock.simulated,
    )


def _data_loss(journal: Journal, incident_id: str) -> str:
    """Say whether data were lost, as far as anybody knows: the last good snapshots bound what can be."""
    held = [
        one.text.partition(" ")[0] for one in journal.timeline(incident_id) if one.kind == "snapshot_held"
    ]
    if not held:
        return "Whether data were lost is not known yet, and no good snapshot is held to compare with."
    return (
        "Whether data were lost is not known yet; the last good snapshots are held to compare with:"
        f" {', '.join(dict.fromkeys(held))}."
    )


def _lines_to_report(journal: Journal, incident_id: str, lines: Sequence[PlanLine]) -> list[PlanLine]:
    planned = {line.campaign_id for line in lines}
    acted_on = {
        number_in(one.target) for one in journal.actions(incident_id) if one.kind in ("pause", "unschedule")
    }
    known = [
        PlanLine.from_json(one) for one in (journal.get_state(f"respond/{incident_id}/lines") or {}).values()
    ]
    earlier = [one for one in known if one.campaign_id not in planned and one.campaign_id in acted_on]
    return [*earlier, *lines]
