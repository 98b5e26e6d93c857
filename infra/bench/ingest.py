"""The full ingest role on real events, against the small job that the peers do in ``state``."""

from __future__ import annotations

import shutil
from functools import partial
from itertools import count, islice
from typing import Final

from infra.bench.deployment import Deployment, journey_events, model_for
from infra.bench.graph_contenders import NAMES, PEERS, Runner
from infra.bench.graph_job import Job
from infra.bench.graph_load import BROKER, Load, apache
from infra.bench.graph_runs import Hot
from infra.bench.report import Findings, Measured, Options, Say, Target, ratio, take_turns

ABOUT: Final = "the full ingest role against the peers' small graph job"

_OURS: Final = "ours-ingest"
_EVENTS: Final = 300_000
_TARGETS: Final = {"faust-graph": 15.0, "quix": 1.0, "streams": 1.0, "streams-eos": 1.0}


def run(options: Options, say: Say) -> Findings:
    """Each contender in a process of its own, one after the other."""
    folder = options.folder / "state"  # what the peers need is there from `state`
    runner = Runner(folder)
    versions = runner.prepare((_OURS, *PEERS), say)
    model = model_for(options, say)
    size = options.scaled(_EVENTS, 2_000)
    with apache(options, "ingest") as bootstrap:
        hot = Hot(options, bootstrap, runner, Load(bootstrap))
        hot.fill()
        say("the small job's topics are filled")
        runs = count()

        def ours() -> float:
            app = f"ingest-{next(runs)}"
            deployment = Deployment(bootstrap, f"{app}.", model, runner.state_folder(app))
            sent = deployment.send(islice(journey_events()[1], size))
            records = sent.events + sent.heartbeats
            job = Job(
                kind=_OURS,
                bootstrap=bootstrap,
                topic=f"{app}.",
                app=app,
                folder=str(runner.state_folder(app)),
                model=str(model),
                end=records,
                take=records,
                warm=records // 5,
            )
            rate = runner.run(job, None).rate
            runner.forget(app)
            # Heartbeats, about one in a hundred records, are no events.
            return rate * sent.events / records

        peers = {kind: partial(hot.run, kind) for kind in PEERS}
        values = take_turns({_OURS: ours, **peers}, options.rounds, say, unit="events/s")
    shutil.rmtree(folder / "state", ignore_errors=True)
    return Findings(
        results=[
            Measured(
                name="pulsegraph, the full ingest role",
                unit="events/s",
                values=values[_OURS],
                note=f"{size:,} events of Complete Journey; validate, dedupe, graph, sessions, words, timers, "
                "snapshots, outcomes, RocksDB, changelog; until durable",
            ),
            *[
                Measured(
                    name=f"{NAMES[kind]}, the small job",
                    unit="events/s",
                    values=values[kind],
                    note=hot.note(kind),
                )
                for kind in PEERS
            ],
        ],
        targets=[
            Target(name=f"ingest / {NAMES[kind]}", value=ratio(values[_OURS], values[kind]), target=target)
            for kind, target in _TARGETS.items()
        ],
        broker=BROKER,
        versions=versions,
        left_out=["What `bench state` says about clocks and commit intervals holds here too."],
    )
