"""Event time in words."""

from __future__ import annotations

from datetime import UTC, datetime


def moment(ts_ms: int) -> str:
    """Event time for people, UTC; the number itself where no calendar goes so far, as in a refused record.

    Example:
        >>> moment(1498867200000)
        '2017-07-01 00:00'
        >>> moment(9 * 10**18)
        '9000000000000000000 ms'
    """
    try:
        return datetime.fromtimestamp(ts_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):
        return f"{ts_ms} ms"
