"""Who may write a partition's changelog, and what of it counts: whole checkpoints of owners.

A worker that was paused past its session (SIGSTOP, a long stall) wakes up and may send what it had
prepared, although another worker owns the partition by now. Its record would be the newest for its key
and win. And a worker that is killed while it writes leaves half a checkpoint. Kafka's own answer to both is
transactions; this is the part of it that a changelog needs, on any broker:

- whoever opens a partition *claims* it: a record under :data:`streams.state.keys.CLAIM` with a fencing token
  one higher than any seen. The claim counts if its offset is the one right after what was restored, so that
  nobody wrote in between; otherwise the new records are restored and the claim is made again;
- every record says in a header who wrote it, and in which of its checkpoints. A reader drops a record whose token
  is lower than one it has seen before: it is a zombie write, by somebody who had lost the partition;
- a checkpoint counts once its last record, the partition's meta record, is there. Of one that an owner did not finish
  nothing counts: the next owner reads the events again. A claim says up to where the checkpoints before it were
  finished, since compaction takes meta records that were replaced;
- the owner knows the offset that its next record must get. Where it got another one, somebody else wrote:
  with a higher token, the partition is lost; with a lower one, it was a zombie. The owner writes its own version
  of those keys again, and of those in an unfinished checkpoint, long before compaction
  (``min.compaction.lag.ms``) could remove the good record for the bad one.

The idea is the fencing token of a leader in a replicated log (Raft calls it term, Kafka leader epoch; Kleppmann 2016).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from schemas.errors import Retry, StateCorrupt
from streams.state import keys

WRITTEN_BY: Final = "written_by"


class OwnershipLost(Retry):
    """Another worker has claimed the partition."""


class ChangelogRecord(NamedTuple):
    """One record read back."""

    offset: int
    key: bytes
    value: bytes | None
    fencing_token: int
    checkpoint: int
    """Which of its writer's checkpoints it belongs to."""


Pair = tuple[bytes, bytes | None]
"""A key and its new value; None deletes it."""


def headers(fencing_token: int, checkpoint: int) -> list[tuple[str, str | bytes | None]]:
    """Headers of every changelog record of an owner."""
    return [(WRITTEN_BY, b"%d:%d" % (fencing_token, checkpoint))]


def read(message: Any) -> ChangelogRecord:
    """A confluent-kafka message of a changelog.

    Raises:
        StateCorrupt: it has no key or does not say who wrote it: something else writes to this topic.
    """
    key, offset = message.key(), message.offset()
    raw = dict(message.headers() or ()).get(WRITTEN_BY)
    token, _, checkpoint = raw.partition(b":") if isinstance(raw, bytes) else (b"", b"", b"")
    if not isinstance(key, bytes) or offset is None or not token.isdigit() or not checkpoint.isdigit():
        raise StateCorrupt(f"record {offset} of {message.topic()} is none of ours: only workers may write there")
    return ChangelogRecord(offset, key, message.value(), int(token), int(checkpoint))


def claim(complete_to: int) -> Pair:
    """The record by which a partition is claimed.

    Args:
        complete_to: every checkpoint is finished that began before this offset, and none that began later.
    """
    return keys.CLAIM, b"%d" % complete_to


class Accepting:
    """Tells records that count from zombie writes and unfinished checkpoints, in offset order.

    Args:
        fencing_token: highest one seen before.
    """

    def __init__(self, fencing_token: int = 0) -> None:
        self.fencing_token = fencing_token
        self.open: list[ChangelogRecord] = []
        """Records of a checkpoint whose end was not seen yet."""
        self._zombies: dict[bytes, int] = {}
        """Key -> offset of its newest record with a lower token than one before it."""
        self._unfinished: dict[bytes, int] = {}
        """Key -> offset of its first record since it had one that counts, of a checkpoint that was never finished."""

    @property
    def stale(self) -> set[bytes]:
        """Keys whose newest record does not count, as far as is known: their owner has to write them again."""
        return self._zombies.keys() | self._unfinished.keys()

    def accept(self, records: Iterable[ChangelogRecord]) -> list[Pair]:
        """The next stretch of the log; returns what counts by now, claims left out, in order."""
        pairs: list[Pair] = []
        for record in records:
            key, fencing_token, checkpoint = record.key, record.fencing_token, record.checkpoint
            if fencing_token < self.fencing_token:
                if key != keys.CLAIM:
                    self._zombies[key] = record.offset
                continue
            self.fencing_token = fencing_token
            if key == keys.CLAIM:
                complete_to = int(record.value or b"0")
                self._count([known for known in self.open if known.offset < complete_to], pairs)
                self._give_up([known for known in self.open if known.offset >= complete_to])
                self.open = []
                continue
            if self.open and self.open[-1].fencing_token == fencing_token and self.open[-1].checkpoint != checkpoint:
                # Its owner went on to the next one: it was finished, and its meta record was replaced and compacted.
                self._count(self.open, pairs)
                self.open = []
            self.open.append(record)
            if key == keys.META:
                self._count(self.open, pairs)
                self.open = []
        return pairs

    def end(self) -> None:
        """The log ends here: what is open was not finished."""
        self._give_up(self.open)
        self.open = []

    def complete_to(self, reached: int) -> int:
        """What a claim has to say whose writer has read up to the offset ``reached``."""
        return min(self._unfinished.values(), default=reached)

    def _count(self, records: Iterable[ChangelogRecord], pairs: list[Pair]) -> None:
        for record in records:
            if self._zombies.get(record.key, record.offset) < record.offset:
                del self._zombies[record.key]
            self._unfinished.pop(record.key, None)
            pairs.append((record.key, record.value))

    def _give_up(self, records: Iterable[ChangelogRecord]) -> None:
        for record in records:
            self._unfinished.setdefault(record.key, record.offset)


class Ownership:
    """An owner's fencing token, and the offset that its next changelog record must get."""

    def __init__(self, fencing_token: int, next_offset: int) -> None:
        self.fencing_token = fencing_token
        self.next_offset = next_offset

    def reached(self, newest_offset: int, sent: int) -> tuple[int, int] | None:
        """Note that ``sent`` records were acknowledged, the newest at ``newest_offset``.

        Returns:
            The offsets ``[from, to)`` in which somebody else wrote, with ours among them; None where nobody did.
        """
        begin, self.next_offset = self.next_offset, newest_offset + 1
        return None if newest_offset + 1 == begin + sent else (begin, newest_offset + 1)

    def zombie_writes(self, records: Iterable[ChangelogRecord]) -> set[bytes]:
        """Keys that a writer with a lower token touched.

        Raises:
            OwnershipLost: somebody claimed a higher token.
        """
        found = set()
        for record in records:
            if record.fencing_token > self.fencing_token:
                raise OwnershipLost(f"fencing token {self.fencing_token} is over: {record.fencing_token} was claimed")
            if record.fencing_token < self.fencing_token:
                found.add(record.key)
        return found - {keys.CLAIM}
