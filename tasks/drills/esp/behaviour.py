"""What happens to a message after it was delivered (pure, vectorised, generated).

Whether and when a message is opened, clicked, bounces or draws a complaint depends only on the seed, the campaign and
the subscriber, so a message that comes later has the same fate, later.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tasks.drills.draws import Ids, uniform

EVENT_TYPES = ("delivered", "open", "click", "bounce", "complaint", "unsubscribe")


@dataclass(frozen=True)
class Rates:
    """Shares of the messages, per message unless said otherwise.

    Attributes:
        hard_bounce: the mailbox does not exist.
        soft_bounce: the mailbox is full or the server was busy.
        opened: of those delivered.
        clicked: of those opened.
        complained: of those opened.
        unsubscribed: of those delivered, through the ESP's own link.
    """

    hard_bounce: float = 0.0015
    soft_bounce: float = 0.004
    opened: float = 0.28
    clicked: float = 0.14
    complained: float = 0.0015
    unsubscribed: float = 0.0012


def fates(seed: int, campaign_id: int, subscriber_ids: Ids, rates: Rates) -> pa.Table:
    """Return the events of messages of one campaign, in no particular order.

    Returns:
        `row` (int64, place in `subscriber_ids`), `type`, `detail` (`hard` or `soft` for a bounce, else empty) and
        `delay_us` (int64, microseconds after the message was accepted).
    """
    ids = subscriber_ids

    def draw(question: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return uniform(seed, question, campaign_id, ids)

    lot = draw("bounce")
    hard = lot < rates.hard_bounce
    soft = ~hard & (lot < rates.hard_bounce + rates.soft_bounce)
    delivered = ~(hard | soft)
    affinity = 0.4 + 1.2 * uniform(seed, "affinity", 0, ids)
    opened = delivered & (draw("open") < rates.opened * affinity)
    clicked = opened & (draw("click") < rates.clicked)
    complained = opened & (draw("complaint") < rates.complained)
    left = delivered & (draw("unsubscribe") < rates.unsubscribed)

    arrival = 1 + 59 * draw("arrival")
    open_delay = arrival + np.minimum(-np.log1p(-draw("open delay")) * 3 * 3600, 72 * 3600)
    after_open = 5 + 295 * draw("click delay")
    parts = [
        _part(delivered, "delivered", "", arrival),
        _part(hard, "bounce", "hard", arrival),
        _part(soft, "bounce", "soft", arrival * 20),
        _part(opened, "open", "", open_delay),
        _part(clicked, "click", "", open_delay + after_open),
        _part(complained, "complaint", "", open_delay + 2 * after_open),
        _part(left, "unsubscribe", "", open_delay + 3 * after_open),
    ]
    return pa.concat_tables(parts)


def _part(chosen: np.ndarray, kind: str, detail: str, seconds: np.ndarray) -> pa.Table:
    rows = np.flatnonzero(chosen)
    return pa.table(
        {
            "row": pa.array(rows, pa.int64()),
            "type": pa.array([kind] * len(rows), pa.string()),
            "detail": pa.array([detail] * len(rows), pa.string()),
            "delay_us": pa.array((seconds[rows] * 1_000_000).astype(np.int64), pa.int64()),
        }
    )
