"""Whether a worker is alive, and whether it is ready; asked by threads that are not the event loop's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

#: An event loop that did nothing for so long hangs: no batch and no commit takes it from the loop for that long.
STUCK_S: Final = 60.0


class Watched(Protocol):
    """A role's runner, as :class:`streams.runtime.runner.RoleRunner` is."""

    @property
    def name(self) -> str: ...

    @property
    def owned(self) -> frozenset[int] | None: ...

    def fail(self, exc: BaseException) -> None: ...


class Health:
    """What one process says of itself.

    Args:
        runners: of its roles.
        silence_s: without an answer from the broker for so long, the worker is not ready.
        clock: monotonic, in seconds.

    Example:
        >>> Health([], silence_s=30.0, clock=lambda: 0.0).unready()
        ['the broker has not answered yet']
    """

    def __init__(
        self, runners: Sequence[Watched], *, silence_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.silence_s = silence_s
        self._runners = runners
        self._clock = clock
        self._beat_s = clock()
        self._heard_s: float | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def beat(self) -> None:
        """Called by the event loop about every second."""
        self._loop = self._loop or asyncio.get_running_loop()
        self._beat_s = self._clock()

    def heard(self) -> None:
        """The broker has answered."""
        self._heard_s = self._clock()

    @property
    def broker_is_silent(self) -> bool:
        """Whether what is known of the broker is too old to be told."""
        return self._heard_s is None or self._clock() - self._heard_s > self.silence_s

    @property
    def is_alive(self) -> bool:
        """Whether the event loop does its work. A broker that is away is no reason to be restarted."""
        return self._clock() - self._beat_s < STUCK_S

    def unready(self) -> list[str]:
        """What is missing; nothing where every role has joined its group and restored what it got there.

        A role without partitions is ready: there are more workers than partitions, and it waits for one to go.
        The model is loaded before anybody can ask.
        """
        missing = [
            f"{runner.name} has no partitions yet, or restores them" for runner in self._runners if runner.owned is None
        ]
        if self._heard_s is None:
            missing.append("the broker has not answered yet")
        elif self.broker_is_silent:
            missing.append(f"the broker has not answered for {self._clock() - self._heard_s:.0f} s")
        return missing

    def summary(self) -> str:
        """The roles with their partitions, on a line."""
        return ", ".join(f"{runner.name} {_spans(runner.owned or ()) or 'in reserve'}" for runner in self._runners)

    def fail(self, error: Exception) -> None:
        """End every role."""
        if self._loop is not None:
            for runner in self._runners:
                self._loop.call_soon_threadsafe(runner.fail, error)


def _spans(numbers: Iterable[int]) -> str:
    """Numbers in brief.

    Example:
        >>> _spans([3, 0, 1, 2, 7])
        '0-3 7'
    """
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and spans[-1][-1] == number - 1:
            spans[-1] = [spans[-1][0], number]
        else:
            spans.append([number, number])
    return " ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
