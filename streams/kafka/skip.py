"""Moves a consumer group that nobody is in to the end of a topic: what waits there is passed over."""

from __future__ import annotations

from typing import Final

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from schemas.errors import ConfigError, Retry
from streams.kafka.clients import ClientConfig, Consumer
from streams.kafka.offsets import consumer_lag

#: What a broker answers to the commit of a stranger while the group has members.
_OCCUPIED: Final = (KafkaError.UNKNOWN_MEMBER_ID, KafkaError.ILLEGAL_GENERATION, KafkaError.REBALANCE_IN_PROGRESS)


def skip_to_end(client_config: ClientConfig, group: str, topic: str) -> int:
    """Commit the end of every partition of ``topic`` (a name on the broker) for ``group``.

    Returns:
        Records passed over.

    Raises:
        ConfigError: the group has members, or the broker refused the login.
        TopicMismatch: there is no such topic.
        Retry: the broker did not answer.
    """
    behind = consumer_lag(client_config, group, [topic])
    ends = [TopicPartition(entry.topic, entry.partition, entry.end) for entry in behind]
    consumer = Consumer({**client_config, "group.id": group, "enable.auto.commit": False})
    try:
        committed = consumer.commit(offsets=ends, asynchronous=False)
        for error in [entry.error for entry in committed or () if entry.error is not None]:
            raise KafkaException(error)
    except KafkaException as error:
        if error.args[0].code() in _OCCUPIED:
            raise ConfigError(f"group {group} has members: stop its workers first, and start them afterwards") from None
        raise Retry(f"the position of group {group} was not committed: {error.args[0].str()}") from error
    finally:
        consumer.close()
    return sum(entry.lag for entry in behind)
