"""Recompute the headline of a report from its Parquet tables alone, with pandas and nothing of Mailstay.

    python docs/recompute.py reports/INC-0001/v02

Prints every figure as recomputed and as the report shows it; ends with 1 if one differs. How each is made is written in
`reports/dataset/README.md`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

STATISTICS = ("net", "during", "unaided")


def reach(score: pd.Series, weight: pd.Series, probability: float) -> float:
    """Return the score that placebo windows of this weight stay below, extrapolated where too few were found."""
    score = score.sort_values(kind="stable")
    heavy = score[weight[score.index].cumsum() >= probability * (weight.sum() + 1) - 1e-9]
    if len(heavy):
        return float(heavy.iloc[0])
    return float(score.iloc[-1] + 0.25 * (score.iloc[-1] - score.iloc[0]))


def loss_of(row: pd.Series, placebos: pd.DataFrame) -> int:
    """Return the loss, in minor units: the forecast is corrected by the mean error of the placebo windows."""
    score, weight = placebos["score"], placebos["weight"]
    mean = (score * weight).sum() / weight.sum() if row["forecast_minor"] > 0 else 0.0
    return round(max(row["forecast_minor"] + mean * row["scale_minor"], 0)) - int(row["observed_minor"])


def interval(row: pd.Series, placebos: pd.DataFrame) -> tuple[int, ...]:
    """Return the 95 % interval of a loss, in minor units."""
    score, weight = placebos["score"], placebos["weight"]
    both = reach(score.abs(), weight, 0.95)
    low = (-reach(-score, weight, 0.975) - both) / 2
    high = (reach(score, weight, 0.975) + both) / 2
    scale = row["scale_minor"] * (1.5 if row["near_holiday"] else 1.0)
    forecast, observed = row["forecast_minor"], row["observed_minor"]
    return tuple(round(max(forecast + one * scale, 0) - observed) for one in (low, high))


def figures(tables: Path) -> Iterator[tuple[str, object, object]]:
    """Yield each figure: its name, recomputed, and as the report shows it."""
    table = {one.stem: pd.read_parquet(one) for one in tables.glob("*.parquet")}
    report, fates, loss = table["report"].iloc[0], table["message_fates"], table["loss"]
    count = fates["fate"].value_counts()
    for fate in ("delayed", "on_time", "suppressed", "unknown"):
        yield f"messages {fate.replace('_', ' ')}", int(count.get(fate, 0)), int(report[fate])
    yield "messages dropped", int(count.get("dropped", 0) + count.get("bounced", 0)), int(report["dropped"])
    due = count.drop(["unknown", "not_due"], errors="ignore").sum()
    yield "messages due", int(due), int(report["due"])
    for flag in ("duplicated", "after_latest_useful", "to_opted_out"):
        yield f"messages {flag.replace('_', ' ')}", int(fates[flag].sum()), int(report[flag])
    deferred = int(table["deferred_orders"]["total_minor"].sum())
    yield "deferred, minor units", deferred, int(loss[loss["statistic"] == "deferred"].iloc[0]["loss_minor"])
    at_95 = loss[loss["level"] == 0.95].set_index("statistic")
    for statistic in STATISTICS:
        if statistic not in at_95.index:
            continue
        row = at_95.loc[statistic]
        placebos = table["placebos"][table["placebos"]["statistic"] == statistic]
        shown = (int(row["low_minor"]), int(row["high_minor"]))
        yield f"{statistic} loss, 95 %, minor units", interval(row, placebos), shown
        yield f"{statistic} loss, minor units", loss_of(row, placebos), int(row["loss_minor"])
    for one in table["reputation"].dropna(subset=["after"]).to_dict("records"):
        yield f"{one['rate']} rate", round(one["count"] / one["messages"], 9), round(one["after"], 9)


def main() -> int:
    """Print the figures of the report in the folder that is named."""
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "tables").is_dir():
        print("name the folder of a report, such as reports/INC-0001/v01", file=sys.stderr)
        return 2
    differ = 0
    for name, found, shown in figures(Path(sys.argv[1]) / "tables"):
        differ += found != shown
        print(f"{name:<32} {found!s:>24} {shown!s:>24} {'' if found == shown else '  DIFFERS'}".rstrip())
    return min(differ, 1)


if __name__ == "__main__":
    sys.exit(main())
