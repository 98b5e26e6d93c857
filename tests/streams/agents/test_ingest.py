"""What leaves the ingest role with a checkpoint."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from support.logs import START_MS

from schemas.graph import GraphEdge, GraphEdges
from streams.agents import ingest
from streams.kafka.partitioning import partition_for

_decode = msgspec.msgpack.Decoder(GraphEdges).decode


@given(names=st.lists(st.sampled_from([f"item:{at}" for at in range(12)]), max_size=60), partitions=st.integers(1, 5))
def test_edges_go_to_the_partitions_of_their_entities_in_order(names: list[str], partitions: int) -> None:
    edges = [
        GraphEdge(customer_id="c", type="view>item", entity=name, event_ts_ms=START_MS, source=("clickstream", 0, at))
        for at, name in enumerate(names)
    ]
    found: dict[int, list[GraphEdge]] = {}
    for record in ingest._edge_records(edges, partitions):
        assert record.topic == "graph-edges" and record.key is None and record.partition is not None
        assert record.partition not in found
        found[record.partition] = list(_decode(record.value or b"").edges)
    assert found == {
        partition: in_it
        for partition in range(partitions)
        if (in_it := [edge for edge in edges if partition_for(edge.entity.encode(), partitions) == partition])
    }


def test_a_record_of_edges_stays_below_what_a_topic_takes() -> None:
    longest = "\U0001f600" * 128
    edge = GraphEdge(
        customer_id=longest[:64], type="returned>item", entity=f"item:{longest}", event_ts_ms=START_MS,
        source=("campaign-sends", 1_000, 1 << 50),
    )  # fmt: skip
    records = list(ingest._edge_records([edge] * 2_500, 1))
    assert [len(_decode(record.value or b"").edges) for record in records] == [1_000, 1_000, 500]
    assert max(len(record.value or b"") for record in records) < 1_000_000
