"""Whether something is of before an erasure, for whoever meets it afterwards."""

from __future__ import annotations

import struct
from collections import OrderedDict
from typing import Final

from schemas import features
from schemas.snapshot import Snapshot
from streams.core.config import DAY_MS

_FIRST: Final = features.INDEX["days_since_first"]
_REMEMBERED: Final = 100_000


def is_of_before(snapshot: Snapshot, erased_ms: int | None) -> bool:
    """Whether a snapshot holds events from up to ``erased_ms``.

    One that was taken before the order to erase came in may be of a later event time: its first event tells.
    """
    if erased_ms is None:
        return False
    days = struct.unpack_from("<f", snapshot.features, 4 * _FIRST)[0]
    return bool(snapshot.as_of_ms - max(0.0, days) * DAY_MS <= erased_ms)


class Erasures:
    """Who was erased, and when: the newest some, so that what comes late of them is known."""

    def __init__(self) -> None:
        self._erased_ms: OrderedDict[str, int] = OrderedDict()

    def add(self, customer_id: str, erased_ms: int) -> None:
        self._erased_ms[customer_id] = max(erased_ms, self._erased_ms.pop(customer_id, erased_ms))
        if len(self._erased_ms) > _REMEMBERED:
            self._erased_ms.popitem(last=False)

    def bring_back(self, snapshot: Snapshot) -> bool:
        """Whether a snapshot would bring back somebody who was erased."""
        return is_of_before(snapshot, self._erased_ms.get(snapshot.customer_id))
