"""Who may write a partition's changelog: fencing by the log itself.

A worker that was paused past its session (SIGSTOP, a long stall) wakes up and may send what it had
prepared, although another worker owns the partition by now. Its record would be the newest for its key
and win. Kafka's own answer is transactions; this is the part of it that a changelog needs, on any broker:

- whoever opens a partition *claims* it: a record under :data:`streams.state.keys.CLAIM` with a term one
  higher than any seen. The claim counts if its offset is the one right after what was restored, so that
  nobody wrote in between; otherwise the new records are restored and the claim is made again;
- every record carries its writer's term in a header. A reader drops a record whose term is lower than
  one it has seen before: it was written by somebody who had lost the partition;
- the owner knows the offset that its next record must get. Where it got another one, somebody else wrote:
  with a higher term, the partition is lost; with a lower one, the owner writes its own version of those keys
  again, long before compaction (``min.compaction.lag.ms``) could remove the good record for the bad one.

The idea is the epoch of a leader in a replicated log (Raft's term, Kafka's leader epoch).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from schemas.errors import Retry, StateCorrupt
from streams.state import keys

TERM_HEADER: Final = "term"


class OwnershipLost(Retry):
    """Another worker has claimed the partition."""


class ChangelogRecord(NamedTuple):
    """One record read back."""

    offset: int
    key: bytes
    value: bytes | None
    term: int


class Accepted(NamedTuple):
    """What a stretch of the log means to a reader."""

    pairs: list[tuple[bytes, bytes | None]]
    """Records that count, claims left out, in order."""
    term: int
    """Highest term seen."""
    stale: set[bytes]
    """Keys whose newest record is of a lower term than one before it: that record does not count."""


def headers(term: int) -> list[tuple[str, str | bytes | None]]:
    """Headers of every changelog record of an owner."""
    return [(TERM_HEADER, str(term).encode())]


def read(message: Any) -> ChangelogRecord:
    """A confluent-kafka message of a changelog.

    Raises:
        StateCorrupt: it has no key or no term: something else writes to this topic.
    """
    key, offset = message.key(), message.offset()
    raw = dict(message.headers() or ()).get(TERM_HEADER)
    if not isinstance(key, bytes) or offset is None or not isinstance(raw, bytes) or not raw.isdigit():
        raise StateCorrupt(f"record {offset} of {message.topic()} is none of ours: only workers may write there")
    return ChangelogRecord(offset, key, message.value(), int(raw))


def accept(records: Iterable[ChangelogRecord], term: int) -> Accepted:
    """Tell records of owners from those of writers who had lost the partition.

    Args:
        records: in offset order.
        term: highest term seen before them.
    """
    pairs: list[tuple[bytes, bytes | None]] = []
    stale: set[bytes] = set()
    for record in records:
        if record.term < term:
            stale.add(record.key)
            continue
        term = record.term
        stale.discard(record.key)
        if record.key != keys.CLAIM:
            pairs.append((record.key, record.value))
    stale.discard(keys.CLAIM)
    return Accepted(pairs, term, stale)


class Ownership:
    """An owner's term, and the offset that its next changelog record must get."""

    def __init__(self, term: int, next_offset: int) -> None:
        self.term = term
        self.next_offset = next_offset

    def reached(self, newest_offset: int, sent: int) -> tuple[int, int] | None:
        """Note that ``sent`` records were acknowledged, the newest at ``newest_offset``.

        Returns:
            The offsets ``[from, to)`` in which somebody else wrote, with ours among them; None where nobody did.
        """
        begin, self.next_offset = self.next_offset, newest_offset + 1
        return None if newest_offset + 1 == begin + sent else (begin, newest_offset + 1)

    def intruders(self, records: Iterable[ChangelogRecord]) -> set[bytes]:
        """Keys that a writer of an earlier term touched.

        Raises:
            OwnershipLost: somebody claimed a higher term.
        """
        found = set()
        for record in records:
            if record.term > self.term:
                raise OwnershipLost(f"term {self.term} is over: term {record.term} was claimed")
            if record.term < self.term:
                found.add(record.key)
        return found - {keys.CLAIM}
