"""A pure simulated world: the real shop as the organic part, generated sends on top, one outage, exact truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tasks.impact import respond_to_send

REPOSITORY = Path(__file__).resolve().parents[2]
RECOVERY_HOURS = 48


@dataclass(frozen=True)
class SimulatedWorld:
    """What an analyst would see, and the truth that only the simulation knows."""

    orders: pd.DataFrame
    sends: pd.DataFrame
    planned: pd.DataFrame
    catch_up: pd.DataFrame
    impact_started_at: datetime
    restored_at: datetime
    true_net_minor: int
    true_gross_minor: int
    true_deferred_minor: int
    email_share: float
    gross_hours: int
    net_hours: int


@dataclass(frozen=True)
class Shop:
    """Organic orders (one row per invoice) and when each customer was first seen."""

    orders: pd.DataFrame
    customers: np.ndarray
    joined: np.ndarray


@pytest.fixture(scope="session")
def retail() -> Shop:
    """Online Retail's sales invoices, returns and adjustments left out."""
    lines = pd.read_parquet(REPOSITORY / "data" / "online_retail.parquet")
    sales = lines[~lines["InvoiceNo"].astype(str).str.startswith(("C", "A"))]
    sales = sales.assign(value=(sales["Quantity"] * sales["UnitPrice"] * 100).round())
    orders = sales.groupby("InvoiceNo").agg(ordered_at=("InvoiceDate", "min"), total_minor=("value", "sum"))
    orders = orders[orders["total_minor"] > 0].sort_values("ordered_at").reset_index(drop=True)
    orders["ordered_at"] = pd.to_datetime(orders["ordered_at"]).astype("datetime64[us]").dt.tz_localize("UTC")
    orders["total_minor"] = orders["total_minor"].astype("int64")
    first = sales.dropna(subset=["CustomerID"]).groupby("CustomerID")["InvoiceDate"].min().sort_values()
    return Shop(orders, first.index.to_numpy(dtype=np.int64), first.to_numpy(dtype="datetime64[us]"))


@pytest.fixture(scope="session")
def simulate(retail: Shop) -> Callable[..., SimulatedWorld]:
    """A function of a seed that returns a world with a random outage (day, hour and length) and its truth."""

    def world(seed: int, *, first: str = "2011-04-01", quiet: bool = False) -> SimulatedWorld:
        random = np.random.default_rng(seed)
        calendar = _calendar(random)
        last = pd.Timestamp("2011-12-05")
        days = pd.date_range(first, last, freq="D")
        days = days[days.day_of_week != 5]
        length = pd.Timedelta(minutes=int(random.choice([90, 180, 300, 480, 720, 1440, 2160])))
        if random.random() < 0.7:  # most outages that anybody reviews hit a send
            busy = calendar[(calendar["planned_at"] >= days[0]) & (calendar["planned_at"] <= last)]
            hit = busy["planned_at"].iloc[int(random.integers(len(busy)))]
            start = hit + pd.Timedelta(minutes=30) - length * random.random()
        else:
            start = days[int(random.integers(len(days)))] + pd.Timedelta(hours=24 * random.random())
        start = start.floor("min")
        restored = start + length
        net_hours = int(np.ceil(length / pd.Timedelta(hours=1))) + RECOVERY_HOURS
        gross_hours = int(np.ceil(length / pd.Timedelta(hours=1)))

        undisturbed, actual, sends, planned, late = [], [], [], [], []
        for row in calendar.itertuples():
            if row.planned_at > start + pd.Timedelta(hours=net_hours):
                continue
            members = retail.customers[retail.joined < row.planned_at.to_datetime64()]
            if row.kind == "winback":
                members = members[random.random(len(members)) < 0.06]
            sent = row.planned_at.to_datetime64().astype("datetime64[us]") + (
                np.arange(len(members)) * np.timedelta64(600_000, "us")
            )
            order = random.permutation(len(members))
            members = members[order]
            undisturbed.append(_respond(seed, row, members, sent))
            held = (sent >= start.to_datetime64()) & (sent < restored.to_datetime64())
            if quiet:
                held = np.zeros(len(members), dtype=bool)
            actual.append(_respond(seed, row, members[~held], sent[~held]))
            before = sent < start.to_datetime64()
            sends += _batches(row, sent[before & ~held], "sent_at")
            planned += _batches(row, sent[~before], "planned_at")
            if held.any():
                begin = restored.to_datetime64().astype("datetime64[us]") + np.timedelta64(30, "m")
                again = begin + np.arange(held.sum()) * np.timedelta64(600_000, "us")
                useful = {"newsletter": 24 * 60, "launch": 5 * 60, "sale": 10 * 60, "winback": 72 * 60}[
                    row.kind
                ]
                in_time = again <= row.planned_at.to_datetime64() + np.timedelta64(useful, "m")
                caught = _respond(seed, row, members[held][in_time], again[in_time])
                actual.append(caught)
                late.append(caught)

        undisturbed, actual = pd.concat(undisturbed), pd.concat(actual)
        late = pd.concat(late) if late else actual.iloc[:0]
        end = start + pd.Timedelta(hours=net_hours)
        outage_end = start + pd.Timedelta(hours=gross_hours)
        return SimulatedWorld(
            orders=pd.concat([retail.orders.assign(campaign_id=np.nan), actual], ignore_index=True),
            sends=pd.DataFrame(sends),
            planned=pd.DataFrame(planned, columns=["planned_at", "kind", "campaign_id", "messages"]),
            catch_up=late,
            impact_started_at=start.tz_localize(UTC).to_pydatetime(),
            restored_at=restored.tz_localize(UTC).to_pydatetime(),
            true_net_minor=_between(undisturbed, start, end) - _between(actual, start, end),
            true_gross_minor=_between(undisturbed, start, outage_end) - _between(actual, start, outage_end),
            true_deferred_minor=_between(late, start, end),
            email_share=float(undisturbed["total_minor"].sum())
            / float(
                undisturbed["total_minor"].sum()
                + retail.orders.loc[retail.orders["ordered_at"] < end.tz_localize(UTC), "total_minor"].sum()
            ),
            gross_hours=gross_hours,
            net_hours=net_hours,
        )

    return world


