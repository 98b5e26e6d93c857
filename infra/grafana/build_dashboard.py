"""Writes ``dashboards/pulsegraph.json``. Run it after a change: ``python infra/grafana/build_dashboard.py``.

A metric that no panel of :data:`ROWS` asks for gets a plain one at the end.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

from streams.telemetry.metric import AnyMetric
from streams.telemetry.metric_table import METRICS

TARGET: Final = Path(__file__).parent / "dashboards" / "pulsegraph.json"
_WIDTH: Final = 8
_HEIGHT: Final = 8


def _rate(metric: str, by: str = "") -> str:
    return f"sum by ({by}) (rate({metric}[$__rate_interval]))" if by else f"sum(rate({metric}[$__rate_interval]))"


def _quantile(share: float, metric: str, by: str = "") -> str:
    return f"histogram_quantile({share}, {_rate(metric + '_bucket', 'le' + (', ' + by if by else ''))})"


_HITS_AND_MISSES: Final = _rate("pulsegraph_cache_hits_total") + " + " + _rate("pulsegraph_cache_misses_total")

#: Of all workers together: each judges its own partitions.
_JUDGED: Final = "sum by (head, kind) (pulsegraph_live_auc_pairs)"
_KIND: Final = "{{head}} {{kind}}"


def _happened(which: str) -> str:
    """How many of the predictions behind the measures were to happen (``predicted``), or did (``observed``)."""
    return f"sum by (head, kind) (pulsegraph_live_{which}_ratio * pulsegraph_live_auc_pairs)"


#: Title, a unit of Grafana's, and (query, legend) pairs.
Panel = tuple[str, str, list[tuple[str, str]]]

#: Every worker reports the lag of its whole group: the maximum counts each partition once.
_BEHIND: Final = "sum by (role) (max by (role, topic, partition) (pulsegraph_lag_records))"

#: Row -> panels.
ROWS: Final[dict[str, list[Panel]]] = {
    "Is it well?": [
        (
            "Event to prediction",
            "s",
            [
                (_quantile(0.5, "pulsegraph_freshness_seconds", "kind"), "{{kind}} p50"),
                (_quantile(0.95, "pulsegraph_freshness_seconds", "kind"), "{{kind}} p95"),
                (_quantile(0.99, "pulsegraph_freshness_seconds", "kind"), "{{kind}} p99"),
            ],
        ),
        ("Records behind", "short", [(_BEHIND, "{{role}}")]),
        ("Dead letters", "cps", [(_rate("pulsegraph_dead_letters_total", "topic, reason"), "{{topic}} {{reason}}")]),
        (
            "Producers and topics that are refused",
            "percentunit",
            [
                ("max by (topic, source, reason) (pulsegraph_refused_source_ratio)", "{{topic}} {{source}} {{reason}}"),
                ("max by (topic) (pulsegraph_topic_paused_flag)", "{{topic}} paused"),
            ],
        ),
        (
            "Records missed",
            "short",
            [("sum by (role, topic) (increase(pulsegraph_missed_records_total[1h]))", "{{role}} {{topic}}")],
        ),
        ("Broker silent for", "s", [("time() - pulsegraph_broker_heard_timestamp_seconds", "{{instance}}")]),
        ("Records in", "cps", [(_rate("pulsegraph_records_total", "topic"), "{{topic}}")]),
        ("Predictions out", "cps", [(_rate("pulsegraph_predictions_total", "topic"), "{{topic}}")]),
    ],
    "Is it right? By kind of snapshot, on known outcomes": [
        (
            "AUC",
            "percentunit",
            [
                ("pulsegraph_live_auc_ratio", "{{head}} {{kind}}"),
                ("pulsegraph_model_auc_low_ratio", "{{head}} {{kind}} in training, at least"),
            ],
        ),
        (
            "Predicted and observed",
            "percentunit",
            [
                (f"{_happened('predicted')} / {_JUDGED}", "{{head}} {{kind}} predicted"),
                (f"{_happened('observed')} / {_JUDGED}", "{{head}} {{kind}} observed"),
            ],
        ),
        ("Observed over predicted", "none", [(f"{_happened('observed')} / {_happened('predicted')}", _KIND)]),
        (
            "Calibration error",
            "percentunit",
            [
                ("pulsegraph_live_calibration_error_ratio", _KIND),
                ("pulsegraph_live_model_calibration_error_ratio", _KIND + " before recalibration"),
            ],
        ),
        (
            "Drift, by what chance allows",
            "none",
            [
                ("pulsegraph_live_error_drift_ratio", _KIND + " errors"),
                ("pulsegraph_live_input_drift_ratio", _KIND + " inputs"),
            ],
        ),
        (
            "Recalibration",
            "none",
            [
                ("pulsegraph_recalibration_low_slope_ratio", _KIND + " low slope"),
                ("pulsegraph_recalibration_high_slope_ratio", _KIND + " high slope"),
                ("pulsegraph_recalibration_shift_logits", _KIND + " shift"),
            ],
        ),
        ("Log loss, nats", "none", [("pulsegraph_live_log_loss_nats", _KIND)]),
        ("Predictions behind these", "short", [(_JUDGED, _KIND)]),
    ],
    "Ingest": [
        ("What became of records", "cps", [(_rate("pulsegraph_events_total", "outcome"), "{{outcome}}")]),
        (
            "Watermark behind the wall clock",
            "ms",
            [("time() * 1000 - pulsegraph_watermark_timestamp_ms", "partition {{partition}}")],
        ),
        (
            "Checkpoint",
            "s",
            [
                (_quantile(0.5, "pulsegraph_checkpoint_seconds", "role"), "{{role}} p50"),
                (_quantile(0.95, "pulsegraph_checkpoint_seconds", "role"), "{{role}} p95"),
            ],
        ),
        ("Batch size", "short", [(_quantile(0.5, "pulsegraph_batch_records", "role"), "{{role}} p50")]),
        ("Batches", "cps", [(_rate("pulsegraph_batches_total", "role"), "{{role}}")]),
        (
            "Timers",
            "short",
            [(_rate("pulsegraph_timers_fired_total"), "fired/s")],
        ),
        ("Outcomes", "cps", [(_rate("pulsegraph_outcomes_total", "head, label"), "{{head}} = {{label}}")]),
        (
            "Erased customers, events settled early or ahead of their time, pending labels dropped",
            "cps",
            [
                (_rate("pulsegraph_erasures_total"), "erased"),
                (_rate("pulsegraph_tail_overflow_total"), "settled early"),
                (_rate("pulsegraph_ahead_total"), "ahead of their time"),
                (_rate("pulsegraph_unconverted_values_total"), "in a currency without a rate"),
                (_rate("pulsegraph_unknown_timezones_total"), "profiles in an unknown zone"),
                (_rate("pulsegraph_resembling_names_total"), "custom events nearly of a known name"),
                (_rate("pulsegraph_pending_labels_dropped_total"), "pending labels dropped"),
            ],
        ),
        (
            "Consent that could not be read, records in the wrong partition, repaired fields",
            "cps",
            [
                (_rate("pulsegraph_consent_withdrawn_total"), "consent withdrawn"),
                (_rate("pulsegraph_misplaced_total", "topic, source"), "{{topic}} of {{source}} misplaced"),
                (_rate("pulsegraph_repaired_total", "topic, field, kind"), "{{topic}}: {{field}} {{kind}}"),
            ],
        ),
    ],
    "State": [
        ("Local stores", "bytes", [("sum by (role) (pulsegraph_state_bytes)", "{{role}}")]),
        ("Changelog", "Bps", [(_rate("pulsegraph_changelog_bytes_total", "role"), "{{role}}")]),
        (
            "Customers in memory",
            "short",
            [
                ("sum(pulsegraph_cache_customers)", "customers"),
                (_rate("pulsegraph_cache_evictions_total"), "evicted/s"),
            ],
        ),
        ("What memory holds", "short", [("sum by (of) (pulsegraph_held_items)", "{{of}}")]),
        ("Memory for customers", "bytes", [("sum(pulsegraph_cache_bytes)", "estimated")]),
        (
            "Found in memory",
            "percentunit",
            [
                ("1 - " + _rate("pulsegraph_cache_misses_total") + " / (" + _HITS_AND_MISSES + ")", "share"),
            ],
        ),
        (
            "Restoring",
            "short",
            [
                (_rate("pulsegraph_restored_records_total", "role"), "{{role}} records/s"),
                (_rate("pulsegraph_restored_bytes_total", "role"), "{{role}} bytes/s"),
                ("max by (role) (pulsegraph_restore_seconds)", "{{role}} last, seconds"),
                ("min by (role) (pulsegraph_restore_progress_ratio)", "{{role}} restored, 0 to 1"),
            ],
        ),
        (
            "Standbys behind",
            "short",
            [
                ("max by (role) (pulsegraph_standby_behind_records)", "{{role}}, records"),
            ],
        ),
    ],
    "Encode": [
        (
            "Workers by the model that they serve",
            "short",
            [("count by (model_version) (pulsegraph_served_model_info)", "{{model_version}}")],
        ),
        (
            "Workers by how they embed",
            "short",
            [
                (
                    "count by (runtime, dtype, device) (pulsegraph_served_encoder_info)",
                    "{{runtime}}, {{dtype}}, {{device}}",
                )
            ],
        ),
        (
            "Models swapped and refused",
            "short",
            [
                ("sum(increase(pulsegraph_model_swaps_total[1h]))", "swapped"),
                ("sum by (reason) (increase(pulsegraph_refused_models_total[1h]))", "refused: {{reason}}"),
            ],
        ),
        (
            "One run of the model",
            "s",
            [
                (_quantile(0.5, "pulsegraph_encode_seconds"), "p50"),
                (_quantile(0.95, "pulsegraph_encode_seconds"), "p95"),
            ],
        ),
        ("Snapshots in a run", "short", [(_quantile(0.5, "pulsegraph_encode_batch_snapshots"), "p50")]),
        ("Waiting snapshots", "short", [("sum(pulsegraph_encode_queue_snapshots)", "waiting")]),
        (
            "Snapshots",
            "cps",
            [
                (_rate("pulsegraph_snapshots_total", "kind"), "{{kind}}"),
                (_rate("pulsegraph_snapshots_coalesced_total"), "coalesced"),
                (_rate("pulsegraph_swept_total"), "customers looked at by sweeps"),
                (_rate("pulsegraph_brought_back_total"), "of before an erasure, dropped"),
            ],
        ),
        (
            "Words of timelines",
            "cps",
            [
                (_rate("pulsegraph_words_total"), "shown to the encoder"),
                (_rate("pulsegraph_unknown_words_total"), "that the model does not know"),
            ],
        ),
    ],
}


def rows() -> dict[str, list[Panel]]:
    """Row -> its panels, with all metrics that there are."""
    asked = json.dumps(list(ROWS.values()))
    others = [metric for metric in METRICS.values() if not re.search(rf"{metric.full_name}(_bucket)?\b", asked)]
    return ROWS | ({"Others": [_plain(metric) for metric in others]} if others else {})


def _plain(metric: AnyMetric) -> Panel:
    labels = [label for label in metric.labels if label != "partition"]
    by, legend = ", ".join(labels), " ".join(f"{{{{{label}}}}}" for label in labels)
    unit = {"seconds": "s", "bytes": "bytes"}.get(metric.unit, "short")
    if metric.kind == "histogram":
        return metric.name, unit, [(_quantile(0.95, metric.full_name, by), f"{legend} p95".strip())]
    if metric.kind == "counter":
        return metric.name, "Bps" if unit == "bytes" else "cps", [(_rate(metric.full_name, by), legend or metric.unit)]
    query = f"max by ({by}) ({metric.full_name})" if by else f"max({metric.full_name})"
    return metric.name, unit, [(query, legend or metric.unit)]


def build() -> dict[str, Any]:
    """The dashboard as Grafana's provisioning reads it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for row, contents in rows().items():
        panels.append({"type": "row", "title": row, "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}, "panels": []})
        y += 1
        for place, (title, unit, queries) in enumerate(contents):
            position = {"x": place % 3 * _WIDTH, "y": y + place // 3 * _HEIGHT, "w": _WIDTH, "h": _HEIGHT}
            panels.append(_panel(title, unit, queries, position))
        y += (len(contents) + 2) // 3 * _HEIGHT
    for number, panel in enumerate(panels, start=1):
        panel["id"] = number
    return {
        "uid": "pulsegraph",
        "title": "pulsegraph",
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "panels": panels,
    }


def _panel(title: str, unit: str, queries: list[tuple[str, str]], position: dict[str, int]) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "title": title,
        "gridPos": position,
        "datasource": {"type": "prometheus", "uid": "prometheus"},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + place), "expr": expression, "legendFormat": legend}
            for place, (expression, legend) in enumerate(queries)
        ],
    }


def text() -> str:
    """The file's content."""
    return json.dumps(build(), indent=1) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text())
