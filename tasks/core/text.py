"""Small things about text that every package says the same way."""

from __future__ import annotations

import re

# Too wide rather than too narrow: letters of every script, and whatever else mail systems take before the @.
_ADDRESS = re.compile(r"""[^\s<>()\[\]{},;:"|]+@[^\s<>()\[\]{},;:"'|]+""")


def mask_addresses(text: str) -> str:
    """Return `text` with every e-mail address replaced by `<address>`: for messages that leave the engine."""
    return _ADDRESS.sub("<address>", text)


def plural(count: int, noun: str, many: str | None = None) -> str:
    """Return `1 row`, `2 rows`, `1,200 rows`."""
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"
