"""What is committed is what counts: producers with transactions, on Apache Kafka. The embedded broker has none."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions
from support.owners import batch, worker
from support.pipeline import Pipeline
from support.small_model import save_small_model
from support.transactions import Transactional

from streams.brokers.apache import ApacheBroker
from streams.brokers.processes import free_port
from streams.core.config import CoreConfig
from streams.inspect import lookup
from streams.kafka import admin, offsets
from streams.kafka.positions import continuation
from streams.kafka.reader import TopicReader
from streams.state.memory import MemoryStore

pytestmark = [pytest.mark.apache, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def kafka() -> Iterator[ApacheBroker]:
    with ApacheBroker() as running:
        yield running


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = save_small_model(tmp_path_factory.mktemp("model") / "model")
    return path


@pytest.fixture
def deployed(kafka: ApacheBroker, topics_prefix: str, model: Path, tmp_path: Path) -> Iterator[Pipeline]:
    admin.create_topics(admin.connect({"bootstrap.servers": kafka.bootstrap}), prefix=topics_prefix, partitions=1)
    pipeline = Pipeline(kafka.bootstrap, topics_prefix, 1, model, tmp_path)
    yield pipeline
    pipeline.stop()


def purchases(count: int, first: int = 0) -> list[dict[str, Any]]:
    now_ms = int(time.time() * 1000)
    return [
        {"event": "purchase", "event_id": f"e{number}", "event_ts_ms": now_ms, "item_id": f"i{number}"}
        for number in range(first, first + count)
    ]


def await_no_lag(pipeline: Pipeline, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while lags := [entry for entry in pipeline._lags("ingest") if entry.lag]:
        assert pipeline.workers[-1].running, pipeline.log().read_text()
        assert time.monotonic() < deadline, lags
        time.sleep(0.2)


def events_of(pipeline: Pipeline, customer_id: str) -> int:
    """What ``pulsegraph customer`` says."""
    with TopicReader(pipeline.client) as reader:
        return lookup.customer(reader, pipeline.prefix, customer_id, CoreConfig()).events


def test_an_aborted_transaction_counts_for_nothing(deployed: Pipeline, kafka: ApacheBroker) -> None:
    topic = deployed.prefix + "clickstream"
    with Transactional(kafka.bootstrap) as producer:
        producer.write(topic, purchases(5))
        producer.abort()
        producer.write(topic, purchases(1, 5))
        producer.commit()
    deployed.start_worker(roles="ingest")
    await_no_lag(deployed)
    # 5 aborted records, a marker, a record, a marker: the committed offset is behind the last marker.
    (lag,) = [entry for entry in deployed._lags("ingest") if entry.topic == topic]
    assert (lag.committed, lag.end) == (8, 8)
    with TopicReader(deployed.client) as reader:
        assert [message.offset() for message in reader.range(topic, 0, 0, reader.ends([(topic, 0)])[topic, 0])] == [6]
    assert events_of(deployed, "42") == 1


def test_any_mix_of_transactions(deployed: Pipeline, kafka: ApacheBroker) -> None:
    """Three producers at once, which commit and abort at random: what is committed counts, in every order."""
    rng, topic = random.Random(7), deployed.prefix + "clickstream"
    deployed.start_worker(roles="ingest")
    committed, number = 0, 0
    with Transactional(kafka.bootstrap) as a, Transactional(kafka.bootstrap) as b, Transactional(kafka.bootstrap) as c:
        pending = dict.fromkeys((a, b, c), 0)
        for _ in range(60):
            producer = rng.choice((a, b, c))
            match rng.choice(("write", "write", "commit", "abort")):
                case "write":
                    count = rng.randint(1, 4)
                    producer.write(topic, purchases(count, number))
                    number, pending[producer] = number + count, pending[producer] + count
                case "commit" if pending[producer]:
                    producer.commit()
                    committed, pending[producer] = committed + pending[producer], 0
                case "abort" if pending[producer]:
                    producer.abort()
                    pending[producer] = 0
    await_no_lag(deployed)
    assert committed > 10
    assert events_of(deployed, "42") == committed


def test_a_worker_restarts_while_a_transaction_is_open(deployed: Pipeline, kafka: ApacheBroker) -> None:
    topic = deployed.prefix + "clickstream"
    with Transactional(kafka.bootstrap) as producer:
        producer.write(topic, purchases(3))
        producer.commit()
        first = deployed.start_worker(roles="ingest")
        await_no_lag(deployed)
        first.stop(timeout_s=30.0)
        producer.write(topic, purchases(2, 3))
        again = deployed.start_worker(roles="ingest")
        deadline = time.monotonic() + 8  # a start takes less, and its check of positions is patient for 15 s
        while time.monotonic() < deadline:
            assert again.running, deployed.log().read_text()
            time.sleep(0.2)
        assert events_of(deployed, "42") == 3
        producer.commit()
        await_no_lag(deployed)
    assert again.running
    assert events_of(deployed, "42") == 5
    assert "made anew" not in deployed.log().read_text()


def test_a_state_that_ran_ahead_waits_and_says_for_what(
    kafka: ApacheBroker, topics_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As versions left it that read uncommitted records; looked at on every assignment."""
    prefix = topics_prefix
    admin.create_topics(admin.connect({"bootstrap.servers": kafka.bootstrap}), prefix=prefix, partitions=1)

    async def story() -> None:
        role, _, outbox = worker(kafka.bootstrap, prefix, {0: MemoryStore()})
        with Transactional(kafka.bootstrap) as producer:
            producer.write(prefix + "clickstream", purchases(10))
            await role.on_assigned({0})
            await role.process(batch(0, 10))
            for _ in range(2):
                await role.on_revoked({0})
                starts = await role.on_assigned({0})
                assert starts["clickstream", 0] == 10
                (said,) = [entry.getMessage() for entry in caplog.records if "transaction is open" in entry.message]
                assert "clickstream-0: a producer's transaction is open since offset 0" in said
                assert "(up to 10)" in said
                caplog.clear()
            producer.abort()
        await role.on_revoked({0})
        await role.on_assigned({0})
        await role.on_revoked({0})
        outbox.close(5)

    with caplog.at_level(logging.WARNING):
        asyncio.run(story())
    assert "transaction is open" not in caplog.text


