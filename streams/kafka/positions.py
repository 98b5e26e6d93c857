"""Whether a log still has what a state goes on with.

A consumer whose position is out of range starts over at the beginning without a word. For a state that skips what it
has taken in before, that would mean to ignore a topic that was made anew, or to miss what retention removed.

Two ends matter. The log's own, the high watermark, says what the brokers have: a topic that ends before the state was
made anew. The last stable offset says what may be read: while a producer's transaction is open it stands at that
transaction's beginning, and a state that is beyond it only has to wait.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from confluent_kafka import KafkaException, TopicPartition

from schemas.errors import Retry, TopicMismatch
from streams.kafka.clients import Consumer
from streams.kafka.offsets import committed_offsets, end_offsets, first_offset

_AGAIN_S: Final = 0.5
_TIMEOUT_S: Final = 30.0

Place = tuple[str, int]
"""(topic with its prefix, partition)"""


class Continuation(msgspec.Struct, frozen=True):
    """What stands between a state and the rest of the log, by place."""

    missed: Mapping[Place, int]
    """Records that were removed before they were read."""
    firsts: Mapping[Place, int]
    """Where reading goes on behind them."""
    open_since: Mapping[Place, int]
    """Where a transaction is open that a state has records of: its first offset. Earlier versions read what was not
    committed yet."""


_NOTHING: Final = Continuation({}, {}, {})


def continuation(
    client: Mapping[str, Any], group: str, starts: Mapping[Place, int], *, patience_s: float = 15.0
) -> Continuation:
    """Compare where a state goes on with what the log has.

    Args:
        client: confluent-kafka settings of the cluster.
        group: whose offsets were committed with the state. They may be ahead of it by what is no record (markers of
            transactions, aborted records), which nobody misses.
        starts: next offset to read, by place; 0 for who begins at the beginning.
        patience_s: a new leader may know the log's end a little late.

    Raises:
        TopicMismatch: a log ends before the offset: it was made anew, or lost what had been acknowledged.
        Retry: the broker did not answer.
    """
    begun = [place for place, start in starts.items() if start]
    if not begun:
        return _NOTHING
    deadline = time.monotonic() + patience_s
    while True:
        # No log ends before what may be read of it: as a rule this answers it.
        open_since = {place: end for place, end in end_offsets(client, begun).items() if end < starts[place]}
        ends = end_offsets(client, open_since, uncommitted=True)
        short = {place: end for place, end in ends.items() if end < starts[place]}
        if not short:
            break
        if time.monotonic() > deadline:
            (topic, partition), end = next(iter(short.items()))
            raise TopicMismatch(
                f"{topic}-{partition} ends at {end}, and the state has taken in what came before "
                f"{starts[topic, partition]}: the topic was made anew, or the brokers lost records. Begin afresh under "
                "another PULSEGRAPH_KAFKA_PREFIX, or bring the topic back"
            )
        time.sleep(_AGAIN_S)
    consumer = Consumer({**client, "group.id": group, "enable.auto.commit": False})
    try:
        firsts = {place: first_offset(consumer, TopicPartition(*place)) for place in begun}
        cut = {place: first for place, first in firsts.items() if first > starts[place]}
        read = committed_offsets(consumer, list(cut), _TIMEOUT_S) if cut else {}
    except KafkaException as error:
        raise Retry(f"the first offsets of the sources are not known: {error}") from error
    finally:
        consumer.close()
    missed = {place: first - max(starts[place], read.get(place, 0)) for place, first in cut.items()}
    return Continuation({place: records for place, records in missed.items() if records > 0}, cut, open_since)
