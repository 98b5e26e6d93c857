"""What leaves the ingest role with a checkpoint."""

from __future__ import annotations

import asyncio

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from support.logs import START_MS
from support.owners import START, batch, fill, worker

from schemas.graph import GraphEdge, GraphEdges
from streams.agents import ingest
from streams.core.event_clock import NOT_OBSERVED_MS
from streams.kafka.partitioning import partition_for
from streams.state.memory import MemoryStore

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


def test_how_far_event_time_has_come_is_told_of_every_topic(broker, make_topics):
    prefix = make_topics(partitions=1)
    fill(broker.bootstrap, prefix, 40)

    async def main() -> None:
        stores: dict[int, MemoryStore] = {}
        role, group, outbox = worker(broker.bootstrap, prefix, stores)
        await role.on_assigned({0})
        assert group.reached_ms == {(topic, 0): NOT_OBSERVED_MS for topic in role.topics}
        await role.process(batch(0, 40))
        reached_ms = group.reached_ms["clickstream", 0]
        assert START < reached_ms <= START + 40
        await role.on_revoked({0})
        again, new_group, new_outbox = worker(broker.bootstrap, prefix, stores)
        await again.on_assigned({0})
        assert new_group.reached_ms["clickstream", 0] == reached_ms  # as its state has it, before the first record
        for ended in (role, again):
            await ended.stop()
        for closed in (outbox, new_outbox):
            closed.close()

    asyncio.run(main())
