"""A Prefect server for as long as one command runs, where none is configured."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from tasks.core import MailstayError

_STARTUP_SECONDS = 180
SERVER = (sys.executable, "-m", "flows.cli.tied_prefect", "server", "start")


class ServerError(MailstayError):
    """The Prefect server did not come up."""


@contextlib.contextmanager
def prefect_server(home: Path | None = None, *, always: bool = False) -> Iterator[str]:
    """Yield the API address of a Prefect server that this process and its children use.

    A configured one (`PREFECT_API_URL` or the active profile) is used as it is unless `always`; else one is started
    on a free port of the loopback address, with its database in `home`, and stopped at the end.

    Raises:
        ServerError: it did not answer in time; the message carries the end of its log.
    """
    from prefect.logging.handlers import APILogHandler
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings  # 1.3 s: only when needed

    configured = PREFECT_API_URL.value()
    if configured and not always:
        yield str(configured)
        return
    home = (home or Path(PREFECT_HOME.value())).resolve()
    home.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    api = f"http://127.0.0.1:{port}/api"
    environment = {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": api,
        "PREFECT_UI_URL": f"http://127.0.0.1:{port}",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    log = home / "server.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [*SERVER, "--host", "127.0.0.1", "--port", str(port)],
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    try:
        _wait(f"{api}/health", server, log)
        with _environment(environment), temporary_settings({PREFECT_API_URL: api, PREFECT_HOME: home}):
            yield api
            APILogHandler().flush()  # what is still queued would otherwise meet a closed door
    finally:
        server.terminate()
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    saved = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in saved.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _STARTUP_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.1)
    tail = log.read_text(errors="replace")[-1500:]
    raise ServerError(f"The Prefect server did not start:\n{tail}", where=str(log))
