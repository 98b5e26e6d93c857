"""The small graph job: what it computes, and that every contender is held to it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from infra.bench.graph_contenders import Runner
from infra.bench.graph_core import SESSION_GAP_MS, TAIL_EVENTS, GraphPartition, JobGraph
from infra.bench.graph_data import (
    PARTITIONS,
    Reference,
    Totals,
    add_up,
    check,
    events,
    stored,
    stored_record,
)
from infra.bench.graph_load import Load, apache
from infra.bench.graph_runs import Cold, Hot
from infra.bench.report import Options
from schemas.errors import Stop
from streams.state import keys
from streams.state.checkpoints import StoredRecords
from streams.state.contract import WriteBatch
from streams.state.memory import MemoryStore


class FakeRecord(msgspec.Struct):
    value: bytes
    offset: int


def edges_of(graph: JobGraph) -> dict[str, tuple[float, int, int]]:
    return {item: (graph.weights[at], graph.counts[at], graph.lasts_ms[at]) for item, at in graph.items.items()}


def test_an_edge_decays_by_half_in_28_days():
    graph = JobGraph()
    graph.apply("i1", 0)
    graph.apply("i1", 28 * 86_400_000)
    assert graph.weights[0] == pytest.approx(1.5)
    assert graph.counts[0] == 2


def test_the_tail_is_of_the_running_session_and_bounded():
    graph = JobGraph()
    for number in range(TAIL_EVENTS + 3):
        graph.apply(f"i{number}", number)
    assert list(graph.tail_ms) == list(range(3, TAIL_EVENTS + 3))
    graph.apply("i1", TAIL_EVENTS + 3 + SESSION_GAP_MS)
    assert list(graph.tail_at) == [1]


def test_a_stored_graph_is_read_back():
    graph = stored(7)
    graph.apply("new", 1_700_000_000_000)
    again = JobGraph.unpack(graph.pack())
    assert again.pack() == graph.pack() and edges_of(again) == edges_of(graph)
    assert add_up([again]) == add_up([graph])


def test_peers_begin_with_the_same_state_as_we():
    ours, theirs = stored_record(3)
    graph, told = JobGraph.unpack(ours), msgspec.json.decode(theirs)
    assert {item: tuple(edge) for item, edge in told["edges"].items()} == edges_of(graph)
    assert told["n"] == graph.n and len(told["tail"]) == len(graph.tail_ms)


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_any_split_and_any_replay_give_the_same_sums(cache_bytes: int):
    """Cut after every batch, each batch begins two records early, and nothing clean stays in a cache of no bytes."""
    reference = Reference(40, prepared=False)
    reference.take(events(40, 0, 1_000))
    found = []
    for partition in range(PARTITIONS):
        log = [event.value for event in events(40, 0, 1_000) if event.partition == partition]
        records = [FakeRecord(value, offset) for offset, value in enumerate(log)]
        store, meta = MemoryStore(), None
        for at in range(0, len(records), 17):
            core = GraphPartition("events", StoredRecords(store), meta, cache_bytes=cache_bytes)
            core.take(records[max(0, at - 2) : at + 17])
            checkpoint, batch = core.checkpoint(0), WriteBatch()
            for change in checkpoint.changes:
                assert change.record is not None
                batch.put(keys.record(change.identity), change.record)
            store.write(batch)
            core.written()
            meta = checkpoint.meta
        found += [JobGraph.unpack(record) for _, record in store.scan(keys.RECORD, keys.RECORDS_STOP)]
    check("ours", add_up(found), reference.totals())


def test_a_contender_that_leaves_something_out_is_refused():
    wanted = Totals(customers=1, events=2, edges=2, weight=1.9, tail=2)
    check("honest", msgspec.structs.replace(wanted, weight=1.9000000001), wanted)
    for cheat in ({"events": 1}, {"edges": 1}, {"weight": 1.8}, {"tail": 1}, {"customers": 2}):
        with pytest.raises(Stop, match="its time means nothing"):
            check("cheat", msgspec.structs.replace(wanted, **cheat), wanted)


@pytest.mark.apache
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ours_and_faust_end_with_the_reference(tmp_path: Path):
    """The peer from nothing; ours on a restored history. A wrong sum would raise."""
    options = Options(rounds=1, scale=0.001, folder=tmp_path)
    runner = Runner(tmp_path)
    runner.prepare(("ours-graph", "faust-graph"), lambda text: None)
    with apache(options, "test") as bootstrap:
        load = Load(bootstrap)
        hot, cold = Hot(options, bootstrap, runner, load), Cold(options, bootstrap, runner, load)
        hot.fill()
        assert hot.run("faust-graph") > 0
        cold.fill(("ours-graph",))
        assert cold.run("ours-graph") > 0
        assert cold.run("ours-graph") > 0  # goes on where the first run ended
