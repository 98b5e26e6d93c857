"""One customer's state, read from the changelog. Needs no worker; what is not checkpointed yet is not seen."""

from __future__ import annotations

from typing import NamedTuple

from schemas.deadletter import TOPIC as DEAD_LETTERS
from schemas.errors import ConfigError
from schemas.words import Words
from streams.core.config import CoreConfig
from streams.core.context import Context
from streams.core.customer import EDGES, HISTORY, Customer
from streams.core.durable import PartitionMeta
from streams.inspect.moments import moment
from streams.kafka.partitioning import partition_for
from streams.kafka.reader import TopicReader
from streams.settings.zones import INSTALLED
from streams.state import keys


class ReadCustomer(NamedTuple):
    """A customer with what is known around them."""

    customer: Customer
    context: Context
    watermark_ms: int
    """How far event time has come in the customer's partition."""


def read_customer(reader: TopicReader, prefix: str, customer_id: str, config: CoreConfig) -> ReadCustomer:
    """The customer as of the newest finished checkpoint.

    Raises:
        ConfigError: nothing is known about the customer, or they were erased.
        StateCorrupt: the record cannot be read.
    """
    key = customer_id.encode()
    changelog = f"{prefix}ingest-changelog"
    partition = partition_for(key, reader.partitions(changelog))
    meta = reader.newest(changelog, partition, keys.META, reader.ends([(changelog, partition)])[changelog, partition])
    # As of the newest checkpoint that is finished: behind it a record may be there whose pieces are not yet.
    stop = int(meta.offset() or 0) if meta is not None else 0
    message = reader.newest(changelog, partition, keys.record(customer_id), stop)
    record = message.value() if message is not None else None
    if record is None:
        if message is None and (refused := newest_refusal(reader, prefix, key)) is not None:
            raise ConfigError(f"nothing is kept of customer {customer_id!r}: what came was refused; {refused}")
        gone = "was erased, or its state was deleted" if message is not None else "has never sent an event"
        raise ConfigError(
            f"nothing is known about customer {customer_id!r} in {prefix}ingest-changelog[{partition}]: the customer "
            f"{gone}, or no ingest worker has run yet. Ids are case-sensitive; `pulsegraph tail clickstream "
            "--from-beginning` shows some"
        )
    context = Context(config, Words(), partition, customer_id, INSTALLED)
    place = (changelog, partition, stop)
    known = Customer.decode(context, record, lambda kind: _pieces(reader, place, customer_id, kind))
    if known.is_tombstone:
        raise ConfigError(f"customer {customer_id!r} was erased at {moment(known.erased_ms)} UTC: nothing is kept")
    watermark_ms = PartitionMeta.decode(meta.value() if meta is not None else None).watermark_ms
    return ReadCustomer(known, context, watermark_ms)


def newest_refusal(reader: TopicReader, prefix: str, key: bytes) -> str | None:
    """What the newest dead letter of a key says, and where to look; None where there is none."""
    topic = prefix + DEAD_LETTERS
    partition = partition_for(key, reader.partitions(topic))
    message = reader.newest(topic, partition, key, reader.ends([(topic, partition)])[topic, partition])
    if message is None:
        return None
    pairs = dict(message.headers() or ())
    headers = {name: raw.decode("utf-8", "replace") for name, raw in pairs.items() if isinstance(raw, bytes)}
    name, reason = headers.get("dl_id", "?"), headers.get("dl_reason", "?")
    return (
        f"the newest dead letter is {name} ({reason}: {headers.get('dl_message', '')}): "
        f"`pulsegraph dead-letters show {name}`"
    )


def _pieces(reader: TopicReader, place: tuple[str, int, int], customer_id: str, kind: bytes) -> list[bytes]:
    """A customer's pieces of a kind. For those of a tail all of the partition is read: few have any.

    Args:
        place: topic, partition, and offset at which to stop.
    """
    changelog, partition, end = place
    if kind in (EDGES, HISTORY):
        message = reader.newest(changelog, partition, keys.piece(customer_id, kind), end)
        return [message.value() or b""] if message is not None else []
    start, stop = keys.pieces(customer_id, kind)
    newest: dict[bytes, bytes | None] = {}
    for message in reader.range(changelog, partition, 0, end):
        if start <= (key := message.key() or b"") < stop:
            newest[key] = message.value()
    return [value for _, value in sorted(newest.items()) if value is not None]
