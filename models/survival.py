"""Time until something happens, in bins of days: labels with censoring, and what hazards say of any horizon.

The hazard of a bin is the probability that it happens there, given that it has not before. A row tells something of
every bin that it was seen through: 0 where nothing came, 1 where it came, nothing of what is behind. So a row that was
followed for 28 days counts for 28 days, and nobody has to be left out or guessed. What is said of a horizon is made of
the same hazards, so it is monotone in it and two horizons never contradict each other.

Source of the idea: Gensheimer and Narasimhan, "A scalable discrete-time survival model for neural networks" (2019);
for the likelihood of a row as that of its bins, Brown, "On the use of indicator variables for studying the
time-dependence of parameters in a response-time model" (1975).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from models.wide import Doubles, Floats

EDGES_DAYS: Final[Doubles] = np.array([0.0, 1.0, 2.0, 4.0, 7.0, 10.0, 14.0, 21.0, 28.0, 42.0, 56.0])
BINS: Final = len(EDGES_DAYS) - 1
MOST_DAYS: Final = float(EDGES_DAYS[-1])
"""What is beyond is not told apart."""
INTERVAL: Final = (0.1, 0.9)
"""Shares between which four of five times lie."""
_LEAST: Final = 1e-9
"""Nothing is sure: so every curve has a logarithm."""


def seen(after_days: Doubles, followed_days: Doubles) -> Floats:
    """What rows tell of each bin, (N, BINS): 1 where it happened, 0 where it did not, NaN where nothing is known.

    Args:
        after_days: (N,) how long after the row it first happened; infinite where it did not.
        followed_days: (N,) up to when that is known; NaN of a row that tells nothing. A bin that was not followed to
            its end counts for nothing, also where it happened there.

    Example:
        >>> seen(np.array([3.0, np.inf]), np.array([56.0, 2.0]))[:, :4]
        array([[ 0.,  0.,  1., nan],
               [ 0.,  0., nan, nan]], dtype=float32)
    """
    begin, end = EDGES_DAYS[:-1], EDGES_DAYS[1:]
    after, followed = np.maximum(after_days, 0.0)[:, None], followed_days[:, None]
    # Or a row that was followed for a part of the bin would count where it happened and not where it did not.
    here = (after >= begin) & (after < end) & (followed >= end)
    out = np.full((len(after_days), BINS), np.nan, dtype=np.float32)
    out[(after >= end) & (followed >= end)] = 0.0
    out[here] = 1.0
    return out


def happened(seen: Floats, days: float) -> Floats:
    """(N,) whether it happened within so many days, an edge: 1 or 0, NaN where that was not seen."""
    bins = int(np.searchsorted(EDGES_DAYS, days))
    if EDGES_DAYS[bins] != days:
        raise ValueError(f"{days} days are no edge of a bin")
    part = seen[:, :bins]
    out = np.where(np.isfinite(part).all(axis=1), np.float32(0.0), np.float32(np.nan))
    out[(part == 1.0).any(axis=1)] = 1.0
    return out


def survival(hazards: Doubles) -> Doubles:
    """Probability that it has not happened by each of :data:`EDGES_DAYS`: (N, BINS) → (N, BINS + 1), always above 0."""
    kept = np.cumprod(1.0 - np.minimum(hazards, 1.0 - _LEAST), axis=1)
    return np.concatenate([np.ones((len(hazards), 1)), kept], axis=1)


def within(curve: Doubles, days: float) -> Doubles:
    """Probability that it happens within so many days, (N,), of :func:`survival`; the rate is even inside a bin.

    Example:
        >>> curve = survival(np.full((1, BINS), 0.5))
        >>> [float(within(curve, days).round(3)[0]) for days in (1, 1.5, 2)]
        [0.5, 0.646, 0.75]
    """
    if not 0 <= days <= MOST_DAYS:
        raise ValueError(f"{days} days are not within 0 to {MOST_DAYS:g}")
    at = min(int(np.searchsorted(EDGES_DAYS, days, side="right")) - 1, BINS - 1)
    share = (days - EDGES_DAYS[at]) / (EDGES_DAYS[at + 1] - EDGES_DAYS[at])
    if share in (0.0, 1.0):  # an edge: nothing to interpolate
        out: Doubles = 1.0 - curve[:, at + int(share)]
        return out
    begin, end = (np.log(curve[:, edge]) for edge in (at, at + 1))
    found: Doubles = 1.0 - np.exp(begin + share * (end - begin))
    return found


def days_until(curve: Doubles, share: float) -> Doubles:
    """By when it has happened with this probability, below 1: days (N,), infinite beyond. Undoes :func:`within`.

    Example:
        >>> float(days_until(survival(np.full((1, BINS), 0.5)), 0.75)[0])
        2.0
        >>> float(days_until(survival(np.zeros((1, BINS))), 0.5)[0])
        inf
    """
    left = 1.0 - share
    reached = curve <= left + 1e-12  # (N, BINS + 1)
    at = np.maximum(np.argmax(reached, axis=1), 1)
    rows = np.arange(len(curve))
    begin, end = (np.log(curve[rows, edge]) for edge in (at - 1, at))
    with np.errstate(divide="ignore", invalid="ignore"):
        part = np.clip((begin - np.log(left)) / (begin - end), 0.0, 1.0)
    days = EDGES_DAYS[at - 1] + np.nan_to_num(part, nan=1.0) * (EDGES_DAYS[at] - EDGES_DAYS[at - 1])
    out: Doubles = np.where(reached.any(axis=1), days, np.inf)
    return out
