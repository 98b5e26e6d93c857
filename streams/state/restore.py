"""Reading a partition's changelog back into its local store."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, Message, TopicPartition

from schemas.errors import DeliveryFailed, StateCorrupt
from streams.kafka.clients import Consumer
from streams.kafka.offsets import available, end_offsets, first_offset
from streams.state import ownership
from streams.state.checkpoints import LocalMeta, read_meta, restore_batch
from streams.state.contract import KeyValue

logger: Final = logging.getLogger(__name__)

_BATCH: Final = 5_000
_POLL_S: Final = 0.5

#: Compaction forgets deletions after ``delete.retention.ms`` (24 h on our changelogs). A store that was not written for
#: half of that may hold what was deleted since, and is rebuilt.
REST_MS: Final = 12 * 3_600_000


class Restored(NamedTuple):
    """What a restore read."""

    records: int
    size_bytes: int
    seconds: float
    next_offset: int
    fencing_token: int
    """Highest fencing token of an owner in it."""
    stale: set[bytes]
    """Keys whose newest record does not count, see :mod:`streams.state.ownership`: the next owner writes them again."""
    complete_to: int
    """What its claim says: which checkpoints were finished."""


class ChangelogBehind(StateCorrupt):
    """Local store and changelog do not continue each other: another cluster, or another life of the topic."""


class Applier:
    """Writes stretches of a changelog partition into its store.

    While a checkpoint is open, or a record that does not count is the newest of its key, the store says that it has
    read only up to there: whoever opens it next, after a crash too, finds those records again.

    Args:
        store: what it holds is continued.
        position: offset of the first record to come.
        due_ms: reads a record's due time, to rebuild the timers.
    """

    def __init__(self, store: KeyValue, position: int, due_ms: Callable[[bytes], int]) -> None:
        self.position = position
        self._accepting = ownership.Accepting(read_meta(store).fencing_token)
        self._store = store
        self._due_ms = due_ms
        self._safe = (position, self.fencing_token)

    @property
    def fencing_token(self) -> int:
        """Highest one seen."""
        return self._accepting.fencing_token

    @property
    def stale(self) -> set[bytes]:
        """Keys whose newest record does not count."""
        return self._accepting.stale

    @property
    def complete_to(self) -> int:
        """See :func:`streams.state.ownership.claim`."""
        return self._accepting.complete_to(self.position)

    def apply(self, records: Sequence[ownership.ChangelogRecord], reached: int, now_ms: int) -> None:
        """Write what counts.

        Args:
            records: in offset order, none below ``position``.
            reached: offset after the last of them, or further where compaction took the rest.
            now_ms: wall clock, written with them.
        """
        if not records and reached <= self.position:
            return
        accepting = self._accepting
        pairs = accepting.accept(records)
        self.position = reached
        if not accepting.stale:
            begun = accepting.open[0] if accepting.open else None
            self._safe = (begun.offset, begun.fencing_token) if begun else (reached, accepting.fencing_token)
        offset, fencing_token = self._safe
        self._store.write(restore_batch(self._store, pairs, offset, self._due_ms, fencing_token, now_ms))

    def end(self) -> None:
        """The log ends here, and whoever wrote it is no longer the owner."""
        self._accepting.end()


def check_continues(known: LocalMeta, where: str, low: int, now_ms: int) -> None:
    """A store can be continued only by what follows in the same log.

    Args:
        known: of the store.
        where: the changelog partition, for people.
        low: first offset that the changelog has.
        now_ms: wall clock; 0 trusts a store of any age.

    Raises:
        ChangelogBehind: deletions may have been missed.
    """
    local = known.changelog_offset
    if local >= 0 and now_ms - known.written_ms > REST_MS and now_ms:
        raise ChangelogBehind(f"the local store of {where} rested for so long that deletions are missed")
    if 0 <= local < low:
        raise ChangelogBehind(f"{where} begins at {low}, past {local}: deletions may have been missed")


def restore(
    store: KeyValue,
    client: Mapping[str, Any],
    topic: str,
    partition: int,
    due_ms: Callable[[bytes], int],
    *,
    now_ms: int = 0,
    patience_s: float = 60.0,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Restored:
    """Bring ``store`` to the end of its changelog partition.

    Args:
        client: confluent-kafka settings of the cluster.
        topic: full name of the changelog topic.
        due_ms: reads a record's due time, to rebuild the timers.
        now_ms: wall clock, written with what is restored; 0 trusts a store of any age.
        patience_s: give up after this long without any answer from the broker.
        progress: called with (records read, records at most to be read).

    Raises:
        ChangelogBehind: the store holds more than the changelog has.
        DeliveryFailed: the broker did not answer in time.
    """
    started = time.monotonic()
    consumer = Consumer(
        {
            **client,
            "group.id": "pulsegraph-restore",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "fetch.max.bytes": 32 * 1024 * 1024,
            "fetch.wait.max.ms": 20,
        }
    )
    try:
        place = TopicPartition(topic, partition)
        low = first_offset(consumer, place, timeout_s=patience_s)
        # Not the high watermark from there: the embedded broker understates it; a fetch returns the true one.
        high = end_offsets(client, [(topic, partition)], timeout_s=patience_s)[topic, partition]
        known = read_meta(store)
        local = known.changelog_offset
        check_continues(known, f"{topic}-{partition}", low, now_ms)
        if local < 0 < low:
            logger.error(
                "%s-%d begins at %d, and there is no local store: compaction deletes no beginning, somebody did. "
                "Customers whose last record lay there begin anew; see that cleanup.policy is compact alone",
                topic, partition, low,
            )  # fmt: skip
        if local > high:
            raise ChangelogBehind(f"{topic}-{partition} ends at {high}, the local store has read up to {local}")
        if high <= max(low, local):
            reached = max(local, high)
            return Restored(0, 0, time.monotonic() - started, reached, known.fencing_token, set(), reached)
        place.offset = local if local >= low else OFFSET_BEGINNING
        consumer.assign([place])
        return _read(consumer, store, (high, max(low, local)), due_ms, now_ms, patience_s, progress, started)
    except KafkaException as error:
        raise DeliveryFailed(f"the changelog {topic}-{partition} cannot be read: {error}") from error
    finally:
        consumer.close()


def _read(
    consumer: Consumer,
    store: KeyValue,
    bounds: tuple[int, int],
    due_ms: Callable[[bytes], int],
    now_ms: int,
    patience_s: float,
    progress: Callable[[int, int], None],
    started: float,
) -> Restored:
    high, low = bounds
    records, size, heard = 0, 0, time.monotonic()
    applier = Applier(store, low, due_ms)
    while applier.position < high:
        messages = available(consumer, _BATCH, _POLL_S)
        found: list[ownership.ChangelogRecord] = []
        ended = False
        for message in messages:
            error = message.error()
            if error is not None:
                if error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)
                # Compaction may have removed the very last offsets. A leader that is new may not know the end yet.
                ended = ended or (end_of(message) >= high)
                continue
            record = ownership.read(message)
            found.append(record)
            size += len(record.key) + len(record.value or b"")
        reached = found[-1].offset + 1 if found else applier.position
        applier.apply(found, max(reached, high) if ended else reached, now_ms)
        records += len(found)
        if found:
            progress(records, high - low)
        if messages:
            heard = time.monotonic()
        elif time.monotonic() - heard > patience_s:
            raise DeliveryFailed(f"no answer from the broker for {patience_s:g} s while restoring")
    applier.end()
    return Restored(
        records,
        size,
        time.monotonic() - started,
        applier.position,
        applier.fencing_token,
        applier.stale,
        applier.complete_to,
    )


def end_of(message: Message) -> int:
    """Where a partition ended, of a message that says so."""
    return int(message.offset() or 0)


def read_range(
    client: Mapping[str, Any], topic: str, partition: int, begin: int, end: int, *, patience_s: float = 30.0
) -> list[ownership.ChangelogRecord]:
    """Records of ``[begin, end)`` of a changelog partition.

    Raises:
        DeliveryFailed: the broker did not answer in time.
    """
    consumer = Consumer(
        {
            **client,
            "group.id": "pulsegraph-restore",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
        }
    )
    found: list[ownership.ChangelogRecord] = []
    deadline = time.monotonic() + patience_s
    try:
        consumer.assign([TopicPartition(topic, partition, begin)])
        reached = begin
        while reached < end:
            for message in available(consumer, _BATCH, _POLL_S):
                error = message.error()
                if error is None:
                    found.append(ownership.read(message))
                    reached = found[-1].offset + 1
                elif error.code() == KafkaError._PARTITION_EOF:
                    reached = max(reached, end_of(message))  # what is not there any more was compacted
                else:
                    raise DeliveryFailed(f"{topic}-{partition} cannot be read: {error.str()}")
            if time.monotonic() > deadline:
                raise DeliveryFailed(f"{topic}-{partition} could not be read from {begin} to {end}")
    finally:
        consumer.close()
    return [record for record in found if record.offset < end]
