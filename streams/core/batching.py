"""Which snapshots to encode next: micro-batches by size and age, what customers just did first.

A live snapshot replaces the one of the same customer that still waits: what it said is no longer true.
Snapshots with a pending label (horizon, send and sample) are never replaced, because an outcome will be compared with
what was predicted for exactly them, and dropping those of customers who came back would flatter the score.

Events go first. Labelled snapshots and those of sweeps come in bursts, and nobody waits for them: they fill what is
left, a share of a batch at most, so that the next event finds a short batch in work.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from itertools import islice
from typing import Final

import msgspec

from schemas.snapshot import LIVE_KINDS, Snapshot

_SHARE: Final = 4
"""One place in so many of a batch goes to what is no event."""
PATIENCE_MS: Final = 10_000
"""What is no event and has waited for so long has its share of every batch, and all that events leave of it."""

Key = str | tuple[int, int]
"""A customer, or a partition and an offset."""


class Waiting(msgspec.Struct):
    """A snapshot with its place in the topic and the time at which it began to wait."""

    snapshot: Snapshot | str
    """Or a customer who was erased."""
    partition: int
    offset: int
    since_ms: int


class MicroBatcher:
    """Queue between the topic and the encoder; pure, time comes as an argument.

    Args:
        size: snapshots in a full batch.
        age_ms: a batch goes although it is not full when its oldest snapshot has waited this long.
        coalesce: newest per customer wins. Off, every snapshot is encoded.
    """

    def __init__(self, size: int, age_ms: int, coalesce: bool = True) -> None:
        self._size = size
        self._age_ms = age_ms
        self._coalesce = coalesce
        self._share = max(1, size // _SHARE)
        self._erased: list[Waiting] = []
        self._events: OrderedDict[Key, Waiting] = OrderedDict()
        self._others: OrderedDict[Key, Waiting] = OrderedDict()
        self._open: dict[int, Counter[int]] = {}
        self.coalesced = 0

    def __len__(self) -> int:
        return len(self._erased) + len(self._events) + len(self._others)

    def open(self) -> int:
        """Offsets that are not done: of what waits, and of what is being computed or delivered."""
        return sum(map(len, list(self._open.values())))

    def add(self, snapshot: Snapshot, partition: int, offset: int, now_ms: int) -> None:
        """One more snapshot in topic order."""
        self._open.setdefault(partition, Counter())[offset] += 1
        entry = Waiting(snapshot, partition, offset, now_ms)
        if snapshot.kind not in LIVE_KINDS:
            self._others[partition, offset] = entry
        elif not self._coalesce:
            # Of one customer in the order of the topic, sweeps or not.
            self._events[partition, offset] = entry
        else:
            self._add_newest(snapshot, entry)

    def _add_newest(self, snapshot: Snapshot, entry: Waiting) -> None:
        key = snapshot.customer_id
        queue = self._events if snapshot.kind == "event" or key in self._events else self._others
        older = queue.get(key) or self._others.pop(key, None)
        if older is not None:
            # The customer keeps its place in the queue: a busy one must not wait for ever.
            self._close(older)
            entry.since_ms = older.since_ms
            self.coalesced += 1
        queue[key] = entry

    def erase(self, customer_id: str, partition: int, offset: int, now_ms: int) -> None:
        """A customer was erased: what waits of it is dropped, and what is published has to go, after all of before."""
        self._open.setdefault(partition, Counter())[offset] += 1
        for queue in (self._events, self._others):
            for key in [key for key, entry in queue.items() if _customer(entry) == customer_id]:
                entry = queue.pop(key)
                self._close(entry)
                self.coalesced += _is_live(entry)
        self._erased.append(Waiting(customer_id, partition, offset, now_ms))

    def ready(self, now_ms: int) -> bool:
        """Whether a batch should go now."""
        if len(self) >= self._size or len(self._others) >= self._share:
            return True
        heads = (*self._erased[:1], *islice(self._events.values(), 1), *islice(self._others.values(), 1))
        return any(now_ms - entry.since_ms >= self._age_ms for entry in heads)

    def take(self, now_ms: int) -> list[Waiting]:
        """The next batch: erased customers, whose past was in earlier ones; events; then others."""
        batch, self._erased = self._erased[: self._size], self._erased[self._size :]
        room = self._size - len(batch)
        oldest = next(iter(self._others.values()), None)
        patient = oldest is None or now_ms - oldest.since_ms < PATIENCE_MS
        kept = 0 if patient else min(self._share, room // 2, len(self._others))
        events = min(room - kept, len(self._events))
        others = min(room - events, len(self._others), self._share if patient else room)
        batch += [self._events.popitem(last=False)[1] for _ in range(events)]
        batch += [self._others.popitem(last=False)[1] for _ in range(others)]
        return batch

    def done(self, batch: list[Waiting]) -> None:
        """The batch's predictions are delivered."""
        for entry in batch:
            self._close(entry)

    def floor(self, partition: int) -> int | None:
        """Lowest offset that is not done; None where all are. Nothing past it may be committed."""
        waiting = self._open.get(partition)
        return min(waiting) if waiting else None

    def forget(self, partitions: set[int]) -> None:
        """Drop what waits of partitions that now belong to another worker."""
        self._erased = [entry for entry in self._erased if entry.partition not in partitions]
        for queue in (self._events, self._others):
            for key in [key for key, entry in queue.items() if entry.partition in partitions]:
                del queue[key]
        for partition in partitions:
            self._open.pop(partition, None)

    def _close(self, entry: Waiting) -> None:
        waiting = self._open.get(entry.partition)
        if waiting is None:
            return
        waiting[entry.offset] -= 1
        if waiting[entry.offset] <= 0:
            del waiting[entry.offset]


def _customer(entry: Waiting) -> str:
    return entry.snapshot if isinstance(entry.snapshot, str) else entry.snapshot.customer_id


def _is_live(entry: Waiting) -> bool:
    return not isinstance(entry.snapshot, str) and entry.snapshot.kind in LIVE_KINDS
