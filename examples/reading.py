"""What the example consumers share: a topic from its beginning to its present end."""

from __future__ import annotations

from collections.abc import Iterator

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition


def records(bootstrap: str, topic: str) -> Iterator[tuple[str, bytes | None]]:
    """Key and value of every record, in order within a partition; those that come meanwhile may be among them."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "example",  # it must have a name; nothing is committed
            "enable.auto.commit": False,
            "enable.partition.eof": True,  # an end that compaction or a transaction left empty is an end, too
        }
    )
    try:
        unread = set(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
        if not unread:
            raise SystemExit(f"there is no topic {topic}")
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in unread])
        while unread:
            message = consumer.poll(1.0)
            if message is None:
                continue
            if (error := message.error()) is None:
                yield (message.key() or b"").decode(), message.value()
            elif error.code() == KafkaError._PARTITION_EOF:
                unread.discard(message.partition())
            elif error.fatal() or not error.retriable():
                raise KafkaException(error)
    finally:
        consumer.close()
