"""Random numbers that depend only on what they are asked for, never on the order of asking.

A uniform is a hash (SplitMix64's finaliser) of the seed and of what is asked: two runs of a world, whole or cut into
other steps, draw the same.
"""

from __future__ import annotations

import uuid
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def uniform(seed: int, question: str, group: int, ids: npt.ArrayLike) -> Floats:
    """Return one number in [0, 1) per id, for one `question` about the members of `group`."""
    key = blake2b(f"{seed}/{question}/{group}".encode(), digest_size=8).digest()
    start = np.uint64(int.from_bytes(key, "little"))
    numbers = np.atleast_1d(np.asarray(ids, dtype=np.int64)).astype(np.uint64)
    with np.errstate(over="ignore"):
        bits = _mix(_mix(numbers ^ start) + start)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def one(seed: int, question: str, group: int = 0, number: int = 0) -> float:
    """Return a single number in [0, 1)."""
    return float(uniform(seed, question, group, [number])[0])


def stable_uuid(seed: int, kind: str, number: int) -> str:
    """Return the UUID (version 4 in form) of the `number`-th thing of a kind."""
    raw = blake2b(f"{seed}/{kind}/{number}".encode(), digest_size=16).digest()
    return str(uuid.UUID(bytes=raw, version=4))


def _mix(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
