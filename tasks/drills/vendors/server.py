"""An HTTP server in a thread that answers JSON from handlers, one request at a time."""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from tasks.core import DrivenClock


@dataclass(frozen=True)
class Asked:
    """A request: what its path holds, its query and its body."""

    path: tuple[str, ...]
    query: Mapping[str, str]
    body: Any


@dataclass(frozen=True)
class Answer:
    """What is answered; `content` is JSON, or bytes as they are, or nothing where it is None."""

    status: int
    content: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Delivered:
    """One message that left the vendor."""

    campaign: str
    person: str
    at: datetime


@dataclass
class Window:
    """A fixed window of a rate limit, which begins with the first call in it."""

    calls: int
    per: timedelta
    begun: datetime | None = None
    used: int = 0

    def take(self, now: datetime) -> bool:
        """Count a call; return whether it is too many."""
        if self.begun is None or now >= self.begun + self.per:
            self.begun, self.used = now, 0
        too_many = self.used >= self.calls
        self.used += not too_many
        return too_many

    def seconds_left(self, now: datetime) -> int:
        """Return whole seconds until the window is over, at least one."""
        return max(1, round(((self.begun or now) + self.per - now).total_seconds() + 0.5))


Handler = Callable[[Asked], Answer]


class Vendor:
    """A vendor's API on loopback, which acts as far as the drill's clock has come whenever it is asked.

    Attributes:
        url: base URL of the API, without a version.
        token: what the API wants to see.
        calls: method and path of every request, in order.
        queries: the same with the query.
        interrupt: is told of every request with its query; what it returns is answered in place of the vendor.
    """

    messages_per_minute = 60
    prefix = "/v3"
    content_type = "application/json"

    def __init__(self, clock: DrivenClock, token: str = "drill-token") -> None:  # noqa: S107 a drill's own
        self.clock = clock
        self.token = token
        self.calls: list[str] = []
        self.queries: list[str] = []
        self.interrupt: Callable[[str], Answer | None] = lambda _: None
        self._delivered: list[Delivered] = []
        self._lock = threading.RLock()
        self._routes = [
            (method, re.compile(f"{self.prefix}{re.sub('{[a-z_]+}', '([^/]+)', path)}"), handler)
            for method, path, handler in self.routes()
        ]
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._make_handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True, name=type(self).__name__).start()

    def routes(self) -> list[tuple[str, str, Handler]]:
        """Return method, path below `prefix` (with `{name}` for what varies) and handler of all that is offered."""
        raise NotImplementedError

    def authorised(self, headers: Mapping[str, str]) -> bool:
        """Whether a request carries the token."""
        raise NotImplementedError

    def refusal(self, status: int, message: str) -> Answer:
        """Return a refusal as this vendor words it."""
        raise NotImplementedError

    def limited(self, method: str, path: str) -> tuple[Answer | None, dict[str, str]]:
        """Return the refusal of a call too many, if it is one, and the headers that say what is left."""
        return None, {}

    def act(self, now: datetime) -> None:
        """Do what is due up to `now`."""
        raise NotImplementedError

    def mailbox(self) -> list[Delivered]:
        """Return every message that has left the vendor by now: the judge."""
        with self._lock:
            self.act(self.clock.now())
            return list(self._delivered)

    def deliver(self, campaign: str, person: str, at: datetime) -> None:
        """Let a message leave."""
        self._delivered.append(Delivered(campaign, person, at))

    def close(self) -> None:
        """End the server."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self, method: str, target: str, headers: Mapping[str, str], raw: bytes) -> Answer:
        parts = urlsplit(target)
        with self._lock:
            self.calls.append(f"{method} {parts.path}")
            self.queries.append(f"{method} {target}")
            self.act(self.clock.now())
            if (instead := self.interrupt(f"{method} {target}")) is not None:
                return instead
            if not parts.path.startswith(f"{self.prefix}/"):
                return self.file(parts.path)
            if not self.authorised(headers):
                return self.refusal(401, "The provided authorization grant is invalid")
            refused, left = self.limited(method, parts.path)
            if refused is not None:
                return refused
            for wanted, pattern, handler in self._routes:
                found = pattern.fullmatch(parts.path)
                if found and wanted == method:
                    path = tuple(unquote(one) for one in found.groups())
                    answer = handler(
                        Asked(path, dict(parse_qsl(parts.query)), json.loads(raw) if raw else None)
                    )
                    return Answer(answer.status, answer.content, {**answer.headers, **left})
            return self.refusal(404, "resource not found")

    def file(self, path: str) -> Answer:
        """Return a file that lies beside the API and needs no token."""
        return self.refusal(404, "resource not found")

    def _make_handler(self) -> type[BaseHTTPRequestHandler]:
        vendor = self

        class Handle(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = (
                -1
            )  # head and body in one packet: the second one would wait for the first one's receipt

            def _serve(self) -> None:
                raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                answer = vendor._answer(self.command, self.path, dict(self.headers.items()), raw)
                content = answer.content
                is_file = isinstance(content, bytes)
                body = content if is_file else b"" if content is None else json.dumps(content).encode()
                self.send_response(answer.status)
                if body:
                    self.send_header("Content-Type", "application/gzip" if is_file else vendor.content_type)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                if answer.status != 204:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815 as http.server names them

            def log_message(self, format: str, *args: Any) -> None:
                return

        return Handle


def packed(text: str) -> bytes:
    """Return `text` as a gzip file."""
    return gzip.compress(text.encode(), mtime=0)
