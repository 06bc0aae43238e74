"""Who holds a lease: a process, so that a killed one does not block the next run until its time is over."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def this_process() -> str:
    """Return a name of this process that no other, past or future, shares."""
    return f"{_machine()}/{os.getpid()}/{_started(os.getpid())}"


def is_dead(process: str) -> bool:
    """Whether `process` certainly runs no more: of this machine, and gone. Elsewhere nothing is known."""
    machine, _, rest = process.partition("/")
    pid, _, started = rest.partition("/")
    if machine != _machine() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    now = _started(int(pid))
    return now in ("Z", "X") or (bool(started) and bool(now) and now != started)


def _machine() -> str:
    """Return host, boot and process namespace: containers share the first two but not process ids."""
    parts = [socket.gethostname()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8])
        parts.append(Path("/proc/self/ns/pid").readlink().name)
    except OSError:
        pass
    return ",".join(parts)


def _started(pid: int) -> str:
    """Return when process `pid` started, in the kernel's own count; `Z` if it is dead but not reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return fields[0] if fields[0] in ("Z", "X") else fields[19]
