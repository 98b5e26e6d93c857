"""How far event time has come in one partition, over several topics read side by side."""

from __future__ import annotations

from collections.abc import Sequence

from streams.core.event_clock import NOT_OBSERVED_MS, EventClock


class Watermark:
    """The least of the topics' event times, less the lateness bound; never goes back.

    A topic without records holds event time back until it is idle: quiet for ``idle_ms``. When all topics
    are idle, event time advances with the clock. Heartbeats count as records, so a source that sends them is
    never idle and every run is equal. Idle means the source, not the reader: call :meth:`observed` for a
    topic that may hold unread records, or a worker that was away would find them late.

    Args:
        clocks: event time of each topic.
        lateness_ms: how far behind its topic's newest an event may come.
        idle_ms: quiet after which a topic stops counting; 0 for never.
        now_ms: any clock that goes on evenly, at the start; the same one in every call.
    """

    def __init__(
        self, clocks: Sequence[EventClock], lateness_ms: int, idle_ms: int, now_ms: int, floor_ms: int = 0
    ) -> None:
        self.clocks = clocks
        self._lateness_ms = lateness_ms
        self._idle_ms = idle_ms
        self._heard_ms = [now_ms] * len(clocks)
        self.value_ms = floor_ms

    @property
    def newest_ms(self) -> list[int]:
        """Event time per topic, :data:`NOT_OBSERVED_MS` before its first record."""
        return [clock.newest_ms for clock in self.clocks]

    def late_before_ms(self, topic: int) -> int:
        """An event of a topic with an earlier time than this is late now.

        Compared with its own topic first, because that result is in the log and the same in every run; with the
        partition second, for events that a topic brings after it was idle.
        """
        return max(self.clocks[topic].newest_ms - self._lateness_ms, self.value_ms)

    def observe(self, topic: int, event_ts_ms: int, now_ms: int) -> None:
        """A heartbeat came on a topic."""
        self.clocks[topic].beat(event_ts_ms)
        self._heard_ms[topic] = now_ms

    def observed(self, topic: int, now_ms: int) -> None:
        """A topic is not idle: nothing new came, but it may hold unread records."""
        self._heard_ms[topic] = now_ms

    def target_ms(self, now_ms: int) -> int:
        """Where the watermark may go now; events older than this are settled."""
        idle_ms, lateness_ms = self._idle_ms, self._lateness_ms
        if not idle_ms:
            least_ms = min(self.newest_ms)
            return max(self.value_ms, least_ms - lateness_ms) if least_ms != NOT_OBSERVED_MS else self.value_ms
        speaking = [
            clock.newest_ms
            for clock, observed_ms in zip(self.clocks, self._heard_ms, strict=True)
            if now_ms - observed_ms < idle_ms
        ]
        if speaking:
            least_ms = min(speaking)
            return max(self.value_ms, least_ms - lateness_ms) if least_ms != NOT_OBSERVED_MS else self.value_ms
        newest_ms = max(clock.quiet_ms for clock in self.clocks)
        if newest_ms == NOT_OBSERVED_MS:
            return self.value_ms
        quiet_ms = now_ms - max(self._heard_ms) - idle_ms
        return max(self.value_ms, newest_ms + quiet_ms - lateness_ms)

    def advance(self, to_ms: int) -> None:
        self.value_ms = max(self.value_ms, to_ms)
