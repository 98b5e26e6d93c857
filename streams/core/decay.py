"""Exponential decay that gives the same bits on every machine.

``exp2`` differs between C libraries in the last bit, and state is compared byte for byte. Here a
half-life is cut into 256 ticks of absolute time, the 256 fractional powers come from decimal
arithmetic, and the rest is multiplication and scaling, which IEEE 754 defines exactly. Ticks are
absolute, so decaying in many small steps equals one large step but for rounding.
"""

from __future__ import annotations

from decimal import Context, Decimal
from functools import lru_cache
from math import ldexp
from typing import Final

_TICKS: Final = 256
_CONTEXT: Final = Context(prec=40)
_POWERS: Final = tuple(float(_CONTEXT.power(Decimal(2), Decimal(tick) / _TICKS)) for tick in range(_TICKS))

# 2030-01-01T00:00:00Z: forward weights of 2000 to 2100 fit a double for half-lives of 27 days and more.
LANDMARK_MS: Final = 1_893_456_000_000
MIN_FORWARD_HALF_LIFE_MS: Final = 27 * 86_400_000


@lru_cache(maxsize=4_096)
def power(ticks: int) -> float:
    """``2 ** (ticks / 256)``, zero where that is too small for a double."""
    return ldexp(_POWERS[ticks & 255], ticks >> 8)


def factor(from_ms: int, to_ms: int, half_life_ms: int) -> float:
    """What is left at ``to_ms`` of one unit at ``from_ms``."""
    return power((from_ms * _TICKS) // half_life_ms - (to_ms * _TICKS) // half_life_ms)


@lru_cache(maxsize=1_024)  # the lines of one order share an instant
def forward_weight(ts_ms: int, half_life_ms: int) -> float:
    """Weight of an event at ``ts_ms``, seen from a fixed landmark.

    Forward decay (Cormode, Shkapenyuk, Srivastava, Xu: Forward Decay, ICDE 2009): weights are only ever
    added and can be compared without knowing the time, because every one of them decays alike.
    """
    return power(((ts_ms - LANDMARK_MS) * _TICKS) // half_life_ms)


def present_weight(forward: float, as_of_ms: int, half_life_ms: int) -> float:
    """A sum of forward weights as it counts at ``as_of_ms``."""
    return forward * power(-(((as_of_ms - LANDMARK_MS) * _TICKS) // half_life_ms))
