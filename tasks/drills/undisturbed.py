"""The world in which the outage did not happen: the same engine, the same opt-outs and sign-ups, no faults.

Its messages are what was due. The truth of an outage is the difference between this world and the actual one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from tasks.drills.esp.engine import Engine, Settings
from tasks.drills.esp.faults import Faults
from tasks.drills.esp.schema import (
    CAMPAIGN_LISTS,
    CAMPAIGNS,
    LISTS,
    MESSAGES,
    SUBSCRIBER_LISTS,
    SUBSCRIBERS,
    TEMPLATES,
    connect,
)
from tasks.drills.esp.transport import Nowhere

Action = tuple[datetime, Callable[[sa.Connection, datetime], None]]


def run_undisturbed(
    actual: sa.Engine,
    folder: Path,
    settings: Settings,
    *,
    start: datetime,
    until: datetime,
    actions: Sequence[Action],
) -> dict[tuple[int, int], datetime]:
    """Return when each message would go out: (campaign, subscriber) to its moment.

    Args:
        actual: the ESP's database at `start`; it is read, never written.
        folder: where the throw-away copy lies.
        settings: those of the actual ESP.
        start: the moment at which the live days begin.
        until: how far to work.
        actions: what the shop does to the ESP, by time; each gets a connection and the time (naive UTC).
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "undisturbed.sqlite"
    path.unlink(missing_ok=True)
    copy = connect(f"sqlite:///{path}", durable=False)
    try:
        _copy(actual, copy)
        engine = Engine(
            copy,
            replace(settings, chunk=500),
            start=start,
            transport=Nowhere(),
            faults=Faults(folder / "no-faults.json"),
            folder=folder,
            events=False,
        )
        for moment, act in sorted(actions, key=lambda one: one[0]):
            engine.work_until(moment)
            with engine.lock, copy.begin() as connection:
                act(connection, moment.replace(tzinfo=None))
        engine.work_until(until)
        with copy.begin() as connection:
            rows = connection.execute(
                sa.select(MESSAGES.c.campaign_id, MESSAGES.c.subscriber_id, MESSAGES.c.updated_at)
            ).all()
    finally:
        copy.dispose()
        for file in folder.glob("undisturbed.sqlite*"):
            file.unlink()
    return {(row.campaign_id, row.subscriber_id): row.updated_at.replace(tzinfo=UTC) for row in rows}


def _copy(actual: sa.Engine, copy: sa.Engine) -> None:
    with actual.connect() as source, copy.begin() as target:
        for table in (SUBSCRIBERS, LISTS, SUBSCRIBER_LISTS, TEMPLATES, CAMPAIGNS, CAMPAIGN_LISTS):
            rows = [dict(row._mapping) for row in source.execute(sa.select(table))]
            if rows:
                target.execute(sa.insert(table), rows)
