"""`mailstay actions`: the work that incidents left behind, until there is evidence that it is done."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import typer

from flows.cli import show
from flows.cli.options import JsonOption, NameOption, PlanOption

actions = typer.Typer(
    help="The work that incidents left behind: list it, close it on evidence.", no_args_is_help=True
)
ItemNumber = Annotated[int, typer.Argument(help="An item's number, as `actions list` prints it.")]


def _journal(plan: str) -> Any:
    from tasks.incidents import open_journal
    from tasks.plan import load_plan

    return open_journal(load_plan(plan))


@actions.command("list")
def actions_list(
    incident: Annotated[str, typer.Option(help="Only those of one incident.")] = "",
    owner: Annotated[str, typer.Option(help="Only those of one owner, as `list` prints it.")] = "",
    closed: Annotated[
        bool, typer.Option("--closed", help="Those that are completed or given up, too.")
    ] = False,
    plan: PlanOption = "plan.yaml",
    json_: JsonOption = False,
) -> None:
    """List what is to be done, what is due first on top."""
    from tasks.reports import follow_up

    journal = _journal(plan)
    if incident:
        journal.incident(incident)
    found = [
        one
        for one in follow_up(journal.action_items(incident or None), journal.clock.now())
        if (closed or one.item.status == "outstanding") and owner in ("", one.item.owner)
    ]
    show.as_json({"actions": found}) if json_ else show.follow_ups(found)


@actions.command("add")
def actions_add(
    incident: Annotated[str, typer.Argument(help="The incident that it follows from.")],
    title: Annotated[str, typer.Option(help="What to do: actionable, specific, bounded.")],
    owner: Annotated[str, typer.Option(help="The desk that does it.")],
    due: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="By which day (UTC).")],
    proof: Annotated[str, typer.Option(help="The end state that shows that it is done.")],
    type_: Annotated[
        Literal["prevent", "mitigate", "detect", "repair", "investigate"],
        typer.Option("--type", help="Its kind."),
    ] = "prevent",
    priority: Annotated[Literal["P0", "P1", "P2"], typer.Option(help="`P0` is most urgent.")] = "P1",
    plan: PlanOption = "plan.yaml",
    json_: JsonOption = False,
) -> None:
    """Add work that the review did not think of. The same title in the same incident is added once."""
    item = _journal(plan).action_item(
        incident,
        title=title,
        type=type_,
        owner=owner,
        due_at=due.replace(hour=23, minute=59, tzinfo=UTC),
        proof=proof,
        priority=priority,
    )
    show.as_json(item) if json_ else show.out.print(f"{item.id} {item.title}: {item.status}", markup=False)


@actions.command("done")
def actions_done(
    item: ItemNumber,
    evidence: Annotated[str, typer.Option(help="Where the proof is: a link, a drill, a report.")],
    name: NameOption,
    plan: PlanOption = "plan.yaml",
    json_: JsonOption = False,
) -> None:
    """Close an item by the evidence that it is done."""
    closed = _journal(plan).complete_item(item, evidence=evidence, by=name)
    show.as_json(closed) if json_ else show.out.print(f"{closed.id} {closed.title}: completed", markup=False)


@actions.command("drop")
def actions_drop(
    item: ItemNumber,
    because: Annotated[str, typer.Option(help="Why it will not be done; the reports show it.")],
    name: NameOption,
    plan: PlanOption = "plan.yaml",
    json_: JsonOption = False,
) -> None:
    """Decide not to do an item; the reason stays on the record."""
    closed = _journal(plan).drop_item(item, reason=because, by=name)
    show.as_json(closed) if json_ else show.out.print(f"{closed.id} {closed.title}: not doing", markup=False)
