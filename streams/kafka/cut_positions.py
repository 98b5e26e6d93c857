"""Where the log was cut in front of a reader: aiokafka's positions, which remember it.

A reader whose position the broker has no more starts over at the first offset there is, and aiokafka says so in a line
of INFO. What lay between the two was never read. Only this makes such a gap: compacted records, aborted ones and the
markers of transactions are passed over within a fetch, and no position goes out of range for them.
"""

from __future__ import annotations

from typing import Any

from aiokafka.consumer import subscription_state
from aiokafka.consumer.subscription_state import TopicPartitionState

Cut = tuple[int, int]
"""First offset that was not read, and first one that is still there."""


class WatchedState(TopicPartitionState):  # type: ignore[misc]  # aiokafka says nothing of types
    """The position in one partition, for as long as an assignment lasts."""

    def __init__(self, assignment: Any) -> None:
        super().__init__(assignment)
        self._cuts: list[Cut] = []
        self._lost_at: int | None = None

    def await_reset(self, strategy: Any) -> None:
        # Of a log that was never read from, 0 is no place but its beginning, wherever that is by now.
        if self.has_valid_position and (self.position or self.highwater is not None):
            self._lost_at = self.position
        super().await_reset(strategy)

    def reset_to(self, position: int) -> None:
        super().reset_to(position)
        lost_at, self._lost_at = self._lost_at, None
        if lost_at is not None and position > lost_at:
            self._cuts.append((lost_at, position))

    def take_cuts(self) -> list[Cut]:
        """What was found since the last call."""
        cuts, self._cuts = self._cuts, []
        return cuts


def watch() -> None:
    """Have aiokafka keep its positions as :class:`WatchedState`; it offers no other way in."""
    subscription_state.TopicPartitionState = WatchedState
