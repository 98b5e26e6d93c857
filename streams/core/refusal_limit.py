"""How much of a topic is refused: a bad event is its own affair, a bad topic is everybody's.

Where most of what comes is refused, the topic is wrong (another schema, another topic's data, a broken producer), and
going on would drop it in the dead-letter topic record by record. The verdict rests on counts alone, so the same records
give the same verdict at any speed and in any batches.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import NamedTuple

from schemas.deadletter import Refused
from schemas.errors import TopicUnfit


class _Bad(NamedTuple):
    number: int
    """Place among all records of the topic that this worker took in."""
    reason: str


class RefusalLimit:
    """A sliding window over the newest records of each topic.

    Args:
        share: more refused records than this share of the window are too many; 1 allows everything.
        window: length in records. Fewer than that never reach the limit.

    Example:
        >>> limit = RefusalLimit(0.5, 100)
        >>> limit.observe("clickstream", 1_000, [])
        >>> limit.share("clickstream")
        0.0
    """

    def __init__(self, share: float, window: int) -> None:
        self._allowed = share * window
        self._window = window
        self._seen: Counter[str] = Counter()
        self._bad: dict[str, deque[_Bad]] = {}

    def share(self, topic: str) -> float:
        """Refused share of the window as it stands, 0 to 1."""
        self._slide(topic, self._seen[topic])
        return len(self._bad.get(topic, ())) / min(self._window, max(1, self._seen[topic]))

    def observe(self, topic: str, records: int, refused: Iterable[tuple[int, Refused]]) -> None:
        """Take note of a batch.

        Args:
            records: how many came.
            refused: (place in the batch, refused record) of those refused, in order.

        Raises:
            TopicUnfit: somewhere in the batch the window held too many.
        """
        before = self._seen[topic]
        self._seen[topic] = before + records
        for place, refusal in refused:
            number = before + place
            self._bad.setdefault(topic, deque()).append(_Bad(number, refusal.reason))
            self._slide(topic, number + 1)
            if number + 1 >= self._window and len(self._bad[topic]) > self._allowed:
                self._refuse(topic)

    def _slide(self, topic: str, end: int) -> None:
        bad = self._bad.get(topic)
        while bad and bad[0].number < end - self._window:
            bad.popleft()

    def _refuse(self, topic: str) -> None:
        bad = self._bad[topic]
        ((reason, count),) = Counter(entry.reason for entry in bad).most_common(1)
        raise TopicUnfit(
            f"{len(bad):,} of the last {self._window:,} records of {topic} were refused "
            f"({len(bad) / self._window:.0%}), {count:,} of them as {reason}: the topic is wrong, and not the event. "
            f"Nothing of them is committed. See `pulsegraph dead-letters list --topic {topic} --reason {reason}`, "
            "correct whoever writes there, then start the worker again; PULSEGRAPH_INGEST_REFUSED_SHARE=1 lets it go "
            "on with what is good"
        )
