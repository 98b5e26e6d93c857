"""Broker and topics of the graph benches: everything is in Kafka before a clock starts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import msgspec
from confluent_kafka.admin import NewTopic

from infra.bench.deployment import started_broker
from infra.bench.graph_data import PARTITIONS, GraphEvent, customer_id, partition_of, stored_record
from infra.bench.report import Options
from schemas.errors import ConfigError
from schemas.topics import changelog_of
from streams.brokers.apache import KAFKA_VERSION
from streams.kafka import admin
from streams.sources.replay import OrderedProducer
from streams.state import keys, ownership

BROKER = f"Apache Kafka {KAFKA_VERSION}, one node, {PARTITIONS} partitions"
_SERVE_EVERY = 5_000
_RECORDS_WAITING = 1_000_000


@contextmanager
def apache(options: Options, name: str) -> Iterator[str]:
    """Apache Kafka on an empty folder, gone afterwards; yields its address.

    Raises:
        ConfigError: another broker was asked for.
    """
    if options.broker != "apache":
        raise ConfigError(f"bench {name} compares with clients that need Apache Kafka: leave --broker out")
    with started_broker(options, {"log.cleaner.enable": "false"}) as broker:
        yield broker.bootstrap


class Load:
    """Fills topics."""

    def __init__(self, bootstrap: str) -> None:
        self._admin = admin.connect({"bootstrap.servers": bootstrap})
        self._producer = OrderedProducer(
            bootstrap,
            config={
                "queue.buffering.max.messages": _RECORDS_WAITING,
                "linger.ms": 50,
                "acks": "1",
            },
        )

    def create(self, *names: str, **config: str) -> None:
        """Topics with :data:`PARTITIONS` partitions."""
        new = [NewTopic(name, PARTITIONS, 1, config=config) for name in names]
        for future in self._admin.create_topics(new).values():
            future.result(30)

    def events(self, topic: str, stretch: Iterable[GraphEvent]) -> None:
        """Append events."""
        send = self._producer.send
        for place, event in enumerate(stretch):
            send(topic, event.key, event.value, event.partition)
            if place % _SERVE_EVERY == 0:
                self._producer.serve()
        self._producer.deliver()

    def our_state(self, app: str, customers: int) -> None:
        """Our changelog with a state for every customer, as a worker before us would have left it."""
        topic, term = changelog_of(app), ownership.headers(1, 0)
        headers = [(name, value) for name, value in term if isinstance(value, bytes)]
        records = ((keys.record(customer_id(number)), stored_record(number)[0], number) for number in range(customers))
        self._fill(topic, records, headers)
        for partition in range(PARTITIONS):
            self._producer.send(topic, keys.META, msgspec.msgpack.encode(0), partition, headers)
        self._producer.deliver()

    def faust_state(self, app: str, customers: int) -> None:
        """The same for a Faust ``Table``: keys and values as JSON."""
        records = ((f'"{customer_id(n)}"'.encode(), stored_record(n)[1], n) for n in range(customers))
        self._fill(f"{app}-graph-changelog", records, [])

    def streams_state(self, app: str, customers: int) -> None:
        """The same for a Kafka Streams store."""
        records = ((customer_id(n).encode(), stored_record(n)[1], n) for n in range(customers))
        self._fill(f"{app}-graph-changelog", records, [])

    def quix_state(self, app: str, topic: str, customers: int) -> None:
        """The same for Quix Streams."""
        records = ((f'{customer_id(n)}|"g"'.encode(), stored_record(n)[1], n) for n in range(customers))
        headers = [("__column_family__", b"default"), ("__processed_tp_offsets__", b"null")]
        self._fill(f"changelog__{app}--{topic}--default", records, headers)

    def _fill(self, topic: str, records: Iterable[tuple[bytes, bytes, int]], headers: list[tuple[str, bytes]]) -> None:
        self.create(topic, **{"cleanup.policy": "compact"})
        send = self._producer.send
        for place, (key, value, number) in enumerate(records):
            send(topic, key, value, partition_of(number), headers)
            if place % _SERVE_EVERY == 0:
                self._producer.serve()
        self._producer.deliver()
