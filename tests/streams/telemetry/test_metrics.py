"""The metric table, the object built from it, and what is scraped."""

from __future__ import annotations

import re
import socket
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import pytest
from support.logs import CONFIG, START_MS, Sent, log_of
from support.snapshots import plain_snapshot
from support.source import attributes

import streams.core
from schemas.errors import ConfigError
from schemas.events import CLICKSTREAM
from schemas.snapshot import Outcome
from schemas.words import Words
from streams.core.durable import IngestCheckpoint, Piece, RecordChange
from streams.core.entities import Entities
from streams.core.oddities import ODDITIES
from streams.core.partition import IngestPartition
from streams.kafka.offsets import Lag
from streams.state.checkpoints import StoredRecords
from streams.state.memory import MemoryStore
from streams.telemetry.metric import AnyMetric, PartitionGauge
from streams.telemetry.metric_table import CORE_COUNTERS, METRICS, OUTCOMES, PARTITION_GAUGES
from streams.telemetry.metrics import HeldPartition, Metrics
from streams.telemetry.server import serve

Core = TypeVar("Core")


def test_attributes_are_collectors_on_an_instance() -> None:
    built = Metrics()
    for metric in METRICS.values():
        assert type(getattr(built, metric.name)).__name__.lower() == metric.kind
        assert getattr(Metrics, metric.name) is metric


def test_a_read_names_every_label() -> None:
    metrics = Metrics()
    with pytest.raises(ValueError, match="outcomes_total has the labels"):
        metrics.value(Metrics.outcomes_total, head="churn")


def test_all_that_cores_count_is_exported() -> None:
    folder = Path(streams.core.__path__[0])
    counted = {name for path in folder.rglob("*.py") for name in re.findall(r'counts\["(\w+)"\]', path.read_text())}
    assert counted | {*ODDITIES, "cache_evictions"} == {*OUTCOMES, *CORE_COUNTERS}


def test_every_metric_is_set() -> None:
    named = attributes() | {
        metric.name for metric in CORE_COUNTERS.values()
    }  # Metrics sets these by what a core counts
    assert [name for name in METRICS if name not in named] == []


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.name)
def test_names_say_kind_and_unit(metric: AnyMetric) -> None:
    assert metric.meaning.endswith(".")
    assert metric.unit
    assert (metric.kind == "counter") == metric.name.endswith("_total")
    if metric.unit in ("seconds", "bytes"):
        assert metric.unit in metric.name
    assert (metric.kind == "histogram") == bool(metric.buckets)
    assert list(metric.buckets) == sorted(metric.buckets)


def test_two_processes_in_one_do_not_mix() -> None:
    first, second = Metrics(), Metrics()
    first.batch("ingest", "clickstream", 7)
    assert first.value(Metrics.records_total, role="ingest", topic="clickstream") == 7
    assert second.value(Metrics.records_total, role="ingest", topic="clickstream") == 0


def _core() -> IngestPartition:
    """With three customers and one that was evicted; what it has counted itself is not durable yet."""
    core = IngestPartition(
        0, CONFIG, Words(), StoredRecords(MemoryStore()), None, cache_bytes=1 << 20, idle_ms=0, now_ms=0
    )
    view = {"event": "page_view", "event_ts_ms": START_MS}
    events = [Sent(CLICKSTREAM, f"c{number}", START_MS, view) for number in range(3)]
    core.take(CLICKSTREAM, log_of(events)[CLICKSTREAM], 0)
    core.cache.evicted = 1
    core.watermark.value_ms = 99
    return core


def _checkpoint(**counts: int) -> IngestCheckpoint:
    """8 bytes of changelog: a record of 4, a piece of 1, two tombstones, meta of 3."""
    return IngestCheckpoint(
        changes=[RecordChange("c1", b"1234", -1, -1), RecordChange("c2", None, -1, -1)],
        pieces=[Piece("c1", b"s1", b"5"), Piece("c1", b"s0", None)],
        snapshots=[plain_snapshot()],
        awaiting_label=[plain_snapshot(kind="horizon")],
        outcomes=[
            Outcome(
                question_id="1",
                head="churn",
                labels={"churn": 1, "redemption": 0},
                due_ms=0,
                resolved_ms=0,
                customer_id="c",
                as_of_ms=0,
                snapshot=plain_snapshot(),
            )
        ],
        edges=[],
        erasures=[],
        meta=b"123",
        next_offsets={"clickstream": 5},
        swept=False,
        counts=counts,
    )


def _held(core: Core) -> dict[int, HeldPartition[Core]]:
    return {0: SimpleNamespace(core=core, store=SimpleNamespace(size_bytes=lambda: 1000))}


