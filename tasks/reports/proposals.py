"""What the plan would have to say for a finding not to come again: changes of single values, for a person to judge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta

import yaml
from pydantic import ValidationError

from tasks.comms import judge_promises
from tasks.core import mask_addresses
from tasks.impact import ObjectiveCheck, ReputationCheck
from tasks.plan import Plan, diff, edited
from tasks.reports.casework import JournalFacts
from tasks.reports.content import Proposal
from tasks.reports.findings import GRACE

QUARTER = 15
"""Proposed cadences and objectives are whole quarters of an hour."""

LOOSEST = 2
"""A cadence is never proposed to become rarer than so many times: people who heard nothing for hours were not told."""


def proposals(
    plan: Plan,
    facts: JournalFacts,
    objectives: Sequence[ObjectiveCheck],
    reputation: Sequence[ReputationCheck],
    *,
    now: datetime,
) -> list[Proposal]:
    """Return the changes that follow from what was measured; each can be refused by itself."""
    return [
        *_backups(plan, objectives),
        *_recovery_times(objectives),
        *_cadences(plan, facts, now),
        *_ramp(plan, reputation),
    ]


def plan_patch(text: str, name: str, wanted: Sequence[Proposal]) -> str:
    """Return the proposals as one unified diff of the plan's file, which `patch -p0` applies; empty if there is none.

    Comments and order stay. A proposal that the plan's own rules refuse is left out: a patch must give a plan that
    loads. Lines around a change that hold an address are left out; a change that would show one is not made.
    """
    after = text
    for one in wanted:
        tried = edited(after, {one.key: one.after})
        try:
            Plan.model_validate(yaml.safe_load(tried))
        except ValidationError:
            continue
        after = tried
    for context in (2, 0):
        patch = diff(text, after, name, context=context)
        if mask_addresses(patch) == patch:
            return patch
    return ""


def _backups(plan: Plan, objectives: Sequence[ObjectiveCheck]) -> list[Proposal]:
    """A source is backed up as often as the strictest objective that was missed; if it was already, its runs failed."""
    needed: dict[str, ObjectiveCheck] = {}
    for one in objectives:
        for source in one.source.split(", ") if one.rpo == "missed" else []:
            if source in plan.sources and (
                source not in needed or one.rpo_minutes < needed[source].rpo_minutes
            ):
                needed[source] = one
    return [
        Proposal(
            f"sources.{source}.backup_every",
            plan.sources[source].backup_every,
            max(one.rpo_minutes, 1),
            f"{_spoken(one.name)} may be {one.rpo_minutes} minutes old, and "
            + ("no valid snapshot held it" if one.rpa_minutes is None else f"was {one.rpa_minutes:.0f}"),
        )
        for source, one in needed.items()
        if plan.sources[source].backup_every > one.rpo_minutes
    ]


def _recovery_times(objectives: Sequence[ObjectiveCheck]) -> list[Proposal]:
    """An objective that cannot be reached misleads; one that the longest tolerable disruption forbids stays."""
    return [
        Proposal(
            f"objects.{one.name}.rto_minutes",
            one.rto_minutes,
            _quarters(one.rta_minutes),
            f"{_spoken(one.name)} took {one.rta_minutes:.0f} minutes: promise that, unless a drill shows better",
        )
        for one in objectives
        if one.rto == "missed"
        and one.rta_minutes is not None
        and _quarters(one.rta_minutes) <= one.mtpd_minutes
    ]


def _cadences(plan: Plan, facts: JournalFacts, now: datetime) -> list[Proposal]:
    """A cadence that was nearly kept is to be the one that was; one that was missed by far is to be kept."""
    longest: dict[str, timedelta] = {}
    for one in judge_promises(facts.told, now):
        if one.status == "late" and one.kept_at and one.late_by > GRACE:
            gap = one.kept_at - one.made_at
            longest[one.stakeholder] = max(gap, longest.get(one.stakeholder, gap))
    return [
        Proposal(
            f"stakeholders.{name}.every_minutes",
            plan.stakeholders[name].every_minutes,
            _quarters(gap / timedelta(minutes=1)),
            f"{_spoken(name)} waited {gap / timedelta(minutes=1):.0f} minutes for an update: promise what can be kept",
        )
        for name, gap in longest.items()
        if name in plan.stakeholders
        and 1 < _quarters(gap / timedelta(minutes=1)) / plan.stakeholders[name].every_minutes <= LOOSEST
    ]


def _ramp(plan: Plan, reputation: Sequence[ReputationCheck]) -> list[Proposal]:
    hurt = [one for one in reputation if one.metric != "unsubscribe" and (one.alarm or one.limit == "breach")]
    half = max(plan.ramp.canary, plan.ramp.max_step // 2)
    if not hurt or half >= plan.ramp.max_step:
        return []
    rates = " and ".join(f"{one.metric}s at {one.rate:.2%}" for one in hurt)
    return [
        Proposal("ramp.max_step", plan.ramp.max_step, half, f"the catch-up brought {rates}: smaller steps")
    ]


def _quarters(minutes: float) -> int:
    return math.ceil(minutes / QUARTER) * QUARTER


def _spoken(name: str) -> str:
    return name.replace("_", " ")
