"""What the runtime needs of a store. Two implementations pass the same tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol


class WriteBatch:
    """Puts and deletes that become visible together or not at all; the last word on a key counts."""

    __slots__ = ("operations",)

    def __init__(self) -> None:
        self.operations: dict[bytes, bytes | None] = {}

    def put(self, key: bytes, value: bytes) -> None:
        self.operations[key] = value

    def delete(self, key: bytes) -> None:
        self.operations[key] = None

    def __len__(self) -> int:
        return len(self.operations)


class KeyValue(Protocol):
    """Ordered bytes to bytes. Keys sort as bytes."""

    def get(self, key: bytes) -> bytes | None: ...

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values in the order of the keys, None where there is none."""
        ...

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with ``start <= key < stop`` in key order, as they were when the scan began."""
        ...

    def write(self, batch: WriteBatch) -> None:
        """Apply a batch atomically."""
        ...

    def size_bytes(self) -> int:
        """Approximate size on disk or in memory."""
        ...

    def close(self) -> None:
        """Release the store; a second call does nothing."""
        ...


class Stores(Protocol):
    """The local stores of one role, by partition."""

    def open(self, partition: int) -> KeyValue:
        """The store, created where there is none.

        Raises:
            StateCorrupt: it cannot be trusted.
        """

    def quarantine(self, partition: int) -> Path:
        """Move a closed store that cannot be trusted out of the way; returns where it is now."""
