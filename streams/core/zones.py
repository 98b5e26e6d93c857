"""Times of day as customers see them."""

from __future__ import annotations

from typing import Final, Protocol


class Zones(Protocol):
    """The time zones that are known. The tables are the shell's: the core reads no files."""

    def offset_ms(self, zone: str, ts_ms: int) -> int | None:
        """What local time is ahead of UTC at a moment, negative where it is behind; None for a zone not known."""


class UtcOnly:
    """Knows no zone but UTC."""

    def offset_ms(self, zone: str, ts_ms: int) -> int | None:
        return 0 if zone == "UTC" else None


UTC_ONLY: Final = UtcOnly()
