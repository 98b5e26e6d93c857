"""The dead-letter topic read, and its records sent back to where they came from.

Nothing here takes a letter away: the topic is only read, a replay produces copies, and a record that is refused again
comes back as a new letter that names the old one and carries the number of attempts.
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
from streams.kafka.partitioning import partition_for
from streams.kafka.reader import TopicReader
from streams.sources.replay import OrderedProducer

MAX_ATTEMPTS: Final = 3


class Letter(NamedTuple):
    """One refused record with why, and where it lies."""

    letter_id: str
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
    """The letter that this record was replayed from."""
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    """As they came, without ours."""
    cut: str | None = None
    """Sizes of what came, where it was too large to be kept whole."""


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which letters; what is None or empty matches all."""

    ids: frozenset[str] = frozenset()
    reason: str | None = None
    topic: str | None = None
    since_ms: int | None = None
    """Timestamp of the refused record, at least."""
    until_ms: int | None = None
    """Timestamp of the refused record, below."""

    def matches(self, letter: Letter) -> bool:
        return (
            (not self.ids or letter.letter_id in self.ids)
            and self.reason in (None, letter.reason)
            and self.topic in (None, letter.topic)
            and (self.since_ms is None or letter.record_ts_ms >= self.since_ms)
            and (self.until_ms is None or letter.record_ts_ms < self.until_ms)
        )


class Replayable(NamedTuple):
    """What a replay would do: letters to send, and those it will not, with why."""

    letters: list[Letter]
    kept: list[tuple[Letter, str]]


def parse(key: bytes | None, value: bytes | None, headers: Headers) -> Letter | None:
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
    return Letter(
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


def read(client: Mapping[str, Any], prefix: str = "") -> Iterator[Letter]:
    """Every letter that is there now, each once: after a crash a worker sends the same letter again.

    Raises:
        TopicMismatch: there is no dead-letter topic.
        Retry: the broker did not answer.
    """
    name = prefix + TOPIC
    seen: set[str] = set()
    with TopicReader(client) as reader:
        ends = reader.ends((name, partition) for partition in range(reader.partitions(name)))
        for (_, partition), end in ends.items():
            for message in reader.range(name, partition, 0, end):
                letter = parse(message.key(), message.value(), _pairs(message.headers()))
                if letter is not None and letter.letter_id not in seen:
                    seen.add(letter.letter_id)
                    yield letter


def choose(letters: Iterable[Letter], wanted: Filter, max_attempts: int = MAX_ATTEMPTS) -> Replayable:
    """Which letters a replay sends, oldest record first.

    A letter whose record was replayed and refused again is not sent: the newer letter is, if it matches. So no record
    is sent twice by one replay, and the attempts of a record cannot be begun anew from its first letter.
    """
    replayed: dict[str, str] = {}
    chosen: list[Letter] = []
    for letter in letters:
        if letter.replayed_from is not None:
            replayed[letter.replayed_from] = letter.letter_id
        if wanted.matches(letter):
            chosen.append(letter)
    plan = Replayable([], [])
    for letter in sorted(
        chosen, key=lambda letter: (letter.record_ts_ms, letter.topic, letter.partition, letter.offset)
    ):
        why = _why_not(letter, replayed.get(letter.letter_id), max_attempts)
        if why is None:
            plan.letters.append(letter)
        else:
            plan.kept.append((letter, why))
    return plan


def replayed_headers(letter: Letter) -> list[tuple[str, bytes]]:
    """Headers of a replayed record: as they came, and what makes a replay harmless.

    A record that named no id gets one from its first letter, so that it counts once however often it is replayed; an
    erasure that named no time keeps the time at which it was asked for.
    """
    headers = list(letter.headers)
    names = {name for name, _ in headers}
    if "ce_id" not in names:
        headers.append(("ce_id", letter.letter_id.encode()))
    is_erasure = letter.value is None and letter.topic == SOURCES[PROFILES]
    if is_erasure and "ce_time" not in names and MIN_EVENT_TS_MS <= letter.record_ts_ms <= MAX_EVENT_TS_MS:
        at = datetime.fromtimestamp(letter.record_ts_ms / 1000, UTC).isoformat(timespec="milliseconds")
        headers.append(("ce_time", at.encode()))
    headers += [(ATTEMPT, str(letter.attempt + 1).encode()), (REPLAYED_FROM, letter.letter_id.encode())]
    return headers


def send(letters: Sequence[Letter], producer: OrderedProducer, *, partitions: int, prefix: str = "") -> dict[str, int]:
    """Produce the letters' records to their topics and wait until all are acknowledged; records by topic.

    Args:
        partitions: of every source topic. A record without a key goes to the partition it came from.

    Raises:
        DeliveryFailed: not all were acknowledged. The letters are where they were, and may be replayed again.
    """
    sent: Counter[str] = Counter()
    for letter in letters:
        place = letter.partition % partitions if letter.key is None else partition_for(letter.key, partitions)
        producer.send(prefix + letter.topic, letter.key, letter.value, place, replayed_headers(letter))
        sent[letter.topic] += 1
    producer.deliver()
    return dict(sent)


def _why_not(letter: Letter, newer: str | None, max_attempts: int) -> str | None:
    if letter.topic not in SOURCES:
        return f"{letter.topic} keeps what came last, so an old record could undo a newer one: produce a corrected one"
    if letter.cut is not None:
        return f"is the beginning of a record ({letter.cut}) that lies at its origin while Kafka keeps it there"
    if newer is not None:
        return f"was replayed before and refused again as {newer}"
    if letter.attempt >= max_attempts:
        return f"was replayed {letter.attempt} times, and --max-attempts is {max_attempts}"
    return None


def _pairs(headers: Any) -> list[tuple[str, bytes]]:
    return list(headers.items() if isinstance(headers, dict) else headers or ())
