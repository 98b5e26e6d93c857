"""A limit on what one customer may say in a minute: a bot, or an id that everybody shares, must not starve the others.

Beyond the limit one event in so many is taken, chosen by its id, and the others are counted and dropped. It is a
function of the topic's log: the minute is that of the record's Kafka timestamp, and only clickstream events count, in
the order of their offsets. Orders and what is given back are never dropped, since sums of money rest on them.
"""

from __future__ import annotations

import msgspec

from schemas.events import Clickstream, Said
from streams.core.baskets import is_return
from streams.core.config import MINUTE_MS, CoreConfig


class Pace(msgspec.Struct, array_like=True, gc=False):
    """How many limited events a customer has sent in the newest minute.

    Example:
        >>> pace = Pace()
        >>> [pace.exceeds(at_ms, 2) for at_ms in (0, 1, 2, 60_000, 59_999, 60_001)]
        [False, False, True, False, False, True]
    """

    minute: int = 0
    events: int = 0

    def exceeds(self, at_ms: int, limit: int) -> bool:
        """Count one event; whether there are more than ``limit`` in its minute. Time that goes back is the newest."""
        minute = at_ms // MINUTE_MS
        if minute > self.minute:
            self.minute, self.events = minute, 0
        self.events += 1
        return self.events > limit


def is_sampled_out(pace: Pace, body: Said, uid: int, at_ms: int, config: CoreConfig) -> bool:
    """Count an event in, and say whether it is to be dropped.

    Args:
        uid: hash of its id.
        at_ms: Kafka timestamp of its record.
    """
    limit = config.key_limit_per_minute
    return (
        limit > 0
        and isinstance(body, Clickstream)
        and body.event != "purchase"
        and not is_return(body)
        and pace.exceeds(at_ms, limit)
        and uid % config.key_sample != 0
    )
