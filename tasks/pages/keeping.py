"""A page as JSON, so that it can be rendered again later in another form, with the figures that it had."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from tasks.pages import blocks
from tasks.pages.drawing import Drawing

_KINDS: dict[str, type[Any]] = {
    one.__name__: one
    for one in (
        Drawing,
        blocks.Bullets,
        blocks.Cell,
        blocks.Chart,
        blocks.Code,
        blocks.Document,
        blocks.Heading,
        blocks.KeyFigure,
        blocks.Paragraph,
        blocks.Section,
        blocks.Table,
    )
}


def keep_page(document: blocks.Document, path: Path) -> None:
    """Write a page to `path`; `kept_page` reads it again."""
    path.write_text(json.dumps(_plain(document), ensure_ascii=False), encoding="utf-8")


def kept_page(path: Path) -> blocks.Document:
    """Return the page that `keep_page` wrote."""
    found: blocks.Document = _whole(json.loads(path.read_text(encoding="utf-8")))
    return found


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {"": type(value).__name__} | {
            one.name: _plain(getattr(value, one.name)) for one in fields(value)
        }
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def _whole(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_whole(one) for one in value)
    if not isinstance(value, dict):
        return value
    kind = _KINDS[value.pop("")]
    return kind(**{name: _whole(one) for name, one in value.items()})
