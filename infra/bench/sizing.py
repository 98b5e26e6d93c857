"""How many partitions, workers and brokers a load needs: worked out from what the benches measured.

Two steps. :func:`simulate` shares cores between producer, broker and workers in small slices of time and says how fast
a load goes through; it is checked against the measured runs with one and two workers, where everything is on two cores.
:func:`size` then plans machines: it spreads customers of unequal activity over partitions and partitions over workers,
as hashing and the consumer group do, and looks at the busiest worker, also after one is lost.

    python -m infra.bench.sizing docs/benchmarks.jsonl
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import sqrt
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from infra.bench import NAMES
from infra.bench.report import BenchReport, figure

_SLICE_S: Final = 0.01
_UTILISATION: Final = 0.7
"""Of the busiest worker. What is above serves bursts, and catching up after a worker was lost."""
_ACTIVITY_VARIANCE: Final = 8.5
"""Of customers' events, in squares of their mean: log-normal with a sigma of 1.5, where 1 % make a fifth."""
_PER_WORKER: Final = 8
"""Partitions to a worker: what a lost one held is spread over that many others."""


#: Kill to progress, p50 of docs/failures.md.
_TAKEOVER_S: Final = 13.2
#: Of 200,000 records, docs/log.md. The small state of the bench ``scale`` is restored in little more than the time that
#: asking for offsets takes.
_RESTORED_PER_S: Final = 38_000
#: Of all roles for one event more, docs/log.md: a worker at 1,928 and at 5,380 events/s. Besides, it takes 0.6 of a
#: core whatever comes, which is within the two cores that a worker is given.
_ALL_ROLES_US: Final = 125.0


class Costs(Struct, frozen=True, kw_only=True):
    """What was measured. Times are processor time."""

    ingest_us: float
    """Of an ingest worker per event."""
    ingest_cores: float
    """Cores that one ingest worker can keep busy: its event loop, and threads for RocksDB and Kafka beside it."""
    broker_us: float
    producer_us: float
    others_us: float
    """Of encode, entities and learn per event, on one core each; most of it is encode's."""
    disk_bytes: float
    """Of RocksDB per customer."""
    restored_per_s: float
    """Changelog records a worker restores per second."""
    takeover_s: float
    """From the death of a worker until its partitions move on, without the restore."""


class Need(Struct, frozen=True, kw_only=True):
    """What a load needs."""

    events_per_s: float
    customers: int
    partitions: int
    ingest_workers: int
    busiest: float
    """Utilisation of the busiest ingest worker."""
    other_cores: int
    """Of encode, entities and learn."""
    broker_cores: int
    state_gib: float
    restore_s: float
    """Restore on an empty disk by the worker that takes the most over; none with standbys."""
    catch_up_s: float
    """From the death of a worker until the backlog is gone, with standbys."""

    @property
    def cores(self) -> int:
        """Of everything; a worker is given two, one for its event loop and one for its threads."""
        return 2 * self.ingest_workers + self.other_cores + self.broker_cores


def simulate(costs: Costs, *, workers: int, cores: float, events: int, shares: Sequence[float] | None = None) -> float:
    """Events/s from the first one sent until the last one taken, everything on one machine.

    Args:
        workers: ingest workers.
        cores: of the machine.
        events: sent as fast as it goes.
        shares: of the events, by worker; equal where None.
    """
    shares = shares or [1 / workers] * workers
    unsent, clock_s = float(events), 0.0
    waiting = [0.0] * workers
    per_event_s = [costs.producer_us / 1e6, costs.broker_us / 2e6, *[costs.ingest_us / 1e6] * workers]
    appended, fetched = 0.0, 0.0  # for the broker: half of its work is taking records in, half is giving and changelog
    most = [1.0, cores, *[costs.ingest_cores] * workers]
    while clock_s == 0 or unsent + sum(waiting) + appended + fetched > 0.5:
        queues = [unsent, appended + fetched, *waiting]
        demands = [
            min(queue * cost / _SLICE_S, cap) for queue, cost, cap in zip(queues, per_event_s, most, strict=True)
        ]
        given = share_out(cores, demands)
        done = [min(queue, got * _SLICE_S / cost) for queue, got, cost in zip(queues, given, per_event_s, strict=True)]
        unsent -= done[0]
        in_broker = appended + fetched
        taken_in = done[1] * (appended / in_broker) if in_broker else 0.0
        appended += done[0] - taken_in
        fetched -= done[1] - taken_in
        for number in range(workers):
            waiting[number] += taken_in * shares[number] - done[2 + number]
            fetched += done[2 + number]
        clock_s += _SLICE_S
    return events / clock_s


def share_out(cores: float, demands: Sequence[float]) -> list[float]:
    """Max-min fairness, as a scheduler shares: nobody gets more than it asks for, what is left goes to the others.

    Example:
        >>> share_out(2.0, [0.2, 1.0, 3.0])
        [0.2, 0.9, 0.9]
    """
    given = [0.0] * len(demands)
    left, open_ = cores, sorted(range(len(demands)), key=lambda number: demands[number])
    while open_:
        smallest = open_.pop(0)
        given[smallest] = min(demands[smallest], left / (len(open_) + 1))
        left -= given[smallest]
    return given


