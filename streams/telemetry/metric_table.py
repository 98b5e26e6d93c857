"""The one table of metrics: name, kind, unit, meaning, labels.

Dashboards, alerts and documentation are held to :data:`METRICS` by a test. Names carry their unit, as Prometheus asks:
``_seconds``, ``_bytes``, ``_total`` for counters.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

_SIZES: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1_024.0, 4_096.0, 16_384.0)
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_FRESHNESS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """One metric, without the ``pulsegraph_`` in front."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def full_name(self) -> str:
        """As it is scraped; histograms add ``_bucket``, ``_sum`` and ``_count``."""
        return f"pulsegraph_{self.name}"


def _counter(name: str, unit: str, meaning: str, *labels: str) -> Metric:
    return Metric(name=name, kind="counter", unit=unit, meaning=meaning, labels=labels)


def _gauge(name: str, unit: str, meaning: str, *labels: str) -> Metric:
    return Metric(name=name, kind="gauge", unit=unit, meaning=meaning, labels=labels)


def _histogram(name: str, unit: str, meaning: str, *labels: str, buckets: tuple[float, ...] = _SECONDS) -> Metric:
    return Metric(name=name, kind="histogram", unit=unit, meaning=meaning, labels=labels, buckets=buckets)


METRICS: Final[dict[str, Metric]] = {
    metric.name: metric
    for metric in (
        _counter("records_total", "records", "Records handed to a role.", "role", "topic"),
        _counter(
            "events_total",
            "events",
            "What became of records, counted when it is durable: applied (late and erased are among them), duplicates, "
            "replayed, dead_lettered, heartbeats, late, erased.",
            "role",
            "outcome",
        ),
        _counter("dead_letters_total", "records", "Records refused, by the error's reason.", "topic", "reason"),
        _counter("batches_total", "batches", "Batches handed to a role.", "role"),
        _histogram("batch_records", "records", "Records in one batch.", "role", buckets=_SIZES),
        _histogram("checkpoint_seconds", "seconds", "From a checkpoint's beginning to its committed offsets.", "role"),
        _counter("changelog_bytes_total", "bytes", "State records written to the changelog.", "role"),
        _gauge(
            "lag_records",
            "records",
            "Records not yet committed by the whole group; every worker tells it.",
            "role",
            "topic",
            "partition",
        ),
        _gauge("watermark_timestamp_ms", "ms of event time", "The partition's watermark.", "partition"),
        _counter("timers_fired_total", "timers", "Timers that event time has passed."),
        _gauge("cache_customers", "customers", "Decoded customers in memory.", "partition"),
        _gauge("cache_bytes", "bytes", "Their estimated size.", "partition"),
        _counter("cache_hits_total", "lookups", "Customers found decoded."),
        _counter("cache_misses_total", "lookups", "Customers read from the store, or new."),
        _counter("cache_evictions_total", "customers", "Customers dropped from memory to stay within its bound."),
        _gauge("state_bytes", "bytes", "Size of a partition's local store.", "role", "partition"),
        _counter("snapshots_total", "snapshots", "Snapshots emitted.", "kind"),
        _counter("snapshots_coalesced_total", "snapshots", "Snapshots dropped because a newer one came before a run."),
        _counter("outcomes_total", "outcomes", "Labelled snapshots emitted.", "head", "label"),
        _counter("erasures_total", "customers", "Customers erased."),
        _counter("tail_overflow_total", "events", "Events settled before the lateness bound, for want of room."),
        _counter(
            "pending_labels_dropped_total",
            "labels",
            "Pending labels dropped without an outcome, for want of room.",
        ),
        _histogram("encode_batch_snapshots", "snapshots", "Snapshots in one run of the model.", buckets=_SIZES),
        _histogram("encode_seconds", "seconds", "One run of encoder and heads."),
        _gauge("encode_queue_snapshots", "snapshots", "Snapshots waiting for the model."),
        _histogram(
            "freshness_seconds",
            "seconds",
            "From the Kafka record timestamp of the newest event to the prediction, wall clock.",
            buckets=_FRESHNESS,
        ),
        _counter("predictions_total", "predictions", "Predictions emitted.", "topic"),
        _counter(
            "vocabulary_mismatch_total",
            "snapshots",
            "Snapshots with tokens of another vocabulary than the model's: judged on their features alone.",
        ),
        _gauge("live_auc_ratio", "0 to 1", "AUC of emitted predictions whose outcome is known.", "head"),
        _gauge(
            "live_auc_pairs",
            "predictions",
            "Predictions that the live AUC rests on: of many, the newest of an even sample.",
            "head",
        ),
        _counter("restored_records_total", "records", "State records read back from the changelog.", "role"),
        _counter("restored_bytes_total", "bytes", "Bytes read back from the changelog.", "role"),
        _gauge("restore_seconds", "seconds", "How long the last restore took.", "role", "partition"),
        _gauge("restore_progress_ratio", "0 to 1", "How far the restore of a partition has come.", "role", "partition"),
        _counter(
            "missed_records_total", "records", "Records that retention removed before they were read.", "role", "topic"
        ),
        _gauge(
            "standby_behind_records",
            "records",
            "Changelog records that the local copy of another worker's partition has not applied yet.",
            "role",
            "partition",
        ),
    )
}
