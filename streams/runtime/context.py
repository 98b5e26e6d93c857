"""What a worker gives its roles when it builds them, and takes back when it ends."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cached_property

from schemas.errors import ConfigError
from streams.core.config import DAY_MS
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

    def check_horizon(self, days: int) -> None:
        """Whether a model that looks so many days ahead fits the settings.

        Raises:
            ConfigError: labels are of another horizon.
        """
        if days * DAY_MS != self.settings.core.churn_horizon_ms:
            raise ConfigError(
                f"the model in {self.settings.model_dir} was trained for a churn horizon of {days} days, and "
                f"core.churn_horizon_ms is {self.settings.core.churn_horizon_ms}: set it to {days * DAY_MS}, or train "
                "another model with `pulsegraph train`"
            )

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
