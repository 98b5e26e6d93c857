"""Standbys: local copies of partitions that other workers own, kept near the end of their changelogs.

A worker that takes a partition over then restores the last second of its changelog instead of all of it. A standby only
reads: it claims nothing and writes nothing but its own store, so it cannot disturb the owner, and what it holds is
continued by :func:`streams.state.restore.restore` like any store that was left behind.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from math import inf
from typing import Final

from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, Message, TopicPartition

from schemas.errors import StateCorrupt
from streams.kafka.clients import Consumer
from streams.kafka.offsets import available, first_offset
from streams.state import ownership
from streams.state.changelog import Changelog
from streams.state.checkpoints import LocalMeta, read_meta
from streams.state.contract import KeyValue, Stores
from streams.state.restore import Applier, check_continues

logger: Final = logging.getLogger(__name__)

#: Hot customers are written again and again: of what gathers in between, only the newest record is applied.
_EVERY_S: Final = 0.5
_BATCH: Final = 20_000
_ANSWER_S: Final = 2.0
_AGAIN_S: Final = 10.0
#: A rebalance takes all partitions away and gives most of them back.
_SETTLE_S: Final = 3.0
_STOP_S: Final = 10.0


class Standby:
    """Follows partitions of one changelog in a thread.

    Args:
        wall_ms: wall clock in ms.
        behind: called with (partition, records not applied yet); None for a partition that is no longer followed.
    """

    def __init__(
        self,
        changelog: Changelog,
        stores: Stores,
        *,
        wall_ms: Callable[[], int],
        behind: Callable[[int, int | None], None],
    ) -> None:
        self.failure: Exception | None = None
        self._changelog = changelog
        self._topic = changelog.topic
        self._local = stores
        self._wall_ms = wall_ms
        self._behind = behind
        self._lock = threading.Lock()
        self._wanted: dict[int, float] = {}  # partition -> when to begin
        self._stores: dict[int, KeyValue] = {}
        self._appliers: dict[int, Applier] = {}
        self._reassign = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"standby-{changelog.topic}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_S)

    def follow(self, partitions: Collection[int]) -> None:
        """Keep copies of these from now on; their stores must be closed. Called on the event loop: it never waits."""
        self._wanted.update(dict.fromkeys(partitions, time.monotonic() + _SETTLE_S))

    def release(self, partition: int) -> None:
        """Stop following a partition; its store is closed when this returns."""
        with self._lock:
            self._wanted.pop(partition, None)
            self._close(partition)

    def _run(self) -> None:
        try:
            consumer = Consumer(
                {
                    "log_level": 0,
                    **self._changelog.client,
                    "group.id": "pulsegraph-standby",
                    "enable.auto.commit": False,
                    "auto.offset.reset": "error",
                    "fetch.wait.max.ms": 20,
                }
            )
            try:
                self._follow(consumer)
            finally:
                consumer.close()
        except Exception as error:  # noqa: BLE001 - raised in the role, see StatefulRole.idle
            self.failure = error
            logger.error("standbys of %s are not kept any more: %s", self._topic, error)
        finally:
            with self._lock:
                for partition in list(self._stores):
                    self._close(partition)

    def _follow(self, consumer: Consumer) -> None:
        behind = False
        while not self._stopping.wait(0.0 if behind else _EVERY_S):
            self._open_what_is_due(consumer)
            with self._lock:
                if self._reassign:
                    self._reassign = False
                    # Leftovers of the former assignment are dropped inside the call, or a gap would open in _apply.
                    consumer.assign(
                        [
                            TopicPartition(self._topic, partition, applier.position or OFFSET_BEGINNING)
                            for partition, applier in self._appliers.items()
                        ]
                    )
                followed = bool(self._appliers)
            messages = available(consumer, _BATCH, 0.0) if followed else []
            with self._lock:
                self._apply(consumer, messages)
            behind = len(messages) == _BATCH

    def _open_what_is_due(self, consumer: Consumer) -> None:
        for partition, begin_s in list(self._wanted.items()):
            if partition in self._stores or time.monotonic() < begin_s or self._stopping.is_set():
                continue
            try:
                # Without the lock: whoever takes a partition over must not wait for a broker that is away.
                low = first_offset(consumer, TopicPartition(self._topic, partition), timeout_s=_ANSWER_S)
            except KafkaException as error:
                logger.warning("standby of %s-%d waits for the broker: %s", self._topic, partition, error)
                with self._lock:
                    if partition in self._wanted:
                        self._wanted[partition] = time.monotonic() + _AGAIN_S
                continue
            with self._lock:
                if self._wanted.get(partition, inf) <= time.monotonic():
                    self._open(partition, low)

    def _open(self, partition: int, low: int) -> None:
        try:
            store = self._local.open(partition)
            try:
                known = read_meta(store)
                self._check(known, partition, low)
            except StateCorrupt:
                store.close()
                raise
        except StateCorrupt as error:
            self._rebuild(partition, error)
            return  # opened afresh in the next round
        self._stores[partition] = store
        self._appliers[partition] = Applier(store, max(known.changelog_offset, low), self._changelog.due_ms)
        self._reassign = True

    def _apply(self, consumer: Consumer, messages: Sequence[Message]) -> None:
        found: dict[int, list[ownership.ChangelogRecord]] = {}
        for message in messages:
            partition, error = int(message.partition() or 0), message.error()
            if partition not in self._appliers:
                continue  # released meanwhile
            if error is None:
                found.setdefault(partition, []).append(ownership.read(message))
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                self._close(partition)
                self._rebuild(partition, StateCorrupt(f"the changelog has not what would follow ({error.str()})"))
                found.pop(partition, None)
        for partition, records in found.items():
            applier = self._appliers[partition]
            # Assigning anew fetches again from a position that was applied meanwhile.
            records = [record for record in records if record.offset >= applier.position]
            if not records:
                continue
            try:
                # A machine that slept for a day may have missed deletions, with the store open all the time.
                self._check(read_meta(self._stores[partition]), partition, 0)
                applier.apply(records, records[-1].offset + 1, self._wall_ms())
            except StateCorrupt as broken:
                self._close(partition)
                self._rebuild(partition, broken)
        for partition, applier in self._appliers.items():
            _, high = consumer.get_watermark_offsets(TopicPartition(self._topic, partition), cached=True)
            if high >= 0:  # known once something was fetched
                self._behind(partition, max(0, high - applier.position))

    def _check(self, known: LocalMeta, partition: int, low: int) -> None:
        check_continues(known, self._changelog.place(partition), low, self._wall_ms())

    def _rebuild(self, partition: int, error: StateCorrupt) -> None:
        aside = self._local.quarantine(partition)
        logger.error("standby of %s-%d was quarantined as %s and is rebuilt: %s", self._topic, partition, aside, error)

    def _close(self, partition: int) -> None:
        self._appliers.pop(partition, None)
        store = self._stores.pop(partition, None)
        if store is not None:
            store.close()
            self._reassign = True
            self._behind(partition, None)
