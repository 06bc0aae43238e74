"""The simulated ESP's process: the API and the control plane over HTTP, and the engine that follows the clock."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tasks.core import DrivenClock, end_with_parent
from tasks.drills.errors import DrillError
from tasks.drills.esp.api import build_api
from tasks.drills.esp.behaviour import Rates
from tasks.drills.esp.engine import Engine, Settings
from tasks.drills.esp.faults import Faults
from tasks.drills.esp.schema import connect
from tasks.drills.esp.transport import Smtp
from tasks.drills.processes import loopback_socket

FAULTS_FILE = "faults.json"
TOKEN_VARIABLE = "DRILL_ESP_TOKEN"  # noqa: S105 - the name of a variable
_POLL_SECONDS = 0.002
_WEBHOOK_ROWS = 500


@dataclass(frozen=True)
class Configuration:
    """How one start of the process is told what to be (a JSON file; the token comes by environment variable)."""

    folder: str
    clock: str
    db_url: str
    smtp_port: int
    api_port: int
    control_port: int
    user: str
    follow: bool
    start: str
    settings: dict[str, Any]
    rates: dict[str, float] = field(default_factory=dict)
    webhook_url: str = ""

    @classmethod
    def read(cls, path: Path) -> Configuration:
        """Return the configuration in a JSON file."""
        return cls(**json.loads(path.read_text()))


def serve(configuration: Configuration) -> None:
    """Run until the process is ended; prints one line once it answers."""
    end_with_parent()
    folder = Path(configuration.folder)
    faults = Faults(folder / FAULTS_FILE)
    settings = Settings(rates=Rates(**configuration.rates), **configuration.settings)
    engine = Engine(
        connect(configuration.db_url),
        settings,
        start=datetime.fromisoformat(configuration.start),
        transport=Smtp("127.0.0.1", configuration.smtp_port),
        faults=faults,
        folder=folder,
        webhook=_Poster(configuration.webhook_url) if configuration.webhook_url else None,
    )
    token = os.environ[TOKEN_VARIABLE]
    api = _Server(
        build_api(engine, user=configuration.user, token=token, seed=settings.seed), configuration.api_port
    )
    control = _Server(_control(engine, faults, api), configuration.control_port)
    control.start()
    if not _refuses(faults):
        api.start()
    if configuration.follow:
        _follow(engine, DrivenClock(configuration.clock), f"esp-{configuration.control_port}")
    _say_ready()
    threading.Event().wait()


def _say_ready() -> None:
    print("ready", flush=True)  # noqa: T201


def _follow(engine: Engine, clock: DrivenClock, name: str) -> None:
    with clock.follow(name) as follower:
        _say_ready()
        while True:
            now = clock.now()
            if now > engine.now:
                engine.work_until(now)
                follower.caught_up(now)
            time.sleep(_POLL_SECONDS)


def _refuses(faults: Faults) -> bool:
    return bool(faults.get("hard_down", "mode", "") == "refuse")


def _control(engine: Engine, faults: Faults, api: _Server) -> Starlette:
    """The drill's own way in: faults, state, and time where another process leads it. No credentials: loopback."""

    async def turn(request: Request) -> Response:
        name = request.path_params["name"]
        settings = json.loads(await request.body() or b"{}")
        try:
            if request.method == "PUT":
                faults.turn_on(name, **settings)
                if name == "kill_mid_batch":
                    engine.count_kill_from_now()
            else:
                faults.turn_off(name)
        except DrillError as error:
            return JSONResponse({"message": error.what}, status_code=400)
        if name == "hard_down":
            await run_in_threadpool(api.stop if _refuses(faults) else api.start)
        return JSONResponse({"active": faults.active})

    async def state(_: Request) -> Response:
        with engine.lock:
            return JSONResponse(
                {
                    "now": engine.now.isoformat(),
                    "active": faults.active,
                    "running": sorted(engine.listed_as_running()),
                    "pid": os.getpid(),
                }
            )

    async def tick(request: Request) -> Response:
        until = datetime.fromisoformat(json.loads(await request.body())["until"])
        await run_in_threadpool(engine.work_until, until)
        return JSONResponse({"now": engine.now.isoformat()})

    return Starlette(
        routes=[
            Route("/faults/{name}", turn, methods=["PUT", "DELETE"]),
            Route("/state", state),
            Route("/tick", tick, methods=["POST"]),
        ]
    )


class _Server:
    """uvicorn in a thread, on a fixed port, that can be stopped and started again."""

    def __init__(self, application: Starlette, port: int) -> None:
        self._application = application
        self._port = port
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._server is not None:
            return
        server = uvicorn.Server(
            uvicorn.Config(
                self._application, log_level="warning", access_log=False, lifespan="off", ws="none"
            )
        )
        listening = loopback_socket(self._port)
        self._thread = threading.Thread(
            target=server.run, kwargs={"sockets": [listening]}, daemon=True, name=f"http-{self._port}"
        )
        self._thread.start()
        while not server.started:
            time.sleep(_POLL_SECONDS)
        self._server = server

    def stop(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.should_exit = self._server.force_exit = True
            self._thread.join()
            self._server = None


class _Poster:
    """Sends events to a webhook URL; what cannot be delivered at once is lost."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client = httpx.Client(timeout=30)

    def __call__(self, events: list[dict[str, Any]]) -> None:
        for start in range(0, len(events), _WEBHOOK_ROWS):
            try:
                self._client.post(self._url, json=events[start : start + _WEBHOOK_ROWS])
            except httpx.HTTPError:
                return
