"""Runs benchmark cases in alternation, each in a fresh process, and reports what each one cost.

A case is a command. Its CPU seconds (user and system, children included), wall seconds and peak memory come from the
kernel (`wait4`). Ratios are taken from paired runs: run k of one case over run k of the other, then the median.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Result:
    """What the runs of one case cost, in the order they were made."""

    case: str
    cpu_s: list[float] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)
    peak_rss_mib: list[float] = field(default_factory=list)


class MeasurementError(Exception):
    """A case could not be run."""


def run_once(result: Result, command: list[str]) -> None:
    """Run `command` and add what it cost to `result`."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    stderr = process.stderr.read() if process.stderr else b""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise MeasurementError(f"{result.case}: exit {process.returncode}: {stderr.decode()[-800:]}")
    result.wall_s.append(round(time.perf_counter() - began, 3))
    result.cpu_s.append(round(usage.ru_utime + usage.ru_stime, 3))
    result.peak_rss_mib.append(round(usage.ru_maxrss / 1024, 1))


def bench(name: str, rows: int, cases: dict[str, list[str]], runs: int, *, ours: str) -> dict[str, object]:
    """Run all `cases` alternated `runs` times and return the object that `--json` prints.

    `ratios` hold, per peer, how many times the CPU, wall time and memory of `ours` it took.
    """
    results = {case: Result(case) for case in cases}
    for number in range(runs):
        for case, command in cases.items():
            print(f"  run {number + 1} of {runs}: {case}", file=sys.stderr)
            run_once(results[case], command)
    own = results[ours]
    ratios = {
        f"{case} / {ours}: {what}": round(
            statistics.median(
                theirs / mine for theirs, mine in zip(getattr(result, what), getattr(own, what), strict=True)
            ),
            2,
        )
        for case, result in results.items()
        if case != ours
        for what in ("cpu_s", "wall_s", "peak_rss_mib")
    }
    return {
        "bench": name,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "rows": rows,
        "runs": runs,
        "results": [vars(result) for result in results.values()],
        "ratios": ratios,
    }


def report(measured: dict[str, object], *, as_json: bool) -> None:
    """Print what was measured, as one JSON object or as lines."""
    if as_json:
        print(json.dumps(measured, indent=2))
        return
    print(f"{measured['bench']}: {measured['rows']:,} rows, {measured['runs']} runs, {measured['machine']}")
    for one in measured["results"]:  # type: ignore[attr-defined]
        print(
            f"  {one['case']:<28} CPU {statistics.median(one['cpu_s']):7.2f} s"
            f"   wall {statistics.median(one['wall_s']):7.2f} s   peak {max(one['peak_rss_mib']):7.0f} MiB"
        )
    for name, ratio in measured["ratios"].items():  # type: ignore[attr-defined]
        print(f"  {name:<48} {ratio:>6}")


def arguments(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="where the test data is kept between runs")
    return parser
