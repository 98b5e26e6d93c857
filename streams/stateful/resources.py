"""What a worker gives each of its roles that keep state."""

from __future__ import annotations

import msgspec

from streams.kafka.clients import ClientConfig
from streams.kafka.outbox import Outbox
from streams.runtime.clocks import Clocks
from streams.runtime.context import RoleContext
from streams.state.contract import Stores
from streams.state.stores import RocksStores
from streams.telemetry.metrics import Metrics


class CheckpointSettings(msgspec.Struct, frozen=True):
    """When a checkpoint ends: after this much time, or this many events."""

    checkpoint_ms: int
    checkpoint_events: int


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """One role's share of the worker."""

    client: ClientConfig
    """confluent-kafka settings of the cluster."""
    prefix: str
    """Of the deployment's topics."""
    outbox: Outbox
    stores: Stores
    clocks: Clocks
    metrics: Metrics
    checkpoints: CheckpointSettings
    partitions: int
    """Of every topic."""
    standby: bool = False
    """Whether to keep copies of the partitions that others own."""


def resources(context: RoleContext, role: str) -> Resources:
    """The share of the role of this name."""
    settings = context.settings
    return Resources(
        client=context.client,
        prefix=context.prefix,
        outbox=context.outbox(role),
        stores=RocksStores(settings.state_dir / role, context.memory),
        clocks=context.clocks,
        metrics=context.metrics,
        checkpoints=CheckpointSettings(settings.ingest.checkpoint_ms, settings.ingest.checkpoint_events),
        partitions=settings.kafka.partitions,
        standby=settings.standby,
    )
