"""What a customer's clock is ahead of UTC, as far as a snapshot says: it holds hours of events where the customer is.

A zone has no name there. Each event whose local hour is known bounds the offset to an hour; several of them bound it
further, so that zones of half hours are found, too. After a change of the clocks the first event tells the new offset.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from models.snapshot_columns import SESSION_DTYPE
from models.wide import Ints
from schemas.features import INDEX
from schemas.snapshot import Snapshot

HOUR_S: Final = 3_600
DAY_S: Final = 24 * HOUR_S
WEEK_S: Final = 7 * DAY_S
_MONDAY_S: Final = 3 * DAY_S
"""1970-01-01 was a Thursday: this much of a week that begins on Monday was over."""
_WEST_S: Final = -12 * HOUR_S
_EAST_S: Final = 14 * HOUR_S
"""No clock is further ahead, and none is further behind than the other bound."""
_READ: Final = 24
"""Newest sessions that are read."""
_STEPS_S: Final = (HOUR_S, HOUR_S // 2, HOUR_S // 4, 1)
_HOUR_OF_DAY: Final = INDEX["hour_of_day"]
_DAY_OF_WEEK: Final = INDEX["day_of_week"]


def offsets_s(snapshots: Sequence[Snapshot]) -> Ints:
    """(B,) seconds that local time is ahead of UTC, negative where behind; 0 where nothing is known."""
    return np.array([offset_s(snapshot) for snapshot in snapshots], dtype=np.int64)


def offset_s(snapshot: Snapshot) -> int:
    """The same of one: the roundest offset that the newest events allow."""
    low, high = _WEST_S, _EAST_S
    for first, last in _bounds(snapshot):
        if max(low, first) > min(high, last):
            break  # the clocks were changed, or the customer has moved: what is older says nothing
        low, high = max(low, first), min(high, last)
    if (low, high) == (_WEST_S, _EAST_S):
        return 0
    return next(found for step in _STEPS_S if (found := -(-low // step) * step) <= high)


def hour_of_week(at_s: Ints, offset: Ints) -> Ints:
    """Local hour of the week, 0 is Monday 00:00."""
    return (at_s + offset + _MONDAY_S) // HOUR_S % 168


def hour_of_asking(snapshot: Snapshot) -> int:
    """Of the week, where the customer is."""
    return (snapshot.as_of_ms // 1000 + offset_s(snapshot) + _MONDAY_S) // HOUR_S % 168


def _bounds(snapshot: Snapshot) -> Iterator[tuple[int, int]]:
    """Least and most that the offset can be, by each event, newest first; both included."""
    values = np.frombuffer(snapshot.features, dtype="<f4")
    hour, day = float(values[_HOUR_OF_DAY]), float(values[_DAY_OF_WEEK])
    if snapshot.event_ts_ms > 0 and 0 <= hour < 24 and 0 <= day < 7:  # not where they are no numbers
        low = int(hour) * HOUR_S - snapshot.event_ts_ms // 1000 % DAY_S
        fitting = [
            first
            for first in (low - DAY_S, low, low + DAY_S)
            if first + HOUR_S - 1 >= _WEST_S and first <= _EAST_S and _is_day(snapshot, first, int(day))
        ]
        if fitting:
            nearest = min(fitting, key=abs)
            yield nearest, nearest + HOUR_S - 1
    sessions = np.frombuffer(snapshot.history, dtype=SESSION_DTYPE)[-_READ:][::-1]
    for start, local, count in zip(
        sessions["start_s"].tolist(), sessions["local_hour"].tolist(), sessions["sessions"].tolist(), strict=True
    ):
        if count > 1 or local >= 168:
            continue  # the hour of most sessions of a month is not that of its first
        ahead = local * HOUR_S - (start + _MONDAY_S) % WEEK_S
        first = (ahead + WEEK_S // 2) % WEEK_S - WEEK_S // 2
        if first + HOUR_S - 1 >= _WEST_S and first <= _EAST_S:
            yield first, first + HOUR_S - 1


def _is_day(snapshot: Snapshot, first: int, day: int) -> bool:
    """Whether some offset of an hour makes ``as_of_ms`` this day of the week."""
    at_s = snapshot.as_of_ms // 1000 + _MONDAY_S
    return day in ((at_s + first) // DAY_S % 7, (at_s + first + HOUR_S - 1) // DAY_S % 7)
