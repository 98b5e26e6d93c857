"""All roles in two workers beside the broker: how much they take, and how fresh predictions are at a part of that."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice, pairwise
from typing import Any, Final

from infra.bench.deployment import (
    Deployment,
    cpu_s,
    deployed,
    model_for,
    publish,
    started_broker,
)
from infra.bench.report import Findings, Measured, Options, Say, Target, figure
from infra.bench.soak import years_of
from infra.faults.stream import publish_version, twin
from models import versions
from models.tasks.churn import ChurnTask
from schemas.errors import Stop
from streams.demo.collector import Collector, percentile
from streams.kafka.reader import TopicReader
from streams.sources.datasets.complete_journey import CompleteJourney
from streams.sources.pacing import Pacer

ABOUT: Final = "events/s through all roles, and event to prediction at 1,000 events/s and at 90 % of what they take"

_WARM_UP: Final = 100_000
"""Events after which most households are known, and asked about every week."""
_SEARCH_S: Final = 45.0
_COUNTED_S: Final = 25.0
_CAPACITY: Final = "all roles, encode in a worker of its own, two cores shared with the broker"
_FIRST_RATE: Final = 2_000.0
_WAITING: Final = 256
"""Snapshots that may wait: four batches of the encoder."""
_LOOK_S: Final = 0.25
_STEADY_S: Final = 30.0
_SWAP_RATE: Final = 500.0
_SWAP_S: Final = 30.0
_SETTLED_MS: Final = 1_000
_RATE: Final = 1_000.0
_NEAR_ALL: Final = 0.9
_PERCENTILES: Final = (0.5, 0.95, 0.99)


def run(options: Options, say: Say) -> Findings:
    """Capacity first, then both loads in every round."""
    model = model_for(options, say)
    journey = CompleteJourney.load()
    with started_broker(options) as broker, deployed(options, broker.bootstrap, "e2e.", model) as deployment:
        publish(deployment, journey)
        deployment.start_worker("ingest", "ingest,entities,learn")
        deployment.start_worker("encode", "encode")
        deployment.await_partitions(4)
        collector = Collector(deployment.client, deployment.prefix, 4)
        collector.start()
        run = _Run(deployment, collector, years_of(journey))
        run.warm_up(options.scaled(_WARM_UP, 500))
        capacities: list[float] = []
        loads = (f"{_RATE:,.0f} events/s", f"{_NEAR_ALL:.0%}")
        found: dict[tuple[str, float], list[float]] = {(load, p): [] for load in loads for p in _PERCENTILES}
        encoded: list[float] = []
        costs: list[float] = []
        for number in range(options.rounds):
            capacities.append(run.capacity(options.scale))
            say(f"round {number + 1}: {figure(capacities[-1])} events/s")
            # The median so far: one disturbed round must not set the load of the others.
            capacity = sorted(capacities)[len(capacities) // 2]
            for load, rate in zip(loads, (_RATE, _NEAR_ALL * capacity), strict=True):
                fresh = run.at(rate, max(2.0, _STEADY_S * options.scale))
                if load == loads[0]:
                    encoded.append(run.encoded_per_event)
                    costs.append(run.us_per_event)
                for share in _PERCENTILES:
                    if (late_ms := percentile(fresh, share)) is None:
                        raise Stop(f"no prediction came at {load}")
                    found[load, share].append(late_ms)
                latencies = ", ".join(f"p{share * 100:.0f} {found[load, share][-1]:.0f} ms" for share in _PERCENTILES)
                say(f"round {number + 1}: at {load}: {latencies} over {len(fresh):,} predictions")
        say("another model is published at a steady load")
        still, _ = run.longest_gap(options.scale)
        announce = partial(publish_version, broker.bootstrap, deployment.prefix, twin(versions.current(model)))
        swapped, answered = run.longest_gap(options.scale, announce)
        if len(answered) < 2:
            raise Stop(f"a model was published, and {answered} answered: no swap was timed")
        collector.stop()
    results = [
        Measured(
            name=_CAPACITY,
            unit="events/s",
            values=capacities,
            note="the steady rate at which no more than four batches of snapshots wait",
        )
    ]
    results += [
        Measured(name=f"event to prediction at {load}, p{share * 100:.0f}", unit="ms", values=values)
        for (load, share), values in found.items()
    ]
    results += [
        Measured(name=f"snapshots encoded per event at {loads[0]}", unit="", values=encoded),
        Measured(name=f"processor time of the workers at {loads[0]}, all roles", unit="µs/event", values=costs),
    ]
    results += [
        Measured(name=f"longest gap between two predictions of a partition, {what}", unit="s", values=[gap], note=note)
        for what, gap, note in (
            ("nothing happens", still, f"{_SWAP_S:.0f} s at {_SWAP_RATE:.0f} events/s"),
            ("a model is swapped", swapped, "the same; every snapshot was answered"),
        )
    ]
    by_name = {result.name: result.median for result in results}
    return Findings(
        results=results,
        targets=[
            Target(name="events/s", value=by_name[_CAPACITY], target=2_500),
            Target(
                name=f"p95 at {loads[0]}, the worst round, ms",
                value=max(found[loads[0], 0.95]),
                target=250,
                at_most=True,
            ),
            Target(name="longest gap while a model is swapped, s", value=swapped, target=1.0, at_most=True),
        ],
        broker=broker.name,
    )


class _Run:
    """Feeds the workers with what follows in the data."""

    def __init__(self, deployment: Deployment, collector: Collector, events: Iterator[Any]) -> None:
        self._deployment, self._collector, self._events = deployment, collector, events
        self._sent = self._produced = 0
        self.encoded_per_event = 0.0
        """Of the newest steady load: live ones and those of horizons and sends."""
        self.us_per_event = 0.0

    def warm_up(self, count: int) -> None:
        """So many events as fast as they go, until nothing waits any more."""
        self._send(count, None)
        self._deployment.await_done(self._sent)

    def capacity(self, scale: float) -> float:
        """Events/s with a rate that goes up while predictions keep up, and down when they fall behind.

        What a backlog is caught up with would be a higher number, and say nothing: there, most snapshots of a customer
        are replaced by newer ones before the encoder sees them.
        """
        pacer = Pacer(_FIRST_RATE)
        search_s, counted_s = max(4.0, _SEARCH_S * scale), max(2.0, _COUNTED_S * scale)
        ended, counted = threading.Event(), list[tuple[float, int]]()
        began, before = time.monotonic(), self._deployment.together().events

        def steer() -> None:
            rate = _FIRST_RATE
            while (now := time.monotonic()) < began + search_s:
                known = self._deployment.together()
                counted.append((now, known.events))
                lag = self._produced - (known.events - before)
                behind = known.snapshots_waiting > _WAITING or lag > rate
                pacer.rate = rate = rate * (0.85 if behind else 1.05)
                time.sleep(_LOOK_S)
            ended.set()

        self._produced = 0
        steering = threading.Thread(target=steer, name="steer", daemon=True)
        steering.start()
        self._sent += self._deployment.replay(self._until(ended), pacer).events
        steering.join()
        self._deployment.await_done(self._sent)
        (since_s, first), (until_s, last) = (
            next(c for c in counted if c[0] >= began + search_s - counted_s),
            counted[-1],
        )
        return (last - first) / (until_s - since_s)

    def _until(self, ended: threading.Event) -> Iterator[Any]:
        for event in self._events:
            yield event
            self._produced += 1
            if ended.is_set():
                return

    def at(self, rate: float, seconds: float) -> list[float]:
        """Milliseconds from each live snapshot's newest event to its prediction, at a steady rate."""
        self._collector.freshness_ms.clear()
        encoded, sent, spent_s = self._deployment.together().encoded, self._sent, self._cpu_s()
        self._send(int(rate * seconds), rate)
        self._deployment.await_done(self._sent)
        self.encoded_per_event = (self._deployment.together().encoded - encoded) / (self._sent - sent)
        self.us_per_event = (self._cpu_s() - spent_s) / (self._sent - sent) * 1e6
        while time.monotonic() - self._collector.heard_s < 1.0:
            time.sleep(0.1)
        return list(self._collector.freshness_ms)

    def longest_gap(self, scale: float, meanwhile: Callable[[], None] | None = None) -> tuple[float, set[str]]:
        """Seconds between two predictions of a partition at a steady rate, and the models that answered.

        Args:
            meanwhile: is done after a third of the time.
        """
        seconds, since_ms = max(6.0, _SWAP_S * scale), time.time() * 1000
        done = threading.Timer(seconds / 3, meanwhile or (lambda: None))
        done.start()
        self._send(int(_SWAP_RATE * seconds), _SWAP_RATE)
        until_ms = time.time() * 1000
        done.join()
        self._deployment.await_done(self._sent)
        times, answered = defaultdict[int, list[int]](list), set[str]()
        with TopicReader(self._deployment.client) as reader:
            for message in reader.whole(self._deployment.prefix + ChurnTask.topic):
                if since_ms + _SETTLED_MS <= (at_ms := message.timestamp()[1]) <= until_ms:
                    times[message.partition() or 0].append(at_ms)
                    answered.add(json.loads(message.value() or b"")["model_version"])
        longest_ms = max(later - at_ms for of in times.values() for at_ms, later in pairwise(sorted(of)))
        return longest_ms / 1000, answered

    def _cpu_s(self) -> float:
        return sum(cpu_s(worker.child.pid) for worker in self._deployment.workers)

    def _send(self, count: int, rate: float | None) -> None:
        self._sent += self._deployment.send(islice(self._events, count), rate).events
