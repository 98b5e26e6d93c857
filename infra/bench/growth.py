"""Cost per event as one customer's history grows, and as customers grow in number.

*History*: four customers live through visits of five events (the last one a purchase), three a day, and every visit is
a checkpoint: fold, snapshot, record. What is compared is the cost of the next visits when 10, 100, ... 100,000 events
are behind them. The state is bounded, but it fills first: edges, words and recent ids grow until a customer has
some hundred events, and with them the record and the snapshot that are written for a visit.

*Customers*: a RocksDB with so many ready-made customers; in every checkpoint 500 of them, drawn without repeating, come
for four events, and those of the checkpoint before are woken by the end of their session. Once with nothing cached, so
that every customer is read from the database twice, and once with a worker's cache, which holds all of a few customers
and few of many.

Cost is CPU time of the thread that takes in, with the store's reads and writes and the encoding of what is sent; the
making of events and RocksDB's own threads are not in it.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from typing import Final

from infra.bench.report import Findings, Measured, Options, Say, Target, ratio, take_turns
from infra.bench.visits import BROWSING, BUYING, START_MS, Partition, customer_id, fill, live, open_store, visit_times
from streams.core.config import HOUR_MS
from streams.runtime.app import GC_THRESHOLDS
from streams.settings.schema import IngestSettings
from streams.state.contract import KeyValue
from streams.state.rocks import RocksStore

ABOUT: Final = "cost per event as a history grows to 100,000 events, and customers to a million"

_FLAT: Final = 1.2
_UNIT: Final = "us/event"

_HISTORIES: Final = (10, 100, 1_000, 10_000, 100_000)
_PROBED: Final = 1_000
"""Events that are measured at each history."""
_MOST_PROBED_VISITS: Final = 50
_TOGETHER: Final = 4

_CROWDS: Final = (1_000, 10_000, 100_000, 1_000_000)
_CHECKPOINTS: Final = 20
_WARM_CHECKPOINTS: Final = 2
_CHECKPOINT_CUSTOMERS: Final = 500
_WARM_CUSTOMERS: Final = 40_000
"""About as many as a worker's cache holds."""
_OFFSETS_PER_HOUR: Final = 1_000_000


def run(options: Options, say: Say) -> Findings:
    """Both growths, every size in turns."""
    histories = sorted({options.scaled(size, 10) for size in _HISTORIES})
    crowds = sorted({options.scaled(size, 100) for size in _CROWDS})
    probed = options.scaled(_PROBED, 50)
    thresholds = gc.get_threshold()
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        by_history = take_turns(
            {_events(size): partial(history_cost_us, size, probed) for size in histories},
            options.rounds,
            say,
            unit=_UNIT,
        )
        by_crowd = _crowd_costs(crowds, options, say)
    finally:
        gc.set_threshold(*thresholds)
    few, many = crowds[0], crowds[-1]
    full = histories[min(2, len(histories) - 1)]
    return Findings(
        results=[
            *[Measured(name=f"history of {name}", unit=_UNIT, values=values) for name, values in by_history.items()],
            *[Measured(name=name, unit=_UNIT, values=values) for name, values in by_crowd.items()],
        ],
        targets=[
            *[
                Target(
                    name=f"history of {_events(histories[-1])} / of {_events(least)}",
                    value=ratio(by_history[_events(histories[-1])], by_history[_events(least)]),
                    target=_FLAT,
                    at_most=True,
                )
                for least in dict.fromkeys((histories[0], full))
            ],
            *[
                Target(
                    name=f"{many:,} / {few:,} customers, {how}",
                    value=ratio(by_crowd[_crowd(many, how)], by_crowd[_crowd(few, how)]),
                    target=_FLAT,
                    at_most=True,
                )
                for how in _caches()
            ],
        ],
        left_out=[
            "Kafka, so also the changelog. The ready-made customers are copies of a few that the core made: they "
            "browsed three times, bought nothing, and they have no pending labels. Of 1,000 customers every second "
            "one comes in every checkpoint, so theirs is the fuller state.",
        ],
    )


def history_cost_us(history: int, probed: int) -> float:
    """CPU microseconds per event for customers with so many events behind them.

    Args:
        probed: events that are measured, at least.
    """
    visits = history // len(BUYING)
    probed_visits = max(1, min(visits // 2, _MOST_PROBED_VISITS))
    busy_s, events = 0.0, 0
    while events < probed:
        times, customers = visit_times(START_MS), range(_TOGETHER)
        group = Partition(None, IngestSettings().cache_bytes)
        live(group, customers, visits, times, visits_per_epoch=_MOST_PROBED_VISITS)
        group.busy_s = 0.0
        events += live(group, customers, probed_visits, times, visits_per_epoch=1)
        busy_s += group.busy_s
    return busy_s / events * 1e6


def crowd_cost_us(store: KeyValue, customers: int, cache_bytes: int, checkpoints: int, hours: Iterator[int]) -> float:
    """CPU microseconds per event when some of so many customers come.

    Args:
        checkpoints: that are measured, after some that are not.
        hours: event time since the start; goes on from run to run, because a store is used for several.
    """
    hour = next(hours)
    partition = Partition(store, cache_bytes, first_offset=hour * _OFFSETS_PER_HOUR)
    random = Random(hour)
    if cache_bytes:
        for number in random.sample(range(customers), min(customers, _WARM_CUSTOMERS)):
            partition.offline.ingest.customer(customer_id(number))
        partition.offline.ingest.written()
    coming, events = min(customers, _CHECKPOINT_CUSTOMERS), 0
    for checkpoint in range(_WARM_CHECKPOINTS + checkpoints):
        if checkpoint == _WARM_CHECKPOINTS:
            partition.busy_s = 0.0
        at_ms = START_MS + hour * HOUR_MS
        for number in random.sample(range(customers), coming):
            partition.visit(number, at_ms, BROWSING)
        hour = next(hours)
        partition.end_epoch(START_MS + hour * HOUR_MS)
        events += coming * len(BROWSING) * (checkpoint >= _WARM_CHECKPOINTS)
    return partition.busy_s / events * 1e6


def _crowd_costs(crowds: list[int], options: Options, say: Say) -> dict[str, list[float]]:
    folder = options.folder / "growth"
    shutil.rmtree(folder, ignore_errors=True)
    stores = {size: _filled(folder / str(size), size) for size in crowds}
    say(f"RocksDB holds {', '.join(f'{size:,}' for size in crowds)} customers")
    hours, checkpoints = count(1), options.scaled(_CHECKPOINTS, 2)
    try:
        return take_turns(
            {
                _crowd(size, how): partial(crowd_cost_us, stores[size], size, cache_bytes, checkpoints, hours)
                for how, cache_bytes in _caches().items()
                for size in crowds
            },
            options.rounds,
            say,
            unit=_UNIT,
        )
    finally:
        for store in stores.values():
            store.close()
        shutil.rmtree(folder, ignore_errors=True)


def _filled(folder: Path, customers: int) -> RocksStore:
    store = open_store(folder)
    fill(store, range(customers))
    return store


def _caches() -> dict[str, int]:
    return {"nothing cached": 0, "cached as in a worker": IngestSettings().cache_bytes}


def _events(size: int) -> str:
    return f"{size:,} events"


def _crowd(size: int, how: str) -> str:
    return f"{size:,} customers, {how}"
