"""The same load on one worker and on two, and how long it takes to restore what they left."""

from __future__ import annotations

import re
import time
import urllib.request
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Final, NamedTuple

from infra.bench.deployment import PARTITIONS, RunningBroker, cpu_s, deployed, journey_events, model_for, started_broker
from infra.bench.report import Findings, Measured, Options, Say, Target, ratio, take_turns
from streams.sources.datasets.record import SourceRecord

ABOUT: Final = "ingest on one worker and on two; restore time"

_EVENTS: Final = 150_000
_RESTORED: Final = re.compile(r'pulsegraph_(restored_\w+_total|restore_seconds)\{[^}]*role="ingest"[^}]*\} ([\d.e+-]+)')


class _Once(NamedTuple):
    """One load through some workers, and what it cost."""

    events_per_s: float
    worker_us: float
    """Processor time of all workers per event, microseconds."""
    broker_us: float
    producer_us: float
    restored_per_s: float
    restored_mb_per_s: float


def run(options: Options, say: Say) -> Findings:
    """One and two workers in turns, each on topics of its own; what they left is restored on an empty disk."""
    model = model_for(options, say)
    events = list(islice(journey_events()[1], options.scaled(_EVENTS, 2_000)))
    runs: dict[str, list[_Once]] = {"one worker": [], "two workers": []}
    number = count()

    def go(name: str, workers: int, broker: RunningBroker) -> float:
        runs[name].append(_once(options, broker, model, f"scale-{next(number)}.", events, workers))
        return runs[name][-1].events_per_s

    with started_broker(options) as broker:
        found = take_turns(
            {"one worker": partial(go, "one worker", 1, broker), "two workers": partial(go, "two workers", 2, broker)},
            options.rounds,
            say,
            unit="events/s",
        )
    results = [Measured(name=name, unit="events/s", values=values) for name, values in found.items()]
    for who in ("worker", "broker", "producer"):
        results += [
            Measured(
                name=f"processor time of the {who}, {name}",
                unit="µs/event",
                values=[getattr(one, f"{who}_us") for one in of_name],
            )
            for name, of_name in runs.items()
        ]
    every = [*runs["one worker"], *runs["two workers"]]
    results += [
        Measured(
            name="restore on an empty disk, records", unit="records/s", values=[one.restored_per_s for one in every]
        ),
        Measured(name="restore on an empty disk, bytes", unit="MB/s", values=[one.restored_mb_per_s for one in every]),
    ]
    return Findings(
        results=results,
        targets=[Target(name="two workers to one", value=ratio(found["two workers"], found["one worker"]), target=1.8)],
        broker=broker.name,
        left_out=[
            "two cores carry the workers, the broker and the producer: what the latter take is not there for a second "
            "worker (see docs/scaling.md)"
        ],
    )


def _once(
    options: Options, broker: RunningBroker, model: Path, prefix: str, events: list[SourceRecord], workers: int
) -> _Once:
    with deployed(options, broker.bootstrap, prefix, model) as deployment:
        for number in range(workers):
            deployment.start_worker(f"w{number}", "ingest")
        deployment.await_partitions(PARTITIONS // workers)
        pids = [worker.child.pid for worker in deployment.workers]
        before = [sum(map(cpu_s, pids)), cpu_s(broker.pid), time.process_time()]
        began = time.monotonic()
        sent = deployment.send(events).events
        deployment.await_done(sent)
        rate = sent / (time.monotonic() - began)
        after = [sum(map(cpu_s, pids)), cpu_s(broker.pid), time.process_time()]
        deployment.stop_workers()
        deployment.start_worker("empty", "ingest")
        deployment.await_partitions(PARTITIONS)
        restored = _restored(deployment.workers[0].port)
    worker_us, broker_us, producer_us = ((end - start) / sent * 1e6 for start, end in zip(before, after, strict=True))
    return _Once(rate, worker_us, broker_us, producer_us, *restored)


def _restored(port: int) -> tuple[float, float]:
    """Records/s and MB/s at which a worker restored ingest's partitions, one after the other."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    sums: dict[str, float] = {}
    for name, value in _RESTORED.findall(text):
        sums[name] = sums.get(name, 0.0) + float(value)
    seconds = max(1e-9, sums["restore_seconds"])
    return sums["restored_records_total"] / seconds, sums["restored_bytes_total"] / seconds / 1e6
