"""Whether a log still has what a state goes on with.

A consumer whose position is out of range starts over at the beginning without a word. For a state that skips what it
has taken in before, that would mean to ignore a topic that was made anew, or to miss what retention removed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from confluent_kafka import KafkaException, TopicPartition

from schemas.errors import Retry, TopicMismatch
from streams.kafka.clients import Consumer
from streams.kafka.offsets import end_offsets, first_offset

_AGAIN_S: Final = 0.5

Place = tuple[str, int]
"""(topic with its prefix, partition)"""


def missed_records(
    client: Mapping[str, Any], starts: Mapping[Place, int], *, patience_s: float = 15.0
) -> dict[Place, int]:
    """Compare where a state goes on with what the log has.

    Args:
        client: confluent-kafka settings of the cluster.
        starts: next offset to read, by place; 0 for who begins at the beginning.
        patience_s: a new leader may know the log's end a little late.

    Returns:
        Records that were removed before they were read; empty where none were.

    Raises:
        TopicMismatch: a log ends before the offset: it was made anew, or lost what had been acknowledged.
        Retry: the broker did not answer.
    """
    begun = [place for place, start in starts.items() if start]
    if not begun:
        return {}
    deadline = time.monotonic() + patience_s
    while True:
        ends = end_offsets(client, begun)
        short = [place for place in begun if ends[place] < starts[place]]
        if not short:
            return {place: low - starts[place] for place, low in _first(client, begun).items() if low > starts[place]}
        if time.monotonic() > deadline:
            topic, partition = short[0]
            raise TopicMismatch(
                f"{topic}-{partition} ends at {ends[short[0]]}, and the state has taken in what came before "
                f"{starts[short[0]]}: the topic was made anew, or the brokers lost records. Begin afresh under another "
                "PULSEGRAPH_KAFKA_PREFIX, or bring the topic back"
            )
        time.sleep(_AGAIN_S)


def _first(client: Mapping[str, Any], places: list[Place]) -> dict[Place, int]:
    consumer = Consumer({**client, "group.id": "pulsegraph-positions", "enable.auto.commit": False})
    try:
        return {place: first_offset(consumer, TopicPartition(*place)) for place in places}
    except KafkaException as error:
        raise Retry(f"the first offsets of the sources are not known: {error}") from error
    finally:
        consumer.close()
