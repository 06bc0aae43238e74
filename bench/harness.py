"""Runs benchmark cases in alternation, each in a fresh process, and reports what each one cost.

A case is a command. Its CPU seconds (user and system, children included), wall seconds and peak memory come from the
kernel (`wait4`); where a database server works for it, the server's CPU seconds meanwhile are added. What importing its
libraries costs can be measured by itself and taken off. Ratios are taken from paired runs: run k of one case over run k
of the other, then the median.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType


@dataclass
class Result:
    """What the runs of one case cost, in the order they were made."""

    case: str
    cpu_s: list[float] = field(default_factory=list)
    server_cpu_s: list[float] = field(default_factory=list)
    import_cpu_s: float = 0.0
    bytes: list[int] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)
    peak_rss_mib: list[float] = field(default_factory=list)

    @property
    def total_cpu_s(self) -> list[float]:
        """CPU seconds of client and server, without the imports."""
        server = self.server_cpu_s or [0.0] * len(self.cpu_s)
        return [own + theirs - self.import_cpu_s for own, theirs in zip(self.cpu_s, server, strict=True)]


@dataclass(frozen=True)
class Watch:
    """What else is looked at around a run.

    Args:
        server_cpu: the CPU seconds that the server has used so far.
        written: the bytes that the run has left.
        own_cpu: the CPU seconds that the run says its work took, without imports and the end of the interpreter.
    """

    server_cpu: Callable[[], float] | None = None
    written: Callable[[], int] | None = None
    own_cpu: Callable[[], float] | None = None


class MeasurementError(Exception):
    """A case could not be run."""


def run_once(result: Result, command: list[str], watch: Watch) -> None:
    """Run `command` and add what it cost to `result`."""
    before = watch.server_cpu() if watch.server_cpu else 0.0
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    stderr = process.stderr.read() if process.stderr else b""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise MeasurementError(
            f"{result.case}: exit {process.returncode}: {(stderr.decode()[:300] + ' … ' + stderr.decode()[-800:])}"
        )
    result.wall_s.append(round(time.perf_counter() - began, 3))
    cpu = watch.own_cpu() if watch.own_cpu else usage.ru_utime + usage.ru_stime
    result.cpu_s.append(round(cpu, 3))
    result.peak_rss_mib.append(round(usage.ru_maxrss / 1024, 1))
    if watch.server_cpu:
        time.sleep(0.3)  # the backend ends after its client
        result.server_cpu_s.append(round(watch.server_cpu() - before, 3))
    if watch.written:
        result.bytes.append(watch.written())


def postgres_cpu(data: Path) -> float:
    """Return the CPU seconds of the PostgreSQL server of the folder `data`: its processes, and those that ended."""
    server = int((data / "postmaster.pid").read_text().split()[0])
    ticks = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(folder.name) == server:
                ticks += sum(map(int, fields[11:15]))
            elif int(fields[1]) == server:
                ticks += sum(map(int, fields[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def bench(
    name: str,
    rows: int,
    cases: dict[str, list[str]],
    runs: int,
    *,
    ours: str,
    watch: Watch = Watch(),
    imports: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, object]:
    """Run all `cases` alternated `runs` times and return the object that `--json` prints.

    `ratios` hold, per peer, how many times the CPU, wall time and memory of `ours` it took. `imports` names, per case,
    the import statements whose cost is taken off.
    """
    results = {case: Result(case) for case in cases}
    alone = {statement: Result(statement) for statement in imports.values()}
    for statement, result in alone.items():
        for _ in range(runs):
            run_once(result, [sys.executable, "-c", statement], Watch())
    for case, statement in imports.items():
        results[case].import_cpu_s = statistics.median(alone[statement].cpu_s)
    for number in range(runs):
        for case, command in cases.items():
            print(f"  run {number + 1} of {runs}: {case}", file=sys.stderr)
            run_once(results[case], command, watch)
    own = results[ours]
    ratios = {
        f"{case} / {ours}: {what}": round(
            statistics.median(
                theirs / max(mine, 0.001)
                for theirs, mine in zip(getattr(result, what), getattr(own, what), strict=True)
            ),
            2,
        )
        for case, result in results.items()
        if case != ours
        for what in ("total_cpu_s", "wall_s", "peak_rss_mib", "bytes")
        if getattr(result, what) and getattr(own, what)
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
            + (f" + {statistics.median(one['server_cpu_s']):6.2f} s" if one["server_cpu_s"] else "")
            + (f" - {one['import_cpu_s']:4.2f} s" if one["import_cpu_s"] else "")
            + f"   wall {statistics.median(one['wall_s']):7.2f} s   peak {max(one['peak_rss_mib']):7.0f} MiB"
            + (f"   {statistics.median(one['bytes']) / 1e6:8.1f} MB" if one["bytes"] else "")
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
