"""The spans of Complete Journey that evaluations use, in one replay."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from infra.evaluate.replays import ReplayPlan
from streams.core.config import DAY_MS


def day_ms(day: str) -> int:
    """A day as epoch ms, UTC.

    Example:
        >>> day_ms("2017-07-01")
        1498867200000
    """
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000)


def day_of(at_ms: int) -> str:
    """The day of a time, UTC.

    Example:
        >>> day_of(1498867200000)
        '2017-07-01'
    """
    return datetime.fromtimestamp(at_ms / 1000, UTC).date().isoformat()


def weekly(first: str, last: str) -> tuple[int, ...]:
    """Every seventh day, both ends included where they fall on it.

    Example:
        >>> len(weekly("2017-10-01", "2017-12-10"))
        11
    """
    return tuple(range(day_ms(first), day_ms(last) + 1, 7 * DAY_MS))


TRAIN_DAYS: Final = weekly("2017-03-01", "2017-08-20")
TEST_DAYS: Final = weekly("2017-10-01", "2017-12-10")
SECOND_HALF: Final = day_ms("2017-07-01")
END: Final = day_ms("2018-01-01")

PLAN: Final = ReplayPlan(
    data="complete-journey",
    days_ms=TRAIN_DAYS + TEST_DAYS,
    active_within_ms=28 * DAY_MS,
    live_from_ms=SECOND_HALF,
    live_until_ms=END - 28 * DAY_MS,
    live_in=3,
)
