"""Status pages on loopback that answer whatever a test gives them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

DATA = Path(__file__).parent / "data"


@pytest.fixture
def page_server() -> Iterator[Callable[..., str]]:
    """A function that makes a real HTTP server answer `body` (or `paths`) and returns its URL."""
    answer: dict[str, object] = {}

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths = answer["paths"]
            body = answer["body"] if paths is None else paths.get(self.path)  # type: ignore[attr-defined]
            self.send_response(int(str(answer["status"])) if body is not None else 404)
            if answer["kind"]:
                self.send_header("Content-Type", str(answer["kind"]))
            if answer["location"]:
                self.send_header("Location", str(answer["location"]))
            content = bytes(body or b"")  # type: ignore[call-overload]
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if not answer["drip"]:
                self.wfile.write(content)
                return
            for position in range(len(content)):
                try:
                    self.wfile.write(content[position : position + 1])
                    self.wfile.flush()
                except OSError:
                    return
                time.sleep(0.05)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    def serve(
        body: bytes = b"",
        kind: str = "application/json",
        status: int = 200,
        location: str = "",
        *,
        paths: dict[str, bytes] | None = None,
        drip: bool = False,
    ) -> str:
        answer.update(body=body, kind=kind, status=status, location=location, paths=paths, drip=drip)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield serve
    server.shutdown()
    server.server_close()


@pytest.fixture
def github_incidents() -> bytes:
    """Eleven incidents of a real Statuspage in all shapes that 1,282 of them take (Unlicense)."""
    return (DATA / "github_incidents.json").read_bytes()
