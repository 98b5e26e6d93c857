"""Ordering, the barrier and failure, against a broker."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from schemas.errors import DeliveryFailed
from streams.kafka.outbox import MAX_RECORD_BYTES, Outbox
from streams.kafka.partitioning import partition_for

PARTITIONS = 3


@pytest.fixture
def prefix(make_topics: Callable[..., str]) -> str:
    return make_topics(partitions=PARTITIONS)


@pytest.fixture
def outbox(broker, prefix: str) -> Iterator[Outbox]:
    outbox = Outbox(broker.bootstrap, prefix=prefix)
    yield outbox
    outbox.close()


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address where nobody answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, never listening
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def read(broker, topic: str, count: int):
    """All records of a topic; ``assign`` because a group join by librdkafka takes long on the embedded broker."""
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "reader", "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
    found: list[Any] = []
    deadline = time.monotonic() + 20
    while len(found) < count and time.monotonic() < deadline:
        found += consumer.consume(500, 0.2)
    consumer.close()
    assert not [message.error() for message in found if message.error()]
    return found


def test_a_barrier_covers_all_sends_before_it_and_keys_stay_in_order(broker, prefix, outbox):
    async def main() -> None:
        for number in range(3_000):
            outbox.send("outcomes", b"c%d" % (number % 50), b"%d" % number)
        mark = outbox.mark()
        outbox.send("outcomes", b"later", b"3000")
        await outbox.delivered(mark, 20)
        await outbox.delivered(outbox.mark(), 20)

    asyncio.run(main())
    found = read(broker, prefix + "outcomes", 3_001)
    assert sorted(int(message.value()) for message in found) == list(range(3_001))
    newest: dict[bytes, int] = {}
    for message in found:
        assert newest.get(message.key(), -1) < int(message.value())
        newest[message.key()] = int(message.value())
        assert message.partition() == partition_for(message.key(), PARTITIONS)


def test_explicit_partition_headers_timestamp_and_tombstone(broker, prefix, outbox):
    async def main() -> None:
        assert outbox.offset("ingest-changelog", 2) is None
        for number in range(5):
            outbox.send("ingest-changelog", b"c1", b"%d" % number, 2)
        outbox.send("ingest-changelog", b"c1", None, 2, [("h", b"1"), ("h", b"2")], 1_500_000_000_000)
        await outbox.delivered(outbox.mark(), 20)
        assert outbox.offset("ingest-changelog", 2) == 5
        assert outbox.offset("ingest-changelog", 0) is None

    asyncio.run(main())
    last = read(broker, prefix + "ingest-changelog", 6)[-1]
    assert (last.partition(), last.value(), last.timestamp()[1]) == (2, None, 1_500_000_000_000)
    assert last.headers() == [("h", b"1"), ("h", b"2")]


def test_marks_without_sends_and_in_any_order(outbox):
    async def main() -> None:
        await outbox.delivered(outbox.mark(), 1)
        outbox.send("outcomes", b"a", b"1")
        first = outbox.mark()
        assert outbox.mark() == first
        outbox.send("outcomes", b"a", b"2")
        second = outbox.mark()
        await asyncio.gather(outbox.delivered(second, 20), outbox.delivered(first, 20))
        await outbox.delivered(first, 0.1)

    asyncio.run(main())


def test_sends_beyond_the_queue_wait_and_arrive(broker, prefix):
    async def main() -> None:
        small = Outbox(broker.bootstrap, prefix=prefix, queue_records=50)
        for number in range(500):
            small.send("outcomes", b"k", b"%d" % number)
            assert small.unacknowledged <= 50
        await small.delivered(small.mark(), 20)
        assert small.close() == 0

    asyncio.run(main())
    assert [int(message.value()) for message in read(broker, prefix + "outcomes", 500)] == list(range(500))


def test_an_oversized_record_is_refused_at_once_and_the_rest_arrives(outbox):
    async def main() -> None:
        outbox.send("outcomes", b"a", b"1")
        with pytest.raises(DeliveryFailed, match="outcomes"):
            outbox.send("outcomes", b"a", bytes(MAX_RECORD_BYTES + 1))
        outbox.send("outcomes", b"a", b"2")
        await outbox.delivered(outbox.mark(), 20)

    asyncio.run(main())


def test_a_failed_record_fails_every_later_barrier(nobody: str):
    async def main() -> None:
        outbox = Outbox(nobody, delivery_timeout_ms=300)
        outbox.send("outcomes", b"a", b"1")
        with pytest.raises(DeliveryFailed, match=r"outcomes.*timed out"):
            await outbox.delivered(outbox.mark(), 20)
        outbox.send("outcomes", b"a", b"2")
        with pytest.raises(DeliveryFailed, match=r"outcomes.*timed out"):
            await outbox.delivered(outbox.mark(), 0.1)
        outbox.close(0)

    asyncio.run(main())


def test_without_a_broker_the_barrier_ends_in_time_and_close_gives_up(nobody: str):
    async def main() -> None:
        outbox = Outbox(nobody)
        outbox.send("outcomes", b"a", b"1")
        with pytest.raises(DeliveryFailed, match="1 records"):
            await outbox.delivered(outbox.mark(), 0.5)
        assert outbox.close(0.1) == 1
        assert outbox.close() == 0

    asyncio.run(main())


def test_the_event_loop_is_free_while_a_barrier_waits(outbox):
    async def main() -> None:
        for number in range(20_000):
            outbox.send("outcomes", b"c%d" % number, bytes(200))
        barrier = asyncio.create_task(outbox.delivered(outbox.mark(), 20))
        turns = 0
        while not barrier.done():
            await asyncio.sleep(0.001)
            turns += 1
        await barrier
        assert turns > 1

    asyncio.run(main())
