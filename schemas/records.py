"""Records at the edge: as a consumer gives them, and as they leave for a topic."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import msgspec

from schemas.codec import Headers


class RawRecord(Protocol):
    """One consumed record: aiokafka's ``ConsumerRecord``, or a tuple with the same names."""

    @property
    def offset(self) -> int: ...

    @property
    def key(self) -> bytes | None: ...

    @property
    def value(self) -> bytes | None: ...

    @property
    def headers(self) -> Headers: ...

    @property
    def timestamp(self) -> int:
        """Milliseconds since the epoch."""


class LogRecord(NamedTuple):
    """A :class:`RawRecord` that was made by hand or read by a plain consumer."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    timestamp: int


class OutputRecord(msgspec.Struct, frozen=True):
    """One record on its way to a topic; :meth:`streams.kafka.outbox.Outbox.send_all` sends it."""

    topic: str
    """Logical name: without the deployment's prefix."""
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None
    """Where to; the one that the key hashes to where None."""
