"""The changelog topic of one role: where its state is kept for good."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from streams.kafka.clients import ClientConfig


class Changelog(msgspec.Struct, frozen=True):
    """One compacted topic, read back partition by partition."""

    client: ClientConfig
    """confluent-kafka settings of the cluster."""
    prefix: str
    """Of the deployment's topics."""
    name: str
    """Logical name of the topic."""
    due_ms: Callable[[bytes], int]
    """Reads a record's due time, to rebuild the timers; -1 where it has none."""

    @property
    def topic(self) -> str:
        """Its name on the broker."""
        return self.prefix + self.name

    def place(self, partition: int) -> str:
        """One partition of it, for people."""
        return f"{self.topic}-{partition}"
