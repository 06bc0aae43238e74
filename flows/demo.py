"""The whole story on the sample shop: backup, proof, outage, response, recovery and review, in one run."""

from __future__ import annotations

from typing import Annotated, Literal

from prefect import flow
from pydantic import Field

from flows.backup import backup
from flows.monitor import monitor
from flows.recover import recover
from flows.respond import respond
from flows.review import review
from flows.validate import validate
from tasks.drills import DemoResult
from tasks.drills.steps import (
    READER,
    answer_as_reader,
    hold_against_truth,
    play_until,
    settle,
    staged,
    tell_backup,
    tell_recovery,
    tell_response,
    tell_review,
    watch_until_confirmed,
)


@flow(name="demo", flow_run_name="demo-seed-{seed}")
def demo(
    folder: str = "demo",
    seed: Annotated[int, Field(ge=0)] = 7,
    scale: Literal["demo", "small"] = "demo",
    shop_url: str = "",
    journal_url: str = "",
) -> DemoResult:
    """Play an outage on the sample shop and let the real flows deal with it.

    Starts a simulated provider and a mailbox on the loopback address and writes into `folder` only. Time is simulated:
    four days pass in about two minutes. The same seed gives the same result each time.

    Args:
        folder: A new or empty folder for everything that the demo writes.
        seed: Decides the day of the outage and everything that is generated. Another seed, another outage.
        scale: demo is the whole shop with half a year of campaigns; small is an eighth of it and ten weeks.
        shop_url: SQLAlchemy URL of an empty database for the shop. Empty takes SQLite.
        journal_url: SQLAlchemy URL of an empty database for the journal. Empty takes SQLite.

    Returns:
        Snapshots, incident, messages, loss and data loss, each beside the truth, and the report's path.
    """
    with staged(folder, seed, scale, shop_url, journal_url) as world:
        plan = str(world.plan_path)

        play_until(world, "02:00")
        taken = backup(plan=plan)
        proven = validate(plan=plan)
        tell_backup(world, taken, proven)

        play_until(
            world, "07:55", "the newsletter is due at 08:00, a launch at 09:00, a one-day sale at 10:00"
        )
        incident = watch_until_confirmed(world, monitor)
        tell_response(
            world,
            respond(
                plan=plan, provider="listmonk", cause_class="technical_failure", seen="the API refuses connections",
                mode="act", approval="policy", name=READER,
            ),
        )  # fmt: skip
        play_until(world, "09:25", "the provider answers again, its page is green, and it sends nothing")
        tell_response(
            world,
            respond(
                plan=plan, provider="listmonk", cause_class="technical_failure", seen="it answers and sends nothing",
                mode="act", approval="policy", name=READER,
            ),
        )  # fmt: skip

        play_until(world, "13:15", "the provider says that it is fixed")
        tell_recovery(world, recover(plan=plan, incident=incident, name=READER))
        answer_as_reader(world, incident)
        tell_recovery(world, recover(plan=plan, incident=incident, name=READER))

        settle(world, incident)
        later = backup(plan=plan)
        proven_later = validate(plan=plan)
        tell_backup(world, later, proven_later)
        reviewed = review(plan=plan, incident=incident)
        tell_review(world, reviewed)
        return hold_against_truth(world, incident, [*taken, *later], [proven, proven_later], reviewed)
