"""FORMAT.md says how to read a backup without Mailstay: its own commands are run here, with other people's tools."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import duckdb
import pandas as pd
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tasks.core import UsageError
from tasks.snapshots import Manifest, Store, query
from tasks.sources import CASTS

PAGE = (Path(__file__).parents[2] / "tasks" / "snapshots" / "FORMAT.md").read_text()


def test_the_documented_command_checks_every_object(store: Store, taken: Callable[..., Manifest]) -> None:
    ref = taken(store).tables["prices"].objects[0]
    command = re.search(r"```sh\n(.*?)\n```", PAGE, re.DOTALL)
    assert command is not None and store.storage.root is not None

    def check() -> int:
        return subprocess.run(["bash", "-c", command[1]], cwd=store.storage.root, check=False).returncode

    assert check() == 0
    path = store.storage.root / ref.path
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert check() != 0


def test_duckdb_and_pandas_alone_open_a_table_from_the_manifest(
    store: Store, taken: Callable[..., Manifest]
) -> None:
    taken(store, object_bytes=4096)
    assert store.storage.root is not None
    content = json.loads((store.storage.root / "snapshots/shop/00000001.json").read_text())
    hashes = [one["sha256"] for one in content["body"]["tables"]["customers"]["objects"]]
    files = [str(store.storage.root / f"objects/{name[:2]}/{name}.parquet") for name in hashes]
    assert len(files) > 1
    listed = ", ".join(f"'{file}'" for file in files)
    with duckdb.connect() as connection:
        query = f"SELECT count(DISTINCT customer_id) FROM read_parquet([{listed}])"
        assert connection.execute(query).fetchone() == (2000,)
    assert pd.concat(map(pd.read_parquet, files))["customer_id"].is_monotonic_increasing


def test_the_signature_covers_the_body_as_it_stands_in_the_file(
    store: Store, taken: Callable[..., Manifest]
) -> None:
    taken(store)
    assert store.storage.root is not None
    text = (store.storage.root / "snapshots/shop/00000001.json").read_bytes()
    public = json.loads((store.storage.root / "store.json").read_text())["public_key"]
    body = text.removeprefix(b'{"body":').partition(b',"signature":"')[0]
    signature = bytes.fromhex(json.loads(text)["signature"])
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(signature, body)


def test_the_page_documents_every_cast() -> None:
    assert set(re.findall(r"^\| `(\w+)` \| (?!what)", PAGE.partition("### Casts")[2], re.MULTILINE)) == set(
        CASTS
    )


def test_a_store_that_was_copied_elsewhere_still_verifies(
    store: Store, taken: Callable[..., Manifest], tmp_path: Path
) -> None:
    import shutil

    from tasks.snapshots import verify

    taken(store)
    assert store.storage.root is not None
    shutil.copytree(store.storage.root, tmp_path / "elsewhere")
    assert str(store.storage.root) not in (tmp_path / "elsewhere/snapshots/shop/00000001.json").read_text()
    assert verify(Store.open(str(tmp_path / "elsewhere")), level="content").ok


def test_a_query_reads_snapshots_under_their_names_and_nothing_else(
    store: Store, taken: Callable[..., Manifest], change: Callable[[str], None], tmp_path: Path
) -> None:
    taken(store)
    change("DELETE FROM customers WHERE customer_id < 10")
    taken(store)
    names, rows = query(
        store,
        {"old": "shop/00000001", "new": "shop/00000002"},
        "SELECT count(*) AS gone FROM old.customers ANTI JOIN new.customers USING (customer_id)",
    )
    assert (names, rows) == (["gone"], [(10,)])
    (tmp_path / "secret.csv").write_text("a\n1\n")
    for sql in (
        f"SELECT * FROM read_csv('{tmp_path / 'secret.csv'}')",
        f"COPY (SELECT 1) TO '{tmp_path / 'out.csv'}'",
        f"ATTACH '{tmp_path / 'other.db'}'",
        "SET enable_external_access = true",
        "INSTALL httpfs",
        "SELECT * FROM shop.nothing",
        "SELEC 1",
    ):
        with pytest.raises(UsageError, match="DuckDB does not answer that"):
            query(store, {"shop": "shop/00000002"}, sql)
    assert not (tmp_path / "out.csv").exists()
