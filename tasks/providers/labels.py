"""What Mailstay must know of a campaign and a provider has no field for, kept in the campaign's own tags."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from tasks.providers.http import parse_time


@dataclass(frozen=True)
class Labels:
    """The labels of a campaign: `kind:sale`, `useful-until:…`, `catch-up-of:12`, `catch-up-step:1`, `send-at:…`.

    Marketers set the first two; the rest is written by `recover`.

    Attributes:
        tags: all other tags.
        send_at: the time a draft is to be scheduled at, where the provider stores none for a draft.
    """

    tags: tuple[str, ...] = ()
    kind: str = "other"
    latest_useful_at: datetime | None = None
    catch_up_of: int | None = None
    step: int = 0
    send_at: datetime | None = None

    @classmethod
    def read(cls, tags: Iterable[str], where: str) -> Labels:
        """Return what `tags` say.

        Raises:
            ProviderGarbled: a label's time cannot be read.
        """
        plain, found = [], {}
        for tag in tags:
            name, colon, value = tag.partition(":")
            if colon and name in _NAMES:
                found[name] = value
            else:
                plain.append(tag)
        of, step = found.get("catch-up-of", ""), found.get("catch-up-step", "")
        return cls(
            tags=tuple(plain),
            kind=found.get("kind") or "other",
            latest_useful_at=parse_time(found.get("useful-until"), where),
            catch_up_of=int(of) if of.isdigit() else None,
            step=int(step) if of.isdigit() and step.isdigit() else 0,
            send_at=parse_time(found.get("send-at"), where),
        )

    def write(self, most: int | None = None) -> list[str]:
        """Return everything as tags, at most `most` of them: labels come first, then the tags that still fit."""
        values = (
            self.kind if self.kind != "other" else "",
            self.latest_useful_at.isoformat() if self.latest_useful_at else "",
            "" if self.catch_up_of is None else str(self.catch_up_of),
            str(self.step) if self.step else "",
            self.send_at.isoformat() if self.send_at else "",
        )
        labels = [f"{name}:{value}" for name, value in zip(_NAMES, values, strict=True) if value]
        return [*labels, *dict.fromkeys(self.tags)][:most]

    def of_catch_up(
        self,
        original: int,
        step: int,
        tags: Iterable[str],
        latest_useful_at: datetime | None,
        send_at: datetime | None = None,
    ) -> Labels:
        """Return the labels of a catch-up for the campaign `original` that these belong to."""
        return replace(
            self,
            tags=(*tags, *self.tags),
            catch_up_of=original,
            step=step,
            latest_useful_at=latest_useful_at or self.latest_useful_at,
            send_at=send_at,
        )

    def marked(self, tag: str) -> Labels:
        """Return the labels of a draft that is retired: marked, and without a time."""
        return replace(self, tags=(tag, *self.tags), send_at=None)

    @classmethod
    def of_title(cls, title: str, where: str) -> tuple[str, Labels]:
        """Return the name and the labels of a campaign that has no tags: `Sale {kind:sale; weekly}`.

        Raises:
            ProviderGarbled: a label's time cannot be read.
        """
        found = _TITLE.fullmatch(title)
        name, inside = found.groups() if found else (title, "")
        return name, cls.read((one.strip() for one in (inside or "").split(";") if one.strip()), where)

    def title(self, name: str) -> str:
        """Return the title that `of_title` reads."""
        tags = self.write()
        return f"{name} {{{'; '.join(tags)}}}" if tags else name


_TITLE = re.compile(r"(.*?)(?: \{([^{}]*)\})?", re.DOTALL)
_NAMES = ("kind", "useful-until", "catch-up-of", "catch-up-step", "send-at")
