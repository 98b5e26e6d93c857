"""Changelogs that were compacted, cut, emptied or end in something that is no record: a restore ends all the same.

And the catalog, where it is made anew under who follows it; and profiles, of which compaction may take nothing that a
worker that was away has not read.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType
from support.owners import batch, worker

from schemas.errors import DeliveryFailed, TopicMismatch
from schemas.topics import DAY_MS, SOURCE_DAYS
from streams.brokers.apache import ApacheBroker
from streams.kafka import admin, offsets
from streams.kafka.reader import TopicReader
from streams.serving.catalog import CatalogFollower
from streams.state import keys, ownership
from streams.state.checkpoints import read_meta
from streams.state.contract import KeyValue
from streams.state.memory import MemoryStore
from streams.state.progress import EVERY_S, RestoreProgress
from streams.state.restore import ChangelogBehind, Restored, restore

pytestmark = [pytest.mark.apache, pytest.mark.timeout(180)]
PATIENCE_S = 20.0
RECORDS = 3_000
CUSTOMERS = 100
CUTTABLE = "compact,delete"
"""Kafka deletes no records of a topic that is only compacted; somebody must have changed its policy."""


class Changelog:
    """One partition of state records, on a broker that can delete and compact."""

    def __init__(self, broker: ApacheBroker, name: str, **config: str) -> None:
        self.client: dict[str, Any] = {"bootstrap.servers": broker.bootstrap, "log_level": 0}
        self.name = name
        self.admin = admin.connect(self.client)
        settings = {"cleanup.policy": "compact", **{key.replace("_", "."): value for key, value in config.items()}}
        self.admin.create_topics([NewTopic(name, 1, 1, config=settings)])[name].result(30)

    def write(self, records: int, *, transaction: bool = False, tombstones: bool = False, from_number: int = 0) -> None:
        more = {"transactional.id": self.name} if transaction else {}
        producer = Producer({**self.client, "enable.idempotence": True, **more})
        if transaction:
            producer.init_transactions(30)
            producer.begin_transaction()
        for number in range(from_number, from_number + records):
            value = None if tombstones and number % CUSTOMERS < CUSTOMERS // 2 else b"%06d" % number
            key = keys.record(f"c{number % CUSTOMERS}")
            producer.produce(self.name, value, key, 0, headers=ownership.headers(1, 0))
            producer.poll(0)
        producer.produce(self.name, b"", keys.META, 0, headers=ownership.headers(1, 0))  # which ends a checkpoint
        if transaction:
            producer.commit_transaction(30)
        assert producer.flush(30) == 0

    def end(self) -> int:
        return offsets.end_offsets(self.client, [(self.name, 0)])[self.name, 0]

    def delete_before(self, offset: int) -> None:
        place = TopicPartition(self.name, 0, offset)
        (future,) = self.admin.delete_records([place]).values()
        assert future.result(30).low_watermark == (self.end() if offset < 0 else offset)

    def restore(self, store: KeyValue, progress: Callable[[int, int], None] = lambda _done, _total: None) -> Restored:
        began = time.monotonic()
        done = restore(store, self.client, self.name, 0, lambda _: -1, patience_s=PATIENCE_S, progress=progress)
        assert time.monotonic() - began < PATIENCE_S
        assert done.next_offset == self.end()
        return done


def content(store: KeyValue) -> dict[bytes, bytes]:
    return dict(store.scan(keys.RECORD, keys.RECORDS_STOP))


def newest(until: int, tombstones: bool = False) -> dict[bytes, bytes]:
    found = {keys.record(f"c{number % CUSTOMERS}"): b"%06d" % number for number in range(until)}
    return {key: value for key, value in found.items() if not tombstones or int(key[2:]) >= CUSTOMERS // 2}


@pytest.fixture(scope="module")
def kafka() -> Iterator[ApacheBroker]:
    with ApacheBroker(properties={"log.cleaner.backoff.ms": "100"}) as broker:
        yield broker


def test_a_compacted_changelog_whose_last_records_are_gone(kafka: ApacheBroker) -> None:
    log = Changelog(
        kafka, "compacted", segment_ms="100", min_cleanable_dirty_ratio="0.01", delete_retention_ms="0",
        min_compaction_lag_ms="0", max_compaction_lag_ms="200",
    )  # fmt: skip
    log.write(RECORDS, tombstones=True)
    log.write(1, from_number=RECORDS - 1)  # moves on to the next segment, so that the one before may be cleaned
    deadline = time.monotonic() + 60
    while True:
        store = MemoryStore()
        done = log.restore(store)
        assert content(store) == newest(RECORDS, tombstones=True)
        if done.records <= CUSTOMERS + 10:
            break
        assert time.monotonic() < deadline, f"not compacted: {done.records} records left"
        time.sleep(0.5)
    assert log.restore(store).records == 0


def test_a_checkpoint_of_which_a_record_was_not_taken_does_not_count(kafka: ApacheBroker) -> None:
    """The meta record ends a checkpoint, so it must not get through where another one did not."""
    prefix, client = "refused.", admin.connect({"bootstrap.servers": kafka.bootstrap})
    admin.create_topics(client, prefix=prefix, partitions=1)
    place = (f"{prefix}ingest-changelog", 0)
    limit = ConfigEntry("max.message.bytes", "500", incremental_operation=AlterConfigOpType.SET)
    changelog = ConfigResource(ResourceType.TOPIC, place[0], incremental_configs=[limit])
    client.incremental_alter_configs([changelog])[changelog].result(30)

    async def story() -> None:
        role, _, outbox = worker(kafka.bootstrap, prefix, {}, outbox_config={"batch.num.messages": 1})
        await role.on_assigned({0})
        await role.process(batch(0, 200))
        with pytest.raises(DeliveryFailed, match="Message size too large"):
            await role._flush(role._begin([0]))
        outbox.close(5)

    asyncio.run(story())
    with TopicReader({"bootstrap.servers": kafka.bootstrap}) as reader:
        written = {message.key() for message in reader.range(*place, 0, reader.ends([place])[place])}
    assert keys.CLAIM in written and keys.META not in written


def test_a_changelog_that_ends_in_a_control_record(kafka: ApacheBroker) -> None:
    log = Changelog(kafka, "transactional")
    log.write(RECORDS, transaction=True)
    deadline = time.monotonic() + 10
    while (end := log.end()) != RECORDS + 2:  # a commit is acknowledged before its control record is in the log
        assert end == 0 and time.monotonic() < deadline, end
        time.sleep(0.02)
    store = MemoryStore()
    assert log.restore(store).records == RECORDS + 1
    assert content(store) == newest(RECORDS)
    assert read_meta(store).changelog_offset == RECORDS + 2
    assert log.restore(store).records == 0
    log.write(5, from_number=RECORDS)
    assert log.restore(store).records == 6


def test_a_changelog_cut_before_what_is_known_goes_on(kafka: ApacheBroker) -> None:
    log = Changelog(kafka, "cut-before", cleanup_policy=CUTTABLE)
    log.write(RECORDS)
    store = MemoryStore()
    log.restore(store)
    log.delete_before(RECORDS // 2)
    log.write(10, from_number=RECORDS)
    assert log.restore(store).records == 11
    assert content(store) == newest(RECORDS + 10)
    fresh = MemoryStore()
    assert log.restore(fresh).records == RECORDS // 2 + 12
    assert content(fresh) == content(store)


def test_a_changelog_cut_past_what_is_known_is_read_anew(kafka: ApacheBroker) -> None:
    log = Changelog(kafka, "cut-past", cleanup_policy=CUTTABLE)
    log.write(100)
    store = MemoryStore()
    log.restore(store)
    log.write(RECORDS, from_number=100)
    log.delete_before(150)
    with pytest.raises(ChangelogBehind, match="deletions may have been missed"):
        log.restore(store)
    assert log.restore(MemoryStore()).records == RECORDS - 48


def test_an_emptied_changelog(kafka: ApacheBroker, caplog: pytest.LogCaptureFixture) -> None:
    log = Changelog(kafka, "emptied", cleanup_policy=CUTTABLE)
    log.write(RECORDS)
    store = MemoryStore()
    log.restore(store)
    log.delete_before(-1)  # all of it
    assert log.restore(MemoryStore()).records == 0
    assert "begins at 3001, and there is no local store" in caplog.text
    caplog.clear()
    assert log.restore(store).records == 0  # what was read to the end is still good
    assert content(store) == newest(RECORDS)
    assert not caplog.text
    log.write(10)
    assert log.restore(store).records == 11
    fresh = MemoryStore()
    assert log.restore(fresh).records == 11
    behind = MemoryStore()
    log.delete_before(-1)
    log.restore(behind)
    assert content(behind) == {}


def test_a_topic_that_began_a_new_life_is_noticed(kafka: ApacheBroker) -> None:
    log = Changelog(kafka, "reborn")
    log.write(RECORDS)
    store = MemoryStore()
    log.restore(store)
    again = _made_anew(log, kafka)
    again.write(10)
    with pytest.raises(ChangelogBehind, match="ends at 11, the local store has read up to 3001"):
        again.restore(store)


def test_a_catalog_that_began_a_new_life_ends_its_follower(kafka: ApacheBroker) -> None:
    log = Changelog(kafka, "reborn.catalog")
    log.write(100)
    follower = CatalogFollower(log.client, log.name, lambda *refused: None)
    follower.start()
    again = _made_anew(log, kafka)
    again.write(10)
    deadline = time.monotonic() + 30
    while follower.failure is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    follower.stop()
    assert isinstance(follower.failure, TopicMismatch)
    assert "a restart reads it afresh" in str(follower.failure)


def test_profiles_are_not_compacted_before_a_worker_that_was_away_has_read_them(kafka: ApacheBroker) -> None:
    prefix = "away."
    client: dict[str, Any] = {"bootstrap.servers": kafka.bootstrap, "log_level": 0}
    admin.create_topics(admin.connect(client), prefix=prefix, partitions=1)
    producer = Producer({**client, "enable.idempotence": True})

    def told(days_ago: int, *values: bytes | None) -> None:
        at_ms = int(time.time() * 1000) - days_ago * DAY_MS  # Kafka begins a segment where records are a week apart
        for value in values:
            for customer in range(CUSTOMERS):
                producer.produce(prefix + "profiles", value, b"c%d" % customer, 0, timestamp=at_ms)
        assert producer.flush(30) == 0

    told(SOURCE_DAYS + 10, b"first", b"second")
    told(9, b"third", None, b"fourth")
    told(0, b"fifth")
    deadline = time.monotonic() + 60
    while len(found := _values(client, prefix + "profiles")) == 6 * CUSTOMERS:
        assert time.monotonic() < deadline, "the broker does not compact"
        time.sleep(0.2)
    # What is old was compacted; younger profiles and erasures are all there, whatever came after them.
    assert Counter(found) == dict.fromkeys((b"second", b"third", None, b"fourth", b"fifth"), CUSTOMERS)


def _values(client: dict[str, Any], topic: str) -> list[bytes | None]:
    consumer = Consumer({**client, "group.id": "reader", "enable.partition.eof": True})
    consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    values = []
    while True:
        message = consumer.poll(10)
        assert message is not None
        if (error := message.error()) is not None:
            assert error.code() == KafkaError._PARTITION_EOF
            break
        values.append(message.value())
    consumer.close()
    return values


def _made_anew(log: Changelog, kafka: ApacheBroker) -> Changelog:
    log.admin.delete_topics([log.name])[log.name].result(30)
    deadline = time.monotonic() + 30
    while True:
        try:
            return Changelog(kafka, log.name)
        except KafkaException:  # deletion takes a moment
            assert time.monotonic() < deadline
            time.sleep(0.2)


def test_progress_is_reported_and_logged_now_and_then(kafka: ApacheBroker, caplog: pytest.LogCaptureFixture) -> None:
    log = Changelog(kafka, "slow")
    log.write(12_000)
    steps: list[tuple[int, int]] = []
    seconds = iter(range(0, 10_000, int(EVERY_S)))
    log.restore(
        MemoryStore(), RestoreProgress("slow-0", lambda *step: steps.append(step), lambda: float(next(seconds)))
    )
    assert steps[-1] == (12_001, 12_001)
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    said = [record.getMessage() for record in caplog.records if "restoring slow-0" in record.getMessage()]
    assert len(said) == len(steps)
    assert "12,001 of at most 12,001 records" in said[-1]
