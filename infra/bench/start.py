"""From the start of a worker to its first prediction, with caches as a worker that ran before leaves them.

Events wait in the topics, so the worker has something to say as soon as it can. It has all roles, and the local state
of the start before; model, catalog and partitions are what it has to load.
"""

from __future__ import annotations

import time
from itertools import islice
from typing import Final

from infra.bench.deployment import Deployment, deployed, journey_events, model_for, publish, started_broker
from infra.bench.report import Findings, Measured, Options, Say, Target, take_turns
from schemas.errors import Stop

ABOUT: Final = "seconds from the start of a worker to its first prediction"

_EVENTS: Final = 1_000
"""Of a round; those of the first one are read by a start that does not count."""
_PATIENCE_S: Final = 120.0
_LOOK_S: Final = 0.02

START: Final = "start to first prediction"


def run(options: Options, say: Say) -> Findings:
    """A start a round."""
    model = model_for(options, say)
    journey, events = journey_events()
    count = options.scaled(_EVENTS, 200)
    with started_broker(options) as broker, deployed(options, broker.bootstrap, "start.", model) as deployment:
        publish(deployment, journey)

        def once() -> float:
            deployment.send(islice(events, count))
            return _first_prediction_s(deployment)

        say(f"the first start, {once():.1f} s, makes what later ones find")
        values = take_turns({START: once}, options.rounds, say, unit="s")
    found = Measured(
        name=START,
        unit="s",
        values=values[START],
        note=f"one worker with all roles, {count:,} events wait; the process's start included",
    )
    return Findings(
        results=[found],
        targets=[Target(name=f"{START}, s", value=found.median, target=8.0, at_most=True)],
        broker=broker.name,
        left_out=["A cold cache: the first start of all, which compiles the encoder in a checkout."],
    )


def _first_prediction_s(deployment: Deployment) -> float:
    begin_s = time.monotonic()
    worker = deployment.start_worker("all", "ingest,encode,entities,learn")
    try:
        while not worker.numbers().encoded:
            if time.monotonic() - begin_s > _PATIENCE_S:
                raise Stop(f"a worker predicted nothing in {_PATIENCE_S:.0f} s; see {worker.log}")
            time.sleep(_LOOK_S)
        return time.monotonic() - begin_s
    finally:
        deployment.stop_workers()
