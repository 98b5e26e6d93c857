"""Customers whose visits cost next to nothing to make, and a partition of the real ingest core that takes them in."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Final

from schemas.codec import msgpack_encode
from schemas.events import CLICKSTREAM, PROFILES, SOURCES
from schemas.records import LogRecord
from streams.core.config import DAY_MS, HOUR_MS, MINUTE_MS, CoreConfig
from streams.core.customer import due_of
from streams.offline.ingest import OfflineIngest
from streams.state import keys
from streams.state.contract import KeyValue, WriteBatch
from streams.state.rocks import WORKER_BYTES, RocksStore, shared_memory

START_MS: Final = 1_500_000_000_000
_ITEMS: Final = 5_000
_CATEGORIES: Final = 200
_STEP_MS: Final = MINUTE_MS
_TEMPLATES: Final = 50
_FILL: Final = 10_000
BROWSING: Final = ("item_view", "search", "item_view", "add_to_cart")
BUYING: Final = ("item_view", "search", "item_view", "add_to_cart", "purchase")


def customer_id(number: int) -> str:
    return f"c{number:07d}"


def open_store(folder: Path) -> RocksStore:
    """RocksDB with the memory that a worker gives it."""
    return RocksStore(folder, shared_memory(WORKER_BYTES))


class Partition:
    """The ingest core as the role runs it, without Kafka: outputs are encoded and dropped.

    Args:
        store: where state goes; an in-memory store where None.
        first_offset: of the first record; above what ready-made customers have seen.
    """

    def __init__(self, store: KeyValue | None, cache_bytes: int, first_offset: int = 0) -> None:
        self.offline = OfflineIngest(CoreConfig(), store, cache_bytes)
        self.busy_s = 0.0
        """CPU of this thread inside the core and the store; what makes the events is not counted."""
        self.written_bytes = 0
        self._random = Random(7)
        self._offsets = [first_offset] * len(SOURCES)
        self._batches: list[list[LogRecord]] = [[] for _ in SOURCES]

    def arrive(self, number: int, at_ms: int) -> None:
        """The profile of a new customer."""
        self._append(PROFILES, number, at_ms, b'{"event_ts_ms":%d,"consent":{"email":{"marketing":true}}}' % at_ms)

    def visit(self, number: int, at_ms: int, events: tuple[str, ...] = BUYING) -> None:
        """A session: one event a minute, each about an item drawn evenly."""
        for place, event in enumerate(events):
            ts_ms = at_ms + place * _STEP_MS
            item = int(self._random.random() * _ITEMS)
            self._append(
                CLICKSTREAM,
                number,
                ts_ms,
                b'{"event":"%s","event_ts_ms":%d,"event_id":"%d-%d","item_id":"i%d","category":"k%d","price":%d.5}'
                % (event.encode(), ts_ms, number, ts_ms, item, item % _CATEGORIES, item % 90),
            )

    def end_epoch(self, now_ms: int) -> None:
        """Take in what has come; event time goes on to ``now_ms`` on every topic."""
        started_s = time.thread_time()
        ingest = self.offline.ingest
        for source_index, batch in enumerate(self._batches):
            ingest.take(source_index, batch, 0)
            ingest.watermark.observe(source_index, now_ms, 0)
        checkpoint = self.offline.checkpoint()
        for output in (*checkpoint.edges, *checkpoint.outcomes, *checkpoint.awaiting_label, *checkpoint.snapshots):
            self.written_bytes += len(msgpack_encode(output))
        self.busy_s += time.thread_time() - started_s
        for batch in self._batches:
            batch.clear()

    def _append(self, source_index: int, number: int, ts_ms: int, value: bytes) -> None:
        record = LogRecord(self._offsets[source_index], customer_id(number).encode(), value, (), ts_ms)
        self._offsets[source_index] += 1
        self._batches[source_index].append(record)


def visit_times(from_ms: int) -> Iterator[int]:
    """When somebody comes: three visits on a day, with pauses in which sessions end and are settled."""
    gaps = cycle((4 * HOUR_MS, 5 * HOUR_MS, 15 * HOUR_MS))
    at_ms = from_ms
    while True:
        yield at_ms
        at_ms += next(gaps)


def live(partition: Partition, customers: range, visits: int, times: Iterator[int], *, visits_per_epoch: int) -> int:
    """Let customers visit at the same times; returns the events that were taken in."""
    for first in range(0, visits, visits_per_epoch):
        now_ms = START_MS
        for at_ms in islice(times, min(visits_per_epoch, visits - first)):
            for number in customers:
                partition.visit(number, at_ms)
            now_ms = at_ms + len(BUYING) * _STEP_MS
        partition.end_epoch(now_ms + HOUR_MS)
    return visits * len(customers) * len(BUYING)


def fill(store: KeyValue, numbers: range) -> None:
    """Write ready-made customers: copies of a few whom the core took in. Nothing of theirs falls due."""
    made = Partition(None, 1 << 30)
    for at_ms in islice(visit_times(START_MS - 2 * DAY_MS), 3):
        for number in range(_TEMPLATES):
            made.visit(number, at_ms, BROWSING)
        made.end_epoch(at_ms + HOUR_MS)
    made_of = made.offline.store
    templates = [
        (record, [(keys.parse_piece(key)[1], value) for key, value in made_of.scan(*keys.all_pieces(key[1:].decode()))])
        for key, record in made_of.scan(keys.RECORD, keys.RECORDS_STOP)
    ]
    assert all(due_of(record).due_ms < 0 for record, _ in templates)
    for first in range(0, len(numbers), _FILL):
        batch = WriteBatch()
        for number in numbers[first : first + _FILL]:
            record, pieces = templates[number % _TEMPLATES]
            batch.put(keys.record(customer_id(number)), record)
            for name, value in pieces:
                batch.put(keys.piece(customer_id(number), name), value)
        store.write(batch)
