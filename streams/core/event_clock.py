"""How far event time has come on one topic of a partition: as far as several customers confirm.

One client whose clock is fast must not make everybody else late. So event time is not the newest time seen, but the
k-th newest among the last 2k - 1 distinct customers: with all of them known, their median, which is wrong only where
most of the last few customers are. What a record confirms is the lesser of its event time and its Kafka timestamp, so
a fast client behind an honest producer confirms nothing that has not come.

It is a function of the log: equal records with equal timestamps give equal times, in whatever batches they come.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from struct import Struct
from typing import Final
from zlib import crc32

NOT_OBSERVED_MS: Final = -1
_CONFIRMED: Final = Struct("<Iq")


class EventClock:
    """Event time of one topic; never goes back.

    Args:
        keys: k. Where fewer customers are known, the oldest of their times counts; one alone says nothing, unless k
            is 1.
        newest_ms: where it stood, :data:`NOT_OBSERVED_MS` for a topic that said nothing yet.
        confirmed: what :meth:`encode` gave.

    Example:
        >>> clock = EventClock(2)
        >>> for key, at_ms in ((b"a", 10), (b"fast", 9_000), (b"b", 11), (b"c", 12)):
        ...     clock.confirm(key, at_ms)
        >>> clock.newest_ms
        12
    """

    __slots__ = ("_by_key", "_keys", "_sorted", "_spoke", "_spoke_ms", "newest_ms")

    def __init__(self, keys: int, newest_ms: int = NOT_OBSERVED_MS, confirmed: bytes = b"") -> None:
        self.newest_ms = newest_ms
        self._keys = keys
        self._by_key: dict[int, int] = dict(_CONFIRMED.iter_unpack(confirmed))
        """Hash of a key -> the newest time it confirmed; who spoke last stands last."""
        self._sorted = sorted(self._by_key.values())
        self._spoke, self._spoke_ms = b"", 0
        """Key of the last record, and the time that it confirmed."""

    def confirm(self, key: bytes, at_ms: int) -> None:
        """A customer's record says that event time has come to ``at_ms``."""
        if key == self._spoke and at_ms <= self._spoke_ms:
            return  # as the lines of one order: nothing would change
        by_key, times, keys = self._by_key, self._sorted, self._keys
        name = crc32(key)
        known_ms = by_key.pop(name, None)
        if known_ms is None and len(by_key) == 2 * keys - 1:
            known_ms = by_key.pop(next(iter(by_key)))
        elif known_ms is not None and known_ms > at_ms:
            at_ms = known_ms
        if known_ms is not None:
            del times[bisect_left(times, known_ms)]
        by_key[name] = self._spoke_ms = at_ms
        self._spoke = key
        insort(times, at_ms)
        known = len(times)
        if known >= min(keys, 2) and (confirmed_ms := times[-keys] if known >= keys else times[0]) > self.newest_ms:
            self.newest_ms = confirmed_ms

    def beat(self, at_ms: int) -> None:
        """A heartbeat: whoever may send one speaks for the whole topic."""
        if at_ms > self.newest_ms:
            self.newest_ms = at_ms

    @property
    def latest_ms(self) -> int:
        """The newest time that any of the last customers confirmed; :data:`NOT_OBSERVED_MS` where none did."""
        return max(self.newest_ms, self._sorted[-1]) if self._sorted else self.newest_ms

    @property
    def quiet_ms(self) -> int:
        """Event time of a topic that has fallen silent: what its only customer said counts then, too."""
        if self.newest_ms == NOT_OBSERVED_MS and self._sorted:
            return self._sorted[0]
        return self.newest_ms

    def encode(self) -> bytes:
        """What :meth:`confirm` has to remember, 12 bytes a customer."""
        return b"".join([_CONFIRMED.pack(name, at_ms) for name, at_ms in self._by_key.items()])
