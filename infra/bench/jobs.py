"""The child processes of benches that are Python of this environment: ``python -m infra.bench.jobs JOB``.

``JOB`` is a :class:`infra.bench.graph_job.Job` as JSON; the last line on stdout is an ``ContenderResult``.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from pathlib import Path

import msgspec

from infra.bench.graph_job import ContenderResult, Job
from schemas.errors import Stop


def main() -> int:
    job = msgspec.json.decode(sys.argv[1], type=Job)
    if job.kind.startswith("faust"):
        from infra.bench import faust_job

        outcome = faust_job.run(job)
    elif job.kind == "ours-ingest":
        from infra.bench import ingest_job

        outcome = ingest_job.run(job)
    else:
        outcome = asyncio.run(_ours(job))
    sys.stdout.write(msgspec.json.encode(outcome).decode() + "\n")
    return 0


async def _ours(job: Job) -> ContenderResult:
    from infra.bench.graph_role import EmptyRole, Stopwatch, graph_role, stored_totals
    from streams.kafka.outbox import Outbox
    from streams.runtime.app import GC_THRESHOLDS, build_app, serve

    gc.set_threshold(*GC_THRESHOLDS)  # as run_worker does
    stop = asyncio.Event()
    empty = job.kind == "ours-empty"
    outbox = Outbox(job.bootstrap)
    watch = Stopwatch(
        EmptyRole(job.topic, job.app) if empty else graph_role(job, outbox),
        end=job.end,
        take=job.take,
        warm=job.warm,
        durable=not empty,
        done=stop.set,
    )
    status = await serve(build_app(watch, bootstrap=job.bootstrap), stop=stop)
    outbox.close()
    if status != 0:
        raise Stop(f"{job.kind} ended with {status}")
    return watch.outcome(None if empty else stored_totals(Path(job.folder)))


if __name__ == "__main__":
    raise SystemExit(main())
