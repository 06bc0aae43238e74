"""JSON text in one spelling, so that documents of two kinds of databases can be compared."""

from __future__ import annotations

import json
from typing import Any


def canonical(text: str) -> str:
    """Return the document with sorted keys and no white space; every number keeps the digits it had.

    Raises:
        ValueError: it is no JSON, or has a key twice.
    """
    tree = json.loads(
        text, parse_float=_Digits, parse_int=_Digits, parse_constant=_refuse, object_pairs_hook=_unique
    )
    return _written(tree)


class _Digits:
    """A JSON number that keeps its spelling."""

    __slots__ = ("spelling",)

    def __init__(self, spelling: str) -> None:
        self.spelling = spelling


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise ValueError("a key appears twice")
    return unique


def _written(tree: Any) -> str:
    if isinstance(tree, _Digits):
        return tree.spelling
    if isinstance(tree, dict):
        return "{" + ",".join(f"{_string(key)}:{_written(tree[key])}" for key in sorted(tree)) + "}"
    if isinstance(tree, list):
        return "[" + ",".join(map(_written, tree)) + "]"
    return _string(tree) if isinstance(tree, str) else json.dumps(tree)


def _string(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate has no UTF-8 form: keep its escape
        return json.dumps(value)
    return json.dumps(value, ensure_ascii=False)
