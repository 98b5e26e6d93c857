"""The workers' own numbers, from their ``/metrics``: the demo sees of a worker what an SRE would."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections import defaultdict
from typing import Final

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from streams.telemetry.metric_table import MetricTable

_TIMEOUT_S: Final = 5.0


class WorkerNumbers(msgspec.Struct, frozen=True):
    """What became of events and snapshots so far."""

    applied: int = 0
    duplicates: int = 0
    dead_lettered: int = 0
    late: int = 0
    replayed: int = 0
    snapshots: int = 0
    encoded: int = 0
    coalesced: int = 0
    queue: int = 0
    state_bytes: int = 0
    partitions: int = 0
    """Partitions of the source topics that are open."""

    @property
    def events(self) -> int:
        """Events with a decided fate."""
        return self.applied + self.duplicates + self.dead_lettered

    @property
    def snapshots_waiting(self) -> int:
        return self.snapshots - self.encoded - self.coalesced


def scrape(*ports: int) -> WorkerNumbers | None:
    """Read the numbers of some workers together; None while one of them does not answer yet."""
    try:
        return parse("".join(map(_read, ports)))
    except (urllib.error.URLError, OSError):
        return None


def _read(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=_TIMEOUT_S) as answer:
        text: str = answer.read().decode()
    return text


def parse(text: str) -> WorkerNumbers:
    """The numbers in text expositions, one after the other."""
    sums: dict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == MetricTable.events_total.full_name:
                if sample.labels["role"] == "ingest":
                    sums[sample.labels["outcome"]] += sample.value
            elif sample.name == MetricTable.restore_seconds.full_name:
                sums["partitions"] += sample.labels["role"] == "ingest"
            else:
                sums[sample.name] += sample.value
    return WorkerNumbers(
        applied=int(sums["applied"]),
        duplicates=int(sums["duplicates"]),
        dead_lettered=int(sums["dead_lettered"]),
        late=int(sums["late"]),
        replayed=int(sums["replayed"]),
        snapshots=int(sums[MetricTable.snapshots_total.full_name]),
        encoded=int(sums[MetricTable.encode_batch_snapshots.full_name + "_sum"]),
        coalesced=int(sums[MetricTable.snapshots_coalesced_total.full_name]),
        queue=int(sums[MetricTable.encode_queue_snapshots.full_name]),
        state_bytes=int(sums[MetricTable.state_bytes.full_name]),
        partitions=int(sums["partitions"]),
    )
