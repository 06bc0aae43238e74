"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def create_file(target: Path, data: bytes) -> bool:
    """Create a file with `data` and return True; one that exists stays as it is and False comes back.

    Another process sees it whole or not at all, also if this one is killed, and a power cut does not empty it.
    """
    draft = target.with_name(f".{target.name}-{uuid.uuid4().hex}")
    try:
        _write(draft, data)
        os.link(draft, target)
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    return True


def replace_file(target: Path, data: bytes) -> None:
    """Put `data` in the place of a file; a reader sees the old content or the new, never a part of one."""
    draft = target.with_name(f".{target.name}-{uuid.uuid4().hex}")
    try:
        _write(draft, data)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def _write(draft: Path, data: bytes) -> None:
    with draft.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
