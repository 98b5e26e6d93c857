"""A record as a consumer gives it, before anything is known of its content."""

from __future__ import annotations

from typing import Protocol

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
