"""Decayed counters and the feature vector made of them."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final

from schemas import features
from streams.core.config import DAY_MS
from streams.core.decay import factor

_HALF_LIVES_MS: Final = tuple(days * DAY_MS for days in features.HALF_LIFE_DAYS)
_ZEROS: Final = (0.0, 0.0, 0.0)
_ONES: Final = (1.0, 1.0, 1.0)

#: Last touch in ms, then one decayed sum per half-life, as of that touch.
Counter = tuple[int, float, float, float]

_PACK: Final = struct.Struct(f"<{features.SIZE}f").pack


def add(counters: dict[str, Counter], name: str, ts_ms: int, amount: float) -> None:
    """Add ``amount`` at ``ts_ms``; times never decrease between calls."""
    counter = counters.get(name)
    if counter is None:
        counters[name] = (ts_ms, amount, amount, amount)
        return
    last_ms, short, middle, long = counter
    if last_ms != ts_ms:
        of_short, of_middle, of_long = _left(last_ms, ts_ms)
        short, middle, long = short * of_short, middle * of_middle, long * of_long
    counters[name] = (ts_ms, short + amount, middle + amount, long + amount)


def sums(counters: dict[str, Counter], name: str, as_of_ms: int) -> tuple[float, float, float]:
    """Decayed sums of ``name`` as of a time, one per half-life."""
    counter = counters.get(name)
    if counter is None:
        return _ZEROS
    last_ms, short, middle, long = counter
    of_short, of_middle, of_long = _left(last_ms, as_of_ms)
    return short * of_short, middle * of_middle, long * of_long


def pack(scalars: list[float], counters: dict[str, Counter], as_of_ms: int) -> bytes:
    """float32 little-endian vector in the order of :data:`schemas.features.NAMES`.

    Args:
        scalars: values of the names before the decayed sums, in order.
    """
    values, factors_ms, factors = list(scalars), as_of_ms, _ONES
    for name in features.COUNTED:
        counter = counters.get(name)
        if counter is None:
            values += _ZEROS
            continue
        last_ms, short, middle, long = counter
        if last_ms != factors_ms:  # most were touched by the same event
            factors_ms, factors = last_ms, _left(last_ms, as_of_ms)
        of_short, of_middle, of_long = factors
        values += (short * of_short, middle * of_middle, long * of_long)
    return _PACK(*values)


@lru_cache(maxsize=4_096)
def _left(from_ms: int, to_ms: int) -> tuple[float, float, float]:
    """What is left of one unit, per half-life: a customer's counters were mostly touched by the same few events."""
    short_ms, middle_ms, long_ms = _HALF_LIVES_MS
    return factor(from_ms, to_ms, short_ms), factor(from_ms, to_ms, middle_ms), factor(from_ms, to_ms, long_ms)
