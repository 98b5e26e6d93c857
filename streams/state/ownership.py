"""Who may write a partition's changelog: fencing by the log itself.

A worker that was paused past its session (SIGSTOP, a long stall) wakes up and may send what it had
prepared, although another worker owns the partition by now. Its record would be the newest for its key
and win. Kafka's own answer is transactions; this is the part of it that a changelog needs, on any broker:

- whoever opens a partition *claims* it: a record under :data:`streams.state.keys.CLAIM` with a fencing token
  one higher than any seen. The claim counts if its offset is the one right after what was restored, so that
  nobody wrote in between; otherwise the new records are restored and the claim is made again;
- every record carries its writer's fencing token in a header. A reader drops a record whose token is lower than
  one it has seen before: it is a zombie write, by somebody who had lost the partition;
- the owner knows the offset that its next record must get. Where it got another one, somebody else wrote:
  with a higher token, the partition is lost; with a lower one, the owner writes its own version of those keys
  again, long before compaction (``min.compaction.lag.ms``) could remove the good record for the bad one.

The idea is the fencing token of a leader in a replicated log (Raft calls it term, Kafka leader epoch; Kleppmann 2016).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from schemas.errors import Retry, StateCorrupt
from streams.state import keys

FENCING_HEADER: Final = "fencing_token"


class OwnershipLost(Retry):
    """Another worker has claimed the partition."""


class ChangelogRecord(NamedTuple):
    """One record read back."""

    offset: int
    key: bytes
    value: bytes | None
    fencing_token: int


class Accepted(NamedTuple):
    """What a stretch of the log means to a reader."""

    pairs: list[tuple[bytes, bytes | None]]
    """Records that count, claims left out, in order."""
    fencing_token: int
    """Highest fencing token seen."""
    stale: set[bytes]
    """Keys whose newest record has a lower token than one before it: that record does not count."""


def headers(fencing_token: int) -> list[tuple[str, str | bytes | None]]:
    """Headers of every changelog record of an owner."""
    return [(FENCING_HEADER, str(fencing_token).encode())]


def read(message: Any) -> ChangelogRecord:
    """A confluent-kafka message of a changelog.

    Raises:
        StateCorrupt: it has no key or no fencing token: something else writes to this topic.
    """
    key, offset = message.key(), message.offset()
    raw = dict(message.headers() or ()).get(FENCING_HEADER)
    if not isinstance(key, bytes) or offset is None or not isinstance(raw, bytes) or not raw.isdigit():
        raise StateCorrupt(f"record {offset} of {message.topic()} is none of ours: only workers may write there")
    return ChangelogRecord(offset, key, message.value(), int(raw))


def accept(records: Iterable[ChangelogRecord], fencing_token: int) -> Accepted:
    """Separate records of owners from zombie writes.

    Args:
        records: in offset order.
        fencing_token: highest one seen before them.
    """
    pairs: list[tuple[bytes, bytes | None]] = []
    stale: set[bytes] = set()
    for record in records:
        if record.fencing_token < fencing_token:
            stale.add(record.key)
            continue
        fencing_token = record.fencing_token
        stale.discard(record.key)
        if record.key != keys.CLAIM:
            pairs.append((record.key, record.value))
    stale.discard(keys.CLAIM)
    return Accepted(pairs, fencing_token, stale)


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
