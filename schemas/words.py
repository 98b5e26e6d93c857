"""The grammar of the customer language: the words that events and sessions are written in.

The core writes words, a :class:`Lexicon` turns them into token ids. Words are either *markers* in
brackets or ``field:value`` pairs; free text (titles, queries) goes through the same vocabulary's
sub-words.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final, Protocol

SESSION: Final = "[SESSION]"
SESSION_END: Final = "[/SESSION]"
LATE: Final = "[LATE]"
"""In front of an event that came too late for its place."""

#: Upper bounds of the gap buckets, in hours, and their names: ``[GAP:3d]`` is "at least 2, under 3 days".
_GAP_BOUNDS_H: Final = (1, 3, 6, 12, 24, 48, 72, 120, 168, 240, 336, 504, 720, 1440, 2160)
GAPS: Final = (
    "1h", "3h", "6h", "12h", "1d", "2d", "3d", "5d", "7d", "10d", "14d", "21d", "30d", "60d", "90d", "long",
)  # fmt: skip
GAP_MARKERS: Final = tuple(f"[GAP:{gap}]" for gap in GAPS)
FIRST_GAP: Final = "[GAP:none]"
HOUR_MARKERS: Final = tuple(f"[HOUR:{hour}]" for hour in range(24))
DAY_MARKERS: Final = tuple(f"[DAY:{day}]" for day in ("mon", "tue", "wed", "thu", "fri", "sat", "sun"))

_PRICE_BOUNDS: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1024.0)
PRICE_WORDS: Final = tuple(f"price:p{band}" for band in range(len(_PRICE_BOUNDS) + 1))

CUSTOM_EVENT: Final = "evt:custom"

#: Every word that a vocabulary must hold, whatever the data.
FIXED: Final = (
    SESSION, SESSION_END, LATE, FIRST_GAP, *GAP_MARKERS, *HOUR_MARKERS, *DAY_MARKERS, *PRICE_WORDS, CUSTOM_EVENT,
)  # fmt: skip

_HOUR_MS: Final = 3_600_000
_EPOCH_WEEKDAY: Final = 3  # 1970-01-01 was a Thursday


class Lexicon(Protocol):
    """Words to token ids. Ids are returned as uint16 little-endian bytes, ready to append to a timeline."""

    @property
    def fingerprint(self) -> str:
        """Changes when any word's id changes."""

    def word(self, word: str) -> bytes | None:
        """Two bytes for a word the vocabulary holds, None for one it does not."""

    def text(self, text: str) -> bytes:
        """Sub-word ids of free text, at most a few; empty where nothing of it is known."""


def gap_marker(gap_ms: int | None) -> str:
    """Marker for the time since the session before; ``None`` for a customer's first session."""
    return FIRST_GAP if gap_ms is None else GAP_MARKERS[bisect_right(_GAP_BOUNDS_H, gap_ms // _HOUR_MS)]


def hour_marker(ts_ms: int) -> str:
    return HOUR_MARKERS[ts_ms // _HOUR_MS % 24]


def day_marker(ts_ms: int) -> str:
    return DAY_MARKERS[(ts_ms // (24 * _HOUR_MS) + _EPOCH_WEEKDAY) % 7]


def price_word(price: float) -> str:
    return PRICE_WORDS[bisect_right(_PRICE_BOUNDS, price)]
