"""Reading topics to look at them: no consumer group is joined and nothing is committed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Final, Self

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from schemas.errors import Retry, TopicMismatch
from streams.kafka import clients
from streams.kafka.clients import ClientConfig
from streams.kafka.offsets import available, end_offsets

_BATCH: Final = 5_000
_POLL_S: Final = 0.2
_FIRST_WINDOW: Final = 20_000
_TIMEOUT_S: Final = 30.0
_SILENCE_S: Final = 5.0
_PROBE_S: Final = 2.0

Place = tuple[str, int]
"""(topic, partition)"""


class TopicReader:
    """A consumer without a group, for reading single partitions. Close it, or use it in a ``with``.

    Args:
        client_config: confluent-kafka settings of the cluster.
        timeout_s: give up after this long without any answer.
    """

    def __init__(self, client_config: ClientConfig, timeout_s: float = _TIMEOUT_S) -> None:
        self._client_config = client_config
        self._timeout_s = timeout_s
        self._closed = False
        self._consumer = clients.Consumer(
            {
                **client_config,
                "group.id": "pulsegraph-reader",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 20,
            }
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._closed = True
        self._consumer.close()

    def partitions(self, topic: str) -> int:
        """Number of a topic's partitions.

        Raises:
            TopicMismatch: there is no such topic.
            ConfigError: the broker refused the login.
            Retry: the broker did not answer.
        """
        known = clients.metadata(self._consumer, topic, timeout_s=self._timeout_s).topics[topic]
        if known.error is not None or not known.partitions:
            raise TopicMismatch(f"there is no topic {topic}: run `pulsegraph topics create`")
        return len(known.partitions)

    def ends(self, places: Iterable[Place]) -> dict[Place, int]:
        """Offset after the last record of each (topic, partition)."""
        return end_offsets(self._client_config, places, timeout_s=self._timeout_s)

    def ends_of(self, topic: str) -> dict[Place, int]:
        """The same of every partition of a topic.

        Raises:
            TopicMismatch, ConfigError, Retry: as :meth:`partitions`.
        """
        return self.ends([(topic, partition) for partition in range(self.partitions(topic))])

    def whole(self, topic: str) -> Iterator[Message]:
        """Every record up to the present ends, partition by partition; raises as :meth:`ends_of`."""
        return self.up_to(self.ends_of(topic))

    def up_to(self, ends: Mapping[Place, int]) -> Iterator[Message]:
        """Every record before these offsets, partition by partition."""
        for place, end in ends.items():
            yield from self.range(*place, 0, end)

    def range(self, topic: str, partition: int, start: int, stop: int) -> Iterator[Message]:
        """Records with ``start <= offset < stop``; offsets that are kept no more are skipped."""
        if stop <= start:
            return
        place = TopicPartition(topic, partition, start)
        self._consumer.assign([place])
        heard_s = time.monotonic()
        try:
            while True:
                messages = available(self._consumer, _BATCH, _POLL_S)
                for message in messages:
                    if _at_end(message):
                        return
                    if _offset(message) >= stop:
                        return
                    yield message
                    if _offset(message) == stop - 1:
                        return
                if messages:
                    heard_s = time.monotonic()
                elif time.monotonic() - heard_s > self._timeout_s:
                    self._consumer.refusal.check()
                    raise Retry(
                        f"no answer from the broker for {self._timeout_s:g} s while reading {topic}[{partition}]"
                    )
        finally:
            if not self._closed:  # a caller may leave the loop, and this reader, before the generator ends
                self._consumer.unassign()

    def newest(
        self,
        topic: str,
        partition: int,
        key: bytes,
        end: int,
        rank: Callable[[Message], int] = lambda _message: 0,
        wanted: Callable[[Message], bool] = lambda _message: True,
    ) -> Message | None:
        """The last record of a key; None where the partition holds none.

        Reads backwards in growing windows, so a key that was written lately is found without reading it all.

        Args:
            end: offset after the partition's last record, see :meth:`ends`.
            wanted: whether a record of the key counts.
            rank: of the records in the last window that has any, the one with the highest rank; the last one of these.
        """
        stop = end
        window = _FIRST_WINDOW
        while stop > 0:
            start = max(0, stop - window)
            found = None
            for message in self.range(topic, partition, start, stop):
                if message.key() == key and wanted(message) and (found is None or rank(message) >= rank(found)):
                    found = message
            if found is not None:
                return found
            stop, window = start, window * 4
        return None

    def follow(
        self,
        topic: str,
        starts: Mapping[int, int],
        say: Callable[[str], None] = lambda _text: None,
        silence_s: float = _SILENCE_S,
    ) -> Iterator[Message | None]:
        """Records from the given offset of each partition on, for ever; None whenever there is nothing new.

        Args:
            say: called once when the broker stops answering, and once when it answers again.
            silence_s: after so long without a record, the broker is probed.
        """
        self._consumer.assign([TopicPartition(topic, partition, start) for partition, start in starts.items()])
        heard_s, is_away = time.monotonic(), False
        while True:
            found = [message for message in available(self._consumer, _BATCH, _POLL_S) if not _at_end(message)]
            # A topic without news and a broker that is gone look the same from here.
            if found or time.monotonic() - heard_s >= silence_s:
                answers = bool(found) or self._answers(topic)
                if answers == is_away:
                    is_away = not answers
                    where = self._consumer.refusal.bootstrap
                    say(
                        f"the broker on {where} does not answer; still trying, Ctrl-C ends"
                        if is_away
                        else f"the broker on {where} answers again"
                    )
                heard_s = time.monotonic()
            yield from found
            if not found:
                yield None

    def _answers(self, topic: str) -> bool:
        try:
            self._consumer.list_topics(topic, timeout=_PROBE_S)
        except KafkaException:
            self._consumer.refusal.check()
            return False
        return True


def _at_end(message: Message) -> bool:
    """Whether this says that the partition ends here.

    Raises:
        Retry: the broker reports a fault.
    """
    error: Any = message.error()
    if error is None:
        return False
    if error.code() == KafkaError._PARTITION_EOF:
        return True
    raise Retry(f"reading {message.topic()}[{message.partition()}]: {error.str()}")


def _offset(message: Message) -> int:
    offset = message.offset()
    return -1 if offset is None else int(offset)
