"""The Prefect server that a command starts for itself."""

import os
import signal
import subprocess
import sys
import time

import httpx
import pytest

COMMAND = """
import sys, time
from pathlib import Path
from flows.cli.server import prefect_server
with prefect_server(Path(sys.argv[1]), always=True) as api:
    print(api, flush=True)
    time.sleep(600)
"""


@pytest.mark.integration
def test_a_command_that_is_killed_leaves_no_server_behind(tmp_path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as run:
        api = run.stdout.readline().strip()
        assert httpx.get(f"{api}/health").status_code == 200
        os.kill(run.pid, signal.SIGKILL)
    for _ in range(100):
        try:
            httpx.get(f"{api}/health", timeout=2)
        except httpx.ConnectError:
            return
        except httpx.TransportError:  # it is just ending
            continue
        time.sleep(0.1)
    raise AssertionError(f"{api} still answers")
