"""A status page on loopback that answers whatever a test gives it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

DATA = Path(__file__).parent / "data"


@pytest.fixture
def page_server() -> Iterator[Callable[..., str]]:
    """A function that makes a real HTTP server answer `body` with `kind` and `status`, and returns its URL."""
    answer: dict[str, object] = {}

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(int(str(answer["status"])))
            if answer["kind"]:
                self.send_header("Content-Type", str(answer["kind"]))
            if answer["location"]:
                self.send_header("Location", str(answer["location"]))
            body = bytes(answer["body"])  # type: ignore[call-overload]
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def serve(body: bytes, kind: str = "application/json", status: int = 200, location: str = "") -> str:
        answer.update(body=body, kind=kind, status=status, location=location)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield serve
    server.shutdown()
    server.server_close()


@pytest.fixture
def github_incidents() -> bytes:
    """Eleven incidents of a real Statuspage in all shapes that 1,282 of them take (Unlicense)."""
    return (DATA / "github_incidents.json").read_bytes()
