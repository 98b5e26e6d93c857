"""How many records of a replay come late: behind the event time that their topics have reached already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple, cast

from schemas.events import SOURCE_INDEX, SOURCES
from schemas.records import LogRecord
from streams.core.config import CoreConfig
from streams.core.entries import observe, read_entries
from streams.core.event_clock import EventClock
from streams.kafka.partitioning import partition_for
from streams.kafka.reader import Place, TopicReader
from streams.sources.datasets.record import EncodedRecord, SourceRecord

_LAST_RECORDS: Final = 2_000
"""Newest records of a partition that are read: with heartbeats among them, or a few dozen customers, they say all."""


class Late(NamedTuple):
    """Records of a replay that come late."""

    late: int
    """All of them. They count at the event time that their topics have reached."""
    too_late: int
    """Those so late that they are refused, unless they take consent back."""


def reached_ms(reader: TopicReader, prefix: str, partitions: int, config: CoreConfig) -> dict[Place, int]:
    """Event time of every partition of the source topics that has records: (logical topic, partition) -> ms."""
    places = [(prefix + topic, partition) for topic in SOURCES for partition in range(partitions)]
    found: dict[Place, int] = {}
    for (name, partition), end in reader.ends(places).items():
        topic = name.removeprefix(prefix)
        records = [
            LogRecord(
                int(message.offset() or 0),
                message.key(),
                message.value(),
                cast("tuple[tuple[str, bytes], ...]", tuple(message.headers() or ())),
                message.timestamp()[1],
            )
            for message in reader.range(name, partition, max(0, end - _LAST_RECORDS), end)
        ]
        entries, _ = read_entries(SOURCE_INDEX[topic], partition, records, config)
        clock = EventClock(config.watermark_keys)
        for record, entry in zip(records, entries, strict=True):
            observe(clock, record, entry)
        if clock.newest_ms >= 0:
            found[topic, partition] = clock.newest_ms
    return found


class LateCounter:
    """Counts late records while they pass.

    Args:
        reached: see :func:`reached_ms`, from before the replay: a replay in order makes none of its own records late.
    """

    def __init__(self, reached: Mapping[Place, int], partitions: int, config: CoreConfig) -> None:
        self._reached, self._partitions, self._config = reached, partitions, config
        self._late = self._too_late = 0

    @property
    def found(self) -> Late:
        return Late(self._late, self._too_late)

    def watch(self, records: Iterable[SourceRecord | EncodedRecord]) -> Iterator[SourceRecord | EncodedRecord]:
        """The same records."""
        if not self._reached:
            yield from records
            return
        for record in records:
            key = record.key.encode() if isinstance(record.key, str) else record.key
            if key is not None:
                known_ms = self._reached.get((record.topic, partition_for(key, self._partitions)), -1)
                self._late += record.event_ts_ms < known_ms - self._config.lateness_ms
                self._too_late += record.event_ts_ms < known_ms - self._config.ids_kept_ms
            yield record
