"""What reviewing an outage costs where the history is large: CPU seconds and memory, step by step.

    python bench/review.py --messages 10000000 --json

Half a year of a shop with as many orders as a tenth of the messages, in two DuckDB files; the snapshots are taken and
the outage is journaled before anything is measured. The case runs the steps of the flow `review` in its order without a
Prefect server: journal, snapshots, counts, estimate with its second opinion, data loss, charts, HTML, tables. What the
library imports cost is in it. There is no peer: nobody else makes this report.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.reports import scripted

DAYS = 196
STARTED = datetime(2011, 10, 12, 8, 50)


def script_of(messages: int) -> scripted.Script:
    people = messages // (DAYS + DAYS // 7)
    daily = tuple(
        ("newsletter", STARTED.replace(hour=9, minute=0) - timedelta(days=day)) for day in range(DAYS)
    )
    return scripted.Script(
        STARTED,
        STARTED + timedelta(hours=5),
        daily,
        subscribers=people,
        weeks=DAYS // 7,
        per_hour=messages / 10 * 0.72 / (DAYS * 14),
        messages_per_minute=max(people // 30, 1),
    )


def measured(folder: str) -> None:
    """Run the review and print what it cost."""
    from tasks.reports import steps

    costs: dict[str, dict[str, float]] = {}
    began = time.process_time()

    def timed(name: str, step: object) -> object:
        class Timed:
            @staticmethod
            def fn(*arguments: object) -> object:
                start = time.process_time()
                found = step.fn(*arguments)  # type: ignore[attr-defined]
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                costs[name] = {"cpu_s": round(time.process_time() - start, 2), "peak_rss_mib": round(peak, 1)}
                return found

        return Timed

    for name in (
        "gather_case", "count_messages", "estimate_loss", "check_sender_reputation", "check_mailbox_providers",
        "count_data", "hold_objectives",
        "hold_plan_against_journal", "leave_action_items", "write_review", "tell_stakeholders",
    ):  # fmt: skip
        setattr(steps, name, timed(name, getattr(steps, name)))
    shop = scripted.reopened(Path(folder))
    *_, content, _ = scripted.review(shop)
    print(
        json.dumps(
            {
                "cpu_s": round(time.process_time() - began, 2),
                "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
                "due": content.messages.due,
                "net_minor": content.loss.net.loss_minor if content.loss else None,
                "steps": costs,
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="keep the history here, and use it again if it is there")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measured(options.measure)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "incident").exists():
            shop = scripted.build(folder, script_of(options.messages))
            scripted.play(shop)
            scripted.settle(shop)
            counts = {"orders": shop.orders.num_rows, "messages": shop.messages.num_rows}
            (folder / "incident").write_text(json.dumps({"incident": shop.incident, **counts}))
        about = json.loads((folder / "incident").read_text())
        done = subprocess.run(
            [sys.executable, __file__, "--measure", str(folder)], capture_output=True, text=True, check=False
        )
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    found = {"python": platform.python_version(), **about, **json.loads(done.stdout.splitlines()[-1])}
    if options.json:
        print(json.dumps(found, indent=2))
        return
    print(
        f"{found['orders']:,} orders, {found['messages']:,} messages: {found['cpu_s']} CPU s, "
        f"{found['peak_rss_mib']} MiB"
    )
    for name, cost in found["steps"].items():
        print(f"  {name:28}{cost['cpu_s']:8.2f} s{cost['peak_rss_mib']:10.1f} MiB so far")


if __name__ == "__main__":
    main()
