"""Starting, watching and ending the drill's own processes."""

from __future__ import annotations

import select
import socket
import subprocess
from pathlib import Path

from tasks.drills.errors import DrillError

_START_SECONDS = 60.0


def wait_for_line(process: subprocess.Popen[str], what: str, log: Path) -> str:
    """Return the first line that `process` prints.

    Raises:
        DrillError: it ended, or took longer than a minute.
    """
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], _START_SECONDS)
    line = process.stdout.readline() if ready else ""
    if not line:
        stop(process)
        tail = log.read_text(errors="replace")[-1500:] if log.exists() else ""
        raise DrillError(f"{what} did not start", where=str(log), fix=f"read its log: {tail}")
    return line


def stop(process: subprocess.Popen[str], seconds: float = 10) -> None:
    """End `process` with SIGTERM, or SIGKILL if it does not go, and reap it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


def is_dying(pid: int) -> bool:
    """Whether a killed process is only waiting for its last threads (it can then not yet be reaped)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state in {"Z", "X"}


class HeldPort:
    """A loopback port that stays ours while the server behind it is down.

    The socket is bound but never listens: connections are refused until another process, which must also set
    SO_REUSEADDR, binds and listens; and nobody else is given the port meanwhile.
    """

    def __init__(self) -> None:
        self._socket = loopback_socket(0)
        self.port: int = self._socket.getsockname()[1]

    def release(self) -> None:
        """Give the port back."""
        self._socket.close()


def loopback_socket(port: int) -> socket.socket:
    """Return a TCP socket bound to `port` of the loopback address (0: any), not yet listening."""
    # The protocol is named because asyncio turns Nagle's delay off only where it is.
    one = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind(("127.0.0.1", port))
    return one
