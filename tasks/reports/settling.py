"""Which reports are still provisional, and whether the data that settles them are in."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from tasks.incidents import Incident, Journal
from tasks.plan import LoadedPlan
from tasks.reports.writing import versions
from tasks.snapshots import Store


@dataclass(frozen=True)
class Unsettled:
    """A resolved incident without a settled report.

    Attributes:
        version: of its newest report; 0 if there is none yet.
        settles_at: from when on late orders and events change no figure any more.
        waits_for: what is missing for a settled report, in words; empty if it can be written.
    """

    incident: str
    version: int
    settles_at: datetime
    waits_for: str

    @property
    def ready(self) -> bool:
        """Whether a settled report can be written."""
        return not self.waits_for


def unsettled(loaded: LoadedPlan, journal: Journal, store: Store, now: datetime) -> list[Unsettled]:
    """Return every resolved incident whose newest report is provisional, or that has none; oldest first."""
    found = []
    for incident in journal.incidents():
        resolved = incident.timestamps.get("resolved_at")
        if incident.state not in ("resolved", "closed") or resolved is None:
            continue
        version, settled = _newest(loaded.resolve(loaded.plan.reports), incident.id)
        if settled:
            continue
        settles_at = resolved + timedelta(hours=loaded.plan.report.settle_hours)
        found.append(
            Unsettled(incident.id, version, settles_at, _missing(loaded, store, incident, settles_at, now))
        )
    return found


def _newest(reports: Path, incident: str) -> tuple[int, bool]:
    import pyarrow.parquet as pq

    version = max(versions(reports, incident), default=0)
    if not version:
        return 0, False
    table = pq.ParquetFile(reports / incident / f"v{version:02d}" / "tables" / "report.parquet").read()
    return version, table.column("settlement")[0].as_py() == "settled"


def _missing(
    loaded: LoadedPlan, store: Store, incident: Incident, settles_at: datetime, now: datetime
) -> str:
    if now < settles_at:
        return f"{settles_at:%Y-%m-%d %H:%M} UTC: until then orders and events can come late"
    provider = loaded.plan.providers.get(incident.provider)
    sources = [one for one in (provider.source, provider.shop) if one] if provider else []
    if len(sources) < 2:
        return f"the plan to say where the data are: source and shop of providers.{incident.provider}"
    stale = [
        name
        for name in sources
        if not any(one.state == "valid" and one.consistency_at >= settles_at for one in store.list(name))
    ]
    if stale:
        return f"a valid snapshot of {' and '.join(stale)} from after {settles_at:%Y-%m-%d %H:%M} UTC"
    return ""
