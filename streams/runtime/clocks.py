"""The two clocks of a worker, handed in from outside so that tests can turn them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import msgspec


class Clocks(msgspec.Struct, frozen=True):
    """Both in milliseconds."""

    monotonic_ms: Callable[[], int]
    """Since some moment, whatever is done to the wall clock: for all that lasts."""
    wall_ms: Callable[[], int]
    """Since the epoch: for what is compared with other machines' times."""


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


SYSTEM_CLOCKS: Final = Clocks(_monotonic_ms, _wall_ms)
