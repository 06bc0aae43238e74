"""The mailbox of everyone: a real SMTP server that keeps each accepted message, and is the judge of a drill.

What is in it was delivered; nothing else was. Mailstay itself never reads it. Seed messages of probes are kept apart
and can be looked for over HTTP.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from tasks.core import end_with_parent, open_clock
from tasks.drills.processes import stop, wait_for_line

MAILBOX = "mailbox.jsonl"
SEEDS = "seeds.jsonl"


@dataclass(frozen=True)
class Mail:
    """One delivered message: the campaign, the subscriber, the drill's time, and its place in the order of arrival."""

    campaign_id: int
    subscriber_id: int
    received_at: datetime
    order: int


class Sink:
    """The mailbox server of one drill, in its own process.

    Attributes:
        smtp_port: where it takes mail on loopback.
        seed_url: where a probe looks for its seed message (JSON).
    """

    def __init__(self, folder: Path | str, *, clock: str) -> None:
        self.folder = Path(folder)
        self._clock = clock
        self._process: subprocess.Popen[str] | None = None
        self.smtp_port = 0
        self.seed_url = ""

    @classmethod
    def start(cls, folder: Path | str, *, clock: str) -> Sink:
        """Start the server; its mailbox file lies in `folder`.

        Args:
            folder: where the mailbox is written; an earlier one is continued.
            clock: `driven:PATH` or `system`, for mail that does not say its own drill time.
        """
        sink = cls(folder, clock=clock)
        sink.folder.mkdir(parents=True, exist_ok=True)
        (sink.folder / MAILBOX).touch()
        sink._process = subprocess.Popen(
            [sys.executable, "-m", "tasks.drills.sink", str(sink.folder), clock],
            stdout=subprocess.PIPE,
            stderr=(sink.folder / "sink.log").open("a"),
            text=True,
            cwd=Path(__file__).resolve().parents[2],
        )
        ports = json.loads(wait_for_line(sink._process, "the mailbox", sink.folder / "sink.log"))
        sink.smtp_port = ports["smtp"]
        sink.seed_url = f"http://127.0.0.1:{ports['http']}/seed"
        return sink

    @property
    def mailbox(self) -> Path:
        """The file with one JSON object per delivered message, in the order of arrival."""
        return self.folder / MAILBOX

    def messages(self) -> list[Mail]:
        """Return every delivered message in the order of arrival."""
        return list(read_mailbox(self.mailbox))

    def stop(self) -> None:
        """End the server."""
        if self._process is not None:
            stop(self._process)
            self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def read_mailbox(path: Path, offset: int = 0, end: int = -1) -> Iterator[Mail]:
    """Yield the messages of a mailbox file between two byte offsets (by default all of them)."""
    with path.open("rb") as file:
        file.seek(offset)
        content = file.read(-1 if end < 0 else end - offset)
    for line in content.splitlines():
        one = json.loads(line)
        yield Mail(
            one["campaign_id"],
            one["subscriber_id"],
            datetime.fromisoformat(one["received_at"]),
            one["order"],
        )


class _Handler:
    """Takes messages from aiosmtpd; a message is written and flushed before the 250."""

    def __init__(self, folder: Path, clock: str) -> None:
        self._clock = open_clock(clock)
        self._mailbox = (folder / MAILBOX).open("ab")
        self._seeds = (folder / SEEDS).open("ab")
        with (folder / MAILBOX).open("rb") as earlier:
            self._order = sum(1 for _ in earlier)

    async def handle_EHLO(  # noqa: N802
        self, server: Any, session: Any, envelope: Any, hostname: str, responses: list[str]
    ) -> list[str]:
        """Offer PIPELINING (RFC 2920): commands are read from a stream one after the other anyway."""
        session.host_name = hostname
        return [responses[0], "250-PIPELINING", *responses[1:]]

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        head = envelope.content.partition(b"\r\n\r\n")[0].decode(errors="replace")
        headers = dict(line.split(": ", 1) for line in head.split("\r\n") if ": " in line)
        received_at = headers.get("X-Drill-Time") or self._clock.now().isoformat()
        if "X-Mailstay-Seed" in headers:
            seed = {"token": headers["X-Mailstay-Seed"], "received_at": received_at}
            self._seeds.write(json.dumps(seed).encode() + b"\n")
            self._seeds.flush()
            return "250 OK"
        self._order += 1
        mail = {
            "order": self._order,
            "campaign_id": int(headers.get("X-Campaign-Id", 0)),
            "subscriber_id": int(headers.get("X-Subscriber-Id", 0)),
            "received_at": received_at,
        }
        self._mailbox.write(json.dumps(mail).encode() + b"\n")
        self._mailbox.flush()
        return "250 OK"


def _seed_server(folder: Path) -> ThreadingHTTPServer:
    class Seeds(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = parse_qs(urlsplit(self.path).query).get("token", [""])[0]
            path = folder / SEEDS
            found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
            if wanted:
                found = [one for one in found if one["token"] == wanted]
            body = json.dumps({"total": len(found), "messages": found[-200:]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            return

    return ThreadingHTTPServer(("127.0.0.1", 0), Seeds)


async def _serve(folder: Path, clock: str) -> None:
    from aiosmtpd.smtp import SMTP

    handler = _Handler(folder, clock)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(handler, hostname="mailbox.example", enable_SMTPUTF8=False, loop=loop), "127.0.0.1", 0
    )
    seeds = _seed_server(folder)
    threading.Thread(target=seeds.serve_forever, daemon=True).start()
    ports = {"smtp": server.sockets[0].getsockname()[1], "http": seeds.server_address[1]}
    print(json.dumps(ports), flush=True)  # noqa: T201
    await server.serve_forever()


if __name__ == "__main__":
    end_with_parent()
    asyncio.run(_serve(Path(sys.argv[1]), sys.argv[2]))
