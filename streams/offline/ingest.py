"""The ingest core without Kafka: events in, outcomes out. What training and tests run on.

It is the code that serves, on one partition and an in-memory store, so a training set made here equals
the ``outcomes`` topic that a worker would have written from the same log.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from schemas import codec
from schemas.events import SOURCE_INDEX, SOURCES, Body
from schemas.records import LogRecord
from schemas.words import Words
from streams.core.config import CoreConfig
from streams.core.durable import IngestCheckpoint
from streams.core.partition import IngestPartition
from streams.settings.zones import INSTALLED
from streams.state.checkpoints import StoredRecords, local_batch, read_meta
from streams.state.contract import KeyValue
from streams.state.memory import MemoryStore


class OfflineIngest:
    """One partition fed by hand.

    Args:
        store: where state goes; an in-memory store where None.
        cache_bytes: bound of decoded customers.
    """

    def __init__(self, config: CoreConfig, store: KeyValue | None = None, cache_bytes: int = 1 << 32) -> None:
        self.words = Words()
        self.store = store if store is not None else MemoryStore()
        self.ingest = IngestPartition(
            0,
            config,
            self.words,
            StoredRecords(self.store),
            read_meta(self.store).partition,
            cache_bytes=cache_bytes,
            idle_ms=0,
            now_ms=0,
            zones=INSTALLED,
        )

    def checkpoint(self) -> IngestCheckpoint:
        """End a checkpoint and write it."""
        done = self.ingest.checkpoint(0)
        self.store.write(local_batch(done, -1))
        self.ingest.written()
        return done


def replay_checkpoints(
    events: Iterable[tuple[str, str, Body, int]],
    config: CoreConfig,
    *,
    until_ms: int,
    checkpoint_events: int = 20_000,
) -> Iterator[IngestCheckpoint]:
    """Feed (topic, customer id, body, event ms) in event-time order; yields what each checkpoint made known.

    Event time goes on to ``until_ms`` at the end, so that everything due by then is labelled.
    """
    offline = OfflineIngest(config)
    offsets = [0] * len(SOURCES)
    batches: list[list[LogRecord]] = [[] for _ in SOURCES]
    waiting, last_ms = 0, 0

    def flush(at_ms: int) -> IngestCheckpoint:
        for source_index, batch in enumerate(batches):
            offline.ingest.take(source_index, batch, 0)
            batch.clear()
            offline.ingest.watermark.observe(source_index, at_ms, 0)
        return offline.checkpoint()

    for topic, customer_id, body, event_ts_ms in events:
        if event_ts_ms >= until_ms:
            break
        source_index = SOURCE_INDEX[topic]
        record = LogRecord(offsets[source_index], customer_id.encode(), codec.json_encode(body), (), event_ts_ms)
        offsets[source_index] += 1
        batches[source_index].append(record)
        waiting, last_ms = waiting + 1, event_ts_ms
        if waiting >= checkpoint_events:
            waiting = 0
            yield flush(last_ms)
    yield flush(until_ms + config.lateness_ms)