def test_markers_and_aborted_records_are_not_missed(kafka: ApacheBroker, topics_prefix: str) -> None:
    client: dict[str, Any] = {"bootstrap.servers": kafka.bootstrap}
    connected = admin.connect(client)
    admin.create_topics(connected, prefix=topics_prefix, partitions=1)
    topic, group = topics_prefix + "clickstream", topics_prefix + "pulsegraph-ingest"
    with Transactional(kafka.bootstrap) as producer:
        producer.write(topic, purchases(4))
        producer.commit()  # the marker is at 4
        producer.write(topic, purchases(3, 4))
        producer.abort()  # 5 to 7, and the marker at 8
    assert offsets.end_offsets(client, [(topic, 0)]) == {(topic, 0): 9}
    commit(client, group, topic, 9)
    remove_before(connected, topic, 9)
    found = continuation(client, group, {(topic, 0): 4})
    assert (found.missed, found.firsts) == ({}, {(topic, 0): 9})
    assert continuation(client, "another group", {(topic, 0): 2}).missed == {(topic, 0): 7}


def commit(client: dict[str, Any], group: str, topic: str, offset: int) -> None:
    from confluent_kafka import Consumer

    consumer = Consumer({**client, "group.id": group})
    consumer.commit(offsets=[TopicPartition(topic, 0, offset)], asynchronous=False)
    consumer.close()


def remove_before(connected: AdminClient, topic: str, offset: int) -> None:
    """What retention does, at once."""
    (removed,) = connected.delete_records([TopicPartition(topic, 0, offset)], request_timeout=60).values()
    removed.result(60)


SOURCES = ("clickstream", "campaign-sends", "redemptions", "profiles", "sweeps")


def test_a_log_that_is_cut_in_front_of_a_running_worker_is_told(
    kafka: ApacheBroker, topics_prefix: str, model: Path, tmp_path: Path
) -> None:
    """Frozen for less than its session, so that no rebalance looks; aborted records before the cut are not missed."""
    port, connected = free_port(), admin.connect({"bootstrap.servers": kafka.bootstrap})
    admin.create_topics(connected, prefix=topics_prefix, partitions=1)
    settings = {"PULSEGRAPH_METRICS_PORT": str(port), "PULSEGRAPH_KAFKA_SESSION_TIMEOUT_MS": "30000"}
    pipeline = Pipeline(kafka.bootstrap, topics_prefix, 1, model, tmp_path, settings)
    topic = topics_prefix + "clickstream"
    try:
        running = pipeline.start_worker(roles="ingest")
        with Transactional(kafka.bootstrap) as producer:
            producer.write(topic, purchases(3))
            producer.abort()
            producer.write(topic, purchases(2, 3))
            producer.commit()
            await_no_lag(pipeline)
            assert missed(port) == 0
            running.send_signal(signal.SIGSTOP)
            producer.write(topic, purchases(10, 5))
            producer.commit()  # offsets 7 to 16, and a marker
            remove_before(connected, topic, 12)
            running.send_signal(signal.SIGCONT)
            await_no_lag(pipeline)
        deadline = time.monotonic() + 20
        while missed(port) == 0:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert missed(port) == 5
        assert events_of(pipeline, "42") == 7
        assert "retention removed 5 records of clickstream-0 before they were read" in pipeline.log().read_text()
    finally:
        pipeline.stop()


def missed(port: int) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = re.search(r'pulsegraph_missed_records_total\{role="ingest",topic="clickstream"\} (\S+)', text)
    assert found is not None, "a counter that appears with its first value is no increase"
    return float(found[1])


@pytest.mark.parametrize("topics", [SOURCES, ("clickstream",)], ids=["all", "one"])
def test_more_partitions_are_noticed_within_seconds(
    topics: tuple[str, ...], deployed: Pipeline, kafka: ApacheBroker
) -> None:
    running = deployed.start_worker(roles="ingest")
    topic = deployed.prefix + "clickstream"
    with Transactional(kafka.bootstrap) as producer:
        producer.write(topic, purchases(3))
        producer.commit()
    await_no_lag(deployed)
    connected = admin.connect({"bootstrap.servers": kafka.bootstrap})
    for future in connected.create_partitions([NewPartitions(deployed.prefix + name, 2) for name in topics]).values():
        future.result(30)
    assert running.wait(20.0) == 2, deployed.log().read_text()
    said = deployed.log().read_text()
    assert "partitions, and the settings say 1" in said
    assert "customers whose partition moves would meet no state" in said
