"""Follows the compacted ``catalog`` topic with a plain consumer (GlobalTable fails with several workers)."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition

from schemas.catalog import CatalogEntry
from schemas.errors import DeliveryFailed, Stop, TopicMismatch
from streams.kafka import clients
from streams.kafka.clients import ClientConfig
from streams.kafka.offsets import available, committed_offsets, end_offsets

logger: Final = logging.getLogger(__name__)

_decode: Final = msgspec.json.Decoder(CatalogEntry).decode
_POLL_S: Final = 0.2
_EVERY_S: Final = 2.0
_TIMEOUT_S: Final = 30.0


#: What :func:`read_entry` raises for a record that is no entry.
UNREADABLE: Final = (msgspec.DecodeError, ValueError, RecursionError)


def read_entry(key: bytes | None, value: bytes | None) -> tuple[str, CatalogEntry | None]:
    """Name and entry of a catalog record; None for one that was taken out.

    Raises:
        ValueError, msgspec.DecodeError, RecursionError: it is none, see :data:`UNREADABLE`.
    """
    if key is None:
        raise ValueError("a catalog record needs a key kind:id")
    name = key.decode()
    if value is None:
        return name, None
    entry = _decode(value)
    if entry.key != name:
        raise ValueError(f"the key {name!r} and the body {entry.key!r} disagree")
    return name, entry


class CatalogFollower:
    """All entries by ``kind:id``, kept current by a thread.

    The version changes with the entries, so that what was computed from them can be kept until then. That may take
    long, so changes are shown together, every few seconds.

    The topic is read from its beginning at every start, and a record that is no entry stays in it until it is
    overwritten. How far refusals were reported is therefore committed, by topic, for all workers and their next starts.

    Args:
        client: confluent-kafka settings.
        topic: full name of the catalog topic.
        refused: called with each record that is no catalog entry; the record is then ignored.
        delivered: returns when everything that ``refused`` made of it is safe; raises where it is not. Where None,
            nothing is committed, and every start tells of all.
        shown: told after each change which names it was about, and the time in ms of their newest records; by the
            follower's thread.
    """

    def __init__(
        self,
        client: ClientConfig,
        topic: str,
        refused: Callable[[int, int, bytes | None, bytes | None, Exception], None],
        delivered: Callable[[], None] | None = None,
        shown: Callable[[Mapping[str, int]], None] = lambda changed: None,
    ) -> None:
        self.current: tuple[dict[str, CatalogEntry], int] = {}, 0
        """Entries and version, replaced together: readers are on other threads."""
        self.failure: Exception | None = None
        self._client = client
        self._topic = topic
        self._refused = refused
        self._delivered = delivered
        self._shown = shown
        self._changed_ms: dict[str, int] = {}
        self._changed: dict[str, CatalogEntry | None] = {}
        self._shown_s = -_EVERY_S
        self._reported: dict[int, int] = {}
        """Partition -> offset up to which refusals were reported before this start."""
        self._new: dict[int, int] = {}
        """The same, not committed yet."""
        self._stopping = threading.Event()
        self._caught_up = threading.Event()
        group = topic.removesuffix("catalog") + "pulsegraph-catalog"
        self._consumer = clients.Consumer(
            {
                **client,
                "group.id": group,
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                # A topic that was made anew must not be skipped to its end, which is the default: start again instead.
                "auto.offset.reset": "error",
            }
        )
        self._thread = threading.Thread(target=self._follow, name="catalog", daemon=True)

    def start(self, timeout_s: float = 60.0) -> None:
        """Read what there is, then follow.

        Raises:
            DeliveryFailed: the broker did not answer in time.
            Stop: it refused the login, or there is no such topic.
        """
        self._thread.start()
        caught_up = self._caught_up.wait(timeout_s)
        if isinstance(self.failure, Stop):
            raise self.failure
        if not caught_up or self.failure is not None:
            raise DeliveryFailed(f"the catalog topic {self._topic} could not be read: {self.failure or 'no answer'}")

    def check(self) -> None:
        """Whether it is still followed.

        Raises:
            DeliveryFailed: it is not; what broke is the cause.
        """
        if self.failure is not None:
            raise DeliveryFailed(f"the catalog is no longer followed: {self.failure}") from self.failure

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(timeout=10.0)

    def _follow(self) -> None:
        try:
            known = clients.metadata(self._consumer, self._topic, timeout_s=_TIMEOUT_S).topics[self._topic].partitions
            if not known:
                raise TopicMismatch(f"there is no topic {self._topic}: run `pulsegraph topics create`")
            behind = set(known)
            if self._delivered is not None:
                self._reported = self._reported_before([(self._topic, number) for number in known])
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
        for message in available(self._consumer, 1_000, _POLL_S):
            error = message.error()
            if error is None:
                self._take(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                behind.discard(message.partition() or 0)
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                raise TopicMismatch(f"{self._topic} was made anew under this worker: a restart reads it afresh")
            elif clients.may_pass(error):
                time.sleep(_POLL_S)
            else:
                raise KafkaException(error)
        begins = not behind and not self._caught_up.is_set()
        if self._changed and (begins or time.monotonic() - self._shown_s >= _EVERY_S):
            entries, version = self.current
            merged = entries | self._changed
            self.current = {key: entry for key, entry in merged.items() if entry is not None}, version + 1
            self._shown(self._changed_ms)
            self._changed, self._changed_ms, self._shown_s = {}, {}, time.monotonic()
        if self._new and self._delivered is not None:
            self._delivered()
            self._commit([TopicPartition(self._topic, partition, offset) for partition, offset in self._new.items()])
            self._new = {}

    def _reported_before(self, places: list[tuple[str, int]]) -> dict[int, int]:
        try:
            reported = committed_offsets(self._consumer, places, _TIMEOUT_S)
        except KafkaException as error:
            logger.warning("what the catalog refused may be reported again: %s", error)
            return {}
        ends = end_offsets(self._client, reported, timeout_s=_TIMEOUT_S)
        # What lies past the end is of an earlier topic of this name.
        return {place[1]: offset for place, offset in reported.items() if offset <= ends[place]}

    def _commit(self, offsets: list[TopicPartition]) -> None:
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            logger.warning("what the catalog refused will be reported again at the next start: %s", error)

    def _take(self, message: Any) -> None:
        key, value = message.key(), message.value()
        try:
            name, entry = read_entry(key, value)
            self._changed[name], self._changed_ms[name] = entry, message.timestamp()[1]
        except UNREADABLE as error:
            partition, offset = message.partition(), message.offset()
            if offset >= self._reported.get(partition, 0):
                self._refused(partition, offset, key, value, error)
                self._new[partition] = offset + 1
