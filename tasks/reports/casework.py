"""The case of one incident: which times, which snapshots, what the journal says. What every measure starts from.

The journal says what was known and done; the snapshots after recovery say what became of messages, orders and rows;
the last valid snapshots before the impact say what a restore would have given. Nothing else is asked.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.comms import Told
from tasks.core import Clock, UsageError
from tasks.impact import SHORT_SCOPE, Evidence, TableAbout, measured_impact_start, read_evidence
from tasks.incidents import (
    Action,
    ActionItem,
    Approval,
    Communication,
    Incident,
    Journal,
    Metric,
    TimelineEntry,
)
from tasks.plan import LoadedPlan, ProviderPlan
from tasks.reports.errors import ReportError
from tasks.snapshots import SnapshotInfo, Store, canonical_views, connect

if TYPE_CHECKING:
    import duckdb

_MEMORY = "400MiB"
"""What DuckDB may keep in memory; a log of ten million messages is sorted on disk."""


@dataclass(frozen=True)
class JournalFacts:
    """Everything the journal holds of one incident, as plain records.

    Attributes:
        ledgers: per campaign what the recovery noted of its ledger (`path`, `digest`, `planned_at`, `verdict`, …).
        unknown_file: file with the messages of unknown outcome; empty if there are none.
    """

    incident: Incident
    timeline: tuple[TimelineEntry, ...]
    actions: tuple[Action, ...]
    approvals: tuple[Approval, ...]
    communications: tuple[Communication, ...]
    metrics: tuple[Metric, ...]
    action_items: tuple[ActionItem, ...]
    similar: tuple[Incident, ...]
    similar_items: tuple[ActionItem, ...]
    ledgers: Mapping[int, Mapping[str, Any]]
    restored_at: datetime | None
    unknown_file: str

    @property
    def severity(self) -> int | None:
        """The worst severity that was journaled (1 is worst); None if none was."""
        levels = [
            int(one.data["level"]) for one in self.timeline if one.kind == "severity" and "level" in one.data
        ]
        return min(levels, default=None)

    @property
    def told(self) -> list[Told]:
        """The messages that reached their channel, with what each promised."""
        return [
            Told(one.stakeholder, one.sent_at, one.promised_next_at)
            for one in self.communications
            if one.status == "sent" and one.sent_at is not None
        ]


@dataclass(frozen=True)
class Case:
    """One incident, ready to be measured.

    Attributes:
        esp: the plan's name of the source with the provider's data; `shop`: that with our orders.
        impact_started_at: as the sender's log shows it, else as the journal has it.
        impact_basis: what that time rests on, in words.
        last_attempt_at: the sender's last attempt before the silence.
        restored_at: when the provider was measured to work again.
        resolved_at: when the incident was resolved.
        settled_at: when late orders and events no longer change the figures.
        until: end of the net window: `settled_at`, or as far as the data reach.
        data_until: up to when the snapshots after recovery hold everything.
        after: snapshot after recovery, per source; `before`: last valid snapshot before the impact, if there is one.
    """

    loaded: LoadedPlan
    facts: JournalFacts
    evidence: Evidence
    tables: tuple[TableAbout, ...]
    esp: str
    shop: str
    impact_started_at: datetime
    impact_basis: str
    last_attempt_at: datetime
    restored_at: datetime
    resolved_at: datetime
    settled_at: datetime
    until: datetime
    data_until: datetime
    now: datetime
    simulated: bool
    after: Mapping[str, SnapshotInfo]
    before: Mapping[str, SnapshotInfo | None]

    @property
    def settled(self) -> bool:
        """Whether all data of the window are in."""
        return self.data_until >= self.settled_at

    @property
    def provider(self) -> ProviderPlan:
        """The provider's entry in the plan."""
        found: ProviderPlan = self.loaded.provider(self.facts.incident.provider)
        return found

    def consistency_at(self) -> dict[str, datetime | None]:
        """Return per source the consistency point of its last valid snapshot before the impact."""
        return {source: info.consistency_at if info else None for source, info in self.before.items()}


