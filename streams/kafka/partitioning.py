"""Kafka's default partitioner, so that every topic keyed by customer puts a customer in the same partition.

aiokafka's murmur2 is that of the Java client, and librdkafka's ``murmur2_random`` agrees with it on every key that is
not null.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from aiokafka.partitioner import murmur2

_CACHED_KEYS: Final = 1 << 17


@lru_cache(maxsize=_CACHED_KEYS)
def partition_for(key: bytes, partitions: int) -> int:
    """Partition of a key that is not null, in a topic of ``partitions`` partitions.

    The newest keys are remembered: hashing in Python costs microseconds, and customers come again.

    Example:
        >>> partition_for(b"21", 4)
        0
    """
    hashed: int = murmur2(key)
    return (hashed & 0x7FFFFFFF) % partitions
