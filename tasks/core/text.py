"""Small things about text that every package says the same way."""

from __future__ import annotations

import re

from tasks.core.errors import UsageError

# Too wide rather than too narrow: letters of every script, whatever else mail systems take before the @ (RFC 5322 lets
# it be quoted, with spaces), and the ways in which URLs, JSON and HTML write an @.
_ADDRESS = re.compile(
    r"""(?:(?:\\?"){1,3}[^"\n]{1,64}(?:\\?"){1,3}|[^\s<>()\[\],;:"]+?)(?:@|%40|\\u0040|&\#64;)"""
    r"""(?:\[[^\]\s]+\]|[^\s<>()\[\]{},;:"'|]+)""",
    re.IGNORECASE,
)

_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_RATE = re.compile(rf"(\d+(?:\.\d+)?)\s*({'|'.join(_UNITS)})/s")


def bytes_per_second(text: str) -> int:
    """Return the rate that `text` says, such as `20MiB/s` or `500 kB/s`.

    Raises:
        UsageError: it says none, or less than one byte a second.
    """
    found = _RATE.fullmatch(text.strip())
    rate = int(float(found[1]) * _UNITS[found[2]]) if found else 0
    if rate < 1:
        raise UsageError(f"{text!r} is no rate", fix=f"write 20MiB/s; the units are {', '.join(_UNITS)}")
    return rate


def mask_addresses(text: str) -> str:
    """Return `text` with every e-mail address replaced by `<address>`: for messages that leave the engine."""
    return _ADDRESS.sub("<address>", text)


def plural(count: int, noun: str, many: str | None = None) -> str:
    """Return `1 row`, `2 rows`, `1,200 rows`."""
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"
