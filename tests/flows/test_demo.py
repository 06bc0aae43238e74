"""The whole story through the command line: its figures equal the known truth, on SQLite and on PostgreSQL."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

MAIN = "from flows.cli import main; main()"


def run_demo(folder: Path, *options: str) -> dict:
    run = subprocess.run(
        [sys.executable, "-c", MAIN, "demo", "--json", "--scale", "small", "--folder", str(folder), *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout)


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def test_the_demo_ends_with_figures_that_equal_the_truth(tmp_path, request, database):
    options = []
    if database == "postgresql":
        new_database = request.getfixturevalue("new_database")
        options = ["--shop-url", new_database(), "--journal-url", new_database()]
    found = run_demo(tmp_path / "demo", *options)

    messages, truth = found["messages"], found["messages"]["truth"]
    assert {name: messages[name] for name in truth} == truth
    assert truth["due"] > truth["delayed"] > 100
    assert (messages["duplicated"], messages["after_latest_useful"], messages["to_opted_out"]) == (0, 0, 0)
    assert found["data_loss"]["at_risk"] == found["data_loss"]["at_risk_truth"] > 0
    assert found["data_loss"]["rows"] == found["data_loss"]["truth"] > 0
    assert found["incident"]["state"] == "resolved"
    assert [one["verified"] and one["valid"] for one in found["snapshots"]] == [True] * 4
    assert found["loss"]["low"] < found["loss"]["estimate"] < found["loss"]["high"]
    assert found["loss"]["currency"] == "GBP"
    assert Path(found["report"]).stat().st_size > 20_000
    assert found["seconds"] > 0


def test_a_folder_that_no_demo_made_is_left_alone(tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    run = subprocess.run(
        [sys.executable, "-c", MAIN, "demo", "--folder", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert "no demo made it" in run.stderr
    assert "Traceback" not in run.stderr
    assert (tmp_path / "precious.txt").read_text() == "mine"
