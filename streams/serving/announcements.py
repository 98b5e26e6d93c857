"""Follows the compacted ``models`` topic: what is to be served, now and from then on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from confluent_kafka import Message

from schemas.model_versions import KEY
from streams.kafka.clients import ClientConfig
from streams.kafka.partitioning import partition_for
from streams.kafka.reader import TopicReader

logger: Final = logging.getLogger(__name__)

_AGAIN_S: Final = 5.0
_JOIN_S: Final = 10.0


def newest_announcement(reader: TopicReader, topic: str) -> tuple[bytes | None, int]:
    """Value of the newest record, None where there is none or it is a null, and the offset to go on from.

    Raises:
        TopicMismatch: there is no such topic.
        ConfigError: the broker refused the login.
        Retry: the broker did not answer.
    """
    partition = partition_for(KEY, reader.partitions(topic))
    end = reader.ends([(topic, partition)])[topic, partition]
    found = reader.newest(topic, partition, KEY, end)
    return (None if found is None else found.value()), end


class AnnouncementFollower:
    """Hands on what is announced, in a thread of its own; of several records at once the newest alone.

    The thread goes on whatever happens to the broker: a model serves without it.

    Args:
        client: confluent-kafka settings.
        topic: full name of the topic.
        taken: called with the value of each record, by the thread, which waits for it.
    """

    def __init__(self, client: ClientConfig, topic: str, taken: Callable[[bytes], None]) -> None:
        self._client = client
        self._topic = topic
        self._taken = taken
        self._next = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="models", daemon=True)

    def newest(self) -> bytes | None:
        """What the topic says now; call it before :meth:`start`. Raises as :func:`newest_announcement`."""
        with TopicReader(self._client) as reader:
            value, self._next = newest_announcement(reader, self._topic)
        return value

    def start(self) -> None:
        """Follow from there on."""
        self._thread.start()

    def stop(self) -> None:
        """A model that is being loaded is waited for, for a while."""
        self._stopping.set()
        self._thread.join(timeout=_JOIN_S)

    def _follow(self) -> None:
        while not self._stopping.is_set():
            try:
                with TopicReader(self._client) as reader:
                    self._read(reader)
            except Exception as error:  # noqa: BLE001 - whatever it is, the model that serves does not depend on it
                logger.warning("announcements of models are not followed, trying again: %s", error)
                self._stopping.wait(_AGAIN_S)

    def _read(self, reader: TopicReader) -> None:
        partition = partition_for(KEY, reader.partitions(self._topic))
        newest: bytes | None = None
        for message in reader.follow(self._topic, {partition: self._next}, logger.warning):
            if self._stopping.is_set():
                return
            if message is not None:
                self._next = _offset(message) + 1
                value = message.value() if message.key() == KEY else None
                newest = newest if value is None else value  # a null says nothing of what to serve instead
            elif newest is not None:
                taken, newest = newest, None
                self._taken(taken)


def _offset(message: Message) -> int:
    offset = message.offset()
    assert offset is not None, "only produced messages lack one"
    return offset
