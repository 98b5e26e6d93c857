"""The full ingest role as a worker runs it, with a stopwatch around it."""

from __future__ import annotations

import os
import signal

from infra.bench.graph_data import PARTITIONS
from infra.bench.graph_job import ContenderResult, Job
from infra.bench.graph_role import Stopwatch
from schemas.errors import Stop
from streams.runtime.app import Committer
from streams.settings.schema import load
from streams.telemetry.metric_table import FATES
from streams.telemetry.metrics import Metrics
from streams.worker import Worker


def run(job: Job) -> ContenderResult:
    """Until everything is durable; ``job.topic`` is the prefix of the deployment's topics.

    Raises:
        Stop: records are missing in the worker's own count.
    """
    settings = load(
        env={},
        overrides={
            "kafka.bootstrap": job.bootstrap,
            "kafka.prefix": job.topic,
            "kafka.partitions": PARTITIONS,
            "ingest.idle_ms": 0,
            "state_dir": job.folder,
            "model_dir": job.model,
        },
    )
    worker = Worker(settings, ["ingest"])
    (app,) = worker.apps
    watch = Stopwatch(
        app.runner.role,
        end=job.end,
        take=job.take,
        warm=job.warm,
        durable=True,
        done=lambda: os.kill(os.getpid(), signal.SIGTERM),
    )
    watch.bind(Committer(app))
    app.runner.role = watch
    status = worker.run()
    counted = sum(int(worker.metrics.value(Metrics.events_total, role="ingest", outcome=fate)) for fate in FATES)
    if status != 0 or counted != job.take:
        raise Stop(f"ingest ended with {status} and counted {counted:,} of {job.take:,} records")
    return watch.outcome(None)
