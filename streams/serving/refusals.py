"""Catalog records that are no entries, on their way to the dead-letter topic."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from schemas.deadletter import refuse
from schemas.errors import InvalidField
from schemas.records import LogRecord
from streams.kafka.outbox import Outbox
from streams.telemetry.metrics import Metrics

_DELIVERY_TIMEOUT_S: Final = 60.0


class CatalogRefusals:
    """What :class:`streams.serving.catalog.CatalogFollower` tells of refused records, in its thread.

    Args:
        outbox: belongs to that thread.
        wall_ms: wall clock in ms.
    """

    def __init__(self, outbox: Outbox, metrics: Metrics, wall_ms: Callable[[], int]) -> None:
        self._outbox = outbox
        self._metrics = metrics
        self._wall_ms = wall_ms

    def tell(self, partition: int, offset: int, key: bytes | None, value: bytes | None, error: Exception) -> None:
        record = LogRecord(offset, key, value, (), self._wall_ms())
        dead_letter = refuse(InvalidField(str(error)), "catalog", partition, record)
        self._outbox.send_all([dead_letter])
        self._metrics.dead_letter("catalog", dead_letter.reason)

    def delivered(self) -> None:
        """Return when all that was sent is acknowledged.

        Raises:
            DeliveryFailed: it is not.
        """
        asyncio.run(self._outbox.delivered(self._outbox.mark(), _DELIVERY_TIMEOUT_S))
