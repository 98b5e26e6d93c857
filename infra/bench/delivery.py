"""Bytes from Kafka to the agent and nothing else: our batches against a plain Faust agent."""

from __future__ import annotations

import shutil
from functools import partial
from itertools import count
from typing import Final

from infra.bench.graph_contenders import NAMES, Runner
from infra.bench.graph_data import events
from infra.bench.graph_job import Job
from infra.bench.graph_load import BROKER, Load, apache
from infra.bench.report import Findings, Measured, Options, Say, Target, ratio, take_turns

ABOUT: Final = "bytes from Kafka to the agent, nothing else, against a plain Faust agent"

_CUSTOMERS: Final = 5_000
_OURS: Final = 2_000_000
_FAUST: Final = 60_000
_LEAST: Final = 2_000


def run(options: Options, say: Say) -> Findings:
    """Both read the same records from topics of their own lengths, after a fifth of warming up."""
    folder = options.folder / "delivery"
    runner = Runner(folder)
    counts = {"ours-empty": options.scaled(_OURS, _LEAST), "faust-empty": options.scaled(_FAUST, _LEAST)}
    runner.prepare(tuple(counts), say)
    with apache(options, "delivery") as bootstrap:
        load = Load(bootstrap)
        for kind, size in counts.items():
            load.create(kind)
            load.events(kind, events(_CUSTOMERS, 0, size))
        say(f"topics of {' and '.join(f'{size:,}' for size in counts.values())} events are filled")
        runs = count()

        def contender(kind: str) -> float:
            app = f"{kind}-{next(runs)}"
            job = Job(
                kind=kind, bootstrap=bootstrap, topic=kind, app=app, folder=str(runner.state_folder(app)),
                end=counts[kind], take=counts[kind], warm=counts[kind] // 5,
            )  # fmt: skip
            return runner.run(job, None).rate

        values = take_turns(
            {kind: partial(contender, kind) for kind in counts},
            options.rounds,
            say,
            unit="events/s",
        )
    shutil.rmtree(folder / "state", ignore_errors=True)
    return Findings(
        results=[
            Measured(name=NAMES[kind], unit="events/s", values=values[kind], note=f"{counts[kind]:,} events")
            for kind in counts
        ],
        targets=[
            Target(
                name="pulsegraph / Faust agent", value=ratio(values["ours-empty"], values["faust-empty"]), target=40.0
            )
        ],
        broker=BROKER,
    )
