"""How much of a topic is refused, and of whom: a bad event is its own affair, a bad producer is its topic's.

Where most of what a source sends is refused, the source is wrong (another schema, another topic's data, a clock).
Others may write to the same topic, so it is told and the good ones are taken in as before. Where it is all that
writes there, or all of them are wrong, going on would drop the topic in the dead-letter topic record by record. The
verdict rests on counts alone, so the same records give the same verdict at any speed and in any batches.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from schemas.deadletter import Refused

#: Sources of a topic that are remembered, the latest ones.
MOST_SOURCES: Final = 256


class SourceRefused(NamedTuple):
    """A source most of whose newest records were refused."""

    topic: str
    source: str
    """``unknown`` for all that name none."""
    reasons: Mapping[str, float]
    """Reason -> share of the source's newest records that were refused for it."""


class _Source:
    """The newest records of one source."""

    __slots__ = ("bad", "seen")

    def __init__(self) -> None:
        self.seen = 0
        self.bad: deque[tuple[int, str]] = deque()
        """(place among its records from 1, reason), oldest first."""

    def slide(self, window: int) -> None:
        bad, gone = self.bad, self.seen - window
        while bad and bad[0][0] <= gone:
            bad.popleft()


class RefusalLimit:
    """A sliding window over the newest records of each source of each topic.

    Args:
        share: more refused records than this share of the window are too many; 1 allows everything.
        window: length in records. A source that sent fewer is never refused.

    Example:
        >>> limit = RefusalLimit(0.5, 100)
        >>> limit.observe("clickstream", ["shop"] * 1_000, [])
        False
        >>> limit.refused("clickstream")
        []
    """

    def __init__(self, share: float, window: int) -> None:
        self._allowed = share * window
        self._window = window
        self._sources: dict[str, OrderedDict[str, _Source]] = {}

    def observe(self, topic: str, sources: Sequence[str], refused: Iterable[tuple[int, Refused]]) -> bool:
        """Take note of a batch.

        Args:
            sources: of each record, in order.
            refused: (place in the batch, refused record) of those refused, in order.

        Returns:
            Whether somewhere in the batch every source that is known of the topic was refused.
        """
        known = self._sources.setdefault(topic, OrderedDict())
        reasons = {place: refusal.reason for place, refusal in refused}
        if not reasons:  # nothing becomes worse
            for name, count in Counter(sources).items():
                self._source(known, name).seen += count
            return False
        unfit = False
        for place, name in enumerate(sources):
            source = self._source(known, name)
            source.seen += 1
            if place in reasons:
                source.bad.append((source.seen, reasons[place]))
                unfit = unfit or (self._is_over(source) and all(map(self._is_over, known.values())))
        return unfit

    def refused(self, topic: str) -> list[SourceRefused]:
        """The sources of a topic that are refused as it stands."""
        found = []
        for name, source in self._sources.get(topic, {}).items():
            if self._is_over(source):
                counts = Counter(reason for _, reason in source.bad)
                reasons = {reason: count / self._window for reason, count in counts.most_common()}
                found.append(SourceRefused(topic, name, reasons))
        return found

    def _is_over(self, source: _Source) -> bool:
        if source.seen < self._window or len(source.bad) <= self._allowed:
            return False
        source.slide(self._window)
        return len(source.bad) > self._allowed

    def _source(self, known: OrderedDict[str, _Source], name: str) -> _Source:
        source = known.get(name)
        if source is None:
            source = known[name] = _Source()
            if len(known) > MOST_SOURCES:
                known.popitem(last=False)
        else:
            known.move_to_end(name)
        return source