def size(costs: Costs, events_per_s: float, customers: int, *, seed: int = 0) -> Need:
    """Smallest number of workers whose busiest one stays below 70 % of a core, and what follows from it."""
    per_worker = 1e6 / costs.ingest_us
    workers = max(1, round(events_per_s / (per_worker * _UTILISATION)))
    while True:
        partitions = 4 if workers == 1 else _round_up(workers * _PER_WORKER)
        loads = _loads(customers, partitions, workers, random.Random(seed))
        busiest = max(loads) * events_per_s / per_worker
        if busiest <= _UTILISATION:
            break
        workers += max(1, workers // 20)
    moved = -(-partitions // workers)
    # The partitions of the lost worker go to others, one or two to each; with one worker, to its replacement.
    taken_over = moved if workers == 1 else -(-moved // (workers - 1))
    after = busiest if workers == 1 else busiest * (1 + taken_over / moved)
    spare = max(1e-9, 1 - after)
    return Need(
        events_per_s=events_per_s,
        customers=customers,
        partitions=partitions,
        ingest_workers=workers,
        busiest=busiest,
        other_cores=_cores(events_per_s * costs.others_us),
        broker_cores=_cores(events_per_s * costs.broker_us),
        state_gib=customers * costs.disk_bytes / 2**30,
        restore_s=customers / partitions * taken_over / costs.restored_per_s,
        catch_up_s=costs.takeover_s * (1 + after / spare),
    )


def _loads(customers: int, partitions: int, workers: int, rng: random.Random) -> list[float]:
    """Share of the events by worker: partitions are sums over many customers, so normal, and are dealt out."""
    spread = sqrt((_ACTIVITY_VARIANCE + 1) * partitions / customers)
    loads = [0.0] * workers
    for partition in range(partitions):
        loads[partition % workers] += max(0.0, rng.gauss(1.0, spread)) / partitions
    return loads


def _cores(us_per_s: float) -> int:
    return max(1, -int(-us_per_s / 1e6 / _UTILISATION // 1))


def _round_up(partitions: int) -> int:
    """To a multiple of a power of two, so that a doubling of workers still divides them."""
    step = 1 << max(2, partitions.bit_length() - 3)
    return -(-partitions // step) * step


def costs_from(reports: Iterable[BenchReport]) -> Costs:
    """Medians of the benches ``scale`` and ``memory``, and what docs/log.md has."""
    found = {(one.bench, row.name): row.median for one in reports for row in one.results}
    rate = found["scale", "one worker"]
    ingest_us = found["scale", "processor time of the worker, one worker"]
    return Costs(
        ingest_us=ingest_us,
        ingest_cores=max(1.0, rate * ingest_us / 1e6),
        broker_us=found["scale", "processor time of the broker, one worker"],
        producer_us=found["scale", "processor time of the producer, one worker"],
        others_us=_ALL_ROLES_US - ingest_us,
        disk_bytes=[value for (bench, row), value in found.items() if bench == "memory" and row.endswith(", disk")][-1],
        restored_per_s=_RESTORED_PER_S,
        takeover_s=_TAKEOVER_S,
    )


def tables(reports: Sequence[BenchReport]) -> Iterator[str]:
    """The tables of docs/scaling.md."""
    costs = costs_from(reports)
    measured = {row.name: row.median for one in reports if one.bench == "scale" for row in one.results}
    yield from _checks(costs, measured)
    yield ""
    yield (
        "| events/s | customers | partitions | ingest workers | busiest worker | cores of other roles "
        "| broker cores | cores | state | restore without standbys | a lost worker is caught up after |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for events_per_s, customers in ((10_000, 1_000_000), (100_000, 10_000_000), (1_000_000, 100_000_000)):
        need = size(costs, events_per_s, customers)
        yield (
            f"| {events_per_s:,} | {customers:,} | {need.partitions:,} | {need.ingest_workers} | {need.busiest:.0%} "
            f"| {need.other_cores} | {need.broker_cores} | {need.cores:,} | {figure(need.state_gib)} GiB "
            f"| {need.restore_s:.0f} s | {need.catch_up_s:.0f} s |"
        )


def _checks(costs: Costs, measured: Mapping[str, float]) -> Iterator[str]:
    yield "| on two cores, everything together | measured, events/s | simulated | difference |"
    yield "|---|---|---|---|"
    for workers, name in ((1, "one worker"), (2, "two workers")):
        simulated = simulate(costs, workers=workers, cores=2, events=150_000)
        difference = simulated / measured[name] - 1
        yield f"| {name} | {figure(measured[name])} | {figure(simulated)} | {difference:+.0%} |"


def read(path: Path) -> list[BenchReport]:
    """Reports as ``pulsegraph bench all --json`` prints them; other lines are skipped, of two the later counts."""
    lines = [line for line in path.read_text().splitlines() if line.startswith("{")]
    found = {one.bench: one for one in (msgspec.json.decode(line, type=BenchReport) for line in lines)}
    return [found[name] for name in NAMES if name in found]


if __name__ == "__main__":
    sys.stdout.write("\n".join(tables(read(Path(sys.argv[1])))) + "\n")
