"""How far an assignment was read, and what may be committed of it: also past what is no record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from faust.types import TP

from streams.kafka.cut_positions import Cut, WatchedState


class ReadPlaces:
    """One assignment's; belongs to the consumer's thread.

    A position also moves past what is no record. Where the role accounts for the last record that came, the position
    may be committed instead of the offset behind that record: nothing that counts lies between them.

    Args:
        assignment: aiokafka's, or None before the first.
    """

    def __init__(self, assignment: Any) -> None:
        self.assignment = assignment
        self.committed: dict[Any, int] = {}
        self._read: dict[Any, int] = {}  # behind the last record, or where reading began
        self._accounted: dict[Any, int] = {}  # what the role would commit

    def begins(self, place: Any, offset: int) -> None:
        self._read[place] = self._accounted[place] = offset

    def came(self, records: Mapping[Any, Sequence[Any]]) -> None:
        for place, batch in records.items():
            self._read[place] = batch[-1].offset + 1

    def accounted(self, place: Any, offset: int) -> None:
        self._accounted[place] = offset

    def beyond(self, place: Any, offset: int) -> int:
        """What may be committed where the role accounts for what comes before ``offset``."""
        state = self._state(place)
        if state is None or not state.has_valid_position or self._read.get(place) != offset:
            return offset
        return max(offset, int(state.position))

    def passed(self) -> dict[Any, int]:
        """What the role accounts for, of partitions where the position is further than what was committed."""
        return {
            place: offset
            for place, offset in self._accounted.items()
            if self.beyond(place, offset) > self.committed.get(place, offset)
        }

    def cuts(self) -> list[tuple[TP, Cut]]:
        """Where the log was cut in front of a position since the last call."""
        if self.assignment is None:
            return []
        states = ((place, self._state(place)) for place in self.assignment.tps)
        return [(TP(*place), cut) for place, state in states if state is not None for cut in state.take_cuts()]

    def _state(self, place: Any) -> WatchedState | None:
        return self.assignment.state_value(place) if self.assignment is not None else None
