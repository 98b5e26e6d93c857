"""Every task's predictions of one customer: now, at a past time, or with events added, as they would be served.

State comes from the changelog, or, for a time before the customer's newest event, from the log of the source topics;
snapshots from the core, records from :class:`streams.serving.predict.Predictions`. So a question that was asked live
gets the same ids here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple, cast

import msgspec

from models.inference import Predictor
from schemas.catalog import CatalogEntry
from schemas.errors import ConfigError
from schemas.events import SOURCES
from schemas.predictions import Prediction
from schemas.snapshot import Snapshot
from schemas.topics import TOPICS
from streams.core.config import CoreConfig
from streams.core.customer import Customer
from streams.core.decisions import DecisionPolicy
from streams.inspect.moments import moment
from streams.inspect.stored_customer import read_customer
from streams.kafka.partitioning import partition_for
from streams.kafka.reader import TopicReader
from streams.offline.rebuild import SourceLogRecord, customer_of_log
from streams.offline.what_if import RefusedLine, add_events, snapshots_at
from streams.serving.predict import Predictions

_COMPACTED: Final = "profiles"


class Question(NamedTuple):
    """Snapshots of a customer to be predicted."""

    snapshots: list[Snapshot]
    """Of added sends, and last the customer at the time that was asked for."""
    added: int
    """Events that were added."""
    refused: list[RefusedLine]
    kept_from: dict[str, int]
    """Topic -> time of the oldest record left, where retention has removed older ones that a past state needs."""


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """What is predicted of a customer."""

    customer_id: str
    as_of_ms: int
    snapshot_kind: str
    """``event``: something happened at that very time. ``refresh``: nothing did."""
    model_version: str
    added: int
    """Events that were added."""
    refused: list[RefusedLine]
    """Lines of added events that change nothing."""
    kept_from: dict[str, int]
    """Topic -> ms of the oldest record that is left: what happened before it is not in a past state."""
    predictions: dict[str, list[Any]]
    """Topic -> records, as they are published."""
    not_predicted: dict[str, str]
    """Task -> why there is no record."""


def ask_customer(
    reader: TopicReader,
    prefix: str,
    customer_id: str,
    config: CoreConfig,
    as_of_ms: int | None = None,
    lines: Iterable[bytes] = (),
) -> Question:
    """What a model would be asked of a customer.

    Args:
        as_of_ms: event time; where None, as far as event time has come in the customer's partition.
        lines: events to add, see :func:`streams.offline.what_if.add_events`.

    Raises:
        ConfigError: nothing is known about the customer, or nothing was at that time.
        StateCorrupt: the state cannot be read.
    """
    found = read_customer(reader, prefix, customer_id, config)
    customer = found.customer
    known = customer.view()
    if as_of_ms is not None and known.events and as_of_ms < known.first_ms:
        raise ConfigError(
            f"customer {customer_id!r} has no event up to {moment(as_of_ms)} UTC: the first one was at "
            f"{moment(known.first_ms)}, give a later --as-of"
        )
    kept_from: dict[str, int] = {}
    if as_of_ms is not None and as_of_ms < known.last_ms:
        if as_of_ms <= customer.erased_ms:
            raise ConfigError(
                f"customer {customer_id!r} was erased at {moment(customer.erased_ms)} UTC: nothing is said of a time "
                "before it"
            )
        customer = _customer_then(reader, prefix, customer_id, config, as_of_ms, kept_from)
    until_ms = max(customer.view().last_ms, found.watermark_ms) if as_of_ms is None else as_of_ms
    added = add_events(customer, lines)
    until_ms = max(until_ms, customer.view().last_ms)
    snapshots = snapshots_at(customer, until_ms, added.events)
    if not snapshots:
        since = "".join(f"; {topic} is kept from {moment(from_ms)} on" for topic, from_ms in kept_from.items())
        raise ConfigError(f"no event of customer {customer_id!r} up to {moment(until_ms)} UTC is known{since}")
    return Question(snapshots, len(added.events), added.refused, kept_from)


def answer(
    question: Question,
    predictor: Predictor,
    catalog: Mapping[str, CatalogEntry],
    policy: DecisionPolicy,
    config: CoreConfig,
    wall_ms: Callable[[], int],
) -> Answered:
    """What the model says of a question's snapshots: the records that encode would write.

    Args:
        catalog: as it is now, by ``kind:id``.
    """
    predictions = Predictions(predictor, _Known(catalog), policy, wall_ms, aliases=config.channel_aliases)
    records: dict[str, list[Any]] = {}
    for record in predictions(question.snapshots).records:
        assert record.value is not None
        records.setdefault(record.topic, []).append(msgspec.json.decode(record.value))
    last = question.snapshots[-1]
    kinds = {snapshot.kind for snapshot in question.snapshots}
    learned = {task.name: task for task in predictor.model.tasks}
    return Answered(
        customer_id=last.customer_id,
        as_of_ms=last.as_of_ms,
        snapshot_kind=last.kind,
        model_version=predictor.version,
        added=question.added,
        refused=question.refused,
        kept_from=question.kept_from,
        predictions=records,
        not_predicted={
            name: f"asked of {', '.join(sorted(task.kinds))} snapshots only"
            + ("; add a send by --events to see it" if "send" in task.kinds else "")
            for name, task in learned.items()
            if not task.kinds & kinds
        },
    )


def decoded(answered: Answered) -> Iterator[tuple[str, Prediction]]:
    """Topic and record of each prediction."""
    for topic, records in answered.predictions.items():
        kind = TOPICS[topic].record
        assert kind is not None
        for record in records:
            yield topic, msgspec.convert(record, kind)


class _Known:
    def __init__(self, entries: Mapping[str, CatalogEntry]) -> None:
        self.current: tuple[Mapping[str, CatalogEntry], int] = entries, 1


def _customer_then(
    reader: TopicReader, prefix: str, customer_id: str, config: CoreConfig, as_of_ms: int, kept_from: dict[str, int]
) -> Customer:
    """The customer as the source topics tell them, up to a time; says in ``kept_from`` what is missing."""
    key = customer_id.encode()
    partitions = reader.partitions(prefix + SOURCES[0])
    partition = partition_for(key, partitions)

    def log() -> Iterator[SourceLogRecord]:
        for source_index, topic in enumerate(SOURCES):
            place = prefix + topic, partition
            first = True
            for message in reader.range(*place, 0, reader.ends([place])[place]):
                offset, (_, sent_ms) = int(message.offset() or 0), message.timestamp()
                if first and offset and topic != _COMPACTED:
                    kept_from[topic] = sent_ms
                first = False
                headers = tuple(cast("Any", message.headers() or ()))
                yield SourceLogRecord(source_index, offset, message.key(), message.value(), headers, sent_ms)

    return customer_of_log(
        customer_id, partition, as_of_ms, log(), config, lambda record_key: partition_for(record_key, partitions)
    )
