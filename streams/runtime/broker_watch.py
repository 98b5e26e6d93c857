"""Asks the broker every few seconds, in a thread: how far the groups are behind, and whether topics are as they were.

Lag is progress of committed offsets, which an open port says nothing about. What was heard too long ago is not told.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from schemas.errors import PulsegraphError, Stop
from streams.kafka import admin, offsets
from streams.kafka.clients import ClientConfig
from streams.runtime.health import Health
from streams.runtime.runner import Role
from streams.settings.schema import KafkaSettings
from streams.telemetry.metrics import Metrics

_EVERY_S: Final = 5.0
_LOOK_S: Final = 0.2
_TIMEOUT_S: Final = 5.0

logger: Final = logging.getLogger(__name__)


class BrokerWatch:
    """Tells metrics and health what the broker says.

    Args:
        groups: id of a consumer group -> the role whose progress its offsets are.
        ready: called once, when the worker is ready for the first time.
    """

    def __init__(
        self,
        client: ClientConfig,
        kafka: KafkaSettings,
        metrics: Metrics,
        health: Health,
        groups: Mapping[str, Role],
        *,
        ready: Callable[[], None],
    ) -> None:
        self._client, self._kafka, self._metrics, self._health = client, kafka, metrics, health
        self._groups = groups
        self._ready: Callable[[], None] | None = ready
        self._admin = admin.connect(client)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="broker-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def _watch(self) -> None:
        due_s = 0.0
        while not self._stopping.wait(_LOOK_S if self._ready is not None else _EVERY_S):
            if time.monotonic() >= due_s:
                self._ask()
                due_s = time.monotonic() + _EVERY_S
            if self._ready is not None and not self._health.unready():
                ready, self._ready = self._ready, None
                ready()

    def _ask(self) -> None:
        prefix = self._kafka.prefix
        try:
            admin.check_partitions(self._admin, prefix=prefix, partitions=self._kafka.partitions, timeout_s=_TIMEOUT_S)
            for group, role in self._groups.items():
                topics = [prefix + topic for topic in role.topics]
                self._metrics.lag(
                    role.name, offsets.consumer_lag(self._client, group, topics, timeout_s=_TIMEOUT_S), prefix
                )
        except Stop as error:
            self._health.fail(error)
        except PulsegraphError as error:
            logger.warning("the broker does not say how far the groups are: %s", error)
            if self._health.broker_is_silent:
                for role in self._groups.values():
                    self._metrics.lag_unknown(role.name, role.topics, self._kafka.partitions)
        else:
            self._health.heard()
            self._metrics.broker_heard(time.time())
