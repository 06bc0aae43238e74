"""What an outage did to messages: due, delayed, dropped, suppressed, unknown, duplicated, and the minutes.

A message is one campaign to one subscriber; a catch-up copy counts as the campaign that it catches up. The terms:

- *planned at*: the campaign's `send_at` plus the message's place in the queue at the provider's speed.
- *due*: planned from the start of the impact (included) to restoration (excluded), not attempted before the impact,
  and wanted: the person had not opted out before the planned time. The rest of a campaign that the impact cut short is
  due although planned before it. An unknown message is not counted as due.
- *cut short*: planned within a day before the impact, and the sender's log has fewer attempts before the impact than
  the campaign had recipients; one that was never attempted is cut short only if the recovery held it.
- *delayed*: due, and taken by the provider more than five minutes after the planned time; *on time*: within them.
- *suppressed*: due, never sent, and the person opted out after the planned time.
- *dropped*: due, never sent, for any other reason (too late, decided, forgotten).
- *unknown*: the sender's log leaves open whether it went out; planned in the outage, or attempted from a day before the
  impact to restoration, so that the open outcomes of an earlier incident are not counted again.
- *duplicated*: taken more than once. *After latest useful*, *to opted out*: taken when it must not have been.

due = delayed + on time + suppressed + dropped + bounced.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pandas as pd

from tasks.impact.errors import ImpactError

LATE_AFTER = timedelta(minutes=5)
"""A message counts as delayed when it went out more than this after its planned time."""

SHORT_SCOPE = timedelta(days=1)
"""A campaign that was planned or attempted this long before the impact may have been cut short by it."""

FATES = ("delayed", "on_time", "suppressed", "dropped", "bounced", "unknown")
FLAGS = ("duplicated", "after_latest_useful", "to_opted_out")


@dataclass(frozen=True)
class MessageCounts:
    """Messages by what became of them; the terms are those of the module.

    Attributes:
        minutes_median: median delay of the delayed ones, in minutes.
        minutes_longest: longest delay, in minutes.
    """

    due: int
    delayed: int
    on_time: int
    suppressed: int
    dropped: int
    bounced: int
    unknown: int
    duplicated: int
    after_latest_useful: int
    to_opted_out: int
    minutes_median: float
    minutes_longest: float


@dataclass(frozen=True)
class MessageImpact:
    """The counts, the same per campaign, and every message behind them.

    Attributes:
        counts: totals.
        campaigns: per campaign `campaign_id`, `name`, `kind`, `send_at`, `latest_useful_at`, and the counts.
        messages: every counted message: `campaign_id`, `subscriber_id`, `planned_at`, `attempted_at`, `fate` (one of
            `FATES`, or `not_due` where only a flag counts it), `late_minutes`, and the flags `duplicated`,
            `after_latest_useful`, `to_opted_out`.
        planned_sends: what was to be sent from the impact on, for the money estimate: `planned_at`, `kind`,
            `campaign_id`, `messages`.
    """

    counts: MessageCounts
    campaigns: pd.DataFrame
    messages: pd.DataFrame
    planned_sends: pd.DataFrame


def measure_messages(
    campaigns: pd.DataFrame,
    attempts: pd.DataFrame,
    audiences: pd.DataFrame,
    opt_outs: pd.DataFrame,
    *,
    impact_started_at: datetime,
    restored_at: datetime,
    until: datetime,
    messages_per_minute: int,
    held: Collection[int] = (),
) -> MessageImpact:
    """Say what became of every message that the outage could touch.

    Args:
        campaigns: `campaign_id`, `name`, `kind`, `send_at`, `latest_useful_at` (UTC), `audience` (recipients).
        attempts: every message of these campaigns in the sender's log: `campaign_id`, `subscriber_id`, `outcome`
            (`accepted`, `bounced`, `unknown`, `not_attempted`), `attempted_at`, and `copies` (how often it was taken).
        audiences: whom each campaign was meant for: `campaign_id`, `subscriber_id`.
        opt_outs: the standing opt-outs, from whoever witnessed them: `subscriber_id`, `requested_at`.
        impact_started_at: start of the impact.
        restored_at: when sending worked again.
        until: end of the window of the report: what is planned later is left out.
        messages_per_minute: the provider's speed.
        held: campaigns that the recovery found unfinished and held.
    """
    start, restored = pd.Timestamp(impact_started_at), pd.Timestamp(restored_at)
    # A campaign that was over long before has nothing to count, but most of the log.
    alive = attempts.loc[~(attempts["attempted_at"] < start - SHORT_SCOPE), "campaign_id"]
    mine = attempts[attempts["campaign_id"].isin({*alive, *audiences["campaign_id"]})]
    everyone = _everyone(campaigns, mine, audiences, opt_outs, messages_per_minute, until)
    unknown = everyone["outcome"] == "unknown"
    before = everyone["attempted_at"] < start
    unwanted = everyone["requested_at"] < everyone["planned_at"]
    # Whoever joined the list of a finished campaign afterwards was never meant to get it.
    cut = everyone["campaign_id"].isin(_cut_short(campaigns, attempts, start, held))
    touchable = ~before & ~unwanted & ((everyone["planned_at"] >= start) | cut)
    late = everyone["attempted_at"] - everyone["planned_at"]
    accepted = everyone["outcome"] == "accepted"
    fate = np.select(
        [
            unknown,
            accepted & (late > LATE_AFTER),
            accepted,
            everyone["outcome"] == "bounced",
            everyone["requested_at"].notna(),
        ],
        ["unknown", "delayed", "on_time", "bounced", "suppressed"],
        "dropped",
    )
    everyone = everyone.assign(fate=fate, late_minutes=late.where(accepted).dt.total_seconds() / 60)
    everyone["after_latest_useful"] = (
        accepted & ~before & (everyone["attempted_at"] > everyone["latest_useful_at"])
    )
    everyone["to_opted_out"] = accepted & ~before & (everyone["attempted_at"] > everyone["requested_at"])
    everyone["duplicated"] = accepted & ~before & (everyone["copies"] > 1)
    hit = touchable & (everyone["planned_at"] < restored)
    opened = everyone["attempted_at"].between(start - SHORT_SCOPE, restored, inclusive="left")
    everyone["fate"] = everyone["fate"].where(hit | (unknown & opened), "not_due")
    counted = everyone[(everyone["fate"] != "not_due") | everyone[list(FLAGS)].any(axis=1)]
    delays = counted.loc[counted["fate"] == "delayed", "late_minutes"]
    counts = MessageCounts(
        due=int((hit & ~unknown).sum()),
        **{name: int((counted["fate"] == name).sum()) for name in FATES},
        **{name: int(counted[name].sum()) for name in FLAGS},
        minutes_median=float(delays.median()) if len(delays) else 0.0,
        minutes_longest=float(delays.max()) if len(delays) else 0.0,
    )
    columns = ["campaign_id", "subscriber_id", "planned_at", "attempted_at", "fate", "late_minutes", *FLAGS]
    return MessageImpact(
        counts,
        _per_campaign(campaigns, counted),
        counted[columns].sort_values(["campaign_id", "subscriber_id"]).reset_index(drop=True),
        _planned(everyone[touchable], start),
    )


def measured_impact_start(
    campaigns: pd.DataFrame, attempts: pd.DataFrame, *, detected_at: datetime, restored_at: datetime
) -> datetime | None:
    """Return when the impact began as the sender's own log shows it, None if the log shows no silence.

    The log's last attempt before the detection is followed by a silence. If a campaign was in the middle of its
    audience then, the impact began with the first message whose outcome is open, else with that last attempt. If
    nothing was being sent, it began when the first campaign was due that did not start within five minutes.

    Args:
        campaigns: `campaign_id`, `send_at`, `audience`.
        attempts: `campaign_id`, `outcome`, `attempted_at`.
        detected_at: when it was detected.
        restored_at: when sending worked again.
    """
    detected, restored = pd.Timestamp(detected_at), pd.Timestamp(restored_at)
    tried = attempts.dropna(subset=["attempted_at"])
    earlier = tried[tried["attempted_at"] <= detected]
    if not len(earlier):
        return None
    last = earlier["attempted_at"].max()
    sent = earlier.groupby("campaign_id").size()
    known = campaigns.set_index("campaign_id")
    begun = earlier.groupby("campaign_id")["attempted_at"].min()
    recent = [one for one in begun.index if last - begun[one] < SHORT_SCOPE and one in known.index]
    running = [one for one in recent if sent[one] < int(known.loc[one, "audience"] or 0)]
    if running:
        mine = earlier[earlier["campaign_id"].isin(running)]
        open_ones = mine.loc[mine["outcome"] == "unknown", "attempted_at"]
        moment = open_ones.min() if len(open_ones) else mine["attempted_at"].max()
        return pd.Timestamp(moment).to_pydatetime()
    started = tried.groupby("campaign_id")["attempted_at"].min()
    waiting = campaigns[(campaigns["send_at"] > last) & (campaigns["send_at"] < restored)]
    first = waiting["campaign_id"].map(started)
    held = waiting[first.isna() | (first > waiting["send_at"] + LATE_AFTER)]
    return pd.Timestamp(held["send_at"].min()).to_pydatetime() if len(held) else None


def _everyone(
    campaigns: pd.DataFrame,
    attempts: pd.DataFrame,
    audiences: pd.DataFrame,
    opt_outs: pd.DataFrame,
    messages_per_minute: int,
    until: datetime,
) -> pd.DataFrame:
    if opt_outs["subscriber_id"].duplicated().any():
        raise ImpactError("A person has two standing opt-outs", fix="pass the last wish of each person")
    keys = ["campaign_id", "subscriber_id"]
    wanted = campaigns[campaigns["send_at"] < pd.Timestamp(until)]
    both = pd.concat([audiences[keys], attempts[keys]]).drop_duplicates()
    both = both[both["campaign_id"].isin(wanted["campaign_id"])].sort_values(keys)
    everyone = both.merge(attempts, on=keys, how="left").merge(
        wanted[["campaign_id", "kind", "send_at", "latest_useful_at"]], on="campaign_id"
    )
    everyone = everyone.merge(opt_outs[["subscriber_id", "requested_at"]], on="subscriber_id", how="left")
    everyone["outcome"] = everyone["outcome"].fillna("not_attempted")
    everyone["copies"] = everyone["copies"].fillna(0)
    for column in ("attempted_at", "requested_at", "latest_useful_at", "send_at"):
        everyone[column] = pd.to_datetime(everyone[column], utc=True).astype("datetime64[us, UTC]")
    place = everyone.groupby("campaign_id").cumcount()
    step = np.rint(place / messages_per_minute * 60_000_000).astype("int64")
    everyone["planned_at"] = everyone["send_at"] + pd.to_timedelta(step, unit="us")
    return everyone


def _cut_short(
    campaigns: pd.DataFrame, attempts: pd.DataFrame, start: pd.Timestamp, held: Collection[int]
) -> list[int]:
    """Campaigns that were unfinished when the impact began, by the sender's log."""
    recent = campaigns[(campaigns["send_at"] >= start - SHORT_SCOPE) & (campaigns["send_at"] < start)]
    reached = attempts[attempts["attempted_at"] < start].groupby("campaign_id").size()
    sent = recent["campaign_id"].map(reached).fillna(0)
    known = recent["campaign_id"].isin({*attempts["campaign_id"], *held})
    return [int(one) for one in recent.loc[known & (sent < recent["audience"].fillna(0)), "campaign_id"]]


