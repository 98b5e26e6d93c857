"""The recorded stream: equal bytes at equal offsets, however often it is produced, and what must come of it."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from models import saved_model, versions
from models.training import TrainSettings
from schemas import cloudevents, heartbeat
from schemas.codec import decode_event
from schemas.errors import DeadLetter, Stop
from schemas.events import SOURCE_INDEX, SOURCES
from schemas.ids import refused_id
from schemas.topics import TOPICS
from streams import cli
from streams.core.config import DAY_MS, HOUR_MS, CoreConfig
from streams.kafka.partitioning import partition_for
from streams.offline.training import train_on_events
from streams.sources.pacing import Pacer
from streams.sources.replay import OrderedProducer
from streams.sources.simulate import Simulator, faults

_START_MS: Final = 1_483_228_800_000  # 2017-01-01
_DAYS: Final = 60
_MODEL_DAYS: Final = 75
_EVENTS_PER_CUSTOMER: Final = 130
_MODEL_VERSION: Final = 3


class Wire(NamedTuple):
    """One record as it is produced."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    timestamp_ms: int


class RecordedStream:
    """Simulated customers with every input fault: duplicates, disorder, late and malformed records, erasures.

    Args:
        events: records, heartbeats not counted.
        base_ms: Kafka timestamp of the first record; each further one is a millisecond younger, so that no topic
            rolls or deletes a segment by age.
        erased: share of the customers who are erased at some point.
    """

    def __init__(self, seed: int, events: int, partitions: int, base_ms: int, erased: float = 0.0) -> None:
        self.events, self.partitions, self.base_ms = events, partitions, base_ms
        self._seed = seed
        customers = max(20, events // _EVENTS_PER_CUSTOMER)
        self._simulator = Simulator(seed, customers, _START_MS, _DAYS, erased_share=erased)

    def catalog(self) -> Any:
        return self._simulator.catalog()

    def records(self) -> Iterator[Wire]:
        """Every record in the order of producing; heartbeats every hour of event time and at the end."""
        raw = faults(
            self._simulator.records(), self._seed, duplicate=0.05, reorder_ms=60_000, late=0.005, malformed=0.02
        )
        number = newest_ms = due_ms = 0
        for record in islice(raw, self.events):
            if record.key is None and TOPICS[record.topic].cleanup == "compact":
                continue  # the broker itself refuses it, and with it the whole batch
            event_ts_ms = record.event_ts_ms
            if event_ts_ms > newest_ms:
                newest_ms = event_ts_ms
                if event_ts_ms >= due_ms:
                    aligned_ms = event_ts_ms - event_ts_ms % HOUR_MS
                    yield from self._beat(aligned_ms, number)
                    due_ms = aligned_ms + HOUR_MS
            headers: tuple[tuple[str, bytes], ...] = ()
            if record.value is None and record.topic == "profiles":
                # An erasure has no body to carry its event time.
                pairs = cloudevents.headers(f"erase-{event_ts_ms}-{number}", "erase", event_ts_ms)
                headers = tuple((name, value) for name, value in pairs)
            partition = partition_for(record.key, self.partitions) if record.key else number % self.partitions
            yield Wire(record.topic, partition, record.key, record.value, headers, self.base_ms + number)
            number += 1
        yield from self._beat(newest_ms + DAY_MS, number)

    def _beat(self, event_ts_ms: int, number: int) -> Iterator[Wire]:
        key, value, headers = heartbeat.encode(event_ts_ms)
        for topic in SOURCES:
            for partition in range(self.partitions):
                yield Wire(topic, partition, key, value, headers, self.base_ms + number)


def produce(recorded: RecordedStream, producer: OrderedProducer, prefix: str, pacer: Pacer, sent: list[int]) -> None:
    """Produce the stream and return when all of it is acknowledged; ``sent[0]`` is kept at the records handed over."""
    waiting = 0
    for record in recorded.records():
        producer.send(
            prefix + record.topic, record.key, record.value, record.partition, record.headers, record.timestamp_ms
        )
        waiting += 1
        if waiting >= pacer.stride:
            pacer.wait(waiting)
            producer.serve()
            sent[0] += waiting
            waiting = 0
    sent[0] += waiting
    producer.deliver()


class Expected:
    """What a log must come to, worked out without the core: counted once, by id, from the bytes.

    Feed it every record of the source topics, each partition in offset order.
    """

    def __init__(self, config: CoreConfig) -> None:
        self._config = config
        self._reached_ms: dict[tuple[int, int], int] = {}
        self._confirmed: dict[tuple[int, int], dict[bytes, int]] = {}
        self._seen: set[int] = set()
        self.records = self.duplicates = self.late = self.heartbeats = 0
        self.events: dict[str, int] = {}
        """Customer -> distinct events."""
        self.erased: set[str] = set()
        self.refused: set[str] = set()
        self.ends: dict[tuple[str, int], int] = {}
        self._digests: dict[tuple[str, int], Any] = {}

    def take(self, topic: str, partition: int, offset: int, record: Any) -> None:
        """One record; ``record`` has key, value, headers and timestamp_ms."""
        self.records += 1
        self.ends[topic, partition] = offset + 1
        digest = self._digests.get((topic, partition))
        if digest is None:
            digest = self._digests[topic, partition] = hashlib.blake2b(digest_size=16)
        digest.update(b"%d %d %r %r %r" % (offset, record.timestamp_ms, record.key, record.value, record.headers))
        source_index = SOURCE_INDEX[topic]
        place = source_index, partition
        if record.key == heartbeat.HEARTBEAT_KEY:
            self.heartbeats += 1
            beat_ms = heartbeat.event_ts_ms(record.value)
            self._reached_ms[place] = max(self._reached_ms.get(place, -1), min(beat_ms, record.timestamp_ms))
            return
        try:
            event = decode_event(
                source_index, record.key, record.value, record.headers, record.timestamp_ms, self._config.max_future_ms
            )
        except DeadLetter:
            self.refused.add(refused_id(topic, partition, offset))
            return
        if event.body is None:
            self.erased.add(event.customer_id)
            return
        reached_ms = self._reached_ms.get(place, -1)
        self._confirm(place, record.key, min(event.event_ts_ms, record.timestamp_ms))
        uid = hash((source_index, event.customer_id, event.event_id))
        if event.event_ts_ms < reached_ms - self._config.ids_kept_ms:
            self.refused.add(refused_id(topic, partition, offset))
            return
        if uid in self._seen:
            self.duplicates += 1
            return
        self.late += event.event_ts_ms < reached_ms - self._config.lateness_ms
        self._seen.add(uid)
        self.events[event.customer_id] = self.events.get(event.customer_id, 0) + 1

    def _confirm(self, place: tuple[int, int], key: bytes, at_ms: int) -> None:
        """Event time as the core's documentation says it, and not as the core computes it."""
        keys = self._config.watermark_keys
        confirmed = self._confirmed.setdefault(place, {})
        confirmed[key] = max(at_ms, confirmed.pop(key, at_ms))
        if len(confirmed) > 2 * keys - 1:
            del confirmed[next(iter(confirmed))]
        if len(confirmed) >= min(2, keys):
            newest_first = sorted(confirmed.values(), reverse=True)
            self._reached_ms[place] = max(self._reached_ms.get(place, -1), newest_first[:keys][-1])

    def digests(self) -> dict[tuple[str, int], str]:
        """(topic, partition) -> digest of all its records with their offsets."""
        return {place: digest.hexdigest() for place, digest in self._digests.items()}


def model(folder: Path) -> Path:
    """A tiny model of the simulator's world that has learned every task, trained once and kept in ``folder``."""
    directory = folder / f"faults-model-v{_MODEL_VERSION}"
    if (versions.current(directory) / versions.CARD_FILE).exists():
        return directory
    simulator = Simulator(7, 300, _START_MS, _MODEL_DAYS)
    events = [
        (record.topic, record.key, record.body, record.event_ts_ms)
        for record in simulator.records()
        if record.body is not None
    ]
    train_on_events(
        events,
        {entry.key: entry for entry in simulator.catalog()},
        directory,
        config=CoreConfig(),
        until_ms=simulator.end_ms,
        settings=TrainSettings(epochs=1),
        progress=lambda share, text: None,
    )
    if left_out := saved_model.read_card(versions.current(directory)).report.left_out:
        raise Stop(f"the model has not learned {left_out}: its predictions could not be compared")
    return directory


def twin(folder: Path) -> Path:
    """A model of another version beside a model's folder, with the same answers: so two runs can be compared."""
    target = folder.with_name(f"{folder.name}-twin")
    if target.exists():
        return target
    fresh = Path(shutil.copytree(folder, versions.new_folder(target), dirs_exist_ok=True))
    text = (fresh / saved_model.CONFIG_FILE).read_bytes() + b"\n"  # which means the same
    (fresh / saved_model.CONFIG_FILE).write_bytes(text)
    card = saved_model.read_card(fresh)
    files = card.files | {saved_model.CONFIG_FILE: hashlib.sha256(text).hexdigest()}
    version = saved_model.content_version(files, card.sequence, card.horizon_days, card.tasks)
    card = msgspec.structs.replace(card, files=files, model_version=version)
    (fresh / saved_model.CARD_FILE).write_bytes(msgspec.json.encode(card))
    fresh.rename(target)
    return target


def publish_version(bootstrap: str, prefix: str, folder: Path) -> None:
    """Announce a version of a model directory.

    Raises:
        Stop: it was refused.
    """
    options = ["--bootstrap", bootstrap, "--prefix", prefix, "--model", str(folder.parent)]
    with contextlib.redirect_stdout(sys.stderr):  # standard output is the report's
        if cli.main(["publish", *options, str(folder)]):
            raise Stop(f"{folder} could not be published")


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of the stream, for the report."""

    records: int
    heartbeats: int
    distinct_events: int
    duplicates: int
    late: int
    dead_letters: int
    erased_customers: int
