"""A demo's stage: the world it plays in, the lines it tells, and what came out beside what is true."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.drills.errors import DrillError

STORY = logging.getLogger("mailstay.story")
"""What a demo tells its reader, one short line at a time."""

_MARK = ".mailstay-demo"


def tell(line: str) -> None:
    """Tell the reader one line of the story."""
    STORY.info(line)


def prepare_folder(folder: Path) -> None:
    """Make `folder` ready for a new demo: empty, and marked so that the next demo may clear it.

    Raises:
        DrillError: the folder holds something that no demo wrote.
    """
    if folder.exists() and any(folder.iterdir()):
        if not (folder / _MARK).is_file():
            raise DrillError(
                "The folder is not empty and no demo made it: it is left alone",
                where=str(folder),
                fix="give --folder a new or empty one",
            )
        for one in folder.iterdir():
            shutil.rmtree(one) if one.is_dir() else one.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARK).write_text("A demo of Mailstay may clear this folder.\n")


@dataclass(frozen=True)
class DemoResult:
    """What `mailstay demo --json` prints.

    Attributes:
        snapshots: per snapshot its id, tables, rows, whether every byte was verified, whether it is valid.
        incident: id, state, timestamps (simulated time) and metrics in seconds.
        messages: due, delayed, dropped, duplicated, after_latest_useful, to_opted_out, with the report's own count of
            the first three and what the mailbox holds for the others; `truth` holds the world's figures.
        loss: estimate, low and high (95 %) of the net loss and the truth, in major units of `currency`.
        data_loss: rows lost and rows at risk, each beside its truth.
        report: path of the HTML report.
        seconds: how long the demo took.
    """

    snapshots: Sequence[dict[str, Any]]
    incident: dict[str, Any]
    messages: dict[str, Any]
    loss: dict[str, Any]
    data_loss: dict[str, Any]
    report: str
    seconds: float