def _per_campaign(campaigns: pd.DataFrame, counted: pd.DataFrame) -> pd.DataFrame:
    fates = counted.groupby(["campaign_id", "fate"]).size().unstack(fill_value=0)
    table = fates.reindex(columns=FATES, fill_value=0)
    table = table.assign(due=table.drop(columns="unknown").sum(axis=1))
    table = table.join(counted.groupby("campaign_id")[list(FLAGS)].sum()).astype("int64")
    delays = counted[counted["fate"] == "delayed"].groupby("campaign_id")["late_minutes"]
    table["minutes_median"] = delays.median().reindex(table.index).fillna(0.0)
    table["minutes_longest"] = delays.max().reindex(table.index).fillna(0.0)
    about = campaigns[["campaign_id", "name", "kind", "send_at", "latest_useful_at"]]
    result = about.merge(table.reset_index(), on="campaign_id").sort_values(["send_at", "campaign_id"])
    return result.reset_index(drop=True)


def _planned(due: pd.DataFrame, start: pd.Timestamp) -> pd.DataFrame:
    """What was to be sent, by hours; what was due before the impact began counts as due at it."""
    floored = due["planned_at"].dt.floor("h")
    at = floored.where(floored > start, start)
    grouped = due.assign(planned_at=at).groupby(["planned_at", "kind", "campaign_id"]).size()
    return grouped.rename("messages").reset_index()
