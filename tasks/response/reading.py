"""What is due or in flight: from the provider, or from the last good snapshot while it does not answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from tasks.outages import CampaignCount, with_audiences
from tasks.plan import LoadedPlan
from tasks.providers import Campaign, Provider, ProvidersError
from tasks.response.table import Sending
from tasks.snapshots import SnapshotError, Store, canonical_views, connect

_CAMPAIGNS = """
SELECT campaign_id, name, kind, status, send_at, latest_useful_at, audience, started_at
FROM canonical.campaigns WHERE status IN ('scheduled', 'running') ORDER BY campaign_id
"""
_VALUE = """
WITH brought AS (
    SELECT campaign_id, sum(total_minor) AS minor FROM canonical.orders
    WHERE campaign_id IS NOT NULL GROUP BY campaign_id
), sent AS (
    SELECT campaign_id, count(*) AS people FROM canonical.messages
    WHERE outcome = 'accepted' GROUP BY campaign_id
)
SELECT kind, sum(coalesce(minor, 0)) / sum(people)
FROM canonical.campaigns JOIN sent USING (campaign_id) LEFT JOIN brought USING (campaign_id)
GROUP BY kind
"""


@dataclass(frozen=True)
class Calendar:
    """The campaigns, and where that was read.

    Attributes:
        from_provider: False where the provider did not answer and the last good snapshot was read instead.
        read_from: in words, for the plan.
    """

    sendings: tuple[Sending, ...]
    from_provider: bool
    read_from: str


def read_calendar(loaded: LoadedPlan, provider_name: str, provider: Provider) -> Calendar:
    """Return what is due or in flight, with the attributed value of the people not reached yet.

    A store that cannot be read leaves the value out, and the calendar empty where the provider does not answer either.

    Args:
        loaded: the plan.
        provider_name: whose campaigns.
        provider: asked first.
    """
    settings = loaded.provider(provider_name)
    source, shop = settings.source, settings.shop
    value = _value_per_message(loaded, source, shop)
    try:
        campaigns = provider.campaigns()
    except ProvidersError as error:
        sendings, read_from = _from_snapshot(loaded, source)
        return Calendar(_valued(sendings, value), False, f"{read_from}, because {error.what}")
    return Calendar(_valued(_from_provider(campaigns), value), True, "the provider's API")


def _from_provider(campaigns: list[Campaign]) -> list[Sending]:
    counted = with_audiences([_count(one) for one in campaigns])
    people = {one.campaign_id: one.to_send - one.sent for one in counted}
    return [
        Sending(
            id=one.id,
            name=one.name,
            kind=one.kind,
            status=one.status,
            send_at=one.send_at,
            started_at=one.started_at,
            latest_useful_at=one.latest_useful_at,
            audience=max(people[one.id], 0),
            of=one.of,
        )
        for one in campaigns
        if one.status in ("scheduled", "running")
    ]


def _count(one: Campaign) -> CampaignCount:
    return CampaignCount(
        campaign_id=one.id,
        name=one.name,
        kind=one.kind,
        status=one.status,
        to_send=one.to_send,
        sent=one.sent,
        send_at=one.send_at,
        started_at=one.started_at,
        latest_useful_at=one.latest_useful_at,
        list_ids=one.list_ids,
    )


def _open(loaded: LoadedPlan) -> Store:
    return Store.open(loaded.store_url(), public_key=loaded.plan.store.public_key)


def _from_snapshot(loaded: LoadedPlan, source: str | None) -> tuple[list[Sending], str]:
    if source is None:
        return [], "nowhere: the plan names no source for the provider"
    try:
        store = _open(loaded)
        latest = store.latest(source, state="valid")
        if latest is None:
            return [], "nowhere: there is no good snapshot of the provider"
        rows = _ask(loaded, store, {source: latest.snapshot_id}, _CAMPAIGNS)
    except SnapshotError as error:
        return [], f"nowhere: {error}"
    sendings = [
        Sending(
            id=number,
            name=name,
            kind=kind,
            status=status,
            send_at=_aware(send_at),
            started_at=_aware(started_at),
            latest_useful_at=_aware(useful),
            audience=audience or 0,
        )
        for number, name, kind, status, send_at, useful, audience, started_at in rows
    ]
    return sendings, f"the snapshot {latest.snapshot_id} of {latest.consistency_at:%Y-%m-%d %H:%M} UTC"


def _value_per_message(loaded: LoadedPlan, source: str | None, shop: str | None) -> Mapping[str, float]:
    if source is None or shop is None:
        return {}
    try:
        store = _open(loaded)
        found = {name: store.latest(name, state="valid") for name in (source, shop)}
        if any(one is None for one in found.values()):
            return {}
        snapshots = {name: one.snapshot_id for name, one in found.items() if one is not None}
        return {str(kind): float(value) for kind, value in _ask(loaded, store, snapshots, _VALUE)}
    except SnapshotError:
        return {}  # the value only helps to choose; why the store cannot be read stands in the journal


def _ask(loaded: LoadedPlan, store: Store, snapshots: Mapping[str, str], query: str) -> list[tuple[Any, ...]]:
    connection = connect(store, dict(snapshots))
    try:
        for name in snapshots:
            mapping = loaded.plan.sources[name].mapping
            if mapping != "none":
                canonical_views(connection, name, mapping)
        return list(connection.execute(query).fetchall())
    finally:
        connection.close()


def _valued(sendings: list[Sending], value: Mapping[str, float]) -> tuple[Sending, ...]:
    return tuple(replace(one, value_minor=round(one.audience * value.get(one.kind, 0.0))) for one in sendings)


def _aware(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment
