"""The peers on plain Faust, with nothing of ours: an empty agent, and the small graph job in a ``Table``."""

from __future__ import annotations

import asyncio
import time
from math import exp
from typing import Any

import faust
import msgspec

from infra.bench.graph_core import DECAY_PER_MS, SESSION_GAP_MS, TAIL_EVENTS
from infra.bench.graph_data import PARTITIONS, Totals
from infra.bench.graph_job import ContenderResult, Job

TABLE = "graph"


class _Clock:
    """Counts events; the time between the ``warm``-th and the ``take``-th."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._count = 0
        self._began_s = self._stopped_s = self._cpu_s = 0.0
        self.done = asyncio.Event()

    def tick(self) -> None:
        self._count += 1
        if self._count == self._job.warm:
            self._began_s, self._cpu_s = time.perf_counter(), time.process_time()
        elif self._count == self._job.take:
            self._stopped_s = time.perf_counter()
            self._cpu_s = time.process_time() - self._cpu_s
            self.done.set()

    def outcome(self, totals: Totals | None) -> ContenderResult:
        return ContenderResult(
            events=self._job.take - self._job.warm,
            seconds=self._stopped_s - self._began_s,
            cpu_s=self._cpu_s,
            totals=totals,
        )


def run(job: Job) -> ContenderResult:
    """``faust-empty`` or ``faust-graph``, from start to clean stop."""
    return asyncio.run(_empty(job) if job.kind == "faust-empty" else _graph(job))


async def _empty(job: Job) -> ContenderResult:
    app, clock = _app(job), _Clock(job)

    @app.agent(app.topic(job.topic, value_type=bytes, value_serializer="raw"))
    async def nothing(stream: Any) -> None:
        async for _ in stream:
            clock.tick()

    await _until(app, clock)
    await app.stop()
    return clock.outcome(None)


async def _graph(job: Job) -> ContenderResult:
    app, clock = _app(job), _Clock(job)
    table = app.Table(TABLE, partitions=PARTITIONS, options={"block_cache_size": job.block_cache_bytes // PARTITIONS})

    @app.agent(app.topic(job.topic, value_serializer="json"))
    async def graph(stream: Any) -> None:
        async for event in stream:
            key, item, ms = event["customer_id"], event["item_id"], event["event_ts_ms"]
            known = table.get(key) or {"n": 0, "edges": {}, "tail": []}
            edge = known["edges"].get(item)
            if edge is None:
                known["edges"][item] = [1.0, 1, ms]
            else:
                edge[0] = edge[0] * exp((edge[2] - ms) * DECAY_PER_MS) + 1.0
                edge[1] += 1
                edge[2] = ms
            tail = known["tail"]
            if tail and ms - tail[-1][0] > SESSION_GAP_MS:
                tail.clear()
            elif len(tail) == TAIL_EVENTS:
                del tail[0]
            tail.append([ms, item])
            known["n"] += 1
            table[key] = known
            clock.tick()

    await _until(app, clock)
    totals = _totals(table)
    await app.stop()
    return clock.outcome(totals)


def _app(job: Job) -> faust.App:
    return faust.App(
        job.app,
        broker=f"kafka://{job.bootstrap}",
        store="rocksdb://",
        datadir=job.folder,
        topic_partitions=PARTITIONS,
        consumer_auto_offset_reset="earliest",
        # With its default of 20 s an assignment now and then takes a minute to settle; no effect on the rate.
        stream_wait_empty=False,
        # A check that is known to refuse sound stores after a restart.
        recovery_consistency_check=False,
        web_enabled=False,
        autodiscover=False,
    )


async def _until(app: faust.App, clock: _Clock) -> None:
    app.finalize()
    await app.start()
    crashed = asyncio.ensure_future(app._crashed.wait())
    finished = asyncio.ensure_future(clock.done.wait())
    await asyncio.wait([crashed, finished], return_when=asyncio.FIRST_COMPLETED)
    if app.crash_reason is not None:
        raise app.crash_reason


def _totals(table: Any) -> Totals:
    """Sums over the store, read with Faust's own open databases: it never closes them."""
    customers = events = edges = tail = 0
    weight = 0.0
    for database in table.data._dbs.values():
        for key, value in database.items():
            if key == table.data.offset_key:
                continue
            known = msgspec.json.decode(value)
            customers += 1
            events += known["n"]
            tail += len(known["tail"])
            edges += sum(edge[1] for edge in known["edges"].values())
            weight += sum(edge[0] for edge in known["edges"].values())
    return Totals(customers=customers, events=events, edges=edges, weight=weight, tail=tail)
