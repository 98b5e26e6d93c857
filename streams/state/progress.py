"""How far a restore has come, for the log and for a metric; a long one must not look like a hung one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

logger: Final = logging.getLogger(__name__)

EVERY_S: Final = 5.0


class RestoreProgress:
    """The ``progress`` of :func:`streams.state.restore.restore`.

    Args:
        where: what is restored, for people: ``ingest-changelog-3``.
        report: called with (records read, records at most to be read) at every step.
        clock_s: a clock in seconds that only goes forward.

    Example:
        >>> steps = []
        >>> progress = RestoreProgress("ingest-changelog-0", lambda done, total: steps.append(done / total))
        >>> progress(50, 200)
        >>> steps
        [0.25]
    """

    def __init__(
        self, where: str, report: Callable[[int, int], None], clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._where = where
        self._report = report
        self._clock_s = clock_s
        self._began_s = self._logged_s = clock_s()

    def __call__(self, done: int, total: int) -> None:
        self._report(done, total)
        now_s = self._clock_s()
        if now_s - self._logged_s < EVERY_S:
            return
        self._logged_s = now_s
        rate = done / (now_s - self._began_s)
        logger.warning(
            "restoring %s: %s of at most %s records, %s a second, %.0f s to go",
            self._where, f"{done:,}", f"{total:,}", f"{rate:,.0f}", max(0, total - done) / rate if rate else 0.0,
        )  # fmt: skip


def summary(where: str, records: int, size_bytes: int, seconds: float) -> str:
    """One line about a restore that is done.

    Example:
        >>> summary("ingest-changelog-0", 1_000_000, 640_000_000, 10.0)
        'restored ingest-changelog-0: 1,000,000 records, 640.0 MB in 10.0 s (100,000 records/s, 64.0 MB/s)'
    """
    rate = max(seconds, 1e-3)
    return (
        f"restored {where}: {records:,} records, {size_bytes / 1e6:.1f} MB in {seconds:.1f} s "
        f"({records / rate:,.0f} records/s, {size_bytes / 1e6 / rate:.1f} MB/s)"
    )
