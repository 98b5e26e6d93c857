"""What sets the metrics that :mod:`streams.telemetry.metric_table` declares."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from schemas.snapshot import SnapshotKind
from streams.core.durable import IngestCheckpoint
from streams.core.entities import Entities, EntityCheckpoint
from streams.core.partition import LABELS, IngestPartition
from streams.core.quality import Quality
from streams.core.recalibration import Recalibration
from streams.kafka.offsets import Lag
from streams.state.checkpoints import StateCheckpoint
from streams.telemetry.metric import AnyMetric, Metric
from streams.telemetry.metric_table import CORE_COUNTERS, METRICS, OUTCOMES, PARTITION_GAUGES, MetricTable

logger: Final = logging.getLogger(__name__)

_SIZE_EVERY_S: Final = 5.0

Core_co = TypeVar("Core_co", covariant=True)


class HasSize(Protocol):
    def size_bytes(self) -> int: ...


class HasTopic(Protocol):
    @property
    def topic(self) -> str: ...


class HeldPartition(Protocol[Core_co]):
    """An open partition, as :class:`streams.stateful.held.Held` is."""

    @property
    def core(self) -> Core_co: ...

    @property
    def store(self) -> HasSize: ...


class Metrics(MetricTable):
    """All metrics of one process, in a registry of their own; each method is something that happened.

    Example:
        >>> metrics = Metrics()
        >>> metrics.predictions_total.labels(topic="predictions.churn").inc()
        >>> metrics.value(Metrics.predictions_total, topic="predictions.churn")
        1.0
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # resident size, processor time, open files
        for metric in METRICS.values():
            vars(self)[metric.name] = metric.build(self.registry)
        self._entities: dict[int, tuple[Entities, dict[str, int]]] = {}
        self._refused: dict[str, set[tuple[str, str]]] = {}
        self._size_due_s: dict[tuple[str, int], float] = {}

    def value(self, metric: Metric[Counter] | Metric[Gauge], **labels: str) -> float:
        """Current value of a counter or gauge; 0 where nothing was recorded."""
        return self._sample(metric, "", labels)

    def observations(self, metric: Metric[Histogram], **labels: str) -> tuple[int, float]:
        """How many values a histogram has taken, and their sum."""
        return int(self._sample(metric, "_count", labels)), self._sample(metric, "_sum", labels)

    def batch(self, role: str, topic: str, records: int) -> None:
        """A batch was handed to a role; ``topic`` is the logical name."""
        self.records_total.labels(role=role, topic=topic).inc(records)
        self.batches_total.labels(role=role).inc()
        self.batch_records.labels(role=role).observe(records)

    def dead_letter(self, topic: str, reason: str) -> None:
        """A record was refused; ``topic`` is the logical name."""
        self.dead_letters_total.labels(topic=topic, reason=reason).inc()

    def refused_sources(self, topic: str, sources: Iterable[tuple[str, Mapping[str, float]]]) -> None:
        """Those of a topic (logical name) of which too much is refused now, with the share by reason."""
        found = {(source, reason): share for source, shares in sources for reason, share in shares.items()}
        for source, reason in self._refused.get(topic, set()) - found.keys():
            self.refused_source_ratio.remove_by_labels({"topic": topic, "source": source, "reason": reason})
        for (source, reason), share in found.items():
            self.refused_source_ratio.labels(topic=topic, source=source, reason=reason).set(share)
        self._refused[topic] = set(found)

    def paused(self, topic: str) -> None:
        """A topic (logical name) is read no more."""
        self.topic_paused_flag.labels(topic=topic).set(1)

    def encode_queue(self, waiting: int, coalesced: int) -> None:
        """Snapshots that wait for the model now, and how many were replaced by newer ones since the last call."""
        self.encode_queue_snapshots.set(waiting)
        self.snapshots_coalesced_total.inc(coalesced)

    def encoded(
        self,
        seconds: float,
        late_ms: Sequence[tuple[SnapshotKind, float]],
        published: Iterable[HasTopic],
        words: int = 0,
        unknown_words: int = 0,
    ) -> None:
        """The model ran, and its predictions were delivered.

        Args:
            seconds: of the run.
            late_ms: kind of each snapshot, and how late its prediction is.
            published: the predictions; only their topics (logical names) are read.
            words: that the encoder was shown.
            unknown_words: of these, those that the model does not know.
        """
        self.encode_batch_snapshots.observe(len(late_ms))
        self.encode_seconds.observe(seconds)
        self.words_total.inc(words)
        self.unknown_words_total.inc(unknown_words)
        for kind, age_ms in late_ms:
            self.freshness_seconds.labels(kind=kind).observe(max(0.0, age_ms) / 1000)
        self.published(published)

    def published(self, records: Iterable[HasTopic]) -> None:
        """Records for others were sent: predictions, embeddings; only their topics (logical names) are read."""
        for record in records:
            self.predictions_total.labels(topic=record.topic).inc()

    def ingest_checkpoint(
        self,
        checkpoints: Mapping[int, IngestCheckpoint],
        held: Mapping[int, HeldPartition[IngestPartition]],
        counted: dict[int, dict[str, int]],
        seconds: float,
    ) -> None:
        """A checkpoint of ingest is durable.

        Args:
            checkpoints: partition -> its checkpoint.
            held: partitions still open.
            counted: partition -> the counts exported since it was opened; brought up to date here.
            seconds: how long the flush took.

        What the core has counted since waits for its own checkpoint: if the partition is lost before that, the
        records are read again, and counted by whoever makes them durable.
        """
        for partition, checkpoint in checkpoints.items():
            for snapshot in (*checkpoint.snapshots, *checkpoint.awaiting_label):
                self.snapshots_total.labels(kind=snapshot.kind).inc()
            for outcome in checkpoint.outcomes:
                self.outcomes_total.labels(head=outcome.head, label=str(outcome.label)).inc()
            self.erasures_total.inc(len(checkpoint.erasures))
            if partition not in held:
                continue
            core = held[partition].core
            counts = {**checkpoint.counts, "cache_evictions": core.cache.evicted}
            self._count("ingest", counts, counted.setdefault(partition, {}))
            number = str(partition)
            self.watermark_timestamp_ms.labels(partition=number).set(core.watermark.value_ms)
            self.cache_customers.labels(partition=number).set(len(core.cache))
            self.cache_bytes.labels(partition=number).set(core.cache.used_bytes)
        self._checkpoint("ingest", checkpoints, held, seconds)

    def entities_checkpoint(
        self,
        checkpoints: Mapping[int, EntityCheckpoint],
        held: Mapping[int, HeldPartition[Entities]],
        seconds: float,
    ) -> None:
        """A checkpoint of entities is durable; see :meth:`ingest_checkpoint`."""
        for partition in checkpoints.keys() & held.keys():
            core = held[partition].core
            known, exported = self._entities.get(partition, (None, {}))
            if known is not core:  # opened again: its counts began at zero
                exported = {}
            self._count("entities", checkpoints[partition].counts, exported)
            self._entities[partition] = core, exported
        self._checkpoint("entities", checkpoints, held, seconds)

    def live_quality(self, head: str, kind: str, found: Quality, model_calibration_error: float | None) -> None:
        """How good the predictions of a head and a kind of snapshots were, and on how many that rests.

        Args:
            model_calibration_error: of what the model said, before any recalibration.
        """
        self.live_auc_pairs.labels(head=head, kind=kind).set(found.pairs)
        for gauge, value in (
            (self.live_auc_ratio, found.auc),
            (self.live_log_loss_nats, found.log_loss),
            (self.live_predicted_ratio, found.predicted),
            (self.live_observed_ratio, found.observed),
            (self.live_calibration_error_ratio, found.calibration_error),
            (self.live_model_calibration_error_ratio, model_calibration_error),
        ):
            if value is not None:
                gauge.labels(head=head, kind=kind).set(value)

    def serves(self, model_version: str, reached: Mapping[tuple[str, str], float | None]) -> None:
        """A model serves from now on.

        Args:
            reached: (head, kind) -> what the head reached in training on snapshots as those of this kind.
        """
        self.served_model_info.clear()
        self.served_model_info.labels(model_version=model_version).set(1)
        self.model_auc_low_ratio.clear()
        for (head, kind), auc_low in reached.items():
            if auc_low is not None:
                self.model_auc_low_ratio.labels(head=head, kind=kind).set(auc_low)

    def embeds(self, runtime: str, dtype: str, device: str) -> None:
        """How customers are embedded from now on, see :class:`models.embedding.Embedder`."""
        self.served_encoder_info.clear()
        self.served_encoder_info.labels(runtime=runtime, dtype=dtype, device=device).set(1)

    def drifted(self, head: str, kind: str, error: float, inputs: float) -> None:
        """How clearly a head's errors and what it said changed, see :mod:`streams.core.recalibration`."""
        self.live_error_drift_ratio.labels(head=head, kind=kind).set(error)
        self.live_input_drift_ratio.labels(head=head, kind=kind).set(inputs)

    def recalibrates(self, head: str, kind: str, found: Recalibration) -> None:
        """What outcomes do to the probabilities of a head from now on; called from a thread of its own."""
        self.recalibration_low_slope_ratio.labels(head=head, kind=kind).set(found.low_slope)
        self.recalibration_high_slope_ratio.labels(head=head, kind=kind).set(found.high_slope)
        self.recalibration_shift_logits.labels(head=head, kind=kind).set(found.shift)

    def restoring(self, role: str, partition: int, done: int, total: int) -> None:
        """A partition's state is being read back; called from a thread of its own."""
        self.restore_progress_ratio.labels(role=role, partition=str(partition)).set(min(1.0, done / max(1, total)))

    def restored(self, role: str, partition: int, records: int, size_bytes: int, seconds: float) -> None:
        """A partition's state was read back."""
        self.restored_records_total.labels(role=role).inc(records)
        self.restored_bytes_total.labels(role=role).inc(size_bytes)
        self.restore_seconds.labels(role=role, partition=str(partition)).set(seconds)
        self.restore_progress_ratio.labels(role=role, partition=str(partition)).set(1.0)

    def standby(self, role: str, partition: int, behind: int | None) -> None:
        """How far the local copy of another worker's partition is behind; None where it is kept no more."""
        if behind is None:
            self.standby_behind_records.remove_by_labels({"role": role, "partition": str(partition)})
        else:
            self.standby_behind_records.labels(role=role, partition=str(partition)).set(behind)

    def reads(self, role: str, topics: Iterable[str]) -> None:
        """A role will read these topics (logical names). A counter that appears with its first value is no increase."""
        for topic in topics:
            self.missed_records_total.labels(role=role, topic=topic)

    def missed(self, role: str, topic: str, partition: int, records: int) -> None:
        """Retention removed records before a role had read them; ``topic`` is the logical name."""
        logger.error(
            "%s: retention removed %d records of %s-%d before they were read; state and predictions go on without them",
            role, records, topic, partition,
        )  # fmt: skip
        self.missed_records_total.labels(role=role, topic=topic).inc(records)

    def lag(self, role: str, lags: Iterable[Lag], prefix: str = "") -> None:
        """Set the lag of a role's group from :func:`streams.kafka.offsets.consumer_lag`."""
        for entry in lags:
            topic = entry.topic.removeprefix(prefix)
            self.lag_records.labels(role=role, topic=topic, partition=str(entry.partition)).set(entry.lag)

    def lag_unknown(self, role: str, topics: Iterable[str], partitions: int) -> None:
        """The broker is silent: what it said last about a role's lag says nothing of now. Logical names of topics."""
        for topic in topics:
            for partition in range(partitions):
                self.lag_records.remove_by_labels({"role": role, "topic": topic, "partition": str(partition)})

    def holds(self, of: str, items: Callable[[], int]) -> None:
        """A cache, queue or list of this name; ``items`` is asked at every scrape, from a thread, and adds up sizes."""
        self.held_items.labels(of=of).set_function(items)

    def broker_heard(self, wall_s: float) -> None:
        """The broker answered at this time."""
        self.broker_heard_timestamp_seconds.set(wall_s)

    def released(self, role: str, partition: int) -> None:
        """A partition went to another worker: its gauges here would tell yesterday's news."""
        self._size_due_s.pop((role, partition), None)
        for gauge in PARTITION_GAUGES:
            labels = gauge.labels_of(role, partition)
            if labels is not None:
                gauge.of(self).remove_by_labels(labels)

    def _checkpoint(
        self,
        role: str,
        checkpoints: Mapping[int, StateCheckpoint],
        held: Mapping[int, HeldPartition[object]],
        seconds: float,
    ) -> None:
        self.checkpoint_seconds.labels(role=role).observe(seconds)
        for partition, checkpoint in checkpoints.items():
            written = sum(len(change.record) for change in checkpoint.changes if change.record is not None)
            written += sum(len(piece.value) for piece in checkpoint.pieces if piece.value is not None)
            self.changelog_bytes_total.labels(role=role).inc(written + len(checkpoint.meta))
            # Last, and not with every checkpoint: RocksDB may have to wait for its disk to answer.
            now_s = time.monotonic()
            if partition in held and now_s >= self._size_due_s.get((role, partition), 0.0):
                self._size_due_s[role, partition] = now_s + _SIZE_EVERY_S
                size = held[partition].store.size_bytes()
                self.state_bytes.labels(role=role, partition=str(partition)).set(size)

    def _count(self, role: str, counts: Mapping[str, int], exported: dict[str, int]) -> None:
        """Export what a core's counts have grown by since ``exported``, which is brought up to date."""
        for name, count in counts.items():
            grown = max(0, count - exported.get(name, 0))
            exported[name] = count
            if name in CORE_COUNTERS:
                CORE_COUNTERS[name].of(self).inc(grown)
            elif grown and LABELS in name:
                counted_as, *labels = name.split(LABELS)
                counter = self.repaired_total if counted_as == "repaired" else self.misplaced_total
                counter.labels(*labels).inc(grown)
            elif grown and name in OUTCOMES:
                self.events_total.labels(role=role, outcome=name).inc(grown)

    def _sample(self, metric: AnyMetric, ending: str, labels: dict[str, str]) -> float:
        if labels.keys() != set(metric.labels):
            raise ValueError(f"{metric.name} has the labels {metric.labels}, not {tuple(labels)}")
        return self.registry.get_sample_value(metric.full_name + ending, labels) or 0.0
