"""What a running deployment has recorded for training: its outcomes, and the catalog as it is now."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import msgspec
from confluent_kafka import Message

from schemas import codec
from schemas.catalog import CatalogEntry
from schemas.snapshot import OUTCOME_VERSION, Outcome
from streams.catalog import UNREADABLE, read_entry
from streams.topic_reader import TopicReader

_EVERY: Final = 10_000

_outcome: Final = codec.decoder(Outcome)


class Recorded(msgspec.Struct):
    """What was read, and what was left out."""

    outcomes: list[Outcome]
    catalog: dict[str, CatalogEntry]
    repeated: int = 0
    """Outcomes that were delivered twice: the same id, the same bytes."""
    foreign: int = 0
    """Outcomes written in another vocabulary, or of a version that this release does not know."""
    refused: int = 0
    """Catalog records that are no entries."""


def read_recorded(
    reader: TopicReader, prefix: str, vocabulary: str, progress: Callable[[float, str], None]
) -> Recorded:
    """Read ``outcomes`` and ``catalog`` to their present ends.

    Args:
        prefix: put before topic names.
        vocabulary: fingerprint of the tokeniser that the outcomes must have been written with.
        progress: told the share that is done.

    Raises:
        TopicMismatch: there are no such topics.
        Retry: the broker does not answer.
    """
    found, seen = Recorded([], {}), set[str]()
    for message, share in _records(reader, prefix + "outcomes"):
        try:
            outcome: Outcome = _outcome(message.value() or b"")
        except msgspec.DecodeError:  # of a release with other fields
            found.foreign += 1
            continue
        if outcome.version != OUTCOME_VERSION or outcome.snapshot.model_hint != vocabulary:
            found.foreign += 1
        elif outcome.outcome_id in seen:
            found.repeated += 1
        else:
            seen.add(outcome.outcome_id)
            found.outcomes.append(outcome)
            if len(seen) % _EVERY == 0:
                progress(share, f"reading outcomes: {len(seen):,}")
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


def _records(reader: TopicReader, topic: str) -> Iterator[tuple[Message, float]]:
    places = [(topic, partition) for partition in range(reader.partitions(topic))]
    ends = reader.ends(places)
    total, done = max(1, sum(ends.values())), 0
    for place in places:
        for message in reader.range(*place, 0, ends[place]):
            yield message, (done + (message.offset() or 0)) / total
        done += ends[place]
