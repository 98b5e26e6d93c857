"""The same load on one worker and on two, and how long it takes to restore what they left."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

from streams.bench.deployment import PARTITIONS, deployed, journey_events, model_for, started_broker
from streams.bench.report import Findings, Measured, Options, Say, Target, ratio, take_turns

ABOUT: Final = "ingest on one worker and on two; restore time"

_EVENTS: Final = 150_000
_RESTORED: Final = re.compile(r'pulsegraph_(restored_\w+_total|restore_seconds)\{[^}]*role="ingest"[^}]*\} ([\d.e+-]+)')


def run(options: Options, say: Say) -> Findings:
    """One and two workers in turns, each on topics of its own; the last run's state is restored on an empty disk."""
    model = model_for(options, say)
    events = list(islice(journey_events()[1], options.scaled(_EVENTS, 2_000)))
    restores: list[dict[str, float]] = []
    with started_broker(options) as (bootstrap, broker):
        number = iter(range(1_000))

        def on(workers: int) -> float:
            return _rate(options, bootstrap, model, f"scale-{next(number)}.", events, workers, restores)

        contenders: dict[str, Callable[[], float]] = {
            "one worker": partial(on, 1),
            "two workers": partial(on, 2),
        }
        found = take_turns(contenders, options.rounds, say, unit="events/s")
    results = [Measured(name=name, unit="events/s", values=values) for name, values in found.items()]
    results += [
        Measured(name=f"restore on an empty disk, {unit}", unit=unit, values=[one[unit] for one in restores])
        for unit in ("records/s", "MB/s")
    ]
    return Findings(
        results=results,
        targets=[Target(name="two workers to one", value=ratio(found["two workers"], found["one worker"]), target=1.8)],
        broker=broker,
        left_out=[
            "two cores carry the workers, the broker and the producer: with two workers, the broker's and the "
            "producer's share of the processor is taken from the workers"
        ],
    )


def _rate(
    options: Options,
    bootstrap: str,
    model: Path,
    prefix: str,
    events: list[Any],
    workers: int,
    restores: list[dict[str, float]],
) -> float:
    with deployed(options, bootstrap, prefix, model) as deployment:
        for number in range(workers):
            deployment.start_worker(f"w{number}", "ingest")
        deployment.await_partitions(PARTITIONS // workers)
        began = time.monotonic()
        sent = deployment.send(events).events
        deployment.await_done(sent)
        rate = sent / (time.monotonic() - began)
        deployment.stop_workers()
        deployment.start_worker("empty", "ingest")
        deployment.await_partitions(PARTITIONS)
        restores.append(_restored(deployment.workers[0].port))
    return rate


def _restored(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    sums: dict[str, float] = {}
    for name, value in _RESTORED.findall(text):
        sums[name] = sums.get(name, 0.0) + float(value)
    seconds = max(1e-9, sums["restore_seconds"])
    return {
        "records/s": sums["restored_records_total"] / seconds,
        "MB/s": sums["restored_bytes_total"] / seconds / 1e6,
    }
