"""`mailstay report`: reports that are written already, in another form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli import show
from flows.cli.options import JsonOption, PlanOption

report = typer.Typer(help="Reports that are written already, in another form.", no_args_is_help=True)


@report.callback()
def _report() -> None:
    """Keep `export` a command of its own."""


@report.command("export")
def report_export(
    incident: Annotated[str, typer.Argument(help="An incident's id, such as INC-0001.")],
    version: Annotated[int, typer.Option(min=0, help="Of the report; 0 takes the newest.")] = 0,
    to: Annotated[Path | None, typer.Option(help="The .docx to write; beside the report if absent.")] = None,
    plan: PlanOption = "plan.yaml",
    json_: JsonOption = False,
) -> None:
    """Write a report as a Word document: the same words and figures, charts as pictures with a text for each.

    Needs python-docx: `pip install 'mailstay[documents]'`.
    """
    from tasks.plan import load_plan
    from tasks.reports import export_docx

    loaded = load_plan(plan)
    written = export_docx(loaded.resolve(loaded.plan.reports), incident, version, to)
    show.as_json({"incident": incident, "document": written}) if json_ else show.out.print(
        str(written), markup=False
    )
