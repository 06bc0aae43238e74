"""Starting, killing, restarting and breaking the simulated ESP from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from tasks.core import DrivenClock, sha256_hex
from tasks.drills.errors import DrillError
from tasks.drills.esp.engine import DEATHS, LOST
from tasks.drills.esp.faults import FAULTS, Faults
from tasks.drills.esp.page import VendorPage
from tasks.drills.esp.server import FAULTS_FILE, TOKEN_VARIABLE, Configuration
from tasks.drills.processes import HeldPort, is_dying, stop, wait_for_line

REPOSITORY = Path(__file__).resolve().parents[3]


class SimulatedEsp:
    """A simulated ESP: its process, its database, its status page. The addresses stay the same over restarts.

    Attributes:
        api_url: base URL of the API.
        status_url: base URL of the status page, which answers while the ESP is dead.
        control_url: the drill's own way in.
        user: API user.
        token: API token.
        db_url: SQLAlchemy URL of its database.
        page: the status page, to post incidents on.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        clock: DrivenClock,
        seed: int,
        smtp_port: int,
        db_url: str | None = None,
        settings: dict[str, Any] | None = None,
        rates: dict[str, float] | None = None,
        webhook_url: str = "",
        follow: bool = True,
    ) -> None:
        self.folder = Path(folder).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.clock = clock
        self.seed = seed
        self.user = "mailstay"
        self.token = sha256_hex(f"drill token {seed}".encode())[:32]
        self.db_url = db_url or f"sqlite:///{self.folder / 'esp.sqlite'}"
        self._smtp_port = smtp_port
        self._settings = {"seed": seed} | (settings or {})
        self._rates = rates or {}
        self._webhook_url = webhook_url
        self._follow = follow
        self._ports = (HeldPort(), HeldPort())
        self.api_url, self.control_url = (f"http://127.0.0.1:{one.port}" for one in self._ports)
        self._faults = Faults(self.folder / FAULTS_FILE)
        self._control = httpx.Client(base_url=self.control_url, timeout=300)
        self._process: subprocess.Popen[str] | None = None
        self._died_at: datetime | None = None
        self.page = VendorPage(clock, seed)
        self.status_url = self.page.url

    @classmethod
    def start(
        cls,
        folder: Path | str,
        *,
        clock: DrivenClock,
        seed: int,
        smtp_port: int,
        db_url: str | None = None,
        settings: dict[str, Any] | None = None,
        rates: dict[str, float] | None = None,
        webhook_url: str = "",
        follow: bool = True,
    ) -> SimulatedEsp:
        """Start an ESP and return it once it answers.

        Args:
            folder: where its database (if `db_url` is not given), faults and logs lie.
            clock: the drill's clock.
            seed: decides everything that is drawn.
            smtp_port: where it delivers, on loopback.
            db_url: SQLAlchemy URL of its database (SQLite or PostgreSQL).
            settings: over the defaults of `tasks.drills.esp.engine.Settings`.
            rates: over the defaults of `tasks.drills.esp.behaviour.Rates`.
            webhook_url: where its events are posted; empty for nowhere.
            follow: whether it follows the clock itself; False where another process leads it with `work_until`.
        """
        esp = cls(
            folder, clock=clock, seed=seed, smtp_port=smtp_port, db_url=db_url, settings=settings, rates=rates,
            webhook_url=webhook_url, follow=follow,
        )  # fmt: skip
        esp.restart()
        return esp

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        if self._process is None:
            return False
        if self._process.poll() is None and is_dying(self._process.pid):
            self._process.wait()
        return self._process.poll() is None

    def restart(self, at: datetime | None = None) -> None:
        """Start the process (again) at `at`, or at the clock's time.

        Raises:
            DrillError: it runs, or does not come up.
        """
        if self.alive:
            raise DrillError("The simulated ESP runs already")
        self._reap()
        self._faults.reload()
        if "lose_recent_events" in self._faults and not self._faults.get("lose_recent_events", "before", ""):
            minutes = self._faults.get("lose_recent_events", "minutes", 0)
            before = (self.died_at or self.clock.now()).isoformat()
            self._faults.turn_on("lose_recent_events", minutes=minutes, before=before)
        start = at or self.clock.now()
        configuration = Configuration(
            folder=str(self.folder),
            clock=str(self.clock.path),
            db_url=self.db_url,
            smtp_port=self._smtp_port,
            api_port=self._ports[0].port,
            control_port=self._ports[1].port,
            user=self.user,
            follow=self._follow,
            start=start.isoformat(),
            settings=self._settings,
            rates=self._rates,
            webhook_url=self._webhook_url,
        )
        path = self.folder / "esp.json"
        path.write_text(json.dumps(asdict(configuration), indent=1))
        log = self.folder / "esp.log"
        with log.open("a") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tasks.drills.esp", str(path)],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=REPOSITORY,
                env=os.environ | {TOKEN_VARIABLE: self.token},
            )
        wait_for_line(self._process, "the simulated ESP", log)
        self._show()

    def kill(self, at: datetime | None = None) -> None:
        """Kill the process with SIGKILL and reap it; `at` is the drill's time, the clock's if None."""
        if self._process is not None and self.alive:
            self._died_at = at or self.clock.now()
            self._process.send_signal(signal.SIGKILL)
        self._reap()
        self._show()

    def fault(self, name: str, **settings: Any) -> None:
        """Turn a fault of `FAULTS` on, also for the next start if the process is dead.

        Raises:
            DrillError: there is no such fault or setting.
        """
        if self.alive:
            self._tell("PUT", name, settings)
            self._faults.reload()
        else:
            self._faults.reload()
            self._faults.turn_on(name, **settings)
        self._show()

    def clear(self, name: str) -> None:
        """Turn a fault off."""
        if self.alive:
            self._tell("DELETE", name, {})
            self._faults.reload()
        else:
            self._faults.reload()
            self._faults.turn_off(name)
        self._show()

    def state(self) -> dict[str, Any]:
        """Return whether it lives, how far it has worked, which faults are on and which campaigns it works on."""
        self._faults.reload()
        if not self.alive:
            return {"alive": False, "active": dict(self._faults.active), "running": [], "now": None}
        answer: dict[str, Any] = self._control.get("/state").json()
        return {"alive": True} | answer

    def work_until(self, moment: datetime) -> bool:
        """Let an ESP that does not follow the clock work up to `moment`; False if it is dead or died on the way."""
        if not self.alive:
            return False
        try:
            answer = self._control.post("/tick", json={"until": moment.isoformat()})
        except httpx.TransportError:
            ended = self._process.wait(30) if self._process is not None else None
            self._show()
            if ended == -signal.SIGKILL:
                return False
            raise DrillError("The simulated ESP broke", where=str(self.folder / "esp.log")) from None
        if not answer.is_success:
            raise DrillError("The simulated ESP broke", where=str(self.folder / "esp.log"))
        return True

    @property
    def died_at(self) -> datetime | None:
        """When it last died, by the drill's clock: what it noted as it killed itself, or when `kill` was called."""
        noted = [
            datetime.fromisoformat(json.loads(line)["at"]) for line in _lines(self.folder / DEATHS)
        ]  # fmt: skip
        return max([*noted, *([self._died_at] if self._died_at else [])], default=None)

    def lost_rows(self) -> dict[str, int]:
        """Return how many rows of each table the fault `lose_recent_events` took."""
        lost: dict[str, int] = {}
        for line in _lines(self.folder / LOST):
            for table, rows in json.loads(line)["rows"].items():
                lost[table] = lost.get(table, 0) + rows
        return lost

    def close(self) -> None:
        """End the process and the status page."""
        if self._process is not None:
            stop(self._process)
            self._process = None
        self.page.close()
        self._control.close()
        for port in self._ports:
            port.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _tell(self, method: str, name: str, settings: dict[str, Any]) -> None:
        answer = self._control.request(method, f"/faults/{name}", json=settings)
        if not answer.is_success:
            raise DrillError(answer.json()["message"])

    def _show(self) -> None:
        shown = {name: FAULTS[name].component for name in self._faults.active}
        if self._process is not None and not self.alive:
            shown["dead"] = "major_outage"
        self.page.show_faults(shown)

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
