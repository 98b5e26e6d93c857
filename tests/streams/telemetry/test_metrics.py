"""The metric table, the object built from it, and what is scraped."""

from __future__ import annotations

import socket
import urllib.request
from types import SimpleNamespace
from typing import get_type_hints

import pytest

from schemas.errors import ConfigError
from streams.kafka.offsets import Lag
from streams.telemetry import metrics as module
from streams.telemetry.metric_table import METRICS, Metric
from streams.telemetry.metrics import Metrics


def test_attributes_are_the_table() -> None:
    assert set(get_type_hints(Metrics)) == set(METRICS)
    built = Metrics()
    for metric in METRICS.values():
        assert type(getattr(built, metric.name)).__name__.lower() == metric.kind


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.name)
def test_names_say_kind_and_unit(metric: Metric) -> None:
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
    assert first.value("records_total", role="ingest", topic="clickstream") == 7
    assert second.value("records_total", role="ingest", topic="clickstream") == 0


def _core() -> SimpleNamespace:
    cache = SimpleNamespace(evicted=1, used_bytes=10, __len__=lambda: 0)
    return SimpleNamespace(cache=_Cache(cache), watermark=SimpleNamespace(value_ms=99))


class _Cache:
    def __init__(self, inner: SimpleNamespace) -> None:
        self.evicted, self.used_bytes = inner.evicted, inner.used_bytes

    def __len__(self) -> int:
        return 3


def _checkpoint(**counts: int) -> SimpleNamespace:
    return SimpleNamespace(
        counts=counts,
        changes=[SimpleNamespace(record=b"12345"), SimpleNamespace(record=None)],
        meta=b"123",
        next_offsets={"clickstream": 5},
        snapshots=[SimpleNamespace(kind="event")],
        awaiting_label=[SimpleNamespace(kind="horizon")],
        outcomes=[SimpleNamespace(head="churn", label=1)],
        erasures=[],
    )


def test_ingest_epochs_add_up_over_reopened_partitions() -> None:
    metrics = Metrics()
    store = SimpleNamespace(size_bytes=lambda: 1000)
    counted: dict[int, dict[str, int]] = {}
    held = {0: SimpleNamespace(core=_core(), store=store)}
    counts = {"duplicates": 1, "timers_fired": 2, "pending_labels_dropped": 3}
    metrics.ingest_checkpoint({0: _checkpoint(applied=4, **counts)}, held, counted, 0.01)
    metrics.ingest_checkpoint({0: _checkpoint(applied=9, **counts)}, held, counted, 0.01)
    counted.clear()
    metrics.ingest_checkpoint({0: _checkpoint(applied=1)}, held, counted, 0.01)
    metrics.ingest_checkpoint({1: _checkpoint(applied=100)}, held, counted, 0.01)  # lost while it was written
    assert metrics.value("events_total", role="ingest", outcome="applied") == 10
    assert metrics.value("events_total", role="ingest", outcome="duplicates") == 1
    assert metrics.value("timers_fired_total") == 2
    assert metrics.value("pending_labels_dropped_total") == 3
    assert metrics.value("changelog_bytes_total", role="ingest") == 32
    assert metrics.value("snapshots_total", kind="horizon") == 4
    assert metrics.value("outcomes_total", head="churn", label="1") == 4
    assert metrics.value("watermark_timestamp_ms", partition="0") == 99
    assert metrics.value("cache_customers", partition="0") == 3
    assert metrics.value("state_bytes", role="ingest", partition="0") == 1000
    assert metrics.value("checkpoint_seconds_count", role="ingest") == 4


def test_entities_epochs_start_over_with_a_new_core() -> None:
    metrics = Metrics()
    store = SimpleNamespace(size_bytes=lambda: 1)
    for applied in (4, 9):
        held = {0: SimpleNamespace(core=SimpleNamespace(), store=store)}
        metrics.entities_checkpoint({0: _checkpoint(applied=applied)}, held, 0.01)
    assert metrics.value("events_total", role="entities", outcome="applied") == 13


def test_a_partition_that_left_leaves_no_gauge() -> None:
    metrics = Metrics()
    metrics.lag("ingest", [Lag(topic="p.clickstream", partition=0, committed=1, end=5, lag=4)], "p.")
    metrics.restored("ingest", 0, 10, 100, 0.5)
    metrics.watermark_timestamp_ms.labels(partition="0").set(1)
    metrics.released("ingest", 0)
    assert metrics.value("lag_records", role="ingest", topic="clickstream", partition="0") == 4, "it is the group's"
    assert metrics.value("watermark_timestamp_ms", partition="0") == 0
    assert metrics.value("restored_bytes_total", role="ingest") == 100


def test_scraped_over_http() -> None:
    metrics = Metrics()
    metrics.encoded(3, 0.02, [7.0, -1.0], [SimpleNamespace(topic="predictions.churn")], foreign=2)
    metrics.encode_queue(5, 2)
    metrics.dead_letter("clickstream", "malformed")
    server = module.serve(metrics, 0)
    assert server is not None
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics") as response:
            text = response.read().decode()
        with pytest.raises(ConfigError, match="PULSEGRAPH_METRICS_PORT"):
            module.serve(metrics, server.port)
    finally:
        server.stop()
    assert 'pulsegraph_predictions_total{topic="predictions.churn"} 1.0' in text
    assert 'pulsegraph_freshness_seconds_bucket{le="0.01"} 2.0' in text
    assert "pulsegraph_snapshots_coalesced_total 2.0" in text
    assert "pulsegraph_vocabulary_mismatch_total 2.0" in text
    assert 'pulsegraph_dead_letters_total{reason="malformed",topic="clickstream"} 1.0' in text
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", server.port))


def test_no_port_no_server() -> None:
    assert module.serve(Metrics(), None) is None
