"""The options that many commands share."""

from __future__ import annotations

from typing import Annotated

import typer

PlanOption = Annotated[str, typer.Option("--plan", envvar="MAILSTAY_PLAN", help="The continuity plan.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else.")]
NameOption = Annotated[str, typer.Option("--name", help="Your name, for the record.")]
