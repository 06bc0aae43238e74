"""When the detector speaks of real outages, against the vendor's first post, and how often it speaks in vain.

    python bench/detection.py                      # the tables of docs/detection.md
    python bench/detection.py --outages FILE       # other chronologies, in the form of data/outages/replay.yaml

Nothing is timed: the replay runs on the times of the chronologies and repeats exactly. Each outage is watched 20 times,
with passes that lie differently to it and other questions that fail; the table shows the median and the worst.
"""

from __future__ import annotations

import argparse
import gzip
import statistics
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tasks.outages import (
    QUESTION_FAILS,
    Chronology,
    Replay,
    parse_incidents,
    read_chronologies,
    replay_outage,
    replay_quiet,
)
from tasks.plan import DetectionPlan

DATA = Path(__file__).resolve().parent.parent / "data" / "outages"
SEEDS = 20
QUIET = (datetime(2021, 1, 1, tzinfo=UTC), datetime(2023, 10, 1, tzinfo=UTC))


def minutes(span: timedelta) -> int:
    """Return a time in whole minutes."""
    return round(span.total_seconds() / 60)


def middle_and_worst(times: Sequence[datetime | None], since: datetime) -> str:
    """Return `median (worst)` in minutes, and how many of the replays have no such time."""
    known = [minutes(one - since) for one in times if one is not None]
    if not known:
        return "missed"
    missed = len(times) - len(known)
    return f"{statistics.median(known):.0f} ({max(known)})" + (f", missed in {missed}" if missed else "")


def row(outage: Chronology, found: Sequence[Replay]) -> str:
    """Return the line of one outage."""
    confirmed = [one.confirmed_at for one in found]
    known = [one for one in confirmed if one is not None]
    post, lead, page = "not found", "", ""
    if outage.first_post:
        page = str(minutes(outage.first_post - outage.began))
        lead = f"{statistics.median(minutes(outage.first_post - one) for one in known):.0f}" if known else "–"
        post = page
    by = "/".join(sorted({kind for one in found for kind in one.by}))
    cells = [
        f"[{outage.id}]({outage.source})",
        str(minutes(outage.restored - outage.began)),
        post,
        middle_and_worst([one.suspected_at for one in found], outage.began),
        middle_and_worst(confirmed, outage.began),
        lead or "–",
        by or "–",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--outages", type=Path, default=DATA / "replay.yaml")
    parser.add_argument("--without-quiet", action="store_true", help="leave the quiet years out")
    chosen = parser.parse_args()
    rules = DetectionPlan()
    outages = read_chronologies(chosen.outages)
    print("| outage | lasted | first post | suspected | confirmed | lead | seen by |")
    print("|---|---|---|---|---|---|---|")
    every = []
    for outage in outages:
        found = [replay_outage(outage, rules, seed=seed) for seed in range(SEEDS)]
        every += [(outage, one) for one in found]
        print(row(outage, found))
    missed = sum(one.confirmed_at is None for _, one in every)
    leads = [
        minutes(outage.first_post - one.confirmed_at)
        for outage, one in every
        if outage.first_post and one.confirmed_at
    ]
    print(f"\nMissed: {missed} of {len(every)} replays. Median lead over the first post: ", end="")
    print(
        f"{statistics.median(leads):.0f} minutes ({sum(one > 0 for one in leads)} of {len(leads)} before it)."
    )
    if chosen.without_quiet:
        return
    incidents = parse_incidents(
        gzip.decompress((DATA / "github.json.gz").read_bytes()), "application/json", name="GitHub"
    )
    print("\n| quiet | months | page red, hours a month | suspicions a month | confirmed a month |")
    print("|---|---|---|---|---|")
    for what, fails, measured in (
        (f"{QUESTION_FAILS:.2%} of questions fail", QUESTION_FAILS, True),
        (f"{10 * QUESTION_FAILS:.2%} of questions fail", 10 * QUESTION_FAILS, True),
        ("no measurements of our own", 0.0, False),
    ):
        quiet = replay_quiet(incidents, *QUIET, rules, question_fails=fails, measured=measured)
        red = quiet.page_red * 5 / 60 / quiet.months
        cells = [
            what,
            f"{quiet.months:.0f}",
            f"{red:.1f}",
            f"{quiet.suspected / quiet.months:.2f}",
            f"{quiet.confirmed / quiet.months:.2f}",
        ]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
