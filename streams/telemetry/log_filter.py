"""Logs that stay readable while a broker is away."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

EVERY_S: Final = 10.0


class OnceInAWhile(logging.Filter):
    """Passes what a library says about one thing once in :data:`EVERY_S`, with how often it was said since.

    Without a broker, aiokafka logs some hundred lines a second about every address.

    Args:
        library: logger whose records are held back; others pass.
        clock: seconds, monotonic.
    """

    def __init__(self, library: str, clock: Callable[[], float]) -> None:
        super().__init__()
        self._library = library
        self._clock = clock
        self._heard: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.partition(".")[0] != self._library:
            return True
        now_s, thing = self._clock(), (record.name, str(record.msg))
        last_s, held_back = self._heard.get(thing, (-EVERY_S, 0))
        if now_s - last_s < EVERY_S:
            self._heard[thing] = last_s, held_back + 1
            return False
        self._heard[thing] = now_s, 0
        if held_back:
            record.msg = f"{record.msg} (and {held_back} more like it)"
        return True
