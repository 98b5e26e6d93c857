"""Where partitions end, on every broker; and how far a consumer group is behind.

The embedded broker answers ListOffsets(latest) with the *base offset of the last batch* plus one, so ten records sent
in one batch "end" at 1. aiokafka's ``end_offsets`` and confluent's ``get_watermark_offsets`` pass that on. A fetch
reports the true high watermark on every broker, so it is used here. (With aiokafka: ``highwater(partition)`` after a
fetch.)
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

import confluent_kafka
import msgspec
from confluent_kafka import OFFSET_END, KafkaError, KafkaException, Message, TopicPartition

from schemas.errors import Retry, TopicMismatch
from streams.kafka import clients
from streams.kafka.clients import ClientConfig, Consumer

_TIMEOUT_S: Final = 30.0
_AGAIN_S: Final = 0.1


class Lag(msgspec.Struct, frozen=True, kw_only=True):
    """How far a group is behind in one partition."""

    topic: str
    partition: int
    committed: int | None
    """Next offset to read; None where the group has never committed."""
    end: int
    lag: int
    """Records not yet read; from the oldest record kept where nothing was committed."""


def end_offsets(
    client_config: ClientConfig,
    partitions: Iterable[tuple[str, int]],
    *,
    uncommitted: bool = False,
    timeout_s: float = _TIMEOUT_S,
) -> dict[tuple[str, int], int]:
    """Offset after the last record of each ``(topic, partition)`` that may be read.

    Args:
        uncommitted: count what open transactions have written as well: the log's own end (Kafka's high watermark), and
            not the last stable offset, which stands still for as long as a transaction is open.

    Raises:
        TopicMismatch: a partition does not exist.
        ConfigError: the broker refused the login.
        Retry: the broker did not answer.
    """
    wanted = list(dict.fromkeys(partitions))
    deadline = time.monotonic() + timeout_s
    isolation = {"isolation.level": "read_uncommitted"} if uncommitted else {}
    consumer = _consumer({**client_config, **isolation}, "pulsegraph-offsets")
    try:
        # librdkafka waits half a second before it asks again for the end of a partition whose leader it did not know.
        for topic in dict.fromkeys(topic for topic, _ in wanted):
            clients.metadata(consumer, topic, timeout_s=max(0.0, deadline - time.monotonic()))
        return _ends(consumer, wanted, max(0.0, deadline - time.monotonic()))
    finally:
        consumer.close()


def consumer_lag(
    client_config: ClientConfig, group: str, topics: Iterable[str], *, timeout_s: float = _TIMEOUT_S
) -> list[Lag]:
    """Lag of a consumer group in every partition of ``topics`` (names on the broker). It does not join the group.

    Raises:
        TopicMismatch: a topic does not exist.
        ConfigError: the broker refused the login.
        Retry: the broker did not answer.
    """
    consumer = _consumer(client_config, group)
    try:
        known = clients.metadata(consumer, timeout_s=timeout_s).topics
        names = list(topics)
        missing = [name for name in names if name not in known or known[name].error is not None]
        if missing:
            raise TopicMismatch(f"there is no topic {', '.join(missing)}: run `pulsegraph topics create`")
        wanted = [(name, partition) for name in names for partition in sorted(known[name].partitions)]
        committed = committed_offsets(consumer, wanted, timeout_s)
        ends = _ends(consumer, wanted, timeout_s)
        lags = []
        for pair in wanted:
            start = committed.get(pair)
            if start is None and ends[pair] > 0:
                first = consumer.get_watermark_offsets(TopicPartition(*pair), timeout=timeout_s)[0]
            else:
                first = start or 0
            behind = max(0, ends[pair] - first)
            lags.append(Lag(topic=pair[0], partition=pair[1], committed=start, end=ends[pair], lag=behind))
        return lags
    except KafkaException as error:
        raise Retry(f"reading the lag of group {group}: the broker does not answer ({error.args[0].str()})") from error
    finally:
        consumer.close()


def first_offset(consumer: confluent_kafka.Consumer, place: TopicPartition, *, timeout_s: float = _TIMEOUT_S) -> int:
    """First offset that a partition still has. The request is repeated while the partition's leader moves.

    Raises:
        KafkaException: no answer in time.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return int(consumer.get_watermark_offsets(place, timeout=max(0.1, deadline - time.monotonic()))[0])
        except KafkaException as error:
            if not clients.may_pass(error.args[0]) or time.monotonic() > deadline:
                raise
            time.sleep(_AGAIN_S)


def available(consumer: confluent_kafka.Consumer, most: int, timeout_s: float) -> list[Message]:
    """What has arrived, after waiting for the first message alone; ``consume`` would wait for a full batch."""
    first = consumer.poll(timeout_s)
    return [] if first is None else [first, *consumer.consume(most - 1, timeout=0)]


def _consumer(client_config: ClientConfig, group: str) -> Consumer:
    return Consumer(
        {
            **client_config,
            "group.id": group,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 20,
            "allow.auto.create.topics": False,
        }
    )


def committed_offsets(
    consumer: Consumer, wanted: list[tuple[str, int]], timeout_s: float
) -> dict[tuple[str, int], int]:
    """What the consumer's group has committed, by ``(topic, partition)``; a KafkaException where nobody says."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            entries = consumer.committed([TopicPartition(*pair) for pair in wanted], timeout=timeout_s)
            return {(entry.topic, entry.partition): entry.offset for entry in entries if entry.offset >= 0}
        except KafkaException as error:
            # A broker that has just started, or lost a neighbour, is still moving its coordinators.
            if not clients.may_pass(error.args[0]) or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _ends(consumer: Consumer, wanted: list[tuple[str, int]], timeout_s: float) -> dict[tuple[str, int], int]:
    found: dict[tuple[str, int], int] = {}
    if not wanted:
        return found
    consumer.assign([TopicPartition(topic, partition, OFFSET_END) for topic, partition in wanted])
    deadline = time.monotonic() + timeout_s
    try:
        while len(found) < len(wanted):
            if time.monotonic() > deadline:
                raise Retry(f"no end offset for {sorted(set(wanted) - found.keys())[:4]} within {timeout_s:.0f} s")
            messages = available(consumer, 1_000, 0.2)
            if not messages and not found:
                consumer.refusal.check()
            for message in messages:
                error = message.error()
                if error is None:
                    continue
                if error.code() == KafkaError._PARTITION_EOF:
                    # Records may come between two of these while the end is approached; the last one counts.
                    found[str(message.topic()), int(message.partition() or 0)] = int(message.offset() or 0)
                elif error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION):
                    raise TopicMismatch(f"{message.topic()}[{message.partition()}] does not exist: {error.str()}")
                elif error.fatal():
                    raise Retry(f"reading end offsets: {error.str()}")
    finally:
        consumer.unassign()
    return found
