"""The dead-letter topic read, and its records sent back to where they came from.

Nothing here removes a dead letter: the topic is only read, and a replay produces copies. A record that is refused again
becomes a new dead letter, which names the old one and carries the number of attempts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import msgspec

from schemas.codec import Headers
from schemas.deadletter import ATTEMPT, CUT, ORIGINAL, REPLAYED_FROM, TOPIC, attempts
from schemas.events import PROFILES, SOURCES
from schemas.limits import MAX_EVENT_TS_MS, MIN_EVENT_TS_MS
from schemas.sweep import SWEEPS
from streams.kafka.partitioning import partition_for
from streams.kafka.reader import TopicReader
from streams.sources.replay import OrderedProducer

MAX_ATTEMPTS: Final = 3


class StoredDeadLetter(NamedTuple):
    """One refused record with why, and where it lies."""

    dl_id: str
    """``topic-partition-offset`` of the record that was refused."""
    reason: str
    error: str
    message: str
    topic: str
    partition: int
    offset: int
    record_ts_ms: int
    attempt: int
    """How often the record had been replayed when it was refused; 0 for the first time."""
    replayed_from: str | None
    """The dead letter that this record was replayed from."""
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    """As they came, without ours."""
    cut: str | None = None
    """Sizes of what came, where it was too large to be kept whole."""


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which dead letters; what is None or empty matches all."""

    ids: frozenset[str] = frozenset()
    reason: str | None = None
    topic: str | None = None
    since_ms: int | None = None
    """Timestamp of the refused record, at least."""
    until_ms: int | None = None
    """Timestamp of the refused record, below."""

    def matches(self, dead_letter: StoredDeadLetter) -> bool:
        return (
            (not self.ids or dead_letter.dl_id in self.ids)
            and self.reason in (None, dead_letter.reason)
            and self.topic in (None, dead_letter.topic)
            and (self.since_ms is None or dead_letter.record_ts_ms >= self.since_ms)
            and (self.until_ms is None or dead_letter.record_ts_ms < self.until_ms)
        )


class Replayable(NamedTuple):
    """What a replay would do: dead letters to send, and those it will not, with why."""

    dead_letters: list[StoredDeadLetter]
    kept: list[tuple[StoredDeadLetter, str]]


def parse(key: bytes | None, value: bytes | None, headers: Headers) -> StoredDeadLetter | None:
    """A record of the dead-letter topic; None where it is none of ours."""
    named = dict(headers[:16])  # ours are in front, and a sender's header cannot begin with dl_ but behind orig_

    def text(name: str) -> str:
        return (named.get(name) or b"").decode("utf-8", "replace")

    try:
        partition, offset, record_ts_ms = (int(text(name)) for name in ("dl_partition", "dl_offset", "dl_record_ts_ms"))
    except ValueError:
        return None
    if not text("dl_id") or not text("dl_topic"):
        return None
    return StoredDeadLetter(
        text("dl_id"),
        text("dl_reason"),
        text("dl_error"),
        text("dl_message"),
        text("dl_topic"),
        partition,
        offset,
        record_ts_ms,
        attempts(named.get(ATTEMPT)),
        text(REPLAYED_FROM) or None,
        key,
        value,
        tuple((name.removeprefix(ORIGINAL), raw) for name, raw in headers if name.startswith(ORIGINAL)),
        text(CUT) or None,
    )


def read(client: Mapping[str, Any], prefix: str = "") -> Iterator[StoredDeadLetter]:
    """Every dead letter that is there now, each once: after a crash a worker may have sent one again.

    Raises:
        TopicMismatch: there is no dead-letter topic.
        Retry: the broker did not answer.
    """
    name = prefix + TOPIC
    seen: set[str] = set()
    with TopicReader(client) as reader:
        for message in reader.whole(name):
            dead_letter = parse(message.key(), message.value(), _pairs(message.headers()))
            if dead_letter is not None and dead_letter.dl_id not in seen:
                seen.add(dead_letter.dl_id)
                yield dead_letter