def read_facts(journal: Journal, incident_id: str) -> JournalFacts:
    """Read everything of one incident; an empty id takes the latest that is resolved or closed.

    Raises:
        UsageError: no incident is resolved yet.
    """
    if incident_id:
        incident = journal.incident(incident_id)
    else:
        over = [one for one in journal.incidents() if one.state in ("resolved", "closed")]
        if not over:
            raise UsageError("No incident is resolved yet", fix="run recover first, or name an incident")
        incident = over[-1]
    restored = (journal.get_state(f"recover/{incident.id}/restored") or {}).get("at")
    unknown = journal.get_state(f"recover/{incident.id}/unknown") or {}
    similar = tuple(
        one
        for one in journal.incidents()
        if one.id != incident.id
        and one.state not in ("canceled", "merged")
        and (one.provider == incident.provider or one.cause_class == incident.cause_class)
    )
    known = {one.id for one in similar}
    ledgers = (journal.get_state(f"ledger/{incident.id}") or {"campaigns": {}})["campaigns"]
    return JournalFacts(
        incident=incident,
        timeline=tuple(journal.timeline(incident.id)),
        actions=tuple(journal.actions(incident.id)),
        approvals=tuple(journal.approvals(incident.id)),
        communications=tuple(journal.communications(incident.id)),
        metrics=tuple(journal.metrics(incident.id)),
        action_items=tuple(journal.action_items(incident.id)),
        similar=similar,
        similar_items=tuple(one for one in journal.action_items() if one.incident_id in known),
        ledgers={int(key): value for key, value in ledgers.items()},
        restored_at=datetime.fromisoformat(restored).astimezone(UTC) if restored else None,
        unknown_file=str(unknown.get("path", "")) if unknown.get("people") else "",
    )


def open_case(
    loaded: LoadedPlan, journal: Journal, store: Store, clock: Clock, incident_id: str = ""
) -> Case:
    """Gather the case of an incident.

    Raises:
        UsageError: no incident is resolved yet.
        ReportError: what the measures need is missing; the message says what to do.
    """
    facts = read_facts(journal, incident_id)
    times = facts.incident.timestamps
    provider: ProviderPlan = loaded.provider(facts.incident.provider)
    if provider.source is None or provider.shop is None:
        raise ReportError(
            "The plan does not say where this provider's data and our orders are",
            where=f"providers.{facts.incident.provider}",
            fix="set source and shop",
        )
    resolved = times.get("resolved_at")
    restored = facts.restored_at or times.get("mitigated_at") or resolved
    if resolved is None or restored is None:
        raise ReportError(
            "The incident is not resolved: its cost still grows",
            where=facts.incident.id,
            fix="run recover until it is resolved, then review",
        )
    after = {name: _after(store, name, restored) for name in (provider.source, provider.shop)}
    detected = times.get("detected_at") or times.get("declared_at") or restored
    bound = min(detected, times.get("impact_started_at") or detected)
    before = {name: _before(store, name, bound) for name in after}
    evidence = _evidence(loaded, store, facts, provider, after, before, detected)
    measured = measured_impact_start(
        evidence.campaigns, evidence.attempts, detected_at=detected, restored_at=restored
    )
    started, basis = _impact_start(measured, times.get("impact_started_at"), detected)
    if any(info is not None and info.consistency_at > started for info in before.values()):
        before = {name: _before(store, name, started) for name in after}
        evidence = _evidence(loaded, store, facts, provider, after, before, started)
    earlier = [one for one in evidence.attempts["attempted_at"] if one <= detected]
    silence = max(earlier).to_pydatetime() if earlier else started
    data_until = min(info.consistency_at for info in after.values())
    settled_at = resolved + timedelta(hours=loaded.plan.report.settle_hours)
    return Case(
        loaded=loaded,
        facts=facts,
        evidence=evidence,
        tables=tuple(one for name, info in after.items() for one in _tables(store, name, info)),
        esp=provider.source,
        shop=provider.shop,
        impact_started_at=started,
        impact_basis=basis,
        last_attempt_at=max(started, silence),
        restored_at=restored,
        resolved_at=resolved,
        settled_at=settled_at,
        until=min(settled_at, data_until),
        data_until=data_until,
        now=clock.now(),
        simulated=clock.simulated,
        after=after,
        before=before,
    )


def open_snapshots(case: Case, store: Store) -> duckdb.DuckDBPyConnection:
    """Return a DuckDB connection with the case's snapshots as `after_<source>` and `before_<source>`."""
    return _connect(store, case.after, case.before)


