"""How fast a replay may go: a rate of its own, and no further ahead than its consumers can follow."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

from schemas.errors import ConfigError

_LOOKS_PER_S: Final = 50
_UNPACED_STRIDE: Final = 4_096
_BACKLOG_EVERY_S: Final = 0.25
_HOLD_S: Final = 0.05


class Pacer:
    """Holds its caller while it is ahead of ``rate`` or of its consumers.

    A stall is not caught up later with a burst of more than a fiftieth of a second's records: after one, the
    rate counts from now.

    Args:
        rate: records per second; None for as fast as it goes.
        backlog: records that consumers have not processed yet. Called four times a second at most.
        max_backlog: records of backlog at which the replay holds.
        clock: seconds, monotonic.
        sleep: waits for the seconds given.
    """

    def __init__(
        self,
        rate: float | None = None,
        *,
        backlog: Callable[[], int] | None = None,
        max_backlog: int = 100_000,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        if rate is not None and not 0 < rate < math.inf:
            raise ConfigError(f"rate is {rate}: give events per second above 0, or none for no limit")
        self.rate = rate
        """May be changed while a replay runs, if it had one to begin with."""
        self._backlog = backlog
        self._max_backlog = max_backlog
        self._clock = clock
        self._sleep = sleep
        self.stride: Final = _UNPACED_STRIDE if rate is None else max(1, min(_UNPACED_STRIDE, int(rate / _LOOKS_PER_S)))
        """Records after which to call :meth:`wait` again."""
        self._due_s = clock()
        self._polled_s = self._due_s - _BACKLOG_EVERY_S

    def wait(self, records: int) -> None:
        """Return once the ``records`` handed over since the last call are within the pace."""
        if self._backlog is not None and self._clock() - self._polled_s >= _BACKLOG_EVERY_S:
            while self._backlog() > self._max_backlog:
                self._sleep(_HOLD_S)
            self._polled_s = self._clock()
        if self.rate is None:
            return
        self._due_s += records / self.rate
        ahead_s = self._due_s - self._clock()
        if ahead_s > 0:
            self._sleep(ahead_s)
        else:
            self._due_s = max(self._due_s, self._clock() - 1 / _LOOKS_PER_S)
