"""The one table of metrics. To add one: a line here, and :class:`streams.telemetry.metrics.Metrics` sets it.

An attribute is the declaration on the class and the Prometheus collector on an instance. Tests hold dashboards, alerts
and documentation to :data:`METRICS`. Names carry their unit, as Prometheus asks: ``_seconds``, ``_bytes``, and
``_total`` for counters.
"""

from __future__ import annotations

from typing import Final

from streams.telemetry.metric import (
    SIZES,
    AnyMetric,
    CoreCounter,
    Metric,
    PartitionGauge,
    core_counter,
    counter,
    gauge,
    histogram,
    partition_gauge,
)

#: Fates that exclude each other, as a core counts them: every record that is new to it has one.
FATES: Final = ("applied", "duplicates", "dead_lettered", "heartbeats", "sampled_out")
#: What may be said of a record: its fate, that it was not new, and what else is worth knowing of one that was applied.
OUTCOMES: Final = (*FATES, "replayed", "late", "erased")

_FRESHNESS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class MetricTable:
    """Kind, name, unit, meaning and labels of every metric."""

    records_total = counter("records", "Records handed to a role.", "role", "topic")
    events_total = counter(
        "events",
        f"What became of records, counted when it is durable: {', '.join(OUTCOMES)}. "
        "Late and erased are among the applied.",
        "role",
        "outcome",
    )
    dead_letters_total = counter("records", "Records refused, by the error's reason.", "topic", "reason")
    refused_source_ratio = gauge(
        "0 to 1",
        "Share of a source's newest records that was refused, by reason: of sources of which too much is refused, see "
        "ingest.refused_share. Records that name no source are `unknown`.",
        "topic",
        "source",
        "reason",
    )
    topic_paused_flag = gauge("0 or 1", "Whether a topic is read no more: all who write there are refused.", "topic")
    batches_total = counter("batches", "Batches handed to a role.", "role")
    batch_records = histogram("records", "Records in one batch.", "role", buckets=SIZES)
    checkpoint_seconds = histogram("seconds", "From a checkpoint's beginning to its committed offsets.", "role")
    changelog_bytes_total = counter("bytes", "State records written to the changelog.", "role")
    lag_records = gauge(
        "records",
        "Records not yet committed by the whole group; every worker tells it. Absent while the broker is silent.",
        "role",
        "topic",
        "partition",
    )
    broker_heard_timestamp_seconds = gauge(
        "seconds since the epoch", "When the broker last answered this worker's question after lag and topics."
    )
    watermark_timestamp_ms = partition_gauge("ms of event time", "The partition's watermark.", role="ingest")
    timers_fired_total = core_counter("timers", "Timers that event time has passed.")
    cache_customers = partition_gauge("customers", "Decoded customers in memory.", role="ingest")
    cache_bytes = partition_gauge("bytes", "Their estimated size.", role="ingest")
    cache_hits_total = core_counter("lookups", "Customers found decoded.")
    cache_misses_total = core_counter("lookups", "Customers read from the store, or new.")
    cache_evictions_total = core_counter("customers", "Customers dropped from memory to stay within its bound.")
    state_bytes = partition_gauge("bytes", "Size of a partition's local store.")
    held_items = gauge(
        "items",
        "What every cache, queue and waiting list of the process holds now: customers, entities, records, predictions "
        "or words. See where memory goes with it.",
        "of",
    )
    snapshots_total = counter("snapshots", "Snapshots emitted.", "kind")
    snapshots_coalesced_total = counter("snapshots", "Snapshots dropped because a newer one came before a run.")
    swept_total = core_counter("customers", "Customers that a sweep looked at.")
    outcomes_total = counter("outcomes", "Labelled snapshots emitted.", "head", "label")
    erasures_total = counter("customers", "Customers erased.")
    ahead_total = core_counter(
        "events",
        "Events ahead of the event time that other customers of their topic confirm, by more than core.ahead_ms.",
    )
    tail_overflow_total = core_counter("events", "Events settled before the lateness bound, for want of room.")
    pending_labels_dropped_total = core_counter(
        "labels", "Pending labels dropped without an outcome, for want of room."
    )
    unconverted_values_total = core_counter(
        "events", "Purchases and returns in a currency that `core.rates` lacks: their value is kept apart, not summed."
    )
    unknown_timezones_total = core_counter(
        "profiles", "Profiles taken in without their time zone, which is unknown: the company's counts."
    )
    resembling_names_total = core_counter(
        "events",
        "Custom events on clickstream whose name is nearly a known one, as `purchse`; they count as custom.",
    )
    repaired_total = counter(
        "fields",
        "Fields of taken events that nobody reads as they came: converted, cut or dropped.",
        "topic",
        "field",
        "kind",
    )
    consent_withdrawn_total = core_counter(
        "records", "Refused records that may have taken consent back: all consent of the customer was withdrawn."
    )
    misplaced_total = counter(
        "records",
        "Records in another partition than their key's, by the `ce_source` that they name; see `core.misplaced`.",
        "topic",
        "source",
    )
    brought_back_total = counter("snapshots", "Snapshots of before an erasure that came behind it, and were dropped.")
    encode_batch_snapshots = histogram("snapshots", "Snapshots in one run of the model.", buckets=SIZES)
    encode_seconds = histogram("seconds", "One run of encoder and heads.")
    encode_queue_snapshots = gauge("snapshots", "Snapshots waiting for the model.")
    freshness_seconds = histogram(
        "seconds",
        "Of `event` snapshots, from the Kafka record timestamp of the newest event to the prediction, wall clock; of "
        "other kinds, which nobody waits for, from when encode read the snapshot.",
        "kind",
        buckets=_FRESHNESS,
    )
    predictions_total = counter("predictions", "Predictions and embeddings emitted.", "topic")
    words_total = counter("words", "Words of timelines that the encoder was shown.")
    unknown_words_total = counter("words", "Of these, words that the model's vocabulary lacks.")
    served_model_info = gauge("1", "The model that this worker serves, by `model_version`.", "model_version")
    served_encoder_info = gauge(
        "1",
        "How this worker embeds: `runtime` (`native`, which is C, or `torch`), `dtype` of the products, and `device`.",
        "runtime",
        "dtype",
        "device",
    )
    model_swaps_total = counter("models", "Announced models that took the place of another one while this worker ran.")
    refused_models_total = counter(
        "models",
        "Announced models that were refused while another one served on: `missing` (no such folder), `damaged`, "
        "`unfit` (format, horizon or tasks), `canary` (it says something else than in training), `malformed` (the "
        "announcement), `error` (anything else, such as too little memory).",
        "reason",
    )
    live_auc_ratio = gauge("0 to 1", "AUC of emitted predictions whose outcome is known.", "head", "kind")
    model_auc_low_ratio = gauge(
        "0 to 1",
        "AUC of the served model in training, on customers it had not seen: the lower end of the 95 % interval. Absent "
        "where training could not say.",
        "head",
        "kind",
    )
    live_auc_pairs = gauge(
        "predictions",
        "Predictions that this and the other live measures rest on: of many, the newest of an even sample.",
        "head",
        "kind",
    )
    live_log_loss_nats = gauge("nats", "Mean log loss of the same predictions.", "head", "kind")
    live_predicted_ratio = gauge("0 to 1", "Mean of the probabilities that they said.", "head", "kind")
    live_observed_ratio = gauge("0 to 1", "Share of them in which it happened.", "head", "kind")
    live_calibration_error_ratio = gauge(
        "0 to 1", "Mean distance of the two over ten equally filled bins of the probabilities.", "head", "kind"
    )
    live_model_calibration_error_ratio = gauge(
        "0 to 1", "The same of what the model said, before outcomes recalibrated it.", "head", "kind"
    )
    live_error_drift_ratio = gauge(
        "times",
        "Change of the mean error, outcome less what the model said, at the week where it is clearest, by what chance "
        "allows (ADWIN). Above 1 recalibration forgets what was before.",
        "head",
        "kind",
    )
    live_input_drift_ratio = gauge(
        "times", "The same of what the model said: above 1 its inputs have changed.", "head", "kind"
    )
    recalibration_low_slope_ratio = gauge(
        "times", "What encode multiplies the logarithm of a probability of the model by; 1: nothing.", "head", "kind"
    )
    recalibration_high_slope_ratio = gauge(
        "times", "The same of the logarithm of 1 less the probability.", "head", "kind"
    )
    recalibration_shift_logits = gauge("logits", "What encode adds to the logit made of them.", "head", "kind")
    restored_records_total = counter("records", "State records read back from the changelog.", "role")
    restored_bytes_total = counter("bytes", "Bytes read back from the changelog.", "role")
    restore_seconds = partition_gauge("seconds", "How long the last restore took.")
    restore_progress_ratio = partition_gauge("0 to 1", "How far the restore of a partition has come.")
    missed_records_total = counter("records", "Records that retention removed before they were read.", "role", "topic")
    standby_behind_records = gauge(
        "records",
        "Changelog records that the local copy of another worker's partition has not applied yet.",
        "role",
        "partition",
    )


METRICS: Final[dict[str, AnyMetric]] = {
    name: metric for name, metric in vars(MetricTable).items() if isinstance(metric, Metric)
}
#: Name in a core's counts -> the counter that it is exported as.
CORE_COUNTERS: Final = {metric.counted_as: metric for metric in METRICS.values() if isinstance(metric, CoreCounter)}
PARTITION_GAUGES: Final = tuple(metric for metric in METRICS.values() if isinstance(metric, PartitionGauge))
