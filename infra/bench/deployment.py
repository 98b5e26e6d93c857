"""A broker with the contract's topics, and workers on it as processes: what whole-pipeline benches run on."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from infra.bench.report import Options, Say
from schemas.errors import Stop
from streams.brokers.apache import KAFKA_VERSION, ApacheBroker
from streams.brokers.embedded import EmbeddedBroker
from streams.brokers.processes import Child, free_port, tail_of, worker_environment
from streams.demo.run import END_MS, SPLIT_MS, ensure_model
from streams.demo.scrape import WorkerNumbers, scrape
from streams.kafka import admin
from streams.sources.datasets.complete_journey import CompleteJourney
from streams.sources.datasets.record import SourceRecord
from streams.sources.pacing import Pacer
from streams.sources.replay import OrderedProducer, ReplayReport, publish_catalog, replay

PARTITIONS: Final = 4
HEARTBEAT_MS: Final = 6 * 3_600_000
_PATIENCE_S: Final = 120.0


class Running:
    """One worker process."""

    def __init__(self, child: Child, port: int, log: Path, roles: frozenset[str]) -> None:
        self.child = child
        self.roles = roles
        self.port = port
        self.log = log

    def numbers(self) -> WorkerNumbers:
        """Its counts now; zeros while it does not answer yet.

        Raises:
            Stop: it has ended.
        """
        self.check()
        return scrape(self.port) or WorkerNumbers()

    def check(self) -> None:
        """Raises Stop where it has ended."""
        if not self.child.running:
            raise Stop(f"a worker ended with {self.child.returncode}: {tail_of(self.log)}")


class Deployment:
    """Topics under a prefix of their own, and workers for them.

    Args:
        bootstrap: of the broker.
        prefix: of topics and groups.
        model: directory to serve.
        folder: for state and logs; emptied.
    """

    def __init__(self, bootstrap: str, prefix: str, model: Path, folder: Path) -> None:
        self.prefix = prefix
        self.client: dict[str, str | int | float | bool] = {"bootstrap.servers": bootstrap, "log_level": 0}
        self.workers: list[Running] = []
        self._model = model
        self._folder = folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        admin.create_topics(admin.connect(self.client), prefix=prefix, partitions=PARTITIONS)
        self.producer = OrderedProducer(bootstrap, config={"log_level": 0})

    def start_worker(self, name: str, roles: str) -> Running:
        """Start a worker with a folder of its name."""
        port = free_port()
        settings = {
            "kafka.bootstrap": self.client["bootstrap.servers"],
            "kafka.prefix": self.prefix,
            "kafka.partitions": PARTITIONS,
            "kafka.session_timeout_ms": 6_000,
            "state_dir": self._folder / name,
            "model_dir": self._model,
            "metrics_port": port,
            "ingest.idle_ms": 0,
            "encode.threads": 1,
        }
        log = self._folder / f"{name}.log"
        argv = [sys.executable, "-m", "streams.cli", "worker", "--verbose", "--roles", roles]
        child = Child(argv, log, env=worker_environment(settings))
        running = Running(child, port, log, frozenset(roles.split(",")))
        self.workers.append(running)
        return running

    def numbers(self) -> list[WorkerNumbers]:
        return [worker.numbers() for worker in self.workers]

    def together(self) -> WorkerNumbers:
        """Of all workers; zeros while one of them does not answer.

        Raises:
            Stop: one has ended.
        """
        for worker in self.workers:
            worker.check()
        return scrape(*(worker.port for worker in self.workers)) or WorkerNumbers()

    def await_partitions(self, per_worker: int) -> None:
        """Until every worker that ingests holds so many partitions of the sources."""
        deadline = time.monotonic() + _PATIENCE_S
        while any(worker.numbers().partitions != per_worker for worker in self.workers if "ingest" in worker.roles):
            self._check(deadline, "the workers do not share the partitions")
            time.sleep(0.1)

    def send(self, events: Iterable[SourceRecord], rate: float | None = None) -> ReplayReport:
        """Replay events with heartbeats, at a steady rate."""
        return self.replay(events, Pacer(rate))

    def replay(self, events: Iterable[SourceRecord], pacer: Pacer) -> ReplayReport:
        """The same at a rate that may change."""
        return replay(
            events,
            self.producer,
            partitions=PARTITIONS,
            prefix=self.prefix,
            heartbeat_ms=HEARTBEAT_MS,
            pacer=pacer,
        )

    def await_done(self, events: int, timeout_s: float = 900.0) -> None:
        """Until so many events have a decided fate and no snapshot waits."""
        deadline = time.monotonic() + timeout_s
        while True:
            known = self.numbers()
            encodes = any("encode" in worker.roles for worker in self.workers)
            waiting = sum(one.snapshots_waiting for one in known) if encodes else 0
            if sum(one.events for one in known) >= events and waiting == 0:
                return
            self._check(deadline, f"{sum(one.events for one in known)} of {events} events, {waiting} snapshots wait")
            time.sleep(0.1)  # a look costs the worker some milliseconds

    def stop_workers(self) -> None:
        for worker in self.workers:
            worker.child.request_stop()
        for worker in self.workers:
            worker.child.stop(30.0)
        self.workers = []

    def _check(self, deadline: float, what: str) -> None:
        if time.monotonic() > deadline:
            raise Stop(f"{what}: {[tail_of(worker.log, 4) for worker in self.workers]}")


class RunningBroker(NamedTuple):
    """A broker that runs for one bench."""

    bootstrap: str
    name: str
    pid: int


@contextmanager
def started_broker(options: Options, properties: Mapping[str, str] | None = None) -> Iterator[RunningBroker]:
    """A broker with nothing on it; what it keeps goes with it.

    Args:
        properties: of Apache Kafka's server, on top of ours.
    """
    if options.broker == "embedded":
        with EmbeddedBroker() as embedded:
            assert embedded.pid is not None
            yield RunningBroker(embedded.bootstrap, "embedded broker (Tansu)", embedded.pid)
        return
    data = options.folder / "kafka"
    shutil.rmtree(data, ignore_errors=True)
    try:
        with ApacheBroker(data_dir=data, properties=properties) as apache:
            yield RunningBroker(apache.bootstrap, f"Apache Kafka {KAFKA_VERSION}, one node", apache.node(0).pid)
    finally:
        shutil.rmtree(data, ignore_errors=True)


def cpu_s(pid: int) -> float:
    """Processor seconds of a process so far, all its threads, user and system (``/proc``)."""
    # The command in parentheses may hold anything; the numbers begin after it.
    numbers = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def deployed(options: Options, bootstrap: str, prefix: str, model: Path) -> Iterator[Deployment]:
    """A deployment whose workers end with it."""
    deployment = Deployment(bootstrap, prefix, model, options.folder / "deployments" / prefix.strip("."))
    try:
        yield deployment
    finally:
        deployment.stop_workers()
        shutil.rmtree(options.folder / "deployments" / prefix.strip("."), ignore_errors=True)


def model_for(options: Options, say: Say) -> Path:
    """A model of the default size, trained for half a minute where none is cached."""
    from streams.telemetry.progress_bars import training_bar

    say("a model: trained for half a minute where none is cached")
    return ensure_model(options.folder / "model", small=True, fresh=False, bar=training_bar)


def journey_events() -> tuple[CompleteJourney, Iterator[Any]]:
    """Complete Journey, and its events of July to December 2017 in event-time order."""
    journey = CompleteJourney.load()
    return journey, journey.events(SPLIT_MS, END_MS)


def publish(deployment: Deployment, journey: CompleteJourney) -> None:
    publish_catalog(journey.catalog(), deployment.producer, partitions=PARTITIONS, prefix=deployment.prefix)
