"""What a worker gives its roles when it builds them, and takes back when it ends."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cached_property

from streams.kafka.clients import ClientConfig
from streams.kafka.outbox import Outbox
from streams.runtime.clocks import SYSTEM_CLOCKS, Clocks
from streams.settings.schema import Settings, kafka_client_config
from streams.state.rocks import WORKER_BYTES, Memory, shared_memory
from streams.telemetry.metrics import Metrics


class RoleContext:
    """Shared by the roles of one process.

    Args:
        closing: what a role leaves there is closed after the role has stopped, the newest first.
    """

    def __init__(
        self, settings: Settings, metrics: Metrics, closing: ExitStack, clocks: Clocks = SYSTEM_CLOCKS
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.closing = closing
        self.clocks = clocks
        self.client: ClientConfig = kafka_client_config(settings)
        self.prefix = settings.kafka.prefix

    @cached_property
    def memory(self) -> Memory:
        """Of all local stores together."""
        return shared_memory(WORKER_BYTES)

    def outbox(self, of: str) -> Outbox:
        """A new one: an outbox belongs to one thread.

        Args:
            of: whose, for the metric of what waits in it.
        """
        kafka = self.settings.kafka
        config = {**self.client, "compression.type": kafka.compression}
        outbox = Outbox(kafka.bootstrap, prefix=self.prefix, config=config)
        self.closing.callback(outbox.close)
        self.metrics.holds(f"{of} outbox", lambda: outbox.unacknowledged)
        return outbox
