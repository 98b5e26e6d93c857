"""What may grow large is stored in pieces: each is written when it changes, and not otherwise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import msgspec
import pytest
from support import logs
from support.logs import CONFIG, START_MS, Sent, Worker, log_of

from schemas.errors import StateCorrupt
from schemas.events import CAMPAIGN_SENDS, CLICKSTREAM, PROFILES, SOURCES
from schemas.words import Words
from streams.core.config import DAY_MS, HOUR_MS, CoreConfig
from streams.core.context import Context
from streams.core.customer import EDGES, HISTORY, Customer
from streams.core.durable import IngestCheckpoint
from streams.state import keys
from streams.state.checkpoints import StoredRecords, changelog_records


class Written(Worker):  # type: ignore[misc]  # tests/support is found by pytest alone
    """Counts the bytes of changelog that each kind of key takes."""

    def __init__(self, config: CoreConfig = CONFIG) -> None:
        super().__init__(config)
        self.bytes: Counter[bytes] = Counter()
        self.records: Counter[bytes] = Counter()

    def deliver(self, done: IngestCheckpoint) -> None:
        super().deliver(done)
        for key, value in changelog_records(done):
            kind = keys.PIECE + keys.parse_piece(key)[1][:1] if key.startswith(keys.PIECE) else key[:1]
            self.bytes[kind] += len(key) + len(value or b"")
            self.records[kind] += 1

    def feed(self, events: list[Sent], every: int) -> None:
        """Clickstream and sends in order, a checkpoint after every so many of one topic."""
        for source_index, topic in enumerate(log_of(events)):
            for first in range(0, len(topic), every):
                self.take(source_index, topic[first : first + every])
                self.checkpoint()

    def stored(self, kind: bytes) -> list[bytes]:
        """Keys that begin so."""
        return [key for key, _ in self.store.scan(kind, kind + b"\xff")]


def views(customer: str, first_ms: int, count: int, every_ms: int) -> Iterator[Sent]:
    for number in range(count):
        at_ms = first_ms + number * every_ms
        page = {
            "event": "page_view",
            "event_ts_ms": at_ms,
            "page": f"/{number % 50}",
            "event_id": f"{customer}-{at_ms}",
        }
        yield Sent(CLICKSTREAM, customer, at_ms, page)


def bytes_per_event(events: list[Sent], every: int) -> float:
    worker = Written(CoreConfig(watermark_keys=1))
    worker.feed(events, every)
    return sum(worker.bytes.values()) / len(events)


def test_a_bot_costs_an_event_no_more_than_a_person_does() -> None:
    """12,000 views in 4 minutes, then 20 a second, written every second."""
    bot = [*views("bot", START_MS, 12_000, 20), *views("bot", START_MS + 240_000, 4_000, 50)]
    people = sorted(
        (sent for person in range(40) for sent in views(f"c{person}", START_MS + person * 1_000, 40, 45_000)),
        key=lambda sent: sent.ts_ms,
    )
    assert bytes_per_event(bot, every=20) < 2 * bytes_per_event(people, every=20)


def send(at_ms: int) -> Sent:
    body = {"event": "send", "event_ts_ms": at_ms, "campaign_id": f"x{at_ms}", "offer_id": "o", "event_id": f"s{at_ms}"}
    return Sent(CAMPAIGN_SENDS, "c1", at_ms, body)


def test_snapshots_of_pending_labels_are_written_once_and_removed() -> None:
    worker = Written(msgspec.structs.replace(CONFIG, fresh_edges=1_000))
    log = log_of(
        [*views("c1", START_MS, 1, 1), *map(send, range(START_MS + 1_000, START_MS + 41_000, 1_000))],
        START_MS + DAY_MS,
    )
    for source_index, topic in enumerate(log):
        worker.take(source_index, topic)
        worker.checkpoint()
    worker.checkpoint()
    snapshots = len(worker.stored(keys.PIECE))
    assert snapshots == 40
    written = worker.bytes[keys.PIECE + b"s"]
    later = log_of(list(views("c1", START_MS + DAY_MS, 10, 360_000)), START_MS + 30 * DAY_MS)
    first = {source_index: len(topic) for source_index, topic in enumerate(log)}
    for source_index, topic in enumerate(later):
        moved = [record._replace(offset=record.offset + first[source_index]) for record in topic]
        for record in moved[:-1]:
            worker.take(source_index, [record])
            worker.checkpoint()
        assert worker.bytes[keys.PIECE + b"s"] == written
    for source_index, topic in enumerate(later):
        worker.take(source_index, [topic[-1]._replace(offset=topic[-1].offset + first[source_index])])
    worker.checkpoint()
    assert sum(b"redemption" in outcome for outcome in worker.outcomes.values()) == 40
    assert not worker.stored(keys.PIECE)


def visited(sessions: int) -> Written:
    """A customer with so many sessions of one view each, all of them settled, written after each."""
    worker = Written(msgspec.structs.replace(CoreConfig(watermark_keys=1), fresh_edges=10))
    (topic, *_) = log_of(list(views("c1", START_MS, sessions, HOUR_MS)))
    for record in topic:
        worker.take(CLICKSTREAM, [record])
        for source_index in range(len(SOURCES)):
            worker.ingest.watermark.observe(source_index, record.timestamp + HOUR_MS - 1, 0)
        worker.checkpoint()
    return worker


@pytest.mark.parametrize(("kind", "merges"), [(EDGES, 5), (HISTORY, 3)])
def test_older_edges_and_sessions_are_written_at_merges_and_not_before(kind: bytes, merges: int) -> None:
    worker = visited(50)
    assert worker.records[keys.PIECE + kind] == merges
    assert worker.records[keys.RECORD] >= 50


@pytest.mark.parametrize(("kind", "what"), [(EDGES, "edges"), (HISTORY, "history")])
def test_a_piece_that_is_not_there_is_not_taken_for_empty(kind: bytes, what: str) -> None:
    worker = visited(50)
    record = worker.store.get(keys.record("c1"))
    assert record is not None

    def without(wanted: bytes) -> list[bytes]:
        return [] if wanted == kind else StoredRecords(worker.store).pieces("c1", wanted)

    with pytest.raises(StateCorrupt, match=f"the stored {what} of a customer cannot be read"):
        Customer.decode(Context(CONFIG, Words(), 0, "c1"), record, without)


@pytest.mark.parametrize("kind", [EDGES, HISTORY])
def test_a_piece_of_another_merge_or_version_is_refused(kind: bytes) -> None:
    worker = visited(50)
    record = worker.store.get(keys.record("c1"))
    assert record is not None
    for place, message in ((0, "have version 2"), (1, "are of merge [0-9]+; .* the record is of merge")):

        def changed(wanted: bytes, place: int = place) -> list[bytes]:
            pieces = StoredRecords(worker.store).pieces("c1", wanted)
            if wanted != kind:
                return pieces
            (piece,) = map(msgspec.msgpack.decode, pieces)
            piece[place] += 1
            return [msgspec.msgpack.encode(piece)]

        with pytest.raises(StateCorrupt, match=message):
            Customer.decode(Context(CONFIG, Words(), 0, "c1"), record, changed)


def test_who_comes_back_after_an_erasure_has_nothing_of_before() -> None:
    """The first merge after it has the number of the first merge before it."""
    worker = visited(12)
    (topic, *_) = log_of([*views("c1", START_MS, 12, HOUR_MS), *views("c1", START_MS + 2 * DAY_MS, 40, HOUR_MS)])
    worker.take(PROFILES, [logs.record(Sent(PROFILES, "c1", START_MS + DAY_MS, None), 0)])
    worker.take(CLICKSTREAM, topic[12:])
    for source_index in range(len(SOURCES)):
        worker.ingest.watermark.observe(source_index, START_MS + 9 * DAY_MS, 0)
    worker.checkpoint()
    before = worker.ingest.customer("c1")
    assert before is not None
    worker.restart()
    after = worker.ingest.customer("c1")
    assert after is not None and after.snapshot() == before.snapshot()
    assert after.view().first_ms == START_MS + 2 * DAY_MS


def test_a_tail_that_is_not_there_is_no_tail() -> None:
    worker = Written()
    worker.feed(list(views("c1", START_MS, 100, 1_000)), every=7)
    record = worker.store.get(keys.record("c1"))
    assert record is not None
    with pytest.raises(StateCorrupt, match="has 36 older tail events, and 0 are there"):
        Customer.decode(Context(CONFIG, Words(), 0, "c1"), record)


def test_erasure_takes_every_piece() -> None:
    worker = Written()
    worker.feed([*views("c1", START_MS, 100, 1_000), send(START_MS + 110_000)], every=9)
    assert worker.stored(keys.PIECE)
    worker.feed([Sent(PROFILES, "c1", START_MS + DAY_MS, None)], every=1)
    assert not worker.stored(keys.PIECE)
    assert worker.stored(keys.record("c1"))


def test_a_record_holds_no_more_of_the_tail_than_its_bytes_allow() -> None:
    """64 events would fit by number: those of this size are in pieces but for 16 KiB of them."""
    events = [
        Sent(
            CLICKSTREAM,
            "c1",
            START_MS + number,
            {"event": "page_view", "event_ts_ms": START_MS + number, "event_id": f"e{number}", "page": "p" * 200,
             "properties": {f"k{field}": "v" * 100 for field in range(8)}},
        )
        for number in range(60)
    ]  # fmt: skip
    worker = Written()
    worker.feed(events, every=20)
    (key,) = worker.stored(keys.RECORD)
    assert len(worker.stored(keys.PIECE)) > 0
    assert len(worker.store.get(key) or b"") < (16 << 10) + 2_000
    worker.restart()
    customer = worker.ingest.customer("c1")
    assert customer is not None
    assert len(customer.tail) == 60
