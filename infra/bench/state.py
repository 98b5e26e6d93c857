"""The same small graph job everywhere: ours, a Faust ``Table``, Quix Streams and Kafka Streams on the JVM."""

from __future__ import annotations

import shutil
from functools import partial
from typing import Final

from infra.bench.graph_contenders import NAMES, PEERS, Runner
from infra.bench.graph_load import BROKER, Load, apache
from infra.bench.graph_runs import Cold, Hot
from infra.bench.report import Findings, Measured, Options, Say, Target, ratio, take_turns

ABOUT: Final = "state in RocksDB with a changelog: the same small graph job on four libraries"

_OURS: Final = "ours-graph"
_SLOW_CHECKPOINT: Final = "pulsegraph, checkpoints of 1 s"
_HOT_TARGETS: Final = {"faust-graph": 60.0, "quix": 4.0, "streams": 4.0, "streams-eos": 4.0}
_COLD_TARGETS: Final = dict.fromkeys(PEERS, 2.0)


def run(options: Options, say: Say) -> Findings:
    """Hot first, then cold; each contender in a process of its own, one after the other."""
    folder = options.folder / "state"
    runner = Runner(folder)
    kinds = (_OURS, *PEERS)
    versions = runner.prepare(kinds, say)
    results: list[Measured] = []
    targets: list[Target] = []
    with apache(options, "state") as bootstrap:
        load = Load(bootstrap)
        hot = Hot(options, bootstrap, runner, load)
        hot.fill()
        say(f"hot: {hot.customers:,} customers, events are filled")
        contenders = {kind: partial(hot.run, kind) for kind in kinds}
        contenders[_SLOW_CHECKPOINT] = partial(hot.run, _OURS, checkpoint_ms=1_000, label=_SLOW_CHECKPOINT)
        values = take_turns(contenders, options.rounds, say, unit="events/s")
        results += [
            Measured(name=f"hot: {NAMES.get(kind, kind)}", unit="events/s", values=found, note=hot.note(kind))
            for kind, found in values.items()
        ]
        targets += _targets("hot", values, _HOT_TARGETS)

        cold = Cold(options, bootstrap, runner, load)
        cold.fill(kinds)
        say(f"cold: {cold.customers:,} customers with a history are in everyone's changelog")
        values = take_turns(
            {kind: partial(cold.run, kind) for kind in kinds},
            1,
            say,
            unit="events/s",
        )
        results += [
            Measured(name=f"cold: {NAMES[kind]}", unit="events/s", values=found, note=cold.note(kind))
            for kind, found in values.items()
        ]
        targets += _targets("cold", values, _COLD_TARGETS)
    shutil.rmtree(folder / "state", ignore_errors=True)
    return Findings(results=results, targets=targets, broker=BROKER, versions=versions, left_out=LEFT_OUT)


#: How the numbers came about, where a reader might have done otherwise.
LEFT_OUT: Final = [
    "Start, group join and restore: the clock runs from the event after the first fifth (hot) or quarter (cold) of a "
    "run to the last one. Ours stops when all of it is acknowledged, on disk and committed, a peer when it has "
    "processed the last event, whatever of it still waits for its next commit.",
    "Commit intervals: ours 0.1 s, like Kafka Streams exactly once; Faust's default of 2.8 s; 1 s for Quix Streams and "
    "for Kafka Streams at least once, whose defaults (5 s, 30 s) would hardly commit within a run. "
    "One process and one worker thread each: num.stream.threads is 1, as by default.",
    "Cold has one round: a Faust table needs three minutes to restore a million customers before each.",
    "Cold states are a dozen edges and a tail of 8 events, 600 bytes of JSON, restored by everyone from a changelog of "
    "its own before the clock starts. The 5 % are customers of the record cache where there is one (ours, Kafka "
    "Streams) and, as bytes, everyone's RocksDB block cache; the operating system's page cache is not bounded.",
]


def _targets(name: str, values: dict[str, list[float]], wanted: dict[str, float]) -> list[Target]:
    return [
        Target(name=f"{name}: pulsegraph / {NAMES[kind]}", value=ratio(values[_OURS], values[kind]), target=target)
        for kind, target in wanted.items()
    ]
