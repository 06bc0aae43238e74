"""A real deployment on a real Prefect server: prefect.yaml deployed by the command line, a process worker, a site."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tasks.core import DrivenClock, SystemClock
from tasks.drills import SimulatedEsp, Sink

REPOSITORY = Path(__file__).resolve().parents[2]
PREFECT_YAML = REPOSITORY / "deployments" / "prefect.yaml"
PREFECT = [sys.executable, "-m", "prefect"]


@dataclass
class Deployed:
    """The server's API, where prefect.yaml was deployed to, and what the command said."""

    api: str
    client: httpx.Client
    site: Path
    exit_code: int
    output: str

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = self.client.post(path, json=body or {})
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def deployment(self, name: str) -> dict[str, Any]:
        answer = self.client.get(f"/deployments/name/{name}/{name}")
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def runs(self, name: str) -> list[dict[str, Any]]:
        """Return the deployment's runs, newest first."""
        wanted = {"deployments": {"id": {"any_": [self.deployment(name)["id"]]}}, "sort": "START_TIME_DESC"}
        found: list[dict[str, Any]] = self.post("/flow_runs/filter", wanted)
        return found

    def run(self, run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get(f"/flow_runs/{run_id}").raise_for_status().json()
        return found

    def start(self, name: str, /, **parameters: Any) -> str:
        """Ask the server for a run of the deployment and return its id."""
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        made = self.post(f"/deployments/{self.deployment(name)['id']}/create_flow_run", body)
        return str(made["id"])

    @staticmethod
    def wait_for(what: Callable[[], Any], seconds: float = 60) -> Any:
        """Return what `what` returns once that is true; the last answer when the time is over."""
        deadline = time.monotonic() + seconds
        while not (found := what()) and time.monotonic() < deadline:
            time.sleep(0.3)
        return found


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a user: a plan whose provider is dead, and the environment that the plan names."""
    folder = tmp_path_factory.mktemp("site")
    plan = {
        "version": 1,
        "name": "Example Shop",
        "journal": "sqlite:///journal.db",
        "store": {"url": "store"},
        "sources": {"shop": {"url": "sqlite:///shop.db", "mapping": "shop"}},
        "providers": {
            "listmonk": {"kind": "listmonk", "api_url": "http://127.0.0.1:9", "timeout_seconds": 1},
        },
        "channels": {"desk": {"kind": "folder", "path": "outbox"}},
        "stakeholders": {"marketing_team": {"channel": "desk", "report": "tactical"}},
    }
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    return folder


@pytest.fixture(scope="session")
def deployed(prefect_server: str, prefect_api: httpx.Client, site: Path) -> Deployed:
    """prefect.yaml, deployed the way its head comment says."""
    environment = {**os.environ, "MAILSTAY_ROOT": str(site), "NO_COLOR": "1", "COLUMNS": "200"}
    pool = [*PREFECT, "work-pool", "create", "mailstay", "--type", "process"]
    subprocess.run(pool, env=environment, cwd=REPOSITORY, check=True, capture_output=True)
    done = subprocess.run(
        [*PREFECT, "--no-prompt", "deploy", "--all", "--prefect-file", "deployments/prefect.yaml"],
        env=environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    return Deployed(prefect_server, prefect_api, site, done.returncode, done.stdout + done.stderr)


@pytest.fixture(scope="session")
def sending_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A site whose simulated ESP sends a campaign, on the computer's own clock: there a run waits for an answer."""
    folder = tmp_path_factory.mktemp("sending")
    clock = DrivenClock.create(folder / "esp-clock.json", SystemClock().now())
    with (
        Sink.start(folder / "sink", clock=f"driven:{clock.path}") as sink,
        SimulatedEsp.start(folder / "esp", clock=clock, seed=7, smtp_port=sink.smtp_port) as esp,
        httpx.Client(base_url=f"{esp.api_url}/api", auth=(esp.user, esp.token), timeout=60) as api,
    ):

        def post(path: str, body: dict[str, Any]) -> Any:
            return api.post(path, json=body).raise_for_status().json()["data"]

        everyone = post("/lists", {"name": "All", "type": "private", "optin": "single"})["id"]
        for number in range(1, 41):
            post("/subscribers", {"email": f"c{number}@shop.example", "name": "", "lists": [everyone]})
        campaign = {"name": "Weekly news", "subject": "News", "lists": [everyone], "body": "Hello"}
        made = post("/campaigns", {**campaign, "type": "regular", "content_type": "plain"})["id"]
        esp.fault("stalled")
        api.put(f"/campaigns/{made}/status", json={"status": "running"}).raise_for_status()
        clock.advance(60)
        plan = {
            "version": 1,
            "name": "Example Shop",
            "journal": "sqlite:///journal.db",
            "store": {"url": "store"},
            "sources": {"shop": {"url": "sqlite:///shop.db", "mapping": "shop"}},
            "providers": {
                "listmonk": {
                    "kind": "listmonk",
                    "api_url": esp.api_url,
                    "user_env": "SENDING_ESP_USER",
                    "token_env": "SENDING_ESP_TOKEN",
                }
            },
            "lateness": {"other": {"useful_for_minutes": 600}},
        }
        (folder / "plan.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
        (folder / "esp.env").write_text(f"{esp.user}\n{esp.token}\n")
        yield folder


@pytest.fixture(scope="module")
def worker(
    deployed: Deployed, sending_site: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A process worker of the pool `mailstay`, which runs what a test starts and nothing else; its log.

    The schedules are paused and what waits is removed: a scheduled `monitor` would be in the way of the test's own
    (the deployment runs one at a time). It ends with the module: an outage that a test elsewhere confirms starts
    `respond` on this server too.
    """
    for name in ("backup", "validate", "prune", "rehearse", "monitor"):
        deployed.post(f"/deployments/{deployed.deployment(name)['id']}/pause_deployment")
    waiting = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED", "PENDING"]}}}}
    for run in deployed.post("/flow_runs/filter", waiting):
        deployed.client.delete(f"/flow_runs/{run['id']}")
    log = tmp_path_factory.mktemp("worker") / "worker.log"
    user, token = (sending_site / "esp.env").read_text().split()
    environment = {
        **os.environ,
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_WORKER_HEARTBEAT_SECONDS": "5",
        "MAILSTAY_ROOT": str(deployed.site),
        "MAILSTAY_SIGNING_KEY": str(deployed.site / "key.pem"),
        "MAILSTAY_ESP_USER": "mailstay",
        "MAILSTAY_ESP_TOKEN": "test",
        "SENDING_ESP_USER": user,
        "SENDING_ESP_TOKEN": token,
    }
    with log.open("w") as output:
        process = subprocess.Popen(
            [*PREFECT, "worker", "start", "--pool", "mailstay", "--name", "test"],
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            env=environment,
            cwd=deployed.site,
            start_new_session=True,
        )
        try:
            yield log
        finally:
            os.killpg(
                process.pid, signal.SIGKILL
            )  # with its runs; asked politely it takes more than 20 seconds
            process.wait()
