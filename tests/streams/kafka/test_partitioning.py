"""One customer, one partition: our partitioner is Kafka's."""

from __future__ import annotations

import pytest
from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from streams.kafka.partitioning import partition_for


@pytest.mark.parametrize(
    ("key", "signed"),
    [
        # From org.apache.kafka.common.utils.UtilsTest.testMurmur2.
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_hash_is_the_java_clients(key: bytes, signed: int) -> None:
    assert partition_for(key, 1 << 31) == signed & 0x7FFFFFFF


@given(key=st.binary(max_size=300), partitions=st.integers(1, 200))
def test_partition_is_aiokafkas(key: bytes, partitions: int) -> None:
    everywhere = list(range(partitions))
    assert partition_for(key, partitions) == DefaultPartitioner()(key, everywhere, everywhere)
