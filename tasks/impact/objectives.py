"""Recovery objectives against what the incident measured, per marketing object of the plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from tasks.plan import MarketingObject

Standing = Literal["met", "missed", "not_applicable", "pending"]


@dataclass(frozen=True)
class ObjectiveCheck:
    """One marketing object: what the plan asks for and what the incident measured, in minutes.

    Attributes:
        rpa_minutes: age, at the start of the impact, of the newest valid snapshot of the object's source: what a
            restore would have lost at most. None without such a snapshot.
        rpa_anchors: between which two moments it was measured.
        rta_minutes: from the start of the impact until the object worked again; None where it is not known or the
            object was not hit.
        rta_anchors: between which two moments it was measured.
    """

    name: str
    source: str
    rpo_minutes: int
    rpa_minutes: float | None
    rpa_anchors: str
    rpo: Standing
    rto_minutes: int
    rta_minutes: float | None
    rta_anchors: str
    rto: Standing
    mtpd_minutes: int
    mtpd: Standing


def check_objectives(
    objects: Mapping[str, MarketingObject],
    *,
    source_of: Mapping[str, str],
    consistency_at: Mapping[str, datetime | None],
    hit: set[str],
    impact_started_at: datetime | None,
    restored_at: datetime | None,
) -> list[ObjectiveCheck]:
    """Hold every object of the plan against the incident.

    Args:
        objects: the plan's marketing objects.
        source_of: per canonical table the source that holds it.
        consistency_at: per source the consistency point of its last valid snapshot before the impact.
        hit: the sources that the outage hit; an object of another source has no recovery time to measure.
        impact_started_at: when the impact began; without it nothing can be measured.
        restored_at: when the provider worked again.
    """
    checks = []
    for name, thing in objects.items():
        sources = sorted({source_of[table] for table in thing.tables if table in source_of})
        points = [consistency_at.get(source) for source in sources]
        known = [one for one in points if one is not None]
        rpa = None
        if impact_started_at is not None and known and len(known) == len(points):
            rpa = (impact_started_at - min(known)).total_seconds() / 60
        rpo: Standing = (
            "pending" if impact_started_at is None else _standing(rpa, thing.rpo_minutes, missing="missed")
        )
        touched = bool(hit & set(sources))
        rta = None
        if touched and impact_started_at is not None and restored_at is not None:
            rta = (restored_at - impact_started_at).total_seconds() / 60
        missing: Standing = "pending" if touched else "not_applicable"
        checks.append(
            ObjectiveCheck(
                name=name,
                source=", ".join(sources),
                rpo_minutes=thing.rpo_minutes,
                rpa_minutes=rpa,
                rpa_anchors="last valid snapshot → impact_started_at",
                rpo=rpo if sources else "not_applicable",
                rto_minutes=thing.rto_minutes,
                rta_minutes=rta,
                rta_anchors="impact_started_at → restored, as measured by probes",
                rto=_standing(rta, thing.rto_minutes, missing=missing),
                mtpd_minutes=thing.mtpd_minutes,
                mtpd=_standing(rta, thing.mtpd_minutes, missing=missing),
            )
        )
    return checks


def _standing(measured: float | None, allowed: int, *, missing: Standing) -> Standing:
    if measured is None:
        return missing
    return "met" if measured <= allowed else "missed"
