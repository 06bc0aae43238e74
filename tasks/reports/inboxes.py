"""The sender's reputation at each mailbox provider: what went out after the outage against the days before it.

Every mailbox provider judges a sender by itself, so a rate over all of them can hide one that turns mail away. The
open rate is reported and never judged: it is no measure of deliverability (Google sender guidelines).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pandas as pd

from tasks.impact import Evidence, ReputationCheck, check_reputation, reactions_of
from tasks.reports.content import LessonRow
from tasks.reports.words import say_percent

if TYPE_CHECKING:
    import duckdb

WATCH_DAYS = 14
"""Days after the outage on which the rates are watched."""

COUNTED = ("messages", "bounce", "complaint", "unsubscribe", "deferral")
_KEYS = ["campaign_id", "subscriber_id"]


@dataclass(frozen=True)
class Inbox:
    """One mailbox provider.

    Attributes:
        checks: its rates of the catch-up against the baseline.
        opened: messages of the catch-up that were opened at least once, of `messages`; None: nothing tells opens.
        opened_before: likewise of the baseline, of `messages_before`.
    """

    name: str
    checks: tuple[ReputationCheck, ...]
    messages: int
    messages_before: int
    opened: int | None = None
    opened_before: int | None = None


@dataclass(frozen=True)
class WatchDay:
    """What was sent to one mailbox provider on day `day` after the outage (D+1 to D+14), and what it brought."""

    day: int
    mailbox: str
    messages: int
    bounce: int
    complaint: int
    unsubscribe: int
    deferral: int


def read_mailboxes(
    connection: duckdb.DuckDBPyConnection, more: Mapping[str, list[str]]
) -> pd.DataFrame | None:
    """Return `subscriber_id` and `mailbox`, its mailbox provider; None where nobody's address is known.

    Args:
        connection: with the canonical views.
        more: the plan's own domains of mailbox providers (`ramp.mailbox_providers`).
    """
    from tasks.catchup import mailbox_providers

    if not _has(connection, "subscribers"):
        return None
    domain = "lower(trim(split_part(email, '@', -1)))"
    domains = connection.execute(f"SELECT DISTINCT {domain} AS domain FROM canonical.subscribers").df()  # noqa: S608
    names = mailbox_providers(("@" + domains["domain"].fillna("")).tolist(), more)
    connection.register("domains_of_mailboxes", domains.assign(mailbox=names.to_pylist()))
    return connection.execute(
        "SELECT subscriber_id, mailbox FROM canonical.subscribers "  # noqa: S608
        f"JOIN domains_of_mailboxes ON domain = {domain}"
    ).df()


def read_opens(connection: duckdb.DuckDBPyConnection, campaigns: Collection[int]) -> pd.DataFrame | None:
    """Return `campaign_id` and `subscriber_id` of the messages that were opened; None where nothing tells."""
    if not _has(connection, "events"):
        return None
    return connection.execute(
        "SELECT DISTINCT campaign_id, subscriber_id FROM canonical.events "
        "WHERE type = 'open' AND campaign_id IN (SELECT unnest(?))",
        [[int(one) for one in campaigns]],
    ).df()


def check_inboxes(
    evidence: Evidence,
    mailboxes: pd.DataFrame,
    opens: pd.DataFrame | None,
    *,
    caught_up: Collection[int],
    since: datetime,
    started: datetime,
    restored: datetime,
    until: datetime,
) -> list[Inbox]:
    """Return every mailbox provider that the catch-up wrote to, by its name.

    Args:
        evidence: the sender's log and what it brought.
        mailboxes: the mailbox provider of each subscriber.
        opens: the messages that were opened.
        caught_up: campaigns of the catch-up.
        since: start of the baseline; it ends with `started`, the start of the impact.
        started: see `since`.
        restored: start of the catch-up.
        until: its end.
    """
    sent = _since(evidence.attempts, since, mailboxes)
    found = []
    for name, mine in sent.groupby("mailbox", observed=True):
        baseline = reactions_of(mine, evidence.reactions, since=since, until=started)
        late = mine[mine["campaign_id"].isin(list(caught_up))]
        counted = reactions_of(late, evidence.reactions, since=restored, until=until)
        if not int(counted["messages"].sum() + counted["deferral"].sum()):
            continue
        found.append(
            Inbox(
                name=str(name),
                checks=tuple(check_reputation({one: int(counted[one].sum()) for one in COUNTED}, baseline)),
                messages=int(counted["messages"].sum()),
                messages_before=int(baseline["messages"].sum()),
                opened=_opened(late, opens, restored, until),
                opened_before=_opened(mine, opens, since, started),
            )
        )
    return found


def inbox_lessons(inboxes: Collection[Inbox]) -> list[LessonRow]:
    """Return what went poorly at single mailbox providers."""
    return [
        LessonRow(
            "poorly",
            f"At {one.name} the catch-up's {check.metric} rate was {say_percent(check.rate, 1)}, usual "
            f"{say_percent(check.baseline_rate, 1)}.",
        )
        for one in inboxes
        for check in one.checks
        if check.alarm or check.limit == "breach"
    ]


def watch(
    evidence: Evidence, mailboxes: pd.DataFrame, *, restored: datetime, until: datetime
) -> list[WatchDay]:
    """Return the days after the outage as far as the data reach, by mailbox provider."""
    sent = _since(evidence.attempts, restored, mailboxes)
    days = []
    for day in range(1, WATCH_DAYS + 1):
        begin = restored + pd.Timedelta(days=day - 1)
        end = min(begin + pd.Timedelta(days=1), until)
        if begin >= end:
            break
        for name, mine in sent.groupby("mailbox", observed=True):
            counted = reactions_of(mine, evidence.reactions, since=begin, until=end)
            numbers = {one: int(counted[one].sum()) for one in COUNTED}
            if numbers["messages"] or numbers["deferral"]:
                days.append(WatchDay(day=day, mailbox=str(name), **numbers))
    return days


def _since(attempts: pd.DataFrame, since: datetime, mailboxes: pd.DataFrame) -> Any:
    return attempts[attempts["attempted_at"] >= pd.Timestamp(since)].merge(mailboxes, on="subscriber_id")


def _opened(sent: pd.DataFrame, opens: pd.DataFrame | None, since: datetime, until: datetime) -> int | None:
    if opens is None:
        return None
    at = sent["attempted_at"]
    inside = (at >= pd.Timestamp(since)) & (at < pd.Timestamp(until)) & (sent["outcome"] == "accepted")
    return len(sent.loc[inside, _KEYS].merge(opens, on=_KEYS))


def _has(connection: duckdb.DuckDBPyConnection, table: str) -> bool:
    [(count,)] = connection.execute(
        "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'canonical' AND table_name = ?",
        [table],
    ).fetchall()
    return bool(count)
