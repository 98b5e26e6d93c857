"""Bytes of changelog that an event costs, for people and for a customer with thousands of unsettled events.

*Households*: Complete Journey from its beginning, in checkpoints of 20 events: what 50 ms hold at 400 events/s.

*A bot*: 12,000 page views in four minutes, then 20 a second, in checkpoints of 20 events. All of them are inside the
lateness bound, so its tail holds more than 12,000.

Keys and values count, with what a record of Kafka adds to them. The numbers are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from infra.bench.report import Findings, Measured, Options, Say, Target
from infra.bench.visits import START_MS
from schemas.codec import json_encode
from schemas.events import CLICKSTREAM, SOURCE_INDEX, SOURCES, Clickstream
from schemas.records import LogRecord
from streams.core.config import CoreConfig
from streams.offline.ingest import OfflineIngest
from streams.sources.datasets.complete_journey import CompleteJourney
from streams.state.checkpoints import changelog_records

ABOUT: Final = "bytes of changelog per event: households, and a customer with thousands of unsettled events"

_EVENTS: Final = 60_000
_BOT_FIRST: Final = 12_000
_BOT_LATER: Final = 8_000
_CHECKPOINT_EVENTS: Final = 20
_OVERHEAD_BYTES: Final = 25
"""Of a record in a batch: lengths, offsets, timestamp, and the header that says who wrote it."""
_BEFORE: Final = 2_032.0
"""What households cost while a customer was one record, at commit f727a19; histories may grow, this should not."""
_JOURNEY_MS: Final = 1_483_228_800_000  # 2017, which is all that Complete Journey has
_YEAR_MS: Final = 365 * 86_400_000

Arrival = tuple[int, bytes, bytes, int]
"""Source index, key, value, event time in ms."""


def run(options: Options, say: Say) -> Findings:
    """Each once: nothing here varies."""
    households = bytes_per_event(journey(options.scaled(_EVENTS, 2_000)))
    say(f"households: {households:,.0f} bytes per event")
    bot = bytes_per_event(views(options.scaled(_BOT_FIRST, 1_000), options.scaled(_BOT_LATER, 1_000)))
    say(f"bot: {bot:,.0f} bytes per event")
    return Findings(
        results=[
            Measured(name="households", unit="bytes/event", values=[households]),
            Measured(name="a customer with thousands of unsettled events", unit="bytes/event", values=[bot]),
        ],
        targets=[
            Target(name="bot / households", value=bot / households, target=2.0, at_most=True),
            Target(name="households / as one record each", value=households / _BEFORE, target=1.2, at_most=True),
        ],
        left_out=["Compression, which the topic may add, and compaction."],
    )


def bytes_per_event(arriving: Iterable[Arrival]) -> float:
    """Bytes of changelog per event, in checkpoints of 20."""
    offline = OfflineIngest(CoreConfig())
    offsets, written, events = [0] * len(SOURCES), 0, 0
    batches: list[list[LogRecord]] = [[] for _ in SOURCES]
    for source_index, key, value, ts_ms in arriving:
        batches[source_index].append(LogRecord(offsets[source_index], key, value, (), ts_ms))
        offsets[source_index] += 1
        events += 1
        if events % _CHECKPOINT_EVENTS == 0:
            for place, batch in enumerate(batches):
                offline.ingest.take(place, batch, 0)
                offline.ingest.watermark.observe(place, ts_ms, 0)
                batch.clear()
            for name, record in changelog_records(offline.checkpoint()):
                written += _OVERHEAD_BYTES + len(name) + len(record or b"")
    return written / events


def journey(events: int) -> Iterator[Arrival]:
    """Whole households of Complete Journey, about so many events of theirs, in event-time order."""
    source = CompleteJourney.load()
    until_ms = _JOURNEY_MS + _YEAR_MS
    for record in source.events(_JOURNEY_MS, until_ms, source.households_for(events, _JOURNEY_MS, until_ms)):
        assert record.body is not None
        yield SOURCE_INDEX[record.topic], record.key.encode(), json_encode(record.body), record.event_ts_ms


def views(first: int, later: int) -> Iterator[Arrival]:
    """Page views of one customer: some every 20 ms, then some every 50 ms."""
    at_ms = START_MS
    for number in range(first + later):
        at_ms += 20 if number < first else 50
        body = Clickstream(event="page_view", event_ts_ms=at_ms, event_id=f"v{number}", page=f"/{number % 50}")
        yield CLICKSTREAM, b"bot", json_encode(body), at_ms
