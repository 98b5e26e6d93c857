"""What folding a customer's events needs besides the events."""

from __future__ import annotations

import msgspec

from schemas.words import Words
from streams.core.config import CoreConfig
from streams.core.zones import UTC_ONLY, Zones


class Context(msgspec.Struct, frozen=True, gc=False):
    """What the fold needs besides state and event."""

    config: CoreConfig
    words: Words
    partition: int
    customer_id: str
    zones: Zones = UTC_ONLY

    def local_ms(self, ts_ms: int, zone: str | None) -> int:
        """A moment as a customer's clock shows it, as if that were UTC.

        Args:
            zone: as the profile says it; the company's counts where it says none, or one that is not known.
        """
        company = self.config.timezone
        if zone is None and company == "UTC":
            return ts_ms
        offset_ms = None if zone is None else self.zones.offset_ms(zone, ts_ms)
        if offset_ms is None and company != "UTC":
            offset_ms = self.zones.offset_ms(company, ts_ms)
        return ts_ms + (offset_ms or 0)