def open_canonical(case: Case, store: Store) -> duckdb.DuckDBPyConnection:
    """Return a DuckDB connection with the canonical views of the snapshots after recovery."""
    connection = _connect(store, case.after, {})
    for source in case.after:
        mapping = case.loaded.plan.sources[source].mapping
        if mapping != "none":
            canonical_views(connection, f"after_{source}", mapping)
    return connection


def _impact_start(
    measured: datetime | None, journaled: datetime | None, detected: datetime
) -> tuple[datetime, str]:
    if measured is not None and (journaled is None or measured <= journaled):
        return measured, "the sender's own log: where it fell silent"
    if journaled is not None:
        return journaled, "the journal"
    return detected, "the detection: no earlier sign of the impact is known"


def _after(store: Store, source: str, restored: datetime) -> SnapshotInfo:
    fit = [one for one in store.list(source) if one.state == "valid" and one.consistency_at >= restored]
    if not fit:
        raise ReportError(
            f"There is no valid snapshot of {source} from after the recovery",
            fix="run backup and validate, then review again",
        )
    return max(fit, key=lambda one: one.sequence)


def _before(store: Store, source: str, moment: datetime) -> SnapshotInfo | None:
    fit = [one for one in store.list(source) if one.state == "valid" and one.consistency_at <= moment]
    return max(fit, key=lambda one: one.sequence, default=None)


def _connect(
    store: Store, after: Mapping[str, SnapshotInfo], before: Mapping[str, SnapshotInfo | None]
) -> duckdb.DuckDBPyConnection:
    wanted = {f"after_{name}": info.snapshot_id for name, info in after.items()}
    wanted |= {f"before_{name}": info.snapshot_id for name, info in before.items() if info}
    connection = connect(store, wanted)
    spill = Path(tempfile.gettempdir()) / f"mailstay-review-{os.getpid()}.spill"
    connection.execute(f"SET memory_limit = '{_MEMORY}'; SET temp_directory = '{spill}'; SET threads = 2")
    return connection


def _evidence(
    loaded: LoadedPlan,
    store: Store,
    facts: JournalFacts,
    provider: ProviderPlan,
    after: Mapping[str, SnapshotInfo],
    before: Mapping[str, SnapshotInfo | None],
    moment: datetime,
) -> Evidence:
    assert provider.source is not None and provider.shop is not None
    connection = _connect(store, after, before)
    try:
        for source in after:
            mapping = loaded.plan.sources[source].mapping
            if mapping == "none":
                raise ReportError(
                    f"Source {source} is not brought onto the canonical model",
                    fix=f"set sources.{source}.mapping",
                )
            canonical_views(connection, f"after_{source}", mapping)
        return read_evidence(
            connection,
            esp=provider.source,
            shop=provider.shop,
            since=moment - SHORT_SCOPE,
            currency=loaded.plan.report.currency,
            ledgers=_audiences(facts),
            planned_at={
                campaign: datetime.fromisoformat(entry["planned_at"])
                for campaign, entry in facts.ledgers.items()
                if entry.get("planned_at")
            },
        )
    finally:
        connection.close()


def _audiences(facts: JournalFacts) -> Any:
    """The audiences that the recovery froze, from ledger files whose digest the journal names."""
    import pandas as pd

    from tasks.catchup import read_frozen

    parts = [
        read_frozen(Path(entry["path"]), entry["digest"]).select(["campaign_id", "subscriber_id"]).to_pandas()
        for entry in facts.ledgers.values()
        if entry.get("path") and entry.get("digest")
    ]
    return pd.concat(parts) if parts else None


def _tables(store: Store, source: str, info: SnapshotInfo) -> list[TableAbout]:
    found = []
    for name, entry in store.manifest(info.snapshot_id).tables.items():
        facts = entry.facts
        parents = [
            (key.columns[0], key.references, key.referred_columns[0])
            for key in facts.foreign_keys
            if len(key.columns) == 1
        ]
        found.append(
            TableAbout(
                source,
                name,
                tuple(column.name for column in facts.columns),
                tuple(facts.primary_key),
                tuple(parents),
            )
        )
    return found
