"""One fault at any call to the disk or the object store, in any operation: it succeeds truly or fails with one error.

Afterwards nothing that was committed is lost, nothing half done is visible, no changed byte is taken for a value, and
the same again goes through.
"""

from __future__ import annotations

import errno
import functools
import http.client
import os
import random
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import obstore
import obstore.store
import pytest
from obstore.exceptions import GenericError

from tasks.core import MailstayError, UsageError
from tests.snapshots.world import GOING, OPERATIONS, World, assert_done, assert_whole, built

FAULTS = {
    "get": ("error", "torn", "flip"),
    "read": ("error", "torn", "flip"),
    "list": ("error",),
    "head": ("error",),
    "open": ("error",),
    "write": ("error", "torn", "flip"),
    "fsync": ("error",),
    "mkdir": ("error",),
    "link": ("error", "lost"),
    "replace": ("error", "lost"),
    "delete": ("error", "lost"),
    "unlink": ("error", "lost"),
}
"""What can go wrong with a call to the disk: it is refused; part of the bytes arrives; one byte arrives changed; it is
done and the answer is an error."""


class Disk:
    """The disk below a folder, as the store's code calls it; the call number `at` goes wrong as `fault` says."""

    def __init__(self, root: Path, at: int = -1, fault: str = "") -> None:
        self.root, self.at, self.fault = root.resolve(), at, fault
        self.calls: list[str] = []

    def holds(self, path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and str(path).startswith(str(self.root))

    def fault_of(self, verb: str) -> str:
        self.calls.append(verb)
        return self.fault if len(self.calls) - 1 == self.at else ""

    def call(self, verb: str, do: Callable[[], Any], error: Exception) -> Any:
        fault = self.fault_of(verb)
        if fault == "error":
            raise error
        answer = do()
        if fault == "lost":
            raise error
        return answer


def changed(content: bytes, fault: str) -> bytes:
    if fault == "torn":
        return content[: len(content) // 2]
    if fault == "flip" and content:
        middle = len(content) // 2
        return content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]
    return content


class File:
    """A file below the folder; its reads and writes are calls to the disk."""

    def __init__(self, file: Any, disk: Disk) -> None:
        self._file, self._disk = file, disk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> File:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, *size: int) -> bytes:
        fault = self._disk.fault_of("read")
        if fault == "error":
            raise OSError(errno.EIO, "Input/output error")
        return changed(self._file.read(*size), fault)

    def write(self, content: Any) -> int:
        fault = self._disk.fault_of("write")
        if fault == "error":
            raise OSError(errno.ENOSPC, "No space left on device")
        self._file.write(changed(bytes(content), fault))
        if fault == "torn":
            raise OSError(errno.ENOSPC, "No space left on device")
        return len(content)