def _calendar(random: np.random.Generator) -> pd.DataFrame:
    """A newsletter every Wednesday, a launch a month, eight sales a year, a win-back batch every Monday."""
    rows = [
        (day + pd.Timedelta(hours=8), "newsletter")
        for day in pd.date_range("2010-12-08", "2011-12-08", freq="W-WED")
    ]
    rows += [
        (day + pd.Timedelta(hours=9), "winback")
        for day in pd.date_range("2010-12-06", "2011-12-08", freq="W-MON")
    ]
    for month in pd.date_range("2010-12-01", "2011-12-01", freq="MS"):
        rows.append((month + pd.Timedelta(days=int(random.integers(7)) + 1, hours=10), "launch"))
    for month in pd.date_range("2011-02-01", "2011-11-01", freq="MS")[[0, 1, 3, 4, 5, 7, 8, 9]]:
        rows.append((month + pd.Timedelta(days=int(random.integers(14, 24)), hours=9), "sale"))
    frame = pd.DataFrame(rows, columns=["planned_at", "kind"])
    frame = frame[frame["planned_at"].dt.day_of_week != 5].sort_values("planned_at").reset_index(drop=True)
    frame["campaign_id"] = np.arange(1, len(frame) + 1)
    return frame


def _respond(seed: int, row, members: np.ndarray, sent: np.ndarray) -> pd.DataFrame:
    planned = np.minimum(
        sent,
        row.planned_at.to_datetime64().astype("datetime64[us]")
        + np.arange(len(sent)) * np.timedelta64(600_000, "us"),
    )
    answer = respond_to_send(seed, row.campaign_id, row.kind, members, sent, planned).to_pandas()
    return answer.rename(columns={"value_minor": "total_minor"}).assign(campaign_id=row.campaign_id)


def _batches(row, sent: np.ndarray, column: str) -> list[dict[str, object]]:
    hours, counts = np.unique(sent.astype("datetime64[h]"), return_counts=True)
    return [
        {
            column: pd.Timestamp(hour, tz="UTC"),
            "kind": row.kind,
            "campaign_id": row.campaign_id,
            "messages": int(count),
        }
        for hour, count in zip(hours, counts, strict=True)
    ]


def _between(orders: pd.DataFrame, start: pd.Timestamp, end: pd.Timestamp) -> int:
    at = orders["ordered_at"]
    inside = (at >= start.tz_localize(UTC)) & (at < end.tz_localize(UTC))
    return int(orders.loc[inside, "total_minor"].sum())
