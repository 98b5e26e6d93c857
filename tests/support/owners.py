"""Owners of partitions without a consumer group: ingest roles that tests drive by hand on a broker."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Final

from support.logs import CONFIG, Sent, record

from schemas.events import CLICKSTREAM
from streams.agents.ingest import IngestRole
from streams.core.refusal_limit import RefusalLimit
from streams.kafka.outbox import Outbox
from streams.runtime.clocks import Clocks
from streams.runtime.runner import Batch
from streams.state import keys
from streams.state.contract import KeyValue
from streams.state.memory import MemoryStore
from streams.stateful.resources import CheckpointSettings, Resources
from streams.telemetry.metrics import Metrics

START: Final = 1_500_000_000_000


class Group:
    """Commits of one member; refused once it is expelled."""

    def __init__(self) -> None:
        self.offsets: dict[tuple[str, int], int] = {}
        self.expelled = False
        self.read_to_end = True
        self.paused: set[tuple[str, int]] = set()
        self.reached_ms: dict[tuple[str, int], int] = {}

    async def commit(self, offsets: Mapping[tuple[str, int], int]) -> bool:
        if not self.expelled:
            self.offsets |= offsets
        return not self.expelled

    def is_caught_up(self, topic: str, partition: int) -> bool:
        return self.read_to_end

    async def pause(self, topic: str, partitions: Collection[int]) -> None:
        self.paused |= {(topic, partition) for partition in partitions}

    def reached(self, topic: str, partition: int, event_ms: int) -> None:
        self.reached_ms[topic, partition] = event_ms


class MemoryStores:
    """Stores of one role in memory; what is opened again is still there."""

    def __init__(self, stores: dict[int, MemoryStore]) -> None:
        self.stores = stores
        self.quarantined: list[int] = []

    def open(self, partition: int) -> KeyValue:
        return self.stores.setdefault(partition, MemoryStore())

    def quarantine(self, partition: int) -> Path:
        self.quarantined.append(partition)
        del self.stores[partition]
        return Path("memory")


def worker(
    bootstrap: str,
    prefix: str,
    stores: dict[int, MemoryStore],
    *,
    idle_ms: int = 0,
    monotonic_ms: Callable[[], int] = int,
    outbox_config: Mapping[str, str | int | float | bool] | None = None,
) -> tuple[IngestRole, Group, Outbox]:
    outbox = Outbox(bootstrap, prefix=prefix, config=outbox_config)
    role = IngestRole(
        Resources(
            client={"bootstrap.servers": bootstrap},
            prefix=prefix,
            outbox=outbox,
            stores=MemoryStores(stores),
            clocks=Clocks(monotonic_ms, lambda: 0),
            metrics=Metrics(),
            checkpoints=CheckpointSettings(checkpoint_ms=1 << 30, checkpoint_events=1 << 30),
            partitions=1,
        ),
        config=CONFIG,
        refusals=RefusalLimit(1.0, 1_000),
        cache_bytes=1 << 24,
        idle_ms=idle_ms,
    )
    group = Group()
    role.bind(group)
    return role, group, outbox


def fill(bootstrap: str, prefix: str, records: int) -> None:
    """Give clickstream the records that batches only pretend to come from: a role looks whether they exist."""
    outbox = Outbox(bootstrap, prefix=prefix)
    for _ in range(records):
        outbox.send("clickstream", b"c0", b"{}", partition=0)
    outbox.close(30)


def batch(first: int, last: int) -> Batch:
    sent = [
        Sent(
            CLICKSTREAM,
            f"c{number % 3}",
            START + number,
            {"event": "purchase", "event_ts_ms": START + number},
        )
        for number in range(first, last)
    ]
    return Batch("clickstream", 0, [record(one, first + place) for place, one in enumerate(sent)])


def state(store: MemoryStore) -> dict[bytes, bytes]:
    return dict(store.scan(keys.RECORD, keys.RECORDS_STOP))
