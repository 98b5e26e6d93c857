"""What a running deployment has recorded for training: its outcomes, and the catalog as it is now."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import msgspec
from confluent_kafka import Message

from models.outcomes import matured
from schemas import codec
from schemas.catalog import CatalogEntry
from schemas.errors import ConfigError
from schemas.predictions import Erasure
from schemas.snapshot import OUTCOME_VERSION, SNAPSHOT_VERSION, Outcome
from streams.core.erased import is_of_before
from streams.kafka.reader import TopicReader
from streams.serving.catalog import UNREADABLE, read_entry

_EVERY: Final = 10_000

_outcome: Final = codec.decoder(Outcome)
_erasure: Final = msgspec.json.Decoder(Erasure).decode


class RecordedOutcomes(msgspec.Struct):
    """What was read, and what was left out."""

    outcomes: list[Outcome]
    catalog: dict[str, CatalogEntry]
    repeated: int = 0
    """Outcomes that were delivered twice: the same id, the same bytes."""
    foreign: int = 0
    """Outcomes of a version that this release does not know."""
    refused: int = 0
    """Catalog records that are no entries."""
    erased: int = 0
    """Outcomes that hold something of a customer from before an erasure."""
    early: list[Outcome] = []
    """Outcomes whose horizon has not ended yet, see :func:`models.outcomes.matured`."""


def read_recorded(reader: TopicReader, prefix: str, progress: Callable[[float, str], None]) -> RecordedOutcomes:
    """Read ``outcomes``, ``erasures`` and ``catalog`` to their present ends.

    Args:
        prefix: put before topic names.
        progress: called with the share that is done.

    Raises:
        TopicMismatch: there are no such topics.
        ConfigError: a receipt of an erasure cannot be read.
        Retry: the broker does not answer.
    """
    found, seen = RecordedOutcomes([], {}), set[str]()
    # A customer's outcomes are in one partition, and each is written when that partition's event time has come to it.
    # So the newest outcome gives a partition's exact event time, and one that lags or is empty holds up no other.
    by_partition: dict[int, list[Outcome]] = {}
    known_ms: dict[int, int] = {}
    for message, share in _records(reader, prefix + "outcomes"):
        try:
            outcome: Outcome = _outcome(message.value() or b"")
        except msgspec.DecodeError:  # of a release with other fields
            found.foreign += 1
            continue
        partition = message.partition() or 0
        known_ms[partition] = max(known_ms.get(partition, 0), outcome.resolved_ms)
        seen_as = outcome.snapshot
        if outcome.version != OUTCOME_VERSION or (seen_as is not None and seen_as.version != SNAPSHOT_VERSION):
            found.foreign += 1
        elif outcome.outcome_id in seen:
            found.repeated += 1
        else:
            seen.add(outcome.outcome_id)
            by_partition.setdefault(partition, []).append(outcome)
            if len(seen) % _EVERY == 0:
                progress(share, f"reading outcomes: {len(seen):,}")
    erased_ms = _erasures(reader, prefix)  # after the outcomes, so that who was erased meanwhile is left out, too
    for partition, outcomes in by_partition.items():
        kept = [o for o in outcomes if not _is_of_before(o, erased_ms.get(o.customer_id))]
        ended = matured(kept, known_ms[partition])
        found.erased += len(outcomes) - len(kept)
        found.early += [o for o in kept if o.due_ms > known_ms[partition]]
        found.outcomes += ended
    for message, _ in _records(reader, prefix + "catalog"):
        try:
            name, entry = read_entry(message.key(), message.value())
        except UNREADABLE:
            found.refused += 1
            continue
        if entry is None:
            found.catalog.pop(name, None)
        else:
            found.catalog[name] = entry
    return found


def _is_of_before(outcome: Outcome, erased_ms: int | None) -> bool:
    """Whether it speaks of who was erased; one without its snapshot says nothing once that one is left out."""
    if outcome.snapshot is None:
        return erased_ms is not None and outcome.as_of_ms <= erased_ms
    return is_of_before(outcome.snapshot, erased_ms)


def _erasures(reader: TopicReader, prefix: str) -> dict[str, int]:
    """Customer → event time of the newest erasure."""
    newest: dict[str, int] = {}
    for message, _ in _records(reader, prefix + "erasures"):
        try:
            receipt: Erasure = _erasure(message.value() or b"")
        except msgspec.DecodeError as error:  # to go on would be to learn from somebody who must be forgotten
            place = f"{message.topic()}[{message.partition()}] at offset {message.offset()}"
            raise ConfigError(f"{place} is no receipt of an erasure ({error}): who was erased is not known") from error
        newest[receipt.customer_id] = max(newest.get(receipt.customer_id, -1), receipt.erased_ms)
    return newest


def _records(reader: TopicReader, topic: str) -> Iterator[tuple[Message, float]]:
    ends = reader.ends_of(topic)
    total, done = max(1, sum(ends.values())), 0
    for place, end in ends.items():
        for message in reader.range(*place, 0, end):
            yield message, (done + (message.offset() or 0)) / total
        done += end