def test_ingest_checkpoints_add_up_over_reopened_partitions() -> None:
    metrics = Metrics()
    counted: dict[int, dict[str, int]] = {}
    counts = {"duplicates": 1, "timers_fired": 2, "pending_labels_dropped": 3}
    held = _held(_core())
    metrics.ingest_checkpoint({0: _checkpoint(applied=4, **counts)}, held, counted, 0.01)
    metrics.ingest_checkpoint({0: _checkpoint(applied=9, **counts)}, held, counted, 0.01)
    counted.clear()
    metrics.ingest_checkpoint({0: _checkpoint(applied=1)}, _held(_core()), counted, 0.01)
    metrics.ingest_checkpoint({1: _checkpoint(applied=100)}, held, counted, 0.01)  # lost while it was written
    assert metrics.value(Metrics.events_total, role="ingest", outcome="applied") == 10
    assert metrics.value(Metrics.events_total, role="ingest", outcome="duplicates") == 1
    assert metrics.value(Metrics.timers_fired_total) == 2
    assert metrics.value(Metrics.pending_labels_dropped_total) == 3
    assert metrics.value(Metrics.cache_evictions_total) == 2, "one by each core"
    assert metrics.value(Metrics.changelog_bytes_total, role="ingest") == 32
    assert metrics.value(Metrics.snapshots_total, kind="horizon") == 4
    assert metrics.value(Metrics.outcomes_total, head="churn", label="1") == 4
    assert metrics.value(Metrics.watermark_timestamp_ms, partition="0") == 99
    assert metrics.value(Metrics.cache_customers, partition="0") == 3
    assert metrics.value(Metrics.state_bytes, role="ingest", partition="0") == 1000
    flushes, seconds = metrics.observations(Metrics.checkpoint_seconds, role="ingest")
    assert (flushes, round(seconds, 6)) == (4, 0.04)


def test_entities_checkpoints_start_over_with_a_new_core() -> None:
    metrics = Metrics()
    for applied in (4, 9):
        core = Entities(0, StoredRecords(MemoryStore()), None)
        checkpoint = core.checkpoint(0)._replace(counts={"applied": applied})
        metrics.entities_checkpoint({0: checkpoint}, _held(core), 0.01)
    assert metrics.value(Metrics.events_total, role="entities", outcome="applied") == 13


#: Gauges with a partition that stay when it leaves, and why.
STAYING = {
    "lag_records": "it is the whole group's, told by every worker",
    "standby_behind_records": "it is of another worker's partition",
}


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.name)
def test_a_gauge_of_a_partition_goes_with_it(metric: AnyMetric) -> None:
    is_of_partition = "partition" in metric.labels and metric.name not in STAYING
    assert isinstance(metric, PartitionGauge) == is_of_partition, "declare it with partition_gauge"


@pytest.mark.parametrize("metric", PARTITION_GAUGES, ids=lambda metric: metric.name)
def test_a_partition_that_left_leaves_no_gauge(metric: PartitionGauge) -> None:
    metrics = Metrics()
    held = [("ingest", 0), ("ingest", 1), ("entities", 0)]
    labels = {place: found for place in held if (found := metric.labels_of(*place)) is not None}
    assert ("ingest", 0) in labels
    for found in labels.values():
        metric.of(metrics).labels(**found).set(7)
    metrics.released("entities", 1)
    assert [metrics.value(metric, **found) for found in labels.values()] == [7] * len(labels)
    metrics.released("ingest", 0)
    assert metrics.value(metric, **labels.pop(("ingest", 0))) == 0
    assert [metrics.value(metric, **found) for found in labels.values()] == [7] * len(labels)


def test_what_stays_when_a_partition_leaves() -> None:
    metrics = Metrics()
    metrics.lag("ingest", [Lag(topic="p.clickstream", partition=0, committed=1, end=5, lag=4)], "p.")
    metrics.standby("ingest", 0, 6)
    metrics.restored("ingest", 0, 10, 100, 0.5)
    metrics.released("ingest", 0)
    assert metrics.value(Metrics.lag_records, role="ingest", topic="clickstream", partition="0") == 4
    assert metrics.value(Metrics.standby_behind_records, role="ingest", partition="0") == 6
    assert metrics.value(Metrics.restored_bytes_total, role="ingest") == 100


def test_scraped_over_http() -> None:
    metrics = Metrics()
    metrics.encoded(
        0.02, [("event", 7.0), ("event", -1.0), ("sample", 30.0)], [SimpleNamespace(topic="predictions.churn")], 50, 2
    )
    metrics.encoded(0.02, [], [], words=7)
    metrics.encode_queue(5, 2)
    metrics.dead_letter("clickstream", "malformed")
    server = serve(metrics, 0)
    assert server is not None
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics") as response:
            text = response.read().decode()
        with pytest.raises(ConfigError, match="PULSEGRAPH_METRICS_PORT"):
            serve(metrics, server.port)
    finally:
        server.stop()
    assert 'pulsegraph_predictions_total{topic="predictions.churn"} 1.0' in text
    assert 'pulsegraph_freshness_seconds_bucket{kind="event",le="0.01"} 2.0' in text
    assert 'pulsegraph_freshness_seconds_bucket{kind="sample",le="0.01"} 0.0' in text
    assert "pulsegraph_snapshots_coalesced_total 2.0" in text
    assert "pulsegraph_words_total 57.0" in text
    assert "pulsegraph_unknown_words_total 2.0" in text
    assert 'pulsegraph_dead_letters_total{reason="malformed",topic="clickstream"} 1.0' in text
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", server.port))


def test_no_port_no_server() -> None:
    assert serve(Metrics(), None) is None
