"""docs/reading-a-backup.md: its own commands, run on a real snapshot where Mailstay cannot be imported."""

from __future__ import annotations

import importlib.util
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import sysconfig
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest

from tasks.core import DrivenClock
from tasks.snapshots import Store, take_snapshot
from tasks.sources import open_source

PAGE = Path(__file__).parents[2] / "docs" / "reading-a-backup.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)

# -S leaves the .pth files alone, through which an editable Mailstay would be importable.
ALONE = f"""
import importlib.util, sys
sys.path.append({sysconfig.get_path("purelib")!r})
assert not any(importlib.util.find_spec(name) for name in ("tasks", "flows", "mailstay"))
"""
IN_DUCKDB = """
import duckdb
print(duckdb.connect().execute(sys.argv[1]).fetchall())
"""


def block(*needles: str) -> tuple[str, str]:
    """Return the language and text of the only block of the page that holds all `needles`."""
    [found] = [(kind, text) for kind, text in BLOCKS if all(needle in text for needle in needles)]
    return found


def run(kind: str, text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    python = [sys.executable, "-I", "-S", "-c"]
    command = {
        "sh": ["bash", "-eu", "-o", "pipefail", "-c", text],
        "python": [*python, ALONE + text],
        "sql": [*python, ALONE + IN_DUCKDB, text],
    }[kind]
    if kind == "sh" and "jq" in text and not shutil.which("jq"):
        pytest.skip("jq is not installed here: apt-get install jq")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode < 0:  # on a busy machine pyarrow's threads can abort a process that has done its work
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done


@pytest.fixture
def totals() -> dict[str, Decimal]:
    return {}


@pytest.fixture
def folder(store: Store, tmp_path: Path, clock: DrivenClock, totals: dict[str, Decimal]) -> Path:
    """The folder of a store with a valid snapshot of a shop, its orders in several objects; it is all that is left."""
    dice = random.Random(7)
    orders = [
        (n, dice.choice(["web", "email"]), f"{dice.randrange(10**7) / 100:.2f}", None if n % 7 else n)
        for n in range(3000)
    ]
    for _, channel, total, _ in orders:
        totals[channel] = totals.get(channel, Decimal(0)) + Decimal(total)
    with closing(sqlite3.connect(tmp_path / "shop.db")) as shop:
        shop.execute(
            "CREATE TABLE orders (id INTEGER PRIMARY KEY, channel TEXT, total NUMERIC(12, 2), campaign INTEGER)"
        )
        shop.executemany("INSERT INTO orders VALUES (?, ?, ?, ?)", orders)
        shop.execute("CREATE TABLE lists (id INTEGER PRIMARY KEY, name TEXT, made TIMESTAMP)")
        shop.execute("INSERT INTO lists VALUES (1, 'all', '2011-11-16 07:00:00')")
        shop.commit()
    source = open_source("shop", f"sqlite:///{tmp_path / 'shop.db'}")
    taken = take_snapshot(source, store, clock=clock, plan_digest="", object_bytes=8192, batch_rows=200)
    assert len(taken.tables["orders"].objects) > 2
    store.mark(taken.snapshot_id, "valid", findings=[], at=clock.now(), by="test")
    (tmp_path / "shop.db").unlink()
    assert store.storage.root is not None
    return store.storage.root


@pytest.mark.parametrize("number", range(len(BLOCKS)), ids=lambda number: f"{number}-{BLOCKS[number][0]}")
def test_every_block_of_the_page_runs(number: int, folder: Path) -> None:
    kind, text = BLOCKS[number]
    if "polars" in text and importlib.util.find_spec("polars") is None:
        pytest.skip("polars is not installed here")
    done = run(kind, text, folder)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("tool", ["pandas", "read_parquet(getvariable", "polars"])
def test_each_reader_gives_the_sums_of_the_source_to_the_penny(
    tool: str, folder: Path, totals: dict[str, Decimal]
) -> None:
    if tool == "polars":
        pytest.importorskip("polars")
    said = run(*block(tool, "total"), folder).stdout
    assert sorted(map(Decimal, re.findall(r"\d+\.\d\d\b", said.replace(",", "")))) == sorted(totals.values())


def test_the_commands_say_what_is_there_and_that_it_is_whole(folder: Path) -> None:
    said = run(*block("every byte is there"), folder).stdout.splitlines()
    assert said == [
        "00000001.json",
        "shop/00000001",
        "2011-11-16T07:00:00+00:00",
        "lists: 1 rows",
        "orders: 3000 rows",
        "every byte is there",
    ]
    assert run(*block("verify/shop"), folder).stdout == "valid\n"
    assert "lists.made: TIMESTAMP as time_from_text\n" in run(*block("select(.cast)"), folder).stdout


@pytest.mark.parametrize("needle", ["every byte is there", "cd objects"])
@pytest.mark.parametrize("damage", ["a changed byte", "a missing object"])
def test_the_commands_see_damage(folder: Path, store: Store, needle: str, damage: str) -> None:
    path = folder / store.manifest("shop/00000001").tables["orders"].objects[1].path
    if damage == "a changed byte":
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    else:
        path.unlink()
    done = run(*block(needle), folder)
    if (needle, damage) == ("cd objects", "a missing object"):
        assert done.returncode == 0, "that command knows only what is there"
    else:
        assert done.returncode != 0 and "every byte is there" not in done.stdout


def test_the_signature_block_refuses_a_changed_manifest(folder: Path) -> None:
    path = folder / "snapshots/shop/00000001.json"
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"rows":3000', b'"rows":3001', 1))
    assert path.read_bytes() != content
    done = run(*block("Ed25519"), folder)
    assert done.returncode != 0 and "InvalidSignature" in done.stderr


def test_mailstay_cannot_be_imported_where_the_blocks_run(folder: Path) -> None:
    done = run("python", "import tasks.snapshots", folder)
    assert "ModuleNotFoundError" in done.stderr


def test_a_store_that_was_copied_elsewhere_reads_the_same(
    folder: Path, tmp_path: Path, totals: dict[str, Decimal]
) -> None:
    elsewhere = tmp_path / "env=prod" / "a b"
    shutil.copytree(folder, elsewhere)
    shutil.rmtree(folder)
    said = run(*block("read_parquet(getvariable"), elsewhere).stdout
    assert all(str(total) in said for total in totals.values())
