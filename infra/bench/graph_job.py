"""What a contender's process gets, and what it reports. The peers in other languages read and write the same JSON."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from infra.bench.graph_data import Totals


class Job(Struct, frozen=True, kw_only=True):
    """One run of one contender in a process of its own."""

    kind: str
    """Which program; see :mod:`infra.bench.jobs`."""
    bootstrap: str
    topic: str
    app: str
    """Stem of consumer group, changelog and state; a second run with the same one goes on where the first ended."""
    folder: str
    """For local state."""
    end: int
    """Records in the topic, all partitions together; the run ends when all are processed."""
    take: int
    """How many of them are new to this run."""
    warm: int
    """How many of those pass before the clock starts."""
    cache_bytes: int = 1 << 30
    """Decoded (ours) or serialised (Kafka Streams) customers kept in memory, all partitions together."""
    block_cache_bytes: int = 128 << 20
    """RocksDB's, all partitions together."""
    guarantee: Literal["at_least_once", "exactly_once_v2"] = "at_least_once"
    checkpoint_ms: int = 100
    """Ours."""
    commit_ms: int = 1_000
    """Of Quix Streams, and of Kafka Streams at least once; their defaults are longer than a run."""
    model: str = ""
    """Model directory, for the full ingest role."""


class ContenderResult(Struct, frozen=True, kw_only=True):
    """The last line of a contender's output."""

    events: int
    """Processed while the clock ran."""
    seconds: float
    cpu_s: float = 0.0
    """Processor time of the process meanwhile, all its threads. Less than ``seconds`` shows who it waited for."""
    totals: Totals | None = None
    """Sums over the whole store, read after the clock stopped."""

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.seconds

    @property
    def cpu_us(self) -> float:
        """Microseconds of processor time an event."""
        return self.cpu_s / self.events * 1e6
