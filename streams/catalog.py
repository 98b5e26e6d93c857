"""Follows the compacted ``catalog`` topic with a plain consumer (GlobalTable fails with several workers)."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from schemas.catalog import CatalogEntry
from schemas.errors import DeliveryFailed, TopicMismatch
from streams.offsets import available

logger: Final = logging.getLogger(__name__)

_decode: Final = msgspec.json.Decoder(CatalogEntry).decode
_POLL_S: Final = 0.2


class CatalogFollower:
    """All entries by ``kind:id``, kept current by a thread.

    The version changes with every change, so that what was computed from the catalog can be kept until then.

    Args:
        client: confluent-kafka settings.
        topic: full name of the catalog topic.
        refused: told of each record that is no catalog entry; the record is then ignored.
    """

    def __init__(
        self,
        client: Mapping[str, Any],
        topic: str,
        refused: Callable[[int, int, bytes | None, bytes | None, Exception], None],
    ) -> None:
        self.current: tuple[dict[str, CatalogEntry], int] = {}, 0
        """Entries and version, replaced together: readers are on other threads."""
        self.failure: Exception | None = None
        self._topic = topic
        self._refused = refused
        self._stopping = threading.Event()
        self._caught_up = threading.Event()
        self._consumer = Consumer(
            {**client, "group.id": "pulsegraph-catalog", "enable.auto.commit": False, "enable.partition.eof": True}
        )
        self._thread = threading.Thread(target=self._follow, name="catalog", daemon=True)

    def start(self, timeout_s: float = 60.0) -> None:
        """Read what there is, then follow.

        Raises:
            DeliveryFailed: the broker did not answer in time.
        """
        self._thread.start()
        if not self._caught_up.wait(timeout_s) or self.failure is not None:
            raise DeliveryFailed(f"the catalog topic {self._topic} could not be read: {self.failure or 'no answer'}")

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(timeout=10.0)

    def _follow(self) -> None:
        try:
            known = self._consumer.list_topics(self._topic, timeout=30.0).topics[self._topic].partitions
            if not known:
                raise TopicMismatch(f"there is no topic {self._topic}: run `pulsegraph topics create`")
            behind = set(known)
            self._consumer.assign([TopicPartition(self._topic, number, OFFSET_BEGINNING) for number in known])
            while not self._stopping.is_set():
                self._read(behind)
                if not behind:
                    self._caught_up.set()
        except Exception as error:  # noqa: BLE001 - raised where the catalog is used, see EncodeRole.idle
            self.failure = error
            logger.error("the catalog is no longer followed: %s", error)
            self._caught_up.set()
        finally:
            self._consumer.close()

    def _read(self, behind: set[int]) -> None:
        changed: dict[str, CatalogEntry | None] = {}
        for message in available(self._consumer, 1_000, _POLL_S):
            error = message.error()
            if error is None:
                self._take(message, changed)
            elif error.code() == KafkaError._PARTITION_EOF:
                behind.discard(message.partition() or 0)
            elif error.retriable():
                time.sleep(_POLL_S)
            else:
                raise KafkaException(error)
        if changed:
            entries, version = self.current
            merged = entries | changed
            self.current = {key: entry for key, entry in merged.items() if entry is not None}, version + 1

    def _take(self, message: Any, changed: dict[str, CatalogEntry | None]) -> None:
        key, value = message.key(), message.value()
        try:
            if key is None:
                raise ValueError("a catalog record needs a key kind:id")
            name = key.decode()
            if value is None:
                changed[name] = None
                return
            entry = _decode(value)
            if entry.key != name:
                raise ValueError(f"the key {name!r} and the body {entry.key!r} disagree")
            changed[name] = entry
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            self._refused(message.partition(), message.offset(), key, value, error)
