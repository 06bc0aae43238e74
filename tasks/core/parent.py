"""Processes that live no longer than the one that started them."""

from __future__ import annotations

import os
import threading
import time


def end_with_parent() -> None:
    """Let this process end soon after the one that started it: a killed command leaves no servers behind."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(0)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()
