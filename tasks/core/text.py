"""Small things about text that every package says the same way."""

from __future__ import annotations

import re

_ADDRESS = re.compile(r"[A-Za-z0-9._%+\-']+@[A-Za-z0-9.\-]+")


def mask_addresses(text: str) -> str:
    """Return `text` with every e-mail address replaced by `<address>`: for messages that leave the engine."""
    return _ADDRESS.sub("<address>", text)


def plural(count: int, noun: str, many: str | None = None) -> str:
    """Return `1 row`, `2 rows`, `1,200 rows`."""
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"
