"""Two hours at a steady rate: whether memory, files and cost per event stay where they are."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from threading import Thread
from typing import Final, NamedTuple

from msgspec import structs
from prometheus_client.parser import text_string_to_metric_families

from infra.bench.deployment import Deployment, cpu_s, deployed, model_for, publish, started_broker
from infra.bench.report import Findings, Measured, Options, Say, Target
from streams.demo.run import END_MS
from streams.sources.datasets.complete_journey import CompleteJourney
from streams.sources.datasets.record import SourceRecord

ABOUT: Final = "resident size, open files and cost of an event, minute by minute, for two hours at 400 events/s"

_RATE: Final = 400.0
_MINUTES: Final = 120
_WARM_SHARE: Final = 0.25
"""Of the run: caches fill, and every thread has had its first work."""
_WORDS: Final = "ingest words"
_MIB: Final = 1 << 20
_YEAR_MS: Final = 364 * 86_400_000


class Minute(NamedTuple):
    """One worker at the end of a minute."""

    resident_mib: float
    open_files: int
    store_files: int
    us_per_event: float
    held: dict[str, float]
    """What every cache, queue and waiting list holds, see ``pulsegraph_held_items``."""


def run(options: Options, say: Say) -> Findings:
    """One run, whatever the rounds; ``--scale`` takes a share of the two hours."""
    minutes = options.scaled(_MINUTES, 2)
    model = model_for(options, say)
    journey = CompleteJourney.load()
    events = islice(years_of(journey), int(minutes * 60 * _RATE))
    taken: list[Minute] = []
    with started_broker(options) as broker, deployed(options, broker.bootstrap, "soak.", model) as deployment:
        publish(deployment, journey)
        deployment.start_worker("all", "ingest,encode,entities,learn")
        deployment.await_partitions(4)
        sending = Thread(target=deployment.send, args=(events, _RATE), name="send", daemon=True)
        sending.start()
        watched = _Watched(deployment, options.folder / "deployments" / "soak")
        for number in range(minutes):
            time.sleep(max(0.0, 60 - (time.monotonic() - watched.looked_s)))
            taken.append(watched.minute())
            newest = taken[-1]
            say(
                f"minute {number + 1}: {newest.resident_mib:,.0f} MiB, {newest.open_files} files open, "
                f"{newest.store_files} in stores, {newest.us_per_event:,.0f} µs an event; "
                + ", ".join(f"{of} {items:,.0f}" for of, items in sorted(newest.held.items()))
            )
    return _findings(taken, broker.name)


def years_of(journey: CompleteJourney) -> Iterator[SourceRecord]:
    """The year from January on, and again from the next January on: one year is an hour's worth."""
    for year in count():
        for record in journey.events(journey.from_ms, END_MS):
            yield later(record, year) if year else record


def later(record: SourceRecord, years: int) -> SourceRecord:
    """The same event of the same customer, so many times 364 days later: its weekday stays."""
    ts_ms = record.event_ts_ms + years * _YEAR_MS
    body = record.body
    if body is not None:
        event_id = None if body.event_id is None else f"{body.event_id}-{years}"
        body = structs.replace(body, event_ts_ms=ts_ms, event_id=event_id)
    return structs.replace(record, event_ts_ms=ts_ms, body=body)


def _findings(taken: list[Minute], broker: str) -> Findings:
    steady = taken[int(len(taken) * _WARM_SHARE) :]
    words = [minute.held.get(_WORDS, 0.0) for minute in taken]
    known = taken[max(words.index(words[-1]), len(taken) - len(steady)) :]
    results = [
        Measured(name="resident size of the worker", unit="MiB", values=[minute.resident_mib for minute in taken]),
        Measured(name="files it has open", unit="", values=[float(minute.open_files) for minute in taken]),
        Measured(name="files of its stores", unit="", values=[float(minute.store_files) for minute in taken]),
        Measured(name="processor time", unit="µs/event", values=[minute.us_per_event for minute in taken]),
        *[
            Measured(name=f"held: {of}", unit="", values=[minute.held.get(of, 0.0) for minute in taken])
            for of in sorted(taken[-1].held)
        ],
    ]
    return Findings(
        results=results,
        targets=[
            Target(
                name="resident size once every product is known, MiB more per hour",
                value=slope([minute.resident_mib for minute in known]) * 60,
                target=20,
                at_most=True,
            ),
            Target(
                name="open files, more per hour",
                value=slope([float(minute.open_files) for minute in steady]) * 60,
                target=10,
                at_most=True,
            ),
            Target(
                name="processor time of an event, last quarter / second quarter",
                value=growth([minute.us_per_event for minute in taken]),
                target=1.1,
                at_most=True,
            ),
        ],
        broker=broker,
        left_out=[
            "The first quarter is warm-up and counts for no target. There is one value a minute. Memory counts from "
            f"minute {len(taken) - len(known) + 1}, in which no new word came any more: until then every minute brings "
            "products that nobody had seen."
        ],
    )


def slope(values: list[float]) -> float:
    """Growth by step of the straight line that fits best (least squares); 0 for fewer than two values.

    Example:
        >>> slope([1.0, 3.0, 5.0])
        2.0
    """
    if len(values) < 2:
        return 0.0
    middle, mean = (len(values) - 1) / 2, sum(values) / len(values)
    spread = sum((place - middle) ** 2 for place in range(len(values)))
    return sum((place - middle) * (value - mean) for place, value in enumerate(values)) / spread


def growth(values: list[float]) -> float:
    """Mean of the last quarter over that of the second; 1 where there are too few.

    Example:
        >>> growth([9.0, 1.0, 1.0, 2.0])
        2.0
    """
    quarter = len(values) // 4
    if not quarter:
        return 1.0
    early, late = values[quarter : 2 * quarter], values[-quarter:]
    return (sum(late) / quarter) / (sum(early) / quarter)


class _Watched:
    """One worker, looked at from outside."""

    def __init__(self, deployment: Deployment, folder: Path) -> None:
        self._running = deployment.workers[0]
        self._folder = folder
        self._events, self._cpu_s = self._running.numbers().events, cpu_s(self._running.child.pid)
        self.looked_s = time.monotonic()

    def minute(self) -> Minute:
        self.looked_s = time.monotonic()
        pid = self._running.child.pid
        events, spent_s = self._running.numbers().events, cpu_s(pid)
        cost_us = (spent_s - self._cpu_s) / max(1, events - self._events) * 1e6
        self._events, self._cpu_s = events, spent_s
        return Minute(
            _resident_mib(pid),
            sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
            sum(1 for path in self._folder.rglob("*") if path.is_file()),
            cost_us,
            _held(self._running.port),
        )


def _resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / _MIB


def _held(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return {
        sample.labels["of"]: sample.value
        for family in families
        if family.name == "pulsegraph_held_items"
        for sample in family.samples
    }
