"""Which snapshots to encode next: micro-batches by size and age, the newest per customer.

A live snapshot replaces the one of the same customer that still waits: what it said is no longer true.
Snapshots with a pending label (horizon, send and sample) are never replaced, because an outcome will be compared with
what was predicted for exactly them, and dropping those of customers who came back would flatter the score.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from typing import Final

import msgspec

from schemas.snapshot import LIVE_KINDS, Snapshot

_LABELLED_SHARE: Final = 4  # about one place in four goes to snapshots with a label when both kinds wait


class Waiting(msgspec.Struct):
    """A snapshot with its place in the topic and the time at which it began to wait."""

    snapshot: Snapshot | str
    """Or a customer who was erased."""
    partition: int
    offset: int
    since_ms: int


def _is_of(entry: Waiting, customer_id: str) -> bool:
    return not isinstance(entry.snapshot, str) and entry.snapshot.customer_id == customer_id


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
        self._live: OrderedDict[str, Waiting] = OrderedDict()
        self._labelled: deque[Waiting] = deque()
        self._open: dict[int, Counter[int]] = {}
        self.coalesced = 0

    def __len__(self) -> int:
        return len(self._live) + len(self._labelled)

    def open(self) -> int:
        """Offsets that are not done: of what waits, and of what is being computed or delivered."""
        return sum(map(len, list(self._open.values())))

    def add(self, snapshot: Snapshot, partition: int, offset: int, now_ms: int) -> None:
        """One more snapshot in topic order."""
        self._open.setdefault(partition, Counter())[offset] += 1
        entry = Waiting(snapshot, partition, offset, now_ms)
        if snapshot.kind not in LIVE_KINDS:
            self._labelled.append(entry)
            return
        key = snapshot.customer_id if self._coalesce else f"{partition}:{offset}"
        older = self._live.get(key)
        if older is not None:
            # The customer keeps its place in the queue: a busy one must not wait for ever.
            self._close(older)
            entry.since_ms = older.since_ms
            self.coalesced += 1
        self._live[key] = entry

    def erase(self, customer_id: str, partition: int, offset: int, now_ms: int) -> None:
        """A customer was erased: what waits of it is dropped, and what is published has to go, after all of before."""
        self._open.setdefault(partition, Counter())[offset] += 1
        for key in [key for key, entry in self._live.items() if _is_of(entry, customer_id)]:
            self._close(self._live.pop(key))
            self.coalesced += 1
        for entry in self._labelled:
            if _is_of(entry, customer_id):
                self._close(entry)
        self._labelled = deque(entry for entry in self._labelled if not _is_of(entry, customer_id))
        self._live[f"{partition}:{offset}"] = Waiting(customer_id, partition, offset, now_ms)

    def ready(self, now_ms: int) -> bool:
        """Whether a batch should go now."""
        if len(self) >= self._size:
            return True
        oldest = [entry.since_ms for entry in self._heads()]
        return bool(oldest) and now_ms - min(oldest) >= self._age_ms

    def take(self) -> list[Waiting]:
        """The next batch: live snapshots first, with a share kept for those with a label.

        Erased customers are at its head only: what is of before was in earlier ones, what came after follows them.
        """
        reserved = min(len(self._labelled), max(1, self._size // _LABELLED_SHARE)) if self._size > 1 else 0
        batch: list[Waiting] = []
        while self._live and len(batch) < self._size - reserved:
            key, entry = next(iter(self._live.items()))
            if isinstance(entry.snapshot, str) and batch and not isinstance(batch[-1].snapshot, str):
                break
            batch.append(self._live.pop(key))
        batch += [self._labelled.popleft() for _ in range(min(len(self._labelled), self._size - len(batch)))]
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
        for key in [key for key, entry in self._live.items() if entry.partition in partitions]:
            del self._live[key]
        self._labelled = deque(entry for entry in self._labelled if entry.partition not in partitions)
        for partition in partitions:
            self._open.pop(partition, None)

    def _heads(self) -> list[Waiting]:
        heads = [next(iter(self._live.values()))] if self._live else []
        return [*heads, self._labelled[0]] if self._labelled else heads

    def _close(self, entry: Waiting) -> None:
        waiting = self._open.get(entry.partition)
        if waiting is None:
            return
        waiting[entry.offset] -= 1
        if waiting[entry.offset] <= 0:
            del waiting[entry.offset]