@contextmanager
def in_the_way(disk: Disk) -> Iterator[None]:
    """Put the disk between the code and the folder."""
    bad = OSError(errno.EIO, "Input/output error")
    opened, fsync, lister, getter = Path.open, os.fsync, obstore.list, obstore.get

    def open_(path: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if not disk.holds(path):
            return opened(path, mode, *rest, **options)
        return File(disk.call("open", lambda: opened(path, mode, *rest, **options), bad), disk)

    def get(*args: Any, **options: Any) -> Any:
        fault = disk.fault_of("get")
        if fault == "error":
            raise GenericError("Input/output error")
        content = bytes(getter(*args, **options).bytes())
        return SimpleNamespace(bytes=lambda: changed(content, fault))

    def wrapped(verb: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if not (disk.holds(args[0]) or disk.holds(args[-1])):
                return plain(*args, **options)
            return disk.call(verb, lambda: plain(*args, **options), bad)

        return call

    def remote(verb: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **options: disk.call(
            verb, lambda: plain(*args, **options), GenericError("Input/output error")
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", open_)
        patch.setattr(os, "fsync", lambda file: disk.call("fsync", lambda: fsync(file), bad))
        for verb in ("link", "replace", "mkdir", "unlink"):
            patch.setattr(os, verb, wrapped(verb, getattr(os, verb)))
        patch.setattr(obstore, "get", get)
        patch.setattr(obstore, "list", remote("list", lister))
        patch.setattr(obstore, "head", remote("head", obstore.head))
        patch.setattr(obstore, "delete", remote("delete", obstore.delete))
        yield


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> World:
    return built(tmp_path_factory.mktemp("world") / "template")


@pytest.fixture(scope="module")
def truths(template: World) -> dict[str, tuple[Any, list[str]]]:
    """What each operation answers when nothing goes wrong, and the calls to the disk that it makes."""
    found = {}
    for name, operation in OPERATIONS.items():
        world = template.copy(name)
        disk = Disk(world.root)
        with in_the_way(disk):
            answer = operation(world)
        assert_whole(world, going=(GOING,))
        assert_done(world, name)
        found[name] = answer, disk.calls
    return found


def try_on_disk(template: World, name: str, truth: Any, at: int, fault: str) -> None:
    world = template.copy(name)
    disk = Disk(world.root, at, fault)
    try:
        with in_the_way(disk):
            answer = OPERATIONS[name](world)
    except MailstayError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert answer == truth
        assert_done(world, name)
        (world.home / "back.db").unlink(missing_ok=True)
    assert_whole(world, going=(GOING,), damaged=fault == "flip" and disk.calls[at] == "write")
    again(world, name)
    shutil.rmtree(world.home)


def again(world: World, name: str) -> None:
    """The same operation without a fault goes through, and leaves the store without a finding."""
    try:
        OPERATIONS[name](world)
    except UsageError:
        assert name == "release", "only what is released already cannot be released again"
    assert_done(world, name)
    assert_whole(world, going=(GOING,))


def cases(truths: dict[str, tuple[Any, list[str]]]) -> list[tuple[str, int, str]]:
    return [
        (name, at, fault)
        for name, (_, calls) in truths.items()
        for at, verb in enumerate(calls)
        for fault in FAULTS[verb]
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_fault_of_the_disk_at_every_call(
    template: World,
    truths: dict[str, tuple[Any, list[str]]],
    name: str,
    record_property: Callable[..., None],
) -> None:
    mine = [one for one in cases(truths) if one[0] == name]
    for _, at, fault in mine:
        try_on_disk(template, name, truths[name][0], at, fault)
    record_property("cases", len(mine))


def test_a_sample_of_the_faults_of_the_disk(
    template: World, truths: dict[str, tuple[Any, list[str]]], record_property: Callable[..., None]
) -> None:
    """One call of each kind of every operation goes wrong in one way."""
    chosen = {}
    for one in random.Random(3).sample(cases(truths), len(cases(truths))):
        chosen.setdefault((one[0], truths[one[0]][1][one[1]]), one)
    for name, at, fault in chosen.values():
        try_on_disk(template, name, truths[name][0], at, fault)
    record_property("cases", len(chosen))


# The wire to a real S3 server -----------------------------------------------------------------------------------

WIRE_FAULTS = {
    "GET": ("refused", "reset", "slow", "torn", "flip"),
    "HEAD": ("refused", "reset", "slow"),
    "PUT": ("refused", "reset", "slow", "torn", "flip", "lost"),
    "DELETE": ("refused", "reset", "slow", "lost"),
    "POST": ("refused", "reset", "slow", "lost"),
}
"""What can go wrong with a request: 503; the connection ends before it is sent on; the answer comes after the client
has given up; half of the body arrives; one byte arrives changed; it is done and the answer is lost."""


class Wire:
    """A proxy before the S3 server; the request number `at` goes wrong as `fault` says."""

    def __init__(self, upstream: str) -> None:
        self.at, self.fault, self.requests = -1, "", list[str]()
        self.known: dict[str, list[str]] = {}
        self.upstream = upstream.removeprefix("http://")
        wire = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline(65_537)
                if not self.raw_requestline or not self.parse_request():
                    self.close_connection = True
                    return
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                wire.requests.append(self.command)
                fault = wire.fault if len(wire.requests) - 1 == wire.at else ""
                answer = wire.answer(self.command, self.path, list(self.headers.items()), body, fault)
                if answer is None:
                    self.close_connection = True
                    return
                status, headers, content = answer
                self.send_response_only(status)
                for name, value in headers:
                    if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                        self.send_header(name, value)
                length = {name.lower(): value for name, value in headers}.get("content-length", "0")
                self.send_header("Content-Length", length if self.command == "HEAD" else str(len(content)))
                self.end_headers()
                if fault == "torn" and self.command == "GET":
                    content, self.close_connection = content[: len(content) // 2], True
                self.wfile.write(content)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(
        self, method: str, path: str, headers: list[tuple[str, str]], body: bytes, fault: str
    ) -> tuple[int, list[tuple[str, str]], bytes] | None:
        """Return what the client gets; None ends the connection."""
        if fault == "refused":
            return 503, [], b""
        if fault == "reset":
            return None
        upload = method == "PUT"
        connection = http.client.HTTPConnection(self.upstream, timeout=30)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers:
                connection.putheader(name, value)
            connection.endheaders(changed(body, fault) if upload else body)
            if fault == "torn" and upload:
                return None
            response = connection.getresponse()
            content = response.read()
            if fault == "slow":
                time.sleep(PATIENCE + 0.2)
            if fault in ("lost", "slow"):
                return None
            return response.status, response.getheaders(), content if upload else self.sent(content, fault)
        finally:
            connection.close()

    @staticmethod
    def sent(content: bytes, fault: str) -> bytes:
        return changed(content, fault) if fault == "flip" else content

    @contextmanager
    def in_the_way(self, at: int, fault: str, *, retries: int) -> Iterator[None]:
        """Send what a store asks for through this proxy; the client asks again as often as told."""
        self.at, self.fault, self.requests = at, fault, []
        options = {
            "retry_config": {"max_retries": retries},
            "client_options": {"timeout": f"{int(PATIENCE * 1000)}ms", "allow_http": True},
        }
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT", self.url)
            patch.setattr(obstore.store, "from_url", functools.partial(obstore.store.from_url, **options))
            yield


PATIENCE = 0.8  # seconds until the client gives up


@pytest.fixture
def wire(s3_server: str) -> Iterator[Wire]:
    proxy = Wire(s3_server)
    yield proxy
    proxy.server.shutdown()
    proxy.server.server_close()


def uploaded(template: World, name: str) -> World:
    """Return a copy of the world whose store lies on the S3 server."""
    world = template.copy(name)
    url = f"s3://backups/{uuid.uuid4().hex}"
    if world.root.exists():
        remote = obstore.store.from_url(url)
        for path in world.root.rglob("*.*"):
            if path.is_file():
                obstore.put(remote, str(path.relative_to(world.root)), path.read_bytes())
    return replace(world, url=url)


def try_on_wire(template: World, wire: Wire, name: str, truth: Any, pick: random.Random) -> None:
    """Let one request of the operation go wrong."""
    if name not in wire.known:
        with wire.in_the_way(-1, "", retries=0):
            OPERATIONS[name](uploaded(template, name))
        wire.known[name] = wire.requests
    at = pick.randrange(len(wire.known[name]))
    fault, retries = pick.choice(WIRE_FAULTS[wire.known[name][at]]), pick.choice((0, 3))
    world = uploaded(template, name)
    done = f"{fault} of {wire.known[name][at]} {at} in {name}, {retries} retries"
    try:
        with wire.in_the_way(at, fault, retries=retries):
            answer = OPERATIONS[name](world)
    except MailstayError as error:
        assert len(str(error).splitlines()) == 1, done
    else:
        assert answer == truth, done
        assert_done(world, name)
        (world.home / "back.db").unlink(missing_ok=True)
    # The signature of a request covers its body: a byte changed on the way is refused by the server.
    assert_whole(world, going=(GOING,))
    again(world, name)


@pytest.mark.integration
@pytest.mark.parametrize("name", ["first backup", "prune", "restore", "mark"])
def test_a_fault_of_the_wire_to_s3(
    template: World, wire: Wire, truths: dict[str, tuple[Any, list[str]]], name: str
) -> None:
    try_on_wire(template, wire, name, truths[name][0], random.Random(name))


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize("name", OPERATIONS)
def test_many_faults_of_the_wire_to_s3(
    template: World,
    wire: Wire,
    truths: dict[str, tuple[Any, list[str]]],
    name: str,
    record_property: Callable[..., None],
) -> None:
    pick = random.Random(name)
    for _ in range(20):
        try_on_wire(template, wire, name, truths[name][0], pick)
    record_property("cases", 20)
