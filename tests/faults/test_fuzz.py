"""Payloads that are spoilt or made to hurt: each is applied, known already, or a dead letter; nothing crashes.

``make fuzz`` takes a million.
"""

from __future__ import annotations

import os
import random
import re
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from support.hostile import Payload, payloads
from support.logs import CONFIG, START_MS
from support.pipeline import Pipeline
from support.small_model import save_small_model

from schemas import codec, errors
from schemas.deadletter import Refused
from schemas.events import SOURCES
from schemas.records import LogRecord
from schemas.snapshot import Outcome, Snapshot
from schemas.words import Words
from streams.agents.ingest import outputs_of, revocations_of
from streams.brokers.processes import free_port
from streams.core.config import CoreConfig
from streams.core.context import Context
from streams.core.customer import Customer
from streams.core.durable import IngestCheckpoint
from streams.core.partition import IngestPartition
from streams.inspect import dead_letters
from streams.kafka import admin
from streams.kafka.partitioning import partition_for
from streams.kafka.transport import COMMIT_TIMEOUT_S
from streams.sources.replay import OrderedProducer
from streams.state import keys
from streams.state.checkpoints import StoredRecords, local_batch, read_meta
from streams.state.memory import MemoryStore

#: With k = 1 the first fast clock among the payloads would make everything after it too late.
FUZZED = msgspec.structs.replace(CONFIG, watermark_keys=CoreConfig().watermark_keys)
SEED = 20_260_701
RECORDS = int(os.environ.get("PULSEGRAPH_TEST_FUZZ", "50000"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300 + RECORDS // 200)]


class Fuzzed:
    """One partition under fire, restarted from its store every so often."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.offsets = [0] * len(SOURCES)
        self.ended: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.outputs = 0
        self.dead_letters_bytes = 0
        self.words = Words()
        self.restart()

    def restart(self) -> None:
        self.ingest = IngestPartition(
            0,
            FUZZED,
            self.words,
            StoredRecords(self.store),
            read_meta(self.store).partition,
            cache_bytes=1 << 20,
            idle_ms=0,
            now_ms=0,
        )

    def take(self, batch: list[Payload]) -> None:
        source_index = batch[0].source_index
        before = Counter(self.ingest.counts)
        records = []
        for payload in batch:
            records.append(LogRecord(self.offsets[source_index], *payload[1:]))
            self.offsets[source_index] += 1
        refused = self.ingest.take(source_index, records, 0)
        for dead_letter in refused:
            self.read_again(dead_letter, records)
        ended = Counter(self.ingest.counts) - before
        ended = Counter({name: ended[name] for name in ("applied", "duplicates", "heartbeats", "dead_lettered")})
        assert ended.total() == len(batch), (dict(ended), batch[:3])
        assert ended["dead_lettered"] == len(refused)
        self.ended += ended

    def read_again(self, dead_letter: Refused, records: list[LogRecord]) -> None:
        """A dead letter is what came, and can be sent back."""
        found = dead_letters.parse(dead_letter.key, dead_letter.value, dead_letter.headers)
        assert found is not None
        self.reasons[dead_letter.reason] += 1
        record = records[found.offset - records[0].offset]
        if found.cut is not None:  # a key and a header of a megabyte each
            assert (
                len(record.key or b"") + len(record.value or b"") + sum(len(raw) for _, raw in record.headers) > 1 << 20
            )
            assert (record.key or b"").startswith(dead_letter.key or b"")
            return
        assert (dead_letter.key, dead_letter.value) == (record.key, record.value)
        dead_letters.replayed_headers(found)

    def checkpoint(self) -> IngestCheckpoint:
        done = self.ingest.checkpoint(0)
        for output in [*revocations_of(done), *outputs_of(done, self.words, partitions=4)]:
            assert isinstance(output.value, bytes) or output.topic == "session-snapshots", "a null only for an erasure"
            self.outputs += 1
        self.store.write(local_batch(done, -1))
        self.ingest.written()
        return done


def batches(found: list[Payload], rng: random.Random) -> list[list[Payload]]:
    """By topic, each in order, of random sizes."""
    rest: list[list[Payload]] = [[] for _ in SOURCES]
    made: list[list[Payload]] = []
    for payload in found:
        rest[payload.source_index].append(payload)
        if len(rest[payload.source_index]) >= rng.choice((1, 20, 100, 500)):
            made.append(rest[payload.source_index])
            rest[payload.source_index] = []
    return made + [left for left in rest if left]


def test_every_payload_ends_somewhere() -> None:
    rng = random.Random(SEED)
    fuzzed = Fuzzed()
    decode_snapshot, decode_outcome = codec.decoder(Snapshot), codec.decoder(Outcome)
    done = 0
    while done < RECORDS:
        # In portions: tens of thousands of hostile payloads at once would be gigabytes.
        portion = list(payloads(SEED + done, 2_000, START_MS + done * 350_000))
        for batch in batches(portion, rng):
            fuzzed.take(batch)
            if rng.random() < 0.3:
                checkpoint = fuzzed.checkpoint()
                for snapshot in (*checkpoint.awaiting_label, *checkpoint.snapshots):
                    assert decode_snapshot(codec.msgpack_encode(snapshot)) == snapshot
                for outcome in checkpoint.outcomes:
                    assert decode_outcome(codec.msgpack_encode(outcome)) == outcome
        fuzzed.checkpoint()
        if rng.random() < 0.2:
            fuzzed.restart()
        done += len(portion)
    assert fuzzed.ended.total() == done == sum(fuzzed.offsets)
    # Neither hand may be idle: what is good is taken in, and every kind of refusal happened.
    assert fuzzed.ended["applied"] > RECORDS * 0.3
    assert fuzzed.ended["dead_lettered"] > RECORDS * 0.2
    assert fuzzed.ended["duplicates"] > 100
    kinds = set(errors.DeadLetter.__subclasses__()) - {errors.WrongPartition}  # which is no matter of what is sent
    assert fuzzed.reasons.keys() == {kind.reason for kind in kinds}
    print(dict(fuzzed.ended), dict(fuzzed.reasons), f"{fuzzed.outputs} outputs")
    everything_stored_reads_back(fuzzed)


def everything_stored_reads_back(fuzzed: Fuzzed) -> None:
    next_offsets = fuzzed.ingest.next_offsets
    fuzzed.restart()
    assert fuzzed.ingest.next_offsets == next_offsets == dict(zip(SOURCES, fuzzed.offsets, strict=True))
    customers = 0
    for key, value in fuzzed.store.scan(keys.RECORD, keys.RECORDS_STOP):
        customer_id = key[1:].decode()
        context = Context(FUZZED, Words(), 0, customer_id)
        again = Customer.decode(context, value, partial(StoredRecords(fuzzed.store).pieces, customer_id)).encode()
        assert (again.record, again.pieces) == (value, [])
        customers += 1
    assert customers > 100
    fuzzed.checkpoint()


def test_the_same_seed_gives_the_same_payloads() -> None:
    assert list(payloads(1, 200, START_MS)) == list(payloads(1, 200, START_MS))


PRODUCED = 2_000
ENDS = ("applied", "duplicates", "heartbeats", "dead_lettered")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = save_small_model(tmp_path_factory.mktemp("model") / "model")
    return path


def test_a_worker_lives_through_it(broker: Any, make_topics: Callable[..., str], model: Path, tmp_path: Path) -> None:
    prefix = make_topics(partitions=2)
    take_any_timestamp(broker, prefix)
    producer = OrderedProducer(broker.bootstrap, config={"message.max.bytes": 4 << 20})
    produced = 0
    # Most of this is bad, and by intent: the limit on that has tests of its own.
    settings = {"PULSEGRAPH_INGEST_REFUSED_SHARE": "1", "PULSEGRAPH_METRICS_PORT": str(free_port())}
    pipeline = Pipeline(broker.bootstrap, prefix, 2, model, tmp_path, settings)
    try:
        worker = pipeline.start_worker(roles="ingest")
        # What is above message.max.bytes never gets to a topic. Header values and names as any client may send them.
        for payload in payloads(SEED, PRODUCED, int(time.time() * 1000) - 86_400_000, largest_bytes=900_000):
            at_ms = payload.timestamp if payload.timestamp < 1 << 50 else 0
            place = produced % 2 if payload.key is None else partition_for(payload.key, 2)
            topic = prefix + SOURCES[payload.source_index]
            producer.send(topic, payload.key, payload.value, place, payload.headers, max(0, at_ms))
            produced += 1
        producer.deliver()
        pipeline.await_taken(produced)
        # Metrics are told right after the commit: when its answer is there, or was waited for long enough.
        deadline = time.monotonic() + 2 * COMMIT_TIMEOUT_S
        while sum((counts := scraped(settings["PULSEGRAPH_METRICS_PORT"])).get(name, 0) for name in ENDS) < produced:
            assert time.monotonic() < deadline, str(counts)
            time.sleep(0.05)
        stored = list(dead_letters.read(pipeline.client, prefix))
        assert worker.running
        assert counts["dead_lettered"] == len(stored) > PRODUCED * 0.2
        assert sum(counts[name] for name in ENDS) == produced, counts
        assert counts["applied"] > PRODUCED * 0.3
    finally:
        pipeline.stop()
    assert worker.returncode == 0


def take_any_timestamp(broker: Any, prefix: str) -> None:
    """Kafka 4 refuses records from more than an hour ahead; older brokers, and topics set so, do not."""
    name, value = "message.timestamp.after.max.ms", str(2**63 - 1)
    change = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)]
    topics = [ConfigResource(ResourceType.TOPIC, prefix + topic, incremental_configs=change) for topic in SOURCES]
    client = admin.connect({"bootstrap.servers": broker.bootstrap})
    for future in client.incremental_alter_configs(topics).values():
        future.result(30)
    for topic in topics:
        deadline = time.monotonic() + 10
        while client.describe_configs([topic])[topic].result(10)[name].value != value:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def scraped(port: str) -> dict[str, int]:
    """What became of ingest's records, from the worker's metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    pattern = r'pulsegraph_events_total\{outcome="(\w+)",role="ingest"\} (\S+)'
    return {outcome: int(float(value)) for outcome, value in re.findall(pattern, text)}
