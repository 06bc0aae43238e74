"""Which mailbox provider receives an address, by its domain: each has a reputation of us of its own, and a ramp.

A company's own domain tells nothing of who keeps its mail: it is `other` unless the plan names it
(`ramp.mailbox_providers`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa

OTHER = "other"

MAILBOX_PROVIDERS: Mapping[str, tuple[str, ...]] = {
    "gmail": ("gmail.com", "googlemail.com"),
    "outlook": (
        *("outlook.com", "outlook.co.uk", "outlook.fr", "outlook.de", "outlook.es", "outlook.it"),
        *(
            "hotmail.com",
            "hotmail.co.uk",
            "hotmail.fr",
            "hotmail.de",
            "hotmail.es",
            "hotmail.it",
            "hotmail.nl",
        ),
        *("live.com", "live.co.uk", "live.fr", "live.de", "live.it", "live.nl", "live.com.au", "live.ca"),
        *("msn.com", "passport.com", "windowslive.com"),
    ),
    "yahoo": (
        *("yahoo.com", "yahoo.co.uk", "yahoo.fr", "yahoo.de", "yahoo.es", "yahoo.it", "yahoo.ie", "yahoo.ca"),
        *("yahoo.com.au", "yahoo.com.br", "yahoo.com.mx", "yahoo.com.ar", "yahoo.co.in", "yahoo.in"),
        *("ymail.com", "rocketmail.com", "aol.com", "aol.co.uk", "aol.de", "aol.fr", "aim.com"),
    ),
    "apple": ("icloud.com", "me.com", "mac.com"),
}
"""The domains that each mailbox provider gives to people. Yahoo keeps AOL's mail; yahoo.co.jp is another company."""


def mailbox_providers(addresses: Iterable[str], more: Mapping[str, Iterable[str]]) -> pa.DictionaryArray:
    """Return the mailbox provider of each address; `more` is the plan's own list, which goes before the known one."""
    known = {
        domain.casefold(): name
        for listed in (MAILBOX_PROVIDERS, more)
        for name, domains in listed.items()
        for domain in domains
    }
    names = sorted({OTHER, *known.values()})
    place = {domain: names.index(name) for domain, name in known.items()}
    other = names.index(OTHER)
    codes = np.fromiter(
        (place.get(one.rpartition("@")[2].strip().casefold(), other) for one in addresses), np.int8
    )
    return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(names))