def choose(dead_letters: Iterable[StoredDeadLetter], wanted: Filter, max_attempts: int = MAX_ATTEMPTS) -> Replayable:
    """Which dead letters a replay sends, oldest record first.

    Where a record was replayed and refused again, only its newest dead letter is sent, if it matches. So one replay
    sends no record twice, and nobody can start counting a record's attempts again from its first dead letter.
    """
    replayed: dict[str, str] = {}
    chosen: list[StoredDeadLetter] = []
    for dead_letter in dead_letters:
        if dead_letter.replayed_from is not None:
            replayed[dead_letter.replayed_from] = dead_letter.dl_id
        if wanted.matches(dead_letter):
            chosen.append(dead_letter)
    plan = Replayable([], [])
    for dead_letter in sorted(
        chosen,
        key=lambda dead_letter: (
            dead_letter.record_ts_ms,
            dead_letter.topic,
            dead_letter.partition,
            dead_letter.offset,
        ),
    ):
        why = _why_not(dead_letter, replayed.get(dead_letter.dl_id), max_attempts)
        if why is None:
            plan.dead_letters.append(dead_letter)
        else:
            plan.kept.append((dead_letter, why))
    return plan


def replayed_headers(dead_letter: StoredDeadLetter) -> list[tuple[str, bytes]]:
    """Headers of a replayed record: as they came, and what makes a replay harmless.

    A record that named no id gets one from its first dead letter, so that it counts once however often it is replayed.
    An erasure that named no time keeps the time of the original record.
    """
    headers = list(dead_letter.headers)
    names = {name for name, _ in headers}
    if "ce_id" not in names:
        headers.append(("ce_id", dead_letter.dl_id.encode()))
    is_erasure = dead_letter.value is None and dead_letter.topic == SOURCES[PROFILES]
    if is_erasure and "ce_time" not in names and MIN_EVENT_TS_MS <= dead_letter.record_ts_ms <= MAX_EVENT_TS_MS:
        at = datetime.fromtimestamp(dead_letter.record_ts_ms / 1000, UTC).isoformat(timespec="milliseconds")
        headers.append(("ce_time", at.encode()))
    headers += [(ATTEMPT, str(dead_letter.attempt + 1).encode()), (REPLAYED_FROM, dead_letter.dl_id.encode())]
    return headers


def send(
    dead_letters: Sequence[StoredDeadLetter], producer: OrderedProducer, *, partitions: int, prefix: str = ""
) -> dict[str, int]:
    """Produce the dead letters' records to their topics and wait until all are acknowledged; records by topic.

    Args:
        partitions: of every source topic. A record without a key goes to the partition it came from.

    Raises:
        DeliveryFailed: not all were acknowledged. The dead letters are where they were, and may be replayed again.
    """
    sent: Counter[str] = Counter()
    for dead_letter in dead_letters:
        place = (
            dead_letter.partition % partitions
            if dead_letter.key is None
            else partition_for(dead_letter.key, partitions)
        )
        producer.send(
            prefix + dead_letter.topic, dead_letter.key, dead_letter.value, place, replayed_headers(dead_letter)
        )
        sent[dead_letter.topic] += 1
    producer.deliver()
    return dict(sent)


def _why_not(dead_letter: StoredDeadLetter, newer: str | None, max_attempts: int) -> str | None:
    if dead_letter.topic not in SOURCES:
        topic = dead_letter.topic
        if topic == SWEEPS:
            return "is an order to sweep: give it again with `pulsegraph sweep`"
        return f"{topic} keeps the newest record of a key, which an old one could undo: produce a corrected one"
    if dead_letter.cut is not None:
        return f"is truncated ({dead_letter.cut}); the whole record is at its origin while Kafka keeps it there"
    if newer is not None:
        return f"was replayed before and refused again as {newer}"
    if dead_letter.attempt >= max_attempts:
        return f"was replayed {dead_letter.attempt} times, and --max-attempts is {max_attempts}"
    return None


def _pairs(headers: Any) -> list[tuple[str, bytes]]:
    return list(headers.items() if isinstance(headers, dict) else headers or ())
