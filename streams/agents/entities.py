"""entities: graph edges in, in-edges of every entity kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from schemas.deadletter import Refused
from schemas.records import OutputRecord
from streams.core.entities import Entities, EntityCheckpoint
from streams.runtime.context import RoleContext
from streams.runtime.runner import Batch, Offsets
from streams.state.checkpoints import StoredRecords
from streams.state.contract import KeyValue
from streams.stateful.resources import resources
from streams.stateful.role import StatefulRole

_CACHE_BYTES: Final = 48 << 20
"""For decoded entities of all partitions together, in equal parts."""


class EntitiesRole(StatefulRole[Entities, EntityCheckpoint]):
    """One writer per entity: partitions of ``graph-edges``, which is keyed by entity."""

    name = "entities"
    topics = ("graph-edges",)

    def open_core(self, partition: int, store: KeyValue, meta: bytes | None) -> Entities:
        return Entities(partition, StoredRecords(store), meta)

    def waiting(self) -> dict[str, Callable[[], int]]:
        return {"cache": lambda: sum(map(len, self.cores()))}

    async def on_assigned(self, partitions: set[int]) -> Offsets:
        starts = await super().on_assigned(partitions)
        for core in self.cores():
            core.budget_bytes = _CACHE_BYTES // len(self.held)
        return starts

    def take(self, core: Entities, batch: Batch) -> list[Refused]:
        return core.take(batch.records)

    def checkpoint(self, partition: int, core: Entities, now_ms: int) -> EntityCheckpoint:
        return core.checkpoint(now_ms)

    def outputs(self, checkpoint: EntityCheckpoint) -> list[OutputRecord]:
        return []

    def due_ms(self, record: bytes) -> int:
        return -1

    def flushed(self, checkpoints: Mapping[int, EntityCheckpoint], seconds: float) -> None:
        self._metrics.entities_checkpoint(checkpoints, self.held, seconds)


def build(context: RoleContext) -> EntitiesRole:
    """See :meth:`streams.agents.registry.RoleEntry.build`."""
    return EntitiesRole(resources(context, EntitiesRole.name))
