"""What is durable of one partition: what the core reads of it, and what a checkpoint adds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from schemas.events import SOURCES
from schemas.graph import GraphEdge
from schemas.predictions import Erasure, NextBestAction
from schemas.snapshot import Outcome, Snapshot
from streams.core import stored
from streams.core.event_clock import NOT_OBSERVED_MS
from streams.core.sweeps import Sweeps

META_VERSION: Final = 3
NO_OFFSET: Final = -1


class Records(Protocol):
    """What is durable of this partition."""

    def load(self, identities: Sequence[str]) -> list[bytes | None]: ...

    def due(self, from_ms: int, until_ms: int, limit: int) -> list[tuple[int, str]]:
        """(due ms, id) of timers with ``from_ms <= due <= until_ms``, earliest first.

        Ends after ``limit`` timers, but never between two of the same due time.
        """
        ...

    def scan(self, after: str, limit: int) -> list[tuple[str, bytes]]:
        """The next ``limit`` records behind that of an id, in the order of the keys."""
        ...

    def pieces(self, identity: str, kind: bytes) -> list[bytes]:
        """Values of all pieces whose name begins with ``kind``, in the order of their names."""
        ...

    def load_pieces(self, wanted: Sequence[tuple[str, bytes]]) -> list[bytes | None]:
        """Pieces by id and name."""
        ...


class PartitionMeta(msgspec.Struct, array_like=True):
    """What is known about a partition as a whole; written with every checkpoint."""

    version: int = META_VERSION
    next_offsets: list[int] = msgspec.field(default_factory=lambda: [NO_OFFSET] * len(SOURCES))
    newest_ms: list[int] = msgspec.field(default_factory=lambda: [NOT_OBSERVED_MS] * len(SOURCES))
    confirmed: list[bytes] = msgspec.field(default_factory=lambda: [b""] * len(SOURCES))
    """What each topic's :class:`streams.core.event_clock.EventClock` remembers."""
    watermark_ms: int = 0
    sweeps: Sweeps = msgspec.field(default_factory=Sweeps)

    @staticmethod
    def decode(raw: bytes | None) -> PartitionMeta:
        """Read the stored form; None is of a partition that was never written.

        Raises:
            StateCorrupt: it cannot be read, or another version wrote it.
        """
        if raw is None:
            return PartitionMeta()
        return stored.read_version(
            _decode_meta, raw, META_VERSION, "the stored meta record of a partition", written_as="the store"
        )

    def encode(self) -> bytes:
        return _encode_meta(self)


_encode_meta: Final = msgspec.msgpack.Encoder().encode
_decode_meta: Final = msgspec.msgpack.Decoder(PartitionMeta).decode


class RecordChange(NamedTuple):
    """One customer's new stored form (None: delete) and its timer before and after (-1: none)."""

    identity: str
    record: bytes | None
    old_due_ms: int
    new_due_ms: int


class Piece(NamedTuple):
    """A part of somebody's state that is stored under a key of its own; a value of None deletes it."""

    identity: str
    name: bytes
    value: bytes | None


class IngestCheckpoint(NamedTuple):
    """Everything one checkpoint of ingest leaves to be made durable."""

    changes: list[RecordChange]
    pieces: list[Piece]
    awaiting_label: list[Snapshot]
    outcomes: list[Outcome]
    snapshots: list[Snapshot]
    edges: list[GraphEdge]
    erasures: list[Erasure]
    meta: bytes
    next_offsets: dict[str, int]
    swept: bool
    """Whether a sweep went on."""
    counts: dict[str, int]
    """What became of the records up to ``next_offsets``, since the partition was opened."""
    revocations: Sequence[NextBestAction] = ()
    """Of customers who took consent back or were erased."""

    @property
    def is_news(self) -> bool:
        """Whether something has to be written, other than how far time and topics have come."""
        return bool(self.changes) or self.swept
