"""Topics against the contract, on whatever broker the session runs on."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType

from schemas.errors import ConfigError, Retry, TopicMismatch
from schemas.events import SOURCES
from schemas.topics import DAY_MS, SOURCE_DAYS, TOPICS
from streams.brokers.processes import free_port
from streams.kafka import admin
from streams.kafka.clients import AdminClient
from streams.kafka.offsets import end_offsets


@pytest.fixture
def client(broker) -> AdminClient:
    return admin.connect({"bootstrap.servers": broker.bootstrap})


def _set(client: AdminClient, topic: str, setting: str, value: str) -> None:
    change = ConfigEntry(setting, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[change])
    client.incremental_alter_configs([resource])[resource].result(10)
    deadline = time.monotonic() + 10
    while client.describe_configs([resource])[resource].result(10)[setting].value != value:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_creates_every_topic_once(client: AdminClient, topics_prefix: str) -> None:
    created = admin.create_topics(client, prefix=topics_prefix, partitions=3)
    assert sorted(created) == sorted(topics_prefix + name for name in TOPICS)
    assert admin.create_topics(client, prefix=topics_prefix, partitions=3) == []
    assert admin.check_topics(client, prefix=topics_prefix, partitions=3) == 3
    assert [state.name for state in admin.describe(client, prefix=topics_prefix)] == [topics_prefix + n for n in TOPICS]
    assert sorted(admin.delete(client, prefix=topics_prefix)) == sorted(created)
    assert admin.describe(client, prefix=topics_prefix) == []


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_keeps_every_record_for_a_worker_that_is_away(source: str) -> None:
    """Compaction took replaced profiles, erasures among them, before they were read: records gone, and nobody told."""
    config = admin.topic_config(TOPICS[source])
    kept = "min.compaction.lag.ms" if config["cleanup.policy"] == "compact" else "retention.ms"
    assert int(config[kept]) >= SOURCE_DAYS * DAY_MS


def test_an_erasure_outlives_the_events_before_it() -> None:
    profiles = admin.topic_config(TOPICS["profiles"])
    events_ms = max(int(admin.topic_config(TOPICS[name])["retention.ms"]) for name in SOURCES if name != "profiles")
    segment_ms = 7 * DAY_MS  # Kafka's default: events leave with the youngest of their segment
    assert int(profiles["min.compaction.lag.ms"]) + int(profiles["delete.retention.ms"]) > events_ms + segment_ms


def test_missing_topics_name_the_command(client: AdminClient, topics_prefix: str) -> None:
    with pytest.raises(TopicMismatch, match=r"topics are missing .*pulsegraph topics create"):
        admin.check_topics(client, prefix=topics_prefix)


def test_another_partition_count_is_a_mismatch(
    client: AdminClient, make_topics: Callable[..., str], topics_prefix: str
) -> None:
    make_topics(partitions=2)
    assert admin.check_topics(client, prefix=topics_prefix) == 2
    with pytest.raises(TopicMismatch, match="PULSEGRAPH_KAFKA_PARTITIONS=2"):
        admin.check_topics(client, prefix=topics_prefix, partitions=4)


def test_topics_that_are_not_co_partitioned(
    client: AdminClient, make_topics: Callable[..., str], topics_prefix: str
) -> None:
    odd = topics_prefix + "redemptions"
    client.create_topics([NewTopic(odd, 5, 1, config=admin.topic_config(TOPICS["redemptions"]))])[odd].result(10)
    make_topics(partitions=2)
    with pytest.raises(TopicMismatch, match=rf"5: {odd}.*topics delete --yes"):
        admin.check_topics(client, prefix=topics_prefix, partitions=2)


@pytest.mark.parametrize(
    ("topic", "setting", "value"),
    [
        ("profiles", "cleanup.policy", "delete"),
        ("profiles", "min.compaction.lag.ms", "0"),
        ("profiles", "delete.retention.ms", "86400000"),
        ("ingest-changelog", "cleanup.policy", "compact,delete"),
        ("outcomes", "retention.ms", "60000"),
        ("dead-letter", "max.message.bytes", "1000012"),
    ],
)
def test_wrong_topic_settings_are_found_and_corrected(
    client: AdminClient, make_topics: Callable[..., str], topics_prefix: str, topic: str, setting: str, value: str
) -> None:
    make_topics()
    _set(client, topics_prefix + topic, setting, value)
    with pytest.raises(TopicMismatch, match=rf"{topic}: {setting} is {value} .*topics create --update"):
        admin.check_topics(client, prefix=topics_prefix)
    assert admin.create_topics(client, prefix=topics_prefix, partitions=2, update=True) == []
    admin.check_topics(client, prefix=topics_prefix)


@pytest.mark.parametrize("longer", ["-1", str(10**15)])
def test_longer_retention_is_accepted(
    client: AdminClient, make_topics: Callable[..., str], topics_prefix: str, longer: str
) -> None:
    make_topics()
    _set(client, topics_prefix + "clickstream", "retention.ms", longer)
    admin.check_topics(client, prefix=topics_prefix)


def test_lag_counts_what_is_unread(broker, make_topics: Callable[..., str], topics_prefix: str) -> None:
    make_topics(partitions=2)
    topic, group = topics_prefix + "clickstream", topics_prefix + "group"
    config = {"bootstrap.servers": broker.bootstrap}
    producer = Producer(config)
    for _ in range(10):
        producer.produce(topic, b"{}", key=b"1", partition=0)
    assert producer.flush(10) == 0
    before = {lag.partition: (lag.committed, lag.end, lag.lag) for lag in admin.consumer_lag(config, group, [topic])}
    assert before == {0: (None, 10, 10), 1: (None, 0, 0)}
    consumer = Consumer({**config, "group.id": group})
    try:
        consumer.commit(offsets=[TopicPartition(topic, 0, 7)], asynchronous=False)
    finally:
        consumer.close()
    after = {lag.partition: (lag.committed, lag.end, lag.lag) for lag in admin.consumer_lag(config, group, [topic])}
    assert after == {0: (7, 10, 3), 1: (None, 0, 0)}
    with pytest.raises(TopicMismatch, match="there is no topic"):
        admin.consumer_lag(config, group, [topics_prefix + "nothing"])


def test_end_offsets_see_past_the_last_batch(broker, make_topics: Callable[..., str], topics_prefix: str) -> None:
    # The embedded broker's ListOffsets stops at the base of the last batch: 10 records in two batches "end" at 6.
    make_topics(partitions=1)
    topic = topics_prefix + "clickstream"
    config = {"bootstrap.servers": broker.bootstrap}
    producer = Producer({**config, "linger.ms": 20})
    for _ in range(2):
        for _ in range(5):
            producer.produce(topic, b"{}", key=b"1")
        assert producer.flush(10) == 0
    assert end_offsets(config, [(topic, 0)]) == {(topic, 0): 10}
    assert end_offsets(config, []) == {}


@pytest.mark.parametrize(("prefix", "partitions"), [("a b", 1), ("x" * 101, 1), ("ok.", 0)])
def test_unusable_arguments(client: AdminClient, prefix: str, partitions: int) -> None:
    with pytest.raises(ConfigError):
        admin.create_topics(client, prefix=prefix, partitions=partitions)


def test_a_broker_that_is_not_there() -> None:
    nobody = admin.connect({"bootstrap.servers": f"127.0.0.1:{free_port()}"})
    with pytest.raises(Retry, match="does not answer"):
        admin.check_topics(nobody, timeout_s=0.3)
