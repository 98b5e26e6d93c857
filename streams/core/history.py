"""A customer's closed sessions: about a year of them, each in 40 bytes.

New entries are kept apart from older ones, which change only when so many have come that both are merged. Then all but
the newest are pooled by month, and the oldest months go.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Final

import msgspec

from schemas.snapshot import SESSION, Session, sessions
from schemas.words import NOTHING

FRESH_ENTRIES: Final = 16
SINGLE_ENTRIES: Final = 96
"""Older entries that stay as they are; the rest is pooled."""
MONTHS: Final = 12
_U8: Final = 0xFF
_U16: Final = 0xFFFF
_MOST_KINDS: Final = 64
"""Categories and items that are counted in one session; a basket of more has its main ones among the first."""
_CATEGORIES: Final = 3
_ITEMS: Final = 2


class History(msgspec.Struct, array_like=True, gc=False):
    """Entries as :func:`schemas.snapshot.sessions` reads them."""

    fresh: bytes = b""
    merges: int = 0
    """How many there were: ``older`` is of the last one."""
    older: bytes = b""
    """Not part of the customer's record, but a piece of its own."""

    def copy(self) -> History:
        return History(self.fresh, self.merges, self.older)

    @property
    def entries(self) -> bytes:
        return self.older + self.fresh

    def add(self, entry: Session) -> None:
        self.fresh += SESSION.pack(*entry)
        if len(self.fresh) >= FRESH_ENTRIES * SESSION.size:
            self.older = _pooled(self.entries)
            self.fresh = b""
            self.merges += 1


class Tally(msgspec.Struct, array_like=True, gc=False):
    """What the next entry will say, as far as it has come."""

    value: float = 0.0
    channel: bytes = b""
    messages: int = 0
    redemptions: int = 0
    categories: dict[bytes, int] = {}
    items: dict[bytes, int] = {}

    def copy(self) -> Tally:
        return Tally(
            self.value, self.channel, self.messages, self.redemptions, self.categories.copy(), self.items.copy()
        )

    def entry(self, start_ms: int, end_ms: int, local_start_ms: int, events: int, sessions: int = 1) -> Session:
        """The session as it is remembered."""
        return Session(
            start_ms // 1000,
            min(_U16, (end_ms - start_ms) // 60_000),
            min(_U16, events),
            self.value,
            _number(self.channel),
            local_hour(local_start_ms),
            sessions,
            min(_U8, self.messages),
            min(_U8, self.redemptions),
            *_most(self.categories, _CATEGORIES),
            *_most(self.items, _ITEMS),
        )


def count(counts: dict[bytes, int], word: bytes) -> None:
    """One more line of a category or item."""
    if word in counts:
        counts[word] += 1
    elif len(counts) < _MOST_KINDS:
        counts[word] = 1


def local_hour(local_ms: int) -> int:
    """Hour of the week, 0 is Monday 00:00."""
    return (local_ms // 3_600_000 + 72) % 168  # 1970-01-01 was a Thursday: hour 72 of a week that begins on Monday


def _number(word: bytes) -> int:
    return int.from_bytes(word or NOTHING, "little")


def _most(counts: dict[bytes, int], places: int) -> list[int]:
    """The words of most lines; the first of them where some have as many."""
    ranked = sorted(counts.items(), key=lambda item: -item[1])[:places]
    return [_number(word) for word, _ in ranked] + [0] * (places - len(ranked))


def _pooled(entries: bytes) -> bytes:
    """All but the newest by month."""
    single = len(entries) - SINGLE_ENTRIES * SESSION.size
    if single <= 0:
        return entries
    months: dict[tuple[int, int], list[Session]] = {}
    for entry in sessions(entries[:single]):
        began = datetime.fromtimestamp(entry.start_s, UTC)
        months.setdefault((began.year, began.month), []).append(entry)
    pooled = [_month(months[month]) for month in sorted(months)[-MONTHS:]]
    return b"".join([SESSION.pack(*entry) for entry in pooled]) + entries[single:]


def _month(entries: list[Session]) -> Session:
    """Sums; of words and hours those of most sessions, as far as the entries tell."""
    if len(entries) == 1:
        return entries[0]
    votes: Counter[int] = Counter()
    items: Counter[int] = Counter()
    channels: Counter[int] = Counter()
    hours: Counter[int] = Counter()
    for entry in entries:
        weight = max(1, entry.sessions)
        channels[entry.channel] += weight
        hours[entry.local_hour] += weight
        for place, word in enumerate((entry.category, entry.second_category, entry.third_category)):
            votes[word] += weight * (_CATEGORIES - place)
        for place, word in enumerate((entry.item, entry.second_item)):
            items[word] += weight * (_ITEMS - place)
    return Session(
        min(entry.start_s for entry in entries),
        min(_U16, sum(entry.minutes for entry in entries)),
        min(_U16, sum(entry.events for entry in entries)),
        sum(entry.value for entry in entries),
        _winners(channels, 1)[0],
        max(hours, key=lambda hour: (hours[hour], -hour)),
        min(_U8, sum(entry.sessions for entry in entries)),
        min(_U8, sum(entry.messages for entry in entries)),
        min(_U8, sum(entry.redemptions for entry in entries)),
        *_winners(votes, _CATEGORIES),
        *_winners(items, _ITEMS),
    )


def _winners(votes: Counter[int], places: int) -> list[int]:
    """Ties go by word; 0 is none."""
    ranked = sorted((-votes[word], word) for word in votes if word)[:places]
    return [word for _, word in ranked] + [0] * (places - len(ranked))
